// Data sets, judges and references of reals of an eval job (eval_priv.h).
#include "daemon/jobs/eval_priv.h"

#include "daemon/base/log.h"
#include "daemon/base/room.h"
#include "daemon/base/util.h"
#include "daemon/datasets/datasets.h"
#include "daemon/jobs/judge.h"
#include "daemon/jobs/needs.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/refs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// --- data ---

struct loading {
    struct dd_eval_work *w;
    const char *data_dir;
    struct dr_err full; // why there is no room for an import, if that has ended it
};

// Data sets may take minutes to read or to make.
static bool on_import(void *ctx, const struct dr_import_progress *p) {
    struct loading *l = ctx;
    return dd_eval_pace(l->w) && !dd_cache_room(l->data_dir, p, &l->full);
}

static int load(struct dd_eval_work *w, const struct dr_data_config *cfg, const char *data_dir,
                bool folder, bool test, struct dr_dataset **out, struct dr_err *err) {
    struct loading l = {.w = w, .data_dir = data_dir};
    dr_pictures_watch(on_import, &l);
    int rc = folder ? dr_dataset_load_folder(cfg, data_dir, out, err)
                    : dr_dataset_load(cfg, data_dir, test, out, err);
    dr_pictures_watch(NULL, NULL);
    if (rc == DR_ECANCELED && l.full.code) {
        rc = l.full.code;
        *err = l.full;
    }
    return rc;
}

int dd_eval_load(struct dd_eval_work *w, const struct dr_data_config *cfg, const char *data_dir,
                 bool test, struct dr_dataset **out, struct dr_err *err) {
    return load(w, cfg, data_dir, false, test, out, err);
}

int dd_eval_load_folder(struct dd_eval_work *w, const struct dr_data_config *cfg,
                        const char *data_dir, struct dr_dataset **out, struct dr_err *err) {
    return load(w, cfg, data_dir, true, false, out, err);
}

static int load_data(struct dd_eval_work *w, struct dr_err *err) {
    const struct dr_data_config *d = &w->job->cfg.data;
    char dir[DD_PATH_MAX], q[600];
    struct dr_err why = {0};
    int rc = dd_dataset_dir(w->job->env->store, d, w->job->env->opt->data_dir, dir, err);
    if (!rc)
        rc = dd_eval_load(w, d, dir, false, &w->train, err);
    if (rc)
        return rc;
    if (!dd_eval_load(w, d, dir, true, &w->test, &why))
        return 0;
    w->test = NULL;
    if (w->stop)
        return dr_fail(err, DR_ECANCELED, "stopped");
    if (w->job->cfg.eval.split)
        return dr_fail_at(err, DR_EINVAL, "eval.split", "eval.split is test: %.300s", why.msg);
    dd_log(DR_LOG_WARN, "eval.test_split", "job=%lld reason=%s", (long long)w->job->id,
           dd_log_quote(why.msg, q, sizeof q));
    return 0;
}

// --- judges ---

// A judge must take the data set's images and, for accuracy, tell its classes apart.
static int check_judge(const struct dd_eval_work *w, const struct dd_eval_judge *j,
                       struct dr_err *err) {
    const struct dr_net *net = j->snap->net;
    const int64_t have = dr_net_input(net), want = w->train->c * w->train->h * w->train->w;
    int rc = dd_judge_expect(&w->job->cfg.eval, net, w->train->classes, err);
    if (!rc && have != want)
        rc = dr_fail_at(err, DR_EINVAL, "eval.judge",
                        "eval.judge: %.200s takes images of %lld values; those of the data set "
                        "%s have %lld (%lld channels, %lld x %lld)",
                        j->name, (long long)have, w->train->name, (long long)want,
                        (long long)w->train->c, (long long)w->train->h, (long long)w->train->w);
    return rc;
}

// A network of elsewhere often comes without the size of its images: it takes the data set's. What
// does not fit stays for check_judge.
static int fit_judge(const struct dd_eval_work *w, struct dd_eval_judge *j, struct dr_err *err) {
    const struct dr_dataset *d = w->train;
    const int64_t want = d->c * d->h * d->w;
    struct dr_snapshot *s = NULL;
    int rc = dr_net_input(j->snap->net) == want ? 0 : dr_snapshot_resized(j->snap, d->h, &s, err);
    if (s && dr_net_input(s->net) == want) {
        dr_snapshot_unref(j->snap);
        j->snap = s;
        s = NULL;
    }
    dr_snapshot_unref(s);
    return rc == DR_ENOMEM ? rc : 0;
}

// `all` means what this judge and this data set have: a network without a classifier sees no
// classes, and those of Inception-v3 and of judges of other data are not the data set's.
static void configure(const struct dd_eval_work *w, struct dd_eval_judge *j, unsigned metrics) {
    const struct dr_eval_section *e = &w->job->cfg.eval;
    const struct dr_net *net = j->snap->net;
    const int logits = dr_net_output_find(net, "logits");
    const bool all = !strcmp(e->metrics, "all"),
               knows = j->by == DD_EVAL_BY_JUDGE && logits >= 0 &&
                       dr_net_output(net, logits).c == w->train->classes;
    dr_eval_defaults(&j->cfg);
    if (all && (!knows || w->train->classes < 2))
        metrics &= ~(1u << DR_EVAL_ACCURACY);
    if (all && logits < 0)
        metrics &= ~(1u << DR_EVAL_IS);
    if (all && w->train->classes < 2)
        metrics &= ~(1u << DR_EVAL_DIVERSITY | 1u << DR_EVAL_DIVERSITY_WORST);
    j->cfg.metrics = metrics;
    j->cfg.n = e->n;
    j->cfg.split = e->split;
    j->cfg.seed = 0; // of subsets: runs of any seed can be compared
    j->cfg.batch = e->batch;
}

static int load_judge(struct dd_eval_work *w, unsigned metrics, struct dr_err *err) {
    struct dd_eval_judge *j = &w->judge[w->njudges];
    struct dd_store *store = w->job->env->store;
    char path[DD_PATH_MAX];
    int rc = dd_needs_encoder(w->job, path, err);
    if (rc || !path[0])
        return rc;
    *j = (struct dd_eval_judge){.by = DD_EVAL_BY_JUDGE};
    rc = dr_sha256_file(path, j->sha256, err);
    if (!rc)
        rc = dr_snapshot_load(path, NULL, &j->snap, err);
    if (rc)
        return rc;
    w->njudges++;
    sqlite3 *db = dd_store_reader(store, err);
    char *stored = dd_store_rel(store, path);
    j->checkpoint =
        db ? dd_sql_one(db, 0, "SELECT id FROM checkpoints WHERE path=?", "t", stored) : 0;
    free(stored);
    sqlite3_close(db);
    snprintf(j->name, sizeof j->name, "%s", w->job->cfg.eval.judge);
    configure(w, j, metrics);
    rc = fit_judge(w, j, err);
    if (!rc)
        rc = check_judge(w, j, err);
    if (!rc && dd_encoder_ref_is_recipe(&w->job->cfg))
        rc = dd_encoder_data(path, &w->job->cfg, w->train, err);
    return rc;
}

static int load_inception(struct dd_eval_work *w, unsigned metrics, struct dr_err *err) {
    const struct dr_eval_section *e = &w->job->cfg.eval;
    struct dd_eval_judge *j = &w->judge[w->njudges];
    char path[DD_PATH_MAX];
    struct dr_err why = {0};
    if (!e->inception[0])
        return 0;
    *j = (struct dd_eval_judge){.by = DD_EVAL_BY_INCEPTION};
    int rc = dd_ckpt_find(w->job->env->store, w->job->env->opt->data_dir, "eval.inception",
                          e->inception, path, err);
    if (rc)
        return rc;
    rc = dr_sha256_file(path, j->sha256, &why);
    if (!rc)
        rc = dr_snapshot_load(path, NULL, &j->snap, &why);
    if (rc)
        return dr_fail_at(err, rc, "eval.inception", "eval.inception: %.400s", why.msg);
    w->njudges++;
    snprintf(j->name, sizeof j->name, "%s", e->inception);
    j->way = (struct dr_fid_way){.resize = (enum dr_fid_resize)e->resize, .threads = 1};
    configure(w, j, metrics);
    return dd_inception_expect(e, j->snap->net, &j->way.side, err);
}

// --- references ---

// A new one, or as far as an earlier job has come with it.
static int open_ref(struct dd_eval_work *w, struct dd_eval_judge *j, char path[DD_PATH_MAX],
                    struct dr_err *err) {
    const bool own = j->by == DD_EVAL_BY_JUDGE;
    const struct dr_eval_judge judge = {.snap = j->snap,
                                        .prepare = own ? NULL : dr_fid_prepare,
                                        .ctx = &j->way,
                                        .prepare_name =
                                            own ? "" : dr_fid_resize_word(j->way.resize)};
    struct dr_err why = {0};
    int rc = dr_eval_ref_create(w->be, &j->cfg, &judge, w->train, w->test, &j->ref, err);
    if (!rc)
        rc = dd_refs_path(w->job->env->opt->state_dir, dr_eval_ref_key(j->ref), path, err);
    if (rc || access(path, F_OK))
        return rc;
    if (!dr_eval_ref_restore(j->ref, path, &why)) {
        dd_refs_touch(path);
        return 0;
    }
    dd_log(DR_LOG_WARN, "eval.reference", "job=%lld reason=%.200s", (long long)w->job->id, why.msg);
    unlink(path);
    dr_eval_ref_free(j->ref);
    return dr_eval_ref_create(w->be, &j->cfg, &judge, w->train, w->test, &j->ref, err);
}

static int make_ref(struct dd_eval_work *w, struct dd_eval_judge *j, struct dr_err *err) {
    char path[DD_PATH_MAX];
    bool done = false;
    struct dr_err why = {0};
    int rc = open_ref(w, j, path, err);
    const double before = rc ? 1 : dr_eval_ref_progress(j->ref);
    const int64_t n = w->job->cfg.eval.n, earlier = w->refs_done;
    w->refs_total += before < 1 ? n : 0;
    dd_eval_note_save(w, dd_seconds(), before);
    while (!rc && !(rc = dr_eval_ref_advance(j->ref, dd_eval_slice(w), &done, err)) && !done) {
        const double all = dr_eval_ref_progress(j->ref);
        w->refs_done = earlier + (int64_t)(all * (double)n);
        const bool go = dd_eval_pace(w);
        const double paced = dd_seconds();
        if (!go || dd_eval_save_due(&w->saved, paced, all)) {
            dr_eval_ref_save(j->ref, path, &why); // a process that ends goes on from here
            dd_eval_note_save(w, paced, all);
        }
        if (!go)
            rc = dr_fail(err, DR_ECANCELED, "stopped");
    }
    w->refs_done = w->refs_total;
    if (!rc && before < 1 && dr_eval_ref_save(j->ref, path, &why))
        dd_log(DR_LOG_WARN, "eval.reference", "job=%lld reason=%.200s", (long long)w->job->id,
               why.msg);
    if (before < 1)
        dd_refs_trim(w->job->env->opt->state_dir, DD_REFS_BYTES);
    return rc;
}

// What two runs must share to be compared.
static void make_key(struct dd_eval_work *w) {
    struct dr_sha256 s;
    char hex[65], n[40];
    dr_sha256_init(&s);
    for (int i = 0; i < w->njudges; i++) {
        const char *key = dr_eval_ref_key(w->judge[i].ref);
        dr_sha256_update(&s, key, strlen(key));
    }
    const int len = snprintf(n, sizeof n, "n=%lld", (long long)w->job->cfg.eval.n);
    dr_sha256_update(&s, n, (size_t)len);
    dr_sha256_hex(&s, hex);
    snprintf(w->comparable, sizeof w->comparable, "%.16s", hex);
}

static int open_backend(struct dd_eval_work *w, int threads, struct dr_err *err) {
    int rc = dr_backend_open(w->job->env->device, threads, &w->be, err);
    if (!rc)
        dr_backend_enter(w->be);
    return rc;
}

int dd_eval_setup(struct dd_eval_work *w, struct dr_err *err) {
    const struct dr_eval_section *e = &w->job->cfg.eval;
    unsigned metrics[DD_EVAL_BYS];
    // One thread beside training: its parts never wait for each other at the end of a share.
    const int threads = dd_eval_others_train(w) ? 1 : (int)w->job->env->opt->threads;
    int rc = dd_eval_metrics_parse(e->metrics, metrics, err);
    dr_workers_use(threads); // to read or to draw pictures as well, whatever the device
    if (!rc)
        rc = load_data(w, err);
    if (!rc)
        rc = open_backend(w, threads, err);
    if (!rc && metrics[DD_EVAL_BY_JUDGE])
        rc = load_judge(w, metrics[DD_EVAL_BY_JUDGE], err);
    if (!rc && metrics[DD_EVAL_BY_INCEPTION])
        rc = load_inception(w, metrics[DD_EVAL_BY_INCEPTION], err);
    if (!rc && !w->njudges)
        rc = dr_fail_at(err, DR_EINVAL, "eval.metrics",
                        "eval.metrics is \"%.100s\", of which nothing can be computed %s",
                        e->metrics, e->judge[0] ? "without eval.inception" : "without eval.judge");
    for (int i = 0; i < w->njudges && !rc; i++)
        rc = make_ref(w, &w->judge[i], err);
    if (!rc)
        make_key(w);
    return rc;
}

void dd_eval_setdown(struct dd_eval_work *w) {
    for (int i = 0; i < w->njudges; i++) {
        dr_eval_ref_free(w->judge[i].ref);
        dr_snapshot_unref(w->judge[i].snap);
    }
    dr_backend_free(w->be);
    dr_dataset_free(w->train);
    dr_dataset_free(w->test);
}
