// Where images come from: a generator, a data set. See eval.h.
#include "engine/eval/eval_priv.h"

#include "engine/io/image.h"
#include "engine/nn/params.h"

#include <stdlib.h>
#include <string.h>

void dr_eval_source_free(struct dr_eval_source *s) {
    if (s)
        s->release(s);
}

void eval_key(struct dr_sha256 *sum, char key[33]) {
    char hex[65];
    dr_sha256_hex(sum, hex);
    memcpy(key, hex, 32);
    key[32] = 0;
}

// ---- a generator

struct generator {
    struct dr_eval_source base;
    struct dr_eval_generator as;
    struct dr_sampler *sampler;
    struct dr_sample *request; // [room]
    int64_t room;
    int32_t *turn; // [period] classes, again and again
    int64_t period;
};

static int32_t asked(const struct dr_eval_source *s, int64_t i) {
    const struct generator *g = (const struct generator *)s;
    return g->turn[i % g->period];
}

static int generate(struct dr_eval_source *s, int64_t first, int64_t count, real *x, int32_t *cls,
                    struct dr_err *err) {
    struct generator *g = (struct generator *)s;
    if (count > g->room) {
        struct dr_sample *more = realloc(g->request, (size_t)count * sizeof *more);
        if (!more)
            return dr_fail(err, DR_ENOMEM, "out of memory for %lld samples", (long long)count);
        g->request = more;
        g->room = count;
    }
    for (int64_t i = 0; i < count; i++) {
        cls[i] = asked(s, first + i);
        g->request[i] = (struct dr_sample){.seed = g->as.seed,
                                           .index = (uint64_t)(first + i),
                                           .cls = cls[i],
                                           .alpha = (real)g->as.alpha,
                                           .two_pass = g->as.two_pass};
    }
    return dr_sampler_run(g->sampler, g->as.snap, g->request, count, x, err);
}

static void release_generator(struct dr_eval_source *s) {
    struct generator *g = (struct generator *)s;
    dr_sampler_free(g->sampler);
    dr_snapshot_unref(g->as.snap);
    free(g->request);
    free(g->turn);
    free(g);
}

// Classes in the proportions of g->as.like, which is not needed afterwards.
static int take_turns(struct generator *g, struct dr_err *err) {
    const struct dr_dataset *d = g->as.like;
    const bool alike = d && d->classes == g->base.classes;
    int64_t *order = alike ? eval_order(d) : NULL;
    g->period = alike ? d->n : g->base.classes;
    g->turn = malloc((size_t)g->period * sizeof *g->turn);
    g->as.like = NULL;
    if (!g->turn || (alike && !order)) {
        free(order);
        return dr_fail(err, DR_ENOMEM, "out of memory for the classes of %lld images",
                       (long long)g->period);
    }
    for (int64_t i = 0; i < g->period; i++)
        g->turn[i] = order ? d->label[order[i]] : (int32_t)i;
    free(order);
    return 0;
}

static void make_key(struct generator *g) {
    const struct dr_net *net = g->as.snap->net;
    const char *text = dr_net_description(net);
    const uint64_t how[] = {g->as.seed, (uint64_t)g->as.precision, g->as.two_pass};
    struct dr_sha256 sum;
    dr_sha256_init(&sum);
    dr_sha256_update(&sum, text, strlen(text) + 1);
    dr_sha256_update(&sum, &g->as.alpha, sizeof g->as.alpha);
    dr_sha256_update(&sum, how, sizeof how);
    dr_sha256_update(&sum, g->turn, (size_t)g->period * sizeof *g->turn);
    dr_sha256_update(&sum, g->as.snap->weights, (size_t)dr_net_params(net)->total * sizeof(real));
    eval_key(&sum, g->base.key);
}

int dr_eval_source_generator(struct dr_backend *be, const struct dr_eval_generator *as,
                             struct dr_eval_source **out, struct dr_err *err) {
    const struct dr_model_config *m = dr_gen_config(as->snap->net);
    *out = NULL;
    if (!m)
        return dr_net_expect(as->snap->net, DR_NET_GENERATOR, "the checkpoint", err);
    struct generator *g = calloc(1, sizeof *g);
    if (!g)
        return dr_fail(err, DR_ENOMEM, "out of memory for a generator");
    g->as = *as;
    dr_snapshot_ref(as->snap);
    const bool points = m->kind == DR_KIND_POINTS;
    g->base = (struct dr_eval_source){.n = as->n,
                                      .c = points ? 2 : m->channels,
                                      .h = points ? 1 : m->size,
                                      .w = points ? 1 : m->size,
                                      .classes = m->classes,
                                      .images = generate,
                                      .asked = asked,
                                      .release = release_generator,
                                      .kind = m->kind};
    int rc = take_turns(g, err);
    if (!rc)
        rc = dr_sampler_create(be, as->precision, as->batch, &g->sampler, err);
    if (rc) {
        release_generator(&g->base);
        return rc;
    }
    make_key(g);
    *out = &g->base;
    return 0;
}

// ---- a data set

struct images {
    struct dr_eval_source base;
    const struct dr_dataset *d;
    int64_t *order;
};

static int32_t label(const struct dr_eval_source *s, int64_t i) {
    const struct images *m = (const struct images *)s;
    return m->d->label[m->order[i]];
}

static int read_images(struct dr_eval_source *s, int64_t first, int64_t count, real *x,
                       int32_t *cls, struct dr_err *err) {
    const struct images *m = (const struct images *)s;
    for (int64_t i = 0; i < count; i++)
        cls[i] = label(s, first + i);
    return dr_dataset_reals(m->d, m->order + first, count, x, err);
}

static void release_images(struct dr_eval_source *s) {
    free(((struct images *)s)->order);
    free(s);
}

int dr_eval_source_dataset(const struct dr_dataset *d, int64_t n, struct dr_eval_source **out,
                           struct dr_err *err) {
    struct images *m = calloc(1, sizeof *m);
    struct dr_sha256 sum;
    *out = NULL;
    if (!m || !(m->order = eval_order(d))) {
        free(m);
        return dr_fail(err, DR_ENOMEM, "out of memory for the order of %lld images",
                       (long long)d->n);
    }
    m->d = d;
    m->base = (struct dr_eval_source){.n = n > 0 && n < d->n ? n : d->n,
                                      .c = d->c,
                                      .h = d->h,
                                      .w = d->w,
                                      .classes = d->classes,
                                      .images = read_images,
                                      .asked = label,
                                      .release = release_images,
                                      .kind = d->kind};
    dr_sha256_init(&sum);
    dr_sha256_update(&sum, "images", sizeof "images");
    dr_sha256_update(&sum, &d->fingerprint, sizeof d->fingerprint);
    dr_sha256_update(&sum, &d->classes, sizeof d->classes); // of which the order is made
    eval_key(&sum, m->base.key);
    *out = &m->base;
    return 0;
}

// ---- order

struct place {
    int64_t k, of, id; // number k of the `of` images of its class, from 0
    int32_t cls;
};

// By (k + 1/2) / of, classes in turn where that is equal.
static int compare_places(const void *a, const void *b) {
    const struct place *p = a, *q = b;
    const int64_t left = (2 * p->k + 1) * q->of, right = (2 * q->k + 1) * p->of;
    return left != right ? (left > right) - (left < right) : (p->cls > q->cls) - (p->cls < q->cls);
}

// The numbers of class c in a random order.
static void shuffle(const struct dr_dataset *d, int64_t c, struct place *list) {
    const int64_t n = d->class_start[c + 1] - d->class_start[c];
    struct dr_rng g;
    dr_rng_init(&g, 0, DR_STREAM_SAMPLER, (uint64_t)c);
    for (int64_t i = 0; i < n; i++)
        list[i] = (struct place){i, n, d->by_class[d->class_start[c] + i], (int32_t)c};
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t k = dr_rng_below(&g, (uint32_t)(i + 1)), t = list[i].id;
        list[i].id = list[k].id;
        list[k].id = t;
    }
}

int64_t *eval_order(const struct dr_dataset *d) {
    struct place *list = malloc((size_t)d->n * sizeof *list);
    int64_t *order = malloc((size_t)d->n * sizeof *order);
    if (!list || !order) {
        free(list);
        free(order);
        return NULL;
    }
    for (int64_t c = 0; c < d->classes; c++)
        shuffle(d, c, list + d->class_start[c]);
    qsort(list, (size_t)d->n, sizeof *list, compare_places);
    for (int64_t i = 0; i < d->n; i++)
        order[i] = list[i].id;
    free(list);
    return order;
}

void eval_round(real *x, int64_t n) {
    uint8_t p[256];
    for (int64_t i = 0; i < n; i += 256) {
        const int64_t count = DR_MIN((int64_t)256, n - i);
        dr_to_pixels(x + i, count, p);
        for (int64_t k = 0; k < count; k++)
            x[i + k] = (real)p[k] / (real)127.5 - 1;
    }
}
