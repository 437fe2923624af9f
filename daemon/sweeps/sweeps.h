// Sweeps: many runs and their evaluations from one file (docs/ablations.md). A sweep is a row of
// `sweeps`, a row of `sweep_cells` per configuration and seed, and a job per cell; its state is
// that of its jobs, so whatever process has the database goes on with it. Any thread; DR_E* with a
// sentence in err.
//   spec.c    the file: axes, seeds, search; every cell with its overrides
//   draw.c    values drawn from ranges
//   write.c   submission, stop, resume, removal
//   halving.c the next rung of a search by successive halving
//   read.c    lists and one sweep as JSON
//   table.c   means and spreads over seeds: JSON, CSV, Markdown
//   curve.c   a metric over steps, one series per configuration
#pragma once

#include "daemon/jobs/jobs.h"

#include <jansson.h>

enum { DD_SWEEP_MAX_CELLS = 1000, DD_SWEEP_MAX_PROBLEMS = 24, DD_SWEEP_LABEL = 160 };
enum { DD_SWEEP_MAX_KEYS = 500 }; // that a run changes; there are fewer in a configuration

// --- the file ---

struct dd_sweep_cell {
    char label[DD_SWEEP_LABEL]; // "kernel, set size 8", without the seed
    json_t *params;             // {"recipe": "kernel", "set size": "8"}: what tells it from others
    const json_t *config;       // a recipe's name or an object; part of the file
    json_t *overrides;          // dotted keys, `train.seed` and `eval.*` among them
    json_t *from;               // of each key of the overrides: where the file has it
    char recipe[96];            // where the file has the recipe
    int64_t seed;
};
// A search by successive halving; keep 0: none. Rung r trains each configuration that is left with
// key = min * keep^r, at most max; the best of every `keep` go on.
struct dd_sweep_halving {
    int keep, rungs;
    char key[64], metric[64];
    bool whole; // the budget is a whole number
    bool most;  // the greatest value of the metric is the best one
    double min, max;
};
struct dd_sweep_spec {
    const char *name; // part of the file
    int priority;
    struct dd_sweep_halving halving;
    int n;
    struct dd_sweep_cell *cell;
};
// Adds {"field", "message"} to the list, up to DD_SWEEP_MAX_PROBLEMS different ones.
void dd_sweep_problem(json_t *problems, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// Reads the whole file. false: problems says what is wrong, each with the path of its key. The file
// must outlive *out. Free *out in both cases.
bool dd_sweep_parse(const json_t *file, struct dd_sweep_spec *out, json_t *problems);
void dd_sweep_spec_free(struct dd_sweep_spec *s);
// The budget of a rung as overrides {"train.steps": 400}, new reference.
json_t *dd_sweep_budget(const struct dd_sweep_halving *h, int rung);
// `count` points {"optim.lr": 0.003, ...} out of ranges, the same for the same seed; new reference.
// NULL: problems says why.
json_t *dd_sweep_draw(const json_t *ranges, int64_t count, int64_t seed, json_t *problems);

// The configuration of a cell: `config` (a recipe's name or an object) with these overrides. Errors
// are at the key; all that concern keys go to *list.
typedef int dd_sweep_build(void *ctx, const json_t *config, const json_t *overrides,
                           struct dr_config *out, struct dr_problems *list, struct dr_err *err);

// --- writing ---

struct dd_sweep_new {
    const json_t *file;
    dd_sweep_build *build;
    void *ctx;
    const char *key, *fingerprint; // idempotency, NULL: none
    bool check;                    // only check
};
struct dd_sweep_made {
    int64_t id;
    bool replayed;
    int cells;
    json_t *preview; // of a check: [{"label", "seed"}], new reference
};
// Everything or nothing. DR_ECONFIG with `problems` filled where the file is wrong.
int dd_sweep_create(struct dd_jobs *j, const struct dd_sweep_new *in, struct dd_sweep_made *out,
                    json_t *problems, struct dr_err *err);
// Stops what waits or runs; what has ended stays. DR_ENOENT.
int dd_sweep_stop(struct dd_jobs *j, int64_t id, struct dr_err *err);
// Queues again what was stopped or has failed, and anew what was removed.
int dd_sweep_resume(struct dd_jobs *j, int64_t id, struct dr_err *err);
// DR_ECONFLICT while it is open. jobs: with its jobs, their checkpoints and samples, all of them
// or, where one of them cannot be removed, none and DR_ECONFLICT.
int dd_sweep_remove(struct dd_jobs *j, int64_t id, bool jobs, struct dr_err *err);
// Starts the rungs that are due; for dd_jobs_env.between, ctx: a struct dd_jobs **.
void dd_sweeps_between(void *ctx);

// --- reading ---

// {"sweeps": [...]}, newest first.
json_t *dd_sweeps_json(struct dd_store *s, const char *cursor, int limit, char *next,
                       size_t next_size, struct dr_err *err);
// One, with its file, cells and table.
json_t *dd_sweep_json(struct dd_store *s, int64_t id, struct dr_err *err);
// {"metrics": [...], "params": [...], "rows": [...]}
json_t *dd_sweep_table(struct dd_store *s, int64_t id, struct dr_err *err);
enum dd_sweep_format { DD_SWEEP_CSV, DD_SWEEP_MARKDOWN };
// The same as text; *text is malloc'ed.
int dd_sweep_text(struct dd_store *s, int64_t id, enum dd_sweep_format f, char **text, size_t *size,
                  struct dr_err *err);
// A curve as dd_eval_plot takes it. metric NULL: the first of the table.
json_t *dd_sweep_curve(struct dd_store *s, int64_t id, const char *metric, struct dr_err *err);
