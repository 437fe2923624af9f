// Generators: creation, checks, tables and dispatch by architecture. See gen.h; the networks are in
// dit.c and mlp.c.
#include "engine/nn/layers.h"

#include <math.h>
#include <stdlib.h>

// Bounds that keep the products of sizes far from overflow; config.def has the same ones, but a
// model section may also come from a foreign file.
static int check_ranges(const struct dr_model_config *m, struct dr_err *err) {
    const struct {
        const char *key;
        int64_t value, min, max;
    } range[] = {
        {"data.size", m->size, 1, 1024},
        {"data.channels", m->channels, 1, 64},
        {"data.classes", m->classes, 1, 100000},
        {"model.dim", m->dim, 4, 8192},
        {"model.depth", m->depth, 0, 128},
        {"model.heads", m->heads, 1, 256},
        {"model.patch", m->patch, 1, 64},
        {"model.registers", m->registers, 0, 256},
        {"model.latent_dim", m->latent_dim, 1, 4096},
        {"model.style_tokens", m->style_tokens, 0, 1024},
        {"model.codebook", m->codebook, 1, 65536},
        {"model.head_width", m->head_width, 1, 1024},
    };
    for (size_t i = 0; i < DR_COUNT(range); i++)
        if (range[i].value < range[i].min || range[i].value > range[i].max)
            return dr_fail(err, DR_ECONFIG, "%s is %lld; expected %lld to %lld", range[i].key,
                           (long long)range[i].value, (long long)range[i].min,
                           (long long)range[i].max);
    if (!(m->mlp_ratio >= 0.25 && m->mlp_ratio <= 16))
        return dr_fail(err, DR_ECONFIG, "model.mlp_ratio is %g; expected 0.25 to 16", m->mlp_ratio);
    if (m->label_dropout > 0 && !m->null_class)
        return dr_fail(err, DR_ECONFIG, "model.label_dropout %g needs model.null_class",
                       m->label_dropout);
    return 0;
}

int dr_gen_create(const struct dr_model_config *cfg, struct dr_gen **out, struct dr_err *err) {
    *out = NULL;
    int rc = check_ranges(cfg, err);
    if (rc)
        return rc;
    struct dr_gen *g = calloc(1, sizeof *g);
    if (!g)
        return dr_fail(err, DR_ENOMEM, "out of memory for a generator");
    g->cfg = *cfg;
    switch (cfg->arch) {
    case DR_ARCH_DRIFTDIT:
    case DR_ARCH_LIGHTNINGDIT:
        rc = dr_dit_build(g, err);
        break;
    case DR_ARCH_MLP:
        rc = dr_mlp_build(g, err);
        break;
    default:
        rc = dr_fail(err, DR_ECONFIG, "model.arch %d is not known", cfg->arch);
    }
    if (!rc && g->params.cap < 0)
        rc = dr_fail(err, DR_ENOMEM, "out of memory for the parameter layout");
    if (rc) {
        dr_gen_free(g);
        return rc;
    }
    dr_params_finish(&g->params);
    *out = g;
    return 0;
}

void dr_gen_free(struct dr_gen *g) {
    if (!g)
        return;
    dr_params_free(&g->params);
    free(g->dit.block);
    free(g->mlp.hidden);
    free(g);
}

const struct dr_params *dr_gen_params(const struct dr_gen *g) {
    return &g->params;
}
const struct dr_model_config *dr_gen_config(const struct dr_gen *g) {
    return &g->cfg;
}
int64_t dr_gen_style_count(const struct dr_gen *g) {
    return g->cfg.style_tokens;
}

int64_t dr_gen_image_count(const struct dr_gen *g) {
    return g->cfg.arch == DR_ARCH_MLP ? 2 : g->cfg.channels * g->cfg.size * g->cfg.size;
}

int64_t dr_gen_noise_count(const struct dr_gen *g) {
    bool latent = g->cfg.arch == DR_ARCH_MLP || g->cfg.noise == DR_NOISE_LATENT;
    return latent ? g->cfg.latent_dim : dr_gen_image_count(g);
}

int dr_gen_null_class(const struct dr_gen *g) {
    return g->cfg.null_class ? (int)g->cfg.classes : -1;
}

// RoPE angles: cos [tokens, hd/2], then sin; position p, frequency 10000^(-2i/hd).
int dr_gen_tables_count(const struct dr_gen *g, int64_t *reals) {
    bool rope = g->cfg.arch != DR_ARCH_MLP && g->cfg.rope;
    *reals = rope ? g->dit.tokens * (g->cfg.dim / g->cfg.heads) : 0;
    return 0;
}

void dr_gen_tables_fill(const struct dr_gen *g, real *host) {
    int64_t count;
    dr_gen_tables_count(g, &count);
    if (!count)
        return;
    int64_t half = g->cfg.dim / g->cfg.heads / 2;
    for (int64_t t = 0; t < g->dit.tokens; t++)
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)t * pow(10000, -(double)i / (double)half);
            host[t * half + i] = (real)cos(angle);
            host[(g->dit.tokens + t) * half + i] = (real)sin(angle);
        }
}

struct dr_gen_saved *dr_gen_saved_new(const struct dr_gen *g) {
    struct dr_gen_saved *s = calloc(1, sizeof *s);
    size_t depth = (size_t)DR_MAX(g->cfg.depth, 1);
    if (!s)
        return NULL;
    s->block = calloc(depth, sizeof *s->block);
    s->hidden = calloc(depth, sizeof *s->hidden);
    if (!s->block || !s->hidden) {
        dr_gen_saved_free(s);
        return NULL;
    }
    return s;
}

void dr_gen_saved_free(struct dr_gen_saved *s) {
    if (!s)
        return;
    free(s->block);
    free(s->hidden);
    free(s);
}

void dr_gen_forward(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_weights *w,
                    const struct dr_gen_in *in, real *x, struct dr_gen_saved *saved) {
    if (g->cfg.arch == DR_ARCH_MLP)
        dr_mlp_forward(cx, g, w, in, x, saved);
    else
        dr_dit_forward(cx, g, w, in, x, saved);
}

void dr_gen_backward(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_weights *w,
                     const struct dr_gen_in *in, const struct dr_gen_saved *saved, const real *dx) {
    if (g->cfg.arch == DR_ARCH_MLP)
        dr_mlp_backward(cx, g, w, in, saved, dx);
    else
        dr_dit_backward(cx, g, w, in, saved, dx);
}
