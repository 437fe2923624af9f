// Residual convolutional encoders and their heads. See resnet.h; the parts are in resnet_block.c
// and resnet_decoder.c, the description in resnet_config.c.
//
// Parameter names are torchvision's: conv1, layerS.B.{conv1,conv2,downsample.0}.weight, fc.*, and
// for norm batch bn1, layerS.B.{bn1,bn2,downsample.1}.{weight,bias,running_mean,running_var}; with
// norm group the norms are norm1, layerS.B.{norm1,norm2,downsample.1}.{weight,bias}. The decoder
// adds decoder.stageS.{norm,conv1,norm1,conv2,norm2}.* and decoder.head.*.
//
// Activations are [b,h,w,c] of cx->act. A forward pass that keeps nothing lets the blocks write to
// two buffers in turn.
#include "engine/nn/resnet_priv.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct dr_resnet *resnet_of(const struct dr_net *net) {
    return (const struct dr_resnet *)net;
}

static bool classifies(const struct dr_resnet_config *c) {
    return c->head == DR_RESNET_CLASSIFIER || c->head == DR_RESNET_BOTH;
}

static bool decodes(const struct dr_resnet_config *c) {
    return c->head == DR_RESNET_DECODER || c->head == DR_RESNET_BOTH;
}

static int64_t width_of(const struct dr_resnet_config *c, int stage) {
    return c->width << stage;
}

// ---- layout ----

enum { NORMS = 1 + 3 * DR_RESNET_BLOCKS };

struct layout {
    struct dr_params *ps;
    const struct dr_resnet_config *cfg;
    struct dr_cnorm *norm[NORMS]; // BatchNorms, added at the end
    char name[NORMS][64];
    int n;
};

static void add_norm(struct layout *y, struct dr_cnorm *l, int64_t c, const char *name) {
    if (y->cfg->norm == DR_RESNET_GROUP) {
        *l = dr_cnorm_add(y->ps, c, y->cfg->groups, name);
        return;
    }
    l->c = c;
    y->norm[y->n] = l;
    snprintf(y->name[y->n++], sizeof y->name[0], "%s", name);
}

static void add_block(struct layout *y, struct dr_basic *k, int64_t ci, int64_t co, int64_t stride,
                      int stage, int index) {
    char name[64];
    const bool group = y->cfg->norm == DR_RESNET_GROUP;
#define NAME(part) (snprintf(name, sizeof name, "layer%d.%d.%s", stage + 1, index, part), name)
    struct dr_conv shape = {.ci = ci, .co = co, .k = 3, .stride = stride, .pad = 1};
    k->conv1 = dr_conv_add_plain(y->ps, shape, NAME("conv1"));
    add_norm(y, &k->norm1, co, NAME(group ? "norm1" : "bn1"));
    shape = (struct dr_conv){.ci = co, .co = co, .k = 3, .stride = 1, .pad = 1};
    k->conv2 = dr_conv_add_plain(y->ps, shape, NAME("conv2"));
    add_norm(y, &k->norm2, co, NAME(group ? "norm2" : "bn2"));
    k->down.w = -1;
    if (stride == 1 && ci == co)
        return;
    shape = (struct dr_conv){.ci = ci, .co = co, .k = 1, .stride = stride};
    k->down = dr_conv_add_plain(y->ps, shape, NAME("downsample.0"));
    add_norm(y, &k->norm_down, co, NAME("downsample.1"));
#undef NAME
}

static void add_output(struct dr_net *net, struct dr_net_shape shape, const char *name) {
    snprintf(net->output_name[net->outputs], sizeof net->output_name[0], "%s", name);
    net->output[net->outputs++] = shape;
}

// A map after every so many blocks and at the end of the stage.
static int add_map(struct dr_resnet *k, const struct dr_basic *b, int stage, int index,
                   struct dr_err *err) {
    char name[24];
    if (!b->last && (index + 1) % k->cfg.every)
        return 0;
    if (k->net.outputs == DR_NET_OUTPUTS)
        return dr_fail_at(err, DR_ECONFIG, "every",
                          "every is %lld: more than %d maps; expected a larger number",
                          (long long)k->cfg.every, DR_NET_OUTPUTS);
    if (b->last)
        snprintf(name, sizeof name, "stage%d", stage + 1);
    else
        snprintf(name, sizeof name, "stage%d.block%d", stage + 1, index + 1);
    add_output(&k->net, (struct dr_net_shape){b->conv1.co, b->out, b->out}, name);
    return 0;
}

static int add_stages(struct layout *y, struct dr_resnet *k, struct dr_err *err) {
    const struct dr_resnet_config *c = &k->cfg;
    int64_t ci = c->width, side = k->pooled;
    int rc = 0;
    for (int s = 0; s < c->stages; s++)
        for (int i = 0; i < c->blocks[s] && !rc; i++) {
            struct dr_basic *b = &k->block[k->nblocks++];
            add_block(y, b, ci, width_of(c, s), s && !i ? 2 : 1, s, i);
            ci = b->conv1.co;
            b->in = side;
            b->out = side = dr_conv_side(&b->conv1, side);
            b->last = i + 1 == c->blocks[s];
            b->map = -1;
            if (c->head != DR_RESNET_NONE)
                continue;
            const int before = k->net.outputs;
            rc = add_map(k, b, s, i, err);
            b->map = k->net.outputs > before ? before : -1;
        }
    return rc;
}

static int64_t last_side(const struct dr_resnet *k, int stage) {
    int at = -1;
    for (int s = 0; s <= stage; s++)
        at += (int)k->cfg.blocks[s];
    return k->block[at].out;
}

static void add_heads(struct dr_resnet *k) {
    const struct dr_resnet_config *c = &k->cfg;
    struct dr_params *ps = &k->net.params;
    const int64_t last = width_of(c, c->stages - 1);
    k->fc.w = k->head.w = -1;
    if (classifies(c)) {
        const double bound = 1 / sqrt((double)last); // PyTorch's default for Linear
        k->fc = dr_linear_add(ps, last, c->classes, DR_INIT_UNIFORM, bound, true, "fc");
        add_output(&k->net, (struct dr_net_shape){c->classes, 1, 1}, "logits");
        add_output(&k->net, (struct dr_net_shape){last, 1, 1}, "pooled");
    }
    if (!decodes(c))
        return;
    for (int s = c->stages - 2; s >= 0; s--) {
        k->up[s] = (struct dr_up){.from = last_side(k, s + 1),
                                  .to = last_side(k, s),
                                  .c = width_of(c, s + 1),
                                  .skip = width_of(c, s)};
        dr_up_add(ps, &k->up[s], c->groups, s + 1);
    }
    const struct dr_conv shape = {.ci = c->width, .co = c->channels, .k = 1, .stride = 1};
    const double bound = 1 / sqrt((double)c->width);
    k->head = dr_conv_add(ps, shape, DR_INIT_UNIFORM, bound, "decoder.head");
    add_output(&k->net, (struct dr_net_shape){c->channels, c->size, c->size}, "reconstruction");
}

static int build(struct dr_net *net, struct dr_err *err) {
    struct dr_resnet *k = (struct dr_resnet *)net;
    const struct dr_resnet_config *c = &k->cfg;
    int rc = dr_resnet_check(c, err);
    if (rc)
        return rc;
    struct layout y = {.ps = &net->params, .cfg = c};
    const struct dr_conv stem = {.ci = c->channels,
                                 .co = c->width,
                                 .k = c->kernel,
                                 .stride = c->stride,
                                 .pad = c->kernel / 2};
    k->stem = dr_conv_add_plain(y.ps, stem, "conv1");
    add_norm(&y, &k->stem_norm, c->width, c->norm == DR_RESNET_GROUP ? "norm1" : "bn1");
    k->side = c->resize ? c->resize : c->size;
    k->after = dr_conv_side(&k->stem, k->side);
    k->pooled = c->pool ? (k->after - 1) / 2 + 1 : k->after;
    rc = add_stages(&y, k, err);
    k->bnorms.weight = -1;
    if (y.n)
        dr_bnorms_add(y.ps, y.norm, y.name, y.n, &k->bnorms);
    if (!rc)
        add_heads(k);
    net->kind = classifies(c) ? DR_NET_JUDGE : DR_NET_ENCODER;
    net->input = c->channels * c->size * c->size;
    net->saved_bytes = sizeof(struct dr_resnet_saved);
    return rc;
}

static int encoder(const struct dr_net *net, int64_t side, struct dr_net *out, struct dr_err *err) {
    struct dr_resnet_config *c = &((struct dr_resnet *)out)->cfg;
    (void)err;
    *c = resnet_of(net)->cfg;
    c->size = side ? side : c->size;
    c->classes = 0;
    c->head = DR_RESNET_NONE;
    return 0;
}

static int resized(const struct dr_net *net, int64_t side, struct dr_net *out, struct dr_err *err) {
    struct dr_resnet_config *c = &((struct dr_resnet *)out)->cfg;
    *c = resnet_of(net)->cfg;
    if (c->norm != DR_RESNET_BATCH)
        return dr_fail_at(err, DR_EINVAL, "size",
                          "a resnet of norm group was trained on images of %lld x %lld; expected "
                          "one of norm batch",
                          (long long)c->size, (long long)c->size);
    c->size = side;
    return 0;
}

// ---- forward ----

struct pass {
    struct dr_ctx *cx;
    const struct dr_resnet *k;
    const struct dr_weights *w;
    int64_t b;
    const real *fold;
    struct dr_resnet_saved *s;
    struct dr_arena *ar; // of what is kept
    bool keep;
};

static bool normalises(const struct dr_resnet_config *c) {
    return c->imagenet || c->nmean;
}

// (x + 1) / 2, minus a mean, over a std: what x is multiplied by and, DR_RESNET_CHANNELS further
// on, what is added.
static const real *normalisation(struct dr_ctx *cx, const struct dr_resnet_config *c) {
    static const double imagenet_mean[] = {0.485, 0.456, 0.406},
                        imagenet_std[] = {0.229, 0.224, 0.225};
    const double *mean = c->imagenet ? imagenet_mean : c->mean,
                 *std = c->imagenet ? imagenet_std : c->std;
    real *t = dr_alloc_real(cx->tmp, 2 * DR_RESNET_CHANNELS);
    for (int64_t i = 0; i < c->channels; i++) {
        DR_OP(cx->be, fill, .dst = t + i, .n = 1, .value = (real)(0.5 / std[i]));
        DR_OP(cx->be, fill, .dst = t + DR_RESNET_CHANNELS + i, .n = 1,
              .value = (real)((0.5 - mean[i]) / std[i]));
    }
    return t;
}

static void image_forward(const struct pass *p, const real *x, void *out) {
    struct dr_ctx *cx = p->cx;
    const struct dr_resnet_config *c = &p->k->cfg;
    const size_t mark = dr_mark(cx->tmp);
    const int64_t pixels = p->b * c->size * c->size;
    void *t = c->resize ? dr_alloc_act(cx->tmp, cx, pixels * c->channels) : out;
    dr_to_nhwc(cx, p->b, c->channels, c->size, x, t, cx->act);
    if (normalises(c)) {
        const real *scale = normalisation(cx, c);
        DR_OP(cx->be, channel_affine_fwd, .y = t, .x = t, .t = cx->act, .xt = cx->act,
              .scale = scale, .shift = scale + DR_RESNET_CHANNELS, .m = pixels, .c = c->channels);
    }
    if (c->resize)
        DR_OP(cx->be, resize_fwd, .y = out, .x = t, .t = cx->act, .b = p->b, .h = c->size,
              .w = c->size, .c = c->channels, .ho = c->resize, .wo = c->resize);
    dr_release(cx->tmp, mark);
}

// out: [b,pooled,pooled,width].
static void stem_forward(struct pass *p, const real *x, void *out) {
    struct dr_ctx *cx = p->cx;
    const struct dr_resnet *k = p->k;
    const int64_t n = k->after * k->after, all = p->b * n * k->stem.co;
    struct dr_resnet_saved *s = p->s;
    const size_t mark = dr_mark(cx->tmp);
    s->image = dr_alloc_act(p->ar, cx, p->b * k->side * k->side * k->stem.ci);
    s->h = dr_alloc_act(p->ar, cx, all);
    s->a = k->cfg.pool ? dr_alloc_act(p->ar, cx, all) : out;
    s->y = out;
    image_forward(p, x, s->image);
    dr_conv_forward(cx, p->w, &k->stem, s->image, p->b, k->side, k->side, s->h);
    dr_cnorm_forward(cx, p->ar, p->w, &k->stem_norm, p->fold, p->b, n, s->h, NULL, DR_FN_RELU, s->a,
                     &s->n);
    if (k->cfg.pool) {
        s->taken = dr_alloc(p->ar, (size_t)(p->b * k->pooled * k->pooled * k->stem.co));
        DR_OP(cx->be, pool_fwd, .y = out, .taken = s->taken, .x = s->a, .t = cx->act, .b = p->b,
              .h = k->after, .w = k->after, .c = k->stem.co, .k = 3, .stride = 2, .pad = 1,
              .max = true);
    }
    dr_release(cx->tmp, mark);
}

static int64_t map_reals(const struct pass *p, const struct dr_basic *b) {
    return p->b * b->out * b->out * b->conv1.co;
}

static int64_t largest(const struct pass *p) {
    int64_t most = p->b * p->k->pooled * p->k->pooled * p->k->stem.co;
    for (int i = 0; i < p->k->nblocks; i++)
        most = DR_MAX(most, map_reals(p, &p->k->block[i]));
    return most;
}

static void put(struct dr_ctx *cx, const void *map, int64_t n, real *out) {
    if (out)
        DR_OP(cx->be, cast, .dst = out, .src = map, .dt = DR_F32, .st = cx->act, .n = n);
}

// The outputs of all blocks, named by p->s. What nobody reads any more is overwritten in a pass
// that keeps nothing; the ends of stages stay for the decoder.
static void body_forward(struct pass *p, const real *x, real *const y[]) {
    const struct dr_resnet *k = p->k;
    struct dr_ctx *cx = p->cx;
    void *turn[2] = {NULL, NULL};
    if (!p->keep)
        for (int i = 0; i < 2; i++)
            turn[i] = dr_alloc_act(cx->tmp, cx, largest(p));
    void *at =
        p->keep ? dr_alloc_act(p->ar, cx, p->b * k->pooled * k->pooled * k->stem.co) : turn[0];
    stem_forward(p, x, at);
    for (int i = 0; i < k->nblocks; i++) {
        const struct dr_basic *b = &k->block[i];
        const bool own = p->keep || (b->last && decodes(&k->cfg));
        void *to = own ? dr_alloc_act(p->ar, cx, map_reals(p, b)) : turn[at == turn[0]];
        dr_basic_forward(cx, p->ar, p->w, b, p->fold, p->b, at, to, &p->s->block[i]);
        at = to;
        if (b->map >= 0)
            put(cx, at, map_reals(p, b), y[b->map]);
    }
}

static int end_of(const struct dr_resnet *k, int stage) {
    int at = -1;
    for (int s = 0; s <= stage; s++)
        at += (int)k->cfg.blocks[s];
    return at;
}

static void classify_forward(struct pass *p, real *const y[]) {
    const struct dr_resnet *k = p->k;
    struct dr_ctx *cx = p->cx;
    const struct dr_basic *last = &k->block[k->nblocks - 1];
    p->s->mean = dr_alloc_act(p->ar, cx, p->b * last->conv1.co);
    DR_OP(cx->be, pool_fwd, .y = p->s->mean, .x = p->s->block[k->nblocks - 1].y, .t = cx->act,
          .b = p->b, .h = last->out, .w = last->out, .c = last->conv1.co);
    if (y[0])
        dr_linear_forward(cx, p->w, &k->fc, p->s->mean, cx->act, p->b, y[0], DR_F32, 0);
    put(cx, p->s->mean, p->b * last->conv1.co, y[1]);
}

// out: real [b,size,size,channels].
static void decode_forward(struct pass *p, real *out) {
    const struct dr_resnet *k = p->k;
    const struct dr_resnet_config *c = &k->cfg;
    struct dr_ctx *cx = p->cx;
    void *x = p->s->block[k->nblocks - 1].y;
    for (int i = c->stages - 2; i >= 0; i--) {
        const struct dr_up *u = &k->up[i];
        void *y = dr_alloc_act(p->ar, cx, p->b * u->to * u->to * u->skip);
        dr_up_forward(cx, p->ar, p->w, u, p->b, x, p->s->block[end_of(k, i)].y, y, &p->s->up[i]);
        x = y;
    }
    p->s->last = x;
    const size_t mark = dr_mark(cx->tmp);
    const int64_t pixels = p->b * c->size * c->size, side = k->pooled;
    void *small = dr_alloc_act(cx->tmp, cx, p->b * side * side * c->channels);
    dr_conv_forward(cx, p->w, &k->head, x, p->b, side, side, small);
    if (side != c->size) { // a 1x1 convolution and a bilinear resize commute
        void *full = dr_alloc_act(cx->tmp, cx, pixels * c->channels);
        DR_OP(cx->be, resize_fwd, .y = full, .x = small, .t = cx->act, .b = p->b, .h = side,
              .w = side, .c = c->channels, .ho = c->size, .wo = c->size);
        small = full;
    }
    put(cx, small, pixels * c->channels, out);
    dr_release(cx->tmp, mark);
}

static void forward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                    const struct dr_net_in *in, real *const y[], void *saved) {
    const struct dr_resnet *k = resnet_of(net);
    struct dr_resnet_saved local;
    struct pass p = {.cx = cx,
                     .k = k,
                     .w = w,
                     .b = in->b,
                     .s = saved ? saved : &local,
                     .ar = saved ? cx->keep : cx->tmp,
                     .keep = saved != NULL};
    const size_t mark = dr_mark(cx->tmp);
    memset(p.s, 0, sizeof *p.s);
    p.s->fold = p.fold = dr_bnorms_fold(cx, p.ar, w, &k->bnorms);
    body_forward(&p, in->x, y);
    if (classifies(&k->cfg))
        classify_forward(&p, y);
    if (decodes(&k->cfg) && y[net->outputs - 1])
        decode_forward(&p, y[net->outputs - 1]);
    dr_release(cx->tmp, mark);
}

// ---- backward ----

// The gradient by the output of the block that the backward pass has come to.
struct gradient {
    void *d;  // act
    bool any; // otherwise it is zero and d is not written
};

static void add(struct dr_ctx *cx, struct gradient *g, const void *src, enum dr_dtype t,
                int64_t n) {
    if (!src)
        return;
    const size_t mark = dr_mark(cx->tmp);
    if (!g->any) {
        DR_OP(cx->be, cast, .dst = g->d, .src = src, .dt = cx->act, .st = t, .n = n);
        g->any = true;
        return;
    }
    if (t != cx->act) {
        void *copy = dr_alloc_act(cx->tmp, cx, n);
        DR_OP(cx->be, cast, .dst = copy, .src = src, .dt = cx->act, .st = t, .n = n);
        src = copy;
    }
    DR_OP(cx->be, add_act_fwd, .y = g->d, .a = g->d, .b = src, .t = cx->act, .n = n,
          .fn = DR_FN_NONE);
    dr_release(cx->tmp, mark);
}

// Adds the gradient by the last map.
static void classify_backward(const struct pass *p, const real *const dy[], struct gradient *g) {
    const struct dr_resnet *k = p->k;
    struct dr_ctx *cx = p->cx;
    const struct dr_basic *last = &k->block[k->nblocks - 1];
    const int64_t c = last->conv1.co, n = map_reals(p, last);
    if (!dy[0] && !dy[1])
        return;
    const size_t mark = dr_mark(cx->tmp);
    struct gradient mean = {.d = dr_alloc_act(cx->tmp, cx, p->b * c)};
    add(cx, &mean, dy[1], DR_F32, p->b * c);
    if (dy[0]) {
        struct gradient logits = {.d = dr_alloc_act(cx->tmp, cx, p->b * k->fc.out)};
        void *d = dr_alloc_act(cx->tmp, cx, p->b * c);
        add(cx, &logits, dy[0], DR_F32, p->b * k->fc.out);
        dr_linear_backward(cx, p->w, &k->fc, p->s->mean, logits.d, cx->act, p->b, 0);
        dr_linear_backward_input(cx, p->w, &k->fc, logits.d, cx->act, p->b, d, cx->act, false);
        add(cx, &mean, d, cx->act, p->b * c);
    }
    void *d = dr_alloc_act(cx->tmp, cx, n);
    DR_OP(cx->be, pool_bwd, .dx = d, .dy = mean.d, .t = cx->act, .b = p->b, .h = last->out,
          .w = last->out, .c = c);
    add(cx, g, d, cx->act, n);
    dr_release(cx->tmp, mark);
}

// dy: by the reconstruction. Adds the gradient by the last map to g; dskip[i]: by the end of stage
// i, in cx->tmp.
static void decode_backward(const struct pass *p, const real *dy, struct gradient *g,
                            void *dskip[DR_RESNET_STAGES]) {
    const struct dr_resnet *k = p->k;
    const struct dr_resnet_config *c = &k->cfg;
    struct dr_ctx *cx = p->cx;
    for (int i = 0; i + 1 < c->stages; i++)
        dskip[i] = dr_alloc_act(cx->tmp, cx, p->b * k->up[i].to * k->up[i].to * k->up[i].skip);
    const size_t mark = dr_mark(cx->tmp);
    const int64_t side = k->pooled, all = p->b * c->size * c->size * c->channels;
    struct gradient image = {.d = dr_alloc_act(cx->tmp, cx, all)};
    add(cx, &image, dy, DR_F32, all);
    void *dh = image.d;
    if (side != c->size) {
        dh = dr_alloc_act(cx->tmp, cx, p->b * side * side * c->channels);
        DR_OP(cx->be, resize_bwd, .dx = dh, .dy = image.d, .t = cx->act, .b = p->b, .h = side,
              .w = side, .c = c->channels, .ho = c->size, .wo = c->size);
    }
    void *d = dr_alloc_act(cx->tmp, cx, p->b * side * side * k->head.ci);
    dr_conv_backward(cx, p->w, &k->head, p->s->last, dh, p->b, side, side);
    dr_conv_backward_input(cx, p->w, &k->head, dh, p->b, side, side, d);
    for (int i = 0; i + 1 < c->stages; i++) {
        const struct dr_up *u = &k->up[i];
        void *below = dr_alloc_act(cx->tmp, cx, p->b * u->from * u->from * u->c);
        dr_up_backward(cx, p->w, u, p->b, &p->s->up[i], d, below, dskip[i]);
        d = below;
    }
    add(cx, g, d, cx->act, map_reals(p, &k->block[k->nblocks - 1]));
    dr_release(cx->tmp, mark);
}

// d: by the output of the stem, overwritten. dx: real [b,channels,size,size], NULL: not wanted.
static void stem_backward(const struct pass *p, void *d, real *dx) {
    struct dr_ctx *cx = p->cx;
    const struct dr_resnet *k = p->k;
    const struct dr_resnet_config *c = &k->cfg;
    const int64_t n = k->after * k->after;
    if (c->pool) {
        void *da = dr_alloc_act(cx->tmp, cx, p->b * n * k->stem.co);
        DR_OP(cx->be, pool_bwd, .dx = da, .taken = p->s->taken, .dy = d, .t = cx->act, .b = p->b,
              .h = k->after, .w = k->after, .c = k->stem.co, .k = 3, .stride = 2, .pad = 1,
              .max = true);
        d = da;
    }
    dr_cnorm_backward(cx, p->w, &k->stem_norm, p->fold, p->b, n, p->s->h, NULL, DR_FN_RELU,
                      &p->s->n, d, d, NULL);
    dr_conv_backward(cx, p->w, &k->stem, p->s->image, d, p->b, k->side, k->side);
    if (!dx)
        return;
    const int64_t pixels = p->b * c->size * c->size;
    void *di = dr_alloc_act(cx->tmp, cx, p->b * k->side * k->side * c->channels);
    dr_conv_backward_input(cx, p->w, &k->stem, d, p->b, k->side, k->side, di);
    if (c->resize) {
        void *small = dr_alloc_act(cx->tmp, cx, pixels * c->channels);
        DR_OP(cx->be, resize_bwd, .dx = small, .dy = di, .t = cx->act, .b = p->b, .h = c->size,
              .w = c->size, .c = c->channels, .ho = c->resize, .wo = c->resize);
        di = small;
    }
    if (normalises(c)) // the affine map again, without its shift
        DR_OP(cx->be, channel_affine_fwd, .y = di, .x = di, .t = cx->act, .xt = cx->act,
              .scale = normalisation(cx, c), .m = pixels, .c = c->channels);
    dr_from_nhwc(cx, p->b, c->channels, c->size, di, cx->act, dx, false);
}

static void body_backward(const struct pass *p, const real *const dy[], struct gradient *g,
                          void *const dskip[], real *dx) {
    const struct dr_resnet *k = p->k;
    struct dr_ctx *cx = p->cx;
    void *const other = dr_alloc_act(cx->tmp, cx, largest(p));
    void *const turn[2] = {g->d, other};
    int stage = k->cfg.stages - 1;
    for (int i = k->nblocks - 1; i >= 0; i--) {
        const struct dr_basic *b = &k->block[i];
        if (b->last)
            add(cx, g, dskip[stage--], cx->act, map_reals(p, b));
        if (b->map >= 0)
            add(cx, g, dy[b->map], DR_F32, map_reals(p, b));
        if (!g->any)
            continue;
        void *to = turn[g->d == turn[0]];
        dr_basic_backward(cx, p->w, b, p->fold, p->b, &p->s->block[i], g->d, to);
        g->d = to;
    }
    if (g->any)
        stem_backward(p, g->d, dx);
    else if (dx)
        DR_OP(cx->be, fill, .dst = dx, .n = p->b * k->net.input, .value = 0);
}

static void backward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                     const struct dr_net_in *in, void *saved, const real *const dy[], real *dx) {
    const struct dr_resnet *k = resnet_of(net);
    const struct dr_resnet_saved *s = saved;
    const struct pass p = {
        .cx = cx, .k = k, .w = w, .b = in->b, .s = saved, .fold = s->fold, .keep = true};
    const size_t mark = dr_mark(cx->tmp);
    struct gradient g = {.d = dr_alloc_act(cx->tmp, cx, largest(&p))};
    void *dskip[DR_RESNET_STAGES] = {NULL};
    if (classifies(&k->cfg))
        classify_backward(&p, dy, &g);
    if (decodes(&k->cfg) && dy[net->outputs - 1])
        decode_backward(&p, dy[net->outputs - 1], &g, dskip);
    body_backward(&p, dy, &g, dskip, dx);
    dr_release(cx->tmp, mark);
}

const struct dr_resnet_config *dr_resnet_config(const struct dr_net *net) {
    return net->type->forward == forward ? &resnet_of(net)->cfg : NULL;
}

int dr_resnet_create(const struct dr_resnet_config *cfg, struct dr_net **out, struct dr_err *err) {
    int rc = dr_net_new(&dr_net_resnet, out, err);
    if (rc)
        return rc;
    ((struct dr_resnet *)*out)->cfg = *cfg;
    return dr_net_finish(out, 0, err);
}

const struct dr_net_type dr_net_resnet = {.name = "resnet",
                                          .kind = DR_NET_ENCODER,
                                          .anchor = "layer1.0.conv1.weight",
                                          .size = sizeof(struct dr_resnet),
                                          .parse = dr_resnet_parse,
                                          .build = build,
                                          .encoder = encoder,
                                          .resized = resized,
                                          .describe = dr_resnet_describe,
                                          .forward = forward,
                                          .backward = backward};
