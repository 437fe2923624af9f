// The graphs of the transformers and of the toys' network, and the condition that all generators
// share. Follows nn/dit.c, nn/block.c, nn/head.c, nn/cond.c and nn/mlp.c, and their parameter
// names.
#include "engine/export/onnx_priv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FOURIER = 256 }; // features of the guidance scale

// ---- the condition ----

static struct dr_val alpha_embedding(struct dr_graph *g, const struct dr_onnx_in *in, bool light) {
    float f[FOURIER / 2];
    for (int i = 0; i < FOURIER / 2; i++)
        f[i] = (float)pow(light ? 10000 : 10, -(double)i / (FOURIER / 2));
    const struct dr_val freq = dr_graph_reals(g, 1, (int64_t[]){FOURIER / 2}, f);
    const struct dr_val angle = dr_graph_mul(g, dr_graph_unsqueeze(g, in->alpha, 1), freq);
    struct dr_val a =
        dr_graph_concat(g, DR_NODE(g, "Cos", NULL, angle), DR_NODE(g, "Sin", NULL, angle), 1);
    a = dr_graph_silu(g, dr_graph_linear(g, a, "alpha_embed.mlp.0"));
    a = dr_graph_linear(g, a, "alpha_embed.mlp.2");
    if (!light)
        return a;
    return dr_graph_mul(g, dr_graph_rmsnorm(g, a, "alpha_embed.norm.weight"),
                        dr_graph_number(g, 0.02));
}

static struct dr_val style_embedding(struct dr_graph *g, const struct dr_onnx_in *in, bool light) {
    const int64_t n = in->m->style_tokens, axis = 1;
    struct dr_val sum = {0};
    for (int64_t i = 0; light && i < n; i++) { // a table each
        struct dr_val one = dr_graph_slice(g, in->style, 1, i, 1);
        one = dr_graph_reshape(g, one, 1, (int64_t[]){-1});
        one = dr_graph_rows(g, dr_graph_weight(g, "style_embed.%d.weight", (int)i), one);
        sum = i ? dr_graph_add(g, sum, one) : one;
    }
    if (light)
        return sum;
    sum = dr_graph_rows(g, dr_graph_weight(g, "style_embed.codebook.weight"), in->style);
    return DR_NODE(g, "ReduceSum", DR_ATTRS({.name = "keepdims", .i = 0}), sum,
                   dr_graph_ints(g, 1, &axis));
}

struct dr_val dr_onnx_cond(struct dr_graph *g, const struct dr_onnx_in *in, bool light) {
    const char *table = light ? "label_embed.weight" : "label_embed.embedding_table.weight";
    struct dr_val c = dr_graph_rows(g, dr_graph_weight(g, "%s", table), in->cls);
    c = dr_graph_add(g, c, alpha_embedding(g, in, light));
    if (in->m->style_tokens)
        c = dr_graph_add(g, c, style_embedding(g, in, light));
    if (dr_graph_has(g, "latent_cond.weight"))
        c = dr_graph_add(g, c, dr_graph_linear(g, in->noise, "latent_cond"));
    return c;
}

struct dr_val dr_onnx_mlp(struct dr_graph *g, const struct dr_onnx_in *in) {
    struct dr_val h = dr_onnx_cond(g, in, false);
    for (int i = 0; i + 1 < (int)in->m->depth; i++)
        h = dr_graph_linear(g, dr_graph_silu(g, h), "hidden.%d", i);
    return dr_graph_linear(g, dr_graph_silu(g, h), "out");
}

// ---- tokens ----

struct dit {
    const struct dr_model_config *m;
    int64_t side, tokens; // patches per side
    bool light;
    struct dr_val cos, sin; // [T,hd/2] with rope
    int block;              // whose q and k `turn` norms
};

static struct dr_val patch_tokens(struct dr_graph *g, const struct dr_onnx_in *in,
                                  const struct dit *k) {
    const struct dr_model_config *m = k->m;
    struct dr_val x = in->noise;
    if (m->noise == DR_NOISE_LATENT)
        return dr_graph_reshape(g, dr_graph_linear(g, x, "latent_embed"), 3,
                                (int64_t[]){0, k->side * k->side, m->dim});
    if (!k->light) { // a convolution whose windows do not meet
        x = dr_graph_conv(g, x, m->patch, m->patch, 0, "patch_embed.proj");
        x = dr_graph_reshape(g, x, 3, (int64_t[]){0, m->dim, -1});
        return dr_graph_permute(g, x, 3, (int64_t[]){0, 2, 1});
    }
    x = dr_graph_reshape(g, x, 6,
                         (int64_t[]){0, m->channels, k->side, m->patch, k->side, m->patch});
    x = dr_graph_permute(g, x, 6, (int64_t[]){0, 2, 4, 3, 5, 1});
    x = dr_graph_reshape(g, x, 3,
                         (int64_t[]){0, k->side * k->side, m->patch * m->patch * m->channels});
    return dr_graph_linear(g, x, "patch_embed");
}

// The registers of every sample: [B,R,dim].
static struct dr_val registers(struct dr_graph *g, const struct dr_onnx_in *in, const struct dit *k,
                               struct dr_val c) {
    if (k->light)
        return dr_graph_add(g, dr_graph_weight(g, "cls_embed"),
                            dr_graph_unsqueeze(g, dr_graph_linear(g, c, "cls_proj"), 1));
    const struct dr_val batch = DR_NODE(g, "Shape", NULL, in->cls);
    const struct dr_val shape =
        dr_graph_concat(g, batch, dr_graph_ints(g, 2, (int64_t[]){1, 1}), 0);
    return DR_NODE(g, "Expand", NULL, dr_graph_weight(g, "register_tokens"), shape);
}

static int rope_tables(struct dr_graph *g, struct dit *k) {
    const int64_t half = k->m->dim / k->m->heads / 2, n = k->tokens * half;
    float *v = malloc(2 * (size_t)n * sizeof *v);
    if (!v)
        return dr_fail(g->err, DR_ENOMEM, "out of memory for position tables");
    for (int64_t i = 0; i < n; i++) {
        const double angle = (double)(i / half) * pow(10000, -(double)(i % half) / (double)half);
        v[i] = (float)cos(angle);
        v[n + i] = (float)sin(angle);
    }
    k->cos = dr_graph_reals(g, 2, (int64_t[]){k->tokens, half}, v);
    k->sin = dr_graph_reals(g, 2, (int64_t[]){k->tokens, half}, v + n);
    free(v);
    return 0;
}

// q or k of a head: the norm, then the rotation of the halves of its vector.
static struct dr_val turn(struct dr_graph *g, struct dr_val x, int which, void *ctx) {
    const struct dit *k = ctx;
    const int64_t half = k->m->dim / k->m->heads / 2;
    char name[64];
    snprintf(name, sizeof name, "blocks.%d.attn.%c_norm.weight", k->block, which ? 'k' : 'q');
    if (k->m->qk_norm)
        x = dr_graph_rmsnorm(g, x, name);
    if (!k->m->rope)
        return x;
    const struct dr_val a = dr_graph_slice(g, x, 3, 0, half);
    const struct dr_val b = dr_graph_slice(g, x, 3, half, half);
    const struct dr_val first =
        DR_NODE(g, "Sub", NULL, dr_graph_mul(g, a, k->cos), dr_graph_mul(g, b, k->sin));
    const struct dr_val second =
        dr_graph_add(g, dr_graph_mul(g, b, k->cos), dr_graph_mul(g, a, k->sin));
    return dr_graph_concat(g, first, second, 3);
}

// ---- blocks and head ----

// norm(x) (1 + scale) + shift, with vectors i and i + 1 of mods [B,1,n d].
static struct dr_val modulated(struct dr_graph *g, struct dr_val x, const char *norm,
                               struct dr_val mods, int64_t i, int64_t d) {
    const struct dr_val shift = dr_graph_slice(g, mods, 2, i * d, d);
    const struct dr_val scale =
        dr_graph_add(g, dr_graph_slice(g, mods, 2, (i + 1) * d, d), dr_graph_number(g, 1));
    return dr_graph_add(g, dr_graph_mul(g, dr_graph_rmsnorm(g, x, norm), scale), shift);
}

static struct dr_val feed_forward(struct dr_graph *g, struct dr_val x, const struct dit *k) {
    const int i = k->block;
    if (k->m->mlp == DR_MLP_GELU) {
        x = dr_graph_gelu(g, dr_graph_linear(g, x, "blocks.%d.mlp.fc1", i));
        return dr_graph_linear(g, x, "blocks.%d.mlp.fc2", i);
    }
    const struct dr_val gate = dr_graph_silu(g, dr_graph_linear(g, x, "blocks.%d.mlp.w1", i));
    x = dr_graph_mul(g, gate, dr_graph_linear(g, x, "blocks.%d.mlp.w3", i));
    return dr_graph_linear(g, x, "blocks.%d.mlp.w2", i);
}

static struct dr_val block(struct dr_graph *g, struct dr_val x, struct dr_val silu_c,
                           struct dit *k) {
    const int64_t d = k->m->dim;
    char norm[2][64];
    for (int i = 0; i < 2; i++)
        snprintf(norm[i], sizeof norm[i], "blocks.%d.norm%d.weight", k->block, i + 1);
    struct dr_val mods = dr_graph_linear(g, silu_c, "blocks.%d.adaLN_modulation.1", k->block);
    mods = dr_graph_unsqueeze(g, mods, 1);
    struct dr_val y = modulated(g, x, norm[0], mods, 0, d);
    y = dr_graph_linear(g, y, "blocks.%d.attn.qkv", k->block);
    y = dr_graph_attention(g, y, d, k->m->heads, turn, k);
    y = dr_graph_linear(g, y, "blocks.%d.attn.proj", k->block);
    x = dr_graph_add(g, x, dr_graph_mul(g, dr_graph_slice(g, mods, 2, 2 * d, d), y));
    y = feed_forward(g, modulated(g, x, norm[1], mods, 3, d), k);
    return dr_graph_add(g, x, dr_graph_mul(g, dr_graph_slice(g, mods, 2, 5 * d, d), y));
}

static struct dr_val head(struct dr_graph *g, struct dr_val x, struct dr_val silu_c,
                          const struct dit *k) {
    const struct dr_model_config *m = k->m;
    if (m->registers)
        x = dr_graph_slice(g, x, 1, m->registers, k->side * k->side);
    const struct dr_val mods =
        dr_graph_unsqueeze(g, dr_graph_linear(g, silu_c, "final_layer.adaLN_modulation.1"), 1);
    x = modulated(g, x, "final_layer.norm.weight", mods, 0, m->dim);
    x = dr_graph_linear(g, x, "final_layer.linear");
    x = dr_graph_reshape(g, x, 6,
                         (int64_t[]){0, k->side, k->side, m->patch, m->patch, m->channels});
    x = dr_graph_permute(g, x, 6, (int64_t[]){0, 5, 1, 3, 2, 4});
    x = dr_graph_reshape(g, x, 4, (int64_t[]){0, m->channels, m->size, m->size});
    if (m->head != DR_HEAD_CONV)
        return x;
    struct dr_val r = dr_graph_silu(g, dr_graph_conv(g, x, 3, 1, 1, "head.conv1"));
    return dr_graph_add(g, x, dr_graph_conv(g, r, 3, 1, 1, "head.conv2"));
}

struct dr_val dr_onnx_dit(struct dr_graph *g, const struct dr_onnx_in *in) {
    const struct dr_model_config *m = in->m;
    struct dit k = {
        .m = m, .side = m->size / m->patch, .light = !strcmp(dr_net_name(in->net), "lightningdit")};
    k.tokens = k.side * k.side + m->registers;
    if (m->rope && rope_tables(g, &k)) {
        g->rc = DR_ENOMEM;
        return (struct dr_val){0};
    }
    const struct dr_val c = dr_onnx_cond(g, in, k.light), silu_c = dr_graph_silu(g, c);
    struct dr_val x = patch_tokens(g, in, &k);
    if (dr_graph_has(g, "pos_embed"))
        x = dr_graph_add(g, x, dr_graph_weight(g, "pos_embed"));
    if (m->registers)
        x = dr_graph_concat(g, registers(g, in, &k, c), x, 1);
    for (k.block = 0; k.block < (int)m->depth; k.block++)
        x = block(g, x, silu_c, &k);
    return head(g, x, silu_c, &k);
}
