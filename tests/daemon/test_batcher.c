// The batcher on a tiny model: the same request gives the same bytes alone, among others, under
// load and with another number of threads; limits and refusals; small results before large ones.
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

// --- who submits ---

struct order {
    struct dd_gen_request req;
    struct dd_gen_image *images;
    struct dd_gen_result res;
    int rc;    // of a failure
    int place; // in the order of answers, from 1
    struct dr_err err;
    atomic_bool gone;
    atomic_int done; // 1 complete, 2 failed, 3 abandoned
};

static atomic_int answers;

static bool abandoned(void *owner) {
    struct order *g = owner;
    return atomic_load(&g->gone);
}
static void complete(void *owner, const struct dd_gen_result *result) {
    struct order *g = owner;
    g->res = *result;
    g->place = atomic_fetch_add(&answers, 1) + 1;
    atomic_store(&g->done, 1);
}
static void failed(void *owner, int rc, const struct dr_err *why) {
    struct order *g = owner;
    g->rc = rc;
    if (why)
        g->err = *why;
    atomic_store(&g->done, rc == DR_ECANCELED ? 3 : 2);
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
    struct dd_batcher_env env = {&w.opt, w.store, w.events, w.live, w.models};
    if (dd_batcher_start(&env, &b, &err))
        fail_msg("%s", err.msg);
}

// Trains it for as long as it says, and imports it; its id.
static int64_t import_run(const struct dr_config *c, const char *name) {
    struct dd_run_result res;
    struct dd_run_hooks hooks = {0};
    struct dd_ckpt_row row;
    char dir[300];
    snprintf(dir, sizeof dir, "%s/%s", w.dir, name);
    struct dd_run_spec spec = {.cfg = c,
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
    const int64_t id = strtoll(row.id, NULL, 10);
    dd_ckpt_row_free(&row);
    return id;
}

static void make_model(int which) {
    struct dr_config c;
    char name[20];
    test_tiny(&c, 5);
    c.train.seed = which;
    snprintf(name, sizeof name, "run%d", which);
    ckpt[which] = import_run(&c, name);
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
static struct order *ticket(const char *checkpoint, uint64_t seed, int n, int label, double cfg,
                            enum dd_format format) {
    struct order *g = dd_xcalloc(1, sizeof *g);
    g->images = dd_xcalloc((size_t)n, sizeof *g->images);
    for (int i = 0; i < n; i++)
        g->images[i] =
            (struct dd_gen_image){.label = label, .cfg = (float)cfg, .index = (uint32_t)i};
    g->req = (struct dd_gen_request){.images = g->images,
                                     .n = n,
                                     .seed = seed,
                                     .cols = n,
                                     .rows = 1,
                                     .scale = 1,
                                     .format = format,
                                     .received_ns = dd_now_ns(),
                                     .owner = g,
                                     .abandoned = abandoned,
                                     .complete = complete,
                                     .fail = failed};
    snprintf(g->req.checkpoint, sizeof g->req.checkpoint, "%s", checkpoint);
    return g;
}
static void ticket_free(struct order *g) {
    free(g->images);
    free(g->res.bytes);
    free(g);
}
static void submit(struct order *g) {
    double wait;
    if (dd_batcher_submit(b, &g->req, &wait, &err))
        fail_msg("%s", err.msg);
}
static int wait_done(struct order *g) {
    for (int i = 0; i < 90000 && !atomic_load(&g->done); i++)
        usleep(1000);
    return atomic_load(&g->done);
}
// Until no images wait to be computed.
static void wait_computed(void) {
    struct dd_batcher_stats s = {.waiting = 1};
    for (int i = 0; i < 90000 && s.waiting; i++, usleep(1000))
        dd_batcher_stats(b, &s);
    assert_int_equal(s.waiting, 0);
}
static struct order *run(const char *checkpoint, uint64_t seed, int n, int label, double cfg,
                         enum dd_format format) {
    struct order *g = ticket(checkpoint, seed, n, label, cfg, format);
    submit(g);
    if (wait_done(g) != 1)
        fail_msg("%s", g->err.msg);
    return g;
}
static void same(const struct order *a, const struct order *c) {
    assert_int_equal(a->res.size, c->res.size);
    assert_memory_equal(a->res.bytes, c->res.bytes, a->res.size);
}

// --- tests ---

static void test_same_bytes(void **state) {
    (void)state;
    enum { OTHERS = 12 };
    struct order *alone[3], *other[OTHERS], *g;
    static const enum dd_format formats[] = {DD_PNG, DD_NPY, DD_JSON};
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
                       ticket("latest", (uint64_t)i, 1 + i % 4, i % 3 - 1, 1 + i * 0.1, DD_PNG));
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
    struct order *whole, *cut;
    restart(1, 64, 1000);
    whole = run("latest", 7, 50, 1, 2, DD_NPY);
    assert_int_equal(whole->res.batch_size, 50);
    restart(2, 8, 1000);
    cut = run("latest", 7, 50, 1, 2, DD_NPY);
    assert_int_equal(cut->res.batch_size, 8);
    same(whole, cut);
    // Sample k depends on (seed, k) alone: the first five of fifty are those of five.
    g = run("latest", 7, 5, 1, 2, DD_NPY);
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
    struct order *a[2], *m[8];
    char id[2][24];
    for (int i = 0; i < 2; i++) {
        snprintf(id[i], sizeof id[i], "%lld", (long long)ckpt[i]);
        a[i] = run(id[i], 3, 2, 1, 1, DD_NPY);
        assert_string_equal(a[i]->res.checkpoint, id[i]);
        assert_int_equal(a[i]->res.step, 5);
    }
    assert_memory_not_equal(a[0]->res.bytes, a[1]->res.bytes, a[0]->res.size);
    for (int i = 0; i < 8; i++)
        submit(m[i] = ticket(id[i % 2], 3, 2, 1, 1, DD_NPY));
    for (int i = 0; i < 8; i++) {
        assert_int_equal(wait_done(m[i]), 1);
        same(a[i % 2], m[i]);
        ticket_free(m[i]);
    }
    // Activation swaps what is served.
    for (int i = 0; i < 2; i++) {
        assert_int_equal(dd_ckpt_activate(w.store, ckpt[i], &err), 0);
        struct order *g = run("served", 3, 2, 1, 1, DD_NPY);
        same(a[i], g);
        assert_string_equal(g->res.served.why, "promoted");
        ticket_free(g);
        ticket_free(a[i]);
    }
}

static void test_formats(void **state) {
    (void)state;
    struct order *g = run("latest", 9, 3, 2, 1.25, DD_JSON);
    json_t *j = json_loadb(g->res.bytes, g->res.size, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(j, "seed")), 9);
    assert_int_equal(json_array_size(json_object_get(j, "images")), 3);
    json_t *im = json_array_get(json_object_get(j, "images"), 2);
    assert_int_equal(json_integer_value(json_object_get(im, "class")), 2);
    assert_int_equal(strncmp(json_string_value(json_object_get(im, "png")), "iVBORw0KGgo", 11), 0);
    json_decref(j);
    ticket_free(g);
    g = run("latest", 9, 3, 2, 1.25, DD_ZIP);
    assert_memory_equal(g->res.bytes, "PK\3\4", 4);
    assert_non_null(memmem(g->res.bytes, g->res.size, "0002.png", 8));
    ticket_free(g);
}

// A result that takes long to render is no reason for the small ones behind it to wait. That the
// large one is at work when they come is certain: its images are computed, and it takes a thousand
// times as long.
static void test_large_results(void **state) {
    (void)state;
    enum { SMALL = 8 };
    struct order *large, *small[SMALL];
    restart(1, 64, 2000);
    large = ticket("latest", 1, 1000, -1, 1, DD_ZIP);
    large->req.scale = 32;
    submit(large);
    wait_computed();
    for (int i = 0; i < SMALL; i++)
        submit(small[i] = ticket("latest", 2, 1, i % 2, 1, i % 2 ? DD_NPY : DD_PNG));
    for (int i = 0; i < SMALL; i++)
        assert_int_equal(wait_done(small[i]), 1);
    assert_int_equal(wait_done(large), 1);
    for (int i = 0; i < SMALL; i++) {
        assert_true(small[i]->place < large->place);
        ticket_free(small[i]);
    }
    ticket_free(large);
}

// Points have few values, and a plot each: two large answers of them do not take both renderers.
// They end when the small ones are there.
static void test_plots_are_large(void **state) {
    (void)state;
    static const char toy[] =
        "{\"data\": {\"set\": \"toy-swiss-roll\", \"size\": 1, \"channels\": 2, \"classes\": 1,"
        " \"count\": 100}, \"model\": {\"arch\": \"mlp\", \"dim\": 8, \"depth\": 1, \"noise\":"
        " \"latent\", \"latent_dim\": 2, \"style_tokens\": 0}, \"features\": {\"image\": true},"
        " \"train\": {\"steps\": 1, \"generated\": 4, \"positives\": 4}}";
    struct dr_config c;
    struct order *large[2], *small;
    assert_int_equal(dr_config_parse(toy, sizeof toy - 1, "toy", &c, &err), 0);
    import_run(&c, "toy");
    restart(1, 64, 20000);
    for (int i = 0; i < 2; i++) {
        submit(large[i] = ticket("latest", 1, 8000, 0, 1, DD_ZIP)); // seconds, if nobody left
        wait_computed();
    }
    small = run("latest", 2, 1, 0, 1, DD_NPY);
    for (int i = 0; i < 2; i++)
        atomic_store(&large[i]->gone, true);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(wait_done(large[i]), 3);
        ticket_free(large[i]);
    }
    ticket_free(small);
}

static void refused(struct order *g, int code) {
    double wait;
    int rc = dd_batcher_submit(b, &g->req, &wait, &err);
    if (rc != code)
        fail_msg("%d %s, expected %d", rc, err.msg, code);
    ticket_free(g);
}

// The error of the newest checkpoint, which cannot be loaded.
static void not_loaded(int rc, const char *word) {
    struct order *g = ticket("latest", 1, 1, 0, 1, DD_PNG);
    submit(g);
    assert_int_equal(wait_done(g), 2);
    assert_int_equal(g->rc, rc);
    assert_non_null(strstr(g->err.msg, word));
    assert_null(strchr(g->err.msg, '/')); // no path
    ticket_free(g);
}

static int run_one(sqlite3 *db, void *sql, struct dr_err *e) {
    return dd_sql_run(db, e, sql, "");
}
static void run_sql(char *sql) {
    if (dd_store_do(w.store, run_one, sql, &err))
        fail_msg("%s: %s", sql, err.msg);
}

static void test_refusals(void **state) {
    (void)state;
    double wait;
    refused(ticket("999", 1, 1, 0, 1, DD_PNG), DR_ENOENT);
    refused(ticket("nonsense", 1, 1, 0, 1, DD_PNG), DR_ENOENT);
    struct order *g = ticket("latest", 1, 1, 99, 1, DD_PNG); // the parser's fault if it comes here
    submit(g);
    assert_int_equal(wait_done(g), 2);
    assert_int_equal(g->rc, DR_EINVAL);
    assert_string_equal(g->err.field, "class");
    ticket_free(g);
    // A file that has changed is refused, marked, and the one before it is `latest`. Requests while
    // it cannot be marked send no alert each.
    struct dd_ckpt_row row;
    assert_int_equal(dd_ckpt_get(w.store, ckpt[1], &row, &err), 0);
    assert_int_equal(truncate(row.path, 1000), 0);
    restart(1, 16, 64); // weights that were loaded before would still be good
    run_sql("CREATE TEMP TRIGGER full BEFORE UPDATE ON checkpoints"
            " BEGIN SELECT RAISE(FAIL, 'full'); END");
    for (int i = 0; i < 2; i++)
        not_loaded(DR_EFORMAT, "damaged");
    run_sql("DROP TRIGGER full");
    not_loaded(DR_EFORMAT, "damaged");
    ticket_free(run("latest", 1, 1, 0, 1, DD_PNG));
    assert_int_equal(dd_ckpt_activate(w.store, DD_SERVE_AUTO, &err), 0); // after the alert
    assert_int_equal(world_count(&w, "SELECT count(*) FROM events WHERE type='alert' AND"
                                     " data LIKE '%is damaged%'"),
                     1);
    refused(ticket(row.id, 1, 1, 0, 1, DD_PNG), DR_EGONE);
    dd_ckpt_row_free(&row);
    dd_batcher_drain(b);
    g = ticket("latest", 1, 1, 0, 1, DD_PNG);
    assert_int_equal(dd_batcher_submit(b, &g->req, &wait, &err), DR_ESTOPPING);
    assert_true(wait > 0);
    ticket_free(g);
}

// A file that somebody has deleted costs one request; then its checkpoint counts as removed. A disk
// that is not mounted costs requests, and no checkpoint, also when a job has written into the empty
// folder meanwhile. An import would make the folder of those before it, so it is refused.
static void test_lost_files(void **state) {
    (void)state;
    char folder[DD_PATH_MAX], aside[DD_PATH_MAX], other[DD_PATH_MAX], moved[DD_PATH_MAX];
    struct dd_ckpt_row row, again;
    assert_int_equal(dd_ckpt_get(w.store, ckpt[1], &row, &err), 0);
    assert_int_equal(dd_path(folder, &err, "%s/checkpoints", w.dir), 0);
    assert_int_equal(dd_path(aside, &err, "%s/aside", w.dir), 0);
    assert_int_equal(rename(folder, aside), 0);
    not_loaded(DR_EBUSY, "mounted");
    assert_int_equal(dd_path(other, &err, "%s/99/step-00000001.safetensors", folder), 0);
    assert_int_equal(dd_mkdir_for(other, &err), 0);
    assert_int_equal(dd_write_file(other, "x", 1, &err), 0);
    not_loaded(DR_EBUSY, "mounted");
    assert_int_equal(dd_path(moved, &err, "%s%s", aside, row.path + strlen(folder)), 0);
    assert_int_equal(dd_ckpt_import(w.store, &(struct dd_ckpt_source){.path = moved}, &again, &err),
                     DR_EBUSY);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints WHERE state<>'ok'"), 0);
    test_rmdir(folder);
    assert_int_equal(rename(aside, folder), 0);
    ticket_free(run("latest", 1, 1, 0, 1, DD_PNG));
    restart(1, 16, 64);
    assert_int_equal(unlink(row.path), 0);
    not_loaded(DR_EGONE, "is removed");
    struct order *g = run("latest", 1, 1, 0, 1, DD_PNG);
    assert_int_equal(strtoll(g->res.checkpoint, NULL, 10), ckpt[0]);
    ticket_free(g);
    refused(ticket(row.id, 1, 1, 0, 1, DD_PNG), DR_EGONE);
    dd_ckpt_row_free(&row);
    assert_int_equal(dd_ckpt_activate(w.store, DD_SERVE_AUTO, &err), 0); // after the alert
    assert_int_equal(world_count(&w, "SELECT count(*) FROM events WHERE type='alert' AND"
                                     " data LIKE '%\"checkpoint\"%is gone%'"),
                     1);
}

static void test_queue_full_and_abandoned(void **state) {
    (void)state;
    enum { N = 60 };
    struct order *g[N];
    int accepted = 0, full = 0;
    w.opt.max_queue_delay_us = 1000000; // the first batch waits, so that the queue fills
    restart(1, 1000, 32);
    for (int i = 0; i < N; i++) {
        double wait;
        g[i] = ticket("latest", 1, 2, 0, 1, DD_PNG);
        atomic_store(&g[i]->gone, i % 3 == 1);
        int rc = dd_batcher_submit(b, &g[i]->req, &wait, &err);
        if (rc) {
            assert_int_equal(rc, DR_EFULL);
            assert_true(wait > 0);
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
    static struct order *g[MOST];
    struct dd_batcher_stats s;
    double told = 0;
    int rc = 0;
    restart(1, N, 1000000);
    dd_batcher_stats(b, &s);
    assert_int_equal(s.queue_limit, 4096); // nothing is known yet
    for (int i = 0; i < 8; i++)
        ticket_free(run("latest", 1, 4 * N, 0, 1, DD_NPY));
    dd_batcher_stats(b, &s);
    assert_true(s.images_per_second > 0);
    assert_int_equal(s.queue_limit, DR_MAX((int64_t)(s.images_per_second * 0.3), 2 * N));
    int n = 0;
    for (; n < MOST; n++) {
        g[n] = ticket("latest", (uint64_t)n, N, 0, 1, DD_NPY);
        if ((rc = dd_batcher_submit(b, &g[n]->req, &told, &err)))
            break;
    }
    assert_in_range(n, 2, MOST - 1);
    assert_int_equal(rc, DR_EFULL);
    int64_t from = dd_now_ns();
    ticket_free(g[n]);
    assert_int_equal(wait_done(g[n - 1]), 1);
    double waited = (double)(dd_now_ns() - from) * 1e-9;
    printf("said %.3f s, took %.3f s\n", told, waited);
    for (int i = 0; i < n; i++) {
        assert_int_equal(wait_done(g[i]), 1);
        ticket_free(g[i]);
    }
    return told > 0.1 && told < 1 && waited > told / 4 && waited < told * 8;
}

// The queue is bounded by the time it takes, and a refusal names that time. A machine that stands
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
    double wait;
    struct dd_batcher *other;
    world_open(&empty, NULL);
    struct dd_batcher_env env = {&empty.opt, empty.store, empty.events, empty.live, empty.models};
    assert_int_equal(dd_batcher_start(&env, &other, &err), 0);
    struct order *g = ticket("live", 1, 1, 0, 1, DD_PNG);
    assert_int_equal(dd_batcher_submit(other, &g->req, &wait, &err), DR_ENOTYET);
    assert_non_null(strstr(err.msg, "no model yet"));
    ticket_free(g);
    dd_batcher_stop(other);
    world_close(&empty);
    test_rmdir(empty.dir);
}

static void test_while_training(void **state) {
    (void)state;
    struct dr_config c;
    char sql[100];
    struct order *before = run("latest", 5, 4, 1, 1, DD_NPY);
    char id[80];
    snprintf(id, sizeof id, "%s", before->res.checkpoint);
    test_tiny(&c, 1000000);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    int64_t job = world_submit(&w, &c, 0);
    world_wait_step(&w, job, 5);
    for (int i = 0; i < 20; i++) {
        struct order *g = run(id, 5, 4, 1, 1, DD_NPY), *live = run("live", 5, 4, 1, 1, DD_NPY);
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
                                       T(test_large_results),
                                       T(test_refusals),
                                       T(test_lost_files),
                                       T(test_plots_are_large),
                                       T(test_queue_of_time),
                                       T(test_no_model),
                                       T(test_while_training),
                                       T(test_queue_full_and_abandoned)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
