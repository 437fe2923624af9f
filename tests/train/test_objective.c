// A second objective in one file, on the same loop as the drifting one: least squares of a linear
// classifier. It trains, reports metrics of its own, and resumes exactly, its position in the data
// included.
#include "tests/train/util.h"

#include "engine/train/objective.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 40 };

struct linear {
    const struct dr_config *cfg;
    const struct dr_dataset *data;
    struct dr_backend *be;
    struct dr_params layout;
    int w, b;
    int64_t image, classes, chunk;
    int64_t next; // row of the data set that the next step begins with
    struct {
        int64_t *ids;
        real *target; // [BATCH, classes], 1 at the label
    } in[TRAINER_PLACES];
    real *x; // [BATCH, image]
};

static int dry_passes, passes; // of device_step

static int create(const struct dr_objective_env *env, void **o, struct dr_err *err) {
    struct linear *t = *o = calloc(1, sizeof *t);
    if (!t)
        return dr_fail(err, DR_ENOMEM, "out of memory");
    *t = (struct linear){.cfg = env->cfg, .data = env->data, .be = env->be};
    t->image = env->data->c * env->data->h * env->data->w;
    t->classes = env->data->classes;
    t->w = dr_params_add(&t->layout, DR_PARAM_DECAY, DR_INIT_XAVIER, 0, 2,
                         (int64_t[]){t->classes, t->image}, "linear.weight");
    t->b = dr_params_add(&t->layout, 0, DR_INIT_ZERO, 0, 1, &t->classes, "linear.bias");
    dr_params_finish(&t->layout);
    return 0;
}
static void destroy(void *o) {
    if (o)
        dr_params_free(&((struct linear *)o)->layout);
    free(o);
}
static int groups(const void *o, struct dr_group out[TRAINER_GROUPS]) {
    const struct linear *t = o;
    out[0] = (struct dr_group){.name = "", .layout = &t->layout, .learning_rate = 1};
    return 1;
}

enum { ACCURACY, LOSS, GRAD_NORM, LR, SECONDS };
static const struct dr_metric_def *metrics(const void *o, int *n) {
    static const struct dr_metric_def defs[] = {
        [ACCURACY] = {"accuracy", "", "share of the batch that is recognised", DR_METRIC_LINEAR},
        [LOSS] = {"loss", "", "mean square error", DR_METRIC_LOG},
        [GRAD_NORM] = {"grad_norm", "", "norm of the gradient", DR_METRIC_LOG},
        [LR] = {"lr", "", "learning rate", DR_METRIC_LINEAR},
        [SECONDS] = {"step_seconds", "s", "time of a step", DR_METRIC_LINEAR},
    };
    (void)o;
    *n = DR_COUNT(defs);
    return defs;
}

static int64_t report_count(const void *o) { // outputs minus targets
    return BATCH * ((const struct linear *)o)->classes;
}
static int64_t batch(const void *o) {
    (void)o;
    return BATCH;
}
static int cut(void *o, int64_t chunk, struct dr_err *err) {
    (void)err;
    ((struct linear *)o)->chunk = chunk;
    return 0;
}
static void lay_out(void *o, struct dr_arena *a) {
    struct linear *t = o;
    t->x = dr_alloc(a, (size_t)(BATCH * t->image) * sizeof(real));
}
static void lay_out_inputs(void *o, int place, struct dr_arena *a) {
    struct linear *t = o;
    t->in[place].ids = dr_alloc(a, BATCH * sizeof(int64_t));
    t->in[place].target = dr_alloc(a, (size_t)(BATCH * t->classes) * sizeof(real));
}
static int start(void *o, struct dr_err *err) {
    (void)o;
    (void)err;
    return 0;
}

static int draw(void *o, int64_t done, int slot, struct dr_err *err) {
    struct linear *t = o;
    (void)done;
    (void)err;
    memset(t->in[slot].target, 0, (size_t)(BATCH * t->classes) * sizeof(real));
    for (int64_t i = 0; i < BATCH; i++, t->next = (t->next + 1) % t->data->n) {
        t->in[slot].ids[i] = t->next;
        t->in[slot].target[i * t->classes + t->data->label[t->next]] = 1;
    }
    return 0;
}

static void device_step(void *o, struct dr_ctx *cx, const struct dr_step *s) {
    struct linear *t = o;
    const struct dr_weights *w = &s->group[0].gradients;
    const int64_t wo = t->layout.p[t->w].offset, bo = t->layout.p[t->b].offset, k = t->classes;
    const real norm = (real)(1 / sqrt((double)(BATCH * k)));
    ++*(strcmp(cx->be->name, "null") ? &passes : &dry_passes);
    DR_OP(cx->be, gather, .dst = t->x, .pixels = t->data->pixels, .idx = t->in[TRAINER_DEVICE].ids,
          .n = BATCH, .count = t->image);
    for (int64_t at = 0; at < BATCH; at += t->chunk) {
        const int64_t n = DR_MIN(t->chunk, BATCH - at);
        const size_t mark = dr_mark(cx->tmp);
        const real *x = t->x + at * t->image;
        real *e = s->report + at * k, *d = dr_alloc(cx->tmp, (size_t)(n * k) * sizeof(real));
        DR_OP(cx->be, gemm, .m = n, .n = k, .k = t->image, .a = x, .b = w->w + wo, .c = e,
              .lda = t->image, .ldb = t->image, .ldc = k, .tb = true, .bias = w->w + bo);
        DR_OP(cx->be, axpy, .y = e, .x = t->in[TRAINER_DEVICE].target + at * k, .n = n * k,
              .alpha = -1);
        DR_OP(cx->be, fill, .dst = d, .n = n * k, .value = 0);
        DR_OP(cx->be, axpy, .y = d, .x = e, .n = n * k, .alpha = norm);
        DR_OP(cx->be, sumsq, .out = s->loss, .x = d, .n = n * k, .acc = true);
        DR_OP(cx->be, axpy, .y = d, .x = d, .n = n * k, .alpha = 2 * norm - 1); // 2 e / (batch k)
        DR_OP(cx->be, gemm, .m = k, .n = t->image, .k = n, .a = d, .b = x, .c = w->g + wo, .lda = k,
              .ldb = t->image, .ldc = t->image, .ta = true, .acc = true);
        DR_OP(cx->be, colsum, .out = w->g + bo, .x = d, .m = n, .n = k, .acc = true);
        dr_release(cx->tmp, mark);
    }
}

static void read_report(void *o, int slot, const real *report, bool ok, struct dr_metrics *m) {
    const struct linear *t = o;
    int right = 0;
    (void)ok;
    for (int64_t i = 0; i < BATCH; i++) {
        const real *target = t->in[slot].target + i * t->classes, *e = report + i * t->classes;
        int64_t best = 0;
        for (int64_t c = 1; c < t->classes; c++)
            if (e[c] + target[c] > e[best] + target[best])
                best = c;
        right += target[best] > 0;
    }
    dr_metric_set(m, ACCURACY, (double)right / BATCH);
}

static size_t state_size(const void *o) {
    (void)o;
    return sizeof(int64_t);
}
static void state_get(const void *o, void *out) {
    memcpy(out, &((const struct linear *)o)->next, sizeof(int64_t));
}
static int state_set(void *o, const void *in, size_t bytes, struct dr_err *err) {
    (void)err;
    memcpy(&((struct linear *)o)->next, in, bytes);
    return 0;
}

static const struct dr_objective least_squares = {
    .name = "least-squares",
    .create = create,
    .destroy = destroy,
    .groups = groups,
    .metrics = metrics,
    .report_count = report_count,
    .batch = batch,
    .cut = cut,
    .lay_out = lay_out,
    .lay_out_inputs = lay_out_inputs,
    .start = start,
    .draw = draw,
    .device_step = device_step,
    .read = read_report,
    .state_name = "test/position",
    .state_size = state_size,
    .state_get = state_get,
    .state_set = state_set,
};

// ---- tests

static void configure(struct dr_config *c) {
    struct dr_err err = {0};
    config_of(c, tiny_digits);
    c->optim.lr = 3e-3;
    c->train.steps = 400;
    if (dr_config_set(c, "ema.decay=[0.9, 0.99]", &err))
        fail_msg("%s", err.msg);
}

static void it_trains_on_the_loop(void **state) {
    (void)state;
    struct dr_config c;
    struct run r;
    double loss[150];
    configure(&c);
    dry_passes = passes = 0;
    run_open_of(&r, &c, &(struct dr_trainer_parts){.objective = &least_squares});
    assert_int_equal(dry_passes, 1);
    assert_int_equal(passes, 0);
    struct dr_metrics m = run_steps(&r, 150, loss);
    int n;
    dr_trainer_metrics(r.t, &n);
    assert_int_equal(n, 5);
    assert_int_equal(m.n, 5);
    print_message("loss %.4f -> %.4f, accuracy %.3f\n", loss[0], loss[149],
                  dr_metric(r.t, &m, "accuracy"));
    assert_true(loss[149] < loss[0] / 4);
    assert_true(dr_metric(r.t, &m, "accuracy") > 0.8);
    assert_true(dr_metric(r.t, &m, "loss") == loss[149]);
    assert_true(isnan(dr_metric(r.t, &m, "drift_norm")));
    assert_null(dr_trainer_snapshot(r.t, 0));
    assert_null(dr_trainer_field(r.t));
    run_close(&r);
}

static void it_resumes_exactly(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    double whole[12], tail[6];
    const char *path = scratch_path("objective.safetensors");
    configure(&c);
    const struct dr_trainer_parts parts = {.objective = &least_squares};
    run_open_of(&r, &c, &parts);
    run_steps(&r, 6, whole);
    if (dr_trainer_save(r.t, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 6, whole + 6);
    run_close(&r);
    run_open_of(&r, &c, &parts);
    run_steps(&r, 1, NULL); // was elsewhere
    if (dr_trainer_load(r.t, path, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(dr_trainer_steps_done(r.t), 6);
    run_steps(&r, 6, tail);
    assert_memory_equal(whole + 6, tail, sizeof tail);
    run_close(&r);
    // Neither objective takes the other's files.
    run_open(&r, &c);
    assert_int_equal(dr_trainer_load(r.t, path, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "objective least-squares, this run's is drift"));
    run_steps(&r, 1, NULL);
    assert_int_equal(dr_trainer_save(r.t, path, NULL, NULL, &err), 0);
    run_close(&r);
    run_open_of(&r, &c, &parts);
    assert_int_equal(dr_trainer_load(r.t, path, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "objective drift, this run's is least-squares"));
    run_close(&r);
    unlink(path);
}

static void the_table_knows_the_drift(void **state) {
    (void)state;
    assert_ptr_equal(dr_objective_find("drift"), &dr_objective_drift);
    assert_null(dr_objective_find("least-squares"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_trains_on_the_loop),
        cmocka_unit_test(it_resumes_exactly),
        cmocka_unit_test(the_table_knows_the_drift),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
