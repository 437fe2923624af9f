// Snapshots: immutable weights with a reference count, from a trainer or from a safetensors file
// (driftd's own checkpoints and foreign ones under the reference's names). See sampler.h.
#include "engine/core/arena.h"
#include "engine/io/safetensors.h"
#include "engine/nn/params.h"
#include "engine/sample/foreign.h"
#include "engine/sample/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dr_snapshot *dr_snapshot_new(struct dr_net *net, real *weights, int64_t step) {
    struct dr_snapshot *s = calloc(1, sizeof *s);
    if (!s) {
        dr_net_free(net);
        free(weights);
        return NULL;
    }
    s->net = net;
    s->weights = weights;
    s->step = step;
    s->refs = 1;
    return s;
}

struct dr_snapshot *dr_snapshot_ref(struct dr_snapshot *s) {
    if (s)
        __atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
    return s;
}

void dr_snapshot_unref(struct dr_snapshot *s) {
    if (!s || __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL))
        return;
    dr_net_free(s->net);
    free(s->weights);
    free(s);
}

int dr_snapshot_resized(const struct dr_snapshot *s, int64_t side, struct dr_snapshot **out,
                        struct dr_err *err) {
    struct dr_net *net;
    *out = NULL;
    int rc = dr_net_resized(s->net, side, &net, err);
    if (rc)
        return rc;
    const size_t bytes = dr_net_bytes(net);
    real *w = aligned_alloc(DR_ALIGN, (bytes + DR_ALIGN - 1) / DR_ALIGN * DR_ALIGN);
    if (w)
        memcpy(w, s->weights, bytes);
    else
        dr_net_free(net);
    *out = w ? dr_snapshot_new(net, w, s->step) : NULL;
    return *out ? 0 : dr_fail(err, DR_ENOMEM, "out of memory for %zu bytes of weights", bytes);
}

#define MOST_STEPS ((int64_t)1 << 53)
#define RAW "train/" // before the names of the weights that training updates

// Tensors that a usable file may hold besides the served weights: PyTorch's RoPE buffers, its
// BatchNorms' counters, what dr_trainer_save writes beside the EMA, and what has no values.
bool dr_foreign_harmless(const struct dr_st_tensor *t, const char *name) {
    static const char *const prefix[] = {"rope.", RAW,     "opt.m/", "opt.v/",
                                         "ema1/", "ema2/", "ema3/",  "driftd/"};
    for (size_t i = 0; i < DR_COUNT(prefix); i++)
        if (!strncmp(name, prefix[i], strlen(prefix[i])))
            return true;
    static const char counter[] = ".num_batches_tracked";
    const size_t len = strlen(name), tail = sizeof counter - 1;
    return !t->count || (len > tail && !strcmp(name + len - tail, counter));
}

// Finds the network and the prefix of its weights. The file's own description wins; then `given`,
// then what the shapes tell.
static int find_net(const struct dr_st_file *f, const char *path, const char *given,
                    char prefix[DR_PREFIX_MAX], struct dr_net **net, struct dr_err *err) {
    const char *json = dr_st_meta(f, "driftd.config");
    struct dr_model_config m;
    json = json ? json : given;
    if (!json && dr_foreign_is_resnet(f))
        return dr_foreign_resnet(f, path, prefix, net, err);
    if (!json && dr_foreign_is_inception(f))
        return dr_foreign_inception(f, path, net, err);
    int rc = json ? dr_net_parse(json, strlen(json), path, net, err) : 0;
    if (!rc && *net && dr_inception_config(*net))
        return 0; // its reader finds the prefix
    if (!rc)
        rc = dr_foreign_prefix(f, path, *net ? dr_net_anchor(*net) : NULL, prefix, err);
    if (rc || *net)
        return rc;
    rc = dr_foreign_model(f, path, prefix, &m, err);
    return rc ? rc : dr_gen_create(&m, net, err);
}

int dr_param_read(const struct dr_st_file *f, const char *path, const char *prefix,
                  const struct dr_param *p, real *w, struct dr_err *err) {
    char name[DR_PREFIX_MAX + sizeof p->name];
    snprintf(name, sizeof name, "%s%s", prefix, p->name);
    if (!w)
        return dr_st_read_f32(f, name, p->ndim, p->dim, NULL, err);
    const bool variance = strstr(p->name, "running_var");
    float *tmp = malloc((size_t)p->count * sizeof *tmp);
    if (!tmp)
        return dr_fail(err, DR_ENOMEM, "%s: out of memory for %s", path, name);
    int rc = dr_st_read_f32(f, name, p->ndim, p->dim, tmp, err);
    for (int64_t i = 0; !rc && i < p->count; i++) {
        if (!isfinite(tmp[i]))
            rc = dr_fail(err, DR_ENONFINITE, "%s: tensor \"%s\" holds a non-finite value at %lld",
                         path, name, (long long)i);
        else if (variance && tmp[i] < 0)
            rc = dr_fail(err, DR_EFORMAT,
                         "%s: tensor \"%s\" holds %g at %lld; a variance is not negative", path,
                         name, (double)tmp[i], (long long)i);
        w[p->offset + i] = (real)tmp[i];
    }
    free(tmp);
    return rc;
}

// Under a wrapper's prefix only tensors with the prefix count; the others belong to other sets.
static int check_unknown(const struct dr_st_file *f, const char *path, const char *prefix,
                         const struct dr_params *ps, struct dr_err *err) {
    const size_t skip = strlen(prefix);
    for (int i = 0; i < dr_st_count(f); i++) {
        const struct dr_st_tensor *t = dr_st_at(f, i);
        const char *name = t->name;
        if (strncmp(name, prefix, skip))
            continue;
        if (dr_params_find(ps, name + skip) < 0 && !dr_foreign_harmless(t, name + skip))
            return dr_fail(err, DR_EFORMAT, "%s: tensor \"%s\" is not part of this model", path,
                           name);
    }
    return 0;
}

// Allocates and fills *w. Everything is checked before anything is allocated, so a description
// that promises more than the file holds costs no memory. alone: nothing else may lie under the
// prefix.
static int load_weights(const struct dr_st_file *f, const char *path, const char *prefix,
                        const struct dr_params *ps, bool alone, real **w, struct dr_err *err) {
    int rc = 0;
    for (int i = 0; i < ps->n && !rc; i++)
        rc = dr_param_read(f, path, prefix, &ps->p[i], NULL, err);
    if (!rc && alone)
        rc = check_unknown(f, path, prefix, ps, err);
    if (rc)
        return rc;
    const size_t bytes = DR_MAX((size_t)ps->total * sizeof **w, (size_t)DR_ALIGN);
    *w = aligned_alloc(DR_ALIGN, bytes);
    if (!*w)
        return dr_fail(err, DR_ENOMEM, "%s: out of memory for %zu bytes of weights", path, bytes);
    memset(*w, 0, bytes);
    for (int i = 0; i < ps->n && !rc; i++)
        rc = dr_param_read(f, path, prefix, &ps->p[i], *w, err);
    return rc;
}

// The set of weights to take of a network's several.
static int find_raw(const struct dr_st_file *f, const char *path, const struct dr_net *net,
                    char prefix[DR_PREFIX_MAX], struct dr_err *err) {
    char name[DR_PREFIX_MAX];
    strcpy(prefix, RAW);
    snprintf(name, sizeof name, "%s%s", prefix, dr_net_anchor(net));
    if (dr_st_find(f, name))
        return 0;
    return dr_fail_at(err, DR_EINVAL, "weights",
                      "%s holds one set of weights; weights=raw needs a checkpoint of a training "
                      "job",
                      path);
}

// The step that the file's description says, 0 where it says none.
static int read_step(const struct dr_st_file *f, const char *path, int64_t *step,
                     struct dr_err *err) {
    const char *text = dr_st_meta(f, "driftd.step");
    *step = text ? strtoll(text, NULL, 10) : 0;
    if (!text || (*text && strspn(text, "0123456789") == strlen(text) && *step < MOST_STEPS))
        return 0;
    return dr_fail(err, DR_EFORMAT, "%s: \"driftd.step\" is \"%.40s\"; expected a whole number",
                   path, text);
}

static int load(const char *path, const char *description, bool raw, struct dr_snapshot **out,
                struct dr_err *err) {
    *out = NULL;
    struct dr_st_file *f = NULL;
    struct dr_net *net = NULL;
    real *w = NULL;
    int64_t step = 0;
    char prefix[DR_PREFIX_MAX];
    int rc = dr_st_open(path, &f, err);
    if (!rc) {
        path = dr_st_path(f); // from here on for messages
        rc = find_net(f, path, description, prefix, &net, err);
    }
    if (!rc)
        rc = read_step(f, path, &step, err);
    if (!rc && raw)
        rc = find_raw(f, path, net, prefix, err);
    if (!rc && dr_inception_config(net))
        rc = dr_foreign_inception_weights(f, path, net, &w, err);
    else if (!rc)
        rc = load_weights(f, path, prefix, dr_net_params(net), !raw, &w, err);
    if (!rc) {
        const char *config = dr_st_meta(f, "driftd.config");
        *out = dr_snapshot_new(net, w, step);
        net = NULL;
        w = NULL;
        if (!*out)
            rc = dr_fail(err, DR_ENOMEM, "%s: out of memory for a snapshot", path);
        else if (config)
            (*out)->guidance = dr_guidance_range_parse(config, strlen(config));
    }
    dr_net_free(net);
    free(w);
    dr_st_close(f);
    return rc;
}

int dr_snapshot_load(const char *path, const char *description, struct dr_snapshot **out,
                     struct dr_err *err) {
    return load(path, description, false, out, err);
}

int dr_snapshot_load_raw(const char *path, const char *description, struct dr_snapshot **out,
                         struct dr_err *err) {
    return load(path, description, true, out, err);
}

int dr_snapshot_network(const char *path, struct dr_net **out, struct dr_err *err) {
    char prefix[DR_PREFIX_MAX];
    struct dr_st_file *f = NULL;
    *out = NULL;
    int rc = dr_st_open(path, &f, err);
    if (!rc)
        rc = find_net(f, dr_st_path(f), NULL, prefix, out, err);
    if (rc) {
        dr_net_free(*out);
        *out = NULL;
    }
    dr_st_close(f);
    return rc;
}
