// See own_encoder.h.
#include "daemon/jobs/own_encoder.h"

#include "daemon/base/util.h"
#include "daemon/jobs/needs.h"
#include "daemon/store/checkpoints.h"

#include <stdio.h>
#include <string.h>

bool dd_own_encoder(const char *generator, const struct dr_snapshot *judge, int64_t side) {
    struct dr_st_file *f;
    char own[65] = "", theirs[65];
    if (dr_st_open(generator, &f, NULL))
        return false;
    const char *meta = dr_st_meta(f, "driftd.encoder_sha256");
    snprintf(own, sizeof own, "%s", meta ? meta : "");
    dr_st_close(f);
    return own[0] && !dr_encoder_identity(judge, side, theirs, NULL) && !strcmp(own, theirs);
}

int dd_own_encoder_refuse(const char *judge, const char *generator, struct dr_err *err) {
    return dr_fail_at(err, DR_EINVAL, "eval.judge",
                      "eval.judge: %.100s is the encoder that %.100s is trained with; use another "
                      "judge, or set eval.allow_own_encoder to have the numbers all the same",
                      judge, generator);
}

// The file of a checkpoint; false: it is not there.
static bool file_of(struct dd_store *s, int64_t id, char path[DD_PATH_MAX]) {
    struct dd_ckpt_row row;
    if (!id || dd_ckpt_get(s, id, &row, NULL))
        return false;
    const bool ok = !strcmp(row.state, "ok");
    memcpy(path, row.path, sizeof row.path);
    dd_ckpt_row_free(&row);
    return ok;
}

static int64_t newest_of(struct dd_store *s, int64_t job) {
    sqlite3 *db = dd_store_reader(s, NULL);
    const int64_t id = db ? dd_sql_one(db, 0,
                                       "SELECT id FROM checkpoints WHERE job=? AND state='ok'"
                                       " ORDER BY step DESC, id DESC LIMIT 1",
                                       "i", job)
                          : 0;
    sqlite3_close(db);
    return id;
}

// The file that features.encoder, or eval.judge of kind eval, stands for now; for a recipe, that of
// the job which has trained it. False: there is none yet.
static bool resolve(struct dd_store *s, const char *data_dir, const char *config_dir,
                    const struct dr_config *cfg, char path[DD_PATH_MAX]) {
    const char *word;
    const enum dd_encoder_ref ref = dd_encoder_ref(cfg, &word);
    struct dr_config encoder;
    int64_t job = 0;
    if (ref == DD_ENCODER_NONE)
        return false;
    if (ref != DD_ENCODER_RECIPE)
        return !dd_ckpt_find(s, data_dir, dd_encoder_key(cfg), word, path, NULL);
    sqlite3 *db =
        dd_encoder_recipe(config_dir, cfg, &encoder, NULL) ? NULL : dd_store_reader(s, NULL);
    if (db && dd_needs_find(db, &encoder, &job, NULL))
        job = 0;
    sqlite3_close(db);
    return job && file_of(s, newest_of(s, job), path);
}

// The two files hold the same encoder.
static bool same_encoder(const char *a, const char *b, int64_t side) {
    struct dr_snapshot *one = NULL, *other = NULL;
    char x[65], y[65];
    const bool same = !dr_snapshot_load(a, NULL, &one, NULL) &&
                      !dr_snapshot_load(b, NULL, &other, NULL) &&
                      !dr_encoder_identity(one, side, x, NULL) &&
                      !dr_encoder_identity(other, side, y, NULL) && !strcmp(x, y);
    dr_snapshot_unref(one);
    dr_snapshot_unref(other);
    return same;
}

static int check_training(struct dd_store *s, const char *data_dir, const char *config_dir,
                          const struct dr_config *cfg, struct dr_err *err) {
    char encoder[DD_PATH_MAX], judge[DD_PATH_MAX];
    struct dr_config as = *cfg, one, other;
    char key[80];
    as.kind = DR_RECIPE_EVAL;
    bool same;
    if (dd_encoder_ref_is_recipe(cfg) && dd_encoder_ref_is_recipe(&as))
        same = !dd_encoder_recipe(config_dir, cfg, &one, NULL) &&
               !dd_encoder_recipe(config_dir, &as, &other, NULL) &&
               !dd_encoder_differs(&one, &other, key);
    else
        same = resolve(s, data_dir, config_dir, cfg, encoder) &&
               resolve(s, data_dir, config_dir, &as, judge) &&
               same_encoder(encoder, judge, cfg->data.size);
    return same ? dd_own_encoder_refuse(cfg->eval.judge, "this generator", err) : 0;
}

int dd_own_encoder_check(struct dd_store *s, const char *data_dir, const char *config_dir,
                         const struct dr_config *cfg, struct dr_err *err) {
    const struct dr_eval_section *e = &cfg->eval;
    char generator[DD_PATH_MAX], judge[DD_PATH_MAX], name[40];
    struct dr_snapshot *snap = NULL;
    if (!e->judge[0] || e->allow_own_encoder)
        return 0;
    if (dr_config_evaluates(cfg))
        return cfg->features.kind == DR_FEATURE_ENCODER
                   ? check_training(s, data_dir, config_dir, cfg, err)
                   : 0;
    const int64_t id = e->checkpoint ? e->checkpoint : e->job ? newest_of(s, e->job) : 0;
    if (cfg->kind != DR_RECIPE_EVAL || !file_of(s, id, generator) ||
        !resolve(s, data_dir, config_dir, cfg, judge) || dr_snapshot_load(judge, NULL, &snap, NULL))
        return 0;
    const bool own = dd_own_encoder(generator, snap, cfg->data.size);
    dr_snapshot_unref(snap);
    snprintf(name, sizeof name, "checkpoint %lld", (long long)id);
    return own ? dd_own_encoder_refuse(e->judge, name, err) : 0;
}
