// The training loop around the engine's trainer (runner.h). What is written where: checkpoints
// under checkpoint_dir/step-XXXXXXXX.safetensors, sample grids under sample_dir/step-XXXXXXXX.png.
#include "daemon/jobs/runner.h"

#include "daemon/base/log.h"
#include "daemon/base/room.h"
#include "daemon/base/util.h"
#include "daemon/generate/grid.h"
#include "daemon/jobs/encoder_data.h"
#include "daemon/jobs/spike.h"
#include "daemon/jobs/watch.h"
#include "daemon/store/ckpt_files.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CALL(r, hook, ...)                                                                         \
    do {                                                                                           \
        if ((r)->hooks->hook)                                                                      \
            (r)->hooks->hook((r)->hooks->ctx __VA_OPT__(, ) __VA_ARGS__);                          \
    } while (0)

// Copying the EMA may cost at most 1/PUBLISH_SHARE of the training time.
enum { FIELDS_A_SECOND = 5, PUBLISH_SHARE = 100, SPREAD_GRACE_STEPS = 100, PATIENCE_SECONDS = 1 };

struct run {
    const struct dd_run_spec *spec;
    const struct dd_run_hooks *hooks;
    struct dd_run_result *res;
    struct dr_backend *be;
    struct dr_dataset *data;
    struct dr_trainer *t;
    struct dd_grid *grid;   // sampler for the sample grids, made when first needed
    struct dd_watch *watch; // of encoders; NULL: a generator is trained
    int64_t saved_step;     // step of the newest checkpoint, -1: none
    int64_t written_step;   // of the newest file, which a resume takes also if not recorded
    int64_t evaluated_step;
    double saved_at, published_at, publish_cost, field_at, evaluated_at;
    bool collapsed;
    struct dr_err unsaved; // why the last checkpoint could not be saved; code 0: it was
    struct dd_spike gradient;
    bool stopped;         // before the first step, or while something was measured
    enum dd_wish pending; // a wish of before the first step or of a measurement, for later
    double creating_at;   // when the trainer was asked for
    struct dr_err full;   // why there is no room for an import, if that has ended it
};

// Setting up and measuring may take minutes, in which a stop holds as well. What else is wished
// waits for the steps.
static bool still_wanted(void *ctx) {
    struct run *r = ctx;
    const enum dd_wish w = r->hooks->wish ? r->hooks->wish(r->hooks->ctx) : DD_WISH_NONE;
    r->stopped |= w == DD_WISH_STOP || w == DD_WISH_STOP_NOW;
    if (w != DD_WISH_NONE)
        r->pending = w;
    return !r->stopped;
}

// A trainer that is there at once stops like any other, with a checkpoint.
static bool worth_making(void *ctx) {
    const struct run *r = ctx;
    return dd_seconds() - r->creating_at < PATIENCE_SECONDS || still_wanted(ctx);
}

static enum dd_wish next_wish(struct run *r) {
    const enum dd_wish waiting = r->pending;
    r->pending = DD_WISH_NONE;
    if (waiting != DD_WISH_NONE)
        return waiting;
    return r->hooks->wish ? r->hooks->wish(r->hooks->ctx) : DD_WISH_NONE;
}

static int create_trainer(struct run *r, struct dr_err *err) {
    dr_trainer_free(r->t);
    r->t = NULL;
    r->creating_at = dd_seconds();
    const struct dr_trainer_files files = {
        .encoder = r->spec->encoder, .go_on = worth_making, .ctx = r};
    return dr_trainer_create_from(&files, r->spec->cfg, r->be, r->data, &r->t, err);
}

static int cannot_go_on(const struct dr_err *why, struct dr_err *err) {
    return dr_fail(err, why->code,
                   "cannot go on from %.400s; put that right and resume, or start a new job",
                   why->msg);
}

// Newest first; a damaged file leaves a fresh trainer behind, so that nothing of it stays. Any
// other reason (the data has changed since, the file may not be read, memory is short) ends the
// attempt: a file that may be sound is not given up, nor what was trained since the one before it.
static int resume(struct run *r, struct dr_err *err) {
    struct dd_ckpt_list list;
    struct dr_err unread = {0};
    int refused = 0, rc = dd_ckpt_list(r->spec->checkpoint_dir, &list, &unread);
    if (rc)
        return cannot_go_on(&unread, err);
    if (r->hooks->checkpoint_lost)
        rc = r->hooks->checkpoint_lost(r->hooks->ctx, list.n, err);
    for (int i = list.n - 1; i >= 0 && !rc; i--) {
        char path[DD_PATH_MAX];
        dd_ckpt_path(r->spec->checkpoint_dir, list.step[i], path, sizeof path);
        struct dr_err why = {0};
        int bad = r->hooks->checkpoint_verify
                      ? r->hooks->checkpoint_verify(r->hooks->ctx, path, &why)
                      : 0;
        if (!bad)
            bad = dr_trainer_load(r->t, path, &why);
        if (!bad && dr_trainer_steps_done(r->t) != list.step[i])
            bad = dr_fail(&why, DR_EFORMAT, "%s: it says that it is of step %lld", path,
                          (long long)dr_trainer_steps_done(r->t));
        if (!bad) {
            r->saved_step = r->written_step = dr_trainer_steps_done(r->t);
            snprintf(r->res->last_good, sizeof r->res->last_good, "%s", path);
            break;
        }
        if (bad != DR_EFORMAT && bad != DR_ENOENT) {
            rc = cannot_go_on(&why, err);
            break;
        }
        refused++;
        CALL(r, checkpoint_refused, path, &why);
        if (r->spec->strict_resume && i == 0) {
            rc = dr_fail(err, why.code,
                         "no checkpoint in %s could be loaded; the last reason: %.300s",
                         r->spec->checkpoint_dir, why.msg);
            break;
        }
        if ((rc = create_trainer(r, err)))
            break;
    }
    if (!rc && refused && r->saved_step < 0)
        CALL(r, alert, "checkpoint", 0, "no checkpoint could be loaded: starting from step 0");
    dd_ckpt_list_free(&list);
    return rc;
}

// The file is whole; non-zero where it cannot be used for now all the same.
static int record(struct run *r, const char *path, const char *sha, int64_t bytes,
                  struct dr_err *err) {
    struct dr_err why = {0};
    const int64_t step = r->written_step;
    const int rc = r->hooks->checkpoint
                       ? r->hooks->checkpoint(r->hooks->ctx, step, path, sha, bytes, &why)
                       : 0;
    return rc ? dr_fail(err, rc, "the checkpoint is written, but could not be recorded: %.300s",
                        why.msg)
              : 0;
}

static int save(struct run *r) {
    int64_t step = dr_trainer_steps_done(r->t), bytes = 0;
    if (r->saved_step == step)
        return 0;
    char path[DD_PATH_MAX], sha[65] = "";
    struct dr_err why = {0};
    dd_ckpt_path(r->spec->checkpoint_dir, step, path, sizeof path);
    CALL(r, saving);
    int rc = dd_mkdirs(r->spec->checkpoint_dir, &why);
    if (!rc)
        rc = dr_trainer_save(r->t, path, sha, &bytes, &why);
    if (!rc) {
        r->written_step = step;
        rc = record(r, path, sha, bytes, &why);
    }
    r->saved_at = dd_seconds();
    if (rc) {
        CALL(r, checkpoint_failed, step, &why);
        if (!r->unsaved.code)
            CALL(r, alert, "disk", step, why.msg);
        r->unsaved = why;
        r->unsaved.code = rc;
        return rc;
    }
    r->unsaved.code = 0;
    r->saved_step = step;
    snprintf(r->res->last_good, sizeof r->res->last_good, "%s", path);
    dd_ckpt_rotate(r->spec->checkpoint_dir, &r->spec->cfg->checkpoint, step,
                   r->hooks->checkpoint_let_go, r->hooks->ctx);
    return 0;
}

static bool save_due(const struct run *r) {
    const struct dr_checkpoint_config *c = &r->spec->cfg->checkpoint;
    int64_t step = dr_trainer_steps_done(r->t);
    if (c->every > 0 && step % c->every == 0)
        return true;
    return c->every_seconds > 0 && dd_seconds() - r->saved_at >= c->every_seconds;
}

// At most 10 Hz and at most 1 % of the time.
static void publish(struct run *r, bool force) {
    if (!r->hooks->snapshot || r->watch) // an encoder makes no images: it is never served
        return;
    double now = dd_seconds();
    double wait = fmax(0.1, PUBLISH_SHARE * r->publish_cost);
    if (!force && now - r->published_at < wait)
        return;
    struct dr_snapshot *s = dr_trainer_snapshot(r->t, 0);
    if (!s)
        return; // no memory, or a device that failed: the previous one stays published
    snprintf(s->id, sizeof s->id, "live:%s", r->spec->id);
    r->hooks->snapshot(r->hooks->ctx, s);
    r->published_at = dd_seconds();
    r->publish_cost = r->published_at - now;
}

// What the dashboard draws of a toy; images have no such field.
static void show_field(struct run *r, bool force) {
    if (!r->hooks->field || r->data->kind != DR_KIND_POINTS)
        return;
    double now = dd_seconds();
    if (!force && now - r->field_at < 1.0 / FIELDS_A_SECOND)
        return;
    r->field_at = now;
    struct dr_drift_field *f = dr_trainer_field(r->t);
    if (f)
        r->hooks->field(r->hooks->ctx, f);
}

static int write_grid(struct run *r, struct dr_snapshot *s, const char *path,
                      struct dd_grid_file *f, struct dr_err *err) {
    const struct dr_samples_config *sc = &r->spec->cfg->samples;
    if (r->watch)
        return dd_watch_grid(r->watch, s, path, f, err);
    int rc = r->grid ? 0 : dd_grid_new(r->be, r->spec->cfg->train.precision, &r->grid, err);
    return rc ? rc : dd_grid_write(r->grid, s, sc->per_class, sc->cfg, path, f, err);
}

static void sample_grid(struct run *r) {
    int64_t step = dr_trainer_steps_done(r->t);
    if (!r->spec->sample_dir || (r->watch && !dd_watch_draws(r->watch)))
        return;
    struct dr_err why = {0};
    char path[DD_PATH_MAX];
    struct dd_grid_file f = {0};
    snprintf(path, sizeof path, "%s/step-%08lld.png", r->spec->sample_dir, (long long)step);
    struct dr_snapshot *s = dr_trainer_snapshot(r->t, 0);
    int rc = s ? 0
               : dr_fail(&why, DR_ENOMEM,
                         "no weights for a sample grid: no memory, or a device that failed");
    if (!rc)
        rc = dd_mkdirs(r->spec->sample_dir, &why);
    if (!rc)
        rc = write_grid(r, s, path, &f, &why);
    dr_snapshot_unref(s);
    if (rc == DR_ECANCELED)
        return;
    if (rc) {
        char q[600];
        dd_log(DR_LOG_WARN, "sample.failed", "job=%s step=%lld reason=%s", r->spec->id,
               (long long)step, dd_log_quote(why.msg, q, sizeof q));
        return;
    }
    CALL(r, sample, step, path, f.bytes, f.width, f.height);
}

static void watch_spread(struct run *r, const struct dr_metrics *m) {
    double below = r->spec->cfg->metrics.collapse_below;
    if (isnan(m->spread) || m->step < SPREAD_GRACE_STEPS)
        return;
    bool low = m->spread < below;
    if (low && !r->collapsed) {
        char text[200];
        snprintf(
            text, sizeof text,
            "within-class spread of generated over real images is %.3f, under %.3f: the samples "
            "of a class are becoming alike",
            m->spread, below);
        CALL(r, alert, "collapse", m->step, text);
    }
    r->collapsed = low;
}

static void watch_gradient(struct run *r, const struct dr_metrics *m) {
    double usual;
    if (!dd_spike(&r->gradient, m->grad_norm, &usual))
        return;
    char text[200];
    snprintf(text, sizeof text, "the gradient norm is %.3g, %.0f times its recent mean of %.3g",
             m->grad_norm, m->grad_norm / usual, usual);
    CALL(r, alert, "gradient", m->step, text);
}

// What is measured of an encoder after this step. A failure costs the measurement and not the run,
// and so does a stop.
static bool test(struct run *r, bool last, struct dr_metrics *m) {
    struct dr_err why = {0};
    char q[600];
    if (!r->watch || !dd_watch_due(r->watch, m->step, last))
        return false;
    const int rc = dd_watch_measure(r->watch, r->t, last, m, &why);
    if (rc && rc != DR_ECANCELED)
        dd_log(DR_LOG_WARN, "encoder.test", "job=%s step=%lld reason=%s", r->spec->id,
               (long long)m->step, dd_log_quote(why.msg, q, sizeof q));
    return !rc;
}

// What is measured at the end takes long: the last checkpoint has been written before, with the
// metrics of its step, so this has a row of its own. After a stop the run is not complete: when it
// is resumed, this is all that is left.
static void test_end(struct run *r) {
    struct dr_metrics m = {
        .step = dr_trainer_steps_done(r->t), .step_seconds = NAN, .spread = NAN, .spread_min = NAN};
    dr_trainer_metrics(r->t, &m.n);
    if (test(r, true, &m))
        CALL(r, step, &m, dr_trainer_seconds(r->t), dr_trainer_steps_total(r->t));
    else if (r->stopped && dd_watch_due(r->watch, m.step, true))
        r->res->outcome = DD_RUN_STOPPED;
}

static void report(struct run *r, struct dr_metrics *m) {
    const bool last = m->step == dr_trainer_steps_done(r->t) && dr_trainer_finished(r->t);
    if (!m->step)
        return;
    const bool tested = !last && test(r, false, m);
    if (m->step % r->spec->cfg->metrics.every == 0 || last || tested || !isnan(m->spread))
        CALL(r, step, m, dr_trainer_seconds(r->t), dr_trainer_steps_total(r->t));
    watch_spread(r, m);
    watch_gradient(r, m);
}

static int stepped(struct run *r, int rc, struct dr_metrics *m, struct dr_err *err) {
    if (!rc) // on the CPU a step reads the data set where it lies
        rc = dr_dataset_intact(r->data, err);
    if (!rc)
        report(r, m);
    if (rc != DR_ENONFINITE)
        return rc;
    if (m->step) // the values that stopped the run, whatever metrics.every says
        CALL(r, step, m, dr_trainer_seconds(r->t), dr_trainer_steps_total(r->t));
    CALL(r, alert, "nonfinite", dr_trainer_steps_done(r->t) + 1,
         err->msg[0] ? err->msg : "the loss is not finite");
    return rc;
}

// A device may still be at the last step: it counts once its metrics are here.
static int finish_step(struct run *r, struct dr_err *err) {
    struct dr_metrics m;
    return stepped(r, dr_trainer_wait(r->t, &m, err), &m, err);
}

static int finish_and_save(struct run *r, struct dr_err *err) {
    const int rc = finish_step(r, err);
    if (!rc)
        save(r); // a failure has been reported; the previous checkpoint stays
    return rc;
}

// Why the stop has saved nothing, and from where a resume goes on.
static void explain_unsaved(struct run *r) {
    const int64_t step = dr_trainer_steps_done(r->t);
    const struct dr_err *why = &r->unsaved;
    char newest[60] = "there is none yet";
    if (r->written_step >= 0)
        snprintf(newest, sizeof newest, "the newest is of step %lld", (long long)r->written_step);
    if (r->written_step == step)
        dr_fail(&r->res->unsaved, why->code,
                "stopped at step %lld; %.400s; a resume goes on from it", (long long)step,
                why->msg);
    else
        dr_fail(&r->res->unsaved, why->code,
                "stopped at step %lld, but its checkpoint could not be written: %.300s; %s",
                (long long)step, why->msg, newest);
}

static int stop(struct run *r, enum dd_wish how, struct dr_err *err) {
    r->res->outcome = DD_RUN_STOPPED;
    show_field(r, true);
    const int rc = finish_step(r, err);
    if (!rc && how != DD_WISH_STOP_NOW && save(r))
        explain_unsaved(r);
    return rc;
}

static bool eval_due(const struct run *r) {
    const struct dr_eval_section *e = &r->spec->cfg->eval;
    const int64_t step = dr_trainer_steps_done(r->t);
    if (r->watch || !r->hooks->evaluate || dr_trainer_finished(r->t))
        return false;
    return (e->every > 0 && step % e->every == 0) ||
           (e->every_seconds > 0 && dd_seconds() - r->evaluated_at >= e->every_seconds);
}

// The newest checkpoint, once.
static void evaluate(struct run *r) {
    const int64_t step = dr_trainer_steps_done(r->t);
    r->evaluated_at = dd_seconds();
    if (r->watch || r->saved_step != step || r->evaluated_step == step)
        return;
    r->evaluated_step = step;
    CALL(r, evaluate, step, r->res->last_good);
}

static int loop(struct run *r, struct dr_err *err) {
    const struct dr_config *cfg = r->spec->cfg;
    const bool was_complete = dr_trainer_finished(r->t);
    int rc = 0;
    while (!dr_trainer_finished(r->t)) {
        enum dd_wish w = next_wish(r);
        if (w == DD_WISH_STOP_NOW || w == DD_WISH_STOP)
            return stop(r, w, err);
        if (w == DD_WISH_FINISH)
            break;
        if (w == DD_WISH_CHECKPOINT && (rc = finish_and_save(r, err)))
            return rc;
        struct dr_metrics m = {0};
        rc = stepped(r, dr_trainer_step(r->t, &m, err), &m, err);
        if (rc)
            return rc;
        int64_t step = dr_trainer_steps_done(r->t);
        publish(r, step == 1);
        show_field(r, step == 1);
        const bool evaluates = eval_due(r);
        if ((save_due(r) || evaluates) && (rc = finish_and_save(r, err)))
            return rc;
        if (evaluates)
            evaluate(r);
        if (cfg->samples.every > 0 && step % cfg->samples.every == 0 && !dr_trainer_finished(r->t))
            sample_grid(r);
    }
    rc = finish_step(r, err);
    if (rc)
        return rc;
    r->res->outcome = DD_RUN_COMPLETED;
    publish(r, true);
    show_field(r, true);
    if (r->saved_step != dr_trainer_steps_done(r->t) && save(r))
        return dr_fail(err, DR_EIO, "trained to the end, but the last checkpoint could not be %s",
                       r->written_step == dr_trainer_steps_done(r->t) ? "recorded" : "written");
    sample_grid(r);
    if (r->watch && !(was_complete && r->spec->complete_is_tested))
        test_end(r);
    if (cfg->eval.at_end)
        evaluate(r);
    return 0;
}

// Weights of another run, for one that has no steps of its own yet.
static int init(struct run *r, struct dr_err *err) {
    const struct dr_err *missing = r->spec->no_init;
    char note[400];
    if ((!r->spec->init_from && !missing) || dr_trainer_steps_done(r->t) > 0)
        return 0;
    if (missing) {
        *err = *missing;
        return missing->code;
    }
    int rc = dr_trainer_init_from(r->t, r->spec->init_from, note, err);
    if (!rc && note[0])
        CALL(r, alert, "init_from", 0, note);
    return rc;
}

static bool on_import(void *ctx, const struct dr_import_progress *p) {
    struct run *r = ctx;
    return still_wanted(r) && !dd_cache_room(r->spec->data_dir, p, &r->full);
}

static int prepare(struct run *r, struct dr_err *err) {
    const struct dd_run_spec *s = r->spec;
    dr_workers_use(s->threads); // an import or a drawing as well, whatever the device
    int rc = dr_dataset_load(&s->cfg->data, s->data_dir, false, &r->data, err);
    if (!rc)
        rc = dr_backend_open(s->device, s->threads, &r->be, err);
    if (rc)
        return rc;
    dr_backend_enter(r->be);
    if (s->encoder && s->encoder_of_recipe &&
        (rc = dd_encoder_data(s->encoder, s->cfg, r->data, err)))
        return rc;
    dd_ckpt_sweep(s->checkpoint_dir);
    if (s->sample_dir)
        dd_ckpt_sweep(s->sample_dir);
    rc = create_trainer(r, err);
    if (!rc)
        rc = s->resume ? resume(r, err) : dd_ckpt_set_aside(s->checkpoint_dir, err);
    if (!rc && dr_trainer_steps_done(r->t) > 0)
        dr_trainer_seconds_before(r->t, s->seconds_before);
    if (!rc)
        rc = init(r, err);
    if (!rc && s->cfg->kind == DR_RECIPE_ENCODER)
        rc = dd_watch_new(s->cfg, r->be, r->data, s->data_dir, still_wanted, r, &r->watch, err);
    if (rc)
        return rc;
    r->saved_at = r->evaluated_at = dd_seconds();
    if (r->hooks->started)
        rc = r->hooks->started(r->hooks->ctx, r->t, r->data, dr_trainer_steps_done(r->t), err);
    if (rc)
        return still_wanted(r) ? rc : DR_ECANCELED;
    if (dr_trainer_steps_done(r->t) > 0)
        publish(r, true);
    return 0;
}

int dd_run(const struct dd_run_spec *spec, const struct dd_run_hooks *hooks,
           struct dd_run_result *res, struct dr_err *err) {
    struct run r = {.spec = spec,
                    .hooks = hooks,
                    .res = res,
                    .saved_step = -1,
                    .written_step = -1,
                    .evaluated_step = -1};
    struct dr_err own = {0};
    *res = (struct dd_run_result){.outcome = DD_RUN_FAILED};
    if (!err)
        err = &own;
    dr_pictures_watch(on_import, &r);
    int rc = prepare(&r, err);
    dr_pictures_watch(NULL, NULL);
    if (rc == DR_ECANCELED && r.stopped) {
        res->outcome = DD_RUN_STOPPED;
        rc = 0;
    } else if (rc == DR_ECANCELED && r.full.code) {
        rc = r.full.code;
        *err = r.full;
    } else if (!rc) {
        rc = loop(&r, err);
    }
    if (rc)
        res->outcome = DD_RUN_FAILED;
    if (r.t) {
        res->step = dr_trainer_steps_done(r.t);
        res->seconds = dr_trainer_seconds(r.t);
        res->saved = r.saved_step == res->step;
    }
    dd_grid_free(r.grid);
    dd_watch_free(r.watch);
    dr_trainer_free(r.t);
    dr_backend_free(r.be);
    dr_dataset_free(r.data);
    return rc;
}
