// Two processes, played by two threads with a process group between them, train what one does: the
// draw is cut at whole classes, sums over the groups cross the group before they become ratios, and
// the weights stay the same bytes on both.
#include "tests/train/util.h"

#include "engine/train/objective.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS = 2, STEPS = 6 };

// ---- a process group of threads over host memory

struct meeting {
    pthread_barrier_t barrier;
    void *x[RANKS], *sum;
    long calls;
};

static void add(struct meeting *m, int64_t n, enum dr_comm_type type) {
    m->sum = realloc(m->sum, (size_t)n * sizeof(double));
    for (int64_t i = 0; i < n; i++)
        if (type == DR_COMM_DOUBLE)
            ((double *)m->sum)[i] = ((double *)m->x[0])[i] + ((double *)m->x[1])[i];
        else
            ((real *)m->sum)[i] = ((real *)m->x[0])[i] + ((real *)m->x[1])[i];
    m->calls++;
}

static void allreduce_sum(struct dr_comm *c, struct dr_backend *be, void *x, int64_t n,
                          enum dr_comm_type type) {
    struct meeting *m = c->impl;
    const size_t bytes = (size_t)n * (type == DR_COMM_DOUBLE ? sizeof(double) : sizeof(real));
    assert(be->host_memory);
    m->x[c->rank] = x;
    pthread_barrier_wait(&m->barrier);
    if (!c->rank)
        add(m, n, type);
    pthread_barrier_wait(&m->barrier);
    memcpy(x, m->sum, bytes);
    pthread_barrier_wait(&m->barrier);
}

static void broadcast(struct dr_comm *c, struct dr_backend *be, void *x, size_t bytes) {
    struct meeting *m = c->impl;
    assert(be->host_memory);
    m->x[c->rank] = x;
    pthread_barrier_wait(&m->barrier);
    if (c->rank)
        memcpy(x, m->x[0], bytes);
    pthread_barrier_wait(&m->barrier);
}

// ---- runs

struct process {
    const struct dr_config *cfg;
    struct dr_comm comm;
    struct dr_metrics m[STEPS];
    real *weights;
    int64_t total;
    real x[2];
};

static void train(struct process *p, struct dr_comm *comm) {
    struct dr_err err = {0};
    struct run r;
    run_open_of(&r, p->cfg, &(struct dr_trainer_parts){.comm = comm});
    for (int i = 0; i < STEPS; i++)
        if (dr_trainer_step(r.t, &p->m[i], &err))
            abort();
    struct dr_snapshot *s = dr_trainer_snapshot(r.t, 0);
    p->total = dr_net_params(s->net)->total;
    p->weights = malloc((size_t)p->total * sizeof(real));
    memcpy(p->weights, s->weights, (size_t)p->total * sizeof(real));
    dr_snapshot_unref(s);
    run_close(&r);
}

static void *process_main(void *arg) {
    struct process *p = arg;
    p->comm.broadcast(&p->comm, &(struct dr_backend){.host_memory = true}, p->x, sizeof p->x);
    train(p, &p->comm);
    return NULL;
}

static void near(const char *what, int step, double got, double want, double tol) {
    if (!(fabs(got - want) <= tol * fabs(want)))
        fail_msg("%s of step %d: %.9g with two processes, %.9g with one", what, step, got, want);
}

static void two_train_like_one(const struct dr_config *c) {
    struct meeting m = {0};
    struct process one = {.cfg = c}, p[RANKS];
    pthread_t thread[RANKS];
    train(&one, NULL);
    pthread_barrier_init(&m.barrier, NULL, RANKS);
    for (int i = 0; i < RANKS; i++) {
        p[i] = (struct process){.cfg = c,
                                .comm = {.rank = i,
                                         .size = RANKS,
                                         .impl = &m,
                                         .allreduce_sum = allreduce_sum,
                                         .broadcast = broadcast},
                                .x = {(real)i, (real)i}};
        pthread_create(&thread[i], NULL, process_main, &p[i]);
    }
    for (int i = 0; i < RANKS; i++)
        pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&m.barrier);
    assert_true(p[1].x[0] == 0 && p[1].x[1] == 0); // as rank 0 has it
    assert_true(m.calls > STEPS * 3);
    assert_memory_equal(p[0].weights, p[1].weights, (size_t)one.total * sizeof(real));
    for (int i = 0; i < STEPS; i++) {
        assert_memory_equal(&p[0].m[i].loss, &p[1].m[i].loss, sizeof(double));
        near("loss", i + 1, p[0].m[i].loss, one.m[i].loss, 1e-4);
        near("gradient norm", i + 1, p[0].m[i].grad_norm, one.m[i].grad_norm, 1e-3);
        near("scale", i + 1, p[0].m[i].feature_scale, one.m[i].feature_scale, 1e-5);
        near("alpha", i + 1, p[1].m[i].alpha_mean, one.m[i].alpha_mean, 1e-12);
        for (int k = 0; k < c->loss.ntau; k++)
            near("drift norm", i + 1, p[0].m[i].drift_norm[k], one.m[i].drift_norm[k], 1e-3);
    }
    for (int i = 0; i < RANKS; i++)
        free(p[i].weights);
    free(one.weights);
    free(m.sum);
}

// Seven classes of ten do not divide by two: the processes have different shares.
static void kernel(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    const char *const set[] = {"train.classes=7",       "train.queue_class=20",
                               "train.sampler=queue",   "features.quadrants=true",
                               "features.norm=sphere",  "features.rms=0.1",
                               "metrics.spread_every=0"};
    if (dr_config_set_all(&c, set, DR_COUNT(set), &err))
        fail_msg("%s", err.msg);
    two_train_like_one(&c);
    assert_int_equal(dr_config_set(&c, "loss.negatives=independent", &err), 0);
    two_train_like_one(&c);
}

static void kernel_l2(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    const char *const set[] = {"train.unconditional=0", "loss.field=kernel-l2",
                               "features.quadrants=true", "metrics.spread_every=0"};
    if (dr_config_set_all(&c, set, DR_COUNT(set), &err))
        fail_msg("%s", err.msg);
    two_train_like_one(&c);
}

// Sums of an encoder's gradients and of its objective cross the processes as well.
static void kde(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    const char *const set[] = {"features.kind=kde", "features.kde_width=4", "features.kde_lr=5",
                               "features.quadrants=true", "metrics.spread_every=0"};
    if (dr_config_set_all(&c, set, DR_COUNT(set), &err))
        fail_msg("%s", err.msg);
    two_train_like_one(&c);
}

static void learned(void **state) {
    (void)state;
    static const char *const objective[] = {"loss.ldf_objective=denoise", "loss.ldf_objective=nce"};
    for (int k = 0; k < 2; k++) {
        struct dr_config c;
        struct dr_err err = {0};
        config_of(&c, tiny_digits);
        const char *const set[] = {"loss.field=learned",        "loss.ldf_hidden_dim=12",
                                   "loss.ldf_projection_dim=8", "loss.ldf_score_hidden_dim=16",
                                   "features.quadrants=true",   objective[k],
                                   "metrics.spread_every=0"};
        if (dr_config_set_all(&c, set, DR_COUNT(set), &err))
            fail_msg("%s", err.msg);
        two_train_like_one(&c);
    }
}

static void more_processes_than_classes_are_refused(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    struct dr_comm comm = {.rank = 0, .size = 11};
    struct dr_trainer *t;
    config_of(&c, tiny_digits);
    run_open(&r, &c);
    assert_int_equal(
        dr_trainer_create_of(&(struct dr_trainer_parts){.comm = &comm}, &c, r.be, r.data, &t, &err),
        DR_ECONFIG);
    assert_non_null(strstr(err.msg, "10 classes does not fill 11 processes"));
    run_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernel),
        cmocka_unit_test(kernel_l2),
        cmocka_unit_test(kde),
        cmocka_unit_test(learned),
        cmocka_unit_test(more_processes_than_classes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
