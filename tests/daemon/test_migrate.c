// State folders written by earlier builds: opened, migrated, read, served and resumed; and folders
// that are moved or named by a relative path. argv[1]: the driftd binary, argv[2]: tests/fixtures.
#include "tests/daemon/fixture.h"

#include "daemon/base/util.h"

#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct daemon d;
static const char *fixtures;
static struct answer last; // freed by the next request

static int get(const char *path) {
    answer_free(&last);
    return ask_http(&d, &last, "GET", path, NULL, NULL, 0);
}

static char *fixture(const char *build, const char *name, size_t *n) {
    struct dr_err err = {0};
    char path[DD_PATH_MAX], *text = NULL;
    if (dd_path(path, &err, "%s/%s/%s", fixtures, build, name) ||
        dd_read_file(path, 1 << 20, &text, n, &err))
        fail_msg("%s", err.msg);
    return text;
}

static void copy_file(const char *build, const char *name) {
    struct dr_err err = {0};
    char to[DD_PATH_MAX];
    size_t n = 0;
    char *bytes = fixture(build, name, &n);
    assert_int_equal(dd_path(to, &err, "%s/s/%s", d.dir, name), 0);
    assert_int_equal(dd_mkdir_for(to, &err), 0);
    assert_int_equal(dd_write_file(to, bytes, n, &err), 0);
    free(bytes);
}

// The state folder of c354205 in d.dir/s: two toy jobs, one completed (checkpoint 1, activated),
// one stopped at step 25 of 60 (checkpoint 2). Its rows name files below `s/`, as a relative
// --state-dir.
static void unpack(void) {
    char path[DD_PATH_MAX], *sql = fixture("c354205", "state.sql", NULL), *why = NULL;
    sqlite3 *db;
    struct dr_err err = {0};
    copy_file("c354205", "checkpoints/1/step-00000016.safetensors");
    copy_file("c354205", "checkpoints/2/step-00000025.safetensors");
    copy_file("c354205", "samples/1/step-00000016.png");
    assert_int_equal(dd_path(path, &err, "%s/s/driftd.sqlite3", d.dir), 0);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s", why);
    assert_int_equal(dd_sql_one(db, -1, "PRAGMA user_version", ""), 1);
    sqlite3_close(db);
    free(sql);
}

static int setup(void **state) {
    (void)state;
    daemon_open(&d);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    answer_free(&last);
    daemon_close(&d);
    return 0;
}

// A chunked body as it was before it was cut up.
static size_t unchunk(char *body) {
    char *from = body, *to = body;
    for (size_t n; (n = strtoul(from, &from, 16)) > 0; to += n, from += n + 2) {
        from += 2;
        memmove(to, from, n);
    }
    *to = 0;
    return (size_t)(to - body);
}

static void same_curve(const char *path, const char *file) {
    size_t n;
    char *want = fixture("c354205", file, &n);
    assert_int_equal(get(path), 200);
    if (n != unchunk(last.body) || memcmp(want, last.body, n) != 0)
        fail_msg("%s differs from %s:\n%.400s", path, file, last.body);
    free(want);
}

static void test_curves_by_name(void **state) {
    (void)state;
    unpack();
    daemon_up(&d, NULL);
    same_curve("/v1/jobs/1/metrics?format=csv", "job1.csv");
    same_curve("/v1/jobs/2/metrics?format=csv", "job2.csv");
    same_curve("/v1/jobs/2/metrics?format=csv&max_points=7", "job2-7.csv");
    assert_int_equal(get("/v1/jobs/1/metrics?names=drift_norm_1,lr&format=csv"), 200);
    assert_non_null(strstr(last.body, "\nlr,16,"));
    assert_non_null(strstr(last.body, "\ndrift_norm_1,16,"));
    assert_null(strstr(last.body, "loss"));
    daemon_expect(&d, "GET", "/v1/jobs/1/metrics?names=los", NULL, 422, "did you mean loss?");
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    daemon_check_db(&d);
}

static void test_serves_and_resumes(void **state) {
    (void)state;
    unpack();
    daemon_up(&d, NULL);
    assert_int_equal(get("/v1/checkpoints/1/file"), 200);
    assert_int_equal(last.size, 39752);
    daemon_expect(&d, "GET", "/v1/samples/1.png", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/v1/generate?checkpoint=1&seed=3&format=json", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/v1/generate?seed=3&format=json", NULL, 200,
                  "Driftd-Checkpoint: 1\r\n"); // what was activated
    daemon_expect(&d, "POST", "/v1/jobs/2/resume", NULL, 202, NULL);
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE id=2 AND state='completed'", 1);
    assert_int_equal(daemon_sql(&d, "SELECT step FROM jobs WHERE id=2"), 60);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    double v[100];
    assert_int_equal(daemon_losses(&d, 2, v, 100), 60); // those of before among them, without a gap
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM checkpoints WHERE path LIKE '%/s/%' OR "
                                    "path LIKE '/%'"),
                     0);
    daemon_check_db(&d);
}

// A folder that has been moved, started from elsewhere: every path in it still holds.
static void test_moved_folder(void **state) {
    (void)state;
    char from[DD_PATH_MAX], to[DD_PATH_MAX], flag[DD_PATH_MAX], cwd[DD_PATH_MAX];
    struct dr_err err = {0};
    unpack();
    assert_non_null(getcwd(cwd, sizeof cwd));
    assert_int_equal(chdir(d.dir), 0);
    daemon_up(&d, (const char *const[]){"--state-dir=./s", NULL}); // relative
    daemon_expect(&d, "POST", "/v1/jobs", "{\"config\": \"tiny\"}", 201, NULL);
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE id=3 AND state='completed'", 1);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(dd_path(from, &err, "%s/s", d.dir), 0);
    assert_int_equal(dd_path(to, &err, "%s/elsewhere", d.dir), 0);
    assert_int_equal(dd_path(flag, &err, "--state-dir=%s", to), 0);
    assert_int_equal(rename(from, to), 0);
    daemon_up(&d, (const char *const[]){flag, NULL});
    daemon_expect(&d, "GET", "/v1/checkpoints/1/file", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/v1/checkpoints/3/file", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/v1/generate?checkpoint=latest&seed=3&format=json", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/v1/samples/1.png", NULL, 200, NULL);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(chdir(cwd), 0);
}

// A state folder whose path is long: everything works up to the limit, and beyond it nothing
// starts.
static void test_long_path(void **state) {
    (void)state;
    char part[120], path[DD_PATH_MAX], flag[DD_PATH_MAX + 20];
    memset(part, 'x', sizeof part);
    part[sizeof part - 1] = 0;
    snprintf(path, sizeof path, "%s", d.dir);
    for (size_t n; (n = strlen(path)) < 480;)
        snprintf(path + n, sizeof path - n, "/%.*s", (int)DR_MIN(110, 480 - n - 1), part);
    snprintf(flag, sizeof flag, "--state-dir=%s", path);
    daemon_up(&d, (const char *const[]){flag, NULL});
    daemon_expect(&d, "POST", "/v1/jobs", "{\"config\": \"tiny\"}", 201, NULL);
    for (int i = 0; i < 2000 && daemon_status(&d, "GET", "/v1/checkpoints/3/file", NULL) != 200;
         i++)
        usleep(10000);
    daemon_expect(&d, "GET", "/v1/checkpoints/3/file", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/v1/generate?checkpoint=3&seed=3&format=json", NULL, 200, NULL);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    strcat(flag, "x");
    daemon_start(&d, (const char *const[]){flag, NULL});
    assert_false(daemon_wait_ready(&d));
    assert_true(daemon_says(&d, "at most 480"));
}

static void change(const char *path, const char *sql) {
    char *why = NULL;
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &why))
        fail_msg("%s", why);
    sqlite3_close(db);
}

// Earlier builds cut names inside a character: such rows are listed again, without what was left.
static void test_cut_names(void **state) {
    (void)state;
    char path[DD_PATH_MAX];
    struct dr_err err = {0};
    unpack();
    assert_int_equal(dd_path(path, &err, "%s/s/driftd.sqlite3", d.dir), 0);
    change(path, "UPDATE jobs SET name=CAST(x'6b61747a656e20c3a4c3' AS TEXT) WHERE id=1;"
                 "UPDATE jobs SET error=CAST(x'776879e282' AS TEXT),"
                 " notes=CAST(x'61f0ff62eda08063' AS TEXT) WHERE id=2;"
                 "UPDATE checkpoints SET name=CAST(x'666978f09f90' AS TEXT) WHERE id=1");
    daemon_up(&d, NULL);
    assert_int_equal(get("/v1/jobs"), 200);
    assert_non_null(strstr(last.body, "\"katzen \u00e4\""));
    assert_non_null(strstr(last.body, "\"why\""));
    assert_int_equal(get("/v1/jobs/1"), 200);
    assert_non_null(strstr(last.body, "\"katzen \u00e4\""));
    assert_int_equal(get("/v1/jobs/2"), 200);
    assert_int_equal(get("/v1/checkpoints"), 200);
    assert_non_null(strstr(last.body, "\"fix\""));
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs WHERE notes LIKE 'a%c'"), 1);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    daemon_check_db(&d);
}

// Training jobs of version 10 know the job that trains the judge of their evaluations by the first
// of these. Evaluations whose job was removed wait for ever there. Classes are not counted.
static void test_version_10(void **state) {
    (void)state;
    char path[DD_PATH_MAX];
    struct dd_store *s;
    struct dr_err err = {0};
    unpack();
    assert_int_equal(dd_path(path, &err, "%s/s/driftd.sqlite3", d.dir), 0);
    assert_int_equal(dd_store_open(path, &s, &err), 0);
    dd_store_close(s);
    change(path, "ALTER TABLE jobs DROP COLUMN judge; ALTER TABLE jobs DROP COLUMN crashes;"
                 "ALTER TABLE datasets DROP COLUMN class_count;"
                 "PRAGMA user_version=10;"
                 "INSERT INTO jobs(id,name,kind,recipe,config,state,created_us,needs,parent)"
                 " VALUES(7,'e','eval','','{}','completed',1,5,1);"
                 "INSERT INTO evals(id,kind,source,step,state,created_us) VALUES"
                 "(1,'judge','a',1,'queued',1),(2,'judge','b',1,'running',1),"
                 "(3,'judge','c',1,'done',1);"
                 "INSERT INTO datasets(name,kind,state,source,upload,options,classes,created_us)"
                 " VALUES('a','folder','ready','',1,'{}','[{},{}]',1),"
                 "('b','folder','failed','',1,'{}','[',1)");
    assert_int_equal(dd_store_open(path, &s, &err), 0);
    dd_store_close(s);
    assert_int_equal(daemon_sql(&d, "SELECT judge FROM jobs WHERE id=1"), 5);
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs WHERE judge IS NULL"), 2);
    assert_int_equal(daemon_sql(&d, "SELECT sum(id) FROM evals"), 3); // nobody will make the others
    assert_int_equal(daemon_sql(&d, "SELECT class_count FROM datasets WHERE name='a'"), 2);
}

int main(int argc, char **argv) {
    // Absolute: one test starts the daemon from other folders.
    d.binary = realpath(argc > 1 ? argv[1] : "driftd", NULL);
    fixtures = realpath(argc > 2 ? argv[2] : "tests/fixtures", NULL);
    if (!d.binary || !fixtures) {
        fprintf(stderr, "usage: daemon_migrate DRIFTD FIXTURES\n");
        return 2;
    }
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_curves_by_name), T(test_serves_and_resumes),
                                       T(test_moved_folder),   T(test_long_path),
                                       T(test_cut_names),      T(test_version_10)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
