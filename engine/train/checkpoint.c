// Checkpoints of a run: one safetensors file. The served EMA stands under the reference's names, so
// the file is also an exported model; beside it "train/NAME" (weights), "opt.m/NAME", "opt.v/NAME",
// "emaK/NAME" (further EMAs) and the state of the real-image sampler make resuming exact.
#include "driftd_git.h"
#include "engine/io/safetensors.h"
#include "engine/train/trainer_priv.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLER_STATE "driftd/sampler_state"
static const enum dr_st_dtype real_type = sizeof(real) == 8 ? DR_ST_F64 : DR_ST_F32;

// The flat blocks of a checkpoint and the prefix of their tensors' names. Returns how many.
static int blocks_of(struct dr_trainer *t, real *block[4 + DR_MAX_EMA],
                     const char *prefix[4 + DR_MAX_EMA]) {
    static const char *const ema_prefix[DR_MAX_EMA] = {"", "ema1/", "ema2/", "ema3/"};
    int n = 0;
    for (int i = 0; i < t->cfg.ema.n; i++) {
        block[n] = t->ema[i];
        prefix[n++] = ema_prefix[i];
    }
    real *const rest[] = {t->w, t->m, t->v};
    static const char *const rest_prefix[] = {"train/", "opt.m/", "opt.v/"};
    for (int i = 0; i < 3; i++) {
        block[n] = rest[i];
        prefix[n++] = rest_prefix[i];
    }
    return n;
}

static int add_block(struct dr_st_writer *w, const struct dr_params *ps, const char *prefix,
                     const real *host, struct dr_err *err) {
    int rc = 0;
    for (int i = 0; i < ps->n && !rc; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", prefix, ps->p[i].name);
        rc =
            dr_st_add(w, name, real_type, ps->p[i].ndim, ps->p[i].dim, host + ps->p[i].offset, err);
    }
    return rc;
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

static int add_meta(struct dr_trainer *t, struct dr_st_writer *w, struct dr_err *err) {
    char step[32], seconds[32], fingerprint[32];
    snprintf(step, sizeof step, "%lld", (long long)t->step);
    snprintf(seconds, sizeof seconds, "%.17g", t->seconds);
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, t->data->fingerprint);
    char *config = dr_config_to_json(&t->cfg);
    if (!config)
        return dr_fail(err, DR_ENOMEM, "out of memory for a checkpoint's metadata");
    const char *const kv[][2] = {
        {"format", "driftd"},           {"driftd.config", config},
        {"driftd.step", step},          {"driftd.seconds", seconds},
        {"driftd.data", t->data->name}, {"driftd.data_fingerprint", fingerprint},
        {"driftd.git", DRIFTD_GIT}};
    int rc = 0;
    for (size_t i = 0; i < DR_COUNT(kv) && !rc; i++)
        rc = dr_st_add_meta(w, kv[i][0], kv[i][1], err);
    char *names = class_names(t->data);
    if (!rc && names)
        rc = dr_st_add_meta(w, "driftd.classes", names, err);
    free(names);
    free(config);
    return rc;
}

int dr_trainer_save(struct dr_trainer *t, const char *path, char *sha256_hex, int64_t *bytes,
                    struct dr_err *err) {
    const struct dr_params *ps = dr_net_params(t->gen);
    real *block[4 + DR_MAX_EMA];
    const char *prefix[4 + DR_MAX_EMA];
    const int n = blocks_of(t, block, prefix);
    const size_t state_bytes = dr_reals_state_size(t->reals);
    int rc = trainer_settle(t, err); // only what is known to be finite is written
    if (rc)
        return rc;
    real *host = malloc((size_t)n * (size_t)ps->total * sizeof *host);
    char *state = malloc(DR_MAX(state_bytes, (size_t)1));
    struct dr_st_writer *w = NULL;
    rc = host && state ? dr_st_writer_new(&w, err)
                       : dr_fail(err, DR_ENOMEM, "out of memory for a checkpoint");
    for (int i = 0; i < n && !rc; i++) {
        real *at = host + (int64_t)i * ps->total;
        t->be->download(t->be, at, block[i], (size_t)ps->total * sizeof(real));
        rc = add_block(w, ps, prefix[i], at, err);
    }
    if (!rc && state_bytes) {
        dr_reals_state_get(t->reals, state);
        const int64_t dim = (int64_t)state_bytes;
        rc = dr_st_add(w, SAMPLER_STATE, DR_ST_U8, 1, &dim, state, err);
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

static int read_block(struct dr_trainer *t, const struct dr_st_file *f, const char *prefix,
                      real *host, float *tmp, real *dst, struct dr_err *err) {
    const struct dr_params *ps = dr_net_params(t->gen);
    memset(host, 0, (size_t)ps->total * sizeof *host);
    for (int i = 0; i < ps->n; i++) {
        const struct dr_param *p = &ps->p[i];
        char name[128];
        snprintf(name, sizeof name, "%s%s", prefix, p->name);
        int rc = dr_st_read_f32(f, name, p->ndim, p->dim, tmp, err);
        if (rc)
            return rc;
        for (int64_t j = 0; j < p->count; j++)
            host[p->offset + j] = (real)tmp[j];
    }
    t->be->upload(t->be, dst, host, (size_t)ps->total * sizeof *host);
    return 0;
}

// A checkpoint continues the run it came from only if what decides the weights' meaning is the
// same.
static int check_same_run(struct dr_trainer *t, const struct dr_st_file *f, const char *path,
                          struct dr_err *err) {
    const char *json = dr_st_meta(f, "driftd.config"),
               *data = dr_st_meta(f, "driftd.data_fingerprint");
    if (!json || !data || !dr_st_meta(f, "driftd.step") || !dr_st_meta(f, "driftd.seconds"))
        return dr_fail(err, DR_EFORMAT, "%s: not a training checkpoint of driftd", path);
    struct dr_config c;
    int rc = dr_config_parse(json, strlen(json), path, &c, err);
    if (rc)
        return rc;
    if (!dr_model_config_equal(&c.model, &t->cfg.model))
        return dr_fail(err, DR_EINVAL, "%s: the checkpoint's model differs from this run's", path);
    if (c.train.seed != t->cfg.train.seed)
        return dr_fail(err, DR_EINVAL, "%s: the checkpoint's train.seed is %lld, this run's %lld",
                       path, (long long)c.train.seed, (long long)t->cfg.train.seed);
    char fingerprint[32];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, t->data->fingerprint);
    if (strcmp(fingerprint, data))
        return dr_fail(err, DR_EINVAL,
                       "%s: trained on data with fingerprint %s, this run's data set %s has %s",
                       path, data, t->data->name, fingerprint);
    return 0;
}

static int read_sampler_state(struct dr_trainer *t, const struct dr_st_file *f, const char *path,
                              struct dr_err *err) {
    const size_t want = dr_reals_state_size(t->reals);
    if (!want)
        return 0;
    const struct dr_st_tensor *s = dr_st_find(f, SAMPLER_STATE);
    if (!s || s->bytes != want)
        return dr_fail(err, DR_EFORMAT, "%s: the sampler's state is %s", path,
                       s ? "of another size" : "missing");
    return dr_reals_state_set(t->reals, s->data, s->bytes, err);
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
    const struct dr_params *ps = dr_net_params(t->gen);
    real *block[4 + DR_MAX_EMA], *host = malloc((size_t)ps->total * sizeof *host);
    float *tmp = malloc((size_t)ps->total * sizeof *tmp);
    const char *prefix[4 + DR_MAX_EMA];
    const int n = blocks_of(t, block, prefix);
    int rc = host && tmp ? start_over(t, err)
                         : dr_fail(err, DR_ENOMEM, "out of memory for a checkpoint");
    for (int i = 0; i < n && !rc; i++)
        rc = read_block(t, f, prefix[i], host, tmp, block[i], err);
    free(host);
    free(tmp);
    if (!rc)
        rc = read_sampler_state(t, f, path, err);
    if (rc)
        return rc;
    if (t->w16)
        DR_OP(t->be, cast, .dst = t->w16, .src = t->w, .dt = DR_BF16, .st = DR_F32, .n = ps->total);
    t->step = strtoll(dr_st_meta(f, "driftd.step"), NULL, 10);
    t->seconds = strtod(dr_st_meta(f, "driftd.seconds"), NULL);
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
