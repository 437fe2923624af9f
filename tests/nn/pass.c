// See pass.h.
#include "tests/nn/pass.h"
#include "engine/core/rng.h"
#include "engine/cpu/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void *memory(struct pass *p, size_t bytes) {
    struct dr_err err = {0};
    assert_true(p->nmem < (int)DR_COUNT(p->mem));
    if (p->be->mem_alloc(p->be, DR_MAX(bytes, 64), &p->mem[p->nmem], &err))
        fail_msg("%s", err.msg);
    return p->mem[p->nmem++];
}

struct dr_net *pass_parse(const char *json) {
    struct dr_err err = {0};
    struct dr_net *net;
    if (dr_net_parse(json, strlen(json), "here", &net, &err))
        fail_msg("%s: %s", json, err.msg);
    return net;
}

int64_t pass_count(const struct pass *p, int output) {
    const struct dr_net_shape s = dr_net_output(p->net, output);
    return s.c * s.h * s.w;
}

static void outputs_of(const struct pass *p, unsigned mask, real *y[DR_NET_OUTPUTS],
                       const real *dy[DR_NET_OUTPUTS]) {
    for (int i = 0; i < dr_net_outputs(p->net); i++) {
        y[i] = mask >> i & 1 ? p->y[i] : NULL;
        dy[i] = mask >> i & 1 ? p->dy[i] : NULL;
    }
}

static void ops(struct pass *p, struct dr_ctx *cx, bool forward, bool backward, bool keep,
                bool frozen, unsigned mask) {
    const struct dr_weights w = {
        .layout = p->params, .w = p->w, .w16 = p->w16, .g = frozen ? NULL : p->g};
    real *y[DR_NET_OUTPUTS];
    const real *dy[DR_NET_OUTPUTS];
    outputs_of(p, mask, y, dy);
    if (forward)
        dr_net_forward(cx, p->net, &w, &p->in, y, keep ? p->saved : NULL);
    if (backward)
        dr_net_backward(cx, p->net, &w, &p->in, p->saved, dy, p->dx);
}

static void measure(struct pass *p) {
    struct dr_backend *null;
    struct dr_arena keep, tmp;
    assert_int_equal(dr_backend_null(&null, NULL), 0);
    dr_arena_measure(&keep);
    dr_arena_measure(&tmp);
    struct dr_ctx cx = {.be = null, .keep = &keep, .tmp = &tmp, .act = p->cx.act};
    ops(p, &cx, true, true, true, false, ~0u);
    assert_int_equal(tmp.used, 0);
    cx.keep = NULL;
    ops(p, &cx, true, false, false, false, ~0u);
    assert_int_equal(tmp.used, 0);
    dr_backend_free(null);
    dr_arena_init(&p->keep, memory(p, keep.peak), keep.peak);
    dr_arena_init(&p->tmp, memory(p, tmp.peak), tmp.peak);
}

// Norms' weights and variances near one, the rest so that activations stay of order one.
static void random_weights(struct pass *p, uint64_t seed) {
    for (int i = 0; i < p->params->n; i++) {
        const struct dr_param *q = &p->params->p[i];
        real *w = p->w + q->offset;
        const bool one = q->init == DR_INIT_ONE;
        const double fan = (double)q->count / (double)q->dim[0];
        const double scale = one ? 0.2 : q->ndim > 1 ? sqrt(1.5 / fan) : 0.3;
        dr_normals(seed, DR_STREAM_INIT, (uint64_t)i, w, q->count);
        for (int64_t j = 0; j < q->count; j++)
            w[j] = (real)(scale * (double)w[j] + (one ? 1 : 0));
        for (int64_t j = 0; j < q->count && strstr(q->name, "running_var"); j++)
            w[j] = (real)fabs((double)w[j]);
    }
}

static void random_inputs(struct pass *p, uint64_t seed) {
    const int64_t n = dr_net_input(p->net);
    const struct dr_model_config *m = dr_gen_config(p->net);
    const int64_t style = m ? dr_gen_style_count(p->net) : 0;
    int32_t *cls = memory(p, (size_t)p->b * sizeof *cls);
    int32_t *index = memory(p, (size_t)(p->b * style) * sizeof *index);
    real *alpha = memory(p, (size_t)p->b * sizeof *alpha);
    for (int64_t i = 0; i < p->b; i++) {
        dr_normals(seed, DR_STREAM_NOISE, (uint64_t)i, p->x + i * n, n);
        for (int k = 0; k < dr_net_outputs(p->net); k++)
            dr_normals(seed + 1 + (uint64_t)k, DR_STREAM_DATA, (uint64_t)i,
                       p->dy[k] + i * pass_count(p, k), pass_count(p, k));
        alpha[i] = (real)(1 + 0.37 * (double)i);
        if (!m)
            continue;
        dr_indices(seed, DR_STREAM_LABEL, (uint64_t)i, (uint32_t)(m->classes + m->null_class),
                   &cls[i], 1);
        dr_indices(seed, DR_STREAM_STYLE, (uint64_t)i, (uint32_t)m->codebook, index + i * style,
                   style);
    }
    p->in = (struct dr_net_in){.x = p->x, .b = p->b};
    if (m)
        p->in.cls = cls, p->in.alpha = alpha, p->in.style = style ? index : NULL;
}

void pass_round(struct pass *p) {
    if (p->cx.act == DR_BF16)
        DR_OP(p->be, cast, .dst = p->w16, .src = p->w, .dt = DR_BF16, .st = DR_F32,
              .n = p->params->total);
    assert_int_equal(p->be->sync(p->be, NULL), 0);
}

void pass_open(struct pass *p, struct dr_net *net, int64_t b, int threads, enum dr_dtype act,
               uint64_t seed) {
    struct dr_err err = {0};
    *p = (struct pass){.net = net, .params = dr_net_params(net), .b = b, .cx.act = act};
    if (dr_backend_cpu(threads, &p->be, &err))
        fail_msg("%s", err.msg);
    p->be->enter(p->be);
    const size_t total = (size_t)p->params->total, n = (size_t)b;
    p->saved = dr_net_saved_new(net);
    assert_non_null(p->saved);
    p->w = memory(p, total * sizeof(real));
    p->g = memory(p, total * sizeof(real));
    p->w16 = memory(p, total * sizeof(dr_bf16));
    p->x = memory(p, n * (size_t)dr_net_input(net) * sizeof(real));
    p->dx = memory(p, n * (size_t)dr_net_input(net) * sizeof(real));
    for (int i = 0; i < dr_net_outputs(net); i++) {
        p->y[i] = memory(p, n * (size_t)pass_count(p, i) * sizeof(real));
        p->dy[i] = memory(p, n * (size_t)pass_count(p, i) * sizeof(real));
    }
    random_weights(p, seed);
    random_inputs(p, seed);
    measure(p);
    p->cx.be = p->be;
    p->cx.tmp = &p->tmp;
    p->cx.keep = &p->keep;
    pass_round(p);
}

void pass_close(struct pass *p) {
    for (int i = 0; i < p->nmem; i++)
        p->be->mem_free(p->be, p->mem[i]);
    dr_net_saved_free(p->saved);
    dr_net_free(p->net);
    dr_backend_free(p->be);
}

double pass_forward(struct pass *p, bool keep, unsigned mask) {
    struct dr_err err = {0};
    struct dr_ctx cx = p->cx;
    dr_release(&p->keep, 0);
    cx.keep = keep ? &p->keep : NULL;
    ops(p, &cx, true, false, keep, false, mask);
    if (p->be->sync(p->be, &err))
        fail_msg("%s", err.msg);
    double sum = 0;
    for (int i = 0; i < dr_net_outputs(p->net); i++)
        for (int64_t j = 0; mask >> i & 1 && j < p->in.b * pass_count(p, i); j++)
            sum += (double)p->y[i][j] * (double)p->dy[i][j];
    return sum;
}

void pass_backward(struct pass *p, bool frozen, unsigned mask) {
    struct dr_err err = {0};
    if (!frozen)
        memset(p->g, 0, (size_t)p->params->total * sizeof *p->g);
    ops(p, &p->cx, false, true, true, frozen, mask);
    if (p->be->sync(p->be, &err))
        fail_msg("%s", err.msg);
}

// ---- gradients

// d/dh of the loss at at + h dir. A ReLU that changes sides within the step shows as an error that
// a smaller step does not have.
static double slope(struct pass *p, real *at, const real *dir, int64_t n, double h, unsigned mask) {
    double f[2];
    for (int side = 0; side < 2; side++) {
        const double by = side ? -h : h;
        for (int64_t i = 0; i < n; i++)
            at[i] += (real)(by * (double)dir[i]);
        f[side] = pass_forward(p, false, mask);
        for (int64_t i = 0; i < n; i++)
            at[i] -= (real)(by * (double)dir[i]);
    }
    return (f[0] - f[1]) / (2 * h);
}

static void check_slope(struct pass *p, const char *name, real *at, const real *grad, int64_t n,
                        uint64_t index, unsigned mask) {
    real *dir = calloc((size_t)n, sizeof *dir);
    assert_non_null(dir);
    dr_normals(11, DR_STREAM_LABEL, index, dir, n);
    double length = 0, size = 0, want = 0, got = 0;
    for (int64_t i = 0; i < n; i++) {
        length += (double)dir[i] * (double)dir[i];
        size += (double)grad[i] * (double)grad[i];
    }
    size = sqrt(size / (double)n);
    for (int64_t i = 0; i < n; i++) {
        dir[i] /= (real)sqrt(length);
        want += (double)grad[i] * (double)dir[i];
    }
    bool ok = false;
    for (double h = 1e-5; h > 5e-8 && !ok; h /= 4) {
        got = slope(p, at, dir, n, h, mask);
        ok = fabs(got - want) <= 1e-6 * fmax(fabs(want), size);
    }
    free(dir);
    if (!ok)
        fail_msg("%s: %s: backward %.12g, finite differences %.12g", dr_net_description(p->net),
                 name, want, got);
}

void pass_check_gradients(struct pass *p, unsigned mask) {
    const int64_t total = p->params->total, in = p->b * dr_net_input(p->net);
    real *g = calloc((size_t)total, sizeof *g), *dx = calloc((size_t)in, sizeof *dx);
    const bool batch = dr_params_find(p->params, "bn1.running_var") >= 0;
    assert_true(g && dx);
    pass_forward(p, true, mask);
    pass_backward(p, false, mask);
    memcpy(g, p->g, (size_t)total * sizeof *g);
    memcpy(dx, p->dx, (size_t)in * sizeof *dx);
    for (int i = 0; i < p->params->n; i++) {
        const struct dr_param *q = &p->params->p[i];
        if (batch && q->ndim == 1 && strcmp(q->name, "fc.bias") != 0) {
            for (int64_t j = 0; j < q->count; j++) // BatchNorms are frozen
                assert_true(g[q->offset + j] == 0);
            continue;
        }
        check_slope(p, q->name, p->w + q->offset, g + q->offset, q->count, (uint64_t)i, mask);
    }
    check_slope(p, "input", p->x, dx, in, 1000, mask);
    memset(p->dx, 0, (size_t)in * sizeof *dx);
    pass_forward(p, true, mask);
    pass_backward(p, true, mask);
    assert_memory_equal(p->dx, dx, (size_t)in * sizeof *dx);
    assert_memory_equal(p->g, g, (size_t)total * sizeof *g);
    free(g);
    free(dx);
}

// ---- bytes

static void same_rows(const struct pass *a, int64_t from, const struct pass *b, int64_t n) {
    for (int i = 0; i < dr_net_outputs(a->net); i++) {
        const int64_t count = pass_count(a, i);
        assert_memory_equal(a->y[i], b->y[i] + from * count, (size_t)(n * count) * sizeof(real));
    }
}

void pass_check_bytes(const char *json, enum dr_dtype act) {
    enum { B = 5 };
    struct pass one, two;
    pass_open(&one, pass_parse(json), B, 1, act, 3);
    pass_open(&two, pass_parse(json), B, 2, act, 3);
    const struct dr_net_in all = two.in;
    const int64_t n = dr_net_input(two.net);
    const int64_t style = dr_gen_config(two.net) ? dr_gen_style_count(two.net) : 0;
    pass_forward(&one, false, ~0u);
    pass_forward(&two, true, ~0u);
    same_rows(&two, 0, &one, B);
    for (int64_t i = 0; i < B; i++) {
        two.in = all;
        two.in.b = i == 1 ? 3 : 1;
        two.in.x += i * n;
        if (all.cls)
            two.in.cls += i, two.in.alpha += i, two.in.style += i * style;
        pass_forward(&two, false, ~0u);
        same_rows(&two, i, &one, two.in.b);
    }
    pass_close(&one);
    pass_close(&two);
}

double pass_distance(const real *a, const real *b, int64_t n) {
    double d = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        sum += (double)b[i] * (double)b[i];
    }
    return sqrt(d / sum);
}
