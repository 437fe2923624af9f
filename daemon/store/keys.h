// Idempotency keys: those of jobs are rows of `idempotency`, sweeps have theirs. A repeated request
// must not make a second one for seven days, nor for another seven once it has been removed: such
// keys are rows of `meta`.
#pragma once

#include "daemon/base/util.h"
#include "daemon/store/store.h"

#define DD_KEY_DAYS 7
// Keys from before this time are free again.
static inline int64_t dd_key_since(void) {
    return dd_wall_us() - DD_KEY_DAYS * INT64_C(86400000000);
}

// Within a closure of the store. what: "job" or "sweep"; from: a SELECT of `key` whose parameter ?2
// is id. Forgets those that are older.
int dd_key_retire(sqlite3 *db, const char *what, const char *from, int64_t id, struct dr_err *err);
// DR_EGONE where the key is one of them.
int dd_key_check(sqlite3 *db, const char *what, const char *key, struct dr_err *err);
