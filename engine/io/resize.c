// Antialiased resampling (see resize.h). Called when pictures are imported and before images are
// judged.
#include "engine/io/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIDE_MAX (1 << 24)

static double box(double x) {
    return x > -0.5 && x <= 0.5;
}
static double triangle(double x) {
    return DR_MAX(1 - fabs(x), 0);
}
static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static const struct {
    double support;
    double (*at)(double);
} filters[] = {
    [DR_FILTER_BOX] = {0.5, box},
    [DR_FILTER_TRIANGLE] = {1, triangle},
    [DR_FILTER_BICUBIC] = {2, bicubic},
};

// For each output position the first input position, how many, and their weights (`room` apart).
struct taps {
    int64_t *first, *count, room;
    double *weight;
};

static void taps_free(struct taps *t) {
    free(t->first);
    free(t->count);
    free(t->weight);
}

// One side of what is read: of pixels 0 to n - 1 the part from `from` (below 1) on that is `length`
// long.
struct side {
    int64_t n;
    double from, length;
};

// How much of pixel k lies in the part, and the middle of that.
static double covered(const struct side *s, int64_t k, double *middle) {
    const double a = DR_MAX((double)k, s->from), b = DR_MIN((double)k + 1, s->from + s->length);
    *middle = (a + b) / 2;
    return DR_MAX(b - a, 0);
}

static bool taps_make(struct taps *t, enum dr_filter f, const struct side *s, int64_t out) {
    const double scale = s->length / (double)out, wide = DR_MAX(scale, 1);
    const double support = filters[f].support * wide;
    t->room = (int64_t)ceil(support) * 2 + 1;
    t->first = malloc((size_t)out * sizeof *t->first);
    t->count = malloc((size_t)out * sizeof *t->count);
    t->weight = malloc((size_t)out * (size_t)t->room * sizeof *t->weight);
    if (!t->first || !t->count || !t->weight)
        return false;
    for (int64_t i = 0; i < out; i++) {
        const double centre = s->from + ((double)i + 0.5) * scale;
        const int64_t from = DR_MAX((int64_t)(centre - support + 0.5), 0);
        const int64_t to = DR_MIN((int64_t)(centre + support + 0.5), s->n);
        double *w = t->weight + i * t->room, sum = 0, middle;
        for (int64_t k = from; k < to; k++) {
            const double part = covered(s, k, &middle);
            // Whole pixels: in this order of operations, which the bytes of old imports have.
            w[k - from] = part == 1 ? filters[f].at(((double)k - centre + 0.5) / wide)
                                    : filters[f].at((middle - centre) / wide) * part;
            sum += w[k - from];
        }
        for (int64_t k = 0; k < to - from && sum != 0; k++)
            w[k] /= sum;
        t->first[i] = from;
        t->count[i] = to - from;
    }
    return true;
}

// Rows [h,w,c] of bytes to [h,ow,c].
static void across(const struct taps *t, const uint8_t *in, int64_t h, int64_t c, int64_t stride,
                   float *out, int64_t ow) {
    for (int64_t y = 0; y < h; y++, in += stride)
        for (int64_t x = 0; x < ow; x++) {
            const double *w = t->weight + x * t->room;
            const uint8_t *from = in + t->first[x] * c;
            for (int64_t ch = 0; ch < c; ch++) {
                double sum = 0;
                for (int64_t k = 0; k < t->count[x]; k++)
                    sum += w[k] * from[k * c + ch];
                *out++ = (float)sum;
            }
        }
}

// Columns [h,n] to [oh,n].
static void down(const struct taps *t, const float *in, int64_t n, float *out, int64_t oh,
                 double *sum) {
    for (int64_t y = 0; y < oh; y++) {
        const double *w = t->weight + y * t->room;
        memset(sum, 0, (size_t)n * sizeof *sum);
        for (int64_t k = 0; k < t->count[y]; k++) {
            const float *from = in + (t->first[y] + k) * n;
            for (int64_t i = 0; i < n; i++)
                sum[i] += w[k] * from[i];
        }
        for (int64_t i = 0; i < n; i++)
            *out++ = (float)sum[i];
    }
}

// x and y: the part to read, `in` being at pixel 0 of both.
static int resize(const uint8_t *in, const struct side *y, const struct side *x, int64_t c,
                  int64_t stride, enum dr_filter filter, float *out, int64_t oh, int64_t ow,
                  struct dr_err *err) {
    const int64_t least = DR_MIN(DR_MIN(y->n, x->n), DR_MIN(oh, ow));
    const int64_t most = DR_MAX(DR_MAX(y->n, x->n), DR_MAX(oh, ow));
    if (least < 1 || most > SIDE_MAX || c < 1 || c > 4)
        return dr_fail(err, DR_EINVAL, "pictures of %lldx%lld cannot be resized to %lldx%lld",
                       (long long)x->n, (long long)y->n, (long long)ow, (long long)oh);
    struct taps tx = {0}, ty = {0};
    float *mid = malloc((size_t)(y->n * ow * c) * sizeof *mid);
    double *sum = malloc((size_t)(ow * c) * sizeof *sum);
    int rc = 0;
    if (!mid || !sum || !taps_make(&tx, filter, x, ow) || !taps_make(&ty, filter, y, oh)) {
        rc = dr_fail(err, DR_ENOMEM, "no memory to resize a picture of %lldx%lld", (long long)x->n,
                     (long long)y->n);
    } else {
        across(&tx, in, y->n, c, stride, mid, ow);
        down(&ty, mid, ow * c, out, oh, sum);
    }
    taps_free(&tx);
    taps_free(&ty);
    free(sum);
    free(mid);
    return rc;
}

int dr_resize_real(const uint8_t *in, int64_t h, int64_t w, int64_t c, int64_t stride,
                   enum dr_filter filter, float *out, int64_t oh, int64_t ow, struct dr_err *err) {
    const struct side y = {h, 0, (double)h}, x = {w, 0, (double)w};
    return resize(in, &y, &x, c, stride, filter, out, oh, ow, err);
}

int dr_resize_u8(const uint8_t *in, int64_t h, int64_t w, int64_t c, int64_t stride,
                 enum dr_filter filter, uint8_t *out, int64_t oh, int64_t ow, struct dr_err *err) {
    const struct dr_box all = {0, 0, (double)w, (double)h};
    return dr_resize_box_u8(in, h, w, c, stride, filter, &all, out, oh, ow, err);
}

// The pixels of 0 to n - 1 in which the part lies, the first of them, and the part in them.
static struct side side_of(double from, double length, int64_t n, int64_t *first) {
    *first = DR_MIN(DR_MAX((int64_t)from, 0), n);
    const int64_t end = DR_MIN((int64_t)ceil(from + length), n);
    return (struct side){DR_MAX(end - *first, 0), from - (double)*first, length};
}

int dr_resize_box_u8(const uint8_t *in, int64_t h, int64_t w, int64_t c, int64_t stride,
                     enum dr_filter filter, const struct dr_box *box, uint8_t *out, int64_t oh,
                     int64_t ow, struct dr_err *err) {
    int64_t top, left;
    const struct side y = side_of(box->y, box->h, h, &top), x = side_of(box->x, box->w, w, &left);
    in += top * stride + left * c;
    if (y.from == 0 && x.from == 0 && box->h == (double)oh && box->w == (double)ow) {
        for (int64_t i = 0; i < oh; i++)
            memcpy(out + i * ow * c, in + i * stride, (size_t)(ow * c));
        return 0;
    }
    const int64_t n = oh * ow * c;
    float *f = malloc((size_t)DR_MAX(n, 1) * sizeof *f);
    if (!f)
        return dr_fail(err, DR_ENOMEM, "no memory to resize a picture");
    int rc = resize(in, &y, &x, c, stride, filter, f, oh, ow, err);
    for (int64_t i = 0; i < n && !rc; i++)
        out[i] = (uint8_t)(DR_MIN(DR_MAX(f[i], 0), 255) + 0.5f);
    free(f);
    return rc;
}
