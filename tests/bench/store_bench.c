// What metrics cost: filling the store with a million rows, reading a 2000-point curve of them, a
// push into the ring, and whether anything is dropped at 1000 steps per second. By hand; wall time
// and, since a busy machine takes wall time away, the CPU time of the measuring thread. usage:
// store_bench [ROWS]   (1000000)
#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/store/metric_store.h"
#include "daemon/store/pump.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 1000, PUSHES = 40000, CHUNK = 4000, RATE = 1000, RATE_S = 10, CURVES = 21 };

static int64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}
static void die(const struct dr_err *err) {
    fprintf(stderr, "store_bench: %s\n", err->msg);
    exit(1);
}

static int new_job(sqlite3 *db, void *arg, struct dr_err *err) {
    int rc = dd_sql_run(db, err,
                        "INSERT INTO jobs(name,kind,recipe,config,state,created_us)"
                        " VALUES('bench','train','bench','{}','running',0)",
                        "");
    *(int64_t *)arg = sqlite3_last_insert_rowid(db);
    return rc;
}
static int64_t add_job(struct dd_store *s) {
    struct dr_err err = {0};
    int64_t id = 0;
    if (dd_store_do(s, new_job, &id, &err))
        die(&err);
    return id;
}
static const struct dd_metric_table *table; // "loss" and 15 more

static void name_metrics(struct dd_store *s) {
    static char name[16][8];
    struct dr_metric_def def[16];
    for (int i = 0; i < 16; i++) {
        snprintf(name[i], sizeof name[i], i ? "m%d" : "loss", i);
        def[i] = (struct dr_metric_def){.name = name[i], .unit = "", .help = ""};
    }
    table = dd_metric_table(dd_store_metrics(s), def, 16);
}

static struct dd_row row_of(int64_t job, int64_t step, uint64_t mask) {
    struct dd_row r = {
        .job = job, .step = step, .time_us = dd_wall_us(), .table = table, .mask = mask};
    for (int i = 0; i < 16; i++)
        r.v[i] = 1.0 / (double)(step + i + 1);
    return r;
}

static void fill(struct dd_store *s, int64_t job, int64_t rows) {
    struct dd_metric_batch *b = dd_xcalloc(1, sizeof *b + BATCH * sizeof *b->row);
    struct dr_err err = {0};
    int64_t start = dd_now_ns();
    for (int64_t step = 1; step <= rows;) {
        b->n = 0;
        for (; b->n < BATCH && step <= rows; step++)
            b->row[b->n++] = row_of(job, step, 1);
        if (dd_store_do(s, dd_metrics_insert, b, &err))
            die(&err);
    }
    double t = (double)(dd_now_ns() - start) * 1e-9;
    printf("| %lld rows and their roll-ups, batches of %d | %.1f s, %.0f rows/s |\n",
           (long long)rows, BATCH, t, (double)rows / t);
    free(b);
}

static void curve(struct dd_store *s, int64_t job, int64_t from, int64_t to, const char *what) {
    int64_t wall[CURVES], cpu[CURVES];
    int points = 0;
    for (int i = 0; i < CURVES; i++) {
        struct dd_curve *c;
        struct dd_bucket b;
        struct dr_err err = {0};
        wall[i] = dd_now_ns();
        cpu[i] = cpu_ns();
        const char *loss = "loss";
        if (dd_curve_open(s, job, &loss, 1, from, to, 2000, &c, &err))
            die(&err);
        for (points = 0; dd_curve_next(c, &b) == 1; points++)
            ;
        dd_curve_close(c);
        wall[i] = dd_now_ns() - wall[i];
        cpu[i] = cpu_ns() - cpu[i];
    }
    qsort(wall, CURVES, sizeof *wall, by_value);
    qsort(cpu, CURVES, sizeof *cpu, by_value);
    printf("| %s: %d points | %.2f ms p50, %.2f ms max; CPU %.2f ms |\n", what, points,
           (double)wall[CURVES / 2] * 1e-6, (double)wall[CURVES - 1] * 1e-6,
           (double)cpu[CURVES / 2] * 1e-6);
}

// Pushes while the pump and the writer work; the clock's own cost is measured and taken off.
static void push(struct dd_store *s, struct dd_pump *p) {
    static int64_t t[PUSHES], clock[PUSHES];
    int64_t job = add_job(s);
    for (int i = 0; i < PUSHES; i++) {
        int64_t t0 = dd_now_ns();
        clock[i] = dd_now_ns() - t0;
    }
    for (int i = 0; i < PUSHES; i++) {
        struct dd_row r = row_of(job, i + 1, 0xffffu);
        int64_t t0 = dd_now_ns();
        dd_ring_push(dd_pump_ring(p), &r);
        t[i] = dd_now_ns() - t0;
        if (i % CHUNK == CHUNK - 1)
            usleep(300000);
    }
    qsort(t, PUSHES, sizeof *t, by_value);
    qsort(clock, PUSHES, sizeof *clock, by_value);
    int64_t own = clock[PUSHES / 2];
    printf(
        "| a push into the ring, %d of them | %lld ns p50, %lld ns p99 (clock's own %lld ns taken "
        "off) |\n",
        PUSHES, (long long)(t[PUSHES / 2] - own), (long long)(t[PUSHES / 100 * 99] - own),
        (long long)own);
}

static void rate(struct dd_store *s, struct dd_pump *p) {
    struct dd_pump_stats before, after;
    struct dr_err err = {0};
    int64_t job = add_job(s), start = dd_now_ns();
    dd_pump_stats(p, &before);
    for (int64_t i = 1; i <= RATE * RATE_S; i++) {
        struct dd_row r = row_of(job, i, 0xffffu);
        dd_ring_push(dd_pump_ring(p), &r);
        int64_t left = start + i * (1000000000 / RATE) - dd_now_ns();
        if (left > 0)
            usleep((useconds_t)(left / 1000));
    }
    double t = (double)(dd_now_ns() - start) * 1e-9;
    if (dd_pump_flush(p, &err))
        die(&err);
    dd_pump_stats(p, &after);
    sqlite3 *db = dd_store_reader(s, &err);
    int64_t kept = dd_sql_one(db, -1,
                              "SELECT count(*) FROM metrics WHERE job=? AND name="
                              "(SELECT id FROM metric_names WHERE name='loss')",
                              "i", job);
    sqlite3_close(db);
    printf(
        "| %d steps per second of 16 values for %.1f s | %lld of %d steps stored, %llu dropped |\n",
        RATE, t, (long long)kept, RATE * RATE_S,
        (unsigned long long)(after.dropped - before.dropped));
}

int main(int argc, char **argv) {
    const char *tmp = getenv("TMPDIR");
    char dir[300], path[400];
    struct dd_store *s;
    struct dr_err err = {0};
    int64_t rows = argc > 1 ? atoll(argv[1]) : 1000000;
    dd_log_init(DR_LOG_ERROR);
    snprintf(dir, sizeof dir, "%.200s/driftd-bench-XXXXXX", tmp && *tmp ? tmp : P_tmpdir);
    if (!mkdtemp(dir))
        return 1;
    snprintf(path, sizeof path, "%s/driftd.sqlite3", dir);
    if (dd_store_open(path, &s, &err))
        die(&err);
    struct dd_events *e = dd_events_new(s);
    struct dd_pump *p = dd_pump_start(s, e, 1000000);
    name_metrics(s);
    printf("| what | result |\n|---|---|\n");
    int64_t job = add_job(s);
    fill(s, job, rows);
    curve(s, job, 0, INT64_MAX, "a curve of all of them");
    curve(s, job, rows / 3, rows / 3 + rows / 20, "a curve of a twentieth");
    push(s, p);
    rate(s, p);
    dd_pump_stop(p);
    dd_events_free(e);
    dd_store_close(s);
    static const char *const end[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/driftd.sqlite3%s", dir, end[i]);
        unlink(path);
    }
    return rmdir(dir) != 0;
}
