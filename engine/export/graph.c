// Graphs of ONNX files (onnx.proto of github.com/onnx/onnx, IR version 10, opset 21). See graph.h.
// The numbers of fields are those of the schema.
#include "engine/export/graph.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// TensorProto, ValueInfoProto, AttributeProto
enum { TENSOR_DIMS = 1, TENSOR_TYPE = 2, TENSOR_NAME = 8, TENSOR_RAW = 9 };
enum { INFO_NAME = 1, INFO_TYPE = 2, INFO_DOC = 3 };
enum { ATTR_NAME = 1, ATTR_I = 3, ATTR_S = 4, ATTR_INTS = 8, ATTR_TYPE = 20 };
enum { TYPE_INT = 2, TYPE_STRING = 3, TYPE_INTS = 7 };
// GraphProto's, which onnx.c writes
enum { GRAPH_NODE = 1, GRAPH_INIT = 5, GRAPH_IN = 11, GRAPH_OUT = 12 };

void dr_graph_free(struct dr_graph *g) {
    dr_proto_free(&g->node);
    dr_proto_free(&g->init);
    dr_proto_free(&g->in);
    dr_proto_free(&g->out);
}

static struct dr_val numbered(struct dr_graph *g, const char *letter) {
    struct dr_val v;
    snprintf(v.name, sizeof v.name, "%s%d", letter, g->next++);
    return v;
}

// ---- inputs and outputs ----

static void value_info(struct dr_proto *to, int field, const char *name, enum dr_elem elem,
                       int ndim, const int64_t *dim, const char *doc) {
    struct dr_proto info = {0}, type = {0}, tensor = {0}, shape = {0}, one = {0};
    dr_proto_text(&one, 2, "batch");
    dr_proto_message(&shape, 1, &one);
    for (int i = 0; i < ndim; i++) {
        dr_proto_int(&one, 1, dim[i]);
        dr_proto_message(&shape, 1, &one);
    }
    dr_proto_int(&tensor, 1, elem);
    dr_proto_message(&tensor, 2, &shape);
    dr_proto_message(&type, 1, &tensor);
    dr_proto_text(&info, INFO_NAME, name);
    dr_proto_message(&info, INFO_TYPE, &type);
    dr_proto_text(&info, INFO_DOC, doc);
    dr_proto_message(to, field, &info);
}

struct dr_val dr_graph_input(struct dr_graph *g, const char *name, enum dr_elem elem, int ndim,
                             const int64_t *dim, const char *doc) {
    struct dr_val v;
    snprintf(v.name, sizeof v.name, "%s", name);
    value_info(&g->in, GRAPH_IN, name, elem, ndim, dim, doc);
    return v;
}

static void write_node(struct dr_graph *g, const char *op, const struct dr_attr *attr,
                       const struct dr_val *in, int n, const char *out);

void dr_graph_output(struct dr_graph *g, struct dr_val v, const char *name, int ndim,
                     const int64_t *dim, const char *doc) {
    write_node(g, "Identity", NULL, &v, 1, name);
    value_info(&g->out, GRAPH_OUT, name, DR_ELEM_F32, ndim, dim, doc);
}

// ---- nodes ----

static void attribute(struct dr_proto *node, const struct dr_attr *a) {
    struct dr_proto p = {0};
    dr_proto_text(&p, ATTR_NAME, a->name);
    if (a->n < 0)
        dr_proto_text(&p, ATTR_S, a->text);
    else if (!a->n)
        dr_proto_int(&p, ATTR_I, a->i);
    for (int i = 0; i < a->n; i++)
        dr_proto_int(&p, ATTR_INTS, a->ints[i]);
    dr_proto_int(&p, ATTR_TYPE, a->n < 0 ? TYPE_STRING : a->n ? TYPE_INTS : TYPE_INT);
    dr_proto_message(node, 5, &p);
}

static void write_node(struct dr_graph *g, const char *op, const struct dr_attr *attr,
                       const struct dr_val *in, int n, const char *out) {
    struct dr_proto p = {0};
    for (int i = 0; i < n; i++)
        dr_proto_text(&p, 1, in[i].name);
    dr_proto_text(&p, 2, out);
    dr_proto_text(&p, 3, out);
    dr_proto_text(&p, 4, op);
    for (; attr && attr->name; attr++)
        attribute(&p, attr);
    dr_proto_message(&g->node, GRAPH_NODE, &p);
}

struct dr_val dr_graph_node(struct dr_graph *g, const char *op, const struct dr_attr *attr,
                            const struct dr_val *in, int n) {
    struct dr_val out = numbered(g, "v");
    write_node(g, op, attr, in, n, out.name);
    return out;
}

// ---- weights and constants ----

// The head of a tensor; the caller fills in the bytes. NULL: no memory.
static void *tensor(struct dr_graph *g, const char *name, enum dr_elem elem, int ndim,
                    const int64_t *dim) {
    struct dr_proto head = {0};
    size_t bytes = elem == DR_ELEM_F32 ? sizeof(float) : sizeof(int64_t);
    for (int i = 0; i < ndim; i++) {
        dr_proto_int(&head, TENSOR_DIMS, dim[i]);
        bytes *= (size_t)dim[i];
    }
    dr_proto_int(&head, TENSOR_TYPE, elem);
    dr_proto_text(&head, TENSOR_NAME, name);
    dr_proto_head(&head, TENSOR_RAW, bytes);
    if (head.failed)
        g->init.failed = true;
    dr_proto_head(&g->init, GRAPH_INIT, head.n + bytes);
    dr_proto_raw(&g->init, head.p, head.n);
    dr_proto_free(&head);
    return dr_proto_space(&g->init, bytes);
}

// What lies in the buffer need not be aligned.
static void put(void *out, int64_t i, real v) {
    const float f = (float)v;
    memcpy((char *)out + (size_t)i * sizeof f, &f, sizeof f);
}

static const struct dr_param *find(const struct dr_graph *g, const char *name) {
    const int p = dr_params_find(g->ps, name);
    return p < 0 ? NULL : &g->ps->p[p];
}

static const struct dr_param *needed(struct dr_graph *g, const char *name) {
    const struct dr_param *p = find(g, name);
    if (!p && !g->rc)
        g->rc = dr_fail(g->err, DR_EUNSUPPORTED,
                        "the network has no parameter \"%s\"; its ONNX graph needs one", name);
    return p;
}

static struct dr_val named(const char *name) {
    struct dr_val v;
    snprintf(v.name, sizeof v.name, "%s", name);
    return v;
}

#define FORMAT(buf, fmt)                                                                           \
    do {                                                                                           \
        va_list ap;                                                                                \
        va_start(ap, fmt);                                                                         \
        vsnprintf(buf, sizeof buf, fmt, ap);                                                       \
        va_end(ap);                                                                                \
    } while (0)

bool dr_graph_has(const struct dr_graph *g, const char *fmt, ...) {
    char name[96];
    FORMAT(name, fmt);
    return find(g, name) != NULL;
}

static struct dr_val weight(struct dr_graph *g, const char *name) {
    const struct dr_param *p = needed(g, name);
    void *out = p ? tensor(g, name, DR_ELEM_F32, p->ndim, p->dim) : NULL;
    for (int64_t i = 0; out && i < p->count; i++)
        put(out, i, g->w[p->offset + i]);
    return named(name);
}

struct dr_val dr_graph_weight(struct dr_graph *g, const char *fmt, ...) {
    char name[96];
    FORMAT(name, fmt);
    return weight(g, name);
}

// [out,in] as [in,out].
static struct dr_val transposed(struct dr_graph *g, const char *name) {
    const struct dr_param *p = needed(g, name);
    if (!p)
        return named(name);
    const int64_t rows = p->dim[0], columns = p->count / p->dim[0];
    void *out = tensor(g, name, DR_ELEM_F32, 2, (int64_t[]){columns, rows});
    for (int64_t i = 0; out && i < p->count; i++)
        put(out, i % columns * rows + i / columns, g->w[p->offset + i]);
    return named(name);
}

struct dr_val dr_graph_reals(struct dr_graph *g, int ndim, const int64_t *dim, const float *v) {
    const struct dr_val name = numbered(g, "c");
    size_t bytes = sizeof *v;
    for (int i = 0; i < ndim; i++)
        bytes *= (size_t)dim[i];
    void *out = tensor(g, name.name, DR_ELEM_F32, ndim, dim);
    if (out)
        memcpy(out, v, bytes);
    return name;
}

struct dr_val dr_graph_ints(struct dr_graph *g, int n, const int64_t *v) {
    const struct dr_val name = numbered(g, "c");
    void *out = tensor(g, name.name, DR_ELEM_I64, 1, (int64_t[]){n});
    if (out)
        memcpy(out, v, (size_t)n * sizeof *v);
    return name;
}

struct dr_val dr_graph_number(struct dr_graph *g, double v) {
    const float f = (float)v;
    return dr_graph_reals(g, 0, NULL, &f);
}

// ---- what networks are made of ----

struct dr_val dr_graph_add(struct dr_graph *g, struct dr_val a, struct dr_val b) {
    return DR_NODE(g, "Add", NULL, a, b);
}

struct dr_val dr_graph_mul(struct dr_graph *g, struct dr_val a, struct dr_val b) {
    return DR_NODE(g, "Mul", NULL, a, b);
}

struct dr_val dr_graph_silu(struct dr_graph *g, struct dr_val x) {
    return dr_graph_mul(g, x, DR_NODE(g, "Sigmoid", NULL, x));
}

struct dr_val dr_graph_gelu(struct dr_graph *g, struct dr_val x) {
    return DR_NODE(g, "Gelu", NULL, x);
}

struct dr_val dr_graph_reshape(struct dr_graph *g, struct dr_val x, int n, const int64_t *dim) {
    return DR_NODE(g, "Reshape", NULL, x, dr_graph_ints(g, n, dim));
}

struct dr_val dr_graph_permute(struct dr_graph *g, struct dr_val x, int n, const int64_t *perm) {
    struct dr_attr a[2] = {{.name = "perm", .n = n}};
    memcpy(a[0].ints, perm, (size_t)n * sizeof *perm);
    return DR_NODE(g, "Transpose", a, x);
}

struct dr_val dr_graph_concat(struct dr_graph *g, struct dr_val a, struct dr_val b, int64_t axis) {
    return DR_NODE(g, "Concat", DR_ATTRS({.name = "axis", .i = axis}), a, b);
}

struct dr_val dr_graph_slice(struct dr_graph *g, struct dr_val x, int64_t axis, int64_t at,
                             int64_t n) {
    const int64_t end = at + n;
    const struct dr_val from = dr_graph_ints(g, 1, &at), to = dr_graph_ints(g, 1, &end);
    return DR_NODE(g, "Slice", NULL, x, from, to, dr_graph_ints(g, 1, &axis));
}

struct dr_val dr_graph_unsqueeze(struct dr_graph *g, struct dr_val x, int64_t axis) {
    return DR_NODE(g, "Unsqueeze", NULL, x, dr_graph_ints(g, 1, &axis));
}

struct dr_val dr_graph_rows(struct dr_graph *g, struct dr_val table, struct dr_val index) {
    return DR_NODE(g, "Gather", NULL, table, index);
}

struct dr_val dr_graph_linear(struct dr_graph *g, struct dr_val x, const char *fmt, ...) {
    char name[80], full[96];
    FORMAT(name, fmt);
    snprintf(full, sizeof full, "%s.weight", name);
    const struct dr_val y = DR_NODE(g, "MatMul", NULL, x, transposed(g, full));
    snprintf(full, sizeof full, "%s.bias", name);
    return find(g, full) ? dr_graph_add(g, y, weight(g, full)) : y;
}

// x / sqrt(mean over the last axis of x^2 + eps)
static struct dr_val over_rms(struct dr_graph *g, struct dr_val x, double eps) {
    const int64_t last = -1;
    const struct dr_val axes = dr_graph_ints(g, 1, &last);
    const struct dr_val mean = DR_NODE(g, "ReduceMean", NULL, dr_graph_mul(g, x, x), axes);
    const struct dr_val sum = dr_graph_add(g, mean, dr_graph_number(g, eps));
    return DR_NODE(g, "Div", NULL, x, DR_NODE(g, "Sqrt", NULL, sum));
}

struct dr_val dr_graph_rmsnorm(struct dr_graph *g, struct dr_val x, const char *name) {
    return dr_graph_mul(g, over_rms(g, x, 1e-6), weight(g, name));
}

struct dr_val dr_graph_attention(struct dr_graph *g, struct dr_val qkv, int64_t d, int64_t heads,
                                 dr_turn *turn, void *ctx) {
    const int64_t hd = d / heads;
    struct dr_val part[3];
    for (int i = 0; i < 3; i++) {
        struct dr_val x = dr_graph_slice(g, qkv, 2, i * d, d);
        x = dr_graph_reshape(g, x, 4, (int64_t[]){0, 0, heads, hd});
        x = dr_graph_permute(g, x, 4, (int64_t[]){0, 2, 1, 3});
        part[i] = i < 2 && turn ? turn(g, x, i, ctx) : x;
    }
    const struct dr_val q = dr_graph_mul(g, part[0], dr_graph_number(g, 1 / sqrt((double)hd)));
    const struct dr_val k = dr_graph_permute(g, part[1], 4, (int64_t[]){0, 1, 3, 2});
    const struct dr_val logits = DR_NODE(g, "MatMul", NULL, q, k);
    const struct dr_val share = DR_NODE(g, "Softmax", DR_ATTRS({.name = "axis", .i = -1}), logits);
    struct dr_val y = DR_NODE(g, "MatMul", NULL, share, part[2]);
    y = dr_graph_permute(g, y, 4, (int64_t[]){0, 2, 1, 3});
    return dr_graph_reshape(g, y, 3, (int64_t[]){0, 0, d});
}

struct dr_val dr_graph_conv(struct dr_graph *g, struct dr_val x, int64_t k, int64_t stride,
                            int64_t pad, const char *fmt, ...) {
    char name[80], full[96];
    FORMAT(name, fmt);
    snprintf(full, sizeof full, "%s.weight", name);
    const struct dr_val w = weight(g, full);
    snprintf(full, sizeof full, "%s.bias", name);
    return DR_NODE(g, "Conv",
                   DR_ATTRS({.name = "kernel_shape", .n = 2, .ints = {k, k}},
                            {.name = "strides", .n = 2, .ints = {stride, stride}},
                            {.name = "pads", .n = 4, .ints = {pad, pad, pad, pad}}),
                   x, w, weight(g, full));
}

struct dr_val dr_graph_groups(struct dr_graph *g, struct dr_val x, int64_t c, int64_t side,
                              int64_t groups) {
    const int64_t last = -1;
    x = dr_graph_reshape(g, x, 3, (int64_t[]){0, groups, -1});
    const struct dr_val axes = dr_graph_ints(g, 1, &last);
    const struct dr_val mean = DR_NODE(g, "ReduceMean", NULL, x, axes);
    x = over_rms(g, DR_NODE(g, "Sub", NULL, x, mean), 1e-5);
    return dr_graph_reshape(g, x, 4, (int64_t[]){0, c, side, side});
}
