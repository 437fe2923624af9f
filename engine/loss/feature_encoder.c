// Features of a frozen encoder (method.md 7; paper A.5): the maps that a network of kind encoder
// puts out, and of each the vectors that the configuration turns on. See features.h.
//
//   MAP.locations   a vector per location (a), of large maps per cell of a grid
//   MAP.mean, .std  of the whole map (b), one vector each
//   MAP.quadrants   the means of the four quadrants, one vector
//   MAP.P.mean, .P.std   of the P x P patches (c, d), a vector per patch
//   image, quadrants, ..., rms   of the image itself, as in feature_pixel.c
//
// A pool that does not tile a map, or would repeat the global one, is left out for that map.
#include "engine/loss/features.h"

#include "engine/core/reals.h"
#include "engine/nn/net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct encoder {
    const struct dr_net *net;
    const real *weights;
    struct dr_map_dim image;
    int outputs[DR_NET_OUTPUTS]; // numbers of the network's outputs that are maps, in order
    int maps;
    int pixels; // number of the map that is the image, -1: none
};

// ---- which maps

static int choose_maps(struct encoder *e, const char *list, struct dr_err *err) {
    bool chosen[DR_NET_OUTPUTS];
    int rc = dr_net_choose(e->net, list, chosen, err);
    for (int i = 0; !rc && i < dr_net_outputs(e->net); i++)
        if (chosen[i])
            e->outputs[e->maps++] = i;
    return rc;
}

// ---- their features

// Side of the cells that bring a map to at most grid x grid locations, the most that divide it;
// grid 0: every location. A prime side is taken in pairs, and its last row and column alone, where
// that is few enough; else the whole map is one cell, its mean.
static int64_t cell_side(struct dr_map_dim d, int64_t grid) {
    if (!grid || d.h <= grid)
        return 1;
    for (int64_t g = grid; g > 1; g--)
        if (d.h % g == 0)
            return d.h / g;
    return d.h > 2 && d.h <= 2 * grid ? 2 : d.h;
}

static void add(struct dr_features *f, int map, enum dr_pool pool, int64_t p, const char *of,
                const char *what) {
    char name[48];
    snprintf(name, sizeof name, "%.24s.%s", of, what);
    dr_features_add(f, map, pool, p, 1, name);
}

static void add_features(const struct dr_feature_config *cfg, struct dr_features *f, int map,
                         struct dr_map_dim d, const char *of) {
    const bool all = cfg->pool == DR_FEATURE_POOL_ALL;
    const int64_t side = d.h, cell = cell_side(d, cfg->grid);
    if (all && cfg->map_locations && cell < side)
        add(f, map, DR_POOL_CELLS, cell, of, "locations");
    if (cfg->map_global)
        add(f, map, DR_POOL_CELLS, side, of, "mean");
    if (cfg->map_global && cfg->map_std && side > 1)
        add(f, map, DR_POOL_CELLS_STD, side, of, "std");
    if (all && cfg->map_quadrants && side % 2 == 0)
        add(f, map, DR_POOL_CELLS_WHOLE, side / 2, of, "quadrants");
    for (int64_t p = 2; p <= 4 && all; p += 2) {
        const bool on = p == 2 ? cfg->map_patch2 : cfg->map_patch4;
        if (!on || side % p || side <= p)
            continue;
        add(f, map, DR_POOL_CELLS, p, of, p == 2 ? "2x2.mean" : "4x4.mean");
        if (cfg->map_std)
            add(f, map, DR_POOL_CELLS_STD, p, of, p == 2 ? "2x2.std" : "4x4.std");
    }
}

static int check_net(const struct encoder *e, struct dr_err *err) {
    if (!e->net)
        return dr_fail_at(err, DR_ECONFIG, "features.encoder",
                          "features.kind encoder: there are no weights of an encoder");
    int rc = dr_net_expect(e->net, DR_NET_ENCODER, "features.encoder", err);
    const int64_t want = e->image.c * e->image.h * e->image.w;
    if (!rc && dr_net_input(e->net) != want)
        rc = dr_fail_at(err, DR_ECONFIG, "features.encoder",
                        "the encoder %s takes images of %lld values; those of this run have %lld "
                        "(%lld channels, %lldx%lld)",
                        dr_net_name(e->net), (long long)dr_net_input(e->net), (long long)want,
                        (long long)e->image.c, (long long)e->image.h, (long long)e->image.w);
    for (int i = 0; !rc && i < dr_net_outputs(e->net); i++) {
        const struct dr_net_shape s = dr_net_output(e->net, i);
        if (s.h != s.w)
            rc = dr_fail_at(err, DR_ECONFIG, "features.encoder",
                            "the map %s of the encoder is %lldx%lld; expected square maps",
                            dr_net_output_name(e->net, i), (long long)s.h, (long long)s.w);
    }
    return rc;
}

static int create(const struct dr_feature_config *cfg, struct dr_map_dim image,
                  struct dr_features *f, void **impl, struct dr_err *err) {
    const struct dr_feature_net given = dr_features_net(f);
    struct encoder *e = *impl = calloc(1, sizeof *e);
    if (!e)
        return dr_fail(err, DR_ENOMEM, "out of memory for an encoder");
    *e = (struct encoder){.net = given.net, .weights = given.weights, .image = image, .pixels = -1};
    int rc = check_net(e, err);
    if (!rc)
        rc = choose_maps(e, cfg->maps, err);
    if (rc)
        return rc;
    for (int i = 0; i < e->maps; i++) {
        const struct dr_net_shape s = dr_net_output(e->net, e->outputs[i]);
        const struct dr_map_dim d = {.c = s.c, .h = s.h, .w = s.w, .last = true};
        const int map = dr_features_add_map(f, d);
        add_features(cfg, f, map, d, dr_net_output_name(e->net, e->outputs[i]));
    }
    if (!dr_features_count(f))
        return dr_fail_at(err, DR_ECONFIG, "features.map_global",
                          "no feature of the encoder's maps is on, or none fits their sizes; set "
                          "features.map_global");
    if (cfg->pixel_weight > 0 || cfg->rms > 0)
        e->pixels = dr_features_add_map(f, image);
    return e->pixels < 0 ? 0
                         : dr_features_add_pixels(cfg, image, f, e->pixels, cfg->pixel_weight, err);
}

static void destroy(void *impl) {
    free(impl);
}

static const struct dr_params *params(const void *impl) {
    return dr_net_params(((const struct encoder *)impl)->net);
}

static int load(const void *impl, real *host, struct dr_err *err) {
    const struct encoder *e = impl;
    (void)err;
    memcpy(host, e->weights, dr_net_bytes(e->net));
    return 0;
}

static void *saved_new(const void *impl) {
    return dr_net_saved_new(((const struct encoder *)impl)->net);
}
static void saved_free(void *saved) {
    dr_net_saved_free(saved);
}

// ---- running

static int64_t image_count(const struct encoder *e, int64_t n) {
    return n * e->image.c * e->image.h * e->image.w;
}

static void extract(struct dr_ctx *cx, const void *impl, const struct dr_weights *w, const real *x,
                    int64_t n, real *const *map, void *saved) {
    const struct encoder *e = impl;
    const struct dr_net_in in = {.x = x, .b = n};
    real *y[DR_NET_OUTPUTS] = {NULL};
    for (int i = 0; i < e->maps; i++)
        y[e->outputs[i]] = map[i];
    dr_net_forward(cx, e->net, w, &in, y, saved);
    if (e->pixels >= 0)
        dr_copy_reals(cx, map[e->pixels], x, image_count(e, n));
}

static void backward(struct dr_ctx *cx, const void *impl, const struct dr_weights *w, const real *x,
                     int64_t n, real *const *dmap, void *saved, real *dx) {
    const struct encoder *e = impl;
    const struct dr_net_in in = {.x = x, .b = n};
    const real *dy[DR_NET_OUTPUTS] = {NULL};
    for (int i = 0; i < e->maps; i++)
        dy[e->outputs[i]] = dmap[i];
    dr_net_backward(cx, e->net, w, &in, saved, dy, dx);
    if (e->pixels >= 0)
        DR_OP(cx->be, axpy, .y = dx, .x = dmap[e->pixels], .n = image_count(e, n), .alpha = 1);
}

const struct dr_feature_kind dr_feature_encoder = {.name = "encoder",
                                                   .network = true,
                                                   .create = create,
                                                   .destroy = destroy,
                                                   .params = params,
                                                   .load = load,
                                                   .saved_new = saved_new,
                                                   .saved_free = saved_free,
                                                   .extract = extract,
                                                   .backward = backward};
