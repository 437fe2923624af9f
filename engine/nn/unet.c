// The U-Net generator (`arch: unet`) for small colour images: residual blocks whose second norm is
// scaled and shifted by the condition (Dhariwal and Nichol 2021), self-attention on small maps,
// skips by concatenation, one forward pass from noise to image.
//
//   condition   class, guidance scale, styles, latent noise: cond.c at width 4 dim; one product
//               gives the scales and shifts of all blocks
//   down        depth blocks per level, a 3x3 convolution of stride 2 between levels
//   middle      two blocks
//   up          depth + 1 blocks per level, each with one output of the way down beside its input;
//               nearest resize and a 3x3 convolution between levels
//   out         norm, SiLU, 3x3 convolution (model.out_std, model.out_bias)
//
// Level l has model.dim model.widths[l] channels. Levels whose side is at most model.attention have
// attention in all their blocks, the middle in its first. `noise: latent` maps the vector to the
// picture that enters.
//
// Parameter names: label_embed.*, alpha_embed.*, style_embed.*, latent_cond.* as in driftdit,
// latent_embed.*, conv_in.*, down.L.I.*, down.L.conv.*, mid.I.*, up.L.I.*, up.L.conv.*, norm_out.*,
// conv_out.*; a block has norm1, conv1, conv2, skip, attn.{norm,qkv,proj} with .weight and .bias,
// and scale and shift, the rows of the modulation.
#include "engine/nn/unet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 256 }; // DR_MAX_LEVELS levels of 16 blocks take 211

struct dr_unet {
    struct dr_gen gen;
    struct dr_cond cond;
    struct dr_linear latent, mods; // latent.w -1: none
    struct dr_cnorm norm_out;
    struct dr_conv conv_out;
    int64_t cond_dim;
    int nsteps;
    struct dr_unet_step step[STEPS];
    char name[STEPS][32];
};
struct saved {
    struct dr_cond_saved cond;
    real *c, *silu_c, *mods;
    struct dr_cnorm_saved n;
    struct {
        void *out, *cat; // act: output; input of a step with a skip, and of the first
        struct dr_res_saved res;
    } step[];
};

static const struct dr_form form = {.alpha_init = DR_INIT_XAVIER,
                                    .alpha_period = 10,
                                    .label = "label_embed.embedding_table.weight"};

// ---- layout ----

struct builder {
    struct dr_unet *k;
    const struct dr_model_config *m;
    int64_t c, side; // of the last step's output
    int skips[STEPS], n;
};

static struct dr_unet_step *add_step(struct builder *b, enum dr_unet_kind kind, int64_t co,
                                     int skip) {
    struct dr_unet *k = b->k;
    struct dr_unet_step *s = &k->step[k->nsteps++];
    *s = (struct dr_unet_step){
        .kind = kind, .ci = b->c, .co = co, .from = b->side, .to = b->side, .skip = skip};
    if (skip >= 0) {
        s->ci += k->step[skip].co;
        k->step[skip].read_again = true;
    }
    b->c = co;
    return s;
}

static void add_conv(struct builder *b, enum dr_unet_kind kind, int64_t co, int64_t to,
                     const char *name) {
    struct dr_unet_step *s = add_step(b, kind, co, -1);
    s->to = b->side = to;
    s->conv = dr_unet_conv(&b->k->gen.net.params, s->ci, co, 3, kind == DR_UNET_DOWN ? 2 : 1,
                           1 / sqrt(9.0 * (double)s->ci), name);
}

static void add_block(struct builder *b, int64_t co, int skip, bool attention, const char *name) {
    const int at = b->k->nsteps;
    struct dr_unet_step *s = add_step(b, DR_UNET_RES, co, skip);
    snprintf(b->k->name[at], sizeof b->k->name[at], "%s", name);
    dr_res_add(&b->k->gen.net.params, &s->res, s->ci, co, b->side, b->m->heads, attention, name);
}

static void push(struct builder *b) {
    b->skips[b->n++] = b->k->nsteps - 1;
}

static void add_down(struct builder *b, int64_t side[DR_MAX_LEVELS]) {
    char name[32];
    const int levels = b->m->nwidths;
    for (int l = 0; l < levels; l++) {
        side[l] = b->side;
        for (int i = 0; i < (int)b->m->depth; i++) {
            snprintf(name, sizeof name, "down.%d.%d", l, i);
            add_block(b, dr_model_width(b->m, l), -1, b->side <= b->m->attention, name);
            push(b);
        }
        if (l + 1 == levels)
            continue;
        snprintf(name, sizeof name, "down.%d.conv", l);
        add_conv(b, DR_UNET_DOWN, b->c, (b->side + 1) / 2, name);
        push(b);
    }
}

static void add_up(struct builder *b, const int64_t side[DR_MAX_LEVELS]) {
    char name[32];
    for (int l = b->m->nwidths - 1; l >= 0; l--) {
        for (int i = 0; i <= (int)b->m->depth; i++) {
            snprintf(name, sizeof name, "up.%d.%d", l, i);
            add_block(b, dr_model_width(b->m, l), b->skips[--b->n], b->side <= b->m->attention,
                      name);
        }
        if (!l)
            continue;
        snprintf(name, sizeof name, "up.%d.conv", l);
        add_conv(b, DR_UNET_UP, b->c, side[l - 1], name);
    }
}

// Scales and shifts of all blocks: rows that lie one after the other. They follow the condition
// from the start: with zeros here and a class table of std 0.02, all classes were still alike after
// 150 steps on digits of 16x16; with these values each class had its digit.
static void add_mods(struct dr_params *ps, struct dr_unet *k) {
    struct dr_linear *l = &k->mods;
    *l = (struct dr_linear){.w = -1, .b = -1, .in = k->cond_dim, .rows = 1};
    for (int bias = 0; bias < 2; bias++)
        for (int i = 0; i < k->nsteps; i++)
            for (int shift = 0; k->step[i].kind == DR_UNET_RES && shift < 2; shift++) {
                int *first = bias ? &l->b : &l->w;
                const int64_t co = k->step[i].co;
                const unsigned flags =
                    (bias ? 0 : DR_PARAM_DECAY) | (*first >= 0 ? DR_PARAM_JOIN : 0);
                const enum dr_init init = !bias   ? DR_INIT_NORMAL
                                          : shift ? DR_INIT_ZERO
                                                  : DR_INIT_ONE;
                const int p =
                    dr_params_add(ps, flags, init, 0.5 / sqrt((double)k->cond_dim), bias ? 1 : 2,
                                  (int64_t[]){co, k->cond_dim}, "%s.%s.%s", k->name[i],
                                  shift ? "shift" : "scale", bias ? "bias" : "weight");
                *first = *first < 0 ? p : *first;
                if (bias)
                    continue;
                k->step[i].res.mod = shift ? k->step[i].res.mod : l->out;
                l->out += co;
            }
}

static void lay_out(struct dr_unet *k) {
    const struct dr_model_config *m = &k->gen.cfg;
    struct dr_params *ps = &k->gen.net.params;
    struct dr_model_config wide = *m; // of the condition
    struct builder b = {.k = k, .m = m, .c = m->channels, .side = m->size};
    int64_t side[DR_MAX_LEVELS];
    k->latent.w = -1;
    wide.dim = k->cond_dim = 4 * m->dim;
    dr_cond_add(ps, &wide, &form, m->noise == DR_NOISE_LATENT, &k->cond);
    if (k->cond.label >= 0)
        ps->p[k->cond.label].init_arg = 1;
    if (m->noise == DR_NOISE_LATENT)
        k->latent =
            dr_linear_add(ps, m->latent_dim, m->channels * m->size * m->size, DR_INIT_NORMAL,
                          1 / sqrt((double)m->latent_dim), true, "latent_embed");
    add_conv(&b, DR_UNET_IN, dr_model_width(m, 0), m->size, "conv_in");
    push(&b);
    add_down(&b, side);
    add_block(&b, b.c, -1, b.side <= m->attention, "mid.0");
    add_block(&b, b.c, -1, false, "mid.1");
    add_up(&b, side);
    k->norm_out = dr_cnorm_add(ps, b.c, 32, "norm_out");
    k->conv_out = dr_unet_conv(ps, b.c, m->channels, 3, 1, m->out_std, "conv_out");
    if (k->conv_out.b >= 0) {
        ps->p[k->conv_out.b].init = DR_INIT_CONST;
        ps->p[k->conv_out.b].init_arg = m->out_bias;
    }
    add_mods(ps, k);
}

static int build(struct dr_net *net, struct dr_err *err) {
    (void)err;
    struct dr_unet *k = (struct dr_unet *)net;
    const struct dr_model_config *m = &k->gen.cfg;
    lay_out(k);
    if (net->params.cap < 0) // dr_net_finish has the message
        return 0;
    net->outputs = 1;
    net->output[0] = (struct dr_net_shape){m->channels, m->size, m->size};
    strcpy(net->output_name[0], "image");
    net->input = dr_gen_noise_of(m);
    net->saved_bytes =
        sizeof(struct saved) + (size_t)k->nsteps * sizeof((struct saved *)0)->step[0];
    return 0;
}

// ---- forward ----

struct pass {
    struct dr_ctx *cx;
    const struct dr_unet *k;
    const struct dr_weights *w;
    const struct dr_net_in *in;
    struct saved *s;
    struct dr_arena *ar;
    struct dr_mods mods;
};

static int64_t reals_in(const struct pass *p, const struct dr_unet_step *t) {
    return p->in->b * t->from * t->from * t->ci;
}

static int64_t reals_out(const struct pass *p, const struct dr_unet_step *t) {
    return p->in->b * t->to * t->to * t->co;
}

static void condition(struct pass *p) {
    struct dr_ctx *cx = p->cx;
    struct saved *s = p->s;
    const int64_t n = p->in->b * p->k->cond_dim;
    s->c = dr_alloc_real(p->ar, n);
    s->silu_c = dr_alloc_real(p->ar, n);
    s->mods = dr_alloc_real(p->ar, p->in->b * p->k->mods.out);
    dr_cond_forward(cx, p->ar, p->w, &p->k->cond, p->in, s->c, &s->cond);
    DR_OP(cx->be, silu_fwd, .y = s->silu_c, .x = s->c, .n = n);
    dr_linear_forward(cx, p->w, &p->k->mods, s->silu_c, DR_F32, p->in->b, s->mods, DR_F32, 0);
}

// The picture that enters, [b,size,size,channels] act.
static void picture(struct pass *p, void *out) {
    struct dr_ctx *cx = p->cx;
    const struct dr_model_config *m = &p->k->gen.cfg;
    if (p->k->latent.w < 0) {
        dr_to_nhwc(cx, p->in->b, m->channels, m->size, p->in->x, out, cx->act);
        return;
    }
    const int64_t n = p->in->b * p->k->latent.out;
    const size_t mark = dr_mark(cx->tmp);
    real *x = dr_alloc_real(cx->tmp, n);
    dr_linear_forward(cx, p->w, &p->k->latent, p->in->x, DR_F32, p->in->b, x, DR_F32, 0);
    DR_OP(cx->be, cast, .dst = out, .src = x, .dt = cx->act, .st = DR_F32, .n = n);
    dr_release(cx->tmp, mark);
}

static void resized(const struct pass *p, const struct dr_unet_step *t, const void *x, void *out) {
    DR_OP(p->cx->be, resize_fwd, .y = out, .x = x, .t = p->cx->act, .b = p->in->b, .h = t->from,
          .w = t->from, .c = t->ci, .ho = t->to, .wo = t->to, .nearest = true);
}

// x: the output of the step before (of the first: the picture).
static void step_forward(struct pass *p, int i, void *x, void *y) {
    struct dr_ctx *cx = p->cx;
    const struct dr_unet_step *t = &p->k->step[i];
    const int64_t b = p->in->b, rows = b * t->from * t->from;
    const size_t mark = dr_mark(cx->tmp);
    if (t->skip >= 0) {
        const int64_t cs = p->k->step[t->skip].co;
        void *cat = p->s->step[i].cat = dr_alloc_act(p->ar, cx, rows * t->ci);
        dr_concat(cx, rows, x, t->ci - cs, p->s->step[t->skip].out, cs, cat);
        x = cat;
    }
    if (t->kind == DR_UNET_RES) {
        dr_res_forward(cx, p->ar, p->w, &t->res, &p->mods, t->from, x, y, &p->s->step[i].res);
    } else {
        int64_t side = t->from;
        if (t->kind == DR_UNET_UP) {
            void *wide = dr_alloc_act(cx->tmp, cx, b * t->to * t->to * t->ci);
            resized(p, t, x, wide);
            x = wide;
            side = t->to;
        }
        dr_conv_forward(cx, p->w, &t->conv, x, b, side, side, y);
    }
    dr_release(cx->tmp, mark);
}

static int64_t largest(const struct pass *p) {
    int64_t most = 0;
    for (int i = 0; i < p->k->nsteps; i++)
        most = DR_MAX(most, DR_MAX(reals_in(p, &p->k->step[i]), reals_out(p, &p->k->step[i])));
    return most;
}

static void out_forward(struct pass *p, const void *x, real *image) {
    struct dr_ctx *cx = p->cx;
    const struct dr_unet *k = p->k;
    const int64_t b = p->in->b, side = k->gen.cfg.size, n = side * side, c = k->gen.cfg.channels;
    const size_t mark = dr_mark(cx->tmp);
    void *a = dr_alloc_act(cx->tmp, cx, b * n * k->conv_out.ci);
    void *y = dr_alloc_act(cx->tmp, cx, b * n * c);
    dr_cnorm_forward(cx, p->ar, p->w, &k->norm_out, NULL, b, n, x, NULL, DR_FN_SILU, a, &p->s->n);
    dr_conv_forward(cx, p->w, &k->conv_out, a, b, side, side, y);
    dr_from_nhwc(cx, b, c, side, y, cx->act, image, false);
    dr_release(cx->tmp, mark);
}

// Names a step's output: what nobody reads again is overwritten in a pass that keeps nothing.
static void *room_for(struct pass *p, int i, void *const turn[2], const void *x) {
    const struct dr_unet_step *t = &p->k->step[i];
    if (p->ar != p->cx->tmp || t->read_again)
        return dr_alloc_act(p->ar, p->cx, reals_out(p, t));
    return turn[x == turn[0]];
}

static void forward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                    const struct dr_net_in *in, real *const y[], void *saved) {
    const struct dr_unet *k = (const struct dr_unet *)net;
    union {
        struct saved s;
        char bytes[sizeof(struct saved) + STEPS * sizeof((struct saved *)0)->step[0]];
    } local;
    struct pass p = {.cx = cx,
                     .k = k,
                     .w = w,
                     .in = in,
                     .s = saved ? saved : &local.s,
                     .ar = saved ? cx->keep : cx->tmp};
    const size_t mark = dr_mark(cx->tmp);
    void *turn[2] = {NULL, NULL};
    memset(p.s, 0, net->saved_bytes);
    condition(&p);
    p.mods = (struct dr_mods){.b = in->b, .stride = k->mods.out, .at = p.s->mods};
    for (int i = 0; i < 2 && !saved; i++)
        turn[i] = dr_alloc_act(cx->tmp, cx, largest(&p));
    void *x = saved ? dr_alloc_act(p.ar, cx, reals_in(&p, &k->step[0])) : turn[0];
    picture(&p, x);
    p.s->step[0].cat = x;
    for (int i = 0; i < k->nsteps; i++) {
        p.s->step[i].out = room_for(&p, i, turn, x);
        step_forward(&p, i, x, p.s->step[i].out);
        x = p.s->step[i].out;
    }
    out_forward(&p, x, y[0]);
    dr_release(cx->tmp, mark);
}

// ---- backward ----

// d: by the last step's output, overwritten.
static void out_backward(const struct pass *p, const real *dimage, void *d) {
    struct dr_ctx *cx = p->cx;
    const struct dr_unet *k = p->k;
    const int64_t b = p->in->b, side = k->gen.cfg.size, n = side * side, c = k->gen.cfg.channels;
    const void *x = p->s->step[k->nsteps - 1].out;
    const size_t mark = dr_mark(cx->tmp);
    void *dy = dr_alloc_act(cx->tmp, cx, b * n * c);
    dr_to_nhwc(cx, b, c, side, dimage, dy, cx->act);
    if (p->w->g) {
        struct dr_cnorm_saved again;
        dr_cnorm_forward(cx, cx->tmp, p->w, &k->norm_out, NULL, b, n, x, NULL, DR_FN_SILU, d,
                         &again);
        dr_conv_backward(cx, p->w, &k->conv_out, d, dy, b, side, side);
    }
    dr_conv_backward_input(cx, p->w, &k->conv_out, dy, b, side, side, d);
    dr_cnorm_backward(cx, p->w, &k->norm_out, NULL, b, n, x, NULL, DR_FN_SILU, &p->s->n, d, d,
                      NULL);
    dr_release(cx->tmp, mark);
}

static void conv_step_backward(const struct pass *p, int i, const void *dy, void *dx) {
    struct dr_ctx *cx = p->cx;
    const struct dr_unet_step *t = &p->k->step[i];
    const int64_t b = p->in->b;
    const void *x = i ? p->s->step[i - 1].out : p->s->step[0].cat;
    if (t->kind != DR_UNET_UP) {
        dr_conv_backward(cx, p->w, &t->conv, x, dy, b, t->from, t->from);
        dr_conv_backward_input(cx, p->w, &t->conv, dy, b, t->from, t->from, dx);
        return;
    }
    void *wide = dr_alloc_act(cx->tmp, cx, b * t->to * t->to * t->ci);
    if (p->w->g) {
        resized(p, t, x, wide);
        dr_conv_backward(cx, p->w, &t->conv, wide, dy, b, t->to, t->to);
    }
    dr_conv_backward_input(cx, p->w, &t->conv, dy, b, t->to, t->to, wide);
    DR_OP(cx->be, resize_bwd, .dx = dx, .dy = wide, .t = cx->act, .b = b, .h = t->from,
          .w = t->from, .c = t->ci, .ho = t->to, .wo = t->to, .nearest = true);
}

// dy: by the step's output, overwritten; dx: by the output of the step before. dskip[j]: by the
// output of step j, of the step that read it again.
static void step_backward(const struct pass *p, int i, void *dy, void *dx, void *const dskip[]) {
    struct dr_ctx *cx = p->cx;
    const struct dr_unet_step *t = &p->k->step[i];
    const size_t mark = dr_mark(cx->tmp);
    if (t->read_again)
        DR_OP(cx->be, add_act_fwd, .y = dy, .a = dy, .b = dskip[i], .t = cx->act,
              .n = reals_out(p, t), .fn = DR_FN_NONE);
    void *d = t->skip < 0 ? dx : dr_alloc_act(cx->tmp, cx, reals_in(p, t));
    if (t->kind == DR_UNET_RES)
        dr_res_backward(cx, p->w, &t->res, &p->mods, t->from, &p->s->step[i].res, dy, d);
    else
        conv_step_backward(p, i, dy, d);
    if (t->skip >= 0) {
        const int64_t cs = p->k->step[t->skip].co;
        dr_split(cx, p->in->b * t->from * t->from, d, dx, t->ci - cs, dskip[t->skip], cs);
    }
    dr_release(cx->tmp, mark);
}

// d: by the picture that entered.
static void picture_backward(const struct pass *p, const void *d, real *dnoise) {
    struct dr_ctx *cx = p->cx;
    const struct dr_model_config *m = &p->k->gen.cfg;
    if (p->k->latent.w < 0) {
        if (dnoise)
            dr_from_nhwc(cx, p->in->b, m->channels, m->size, d, cx->act, dnoise, false);
        return;
    }
    const int64_t n = p->in->b * p->k->latent.out;
    const size_t mark = dr_mark(cx->tmp);
    real *x = dr_alloc_real(cx->tmp, n);
    DR_OP(cx->be, cast, .dst = x, .src = d, .dt = DR_F32, .st = cx->act, .n = n);
    dr_linear_backward(cx, p->w, &p->k->latent, p->in->x, x, DR_F32, p->in->b, 0);
    if (dnoise)
        dr_linear_backward_input(cx, p->w, &p->k->latent, x, DR_F32, p->in->b, dnoise, DR_F32,
                                 false);
    dr_release(cx->tmp, mark);
}

static void condition_backward(const struct pass *p, real *dnoise) {
    struct dr_ctx *cx = p->cx;
    const int64_t n = p->in->b * p->k->cond_dim;
    const size_t mark = dr_mark(cx->tmp);
    real *dc = dr_alloc_real(cx->tmp, n);
    dr_linear_backward(cx, p->w, &p->k->mods, p->s->silu_c, p->mods.d, DR_F32, p->in->b, 0);
    dr_linear_backward_input(cx, p->w, &p->k->mods, p->mods.d, DR_F32, p->in->b, dc, DR_F32, false);
    DR_OP(cx->be, silu_bwd, .dx = dc, .x = p->s->c, .dy = dc, .n = n);
    dr_cond_backward(cx, p->w, &p->k->cond, p->in, &p->s->cond, dc, dnoise, true);
    dr_release(cx->tmp, mark);
}

static void backward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                     const struct dr_net_in *in, void *saved, const real *const dy[],
                     real *dnoise) {
    const struct dr_unet *k = (const struct dr_unet *)net;
    struct pass p = {.cx = cx, .k = k, .w = w, .in = in, .s = saved, .ar = cx->keep};
    const size_t mark = dr_mark(cx->tmp);
    p.mods = (struct dr_mods){.b = in->b, .stride = k->mods.out, .at = p.s->mods};
    p.mods.d = dr_alloc_real(cx->tmp, in->b * k->mods.out);
    void *turn[2], *dskip[STEPS];
    for (int i = 0; i < 2; i++)
        turn[i] = dr_alloc_act(cx->tmp, cx, largest(&p));
    for (int i = 0; i < k->nsteps; i++)
        dskip[i] =
            k->step[i].read_again ? dr_alloc_act(cx->tmp, cx, reals_out(&p, &k->step[i])) : NULL;
    out_backward(&p, dy[0], turn[0]);
    int at = 0;
    for (int i = k->nsteps - 1; i >= 0; i--, at ^= 1)
        step_backward(&p, i, turn[at], turn[at ^ 1], dskip);
    picture_backward(&p, turn[at], dnoise);
    condition_backward(&p, dnoise);
    dr_release(cx->tmp, mark);
}

const struct dr_net_type dr_net_unet = {.name = "unet",
                                        .kind = DR_NET_GENERATOR,
                                        .anchor = "alpha_embed.mlp.0.weight",
                                        .size = sizeof(struct dr_unet),
                                        .parse = dr_gen_parse,
                                        .build = build,
                                        .describe = dr_gen_describe,
                                        .forward = forward,
                                        .backward = backward};
