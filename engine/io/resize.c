// Antialiased resampling (see resize.h). Called when pictures are imported and before images are
// judged.
#include "engine/io/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIDE_MAX (1 << 24)
#define WEIGHTS_MAX ((int64_t)1 << 20) // of one side that are kept: 8 MiB

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

// One side of what is read: of pixels 0 to n - 1 the part from `from` (below 1) on that is `length`
// long.
struct side {
    int64_t n;
    double from, length;
};

// For each output position the first input position, how many, and the sum of their raw weights (1
// for 0, so that it divides). The weights themselves (`room` apart) are kept where they are few;
// those of a side of millions are computed again for every row.
struct taps {
    enum dr_filter filter;
    struct side side;
    double scale, wide; // of the side; of the filter
    int64_t *first, *count, room;
    double *sum, *weight;
};

static void taps_free(struct taps *t) {
    free(t->first);
    free(t->count);
    free(t->sum);
    free(t->weight);
}

// How much of pixel k lies in the part, and the middle of that.
static double covered(const struct side *s, int64_t k, double *middle) {
    const double a = DR_MAX((double)k, s->from), b = DR_MIN((double)k + 1, s->from + s->length);
    *middle = (a + b) / 2;
    return DR_MAX(b - a, 0);
}

static double raw_weight(const struct taps *t, int64_t i, int64_t k) {
    const double centre = t->side.from + ((double)i + 0.5) * t->scale;
    double middle;
    const double part = covered(&t->side, k, &middle);
    // Whole pixels: in this order of operations, which the bytes of old imports have.
    return part == 1 ? filters[t->filter].at(((double)k - centre + 0.5) / t->wide)
                     : filters[t->filter].at((middle - centre) / t->wide) * part;
}

// Of the k-th of output position i.
static double weight_of(const struct taps *t, int64_t i, int64_t k) {
    return t->weight ? t->weight[i * t->room + k] : raw_weight(t, i, t->first[i] + k) / t->sum[i];
}

static bool taps_make(struct taps *t, enum dr_filter f, const struct side *s, int64_t out) {
    const double scale = s->length / (double)out, wide = DR_MAX(scale, 1);
    const double support = filters[f].support * wide;
    *t = (struct taps){.filter = f, .side = *s, .scale = scale, .wide = wide};
    t->room = (int64_t)ceil(support) * 2 + 1;
    const bool few = t->room <= WEIGHTS_MAX / out;
    t->first = malloc((size_t)out * sizeof *t->first);
    t->count = malloc((size_t)out * sizeof *t->count);
    t->sum = malloc((size_t)out * sizeof *t->sum);
    t->weight = few ? malloc((size_t)(out * t->room) * sizeof *t->weight) : NULL;
    if (!t->first || !t->count || !t->sum || (few && !t->weight))
        return false;
    for (int64_t i = 0; i < out; i++) {
        const double centre = s->from + ((double)i + 0.5) * scale;
        const int64_t from = DR_MAX((int64_t)(centre - support + 0.5), 0);
        const int64_t to = DR_MIN((int64_t)(centre + support + 0.5), s->n);
        double sum = 0;
        for (int64_t k = from; k < to; k++)
            sum += raw_weight(t, i, k);
        t->first[i] = from;
        t->count[i] = to - from;
        t->sum[i] = sum != 0 ? sum : 1;
        for (int64_t k = from; k < to && few; k++)
            t->weight[i * t->room + k - from] = raw_weight(t, i, k) / t->sum[i];
    }
    return true;
}

// A row [w,c] of bytes to [ow,c].
static void across(const struct taps *t, const uint8_t *in, int64_t c, float *out, int64_t ow) {
    for (int64_t x = 0; x < ow; x++) {
        const uint8_t *from = in + t->first[x] * c;
        for (int64_t ch = 0; ch < c; ch++) {
            double sum = 0;
            for (int64_t k = 0; k < t->count[x]; k++)
                sum += weight_of(t, x, k) * from[k * c + ch];
            *out++ = (float)sum;
        }
    }
}

// How many output rows are under way at once, at most: their taps overlap.
static int64_t rows_at_once(const struct taps *t, int64_t oh) {
    int64_t most = 1;
    for (int64_t y = 0, done = 0; y < oh; y++) {
        while (done < y && t->first[done] + t->count[done] <= t->first[y])
            done++;
        most = DR_MAX(most, y - done + 1);
    }
    return most;
}

// The rows one after the other, each added to the output rows [oh,n] that it counts for: what is
// held is a matter of the output, however tall the picture. row: [n], sum: [most,n] of zeros.
static void down(const struct taps *tx, const struct taps *ty, const uint8_t *in, int64_t c,
                 int64_t stride, float *out, int64_t oh, int64_t ow, float *row, double *sum,
                 int64_t most) {
    const int64_t n = ow * c;
    for (int64_t y = 0, done = 0; y < ty->side.n && done < oh; y++, in += stride) {
        across(tx, in, c, row, ow);
        for (int64_t k = done; k < oh && ty->first[k] <= y; k++) {
            const double w = weight_of(ty, k, y - ty->first[k]);
            double *to = sum + k % most * n;
            for (int64_t i = 0; i < n; i++)
                to[i] += w * row[i];
        }
        for (; done < oh && ty->first[done] + ty->count[done] <= y + 1; done++) {
            double *from = sum + done % most * n;
            for (int64_t i = 0; i < n; i++)
                *out++ = (float)from[i];
            memset(from, 0, (size_t)n * sizeof *from);
        }
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
    const bool made = taps_make(&tx, filter, x, ow) && taps_make(&ty, filter, y, oh);
    const int64_t rows = made ? rows_at_once(&ty, oh) : 1;
    float *row = malloc((size_t)(ow * c) * sizeof *row);
    double *sum = made ? calloc((size_t)rows, (size_t)(ow * c) * sizeof *sum) : NULL;
    int rc = 0;
    if (row && sum)
        down(&tx, &ty, in, c, stride, out, oh, ow, row, sum, rows);
    else
        rc = dr_fail(err, DR_ENOMEM, "no memory to resize a picture of %lldx%lld", (long long)x->n,
                     (long long)y->n);
    taps_free(&tx);
    taps_free(&ty);
    free(sum);
    free(row);
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
