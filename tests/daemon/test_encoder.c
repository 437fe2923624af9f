// Jobs of kind `encoder` in the daemon: they train, test, draw, stop and go on; their checkpoints
// are in the store but never served; a job starts from another's weights.
#include "tests/daemon/helper.h"

#include "daemon/jobs/runner.h"
#include "daemon/store/checkpoints.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct world w;
static struct dr_err err;

static void encoder(struct dr_config *c, const char *objective, int steps) {
    char text[700];
    snprintf(text, sizeof text,
             "{\"name\": \"small-encoder\", \"kind\": \"encoder\", \"data\": {\"set\": \"digits\","
             " \"size\": 8, \"count\": 200}, \"encoder\": {\"objective\": \"%s\", \"width\": 4,"
             " \"blocks\": [1, 1], \"groups\": 2, \"batch\": 16}, \"train\": {\"steps\": %d},"
             " \"optim\": {\"lr\": 0.003, \"warmup\": 5}, \"metrics\": {\"test_every\": 10,"
             " \"probe_every\": 20}, \"samples\": {\"every\": 20},"
             " \"checkpoint\": {\"every\": 0, \"every_seconds\": 0}}",
             objective, steps);
    if (dr_config_parse(text, strlen(text), "test", c, &err))
        fail_msg("%s", err.msg);
}

static int submit(const struct dr_config *c, int64_t *id) {
    bool replayed;
    struct dd_job_new in = {.cfg = c, .recipe = c->name, .kind = dr_recipe_word(c->kind)};
    return dd_jobs_create(w.jobs, &in, id, &replayed, &err);
}

static int64_t metrics_of(int64_t job, const char *name) {
    char sql[200];
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM metrics m JOIN metric_names n ON n.id=m.name WHERE m.job=%lld "
             "AND n.name='%s'",
             (long long)job, name);
    return world_count(&w, sql);
}

static void no_generator(int64_t ckpt) {
    struct dd_model_info info;
    struct dr_err why = {0};
    assert_int_equal(dd_models_get(w.models, ckpt, &info, &why), DR_EINVAL);
    assert_non_null(strstr(why.msg, "expected a generator"));
}

static void it_trains_and_is_not_served(void **state) {
    (void)state;
    struct dr_config c;
    struct dd_ckpt_row row;
    int64_t id;
    encoder(&c, "both", 40);
    assert_int_equal(submit(&c, &id), 0);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, id, "completed");
    assert_int_equal(metrics_of(id, "loss"), 40);
    assert_int_equal(metrics_of(id, "test_accuracy"), 4);
    assert_int_equal(metrics_of(id, "probe_accuracy"), 2);
    assert_int_equal(metrics_of(id, "drift_norm"), 0);
    // What was measured at the end is a row of its own, of the same step.
    struct dd_pump_stats ps;
    dd_pump_stats(w.pump, &ps);
    assert_int_equal(ps.steps, 40);
    assert_true(dd_row_value(&ps.newest, "loss") > 0);
    assert_true(dd_row_value(&ps.newest, "test_accuracy") >= 0);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM samples"), 2);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints WHERE kind='encoder'"), 1);
    assert_false(dd_live_has(w.live));
    assert_int_equal(dd_ckpt_latest(w.store, &row, &err), DR_ENOENT);
    no_generator(1);
    assert_int_equal(dd_ckpt_get(w.store, 1, &row, &err), 0);
    json_t *j = dd_ckpt_to_json(&row, 0);
    assert_string_equal(json_string_value(json_object_get(j, "net")), "judge");
    assert_string_equal(json_string_value(json_object_get(j, "kind")), "encoder");
    json_decref(j);
    // A file of this kind comes back in by import, and is not served either.
    struct dd_ckpt_row in;
    struct dd_ckpt_source source = {.path = row.path};
    if (dd_ckpt_import(w.store, &source, &in, &err))
        fail_msg("%s", err.msg);
    assert_string_equal(in.kind, "encoder");
    no_generator(strtoll(in.id, NULL, 10));
    dd_ckpt_row_free(&in);
    dd_ckpt_row_free(&row);
    assert_int_equal(dd_ckpt_latest(w.store, &row, &err), DR_ENOENT);
}

struct end {
    const struct dr_trainer *trainer;
    int64_t total, saved;
    int rows, asked; // rows of the last step; wishes asked for after the first of them
    double tested;   // accuracy in the last row, NAN: none
    bool stop;
};
static enum dd_wish end_wish(void *ctx) {
    struct end *e = ctx;
    e->asked += e->rows > 0;
    return e->stop && e->rows ? DD_WISH_STOP : DD_WISH_NONE;
}
static int end_started(void *ctx, const struct dr_trainer *t, const struct dr_dataset *d,
                       int64_t step, struct dr_err *e) {
    (void)d, (void)step, (void)e;
    ((struct end *)ctx)->trainer = t;
    return 0;
}
static void end_step(void *ctx, const struct dr_metrics *m, double seconds, int64_t total) {
    struct end *e = ctx;
    (void)seconds;
    e->total = total;
    e->rows += m->step == total;
    e->tested = dr_metric(e->trainer, m, "test_accuracy");
}
static int end_checkpoint(void *ctx, int64_t step, const char *path, const char *sha, int64_t bytes,
                          struct dr_err *e) {
    (void)path, (void)sha, (void)bytes, (void)e;
    ((struct end *)ctx)->saved = step;
    return 0;
}

static void run_to_end(struct dd_run_spec *spec, bool stop, struct end *e,
                       struct dd_run_result *res) {
    *e = (struct end){.stop = stop, .tested = NAN};
    const struct dd_run_hooks hooks = {.ctx = e,
                                       .wish = end_wish,
                                       .started = end_started,
                                       .step = end_step,
                                       .checkpoint = end_checkpoint};
    if (dd_run(spec, &hooks, res, &err))
        fail_msg("%s", err.msg);
}

// The measurement of the end comes after the last checkpoint and hears a stop; the resumed run has
// nothing else to do.
static void a_stop_while_it_is_measured(void **state) {
    (void)state;
    struct dr_config c;
    struct end e;
    struct dd_run_result res;
    char dir[300];
    snprintf(dir, sizeof dir, "%s/run", w.dir);
    struct dd_run_spec spec = {
        .cfg = &c, .device = "cpu", .checkpoint_dir = dir, .id = "run", .threads = 1};
    encoder(&c, "classify", 20);
    run_to_end(&spec, true, &e, &res);
    assert_int_equal(res.outcome, DD_RUN_STOPPED);
    assert_true(res.saved && e.saved == 20 && e.asked > 0);
    assert_int_equal(e.rows, 1);
    assert_int_equal(access(res.last_good, F_OK), 0);
    spec.resume = true;
    run_to_end(&spec, false, &e, &res);
    assert_int_equal(res.outcome, DD_RUN_COMPLETED);
    assert_true(e.rows == 1 && e.tested >= 0 && e.saved == 0);
    spec.complete_is_tested = true;
    run_to_end(&spec, false, &e, &res);
    assert_int_equal(res.outcome, DD_RUN_COMPLETED);
    assert_int_equal(e.rows, 0);
}

static void it_stops_and_goes_on(void **state) {
    (void)state;
    struct dr_config c;
    double whole[64], parts[64];
    int64_t a, b;
    encoder(&c, "classify", 60);
    c.encoder.batch = 256; // long enough for a pause to come in between
    assert_int_equal(submit(&c, &a), 0);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, a, "completed");
    assert_int_equal(submit(&c, &b), 0);
    world_wait_step(&w, b, 7);
    assert_int_equal(dd_jobs_action(w.jobs, b, DD_JOB_PAUSE, &err), 0);
    for (int i = 0; i < 9000; i++) { // paused, or it was faster
        char now[16];
        world_state(&w, b, now);
        if (!strcmp(now, "paused") || !strcmp(now, "completed"))
            break;
        usleep(10000);
    }
    dd_jobs_action(w.jobs, b, DD_JOB_RESUME, &err);
    world_wait(&w, b, "completed");
    assert_int_equal(world_values(w.store, a, "loss", whole, 64), 60);
    assert_int_equal(world_values(w.store, b, "loss", parts, 64), 60);
    assert_memory_equal(whole, parts, 60 * sizeof *whole);
}

static void one_starts_from_another(void **state) {
    (void)state;
    struct dr_config c;
    int64_t a, b;
    double fresh[64], warm[64];
    encoder(&c, "autoencode", 40);
    assert_int_equal(submit(&c, &a), 0);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, a, "completed");
    encoder(&c, "both", 2);
    snprintf(c.init_from, sizeof c.init_from, "1");
    assert_int_equal(submit(&c, &b), 0);
    world_wait(&w, b, "completed");
    assert_int_equal(world_values(w.store, a, "loss", fresh, 64), 40);
    assert_int_equal(world_values(w.store, b, "loss", warm, 64), 2);
    print_message("loss %.3f, then %.3f from its weights\n", fresh[0], warm[0]);
    assert_true(warm[0] < 0.7 * fresh[0]);
    // What cannot be found is refused when the job is submitted.
    static const struct {
        const char *from, *word;
    } bad[] = {{"99", "no checkpoint 99"}, {"nothing.safetensors", "nothing.safetensors"}};
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        snprintf(c.init_from, sizeof c.init_from, "%s", bad[i].from);
        assert_int_equal(submit(&c, &b), DR_EINVAL);
        assert_string_equal(err.field, "init_from");
        assert_non_null(strstr(err.msg, bad[i].word));
    }
}

// The file that it started from is looked at once: gone, it stops no job that has a checkpoint.
static void a_job_that_goes_on_needs_no_start(void **state) {
    (void)state;
    struct dr_config c;
    struct dd_ckpt_row row;
    char dir[300], file[400];
    snprintf(dir, sizeof dir, "%s/data", w.dir);
    snprintf(file, sizeof file, "%s/start.safetensors", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    free(w.opt.data_dir);
    w.opt.data_dir = strdup(dir);
    test_tiny(&c, 2);
    const int64_t a = world_submit(&w, &c, 0);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, a, "completed");
    assert_int_equal(dd_ckpt_get(w.store, 1, &row, &err), 0);
    assert_int_equal(link(row.path, file), 0);
    dd_ckpt_row_free(&row);
    test_tiny(&c, 1000000000);
    snprintf(c.init_from, sizeof c.init_from, "start.safetensors");
    const int64_t b = world_submit(&w, &c, 0);
    world_wait_step(&w, b, 3);
    assert_int_equal(dd_jobs_action(w.jobs, b, DD_JOB_PAUSE, &err), 0);
    world_wait(&w, b, "paused");
    const int64_t step = world_count(&w, "SELECT step FROM jobs WHERE id=2");
    assert_int_equal(unlink(file), 0);
    assert_int_equal(dd_jobs_action(w.jobs, b, DD_JOB_RESUME, &err), 0);
    world_wait_step(&w, b, step + 1);
}

static void files_stay_below_the_data_directory(void **state) {
    (void)state;
    char dir[300], path[DD_PATH_MAX], file[400];
    snprintf(dir, sizeof dir, "%s/data", w.dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    snprintf(file, sizeof file, "%s/x.safetensors", dir);
    assert_int_equal(dd_write_file(file, "x", 1, &err), 0);
    assert_int_equal(dd_ckpt_find(w.store, dir, "init_from", "x.safetensors", path, &err), 0);
    snprintf(file, sizeof file, "%s/out", dir);
    assert_int_equal(symlink("/etc/passwd", file), 0);
    assert_int_equal(dd_ckpt_find(w.store, dir, "init_from", "out", path, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "out of the data directory"));
    assert_int_equal(dd_ckpt_find(w.store, dir, "init_from", "../data", path, &err), DR_EINVAL);
    assert_int_equal(dd_ckpt_find(w.store, NULL, "init_from", "x.safetensors", path, &err),
                     DR_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WORLD_TEST(it_trains_and_is_not_served, world_setup),
        WORLD_TEST(a_stop_while_it_is_measured, world_setup),
        WORLD_TEST(it_stops_and_goes_on, world_setup),
        WORLD_TEST(one_starts_from_another, world_setup),
        WORLD_TEST(a_job_that_goes_on_needs_no_start, world_setup),
        WORLD_TEST(files_stay_below_the_data_directory, world_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
