// Shared by the files of datasets/.
#pragma once

#include "daemon/base/util.h"
#include "daemon/datasets/datasets.h"

// Of a set's folder: what has been received, and how many bytes of it count. From the second part
// on the file may be longer for a while, as parts are copied behind it.
#define DD_DATASET_UPLOAD "upload.archive"
#define DD_DATASET_RECEIVED "upload.received"

struct dd_datasets {
    struct dd_datasets_env env;
    char root[DD_PATH_MAX]; // STATE_DIR/datasets
    pthread_t thread;
    bool started;
    pthread_mutex_t change; // held while files and rows change together; taken before `lock`
    pthread_mutex_t lock;   // of what follows; held for moments only
    pthread_cond_t wake;
    bool closing, woken;
    // The import at work.
    int64_t id; // of its row, 0: none
    int64_t done, total;
    _Atomic bool cancel;
};

// --- rows.c ---

struct dd_dataset_row {
    int64_t id;
    char name[DD_DATASET_NAME_MAX + 1], state[16];
    bool upload;
    char *source, *options; // malloc'd
};
void dd_dataset_row_free(struct dd_dataset_row *r);
int dd_dataset_row_get(struct dd_store *s, const char *name, struct dd_dataset_row *out,
                       struct dr_err *err);
// The oldest row in state `importing`; DR_ENOENT: none.
int dd_dataset_row_next(struct dd_store *s, struct dd_dataset_row *out, struct dr_err *err);
int dd_dataset_row_insert(struct dd_store *s, const struct dd_dataset_row *r, struct dr_err *err);
int dd_dataset_row_importing(struct dd_store *s, int64_t id, struct dr_err *err);
int dd_dataset_row_failed(struct dd_store *s, int64_t id, const char *error, const json_t *report,
                          struct dr_err *err);
// DR_ECONFLICT names the jobs that have not ended and use the set.
int dd_dataset_row_delete(struct dd_store *s, const struct dd_dataset_row *r, struct dr_err *err);

// What an import has found out.
struct dd_dataset_result {
    int64_t size, channels, train, test, bytes;
    char fingerprint[20];
    json_t *classes; // [{"name", "train", "test"}]
    json_t *report;  // {"skipped": N, "reasons": [{"file", "reason"}], ...}
};
void dd_dataset_result_free(struct dd_dataset_result *r);
// Makes the row `ready`, unless it has been removed meanwhile: DR_ENOENT.
int dd_dataset_row_done(struct dd_store *s, int64_t id, const struct dd_dataset_result *r,
                        struct dr_err *err);
// As in the API. Calls fn for each row, by name; name NULL: all, without `classes` and `report`,
// which may be megabytes each.
int dd_dataset_rows(struct dd_store *s, const char *name, void (*fn)(void *arg, json_t *row),
                    void *arg, struct dr_err *err);

// --- decode.c: the engine's import ---

// What is wrong with a request: every problem in list (or NULL), the first one in err and as rc.
struct dd_dataset_faults {
    struct dr_problems *list;
    struct dr_err *err;
    int rc;
};
void dd_dataset_fault(struct dd_dataset_faults *f, const struct dr_err *e);
// Whether `options` holds known keys with values in their ranges; fills the defaults in, as the row
// keeps them. A new reference, or NULL where f holds a fault; those found here are at
// `options.KEY`.
json_t *dd_dataset_options(const json_t *options, struct dd_dataset_faults *f);
struct dd_decode {
    const char *source, *cache; // the archive or folder; the file to write, atomically
    const json_t *options;
    int threads; // 0: the machine's default
    const _Atomic bool *cancel;
    void (*progress)(void *arg, int64_t done, int64_t total); // from the calling thread
    // Whether there is room for `bytes` more on the disk, as dd_dataset_room says it; asked time
    // and again, and an import ends with its error. NULL: there is.
    int (*room)(void *arg, int64_t bytes, struct dr_err *err);
    void *arg;
};
int dd_dataset_decode(const struct dd_decode *in, struct dd_dataset_result *out,
                      struct dr_err *err);

// --- files.c ---

// A file of a set's folder; NULL: the folder.
int dd_dataset_path(const struct dd_datasets *d, const char *name, const char *file,
                    char out[DD_PATH_MAX], struct dr_err *err);
// The picture file, NAME/NAME.pictures: where the engine looks for data.path NAME below NAME.
int dd_dataset_file(const struct dd_datasets *d, const char *name, char out[DD_PATH_MAX],
                    struct dr_err *err);
int64_t dd_file_size(const char *path); // -1: there is none
// DR_ENOSPC with a sentence unless `bytes` more fit and DD_MIN_FREE is left. For imports:
// ask while they write, as nobody knows beforehand what a source comes to.
int dd_dataset_room(const struct dd_datasets *d, int64_t bytes, struct dr_err *err);
// Bytes of an upload that have been acknowledged, or may be.
int64_t dd_upload_received(const struct dd_datasets *d, const char *name);
// Adds the file `part` at the end of that, whole and durable when it returns; on an error, and
// where the process is killed meanwhile, the upload stays as it was.
int dd_upload_add(const struct dd_datasets *d, const char *name, const char *part,
                  struct dr_err *err);
// Cuts off what a killed process has left behind the upload's end: nothing more will come.
int dd_upload_complete(const struct dd_datasets *d, const char *name, struct dr_err *err);
// The real path of a file or folder below the roots. DR_EINVAL names no path that lies elsewhere.
int dd_dataset_confine(const struct dd_datasets *d, const char *path, char out[DD_PATH_MAX],
                       struct dr_err *err);
// Puts aside what belongs to no row; removes what was half removed or half written.
int dd_dataset_sweep(struct dd_datasets *d, struct dr_err *err);

// --- builtin.c: the sets of the build ---

void dd_builtin_sets(const struct dd_datasets *d, json_t *list);
json_t *dd_builtin_json(const struct dd_datasets *d, const char *name); // NULL: there is none
// Whether sets.def has this name.
bool dd_builtin_set(const char *name);
// A data section that loads such a set, for a look at it. False: there is none.
bool dd_builtin_config(const char *name, struct dr_data_config *out);
