// What is kept of images, on a thread of its own beside those that make and judge them. See
// eval_priv.h.
#include "engine/eval/eval_priv.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { PENDING = 2 };

// Features, logits and classes of n images for one tally.
struct work {
    struct eval_tally *to;
    int64_t n;
    real *feature, *logit; // one allocation, with cls
    int32_t *cls;
};

struct eval_beside {
    bool apart, started;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    // Under the lock: work number `done`, ..., `put` - 1 waits or is being done.
    struct work work[PENDING];
    uint64_t put, done;
    bool ending;
    struct dr_err err; // of the first that failed; what comes after it is dropped
};

int eval_beside_create(bool apart, struct eval_beside **out, struct dr_err *err) {
    struct eval_beside *b = *out = calloc(1, sizeof *b);
    if (!b)
        return dr_fail(err, DR_ENOMEM, "out of memory for an evaluation");
    b->apart = apart;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->changed, NULL);
    return 0;
}

static void *keep(void *ctx) {
    struct eval_beside *b = ctx;
    struct dr_err err = {0};
    pthread_setname_np(pthread_self(), "statistics");
    pthread_mutex_lock(&b->lock);
    for (;;) {
        while (b->done == b->put && !b->ending)
            pthread_cond_wait(&b->changed, &b->lock);
        if (b->done == b->put)
            break;
        const struct work w = b->work[b->done % PENDING];
        const bool failed = b->err.code != 0;
        pthread_mutex_unlock(&b->lock);
        const int rc = failed ? 0 : eval_tally_add(w.to, w.feature, w.logit, w.cls, w.n, &err);
        free(w.feature);
        pthread_mutex_lock(&b->lock);
        if (rc)
            b->err = err;
        b->done++;
        pthread_cond_broadcast(&b->changed);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

// Signals are for the threads that were there before.
static int start(struct eval_beside *b, struct dr_err *err) {
    sigset_t all, before;
    if (b->started)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int rc = pthread_create(&b->thread, NULL, keep, b);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    b->started = !rc;
    return rc ? dr_fail(err, DR_ENOMEM, "cannot start a thread for statistics: %s", strerror(rc))
              : 0;
}

static int copy(const struct eval_judge *j, const int32_t *cls, int64_t n, struct work *w,
                struct dr_err *err) {
    const size_t features = (size_t)(n * j->d), logits = (size_t)(n * j->classes);
    w->feature = malloc((features + logits) * sizeof *w->feature + (size_t)n * sizeof *w->cls);
    if (!w->feature)
        return dr_fail(err, DR_ENOMEM, "out of memory for the features of %lld images",
                       (long long)n);
    w->n = n;
    w->logit = w->feature + features;
    w->cls = (int32_t *)(w->logit + logits);
    memcpy(w->feature, j->feature, features * sizeof *w->feature);
    memcpy(w->logit, j->logit, logits * sizeof *w->logit);
    memcpy(w->cls, cls, (size_t)n * sizeof *w->cls);
    return 0;
}

// Waits until at most `pending` are left. The error of one that failed.
static int until(struct eval_beside *b, uint64_t pending, struct dr_err *err) {
    while (b->put - b->done > pending)
        pthread_cond_wait(&b->changed, &b->lock);
    return b->err.code ? dr_fail(err, b->err.code, "%s", b->err.msg) : 0;
}

int eval_beside_add(struct eval_beside *b, struct eval_tally *to, const struct eval_judge *j,
                    const int32_t *cls, int64_t n, struct dr_err *err) {
    struct work w = {.to = to};
    if (!b->apart)
        return eval_tally_add(to, j->feature, j->logit, cls, n, err);
    int rc = start(b, err);
    if (!rc)
        rc = copy(j, cls, n, &w, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&b->lock);
    rc = until(b, PENDING - 1, err);
    if (!rc) {
        b->work[b->put++ % PENDING] = w;
        pthread_cond_broadcast(&b->changed);
    }
    pthread_mutex_unlock(&b->lock);
    if (rc)
        free(w.feature);
    return rc;
}

int eval_beside_wait(struct eval_beside *b, struct dr_err *err) {
    pthread_mutex_lock(&b->lock);
    const int rc = until(b, 0, err);
    pthread_mutex_unlock(&b->lock);
    return rc;
}

void eval_beside_free(struct eval_beside *b) {
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->ending = true;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
    if (b->started)
        pthread_join(b->thread, NULL);
    pthread_cond_destroy(&b->changed);
    pthread_mutex_destroy(&b->lock);
    free(b);
}
