// Data sets that users own: pictures that were uploaded, or imported from a folder or an archive,
// decoded once into a file below STATE_DIR/datasets/NAME. Rows are in the table `datasets`.
//
//   uploading -> importing -> ready | failed      (by a path: importing from the start)
//
// One thread imports, one set at a time. A process that ends in the middle leaves nothing half
// made: what was received of an upload stays and can be continued, an import starts again, and a
// set is `ready` only once its file is whole and in its place. At the start, folders that belong to
// no row are put aside as `.lost-NAME-TIME`.
//
// Any thread. The functions return 0 or DR_E* with a sentence in err: ENOENT for an unknown set,
// ECONFLICT where its state refuses, EINVAL for bad input, ENOSPC when the disk is full.
#pragma once

#include "daemon/store/events.h"
#include "engine/drift.h"

enum { DD_DATASET_NAME_MAX = 63 };

struct dd_datasets;
struct dd_datasets_env {
    struct dd_store *store;
    struct dd_events *events;
    const char *data_dir;     // root of relative paths and of the built-in sets; NULL: none
    const char *const *roots; // further folders that sets may be imported from
    int nroots;
    int64_t max_upload; // bytes of one upload in all
    int threads;        // of an import; 0: the machine's default
};

// Cleans up after a process that ended, queues its imports again, starts the thread.
int dd_datasets_start(const struct dd_datasets_env *env, struct dd_datasets **out,
                      struct dr_err *err);
void dd_datasets_stop(struct dd_datasets *d); // an import at work goes on at the next start

// A new set. path: a folder or an archive below the roots; NULL: its archive is uploaded, and
// source (or NULL) describes it. options: an object of the keys in decode.c, or NULL.
struct dd_dataset_new {
    const char *name, *path, *source;
    const json_t *options;
};
// Whether name (NULL: any), path and options are fit for a new set. The first problem is in *err,
// each is appended to *list (or NULL).
int dd_datasets_check(struct dd_datasets *d, const struct dd_dataset_new *in,
                      struct dr_problems *list, struct dr_err *err);
// The same, and makes it. DR_ECONFLICT when the name is taken.
int dd_datasets_create(struct dd_datasets *d, const struct dd_dataset_new *in,
                       struct dr_problems *list, struct dr_err *err);
// Appends the file `part` (in the state folder; consumed in any case) to the upload at `offset`.
// *received: bytes that the upload has now, also on DR_ECONFLICT, which says that `offset` is
// another.
int dd_datasets_append(struct dd_datasets *d, const char *name, int64_t offset, const char *part,
                       int64_t *received, struct dr_err *err);
// The upload is complete: bytes is its size (-1: not known to the client). Queues the import. Also
// tries a set that has failed again, where its source is still there.
int dd_datasets_import(struct dd_datasets *d, const char *name, int64_t bytes, struct dr_err *err);
// DR_ECONFLICT, naming them, while jobs that use the set have not ended.
int dd_datasets_remove(struct dd_datasets *d, const char *name, struct dr_err *err);

// {"datasets": [...]}: those of users by name, then those of the build. NULL: see err.
json_t *dd_datasets_list(struct dd_datasets *d, struct dr_err *err);
json_t *dd_datasets_get(struct dd_datasets *d, const char *name, struct dr_err *err);
// A grid as PNG of the pictures as training sees them: a row per class with n pictures, at most 16
// rows; cls (a number or a name): of this class alone, in rows of 8; NULL: all. Large
// pictures: fewer of them.
int dd_datasets_samples(struct dd_datasets *d, const char *name, const char *cls, int n,
                        struct dr_bytes *png, struct dr_err *err);

// --- for jobs; need the store only ---

// What a configuration has to agree with.
struct dd_dataset_facts {
    int64_t size, channels, classes, train, smallest; // smallest: pictures of the smallest class
    char of_smallest[64];                             // its name, shortened
};
// Of a set that is ready. DR_ENOENT: no user owns a set of that name; DR_ECONFLICT: not ready.
int dd_dataset_facts(struct dd_store *s, const char *name, struct dd_dataset_facts *out,
                     struct dr_err *err);
// A configuration fitted to a set that is ready: from half an hour on the recipe `folder`, else the
// build's for a small CPU, with the set's size, channels and classes, and train.minutes.
int dd_dataset_recipe(struct dd_store *s, const char *config_dir, const char *name, double minutes,
                      struct dr_config *out, struct dr_err *err);
// The folder in which the engine finds data.path: STATE_DIR/datasets for a set that a user owns,
// else data_dir. Into out.
int dd_dataset_dir(struct dd_store *s, const struct dr_data_config *cfg, const char *data_dir,
                   char out[DD_PATH_MAX], struct dr_err *err);
// How the pictures of the set that cfg names were brought to its size: data.fit and data.background
// of a set that a user owns, whatever cfg has; those of other sets stay.
int dd_dataset_fit(struct dd_store *s, struct dr_data_config *cfg, struct dr_err *err);
// Whether cfg reads a folder or a set of that kind, whose data.path may be a user's set.
bool dd_dataset_named(const struct dr_data_config *cfg);
