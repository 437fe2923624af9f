// Private to engine/eval: judges at work, what is kept of the images they see, saved states.
#pragma once

#include "engine/eval/eval.h"
#include "engine/eval/fid_input.h"
#include "engine/io/safetensors.h"
#include "engine/io/sha256.h"
#include "engine/sample/encode.h"

enum { EVAL_LEVELS = 16, EVAL_PER_CLASS = 1000 };

// source.c: the key of what has been digested: the first half of the sum.
void eval_key(struct dr_sha256 *sum, char key[33]);

// ---- judge.c: features and logits of images

struct eval_judge {
    struct dr_eval_judge as; // with a reference to the snapshot
    struct dr_fid_way way;   // of Inception's images
    struct dr_encode *run;
    int features, logits;              // outputs; logits -1: none
    struct dr_net_shape map;           // of the features' output
    int64_t d, classes;                // features; logits, 0: none
    int64_t c, h, w, chunk;            // images; how many at once, always the same
    real *in, *maps, *feature, *logit; // of a chunk
};
int eval_judge_open(struct dr_backend *be, const struct dr_eval_judge *as, int precision, int64_t c,
                    int64_t h, int64_t w, struct eval_judge **out, struct dr_err *err);
void eval_judge_close(struct eval_judge *j); // NULL is fine
// Of n <= chunk images x into j->feature [n,d] and j->logit [n,classes].
int eval_judge_run(struct eval_judge *j, const real *x, int64_t n, struct dr_err *err);
void eval_judge_digest(const struct eval_judge *j, struct dr_sha256 *sum);

// ---- tally.c: what is kept of images, one after the other

struct eval_tally {
    const struct dr_eval_config *cfg;
    struct dr_moments *against; // borrowed: distances to these are taken; NULL: none
    int64_t d, logits, classes, planned, cap;
    int64_t n; // images so far
    // Moments of parts, merged like a binary counter; open: of the part at hand.
    struct dr_moments *open, *level[EVAL_LEVELS];
    int64_t blocks, part;
    double fd[EVAL_LEVELS], fd_square; // sums of distances of parts so large; of squares at level 0
    int64_t fds[EVAL_LEVELS];
    real *rows;         // [cap,d], of the first images
    int32_t *cls;       // [cap]
    double *p, *plogp;  // [splits,logits], [splits]
    int64_t *count;     // [splits]
    int64_t *confusion; // [classes,logits]; NULL where these are not the same classes
};
struct eval_plan {
    int64_t n, cap; // images to come; features of how many are kept
    bool moments, logits, parts;
};
int eval_tally_create(const struct dr_eval_config *cfg, const struct eval_judge *j, int64_t classes,
                      const struct eval_plan *plan, struct dr_moments *against,
                      struct eval_tally **out, struct dr_err *err);
void eval_tally_free(struct eval_tally *t); // NULL is fine
int eval_tally_add(struct eval_tally *t, const real *feature, const real *logits,
                   const int32_t *cls, int64_t n, struct dr_err *err);
struct dr_moments *eval_tally_all(struct eval_tally *t); // once every image has come; NULL: none
static inline int64_t eval_tally_kept(const struct eval_tally *t) {
    return DR_MIN(t->n, t->cap);
}
// Correct and all of confusion; row `cls`, or every row for -1.
void eval_tally_correct(const struct eval_tally *t, int64_t cls, int64_t *right, int64_t *all);
int64_t eval_argmax(const real *x, int64_t n);

// ---- beside.c: images are added to tallies by another thread, while the next are made and judged

struct eval_beside;
// Another thread only where the judge leaves the processors alone: it takes them from a judge that
// computes on them, whose threads wait for each other (docs/evaluation.md, What it costs).
int eval_beside_create(bool apart, struct eval_beside **out, struct dr_err *err);
void eval_beside_free(struct eval_beside *b); // after what was added; NULL is fine
// What the judge has just said of n images, which is copied, in this order; waits while there is
// much to do. Nobody else touches the tally, nor what it is compared against, until
// eval_beside_wait. Both return the error of the first images that failed; later ones are dropped.
int eval_beside_add(struct eval_beside *b, struct eval_tally *to, const struct eval_judge *j,
                    const int32_t *cls, int64_t n, struct dr_err *err);
int eval_beside_wait(struct eval_beside *b, struct dr_err *err);

// ---- state.c: one function per struct saves it or, with the same calls, restores it

struct eval_io {
    struct dr_st_writer *w; // saving
    struct dr_st_file *f;   // restoring
    const char *part;       // before the names: "reals", "held", ...
    void **held;            // buffers that the writer borrows
    int nheld;
    int rc;
    struct dr_err *err;
};
void eval_io_numbers(struct eval_io *io, const char *name, double *v, int64_t n);
void eval_io_counts(struct eval_io *io, const char *name, int64_t *v, int64_t n);
void eval_io_classes(struct eval_io *io, const char *name, int32_t *v, int64_t n);
void eval_io_reals(struct eval_io *io, const char *name, real *v, int64_t n, int64_t d);
void eval_io_moments(struct eval_io *io, const char *name, struct dr_moments **m, int64_t d);
void eval_io_tally(struct eval_io *io, const char *part, struct eval_tally *t);
typedef void eval_io_fn(struct eval_io *io, void *what);
int eval_state_save(const char *path, const char *key, eval_io_fn *fn, void *what,
                    struct dr_err *err);
int eval_state_restore(const char *path, const char *key, eval_io_fn *fn, void *what,
                       struct dr_err *err);

// ---- statistics.c

struct eval_sides {
    const struct dr_eval_config *cfg;
    struct eval_tally *gen, *real; // `gen`: samples, or held-out reals in their place
    // For nn; NULL: none. `more` are searched like `train`; they are the half that `held` begin,
    // which do not find themselves there.
    const real *train, *more, *held;
    int64_t ntrain, nmore, nheld;
    const double *real_spread; // [classes] of reals
    double *spread;            // [classes] of gen, set by diversity
    struct dr_manifold manifold;
    double diversity_worst; // set by diversity
    double held_nearest;    // mean distance of held-out reals to training images; NaN: not known
};
// Sets s->held_nearest, if there are images for it.
int eval_held_nearest(struct eval_sides *s, struct dr_err *err);
// NaN where there are too few images for a metric.
int eval_statistic(struct eval_sides *s, int metric, struct dr_estimate *out, struct dr_err *err);
// Mean distance within each class, [classes]; NaN under 2 images.
int eval_spread(const struct dr_eval_config *cfg, const struct eval_tally *t, double *out,
                struct dr_err *err);
// Mean distance of parts of the tally by size; how many sizes.
int eval_fd_points(const struct eval_tally *t, double *sizes, double *values);

// ---- source.c

// Numbers of all images of d, in a random order within each class that is always the same. Every
// beginning has the classes in the proportions of all (classes in turn where they are equal).
// malloc'd; NULL: no memory. EVAL_ORDER counts its changes: what was saved under another is not
// taken up.
enum { EVAL_ORDER = 2 };
int64_t *eval_order(const struct dr_dataset *d);

// ---- reference.c

struct dr_eval_ref {
    struct dr_backend *be;
    struct dr_eval_config cfg;
    struct eval_judge *judge;
    char key[33];
    int kind;
    int64_t classes;
    const struct dr_dataset *of[2]; // reals, held-out reals; borrowed until complete
    int64_t from[2], total[2];      // places of the order to take
    int64_t held_n;
    bool test[2], halves;
    int64_t *order; // of the pass at hand
    int pass;       // 0, 1; 2: statistics; 3: complete
    int64_t at;     // images of the pass, or statistics, that are done
    // train: only rows, of the training split where `reals` are the test split, of the other half
    // where there is none
    struct eval_tally *reals, *held, *train;
    double *spread, *held_spread; // [classes]
    int64_t judged, right;        // of the test split
    double held_nearest;
    struct dr_estimate floor[DR_EVAL_METRICS];
    double seconds;
    struct eval_beside *beside;
    real *x; // of a chunk
    int32_t *cls;
};
// What statistics of `gen` against this reference take. spread: [classes].
void eval_ref_sides(const struct dr_eval_ref *r, struct eval_tally *gen, double *spread,
                    struct eval_sides *out);
// Pixels as a picture file has them; x [n] in place.
void eval_round(real *x, int64_t n);
