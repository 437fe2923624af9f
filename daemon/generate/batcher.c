// The batcher's queue and thread (batcher.h).
#include "daemon/generate/batcher.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/generate/batcher_priv.h"
#include "daemon/generate/noise.h"
#include "daemon/store/checkpoints.h"
#include "engine/drift.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// --- which weights ---

static int no_model(struct dr_err *err) {
    return dr_fail(err, DR_ENOTYET,
                   "no model yet: no checkpoint exists and no job has finished its first step");
}

static int no_raw(struct dr_err *err) {
    return dr_fail_at(
        err, DR_EINVAL, "weights",
        "the live weights are averaged; weights=raw needs a checkpoint: latest or an id");
}

static int resolve_id(struct dd_batcher *b, const char *text, int64_t *id, struct dr_err *err) {
    struct dd_model_info info;
    struct dr_err why = {0};
    int64_t v;
    const bool tag = *text >= 'a' && *text <= 'z' && (v = dd_ckpt_tagged(b->env.store, text)) > 0;
    int rc = !tag && (*text == '0' || !dd_parse_int(text, 1, INT64_MAX, &v)) // an id is one text
                 ? dr_fail(&why, DR_ENOENT, "there is no checkpoint %s", text)
                 : dd_models_get(b->env.models, v, &info, &why);
    if (rc == DR_ENOENT)
        return dr_fail(
            err, rc, "%.200s; expected served, live, latest, or an id or a tag of /v1/checkpoints",
            why.msg);
    if (rc) {
        *err = why;
        return rc;
    }
    dd_models_release(b->env.models, info.names);
    *id = v;
    return !strcmp(info.state, "ok")
               ? 0
               : dr_fail(err, DR_EGONE, "checkpoint %lld is %s", (long long)v, info.state);
}

int dd_batcher_resolve(struct dd_batcher *b, const char *checkpoint, int64_t *id,
                       struct dr_err *err) {
    struct dd_served served;
    if (!*checkpoint || !strcmp(checkpoint, "served")) {
        int rc = dd_batcher_served(b, &served, err);
        *id = rc ? 0 : served.id;
        return rc;
    }
    const bool live = !strcmp(checkpoint, "live");
    struct dd_model_ids ids;
    *id = 0;
    if (live && dd_live_has(b->env.live))
        return 0;
    if (!live && strcmp(checkpoint, "latest") != 0)
        return resolve_id(b, checkpoint, id, err);
    int rc = dd_models_ids(b->env.models, &ids, err);
    *id = ids.latest;
    return rc || *id ? rc : no_model(err);
}

int dd_batcher_served(struct dd_batcher *b, struct dd_served *out, struct dr_err *err) {
    struct dd_model_ids ids;
    *out = (struct dd_served){0};
    int rc = dd_models_ids(b->env.models, &ids, err);
    if (rc)
        return rc;
    if (ids.active > 0)
        *out = (struct dd_served){ids.active, "promoted"};
    else if (ids.active == DD_SERVE_AUTO && ids.final)
        *out = (struct dd_served){ids.final, "completed"};
    else if (dd_live_has(b->env.live))
        *out = (struct dd_served){0, "live"};
    else if (ids.latest)
        *out = (struct dd_served){ids.latest, "latest"};
    return out->why ? 0 : no_model(err);
}

// --- submitting ---

// Batches of this many images compute at about the rate of full ones.
enum { FULL = 16 };
#define RATE_SECONDS 1.0
#define REST_NS 50000000 // without requests, until helpers end
#define LANE_FLOPS 0.6e9 // of a forward pass, below which one thread runs it

// The rate over about the last second of batches: one stalled batch must not dominate, and a slower
// model shows after one or two. Small batches count only until there has been a full one.
static void note_rate(struct dd_batcher *b, int images, double seconds) {
    bool full = images >= DR_MIN(FULL, b->env.opt->max_batch);
    if (!full && b->rate_full)
        return;
    double keep = full && !b->rate_full ? 0 : exp(-seconds / RATE_SECONDS);
    b->recent_images = keep * b->recent_images + images;
    b->recent_seconds = keep * b->recent_seconds + seconds;
    pthread_mutex_lock(&b->lock);
    b->rate = b->recent_images / b->recent_seconds;
    b->rate_full = full;
    pthread_mutex_unlock(&b->lock);
}

// Seconds until a refused request may come back: until the queue will be empty, or up to a third
// longer, so that many requests refused at once do not all return at the same moment.
static double wait_of_refused(struct dd_batcher *b, int images) {
    double wait = b->rate > 0 ? b->waiting / b->rate : 1, later = fmin(b->spread, wait / 3);
    b->spread = later < wait / 3 && b->rate > 0 ? later + images / b->rate : 0;
    return fmax(wait + later, 0.05);
}

int dd_batcher_submit(struct dd_batcher *b, const struct dd_gen_request *req, double *retry_after,
                      struct dr_err *err) {
    int64_t id;
    *retry_after = 0;
    int rc = dd_batcher_resolve(b, req->checkpoint, &id, err);
    if (!rc && !id && req->raw)
        rc = no_raw(err);
    if (rc)
        return rc;
    struct dd_ticket *t = dd_xcalloc(1, sizeof *t);
    *t = (struct dd_ticket){.req = req, .id = id, .submitted_ns = dd_now_ns()};
    dd_batcher_served(b, &t->served, NULL);
    pthread_mutex_lock(&b->lock);
    int64_t limit = dd_queue_limit(b);
    bool full = b->waiting > 0 && b->waiting + req->n > limit;
    int waiting = b->waiting;
    if (b->draining || full) {
        *retry_after = wait_of_refused(b, req->n);
        rc = b->draining ? DR_ESTOPPING : DR_EFULL;
    } else {
        dd_queue_put(&b->queue, t);
        b->waiting += req->n;
        b->unsent++;
        pthread_cond_signal(&b->work);
    }
    pthread_mutex_unlock(&b->lock);
    if (!rc)
        return 0;
    free(t);
    return rc == DR_ESTOPPING ? dr_fail(err, rc, "the daemon is stopping")
                              : dr_fail(err, rc, "%d images wait already; the queue holds %lld",
                                        waiting, (long long)limit);
}

// --- batches ---

// A batch: slices of tickets, in the order of the queue.
struct slice {
    struct dd_ticket *t;
    int first, n;
};
struct batch {
    struct slice *s;
    int nslices, images;
    struct dr_snapshot *snap;
};

static int fix_labels(struct dd_ticket *t, struct dr_err *err) {
    const struct dr_model_config *m = dr_gen_config(t->snap->net);
    int64_t count = dr_gen_image_count(t->snap->net);
    t->label = malloc((size_t)t->req->n * sizeof *t->label);
    t->x = malloc((size_t)(t->req->n * count) * sizeof *t->x);
    if (!t->label || !t->x)
        return dr_fail(err, DR_ENOMEM, "no memory for %d images", t->req->n);
    // The parser has checked both; the model behind `live` may have changed since.
    if (t->req->two_pass && dr_gen_null_class(t->snap->net) < 0)
        return dr_fail_at(err, DR_EINVAL, "guidance",
                          "guidance=two-pass needs a model with a null class");
    const size_t noise = (size_t)dr_gen_noise_count(t->snap->net);
    if (t->req->noise.own && t->req->noise.own_count != noise)
        return dr_fail_at(err, DR_EINVAL, "body",
                          "the noise has %zu values per image; this model takes %zu",
                          t->req->noise.own_count, noise);
    for (int i = 0; i < t->req->n; i++) {
        int32_t c = t->req->images[i].label;
        if (c < 0)
            dr_indices(t->req->seed, DR_STREAM_LABEL, t->req->images[i].index, (uint32_t)m->classes,
                       &c, 1);
        if (c >= m->classes)
            return dr_fail_at(err, DR_EINVAL, "class", "class %d: expected 0 to %lld", (int)c,
                              (long long)m->classes - 1);
        t->label[i] = c;
    }
    return 0;
}

static int choose_weights(struct dd_batcher *b, struct dd_ticket *t, struct dr_err *err) {
    if (t->id == 0 && (t->snap = dd_live_get(b->env.live, NULL)))
        return 0;
    // The job has ended since: what was asked for stands for a checkpoint now.
    int rc = t->id ? 0 : dd_batcher_resolve(b, t->req->checkpoint, &t->id, err);
    if (!rc && t->id == 0 && !(t->snap = dd_live_get(b->env.live, NULL)))
        rc = no_model(err);
    if (!rc && t->id)
        rc = dd_snapcache_get(b->cache, t->id, t->req->raw, &t->snap, err);
    // It was there when the request was accepted: gone, not unknown.
    return rc == DR_ENOENT ? (err->code = DR_EGONE) : rc;
}

// Gives a ticket its weights: those of the batch it joins, or (NULL) those it asked for. Non-zero:
// the ticket has been failed.
static int prepare(struct dd_batcher *b, struct dd_ticket *t, struct dr_snapshot *of_batch) {
    struct dr_err err = {0};
    int rc = 0;
    if (of_batch)
        t->snap = dr_snapshot_ref(of_batch);
    else
        rc = choose_weights(b, t, &err);
    if (!rc)
        rc = fix_labels(t, &err);
    if (rc)
        dd_ticket_fail(b, t, rc, &err);
    return rc;
}

static bool fits(const struct dd_ticket *t, const struct batch *k, int64_t id, bool raw) {
    return t->snap ? t->snap == k->snap : t->id == id && t->req->raw == raw;
}

// Whether the ticket can go into the batch. False: it has been failed and is gone. No lock held:
// loads a checkpoint, looks at a socket.
static bool admit(struct dd_batcher *b, struct batch *k, struct dd_ticket *t) {
    if (t->req->abandoned(t->req->owner) && t->done == t->sent) { // nothing of it is being rendered
        dd_ticket_fail(b, t, DR_ECANCELED, NULL);
        return false;
    }
    return t->snap || !prepare(b, t, k->snap);
}

// Puts tickets back in front of the queue, in order.
static void put_back(struct dd_queue *q, struct dd_queue *front) {
    if (!front->head)
        return;
    *front->tail = q->head;
    if (!q->head)
        q->tail = front->tail;
    q->head = front->head;
}

// Takes from the queue what can share a batch with its head: called and returns with the lock held,
// but releases it while a ticket is admitted.
static void gather(struct dd_batcher *b, struct batch *k) {
    int max = (int)b->env.opt->max_batch;
    int64_t id = -1;
    bool raw = false;
    struct dd_queue rest = {0};
    while (b->queue.head && k->images < max) {
        struct dd_ticket *t = b->queue.head;
        b->queue.head = t->next;
        if (k->snap && !fits(t, k, id, raw)) {
            dd_queue_put(&rest, t);
            continue;
        }
        int waiting = t->req->n - t->sent;
        pthread_mutex_unlock(&b->lock);
        bool admitted = admit(b, k, t);
        pthread_mutex_lock(&b->lock);
        if (!admitted) {
            b->waiting -= waiting;
            continue;
        }
        if (!k->snap) {
            k->snap = dr_snapshot_ref(t->snap);
            id = t->id;
            raw = t->req->raw;
        }
        int n = DR_MIN(max - k->images, waiting);
        k->s[k->nslices++] = (struct slice){t, t->sent, n};
        k->images += n;
        t->sent += n;
    }
    put_back(&b->queue, &rest);
}

// Small forward passes gain little from several threads, which wait for each other at every
// operator whenever anything else runs: with HTTP on the same two cores the mnist-pixels network
// then makes half as many images. Batches of such models are cut into parts that one thread
// computes each.
static int lanes_for(const struct dd_batcher *b, int images) {
    if (!b->lanes || b->sample_flops * DR_MIN(images, FULL) >= LANE_FLOPS)
        return 0;
    return b->sample_flops > 0 ? DR_MIN(b->lanes, (images + FULL - 1) / FULL)
                               : 1; // 1: not known yet
}

static int run_lanes(struct dd_batcher *b, const struct batch *k, int lanes, struct dr_err *err) {
    struct dr_err why[DD_MAX_LANES] = {0};
    int rc[DD_MAX_LANES] = {0}, each = (k->images + lanes - 1) / lanes;
    each = (each + FULL - 1) / FULL * FULL; // whole pieces
    size_t count = (size_t)dr_gen_image_count(k->snap->net);
#pragma omp parallel for num_threads(lanes) schedule(static, 1)
    for (int i = 0; i < lanes; i++) {
        int from = DR_MIN(i * each, k->images), n = DR_MIN(each, k->images - from);
        dr_backend_enter(b->lane[i].be);
        if (n > 0)
            rc[i] = dr_sampler_run(b->lane[i].sampler, k->snap, b->sample + from, n,
                                   b->x + (size_t)from * count, &why[i]);
    }
    b->sample_flops = dr_sampler_flops(b->lane[0].sampler);
    for (int i = 0; i < lanes; i++)
        if (rc[i]) {
            *err = why[i];
            return rc[i];
        }
    return 0;
}

static int run_whole(struct dd_batcher *b, const struct batch *k, struct dr_err *err) {
    dr_backend_enter(b->be);
    int rc = dr_sampler_run(b->sampler, k->snap, b->sample, k->images, b->x, err);
    b->sample_flops = dr_sampler_flops(b->sampler);
    return rc;
}

// The noise of the batch's images where it is not the seed's alone: NULL members stay NULL.
static int special_noise(struct dd_batcher *b, const struct batch *k, struct dr_err *err) {
    const size_t count = (size_t)dr_gen_noise_count(k->snap->net);
    int at = 0;
    for (int i = 0; i < k->nslices; i++)
        for (int j = 0; j < k->s[i].n; j++, at++) {
            const struct dd_gen_request *r = k->s[i].t->req;
            if (!dd_noise_special(r))
                continue;
            if (b->noise_count < count) {
                free(b->noise);
                b->noise = malloc((size_t)b->env.opt->max_batch * count * sizeof *b->noise);
                b->noise_count = b->noise ? count : 0;
            }
            if (!b->noise)
                return dr_fail(err, DR_ENOMEM, "no memory for the noise of a batch");
            real *to = b->noise + (size_t)at * count;
            dd_noise_draw(r, k->s[i].first + j, count, to);
            b->sample[at].noise = to;
        }
    return 0;
}

static int compute(struct dd_batcher *b, struct batch *k, double *seconds, struct dr_err *err) {
    size_t count = (size_t)dr_gen_image_count(k->snap->net);
    if (b->x_count < count) {
        real *p = realloc(b->x, (size_t)b->env.opt->max_batch * count * sizeof *p);
        if (!p)
            return dr_fail(err, DR_ENOMEM, "no memory for a batch");
        b->x = p;
        b->x_count = count;
    }
    int at = 0;
    for (int i = 0; i < k->nslices; i++)
        for (int j = 0; j < k->s[i].n; j++) {
            const struct dd_ticket *t = k->s[i].t;
            const struct dd_gen_image *im = &t->req->images[k->s[i].first + j];
            b->sample[at++] = (struct dr_sample){.seed = t->req->seed,
                                                 .index = im->index,
                                                 .cls = t->label[k->s[i].first + j],
                                                 .alpha = (real)im->cfg,
                                                 .two_pass = t->req->two_pass};
        }
    int rc = special_noise(b, k, err);
    if (rc)
        return rc;
    double t0 = dd_seconds();
    int lanes = lanes_for(b, k->images);
    rc = lanes ? run_lanes(b, k, lanes, err) : run_whole(b, k, err);
    *seconds = dd_seconds() - t0;
    return rc;
}

static void deliver(struct dd_batcher *b, struct batch *k, int rc, double seconds, int64_t start,
                    const struct dr_err *err) {
    size_t count = rc ? 0 : (size_t)dr_gen_image_count(k->snap->net);
    const real *x = b->x;
    for (int i = 0; i < k->nslices; i++) {
        struct slice *s = &k->s[i];
        struct dd_ticket *t = s->t;
        if (rc) {
            pthread_mutex_lock(&b->lock);
            b->waiting -= t->req->n - t->done;
            pthread_mutex_unlock(&b->lock);
            dd_ticket_fail(b, t, rc, err);
            continue;
        }
        memcpy(t->x + (size_t)s->first * count, x, (size_t)s->n * count * sizeof *x);
        x += (size_t)s->n * count;
        if (!t->first_ns)
            t->first_ns = start;
        t->compute_s += seconds;
        t->batch_size = DR_MAX(t->batch_size, k->images);
        t->done += s->n;
        pthread_mutex_lock(&b->lock);
        b->waiting -= s->n;
        if (t->done == t->req->n) {
            dd_render_later(b, t);
        } else { // only the last slice of a batch can be cut short: back to the front
            t->next = b->queue.head;
            if (!b->queue.head)
                b->queue.tail = &t->next;
            b->queue.head = t;
        }
        pthread_mutex_unlock(&b->lock);
    }
}

static void run_batch(struct dd_batcher *b, struct batch *k) {
    struct dr_err err = {0};
    double seconds = 0;
    int64_t start = dd_now_ns();
    int rc = compute(b, k, &seconds, &err);
    char q[600];
    if (rc)
        dd_log(DR_LOG_ERROR, "generate.failed", "images=%d reason=%s", k->images,
               dd_log_quote(err.msg, q, sizeof q));
    atomic_store(&b->device_lost, rc == DR_EDEVICE);
    atomic_fetch_add(&b->batches, 1);
    atomic_fetch_add(&b->images, (uint64_t)k->images);
    dd_hist_add(&b->batch_hist, k->images);
    deliver(b, k, rc, seconds, start, &err);
    // From end to end, so that the time between two batches of a full queue counts as well.
    int64_t end = dd_now_ns();
    if (!rc)
        note_rate(b, k->images, (double)(end - (b->last_ns ? b->last_ns : start)) * 1e-9);
    b->last_ns = end;
}

static void fail_rest(struct dd_batcher *b) {
    for (struct dd_ticket *t; (t = b->queue.head);) {
        b->queue.head = t->next;
        b->waiting -= t->req->n - t->done;
        pthread_mutex_unlock(&b->lock);
        dd_ticket_refuse(b, t);
        pthread_mutex_lock(&b->lock);
    }
}

static int open_engine(struct dd_batcher *b, struct dr_err *err) {
    const struct dd_options *o = b->env.opt;
    int rc = dr_backend_open(o->device, (int)o->generate_threads, &b->be, err);
    if (rc)
        return rc;
    dr_backend_enter(b->be);
    rc = dr_backend_hurry(b->be, err); // requests go before training on the same device
    if (rc)
        return rc;
    const struct dr_device d = dr_backend_device(b->be);
    b->on_device = !d.host_memory;
    snprintf(b->device, sizeof b->device, "%s (%s)", d.name, d.detail);
    const int precision = strcmp(o->precision, "bf16") ? DR_FP32 : DR_PREC_BF16;
    rc = dr_sampler_create(b->be, precision, o->max_batch, &b->sampler, err);
    for (int n = DR_MIN(d.threads, DD_MAX_LANES); !rc && d.host_memory && b->lanes < n;) {
        struct dd_lane *l = &b->lane[b->lanes++];
        rc = dr_backend_open("cpu", 1, &l->be, err);
        if (!rc)
            rc = dr_sampler_create(l->be, precision, o->max_batch, &l->sampler, err);
    }
    return rc;
}

// Waits for a request; the lock is held. Helpers of this thread end when none has come for a while:
// they would slow training down (machine.h).
static void wait_for_work(struct dd_batcher *b) {
    const int64_t until = dd_now_ns() + REST_NS;
    while (!b->queue.head && !b->closing)
        if (dd_cond_wait_until(&b->work, &b->lock, until))
            break;
    if (b->queue.head || b->closing)
        return;
    pthread_mutex_unlock(&b->lock);
    dr_workers_rest();
    pthread_mutex_lock(&b->lock);
    while (!b->queue.head && !b->closing)
        pthread_cond_wait(&b->work, &b->lock);
}

// Images keep their memory until they are rendered, which may take longer than computing them: no
// batch is begun while many wait for that. So the queue fills, and further requests are refused.
enum { MAX_UNRENDERED = 64 << 20 }; // bytes
static void wait_for_renderers(struct dd_batcher *b) {
    while (b->unrendered > MAX_UNRENDERED && !b->closing)
        pthread_cond_wait(&b->work, &b->lock);
}

static void wait_for_company(struct dd_batcher *b) {
    if (!b->env.opt->max_queue_delay_us || b->waiting >= b->env.opt->max_batch)
        return;
    int64_t until = dd_now_ns() + b->env.opt->max_queue_delay_us * 1000;
    while (b->waiting < b->env.opt->max_batch && !b->closing)
        if (dd_cond_wait_until(&b->work, &b->lock, until))
            return;
}

static void *batcher(void *arg) {
    struct dd_batcher *b = arg;
    pthread_setname_np(pthread_self(), "generate"); // and the threads it starts
    int rc = open_engine(b, &b->start_err);
    pthread_mutex_lock(&b->lock);
    b->start_rc = rc;
    pthread_cond_broadcast(&b->idle);
    struct batch k = {.s = dd_xcalloc((size_t)b->env.opt->max_batch, sizeof *k.s)};
    while (!rc) {
        if (!b->queue.head) {
            b->last_ns = 0;
            wait_for_work(b);
        }
        wait_for_renderers(b);
        if (b->closing)
            break;
        atomic_store(&b->beat, dd_now_ns());
        wait_for_company(b);
        k.nslices = k.images = 0;
        gather(b, &k);
        pthread_mutex_unlock(&b->lock);
        if (k.images)
            run_batch(b, &k);
        dr_snapshot_unref(k.snap);
        k.snap = NULL;
        atomic_store(&b->beat, INT64_MAX);
        pthread_mutex_lock(&b->lock);
    }
    fail_rest(b);
    pthread_mutex_unlock(&b->lock);
    free(k.s);
    dr_sampler_free(b->sampler);
    for (int i = 0; i < b->lanes; i++) {
        dr_sampler_free(b->lane[i].sampler);
        dr_backend_free(b->lane[i].be);
    }
    dr_backend_free(b->be);
    return NULL;
}

// --- life ---

static void destroy(struct dd_batcher *b) {
    dd_snapcache_free(b->cache);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->work);
    pthread_cond_destroy(&b->rendering);
    pthread_cond_destroy(&b->idle);
    free(b->sample);
    free(b->x);
    free(b->noise);
    free(b);
}

int dd_batcher_start(const struct dd_batcher_env *env, struct dd_batcher **out,
                     struct dr_err *err) {
    static const double seconds[] = {.001, .0025, .005, .01, .025, .05, .1,
                                     .25,  .5,    1,    2.5, 5,    10,  30};
    static const double sizes[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
    struct dd_batcher *b = dd_xcalloc(1, sizeof *b);
    b->env = *env;
    b->start_rc = 1;
    b->queue_hist.bound = b->compute_hist.bound = seconds;
    b->queue_hist.nbound = b->compute_hist.nbound = (int)DR_COUNT(seconds);
    b->batch_hist.bound = sizes;
    b->batch_hist.nbound = (int)DR_COUNT(sizes);
    atomic_store(&b->beat, INT64_MAX);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->work, NULL);
    pthread_cond_init(&b->rendering, NULL);
    pthread_cond_init(&b->idle, NULL);
    b->sample = dd_xcalloc((size_t)env->opt->max_batch, sizeof *b->sample);
    b->cache = dd_snapcache_new(env->store, env->events, env->models, env->opt->cache_mb << 20);
    if (pthread_create(&b->thread, NULL, batcher, b)) {
        destroy(b);
        return dr_fail(err, DR_ENOMEM, "cannot start the generation thread");
    }
    pthread_mutex_lock(&b->lock);
    while (b->start_rc == 1)
        pthread_cond_wait(&b->idle, &b->lock);
    int rc = b->start_rc;
    pthread_mutex_unlock(&b->lock);
    if (!rc)
        dd_render_threads_start(b);
    if (rc) {
        pthread_join(b->thread, NULL);
        if (err)
            *err = b->start_err;
        destroy(b);
        return rc;
    }
    *out = b;
    return 0;
}

void dd_batcher_drain(struct dd_batcher *b) {
    pthread_mutex_lock(&b->lock);
    b->draining = true;
    pthread_mutex_unlock(&b->lock);
}

void dd_batcher_stop(struct dd_batcher *b) {
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->draining = b->closing = true;
    pthread_cond_broadcast(&b->work);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    dd_render_threads_join(b);
    destroy(b);
}
