// The drifting objective (method.md 1): its sizes and memory, its row of the table. The draw, the
// ops of a step, the metrics and the data are in the files beside this one.
#include "engine/train/drift/drift.h"

#include "engine/sample/sampler.h"

#include <stdlib.h>

// ---- creation

static void take_sizes(struct drift *t) {
    const struct dr_train_config *c = &t->cfg->train;
    const int64_t all = t->cfg->model.classes, ranks = dr_ranks(t->comm);
    t->classes = c->classes > 0 && c->classes < all ? c->classes : all;
    t->first = t->classes * dr_rank(t->comm) / ranks; // whole classes: no sample crosses processes
    t->nclass = t->classes * (dr_rank(t->comm) + 1) / ranks - t->first;
    t->N = c->generated;
    t->P = c->positives;
    t->U = c->unconditional;
    t->B = t->nclass * t->N;
    t->image = dr_gen_image_count(t->gen);
    t->noise = dr_gen_noise_count(t->gen);
    t->nstyle = dr_gen_style_count(t->gen);
    t->nreport = drift_report_encoder(t) + (drift_learns_features(t) ? DRIFT_ENCODER_REPORT : 0);
}

static int allocate_host(struct drift *t, struct dr_err *err) {
    const size_t row = (size_t)t->image * sizeof(real), rows = (size_t)DR_MAX(t->N, 32);
    const int slots = t->be->host_memory ? 1 : TRAINER_SLOTS;
    t->class = calloc((size_t)t->classes, sizeof *t->class);
    t->ids = calloc((size_t)(t->classes * t->P), sizeof *t->ids);
    t->real_rows = malloc(rows * row);
    int rc =
        t->class && t->ids && t->real_rows
            ? 0
            : dr_fail(err, DR_ENOMEM, "out of memory for a batch of %lld samples", (long long)t->B);
    for (int i = 0; i < slots && !rc && t->cfg->metrics.spread_every; i++) {
        void *x = NULL;
        rc = t->be->host_alloc(t->be, (size_t)t->B * row, &x, err);
        t->slot[i].x = x;
    }
    return rc;
}

// Four numbers per parameter: itself, its gradient, and the optimiser's two.
static int check_field_memory(const struct drift *t, struct dr_err *err) {
    const struct dr_ldf_config *l = &t->cfg->loss.ldf;
    const double gib = 1073741824.0, left = (double)t->be->mem_left(t->be);
    const double need = 4.0 * sizeof(real) * (double)t->field_params.total;
    if (need <= left)
        return 0;
    return dr_fail_at(err, DR_ENOMEM, "loss.ldf_projection_dim",
                      "the field's %lld parameters for %d features need %.1f GiB, and there are "
                      "%.1f GiB; lower loss.ldf_hidden_dim (%lld), loss.ldf_projection_dim (%lld) "
                      "or loss.ldf_score_hidden_dim (%lld)",
                      (long long)t->field_params.total, dr_features_count(t->features), need / gib,
                      left / gib, (long long)l->hidden, (long long)l->width, (long long)l->score);
}

static int open_field(struct drift *t, struct dr_err *err) {
    int rc = t->field->validate ? t->field->validate(t->cfg, err) : 0;
    if (!rc && t->field->params)
        rc = t->field->params(&t->cfg->loss, t->features, &t->field_params, err);
    if (!rc && t->field->params)
        dr_params_finish(&t->field_params);
    return rc || !t->field->params ? rc : check_field_memory(t, err);
}

static int open_features(struct drift *t, const struct dr_objective_env *env, struct dr_err *err) {
    const struct dr_dataset *d = env->data;
    const struct dr_feature_kind *kind =
        env->kind ? env->kind : dr_feature_kind(t->cfg->features.kind);
    const char *path = env->encoder ? env->encoder : t->cfg->features.encoder;
    int rc = kind->network ? drift_encoder_open(&t->frozen, path, d->h, err) : 0;
    const struct dr_feature_net net = {.net = t->frozen.net, .weights = t->frozen.weights};
    const struct dr_map_dim image = {.c = d->c, .h = d->h, .w = d->w};
    return rc ? rc : dr_features_create_on(kind, &t->cfg->features, image, &net, &t->features, err);
}

static int create(const struct dr_objective_env *env, void **o, struct dr_err *err) {
    struct drift *t = *o = calloc(1, sizeof *t);
    if (!t)
        return dr_fail(err, DR_ENOMEM, "out of memory for a trainer");
    t->cfg = env->cfg;
    t->be = env->be;
    t->comm = env->comm;
    t->field = env->field ? env->field : dr_field(t->cfg->loss.field);
    int rc = dr_gen_create(&t->cfg->model, &t->gen, err);
    if (!rc)
        rc = open_features(t, env, err);
    if (!rc)
        rc = open_field(t, err);
    if (!rc) {
        take_sizes(t);
        if (t->classes < dr_ranks(t->comm)) // on every process alike
            rc = dr_fail(err, DR_ECONFIG, "a step of %lld classes does not fill %d processes",
                         (long long)t->classes, dr_ranks(t->comm));
    }
    if (!rc)
        rc = drift_reals_open(t, env->data, err);
    if (!rc)
        rc = drift_cache_open(t, err);
    return rc ? rc : allocate_host(t, err);
}

static void free_chunks(struct drift *t) {
    for (int64_t i = 0; t->saved && i < t->nchunk; i++)
        dr_net_saved_free(t->saved[i]);
    free(t->saved);
    t->saved = NULL;
    dr_maps_free(t->features, &t->kept);
    dr_maps_free(t->features, &t->kept_reals);
}

static void destroy(void *o) {
    struct drift *t = o;
    if (!t)
        return;
    if (t->features)
        free_chunks(t);
    for (int i = 0; i < TRAINER_SLOTS; i++)
        t->be->host_free(t->be, t->slot[i].x);
    drift_cache_close(t);
    drift_reals_close(t);
    free(t->class);
    free(t->ids);
    free(t->real_rows);
    dr_features_free(t->features);
    drift_encoder_close(&t->frozen);
    dr_params_free(&t->field_params);
    dr_net_free(t->gen);
    free(t);
}

// ---- parameters and memory

static int groups(const void *o, struct dr_group out[TRAINER_GROUPS]) {
    const struct drift *t = o;
    int n = 1;
    out[0] = (struct dr_group){.name = "", .layout = dr_net_params(t->gen), .learning_rate = 1};
    if (t->field->params)
        out[n++] = (struct dr_group){.name = "field",
                                     .layout = &t->field_params,
                                     .learning_rate = t->field->rate ? t->field->rate(&t->cfg->loss)
                                                                     : t->field->learning_rate};
    if (drift_learns_features(t))
        out[n++] = (struct dr_group){.name = "encoder",
                                     .layout = dr_features_params(t->features),
                                     .learning_rate = t->cfg->features.kde_lr};
    return n;
}

static int64_t batch(const void *o) {
    return ((const struct drift *)o)->B;
}

// What the encoder keeps of the generated images and, where it learns from them, of the positives.
static int keep_maps(struct drift *t, int64_t chunk, struct dr_err *err) {
    const bool bf16 = t->cfg->train.precision == DR_PREC_BF16;
    const enum dr_dtype act = bf16 ? DR_BF16 : DR_F32;
    const size_t asked = (size_t)t->cfg->features.keep_mb << 20;
    const size_t budget = t->be->host_memory ? asked : DR_MAX(asked, t->be->mem_left(t->be) / 2);
    const int64_t npos = drift_learns_features(t) ? t->nclass * t->P : 0, all = t->B + npos;
    const size_t of_gen = budget / (size_t)all * (size_t)t->B;
    int rc = dr_maps_init(t->features, t->B, chunk, npos ? of_gen : budget, act, &t->kept, err);
    if (!rc && npos)
        rc = dr_maps_init(t->features, npos, chunk, budget - of_gen, act, &t->kept_reals, err);
    return rc;
}

static int cut(void *o, int64_t chunk, struct dr_err *err) {
    struct drift *t = o;
    free_chunks(t);
    t->chunk = chunk;
    t->nchunk = (t->B + chunk - 1) / chunk;
    t->saved = calloc((size_t)t->nchunk, sizeof *t->saved);
    bool failed = !t->saved;
    for (int64_t i = 0; !failed && i < t->nchunk; i++)
        failed |= !(t->saved[i] = dr_net_saved_new(t->gen));
    if (failed)
        return dr_fail(err, DR_ENOMEM, "out of memory for a batch of %lld samples",
                       (long long)t->B);
    return keep_maps(t, chunk, err);
}

// Layout of the weights that stay as they are; NULL: there are none.
static const struct dr_params *frozen_params(const struct drift *t) {
    return drift_learns_features(t) ? NULL : dr_features_params(t->features);
}

static void lay_out(void *o, struct dr_arena *a) {
    struct drift *t = o;
    const int64_t img = t->image, B = t->B;
    const struct dr_params *encoder = frozen_params(t);
    const int64_t frozen = encoder ? encoder->total : 0;
    const bool bf16 = t->cfg->train.precision == DR_PREC_BF16;
    t->tables = dr_alloc_real(a, dr_net_tables_count(t->gen));
    t->encoder = frozen ? dr_alloc_real(a, frozen) : NULL;
    t->encoder16 = frozen && bf16 ? dr_alloc(a, (size_t)frozen * sizeof(dr_bf16)) : NULL;
    t->eps = dr_alloc_real(a, B * t->noise);
    t->style = dr_alloc(a, (size_t)(B * t->nstyle) * sizeof(int32_t));
    t->x = dr_alloc_real(a, B * img);
    t->dx = dr_alloc_real(a, B * img);
    t->neg = t->cfg->loss.negatives == DR_NEG_INDEPENDENT ? dr_alloc_real(a, B * img) : NULL;
    t->pos = dr_alloc_real(a, t->nclass * t->P * img);
    t->unc = dr_alloc_real(a, t->U * img);
    t->v = drift_has_view(t) ? dr_alloc_real(a, drift_count(t) * B * img) : NULL;
}

static void lay_out_inputs(void *o, int place, struct dr_arena *a) {
    struct drift *t = o;
    struct drift_inputs *in = &t->in[place];
    const size_t B = (size_t)t->B;
    in->alpha = dr_alloc_real(a, t->B);
    in->unc_weight = dr_alloc_real(a, t->nclass);
    in->cls = dr_alloc(a, B * sizeof(int32_t));
    in->seed = dr_alloc(a, B * sizeof(uint64_t));
    in->index = dr_alloc(a, B * sizeof(uint64_t));
    in->key = t->field->params_each ? dr_alloc(a, 2 * sizeof(uint64_t)) : NULL;
    in->pos_ids = dr_alloc(a, (size_t)(t->nclass * t->P) * sizeof(int64_t));
    in->unc_ids = dr_alloc(a, (size_t)t->U * sizeof(int64_t));
    in->cached =
        t->cache.on ? dr_alloc(a, (size_t)(t->nclass * t->P + t->U) * sizeof(int64_t)) : NULL;
    drift_lay_out_rows(t, in, a);
}

static int load_encoder(struct drift *t, const struct dr_params *encoder, struct dr_err *err) {
    real *host = calloc((size_t)DR_MAX(encoder->total, 1), sizeof *host);
    int rc =
        host ? dr_features_load(t->features, host, err)
             : dr_fail(err, DR_ENOMEM, "out of memory for %lld weights", (long long)encoder->total);
    if (!rc)
        t->be->upload(t->be, t->encoder, host, (size_t)encoder->total * sizeof(real));
    if (!rc && t->encoder16)
        DR_OP(t->be, cast, .dst = t->encoder16, .src = t->encoder, .dt = DR_BF16, .st = DR_F32,
              .n = encoder->total);
    free(host);
    return rc;
}

// The generator's tables and the weights of a frozen encoder.
static int start(void *o, struct dr_err *err) {
    struct drift *t = o;
    const struct dr_params *encoder = frozen_params(t);
    int rc = dr_net_tables_upload(t->gen, t->be, t->tables, err);
    if (!rc && encoder)
        rc = load_encoder(t, encoder, err);
    drift_encoder_loaded(&t->frozen);
    return rc;
}

static size_t memory(const void *o) {
    const struct drift *t = o;
    return t->reals.bytes + t->cache.bytes;
}

// ---- metrics

static int64_t report_count(const void *o) {
    return ((const struct drift *)o)->nreport;
}

static void launched(void *o, int64_t step, int slot) {
    struct drift *t = o;
    const int64_t every = t->cfg->metrics.spread_every;
    t->slot[slot].spread = every && step % every == 0;
    if (t->slot[slot].spread)
        t->be->download_later(t->be, t->slot[slot].x, t->x,
                              (size_t)(t->B * t->image) * sizeof(real));
}

// ---- checkpoints and snapshots

static int same(const void *o, const struct dr_config *theirs, const char *path,
                struct dr_err *err) {
    const struct drift *t = o;
    if (!dr_model_config_equal(&theirs->model, &t->cfg->model))
        return dr_fail(err, DR_EINVAL, "%s: the checkpoint's model differs from this run's", path);
    return 0;
}

static bool identity(const void *o, struct dr_identity *out) {
    const struct drift_encoder *e = &((const struct drift *)o)->frozen;
    if (!e->net)
        return false;
    *out = (struct dr_identity){
        .name = "encoder", .description = dr_net_description(e->net), .sha256 = e->sha256};
    return true;
}

static size_t state_size(const void *o) {
    return dr_reals_state_size(((const struct drift *)o)->reals.draw);
}
static void state_get(const void *o, void *out) {
    dr_reals_state_get(((const struct drift *)o)->reals.draw, out);
}
static int state_set(void *o, const void *in, size_t bytes, struct dr_err *err) {
    return dr_reals_state_set(((struct drift *)o)->reals.draw, in, bytes, err);
}

static struct dr_snapshot *snapshot(const void *o, real *w, int64_t step) {
    const struct drift *t = o;
    struct dr_net *gen;
    if (dr_gen_create(&t->cfg->model, &gen, NULL)) {
        free(w);
        return NULL;
    }
    struct dr_snapshot *s = dr_snapshot_new(gen, w, step);
    if (s)
        s->guidance = dr_config_guidance_range(t->cfg);
    return s;
}

const struct dr_objective dr_objective_drift = {
    .name = "drift",
    .create = create,
    .destroy = destroy,
    .groups = groups,
    .metrics = drift_metrics,
    .reports = drift_reports,
    .report_count = report_count,
    .batch = batch,
    .cut = cut,
    .lay_out = lay_out,
    .lay_out_inputs = lay_out_inputs,
    .start = start,
    .draw = drift_draw,
    .device_step = drift_device_step,
    .summed = drift_summed,
    .launched = launched,
    .read = drift_read,
    .memory = memory,
    .same = same,
    .identity = identity,
    .state_name = "driftd/sampler_state",
    .state_size = state_size,
    .state_get = state_get,
    .state_set = state_set,
    .snapshot = snapshot,
    .field = drift_view,
};
