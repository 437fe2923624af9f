// The key table made from config.def, and setting one key from one JSON value with errors that name
// the key, the value and what was expected. Called by config.c and emit.c.
#include "engine/config/field.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(struct dr_config, member), sizeof(((struct dr_config *)0)->member)
#define CFG_INT(p, m, d, lo, hi, t)                                                                \
    {.path = p, .type = DR_F_INT, AT(m), .def = d, .min = lo, .max = hi, .doc = t},
#define CFG_NUM(p, m, d, lo, hi, t)                                                                \
    {.path = p, .type = DR_F_NUM, AT(m), .def = d, .min = lo, .max = hi, .doc = t},
#define CFG_BOOL(p, m, d, t) {.path = p, .type = DR_F_BOOL, AT(m), .def = d, .doc = t},
#define CFG_ENUM(p, m, d, v, t)                                                                    \
    {.path = p, .type = DR_F_ENUM, AT(m), .text = d, .values = v, .doc = t},
#define CFG_STR(p, m, d, t) {.path = p, .type = DR_F_STR, AT(m), .text = d, .doc = t},
#define CFG_LIST(p, m, n, d, lo, hi, t)                                                            \
    {.path = p,                                                                                    \
     .type = DR_F_LIST,                                                                            \
     AT(m),                                                                                        \
     .count_offset = offsetof(struct dr_config, n),                                                \
     .text = d,                                                                                    \
     .min = lo,                                                                                    \
     .max = hi,                                                                                    \
     .doc = t},

#define DR_SET(id, open, name, ...) "|" name
static const char all_sets[] =
#include "engine/data/sets.def"
    ;
#undef DR_SET
#define set_names (all_sets + 1) // "digits|mnist|..."

static const struct dr_config_field fields[] = {
#include "engine/config/config.def"
};

const struct dr_config_field *dr_config_fields(int *n) {
    *n = (int)DR_COUNT(fields);
    return fields;
}

const struct dr_config_field *dr_config_field(const char *path) {
    for (size_t i = 0; i < DR_COUNT(fields); i++)
        if (strcmp(fields[i].path, path) == 0)
            return &fields[i];
    return NULL;
}

const char *dr_enum_word(const char *values, int i, char out[64]) {
    for (; i > 0 && values; i--) {
        values = strchr(values, '|');
        if (values)
            values++;
    }
    snprintf(out, 64, "%.*s", values ? (int)strcspn(values, "|") : 0, values ? values : "");
    return out;
}

int dr_enum_index(const char *values, const char *word) {
    char w[64];
    for (int i = 0; dr_enum_word(values, i, w)[0]; i++)
        if (strcmp(w, word) == 0)
            return i;
    return -1;
}

// ---- errors ----

// What a key accepts, as the end of "expected ...". malloc'd; NULL: out of memory.
static char *describe(const struct dr_config_field *f) {
    char *out = NULL;
    int n = -1;
    switch (f->type) {
    case DR_F_INT:
        n = asprintf(&out, "an integer from %.0f to %.0f", f->min, f->max);
        break;
    case DR_F_NUM:
        n = asprintf(&out, "a number from %.15g to %.15g", f->min, f->max);
        break;
    case DR_F_BOOL:
        n = asprintf(&out, "true or false");
        break;
    case DR_F_STR:
        n = asprintf(&out, "a string of at most %zu bytes", f->size - 1);
        break;
    case DR_F_LIST:
        n = asprintf(&out, "a list of 1 to %zu numbers from %.15g to %.15g",
                     f->size / sizeof(double), f->min, f->max);
        break;
    case DR_F_ENUM: { // "one of a, b, c"
        size_t size;
        FILE *o = open_memstream(&out, &size);
        char word[64];
        for (int i = 0; o && dr_enum_word(f->values, i, word)[0]; i++)
            fprintf(o, "%s%s", i ? ", " : "one of ", word);
        n = o ? fclose(o) : -1;
    }
    }
    return n < 0 ? NULL : out;
}

// The nearest word of an enum, copied; empty: none is near.
static const char *nearest_word(const char *values, const char *word, char out[64]) {
    char w[64];
    int n = 0, at = -1;
    while (dr_enum_word(values, n, w)[0])
        n++;
    char(*text)[64] = calloc((size_t)n, sizeof *text);
    const char **list = calloc((size_t)n, sizeof *list);
    for (int i = 0; text && list && i < n; i++)
        list[i] = dr_enum_word(values, i, text[i]);
    const char *best = text && list ? dr_nearest(word, list, n) : NULL;
    for (int i = 0; best && i < n; i++)
        at = list[i] == best ? i : at;
    free(list);
    free(text);
    return dr_enum_word(at < 0 ? "" : values, DR_MAX(at, 0), out);
}

static int wrong(const struct dr_config_field *f, const char *shown, const json_t *v,
                 struct dr_err *err) {
    char near[64] = "", *expected = describe(f);
    if (f->type == DR_F_ENUM && json_is_string(v))
        nearest_word(f->values, json_string_value(v), near);
    char *got = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
    int rc = dr_fail_at(err, DR_ECONFIG, shown, "%s is %.60s%s; expected %.300s%s%s%s", shown,
                        got ? got : "?", got && strlen(got) > 60 ? "..." : "",
                        expected ? expected : "another value", near[0] ? " (did you mean `" : "",
                        near, near[0] ? "`?)" : "");
    free(got);
    free(expected);
    return rc;
}

static const char *last_part(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

// Whether a row is in the section of a key, its path up to the last dot.
static bool beside(const char *row, const char *path, int section) {
    return last_part(row) - row == section && !strncmp(row, path, (size_t)section);
}

// The nearest in the key's own section, else anywhere.
const struct dr_config_field *dr_config_meant(const char *path) {
    const char *leaf = last_part(path), *same[DR_COUNT(fields)], *all[DR_COUNT(fields)], *near;
    const int section = (int)(leaf - path);
    int nsame = 0;
    for (size_t i = 0; i < DR_COUNT(fields); i++) {
        all[i] = last_part(fields[i].path);
        if (beside(fields[i].path, path, section))
            same[nsame++] = all[i];
    }
    near = dr_nearest(leaf, same, nsame);
    if (!near)
        near = dr_nearest(leaf, all, (int)DR_COUNT(fields));
    for (size_t i = 0; near && i < DR_COUNT(fields); i++)
        if (all[i] == near)
            return &fields[i];
    return NULL;
}

int dr_config_unknown(const char *path, struct dr_err *err) {
    const char *leaf = last_part(path);
    const struct dr_config_field *near = dr_config_meant(path);
    int section = (int)(leaf - path), nsame = 0;
    char keys[256] = "";
    for (size_t i = 0; i < DR_COUNT(fields); i++) {
        const char *end = last_part(fields[i].path);
        if (!beside(fields[i].path, path, section))
            continue;
        nsame++;
        size_t used = strlen(keys);
        if (used + strlen(end) + sizeof ", , ..." < sizeof keys)
            snprintf(keys + used, sizeof keys - used, "%s%s", used ? ", " : "", end);
        else if (strcmp(keys + used - 3, "...") != 0)
            strcpy(keys + used, ", ...");
    }
    if (near)
        return dr_fail_at(err, DR_ECONFIG, path, "unknown key `%.80s`; did you mean `%s`?", path,
                          near->path);
    if (nsame && section)
        return dr_fail_at(err, DR_ECONFIG, path, "unknown key `%.80s`; keys of `%.*s` are %s", path,
                          section - 1, path, keys);
    return dr_fail_at(
        err, DR_ECONFIG, path,
        "unknown key `%.80s`; the sections are data, model, encoder, features, loss, train, "
        "optim, ema, checkpoint, metrics, samples and eval",
        path);
}

// ---- values ----

static bool in_range(const struct dr_config_field *f, double x) {
    return isfinite(x) && x >= f->min && x <= f->max;
}

// An array of numbers; or one number, or text with commas between numbers, as on a command line.
static json_t *as_list(json_t *v) {
    char *text;
    if (json_is_number(v))
        return json_pack("[O]", v);
    if (!json_is_string(v) || asprintf(&text, "[%s]", json_string_value(v)) < 0)
        return json_incref(v);
    json_t *list = json_loads(text, 0, NULL);
    free(text);
    return list;
}

static bool good_list(const struct dr_config_field *f, const json_t *list) {
    const size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_array_get(list, i);
        if (!json_is_number(e) || !in_range(f, json_number_value(e)))
            return false;
    }
    return n >= 1 && n <= f->size / sizeof(double);
}

static int assign_list(double *to, int *count, const struct dr_config_field *f, const char *shown,
                       json_t *v, struct dr_err *err) {
    json_t *list = as_list(v);
    const bool good = good_list(f, list);
    if (good) {
        memset(to, 0, f->size);
        *count = (int)json_array_size(list);
        for (int i = 0; i < *count; i++)
            to[i] = json_number_value(json_array_get(list, (size_t)i));
    }
    json_decref(list);
    return good ? 0 : wrong(f, shown, v, err);
}

// Strings that may be a number, a checkpoint's id, a map's or a folder's name: `--set init_from=7`
// sends one.
static bool numbers_too(const struct dr_config_field *f) {
    static const char *const path[] = {"init_from", "features.encoder", "features.maps",
                                       "eval.judge", "data.path"};
    for (size_t i = 0; i < DR_COUNT(path); i++)
        if (!strcmp(f->path, path[i]))
            return true;
    return false;
}

int dr_config_assign(struct dr_config *c, const struct dr_config_field *f, const char *shown,
                     json_t *v, struct dr_err *err) {
    void *to = (char *)c + f->offset;
    switch (f->type) {
    case DR_F_INT: {
        // 1e4 is an integer to a person; integers beyond 2^53 are out of every key's range.
        double x = json_number_value(v);
        if (!json_is_number(v) || !in_range(f, x) || x != floor(x))
            return wrong(f, shown, v, err);
        *(int64_t *)to = (int64_t)x;
        return 0;
    }
    case DR_F_NUM:
        if (!json_is_number(v) || !in_range(f, json_number_value(v)))
            return wrong(f, shown, v, err);
        *(double *)to = json_number_value(v);
        return 0;
    case DR_F_BOOL:
        if (!json_is_boolean(v))
            return wrong(f, shown, v, err);
        *(bool *)to = json_is_true(v);
        return 0;
    case DR_F_ENUM: {
        int i = json_is_string(v) ? dr_enum_index(f->values, json_string_value(v)) : -1;
        if (i < 0)
            return wrong(f, shown, v, err);
        *(int *)to = i;
        return 0;
    }
    case DR_F_STR:
        if (numbers_too(f) && json_is_integer(v) && json_integer_value(v) >= 0) {
            char digits[24];
            const int n = snprintf(digits, sizeof digits, "%lld", (long long)json_integer_value(v));
            if ((size_t)n >= f->size)
                return wrong(f, shown, v, err);
            memset(to, 0, f->size);
            memcpy(to, digits, (size_t)n);
            return 0;
        }
        if (!json_is_string(v) || json_string_length(v) >= f->size)
            return wrong(f, shown, v, err);
        memset(to, 0, f->size);
        memcpy(to, json_string_value(v), json_string_length(v));
        return 0;
    case DR_F_LIST:
        return assign_list(to, (int *)((char *)c + f->count_offset), f, shown, v, err);
    }
    return dr_fail_at(err, DR_EINVAL, shown, "%s has no type", shown);
}
