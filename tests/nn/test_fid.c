// FID from end to end with a small Inception: a data set judged through its resizes, against the
// mathematics on features that were taken by hand; and the Inception score of its logits.
#include "engine/drift.h"
#include "engine/eval/fid_input.h"
#include "engine/eval/metrics.h"
#include "engine/nn/inception.h"
#include "engine/nn/params.h"
#include "engine/sample/encode.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CLASSES = 7, WIDTH = 128, SIDE = 75, IMAGE = 3 * SIDE * SIDE };

static struct dr_snapshot *small_inception(void) {
    static const char json[] = "{\"arch\":\"inception\",\"size\":75,\"narrow\":16,\"classes\":7}";
    struct dr_err err = {0};
    struct dr_net *net;
    if (dr_net_parse(json, strlen(json), NULL, &net, &err))
        fail_msg("%s", err.msg);
    const struct dr_params *ps = dr_net_params(net);
    real *w = calloc((size_t)ps->total, sizeof *w);
    assert_non_null(w);
    dr_params_init(ps, 11, w);
    const struct dr_param *fc = &ps->p[dr_params_find(ps, "fc.weight")];
    for (int64_t i = 0; i < fc->count; i++) // so that classes differ
        w[fc->offset + i] *= 500;
    for (int64_t i = 0; i < CLASSES; i++)
        w[ps->p[dr_params_find(ps, "fc.bias")].offset + i] = (real)i;
    return dr_snapshot_new(net, w, 0);
}

static struct dr_dataset *digits(bool test, int64_t count) {
    struct dr_err err = {0};
    struct dr_config c;
    struct dr_dataset *d;
    dr_config_defaults(&c);
    c.data.set = DR_DATA_DIGITS;
    c.data.size = 12;
    c.data.count = count;
    if (dr_dataset_load(&c.data, NULL, test, &d, &err))
        fail_msg("%s", err.msg);
    return d;
}

struct taken {
    real *pooled, *unbiased;
    int64_t n;
};

static struct taken take(struct dr_backend *be, struct dr_snapshot *s, const struct dr_dataset *d,
                         enum dr_fid_resize way) {
    const int64_t n = d->n, in = d->c * d->h * d->w;
    struct taken t = {calloc((size_t)(n * WIDTH), sizeof(real)),
                      calloc((size_t)(n * CLASSES), sizeof(real)), n};
    real *x = malloc((size_t)(n * in) * sizeof *x), *big = malloc((size_t)(n * IMAGE) * sizeof *x);
    int64_t *id = malloc((size_t)n * sizeof *id);
    real *y[DR_NET_OUTPUTS] = {NULL, t.pooled, t.unbiased};
    struct dr_err err = {0};
    struct dr_encode *e;
    assert_true(t.pooled && t.unbiased && x && big && id);
    for (int64_t i = 0; i < n; i++)
        id[i] = i;
    if (dr_dataset_reals(d, id, n, x, &err) ||
        dr_fid_input(way, x, n, d->c, d->h, d->w, SIDE, 1, big, &err) ||
        dr_encode_create(be, DR_FP32, 8, &e, &err) || dr_encode_run(e, s, big, n, y, &err))
        fail_msg("%s", err.msg);
    dr_encode_free(e);
    free(x);
    free(big);
    free(id);
    return t;
}

static double distance(const struct taken *a, const struct taken *b) {
    struct dr_moments *m[2];
    struct dr_err err = {0};
    double fd = 0;
    for (int i = 0; i < 2; i++) {
        if (dr_moments_create(WIDTH, &m[i], &err))
            fail_msg("%s", err.msg);
        dr_moments_add(m[i], i ? b->pooled : a->pooled, i ? b->n : a->n);
    }
    if (dr_frechet(m[0], m[1], &fd, &err))
        fail_msg("%s", err.msg);
    dr_moments_free(m[0]);
    dr_moments_free(m[1]);
    return fd;
}

static double score(const struct taken *t) {
    double p[CLASSES], sum[CLASSES] = {0}, plogp = 0;
    struct dr_estimate out;
    struct dr_err err = {0};
    for (int64_t i = 0; i < t->n; i++) {
        dr_softmax(t->unbiased + i * CLASSES, CLASSES, p);
        for (int c = 0; c < CLASSES; c++) {
            sum[c] += p[c];
            plogp += p[c] > 0 ? p[c] * log(p[c]) : 0;
        }
    }
    if (dr_inception_score(1, CLASSES, sum, &plogp, &t->n, &out, &err))
        fail_msg("%s", err.msg);
    return out.value;
}

// By the evaluation.
static struct dr_eval_result evaluate(struct dr_backend *be, struct dr_snapshot *s,
                                      enum dr_fid_resize way, const struct dr_dataset *reals,
                                      const struct dr_dataset *images, char key[33]) {
    const struct dr_eval_judge judge = {.snap = s, .resize = (int)way};
    struct dr_eval_config c;
    struct dr_eval_source *source;
    struct dr_eval_ref *ref;
    struct dr_eval *e;
    struct dr_eval_result r;
    struct dr_err err = {0};
    bool done = false;
    dr_eval_defaults(&c);
    c.n = images->n;
    c.is_splits = 1;
    if (dr_eval_metrics_parse("fd,is", &c.metrics, &err) ||
        dr_eval_ref_create(be, &c, &judge, reals, images, &ref, &err))
        fail_msg("%s", err.msg);
    while (!done)
        if (dr_eval_ref_advance(ref, 100, &done, &err))
            fail_msg("%s", err.msg);
    if (dr_eval_source_dataset(images, 0, &source, &err) ||
        dr_eval_create(source, &ref, 1, &e, &err))
        fail_msg("%s", err.msg);
    for (done = false; !done;)
        if (dr_eval_advance(e, 100, &done, &err))
            fail_msg("%s", err.msg);
    if (dr_eval_result(e, 0, &r, &err))
        fail_msg("%s", err.msg);
    snprintf(key, 33, "%s", dr_eval_ref_key(ref));
    dr_eval_free(e);
    dr_eval_source_free(source);
    dr_eval_ref_free(ref);
    return r;
}

static void agrees_with_features_taken_by_hand(void **state) {
    struct dr_snapshot *s = small_inception();
    struct dr_dataset *reals = digits(false, 60), *images = digits(true, 60);
    struct dr_backend *be;
    struct dr_err err = {0};
    char key[DR_FID_RESIZES][33];
    double fd[DR_FID_RESIZES];
    (void)state;
    if (dr_backend_open("cpu", 2, &be, &err))
        fail_msg("%s", err.msg);
    dr_backend_enter(be);
    for (int way = 0; way < DR_FID_RESIZES; way++) {
        struct taken a = take(be, s, reals, way), b = take(be, s, images, way);
        const struct dr_eval_result r = evaluate(be, s, way, reals, images, key[way]);
        const double is = score(&b), want = distance(&a, &b);
        fd[way] = r.metric[DR_EVAL_FD].value;
        print_message("  %-18s fd %.6g, is %.6g\n", dr_fid_resize_word(way), fd[way], is);
        assert_true(fabs(fd[way] - want) <= 1e-6 * want);
        assert_true(fabs(r.metric[DR_EVAL_IS].value - is) <= 1e-6 * is);
        free(a.pooled);
        free(a.unbiased);
        free(b.pooled);
        free(b.unbiased);
    }
    // One resize's reference never serves another's samples.
    for (int way = 1; way < DR_FID_RESIZES; way++) {
        assert_string_not_equal(key[way], key[0]);
        assert_true(fd[way] != fd[0]);
    }
    dr_backend_free(be);
    dr_snapshot_unref(s);
    dr_dataset_free(reals);
    dr_dataset_free(images);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_features_taken_by_hand)};
    return cmocka_run_group_tests_name("fid", tests, NULL, NULL);
}
