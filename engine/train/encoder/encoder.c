// The objectives of encoders and judges: sizes and memory, metrics, their rows of the table. The
// draw and the ops of a step are in the files beside this one.
#include "engine/train/encoder/encoder.h"

#include "engine/nn/encoder.h"
#include "engine/sample/sampler.h"

#include <stdlib.h>

static int check(const struct dr_config *c, const struct dr_dataset *d, struct dr_err *err) {
    if (d->kind == DR_KIND_POINTS)
        return dr_fail(err, DR_ECONFIG, "the data set %s has points; an encoder needs images",
                       d->name);
    if (d->classes != DR_MAX(c->data.classes, 1))
        return dr_fail(err, DR_ECONFIG, "data.classes is %lld but the data set %s has %lld",
                       (long long)c->data.classes, d->name, (long long)d->classes);
    if (d->c != c->data.channels || d->h != c->data.size || d->w != c->data.size)
        return dr_fail(err, DR_ECONFIG,
                       "the configuration wants images of %lld channels and side %lld, %s has "
                       "%lld channels, %lldx%lld",
                       (long long)c->data.channels, (long long)c->data.size, d->name,
                       (long long)d->c, (long long)d->h, (long long)d->w);
    return 0;
}

static void take_sizes(struct encoder *t) {
    const int64_t ranks = dr_ranks(t->comm);
    t->all = t->cfg->encoder.batch;
    t->first = t->all * dr_rank(t->comm) / ranks;
    t->B = t->all * (dr_rank(t->comm) + 1) / ranks - t->first;
    t->c = t->data->c;
    t->h = t->data->h;
    t->w = t->data->w;
    t->image = t->c * t->h * t->w;
    t->classes = t->data->classes;
    t->logits = dr_net_output_find(t->net, "logits");
    t->reconstruction = dr_net_output_find(t->net, "reconstruction");
    t->p = t->reconstruction >= 0 ? t->cfg->encoder.mask_patch : 1;
    t->epoch = -1;
}

static int create(const struct dr_objective_env *env, void **o, struct dr_err *err) {
    struct encoder *t = *o = calloc(1, sizeof *t);
    if (!t)
        return dr_fail(err, DR_ENOMEM, "out of memory for a trainer");
    t->cfg = env->cfg;
    t->data = env->data;
    t->be = env->be;
    t->comm = env->comm;
    int rc = check(t->cfg, t->data, err);
    if (!rc)
        rc = dr_encoder_net(t->cfg, &t->net, err);
    if (rc)
        return rc;
    take_sizes(t);
    if (!t->B) // on every process alike: batches are cut evenly
        return dr_fail(err, DR_ECONFIG, "a batch of %lld images does not fill %lld processes",
                       (long long)t->all, (long long)dr_ranks(t->comm));
    t->order = calloc((size_t)t->data->n, sizeof *t->order);
    t->ids = calloc((size_t)t->B, sizeof *t->ids);
    t->rows = malloc((size_t)(t->B * t->image) * sizeof *t->rows);
    t->saved = dr_net_saved_new(t->net);
    return t->order && t->ids && t->rows && t->saved
               ? 0
               : dr_fail(err, DR_ENOMEM, "out of memory for a batch of %lld images",
                         (long long)t->B);
}

static void destroy(void *o) {
    struct encoder *t = o;
    if (!t)
        return;
    dr_net_saved_free(t->saved);
    dr_net_free(t->net);
    free(t->order);
    free(t->ids);
    free(t->rows);
    free(t);
}

// ---- parameters and memory

static int groups(const void *o, struct dr_group out[TRAINER_GROUPS]) {
    const struct encoder *t = o;
    out[0] = (struct dr_group){.name = "", .layout = dr_net_params(t->net), .learning_rate = 1};
    return 1;
}

static int64_t batch(const void *o) {
    return ((const struct encoder *)o)->B;
}

static int cut(void *o, int64_t chunk, struct dr_err *err) {
    (void)err;
    ((struct encoder *)o)->chunk = chunk;
    return 0;
}

static void lay_out(void *o, struct dr_arena *a) {
    struct encoder *t = o;
    t->tables = dr_alloc_real(a, dr_net_tables_count(t->net));
}

static void lay_out_inputs(void *o, int place, struct dr_arena *a) {
    struct encoder *t = o;
    struct encoder_inputs *in = &t->in[place];
    const size_t n = (size_t)(t->B * t->image) * sizeof(real);
    const bool masked = t->reconstruction >= 0;
    in->x = dr_alloc(a, n);
    in->target = masked ? dr_alloc(a, n) : NULL;
    in->mask = masked ? dr_alloc_real(a, t->B * (t->h / t->p) * (t->w / t->p)) : NULL;
    in->label = dr_alloc(a, (size_t)t->B * sizeof(int32_t));
    in->weight = dr_alloc_real(a, 2);
}

static int start(void *o, struct dr_err *err) {
    const struct encoder *t = o;
    return dr_net_tables_upload(t->net, t->be, t->tables, err);
}

// ---- metrics

#define LOSS_ROW(help)                                                                             \
    { "loss", "", help, DR_METRIC_LOG }
#define COMMON_ROWS                                                                                \
    {"grad_norm", "", "norm of the gradient before clipping", DR_METRIC_LOG},                      \
        {"lr", "", "learning rate", DR_METRIC_LINEAR}, {                                           \
        "step_seconds", "s", "time of a training step", DR_METRIC_LINEAR                           \
    }
#define CLASSIFY_ROWS                                                                              \
    {"accuracy", "", "share of the step's images whose class is recognised", DR_METRIC_LINEAR}, {  \
        "test_accuracy", "", "share of the test split that the averaged weights recognise",        \
            DR_METRIC_LINEAR                                                                       \
    }
#define PROBE_ROW                                                                                  \
    {                                                                                              \
        "probe_accuracy", "",                                                                      \
            "share of the test split that a linear map of the frozen, averaged features "          \
            "recognises",                                                                          \
            DR_METRIC_LINEAR                                                                       \
    }
enum { COMMON = 4 }; // rows before an objective's own
static const struct dr_metric_def classify_defs[] = {LOSS_ROW("cross-entropy of the labels"),
                                                     COMMON_ROWS, CLASSIFY_ROWS};
static const struct dr_metric_def autoencode_defs[] = {
    LOSS_ROW("mean square error of the masked pixels"), COMMON_ROWS, PROBE_ROW};
static const struct dr_metric_def both_defs[] = {
    LOSS_ROW("weighted sum of both losses"),
    COMMON_ROWS,
    CLASSIFY_ROWS,
    {"classify_loss", "", "cross-entropy of the labels", DR_METRIC_LOG},
    {"autoencode_loss", "", "mean square error of the masked pixels", DR_METRIC_LOG},
    PROBE_ROW};

static const struct dr_metric_def *reports(const struct dr_config *cfg, int *n) {
    switch (cfg->encoder.objective) {
    case DR_ENCODER_CLASSIFY:
        *n = DR_COUNT(classify_defs);
        return classify_defs;
    case DR_ENCODER_AUTOENCODE:
        *n = DR_COUNT(autoencode_defs);
        return autoencode_defs;
    default:
        *n = DR_COUNT(both_defs);
        return both_defs;
    }
}

static const struct dr_metric_def *metrics(const void *o, int *n) {
    return reports(((const struct encoder *)o)->cfg, n);
}

static int64_t report_count(const void *o) {
    (void)o;
    return ENCODER_REPORT;
}

static void read_report(void *o, int slot, const real *report, bool ok, struct dr_metrics *m) {
    const struct encoder *t = o;
    (void)slot;
    (void)ok;
    if (t->logits < 0)
        return;
    dr_metric_set(m, COMMON, (double)report[ENCODER_CORRECT] / (double)t->all);
    if (t->reconstruction < 0)
        return;
    dr_metric_set(m, COMMON + 2, (double)report[ENCODER_XENT] / (double)t->all);
    dr_metric_set(m, COMMON + 3, (double)report[ENCODER_ERROR] / (double)t->all);
}

// ---- checkpoints and snapshots

static int same(const void *o, const struct dr_config *theirs, const char *path,
                struct dr_err *err) {
    const struct encoder *t = o;
    struct dr_net *net;
    int rc = dr_encoder_net(theirs, &net, err);
    if (!rc && !dr_net_same(net, t->net))
        rc = dr_fail(err, DR_EINVAL, "%s: the checkpoint's encoder differs from this run's", path);
    dr_net_free(net);
    return rc;
}

static struct dr_snapshot *snapshot(const void *o, real *w, int64_t step) {
    struct dr_net *net;
    if (dr_encoder_net(((const struct encoder *)o)->cfg, &net, NULL)) {
        free(w);
        return NULL;
    }
    return dr_snapshot_new(net, w, step);
}

#define OBJECTIVE(word)                                                                            \
    const struct dr_objective dr_objective_##word = {.name = #word,                                \
                                                     .create = create,                             \
                                                     .destroy = destroy,                           \
                                                     .groups = groups,                             \
                                                     .metrics = metrics,                           \
                                                     .reports = reports,                           \
                                                     .report_count = report_count,                 \
                                                     .batch = batch,                               \
                                                     .cut = cut,                                   \
                                                     .lay_out = lay_out,                           \
                                                     .lay_out_inputs = lay_out_inputs,             \
                                                     .start = start,                               \
                                                     .draw = encoder_draw,                         \
                                                     .device_step = encoder_device_step,           \
                                                     .read = read_report,                          \
                                                     .same = same,                                 \
                                                     .snapshot = snapshot}
OBJECTIVE(classify);
OBJECTIVE(autoencode);
OBJECTIVE(both);
