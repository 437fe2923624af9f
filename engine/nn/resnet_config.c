// The settings of a resnet: read from its JSON description, checked, written again. See resnet.h.
#include "engine/nn/resnet_priv.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct number {
    const char *key;
    size_t at;
    int64_t min, max;
};
#define NUMBER(key, min, max)                                                                      \
    { #key, offsetof(struct dr_resnet_config, key), min, max }
static const struct number numbers[] = {
    NUMBER(size, 1, 1024),      NUMBER(channels, 1, DR_RESNET_CHANNELS),
    NUMBER(classes, 0, 100000), NUMBER(width, 1, 2048),
    NUMBER(groups, 1, 1024),    NUMBER(every, 1, DR_RESNET_BLOCKS),
    NUMBER(kernel, 1, 7),       NUMBER(stride, 1, 2),
    NUMBER(resize, 0, 1024)};
static const char *const norms[] = {"group", "batch"};
static const char *const heads[] = {"none", "classifier", "decoder", "both"};
static const char *const booleans[] = {"pool", "imagenet"};

struct dr_resnet_config dr_resnet_defaults(void) {
    return (struct dr_resnet_config){.size = 32,
                                     .channels = 3,
                                     .width = 64,
                                     .blocks = {2, 2, 2, 2},
                                     .stages = 4,
                                     .groups = 32,
                                     .every = 2,
                                     .kernel = 3,
                                     .stride = 1};
}

static int64_t *number_in(struct dr_resnet_config *c, const struct number *n) {
    return (int64_t *)(void *)((char *)c + n->at);
}

// ---- reading ----

static int word_of(const char *key, json_t *v, const char *const *word, int n, int *out,
                   struct dr_err *err) {
    const char *s = json_string_value(v);
    for (int i = 0; s && i < n; i++)
        if (!strcmp(s, word[i])) {
            *out = i;
            return 0;
        }
    char all[96] = "";
    for (int i = 0; i < n; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", word[i]);
    return dr_fail_at(err, DR_ECONFIG, key, "%s is %s%.40s; expected one of %s", key,
                      s ? "" : "no word", s ? s : "", all);
}

static int blocks_of(json_t *v, struct dr_resnet_config *c, struct dr_err *err) {
    const size_t n = json_array_size(v);
    if (!json_is_array(v) || n < 1 || n > DR_RESNET_STAGES)
        return dr_fail_at(err, DR_ECONFIG, "blocks",
                          "blocks must list the blocks of 1 to %d stages, as in [2, 2, 2, 2]",
                          DR_RESNET_STAGES);
    c->stages = (int)n;
    for (size_t i = 0; i < DR_RESNET_STAGES; i++) {
        json_t *k = json_array_get(v, i);
        if (k && !json_is_integer(k))
            return dr_fail_at(err, DR_ECONFIG, "blocks", "blocks must be whole numbers");
        c->blocks[i] = json_integer_value(k);
    }
    return 0;
}

static int list_of(const char *key, json_t *v, double *out, int *n, struct dr_err *err) {
    const size_t have = json_array_size(v);
    bool fine = json_is_array(v) && have <= DR_RESNET_CHANNELS;
    for (size_t i = 0; i < have && fine; i++) {
        fine = json_is_number(json_array_get(v, i));
        out[i] = json_number_value(json_array_get(v, i));
    }
    *n = fine ? (int)have : 0;
    return fine ? 0
                : dr_fail_at(err, DR_ECONFIG, key,
                             "%s must list a number per channel, as in [0.49, 0.48, 0.45]", key);
}

static int unknown(const char *key, struct dr_err *err) {
    return dr_fail_at(err, DR_ECONFIG, key,
                      "unknown key `%.40s`; a resnet has arch, size, channels, classes, width, "
                      "blocks, groups, every, kernel, stride, pool, resize, imagenet, mean, std, "
                      "norm, head",
                      key);
}

static int read_key(const char *key, json_t *v, void *cfg, struct dr_err *err) {
    struct dr_resnet_config *c = cfg;
    if (!strcmp(key, "arch"))
        return 0;
    if (!strcmp(key, "blocks"))
        return blocks_of(v, c, err);
    if (!strcmp(key, "norm"))
        return word_of(key, v, norms, DR_COUNT(norms), &c->norm, err);
    if (!strcmp(key, "head"))
        return word_of(key, v, heads, DR_COUNT(heads), &c->head, err);
    if (!strcmp(key, "mean"))
        return list_of(key, v, c->mean, &c->nmean, err);
    if (!strcmp(key, "std"))
        return list_of(key, v, c->std, &c->nstd, err);
    bool *const flag[] = {&c->pool, &c->imagenet};
    for (size_t i = 0; i < DR_COUNT(booleans); i++)
        if (!strcmp(key, booleans[i])) {
            *flag[i] = json_is_true(v);
            return json_is_boolean(v)
                       ? 0
                       : dr_fail_at(err, DR_ECONFIG, key, "%s must be true or false", key);
        }
    for (size_t i = 0; i < DR_COUNT(numbers); i++)
        if (!strcmp(key, numbers[i].key)) {
            *number_in(c, &numbers[i]) = json_integer_value(v);
            return json_is_integer(v)
                       ? 0
                       : dr_fail_at(err, DR_ECONFIG, key, "%s must be a whole number", key);
        }
    return unknown(key, err);
}

int dr_resnet_parse(struct dr_net *net, const char *json, size_t len, const char *where,
                    struct dr_err *err) {
    struct dr_resnet_config *c = &((struct dr_resnet *)net)->cfg;
    *c = dr_resnet_defaults();
    return dr_net_read_keys(json, len, where, c, read_key, err);
}

// Nothing without numbers, so that descriptions made before there were such lists stay the same.
static void put_list(json_t *o, const char *key, const double *v, int n) {
    json_t *list = n ? json_array() : NULL;
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_real(v[i]));
    if (list)
        json_object_set_new(o, key, list);
}

char *dr_resnet_describe(const struct dr_net *net) {
    const struct dr_resnet_config *c = dr_resnet_config(net);
    json_t *o = json_pack("{s:s}", "arch", net->type->name), *blocks = json_array();
    for (size_t i = 0; i < DR_COUNT(numbers); i++)
        json_object_set_new(o, numbers[i].key,
                            json_integer(*number_in((struct dr_resnet_config *)c, &numbers[i])));
    for (int i = 0; i < c->stages; i++)
        json_array_append_new(blocks, json_integer(c->blocks[i]));
    json_object_set_new(o, "blocks", blocks);
    json_object_set_new(o, "pool", json_boolean(c->pool));
    json_object_set_new(o, "imagenet", json_boolean(c->imagenet));
    put_list(o, "mean", c->mean, c->nmean);
    put_list(o, "std", c->std, c->nstd);
    json_object_set_new(o, "norm", json_string(norms[c->norm]));
    json_object_set_new(o, "head", json_string(heads[c->head]));
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

// ---- checking ----

static int check_blocks(const struct dr_resnet_config *c, struct dr_err *err) {
    int64_t all = 0;
    if (c->stages < 1 || c->stages > DR_RESNET_STAGES)
        return dr_fail_at(err, DR_ECONFIG, "blocks", "blocks lists %d stages; expected 1 to %d",
                          c->stages, DR_RESNET_STAGES);
    for (int i = 0; i < c->stages; i++) {
        if (c->blocks[i] < 1 || c->blocks[i] > DR_RESNET_BLOCKS)
            return dr_fail_at(err, DR_ECONFIG, "blocks",
                              "blocks has %lld in stage %d; expected 1 to %d",
                              (long long)c->blocks[i], i + 1, DR_RESNET_BLOCKS);
        all += c->blocks[i];
    }
    if (all > DR_RESNET_BLOCKS)
        return dr_fail_at(err, DR_ECONFIG, "blocks", "blocks has %lld in all; expected at most %d",
                          (long long)all, DR_RESNET_BLOCKS);
    return 0;
}

static int check_pixels(const struct dr_resnet_config *c, struct dr_err *err) {
    if (c->imagenet && c->channels != 3)
        return dr_fail_at(err, DR_ECONFIG, "channels",
                          "channels is %lld; images normalised as ImageNet's have 3",
                          (long long)c->channels);
    if (c->imagenet && (c->nmean || c->nstd))
        return dr_fail_at(err, DR_ECONFIG, c->nmean ? "mean" : "std",
                          "imagenet stands for a mean and a std; expected either, not both");
    if (c->nmean != c->nstd || (c->nmean && c->nmean != c->channels))
        return dr_fail_at(err, DR_ECONFIG, c->nmean == c->channels ? "std" : "mean",
                          "mean has %d numbers, std %d; expected one per channel (%lld) of both",
                          c->nmean, c->nstd, (long long)c->channels);
    for (int i = 0; i < c->nmean; i++)
        if (!isfinite(c->mean[i]) || !(c->std[i] > 0) || !isfinite(1 / c->std[i]))
            return dr_fail_at(err, DR_ECONFIG, "std",
                              "std %g with mean %g; expected numbers over 0, of pixels in 0..1",
                              c->std[i], c->mean[i]);
    return 0;
}

int dr_resnet_check(const struct dr_resnet_config *c, struct dr_err *err) {
    for (size_t i = 0; i < DR_COUNT(numbers); i++) {
        const struct number *n = &numbers[i];
        const int64_t v = *number_in((struct dr_resnet_config *)c, n);
        if (v < n->min || v > n->max)
            return dr_fail_at(err, DR_ECONFIG, n->key, "%s is %lld; expected %lld to %lld", n->key,
                              (long long)v, (long long)n->min, (long long)n->max);
    }
    const bool classifies = c->head == DR_RESNET_CLASSIFIER || c->head == DR_RESNET_BOTH;
    if (c->kernel % 2 == 0)
        return dr_fail_at(err, DR_ECONFIG, "kernel", "kernel is %lld; expected 1, 3, 5 or 7",
                          (long long)c->kernel);
    if (classifies && !c->classes)
        return dr_fail_at(err, DR_ECONFIG, "classes", "classes is 0; the classifier needs some");
    if (!classifies && c->classes)
        return dr_fail_at(err, DR_ECONFIG, "classes",
                          "classes is %lld; expected 0 without a classifier (head %s)",
                          (long long)c->classes, heads[c->head]);
    if (c->norm == DR_RESNET_BATCH && (c->head == DR_RESNET_DECODER || c->head == DR_RESNET_BOTH))
        return dr_fail_at(err, DR_ECONFIG, "norm",
                          "norm is batch, whose statistics are not trained here; a decoder needs "
                          "norm group");
    const int rc = check_pixels(c, err);
    return rc ? rc : check_blocks(c, err);
}
