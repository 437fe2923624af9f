// Draws the reals of a training step (method.md 1.5; paper A.8 for the queues). Called by the
// trainer only, on one thread. Everything random is Philox: the step's draws from (seed, SAMPLER,
// step), the order in which samples enter the queues from one permutation per epoch.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/data/data.h"

// Indices of the epoch permutations; steps never get there.
#define EPOCH_INDEX ((uint64_t)1 << 63)
#define STATE_MAGIC UINT64_C(0x3153515252444452) // version 1 of the layout below

// Image numbers, oldest at `head`; an image is in a ring at most once.
struct ring {
    int64_t *item;
    int64_t cap, head, len;
    uint8_t *inside; // [n] by image number; shared by the class rings, as an image has one class
};

struct dr_reals {
    const struct dr_dataset *d; // borrowed
    uint64_t seed;
    int64_t positives, unconditional, push;
    uint8_t *taken; // [n] scratch of draw(), all zero between calls
    bool queued;
    // queue only
    struct ring *of_class; // [classes]
    struct ring global;
    int64_t *item; // storage of all rings
    int64_t items;
    uint32_t *perm; // [n] of the current epoch
    uint64_t epoch;
    int64_t at; // next of perm
};

// Floyd's algorithm: k distinct of 0..m-1, every subset equally likely; mapped through `map`.
static void draw(struct dr_reals *r, struct dr_rng *g, int64_t m, int64_t k, const int64_t *map,
                 int64_t *out) {
    int64_t *first = out;
    for (int64_t j = m - k; j < m; j++) {
        int64_t t = dr_rng_below(g, (uint32_t)(j + 1));
        if (r->taken[t])
            t = j;
        r->taken[t] = 1;
        *out++ = t;
    }
    for (int64_t i = 0; i < k; i++) {
        r->taken[first[i]] = 0;
        first[i] = map ? map[first[i]] : first[i];
    }
}

static void shuffle_epoch(struct dr_reals *r) {
    struct dr_rng g;
    dr_rng_init(&g, r->seed, DR_STREAM_SAMPLER, EPOCH_INDEX | r->epoch);
    for (int64_t i = 0; i < r->d->n; i++)
        r->perm[i] = (uint32_t)i;
    for (int64_t i = r->d->n - 1; i > 0; i--) {
        uint32_t j = dr_rng_below(&g, (uint32_t)(i + 1)), t = r->perm[i];
        r->perm[i] = r->perm[j];
        r->perm[j] = t;
    }
}

// An image that is still inside is not entered twice (this happens where two epochs meet).
static void ring_push(struct ring *q, int64_t image) {
    if (q->inside[image])
        return;
    if (q->len == q->cap) {
        q->inside[q->item[q->head]] = 0;
        q->item[q->head] = image;
        q->head = (q->head + 1) % q->cap;
    } else {
        q->item[(q->head + q->len++) % q->cap] = image;
    }
    q->inside[image] = 1;
}

static void push_fresh(struct dr_reals *r, int64_t count) {
    for (; count > 0; count--) {
        if (r->at == r->d->n) {
            r->epoch++;
            r->at = 0;
            shuffle_epoch(r);
        }
        int64_t image = r->perm[r->at++];
        ring_push(&r->of_class[r->d->label[image]], image);
        ring_push(&r->global, image);
    }
}

static int64_t class_size(const struct dr_dataset *d, int64_t k) {
    return d->class_start[k + 1] - d->class_start[k];
}

static int check_counts(const struct dr_config *cfg, const struct dr_dataset *d,
                        struct dr_err *err) {
    const struct dr_train_config *t = &cfg->train;
    const bool queued = t->sampler == DR_SAMPLER_QUEUE;
    const char *path = cfg->data.path;
    for (int64_t k = 0; k < d->classes; k++)
        if (class_size(d, k) < t->positives)
            return dr_fail(err, DR_ECONFIG,
                           "class %" PRId64 "%s%.100s%s of %s%s%.200s has %" PRId64
                           " images, fewer than train.positives %" PRId64,
                           k, d->class_name ? " (" : "", d->class_name ? d->class_name[k] : "",
                           d->class_name ? ")" : "", d->name, *path ? " " : "", path,
                           class_size(d, k), t->positives);
    if (t->unconditional > d->n)
        return dr_fail(err, DR_ECONFIG,
                       "train.unconditional is %" PRId64 ", but %s has only %" PRId64 " images",
                       t->unconditional, d->name, d->n);
    if (queued && t->positives > t->queue_class)
        return dr_fail(err, DR_ECONFIG,
                       "train.positives %" PRId64 " does not fit train.queue_class %" PRId64,
                       t->positives, t->queue_class);
    if (queued && t->unconditional > t->queue_global)
        return dr_fail(err, DR_ECONFIG,
                       "train.unconditional %" PRId64 " does not fit train.queue_global %" PRId64,
                       t->unconditional, t->queue_global);
    if (d->n > UINT32_MAX)
        return dr_fail(err, DR_ECONFIG, "%s has %" PRId64 " images, more than the sampler takes",
                       d->name, d->n);
    return 0;
}

static int create_queues(struct dr_reals *r, const struct dr_train_config *t, struct dr_err *err) {
    const struct dr_dataset *d = r->d;
    r->of_class = calloc((size_t)d->classes, sizeof *r->of_class);
    if (!r->of_class)
        return dr_fail(err, DR_ENOMEM, "no memory for the queues of %" PRId64 " classes",
                       d->classes);
    r->items = r->global.cap = DR_MIN(t->queue_global, d->n);
    for (int64_t k = 0; k < d->classes; k++)
        r->items += r->of_class[k].cap = DR_MIN(t->queue_class, class_size(d, k));
    r->item = calloc((size_t)r->items, sizeof *r->item);
    r->perm = malloc((size_t)d->n * sizeof *r->perm);
    uint8_t *inside = r->of_class[0].inside = calloc((size_t)d->n, 1);
    r->global.inside = calloc((size_t)d->n, 1);
    if (!r->item || !r->perm || !inside || !r->global.inside)
        return dr_fail(err, DR_ENOMEM, "no memory for queues of %" PRId64 " images", r->items);
    int64_t *p = r->global.item = r->item;
    p += r->global.cap;
    for (int64_t k = 0; k < d->classes; k++) {
        r->of_class[k].item = p;
        r->of_class[k].inside = inside;
        p += r->of_class[k].cap;
    }
    // Fill once; one epoch holds every image, so this ends within it.
    shuffle_epoch(r);
    for (int64_t full = 0; full <= d->classes;) {
        push_fresh(r, 1);
        while (full < d->classes && r->of_class[full].len == r->of_class[full].cap)
            full++;
        full += full == d->classes && r->global.len == r->global.cap;
    }
    return 0;
}

int dr_reals_create(const struct dr_config *cfg, const struct dr_dataset *d, struct dr_reals **out,
                    struct dr_err *err) {
    *out = NULL;
    int rc = check_counts(cfg, d, err);
    if (rc)
        return rc;
    struct dr_reals *r = calloc(1, sizeof *r);
    if (!r)
        return dr_fail(err, DR_ENOMEM, "no memory for the sampler");
    r->d = d;
    r->seed = (uint64_t)cfg->train.seed;
    r->positives = cfg->train.positives;
    r->unconditional = cfg->train.unconditional;
    r->push = cfg->train.push_per_step;
    r->queued = cfg->train.sampler == DR_SAMPLER_QUEUE;
    r->taken = calloc((size_t)d->n, 1);
    if (!r->taken)
        rc = dr_fail(err, DR_ENOMEM, "no memory for the sampler of %" PRId64 " images", d->n);
    if (!rc && r->queued)
        rc = create_queues(r, &cfg->train, err);
    if (rc)
        dr_reals_free(r);
    else
        *out = r;
    return rc;
}

void dr_reals_free(struct dr_reals *r) {
    if (!r)
        return;
    if (r->of_class)
        free(r->of_class[0].inside);
    free(r->global.inside);
    free(r->of_class);
    free(r->item);
    free(r->perm);
    free(r->taken);
    free(r);
}

void dr_reals_draw(struct dr_reals *r, uint64_t step, const int32_t *classes, int64_t nclass,
                   int64_t *pos, int64_t *unc) {
    const struct dr_dataset *d = r->d;
    struct dr_rng g;
    dr_rng_init(&g, r->seed, DR_STREAM_SAMPLER, step);
    if (r->queued)
        push_fresh(r, r->push);
    for (int64_t i = 0; i < nclass; i++) {
        const int64_t k = classes[i];
        if (r->queued)
            draw(r, &g, r->of_class[k].len, r->positives, r->of_class[k].item, pos);
        else
            draw(r, &g, class_size(d, k), r->positives, d->by_class + d->class_start[k], pos);
        pos += r->positives;
    }
    draw(r, &g, r->queued ? r->global.len : d->n, r->unconditional,
         r->queued ? r->global.item : NULL, unc);
}

bool dr_reals_have_views(const struct dr_data_config *cfg) {
    return cfg->flip || cfg->crop > 0;
}

void dr_reals_views(const struct dr_data_config *cfg, uint64_t seed, uint64_t step, int64_t first,
                    int64_t n, int32_t *view) {
    const int32_t most = (int32_t)cfg->crop;
    for (int64_t i = 0; i < n; i++, view += 3) {
        uint32_t r[4]; // a block per sample
        dr_philox(seed, (uint32_t)(first + i), DR_STREAM_AUGMENT, step, r);
        for (int k = 0; k < 2; k++)
            view[k] = (int32_t)(((uint64_t)r[k] * (2 * (uint64_t)most + 1)) >> 32) - most;
        view[2] = cfg->flip ? (int32_t)(r[2] >> 31) : 0;
    }
}

// State: eight words, then head and item[cap] of the global ring and of each class. The rings are
// always full after the fill, so their lengths need no place.
#define WORDS 8

size_t dr_reals_state_size(const struct dr_reals *r) {
    return r->queued ? sizeof(int64_t) * (size_t)(WORDS + 1 + r->d->classes + r->items) : 0;
}

static void state_words(const struct dr_reals *r, int64_t w[WORDS]) {
    const int64_t v[WORDS] = {STATE_MAGIC,       (int64_t)r->d->fingerprint,
                              (int64_t)r->seed,  r->d->n,
                              r->d->classes,     r->items,
                              (int64_t)r->epoch, r->at};
    memcpy(w, v, sizeof v);
}

void dr_reals_state_get(const struct dr_reals *r, void *out) {
    if (!r->queued)
        return;
    int64_t w[WORDS];
    char *p = out;
    state_words(r, w);
    memcpy(p, w, sizeof w);
    p += sizeof w;
    for (int64_t k = -1; k < r->d->classes; k++) {
        const struct ring *q = k < 0 ? &r->global : &r->of_class[k];
        memcpy(p, &q->head, sizeof q->head);
        p += sizeof q->head;
        memcpy(p, q->item, (size_t)q->cap * sizeof *q->item);
        p += (size_t)q->cap * sizeof *q->item;
    }
}

// One ring out of the state: head within, image numbers in range, of the class, each once.
static bool ring_valid(struct dr_reals *r, const struct ring *q, int64_t cls, const int64_t *in) {
    bool ok = q->cap ? in[0] >= 0 && in[0] < q->cap : in[0] == 0;
    int64_t i = 0;
    for (; i < q->cap && ok; i++) {
        int64_t x = in[1 + i];
        ok = x >= 0 && x < r->d->n && (cls < 0 || r->d->label[x] == cls) && !r->taken[x];
        if (ok)
            r->taken[x] = 1;
        else
            break;
    }
    while (i-- > 0)
        r->taken[in[1 + i]] = 0;
    return ok;
}

int dr_reals_state_set(struct dr_reals *r, const void *in, size_t bytes, struct dr_err *err) {
    if (bytes != dr_reals_state_size(r))
        return dr_fail(err, DR_EFORMAT, "sampler state has %zu bytes, expected %zu", bytes,
                       dr_reals_state_size(r));
    if (!r->queued)
        return 0;
    int64_t *s = malloc(bytes), want[WORDS];
    if (!s)
        return dr_fail(err, DR_ENOMEM, "no memory for the sampler state");
    memcpy(s, in, bytes);
    state_words(r, want);
    int rc = 0;
    if (memcmp(s, want, 6 * sizeof *s))
        rc = dr_fail(
            err, DR_EFORMAT,
            "sampler state belongs to another data set, seed or queue size than this job's");
    else if (s[6] < 0 || s[7] < 0 || s[7] > r->d->n)
        rc = dr_fail(err, DR_EFORMAT, "sampler state has an impossible position in its epoch");
    const int64_t *p = s + WORDS;
    for (int64_t k = -1; k < r->d->classes && !rc; k++) {
        const struct ring *q = k < 0 ? &r->global : &r->of_class[k];
        if (!ring_valid(r, q, k, p))
            rc = dr_fail(err, DR_EFORMAT,
                         "sampler state has a damaged queue (class %" PRId64 ", -1: global)", k);
        p += 1 + q->cap;
    }
    if (!rc) { // all of it is sound: take it over
        r->epoch = (uint64_t)s[6];
        r->at = s[7];
        shuffle_epoch(r);
        memset(r->of_class[0].inside, 0, (size_t)r->d->n);
        memset(r->global.inside, 0, (size_t)r->d->n);
        p = s + WORDS;
        for (int64_t k = -1; k < r->d->classes; k++) {
            struct ring *q = k < 0 ? &r->global : &r->of_class[k];
            q->head = *p++;
            q->len = q->cap;
            for (int64_t i = 0; i < q->cap; i++) {
                q->item[i] = *p++;
                q->inside[q->item[i]] = 1;
            }
        }
    }
    free(s);
    return rc;
}
