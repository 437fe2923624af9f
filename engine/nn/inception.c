// Inception-v3, forward only. See inception.h; the description is in inception_config.c.
//
// Every block is a list of steps (convolution with ReLU, or pool) on its input or on one another;
// those that end a branch write their channels of the block's output in place, so nothing is
// concatenated afterwards. A batch runs in pieces of PIECE images, the stem, whose maps are large,
// in pieces of STEM: memory does not grow with the batch, and an image does not depend on others.
#include "engine/nn/inception_priv.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PIECE = 16, STEM = 2 };

static const struct dr_inception *inception_of(const struct dr_net *net) {
    return (const struct dr_inception *)net;
}

// ---- the blocks, as torchvision names them

enum { IN = -1, WIDE = 0 }; // WIDE: channels that the block's row gives

struct plan_step {
    enum dr_inception_op op;
    int from;
    const char *name;
    int c; // channels; of a pool: as many as come in
    int kh, kw, stride, padh, padw;
    bool ends; // a branch
};
#define CONV(from, name, c, k, stride, pad)                                                        \
    { DR_INC_CONV, from, name, c, k, k, stride, pad, pad, 0 }
#define CONV_END(from, name, c, k, stride, pad)                                                    \
    { DR_INC_CONV, from, name, c, k, k, stride, pad, pad, 1 }
#define FLAT(from, name, c, k, ends)                                                               \
    { DR_INC_CONV, from, name, c, 1, k, 1, 0, k / 2, ends } // 1xk
#define TALL(from, name, c, k, ends)                                                               \
    { DR_INC_CONV, from, name, c, k, 1, 1, k / 2, 0, ends } // kx1
#define MEAN                                                                                       \
    { DR_INC_MEAN, IN, NULL, 0, 3, 3, 1, 1, 1, 0 }
#define MAX_SAME                                                                                   \
    { DR_INC_MAX, IN, NULL, 0, 3, 3, 1, 1, 1, 0 }
#define MAX_HALF                                                                                   \
    { DR_INC_MAX, IN, NULL, 0, 3, 3, 2, 0, 0, 1 }

static const struct plan_step one_1a[] = {CONV_END(IN, "", 32, 3, 2, 0)};
static const struct plan_step one_2a[] = {CONV_END(IN, "", 32, 3, 1, 0)};
static const struct plan_step one_2b[] = {CONV_END(IN, "", 64, 3, 1, 1)};
static const struct plan_step one_3b[] = {CONV_END(IN, "", 80, 1, 1, 0)};
static const struct plan_step one_4a[] = {CONV_END(IN, "", 192, 3, 1, 0)};
static const struct plan_step pool[] = {MAX_HALF};
static const struct plan_step block_a[] = {
    CONV_END(IN, "branch1x1", 64, 1, 1, 0),
    CONV(IN, "branch5x5_1", 48, 1, 1, 0),
    CONV_END(1, "branch5x5_2", 64, 5, 1, 2),
    CONV(IN, "branch3x3dbl_1", 64, 1, 1, 0),
    CONV(3, "branch3x3dbl_2", 96, 3, 1, 1),
    CONV_END(4, "branch3x3dbl_3", 96, 3, 1, 1),
    MEAN,
    CONV_END(6, "branch_pool", WIDE, 1, 1, 0),
};
static const struct plan_step block_b[] = {
    CONV_END(IN, "branch3x3", 384, 3, 2, 0),
    CONV(IN, "branch3x3dbl_1", 64, 1, 1, 0),
    CONV(1, "branch3x3dbl_2", 96, 3, 1, 1),
    CONV_END(2, "branch3x3dbl_3", 96, 3, 2, 0),
    MAX_HALF,
};
static const struct plan_step block_c[] = {
    CONV_END(IN, "branch1x1", 192, 1, 1, 0),   CONV(IN, "branch7x7_1", WIDE, 1, 1, 0),
    FLAT(1, "branch7x7_2", WIDE, 7, 0),        TALL(2, "branch7x7_3", 192, 7, 1),
    CONV(IN, "branch7x7dbl_1", WIDE, 1, 1, 0), TALL(4, "branch7x7dbl_2", WIDE, 7, 0),
    FLAT(5, "branch7x7dbl_3", WIDE, 7, 0),     TALL(6, "branch7x7dbl_4", WIDE, 7, 0),
    FLAT(7, "branch7x7dbl_5", 192, 7, 1),      MEAN,
    CONV_END(9, "branch_pool", 192, 1, 1, 0),
};
static const struct plan_step block_d[] = {
    CONV(IN, "branch3x3_1", 192, 1, 1, 0),
    CONV_END(0, "branch3x3_2", 320, 3, 2, 0),
    CONV(IN, "branch7x7x3_1", 192, 1, 1, 0),
    FLAT(2, "branch7x7x3_2", 192, 7, 0),
    TALL(3, "branch7x7x3_3", 192, 7, 0),
    CONV_END(4, "branch7x7x3_4", 192, 3, 2, 0),
    MAX_HALF,
};
#define BLOCK_E(pool_step)                                                                         \
    {                                                                                              \
        CONV_END(IN, "branch1x1", 320, 1, 1, 0), CONV(IN, "branch3x3_1", 384, 1, 1, 0),            \
            FLAT(1, "branch3x3_2a", 384, 3, 1), TALL(1, "branch3x3_2b", 384, 3, 1),                \
            CONV(IN, "branch3x3dbl_1", 448, 1, 1, 0), CONV(4, "branch3x3dbl_2", 384, 3, 1, 1),     \
            FLAT(5, "branch3x3dbl_3a", 384, 3, 1), TALL(5, "branch3x3dbl_3b", 384, 3, 1),          \
            pool_step, CONV_END(8, "branch_pool", 192, 1, 1, 0),                                   \
    }
static const struct plan_step block_e[] = BLOCK_E(MEAN);
static const struct plan_step block_e_max[] = BLOCK_E(MAX_SAME); // FID's last block

struct plan {
    const char *name, *block; // torchvision's, and that of pytorch-fid's module; NULL: no layers
    const struct plan_step *step;
    int steps, wide;
};
#define ROW(name, block, plan, wide)                                                               \
    { name, block, plan, (int)DR_COUNT(plan), wide }
static const struct plan plans[DR_INCEPTION_BLOCKS] = {
    ROW("Conv2d_1a_3x3", "blocks.0.0", one_1a, 0),
    ROW("Conv2d_2a_3x3", "blocks.0.1", one_2a, 0),
    ROW("Conv2d_2b_3x3", "blocks.0.2", one_2b, 0),
    ROW(NULL, NULL, pool, 0),
    ROW("Conv2d_3b_1x1", "blocks.1.0", one_3b, 0),
    ROW("Conv2d_4a_3x3", "blocks.1.1", one_4a, 0),
    ROW(NULL, NULL, pool, 0),
    ROW("Mixed_5b", "blocks.2.0", block_a, 32),
    ROW("Mixed_5c", "blocks.2.1", block_a, 64),
    ROW("Mixed_5d", "blocks.2.2", block_a, 64),
    ROW("Mixed_6a", "blocks.2.3", block_b, 0),
    ROW("Mixed_6b", "blocks.2.4", block_c, 128),
    ROW("Mixed_6c", "blocks.2.5", block_c, 160),
    ROW("Mixed_6d", "blocks.2.6", block_c, 160),
    ROW("Mixed_6e", "blocks.2.7", block_c, 192),
    ROW("Mixed_7a", "blocks.3.0", block_d, 0),
    ROW("Mixed_7b", "blocks.3.1", block_e, 0),
    ROW("Mixed_7c", "blocks.3.2", block_e, 0),
};
enum { STEM_BLOCKS = 7 };

// ---- layout

static int add_layer(struct dr_inception *k, const struct plan *p, const struct plan_step *s,
                     int64_t ci, int64_t c) {
    struct dr_inception_layer *l = &k->layer[k->layers];
    const char *dot = *s->name ? "." : "";
    assert(k->layers < DR_INCEPTION_LAYERS);
    snprintf(l->name, sizeof l->name, "%s%s%s", p->name, dot, s->name);
    snprintf(l->block, sizeof l->block, "%s%s%s", p->block, dot, s->name);
    const double std = sqrt(2 / (double)(ci * s->kh * s->kw));
    l->weight = dr_params_add(&k->net.params, DR_PARAM_DECAY, DR_INIT_NORMAL, std, 4,
                              (int64_t[]){c, ci, s->kh, s->kw}, "%s.conv.weight", l->name);
    l->bias = dr_params_add(&k->net.params, 0, DR_INIT_ZERO, 0, 1, &c, "%s.conv.bias", l->name);
    return k->layers++;
}

static void add_step(struct dr_inception *k, const struct plan *p, struct dr_inception_block *b,
                     int i) {
    const struct plan_step *s = &p->step[i];
    const struct dr_inception_step *from = s->from == IN ? NULL : &b->step[s->from];
    const int64_t ci = from ? from->c : b->ci, in = from ? from->h : b->in;
    struct dr_inception_step *to = &b->step[i];
    *to = (struct dr_inception_step){.op = s->op,
                                     .from = s->from,
                                     .layer = -1,
                                     .c = ci,
                                     .kh = s->kh,
                                     .kw = s->kw,
                                     .stride = s->stride,
                                     .padh = s->padh,
                                     .padw = s->padw,
                                     .at = -1};
    // square maps: padding keeps both sides, or the kernel is square
    to->h = (in + 2 * s->padh - s->kh) / s->stride + 1;
    if (s->op == DR_INC_CONV) {
        to->c = (s->c == WIDE ? p->wide : s->c) / k->cfg.narrow;
        to->layer = add_layer(k, p, s, ci, to->c);
    }
    if (s->ends) {
        to->at = b->co;
        b->co += to->c;
        b->out = to->h;
    }
}

static void add_output(struct dr_net *net, int64_t c, const char *name) {
    snprintf(net->output_name[net->outputs], sizeof net->output_name[0], "%s", name);
    net->output[net->outputs++] = (struct dr_net_shape){c, 1, 1};
}

static int build(struct dr_net *net, struct dr_err *err) {
    struct dr_inception *k = (struct dr_inception *)net;
    const struct dr_inception_config *c = &k->cfg;
    int rc = dr_inception_check(c, err);
    if (rc)
        return rc;
    int64_t ci = 3, side = c->size;
    for (k->blocks = 0; k->blocks < DR_INCEPTION_BLOCKS; k->blocks++) {
        struct plan p = plans[k->blocks];
        struct dr_inception_block *b = &k->block[k->blocks];
        if (c->variant == DR_INCEPTION_FID && k->blocks == DR_INCEPTION_BLOCKS - 1)
            p.step = block_e_max;
        *b = (struct dr_inception_block){.ci = ci, .in = side, .steps = p.steps};
        for (int i = 0; i < p.steps; i++)
            add_step(k, &p, b, i);
        ci = b->co;
        side = b->out;
    }
    k->stem = STEM_BLOCKS;
    k->fc.w = -1;
    if (c->classes) {
        k->fc = dr_linear_add(&net->params, ci, c->classes, DR_INIT_UNIFORM, 1 / sqrt((double)ci),
                              true, "fc");
        add_output(net, c->classes, "logits");
    }
    add_output(net, ci, "pooled");
    if (c->classes)
        add_output(net, c->classes, "logits_unbiased");
    net->kind = c->classes ? DR_NET_JUDGE : DR_NET_ENCODER;
    net->input = 3 * c->size * c->size;
    return 0;
}

// ---- forward

static void *at_channel(const struct dr_ctx *cx, void *map, int64_t c) {
    return (char *)map + (size_t)c * dr_sizeof(cx->act);
}

static void conv_step(struct dr_ctx *cx, const struct dr_inception *k, const struct dr_weights *w,
                      const struct dr_inception_step *s, int64_t b, const void *x, int64_t ci,
                      int64_t in, void *y, int64_t ldy) {
    const struct dr_inception_layer *l = &k->layer[s->layer];
    DR_OP(cx->be, conv2d_fwd, .y = y, .x = x, .t = cx->act, .weight = dr_weight(w, l->weight),
          .bias = dr_weight(w, l->bias), .b = b, .h = in, .w = in, .ci = ci, .co = s->c,
          .stride = s->stride, .kh = s->kh, .kw = s->kw, .padh = s->padh, .padw = s->padw,
          .ldy = ldy, .fn = DR_FN_RELU);
}

static void pool_step(struct dr_ctx *cx, const struct dr_inception *k,
                      const struct dr_inception_step *s, int64_t b, const void *x, int64_t in,
                      void *y) {
    DR_OP(cx->be, pool_fwd, .y = y, .x = x, .t = cx->act, .b = b, .h = in, .w = in, .c = s->c,
          .k = s->kh, .stride = s->stride, .pad = s->padh, .max = s->op == DR_INC_MAX,
          .count_pad = k->cfg.variant == DR_INCEPTION_TORCHVISION);
}

// x: [b,in,in,ci]; y: [b,out,out,co]. Steps of a branch are released when the next branch begins.
static void block_forward(struct dr_ctx *cx, const struct dr_inception *k,
                          const struct dr_weights *w, const struct dr_inception_block *block,
                          int64_t b, const void *x, void *y) {
    void *made[DR_INCEPTION_STEPS] = {NULL};
    const size_t mark = dr_mark(cx->tmp);
    for (int i = 0; i < block->steps; i++) {
        const struct dr_inception_step *s = &block->step[i];
        const bool first = s->from == IN;
        const void *from = first ? x : made[s->from];
        const int64_t ci = first ? block->ci : block->step[s->from].c;
        const int64_t in = first ? block->in : block->step[s->from].h, n = b * s->h * s->h;
        const bool conv = s->op == DR_INC_CONV, whole = s->at == 0 && s->c == block->co;
        if (first)
            dr_release(cx->tmp, mark);
        void *to = s->at < 0 || !(conv || whole) ? dr_alloc_act(cx->tmp, cx, n * s->c)
                                                 : at_channel(cx, y, s->at);
        made[i] = to;
        if (conv)
            conv_step(cx, k, w, s, b, from, ci, in, to, s->at < 0 ? 0 : block->co);
        else
            pool_step(cx, k, s, b, from, in, to);
        if (s->at >= 0 && !conv && !whole)
            DR_OP(cx->be, copy4, .dst = at_channel(cx, y, s->at), .src = to, .dt = cx->act,
                  .st = cx->act, .dim = {1, 1, n, s->c}, .dstride = {0, 0, block->co, 1},
                  .sstride = {0, 0, s->c, 1});
    }
    dr_release(cx->tmp, mark);
}

// Blocks [from, to): x to y, by two buffers in turn.
static void blocks_forward(struct dr_ctx *cx, const struct dr_inception *k,
                           const struct dr_weights *w, int from, int to, int64_t b, const void *x,
                           void *y) {
    const size_t mark = dr_mark(cx->tmp);
    int64_t most = 0;
    for (int i = from; i + 1 < to; i++)
        most = DR_MAX(most, b * k->block[i].out * k->block[i].out * k->block[i].co);
    void *turn[2] = {dr_alloc_act(cx->tmp, cx, most), dr_alloc_act(cx->tmp, cx, most)};
    for (int i = from; i < to; i++) {
        void *out = i + 1 == to ? y : turn[i % 2];
        block_forward(cx, k, w, &k->block[i], b, x, out);
        x = out;
    }
    dr_release(cx->tmp, mark);
}

// x: [b,3,size,size]; y: [b,out,out,co] of the stem's last block.
static void stem_forward(struct dr_ctx *cx, const struct dr_inception *k,
                         const struct dr_weights *w, const real *x, int64_t b, void *y) {
    const struct dr_inception_block *last = &k->block[k->stem - 1];
    const int64_t n = last->out * last->out * last->co, side = k->cfg.size;
    const size_t mark = dr_mark(cx->tmp);
    void *image = dr_alloc_act(cx->tmp, cx, DR_MIN((int64_t)STEM, b) * k->net.input);
    for (int64_t at = 0; at < b; at += STEM) {
        const int64_t some = DR_MIN((int64_t)STEM, b - at);
        dr_to_nhwc(cx, some, 3, side, x + at * k->net.input, image, cx->act);
        blocks_forward(cx, k, w, 0, k->stem, some, image, at_channel(cx, y, at * n));
    }
    dr_release(cx->tmp, mark);
}

static void put(struct dr_ctx *cx, const void *map, int64_t n, real *out) {
    if (out)
        DR_OP(cx->be, cast, .dst = out, .src = map, .dt = DR_F32, .st = cx->act, .n = n);
}

// Up to PIECE images. y: outputs of these images, NULL: not wanted.
static void piece_forward(struct dr_ctx *cx, const struct dr_inception *k,
                          const struct dr_weights *w, const real *x, int64_t b, real *const y[]) {
    const struct dr_inception_block *stem = &k->block[k->stem - 1],
                                    *last = &k->block[k->blocks - 1];
    const size_t mark = dr_mark(cx->tmp);
    void *mean = dr_alloc_act(cx->tmp, cx, b * last->co);
    void *small = dr_alloc_act(cx->tmp, cx, b * stem->out * stem->out * stem->co);
    void *map = dr_alloc_act(cx->tmp, cx, b * last->out * last->out * last->co);
    stem_forward(cx, k, w, x, b, small);
    blocks_forward(cx, k, w, k->stem, k->blocks, b, small, map);
    DR_OP(cx->be, pool_fwd, .y = mean, .x = map, .t = cx->act, .b = b, .h = last->out,
          .w = last->out, .c = last->co);
    if (k->fc.w < 0) {
        put(cx, mean, b * last->co, y[0]);
    } else {
        struct dr_linear plain = k->fc;
        plain.b = -1;
        put(cx, mean, b * last->co, y[1]);
        if (y[0])
            dr_linear_forward(cx, w, &k->fc, mean, cx->act, b, y[0], DR_F32, 0);
        if (y[2])
            dr_linear_forward(cx, w, &plain, mean, cx->act, b, y[2], DR_F32, 0);
    }
    dr_release(cx->tmp, mark);
}

static void forward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                    const struct dr_net_in *in, real *const y[], void *saved) {
    (void)saved; // nothing is kept: there is no backward pass
    for (int64_t at = 0; at < in->b; at += PIECE) {
        real *part[DR_NET_OUTPUTS] = {NULL};
        for (int i = 0; i < net->outputs; i++)
            part[i] = y[i] ? y[i] + at * net->output[i].c : NULL;
        piece_forward(cx, inception_of(net), w, in->x + at * net->input,
                      DR_MIN((int64_t)PIECE, in->b - at), part);
    }
}

// ---- the network

const struct dr_inception_config *dr_inception_config(const struct dr_net *net) {
    return net->type == &dr_net_inception ? &inception_of(net)->cfg : NULL;
}

int dr_inception_layers(const struct dr_net *net) {
    return inception_of(net)->layers;
}

const struct dr_inception_layer *dr_inception_layer(const struct dr_net *net, int i) {
    return &inception_of(net)->layer[i];
}

int dr_inception_create(const struct dr_inception_config *cfg, struct dr_net **out,
                        struct dr_err *err) {
    int rc = dr_net_new(&dr_net_inception, out, err);
    if (rc)
        return rc;
    ((struct dr_inception *)*out)->cfg = *cfg;
    return dr_net_finish(out, 0, err);
}

const struct dr_net_type dr_net_inception = {.name = "inception",
                                             .kind = DR_NET_JUDGE,
                                             .anchor = "Mixed_7c.branch_pool.conv.weight",
                                             .size = sizeof(struct dr_inception),
                                             .parse = dr_inception_parse,
                                             .build = build,
                                             .describe = dr_inception_describe,
                                             .forward = forward};
