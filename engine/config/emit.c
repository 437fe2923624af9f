// JSON out: a configuration, its model section, and the schema of every key.
#include "engine/config/field.h"

#include <math.h>
#include <string.h>

const char *const dr_kind_words = "images|points|latents"; // enum dr_kind

// Whole numbers without a fraction; minus zero stays a real, as an integer has no sign of zero.
static json_t *number(double x) {
    const bool whole = x == floor(x) && fabs(x) < 0x1p53 && !(x == 0 && signbit(x));
    return whole ? json_integer((json_int_t)x) : json_real(x);
}

static json_t *value_of(const struct dr_config_field *f, const struct dr_config *c) {
    const void *at = (const char *)c + f->offset;
    char word[64];
    switch (f->type) {
    case DR_F_INT:
        return json_integer((json_int_t) * (const int64_t *)at);
    case DR_F_NUM:
        return number(*(const double *)at);
    case DR_F_BOOL:
        return json_boolean(*(const bool *)at);
    case DR_F_ENUM:
        return json_string(dr_enum_word(f->values, *(const int *)at, word));
    case DR_F_STR:
        return json_string(at);
    case DR_F_LIST: {
        int n = *(const int *)(const void *)((const char *)c + f->count_offset);
        json_t *list = json_array();
        for (int i = 0; i < n; i++)
            json_array_append_new(list, number(((const double *)at)[i]));
        return list;
    }
    }
    return NULL;
}

// Text with as few digits as read back exactly, 15 for what people write. Takes over root.
static char *dump(json_t *root, bool ok) {
    char *text = NULL;
    for (int digits = 15; ok && digits <= 17; digits++) {
        text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(digits));
        json_t *back = text && digits < 17 ? json_loads(text, 0, NULL) : NULL;
        const bool same = back && json_equal(root, back);
        json_decref(back);
        if (!text || same || digits == 17)
            break;
        free(text);
    }
    json_decref(root);
    return text;
}

// Keys that only features.kind encoder has.
static bool of_frozen_encoder(const char *path) {
    static const char *const prefix[] = {
        "features.encoder", "features.maps",         "features.map_",     "features.pool",
        "features.grid",    "features.pixel_weight", "features.cache_mb", "features.keep_mb"};
    for (size_t i = 0; i < DR_COUNT(prefix); i++)
        if (!strncmp(path, prefix[i], strlen(prefix[i])))
            return true;
    return false;
}

// Keys of another features.kind than this one.
static bool of_other_features(const struct dr_config *c, const char *path) {
    if (!strncmp(path, "features.kde_", 13))
        return c->features.kind != DR_FEATURE_KDE;
    return c->features.kind != DR_FEATURE_ENCODER && of_frozen_encoder(path);
}

// Keys of another kind of recipe have their defaults (check.c). So do kind, init_from and the
// keys of encoders and of evaluations in most recipes: without them, older builds read the
// text as well.
static bool wanted(const struct dr_config_field *f, const struct dr_config *c,
                   const struct dr_config *plain) {
    const int kind = dr_config_key_kind(f->path);
    if (!strcmp(f->path, "kind"))
        return c->kind != DR_RECIPE_TRAIN;
    if (!strcmp(f->path, "init_from"))
        return c->init_from[0];
    if (!strcmp(f->path, "eval.allow_own_encoder"))
        return c->eval.allow_own_encoder;
    if (of_other_features(c, f->path) && dr_config_same_value(f, c, plain))
        return false;
    if (c->kind == DR_RECIPE_EVAL)
        return dr_config_of_eval(f->path) && (kind < 0 || kind == c->kind);
    if (!strncmp(f->path, "eval.", 5))
        return !dr_config_same_value(f, c, plain);
    return kind < 0 || kind == c->kind;
}

char *dr_config_to_json(const struct dr_config *c) {
    int n;
    bool ok = true;
    const struct dr_config_field *f = dr_config_fields(&n);
    json_t *root = json_object();
    struct dr_config plain;
    dr_config_defaults(&plain);
    for (int i = 0; i < n && ok; i++) {
        const char *dot = strchr(f[i].path, '.');
        json_t *section = root;
        if (!wanted(&f[i], c, &plain))
            continue;
        if (dot) {
            char name[64];
            snprintf(name, sizeof name, "%.*s", (int)(dot - f[i].path), f[i].path);
            section = json_object_get(root, name);
            if (!section)
                json_object_set_new(root, name, section = json_object());
        }
        ok = !json_object_set_new(section, dot ? dot + 1 : f[i].path, value_of(&f[i], c));
    }
    return dump(root, ok);
}

int dr_model_implied_kind(const struct dr_model_config *m) {
    if (dr_arch_needs(m->arch) & DR_ARCH_POINTS)
        return DR_KIND_POINTS;
    return m->channels == 1 || m->channels == 3 ? DR_KIND_IMAGES : DR_KIND_LATENTS;
}

char *dr_model_config_to_json(const struct dr_model_config *m) {
    struct dr_config c;
    dr_config_defaults(&c);
    c.model = *m;
    int n;
    const struct dr_config_field *f = dr_config_fields(&n);
    json_t *root = json_pack("{s:I, s:I, s:I}", "size", (json_int_t)m->size, "channels",
                             (json_int_t)m->channels, "classes", (json_int_t)m->classes);
    bool ok = root != NULL;
    for (int i = 0; i < n && ok; i++)
        if (strncmp(f[i].path, "model.", 6) == 0)
            ok = !json_object_set_new(root, f[i].path + 6, value_of(&f[i], &c));
    char word[64];
    if (ok && m->kind != dr_model_implied_kind(m))
        ok = !json_object_set_new(root, "kind",
                                  json_string(dr_enum_word(dr_kind_words, m->kind, word)));
    return dump(root, ok);
}

// By value, so that neither padding nor the sign of zero counts, nor what follows a list's end.
static bool same_value(const struct dr_config_field *f, const void *a, const void *b) {
    if (f->type == DR_F_NUM)
        return *(const double *)a == *(const double *)b;
    if (f->type == DR_F_LIST) {
        const ptrdiff_t count = (ptrdiff_t)f->count_offset - (ptrdiff_t)f->offset;
        const int n = *(const int *)(const void *)((const char *)a + count);
        if (n != *(const int *)(const void *)((const char *)b + count))
            return false;
        for (int i = 0; i < n; i++)
            if (((const double *)a)[i] != ((const double *)b)[i])
                return false;
        return true;
    }
    return memcmp(a, b, f->size) == 0;
}

bool dr_config_same_value(const struct dr_config_field *f, const struct dr_config *a,
                          const struct dr_config *b) {
    const char *x = (const char *)a, *y = (const char *)b;
    if (f->type == DR_F_LIST && memcmp(x + f->count_offset, y + f->count_offset, sizeof(int)))
        return false;
    return same_value(f, x + f->offset, y + f->offset);
}

bool dr_model_config_equal(const struct dr_model_config *a, const struct dr_model_config *b) {
    const size_t base = offsetof(struct dr_config, model);
    int n;
    const struct dr_config_field *f = dr_config_fields(&n);
    for (int i = 0; i < n; i++)
        if (strncmp(f[i].path, "model.", 6) == 0 &&
            !same_value(&f[i], (const char *)a + (f[i].offset - base),
                        (const char *)b + (f[i].offset - base)))
            return false;
    return a->size == b->size && a->channels == b->channels && a->classes == b->classes;
}

static void add_range(json_t *key, const struct dr_config_field *f) {
    char word[64];
    switch (f->type) {
    case DR_F_INT:
    case DR_F_NUM:
    case DR_F_LIST:
        json_object_set_new(key, "min", number(f->min));
        json_object_set_new(key, "max", number(f->max));
        if (f->type == DR_F_LIST)
            json_object_set_new(key, "max_items",
                                json_integer((json_int_t)(f->size / sizeof(double))));
        break;
    case DR_F_ENUM: {
        json_t *values = json_array();
        for (int i = 0; dr_enum_word(f->values, i, word)[0]; i++)
            json_array_append_new(values, json_string(word));
        json_object_set_new(key, "values", values);
        break;
    }
    case DR_F_STR:
        json_object_set_new(key, "max_length", json_integer((json_int_t)f->size - 1));
        break;
    case DR_F_BOOL:
        break;
    }
}

char *dr_config_schema_json(void) {
    static const char *const type[] = {
        [DR_F_INT] = "integer", [DR_F_NUM] = "number", [DR_F_BOOL] = "boolean",
        [DR_F_ENUM] = "enum",   [DR_F_STR] = "string", [DR_F_LIST] = "list",
    };
    struct dr_config c;
    dr_config_defaults(&c);
    int n;
    const struct dr_config_field *f = dr_config_fields(&n);
    json_t *list = json_array();
    bool ok = list != NULL;
    for (int i = 0; i < n && ok; i++) {
        json_t *key = json_pack("{s:s, s:s, s:o}", "path", f[i].path, "type", type[f[i].type],
                                "default", value_of(&f[i], &c));
        add_range(key, &f[i]);
        if (dr_config_key_kind(f[i].path) >= 0)
            json_object_set_new(key, "kind",
                                json_string(dr_recipe_word(dr_config_key_kind(f[i].path))));
        json_object_set_new(key, "doc", json_string(f[i].doc));
        ok = !json_array_append_new(list, key);
    }
    return dump(list, ok);
}
