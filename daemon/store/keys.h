// Idempotency keys whose job or sweep has been removed: a repeated request must not make a second
// one for another seven days. They are rows of `meta`.
#pragma once

#include "daemon/store/store.h"

// Within a closure of the store. what: "job" or "sweep"; from: a SELECT of `key` whose parameter ?2
// is id. Forgets those that are older.
int dd_key_retire(sqlite3 *db, const char *what, const char *from, int64_t id, struct dr_err *err);
// DR_EGONE where the key is one of them.
int dd_key_check(sqlite3 *db, const char *what, const char *key, struct dr_err *err);
