// A training configuration: one JSON file a recipe, described by config.def, checked whole before a
// job starts. Plain data, copied by value; owns nothing.
#pragma once

#include "engine/config/kinds.h"
#include "engine/core/err.h"
#include "engine/core/types.h"

#define DR_MAX_TAU 16
#define DR_MAX_EMA 4
#define DR_MAX_LEVELS 6
#define DR_MAX_ALPHA 16

// What a sample is: an image of uint8 pixels, a point in two dimensions, or an image of reals that
// a decoder turns into pixels.
enum dr_kind { DR_KIND_IMAGES, DR_KIND_POINTS, DR_KIND_LATENTS };

enum dr_data_set {
#define DR_SET(id, ...) DR_DATA_##id,
#include "engine/data/sets.def"
#undef DR_SET
};
// What a configuration needs to know of a data set (engine/data/sets.def).
struct dr_set_facts {
    const char *name;          // as in data.set
    int kind;                  // enum dr_kind
    int64_t classes, channels; // 0: as the configuration says
    int64_t side;              // height and width of its files' images; 0: not known before reading
    bool made;                 // procedurally generated: data.count samples
    bool folder;               // has no folder of its own name: data.path is needed
};
// The row of a set; NULL: there is no such set.
const struct dr_set_facts *dr_set_facts(int set);

enum dr_fit { DR_FIT_PAD, DR_FIT_RESIZE, DR_FIT_CROP, DR_FIT_FIT };
#define NETWORK(word)
#define GENERATOR(ID, word, needs) DR_ARCH_##ID,
enum dr_arch {
#include "engine/nn/nets.def"
    DR_ARCHS
};
#undef GENERATOR
#undef NETWORK
// What a generator asks of its model section.
enum dr_arch_needs {
    DR_ARCH_PATCHES = 1,   // images in patches, attention: heads divide dim, patch divides size
    DR_ARCH_POSITIONS = 2, // always has the position embedding
    DR_ARCH_POINTS = 4,    // makes points in two dimensions, for the toys only
    DR_ARCH_LEVELS = 8,    // maps of several sizes: widths, attention; heads divide what attends
};
unsigned dr_arch_needs(int arch); // 0 for a number that is none
enum dr_mlp_kind { DR_MLP_SWIGLU, DR_MLP_GELU };
enum dr_noise_kind { DR_NOISE_IMAGE, DR_NOISE_LATENT };
enum dr_head_kind { DR_HEAD_LINEAR, DR_HEAD_CONV };
enum dr_feature_norm { DR_FEATURE_NORM_NONE, DR_FEATURE_NORM_SPHERE };
enum dr_feature_standardize { DR_STANDARDIZE_NONE, DR_STANDARDIZE_BATCH };
enum dr_bias { DR_BIAS_NONE, DR_BIAS_ABC };
enum dr_field {
#define X(ID, name, text) DR_FIELD_##ID,
    DR_FIELDS(X)
#undef X
};
enum dr_feature_space {
#define X(ID, name, text) DR_FEATURE_##ID,
    DR_FEATURES(X)
#undef X
};
enum dr_feature_pool { DR_FEATURE_POOL_ALL, DR_FEATURE_POOL_GLOBAL };
enum dr_negatives { DR_NEG_SELF_MASKED, DR_NEG_INDEPENDENT };
enum dr_sampler_kind { DR_SAMPLER_EXACT, DR_SAMPLER_QUEUE };
enum dr_precision { DR_FP32, DR_PREC_BF16 };
enum dr_schedule { DR_LR_CONSTANT, DR_LR_COSINE, DR_LR_ONE_CYCLE };
enum dr_recipe_kind {
#define X(ID, name, text) DR_RECIPE_##ID,
    DR_RECIPES(X)
#undef X
        DR_RECIPE_KINDS
};
enum dr_encoder_objective { DR_ENCODER_CLASSIFY, DR_ENCODER_AUTOENCODE, DR_ENCODER_BOTH };

struct dr_data_config {
    int set, fit;
    char path[256], background[8];
    int64_t size, channels, classes, count, limit, seed, crop;
    double test_share;
    bool flip, refuse_bad;
};
// The generator's shape. kind, size, channels and classes repeat the data section (config.c copies
// them), so that a model can be built, and its samples shown, from this struct alone.
struct dr_model_config {
    int arch, mlp, noise, head;
    int kind; // enum dr_kind
    int64_t size, channels, classes;
    int64_t dim, depth, heads, patch, registers, latent_dim, style_tokens, codebook, head_width;
    double mlp_ratio, temperature, label_dropout, out_std, out_bias;
    bool rope, qk_norm, pos_embed, null_class;
    double widths[DR_MAX_LEVELS]; // of a level, over dim
    int nwidths;
    int64_t attention; // largest side of a map that attends
};
// An encoder or judge and how it is trained (kind encoder; method.md 7).
struct dr_encoder_config {
    int arch, objective;
    double blocks[4];
    int stages;
    int64_t width, groups, stride, batch, mask_patch, classify_ramp;
    double label_smoothing, mask_probability, classify_weight, crop_area, jitter;
};
struct dr_feature_config {
    int kind, norm, standardize;
    bool image, quadrants, patch2, patch4;
    double rms; // weight, 0: off
    double rms_gain;
    // kind encoder
    char encoder[256], maps[128];
    int pool; // enum dr_feature_pool
    int64_t grid, cache_mb, keep_mb;
    bool map_locations, map_global, map_quadrants, map_patch2, map_patch4, map_std;
    double pixel_weight; // of image, quadrants and patches; 0: off
    // kind kde
    int64_t kde_width;
    double kde_lr;
};
// Of the field `learned` (method.md 4).
enum dr_ldf_objective { DR_LDF_DENOISE, DR_LDF_NCE, DR_LDF_FROZEN };
struct dr_ldf_config {
    int objective;
    bool projection, mask;
    int64_t hidden, width, score;
    double sigma_min, sigma_max, lr;
};
struct dr_loss_config {
    int field, kernel, normalize, negatives, bias;
    int64_t sinkhorn_iterations;
    double tau[DR_MAX_TAU];
    int ntau;
    double floor;
    double max_velocity; // 0: no limit
    struct dr_ldf_config ldf;
};
struct dr_train_config {
    int64_t steps, classes, generated, positives, unconditional;
    int64_t queue_class, queue_global, push_per_step, seed, micro_batch;
    double minutes, alpha_min, alpha_max, alpha_power, alpha_one_fraction;
    int sampler, precision;
};
struct dr_optim_config {
    double lr, beta1, beta2, eps, weight_decay, clip, cosine_start, lr_end;
    int64_t warmup;
    int schedule;
};
struct dr_ema_config {
    double decay[DR_MAX_EMA];
    int n;
    bool ramp;
};
struct dr_checkpoint_config {
    int64_t every, keep_last, keep_every;
    double every_seconds;
};
struct dr_metrics_config {
    int64_t every, spread_every, test_every, test_count, probe_every;
    double collapse_below;
};
struct dr_samples_config {
    int64_t every, per_class;
    double cfg;
};
// What to evaluate and how (kind eval), and when a training job does (kind train).
struct dr_eval_section {
    int64_t checkpoint, job; // one of the three
    char folder[256];
    int64_t n, seed, batch, every, patience;
    double alpha[DR_MAX_ALPHA];
    int nalpha;
    int split, weights, resize; // 0: train, ema, clean
    char metrics[256], judge[256], inception[256], best[32];
    double share, every_seconds;
    bool skip_existing, samples, at_end, allow_own_encoder;
};
struct dr_config {
    char name[64], about[256], init_from[256];
    int kind; // enum dr_recipe_kind
    struct dr_data_config data;
    struct dr_model_config model;
    struct dr_encoder_config encoder;
    struct dr_feature_config features;
    struct dr_loss_config loss;
    struct dr_train_config train;
    struct dr_optim_config optim;
    struct dr_ema_config ema;
    struct dr_checkpoint_config checkpoint;
    struct dr_metrics_config metrics;
    struct dr_samples_config samples;
    struct dr_eval_section eval;
};

// Everything that is wrong with one input, in the order in which it was found. Plain data.
#define DR_MAX_PROBLEMS 24
struct dr_problem {
    char field[96], msg[512]; // as in struct dr_err
};
struct dr_problems {
    int n;    // rows
    int more; // problems beyond those
    struct dr_problem row[DR_MAX_PROBLEMS];
};
// Appends what *err holds; beyond DR_MAX_PROBLEMS it is only counted. list may be NULL.
void dr_problems_add(struct dr_problems *list, const struct dr_err *err);

void dr_config_defaults(struct dr_config *c);
// Parses JSON text over the defaults, then checks the whole (dim % heads, size % patch, alpha_min
// <= alpha_max, ...). An unknown key, a wrong type or a value out of range is DR_ECONFIG: the
// sentence names the key, the value and the nearest valid key or the range, err->field is the key
// ("optim.lr"). `where`: the source, put before the sentence. A UTF-8 byte-order mark is skipped.
int dr_config_parse(const char *json, size_t len, const char *where, struct dr_config *out,
                    struct dr_err *err);
// The functions that end in _listed find all problems: the first is in *err, as it is without them,
// and each is appended to *list (or NULL). A check across keys is left out where it would compare
// with a key whose own value is refused. c NULL: each key by itself, and nothing is kept, for
// changes of a configuration that is refused already.
int dr_config_parse_listed(const char *json, size_t len, const char *where, struct dr_config *out,
                           struct dr_problems *list, struct dr_err *err);
int dr_config_load_listed(const char *path, struct dr_config *out, struct dr_problems *list,
                          struct dr_err *err);
int dr_config_merge_listed(struct dr_config *c, const char *json, size_t len, const char *where,
                           struct dr_problems *list, struct dr_err *err);
int dr_config_set_listed(struct dr_config *c, const char *const *assignments, int n,
                         struct dr_problems *list, struct dr_err *err);
// The same from a regular file of at most 1 MiB; anything else (a FIFO, a folder) is DR_EIO.
int dr_config_load(const char *path, struct dr_config *out, struct dr_err *err);
// Parses JSON text over *c instead of the defaults (overrides of a recipe). Keys may be nested or
// dotted ("optim.lr"). On an error *c is unchanged.
int dr_config_merge(struct dr_config *c, const char *json, size_t len, const char *where,
                    struct dr_err *err);
// Applies "model.dim=128" (value as JSON, or a bare word for strings and enums) and checks again.
int dr_config_set(struct dr_config *c, const char *assignment, struct dr_err *err);
// Several at once, checked after the last one. On an error *c is unchanged.
int dr_config_set_all(struct dr_config *c, const char *const *assignments, int n,
                      struct dr_err *err);
// The configuration as JSON, keys in config.def's order: every key of its kind, but `kind` and
// `init_from` only where they differ from the default. It reads back exactly. malloc'd; NULL: out
// of memory, or a name that is not UTF-8.
char *dr_config_to_json(const struct dr_config *c);
// Only the model section with size, channels and classes, as stored for each checkpoint and read
// from a foreign file's metadata `driftd.config` (either this object or a whole configuration). Has
// `kind` only where it differs from what the other keys imply: points for the arch mlp, images for
// one and three channels, latents for any other number. malloc'd.
char *dr_model_config_to_json(const struct dr_model_config *m);
int dr_model_config_parse(const char *json, size_t len, const char *where,
                          struct dr_model_config *out, struct dr_err *err);
// Cross-key checks of a model section whose values are in range. ECONFIG at the key to change.
int dr_model_config_check(const struct dr_model_config *m, struct dr_err *err);
// Channels of a level of a generator with levels.
int64_t dr_model_width(const struct dr_model_config *m, int level);
// Whether two model sections describe the same network.
bool dr_model_config_equal(const struct dr_model_config *a, const struct dr_model_config *b);
// How samples of a kind with so many channels are shown: planes for latents, and for images that
// are neither grey nor rgb (four channels are not RGBA).
enum dr_show dr_show(int kind, int64_t channels);
// The word of a recipe's kind: "train", "encoder", "eval".
const char *dr_recipe_word(int kind);
// JSON description of every key (path, type, default, min, max, values, doc, and `kind` where only
// recipes of that kind have it), for forms and docs.
// malloc'd.
char *dr_config_schema_json(void);
// Whether a training configuration asks for evaluations.
bool dr_config_evaluates(const struct dr_config *c);
// Samples of a step: classes per step times generated.
int64_t dr_config_batch(const struct dr_config *c);
// The guidance scales a network has seen in training; hi 0: not known (a foreign file).
struct dr_guidance_range {
    double lo, hi;
};
struct dr_guidance_range dr_config_guidance_range(const struct dr_config *c);
// The same out of a checkpoint's `driftd.config`; unknown when that is a model section alone.
struct dr_guidance_range dr_guidance_range_parse(const char *json, size_t len);
// The nearest of n words by edit distance, or NULL when none is near: for "did you mean".
const char *dr_nearest(const char *word, const char *const *words, int n);
