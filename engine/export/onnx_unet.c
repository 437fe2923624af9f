// The graph of the U-Net generator. Follows nn/unet.c and nn/unet_block.c, and their parameter
// names.
#include "engine/export/onnx_priv.h"

#include <stdio.h>
#include <string.h>

enum { SKIPS = 128 }; // DR_MAX_LEVELS levels of 16 blocks and their convolutions take 102

struct map {
    struct dr_val v; // [B,c,side,side]
    int64_t c, side;
};
struct unet {
    const struct dr_model_config *m;
    struct dr_val silu_c;
    struct map skip[SKIPS];
    int n;
};

static int64_t groups_of(int64_t c) {
    int64_t g = DR_MIN((int64_t)32, DR_MAX(c / 2, (int64_t)1));
    while (c % g)
        g--;
    return g;
}

// A vector per channel, [c] or [B,c], as [c,1,1] or [B,c,1,1].
static struct dr_val channels(struct dr_graph *g, struct dr_val v, int axes) {
    const int64_t last[2] = {axes, axes + 1};
    return DR_NODE(g, "Unsqueeze", NULL, v, dr_graph_ints(g, 2, last));
}

static struct dr_val norm(struct dr_graph *g, struct map x, const char *name) {
    const struct dr_val w = channels(g, dr_graph_weight(g, "%s.weight", name), 1);
    const struct dr_val b = channels(g, dr_graph_weight(g, "%s.bias", name), 1);
    const struct dr_val n = dr_graph_groups(g, x.v, x.c, x.side, groups_of(x.c));
    return dr_graph_add(g, dr_graph_mul(g, n, w), b);
}

static struct dr_val attention(struct dr_graph *g, const struct unet *k, struct map x,
                               const char *name) {
    char full[80];
    snprintf(full, sizeof full, "%s.attn.norm", name);
    struct dr_val y = norm(g, x, full);
    y = dr_graph_reshape(g, y, 3, (int64_t[]){0, x.c, x.side * x.side});
    y = dr_graph_permute(g, y, 3, (int64_t[]){0, 2, 1});
    y = dr_graph_linear(g, y, "%s.attn.qkv", name);
    y = dr_graph_attention(g, y, x.c, k->m->heads, NULL, NULL);
    y = dr_graph_linear(g, y, "%s.attn.proj", name);
    y = dr_graph_permute(g, y, 3, (int64_t[]){0, 2, 1});
    return dr_graph_reshape(g, y, 4, (int64_t[]){0, x.c, x.side, x.side});
}

static struct map block(struct dr_graph *g, const struct unet *k, struct map x, int64_t co,
                        const char *name) {
    char full[80];
    snprintf(full, sizeof full, "%s.norm1", name);
    struct dr_val h = dr_graph_silu(g, norm(g, x, full));
    h = dr_graph_conv(g, h, 3, 1, 1, "%s.conv1", name);
    const struct dr_val scale = channels(g, dr_graph_linear(g, k->silu_c, "%s.scale", name), 2);
    const struct dr_val shift = channels(g, dr_graph_linear(g, k->silu_c, "%s.shift", name), 2);
    h = dr_graph_mul(g, dr_graph_groups(g, h, co, x.side, groups_of(co)), scale);
    h = dr_graph_silu(g, dr_graph_add(g, h, shift));
    h = dr_graph_conv(g, h, 3, 1, 1, "%s.conv2", name);
    if (x.c != co)
        x.v = dr_graph_conv(g, x.v, 1, 1, 0, "%s.skip", name);
    x = (struct map){dr_graph_add(g, h, x.v), co, x.side};
    if (dr_graph_has(g, "%s.attn.qkv.weight", name))
        x.v = dr_graph_add(g, x.v, attention(g, k, x, name));
    return x;
}

static struct map resized(struct dr_graph *g, struct map x, int64_t side) {
    const struct dr_val none = {0};
    const int64_t to[2] = {side, side};
    x.v =
        DR_NODE(g, "Resize",
                DR_ATTRS({.name = "axes", .n = 2, .ints = {2, 3}},
                         {.name = "mode", .n = -1, .text = "nearest"},
                         {.name = "nearest_mode", .n = -1, .text = "floor"},
                         {.name = "coordinate_transformation_mode", .n = -1, .text = "asymmetric"}),
                x.v, none, none, dr_graph_ints(g, 2, to));
    x.side = side;
    return x;
}

static struct map down(struct dr_graph *g, struct unet *k, struct map x,
                       int64_t side[DR_MAX_LEVELS]) {
    char name[32];
    for (int l = 0; l < k->m->nwidths; l++) {
        side[l] = x.side;
        for (int i = 0; i < (int)k->m->depth; i++) {
            snprintf(name, sizeof name, "down.%d.%d", l, i);
            k->skip[k->n++] = x = block(g, k, x, dr_model_width(k->m, l), name);
        }
        if (l + 1 == k->m->nwidths)
            continue;
        x.v = dr_graph_conv(g, x.v, 3, 2, 1, "down.%d.conv", l);
        x.side = (x.side + 1) / 2;
        k->skip[k->n++] = x;
    }
    return x;
}

static struct map up(struct dr_graph *g, struct unet *k, struct map x,
                     const int64_t side[DR_MAX_LEVELS]) {
    char name[32];
    for (int l = k->m->nwidths - 1; l >= 0; l--) {
        for (int i = 0; i <= (int)k->m->depth; i++) {
            const struct map s = k->skip[--k->n];
            snprintf(name, sizeof name, "up.%d.%d", l, i);
            x.v = dr_graph_concat(g, x.v, s.v, 1);
            x.c += s.c;
            x = block(g, k, x, dr_model_width(k->m, l), name);
        }
        if (!l)
            continue;
        x = resized(g, x, side[l - 1]);
        x.v = dr_graph_conv(g, x.v, 3, 1, 1, "up.%d.conv", l);
    }
    return x;
}

struct dr_val dr_onnx_unet(struct dr_graph *g, const struct dr_onnx_in *in) {
    const struct dr_model_config *m = in->m;
    struct unet k = {.m = m};
    int64_t side[DR_MAX_LEVELS];
    struct map x = {in->noise, m->channels, m->size};
    k.silu_c = dr_graph_silu(g, dr_onnx_cond(g, in, false));
    if (m->noise == DR_NOISE_LATENT) {
        x.v = dr_graph_linear(g, x.v, "latent_embed");
        x.v = dr_graph_reshape(g, x.v, 4, (int64_t[]){0, m->size, m->size, m->channels});
        x.v = dr_graph_permute(g, x.v, 4, (int64_t[]){0, 3, 1, 2});
    }
    x.v = dr_graph_conv(g, x.v, 3, 1, 1, "conv_in");
    x.c = dr_model_width(m, 0);
    k.skip[k.n++] = x;
    x = down(g, &k, x, side);
    x = block(g, &k, x, x.c, "mid.0");
    x = block(g, &k, x, x.c, "mid.1");
    x = up(g, &k, x, side);
    return dr_graph_conv(g, dr_graph_silu(g, norm(g, x, "norm_out")), 3, 1, 1, "conv_out");
}
