// Idempotency keys of what has been removed (keys.h).
#include "daemon/store/keys.h"

#include <stdlib.h>

int dd_key_retire(sqlite3 *db, const char *what, const char *from, int64_t id, struct dr_err *err) {
    const int64_t now = dd_wall_us();
    char *sql = dd_printf("INSERT OR REPLACE INTO meta SELECT 'removed-%s:'||key, ''||?1 FROM "
                          "(%s) WHERE key IS NOT NULL",
                          what, from);
    int rc = dd_sql_run(
        db, err, "DELETE FROM meta WHERE key GLOB 'removed-*:*' AND CAST(value AS INTEGER)<?", "i",
        dd_key_since());
    if (!rc)
        rc = dd_sql_run(db, err, sql, "ii", now, id);
    free(sql);
    return rc;
}

int dd_key_check(sqlite3 *db, const char *what, const char *key, struct dr_err *err) {
    if (!dd_sql_one(db, 0,
                    "SELECT 1 FROM meta WHERE key='removed-'||?||':'||?"
                    " AND CAST(value AS INTEGER)>=?",
                    "tti", what, key, dd_key_since()))
        return 0;
    return dr_fail_at(err, DR_EGONE, "Idempotency-Key",
                      "Idempotency-Key: the %s that this key has made was removed; use another key "
                      "for a new one",
                      what);
}
