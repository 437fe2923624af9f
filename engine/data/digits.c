// Procedurally generated digits: a data set without files. Each glyph is a few pen strokes through
// control points, of several hands (open and closed 4, 7 with and without a bar, 2 with a loop,
// ...); points, posture and pen vary at random. A picture is a function of (seed, index, class,
// size).
#include "engine/data/data_priv.h"

#include <math.h>
#include <string.h>

// Control points in hundredths of the glyph's box, y down. The curve is smooth through a point, but
// turns at a CORNER; END closes a stroke and lifts the pen.
enum { SMOOTH, CORNER, END };
struct point {
    int8_t x, y, kind;
};
#define POINTS 24 // room of a glyph; unused ones are zero
struct glyph {
    struct point p[POINTS];
    int n;
};
#define GLYPH(...)                                                                                 \
    { .p = {__VA_ARGS__}, .n = sizeof((struct point[]){__VA_ARGS__}) / sizeof(struct point) }
#define HANDS 4

// clang-format off
static const struct glyph hands[10][HANDS] = {
    { // 0: an egg, closed or with a small overlap; tall; with the ends crossing on top
        GLYPH({54, 5, 0}, {33, 14, 0}, {22, 42, 0}, {27, 76, 0}, {48, 95, 0}, {70, 82, 0}, {78, 48, 0}, {69, 16, 0}, {52, 5, END}),
        GLYPH({50, 6, 0}, {26, 24, 0}, {21, 54, 0}, {34, 88, 0}, {56, 94, 0}, {75, 72, 0}, {77, 38, 0}, {62, 10, 0}, {44, 8, END}),
        GLYPH({62, 10, 0}, {44, 6, 0}, {28, 28, 0}, {26, 66, 0}, {42, 94, 0}, {64, 88, 0}, {74, 58, 0}, {70, 24, 0}, {54, 8, 0}, {40, 12, END}),
        GLYPH({50, 5, 0}, {34, 20, 0}, {30, 50, 0}, {36, 82, 0}, {51, 95, 0}, {66, 80, 0}, {70, 50, 0}, {65, 18, 0}, {50, 5, END}),
    },
    { // 1: a stroke; with a flag; with flag and foot; slanted
        GLYPH({50, 5, 0}, {50, 50, 0}, {49, 95, END}),
        GLYPH({35, 25, 0}, {53, 6, CORNER}, {53, 50, 0}, {52, 95, END}),
        GLYPH({35, 24, 0}, {52, 6, CORNER}, {52, 50, 0}, {52, 93, END}, {32, 94, 0}, {74, 93, END}),
        GLYPH({60, 5, 0}, {50, 48, 0}, {42, 95, END}),
    },
    { // 2: straight foot; looped foot; swan neck with wavy foot; pointed
        GLYPH({25, 25, 0}, {36, 9, 0}, {56, 6, 0}, {72, 18, 0}, {70, 38, 0}, {52, 63, 0}, {24, 93, CORNER}, {50, 92, 0}, {79, 92, END}),
        GLYPH({25, 22, 0}, {42, 6, 0}, {64, 10, 0}, {72, 30, 0}, {62, 55, 0}, {44, 80, 0}, {28, 92, 0}, {18, 86, 0}, {26, 76, 0}, {43, 82, 0}, {60, 93, 0}, {82, 86, END}),
        GLYPH({24, 30, 0}, {32, 11, 0}, {53, 5, 0}, {73, 17, 0}, {73, 37, 0}, {58, 60, 0}, {25, 92, CORNER}, {42, 86, 0}, {60, 94, 0}, {80, 86, END}),
        GLYPH({28, 14, 0}, {50, 5, 0}, {69, 15, 0}, {68, 36, 0}, {50, 64, 0}, {26, 94, CORNER}, {76, 94, END}),
    },
    { // 3: round; round with small loop; flat top; top-heavy
        GLYPH({26, 17, 0}, {42, 6, 0}, {63, 9, 0}, {71, 25, 0}, {60, 41, 0}, {42, 47, CORNER}, {63, 50, 0}, {77, 67, 0}, {68, 88, 0}, {46, 95, 0}, {24, 84, END}),
        GLYPH({25, 20, 0}, {40, 6, 0}, {62, 7, 0}, {70, 24, 0}, {58, 42, 0}, {43, 48, 0}, {47, 53, 0}, {62, 49, 0}, {76, 64, 0}, {70, 87, 0}, {47, 95, 0}, {25, 86, END}),
        GLYPH({26, 8, 0}, {50, 8, 0}, {73, 8, CORNER}, {46, 42, CORNER}, {65, 45, 0}, {77, 65, 0}, {68, 87, 0}, {46, 95, 0}, {25, 85, END}),
        GLYPH({28, 13, 0}, {48, 5, 0}, {70, 14, 0}, {70, 34, 0}, {46, 48, CORNER}, {68, 54, 0}, {74, 74, 0}, {58, 92, 0}, {26, 90, END}),
    },
    { // 4: open; closed; open with a leaning stem; closed and wide
        GLYPH({32, 8, 0}, {25, 34, 0}, {22, 57, CORNER}, {50, 57, 0}, {80, 54, END}, {65, 14, 0}, {64, 55, 0}, {62, 95, END}),
        GLYPH({60, 6, CORNER}, {40, 34, 0}, {19, 64, CORNER}, {50, 64, 0}, {82, 63, END}, {60, 6, 0}, {60, 50, 0}, {60, 95, END}),
        GLYPH({36, 6, 0}, {29, 28, 0}, {24, 50, 0}, {36, 57, 0}, {58, 54, 0}, {74, 48, END}, {70, 10, 0}, {64, 52, 0}, {56, 95, END}),
        GLYPH({64, 95, 0}, {65, 50, 0}, {66, 6, CORNER}, {44, 32, 0}, {18, 60, CORNER}, {50, 62, 0}, {84, 60, END}),
    },
    { // 5: one line; bar added last; round shoulder; small belly
        GLYPH({74, 8, 0}, {52, 8, 0}, {34, 8, CORNER}, {32, 26, 0}, {29, 46, CORNER}, {46, 38, 0}, {68, 45, 0}, {77, 65, 0}, {66, 88, 0}, {44, 95, 0}, {24, 86, END}),
        GLYPH({34, 10, 0}, {31, 28, 0}, {29, 45, CORNER}, {48, 39, 0}, {69, 47, 0}, {76, 68, 0}, {64, 89, 0}, {44, 95, 0}, {25, 87, END}, {34, 10, 0}, {55, 8, 0}, {78, 7, END}),
        GLYPH({73, 6, 0}, {50, 7, 0}, {36, 13, 0}, {31, 30, 0}, {36, 43, 0}, {56, 45, 0}, {73, 58, 0}, {72, 80, 0}, {52, 95, 0}, {25, 88, END}),
        GLYPH({76, 7, 0}, {54, 9, 0}, {36, 9, CORNER}, {34, 30, 0}, {32, 50, CORNER}, {52, 46, 0}, {70, 56, 0}, {70, 78, 0}, {52, 94, 0}, {26, 93, END}),
    },
    { // 6: curved; straight back; big belly; curled in
        GLYPH({66, 6, 0}, {45, 22, 0}, {29, 48, 0}, {26, 74, 0}, {40, 94, 0}, {62, 92, 0}, {74, 74, 0}, {66, 57, 0}, {46, 56, 0}, {29, 72, END}),
        GLYPH({58, 5, 0}, {42, 30, 0}, {29, 58, 0}, {28, 80, 0}, {44, 95, 0}, {65, 90, 0}, {73, 72, 0}, {61, 58, 0}, {42, 62, 0}, {29, 76, END}),
        GLYPH({62, 8, 0}, {40, 16, 0}, {25, 42, 0}, {23, 72, 0}, {40, 95, 0}, {66, 92, 0}, {78, 70, 0}, {66, 50, 0}, {44, 50, 0}, {25, 66, END}),
        GLYPH({52, 5, 0}, {36, 28, 0}, {26, 56, 0}, {29, 84, 0}, {48, 95, 0}, {68, 84, 0}, {69, 66, 0}, {55, 57, 0}, {41, 66, 0}, {42, 78, END}),
    },
    { // 7: plain; with a bar; with a serif; curved stem with a bar
        GLYPH({23, 10, 0}, {50, 10, 0}, {77, 9, CORNER}, {62, 42, 0}, {44, 95, END}),
        GLYPH({24, 9, 0}, {50, 9, 0}, {76, 9, CORNER}, {60, 48, 0}, {46, 95, END}, {35, 52, 0}, {56, 51, 0}, {75, 50, END}),
        GLYPH({22, 23, 0}, {24, 9, CORNER}, {50, 11, 0}, {77, 8, CORNER}, {60, 40, 0}, {50, 95, END}),
        GLYPH({24, 14, 0}, {42, 8, 0}, {60, 13, 0}, {77, 8, CORNER}, {56, 42, 0}, {45, 70, 0}, {42, 95, END}, {34, 53, 0}, {70, 50, END}),
    },
    { // 8: one line from the top; from the right; two rings; slim
        GLYPH({66, 18, 0}, {50, 5, 0}, {33, 17, 0}, {37, 37, 0}, {57, 52, 0}, {74, 73, 0}, {62, 93, 0}, {38, 93, 0}, {26, 74, 0}, {42, 54, 0}, {62, 38, 0}, {66, 18, END}),
        GLYPH({74, 13, 0}, {54, 5, 0}, {34, 14, 0}, {37, 36, 0}, {60, 52, 0}, {72, 74, 0}, {58, 94, 0}, {36, 91, 0}, {29, 72, 0}, {46, 52, 0}, {66, 34, 0}, {74, 14, END}),
        GLYPH({50, 5, 0}, {33, 15, 0}, {34, 36, 0}, {50, 46, 0}, {66, 36, 0}, {67, 15, 0}, {50, 5, END}, {50, 46, 0}, {29, 58, 0}, {27, 82, 0}, {50, 95, 0}, {73, 82, 0}, {71, 58, 0}, {50, 46, END}),
        GLYPH({62, 17, 0}, {50, 5, 0}, {37, 18, 0}, {42, 38, 0}, {57, 56, 0}, {66, 77, 0}, {50, 95, 0}, {34, 77, 0}, {44, 55, 0}, {58, 38, 0}, {62, 17, END}),
    },
    { // 9: straight stem; curved tail; hooked tail; leaning
        GLYPH({70, 20, 0}, {53, 6, 0}, {32, 15, 0}, {27, 35, 0}, {42, 49, 0}, {61, 42, 0}, {71, 20, CORNER}, {71, 55, 0}, {68, 95, END}),
        GLYPH({68, 16, 0}, {50, 6, 0}, {31, 17, 0}, {28, 38, 0}, {45, 48, 0}, {63, 38, 0}, {70, 17, CORNER}, {72, 48, 0}, {64, 76, 0}, {44, 95, END}),
        GLYPH({71, 24, 0}, {56, 6, 0}, {34, 11, 0}, {27, 33, 0}, {42, 47, 0}, {62, 40, 0}, {72, 22, CORNER}, {73, 56, 0}, {66, 86, 0}, {46, 95, 0}, {28, 85, END}),
        GLYPH({72, 10, 0}, {52, 7, 0}, {33, 22, 0}, {32, 42, 0}, {50, 46, 0}, {66, 32, 0}, {73, 9, CORNER}, {66, 50, 0}, {56, 95, END}),
    },
};
// clang-format on

struct vec {
    float x, y;
};

// What is drawn at random once per picture.
struct posture {
    float a[4], shift[2];             // glyph box (centred) to pixels
    float wave[2], phase[2];          // slow bend of the whole glyph
    float radius, press, press_phase; // pen, pixels
};

static float between(struct dr_rng *g, double lo, double hi) {
    return (float)(lo + (hi - lo) * dr_rng_uniform(g));
}

static struct posture pose(struct dr_rng *g, float size) {
    struct posture p;
    float turn = between(g, -0.21, 0.21), slant = between(g, -0.1, 0.3);
    float h = size * between(g, 0.66, 0.82), w = h * between(g, 0.72, 1.12);
    float c = cosf(turn), s = sinf(turn);
    // Scale, then slant (right for positive), then turn.
    p.a[0] = c * w, p.a[1] = -c * slant * h - s * h;
    p.a[2] = s * w, p.a[3] = -s * slant * h + c * h;
    for (int i = 0; i < 2; i++) {
        p.shift[i] = size * (0.5f + between(g, -0.045, 0.045));
        p.wave[i] = between(g, -0.035, 0.035);
        p.phase[i] = between(g, 0, 2 * M_PI);
    }
    p.radius = size * between(g, 0.030, 0.056);
    p.press = between(g, 0, 0.25);
    p.press_phase = between(g, 0, 2 * M_PI);
    return p;
}

// Control points to pixels: jitter, bend, affine.
static void place(const struct glyph *gl, const struct posture *ps, struct dr_rng *g,
                  struct vec *out) {
    for (int i = 0; i < gl->n; i++) {
        float x = 0.01f * (float)gl->p[i].x - 0.5f + between(g, -0.028, 0.028);
        float y = 0.01f * (float)gl->p[i].y - 0.5f + between(g, -0.028, 0.028);
        float bx = x + ps->wave[0] * sinf(4 * y + ps->phase[0]);
        float by = y + ps->wave[1] * sinf(4 * x + ps->phase[1]);
        out[i].x = ps->a[0] * bx + ps->a[1] * by + ps->shift[0];
        out[i].y = ps->a[2] * bx + ps->a[3] * by + ps->shift[1];
    }
}

// Shrinks and moves the strokes along axis `k` (0: x, 1: y) so that no ink is cut off by the frame.
static void keep_inside(struct vec *v, int n, int k, float margin, float size) {
    float lo = k ? v[0].y : v[0].x, hi = lo;
    for (int i = 1; i < n; i++) {
        lo = fminf(lo, k ? v[i].y : v[i].x);
        hi = fmaxf(hi, k ? v[i].y : v[i].x);
    }
    float room = fmaxf(size - 2 * margin, 0), s = fminf(room / fmaxf(hi - lo, 1e-3f), 1);
    float mid = 0.5f * (lo + hi), half = 0.5f * s * (hi - lo);
    float to = fminf(fmaxf(mid, margin + half), size - margin - half);
    for (int i = 0; i < n; i++) {
        float *x = k ? &v[i].y : &v[i].x;
        *x = to + s * (*x - mid);
    }
}

// Ink of one straight piece of a stroke, radius r: full inside, antialiased over about a pixel.
static void ink(struct vec a, struct vec b, float r, int size, uint8_t *gray) {
    const float edge = 0.65f, reach = r + edge;
    int x0 = DR_MAX((int)floorf(fminf(a.x, b.x) - reach), 0);
    int x1 = DR_MIN((int)ceilf(fmaxf(a.x, b.x) + reach), size - 1);
    int y0 = DR_MAX((int)floorf(fminf(a.y, b.y) - reach), 0);
    int y1 = DR_MIN((int)ceilf(fmaxf(a.y, b.y) + reach), size - 1);
    float dx = b.x - a.x, dy = b.y - a.y, len2 = dx * dx + dy * dy;
    float inv = len2 > 0 ? 1 / len2 : 0;
    for (int y = y0; y <= y1; y++)
        for (int x = x0; x <= x1; x++) {
            float px = (float)x + 0.5f - a.x, py = (float)y + 0.5f - a.y;
            float t = fminf(fmaxf((px * dx + py * dy) * inv, 0), 1);
            float ex = px - t * dx, ey = py - t * dy, d2 = ex * ex + ey * ey;
            if (d2 >= reach * reach)
                continue;
            float cover = fminf((reach - sqrtf(d2)) / (2 * edge), 1);
            uint8_t v = (uint8_t)(255 * cover + 0.5f), *o = &gray[(int64_t)y * size + x];
            *o = DR_MAX(*o, v);
        }
}

// Catmull-Rom between b and c with neighbours a and d.
static struct vec spline(const struct vec *a, const struct vec *b, const struct vec *c,
                         const struct vec *d, float t) {
    float t2 = t * t, t3 = t2 * t;
    float wa = -0.5f * t3 + t2 - 0.5f * t, wb = 1.5f * t3 - 2.5f * t2 + 1;
    float wc = -1.5f * t3 + 2 * t2 + 0.5f * t, wd = 0.5f * t3 - 0.5f * t2;
    return (struct vec){wa * a->x + wb * b->x + wc * c->x + wd * d->x,
                        wa * a->y + wb * b->y + wc * c->y + wd * d->y};
}

void dr_digit_draw(uint64_t seed, uint64_t index, int cls, int64_t size, uint8_t *gray) {
    enum { PIECES = 6 }; // straight pieces per span
    struct dr_rng g;
    struct vec v[POINTS];
    cls = DR_MIN(DR_MAX(cls, 0), 9);
    dr_rng_init(&g, seed, DR_STREAM_DATA, index * 16 + (uint64_t)cls);
    const struct glyph *gl = &hands[cls][dr_rng_below(&g, HANDS)];
    const struct posture ps = pose(&g, (float)size);
    place(gl, &ps, &g, v);
    for (int k = 0; k < 2; k++)
        keep_inside(v, gl->n, k, 1.4f * ps.radius + 0.5f, (float)size);
    memset(gray, 0, (size_t)(size * size));
    for (int i = 0; i + 1 < gl->n; i++) {
        if (gl->p[i].kind == END)
            continue;
        // Beyond a corner or an end the neighbour is the point itself.
        bool first = !i || gl->p[i - 1].kind == END || gl->p[i].kind == CORNER;
        bool last = gl->p[i + 1].kind != SMOOTH;
        const struct vec *a = &v[first ? i : i - 1], *d = &v[last ? i + 1 : i + 2];
        struct vec from = v[i];
        for (int k = 1; k <= PIECES; k++) {
            float t = (float)k / PIECES;
            struct vec to = spline(a, &v[i], &v[i + 1], d, t);
            float r = ps.radius * (1 + ps.press * sinf(((float)i + t) * 1.1f + ps.press_phase));
            ink(from, to, r, (int)size, gray);
            from = to;
        }
    }
}

int dr_open_digits(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    const int64_t size = q->cfg->size, n = dr_made_count(q);
    const uint64_t first = q->test ? DR_DATA_TEST_INDEX : 0, seed = (uint64_t)q->cfg->seed;
    void *values;
    d->n = n;
    d->c = 1;
    d->h = d->w = size;
    int rc = dr_dataset_alloc(d, &values, err);
    for (int k = 0; k < 10 && !rc; k++)
        rc = dr_dataset_name(d, k, (char[]){(char)('0' + k), 0}, err);
    if (rc)
        return rc;
    uint8_t *pixels = values;
    for (int64_t from = 0, to; from < n && !rc; from = to) {
        to = DR_MIN(from + dr_made_share(d), n);
#pragma omp parallel for schedule(dynamic, 64)
        for (int64_t i = from; i < to; i++) {
            d->label[i] = (int32_t)(i % 10);
            dr_digit_draw(seed, first + (uint64_t)i, d->label[i], size, pixels + i * size * size);
        }
        rc = dr_made_go_on(d, to, err);
    }
    return rc;
}
