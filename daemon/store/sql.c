// SQL helpers for closures and readers (store.h).
#include "daemon/store/store.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>

static atomic_bool damaged;

bool dd_sql_damaged(void) {
    return atomic_load(&damaged);
}

// Quotas and limits on files are full disks, too.
static bool no_room(sqlite3 *db, int code) {
    const int e = sqlite3_system_errno(db);
    return code == SQLITE_FULL || (code == SQLITE_IOERR && (e == EDQUOT || e == EFBIG));
}

int dd_sql_fail(sqlite3 *db, struct dr_err *err, const char *what) {
    int code = sqlite3_errcode(db);
    if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
        atomic_store(&damaged, true);
    return dr_fail(err,
                   no_room(db, code)      ? DR_ENOSPC
                   : code == SQLITE_NOMEM ? DR_ENOMEM
                   : code == SQLITE_BUSY  ? DR_EBUSY
                                          : DR_EIO,
                   "database: %s (%.100s)", sqlite3_errmsg(db), what);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql, const char *types, va_list ap) {
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
        return NULL;
    for (int i = 1; types && *types; types++, i++) {
        const char *t;
        double d;
        switch (*types) {
        case 'i':
            sqlite3_bind_int64(st, i, va_arg(ap, int64_t));
            break;
        case 'd':
            d = va_arg(ap, double);
            if (isfinite(d))
                sqlite3_bind_double(st, i, d);
            break;
        default:
            t = va_arg(ap, const char *);
            if (t)
                sqlite3_bind_text(st, i, t, -1, SQLITE_TRANSIENT);
        }
    }
    return st;
}

sqlite3_stmt *dd_sql_prepare(sqlite3 *db, struct dr_err *err, const char *sql, const char *types,
                             ...) {
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = prepare(db, sql, types, ap);
    va_end(ap);
    if (!st)
        dd_sql_fail(db, err, sql);
    return st;
}

int dd_sql_run(sqlite3 *db, struct dr_err *err, const char *sql, const char *types, ...) {
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = prepare(db, sql, types, ap);
    va_end(ap);
    int rc = st ? sqlite3_step(st) : SQLITE_ERROR;
    int out = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : dd_sql_fail(db, err, sql);
    sqlite3_finalize(st);
    return out;
}

int64_t dd_sql_one(sqlite3 *db, int64_t def, const char *sql, const char *types, ...) {
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = prepare(db, sql, types, ap);
    va_end(ap);
    if (st && sqlite3_step(st) == SQLITE_ROW && sqlite3_column_type(st, 0) != SQLITE_NULL)
        def = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return def;
}
