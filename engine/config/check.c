// Checks across keys: what a single key's range cannot say. Called by config.c after every change.
#include "engine/config/field.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAX_STEP_SAMPLES (1 << 20) // samples of one step; far above any machine's memory

static bool is_toy(int set) {
    return set >= DR_DATA_CHECKERBOARD;
}
static bool is_mnist(int set) {
    return set == DR_DATA_MNIST || set == DR_DATA_FASHION;
}
static bool made_by_code(int set) {
    return set == DR_DATA_DIGITS || is_toy(set);
}

static const char *set_name(int set, char out[64]) {
    return dr_enum_word(dr_config_field("data.set")->values, set, out);
}

void dr_config_link(struct dr_config *c) {
    // A toy's sample is a point: two channels of one pixel.
    bool toy = is_toy(c->data.set);
    c->model.size = toy ? 1 : c->data.size;
    c->model.channels = toy ? 2 : c->data.channels;
    c->model.classes = c->data.classes;
}

static int fail(struct dr_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int fail(struct dr_err *err, const char *fmt, ...) {
    char msg[sizeof err->msg];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return dr_fail(err, DR_ECONFIG, "%s", msg);
}

int dr_model_config_check(const struct dr_model_config *m, struct dr_err *err) {
    if (m->label_dropout > 0 && !m->null_class)
        return fail(err,
                    "model.label_dropout is %g but model.null_class is false; dropped labels "
                    "need the null class",
                    m->label_dropout);
    const unsigned needs = dr_arch_needs(m->arch);
    if (!(needs & DR_ARCH_PATCHES))
        return 0;
    if (m->dim % m->heads != 0)
        return fail(err, "model.heads is %lld; expected a divisor of model.dim (%lld)",
                    (long long)m->heads, (long long)m->dim);
    if (m->rope && m->dim / m->heads % 2 != 0)
        return fail(err, "model.rope needs an even head width; model.dim / model.heads is %lld",
                    (long long)(m->dim / m->heads));
    if ((m->pos_embed || (needs & DR_ARCH_POSITIONS)) && m->dim % 4 != 0)
        return fail(err, "model.dim is %lld; a position embedding needs a multiple of 4",
                    (long long)m->dim);
    if (m->size % m->patch != 0)
        return fail(err, "model.patch is %lld; expected a divisor of data.size (%lld)",
                    (long long)m->patch, (long long)m->size);
    return 0;
}

// Relative, without "..": files named in a config stay below the data directory.
static bool confined(const char *path) {
    if (path[0] == '/')
        return false;
    for (const char *p = path; p; p = strchr(p, '/')) {
        p += *p == '/';
        if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || p[2] == '\0'))
            return false;
    }
    return true;
}

static int check_data(const struct dr_data_config *d, struct dr_err *err) {
    char set[64];
    set_name(d->set, set);
    if (!confined(d->path))
        return fail(err,
                    "data.path is \"%.100s\"; expected a relative path without `..`, below the "
                    "data directory",
                    d->path);
    if (d->set == DR_DATA_IDX && !d->path[0])
        return fail(err, "data.path is empty; the set idx needs the folder of its files");
    if (is_mnist(d->set) || d->set == DR_DATA_DIGITS) {
        if (d->classes != 10)
            return fail(err, "data.classes is %lld; the set %s has 10", (long long)d->classes, set);
        if (d->channels != 1)
            return fail(err, "data.channels is %lld; the set %s has 1", (long long)d->channels,
                        set);
    }
    if (is_mnist(d->set) && d->fit == DR_FIT_PAD && d->size < 28)
        return fail(err,
                    "data.size is %lld; images of %s are 28x28 and cannot be padded to that: "
                    "use 28 or more, or data.fit resize",
                    (long long)d->size, set);
    if (is_toy(d->set) && d->classes != 1)
        return fail(err, "data.classes is %lld; the set %s has 1", (long long)d->classes, set);
    return 0;
}

static int check_features(const struct dr_config *c, struct dr_err *err) {
    const struct dr_feature_config *f = &c->features;
    long long size = c->data.size;
    if (!f->image && !f->quadrants && !f->patch2 && !f->patch4 && f->rms <= 0)
        return fail(err, "no feature is on; set at least one of features.image, "
                         "features.quadrants, features.patch2, features.patch4, features.rms");
    if (is_toy(c->data.set)) {
        if (f->quadrants || f->patch2 || f->patch4 || f->rms > 0 || !f->image)
            return fail(err, "a two-dimensional toy has only features.image; turn "
                             "features.quadrants, features.patch2, features.patch4 and "
                             "features.rms off");
        return 0;
    }
    if ((f->quadrants || f->patch2) && size % 2 != 0)
        return fail(err, "features.%s needs an even data.size, which is %lld",
                    f->quadrants ? "quadrants" : "patch2", size);
    if (f->patch4 && size % 4 != 0)
        return fail(err, "features.patch4 needs data.size to be a multiple of 4, not %lld", size);
    return 0;
}

static int check_reals(const struct dr_config *c, struct dr_err *err) {
    const struct dr_train_config *t = &c->train;
    if (t->sampler == DR_SAMPLER_QUEUE) {
        if (t->positives > t->queue_class)
            return fail(err,
                        "train.positives is %lld; the queue sampler has at most "
                        "train.queue_class (%lld) of a class",
                        (long long)t->positives, (long long)t->queue_class);
        if (t->unconditional > t->queue_global)
            return fail(err,
                        "train.unconditional is %lld; the queue sampler has at most "
                        "train.queue_global (%lld)",
                        (long long)t->unconditional, (long long)t->queue_global);
        return 0;
    }
    if (!made_by_code(c->data.set))
        return 0; // the data set says so itself when it is too small
    int64_t n = c->data.count;
    if (c->data.limit > 0 && c->data.limit < n)
        n = c->data.limit;
    if (t->positives > n / c->data.classes)
        return fail(err,
                    "train.positives is %lld; the set has %lld images a class (data.count, "
                    "data.limit)",
                    (long long)t->positives, (long long)(n / c->data.classes));
    if (t->unconditional > n)
        return fail(err,
                    "train.unconditional is %lld; the set has %lld images (data.count, "
                    "data.limit)",
                    (long long)t->unconditional, (long long)n);
    return 0;
}

static int check_train(const struct dr_config *c, struct dr_err *err) {
    const struct dr_train_config *t = &c->train;
    if (t->classes > c->data.classes)
        return fail(err,
                    "train.classes is %lld; expected at most data.classes (%lld), or 0 for all",
                    (long long)t->classes, (long long)c->data.classes);
    if (t->alpha_min > t->alpha_max)
        return fail(err, "train.alpha_min is %g; expected at most train.alpha_max (%g)",
                    t->alpha_min, t->alpha_max);
    if (dr_config_batch(c) > MAX_STEP_SAMPLES)
        return fail(err, "train.generated is %lld: %lld samples a step; expected at most %d",
                    (long long)t->generated, (long long)dr_config_batch(c), MAX_STEP_SAMPLES);
    if (c->loss.field == DR_FIELD_KERNEL_L2 && t->unconditional > 0)
        return fail(err,
                    "train.unconditional is %lld; the field kernel-l2 has no unconditional "
                    "negatives: set it to 0",
                    (long long)t->unconditional);
    return check_reals(c, err);
}

int dr_config_check(const struct dr_config *c, struct dr_err *err) {
    int rc = check_data(&c->data, err);
    if (rc)
        return rc;
    char set[64];
    set_name(c->data.set, set);
    const bool points = dr_arch_needs(c->model.arch) & DR_ARCH_POINTS;
    if (is_toy(c->data.set) && !points)
        return fail(err, "model.arch must be mlp for the two-dimensional set %s", set);
    if (!is_toy(c->data.set) && points)
        return fail(err,
                    "model.arch mlp makes points in two dimensions; the set %s has images: use "
                    "driftdit or lightningdit",
                    set);
    if ((rc = dr_model_config_check(&c->model, err)) || (rc = check_features(c, err)))
        return rc;
    return check_train(c, err);
}
