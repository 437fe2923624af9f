// Procedurally generated coloured shapes and textures: a data set of rgb images without files.
// Eight classes; colours, place, size, turn and background vary at random and say nothing of the
// class. A picture is a function of (seed, index, class, size), drawn from signed distances, so
// that its edges are smooth at any size.
#include "engine/data/data_priv.h"

#include <math.h>

enum shape { DISC, RING, SQUARE, TRIANGLE, CROSS, STRIPES, CHECKS, DOTS, SHAPES };
static const char *const names[SHAPES] = {"disc",  "ring",    "square", "triangle",
                                          "cross", "stripes", "checks", "dots"};

struct look {
    float x, y, r;                    // centre and radius, in picture widths
    float cos, sin;                   // turn
    float fore[3], back[3], shade[3]; // rgb in 0..1; shade: of the background's far corner
};

static float between(struct dr_rng *g, float lo, float hi) {
    return lo + (hi - lo) * (float)dr_rng_uniform(g);
}

// Hue in 0..1 to rgb of one lightness and saturation.
static void colour(float hue, float saturation, float light, float rgb[3]) {
    for (int k = 0; k < 3; k++) {
        const float h = fmodf(hue * 6 + 2 * (float)(3 - k), 6);
        const float pure = fminf(fmaxf(fabsf(h - 3) - 1, 0), 1);
        rgb[k] = fminf(light * (1 - saturation + saturation * pure), 1);
    }
}

static struct look draw_look(struct dr_rng *g, enum shape s) {
    struct look l;
    const float turn = between(g, 0, 6.2831853f), hue = between(g, 0, 1);
    const bool texture = s >= STRIPES, light = dr_rng_below(g, 2);
    l.r = texture ? between(g, 0.3f, 0.48f) : between(g, 0.22f, 0.38f);
    l.x = between(g, l.r, 1 - l.r);
    l.y = between(g, l.r, 1 - l.r);
    l.cos = cosf(turn);
    l.sin = sinf(turn);
    colour(hue, between(g, 0.5f, 1), light ? 1 : 0.75f, l.fore);
    // The background's hue is far from the shape's, its lightness on the other side.
    const float other = hue + between(g, 0.3f, 0.7f), dim = light ? 0.45f : 1;
    colour(other, between(g, 0.1f, 0.5f), dim, l.back);
    colour(other + between(g, -0.08f, 0.08f), between(g, 0.1f, 0.6f), dim * 0.7f, l.shade);
    return l;
}

// Distance from a band of half width b around every multiple of 2 * step: a wave of stripes.
static float bands(float x, float step) {
    const float at = fmodf(fabsf(x), 2 * step);
    return fabsf(at - step) - step / 2;
}

// Signed distance to the shape of radius 1 around the origin, negative inside; for textures within
// a disc.
static float distance(enum shape s, float x, float y) {
    const float r = sqrtf(x * x + y * y), ax = fabsf(x), ay = fabsf(y);
    switch (s) {
    case DISC:
        return r - 0.95f;
    case RING:
        return fabsf(r - 0.7f) - 0.22f;
    case SQUARE:
        return fmaxf(ax, ay) - 0.8f;
    case TRIANGLE:
        return fmaxf(0.8660254f * ax + 0.5f * y, -y) - 0.5f;
    case CROSS:
        return fmaxf(fminf(ax, ay) - 0.26f, fmaxf(ax, ay) - 0.95f);
    case STRIPES:
        return fmaxf(bands(x, 0.3f), r - 1);
    case CHECKS: {
        const float a = bands(x, 0.4f), b = bands(y, 0.4f);
        return fmaxf(fmaxf(fminf(a, b), -fmaxf(a, b)), r - 1); // one of the two, not both
    }
    default: { // DOTS
        const float u = x - 0.5f * roundf(x / 0.5f), v = y - 0.5f * roundf(y / 0.5f);
        return fmaxf(sqrtf(u * u + v * v) - 0.16f, r - 1);
    }
    }
}

static uint8_t byte(float v) {
    return (uint8_t)(fminf(fmaxf(v, 0), 1) * 255 + 0.5f);
}

// Planes [3,size,size].
static void draw(uint64_t seed, uint64_t index, enum shape s, int64_t size, uint8_t *out) {
    struct dr_rng g;
    dr_rng_init(&g, seed, DR_STREAM_DATA, index);
    const struct look l = draw_look(&g, s);
    const float one = 1 / (float)size;
    for (int64_t i = 0; i < size; i++)
        for (int64_t j = 0; j < size; j++) {
            const float px = ((float)j + 0.5f) * one, py = ((float)i + 0.5f) * one;
            const float dx = (px - l.x) / l.r, dy = (py - l.y) / l.r;
            const float d = distance(s, l.cos * dx + l.sin * dy, l.cos * dy - l.sin * dx);
            const float cover = fminf(fmaxf(0.5f - d * l.r / one, 0), 1); // of this pixel
            const float far = (px + py) / 2;
            for (int64_t k = 0; k < 3; k++) {
                const float back = l.back[k] + (l.shade[k] - l.back[k]) * far;
                out[(k * size + i) * size + j] = byte(back + (l.fore[k] - back) * cover);
            }
        }
}

int dr_open_shapes(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    const int64_t size = q->cfg->size, n = dr_made_count(q);
    const uint64_t first = q->test ? DR_DATA_TEST_INDEX : 0, seed = (uint64_t)q->cfg->seed;
    void *values;
    d->n = n;
    d->c = 3;
    d->h = d->w = size;
    int rc = dr_dataset_alloc(d, &values, err);
    for (int k = 0; k < SHAPES && !rc; k++)
        rc = dr_dataset_name(d, k, names[k], err);
    if (rc)
        return rc;
    uint8_t *pixels = values;
    for (int64_t from = 0, to; from < n && !rc; from = to) {
        to = DR_MIN(from + dr_made_share(d), n);
#pragma omp parallel for schedule(dynamic, 64)
        for (int64_t i = from; i < to; i++) {
            d->label[i] = (int32_t)(i % SHAPES);
            draw(seed, first + (uint64_t)i, (enum shape)(i % SHAPES), size,
                 pixels + i * 3 * size * size);
        }
        rc = dr_made_go_on(d, to, err);
    }
    return rc;
}
