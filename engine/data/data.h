// Data sets in host memory, indexed by class (method.md 1.5). Immutable after load; any thread.
//
// Images are uint8 [n,C,H,W] (pixel p stands for p / 127.5 - 1) or, for the 2-D toys, real [n,2].
#pragma once

#include "engine/config/config.h"
#include "engine/core/rng.h"

struct dr_dataset {
    int64_t n, c, h, w, classes;
    uint8_t *pixels;      // [n,c,h,w] or NULL
    real *points;         // [n,2] for toys (c = 2, h = w = 1), or NULL
    int32_t *label;       // [n]
    int64_t *class_start; // [classes + 1] into by_class
    int64_t *by_class;    // image numbers grouped by class
    uint64_t fingerprint; // FNV-1a over pixels/points, labels and shape
    char name[64];
    char class_name[64][24]; // of the first 64 classes; empty: the number
};

// Builds or reads what cfg names, fitted to cfg->size. data_dir: root of data sets (searched as
// data_dir/path, data_dir/set, then data_dir itself; $DRIFTD_DATA in the same way first); may be
// NULL. The test split of a set made by code has count / 5 other images. Errors name the file and
// what was expected.
int dr_dataset_load(const struct dr_data_config *cfg, const char *data_dir, bool test_split,
                    struct dr_dataset **out, struct dr_err *err);
void dr_dataset_free(struct dr_dataset *d);
// Image i as reals in [-1,1], [c,h,w] (points: [2]).
void dr_dataset_get(const struct dr_dataset *d, int64_t i, real *out);

// Readers, for tests and importers. idx files may be plain or gzip; shape and magic are checked.
int dr_idx_read_images(const char *path, uint8_t **pixels, int64_t *n, int64_t *h, int64_t *w,
                       struct dr_err *err);
int dr_idx_read_labels(const char *path, uint8_t **labels, int64_t *n, struct dr_err *err);
// Stroke digit `cls` number `index` of `seed`, drawn by code into gray [size,size].
void dr_digit_draw(uint64_t seed, uint64_t index, int cls, int64_t size, uint8_t *gray);

// Draws the reals of one step. Exact: without replacement within a step from the class index;
// queue: per-class ring queues and one global queue (A.8). A function of (seed, step) and, for
// queues, the steps before; its state is saved and restored for exact resume. The data set is
// borrowed. DR_ECONFIG when a class or a queue holds fewer images than a step asks for.
struct dr_reals;
int dr_reals_create(const struct dr_config *cfg, const struct dr_dataset *d, struct dr_reals **out,
                    struct dr_err *err);
void dr_reals_free(struct dr_reals *r);
// pos: [nclass, P] image numbers of the classes asked for; unc: [U]. Advances queues.
void dr_reals_draw(struct dr_reals *r, uint64_t step, const int32_t *classes, int64_t nclass,
                   int64_t *pos, int64_t *unc);
size_t dr_reals_state_size(const struct dr_reals *r); // bytes; 0 for exact
void dr_reals_state_get(const struct dr_reals *r, void *out);
int dr_reals_state_set(struct dr_reals *r, const void *in, size_t bytes, struct dr_err *err);
