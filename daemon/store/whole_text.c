// Texts that an earlier build cut inside a character (store.h). JSON takes whole characters only,
// so such a row could be in no answer.
#include "daemon/store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static bool is_whole(const char *text) {
    json_t *j = json_string(text); // NULL: not UTF-8
    json_decref(j);
    return j != NULL;
}

// whole_text(TEXT): the same where it is UTF-8, else without what the cut has left. What is no
// UTF-8 for another reason has question marks for all but ASCII.
static void whole_text(sqlite3_context *c, int n, sqlite3_value **v) {
    const char *text = (const char *)sqlite3_value_text(v[0]);
    (void)n;
    if (!text || is_whole(text)) {
        sqlite3_result_value(c, v[0]);
        return;
    }
    char *copy = dd_xstrdup(text);
    dd_trim_text(copy);
    for (char *p = copy; *p && !is_whole(copy); p++)
        *p = (unsigned char)*p < 0x80 ? *p : '?';
    sqlite3_result_text(c, copy, -1, SQLITE_TRANSIENT);
    free(copy);
}

int dd_store_whole_texts(sqlite3 *db, struct dr_err *err) {
    static const char *const columns[][2] = {
        {"jobs", "name"},       {"jobs", "notes"},       {"jobs", "error"},
        {"jobs", "data_name"},  {"checkpoints", "name"}, {"checkpoints", "notes"},
        {"evals", "name"},      {"evals", "job_name"},   {"evals", "error"},
        {"sweeps", "name"},     {"sweeps", "error"},     {"sweep_cells", "label"},
        {"datasets", "source"}, {"datasets", "error"}};
    char sql[200];
    int rc = sqlite3_create_function_v2(db, "whole_text", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC,
                                        NULL, whole_text, NULL, NULL, NULL)
                 ? dd_sql_fail(db, err, "looking at its texts")
                 : 0;
    for (size_t i = 0; i < sizeof columns / sizeof *columns && !rc; i++) {
        snprintf(sql, sizeof sql, "UPDATE %s SET %s=whole_text(%s) WHERE whole_text(%s) IS NOT %s",
                 columns[i][0], columns[i][1], columns[i][1], columns[i][1], columns[i][1]);
        rc = dd_sql_run(db, err, sql, "");
    }
    return rc;
}
