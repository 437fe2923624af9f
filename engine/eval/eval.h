// Evaluation of images against reals by a judge (method.md 9), in slices: a caller gives it time
// when there is time, cancels it by freeing it, and saves and restores it in between.
//
// Two objects. A reference holds what is known of the reals through one judge: made once, saved,
// shared by the evaluations of any number of checkpoints. An evaluation draws n images from a
// source and compares them with one or several references (judges); the images are made once.
//
// Results are a function of weights, data, settings and seed: the same bits for any batch, slice,
// number of threads and interruption. Memory does not depend on n: sums, and features of at most
// cfg.rows images of each kind.
//
// One thread, the one that entered the backend; where judges run on a device, a second one adds up
// what they say of images while the next are made. Judges see pixels as in a picture file (clamped
// and rounded to 8 bits), so that a folder of pictures and the generator that wrote it get the same
// figures; latents and points are seen as they are.
#pragma once

#include "engine/data/data.h"
#include "engine/eval/metrics.h"
#include "engine/sample/sampler.h"

enum dr_eval_metric {
#define X(ID, ...) DR_EVAL_##ID,
#include "engine/eval/eval.def"
#undef X
    DR_EVAL_METRICS
};
#define DR_EVAL_ALL ((1u << DR_EVAL_METRICS) - 1)
enum dr_eval_need { // of a metric
    DR_NEED_MOMENTS = 1,
    DR_NEED_ROWS = 2,
    DR_NEED_LOGITS = 4,
    DR_NEED_CLASSES = 8,
    DR_NEED_BLOCKS = 16,
    DR_NEED_TRAIN = 32,
};
struct dr_eval_metric_def {
    const char *name, *unit, *help;
    int better;     // 1 higher, -1 lower, 0 nearer to 1
    unsigned needs; // enum dr_eval_need
};
extern const struct dr_eval_metric_def dr_eval_metrics[DR_EVAL_METRICS];
// "fd,accuracy" to bits; "all". EINVAL at the field "metrics" with the nearest word.
int dr_eval_metrics_parse(const char *list, unsigned *out, struct dr_err *err);

enum dr_eval_split { DR_EVAL_TRAIN, DR_EVAL_TEST };
struct dr_eval_config {
    int64_t n;          // images to evaluate
    int split;          // enum dr_eval_split: the reals to compare with
    unsigned metrics;   // 1u << enum dr_eval_metric, ...
    uint64_t seed;      // of subsets (kid); the source has its own
    int64_t batch;      // images made at a time; never changes a result
    int precision;      // of judges: DR_FP32 or DR_PREC_BF16
    int64_t rows;       // images whose features are kept, of samples and of reals: 10000
    int64_t train_rows; // training images that `nn` searches, of both halves: 100000
    int64_t reals;      // reals of the split to take, in their order (eval_order); 0: all
    int64_t tested;     // test images that the judge's accuracy is measured on; 0: all
    int64_t kid_subsets, kid_size; // 100, 1000 (less where there are fewer rows)
    int64_t is_splits;             // 10
    int64_t k_manifold, k_density; // neighbours of precision and recall: 3; density, coverage: 5
    int64_t blocks; // of samples for fd_inf and the standard error of fd, a power of two: 8
};
void dr_eval_defaults(struct dr_eval_config *c); // n 10000, split train, every metric, batch 64

// ---- judges

// A network that sees images: features are its output "pooled" or "pool3", else the average over
// places of its last map; classes its output "logits", if there is one.
struct dr_eval_judge {
    struct dr_snapshot *snap; // borrowed until a reference is made, which takes a reference
    // How images become the network's input, where that is not the image as it is (Inception): x
    // [n,c,h,w] in [-1,1] to out [n, network's input]. NULL: as they are. A pure function.
    int (*prepare)(void *ctx, const real *x, int64_t n, int64_t c, int64_t h, int64_t w, real *out,
                   struct dr_err *err);
    void *ctx;
    const char *prepare_name; // goes into the key, e.g. "clean"; "" without prepare
    // Without `prepare`, Inception gets its images by dr_fid_input (fid_input.h), in this way: enum
    // dr_fid_resize. Other networks ignore it.
    int resize;
};

// The side of the images that the network of FID takes: Inception-v3 in the FID variant. EINVAL
// with a sentence for any other; `what` ("checkpoint 7") begins it. Layers with fewer channels (for
// tests) pass, at any side.
int dr_fid_network(const struct dr_net *net, const char *what, int64_t *side, struct dr_err *err);

// ---- references

struct dr_eval_ref;
// test: the other split of the same data; NULL: there is none, and the floor is taken between
// halves of the training split. Data sets are borrowed until the reference is complete. The
// floor is at min(n, reals held out), so a reference serves one n. EINVAL at the fields "judge",
// "metrics", "n", "split" where the judge, the data or the settings cannot serve.
int dr_eval_ref_create(struct dr_backend *be, const struct dr_eval_config *cfg,
                       const struct dr_eval_judge *judge, const struct dr_dataset *train,
                       const struct dr_dataset *test, struct dr_eval_ref **out, struct dr_err *err);
void dr_eval_ref_free(struct dr_eval_ref *r); // not while an evaluation uses it; NULL is fine
// 32 hex digits: equal where the reference would be: judge's weights, data, settings that matter.
const char *dr_eval_ref_key(const struct dr_eval_ref *r);
// Works for about `seconds` (at least one batch). *done: complete. Work done so far over all of it
// is dr_eval_ref_progress.
int dr_eval_ref_advance(struct dr_eval_ref *r, double seconds, bool *done, struct dr_err *err);
double dr_eval_ref_progress(const struct dr_eval_ref *r);
// Complete or partial, to a safetensors file (as dr_st_finish), and back into a reference that was
// just created. ECONFLICT where the file's key is another, EFORMAT for a damaged file: the
// reference can then only be freed.
int dr_eval_ref_save(struct dr_eval_ref *r, const char *path, struct dr_err *err);
int dr_eval_ref_restore(struct dr_eval_ref *r, const char *path, struct dr_err *err);
// Accuracy of the judge on the test split (all of it), with its standard error; NaN: not known.
struct dr_estimate dr_eval_ref_accuracy(const struct dr_eval_ref *r);

// ---- sources of images

// n images [c,h,w] with the classes that were asked for. Image i is a function of i alone.
struct dr_eval_source {
    int64_t n, c, h, w, classes;
    // Images first, first + 1, ..., `count` of them: x [count,c,h,w] in [-1,1], cls [count] (-1:
    // none).
    int (*images)(struct dr_eval_source *s, int64_t first, int64_t count, real *x, int32_t *cls,
                  struct dr_err *err);
    int32_t (*asked)(const struct dr_eval_source *s, int64_t i); // cls of image i alone
    void (*release)(struct dr_eval_source *s);
    char key[33]; // hex digits of what the images depend on
    int kind;     // enum dr_kind: images are rounded to pixels, latents and points are not
};
void dr_eval_source_free(struct dr_eval_source *s); // NULL is fine
// The generator: image i is that of seed `seed`, index i, guidance scale alpha. two_pass as in
// struct dr_sample. EINVAL at "alpha" or "checkpoint".
struct dr_eval_generator {
    struct dr_snapshot *snap; // a reference is taken
    // The reals to compare with. Classes come in their proportions, so that a generator without a
    // fault gets what reals get: MNIST has 1.24 times as many ones as fives. NULL, or data of
    // another number of classes: classes in turn. Borrowed, and read on creation only.
    const struct dr_dataset *like;
    double alpha;
    uint64_t seed;
    int64_t n, batch;
    int precision;
    bool two_pass;
};
int dr_eval_source_generator(struct dr_backend *be, const struct dr_eval_generator *g,
                             struct dr_eval_source **out, struct dr_err *err);
// A data set (a folder of samples read by dr_pictures_*, a split): n images of it, its classes in
// their proportions; 0: all. Borrowed.
int dr_eval_source_dataset(const struct dr_dataset *d, int64_t n, struct dr_eval_source **out,
                           struct dr_err *err);

// ---- evaluations

struct dr_eval;
enum { DR_EVAL_JUDGES = 4 };
// refs: complete, borrowed until the evaluation is freed, of the same n, whose metrics each of them
// gets; as is the source, which has at least n images. EINVAL at the field "n" or "checkpoint"
// where they do not fit.
int dr_eval_create(struct dr_eval_source *source, struct dr_eval_ref *const refs[], int nrefs,
                   struct dr_eval **out, struct dr_err *err);
void dr_eval_free(struct dr_eval *e);
int dr_eval_advance(struct dr_eval *e, double seconds, bool *done, struct dr_err *err);
double dr_eval_progress(const struct dr_eval *e); // 0 to 1
// As those of a reference; the key is made of the references' and the source's.
const char *dr_eval_key(const struct dr_eval *e);
int dr_eval_save(struct dr_eval *e, const char *path, struct dr_err *err);
int dr_eval_restore(struct dr_eval *e, const char *path, struct dr_err *err);

struct dr_eval_value {
    double value, se;       // NaN: not asked for, or none
    double floor, floor_se; // what held-out reals get in the samples' place; NaN: none
};
struct dr_eval_result {
    struct dr_eval_value metric[DR_EVAL_METRICS];
    int64_t n, classes, width, logits; // images; classes; features and logits of the judge
    int64_t floor_n;   // held-out reals behind the floor: fewer than n where there are fewer
    bool floor_halves; // held-out reals are half of the training split, not the other split
    int64_t reals;     // reals compared with
    struct dr_estimate judge_accuracy; // on real test data
    // Owned by the evaluation or reference, valid until it is freed; NULL: none.
    const double *diversity;        // [classes]
    const double *accuracy;         // [classes]
    const int64_t *confusion;       // [classes, logits]: asked, judged; by a judge of these classes
    const double *fd_sizes, *fd_at; // [fd_points] images, mean Frechet distance of parts so large
    int fd_points;
    // Of the samples, all sittings; without statistics that were made beside the others.
    double seconds_generate, seconds_features, seconds_statistics;
    double seconds_reference; // making the reference
};
// Of judge number i, once done. EINVAL before.
int dr_eval_result(const struct dr_eval *e, int judge, struct dr_eval_result *out,
                   struct dr_err *err);
