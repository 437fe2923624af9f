// The queue and the state machine of jobs (jobs.h).
#include "daemon/jobs/jobs.h"

#include "daemon/base/log.h"
#include "daemon/base/recipe.h"
#include "daemon/base/util.h"
#include "daemon/evals/evals.h"
#include "daemon/jobs/changed.h"
#include "daemon/jobs/jobs_priv.h"
#include "daemon/jobs/judge.h"
#include "daemon/jobs/needs.h"
#include "daemon/jobs/own_encoder.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CRASHES = 5 }; // in a row, after which a job is not queued again by itself

// --- states ---

static int set_state(struct dd_jobs *j, struct dd_job_change *c, struct dr_err *err) {
    int rc = dd_store_do(j->env.store, dd_job_change, c, err);
    if (!rc)
        dd_job_event(j, c->id, c->old, c->state, c->error);
    return rc;
}

// --- creation ---

struct create {
    const struct dd_job_new *in;
    struct dr_config cfg; // in's, with the ids of checkpoints that it names
    const struct dd_job_kind *kind;
    char *json, *changed;
    int64_t id;
    bool replayed;
    // The recipe of an encoder that the job needs, and of a judge that its evaluations will; json
    // NULL: none.
    struct dd_need need, judge;
};

static void release(struct create *c) {
    free(c->json);
    free(c->changed);
    dd_need_release(&c->need);
    dd_need_release(&c->judge);
}

// The job that the key has made, if there is one. DR_EGONE: it has been removed.
static int known_key(sqlite3 *db, struct create *c, struct dr_err *err) {
    sqlite3_stmt *st = dd_sql_prepare(
        db, err, "SELECT fingerprint, job FROM idempotency WHERE key=? AND created_us>=?", "ti",
        c->in->key, dd_key_since());
    int rc = st ? 0 : DR_EIO;
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        const char *fp = (const char *)sqlite3_column_text(st, 0);
        if (strcmp(fp, c->in->fingerprint ? c->in->fingerprint : "")) {
            rc = dr_fail_at(err, DR_EINVAL, "Idempotency-Key",
                            "Idempotency-Key: this key was used with another body");
        } else {
            c->id = sqlite3_column_int64(st, 1);
            c->replayed = true;
        }
    }
    sqlite3_finalize(st);
    return rc || c->replayed ? rc : dd_key_check(db, "job", c->in->key, err);
}

int dd_jobs_known(struct dd_jobs *j, const char *key, const char *fingerprint, int64_t *id,
                  struct dr_err *err) {
    const struct dd_job_new in = {.key = key, .fingerprint = fingerprint};
    struct create c = {.in = &in};
    sqlite3 *db = dd_store_reader(j->env.store, err);
    int rc = db ? known_key(db, &c, err) : DR_EIO;
    sqlite3_close(db);
    *id = rc ? 0 : c.id;
    return rc;
}

static int create(sqlite3 *db, void *arg, struct dr_err *err) {
    struct create *c = arg;
    const struct dd_job_new *in = c->in;
    struct dd_job_new row = *in;
    row.changed = c->changed;
    int rc = in->key ? known_key(db, c, err) : 0;
    if (rc || c->replayed)
        return rc;
    // Before the job itself, so that it is trained first; the job does not fail with it.
    if (c->judge.json)
        rc = dd_needs_take(db, &c->judge, in->priority, err);
    if (!rc && c->need.json)
        rc = dd_needs_take(db, &c->need, in->priority, err);
    if (!rc)
        rc = dd_job_insert(db, &row, c->json, c->kind->steps ? c->kind->steps(&c->cfg) : 0,
                           c->need.id, c->judge.id, &c->id, err);
    if (!rc && in->key)
        rc = dd_sql_run(db, err, "INSERT OR REPLACE INTO idempotency VALUES(?,?,?,?)", "ttii",
                        in->key, in->fingerprint ? in->fingerprint : "", c->id, dd_wall_us());
    return rc;
}

// The recipe that cfg's encoder is trained by, of a kind that this queue can run.
static int read_need(struct dd_jobs *j, const struct dr_config *cfg, struct dd_need *n,
                     struct dr_err *err) {
    const struct dd_job_kind *kind;
    int rc = dd_needs_read(j->env.opt->config_dir, cfg, n, err);
    return rc || !n->json ? rc
                          : dd_job_kind_find(j->env.kinds, dr_recipe_word(n->cfg.kind), &kind, err);
}

// What of the network in a file rules it out as the encoder or judge that cfg names. Files that
// cannot be looked at pass, and fail when the job runs.
static int check_encoder(const struct dr_config *cfg, const char *path, struct dr_err *err) {
    struct dr_net *net;
    int rc;
    if (dr_snapshot_network(path, &net, NULL))
        return 0;
    if (cfg->kind == DR_RECIPE_EVAL)
        rc = dd_judge_expect(&cfg->eval, net, cfg->data.classes, err);
    else if (dr_net_kind(net) == DR_NET_GENERATOR)
        rc = dr_fail_at(err, DR_EINVAL, "features.encoder",
                        "features.encoder: %.200s is a generator; expected an encoder",
                        cfg->features.encoder);
    else
        rc = dd_encoder_maps(cfg, net, err);
    dr_net_free(net);
    return rc;
}

// The file or the checkpoint that cfg names as its encoder or judge; a recipe is another matter.
static int check_named(struct dd_jobs *j, const struct dr_config *cfg, struct dr_err *err) {
    char path[DD_PATH_MAX];
    const char *word;
    const enum dd_encoder_ref ref = dd_encoder_ref(cfg, &word);
    if (ref == DD_ENCODER_NONE || ref == DD_ENCODER_RECIPE)
        return 0;
    int rc = dd_ckpt_find(j->env.store, j->env.opt->data_dir, dd_encoder_key(cfg), word, path, err);
    return rc ? rc : check_encoder(cfg, path, err);
}

static int check_inception(struct dd_jobs *j, const struct dr_eval_section *e, struct dr_err *err) {
    char path[DD_PATH_MAX];
    struct dr_net *net;
    struct dr_err why = {0};
    int64_t side;
    int rc =
        dd_ckpt_find(j->env.store, j->env.opt->data_dir, "eval.inception", e->inception, path, err);
    if (rc)
        return rc;
    const size_t n = strlen(path); // messages begin with it
    if (dr_snapshot_network(path, &net, &why))
        return dr_fail_at(err, DR_EINVAL, "eval.inception",
                          "eval.inception: %.200s is no network of Inception-v3%.200s",
                          e->inception, strncmp(why.msg, path, n) ? "" : why.msg + n);
    rc = dd_inception_expect(e, net, &side, err);
    dr_net_free(net);
    return rc;
}

static int check_eval(struct dd_jobs *j, const struct dr_eval_section *e, struct dr_err *err) {
    unsigned metrics[DD_EVAL_BYS];
    int rc = dd_eval_metrics_parse(e->metrics, metrics, err);
    return rc || !e->inception[0] || !metrics[DD_EVAL_BY_INCEPTION] ? rc
                                                                    : check_inception(j, e, err);
}

// Whether evaluations while training will have the metric: it is asked for, its network is named,
// and `all` does not leave it out (accuracy by Inception's classes, and classes where the data have
// none).
static bool measured(const struct dr_config *cfg, int metric, enum dd_eval_by by) {
    const struct dr_eval_section *e = &cfg->eval;
    const bool by_judge = by == DD_EVAL_BY_JUDGE, all = !strcmp(e->metrics, "all"),
               classes = dr_eval_metrics[metric].needs & DR_NEED_CLASSES;
    unsigned metrics[DD_EVAL_BYS];
    if (dd_eval_metrics_parse(e->metrics, metrics, NULL) || !(metrics[by] >> metric & 1) ||
        !(by_judge ? e->judge : e->inception)[0])
        return false;
    return !all || !classes || (cfg->data.classes > 1 && (by_judge || metric != DR_EVAL_ACCURACY));
}

// A best checkpoint, and an end after some without a better one, need a metric that is measured.
static int check_best(const struct dr_config *cfg, struct dr_err *err) {
    const struct dr_eval_section *e = &cfg->eval;
    enum dd_eval_by by;
    int metric;
    if (!strcmp(e->best, "auto")) {
        if (!e->patience || measured(cfg, DR_EVAL_FD, DD_EVAL_BY_INCEPTION) ||
            measured(cfg, DR_EVAL_FD, DD_EVAL_BY_JUDGE))
            return 0;
        return dr_fail_at(err, DR_EINVAL, "eval.patience",
                          "eval.patience is %lld; it waits for a better fid or fd (eval.best), and "
                          "these evaluations have neither (eval.metrics \"%.100s\")",
                          (long long)e->patience, e->metrics);
    }
    const int rc = dd_eval_metric_find(e->best, &metric, &by, "eval.best", err);
    if (rc || measured(cfg, metric, by))
        return rc;
    const bool named = (by == DD_EVAL_BY_JUDGE ? e->judge : e->inception)[0];
    return named ? dr_fail_at(err, DR_EINVAL, "eval.best",
                              "eval.best is %.40s, which is not among the metrics of these "
                              "evaluations (eval.metrics \"%.100s\")",
                              e->best, e->metrics)
                 : dr_fail_at(err, DR_EINVAL, "eval.best",
                              "eval.best is %.40s, which needs %s; that is empty", e->best,
                              by == DD_EVAL_BY_JUDGE ? "eval.judge" : "eval.inception");
}

// The judge by which a training job's checkpoints will be evaluated, as a configuration of kind
// eval names it, and the recipe that trains it.
static int check_evaluations(struct dd_jobs *j, const struct dr_config *cfg, struct dd_need *n,
                             struct dr_err *err) {
    struct dr_config as = *cfg;
    as.kind = DR_RECIPE_EVAL;
    int rc = check_eval(j, &cfg->eval, err);
    if (!rc)
        rc = check_best(cfg, err);
    if (!rc)
        rc = check_named(j, &as, err);
    return rc || n->id ? rc : read_need(j, &as, n, err);
}

static int check_sources(struct dd_jobs *j, const struct dr_eval_section *e, struct dr_err *err) {
    json_t *data;
    int rc = check_eval(j, e, err);
    if (rc)
        return rc;
    rc = dd_eval_sources(j->env.store, j->env.opt->data_dir, e, &data, err);
    json_decref(data);
    return rc;
}

// The weights that a job starts from: those of a network of its kind and, of the same architecture,
// of its sizes. What else differs may start fresh (dr_trainer_init_from).
static int check_weights(const struct dr_config *cfg, const char *path, struct dr_err *err) {
    struct dr_net *net;
    int rc = 0;
    if (dr_snapshot_network(path, &net, NULL))
        return 0;
    const struct dr_model_config *m = dr_gen_config(net), *own = &cfg->model;
    const struct {
        const char *key;
        int64_t theirs, ours;
    } size[] = {{"model.dim", m ? m->dim : 0, own->dim},
                {"data.channels", m ? m->channels : 0, own->channels},
                {"data.classes", m ? m->classes : 0, own->classes}};
    if ((cfg->kind == DR_RECIPE_TRAIN) != (m != NULL))
        rc = dr_fail_at(err, DR_EINVAL, "init_from",
                        "init_from: %.200s holds the %s %s; a job of kind %s cannot start from it",
                        cfg->init_from, dr_net_kind_word(dr_net_kind(net)), dr_net_name(net),
                        dr_recipe_word(cfg->kind));
    for (size_t i = 0; i < DR_COUNT(size) && !rc && m && m->arch == own->arch; i++)
        if (size[i].theirs != size[i].ours)
            rc = dr_fail_at(err, DR_EINVAL, "init_from",
                            "init_from: %.200s is a network with %s %lld; this job's has %lld",
                            cfg->init_from, size[i].key, (long long)size[i].theirs,
                            (long long)size[i].ours);
    dr_net_free(net);
    return rc;
}

// What a configuration refers to is there, and of its kind.
static int check_refs(struct dd_jobs *j, const struct dr_config *cfg, struct dr_err *err) {
    char path[DD_PATH_MAX];
    int rc = 0;
    if (cfg->init_from[0])
        rc = dd_ckpt_find(j->env.store, j->env.opt->data_dir, "init_from", cfg->init_from, path,
                          err);
    if (!rc && cfg->init_from[0])
        rc = check_weights(cfg, path, err);
    if (!rc && cfg->kind == DR_RECIPE_EVAL)
        rc = check_sources(j, &cfg->eval, err);
    return rc ? rc : check_named(j, cfg, err);
}

// Of the job that this one is like.
static int keep_needs(struct dd_jobs *j, struct create *c, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(j->env.store, err);
    if (!db)
        return DR_EIO;
    c->need.id = dd_needs_kept(db, c->in->like);
    c->judge.id = dd_needs_kept_judge(db, c->in->like);
    sqlite3_close(db);
    return 0;
}

// What of it can be checked before the database is asked; frees c where it fails.
static int prepare(struct dd_jobs *j, struct create *c, struct dr_err *err) {
    const struct dd_job_new *in = c->in;
    const struct dr_config *cfg = &c->cfg;
    c->cfg = *in->cfg;
    int rc = dd_job_kind_find(j->env.kinds, in->kind, &c->kind, err);
    if (!rc)
        rc = dd_ckpt_pin(j->env.store, &c->cfg, err);
    if (!rc)
        rc = check_refs(j, cfg, err);
    if (!rc && in->like)
        rc = keep_needs(j, c, err);
    if (!rc && !c->need.id)
        rc = read_need(j, cfg, &c->need, err);
    if (!rc && dr_config_evaluates(cfg))
        rc = check_evaluations(j, cfg, &c->judge, err);
    if (!rc)
        rc = dd_own_encoder_check(j->env.store, j->env.opt->data_dir, j->env.opt->config_dir, cfg,
                                  err);
    if (!rc && !(c->json = dr_config_to_json(cfg)))
        rc = dr_fail(err, DR_ENOMEM, "no memory for the configuration");
    if (rc)
        release(c);
    else
        c->changed = dd_changed(j->env.opt->config_dir, in->recipe, cfg);
    return rc;
}

static void announce(struct dd_jobs *j, const struct create *c) {
    if (c->replayed)
        return;
    if (c->judge.made)
        dd_job_event(j, c->judge.id, "", "queued", NULL);
    if (c->need.made)
        dd_job_event(j, c->need.id, "", "queued", NULL);
    dd_job_event(j, c->id, "", "queued", NULL);
}

int dd_jobs_create(struct dd_jobs *j, const struct dd_job_new *in, int64_t *id, bool *replayed,
                   struct dr_err *err) {
    struct create c = {.in = in};
    // Before anything is checked, since what the request names may be gone by now.
    int rc = in->key ? dd_jobs_known(j, in->key, in->fingerprint, &c.id, err) : 0;
    c.replayed = c.id != 0;
    if (!rc && !c.replayed && !(rc = prepare(j, &c, err))) {
        rc = dd_store_do(j->env.store, create, &c, err);
        release(&c);
    }
    if (rc)
        return rc;
    *id = c.id;
    *replayed = c.replayed;
    announce(j, &c);
    if (!c.replayed)
        dd_jobs_wake(j);
    return 0;
}

struct dd_job_draft {
    struct dd_job_new in;
    struct create c;
};

int dd_job_draft(struct dd_jobs *j, const struct dd_job_new *in, struct dd_job_draft **out,
                 struct dr_err *err) {
    struct dd_job_draft *d = dd_xcalloc(1, sizeof *d);
    d->in = *in;
    d->c.in = &d->in;
    int rc = prepare(j, &d->c, err);
    if (rc)
        free(d);
    else
        *out = d;
    return rc;
}

int dd_job_draft_put(sqlite3 *db, struct dd_job_draft *d, int64_t sweep, int64_t *id,
                     struct dr_err *err) {
    d->in.sweep = sweep;
    int rc = create(db, &d->c, err);
    *id = d->c.id;
    return rc;
}

void dd_job_draft_free(struct dd_jobs *j, struct dd_job_draft *d, bool committed) {
    if (!d)
        return;
    if (committed)
        announce(j, &d->c);
    release(&d->c);
    free(d);
}

int dd_jobs_autostart(struct dd_jobs *j, const char *recipe, struct dr_err *err) {
    struct dr_config cfg;
    int rc = dd_recipe_load(j->env.opt->config_dir, recipe, &cfg, err);
    if (rc)
        return rc;
    const char *name = cfg.name[0] ? cfg.name : recipe;
    sqlite3 *db = dd_store_reader(j->env.store, err);
    if (!db)
        return DR_EIO;
    int64_t have =
        dd_sql_one(db, 0,
                   "SELECT count(*) FROM jobs WHERE recipe=?1 AND (state IN"
                   " ('queued','running','stopping','paused','interrupted','completed') OR EXISTS"
                   " (SELECT 1 FROM checkpoints c WHERE c.job=jobs.id AND c.state='ok'))",
                   "t", name);
    sqlite3_close(db);
    if (have)
        return 0;
    int64_t id;
    bool replayed;
    struct dd_job_new in = {.cfg = &cfg, .recipe = name, .kind = dr_recipe_word(cfg.kind)};
    return dd_jobs_create(j, &in, &id, &replayed, err);
}

// --- actions ---

struct resume {
    struct dd_job_change change;
    struct dd_need need;
    bool changed; // what it needs has been queued again, or is another job now
    char old[16];
};

// The configuration of a job, for the recipe that it names.
static int config_of(struct dd_jobs *j, int64_t id, struct dr_config *cfg, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(j->env.store, err);
    sqlite3_stmt *st =
        db ? dd_sql_prepare(db, err, "SELECT config FROM jobs WHERE id=?", "i", id) : NULL;
    int rc = st ? DR_ENOENT : DR_EIO;
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        const char *json = (const char *)sqlite3_column_text(st, 0);
        rc = dr_config_parse(json, strlen(json), NULL, cfg, err);
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}

static int resume(sqlite3 *db, void *arg, struct dr_err *err) {
    struct resume *r = arg;
    bool missing;
    int64_t woken;
    int rc = dd_job_change(db, &r->change, err);
    if (!rc)
        rc = dd_needs_resume(db, r->change.id, &woken, &missing, r->old, err);
    if (rc || (!missing && !woken))
        return rc;
    r->changed = true;
    r->need.id = woken;
    if (!missing)
        return 0;
    if (!r->need.json)
        return dr_fail(err, DR_ECONFLICT, "job %lld needs an encoder whose job has been removed",
                       (long long)r->change.id);
    snprintf(r->old, sizeof r->old, "%s", "");
    rc = dd_needs_take(
        db, &r->need,
        (int)dd_sql_one(db, 0, "SELECT priority FROM jobs WHERE id=?", "i", r->change.id), err);
    return rc ? rc
              : dd_sql_run(db, err, "UPDATE jobs SET needs=? WHERE id=?", "ii", r->need.id,
                           r->change.id);
}

static int resume_job(struct dd_jobs *j, int64_t id, struct dr_err *err) {
    static const char *const from[] = {"paused", "stopped", "failed", "interrupted", NULL};
    struct resume r = {.change = {.id = id, .state = "queued", .from = from, .verb = "resumed"}};
    struct dr_config cfg;
    struct dr_err why;
    if (!config_of(j, id, &cfg, &why)) // a recipe that is gone matters only where it is needed
        read_need(j, &cfg, &r.need, &why);
    int rc = dd_store_do(j->env.store, resume, &r, err);
    dd_need_release(&r.need);
    if (rc)
        return rc;
    if (r.changed && (r.need.made || r.old[0]))
        dd_job_event(j, r.need.id, r.old, "queued", NULL);
    dd_job_event(j, id, r.change.old, "queued", NULL);
    dd_jobs_wake(j);
    return 0;
}

// For jobs that are not running.
static int stop_waiting(struct dd_jobs *j, int64_t id, enum dd_job_action a, struct dr_err *err) {
    static const char *const stop_from[] = {"queued", "paused", "interrupted", NULL};
    static const char *const pause_from[] = {"queued", "interrupted", NULL};
    static const char *const nothing[] = {NULL};
    struct dd_job_change c = {.id = id, .state = "stopped", .from = stop_from, .verb = "stopped"};
    if (a == DD_JOB_PAUSE)
        c = (struct dd_job_change){
            .id = id, .state = "paused", .from = pause_from, .verb = "paused"};
    if (a == DD_JOB_CHECKPOINT)
        c = (struct dd_job_change){.id = id, .from = nothing, .verb = "checkpointed"};
    int rc = set_state(j, &c, err);
    dd_jobs_wake(j); // others may have waited for it
    return rc;
}

int dd_jobs_action(struct dd_jobs *j, int64_t id, enum dd_job_action a, struct dr_err *err) {
    if (a == DD_JOB_RESUME)
        return resume_job(j, id, err);
    pthread_mutex_lock(&j->lock);
    struct dd_lane *l = dd_job_lane(j, id);
    const bool mine = l != NULL,
               stop = a == DD_JOB_STOP || a == DD_JOB_STOP_NOW || a == DD_JOB_PAUSE;
    const bool saves = mine && !l->beside; // what runs beside others has no training to save
    // Whatever else was wished for ends the run, and ends it with a checkpoint.
    if (mine && (stop || saves) && l->wish != DD_WISH_STOP_NOW &&
        !(a == DD_JOB_CHECKPOINT && l->wish != DD_WISH_NONE)) {
        l->wish = a == DD_JOB_CHECKPOINT ? DD_WISH_CHECKPOINT
                  : a == DD_JOB_STOP_NOW ? DD_WISH_STOP_NOW
                                         : DD_WISH_STOP;
        if (stop)
            l->pausing = a == DD_JOB_PAUSE;
    }
    const bool pausing = mine && l->pausing; // a pause after a stop at once changes nothing
    pthread_mutex_unlock(&j->lock);
    if (!mine)
        return stop_waiting(j, id, a, err);
    if (!stop)
        return saves ? 0
                     : dr_fail(err, DR_ECONFLICT,
                               "job %lld is of a kind that writes no checkpoints", (long long)id);
    // The thread may have ended the job meanwhile: its final state wins.
    static const char *const from[] = {"running", "stopping", NULL};
    struct dd_job_change c = {.id = id,
                              .state = "stopping",
                              .pausing = pausing,
                              .from = from,
                              .verb = a == DD_JOB_PAUSE ? "paused" : "stopped"};
    // It stops all the same where the row cannot say so for now: how it ended will be there.
    const int rc = set_state(j, &c, err);
    return rc == DR_EBUSY || rc == DR_ENOSPC ? 0 : rc;
}

struct patch {
    int64_t id;
    const char *name, *notes;
    const int *priority;
};

static int patch(sqlite3 *db, void *arg, struct dr_err *err) {
    struct patch *p = arg;
    char old[16];
    int rc = dd_job_state(db, p->id, old, err);
    if (rc)
        return rc;
    if (p->priority && strcmp(old, "queued"))
        return dr_fail_at(err, DR_ECONFLICT, "priority",
                          "job %lld is %s; only the priority of a queued job can change",
                          (long long)p->id, old);
    rc = dd_sql_run(db, err,
                    "UPDATE jobs SET name=coalesce(?,name), notes=coalesce(?,notes) WHERE id=?",
                    "tti", p->name, p->notes, p->id);
    if (!rc && p->priority)
        rc = dd_sql_run(db, err, "UPDATE jobs SET priority=? WHERE id=?", "ii",
                        (int64_t)*p->priority, p->id);
    return rc || !p->priority ? rc : dd_needs_raise(db, p->id, err);
}

int dd_jobs_patch(struct dd_jobs *j, int64_t id, const char *name, const char *notes,
                  const int *priority, struct dr_err *err) {
    struct patch p = {.id = id, .name = name, .notes = notes, .priority = priority};
    return dd_store_do(j->env.store, patch, &p, err);
}

// --- life ---

// A job that may be what ends the process (by its memory, say) would be the first one again at
// every start, and nothing else would be served between two of them: it waits for someone who
// resumes it.
static int recover(sqlite3 *db, void *arg, struct dr_err *err) {
    const char *policy = arg;
    char why[200];
    snprintf(why, sizeof why,
             "driftd ended %d times while this job ran, each time before it had saved anything; "
             "resume it to try again",
             CRASHES);
    int rc = dd_sql_run(db, err,
                        "UPDATE jobs SET state='paused' WHERE state='stopping' AND"
                        " resume=" DD_RESUME_PAUSING,
                        "");
    if (!rc)
        rc = dd_sql_run(db, err,
                        "UPDATE jobs SET state='stopped', ended_us=? WHERE state='stopping'", "i",
                        dd_wall_us());
    if (!rc)
        rc = dd_sql_run(db, err,
                        "UPDATE jobs SET state='interrupted', crashes=crashes+1,"
                        " error=CASE WHEN crashes+1>=? THEN ? END WHERE state='running'",
                        "it", (int64_t)CRASHES, why);
    if (!rc && !strcmp(policy, "auto"))
        rc = dd_sql_run(db, err,
                        "UPDATE jobs SET state='queued', resume=1, ended_us=NULL, error=NULL"
                        " WHERE state='interrupted' AND crashes<?",
                        "i", (int64_t)CRASHES);
    if (!rc) // whatever becomes of their jobs
        rc = dd_sql_run(db, err, "UPDATE evals SET state='queued' WHERE state='running'", "");
    return rc;
}

static void warn_of_crashes(struct dd_jobs *j) {
    struct dr_err ignored;
    sqlite3 *db = dd_store_reader(j->env.store, &ignored);
    sqlite3_stmt *st = db ? dd_sql_prepare(db, &ignored,
                                           "SELECT id FROM jobs WHERE state='interrupted' AND"
                                           " crashes>=? ORDER BY id",
                                           "i", (int64_t)CRASHES)
                          : NULL;
    while (st && sqlite3_step(st) == SQLITE_ROW)
        dd_log(DR_LOG_WARN, "job.crashes",
               "job=%lld hint=\"driftd ended each time that it ran; driftctl resume tries again\"",
               (long long)sqlite3_column_int64(st, 0));
    sqlite3_finalize(st);
    sqlite3_close(db);
}

int dd_jobs_new(const struct dd_jobs_env *env, struct dd_jobs **out, struct dr_err *err) {
    struct dd_jobs *j = dd_xcalloc(1, sizeof *j);
    j->env = *env;
    pthread_mutex_init(&j->lock, NULL);
    pthread_mutex_init(&j->shown.lock, NULL);
    pthread_cond_init(&j->wake, NULL);
    for (int i = 0; i < DD_LANES; i++)
        j->lane[i] = (struct dd_lane){.jobs = j, .beside = i == DD_LANE_BESIDE};
    atomic_store(&j->beat, INT64_MAX);
    int rc = dd_store_do(env->store, recover, env->opt->resume, err);
    if (!rc)
        rc = dd_store_do(env->store, dd_changed_fill, env->opt->config_dir, err);
    if (rc) {
        dd_jobs_free(j);
        return rc;
    }
    warn_of_crashes(j);
    dd_job_sweep_folders(j);
    *out = j;
    return 0;
}

int dd_jobs_start(struct dd_jobs *j, struct dr_err *err) {
    for (int i = 0; i < DD_LANES; i++) {
        if (pthread_create(&j->lane[i].thread, NULL, dd_job_thread, &j->lane[i]))
            return dr_fail(err, DR_ENOMEM, "cannot start the job thread");
        j->lane[i].started = true;
    }
    return 0;
}

void dd_jobs_stop(struct dd_jobs *j) {
    if (!j)
        return;
    pthread_mutex_lock(&j->lock);
    j->closing = true;
    pthread_cond_broadcast(&j->wake);
    pthread_mutex_unlock(&j->lock);
    for (int i = 0; i < DD_LANES; i++) {
        if (j->lane[i].started)
            pthread_join(j->lane[i].thread, NULL);
        j->lane[i].started = false;
    }
}

void dd_jobs_free(struct dd_jobs *j) {
    if (!j)
        return;
    dd_jobs_stop(j);
    pthread_mutex_destroy(&j->lock);
    pthread_mutex_destroy(&j->shown.lock);
    pthread_cond_destroy(&j->wake);
    free(j);
}

bool dd_jobs_device_lost(struct dd_jobs *j) {
    return atomic_load(&j->device_lost);
}

void dd_jobs_now(struct dd_jobs *j, struct dd_jobs_now *out) {
    *out = (struct dd_jobs_now){.checkpoint_failures = atomic_load(&j->checkpoint_failures),
                                .beat_ns = atomic_load(&j->beat)};
    // The queue first: a job on its way from there to work may be counted twice, but is never
    // missed. Nothing here waits for the database: probes and /metrics ask.
    out->queued = dd_store_queued_jobs(j->env.store);
    pthread_mutex_lock(&j->shown.lock);
    out->running = j->shown.running;
    out->step = atomic_load(&j->lane[DD_LANE_MAIN].step);
    out->steps_total = atomic_load(&j->lane[DD_LANE_MAIN].steps_total);
    out->minutes = (double)atomic_load(&j->lane[DD_LANE_MAIN].limit_ms) / 60000;
    snprintf(out->name, sizeof out->name, "%s", j->shown.name);
    pthread_mutex_unlock(&j->shown.lock);
}
