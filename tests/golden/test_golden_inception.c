// Inception-v3 and the resizes before it against torchvision, PyTorch and Pillow
// (make_golden_inception.py), whose outputs are in inception.safetensors; weights and images follow
// from a rule. The weights take the way of a user's file: written, read, BatchNorms folded.
#include "engine/drift.h"
#include "engine/eval/fid_input.h"
#include "engine/io/safetensors.h"
#include "engine/nn/inception.h"
#include "engine/nn/params.h"
#include "engine/open.h"
#include "engine/sample/encode.h"
#include "tests/golden/inception_rule.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { SIDE = DR_INCEPTION_SIZE, STEP = 13, INPUT = 3 * SIDE * SIDE, WIDTH = 2048 };
#define LIMIT 1e-4 // of the largest value

static const char *folder;
static const struct image {
    enum dr_fid_resize way;
    int64_t h, w, c;
} images[] = {{DR_FID_CLEAN, 32, 32, 3},
              {DR_FID_LEGACY_PYTORCH, 28, 28, 1},
              {DR_FID_LEGACY_TENSORFLOW, 40, 36, 3}};

static struct dr_st_file *vectors(void) {
    char path[1024];
    struct dr_err err = {0};
    struct dr_st_file *f;
    snprintf(path, sizeof path, "%s/inception.safetensors", folder);
    if (dr_st_open(path, &f, &err))
        fail_msg("%s", err.msg);
    return f;
}

static double largest_difference(const real *got, const float *want, int64_t n) {
    double diff = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs((double)got[i] - (double)want[i]);
        diff = d > diff || d != d ? d : diff;
        most = DR_MAX(most, fabs((double)want[i]));
    }
    return diff / most;
}

static void agree(const struct dr_st_file *f, const char *name, const real *got, int64_t n) {
    const struct dr_st_tensor *t = dr_st_find(f, name);
    if (!t || t->count != n)
        fail_msg("%s is not in the file, or not of %lld values", name, (long long)n);
    float *want = malloc((size_t)n * sizeof *want);
    assert_non_null(want);
    memcpy(want, t->data, (size_t)n * sizeof *want);
    const double bad = largest_difference(got, want, n);
    print_message("  %-32s %.1e\n", name, bad);
    free(want);
    if (!(bad <= LIMIT))
        fail_msg("%s: largest difference %g of the largest value", name, bad);
}

// [c,h,w] in [-1,1] from the bytes [h,w,c] of the rule.
static real *picture(const char *name, int64_t h, int64_t w, int64_t c) {
    real *x = malloc((size_t)(h * w * c) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < h * w * c; i++)
        x[i % c * h * w + i / c] = rule_pixel(name, i) / (real)127.5 - 1;
    return x;
}

static real *resized(const char *name, enum dr_fid_resize way, int64_t h, int64_t w, int64_t c) {
    struct dr_err err = {0};
    real *x = picture(name, h, w, c), *out = malloc((size_t)INPUT * sizeof *out);
    assert_non_null(out);
    if (dr_fid_input(way, x, 1, c, h, w, SIDE, 1, out, &err))
        fail_msg("%s", err.msg);
    free(x);
    return out;
}

static real *image_of(const struct image *k) {
    char name[64];
    snprintf(name, sizeof name, "image.%s", dr_fid_resize_word(k->way));
    return resized(name, k->way, k->h, k->w, k->c);
}

static void compare_pixels(const struct dr_st_file *f, const char *name, const real *x) {
    enum { SOME = (SIDE + STEP - 1) / STEP };
    real some[3 * SOME * SOME];
    for (int c = 0, at = 0; c < 3; c++)
        for (int y = 0; y < SIDE; y += STEP)
            for (int i = 0; i < SIDE; i += STEP)
                some[at++] = x[(c * SIDE + y) * SIDE + i];
    agree(f, name, some, 3 * SOME * SOME);
}

static void resizes_agree(void **state) {
    struct dr_st_file *f = vectors();
    char name[64];
    (void)state;
    for (size_t i = 0; i < DR_COUNT(images); i++) {
        const char *way = dr_fid_resize_word(images[i].way);
        real *x = image_of(&images[i]);
        snprintf(name, sizeof name, "resized.%s", way);
        compare_pixels(f, name, x);
        free(x);
        x = resized("image.large", images[i].way, 331, 350, 3);
        snprintf(name, sizeof name, "large.%s", way);
        compare_pixels(f, name, x);
        free(x);
    }
    dr_st_close(f);
}

// torchvision's variant with the convolutions of `from` and a classifier of its own.
static struct dr_snapshot *plain_of(const struct dr_snapshot *from) {
    struct dr_inception_config c = dr_inception_defaults();
    struct dr_err err = {0};
    struct dr_net *net;
    c.variant = DR_INCEPTION_TORCHVISION;
    c.classes = 1000;
    if (dr_inception_create(&c, &net, &err))
        fail_msg("%s", err.msg);
    const struct dr_params *to = dr_net_params(net), *old = dr_net_params(from->net);
    real *w = calloc((size_t)to->total, sizeof *w);
    assert_non_null(w);
    for (int i = 0; i < to->n; i++) {
        const struct dr_param *p = &to->p[i], *q = &old->p[dr_params_find(old, p->name)];
        for (int64_t k = 0; k < p->count; k++)
            w[p->offset + k] = strncmp(p->name, "fc.", 3)
                                   ? from->weights[q->offset + k]
                                   : rule_weight(p->name, p->ndim, p->count / p->dim[0], k);
    }
    return dr_snapshot_new(net, w, 0);
}

static struct dr_snapshot *read_back(void) {
    char path[] = "/tmp/driftd-inception-XXXXXX";
    struct dr_err err = {0};
    struct dr_net *net;
    struct dr_snapshot *s;
    const struct dr_inception_config c = dr_inception_defaults();
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    if (dr_inception_create(&c, &net, &err))
        fail_msg("%s", err.msg);
    rule_write(path, net, &(struct rule_file){0});
    const int rc = dr_snapshot_load(path, NULL, &s, &err);
    unlink(path);
    if (rc)
        fail_msg("%s", err.msg);
    assert_true(dr_net_same(s->net, net));
    dr_net_free(net);
    return s;
}

static void compare_outputs(const struct dr_st_file *f, const char *variant, enum dr_fid_resize way,
                            const real *pooled, const real *logits, int64_t classes) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s.pooled", variant, dr_fid_resize_word(way));
    agree(f, name, pooled, WIDTH);
    snprintf(name, sizeof name, "%s.%s.logits", variant, dr_fid_resize_word(way));
    agree(f, name, logits, classes);
}

static void networks_agree(void **state) {
    enum { N = DR_COUNT(images), CLASSES = DR_INCEPTION_CLASSES };
    static real x[N * INPUT], pooled[N * WIDTH], logits[N * CLASSES], unbiased[N * CLASSES];
    real *y[DR_NET_OUTPUTS] = {logits, pooled, unbiased};
    struct dr_st_file *f = vectors();
    struct dr_snapshot *s = read_back(), *plain = plain_of(s);
    struct dr_backend *be;
    struct dr_encode *e;
    struct dr_err err = {0};
    (void)state;
    for (int i = 0; i < (int)N; i++) {
        real *one = image_of(&images[i]);
        memcpy(x + (int64_t)i * INPUT, one, sizeof(real) * INPUT);
        free(one);
    }
    if (dr_backend_open("cpu", 2, &be, &err))
        fail_msg("%s", err.msg);
    dr_backend_enter(be);
    if (dr_encode_create(be, DR_FP32, N, &e, &err) || dr_encode_run(e, s, x, N, y, &err))
        fail_msg("%s", err.msg);
    for (int i = 0; i < (int)N; i++)
        compare_outputs(f, "fid", images[i].way, pooled + (int64_t)i * WIDTH,
                        logits + (int64_t)i * CLASSES, CLASSES);
    const struct dr_params *ps = dr_net_params(s->net);
    const real *bias = s->weights + ps->p[dr_params_find(ps, "fc.bias")].offset;
    for (int i = 0; i < (int)N * CLASSES; i++)
        assert_true(fabs(unbiased[i] + bias[i % CLASSES] - logits[i]) < 1e-4);
    if (dr_encode_run(e, plain, x, 1, y, &err))
        fail_msg("%s", err.msg);
    compare_outputs(f, "torchvision", DR_FID_CLEAN, pooled, logits, 1000);
    dr_encode_free(e);
    dr_backend_free(be);
    dr_snapshot_unref(plain);
    dr_snapshot_unref(s);
    dr_st_close(f);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(resizes_agree),
                                       cmocka_unit_test(networks_agree)};
    folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests_name("golden inception", tests, NULL, NULL);
}
