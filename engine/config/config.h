// A training configuration: one JSON file a recipe, described by config.def, checked whole before a
// job starts. Plain data, copied by value; owns nothing.
#pragma once

#include "engine/config/kinds.h"
#include "engine/core/err.h"
#include "engine/core/types.h"

#define DR_MAX_TAU 16
#define DR_MAX_EMA 4

enum dr_data_set {
    DR_DATA_DIGITS,
    DR_DATA_MNIST,
    DR_DATA_FASHION,
    DR_DATA_IDX,
    DR_DATA_CHECKERBOARD,
    DR_DATA_SWISS_ROLL,
    DR_DATA_TWO_MODES
};
enum dr_fit { DR_FIT_PAD, DR_FIT_RESIZE };
enum dr_arch { DR_ARCH_DRIFTDIT, DR_ARCH_LIGHTNINGDIT, DR_ARCH_MLP };
enum dr_mlp_kind { DR_MLP_SWIGLU, DR_MLP_GELU };
enum dr_noise_kind { DR_NOISE_IMAGE, DR_NOISE_LATENT };
enum dr_head_kind { DR_HEAD_LINEAR, DR_HEAD_CONV };
enum dr_feature_norm { DR_FEATURE_NORM_NONE, DR_FEATURE_NORM_SPHERE };
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
enum dr_negatives { DR_NEG_SELF_MASKED, DR_NEG_INDEPENDENT };
enum dr_sampler_kind { DR_SAMPLER_EXACT, DR_SAMPLER_QUEUE };
enum dr_precision { DR_FP32, DR_PREC_BF16 };
enum dr_schedule { DR_LR_CONSTANT, DR_LR_COSINE };

struct dr_data_config {
    int set, fit;
    char path[256];
    int64_t size, channels, classes, count, limit, seed;
};
// The generator's shape. size, channels and classes repeat the data section (config.c copies them),
// so that a model can be built from this struct alone.
struct dr_model_config {
    int arch, mlp, noise, head;
    int64_t size, channels, classes;
    int64_t dim, depth, heads, patch, registers, latent_dim, style_tokens, codebook, head_width;
    double mlp_ratio, label_dropout, out_std, out_bias;
    bool rope, qk_norm, pos_embed, null_class;
};
struct dr_feature_config {
    int kind, norm;
    bool image, quadrants, patch2, patch4;
    double rms; // weight, 0: off
    double rms_gain;
};
struct dr_loss_config {
    int field, kernel, normalize, negatives;
    int64_t sinkhorn_iterations;
    double tau[DR_MAX_TAU];
    int ntau;
    double floor;
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
    int64_t every, spread_every;
    double collapse_below;
};
struct dr_samples_config {
    int64_t every, per_class;
    double cfg;
};
struct dr_config {
    char name[64], about[256];
    struct dr_data_config data;
    struct dr_model_config model;
    struct dr_feature_config features;
    struct dr_loss_config loss;
    struct dr_train_config train;
    struct dr_optim_config optim;
    struct dr_ema_config ema;
    struct dr_checkpoint_config checkpoint;
    struct dr_metrics_config metrics;
    struct dr_samples_config samples;
};

void dr_config_defaults(struct dr_config *c);
// Parses JSON text over the defaults. An unknown key, a wrong type or a value out of range is
// DR_ECONFIG and names the key, the value and the nearest valid key or the range. Cross-key checks
// (dim % heads, size % patch, alpha_min <= alpha_max, ...) included. `where` names the source.
int dr_config_parse(const char *json, size_t len, const char *where, struct dr_config *out,
                    struct dr_err *err);
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
// The complete configuration as JSON, keys in config.def's order; round-trips exactly. malloc'd.
char *dr_config_to_json(const struct dr_config *c);
// Only the model section with size, channels and classes, as written into checkpoints and read from
// a foreign file's metadata `driftd.config` (either this object or a whole configuration).
// malloc'd.
char *dr_model_config_to_json(const struct dr_model_config *m);
int dr_model_config_parse(const char *json, size_t len, const char *where,
                          struct dr_model_config *out, struct dr_err *err);
// Whether two model sections describe the same network (memcmp would compare padding).
bool dr_model_config_equal(const struct dr_model_config *a, const struct dr_model_config *b);
// JSON description of every key (path, type, default, min, max, values, doc), for forms and docs.
// malloc'd.
char *dr_config_schema_json(void);
// Number of samples of a step: classes per step times generated.
int64_t dr_config_batch(const struct dr_config *c);
// The nearest of n words by edit distance, or NULL when none is near. Also used by the API.
const char *dr_nearest(const char *word, const char *const *words, int n);
