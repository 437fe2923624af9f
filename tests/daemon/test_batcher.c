// The batcher on a tiny model, with the api's side of a ticket faked: the same request gives the
// same bytes alone, among others, under load and with another number of threads; limits and
// refusals.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"
#include "daemon/generate/batcher.h"
#include "daemon/jobs/runner.h"
#include "daemon/store/checkpoints.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// --- the api's side ---

struct api_gen {
    struct api_gen_request req;
    struct api_gen_result res;
    struct api_problem problem;
    atomic_bool gone;
    atomic_int done; // 1 complete, 2 failed, 3 abandoned
};
const struct api_gen_request *api_gen_request(const struct api_gen *g) {
    return &g->req;
}
bool api_gen_abandoned(struct api_gen *g) {
    return atomic_load(&g->gone);
}
void api_gen_complete(struct api_gen *g, const struct api_gen_result *result) {
    g->res = *result;
    atomic_store(&g->done, 1);
}
void api_gen_fail(struct api_gen *g, const struct api_problem *problem) {
    if (problem)
        g->problem = *problem;
    atomic_store(&g->done, problem ? 2 : 3);
}
int api_problem_set(struct api_problem *p, int status, const char *type, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    *p = (struct api_problem){.status = status};
    snprintf(p->type, sizeof p->type, "%s", type);
    vsnprintf(p->detail, sizeof p->detail, fmt, ap);
    va_end(ap);
    return -1;
}

// --- fixtures ---

static struct world w;
static struct dd_batcher *b;
static struct dr_err err;
static int64_t ckpt[2]; // two imported models

static void restart(int threads, int max_batch, int max_queue) {
    dd_batcher_stop(b);
    w.opt.generate_threads = threads;
    w.opt.max_batch = max_batch;
    w.opt.max_queue = max_queue;
    struct dd_batcher_env env = {&w.opt, w.store, w.live, w.models};
    if (dd_batcher_start(&env, &b, &err))
        fail_msg("%s", err.msg);
}

static void make_model(int which) {
    struct dr_config c;
    struct dd_run_result res;
    struct dd_run_hooks hooks = {0};
    struct dd_ckpt_row row;
    char dir[300];
    test_tiny(&c, 5);
    c.train.seed = which;
    snprintf(dir, sizeof dir, "%s/run%d", w.dir, which);
    struct dd_run_spec spec = {.cfg = &c,
                               .data_dir = w.dir,
                               .device = "cpu",
                               .checkpoint_dir = dir,
                               .id = "test",
                               .threads = 1};
    assert_int_equal(dd_run(&spec, &hooks, &res, &err), 0);
    assert_int_equal(dd_ckpt_import(w.store,
                                    &(struct dd_ckpt_source){.path = res.last_good, .name = "m"},
                                    &row, &err),
                     0);
    ckpt[which] = strtoll(row.id, NULL, 10);
    dd_ckpt_row_free(&row);
}

static int setup(void **state) {
    (void)state;
    world_open(&w, NULL);
    make_model(0);
    make_model(1);
    restart(1, 16, 64);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    dd_batcher_stop(b);
    b = NULL;
    world_close(&w);
    test_rmdir(w.dir);
    return 0;
}

// n images of one class (-1: random) and scale.
static struct api_gen *ticket(const char *checkpoint, uint64_t seed, int n, int label, double cfg,
                              enum api_format format) {
    struct api_gen *g = dd_xcalloc(1, sizeof *g);
    g->req = (struct api_gen_request){.n = n,
                                      .seed = seed,
                                      .cols = n,
                                      .rows = 1,
                                      .scale = 1,
                                      .format = format,
                                      .received_ns = (uint64_t)dd_now_ns()};
    snprintf(g->req.checkpoint, sizeof g->req.checkpoint, "%s", checkpoint);
    g->req.images = dd_xcalloc((size_t)n, sizeof *g->req.images);
    for (int i = 0; i < n; i++)
        g->req.images[i] =
            (struct api_gen_image){.label = label, .cfg = (float)cfg, .index = (uint32_t)i};
    return g;
}
static void ticket_free(struct api_gen *g) {
    free(g->req.images);
    free(g->res.bytes);
    free(g);
}
static void submit(struct api_gen *g) {
    struct api_problem p = {0};
    if (dd_batcher_submit(b, g, &p))
        fail_msg("%d %s", p.status, p.detail);
}
static int wait_done(struct api_gen *g) {
    for (int i = 0; i < 90000 && !atomic_load(&g->done); i++)
        usleep(1000);
    return atomic_load(&g->done);
}
static struct api_gen *run(const char *checkpoint, uint64_t seed, int n, int label, double cfg,
                           enum api_format format) {
    struct api_gen *g = ticket(checkpoint, seed, n, label, cfg, format);
    submit(g);
    if (wait_done(g) != 1)
        fail_msg("%d %s", g->problem.status, g->problem.detail);
    return g;
}
static void same(const struct api_gen *a, const struct api_gen *c) {
    assert_int_equal(a->res.size, c->res.size);
    assert_memory_equal(a->res.bytes, c->res.bytes, a->res.size);
}

// --- tests ---

static void test_same_bytes(void **state) {
    (void)state;
    enum { OTHERS = 12 };
    struct api_gen *alone[3], *other[OTHERS], *g;
    static const enum api_format formats[] = {API_PNG, API_NPY, API_JSON};
    for (int f = 0; f < 3; f++)
        alone[f] = run("latest", 42, 5, -1, 1.5, formats[f]);
    assert_memory_equal(alone[0]->res.bytes, "\x89PNG", 4);
    assert_memory_equal(alone[1]->res.bytes, "\x93NUMPY", 6);
    assert_int_equal(alone[0]->res.batch_size, 5);
    // In the middle of others: classes, scales and seeds mixed; batches are cut anywhere.
    for (int threads = 1; threads <= 3; threads++) {
        restart(threads, threads == 2 ? 7 : 16, 1000);
        for (int i = 0; i < OTHERS; i++)
            submit(other[i] =
                       ticket("latest", (uint64_t)i, 1 + i % 4, i % 3 - 1, 1 + i * 0.1, API_PNG));
        g = ticket("latest", 42, 5, -1, 1.5, formats[threads - 1]);
        submit(g);
        for (int i = 0; i < OTHERS; i++) {
            assert_int_equal(wait_done(other[i]), 1);
            ticket_free(other[i]);
        }
        assert_int_equal(wait_done(g), 1);
        same(alone[threads - 1], g);
        ticket_free(g);
    }
    // One request for many images: split over batches, the same as in one.
    struct api_gen *whole, *cut;
    restart(1, 64, 1000);
    whole = run("latest", 7, 50, 1, 2, API_NPY);
    assert_int_equal(whole->res.batch_size, 50);
    restart(2, 8, 1000);
    cut = run("latest", 7, 50, 1, 2, API_NPY);
    assert_int_equal(cut->res.batch_size, 8);
    same(whole, cut);
    // Sample k depends on (seed, k) alone: the first five of fifty are those of five.
    g = run("latest", 7, 5, 1, 2, API_NPY);
    size_t image = (g->res.size - 128) / 5;
    assert_memory_equal((char *)g->res.bytes + 128, (char *)whole->res.bytes + 128, 5 * image);
    ticket_free(g);
    ticket_free(whole);
    ticket_free(cut);
    for (int f = 0; f < 3; f++)
        ticket_free(alone[f]);
}

static void test_two_models(void **state) {
    (void)state;
    struct api_gen *a[2], *m[8];
    char id[2][24];
    for (int i = 0; i < 2; i++) {
        snprintf(id[i], sizeof id[i], "%lld", (long long)ckpt[i]);
        a[i] = run(id[i], 3, 2, 1, 1, API_NPY);
        assert_string_equal(a[i]->res.checkpoint, id[i]);
        assert_int_equal(a[i]->res.step, 5);
    }
    assert_memory_not_equal(a[0]->res.bytes, a[1]->res.bytes, a[0]->res.size);
    for (int i = 0; i < 8; i++)
        submit(m[i] = ticket(id[i % 2], 3, 2, 1, 1, API_NPY));
    for (int i = 0; i < 8; i++) {
        assert_int_equal(wait_done(m[i]), 1);
        same(a[i % 2], m[i]);
        ticket_free(m[i]);
    }
    // Activation swaps what `live` is.
    for (int i = 0; i < 2; i++) {
        assert_int_equal(dd_ckpt_activate(w.store, ckpt[i], &err), 0);
        struct api_gen *g = run("live", 3, 2, 1, 1, API_NPY);
        same(a[i], g);
        ticket_free(g);
        ticket_free(a[i]);
    }
}

static void test_formats(void **state) {
    (void)state;
    struct api_gen *g = run("latest", 9, 3, 2, 1.25, API_JSON);
    json_t *j = json_loadb(g->res.bytes, g->res.size, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(j, "seed")), 9);
    assert_int_equal(json_array_size(json_object_get(j, "images")), 3);
    json_t *im = json_array_get(json_object_get(j, "images"), 2);
    assert_int_equal(json_integer_value(json_object_get(im, "class")), 2);
    assert_int_equal(strncmp(json_string_value(json_object_get(im, "png")), "iVBORw0KGgo", 11), 0);
    json_decref(j);
    ticket_free(g);
    g = run("latest", 9, 3, 2, 1.25, API_ZIP);
    assert_memory_equal(g->res.bytes, "PK\3\4", 4);
    assert_non_null(memmem(g->res.bytes, g->res.size, "0002.png", 8));
    ticket_free(g);
}

static void refused(struct api_gen *g, int status) {
    struct api_problem p = {0};
    assert_int_equal(dd_batcher_submit(b, g, &p), -1);
    if (p.status != status)
        fail_msg("%d %s, expected %d", p.status, p.detail, status);
    ticket_free(g);
}

static void test_refusals(void **state) {
    (void)state;
    struct api_problem p = {0};
    refused(ticket("999", 1, 1, 0, 1, API_PNG), 404);
    refused(ticket("nonsense", 1, 1, 0, 1, API_PNG), 404);
    struct api_gen *g =
        ticket("latest", 1, 1, 99, 1, API_PNG); // the parser's fault if it comes here
    submit(g);
    assert_int_equal(wait_done(g), 2);
    assert_int_equal(g->problem.status, 422);
    ticket_free(g);
    // A file that has changed is refused, marked, and the one before it is `latest`.
    struct dd_ckpt_row row;
    assert_int_equal(dd_ckpt_get(w.store, ckpt[1], &row, &err), 0);
    assert_int_equal(truncate(row.path, 1000), 0);
    restart(1, 16, 64); // weights that were loaded before would still be good
    g = ticket("latest", 1, 1, 0, 1, API_PNG);
    submit(g);
    assert_int_equal(wait_done(g), 2);
    assert_int_equal(g->problem.status, 500);
    assert_non_null(strstr(g->problem.detail, "damaged"));
    ticket_free(g);
    ticket_free(run("latest", 1, 1, 0, 1, API_PNG));
    refused(ticket(row.id, 1, 1, 0, 1, API_PNG), 410);
    dd_ckpt_row_free(&row);
    dd_batcher_drain(b);
    g = ticket("latest", 1, 1, 0, 1, API_PNG);
    assert_int_equal(dd_batcher_submit(b, g, &p), -1);
    assert_int_equal(p.status, 503);
    assert_true(p.retry_after > 0);
    ticket_free(g);
}

static void test_queue_full_and_abandoned(void **state) {
    (void)state;
    enum { N = 60 };
    struct api_gen *g[N];
    int accepted = 0, full = 0;
    w.opt.max_queue_delay_us = 1000000; // the first batch waits, so that the queue fills
    restart(1, 1000, 32);
    for (int i = 0; i < N; i++) {
        struct api_problem p = {0};
        g[i] = ticket("latest", 1, 2, 0, 1, API_PNG);
        atomic_store(&g[i]->gone, i % 3 == 1);
        if (dd_batcher_submit(b, g[i], &p)) {
            assert_int_equal(p.status, 429);
            assert_true(p.retry_after > 0);
            full++;
            atomic_store(&g[i]->done, -1);
        } else {
            accepted++;
        }
    }
    assert_int_equal(accepted, 16);
    assert_int_equal(full, N - 16);
    for (int i = 0; i < N; i++) {
        int done = wait_done(g[i]);
        assert_int_equal(done, i >= 16 ? -1 : i % 3 == 1 ? 3 : 1);
        ticket_free(g[i]);
    }
    struct dd_batcher_stats s;
    dd_batcher_stats(b, &s);
    assert_int_equal(s.waiting, 0);
    assert_int_equal(s.images, 22);
    assert_int_equal(s.abandoned, 5);
    w.opt.max_queue_delay_us = 0;
}

// Fills a queue of 300 ms until somebody is refused. Whether what he was told is about the time
// that the queue then took.
static bool told_right(void) {
    enum { MOST = 6000, N = 16 };
    static struct api_gen *g[MOST];
    struct dd_batcher_stats s;
    struct api_problem p = {0};
    restart(1, N, 1000000);
    dd_batcher_stats(b, &s);
    assert_int_equal(s.queue_limit, 4096); // nothing is known yet
    for (int i = 0; i < 8; i++)
        ticket_free(run("latest", 1, 4 * N, 0, 1, API_NPY));
    dd_batcher_stats(b, &s);
    assert_true(s.images_per_second > 0);
    assert_int_equal(s.queue_limit, DR_MAX((int64_t)(s.images_per_second * 0.3), 2 * N));
    int n = 0;
    for (; n < MOST; n++)
        if (dd_batcher_submit(b, g[n] = ticket("latest", (uint64_t)n, N, 0, 1, API_NPY), &p))
            break;
    assert_in_range(n, 2, MOST - 1);
    assert_int_equal(p.status, 429);
    int64_t from = dd_now_ns();
    ticket_free(g[n]);
    assert_int_equal(wait_done(g[n - 1]), 1);
    double waited = (double)(dd_now_ns() - from) * 1e-9;
    printf("said %.3f s, took %.3f s\n", p.retry_after, waited);
    for (int i = 0; i < n; i++) {
        assert_int_equal(wait_done(g[i]), 1);
        ticket_free(g[i]);
    }
    return p.retry_after > 0.1 && p.retry_after < 1 && waited > p.retry_after / 4 &&
           waited < p.retry_after * 8;
}

// The queue is bounded by the time it takes, and a refused client is told it. A machine that stands
// still for a second in the middle is no fault of the batcher: once in six is enough.
static void test_queue_of_time(void **state) {
    (void)state;
    bool right = false;
    w.opt.max_queue_ms = 300;
    for (int i = 0; i < 6 && !right; i++)
        right = told_right();
    assert_true(right);
    w.opt.max_queue_ms = 0;
}

static void test_no_model(void **state) {
    (void)state;
    struct world empty;
    struct api_problem p = {0};
    struct dd_batcher *other;
    world_open(&empty, NULL);
    struct dd_batcher_env env = {&empty.opt, empty.store, empty.live, empty.models};
    assert_int_equal(dd_batcher_start(&env, &other, &err), 0);
    struct api_gen *g = ticket("live", 1, 1, 0, 1, API_PNG);
    assert_int_equal(dd_batcher_submit(other, g, &p), -1);
    assert_int_equal(p.status, 409);
    assert_non_null(strstr(p.detail, "no model yet"));
    assert_true(p.retry_after > 0);
    ticket_free(g);
    dd_batcher_stop(other);
    world_close(&empty);
    test_rmdir(empty.dir);
}

static void test_while_training(void **state) {
    (void)state;
    struct dr_config c;
    char sql[100];
    struct api_gen *before = run("latest", 5, 4, 1, 1, API_NPY);
    char id[API_ID_MAX];
    snprintf(id, sizeof id, "%s", before->res.checkpoint);
    test_tiny(&c, 1000000);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    int64_t job = world_submit(&w, &c, 0);
    world_wait_step(&w, job, 5);
    for (int i = 0; i < 20; i++) {
        struct api_gen *g = run(id, 5, 4, 1, 1, API_NPY), *live = run("live", 5, 4, 1, 1, API_NPY);
        same(before, g);
        snprintf(sql, sizeof sql, "live:%lld", (long long)job);
        assert_string_equal(live->res.checkpoint, sql);
        ticket_free(g);
        ticket_free(live);
    }
    assert_int_equal(dd_jobs_action(w.jobs, job, DD_JOB_STOP, &err), 0);
    world_wait(&w, job, "stopped");
    ticket_free(before);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_same_bytes),
                                       T(test_two_models),
                                       T(test_formats),
                                       T(test_refusals),
                                       T(test_queue_full_and_abandoned),
                                       T(test_queue_of_time),
                                       T(test_no_model),
                                       T(test_while_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
