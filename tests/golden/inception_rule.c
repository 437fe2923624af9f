// See inception_rule.h.
#include "tests/golden/inception_rule.h"

#include "engine/io/safetensors.h"
#include "engine/nn/inception.h"
#include "engine/nn/params.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// A multiple of 2^-24 in [0,1): FNV-1a of the name, then a mixed counter.
static double uniform(const char *name, int64_t i) {
    uint32_t h = 2166136261u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    uint32_t x = h + (uint32_t)i * 0x9E3779B9u;
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    x ^= x >> 16;
    return (double)(x >> 8) * 0x1p-24;
}

static bool ends_in(const char *name, const char *end) {
    const size_t len = strlen(name), tail = strlen(end);
    return len >= tail && !strcmp(name + len - tail, end);
}

float rule_weight(const char *name, int ndim, int64_t fan, int64_t i) {
    const double u = uniform(name, i);
    if (ends_in(name, "bn.weight"))
        return (float)(0.8 + 0.4 * u);
    if (ends_in(name, "running_var"))
        return (float)(0.5 + u);
    if (ndim == 1)
        return (float)(0.4 * u - 0.2);
    return (float)((2 * u - 1) * sqrt(6.0 / (double)fan));
}

uint8_t rule_pixel(const char *name, int64_t i) {
    return (uint8_t)(uniform(name, i) * 256);
}

enum { TENSORS = 600 };
struct writing {
    struct dr_st_writer *out;
    const struct rule_file *how;
    float *data[TENSORS];
    int n;
};

static bool is(const char *a, const char *b) {
    return b && !strcmp(a, b);
}

// A tensor under one name whose values are those of another.
static void add(struct writing *w, const char *name, const char *rule, int ndim,
                const int64_t *dim) {
    char full[256];
    struct dr_err err = {0};
    int64_t count = 1;
    if (is(name, w->how->leave_out))
        return;
    assert_true(w->n < TENSORS);
    for (int i = 0; i < ndim; i++)
        count *= dim[i];
    float *v = w->data[w->n++] = malloc((size_t)count * sizeof *v);
    assert_non_null(v);
    for (int64_t i = 0; i < count; i++)
        v[i] = rule_weight(rule, ndim, count / dim[0], i);
    if (is(name, w->how->poison))
        v[0] = w->how->value;
    snprintf(full, sizeof full, "%s%s", w->how->prefix ? w->how->prefix : "", name);
    const bool flat = is(name, w->how->flat);
    if (dr_st_add(w->out, full, DR_ST_F32, flat ? 1 : ndim, flat ? &count : dim, v, &err))
        fail_msg("%s", err.msg);
}

static void add_layer(struct writing *w, const struct dr_inception_layer *l,
                      const struct dr_param *p) {
    static const char *const part[] = {"conv.weight", "bn.weight", "bn.bias", "bn.running_mean",
                                       "bn.running_var"};
    char name[128], rule[128];
    for (size_t k = 0; k < DR_COUNT(part); k++) {
        snprintf(name, sizeof name, "%s.%s", w->how->blocks ? l->block : l->name, part[k]);
        snprintf(rule, sizeof rule, "%s.%s", l->name, part[k]);
        add(w, name, rule, k ? 1 : 4, p->dim);
    }
}

void rule_write(const char *path, const struct dr_net *net, const struct rule_file *how) {
    static const int64_t one = 1, none = 0;
    const struct dr_params *ps = dr_net_params(net);
    struct writing *w = calloc(1, sizeof *w);
    struct dr_err err = {0};
    assert_non_null(w);
    w->how = how;
    if (dr_st_writer_new(&w->out, &err))
        fail_msg("%s", err.msg);
    for (int i = 0; i < dr_inception_layers(net); i++) {
        const struct dr_inception_layer *l = dr_inception_layer(net, i);
        add_layer(w, l, &ps->p[l->weight]);
    }
    for (int i = 0; i < ps->n && !how->blocks; i++)
        if (!strncmp(ps->p[i].name, "fc.", 3))
            add(w, ps->p[i].name, ps->p[i].name, ps->p[i].ndim, ps->p[i].dim);
    if (how->more)
        add(w, how->more, how->more, 1, &one);
    if (how->empty && dr_st_add(w->out, how->empty, DR_ST_F32, 1, &none, &none, &err))
        fail_msg("%s", err.msg);
    if (how->description && dr_st_add_meta(w->out, "driftd.config", how->description, &err))
        fail_msg("%s", err.msg);
    if (dr_st_finish(w->out, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    for (int i = 0; i < w->n; i++)
        free(w->data[i]);
    free(w);
}
