// How much of the processor an eval job takes from a job that trains (eval_priv.h).
#include "daemon/jobs/eval_priv.h"

#include "daemon/base/util.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// A slice beside training is short: whatever the share, that is how long training may wait.
static const double SLICE_BESIDE = 0.02, SLICE_ALONE = 0.25, NAP = 0.1, REPORT_EVERY = 1;
// Between saves: seconds, times what the last one took, work done.
static const double SAVE_EVERY = 20, SAVE_TIMES = 20, SAVE_STEP = 0.05;

int dd_eval_path(const struct dd_eval_work *w, char out[DD_PATH_MAX], struct dr_err *err,
                 const char *fmt, ...) {
    char rest[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rest, sizeof rest, fmt, ap);
    va_end(ap);
    int rc = dd_path(out, err, "%s/evals/%s", w->job->env->opt->state_dir, rest);
    return rc ? rc : dd_mkdir_for(out, err);
}

double dd_eval_thread_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool dd_eval_others_train(const struct dd_eval_work *w) {
    struct dd_jobs *j = w->job->queue;
    pthread_mutex_lock(&j->lock);
    const bool busy = j->lane[DD_LANE_MAIN].running != 0;
    pthread_mutex_unlock(&j->lock);
    return busy;
}

double dd_eval_slice(const struct dd_eval_work *w) {
    return dd_eval_others_train(w) ? SLICE_BESIDE : SLICE_ALONE;
}

bool dd_eval_save_due(const struct dd_eval_saved *last, double now, double progress) {
    return now - last->at >= fmax(SAVE_EVERY, SAVE_TIMES * last->took) &&
           progress - last->progress >= SAVE_STEP;
}

void dd_eval_note_save(struct dd_eval_work *w, double began, double progress) {
    const double now = dd_seconds();
    w->saved = (struct dd_eval_saved){.at = now, .took = now - began, .progress = progress};
}

static bool wants_stop(struct dd_eval_work *w) {
    const enum dd_wish wish = dd_job_wish(w->job);
    w->stop |= wish == DD_WISH_STOP || wish == DD_WISH_STOP_NOW;
    return w->stop;
}

void dd_eval_report(struct dd_eval_work *w) {
    const double now = dd_seconds();
    dd_job_progress(w->job, w->refs_done + w->done, w->refs_total + w->total, now - w->reported);
    w->reported = now;
}

bool dd_eval_pace(struct dd_eval_work *w) {
    const bool cpu = !strncmp(w->job->env->device, "cpu", 3);
    double now = dd_seconds();
    const double worked = cpu ? dd_eval_thread_seconds() - w->worked : now - w->since,
                 due = w->since + worked / w->job->cfg.eval.share;
    while (!wants_stop(w) && now < due && dd_eval_others_train(w)) {
        usleep((useconds_t)(1e6 * fmin(NAP, due - now)));
        now = dd_seconds();
    }
    w->since = dd_seconds();
    w->worked = dd_eval_thread_seconds();
    if (w->since - w->reported >= REPORT_EVERY)
        dd_eval_report(w);
    return !w->stop;
}
