// Data sets, judges and references of reals of an eval job (eval_priv.h).
#include "daemon/jobs/eval_priv.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/datasets/datasets.h"
#include "daemon/jobs/needs.h"
#include "daemon/store/checkpoints.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double SAVE_EVERY = 30; // s between saves of a reference in the making

// --- data ---

static int load_data(struct dd_eval_work *w, struct dr_err *err) {
    const struct dr_data_config *d = &w->job->cfg.data;
    char dir[DD_PATH_MAX], q[600];
    struct dr_err why = {0};
    int rc = dd_dataset_dir(w->job->env->store, d, w->job->env->opt->data_dir, dir, err);
    if (!rc)
        rc = dr_dataset_load(d, dir, false, &w->train, err);
    if (rc)
        return rc;
    if (!dr_dataset_load(d, dir, true, &w->test, &why))
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

// A judge must know the data set's images and classes, and must not be what it judges.
static int check_judge(const struct dd_eval_work *w, const struct dd_eval_judge *j,
                       struct dr_err *err) {
    const struct dr_net *net = j->snap->net;
    const int64_t have = dr_net_input(net), want = w->train->c * w->train->h * w->train->w;
    const int logits = dr_net_output_find(net, "logits");
    if (dr_net_kind(net) == DR_NET_GENERATOR)
        return dr_fail_at(err, DR_EINVAL, "eval.judge",
                          "eval.judge: %.200s is a generator; expected a judge", j->name);
    if (have != want)
        return dr_fail_at(err, DR_EINVAL, "eval.judge",
                          "eval.judge: %.200s takes images of %lld values; those of the data set "
                          "%s have %lld (%lld channels, %lld x %lld)",
                          j->name, (long long)have, w->train->name, (long long)want,
                          (long long)w->train->c, (long long)w->train->h, (long long)w->train->w);
    if (logits >= 0 && w->train->classes > 1 && dr_net_output(net, logits).c != w->train->classes)
        return dr_fail_at(err, DR_EINVAL, "eval.judge",
                          "eval.judge: %.200s tells %lld classes apart; the data set %s has %lld",
                          j->name, (long long)dr_net_output(net, logits).c, w->train->name,
                          (long long)w->train->classes);
    return 0;
}

// `all` means what this judge and this data set have: a network without a classifier sees no
// classes, and those of Inception-v3 are not the data set's.
static void configure(const struct dd_eval_work *w, struct dd_eval_judge *j, unsigned metrics) {
    const struct dr_eval_section *e = &w->job->cfg.eval;
    const bool logits = dr_net_output_find(j->snap->net, "logits") >= 0,
               own = j->by == DD_EVAL_BY_JUDGE, all = !strcmp(e->metrics, "all");
    dr_eval_defaults(&j->cfg);
    if (all && (!logits || !own || w->train->classes < 2))
        metrics &= ~(1u << DR_EVAL_ACCURACY);
    if (all && !logits)
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
    rc = check_judge(w, j, err);
    if (!rc && dd_encoder_ref_is_recipe(&w->job->cfg))
        rc = dd_encoder_data(path, &w->job->cfg, w->train, err);
    return rc;
}

static int load_inception(struct dd_eval_work *w, unsigned metrics, struct dr_err *err) {
    const struct dr_eval_section *e = &w->job->cfg.eval;
    struct dd_eval_judge *j = &w->judge[w->njudges];
    const char *dir = w->job->env->opt->data_dir;
    char path[DD_PATH_MAX];
    struct dr_err why = {0};
    if (!e->inception[0])
        return 0;
    *j = (struct dd_eval_judge){.by = DD_EVAL_BY_INCEPTION};
    int rc = dd_path(path, err, "%s/%s", dir ? dir : ".", e->inception);
    if (!rc)
        rc = dr_sha256_file(path, j->sha256, &why);
    if (!rc && !why.code)
        rc = dr_snapshot_load(path, NULL, &j->snap, &why);
    if (rc)
        return dr_fail_at(err, rc, "eval.inception", "eval.inception: %.400s",
                          why.msg[0] ? why.msg : err->msg);
    w->njudges++;
    const double side = sqrt((double)dr_net_input(j->snap->net) / 3);
    j->way = (struct dr_fid_way){
        .resize = (enum dr_fid_resize)e->resize, .side = (int64_t)lround(side), .threads = 1};
    snprintf(j->name, sizeof j->name, "%s", e->inception);
    configure(w, j, metrics);
    if (dr_net_kind(j->snap->net) == DR_NET_GENERATOR ||
        3 * j->way.side * j->way.side != dr_net_input(j->snap->net))
        return dr_fail_at(err, DR_EINVAL, "eval.inception",
                          "eval.inception: %.200s is no network of Inception-v3", e->inception);
    return 0;
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
        rc = dd_eval_path(w, path, err, "refs/%s.safetensors", dr_eval_ref_key(j->ref));
    if (rc || access(path, F_OK) || !dr_eval_ref_restore(j->ref, path, &why))
        return rc;
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
    w->saved = dd_seconds();
    while (!rc && !(rc = dr_eval_ref_advance(j->ref, dd_eval_slice(w), &done, err)) && !done) {
        w->refs_done = earlier + (int64_t)(dr_eval_ref_progress(j->ref) * (double)n);
        const bool go = dd_eval_pace(w);
        if (!go || dd_seconds() - w->saved > SAVE_EVERY) {
            dr_eval_ref_save(j->ref, path, &why); // a process that ends goes on from here
            w->saved = dd_seconds();
        }
        if (!go)
            rc = dr_fail(err, DR_ECANCELED, "stopped");
    }
    w->refs_done = w->refs_total;
    if (!rc && before < 1 && dr_eval_ref_save(j->ref, path, &why))
        dd_log(DR_LOG_WARN, "eval.reference", "job=%lld reason=%.200s", (long long)w->job->id,
               why.msg);
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

static int open_backend(struct dd_eval_work *w, struct dr_err *err) {
    // One thread beside training: its parts never wait for each other at the end of a share.
    const bool beside = dd_eval_others_train(w);
    int rc = dr_backend_open(w->job->env->device, beside ? 1 : (int)w->job->env->opt->threads,
                             &w->be, err);
    if (!rc)
        dr_backend_enter(w->be);
    return rc;
}

int dd_eval_setup(struct dd_eval_work *w, struct dr_err *err) {
    const struct dr_eval_section *e = &w->job->cfg.eval;
    unsigned metrics[DD_EVAL_BYS];
    int rc = dd_eval_metrics_parse(e->metrics, metrics, err);
    if (!rc)
        rc = load_data(w, err);
    if (!rc)
        rc = open_backend(w, err);
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
