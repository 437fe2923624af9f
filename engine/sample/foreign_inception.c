// Inception-v3 from files made elsewhere (foreign.h): pytorch-fid's weights, torchvision's
// inception_v3, or the state dict of pytorch-fid's InceptionV3 module, which numbers its blocks and
// has no classifier. BatchNorms are folded into the convolutions before them,
//   W' = W gamma / sqrt(var + eps), b' = beta - mean gamma / sqrt(var + eps),
// in double. A file that driftd wrote holds folded convolutions already.
#include "engine/core/arena.h"
#include "engine/nn/params.h"
#include "engine/sample/foreign.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char anchor[] = "Mixed_7c.branch_pool.conv.weight",
                  block_anchor[] = "blocks.3.2.branch_pool.conv.weight";
enum { NORM_PARTS = 4 };
static const char *const norm_part[NORM_PARTS] = {"bn.weight", "bn.bias", "bn.running_mean",
                                                  "bn.running_var"};

struct source {
    const struct dr_st_file *f;
    const char *path;
    const struct dr_net *net;
    char prefix[DR_PREFIX_MAX];
    bool blocks; // names of pytorch-fid's module
    bool folded;
};

static bool ends_in(const char *name, const char *end) {
    const size_t len = strlen(name), tail = strlen(end);
    return len >= tail && !strcmp(name + len - tail, end);
}

static bool has(const struct dr_st_file *f, const char *end) {
    for (int i = 0; i < dr_st_count(f); i++)
        if (ends_in(dr_st_at(f, i)->name, end))
            return true;
    return false;
}

bool dr_foreign_is_inception(const struct dr_st_file *f) {
    return has(f, anchor) || has(f, block_anchor);
}

// ---- names

static const char *full(const struct source *s, char name[256], const char *layer,
                        const char *part) {
    snprintf(name, 256, "%s%s.%s", s->prefix, layer, part);
    return name;
}

static const char *layer_name(const struct source *s, int i) {
    const struct dr_inception_layer *l = dr_inception_layer(s->net, i);
    return s->blocks ? l->block : l->name;
}

static int find_source(struct source *s, struct dr_err *err) {
    char name[256];
    s->blocks = !has(s->f, anchor) && has(s->f, block_anchor);
    int rc = dr_foreign_prefix(s->f, s->path, s->blocks ? block_anchor : anchor, s->prefix, err);
    if (rc || !s->net)
        return rc;
    s->folded = !dr_st_find(s->f, full(s, name, layer_name(s, 0), norm_part[0])) &&
                dr_st_find(s->f, full(s, name, layer_name(s, 0), "conv.bias"));
    return 0;
}

int dr_foreign_inception(const struct dr_st_file *f, const char *path, struct dr_net **net,
                         struct dr_err *err) {
    struct source s = {.f = f, .path = path};
    struct dr_inception_config c = dr_inception_defaults();
    char name[256];
    int rc = find_source(&s, err);
    if (rc)
        return rc;
    const struct dr_st_tensor *fc = dr_st_find(f, full(&s, name, "fc", "weight"));
    const char *first = s.blocks ? "blocks.0.0" : "Conv2d_1a_3x3";
    const struct dr_st_tensor *stem = dr_st_find(f, full(&s, name, first, "conv.weight"));
    if (fc && (fc->ndim != 2 || fc->dim[0] < 1))
        return dr_fail(err, DR_EFORMAT, "%s: tensor \"%s\" has %d dimensions; expected 2", path,
                       fc->name, fc->ndim);
    c.classes = fc ? fc->dim[0] : 0;
    if (stem && stem->ndim == 4 && stem->dim[0] > 1 && 32 % stem->dim[0] == 0)
        c.narrow = 32 / stem->dim[0];
    if (c.classes == 1000 || dr_st_find(f, full(&s, name, "AuxLogits", "fc.weight")))
        c.variant = DR_INCEPTION_TORCHVISION;
    rc = dr_inception_create(&c, net, err);
    return rc ? dr_fail_prefix(err, rc, path) : 0;
}

// ---- checking

static int check(const struct source *s, const char *layer, const char *part, int ndim,
                 const int64_t *dim, struct dr_err *err) {
    char name[256];
    return dr_st_read_f32(s->f, full(s, name, layer, part), ndim, dim, NULL, err);
}

static int check_layer(const struct source *s, int i, struct dr_err *err) {
    const struct dr_inception_layer *l = dr_inception_layer(s->net, i);
    const struct dr_param *w = &dr_net_params(s->net)->p[l->weight];
    int rc = check(s, layer_name(s, i), "conv.weight", 4, w->dim, err);
    if (!rc && s->folded)
        return check(s, layer_name(s, i), "conv.bias", 1, w->dim, err);
    for (int k = 0; k < NORM_PARTS && !rc; k++)
        rc = check(s, layer_name(s, i), norm_part[k], 1, w->dim, err);
    return rc;
}

// Whether t, called `name` without the prefix, is one that is read or may stand beside.
static bool known(const struct source *s, const struct dr_st_tensor *t, const char *name) {
    const struct dr_params *ps = dr_net_params(s->net);
    if (dr_foreign_harmless(t, name) || !strncmp(name, "AuxLogits.", 10))
        return true;
    if (!strncmp(name, "fc.", 3))
        return dr_params_find(ps, name) >= 0;
    for (int i = 0; i < dr_inception_layers(s->net); i++) {
        const char *layer = layer_name(s, i);
        const size_t len = strlen(layer);
        if (strncmp(name, layer, len) || name[len] != '.')
            continue;
        const char *part = name + len + 1;
        if (!strcmp(part, "conv.weight") || (s->folded && !strcmp(part, "conv.bias")))
            return true;
        for (int k = 0; k < NORM_PARTS && !s->folded; k++)
            if (!strcmp(part, norm_part[k]))
                return true;
    }
    return false;
}

static int check_all(const struct source *s, struct dr_err *err) {
    const struct dr_params *ps = dr_net_params(s->net);
    const int fc = dr_params_find(ps, "fc.weight");
    const size_t skip = strlen(s->prefix);
    int rc = 0;
    for (int i = 0; i < dr_inception_layers(s->net) && !rc; i++)
        rc = check_layer(s, i, err);
    if (!rc && fc >= 0)
        rc = check(s, "fc", "weight", 2, ps->p[fc].dim, err);
    if (!rc && fc >= 0)
        rc = check(s, "fc", "bias", 1, ps->p[fc].dim, err);
    for (int i = 0; i < dr_st_count(s->f) && !rc; i++) {
        const struct dr_st_tensor *t = dr_st_at(s->f, i);
        if (!strncmp(t->name, s->prefix, skip) && !known(s, t, t->name + skip))
            rc = dr_fail(err, DR_EFORMAT, "%s: tensor \"%s\" is not part of this model", s->path,
                         t->name);
    }
    return rc;
}

// ---- reading

// Values of a tensor that was checked, in room for `count`.
static int read_values(const struct source *s, const char *layer, const char *part, int ndim,
                       const int64_t *dim, float *out, int64_t count, struct dr_err *err) {
    char name[256];
    int rc = dr_st_read_f32(s->f, full(s, name, layer, part), ndim, dim, out, err);
    for (int64_t i = 0; i < count && !rc; i++)
        if (!isfinite(out[i]))
            rc = dr_fail(err, DR_ENONFINITE, "%s: tensor \"%s\" holds a non-finite value at %lld",
                         s->path, name, (long long)i);
    return rc;
}

// Reads a parameter as it is.
static int read_plain(const struct source *s, const char *layer, const char *part,
                      const struct dr_param *p, float *room, real *w, struct dr_err *err) {
    int rc = read_values(s, layer, part, p->ndim, p->dim, room, p->count, err);
    for (int64_t i = 0; i < p->count && !rc; i++)
        w[p->offset + i] = (real)room[i];
    return rc;
}

// The BatchNorm of a layer into its weights, which are in w already. room: 4 times its channels.
static int fold(const struct source *s, int layer, float *room, real *w, struct dr_err *err) {
    const struct dr_inception_layer *l = dr_inception_layer(s->net, layer);
    const struct dr_param *pw = &dr_net_params(s->net)->p[l->weight],
                          *pb = &dr_net_params(s->net)->p[l->bias];
    const int64_t c = pb->count, each = pw->count / c;
    int rc = 0;
    for (int k = 0; k < NORM_PARTS && !rc; k++)
        rc = read_values(s, layer_name(s, layer), norm_part[k], 1, &c, room + k * c, c, err);
    for (int64_t i = 0; i < c && !rc; i++) {
        const double var = (double)room[3 * c + i] + DR_INCEPTION_EPS;
        if (!(var > 0))
            return dr_fail(err, DR_EFORMAT,
                           "%s: tensor \"%s%s.%s\" holds %g at %lld; a variance is not negative",
                           s->path, s->prefix, layer_name(s, layer), norm_part[3],
                           (double)room[3 * c + i], (long long)i);
        const double scale = (double)room[i] / sqrt(var);
        real *row = w + pw->offset + i * each;
        for (int64_t j = 0; j < each; j++)
            row[j] = (real)((double)row[j] * scale);
        w[pb->offset + i] = (real)((double)room[c + i] - (double)room[2 * c + i] * scale);
    }
    return rc;
}

static int read_all(const struct source *s, float *room, real *w, struct dr_err *err) {
    const struct dr_params *ps = dr_net_params(s->net);
    const int fc = dr_params_find(ps, "fc.weight");
    int rc = 0;
    for (int i = 0; i < dr_inception_layers(s->net) && !rc; i++) {
        const struct dr_inception_layer *l = dr_inception_layer(s->net, i);
        rc = read_plain(s, layer_name(s, i), "conv.weight", &ps->p[l->weight], room, w, err);
        if (!rc && s->folded)
            rc = read_plain(s, layer_name(s, i), "conv.bias", &ps->p[l->bias], room, w, err);
        else if (!rc)
            rc = fold(s, i, room, w, err);
    }
    if (!rc && fc >= 0)
        rc = read_plain(s, "fc", "weight", &ps->p[fc], room, w, err);
    if (!rc && fc >= 0)
        rc = read_plain(s, "fc", "bias", &ps->p[dr_params_find(ps, "fc.bias")], room, w, err);
    return rc;
}

int dr_foreign_inception_weights(const struct dr_st_file *f, const char *path,
                                 const struct dr_net *net, real **w, struct dr_err *err) {
    struct source s = {.f = f, .path = path, .net = net};
    const struct dr_params *ps = dr_net_params(net);
    int64_t most = 0;
    *w = NULL;
    int rc = find_source(&s, err);
    if (!rc)
        rc = check_all(&s, err);
    if (rc)
        return rc;
    for (int i = 0; i < ps->n; i++)
        most = DR_MAX(most, (ps->p[i].ndim == 1 ? NORM_PARTS : 1) * ps->p[i].count);
    const size_t bytes = dr_net_bytes(net);
    float *room = malloc((size_t)most * sizeof *room);
    *w = aligned_alloc(DR_ALIGN, bytes);
    if (!room || !*w)
        rc = dr_fail(err, DR_ENOMEM, "%s: out of memory for %zu bytes of weights", path, bytes);
    if (*w)
        memset(*w, 0, bytes);
    if (!rc)
        rc = read_all(&s, room, *w, err);
    free(room);
    if (rc) {
        free(*w);
        *w = NULL;
    }
    return rc;
}
