// One run of an eval job (eval_priv.h): where its images come from, slice after slice, its numbers.
#include "daemon/jobs/eval_due.h"
#include "daemon/jobs/eval_priv.h"
#include "daemon/jobs/own_encoder.h"

#include "daemon/base/util.h"
#include "daemon/datasets/datasets.h"
#include "daemon/store/checkpoints.h"
#include "driftd_git.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double EVENT_EVERY = 10; // s

// What images come from; one of the two.
struct images {
    struct dr_snapshot *snap;
    struct dr_dataset *folder;
    struct dr_eval_source *source;
    char sha256[65];         // of the checkpoint
    bool own;                // the judge is the encoder that it was trained with
    char note[DD_EVAL_NOTE]; // of its classes
};

static void images_free(struct images *s) {
    dr_eval_source_free(s->source);
    dr_snapshot_unref(s->snap);
    dr_dataset_free(s->folder);
}

// --- sources ---

static int check_generator(const struct dd_eval_work *w, const struct dr_snapshot *s,
                           struct dr_err *err) {
    const struct dr_model_config *m = dr_gen_config(s->net);
    const struct dr_dataset *d = w->train;
    if (m && m->channels == d->c && m->size == d->h && m->size == d->w &&
        (m->classes == d->classes || d->classes < 2))
        return 0;
    return m ? dr_fail(err, DR_EINVAL,
                       "its images have %lld channels, %lld x %lld, and %lld classes; those of the "
                       "data set %s have %lld channels, %lld x %lld, and %lld classes",
                       (long long)m->channels, (long long)m->size, (long long)m->size,
                       (long long)m->classes, d->name, (long long)d->c, (long long)d->h,
                       (long long)d->w, (long long)d->classes)
             : dr_fail(err, DR_EINVAL, "it is no generator");
}

// A judge must not be what the generator was trained to please.
static int check_own(const struct dd_eval_work *w, const struct dd_ckpt_row *row, struct images *s,
                     struct dr_err *err) {
    const struct dr_eval_section *e = &w->job->cfg.eval;
    char name[40];
    for (int i = 0; i < w->njudges; i++)
        if (w->judge[i].by == DD_EVAL_BY_JUDGE)
            s->own = dd_own_encoder(row->path, w->judge[i].snap, w->train->h);
    if (!s->own || e->allow_own_encoder)
        return 0;
    snprintf(name, sizeof name, "checkpoint %s", row->id);
    return dd_own_encoder_refuse(e->judge, name, err);
}

static int open_checkpoint(struct dd_eval_work *w, const struct dd_eval_run *r, struct images *s,
                           struct dr_err *err) {
    const struct dr_eval_section *e = &w->job->cfg.eval;
    struct dd_ckpt_row row;
    int rc = r->checkpoint ? dd_ckpt_get(w->job->env->store, r->checkpoint, &row, err)
                           : dr_fail(err, DR_ENOENT, "the checkpoint is not there any more");
    if (rc)
        return rc;
    if (strcmp(row.state, "ok"))
        rc = dr_fail(err, DR_ENOENT, "checkpoint %s is %s", row.id, row.state);
    if (!rc)
        rc = (e->weights ? dr_snapshot_load_raw : dr_snapshot_load)(row.path, row.config, &s->snap,
                                                                    err);
    snprintf(s->sha256, sizeof s->sha256, "%s", row.sha256);
    if (!rc)
        rc = check_own(w, &row, s, err);
    if (!rc)
        rc = check_generator(w, s->snap, err);
    if (!rc)
        rc = dd_eval_match_names(w, r, row.path, s->note, err);
    dd_ckpt_row_free(&row);
    const struct dr_eval_generator g = {.snap = s->snap,
                                        .like = e->split == DR_EVAL_TEST ? w->test : w->train,
                                        .alpha = r->alpha,
                                        .seed = (uint64_t)e->seed,
                                        .n = e->n,
                                        .batch = e->batch};
    return rc ? rc : dr_eval_source_generator(w->be, &g, &s->source, err);
}

// Pictures as the data set has them, in folders with the names of its classes, or without classes.
static int open_folder(struct dd_eval_work *w, const struct dd_eval_run *r, struct images *s,
                       struct dr_err *err) {
    const struct dr_eval_section *e = &w->job->cfg.eval;
    struct dr_data_config d = w->job->cfg.data;
    struct dr_err why = {0};
    int rc = dd_dataset_fit(w->job->env->store, &d, err);
    if (rc)
        return rc;
    d.size = w->train->h;
    d.channels = w->train->c;
    d.limit = 0;
    d.test_share = 0;
    snprintf(d.path, sizeof d.path, "%s", e->folder);
    rc = dd_eval_load_folder(w, &d, w->job->env->opt->data_dir, &s->folder, &why);
    if (rc)
        return dr_fail_at(err, rc, "eval.folder", "eval.folder: %.400s", why.msg);
    rc = dd_eval_match_folder(w, r, s->folder, s->note, err);
    if (rc)
        return rc;
    if (s->folder->n < e->n)
        return dr_fail_at(err, DR_EINVAL, "eval.n",
                          "eval.n is %lld; the folder %.200s has %lld pictures", (long long)e->n,
                          e->folder, (long long)s->folder->n);
    return dr_eval_source_dataset(s->folder, e->n, &s->source, err);
}

// --- slices ---

struct progress {
    struct dd_eval_work *w;
    const struct dd_eval_run *r;
    struct dr_eval *e;
    const char *partial;
    double shown;
};

// Goes on from what a stop has left; a file that is damaged or of other settings is passed over.
static int create(const struct images *s, struct dr_eval_ref *const refs[], int n,
                  const char *partial, struct dr_eval **out, struct dr_err *err) {
    struct dr_err ignored;
    int rc = dr_eval_create(s->source, refs, n, out, err);
    if (rc || access(partial, F_OK) || !dr_eval_restore(*out, partial, &ignored))
        return rc;
    unlink(partial);
    dr_eval_free(*out);
    return dr_eval_create(s->source, refs, n, out, err);
}

static int advance(struct progress *p, struct dr_err *err) {
    struct dd_eval_work *w = p->w;
    const int64_t before = w->done;
    bool done = false;
    int rc = 0;
    struct dr_err ignored;
    p->shown = dd_seconds();
    dd_eval_note_save(w, p->shown, dr_eval_progress(p->e)); // as it was found
    while (!(rc = dr_eval_advance(p->e, dd_eval_slice(w), &done, err)) && !done) {
        const double all = dr_eval_progress(p->e), now = dd_seconds();
        w->done = before + (int64_t)(all * (double)w->job->cfg.eval.n);
        const bool go = dd_eval_pace(w);
        const double paced = dd_seconds();
        if (!go || dd_eval_save_due(&w->saved, paced, all)) {
            dr_eval_save(p->e, p->partial, &ignored);
            dd_eval_note_save(w, paced, all);
        }
        if (now - p->shown > EVENT_EVERY) {
            dd_eval_event(w->job->env->events, p->r, "running", all);
            p->shown = now;
        }
        w->done = before;
        if (!go)
            return dr_fail(err, DR_ECANCELED, "stopped");
    }
    return rc;
}

// --- numbers ---

static json_t *number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static void add_values(const struct dd_eval_judge *j, const struct dr_eval_result *res,
                       struct dd_eval_outcome *o) {
    for (int i = 0; i < DR_EVAL_METRICS; i++) {
        const struct dr_eval_value *v = &res->metric[i];
        if (!(j->cfg.metrics >> i & 1))
            continue;
        struct dd_eval_number *to = &o->value[o->n++];
        dd_eval_metric_name(i, j->by, to->name);
        to->value = v->value;
        to->stderr_ = v->se;
        to->floor = v->floor;
    }
}

static json_t *class_names(const struct dr_dataset *d) {
    json_t *a = json_array();
    for (int64_t i = 0; i < d->classes; i++) {
        json_t *name = d->class_name ? json_string(d->class_name[i]) : NULL;
        json_array_append_new(a, name ? name : json_sprintf("%lld", (long long)i));
    }
    return a;
}

// What the judge saw of each class.
static void add_classes(const struct dd_eval_work *w, const struct dr_eval_result *res,
                        json_t *details) {
    json_t *rows = json_array(), *per_class = json_array();
    bool some = res->confusion;
    int64_t n;
    for (int64_t i = 0; i < res->classes; i++) {
        const double accuracy = res->accuracy ? res->accuracy[i] : NAN,
                     diversity = res->diversity ? res->diversity[i] : NAN;
        json_t *row = json_array();
        n = 0;
        some |= isfinite(accuracy) || isfinite(diversity);
        for (int64_t k = 0; res->confusion && k < res->logits; k++) {
            n += res->confusion[i * res->logits + k];
            json_array_append_new(row, json_integer(res->confusion[i * res->logits + k]));
        }
        json_array_append_new(rows, row);
        json_array_append_new(per_class,
                              json_pack("{s:I, s:o, s:o, s:o}", "class", (json_int_t)i, "n",
                                        res->confusion ? json_integer(n) : json_null(), "accuracy",
                                        number(accuracy), "diversity", number(diversity)));
    }
    json_object_set_new(details, "classes", class_names(w->train));
    json_object_set(details, "confusion", res->confusion ? rows : json_null());
    json_object_set(details, "per_class", some ? per_class : json_null());
    json_decref(rows);
    json_decref(per_class);
}

static void add_sizes(const struct dr_eval_result *res, json_t *details) {
    json_t *list = json_array();
    for (int i = 0; i < res->fd_points; i++)
        json_array_append_new(list,
                              json_pack("[o, o]", number(res->fd_sizes[i]), number(res->fd_at[i])));
    json_object_set_new(details, "fd_by_images", list);
}

static json_t *settings(const struct dd_eval_work *w, const struct images *s) {
    static const char *const splits[] = {"train", "test"}, *const resizes[] = {"clean",
                                                                               "legacy_pytorch",
                                                                               "legacy_tensorflow"};
    const struct dr_eval_section *e = &w->job->cfg.eval;
    json_t *o = json_pack("{s:o, s:s, s:I, s:s, s:s, s:s, s:s*, s:f}", "fingerprint",
                          json_sprintf("%016" PRIx64, w->train->fingerprint), "split",
                          splits[e->split], "batch", (json_int_t)e->batch, "metrics", e->metrics,
                          "device", w->job->env->device, "version", DRIFTD_GIT, "checkpoint_sha256",
                          s->sha256[0] ? s->sha256 : NULL, "share", e->share);
    if (s->note[0])
        json_object_set_new(o, "note", json_string(s->note));
    json_object_set_new(o, "judge", json_null());
    json_object_set_new(o, "inception_sha256", json_null());
    for (int i = 0; i < w->njudges; i++) {
        const struct dd_eval_judge *j = &w->judge[i];
        if (j->by == DD_EVAL_BY_INCEPTION) {
            json_object_set_new(o, "inception_sha256", json_string(j->sha256));
            json_object_set_new(o, "resize", json_string(resizes[e->resize]));
            continue;
        }
        const struct dr_estimate a = dr_eval_ref_accuracy(j->ref);
        json_object_set_new(o, "judge",
                            j->checkpoint ? json_sprintf("%lld", (long long)j->checkpoint)
                                          : json_string(j->name));
        json_object_set_new(o, "judge_name", json_string(j->name));
        json_object_set_new(o, "judge_sha256", json_string(j->sha256));
        json_object_set_new(o, "judge_accuracy", number(a.value));
        json_object_set_new(o, "judge_accuracy_error", number(a.se));
        json_object_set_new(o, "judge_own_encoder", json_boolean(s->own));
    }
    return o;
}

// Where the time of the samples went.
static void add_times(const struct dr_eval_result *res, int judge, struct dd_eval_outcome *o) {
    json_object_set_new(o->details, judge ? "seconds_inception" : "seconds",
                        json_pack("{s:f, s:f, s:f, s:f}", "generate", res->seconds_generate,
                                  "features", res->seconds_features, "statistics",
                                  res->seconds_statistics, "reference", res->seconds_reference));
    if (judge)
        return;
    json_object_set_new(o->settings, "reals", json_integer(res->reals));
    json_object_set_new(o->settings, "floor_n", json_integer(res->floor_n));
    json_object_set_new(o->settings, "floor_halves", json_boolean(res->floor_halves));
    o->seconds += res->seconds_generate + res->seconds_features + res->seconds_statistics;
}

// The slices of all judges; the images are made once. partial: where a stop leaves what is done.
static int measure(struct dd_eval_work *w, const struct dd_eval_run *r, const struct images *s,
                   const char *partial, struct dd_eval_outcome *o, struct dr_err *err) {
    struct progress p = {.w = w, .r = r};
    struct dr_eval_ref *refs[DD_EVAL_BYS];
    struct dr_eval_result res;
    for (int i = 0; i < w->njudges; i++)
        refs[i] = w->judge[i].ref;
    int rc = create(s, refs, w->njudges, partial, &p.e, err);
    if (rc)
        return rc;
    p.partial = partial;
    rc = advance(&p, err);
    for (int i = 0; i < w->njudges && !rc; i++) {
        rc = dr_eval_result(p.e, i, &res, err);
        if (rc)
            break;
        add_values(&w->judge[i], &res, o);
        add_times(&res, i, o);
        if (!i)
            add_classes(w, &res, o->details);
        if (!i)
            add_sizes(&res, o->details);
    }
    dr_eval_free(p.e);
    return rc;
}

// Reals drawn up to this step, over those of the training split; NaN: not known.
static double epoch(const struct dd_eval_work *w, const struct dd_eval_run *r) {
    struct dr_err ignored;
    struct dr_config c;
    double epoch = NAN;
    sqlite3 *db = r->job ? dd_store_reader(w->job->env->store, &ignored) : NULL;
    sqlite3_stmt *st =
        db ? dd_sql_prepare(db, &ignored, "SELECT config FROM jobs WHERE id=?", "i", r->job) : NULL;
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        const char *json = (const char *)sqlite3_column_text(st, 0);
        if (!dr_config_parse(json, strlen(json), NULL, &c, NULL)) {
            const int64_t classes = c.train.classes ? c.train.classes : c.model.classes;
            epoch = (double)r->step *
                    (double)(classes * c.train.positives + c.train.unconditional) /
                    (double)w->train->n;
        }
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return epoch;
}

static int partial_path(const struct dd_eval_work *w, const struct dd_eval_run *r,
                        char out[DD_PATH_MAX], struct dr_err *err) {
    return dd_eval_path(w, out, err, "%lld/partial.safetensors", (long long)r->id);
}

void dd_eval_forget(const struct dd_eval_work *w, const struct dd_eval_run *r) {
    char partial[DD_PATH_MAX];
    struct dr_err ignored;
    if (!partial_path(w, r, partial, &ignored))
        unlink(partial);
}

int dd_eval_one(struct dd_eval_work *w, const struct dd_eval_run *r, struct dd_eval_outcome *o,
                struct dr_err *err) {
    const struct dr_config *cfg = &w->job->cfg;
    struct images s = {0};
    char partial[DD_PATH_MAX];
    *o = (struct dd_eval_outcome){.comparable = w->comparable, .details = json_object()};
    int rc = cfg->eval.folder[0] ? open_folder(w, r, &s, err) : open_checkpoint(w, r, &s, err);
    if (!rc)
        o->settings = settings(w, &s);
    if (!rc)
        rc = partial_path(w, r, partial, err);
    if (!rc)
        rc = measure(w, r, &s, partial, o, err);
    if (!rc)
        rc = dd_eval_write_files(w, r, s.source, o->details, err);
    images_free(&s);
    if (rc)
        return rc;
    o->training = dd_eval_training(w->job->env->store, r);
    o->epoch = epoch(w, r);
    o->best = dd_eval_best_name(w->job, o);
    return 0;
}
