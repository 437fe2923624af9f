// Checkpoints of a run: one safetensors file. The served EMA stands under the reference's names, so
// the file is also an exported model; beside it "train/NAME" (weights), "opt.m/NAME", "opt.v/NAME",
// "emaK/NAME" (further EMAs) and the objective's state make resuming exact. Groups after the first
// have "train/GROUP/NAME" and so on, and no EMA.
#include "driftd_git.h"
#include "engine/io/safetensors.h"
#include "engine/train/trainer_priv.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const enum dr_st_dtype real_type = sizeof(real) == 8 ? DR_ST_F64 : DR_ST_F32;

enum { BLOCKS = DR_MAX_EMA + 3 };

// The flat blocks of a group and the prefix of their tensors' names. Returns how many.
static int blocks_of(struct dr_trainer *t, int k, real *block[BLOCKS], const char *prefix[BLOCKS]) {
    static const char *const ema_prefix[DR_MAX_EMA] = {"", "ema1/", "ema2/", "ema3/"};
    static const char *const rest_prefix[] = {"train/", "opt.m/", "opt.v/"};
    const struct dr_group *g = &t->group[k];
    real *const rest[] = {g->w, g->m, g->v};
    int n = 0;
    for (int i = 0; !k && i < t->cfg.ema.n; i++) {
        block[n] = g->ema[i];
        prefix[n++] = ema_prefix[i];
    }
    for (int i = 0; i < 3; i++) {
        block[n] = rest[i];
        prefix[n++] = rest_prefix[i];
    }
    return n;
}

static void tensor_name(char name[160], const char *prefix, const struct dr_group *g,
                        const struct dr_param *p) {
    snprintf(name, 160, "%s%s%s%s", prefix, g->name, g->name[0] ? "/" : "", p->name);
}

static int add_block(struct dr_st_writer *w, const struct dr_group *g, const char *prefix,
                     const real *host, struct dr_err *err) {
    int rc = 0;
    for (int i = 0; i < g->layout->n && !rc; i++) {
        const struct dr_param *p = &g->layout->p[i];
        char name[160];
        tensor_name(name, prefix, g, p);
        rc = dr_st_add(w, name, real_type, p->ndim, p->dim, host + p->offset, err);
    }
    return rc;
}

// Downloads the blocks of all groups to host, [reals_of], and adds them.
static int add_groups(struct dr_trainer *t, struct dr_st_writer *w, real *host,
                      struct dr_err *err) {
    int rc = 0;
    for (int k = 0; k < t->ngroups; k++) {
        const struct dr_group *g = &t->group[k];
        real *block[BLOCKS];
        const char *prefix[BLOCKS];
        const int n = blocks_of(t, k, block, prefix);
        for (int i = 0; i < n && !rc; i++, host += g->layout->total) {
            t->be->download(t->be, host, block[i], (size_t)g->layout->total * sizeof(real));
            rc = add_block(w, g, prefix[i], host, err);
        }
    }
    return rc;
}

static size_t reals_of(struct dr_trainer *t) {
    size_t n = 0;
    real *block[BLOCKS];
    const char *prefix[BLOCKS];
    for (int k = 0; k < t->ngroups; k++)
        n += (size_t)blocks_of(t, k, block, prefix) * (size_t)t->group[k].layout->total;
    return n;
}

static size_t state_size(const struct dr_trainer *t) {
    return t->objective->state_size ? t->objective->state_size(t->o) : 0;
}

// The labels' names as a JSON array, so that a file taken elsewhere still knows them; NULL: none.
static char *class_names(const struct dr_dataset *d) {
    if (!d->class_name)
        return NULL;
    json_t *a = json_array();
    for (int64_t i = 0; i < d->classes; i++)
        json_array_append_new(a, json_string(d->class_name[i]));
    char *text = json_dumps(a, JSON_COMPACT);
    json_decref(a);
    return text;
}

static bool identity(const struct dr_trainer *t, struct dr_identity *id, char key[2][64]) {
    if (!t->objective->identity || !t->objective->identity(t->o, id))
        return false;
    snprintf(key[0], sizeof key[0], "driftd.%s", id->name);
    snprintf(key[1], sizeof key[1], "driftd.%s_sha256", id->name);
    return true;
}

static int add_identity(const struct dr_trainer *t, struct dr_st_writer *w, struct dr_err *err) {
    struct dr_identity id;
    char key[2][64];
    if (!identity(t, &id, key))
        return 0;
    int rc = dr_st_add_meta(w, key[0], id.description, err);
    return rc ? rc : dr_st_add_meta(w, key[1], id.sha256, err);
}

static int check_identity(const struct dr_trainer *t, const struct dr_st_file *f, const char *path,
                          struct dr_err *err) {
    struct dr_identity id;
    char key[2][64];
    if (!identity(t, &id, key))
        return 0;
    const char *theirs = dr_st_meta(f, key[1]);
    if (theirs && !strcmp(theirs, id.sha256))
        return 0;
    return dr_fail(err, DR_EINVAL, "%s: trained with %s%.12s, this run has the %s %.12s", path,
                   theirs ? "the frozen encoder of sha256 " : "no frozen encoder",
                   theirs ? theirs : "", id.name, id.sha256);
}

static int add_meta(struct dr_trainer *t, struct dr_st_writer *w, struct dr_err *err) {
    char step[32], seconds[32], fingerprint[32];
    snprintf(step, sizeof step, "%lld", (long long)t->step);
    snprintf(seconds, sizeof seconds, "%.17g", t->seconds);
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, t->data->fingerprint);
    char *config = dr_config_to_json(&t->cfg);
    if (!config)
        return dr_fail(err, DR_ENOMEM, "out of memory for a checkpoint's metadata");
    const char *const kv[][2] = {{"format", "driftd"},
                                 {"driftd.config", config},
                                 {"driftd.step", step},
                                 {"driftd.data", t->data->name},
                                 {"driftd.data_fingerprint", fingerprint},
                                 {"driftd.git", DRIFTD_GIT}};
    int rc = 0;
    for (size_t i = 0; i < DR_COUNT(kv) && !rc; i++)
        rc = dr_st_add_meta(w, kv[i][0], kv[i][1], err);
    // The time is a part of the state only where it decides when the run ends: two runs of the same
    // configuration otherwise write the same bytes.
    if (!rc && t->cfg.train.minutes > 0)
        rc = dr_st_add_meta(w, "driftd.seconds", seconds, err);
    if (!rc && t->objective != &dr_objective_drift)
        rc = dr_st_add_meta(w, "driftd.objective", t->objective->name, err);
    if (!rc)
        rc = add_identity(t, w, err);
    char *names = class_names(t->data);
    if (!rc && names)
        rc = dr_st_add_meta(w, "driftd.classes", names, err);
    free(names);
    free(config);
    return rc;
}

int dr_trainer_save(struct dr_trainer *t, const char *path, char *sha256_hex, int64_t *bytes,
                    struct dr_err *err) {
    const size_t state_bytes = state_size(t);
    int rc = trainer_settle(t, err); // only what is known to be finite is written
    if (rc)
        return rc;
    real *host = malloc(reals_of(t) * sizeof *host);
    char *state = malloc(DR_MAX(state_bytes, (size_t)1));
    struct dr_st_writer *w = NULL;
    rc = host && state ? dr_st_writer_new(&w, err)
                       : dr_fail(err, DR_ENOMEM, "out of memory for a checkpoint");
    if (!rc)
        rc = add_groups(t, w, host, err);
    if (!rc && state_bytes) {
        t->objective->state_get(t->o, state);
        const int64_t dim = (int64_t)state_bytes;
        rc = dr_st_add(w, t->objective->state_name, DR_ST_U8, 1, &dim, state, err);
    }
    if (!rc) // a lost device gives no weights: nothing of it may reach the file
        rc = t->be->sync(t->be, err);
    if (!rc)
        rc = add_meta(t, w, err);
    if (!rc)
        rc = dr_st_finish(w, path, sha256_hex, bytes, err); // frees the writer
    else
        dr_st_writer_free(w);
    free(host);
    free(state);
    return rc;
}

static int read_block(struct dr_trainer *t, const struct dr_st_file *f, const struct dr_group *g,
                      const char *prefix, real *dst, struct dr_err *err) {
    const struct dr_params *ps = g->layout;
    real *host = calloc((size_t)DR_MAX(ps->total, 1), sizeof *host);
    float *tmp = malloc((size_t)DR_MAX(ps->total, 1) * sizeof *tmp);
    int rc = host && tmp ? 0 : dr_fail(err, DR_ENOMEM, "out of memory for a checkpoint");
    for (int i = 0; i < ps->n && !rc; i++) {
        const struct dr_param *p = &ps->p[i];
        char name[160];
        tensor_name(name, prefix, g, p);
        rc = dr_st_read_f32(f, name, p->ndim, p->dim, tmp, err);
        for (int64_t j = 0; j < p->count && !rc; j++)
            host[p->offset + j] = (real)tmp[j];
    }
    if (!rc)
        t->be->upload(t->be, dst, host, (size_t)ps->total * sizeof *host);
    free(host);
    free(tmp);
    return rc;
}

static int read_groups(struct dr_trainer *t, const struct dr_st_file *f, struct dr_err *err) {
    int rc = 0;
    for (int k = 0; k < t->ngroups; k++) {
        real *block[BLOCKS];
        const char *prefix[BLOCKS];
        const int n = blocks_of(t, k, block, prefix);
        for (int i = 0; i < n && !rc; i++)
            rc = read_block(t, f, &t->group[k], prefix[i], block[i], err);
    }
    return rc;
}

// A checkpoint continues the run it came from only if what decides the weights' meaning is the
// same.
static int check_same_run(struct dr_trainer *t, const struct dr_st_file *f, const char *path,
                          struct dr_err *err) {
    const char *json = dr_st_meta(f, "driftd.config"),
               *data = dr_st_meta(f, "driftd.data_fingerprint");
    if (!json || !data || !dr_st_meta(f, "driftd.step"))
        return dr_fail(err, DR_EFORMAT, "%s: not a training checkpoint of driftd", path);
    const char *objective = dr_st_meta(f, "driftd.objective");
    if (strcmp(objective ? objective : dr_objective_drift.name, t->objective->name))
        return dr_fail(err, DR_EINVAL,
                       "%s: the checkpoint is one of objective %s, this run's is %s", path,
                       objective ? objective : dr_objective_drift.name, t->objective->name);
    struct dr_config c;
    int rc = dr_config_parse(json, strlen(json), path, &c, err);
    if (rc)
        return rc;
    if (t->objective->same && (rc = t->objective->same(t->o, &c, path, err)))
        return rc;
    if (c.train.seed != t->cfg.train.seed)
        return dr_fail(err, DR_EINVAL, "%s: the checkpoint's train.seed is %lld, this run's %lld",
                       path, (long long)c.train.seed, (long long)t->cfg.train.seed);
    if ((rc = check_identity(t, f, path, err)))
        return rc;
    char fingerprint[32];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, t->data->fingerprint);
    if (strcmp(fingerprint, data))
        return dr_fail(err, DR_EINVAL,
                       "%s: trained on data with fingerprint %s, this run's data set %s has %s",
                       path, data, t->data->name, fingerprint);
    return 0;
}

static int read_state(struct dr_trainer *t, const struct dr_st_file *f, const char *path,
                      struct dr_err *err) {
    const size_t want = state_size(t);
    if (!want)
        return 0;
    const struct dr_st_tensor *s = dr_st_find(f, t->objective->state_name);
    if (!s || s->bytes != want)
        return dr_fail(err, DR_EFORMAT, "%s: %s is %s", path, t->objective->state_name,
                       s ? "of another size" : "missing");
    const int rc = t->objective->state_set(t->o, s->data, s->bytes, err);
    return rc ? rc : dr_st_intact(f, err);
}

// Forgets what is on its way and what went wrong: the state comes from the file.
static int start_over(struct dr_trainer *t, struct dr_err *err) {
    static const real zero[2] = {0};
    const int rc = t->be->sync(t->be, err);
    for (int i = 0; i < t->nslots; i++)
        t->slot[i].step = 0;
    t->late.step = 0;
    t->failed = 0;
    t->be->upload(t->be, t->guard, zero, sizeof zero);
    return rc;
}

static int load_all(struct dr_trainer *t, const struct dr_st_file *f, const char *path,
                    struct dr_err *err) {
    int rc = start_over(t, err);
    if (!rc)
        rc = read_groups(t, f, err);
    if (!rc)
        rc = read_state(t, f, path, err);
    if (rc)
        return rc;
    trainer_round_weights(t);
    t->step = strtoll(dr_st_meta(f, "driftd.step"), NULL, 10);
    const char *seconds = dr_st_meta(f, "driftd.seconds");
    t->seconds = seconds ? strtod(seconds, NULL) : 0;
    return t->be->sync(t->be, err);
}

int dr_trainer_load(struct dr_trainer *t, const char *path, struct dr_err *err) {
    struct dr_st_file *f;
    int rc = dr_st_open(path, &f, err);
    if (rc)
        return rc;
    rc = check_same_run(t, f, path, err);
    if (!rc)
        rc = load_all(t, f, path, err);
    dr_st_close(f);
    return rc;
}
