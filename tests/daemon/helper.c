// Helpers of the daemon's tests (helper.h).
#include "tests/daemon/helper.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void test_mkdir(char out[256]) {
    const char *t = getenv("TMPDIR");
    snprintf(out, 256, "%.200s/driftd-test-XXXXXX", t && *t ? t : P_tmpdir);
    assert_non_null(mkdtemp(out));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f) {
    (void)st, (void)type, (void)f;
    return remove(path);
}
void test_rmdir(const char *dir) {
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static const char tiny[] =
    "{\"name\":\"tiny\",\"data\":{\"set\":\"digits\",\"count\":200,\"size\":8,\"fit\":\"resize\"},"
    "\"model\":{\"dim\":16,\"depth\":1,\"heads\":2,\"patch\":4,\"registers\":1,\"style_tokens\":2},"
    "\"train\":{\"steps\":%lld,\"classes\":2,\"generated\":4,\"positives\":4},"
    "\"optim\":{\"warmup\":10,\"lr\":0.002},"
    "\"checkpoint\":{\"every\":20,\"every_seconds\":0,\"keep_last\":3},"
    "\"samples\":{\"every\":0},\"metrics\":{\"spread_every\":25}}";

void test_tiny(struct dr_config *c, int64_t steps) {
    struct dr_err err = {0};
    char text[2000];
    snprintf(text, sizeof text, tiny, (long long)steps);
    if (dr_config_parse(text, strlen(text), "test", c, &err))
        fail_msg("%s", err.msg);
}

void test_tiny_file(const char *dir, const char *name, int64_t steps) {
    struct dr_err err = {0};
    char text[2000], path[600];
    snprintf(text, sizeof text, tiny, (long long)steps);
    snprintf(path, sizeof path, "%s/%s.json", dir, name);
    if (dd_write_file(path, text, strlen(text), &err))
        fail_msg("%s", err.msg);
}

void world_open(struct world *w, const char *dir) {
    world_open_kinds(w, dir, NULL);
}

void world_open_kinds(struct world *w, const char *dir, const struct dd_job_kind *const *kinds) {
    struct dr_err err = {0};
    *w = (struct world){0};
    dd_log_init(DR_LOG_ERROR);
    if (dir)
        snprintf(w->dir, sizeof w->dir, "%s", dir);
    else
        test_mkdir(w->dir);
    char flag[300], path[600];
    snprintf(flag, sizeof flag, "--state-dir=%s", w->dir);
    char *argv[] = {flag,           "--threads=1",    "--generate-threads=1",
                    "--device=cpu", "--max-batch=16", "--max-queue=64"};
    if (dd_options_parse((int)DR_COUNT(argv), argv, NULL, NULL, NULL, &w->opt, &err))
        fail_msg("%s", err.msg);
    snprintf(path, sizeof path, "%s/driftd.sqlite3", w->dir);
    if (dd_store_open(path, &w->store, &err))
        fail_msg("%s", err.msg);
    w->events = dd_events_new(w->store);
    w->pump = dd_pump_start(w->store, w->events, 1000000);
    w->live = dd_live_new();
    w->models = dd_models_new(w->store);
    struct dd_jobs_env env = {&w->opt, w->store, w->events, w->pump, w->live, "cpu", kinds};
    if (dd_jobs_new(&env, &w->jobs, &err))
        fail_msg("%s", err.msg);
}

void world_close(struct world *w) {
    dd_jobs_stop(w->jobs);
    dd_pump_stop(w->pump);
    dd_jobs_free(w->jobs);
    dd_events_free(w->events);
    dd_live_free(w->live);
    dd_models_free(w->models);
    dd_store_close(w->store);
    dd_options_free(&w->opt);
}

int world_setup(void **state) {
    world_open(*state, NULL);
    return 0;
}

int world_teardown(void **state) {
    struct world *w = *state;
    world_close(w);
    test_rmdir(w->dir);
    return 0;
}

int64_t world_submit(struct world *w, const struct dr_config *c, int priority) {
    struct dd_job_new in = {.cfg = c, .recipe = c->name, .kind = "train", .priority = priority};
    struct dr_err err = {0};
    int64_t id = 0;
    bool replayed;
    if (dd_jobs_create(w->jobs, &in, &id, &replayed, &err))
        fail_msg("%s", err.msg);
    return id;
}

void world_state(struct world *w, int64_t id, char out[16]) {
    struct dr_err err = {0};
    json_t *j = dd_job_json(w->store, id, false, &err);
    snprintf(out, 16, "%s", j ? json_string_value(json_object_get(j, "state")) : "none");
    json_decref(j);
}

void world_wait(struct world *w, int64_t id, const char *state) {
    char now[16] = "";
    for (int i = 0; i < 9000; i++) {
        world_state(w, id, now);
        if (!strcmp(now, state))
            return;
        usleep(10000);
    }
    fail_msg("job %lld is %s, expected %s", (long long)id, now, state);
}

void world_wait_step(struct world *w, int64_t id, int64_t step) {
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT step FROM jobs WHERE id=%lld", (long long)id);
    for (int i = 0; i < 9000; i++) {
        if (world_count(w, sql) >= step)
            return;
        usleep(10000);
    }
    fail_msg("job %lld has not come to step %lld", (long long)id, (long long)step);
}

static int nothing(sqlite3 *db, void *arg, struct dr_err *err) {
    (void)db, (void)arg, (void)err;
    return 0;
}

int64_t world_count(struct world *w, const char *sql) {
    struct dr_err err = {0};
    dd_store_do(w->store, nothing, NULL, &err); // what was posted before is in
    sqlite3 *db = dd_store_reader(w->store, &err);
    assert_non_null(db);
    int64_t n = dd_sql_one(db, -1, sql, "");
    sqlite3_close(db);
    return n;
}

const struct dd_metric_table *test_metric(struct dd_store *s, const char *name) {
    const struct dr_metric_def def = {.name = name, .unit = "", .help = "a test's"};
    return dd_metric_table(dd_store_metrics(s), &def, 1);
}

int world_values(struct dd_store *s, int64_t job, const char *name, double *v, int max) {
    struct dd_curve *c;
    struct dr_err err = {0};
    struct dd_bucket b;
    int n = 0;
    if (dd_curve_open(s, job, &name, 1, 0, INT64_MAX, 0, &c, &err))
        fail_msg("%s", err.msg);
    for (; n < max && dd_curve_next(c, &b) == 1; n++) {
        assert_int_equal(b.step, n + 1);
        v[n] = b.last;
    }
    dd_curve_close(c);
    return n;
}
