// Builds the graph of an ONNX file: nodes, weights and constants, one call each. Private to
// engine/export.
//
// Values are named as ONNX has them. Weights have the network's parameter names (matrices of linear
// layers lie as [in,out], as MatMul takes them), nodes and their outputs are numbered. The first
// dimension of every input and output is the batch, of any size.
#pragma once

#include "engine/core/err.h"
#include "engine/io/proto.h"
#include "engine/nn/net.h"
#include "engine/nn/params.h"

struct dr_val {
    char name[112]; // "": none
};
struct dr_graph {
    const struct dr_params *ps;
    const real *w; // [ps->total]
    struct dr_proto node, init, in, out;
    int next; // number of the next node or constant
    int rc;   // the first error, with its sentence in *err; later calls do nothing of use
    struct dr_err *err;
};
void dr_graph_free(struct dr_graph *g);

// ---- inputs and outputs ----

enum dr_elem { DR_ELEM_F32 = 1, DR_ELEM_I64 = 7 }; // TensorProto.DataType
// dim[ndim]: the dimensions after the batch.
struct dr_val dr_graph_input(struct dr_graph *g, const char *name, enum dr_elem elem, int ndim,
                             const int64_t *dim, const char *doc);
void dr_graph_output(struct dr_graph *g, struct dr_val v, const char *name, int ndim,
                     const int64_t *dim, const char *doc);

// ---- nodes ----

// A node of one output. Attributes end with a NULL name; NULL: none.
struct dr_attr {
    const char *name;
    int n; // 0: `i`, 1 and more: `ints`, -1: `text`
    int64_t i, ints[6];
    const char *text;
};
struct dr_val dr_graph_node(struct dr_graph *g, const char *op, const struct dr_attr *attr,
                            const struct dr_val *in, int n);
#define DR_NODE(g, op, attr, ...)                                                                  \
    dr_graph_node(g, op, attr, (const struct dr_val[]){__VA_ARGS__},                               \
                  (int)(sizeof((const struct dr_val[]){__VA_ARGS__}) / sizeof(struct dr_val)))
#define DR_ATTRS(...) ((const struct dr_attr[]){__VA_ARGS__, {0}})

// ---- weights and constants ----

bool dr_graph_has(const struct dr_graph *g, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
// A parameter as it is. One that the network does not have is an error.
struct dr_val dr_graph_weight(struct dr_graph *g, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
struct dr_val dr_graph_reals(struct dr_graph *g, int ndim, const int64_t *dim, const float *v);
struct dr_val dr_graph_ints(struct dr_graph *g, int n, const int64_t *v); // [n]
struct dr_val dr_graph_number(struct dr_graph *g, double v);              // a scalar

// ---- what networks are made of ----

struct dr_val dr_graph_add(struct dr_graph *g, struct dr_val a, struct dr_val b);
struct dr_val dr_graph_mul(struct dr_graph *g, struct dr_val a, struct dr_val b);
struct dr_val dr_graph_silu(struct dr_graph *g, struct dr_val x);
struct dr_val dr_graph_gelu(struct dr_graph *g, struct dr_val x); // with the error function
// dim: 0 keeps the dimension of that place, -1 takes the rest.
struct dr_val dr_graph_reshape(struct dr_graph *g, struct dr_val x, int n, const int64_t *dim);
struct dr_val dr_graph_permute(struct dr_graph *g, struct dr_val x, int n, const int64_t *perm);
struct dr_val dr_graph_concat(struct dr_graph *g, struct dr_val a, struct dr_val b, int64_t axis);
// [at, at + n) of an axis.
struct dr_val dr_graph_slice(struct dr_graph *g, struct dr_val x, int64_t axis, int64_t at,
                             int64_t n);
struct dr_val dr_graph_unsqueeze(struct dr_graph *g, struct dr_val x, int64_t axis);
// Rows of a table: [rows,d] by int64 indices of any shape.
struct dr_val dr_graph_rows(struct dr_graph *g, struct dr_val table, struct dr_val index);
// x W' + b on the last axis, from NAME.weight and, where it is there, NAME.bias.
struct dr_val dr_graph_linear(struct dr_graph *g, struct dr_val x, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// x / sqrt(mean x^2 + 1e-6) times the parameter `weight`, on the last axis.
struct dr_val dr_graph_rmsnorm(struct dr_graph *g, struct dr_val x, const char *weight);
// softmax(q k' / sqrt(hd)) v of qkv [B,T,3d] in `heads` heads of hd: [B,T,d]. turn (NULL: nothing)
// is called for q and k, [B,H,T,hd].
typedef struct dr_val dr_turn(struct dr_graph *g, struct dr_val x, int which, void *ctx);
struct dr_val dr_graph_attention(struct dr_graph *g, struct dr_val qkv, int64_t d, int64_t heads,
                                 dr_turn *turn, void *ctx);
// Images are [B,C,H,W]. Padding k / 2; NAME.weight and NAME.bias.
struct dr_val dr_graph_conv(struct dr_graph *g, struct dr_val x, int64_t k, int64_t stride,
                            int64_t pad, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
// x normalised over each group of channels of [B,c,side,side], eps 1e-5; no weights.
struct dr_val dr_graph_groups(struct dr_graph *g, struct dr_val x, int64_t c, int64_t side,
                              int64_t groups);
