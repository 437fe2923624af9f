// kill -9 at random moments under load: training, checkpoints, sample grids, metrics, generation,
// new jobs, pauses and imports, from the first instant of a start on. After every kill the data
// base is whole, and whatever was answered for is still there: jobs, idempotency keys, checkpoints
// with their files and sha256, the same bytes for the same seed. In the end every job has exactly
// the losses of one that was never stopped. argv[1]: the driftd binary. KILLS (10) and SEED (1) in
// the environment.
#include "tests/daemon/fixture.h"

#include "daemon/base/util.h"
#include "engine/io/safetensors.h"

#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    STEPS = 150,
    JOBS_MAX = 400,
    OPEN_MAX = 2,
    WINDOW_MS = 600,
    EARLY_MS = 150,
    STEPS_ROOM = STEPS + 1
};
static const char job[] =
    "{\"config\": \"tiny\", \"overrides\": {\"checkpoint.every\": 15, \"samples.every\": 40}}";

static struct {
    struct daemon d;
    uint64_t rng;
    double losses[STEPS]; // of a job that nobody disturbed
    struct answer image;  // what the imported checkpoint draws
    char import[24];      // its id
    int kills, jobs, requests, answers;
    int64_t job[JOBS_MAX]; // acknowledged; job k has the key "key-k"
    char (*ckpt)[96];      // acknowledged: "id sha256"
    int nckpt, ckpt_room;
} st;

static uint32_t draw(uint32_t below) { // splitmix64
    uint64_t z = st.rng += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32) % below;
}

static int ask(struct answer *a, const char *method, const char *path, const char *headers,
               const void *body, size_t size) {
    int status = ask_http(&st.d, a, method, path, headers, body, size);
    st.requests++;
    st.answers += status != 0;
    if (status >= 500 && status != 503)
        fail_msg("%s %s gave %d %.300s", method, path, status, a->body);
    return status;
}

// --- what the load does; each may be cut off at any point ---

static void submit(void) {
    struct answer a;
    char head[100];
    bool again = st.jobs && draw(3) == 0; // an old key: the same job must come back
    int k = again ? (int)draw((uint32_t)st.jobs) : st.jobs;
    if (!again) {
        int open = 0;
        if (ask(&a, "GET", "/v1/jobs?limit=20", NULL, NULL, 0) == 200)
            for (const char *p = a.body; (p = strstr(p, "\"state\":\"")); p += 9)
                open += !strncmp(p + 9, "queued", 6) || !strncmp(p + 9, "running", 7);
        answer_free(&a);
        if (open >= OPEN_MAX || st.jobs == JOBS_MAX)
            return;
    }
    snprintf(head, sizeof head, "Content-Type: application/json\r\nIdempotency-Key: key-%d\r\n", k);
    int status = ask(&a, "POST", "/v1/jobs", head, job, sizeof job - 1);
    if (status == 201 || status == 200) {
        json_t *j = answer_json(&a);
        int64_t id = atoll(json_string_value(json_object_get(j, "id")));
        json_decref(j);
        if (again)
            assert_int_equal(id, st.job[k]);
        else
            st.job[st.jobs++] = id;
    } else if (status) {
        fail_msg("a job was refused: %d %.300s", status, a.body);
    }
    answer_free(&a);
}

static void note_checkpoints(void) {
    struct answer a;
    if (ask(&a, "GET", "/v1/checkpoints?limit=20", NULL, NULL, 0) == 200) {
        json_t *j = answer_json(&a), *c;
        size_t i;
        json_array_foreach(json_object_get(j, "checkpoints"), i, c) {
            char line[96];
            snprintf(line, sizeof line, "%s %s", json_string_value(json_object_get(c, "id")),
                     json_string_value(json_object_get(c, "sha256")));
            bool known = false;
            for (int k = st.nckpt - 1; k >= 0 && k > st.nckpt - 60 && !known; k--)
                known = !strcmp(st.ckpt[k], line);
            if (known)
                continue;
            if (st.nckpt == st.ckpt_room) {
                st.ckpt_room += 1000;
                st.ckpt = realloc(st.ckpt, (size_t)st.ckpt_room * sizeof *st.ckpt);
                assert_non_null(st.ckpt);
            }
            memcpy(st.ckpt[st.nckpt++], line, sizeof line);
        }
        json_decref(j);
    }
    answer_free(&a);
}

static void draw_image(void) {
    struct answer a;
    char path[100];
    snprintf(path, sizeof path, "/v1/generate?class=3&seed=5&format=npy&checkpoint=%s", st.import);
    int status = ask(&a, "POST", path, NULL, NULL, 0);
    if (status == 200) {
        assert_int_equal(a.size, st.image.size);
        assert_memory_equal(a.body, st.image.body, a.size);
    } else if (status && status != 503) {
        fail_msg("%s gave %d %.300s", path, status, a.body);
    }
    answer_free(&a);
}

static void act_on_job(void) {
    static const char *const verb[] = {"checkpoint", "pause", "resume", "stop", "resume"};
    struct answer a;
    char path[60];
    if (!st.jobs)
        return;
    uint32_t newest = (uint32_t)DR_MIN(st.jobs, 3);
    snprintf(path, sizeof path, "/v1/jobs/%lld/%s",
             (long long)st.job[st.jobs - 1 - (int)draw(newest)], verb[draw(5)]);
    int status = ask(&a, "POST", path, NULL, NULL, 0);
    if (status && status != 202 && status != 409 && status != 503)
        fail_msg("%s gave %d %.300s", path, status, a.body);
    answer_free(&a);
}

static void look(void) {
    static const char *const path[] = {"/v1/jobs/1/metrics?max_points=50", "/v1/status", "/metrics",
                                       "/v1/samples"};
    struct answer a;
    ask(&a, "GET", path[draw(4)], NULL, NULL, 0);
    answer_free(&a);
}

struct killer {
    pid_t pid;
    useconds_t after;
    bool early; // counts from the start of the process, not from its first answer
    _Atomic bool up, done;
};
static void *killer(void *arg) {
    struct killer *k = arg;
    for (int i = 0; i < 20000 && !k->early && !k->up; i++)
        usleep(1000);
    usleep(k->after);
    kill(k->pid, SIGKILL);
    k->done = true;
    return NULL;
}

// --- what must hold afterwards ---

static int64_t one(sqlite3 *db, const char *sql) {
    return dd_sql_one(db, -1, sql, "");
}

// Rows name files relative to the state folder.
static void in_state(const void *row_path, char out[4096]) {
    snprintf(out, 4096, "%s/s/%s", st.d.dir, (const char *)row_path);
}

static void check_file(const void *row_path, const char *sha256, const char *what) {
    struct dr_err err = {0};
    char sha[65], path[4096];
    in_state(row_path, path);
    if (dr_sha256_file(path, sha, &err))
        fail_msg("%s: %s", what, err.msg);
    if (strcmp(sha, sha256))
        fail_msg("%s: %s has another sha256 than was recorded", what, path);
}

// Everything acknowledged, against the database and the files. whole: all checkpoints' contents.
static void check_kept(sqlite3 *db, bool whole) {
    daemon_check_db(&st.d);
    assert_int_equal(one(db, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert_int_equal(one(db, "SELECT count(*) FROM jobs WHERE state='failed'"), 0);
    for (int i = 0; i < st.jobs; i++)
        if (dd_sql_one(db, 0, "SELECT 1 FROM jobs WHERE id=?", "i", st.job[i]) != 1)
            fail_msg("job %lld was acknowledged and is gone", (long long)st.job[i]);
    for (int i = 0; i < st.nckpt; i++) {
        char id[24], sha[72];
        assert_int_equal(sscanf(st.ckpt[i], "%23s %71s", id, sha), 2);
        if (dd_sql_one(db, 0, "SELECT 1 FROM checkpoints WHERE id=? AND state<>'corrupt'", "i",
                       (int64_t)atoll(id)) != 1)
            fail_msg("checkpoint %s was acknowledged and is gone", id);
    }
    sqlite3_stmt *q = dd_sql_prepare(db, NULL,
                                     whole ? "SELECT path, sha256 FROM checkpoints WHERE state='ok'"
                                           : "SELECT path, sha256 FROM checkpoints WHERE state='ok'"
                                             " ORDER BY id DESC LIMIT 6",
                                     "");
    assert_non_null(q);
    while (sqlite3_step(q) == SQLITE_ROW)
        check_file(sqlite3_column_text(q, 0), (const char *)sqlite3_column_text(q, 1),
                   "checkpoint");
    sqlite3_finalize(q);
    q = dd_sql_prepare(db, NULL, "SELECT path FROM samples", "");
    while (sqlite3_step(q) == SQLITE_ROW) {
        char path[4096];
        in_state(sqlite3_column_text(q, 0), path);
        if (access(path, R_OK))
            fail_msg("sample %s is gone", path);
    }
    sqlite3_finalize(q);
}

static int leftovers;
static int count_leftover(const char *path, const struct stat *s, int type, struct FTW *f) {
    (void)s;
    if (type == FTW_F && strstr(path + f->base, ".tmp"))
        leftovers++;
    return 0;
}

// --- the storm ---

// Waits until no job is on its way any more; those that were stopped or paused go on. Patient as
// long as anything moves.
static void finish_jobs(void) {
    int64_t seen = -1;
    for (int i = 0; i < 6000; i++) {
        struct answer a;
        sqlite3 *db = daemon_db(&st.d);
        int64_t open = one(db, "SELECT count(*) FROM jobs WHERE state<>'completed'");
        int64_t idle = one(db, "SELECT id FROM jobs WHERE state IN "
                               "('paused','stopped','interrupted') LIMIT 1");
        int64_t steps = one(db, "SELECT sum(step) + 1000*sum(attempts) FROM jobs");
        sqlite3_close(db);
        if (!open)
            return;
        if (steps != seen)
            i = 0;
        seen = steps;
        if (idle > 0) {
            char path[60];
            snprintf(path, sizeof path, "/v1/jobs/%lld/resume", (long long)idle);
            ask(&a, "POST", path, NULL, NULL, 0);
            answer_free(&a);
        }
        usleep(10000);
    }
    sqlite3 *db = daemon_db(&st.d);
    sqlite3_stmt *q = dd_sql_prepare(
        db, NULL, "SELECT id, state, step, attempts, error FROM jobs WHERE state<>'completed'", "");
    while (sqlite3_step(q) == SQLITE_ROW)
        printf("job %s: %s at step %s, %s attempts %s\n", sqlite3_column_text(q, 0),
               sqlite3_column_text(q, 1), sqlite3_column_text(q, 2), sqlite3_column_text(q, 3),
               sqlite3_column_text(q, 4) ? (const char *)sqlite3_column_text(q, 4) : "");
    sqlite3_finalize(q);
    sqlite3_close(db);
    fail_msg("the jobs do not come to an end");
}

static void one_kill(int round) {
    daemon_start(&st.d, NULL);
    struct killer k = {.pid = st.d.pid, .early = draw(4) == 0};
    k.after = 1000 * (1 + draw(k.early ? EARLY_MS : WINDOW_MS));
    int before = st.answers;
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, killer, &k), 0);
    while (!k.done) {
        uint32_t what = draw(10);
        if (what < 2)
            submit();
        else if (what < 4)
            note_checkpoints();
        else if (what < 7)
            draw_image();
        else if (what < 9)
            act_on_job();
        else
            look();
        k.up = st.answers > before;
        if (!k.up)
            usleep(2000);
    }
    pthread_join(t, NULL);
    assert_int_equal(daemon_end(&st.d, SIGKILL), -SIGKILL);
    sqlite3 *db = round % 2 ? daemon_db(&st.d) : NULL; // every other time the daemon recovers alone
    if (db)
        check_kept(db, false);
    sqlite3_close(db);
}

// A job that nobody disturbs, and its last checkpoint imported: the measure of everything after.
static void measure(void) {
    struct answer a;
    char path[300], *file;
    struct dr_err err = {0};
    double v[STEPS_ROOM];
    size_t n;
    daemon_up(&st.d, NULL);
    submit();
    assert_int_equal(st.jobs, 1);
    finish_jobs();
    snprintf(path, sizeof path, "%s/s/checkpoints/1/step-%08d.safetensors", st.d.dir, STEPS);
    assert_int_equal(dd_read_file(path, 1 << 24, &file, &n, &err), 0);
    assert_int_equal(ask(&a, "POST", "/v1/checkpoints?name=measure",
                         "Content-Type: application/octet-stream\r\n", file, n),
                     201);
    json_t *j = answer_json(&a);
    snprintf(st.import, sizeof st.import, "%s", json_string_value(json_object_get(j, "id")));
    json_decref(j);
    answer_free(&a);
    free(file);
    snprintf(path, sizeof path, "/v1/generate?class=3&seed=5&format=npy&checkpoint=%s", st.import);
    assert_int_equal(ask(&st.image, "POST", path, NULL, NULL, 0), 200);
    assert_int_equal(daemon_end(&st.d, SIGTERM), 0);
    assert_int_equal(daemon_losses(&st.d, 1, v, STEPS_ROOM), STEPS);
    memcpy(st.losses, v, sizeof st.losses);
}

static void test_storm(void **state) {
    (void)state;
    measure();
    for (int i = 0; i < st.kills; i++)
        one_kill(i);
    daemon_up(&st.d, NULL);
    finish_jobs();
    assert_int_equal(daemon_end(&st.d, SIGTERM), 0);
    sqlite3 *db = daemon_db(&st.d);
    check_kept(db, true);
    int64_t attempts = one(db, "SELECT sum(attempts) FROM jobs");
    assert_int_equal(one(db, "SELECT count(*) FROM jobs WHERE state<>'completed'"), 0);
    int jobs = (int)one(db, "SELECT max(id) FROM jobs");
    sqlite3_close(db);
    for (int i = 1; i <= jobs; i++) {
        double v[STEPS_ROOM];
        assert_int_equal(daemon_losses(&st.d, i, v, STEPS_ROOM), STEPS);
        assert_memory_equal(v, st.losses, sizeof st.losses);
    }
    nftw(st.d.dir, count_leftover, 8, FTW_PHYS);
    assert_int_equal(leftovers, 0);
    printf("%d kills: %d jobs in %d runs, %d checkpoints seen, %d of %d requests answered\n",
           st.kills, jobs, (int)attempts, st.nckpt, st.answers, st.requests);
}

static int setup(void **state) {
    (void)state;
    const char *kills = getenv("KILLS"), *seed = getenv("SEED");
    st.kills = kills ? atoi(kills) : 10;
    st.rng = seed ? strtoull(seed, NULL, 10) : 1;
    printf("KILLS=%d SEED=%llu\n", st.kills, (unsigned long long)st.rng);
    daemon_open(&st.d);
    test_tiny_file(st.d.dir, "tiny", STEPS);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    daemon_close(&st.d);
    answer_free(&st.image);
    free(st.ckpt);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    st.d.binary = argv[1];
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_storm)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
