// See encoder_data.h.
#include "daemon/jobs/encoder_data.h"

#include "daemon/base/recipe.h"
#include "engine/io/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *after(const char *text, const char *prefix) {
    const size_t n = strlen(prefix);
    return strncmp(text, prefix, n) ? NULL : text + n;
}

const char *dd_encoder_key(const struct dr_config *cfg) {
    return cfg->kind == DR_RECIPE_EVAL ? "eval.judge" : "features.encoder";
}

bool dd_encoder_ref_is_recipe(const struct dr_config *cfg) {
    const char *word;
    return dd_encoder_ref(cfg, &word) == DD_ENCODER_RECIPE;
}

enum dd_encoder_ref dd_encoder_ref(const struct dr_config *cfg, const char **word) {
    const bool evaluates = cfg->kind == DR_RECIPE_EVAL,
               trains = cfg->kind == DR_RECIPE_TRAIN && cfg->features.kind == DR_FEATURE_ENCODER;
    const char *s = evaluates ? cfg->eval.judge : cfg->features.encoder, *rest;
    const size_t n = strlen(s);
    *word = s;
    if (!(evaluates && *s) && !trains)
        return DD_ENCODER_NONE;
    if ((rest = after(s, "recipe:"))) {
        *word = rest;
        return DD_ENCODER_RECIPE;
    }
    if ((rest = after(s, "checkpoint:"))) {
        *word = rest;
        return DD_ENCODER_CHECKPOINT;
    }
    if (!s[strspn(s, "0123456789")])
        return DD_ENCODER_CHECKPOINT;
    return strchr(s, '/') || (n > 12 && !strcmp(s + n - 12, ".safetensors")) ? DD_ENCODER_FILE
                                                                             : DD_ENCODER_RECIPE;
}

// Squares that divide the pictures: the recipe's own, else the smallest there are, else pixels.
static int64_t mask_for(int64_t size, int64_t own) {
    enum { LARGEST = 8 };
    if (size % own == 0)
        return own;
    for (int64_t p = 2; p <= LARGEST && p < size; p++)
        if (size % p == 0)
            return p;
    return 1;
}

// The generator's pictures are the encoder's: where both name the same set, its folder, size and
// the rest are taken over, but for labels that the generator does without. Without two classes to
// tell apart the encoder learns by reconstruction, with a mask that fits the size.
static int take_data(const struct dr_config *cfg, struct dr_config *encoder, struct dr_err *err) {
    const struct dr_data_config own = encoder->data;
    if (own.set == cfg->data.set) {
        encoder->data = cfg->data;
        encoder->data.flip = own.flip;
        encoder->data.crop = own.crop;
        if (!cfg->data.classes)
            encoder->data.classes = own.classes;
    }
    if (encoder->data.classes < 2)
        encoder->encoder.objective = DR_ENCODER_AUTOENCODE;
    if (encoder->encoder.objective != DR_ENCODER_CLASSIFY)
        encoder->encoder.mask_patch = mask_for(encoder->data.size, encoder->encoder.mask_patch);
    char *json = dr_config_to_json(encoder);
    int rc = json ? dr_config_parse(json, strlen(json), NULL, encoder, err)
                  : dr_fail(err, DR_ENOMEM, "no memory for a configuration");
    free(json);
    return rc;
}

static json_t *meaning(const struct dr_config *cfg) {
    char *text = dr_config_to_json(cfg);
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    json_object_del(j, "name");
    json_object_del(j, "about");
    return j;
}

bool dd_encoder_differs(const struct dr_config *a, const struct dr_config *b, char key[80]) {
    json_t *x = meaning(a), *y = meaning(b), *part, *v;
    const char *section, *name;
    const bool differs = !x || !json_equal(x, y);
    key[0] = 0;
    json_object_foreach(y, section, part) {
        const json_t *was = json_object_get(x, section);
        if (!key[0] && !json_is_object(part) && !json_equal(part, (json_t *)(uintptr_t)was))
            snprintf(key, 80, "%s", section);
        json_object_foreach(part, name,
                            v) if (!key[0] && !json_equal(v, json_object_get(was, name)))
            snprintf(key, 80, "%s.%s", section, name);
    }
    json_decref(x);
    json_decref(y);
    return differs;
}

int dd_encoder_maps(const struct dr_config *cfg, const struct dr_net *net, struct dr_err *err) {
    bool chosen[DR_NET_OUTPUTS];
    struct dr_net *encoder;
    if (cfg->kind != DR_RECIPE_TRAIN || cfg->features.kind != DR_FEATURE_ENCODER ||
        dr_net_encoder(net, cfg->model.size, &encoder, NULL))
        return 0;
    const int rc = dr_net_choose(encoder, cfg->features.maps, chosen, err);
    dr_net_free(encoder);
    return rc;
}

static int maps_of_recipe(const struct dr_config *cfg, const struct dr_config *encoder,
                          struct dr_err *err) {
    struct dr_net *net;
    char *json = dr_config_to_json(encoder);
    int rc = json ? dr_net_parse(json, strlen(json), NULL, &net, NULL) : DR_ENOMEM;
    free(json);
    if (rc)
        return 0;
    rc = dd_encoder_maps(cfg, net, err);
    dr_net_free(net);
    return rc;
}

int dd_encoder_recipe(const char *config_dir, const struct dr_config *cfg, struct dr_config *out,
                      struct dr_err *err) {
    struct dr_err why = {0};
    const char *name, *key = dd_encoder_key(cfg);
    dd_encoder_ref(cfg, &name);
    int rc = dd_recipe_named(config_dir, name, out, &why);
    if (rc)
        return dr_fail_at(err, DR_ECONFIG, key, "%s: %.400s", key, why.msg);
    if (out->kind != DR_RECIPE_ENCODER)
        return dr_fail_at(err, DR_ECONFIG, key,
                          "%s names the recipe %.60s, which is of kind %s; expected one of kind "
                          "encoder",
                          key, name, dr_recipe_word(out->kind));
    if (out->data.set != cfg->data.set && out->data.channels != cfg->data.channels)
        return dr_fail_at(err, DR_ECONFIG, key,
                          "%s names the recipe %.60s, whose images have %lld channels; those of "
                          "this configuration have %lld",
                          key, name, (long long)out->data.channels, (long long)cfg->data.channels);
    if (cfg->kind == DR_RECIPE_EVAL && out->data.set != cfg->data.set)
        return dr_fail_at(err, DR_ECONFIG, key,
                          "%s names the recipe %.60s, a judge of the data set %s; this evaluation "
                          "is of %s",
                          key, name, dr_set_facts(out->data.set)->name,
                          dr_set_facts(cfg->data.set)->name);
    if (take_data(cfg, out, &why))
        return dr_fail_at(err, DR_ECONFIG, key, "%s, the recipe %.60s with this data: %.300s", key,
                          name, why.msg);
    return maps_of_recipe(cfg, out, err);
}

// Same samples in the same order, as long as the files are the same. Mirroring and shifts happen
// while training.
static bool same_section(const struct dr_data_config *a, const struct dr_data_config *b) {
    return a->set == b->set && !strcmp(a->path, b->path) && a->size == b->size &&
           a->fit == b->fit && a->channels == b->channels && a->classes == b->classes &&
           a->count == b->count && a->limit == b->limit && a->seed == b->seed &&
           !strcmp(a->background, b->background) &&
           (int)(1e6 * a->test_share) == (int)(1e6 * b->test_share);
}

int dd_encoder_data(const char *path, const struct dr_config *cfg, const struct dr_dataset *data,
                    struct dr_err *err) {
    struct dr_st_file *f;
    struct dr_config own;
    int rc = dr_st_open(path, &f, err);
    if (rc)
        return rc;
    const char *json = dr_st_meta(f, "driftd.config"),
               *was = dr_st_meta(f, "driftd.data_fingerprint");
    char now[32];
    snprintf(now, sizeof now, "%016" PRIx64, data->fingerprint);
    if (json && was && !dr_config_parse(json, strlen(json), NULL, &own, NULL) &&
        same_section(&own.data, &cfg->data) && strcmp(was, now))
        rc = dr_fail_at(err, DR_ECONFLICT, dd_encoder_key(cfg),
                        "the encoder %.200s was trained on data with fingerprint %.16s; the set %s "
                        "has %s now: remove the job that trained it, and resume this one",
                        dr_st_path(f), was, data->name, now);
    dr_st_close(f);
    return rc;
}
