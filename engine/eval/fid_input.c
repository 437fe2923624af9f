// See fid_input.h.
#include "engine/eval/fid_input.h"

#include "engine/io/image.h"
#include "engine/io/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const words[] = {"clean", "legacy_pytorch", "legacy_tensorflow"};

const char *dr_fid_resize_word(enum dr_fid_resize r) {
    return words[r];
}

int dr_fid_resize_named(const char *word, enum dr_fid_resize *out, struct dr_err *err) {
    for (int i = 0; i < DR_FID_RESIZES; i++)
        if (!strcmp(word, words[i])) {
            *out = (enum dr_fid_resize)i;
            return 0;
        }
    return dr_fail_at(err, DR_EINVAL, "resize",
                      "resize is \"%.60s\"; expected clean, legacy_pytorch or legacy_tensorflow",
                      word);
}

// What an output pixel of an axis takes: (1 - part) of source pixel `low`, `part` of `high`.
struct tap {
    int64_t low, high;
    double part;
};

static struct tap tap_at(enum dr_fid_resize r, int64_t i, int64_t in, int64_t out) {
    const double scale = (double)in / (double)out;
    const double at =
        r == DR_FID_LEGACY_PYTORCH ? ((double)i + 0.5) * scale - 0.5 : (double)i * scale;
    const double source = DR_MAX(at, 0);
    struct tap t = {.low = DR_MIN((int64_t)source, in - 1)};
    t.high = DR_MIN(t.low + 1, in - 1);
    t.part = source - (double)t.low;
    return t;
}

// Bytes [h,w] of one channel to pixels [side,side] on the scale of bytes.
static void bilinear(const struct tap *ty, const struct tap *tx, const uint8_t *in, int64_t w,
                     int64_t side, float *out) {
    for (int64_t y = 0; y < side; y++) {
        const uint8_t *top = in + ty[y].low * w, *bottom = in + ty[y].high * w;
        for (int64_t x = 0; x < side; x++) {
            const int64_t l = tx[x].low, r = tx[x].high;
            const double p = top[l] + tx[x].part * (top[r] - top[l]);
            const double q = bottom[l] + tx[x].part * (bottom[r] - bottom[l]);
            *out++ = (float)(p + ty[y].part * (q - p));
        }
    }
}

struct work {
    enum dr_fid_resize r;
    int64_t c, h, w, side;
    struct tap *ty, *tx; // [side] each
};

// One image; px: [h,w] bytes, mid: [side,side].
static int image(const struct work *k, const real *x, uint8_t *px, float *mid, real *out,
                 struct dr_err *err) {
    const int64_t plane = k->side * k->side;
    for (int64_t ch = 0; ch < k->c; ch++) {
        real *to = out + ch * plane;
        dr_to_pixels(x + ch * k->h * k->w, k->h * k->w, px);
        if (k->r == DR_FID_CLEAN) {
            int rc = dr_resize_real(px, k->h, k->w, 1, k->w, DR_FILTER_BICUBIC, mid, k->side,
                                    k->side, err);
            if (rc)
                return rc;
        } else {
            bilinear(k->ty, k->tx, px, k->w, k->side, mid);
        }
        for (int64_t i = 0; i < plane; i++) {
            const float p = DR_MIN(DR_MAX(mid[i], 0), 255);
            to[i] = k->r == DR_FID_LEGACY_PYTORCH ? p / (real)127.5 - 1 : (p - 128) / 128;
        }
    }
    for (int64_t ch = k->c; ch < 3; ch++) // grey
        memcpy(out + ch * plane, out, (size_t)plane * sizeof *out);
    return 0;
}

static int images(const struct work *k, const real *x, int64_t n, int threads, real *out,
                  struct dr_err *err) {
    const int64_t in = k->c * k->h * k->w, all = 3 * k->side * k->side;
    const int64_t most = DR_MAX(DR_MIN((int64_t)threads, n), (int64_t)1);
    const int64_t plane = k->side * k->side;
    uint8_t *px = malloc((size_t)(most * k->h * k->w));
    float *mid = malloc((size_t)(most * plane) * sizeof *mid);
    int failed = 0;
    if (!px || !mid)
        failed = dr_fail(err, DR_ENOMEM, "out of memory for images of %lldx%lld", (long long)k->w,
                         (long long)k->h);
#pragma omp parallel for schedule(static) num_threads((int)most) if (most > 1)
    for (int64_t part = 0; part < most; part++) {
        struct dr_err own = {0};
        int rc = 0;
        for (int64_t i = part * n / most; i < (part + 1) * n / most && !rc && px && mid; i++)
            rc = image(k, x + i * in, px + part * k->h * k->w, mid + part * plane, out + i * all,
                       &own);
        if (rc) {
#pragma omp critical(dr_fid_input)
            {
                failed = rc;
                if (err)
                    *err = own;
            }
        }
    }
    free(px);
    free(mid);
    return failed;
}

int dr_fid_input(enum dr_fid_resize r, const real *x, int64_t n, int64_t c, int64_t h, int64_t w,
                 int64_t side, int threads, real *out, struct dr_err *err) {
    const int64_t most = (int64_t)1 << 24;
    if (c != 1 && c != 3)
        return dr_fail(err, DR_EINVAL,
                       "images of %lld channels cannot be judged by Inception; expected 1 or 3",
                       (long long)c);
    if (h < 1 || w < 1 || side < 1 || h > most || w > most || side > most)
        return dr_fail(err, DR_EINVAL, "images of %lldx%lld cannot be resized to %lldx%lld",
                       (long long)w, (long long)h, (long long)side, (long long)side);
    struct work k = {.r = r, .c = c, .h = h, .w = w, .side = side};
    k.ty = malloc((size_t)side * sizeof *k.ty);
    k.tx = malloc((size_t)side * sizeof *k.tx);
    int rc = 0;
    if (!k.ty || !k.tx)
        rc = dr_fail(err, DR_ENOMEM, "out of memory for images of %lldx%lld", (long long)side,
                     (long long)side);
    for (int64_t i = 0; i < side && !rc; i++) {
        k.ty[i] = tap_at(r, i, h, side);
        k.tx[i] = tap_at(r, i, w, side);
    }
    if (!rc)
        rc = images(&k, x, n, threads, out, err);
    free(k.ty);
    free(k.tx);
    return rc;
}

int dr_fid_prepare(void *ctx, const real *x, int64_t n, int64_t c, int64_t h, int64_t w, real *out,
                   struct dr_err *err) {
    const struct dr_fid_way *k = ctx;
    return dr_fid_input(k->resize, x, n, c, h, w, k->side, k->threads, out, err);
}
