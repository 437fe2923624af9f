// The memory behind a training run: the device's block, the slots of the host, the dry run. See
// trainer.h; freed here too.
#include "engine/train/trainer_priv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static bool bf16(const struct dr_trainer *t) {
    return t->cfg.train.precision == DR_PREC_BF16;
}

static void lay_out_group(const struct dr_trainer *t, struct dr_group *g, bool served,
                          struct dr_arena *a) {
    const size_t total = (size_t)g->layout->total * sizeof(real);
    g->w = dr_alloc(a, total);
    g->g = dr_alloc(a, total);
    g->m = dr_alloc(a, total);
    g->v = dr_alloc(a, total);
    for (int i = 0; served && i < t->cfg.ema.n; i++)
        g->ema[i] = dr_alloc(a, total);
    g->w16 = bf16(t) ? dr_alloc(a, total / sizeof(real) * sizeof(dr_bf16)) : NULL;
    g->weights = (struct dr_weights){.layout = g->layout, .w = g->w, .w16 = g->w16};
    g->gradients = g->weights;
    g->gradients.g = g->g;
}

// A step's inputs; the same offsets in every place. Returns where they begin.
static void *lay_out_inputs(struct dr_trainer *t, int place, struct dr_arena *a) {
    real *hyper = dr_alloc_real(a, hyper_count(t));
    if (place == TRAINER_DEVICE)
        t->hyper = hyper;
    else
        t->slot[place].hyper = hyper;
    t->objective->lay_out_inputs(t->o, place, a);
    return hyper;
}

// Assigns every device pointer of the block; run once to measure, once for real.
static void lay_out(struct dr_trainer *t, struct dr_arena *a) {
    for (int k = 0; k < t->ngroups; k++)
        lay_out_group(t, &t->group[k], !k, a);
    t->report = dr_alloc_real(a, t->nreport);
    t->guard = dr_alloc_real(a, 2);
    t->objective->lay_out(t->o, a);
    const size_t mark = a->used;
    t->inputs = lay_out_inputs(t, TRAINER_DEVICE, a);
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

static struct dr_ctx context(struct dr_trainer *t, struct dr_backend *be, struct dr_comm *comm,
                             struct dr_arena *keep, struct dr_arena *tmp, bool keep_all) {
    return (struct dr_ctx){.be = be,
                           .comm = comm,
                           .keep = keep,
                           .tmp = tmp,
                           .act = bf16(t) ? DR_BF16 : DR_F32,
                           .keep_all = keep_all};
}

// The dry run: the whole step against the null backend, with measuring arenas.
static int measure(struct dr_trainer *t, bool keep_all, size_t *keep, size_t *tmp,
                   struct dr_err *err) {
    struct dr_backend *null;
    struct dr_arena k, m;
    int rc = dr_backend_null(&null, err);
    if (rc)
        return rc;
    dr_arena_measure(&k);
    dr_arena_measure(&m);
    struct trainer_pass dry = {.t = t, .cx = context(t, null, NULL, &k, &m, keep_all)};
    trainer_device_step(&dry);
    t->flops = null->flops;
    dr_backend_free(null);
    *keep = k.peak;
    *tmp = m.peak;
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
static int allocate_scratch(struct dr_trainer *t, struct dr_comm *comm, struct dr_err *err) {
    const bool host = t->be->host_memory;
    const int64_t batch = t->objective->batch(t->o), micro = t->cfg.train.micro_batch;
    const int64_t asked = micro > 0 ? DR_MIN(micro, batch) : batch;
    int64_t chunk = host ? asked : batch;
    bool keep_all = !host;
    size_t keep, tmp;
    for (;;) {
        int rc = t->objective->cut(t->o, chunk, err);
        if (!rc)
            rc = measure(t, keep_all, &keep, &tmp, err);
        if (rc)
            return rc;
        t->scratch_bytes = keep + tmp + DR_ALIGN;
        if (host || t->scratch_bytes <= room(t))
            break;
        if (!keep_all && chunk <= DR_MIN(asked, 16))
            break; // the allocation below says how much is missing
        if (!keep_all)
            chunk = (chunk + 1) / 2;
        keep_all = false;
    }
    int rc = t->be->mem_alloc(t->be, t->scratch_bytes, &t->scratch, err);
    if (rc)
        return rc;
    dr_arena_init(&t->keep, t->scratch, keep);
    dr_arena_init(&t->tmp, (char *)t->scratch + keep, tmp);
    t->pass =
        (struct trainer_pass){.t = t, .cx = context(t, t->be, comm, &t->keep, &t->tmp, keep_all)};
    return 0;
}

static int allocate_slot(struct dr_trainer *t, int slot, struct dr_err *err) {
    struct trainer_slot *s = &t->slot[slot];
    struct dr_arena a;
    void *report;
    int rc = t->be->host_alloc(t->be, t->in_bytes, &s->inputs, err);
    if (!rc)
        rc = t->be->host_alloc(t->be, (size_t)t->nreport * sizeof(real), &report, err);
    if (rc)
        return rc;
    s->report = report;
    dr_arena_init(&a, s->inputs, t->in_bytes);
    lay_out_inputs(t, slot, &a);
    return 0;
}

void trainer_round_weights(struct dr_trainer *t) {
    for (int k = 0; k < t->ngroups; k++)
        if (t->group[k].w16)
            DR_OP(t->be, cast, .dst = t->group[k].w16, .src = t->group[k].w, .dt = DR_BF16,
                  .st = DR_F32, .n = t->group[k].layout->total);
}

// A parameter at a time, between which it may be told to end.
static int init_params(const struct dr_trainer_parts *parts, const struct dr_params *ps,
                       uint64_t seed, real *host, struct dr_err *err) {
    for (int i = 0; i < ps->n; i++) {
        if (parts->go_on && !parts->go_on(parts->ctx))
            return dr_fail(err, DR_ECANCELED, "stopped while the weights were being made");
        dr_params_init_one(ps, i, seed, host);
    }
    return 0;
}

// The groups' seeds differ, so that none repeats the numbers of another.
static int initial_weights(struct dr_trainer *t, const struct dr_trainer_parts *parts,
                           struct dr_err *err) {
    int rc = 0;
    for (int k = 0; k < t->ngroups && !rc; k++) {
        const struct dr_group *g = &t->group[k];
        const size_t bytes = (size_t)g->layout->total * sizeof(real);
        real *host = calloc((size_t)DR_MAX(g->layout->total, 1), sizeof *host);
        if (!host)
            return dr_fail(err, DR_ENOMEM, "out of memory for %lld parameters",
                           (long long)g->layout->total);
        const uint64_t seed = (uint64_t)t->cfg.train.seed ^ (uint64_t)k << 56;
        rc = init_params(parts, g->layout, seed, host, err);
        t->be->upload(t->be, g->w, host, bytes);
        for (int i = 0; !k && i < t->cfg.ema.n; i++)
            t->be->upload(t->be, g->ema[i], host, bytes);
        free(host);
    }
    if (rc)
        return rc;
    trainer_round_weights(t);
    return t->be->sync(t->be, err);
}

static void take_sizes(struct dr_trainer *t) {
    static const char *const own[TRAINER_OWN] = {"loss", "grad_norm", "lr", "step_seconds"};
    const struct dr_metric_def *def = t->objective->metrics(t->o, &t->nmetrics);
    t->ngroups = t->objective->groups(t->o, t->group);
    t->nreport = report_own(t) + t->objective->report_count(t->o);
    t->nslots = t->be->host_memory ? 1 : TRAINER_SLOTS;
    assert(t->nmetrics <= DR_MAX_METRICS && t->ngroups >= 1 && t->ngroups <= TRAINER_GROUPS);
    for (int i = 0; i < TRAINER_OWN; i++) {
        while (t->at[i] < t->nmetrics && strcmp(def[t->at[i]].name, own[i]))
            t->at[i]++;
        assert(t->at[i] < t->nmetrics);
    }
}

static int set_up(struct dr_trainer *t, const struct dr_trainer_parts *parts, struct dr_err *err) {
    const struct dr_objective_env env = {.cfg = &t->cfg,
                                         .data = t->data,
                                         .be = t->be,
                                         .comm = parts->comm,
                                         .field = parts->field,
                                         .kind = parts->kind,
                                         .encoder = parts->encoder};
    int rc = t->objective->create(&env, &t->o, err);
    if (rc)
        return rc;
    take_sizes(t);
    rc = allocate_block(t, err);
    for (int i = 0; i < t->nslots && !rc; i++)
        rc = allocate_slot(t, i, err);
    if (!rc)
        rc = allocate_scratch(t, parts->comm, err);
    if (!rc)
        rc = t->objective->start(t->o, err);
    if (!rc)
        rc = initial_weights(t, parts, err);
    return rc;
}

int dr_trainer_create_of(const struct dr_trainer_parts *parts, const struct dr_config *cfg,
                         struct dr_backend *be, const struct dr_dataset *data,
                         struct dr_trainer **out, struct dr_err *err) {
    *out = NULL;
    if (cfg->train.precision == DR_PREC_BF16 && sizeof(real) != 4)
        return dr_fail(err, DR_EUNSUPPORTED, "train.precision bf16 is not in this build");
    struct dr_trainer *t = calloc(1, sizeof *t);
    if (!t)
        return dr_fail(err, DR_ENOMEM, "out of memory for a trainer");
    t->cfg = *cfg;
    t->be = be;
    t->data = data;
    t->objective = parts->objective ? parts->objective : dr_objective_of(cfg);
    int rc = set_up(t, parts, err);
    if (rc)
        dr_trainer_free(t);
    else
        *out = t;
    return rc;
}

int dr_trainer_create_from(const struct dr_trainer_files *files, const struct dr_config *cfg,
                           struct dr_backend *be, const struct dr_dataset *data,
                           struct dr_trainer **out, struct dr_err *err) {
    struct dr_trainer_parts parts = {0};
    if (files)
        parts = (struct dr_trainer_parts){
            .encoder = files->encoder, .go_on = files->go_on, .ctx = files->ctx};
    return dr_trainer_create_of(&parts, cfg, be, data, out, err);
}

int dr_trainer_create(const struct dr_config *cfg, struct dr_backend *be,
                      const struct dr_dataset *data, struct dr_trainer **out, struct dr_err *err) {
    return dr_trainer_create_of(&(struct dr_trainer_parts){0}, cfg, be, data, out, err);
}

void dr_trainer_free(struct dr_trainer *t) {
    if (!t)
        return;
    t->be->sync(t->be, NULL); // a step may be on its way
    t->be->graph_free(t->be, t->graph);
    t->be->mem_free(t->be, t->block);
    t->be->mem_free(t->be, t->scratch);
    for (int i = 0; i < TRAINER_SLOTS; i++) {
        t->be->host_free(t->be, t->slot[i].inputs);
        t->be->host_free(t->be, t->slot[i].report);
    }
    t->objective->destroy(t->o);
    free(t);
}
