// The driftd process under test, with checks (fixture.h).
#include "tests/daemon/fixture.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void daemon_open(struct daemon *d) {
    *d = (struct daemon){.binary = d->binary};
    test_mkdir(d->dir);
    test_tiny_file(d->dir, "tiny", 60);
    test_tiny_file(d->dir, "long", 1000000);
}

void daemon_close(struct daemon *d) {
    daemon_end(d, SIGKILL);
    test_rmdir(d->dir);
}

void daemon_up(struct daemon *d, const char *const *flags) {
    daemon_start(d, flags);
    assert_true(daemon_wait_ready(d));
}

static int ask(const struct daemon *d, struct answer *a, const char *method, const char *path,
               const char *json) {
    return ask_http(d, a, method, path, json ? "Content-Type: application/json\r\n" : NULL, json,
                    json ? strlen(json) : 0);
}

int daemon_status(const struct daemon *d, const char *method, const char *path, const char *json) {
    struct answer a;
    int status = ask(d, &a, method, path, json);
    answer_free(&a);
    return status;
}

void daemon_expect(const struct daemon *d, const char *method, const char *path, const char *json,
                   int status, const char *word) {
    struct answer a;
    int got = ask(d, &a, method, path, json);
    if (got != status || (word && !strstr(a.head, word) && !strstr(a.body, word)))
        fail_msg("%s %s: %d instead of %d%s%s: %s", method, path, got, status,
                 word ? ", without " : "", word ? word : "", a.body ? a.body : "");
    answer_free(&a);
}

static void db_path(const struct daemon *d, char out[300]) {
    snprintf(out, 300, "%s/s/driftd.sqlite3", d->dir);
}

sqlite3 *daemon_db(const struct daemon *d) {
    char path[300];
    sqlite3 *db = NULL;
    db_path(d, path);
    if (access(path, F_OK))
        return NULL;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    return db;
}

int64_t daemon_sql(const struct daemon *d, const char *sql) {
    sqlite3 *db = daemon_db(d);
    int64_t v = db ? dd_sql_one(db, -1, sql, "") : -1;
    sqlite3_close(db);
    return v;
}

void daemon_wait_sql(const struct daemon *d, const char *sql, int64_t at_least) {
    for (int i = 0; i < 12000; i++) {
        if (daemon_sql(d, sql) >= at_least)
            return;
        usleep(10000);
    }
    fail_msg("never: %s >= %lld", sql, (long long)at_least);
}

void daemon_check_db(const struct daemon *d) {
    assert_int_equal(daemon_sql(d, "SELECT count(*) FROM pragma_integrity_check WHERE "
                                   "integrity_check='ok'"),
                     1);
}

int daemon_losses(const struct daemon *d, int64_t job, double *v, int max) {
    char path[300];
    struct dd_store *s;
    struct dr_err err = {0};
    db_path(d, path);
    if (dd_store_open(path, &s, &err))
        fail_msg("%s", err.msg);
    int n = world_values(s, job, "loss", v, max);
    dd_store_close(s);
    return n;
}
