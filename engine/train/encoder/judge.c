// See judge.h. The probe's normal equations are solved by Cholesky in double.
#include "engine/train/encoder/judge.h"

#include "engine/nn/params.h"
#include "engine/train/encoder/mask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 64 };
#define RIDGE 1e-2 // over the variance of a feature, which is 1

struct dr_judge {
    const struct dr_dataset *train, *test;
    struct dr_encode *run;
    int64_t image;
    real *x; // [PIECE, image]
    bool (*go_on)(void *ctx);
    void *ctx;
};

int dr_judge_create(struct dr_backend *be, int precision, const struct dr_dataset *train,
                    const struct dr_dataset *test, struct dr_judge **out, struct dr_err *err) {
    *out = NULL;
    if (train->c != test->c || train->h != test->h || train->w != test->w ||
        train->classes != test->classes)
        return dr_fail(err, DR_EINVAL,
                       "the test split of %s has images of another shape or other classes than "
                       "the training split",
                       train->name);
    struct dr_judge *j = calloc(1, sizeof *j);
    if (!j)
        return dr_fail(err, DR_ENOMEM, "out of memory for a judge");
    *j = (struct dr_judge){.train = train, .test = test, .image = test->c * test->h * test->w};
    j->x = malloc((size_t)(PIECE * j->image) * sizeof *j->x);
    int rc = j->x ? dr_encode_create(be, precision, PIECE, &j->run, err)
                  : dr_fail(err, DR_ENOMEM, "out of memory for a judge");
    if (rc)
        dr_judge_free(j);
    else
        *out = j;
    return rc;
}

void dr_judge_free(struct dr_judge *j) {
    if (!j)
        return;
    dr_encode_free(j->run);
    free(j->x);
    free(j);
}

void dr_judge_watch(struct dr_judge *j, bool (*go_on)(void *ctx), void *ctx) {
    j->go_on = go_on;
    j->ctx = ctx;
}

// Image number i of `count` that are evenly spaced over the set.
static int64_t spaced(const struct dr_dataset *d, int64_t count, int64_t i) {
    return (int64_t)((double)i * ((double)d->n / (double)count));
}

static int64_t how_many(const struct dr_dataset *d, int64_t count) {
    return count > 0 && count < d->n ? count : d->n;
}

// Reads the next images, at most PIECE, into j->x and their labels.
static int64_t next(struct dr_judge *j, const struct dr_dataset *d, int64_t count, int64_t at,
                    int32_t label[PIECE], int *rc, struct dr_err *err) {
    const int64_t n = DR_MIN((int64_t)PIECE, count - at);
    int64_t ids[PIECE];
    for (int64_t i = 0; i < n; i++) {
        ids[i] = spaced(d, count, at + i);
        label[i] = d->label[ids[i]];
    }
    *rc = !j->go_on || j->go_on(j->ctx)
              ? dr_dataset_reals(d, ids, n, j->x, err)
              : dr_fail(err, DR_ECANCELED, "stopped while an encoder was being measured");
    return n;
}

static int64_t greatest(const real *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

static int find_output(const struct dr_net *net, const char *name, int *i, struct dr_err *err) {
    *i = dr_net_output_find(net, name);
    if (*i >= 0)
        return 0;
    return dr_fail(err, DR_EINVAL, "the %s \"%s\" has no output \"%s\"",
                   dr_net_kind_word(dr_net_kind(net)), dr_net_name(net), name);
}

int dr_judge_accuracy(struct dr_judge *j, struct dr_snapshot *s, int64_t count, double *out,
                      struct dr_err *err) {
    const int64_t n = how_many(j->test, count), classes = j->test->classes;
    int64_t right = 0;
    int32_t label[PIECE];
    int at, rc = find_output(s->net, "logits", &at, err);
    real *logits = malloc((size_t)(PIECE * classes) * sizeof *logits), *y[DR_NET_OUTPUTS] = {0};
    if (!rc && !logits)
        rc = dr_fail(err, DR_ENOMEM, "out of memory for logits");
    for (int64_t i = 0; i < n && !rc; i += PIECE) {
        const int64_t b = next(j, j->test, n, i, label, &rc, err);
        y[at] = logits;
        if (!rc)
            rc = dr_encode_run(j->run, s, j->x, b, y, err);
        for (int64_t k = 0; k < b && !rc; k++)
            right += greatest(logits + k * classes, classes) == label[k];
    }
    free(logits);
    if (!rc)
        *out = (double)right / (double)n;
    return rc;
}

// ---- the linear probe

struct probe {
    struct dr_judge *j;
    struct dr_snapshot *encoder; // the bare encoder of the snapshot that is judged
    int map;                     // its last output
    struct dr_net_shape shape;
    int64_t f, classes; // features with a constant, classes
    real *maps;         // [PIECE, h,w,c]
    double *row;        // [PIECE, f]
    double *mean, *inv; // [f] standardisation
    double *a, *b;      // [f,f] and [f,classes] of the normal equations; b is the solution
};

// The bare encoder with the snapshot's weights.
static int encoder_of(struct dr_snapshot *s, struct dr_snapshot **out, struct dr_err *err) {
    struct dr_net *net;
    int rc = dr_net_encoder(s->net, 0, &net, err);
    if (rc)
        return rc;
    real *w = malloc(DR_MAX(dr_net_bytes(net), (size_t)1));
    rc = w ? dr_params_copy_named(dr_net_params(net), w, dr_net_params(s->net), s->weights, err)
           : dr_fail(err, DR_ENOMEM, "out of memory for an encoder");
    if (rc) {
        dr_net_free(net);
        free(w);
        return rc;
    }
    *out = dr_snapshot_new(net, w, s->step);
    return *out ? 0 : dr_fail(err, DR_ENOMEM, "out of memory for an encoder");
}

// Features of the next images: channel means of the last map, standardised, and a constant.
static int64_t features(struct probe *p, const struct dr_dataset *d, int64_t count, int64_t at,
                        int32_t label[PIECE], int *rc, struct dr_err *err) {
    const int64_t n = next(p->j, d, count, at, label, rc, err), c = p->f - 1,
                  places = p->shape.h * p->shape.w;
    real *y[DR_NET_OUTPUTS] = {0};
    y[p->map] = p->maps;
    if (!*rc)
        *rc = dr_encode_run(p->j->run, p->encoder, p->j->x, n, y, err);
    memset(p->row, 0, (size_t)(PIECE * p->f) * sizeof *p->row);
    for (int64_t i = 0; i < n && !*rc; i++) {
        double *row = p->row + i * p->f;
        for (int64_t place = 0; place < places; place++)
            for (int64_t k = 0; k < c; k++)
                row[k] += (double)p->maps[(i * places + place) * c + k] / (double)places;
        for (int64_t k = 0; k < c; k++)
            row[k] = (row[k] - p->mean[k]) * p->inv[k];
        row[c] = 1;
    }
    return n;
}

static int standardise(struct probe *p, int64_t count, struct dr_err *err) {
    const int64_t c = p->f - 1;
    int32_t label[PIECE];
    double *sum = p->a, *square = p->a + p->f; // not needed yet
    int rc = 0;
    for (int64_t k = 0; k < c; k++)
        p->inv[k] = 1;
    for (int64_t i = 0; i < count && !rc; i += PIECE) {
        const int64_t n = features(p, p->j->train, count, i, label, &rc, err);
        for (int64_t r = 0; r < n && !rc; r++)
            for (int64_t k = 0; k < c; k++) {
                sum[k] += p->row[r * p->f + k];
                square[k] += p->row[r * p->f + k] * p->row[r * p->f + k];
            }
    }
    for (int64_t k = 0; k < c; k++) {
        p->mean[k] = sum[k] / (double)count;
        p->inv[k] = 1 / sqrt(fmax(square[k] / (double)count - p->mean[k] * p->mean[k], 1e-12));
        sum[k] = square[k] = 0;
    }
    return rc;
}

static int gather(struct probe *p, int64_t count, struct dr_err *err) {
    const int64_t f = p->f;
    int32_t label[PIECE];
    int rc = 0;
    for (int64_t i = 0; i < count && !rc; i += PIECE) {
        const int64_t n = features(p, p->j->train, count, i, label, &rc, err);
        for (int64_t r = 0; r < n && !rc; r++) {
            const double *row = p->row + r * f;
            for (int64_t k = 0; k < f; k++) {
                for (int64_t l = 0; l <= k; l++)
                    p->a[k * f + l] += row[k] * row[l];
                p->b[k * p->classes + label[r]] += row[k];
            }
        }
    }
    for (int64_t k = 0; k < f; k++)
        p->a[k * f + k] += RIDGE * (double)count;
    return rc;
}

// a = L L' in place, then L L' x = b in place of b.
static void solve(struct probe *p) {
    const int64_t f = p->f, m = p->classes;
    for (int64_t i = 0; i < f; i++)
        for (int64_t k = 0; k <= i; k++) {
            double s = p->a[i * f + k];
            for (int64_t l = 0; l < k; l++)
                s -= p->a[i * f + l] * p->a[k * f + l];
            p->a[i * f + k] = i == k ? sqrt(fmax(s, 1e-12)) : s / p->a[k * f + k];
        }
    for (int64_t i = 0; i < f; i++)
        for (int64_t c = 0; c < m; c++) {
            double s = p->b[i * m + c];
            for (int64_t l = 0; l < i; l++)
                s -= p->a[i * f + l] * p->b[l * m + c];
            p->b[i * m + c] = s / p->a[i * f + i];
        }
    for (int64_t i = f - 1; i >= 0; i--)
        for (int64_t c = 0; c < m; c++) {
            double s = p->b[i * m + c];
            for (int64_t l = i + 1; l < f; l++)
                s -= p->a[l * f + i] * p->b[l * m + c];
            p->b[i * m + c] = s / p->a[i * f + i];
        }
}

static int score(struct probe *p, int64_t count, double *out, struct dr_err *err) {
    int32_t label[PIECE];
    int64_t right = 0;
    int rc = 0;
    for (int64_t i = 0; i < count && !rc; i += PIECE) {
        const int64_t n = features(p, p->j->test, count, i, label, &rc, err);
        for (int64_t r = 0; r < n && !rc; r++) {
            int64_t best = 0;
            double most = -INFINITY;
            for (int64_t c = 0; c < p->classes; c++) {
                double s = 0;
                for (int64_t k = 0; k < p->f; k++)
                    s += p->row[r * p->f + k] * p->b[k * p->classes + c];
                best = s > most ? c : best;
                most = fmax(s, most);
            }
            right += best == label[r];
        }
    }
    *out = (double)right / (double)count;
    return rc;
}

static int allocate(struct probe *p, struct dr_err *err) {
    const size_t f = (size_t)p->f;
    p->maps = malloc((size_t)(PIECE * p->shape.h * p->shape.w * p->shape.c) * sizeof *p->maps);
    p->row = calloc(PIECE * f, sizeof *p->row);
    p->mean = calloc(f, sizeof *p->mean);
    p->inv = calloc(f, sizeof *p->inv);
    p->a = calloc(DR_MAX(f, (size_t)2) * f, sizeof *p->a);
    p->b = calloc(f * (size_t)p->classes, sizeof *p->b);
    return p->maps && p->row && p->mean && p->inv && p->a && p->b
               ? 0
               : dr_fail(err, DR_ENOMEM, "out of memory for a probe of %zu features", f);
}

int dr_judge_probe(struct dr_judge *j, struct dr_snapshot *s, int64_t train_count,
                   int64_t test_count, double *out, struct dr_err *err) {
    struct probe p = {.j = j, .classes = j->train->classes};
    const int64_t fit = how_many(j->train, train_count), judged = how_many(j->test, test_count);
    int rc = encoder_of(s, &p.encoder, err);
    if (rc)
        return rc;
    p.map = dr_net_outputs(p.encoder->net) - 1;
    p.shape = dr_net_output(p.encoder->net, p.map);
    p.f = p.shape.c + 1;
    rc = allocate(&p, err);
    if (!rc)
        rc = standardise(&p, fit, err);
    if (!rc)
        rc = gather(&p, fit, err);
    if (!rc) {
        solve(&p);
        rc = score(&p, judged, out, err);
    }
    dr_snapshot_unref(p.encoder);
    free(p.maps);
    free(p.row);
    free(p.mean);
    free(p.inv);
    free(p.a);
    free(p.b);
    return rc;
}

// ---- pictures

// y: the reconstruction [H,W,C] of one image whose original and masked forms are in out.
static void fill_in(const struct dr_dataset *d, const real *y, const real *mask, int64_t p,
                    real *out) {
    const int64_t image = d->c * d->h * d->w;
    for (int64_t c = 0; c < d->c; c++)
        for (int64_t i = 0; i < d->h * d->w; i++) {
            const bool hidden = mask[i / d->w / p * (d->w / p) + i % d->w / p] != 0;
            const real v = hidden ? y[i * d->c + c] : out[c * d->h * d->w + i];
            out[2 * image + c * d->h * d->w + i] = (real)fmin(1, fmax(-1, (double)v));
        }
}

int dr_judge_reconstruct(struct dr_judge *j, struct dr_snapshot *s, int64_t n, int64_t p,
                         double probability, real *out, struct dr_err *err) {
    const struct dr_dataset *d = j->test;
    const int64_t squares = (d->h / p) * (d->w / p);
    struct dr_rng g;
    int32_t label[PIECE];
    int at, rc = find_output(s->net, "reconstruction", &at, err);
    real *mask = malloc((size_t)(PIECE * squares) * sizeof *mask), *y[DR_NET_OUTPUTS] = {0};
    real *made = malloc((size_t)(PIECE * j->image) * sizeof *made);
    if (!rc && (!mask || !made))
        rc = dr_fail(err, DR_ENOMEM, "out of memory for reconstructions");
    for (int64_t i = 0; i < n && !rc; i += PIECE) {
        const int64_t b = next(j, d, n, i, label, &rc, err);
        for (int64_t k = 0; k < b && !rc; k++) {
            real *x = j->x + k * j->image, *to = out + (i + k) * 3 * j->image;
            memcpy(to, x, (size_t)j->image * sizeof *x);
            dr_rng_init(&g, 0, DR_STREAM_MASK, (uint64_t)(i + k));
            dr_mask_draw(&g, probability, squares, mask + k * squares);
            dr_mask_apply(mask + k * squares, d->c, d->h, d->w, p, x);
            memcpy(to + j->image, x, (size_t)j->image * sizeof *x);
        }
        y[at] = made;
        if (!rc)
            rc = dr_encode_run(j->run, s, j->x, b, y, err);
        for (int64_t k = 0; k < b && !rc; k++)
            fill_in(d, made + k * j->image, mask + k * squares, p, out + (i + k) * 3 * j->image);
    }
    free(mask);
    free(made);
    return rc;
}
