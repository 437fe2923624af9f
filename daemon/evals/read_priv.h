// What read.c and csv.c share: rows of evaluations out of the database.
#pragma once

#include "daemon/evals/evals.h"

// Rows that match, in an order (SQL), with ids under `below`. metric: "" or the one that order_by
// calls v.value.
sqlite3_stmt *dd_eval_select(sqlite3 *db, const struct dd_eval_query *q, const char *metric,
                             const char *order_by, int64_t below, int64_t limit, int64_t offset,
                             struct dr_err *err);
// The current row; new reference.
json_t *dd_eval_row_json(struct dd_store *s, sqlite3 *db, sqlite3_stmt *st, bool details);
