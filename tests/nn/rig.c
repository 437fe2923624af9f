// See rig.h.
#include "tests/nn/rig.h"
#include "engine/core/rng.h"
#include "engine/cpu/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct dr_model_config rig_config(void) {
    return (struct dr_model_config){.arch = DR_ARCH_DRIFTDIT,
                                    .size = 8,
                                    .channels = 1,
                                    .classes = 3,
                                    .dim = 8,
                                    .depth = 2,
                                    .heads = 2,
                                    .patch = 4,
                                    .registers = 3,
                                    .latent_dim = 5,
                                    .style_tokens = 3,
                                    .codebook = 4,
                                    .head_width = 3,
                                    .mlp_ratio = 4,
                                    .temperature = 1,
                                    .out_std = 0.02,
                                    .rope = true,
                                    .qk_norm = true,
                                    .null_class = true};
}

static void *device(struct rig *r, size_t bytes) {
    struct dr_err err = {0};
    assert_true(r->nmem < (int)DR_COUNT(r->mem));
    if (r->be->mem_alloc(r->be, DR_MAX(bytes, 64), &r->mem[r->nmem], &err))
        fail_msg("%s", err.msg);
    return r->mem[r->nmem++];
}

static void pass(struct dr_ctx *cx, const struct rig *r, bool keep) {
    const real *const dx = r->dx;
    dr_net_forward(cx, r->gen, &r->w, &r->in, &r->x, keep ? r->saved : NULL);
    if (keep)
        dr_net_backward(cx, r->gen, &r->w, &r->in, r->saved, &dx, r->dnoise);
}

static void make_arenas(struct rig *r) {
    struct dr_backend *null;
    struct dr_arena keep, tmp;
    assert_int_equal(dr_backend_null(&null, NULL), 0);
    dr_arena_measure(&keep);
    dr_arena_measure(&tmp);
    pass(&(struct dr_ctx){.be = null, .keep = &keep, .tmp = &tmp, .act = r->cx.act}, r, true);
    assert_int_equal(tmp.used, 0);
    pass(&(struct dr_ctx){.be = null, .tmp = &tmp, .act = r->cx.act}, r, false);
    assert_int_equal(tmp.used, 0);
    dr_backend_free(null);
    dr_arena_init(&r->keep, device(r, keep.peak), keep.peak);
    dr_arena_init(&r->tmp, device(r, tmp.peak), tmp.peak);
    r->cx.keep = &r->keep;
    r->cx.tmp = &r->tmp;
}

void rig_open(struct rig *r, const struct dr_model_config *cfg, int64_t b, int threads,
              enum dr_dtype act) {
    struct dr_err err = {0};
    *r = (struct rig){.b = b, .cx.act = act};
    if (dr_backend_cpu(threads, &r->be, &err) || dr_gen_create(cfg, &r->gen, &err))
        fail_msg("%s", err.msg);
    r->be->enter(r->be);
    r->cx.be = r->be;
    r->params = dr_net_params(r->gen);
    r->saved = dr_net_saved_new(r->gen);
    assert_non_null(r->saved);
    r->image = dr_gen_image_count(r->gen);
    r->noise = dr_gen_noise_count(r->gen);
    r->style = dr_gen_style_count(r->gen);
    size_t total = (size_t)r->params->total, n = (size_t)b;
    r->w = (struct dr_weights){.layout = r->params,
                               .w = device(r, total * sizeof(real)),
                               .w16 = device(r, total * sizeof(dr_bf16)),
                               .g = device(r, total * sizeof(real))};
    r->in = (struct dr_net_in){.x = device(r, n * (size_t)r->noise * sizeof(real)),
                               .cls = device(r, n * sizeof(int32_t)),
                               .alpha = device(r, n * sizeof(real)),
                               .style = device(r, n * (size_t)r->style * sizeof(int32_t)),
                               .b = b};
    r->x = device(r, n * (size_t)r->image * sizeof(real));
    r->dnoise = device(r, n * (size_t)r->noise * sizeof(real));
    r->dx = device(r, n * (size_t)r->image * sizeof(real));
    const int64_t tables = dr_net_tables_count(r->gen);
    if (tables) {
        real *dev = device(r, (size_t)tables * sizeof *dev);
        if (dr_net_tables_upload(r->gen, r->be, dev, &err))
            fail_msg("%s", err.msg);
        r->in.tables = dev;
    }
    make_arenas(r);
}

void rig_close(struct rig *r) {
    for (int i = 0; i < r->nmem; i++)
        r->be->mem_free(r->be, r->mem[i]);
    dr_net_saved_free(r->saved);
    dr_net_free(r->gen);
    dr_backend_free(r->be);
}

static void sync(struct rig *r) {
    struct dr_err err = {0};
    if (r->be->sync(r->be, &err))
        fail_msg("%s", err.msg);
}

void rig_weights(struct rig *r, const real *host) {
    int64_t n = r->params->total;
    r->be->upload(r->be, (void *)r->w.w, host, (size_t)n * sizeof *host);
    if (r->cx.act == DR_BF16)
        DR_OP(r->be, cast, .dst = (void *)r->w.w16, .src = r->w.w, .dt = DR_BF16, .st = DR_F32,
              .n = n);
    sync(r);
}

real *rig_random_weights(const struct dr_params *ps, uint64_t seed) {
    real *w = calloc((size_t)ps->total, sizeof *w);
    assert_non_null(w);
    for (int i = 0; i < ps->n; i++) {
        const struct dr_param *p = &ps->p[i];
        bool one = p->init == DR_INIT_ONE;
        real scale = one ? 0.2 : p->ndim == 2 ? 0.35 : 0.3;
        dr_normals(seed, DR_STREAM_INIT, (uint64_t)i, w + p->offset, p->count);
        for (int64_t j = 0; j < p->count; j++)
            w[p->offset + j] = scale * w[p->offset + j] + (one ? 1 : 0);
    }
    return w;
}

void rig_inputs(struct rig *r, int64_t n, const real *noise, const int32_t *cls, const real *alpha,
                const int32_t *style) {
    assert_true(n <= r->b);
    r->in.b = n;
    r->be->upload(r->be, (void *)r->in.x, noise, (size_t)(n * r->noise) * sizeof *noise);
    r->be->upload(r->be, (void *)r->in.cls, cls, (size_t)n * sizeof *cls);
    r->be->upload(r->be, (void *)r->in.alpha, alpha, (size_t)n * sizeof *alpha);
    if (r->style)
        r->be->upload(r->be, (void *)r->in.style, style, (size_t)(n * r->style) * sizeof *style);
}

void rig_random_inputs(struct rig *r, uint64_t seed) {
    const struct dr_model_config *m = dr_gen_config(r->gen);
    int64_t n = r->b;
    real *noise = calloc((size_t)(n * r->noise), sizeof *noise);
    real *alpha = calloc((size_t)n, sizeof *alpha);
    int32_t *cls = calloc((size_t)n, sizeof *cls);
    int32_t *style = calloc((size_t)(n * r->style) + 1, sizeof *style);
    assert_true(noise && alpha && cls && style);
    for (int64_t i = 0; i < n; i++) {
        dr_normals(seed, DR_STREAM_NOISE, (uint64_t)i, noise + i * r->noise, r->noise);
        dr_indices(seed, DR_STREAM_STYLE, (uint64_t)i, (uint32_t)m->codebook, style + i * r->style,
                   r->style);
        dr_indices(seed, DR_STREAM_LABEL, (uint64_t)i, (uint32_t)(m->classes + m->null_class),
                   &cls[i], 1);
        alpha[i] = (real)(1 + 0.37 * (double)i);
    }
    rig_inputs(r, n, noise, cls, alpha, style);
    free(noise);
    free(alpha);
    free(cls);
    free(style);
}

void rig_forward(struct rig *r, bool keep, real *x) {
    struct dr_ctx cx = r->cx;
    cx.keep = keep ? &r->keep : NULL;
    dr_release(&r->keep, 0);
    dr_net_forward(&cx, r->gen, &r->w, &r->in, &r->x, keep ? r->saved : NULL);
    sync(r);
    r->be->download(r->be, x, r->x, (size_t)(r->in.b * r->image) * sizeof *x);
}

void rig_backward(struct rig *r, const real *dx, real *g) {
    size_t total = (size_t)r->params->total;
    r->be->upload(r->be, r->dx, dx, (size_t)(r->in.b * r->image) * sizeof *dx);
    DR_OP(r->be, fill, .dst = r->w.g, .n = (int64_t)total, .value = 0);
    const real *const dy = r->dx;
    dr_net_backward(&r->cx, r->gen, &r->w, &r->in, r->saved, &dy, NULL);
    sync(r);
    r->be->download(r->be, g, r->w.g, total * sizeof *g);
}

void rig_backward_input(struct rig *r, const real *dx, real *dnoise) {
    const struct dr_weights frozen = {.layout = r->w.layout, .w = r->w.w, .w16 = r->w.w16};
    const real *const dy = r->dx;
    r->be->upload(r->be, r->dx, dx, (size_t)(r->in.b * r->image) * sizeof *dx);
    dr_net_backward(&r->cx, r->gen, &frozen, &r->in, r->saved, &dy, r->dnoise);
    sync(r);
    r->be->download(r->be, dnoise, r->dnoise, (size_t)(r->in.b * r->noise) * sizeof *dnoise);
}
