// The memory behind a training run: sizes, the device's block, the slots of the host, the dry run.
// See trainer.h; freed here too.
#include "engine/train/trainer_priv.h"

#include <stdlib.h>
#include <string.h>

void trainer_lay_out_inputs(const struct dr_trainer *t, struct trainer_inputs *in,
                            struct dr_arena *a) {
    const size_t B = (size_t)t->B, reals = (size_t)(t->nclass * t->P + t->U);
    in->hyper = dr_alloc(a, HYPER_COUNT * sizeof(real));
    in->block = in->hyper;
    in->alpha = dr_alloc(a, B * sizeof(real));
    in->unc_weight = dr_alloc(a, (size_t)t->nclass * sizeof(real));
    in->cls = dr_alloc(a, B * sizeof(int32_t));
    in->seed = dr_alloc(a, B * sizeof(uint64_t));
    in->index = dr_alloc(a, B * sizeof(uint64_t));
    in->pos_ids = dr_alloc(a, (size_t)(t->nclass * t->P) * sizeof(int64_t));
    in->unc_ids = dr_alloc(a, (size_t)t->U * sizeof(int64_t));
    in->rows = t->streamed ? dr_alloc(a, reals * dr_dataset_row_bytes(t->data)) : NULL;
}

// Assigns every device pointer of the block; run once to measure, once for real.
static void lay_out(struct dr_trainer *t, struct dr_arena *a) {
    const size_t total = (size_t)dr_net_params(t->gen)->total * sizeof(real);
    const size_t img = (size_t)t->image * sizeof(real), B = (size_t)t->B;
    const int64_t tables = dr_net_tables_count(t->gen);
    t->w = dr_alloc(a, total);
    t->g = dr_alloc(a, total);
    t->m = dr_alloc(a, total);
    t->v = dr_alloc(a, total);
    for (int i = 0; i < t->cfg.ema.n; i++)
        t->ema[i] = dr_alloc(a, total);
    t->w16 = t->act == DR_BF16 ? dr_alloc(a, total / sizeof(real) * sizeof(dr_bf16)) : NULL;
    t->tables = dr_alloc(a, (size_t)tables * sizeof(real));
    t->report = dr_alloc(a, (size_t)t->nreport * sizeof(real));
    t->guard = dr_alloc(a, 2 * sizeof(real));
    t->eps = dr_alloc(a, B * (size_t)t->noise * sizeof(real));
    t->style = dr_alloc(a, B * (size_t)t->nstyle * sizeof(int32_t));
    t->x = dr_alloc(a, B * img);
    t->dx = dr_alloc(a, B * img);
    t->neg = t->cfg.loss.negatives == DR_NEG_INDEPENDENT ? dr_alloc(a, B * img) : NULL;
    t->pos = dr_alloc(a, (size_t)(t->nclass * t->P) * img);
    t->unc = dr_alloc(a, (size_t)t->U * img);
    t->field = trainer_has_field(t) ? dr_alloc(a, (size_t)t->cfg.loss.ntau * B * img) : NULL;
    const size_t mark = a->used;
    trainer_lay_out_inputs(t, &t->in, a);
    t->in_bytes = a->used - mark;
}

static int allocate_block(struct dr_trainer *t, struct dr_err *err) {
    struct dr_arena a;
    dr_arena_measure(&a);
    lay_out(t, &a);
    t->block_bytes = a.peak;
    int rc = t->be->mem_alloc(t->be, t->block_bytes, &t->block, err);
    if (rc)
        return rc;
    dr_arena_init(&a, t->block, t->block_bytes);
    lay_out(t, &a);
    return 0;
}

static int set_chunk(struct dr_trainer *t, int64_t chunk, struct dr_err *err) {
    for (int64_t i = 0; t->saved && i < t->nchunk; i++)
        dr_net_saved_free(t->saved[i]);
    free(t->saved);
    t->chunk = chunk;
    t->nchunk = (t->B + chunk - 1) / chunk;
    t->saved = calloc((size_t)t->nchunk, sizeof *t->saved);
    bool failed = !t->saved;
    for (int64_t i = 0; !failed && i < t->nchunk; i++)
        failed |= !(t->saved[i] = dr_net_saved_new(t->gen));
    return failed ? dr_fail(err, DR_ENOMEM, "out of memory for a batch of %lld samples",
                            (long long)t->B)
                  : 0;
}

// The dry run: the whole step against the null backend, with measuring arenas.
static int measure(struct dr_trainer *t, struct dr_err *err) {
    struct dr_backend *null, *real_be = t->be;
    int rc = dr_backend_null(&null, err);
    if (rc)
        return rc;
    dr_arena_measure(&t->keep);
    dr_arena_measure(&t->tmp);
    t->be = null; // the ops of the step go through t->be
    trainer_device_step(t);
    t->be = real_be;
    t->flops = null->flops;
    dr_backend_free(null);
    return 0;
}

// What may be planned with: workspaces of ops, the code of libraries, recordings and the generator
// come later and take what the dry run cannot see.
static size_t room(const struct dr_trainer *t) {
    const size_t left = t->be->mem_left(t->be);
    return left - DR_MIN(left / 8, (size_t)2 << 30);
}

// One allocation for all activations. A CPU cuts the batch to what its caches hold. A device has
// memory rather than bandwidth to spare: it takes the batch whole and keeps everything; where that
// does not fit, the backward pass computes again what it can, and then the batch is halved until
// the temporaries fit beside what is kept.
static int allocate_scratch(struct dr_trainer *t, struct dr_err *err) {
    const bool host = t->be->host_memory;
    const int64_t asked =
        t->cfg.train.micro_batch > 0 ? DR_MIN(t->cfg.train.micro_batch, t->B) : t->B;
    int64_t chunk = host ? asked : t->B;
    size_t keep, tmp;
    t->keep_all = !host;
    for (;;) {
        int rc = set_chunk(t, chunk, err);
        if (!rc)
            rc = measure(t, err);
        if (rc)
            return rc;
        keep = t->keep.peak, tmp = t->tmp.peak;
        t->scratch_bytes = keep + tmp + DR_ALIGN;
        if (host || t->scratch_bytes <= room(t))
            break;
        if (!t->keep_all && chunk <= DR_MIN(asked, 16))
            break; // the allocation below says how much is missing
        if (!t->keep_all)
            chunk = (chunk + 1) / 2;
        t->keep_all = false;
    }
    int rc = t->be->mem_alloc(t->be, t->scratch_bytes, &t->scratch, err);
    if (rc)
        return rc;
    dr_arena_init(&t->keep, t->scratch, keep);
    dr_arena_init(&t->tmp, (char *)t->scratch + keep, tmp);
    return 0;
}

// Puts the data set on the device where it fits beside everything else; half of what is free is
// left for the rest. A host_memory backend reads it where it is. What is in neither memory travels
// with each step.
static int place_data(struct dr_trainer *t, struct dr_err *err) {
    const struct dr_dataset *d = t->data;
    const size_t bytes = (size_t)d->n * dr_dataset_row_bytes(d);
    const void *all = dr_dataset_all(d);
    t->pixels = d->pixels;
    t->points = d->points;
    t->streamed = !all || (!t->be->host_memory && bytes > t->be->mem_left(t->be) / 2);
    if (t->be->host_memory || t->streamed)
        return 0;
    int rc = t->be->mem_alloc(t->be, bytes, &t->images, err);
    if (rc)
        return rc;
    t->images_bytes = bytes;
    t->be->upload(t->be, t->images, all, bytes);
    t->pixels = d->pixels ? t->images : NULL;
    t->points = d->pixels ? NULL : t->images;
    return 0;
}

static int allocate_slot(struct dr_trainer *t, struct trainer_slot *s, struct dr_err *err) {
    const size_t x = (size_t)(t->B * t->image) * sizeof(real);
    struct dr_arena a;
    void *block, *report, *images = NULL;
    int rc = t->be->host_alloc(t->be, t->in_bytes, &block, err);
    if (rc)
        return rc;
    dr_arena_init(&a, block, t->in_bytes);
    trainer_lay_out_inputs(t, &s->in, &a);
    rc = t->be->host_alloc(t->be, (size_t)t->nreport * sizeof(real), &report, err);
    if (rc)
        return rc;
    s->report = report;
    if (t->cfg.metrics.spread_every)
        rc = t->be->host_alloc(t->be, x, &images, err);
    s->x = images;
    return rc;
}

static int allocate_host(struct dr_trainer *t, struct dr_err *err) {
    const size_t row = (size_t)t->image * sizeof(real), rows = (size_t)DR_MAX(t->N, 32);
    t->classes = calloc((size_t)t->nclass, sizeof *t->classes);
    t->real_rows = malloc(rows * row);
    return t->classes && t->real_rows
               ? 0
               : dr_fail(err, DR_ENOMEM, "out of memory for a batch of %lld samples",
                         (long long)t->B);
}

static int initial_weights(struct dr_trainer *t, struct dr_err *err) {
    const struct dr_params *ps = dr_net_params(t->gen);
    const int64_t tables = dr_net_tables_count(t->gen);
    real *host = calloc((size_t)DR_MAX(ps->total, tables), sizeof *host);
    if (!host)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld parameters", (long long)ps->total);
    dr_net_tables_fill(t->gen, host);
    t->be->upload(t->be, t->tables, host, (size_t)tables * sizeof(real));
    memset(host, 0, (size_t)DR_MAX(ps->total, tables) * sizeof *host);
    dr_params_init(ps, (uint64_t)t->cfg.train.seed, host);
    t->be->upload(t->be, t->w, host, (size_t)ps->total * sizeof(real));
    for (int i = 0; i < t->cfg.ema.n; i++)
        t->be->upload(t->be, t->ema[i], host, (size_t)ps->total * sizeof(real));
    free(host);
    if (t->w16)
        DR_OP(t->be, cast, .dst = t->w16, .src = t->w, .dt = DR_BF16, .st = DR_F32, .n = ps->total);
    return t->be->sync(t->be, err);
}

static int check_against_data(const struct dr_config *c, const struct dr_dataset *d,
                              struct dr_err *err) {
    if (d->classes != c->data.classes)
        return dr_fail(err, DR_ECONFIG, "data.classes is %lld but the data set %s has %lld",
                       (long long)c->data.classes, d->name, (long long)d->classes);
    const int64_t want = c->model.channels * c->model.size * c->model.size;
    const int64_t have = d->c * d->h * d->w;
    if (want != have)
        return dr_fail(err, DR_ECONFIG,
                       "the configuration wants images of %lld values, %s has %lld",
                       (long long)want, d->name, (long long)have);
    if (c->train.precision == DR_PREC_BF16 && sizeof(real) != 4)
        return dr_fail(err, DR_EUNSUPPORTED, "train.precision bf16 is not in this build");
    return 0;
}

static void take_sizes(struct dr_trainer *t) {
    const struct dr_train_config *c = &t->cfg.train;
    t->act = c->precision == DR_PREC_BF16 ? DR_BF16 : DR_F32;
    t->nclass =
        c->classes > 0 && c->classes < t->cfg.data.classes ? c->classes : t->cfg.data.classes;
    t->N = c->generated;
    t->P = c->positives;
    t->U = c->unconditional;
    t->B = t->nclass * t->N;
    t->image = dr_gen_image_count(t->gen);
    t->noise = dr_gen_noise_count(t->gen);
    t->nstyle = dr_gen_style_count(t->gen);
    t->nreport = report_feature(t, dr_features_count(t->features));
    t->nslots = t->be->host_memory ? 1 : TRAINER_SLOTS;
}

int dr_trainer_create(const struct dr_config *cfg, struct dr_backend *be,
                      const struct dr_dataset *data, struct dr_trainer **out, struct dr_err *err) {
    *out = NULL;
    int rc = check_against_data(cfg, data, err);
    if (rc)
        return rc;
    struct dr_trainer *t = calloc(1, sizeof *t);
    if (!t)
        return dr_fail(err, DR_ENOMEM, "out of memory for a trainer");
    t->cfg = *cfg;
    t->be = be;
    t->data = data;
    rc = dr_gen_create(&cfg->model, &t->gen, err);
    if (!rc)
        rc = dr_features_create(&cfg->features, data->c, data->h, data->w, &t->features, err);
    if (!rc)
        rc = dr_reals_create(cfg, data, &t->reals, err);
    if (!rc) {
        take_sizes(t);
        rc = allocate_host(t, err);
    }
    if (!rc)
        rc = place_data(t, err);
    if (!rc)
        rc = allocate_block(t, err);
    for (int i = 0; i < t->nslots && !rc; i++)
        rc = allocate_slot(t, &t->slot[i], err);
    if (!rc)
        rc = allocate_scratch(t, err);
    if (!rc)
        rc = initial_weights(t, err);
    if (rc) {
        dr_trainer_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void dr_trainer_free(struct dr_trainer *t) {
    if (!t)
        return;
    t->be->sync(t->be, NULL); // a step may be on its way
    t->be->graph_free(t->be, t->graph);
    t->be->mem_free(t->be, t->block);
    t->be->mem_free(t->be, t->scratch);
    t->be->mem_free(t->be, t->images);
    for (int i = 0; i < TRAINER_SLOTS; i++) {
        t->be->host_free(t->be, t->slot[i].in.block);
        t->be->host_free(t->be, t->slot[i].report);
        t->be->host_free(t->be, t->slot[i].x);
    }
    for (int64_t i = 0; t->saved && i < t->nchunk; i++)
        dr_net_saved_free(t->saved[i]);
    free(t->saved);
    free(t->classes);
    free(t->real_rows);
    dr_reals_free(t->reals);
    dr_features_free(t->features);
    dr_net_free(t->gen);
    free(t);
}
