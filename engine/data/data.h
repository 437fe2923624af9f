// Data sets, indexed by class (method.md 1.5). Immutable once loaded; any thread.
//
// A set is a file of this folder and a row of sets.def. Its values are in memory where they fit
// (procedurally generated, read, or mapped) and are fetched by number where they do not.
#pragma once

#include "engine/config/config.h"
#include "engine/core/rng.h"

struct dr_dataset {
    int64_t n, c, h, w, classes; // a point: c = 2, h = w = 1
    int kind;                    // enum dr_kind
    // All values in memory, one or none of the two; none: rows() fetches them.
    const uint8_t *pixels;   // images: [n,c,h,w], pixel p stands for p / 127.5 - 1
    const real *points;      // points and latents: [n,c,h,w]
    int32_t *label;          // [n]
    int64_t *class_start;    // [classes + 1] into by_class
    int64_t *by_class;       // sample numbers grouped by class
    uint64_t fingerprint;    // FNV-1a over shape, values and labels
    const char *name;        // the row's
    char *const *class_name; // [classes] UTF-8; NULL: the classes have numbers only
    // Samples ids[n] as stored (uint8 or real, see `kind`), in their order, into out. May be called
    // by several threads at once. Fails with DR_EIO, or another code of the source.
    int (*rows)(const struct dr_dataset *d, const int64_t *ids, int64_t n, void *out,
                struct dr_err *err);
    // What was read is what the set held; NULL: it always is. DR_EIO, naming the file, where it was
    // truncated meanwhile.
    int (*intact)(const struct dr_dataset *d, struct dr_err *err);
    void *own;                             // of the set's own file
    void (*release)(struct dr_dataset *d); // frees own and the values; NULL: nothing to free
};

// Makes or reads what cfg names, fitted to cfg->size. data_dir: root of data sets (searched as
// data_dir/path, data_dir/set, then data_dir itself; $DRIFTD_DATA in the same way first); may be
// NULL. Test split: for procedurally generated sets, count / 5 other samples. Errors name the file
// and what was expected.
int dr_dataset_load(const struct dr_data_config *cfg, const char *data_dir, bool test_split,
                    struct dr_dataset **out, struct dr_err *err);
// The training split of data.set folder with the classes that it has, whatever cfg->classes says.
int dr_dataset_load_folder(const struct dr_data_config *cfg, const char *data_dir,
                           struct dr_dataset **out, struct dr_err *err);
// Numbers the classes anew, before the set is used: class k becomes to[k] of `classes`. Names go.
int dr_dataset_renumber(struct dr_dataset *d, const int64_t *to, int64_t classes,
                        struct dr_err *err);
void dr_dataset_free(struct dr_dataset *d);
// Whether dr_dataset_load finds the files of the training split, by their names: a moment's look.
// Sets that are generated are always there.
bool dr_dataset_found(const struct dr_data_config *cfg, const char *data_dir);
// Bytes of a sample as stored.
size_t dr_dataset_row_bytes(const struct dr_dataset *d);
// All samples [n,c,h,w] as stored, or NULL when only rows() has them.
const void *dr_dataset_all(const struct dr_dataset *d);
// The same as d->rows, from memory where the values are there.
int dr_dataset_rows(const struct dr_dataset *d, const int64_t *ids, int64_t n, void *out,
                    struct dr_err *err);
// Whether values that were read from dr_dataset_all are the set's: for who does not use rows, which
// fails by itself. Ask after reading. 0, or DR_EIO.
int dr_dataset_intact(const struct dr_dataset *d, struct dr_err *err);
// Samples as reals, pixels in [-1,1]: [n,c,h,w].
int dr_dataset_reals(const struct dr_dataset *d, const int64_t *ids, int64_t n, real *out,
                     struct dr_err *err);

// Readers, for tests and importers. idx files may be plain or gzip; shape and magic are checked.
int dr_idx_read_images(const char *path, uint8_t **pixels, int64_t *n, int64_t *h, int64_t *w,
                       struct dr_err *err);
int dr_idx_read_labels(const char *path, uint8_t **labels, int64_t *n, struct dr_err *err);
// Stroke digit `cls` number `index` of `seed`, drawn into gray [size,size].
void dr_digit_draw(uint64_t seed, uint64_t index, int cls, int64_t size, uint8_t *gray);

// Draws the reals of one step. Exact: without replacement within a step from the class index;
// queue: one ring queue per class and a global one (A.8). A function of (seed, step) and, for
// queues, the steps before; its state is saved and restored for exact resume. The data set is
// borrowed. DR_ECONFIG when a class or a queue holds fewer samples than a step asks for.
struct dr_reals;
int dr_reals_create(const struct dr_config *cfg, const struct dr_dataset *d, struct dr_reals **out,
                    struct dr_err *err);
void dr_reals_free(struct dr_reals *r);
// pos: [nclass, P] sample numbers of the classes asked for; unc: [U]. Advances queues.
void dr_reals_draw(struct dr_reals *r, uint64_t step, const int32_t *classes, int64_t nclass,
                   int64_t *pos, int64_t *unc);
// How n reals of a step are seen: random mirroring and shifts of cfg->flip and cfg->crop as the op
// gather takes them (ops.h), view [n,3]. A function of (seed, step, first + i): sample i of this
// call is the step's number first + i.
bool dr_reals_have_views(const struct dr_data_config *cfg);
void dr_reals_views(const struct dr_data_config *cfg, uint64_t seed, uint64_t step, int64_t first,
                    int64_t n, int32_t *view);
size_t dr_reals_state_size(const struct dr_reals *r); // bytes; 0 for exact
void dr_reals_state_get(const struct dr_reals *r, void *out);
int dr_reals_state_set(struct dr_reals *r, const void *in, size_t bytes, struct dr_err *err);
