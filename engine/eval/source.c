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
};

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
        cls[i] = (int32_t)((first + i) % s->classes);
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
    free(g);
}

static void generator_key(const struct dr_eval_generator *g, char key[33]) {
    const struct dr_net *net = g->snap->net;
    const char *text = dr_net_description(net);
    const uint64_t how[] = {g->seed, (uint64_t)g->precision, g->two_pass};
    struct dr_sha256 sum;
    dr_sha256_init(&sum);
    dr_sha256_update(&sum, text, strlen(text) + 1);
    dr_sha256_update(&sum, &g->alpha, sizeof g->alpha);
    dr_sha256_update(&sum, how, sizeof how);
    dr_sha256_update(&sum, g->snap->weights, (size_t)dr_net_params(net)->total * sizeof(real));
    eval_key(&sum, key);
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
                                      .release = release_generator,
                                      .kind = m->kind};
    generator_key(as, g->base.key);
    const int rc = dr_sampler_create(be, as->precision, as->batch, &g->sampler, err);
    if (rc)
        release_generator(&g->base);
    else
        *out = &g->base;
    return rc;
}

// ---- a data set

struct images {
    struct dr_eval_source base;
    const struct dr_dataset *d;
    int64_t *order;
};

static int read_images(struct dr_eval_source *s, int64_t first, int64_t count, real *x,
                       int32_t *cls, struct dr_err *err) {
    const struct images *m = (const struct images *)s;
    for (int64_t i = 0; i < count; i++)
        cls[i] = m->d->label[m->order[first + i]];
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
                                      .release = release_images,
                                      .kind = d->kind};
    dr_sha256_init(&sum);
    dr_sha256_update(&sum, "images", sizeof "images");
    dr_sha256_update(&sum, &d->fingerprint, sizeof d->fingerprint);
    eval_key(&sum, m->base.key);
    *out = &m->base;
    return 0;
}

// ---- order

// The numbers of class c in a random order.
static void shuffle(const struct dr_dataset *d, int64_t c, int64_t *list) {
    const int64_t n = d->class_start[c + 1] - d->class_start[c];
    struct dr_rng g;
    dr_rng_init(&g, 0, DR_STREAM_SAMPLER, (uint64_t)c);
    memcpy(list, d->by_class + d->class_start[c], (size_t)n * sizeof *list);
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t k = dr_rng_below(&g, (uint32_t)(i + 1)), t = list[i];
        list[i] = list[k];
        list[k] = t;
    }
}

int64_t *eval_order(const struct dr_dataset *d) {
    int64_t *list = malloc((size_t)d->n * sizeof *list),
            *order = malloc((size_t)d->n * sizeof *order);
    int64_t at = 0;
    if (!list || !order) {
        free(list);
        free(order);
        return NULL;
    }
    for (int64_t c = 0; c < d->classes; c++)
        shuffle(d, c, list + d->class_start[c]);
    for (int64_t k = 0; at < d->n; k++)
        for (int64_t c = 0; c < d->classes; c++)
            if (d->class_start[c] + k < d->class_start[c + 1])
                order[at++] = list[d->class_start[c] + k];
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
