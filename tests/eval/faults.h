// Sources of images with one known fault each, made of real ones: what metrics must notice.
#pragma once

#include "engine/drift.h"

#define FAULTS(X)                                                                                  \
    X(NONE, "real test images")                                                                    \
    X(BLURRED, "blurred")                                                                          \
    X(NOISED, "noised")                                                                            \
    X(SWAPPED, "classes swapped")                                                                  \
    X(ONE, "one image per class")                                                                  \
    X(COPIED, "copied from train")                                                                 \
    X(HALF, "half of the classes")

enum fault {
#define X(ID, name) FAULT_##ID,
    FAULTS(X)
#undef X
        FAULT_COUNT
};
extern const char *const fault_names[FAULT_COUNT];

// n images of the test split (of the training split for COPIED) with the fault, classes in the
// proportions of the training split.
// The data sets are borrowed. *out is the caller's: dr_eval_source_free.
int fault_source(enum fault f, const struct dr_dataset *train, const struct dr_dataset *test,
                 int64_t n, struct dr_eval_source **out, struct dr_err *err);
