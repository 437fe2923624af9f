// What the daemon's tests share: scratch folders, tiny configurations, a store with its neighbours.
#pragma once

#include "daemon/generate/ckpt_cache.h"
#include "daemon/jobs/jobs.h"
#include "daemon/store/metric_store.h"
#include "daemon/store/rows_json.h"
#include "engine/config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

// A fresh folder; removed with everything in it by test_rmdir.
void test_mkdir(char out[256]);
void test_rmdir(const char *dir);

// A network and data set that train at some thousand steps per second. steps: how many.
void test_tiny(struct dr_config *c, int64_t steps);
// The same as a recipe file dir/NAME.json.
void test_tiny_file(const char *dir, const char *name, int64_t steps);

// Store, events, pump, live and jobs over one state folder; no HTTP, no batcher.
struct world {
    char dir[256];
    struct dd_options opt;
    struct dd_store *store;
    struct dd_events *events;
    struct dd_pump *pump;
    struct dd_live *live;
    struct dd_models *models;
    struct dd_jobs *jobs;
};
void world_open(struct world *w, const char *dir); // dir NULL: a fresh one
// The same with a table of job kinds, NULL: the build's.
void world_open_kinds(struct world *w, const char *dir, const struct dd_job_kind *const *kinds);
void world_close(struct world *w); // keeps the folder
// Setup and teardown of cmocka, *state being the world: a fresh one, whose folder goes with it.
int world_setup(void **state);
int world_teardown(void **state);
// A test in the file's `w`, which `open` sets up (world_setup, or more than that).
#define WORLD_TEST(test, open)                                                                     \
    cmocka_unit_test_prestate_setup_teardown(test, open, world_teardown, &w)
// Submits and returns the id.
int64_t world_submit(struct world *w, const struct dr_config *c, int priority);
// Waits up to 90 s (a busy machine) for a state; fails the test otherwise.
void world_wait(struct world *w, int64_t id, const char *state);
void world_wait_step(struct world *w, int64_t id, int64_t step);
void world_state(struct world *w, int64_t id, char out[16]);
int64_t world_count(struct world *w, const char *sql); // SELECT one number
// A metric by name as a table of its own; dd_row.v[0] is its value.
const struct dd_metric_table *test_metric(struct dd_store *s, const char *name);
// All values of one metric, bit for bit: of step 1, 2, 3... without a gap. Returns how many.
int world_values(struct dd_store *s, int64_t job, const char *name, double *v, int max);
