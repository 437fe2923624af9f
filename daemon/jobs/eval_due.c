// See eval_due.h; and what training reported, for the rows of its checkpoints.
#include "daemon/jobs/eval_due.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/evals/evals.h"
#include "daemon/jobs/changed.h"
#include "daemon/jobs/needs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 10 }; // of 1 to 6 s

// The configuration of the eval job that belongs to a training job. The keys that are training's
// stay for best and patience. *changed: what differs from the defaults.
static char *config_of(const struct dd_job *job, char **changed, struct dr_err *err) {
    struct dr_config c;
    dr_config_defaults(&c);
    c.kind = DR_RECIPE_EVAL;
    c.data = job->cfg.data;
    c.data.flip = false;
    c.data.crop = 0;
    c.eval = job->cfg.eval;
    c.eval.job = job->id;
    c.eval.every = c.eval.patience = 0;
    c.eval.every_seconds = 0;
    c.eval.at_end = false;
    snprintf(c.eval.best, sizeof c.eval.best, "auto");
    char *json = dr_config_to_json(&c);
    *changed = dd_changed(job->env->opt->config_dir, "", &c);
    if (!json)
        dr_fail(err, DR_ENOMEM, "no memory for the configuration of an evaluation");
    return json;
}

static int64_t checkpoint_id(struct dd_store *s, const char *path, int *priority, int64_t job,
                             char name[201]) {
    struct dr_err ignored;
    sqlite3 *db = dd_store_reader(s, &ignored);
    char *stored = dd_store_rel(s, path);
    sqlite3_stmt *st =
        db ? dd_sql_prepare(db, &ignored,
                            "SELECT (SELECT id FROM checkpoints WHERE path=? AND state='ok'),"
                            " priority, name FROM jobs WHERE id=?",
                            "ti", stored, job)
           : NULL;
    int64_t id = 0;
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        id = sqlite3_column_int64(st, 0);
        *priority = (int)sqlite3_column_int64(st, 1);
        snprintf(name, 201, "%s", (const char *)sqlite3_column_text(st, 2));
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    free(stored);
    return id;
}

// Another process may hold the database for a while; training waits for it, but not for ever.
static int queue(struct dd_job *job, struct dd_eval_due *d, struct dr_err *err) {
    int rc;
    for (int left = TRIES;; left--) {
        rc = dd_needs_judge(job->queue, d->config, d->priority, &d->needs, err);
        if (!rc)
            rc = dd_eval_due(job->env->store, d, err);
        if (!rc || !left || !dd_job_again(job, rc))
            return rc;
    }
}

void dd_eval_checkpoint(struct dd_job *job, int64_t step, const char *path) {
    struct dd_store *store = job->env->store;
    struct dd_eval_due d = {.job = job->id, .step = step, .cfg = &job->cfg};
    struct dr_err why = {0};
    char name[201] = "", text[600];
    d.checkpoint = checkpoint_id(store, path, &d.priority, job->id, name);
    d.name = name;
    char *changed, *config = config_of(job, &changed, &why);
    d.config = config;
    d.changed = changed;
    int rc = !config         ? DR_ENOMEM
             : !d.checkpoint ? dr_fail(&why, DR_ENOENT, "its checkpoint is not in the database")
                             : queue(job, &d, &why);
    free(config);
    free(changed);
    if (rc) {
        snprintf(text, sizeof text, "step %lld is not evaluated: %s", (long long)step, why.msg);
        dd_job_alert(job, "eval", step, text);
        return;
    }
    if (d.made || d.queued)
        dd_job_event(job->queue, d.id, d.made ? "" : "completed", "queued", NULL);
    dd_jobs_wake(job->queue);
}

// --- the best ---

static bool parent_config(struct dd_job *job, struct dr_config *out) {
    struct dr_err ignored;
    sqlite3 *db = dd_store_reader(job->env->store, &ignored);
    sqlite3_stmt *st =
        db ? dd_sql_prepare(db, &ignored,
                            "SELECT p.config FROM jobs j JOIN jobs p ON p.id=j.parent"
                            " WHERE j.id=?",
                            "i", job->id)
           : NULL;
    bool ok = false;
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        const char *json = (const char *)sqlite3_column_text(st, 0);
        ok = !dr_config_parse(json, strlen(json), NULL, out, NULL);
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return ok;
}

const char *dd_eval_best_name(struct dd_job *job, const struct dd_eval_outcome *o) {
    struct dr_config parent;
    const char *found = NULL;
    if (!parent_config(job, &parent))
        return NULL;
    const bool chosen = !strcmp(parent.eval.best, "auto");
    for (int i = 0; i < o->n; i++) {
        const char *name = o->value[i].name;
        if (chosen ? !strcmp(name, "fid") || (!strcmp(name, "fd") && !found)
                   : !strcmp(name, parent.eval.best))
            found = name;
    }
    job->cfg.eval.patience = parent.eval.patience; // as it is now
    return found;
}

// --- what training reported ---

json_t *dd_eval_training(struct dd_store *s, const struct dd_eval_run *r) {
    static const struct {
        const char *name, *metric;
    } last[] = {{"loss", "loss"},
                {"drift_norm", "drift_norm"},
                {"grad_norm", "grad_norm"},
                {"feature_dist_mean", "dist_mean"},
                {"feature_dist_var", "dist_var"}},
      mean[] = {{"avg_loss", "loss"}, {"avg_drift_norm", "drift_norm"}};
    struct dr_err ignored;
    json_t *o = json_object();
    sqlite3 *db = r->job ? dd_store_reader(s, &ignored) : NULL;
    const int64_t before =
        db ? dd_sql_one(db, 0,
                        "SELECT coalesce(max(step),0) FROM checkpoints WHERE job=? AND step<?",
                        "ii", r->job, r->step)
           : 0;
    for (size_t i = 0; db && i < DR_COUNT(last) + DR_COUNT(mean); i++) {
        const bool m = i >= DR_COUNT(last);
        sqlite3_stmt *st = dd_sql_prepare(
            db, &ignored,
            m ? "SELECT avg(value) FROM metrics WHERE job=? AND step>? AND step<=? AND"
                " name=(SELECT id FROM metric_names WHERE name=?)"
              : "SELECT value FROM metrics WHERE job=? AND step>=? AND step<=? AND"
                " name=(SELECT id FROM metric_names WHERE name=?) ORDER BY step DESC LIMIT 1",
            "iiit", r->job, m ? before : (int64_t)0, r->step,
            m ? mean[i - DR_COUNT(last)].metric : last[i].metric);
        const bool found =
            st && sqlite3_step(st) == SQLITE_ROW && sqlite3_column_type(st, 0) != SQLITE_NULL;
        json_object_set_new(o, m ? mean[i - DR_COUNT(last)].name : last[i].name,
                            found ? json_real(sqlite3_column_double(st, 0)) : json_null());
        sqlite3_finalize(st);
    }
    sqlite3_close(db);
    return o;
}
