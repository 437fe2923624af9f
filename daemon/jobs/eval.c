// The job kind `eval` (eval_priv.h): takes the queued runs of its job one after the other, beside a
// job that trains.
#include "daemon/jobs/eval_priv.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/jobs/eval_due.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tally {
    int64_t failed, finished;
    char error[400];
};

static void after(struct dd_eval_work *w, const struct dd_eval_run *r,
                  const struct dd_eval_outcome *o) {
    const struct dr_config *cfg = &w->job->cfg;
    char why[200];
    if (!o->best || !cfg->eval.patience || o->since_best < cfg->eval.patience)
        return;
    snprintf(why, sizeof why,
             "%lld evaluations in a row without a better %s: the training ends (eval.patience)",
             (long long)o->since_best, o->best);
    if (dd_jobs_finish_early(w->job->queue, r->job))
        dd_event(w->job->env->events, "alert", r->job,
                 json_pack("{s:s, s:I, s:s}", "kind", "patience", "step", (json_int_t)r->step,
                           "text", why));
}

static void outcome_free(struct dd_eval_outcome *o) {
    json_decref(o->settings);
    json_decref(o->training);
    json_decref(o->details);
}

// Whether to repeat a write to the store: what was measured does not depend on who holds the
// database just now, or on a disk that is full until somebody comes. A stop ends the waiting, and
// the job as any other; the next start finds the run where it was.
static bool again(struct dd_eval_work *w, int *rc) {
    if (dd_job_again(w->job, *rc))
        return true;
    if (*rc == DR_EBUSY || *rc == DR_ENOSPC) {
        w->stop = true;
        *rc = DR_ECANCELED;
    }
    return false;
}

static int finish(struct dd_eval_work *w, const struct dd_eval_run *r, struct dd_eval_outcome *o,
                  struct dr_err *err) {
    int rc;
    do
        rc = dd_eval_finish(w->job->env->store, r, o, err);
    while (again(w, &rc));
    return rc;
}

static int note_failure(struct dd_eval_work *w, const struct dd_eval_run *r, const char *why,
                        struct dr_err *err) {
    int rc;
    do
        rc = dd_eval_fail(w->job->env->store, r->id, why, err);
    while (again(w, &rc));
    return rc;
}

// One run to its end. DR_ECANCELED: a stop; anything else but 0 ends the job.
static int take(struct dd_eval_work *w, const struct dd_eval_run *r, struct tally *t,
                struct dr_err *err) {
    struct dd_store *store = w->job->env->store;
    struct dd_events *events = w->job->env->events;
    struct dd_eval_outcome o = {0};
    struct dr_err why = {0}, ignored;
    dd_eval_event(events, r, "running", 0);
    int rc = dd_eval_one(w, r, &o, &why);
    if (!rc)
        rc = finish(w, r, &o, &why);
    if (rc == DR_ECANCELED && w->stop) {
        outcome_free(&o);
        dd_eval_put_back(store, r->id, 0, &ignored);
        return rc;
    }
    if (!rc) {
        dd_eval_forget(w, r);
        t->finished++;
        dd_eval_event(events, r, "done", 1);
        after(w, r, &o);
        if (dd_eval_write_metadata(w, r->id, &why))
            dd_job_alert(w->job, "disk", r->step, why.msg);
    } else {
        t->failed++;
        snprintf(t->error, sizeof t->error, "%.300s: %.90s", r->name, why.msg);
        rc = note_failure(w, r, why.msg, err);
        if (!rc)
            dd_eval_event(events, r, "failed", 0);
    }
    outcome_free(&o);
    return rc;
}

// Runs whose settings were tried before, where the configuration says to leave those out.
static bool skip(struct dd_eval_work *w, const struct dd_eval_run *r) {
    const struct dr_eval_section *e = &w->job->cfg.eval;
    struct dr_err err;
    const int64_t same = e->skip_existing ? dd_eval_same(w->job->env->store, r, w->comparable,
                                                         e->weights ? "raw" : "ema", e->seed, &err)
                                          : 0;
    if (!same || dd_eval_skip(w->job->env->store, r->id, &err))
        return false;
    dd_log(DR_LOG_INFO, "eval.skipped", "job=%lld source=%s same=%lld", (long long)w->job->id,
           r->source, (long long)same);
    return true;
}

static int count(struct dd_eval_work *w, struct dr_err *err) {
    const int64_t n = w->job->cfg.eval.n;
    int64_t waiting, ended;
    const int rc = dd_eval_counts(w->job->env->store, w->job->id, &waiting, &ended, err);
    if (!rc) {
        w->done = ended * n;
        w->total = (ended + waiting) * n;
    }
    return rc;
}

static int work(struct dd_eval_work *w, struct tally *t, struct dr_err *err) {
    struct dd_eval_run r;
    for (;;) {
        int rc;
        do {
            rc = count(w, err);
            if (!rc)
                rc = dd_eval_next(w->job->env->store, w->job->id, &r, err);
        } while (again(w, &rc));
        if (rc || !r.id)
            return rc;
        if (skip(w, &r))
            continue;
        if ((rc = take(w, &r, t, err)))
            return rc;
    }
}

static int run(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *err) {
    struct dd_eval_work w = {.job = job, .since = dd_seconds(), .reported = dd_seconds()};
    struct tally t = {0};
    struct dr_err ignored;
    w.worked = dd_eval_thread_seconds();
    int rc;
    do {
        rc = dd_eval_plan(job->env->store, job->id, &job->cfg, job->resume, err);
        if (!rc)
            rc = count(&w, err);
    } while (again(&w, &rc));
    if (!rc)
        rc = dd_eval_setup(&w, err);
    if (!rc)
        rc = work(&w, &t, err);
    dd_eval_report(&w);
    dd_eval_setdown(&w);
    if (rc == DR_ECANCELED && w.stop) {
        *outcome = DD_RUN_STOPPED;
        return 0;
    }
    if (rc) // what waits would fail in the same way
        dd_eval_give_up(job->env->store, job->id, err->msg, &ignored);
    else if (t.failed)
        rc = dr_fail(err, DR_EINVAL, "%lld of %lld evaluations failed; the last one: %s",
                     (long long)t.failed, (long long)(t.failed + t.finished), t.error);
    *outcome = rc ? DD_RUN_FAILED : DD_RUN_COMPLETED;
    return rc;
}

const struct dd_job_kind dd_kind_eval = {.name = "eval",
                                         .about = "Evaluates checkpoints or pictures.",
                                         .section = "eval",
                                         .run = run,
                                         .resumes = true,
                                         .beside = true};
