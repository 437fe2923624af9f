// Published snapshot and field (live.h).
#include "daemon/generate/live.h"

#include "daemon/base/util.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct dd_live {
    pthread_mutex_t lock;
    struct dr_snapshot *snap;
    int64_t job;
    struct dr_drift_field *field;
    int64_t field_job;
};

struct dd_live *dd_live_new(void) {
    struct dd_live *l = dd_xcalloc(1, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    return l;
}

void dd_live_free(struct dd_live *l) {
    if (!l)
        return;
    dr_snapshot_unref(l->snap);
    free(l->field);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void dd_live_set(struct dd_live *l, int64_t job, struct dr_snapshot *s) {
    pthread_mutex_lock(&l->lock);
    struct dr_snapshot *old = l->snap;
    l->snap = s;
    l->job = s ? job : 0;
    pthread_mutex_unlock(&l->lock);
    dr_snapshot_unref(old); // outside the lock: it may free megabytes
}

struct dr_snapshot *dd_live_get(struct dd_live *l, int64_t *job) {
    pthread_mutex_lock(&l->lock);
    struct dr_snapshot *s = dr_snapshot_ref(l->snap);
    if (job)
        *job = l->job;
    pthread_mutex_unlock(&l->lock);
    return s;
}

bool dd_live_has(struct dd_live *l) {
    pthread_mutex_lock(&l->lock);
    bool has = l->snap != NULL;
    pthread_mutex_unlock(&l->lock);
    return has;
}

void dd_live_set_field(struct dd_live *l, int64_t job, struct dr_drift_field *f) {
    pthread_mutex_lock(&l->lock);
    struct dr_drift_field *old = l->field;
    l->field = f;
    l->field_job = job;
    pthread_mutex_unlock(&l->lock);
    free(old);
}

struct dr_drift_field *dd_live_field(struct dd_live *l, int64_t job) {
    struct dr_drift_field *copy = NULL;
    pthread_mutex_lock(&l->lock);
    if (l->field && l->field_job == job) {
        size_t bytes = dr_drift_field_bytes(l->field);
        copy = dd_xcalloc(1, bytes);
        memcpy(copy, l->field, bytes);
    }
    pthread_mutex_unlock(&l->lock);
    return copy;
}
