// What the runner measures of an encoder or judge between its steps: accuracy on the test split,
// linear probes, pictures of reconstructions. Belongs to the thread of the trainer's backend.
#pragma once

#include "daemon/generate/grid.h"
#include "engine/drift.h"

struct dd_watch;
// train is borrowed. Without a test split there are no accuracies, and pictures show the training
// split. go_on(ctx) is asked now and then while something is measured: false ends it with
// DR_ECANCELED.
int dd_watch_new(const struct dr_config *cfg, struct dr_backend *be, const struct dr_dataset *train,
                 const char *data_dir, bool (*go_on)(void *ctx), void *ctx, struct dd_watch **out,
                 struct dr_err *err);
void dd_watch_free(struct dd_watch *w); // NULL is fine
// Whether something is to be measured after this step.
bool dd_watch_due(const struct dd_watch *w, int64_t step, bool last);
// Adds test_accuracy and probe_accuracy to *m where they are due; the averaged weights are judged.
int dd_watch_measure(struct dd_watch *w, struct dr_trainer *t, bool last, struct dr_metrics *m,
                     struct dr_err *err);
// Whether this network makes pictures at all.
bool dd_watch_draws(const struct dd_watch *w);
// A grid of test images: as they are, masked, filled in.
int dd_watch_grid(struct dd_watch *w, struct dr_snapshot *s, const char *path,
                  struct dd_grid_file *info, struct dr_err *err);
