// See util.h.
#include "tests/train/util.h"

#include "engine/train/objective.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const tiny_digits[] = {"data.set=digits",
                                   "data.size=16",
                                   "data.count=600",
                                   "data.seed=3",
                                   "model.dim=24",
                                   "model.depth=2",
                                   "model.heads=2",
                                   "model.patch=4",
                                   "model.registers=2",
                                   "model.mlp_ratio=2",
                                   "model.style_tokens=4",
                                   "model.codebook=8",
                                   "model.label_dropout=0.1",
                                   "train.generated=4",
                                   "train.positives=6",
                                   "train.unconditional=5",
                                   "train.micro_batch=16",
                                   "train.seed=11",
                                   "optim.lr=1e-3",
                                   "optim.warmup=5",
                                   "loss.affinity_floor=0",
                                   "metrics.spread_every=3",
                                   NULL};

const char *const tiniest[] = {"data.set=digits",      "data.size=8",           "data.count=600",
                               "model.dim=16",         "model.depth=1",         "model.heads=2",
                               "model.patch=4",        "model.registers=1",     "model.mlp_ratio=2",
                               "model.style_tokens=2", "model.codebook=4",      "train.generated=2",
                               "train.positives=3",    "train.unconditional=2", "train.seed=11",
                               "optim.lr=1e-3",        "loss.affinity_floor=0", NULL};

void config_of(struct dr_config *c, const char *const *set) {
    dr_config_defaults(c);
    config_change(c, set);
}

void config_change(struct dr_config *c, const char *const *set) {
    struct dr_err err = {0};
    int n = 0;
    while (set[n])
        n++;
    if (dr_config_set_all(c, set, n, &err))
        fail_msg("%s", err.msg);
}

void recipe(struct dr_config *c, const char *name) {
    char path[512];
    struct dr_err err = {0};
    snprintf(path, sizeof path, "%s/configs/%s.json", getenv("DRIFTD_SOURCE"), name);
    if (dr_config_load(path, c, &err))
        fail_msg("%s", err.msg);
}

void run_open(struct run *r, const struct dr_config *c) {
    run_open_of(r, c, &(struct dr_trainer_parts){0});
}

void run_open_of(struct run *r, const struct dr_config *c, const struct dr_trainer_parts *parts) {
    struct dr_err err = {0};
    *r = (struct run){0};
    if (dr_backend_open("cpu", 1, &r->be, &err))
        fail_msg("%s", err.msg);
    r->be->enter(r->be);
    if (dr_dataset_load(&c->data, NULL, false, &r->data, &err))
        fail_msg("%s", err.msg);
    if (dr_trainer_create_of(parts, c, r->be, r->data, &r->t, &err))
        fail_msg("%s", err.msg);
}

void run_close(struct run *r) {
    dr_trainer_free(r->t);
    dr_dataset_free(r->data);
    dr_backend_free(r->be);
}

struct dr_metrics run_steps(struct run *r, int n, double *loss) {
    struct dr_metrics m = {0}, last = {0};
    struct dr_err err = {0};
    const int64_t from = dr_trainer_steps_done(r->t);
    for (int i = 0; i <= n; i++) { // a device reports a step one step later
        if (i < n ? dr_trainer_step(r->t, &m, &err) : dr_trainer_wait(r->t, &m, &err))
            fail_msg("%s", err.msg);
        if (!m.step)
            continue;
        last = m;
        if (loss)
            loss[m.step - from - 1] = m.loss;
    }
    assert_int_equal(last.step, from + n);
    return last;
}

void run_sample(struct run *r, int32_t cls, int64_t n, real *x) {
    struct dr_err err = {0};
    struct dr_snapshot *snap = dr_trainer_snapshot(r->t, 0);
    struct dr_sampler *s;
    assert_non_null(snap);
    if (dr_sampler_create(r->be, DR_FP32, 64, &s, &err))
        fail_msg("%s", err.msg);
    struct dr_sample *req = calloc((size_t)n, sizeof *req);
    for (int64_t i = 0; i < n; i++)
        req[i] = (struct dr_sample){.seed = 1, .index = (uint64_t)i, .cls = cls, .alpha = 1};
    if (dr_sampler_run(s, snap, req, n, x, &err))
        fail_msg("%s", err.msg);
    free(req);
    dr_sampler_free(s);
    dr_snapshot_unref(snap);
}

const char *scratch_path(const char *name) {
    static char path[512];
    const char *dir = getenv("DRIFTD_SCRATCH");
    snprintf(path, sizeof path, "%s/%s", dir ? dir : ".", name);
    return path;
}

void run_save(struct run *r, const char *path) {
    struct dr_err err = {0};
    if (dr_trainer_save(r->t, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
}

int64_t run_tensors(const char *path, const char *prefix, float **out) {
    struct dr_err err = {0};
    struct dr_st_file *f = NULL;
    int64_t n = 0;
    *out = NULL;
    if (dr_st_open(path, &f, &err))
        fail_msg("%s", err.msg);
    for (int i = 0; i < dr_st_count(f); i++) {
        const struct dr_st_tensor *t = dr_st_at(f, i);
        if (strncmp(t->name, prefix, strlen(prefix)))
            continue;
        *out = realloc(*out, (size_t)n * sizeof(float) + t->bytes);
        memcpy(*out + n, t->data, t->bytes);
        n += (int64_t)(t->bytes / sizeof(float));
    }
    dr_st_close(f);
    return n;
}
