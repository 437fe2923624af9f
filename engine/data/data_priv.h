// Shared by the files of engine/data, and by tests that bring a set of their own.
#pragma once

#include "engine/config/path.h"
#include "engine/data/data.h"

// Test images of the procedurally generated sets come from another range of indices than training
// images.
#define DR_DATA_TEST_INDEX ((uint64_t)1 << 40)

// What a set is asked for.
struct dr_set_query {
    const struct dr_data_config *cfg;
    const char *name;     // of the row
    const char *data_dir; // NULL: none
    bool test;            // split
    bool look;            // whether it is there is all that is asked: nothing is read
    bool labelled;        // data.classes 0 means all classes that there are
};
// The function of a row in sets.def. d comes with kind, name and classes set, the rest zero; it
// gets n, c, h, w, label [n] (malloc'd), and either pixels or points or rows, with own and release
// as they need; class names by dr_dataset_name; fingerprint where it is known, else that is taken
// over all values. On an error dr_dataset_free frees what is there. A look leaves d as it is; sets
// that are generated are never asked for one.
typedef int dr_set_open(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err);

#define DR_SET(id, open, ...) dr_set_open open;
#include "engine/data/sets.def"
#undef DR_SET

// dr_dataset_load for a row that is not in the table.
int dr_dataset_open(dr_set_open *open, const struct dr_set_facts *facts,
                    const struct dr_set_query *q, struct dr_dataset **out, struct dr_err *err);

// --- for the sets' own files ---

// Samples to generate: data.count to train on, a fifth of that (at least 16) to test with.
int64_t dr_made_count(const struct dr_set_query *q);
// How many samples are generated between two looks at whether the set is still wanted: a fraction
// of a second's work.
int64_t dr_made_share(const struct dr_dataset *d);
// Tells dr_pictures_watch's function that `done` of d->n are there. DR_ECANCELED: it wants no more.
int dr_made_go_on(const struct dr_dataset *d, int64_t done, struct dr_err *err);
// Allocates label and values for d->n samples [c,h,w] in memory; *values (uint8 or real, by
// d->kind) is to be filled.
int dr_dataset_alloc(struct dr_dataset *d, void **values, struct dr_err *err);
// Names class k; all classes are to be named, or none. UTF-8 of any length.
int dr_dataset_name(struct dr_dataset *d, int64_t k, const char *name, struct dr_err *err);
// FNV-1a, as the fingerprint of a data set.
uint64_t dr_fnv1a(uint64_t h, const void *data, size_t n);
#define DR_FNV1A_START UINT64_C(0xcbf29ce484222325)
// Whether data.fit can bring images of h x w to data.size; then one plane [h,w] to [size,size].
// Fails without memory only.
int dr_fit_check(const struct dr_data_config *cfg, int64_t h, int64_t w, struct dr_err *err);
int dr_fit_plane(const struct dr_data_config *cfg, const uint8_t *in, int64_t h, int64_t w,
                 uint8_t *out, struct dr_err *err);
