// Feature extraction: images to maps, maps to the vectors that each get a drifting loss, and back
// (method.md 7). Three phases per step:
//
//   extract    images [n,C,H,W] -> maps, once per set of images, a chunk at a time, keeping what
//              the backward pass needs where that is wanted; of reals nothing is kept
//   vectors    a map -> the vectors of one feature; their loss; its gradient -> the map's gradient
//   backward   gradients of all maps -> gradient of the images
//
// One row of a table per value of features.kind: a new kind is one file with its row
// (dr_feature_NAME), its line in DR_FEATURES (engine/config/kinds.h), and its tests. `pixel` has
// the image itself as its only map. An encoder has weights, several maps, and activations to keep.
#pragma once

#include "engine/config/config.h"
#include "engine/core/backend.h"
#include "engine/loss/drift.h"
#include "engine/nn/params.h"

#define DR_MAX_FEATURES 320
#define DR_MAX_MAPS 40

struct dr_feature_dim {
    int64_t locations, s; // T location vectors of width S
    real weight;
    char name[48]; // "image", "quadrants", "patch2.mean", "stage2.locations", ...
};
struct dr_map_dim {
    int64_t c, h, w; // a map of n images: [n,c,h,w], with `last` [n,h,w,c]
    bool last;       // channels last: what encoders put out
};
// The frozen network of a kind that runs one. Borrowed: outlives the features.
struct dr_net;
struct dr_feature_net {
    const struct dr_net *net; // an encoder, for images of the data's shape
    const real *weights;      // host, its layout; read by dr_features_load
};
struct dr_features; // immutable description

int dr_features_create(const struct dr_feature_config *cfg, int64_t c, int64_t h, int64_t w,
                       struct dr_features **out, struct dr_err *err);
void dr_features_free(struct dr_features *f);
int dr_features_count(const struct dr_features *f);
struct dr_feature_dim dr_features_dim(const struct dr_features *f, int i);
// Layout of the network's weights, NULL: none.
const struct dr_params *dr_features_params(const struct dr_features *f);
// Fills host[total] with weights that are frozen; not of a kind that learns.
int dr_features_load(const struct dr_features *f, real *host, struct dr_err *err);
// The weights learn beside the generator: they are a group of the optimiser (kde.h).
bool dr_features_learns(const struct dr_features *f);
// Whether feature i is one they learn from: of the network's map, not of the image itself.
bool dr_features_learns_from(const struct dr_features *f, int i);

// The maps of groups * n images, in cx->tmp or, for kinds whose map is the image, the images.
struct dr_maps {
    int64_t groups, n;
    real *map[DR_MAX_MAPS]; // [groups*n, c,h,w]
    int64_t chunk;          // images that are extracted at a time; 0: all
    void **saved;           // one per chunk; NULL: nothing is kept
    int nsaved;
    bool again; // the backward pass computes what it needs once more: `saved` has one entry
    real *x;    // the images
};
// Host memory for what extraction keeps of `images` images; reusable, freed by dr_maps_free. Where
// that would take more than `budget` bytes of cx->keep at the precision `act`, the backward pass
// computes it again, chunk by chunk.
int dr_maps_init(const struct dr_features *f, int64_t images, int64_t chunk, size_t budget,
                 enum dr_dtype act, struct dr_maps *m, struct dr_err *err);
void dr_maps_free(const struct dr_features *f, struct dr_maps *m);

// x: [groups,n,C,H,W], which stays in place as long as the maps are used. m: chunk and saved are
// read, the rest is written. w: the network's weights; NULL where there are none.
void dr_features_extract(struct dr_ctx *cx, const struct dr_features *f, const struct dr_weights *w,
                         real *x, int64_t groups, int64_t n, struct dr_maps *m);
// Feature i of the maps -> out: [groups*T, n, S] (group-major: b = group * T + location). reals:
// what generated images are drawn to and driven from, which differ by the gain of `rms`. norm:
// [groups*T*n] norms for the backward pass, used with `sphere`; NULL when no gradient is wanted.
void dr_features_vectors(struct dr_ctx *cx, const struct dr_features *f, int i,
                         const struct dr_maps *m, bool reals, real *out, real *norm);
// The same before `sphere`, features.standardize and the gain of `rms`; and back, as
// dr_features_vectors_backward.
void dr_features_plain(struct dr_ctx *cx, const struct dr_features *f, int i,
                       const struct dr_maps *m, real *out);
void dr_features_plain_backward(struct dr_ctx *cx, const struct dr_features *f, int i,
                                const struct dr_maps *m, const real *dout,
                                const struct dr_maps *dm);
// What features.standardize subtracts and multiplies by, [groups*T, S] each; rstd NULL: nothing.
struct dr_standard {
    const real *mean, *rstd;
};
// With features.standardize, to call with every set of vectors of feature i: replaces in's pointers
// by vectors in cx->tmp, of which each dimension has mean 0 and variance 1 (1e-6 under the root)
// over the group's generated and positive samples together, then on the sphere where that is on;
// dr_features_vectors then gives vectors before either. Without, and of `rms`, it does nothing.
// norm: as in dr_features_vectors.
void dr_features_standardize(struct dr_ctx *cx, const struct dr_features *f, int i,
                             struct dr_drift_in *in, real *norm, struct dr_standard *st);
// dgen [groups*T, n, S]: the gradient by in->gen on entry, by what dr_features_vectors gave on
// return. The statistics are constants. in, norm, st: as dr_features_standardize left them.
void dr_features_standardize_backward(struct dr_ctx *cx, const struct dr_features *f,
                                      const struct dr_drift_in *in, const real *norm,
                                      const struct dr_standard *st, real *dgen);
// Gradients of m's maps, all zero, in cx->tmp; of the image itself: dx, which is zeroed.
void dr_features_zero_gradients(struct dr_ctx *cx, const struct dr_features *f,
                                const struct dr_maps *m, real *dx, struct dr_maps *dm);
// dm (the map of feature i) accumulates. out, norm: what dr_features_vectors gave.
void dr_features_vectors_backward(struct dr_ctx *cx, const struct dr_features *f, int i,
                                  const struct dr_maps *m, const real *out, const real *norm,
                                  const real *dout, const struct dr_maps *dm);
// dx: [groups,n,C,H,W] = the gradient by the images that m was extracted from, with m->saved; NULL:
// not wanted, of kinds that learn. w->g accumulates the gradients of the weights, NULL: frozen. Of
// kinds that learn it may run again with other gradients dm.
void dr_features_backward(struct dr_ctx *cx, const struct dr_features *f,
                          const struct dr_weights *w, const struct dr_maps *m,
                          const struct dr_maps *dm, real *dx);

// ---- what a kind is made of

// What is taken of a map as location vectors; features.c.
enum dr_pool {
    DR_POOL_WHOLE,
    DR_POOL_QUADRANTS,
    DR_POOL_MEAN,
    DR_POOL_STD,
    DR_POOL_RMS,
    // Of maps with channels last. p x p cells tile the map; p divides both sides. CELLS of p 2 also
    // takes odd sides, whose last row and column are halves of cells.
    DR_POOL_CELLS,      // the mean of each cell, a location each, of width C; p 1: the map itself
    DR_POOL_CELLS_STD,  // its std, sqrt(var + 1e-6)
    DR_POOL_CELLS_WHOLE // the means of all cells as one vector
};

struct dr_feature_kind {
    const char *name; // features.kind
    bool network;     // runs the network of dr_features_create_on
    bool learns;      // its weights learn beside the generator; `load` is NULL
    // Adds maps and features to f for images [C,H,W]; *impl is the kind's own.
    int (*create)(const struct dr_feature_config *cfg, struct dr_map_dim image,
                  struct dr_features *f, void **impl, struct dr_err *err);
    // All NULL where the one map is the image itself.
    void (*destroy)(void *impl);
    const struct dr_params *(*params)(const void *impl);
    int (*load)(const void *impl, real *host, struct dr_err *err);
    void *(*saved_new)(const void *impl); // names what one chunk keeps in cx->keep; NULL: no memory
    void (*saved_free)(void *saved);
    // x: [n,C,H,W] -> every map [n,c,h,w]. saved NULL: nothing is kept.
    void (*extract)(struct dr_ctx *cx, const void *impl, const struct dr_weights *w, const real *x,
                    int64_t n, real *const *map, void *saved);
    // Of the images x that were extracted with `saved`, which may be overwritten, but not by a kind
    // that learns. dx: [n,C,H,W] is overwritten; NULL, of such a kind: not wanted.
    void (*backward)(struct dr_ctx *cx, const void *impl, const struct dr_weights *w, const real *x,
                     int64_t n, real *const *dmap, void *saved, real *dx);
};
const struct dr_feature_kind *dr_feature_kind(int kind); // enum dr_feature_space
// dr_features_create with a kind that need not be in the table.
int dr_features_create_as(const struct dr_feature_kind *kind, const struct dr_feature_config *cfg,
                          struct dr_map_dim image, struct dr_features **out, struct dr_err *err);
// The same with a network for kinds that run one; net NULL or net->net NULL: none is there.
int dr_features_create_on(const struct dr_feature_kind *kind, const struct dr_feature_config *cfg,
                          struct dr_map_dim image, const struct dr_feature_net *net,
                          struct dr_features **out, struct dr_err *err);

// For create. A map's number; a feature of that map. p: side of a patch or cell.
int dr_features_add_map(struct dr_features *f, struct dr_map_dim dim);
void dr_features_add(struct dr_features *f, int map, enum dr_pool pool, int64_t p, double weight,
                     const char *name);
struct dr_feature_net dr_features_net(const struct dr_features *f); // both NULL: none was given
// The features of the image itself that cfg turns on, of map number `map`, which is an image
// [C,H,W]; feature_pixel.c. weight: of all but rms, 0: none of them.
int dr_features_add_pixels(const struct dr_feature_config *cfg, struct dr_map_dim image,
                           struct dr_features *f, int map, double weight, struct dr_err *err);

#define X(ID, name, text) extern const struct dr_feature_kind dr_feature_##name;
DR_FEATURES(X)
#undef X
