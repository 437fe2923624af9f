// Names of metrics: the table of a training objective, and rows of values in its order. Rows in the
// database carry ids of the table metric_names, which the writer looks up (or creates) by name, so
// a new metric changes nothing about those already stored.
#pragma once

#include "daemon/base/ring.h"
#include "engine/train/trainer.h"

struct dd_metric_table {
    int n;
    struct dr_metric_def def[DR_MAX_METRICS];
};
// Every table in use; the store owns one (dd_store_metrics). Any thread.
struct dd_metric_tables;
struct dd_metric_tables *dd_metric_tables_new(void);
void dd_metric_tables_free(struct dd_metric_tables *all);
// The table of these definitions (copied), the same one for the same names and help. Lives as long
// as `all` does.
const struct dd_metric_table *dd_metric_table(struct dd_metric_tables *all,
                                              const struct dr_metric_def *def, int n);
int dd_metric_index(const struct dd_metric_table *t, const char *name); // -1: none; t may be NULL
// The value of that name, NAN when the row does not have it.
double dd_row_value(const struct dd_row *row, const char *name);
// What the step measured, as a row. t: the table of the trainer's dr_trainer_metrics.
void dd_metric_row(const struct dd_metric_table *t, const struct dr_metrics *m, int64_t job,
                   double seconds, struct dd_row *row);
