// What an encoder or judge in training is worth: accuracy on the test split, a linear probe of its
// frozen features, pictures of what it reconstructs. On snapshots, between steps; host memory.
#pragma once

#include "engine/data/data.h"
#include "engine/sample/encode.h"

struct dr_judge; // one data set's images and a runner; belongs to the thread of its backend

// test: the split to judge on; train: to fit probes on. Both are borrowed. EINVAL: their images
// differ.
int dr_judge_create(struct dr_backend *be, int precision, const struct dr_dataset *train,
                    const struct dr_dataset *test, struct dr_judge **out, struct dr_err *err);
void dr_judge_free(struct dr_judge *j); // NULL is fine
// Asked before each few images of all that follows: false ends it with DR_ECANCELED. NULL: nobody
// is asked.
void dr_judge_watch(struct dr_judge *j, bool (*go_on)(void *ctx), void *ctx);

// Share of `count` images, evenly spaced over the test split (0: all), whose label is the greatest
// logit. EINVAL for a network without logits.
int dr_judge_accuracy(struct dr_judge *j, struct dr_snapshot *s, int64_t count, double *out,
                      struct dr_err *err);
// Ridge regression of the labels (as one-hot vectors) on the globally averaged last map of the
// network's encoder, standardised; fitted on train_count images of the training split, its accuracy
// measured on test_count of the test split (evenly spaced, 0: all). The penalty is fixed, so that
// probes can be compared.
int dr_judge_probe(struct dr_judge *j, struct dr_snapshot *s, int64_t train_count,
                   int64_t test_count, double *out, struct dr_err *err);
// n test images, as they are, masked, and with the masked squares filled in by the network:
// out [3 n, C,H,W], three images in a row. Masks are a function of the image's number. EINVAL for a
// network without a reconstruction.
int dr_judge_reconstruct(struct dr_judge *j, struct dr_snapshot *s, int64_t n, int64_t p,
                         double probability, real *out, struct dr_err *err);
