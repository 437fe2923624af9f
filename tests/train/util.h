// Shared by the tests of engine/train: a CPU backend, small configurations, the first losses of a
// run.
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/core/backend.h"
#include "engine/drift.h"
#include "engine/nn/params.h"

struct run {
    struct dr_backend *be;
    struct dr_dataset *data;
    struct dr_trainer *t;
};

// Defaults changed by NULL-terminated assignments.
void config_of(struct dr_config *c, const char *const *set);
// All of them at once, so that their order does not matter; fails the test with the sentence.
void config_change(struct dr_config *c, const char *const *set);
void recipe(struct dr_config *c, const char *name);
void run_open(struct run *r, const struct dr_config *c);
struct dr_trainer_parts; // engine/train/objective.h
void run_open_of(struct run *r, const struct dr_config *c, const struct dr_trainer_parts *parts);
void run_close(struct run *r);
// n steps; the losses into loss[n] when it is not NULL. Returns the last metrics.
struct dr_metrics run_steps(struct run *r, int n, double *loss);
// n samples of one class from the EMA, seed 1.
void run_sample(struct run *r, int32_t cls, int64_t n, real *x);
void run_save(struct run *r, const char *path); // a checkpoint
// float32 tensors of a file whose names begin so, one after the other, malloc'd; returns how many
// values.
int64_t run_tensors(const char *path, const char *prefix, float **out);
// A file below the build folder's scratch.
const char *scratch_path(const char *name);
extern const char *const tiny_digits[]; // a small digits run, about 10 ms a step
extern const char *const tiniest[];     // digits of 8x8 pixels, for the emulated GPU
