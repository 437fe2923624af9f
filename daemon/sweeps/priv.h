// What the files of this folder share.
#pragma once

#include "daemon/sweeps/sweeps.h"

// The file of a sweep as JSON, new reference; NULL: DR_ENOENT or what the store failed with.
json_t *dd_sweep_file(sqlite3 *db, int64_t id, struct dr_err *err);
json_t *dd_sweep_table_of(sqlite3 *db, int64_t id, struct dr_err *err);
// What the rows of that table share which are of one configuration at one rung; malloc'd. Labels
// are for people: they are cut.
char *dd_sweep_key(const json_t *row);
// Whether the name is that of a metric of evaluations.
bool dd_sweep_evaluated(const char *metric);
// Whether the training of this configuration reports the metric (problem.c).
bool dd_sweep_reports(const struct dr_config *c, const char *metric);
// The problem that no run does, with the nearest one that c has.
void dd_sweep_no_metric(json_t *problems, const char *field, const char *metric,
                        const struct dr_config *c);
// The mean of a list of numbers, its standard deviation (NaN for fewer than two) and how many.
struct dd_sweep_spread {
    double mean, sd;
    int n;
};
struct dd_sweep_spread dd_sweep_spread(const json_t *list);

// States of a sweep's jobs that are on their way.
#define DD_SWEEP_OPEN "('queued','running','stopping')"
// Jobs of sweep ?1 and the evaluations that belong to them.
#define DD_SWEEP_JOBS "(j.sweep=?1 OR j.parent IN (SELECT id FROM jobs WHERE sweep=?1))"
