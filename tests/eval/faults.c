// See faults.h.
#include "tests/eval/faults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const fault_names[FAULT_COUNT] = {
#define X(ID, name) name,
    FAULTS(X)
#undef X
};

struct faulty {
    struct dr_eval_source base;
    enum fault fault;
    const struct dr_dataset *d;
    real *work;     // [h,w]
    int32_t *cls;   // [n]
    int64_t *which; // [n] of the class's images
};

// Twice the mean of 3x3 pixels, fewer at the border.
static void blur(const struct dr_dataset *d, real *plane, real *work) {
    for (int pass = 0; pass < 2; pass++) {
        memcpy(work, plane, (size_t)(d->h * d->w) * sizeof *work);
        for (int64_t y = 0; y < d->h; y++)
            for (int64_t x = 0; x < d->w; x++) {
                double sum = 0;
                int n = 0;
                for (int64_t v = DR_MAX(y - 1, (int64_t)0); v < DR_MIN(y + 2, d->h); v++)
                    for (int64_t u = DR_MAX(x - 1, (int64_t)0); u < DR_MIN(x + 2, d->w); u++, n++)
                        sum += (double)work[v * d->w + u];
                plane[y * d->w + x] = (real)(sum / n);
            }
    }
}

static void add_noise(real *x, int64_t n, uint64_t index) {
    struct dr_rng g;
    dr_rng_init(&g, 99, DR_STREAM_DATA, index);
    for (int64_t i = 0; i < n; i++)
        x[i] = (real)((double)x[i] + .6 * dr_rng_normal(&g));
}

static int32_t asked(const struct dr_eval_source *s, int64_t i) {
    return ((const struct faulty *)s)->cls[i];
}

static int images(struct dr_eval_source *s, int64_t first, int64_t count, real *x, int32_t *cls,
                  struct dr_err *err) {
    const struct faulty *f = (const struct faulty *)s;
    const struct dr_dataset *d = f->d;
    const int64_t image = d->c * d->h * d->w;
    for (int64_t i = 0; i < count; i++) {
        const int64_t at = first + i, c = asked(s, at);
        const int64_t of = f->fault == FAULT_SWAPPED ? (c + 1) % d->classes : c;
        const int64_t have = d->class_start[of + 1] - d->class_start[of];
        const int64_t which = f->fault == FAULT_ONE ? 0 : f->which[at] % have;
        real *to = x + i * image;
        cls[i] = (int32_t)c;
        const int rc = dr_dataset_reals(d, d->by_class + d->class_start[of] + which, 1, to, err);
        if (rc)
            return rc;
        for (int64_t k = 0; k < d->c && f->fault == FAULT_BLURRED; k++)
            blur(d, to + k * d->h * d->w, f->work);
        if (f->fault == FAULT_NOISED)
            add_noise(to, image, (uint64_t)at);
    }
    return 0;
}

static void release(struct dr_eval_source *s) {
    struct faulty *f = (struct faulty *)s;
    free(f->work);
    free(f->cls);
    free(f->which);
    free(f);
}

// The classes of the training images in their proportions, or of half of the classes.
static int take_turns(struct faulty *f, const struct dr_dataset *train, struct dr_err *err) {
    struct dr_eval_source *reals;
    int64_t *seen = calloc((size_t)train->classes, sizeof *seen);
    int rc = seen ? dr_eval_source_dataset(train, 0, &reals, err)
                  : dr_fail(err, DR_ENOMEM, "out of memory for classes");
    for (int64_t i = 0; i < f->base.n && !rc; i++) {
        f->cls[i] = reals->asked(reals, i % reals->n);
        if (f->fault == FAULT_HALF)
            f->cls[i] %= (int32_t)(train->classes / 2);
        f->which[i] = seen[f->cls[i]]++;
    }
    if (!rc)
        dr_eval_source_free(reals);
    free(seen);
    return rc;
}

int fault_source(enum fault fault, const struct dr_dataset *train, const struct dr_dataset *test,
                 int64_t n, struct dr_eval_source **out, struct dr_err *err) {
    struct faulty *f = calloc(1, sizeof *f);
    *out = NULL;
    if (!f)
        return dr_fail(err, DR_ENOMEM, "out of memory for images with a fault");
    *f = (struct faulty){.fault = fault,
                         .d = fault == FAULT_COPIED ? train : test,
                         .work = malloc((size_t)(test->h * test->w) * sizeof *f->work),
                         .cls = malloc((size_t)n * sizeof *f->cls),
                         .which = malloc((size_t)n * sizeof *f->which)};
    f->base = (struct dr_eval_source){.n = n,
                                      .c = test->c,
                                      .h = test->h,
                                      .w = test->w,
                                      .classes = test->classes,
                                      .images = images,
                                      .asked = asked,
                                      .release = release,
                                      .kind = test->kind};
    snprintf(f->base.key, sizeof f->base.key, "fault%d", (int)fault);
    int rc =
        f->work && f->cls && f->which ? 0 : dr_fail(err, DR_ENOMEM, "out of memory for images");
    if (!rc)
        rc = take_turns(f, train, err);
    if (rc)
        release(&f->base);
    else
        *out = &f->base;
    return rc;
}
