// What is kept of a sequence of images. See eval_priv.h.
#include "engine/eval/eval_priv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_wanted(const struct dr_eval_config *cfg, int metric) {
    return (cfg->metrics >> metric & 1) != 0;
}

// Parts of the samples: where they are asked for, or cost little and give a standard error.
static int64_t blocks_for(const struct dr_eval_config *cfg, int64_t d, int64_t n) {
    int64_t blocks = is_wanted(cfg, DR_EVAL_FD_INF) || d <= 512 ? cfg->blocks : 1;
    while (blocks > 1 && n / blocks < 2)
        blocks /= 2;
    return blocks;
}

static int allocate(struct eval_tally *t, const struct eval_plan *plan, struct dr_err *err) {
    const size_t cap = (size_t)t->cap, splits = (size_t)t->cfg->is_splits;
    bool ok = true;
    if (cap) {
        t->rows = malloc(cap * (size_t)t->d * sizeof *t->rows);
        t->cls = malloc(cap * sizeof *t->cls);
        ok = t->rows && t->cls;
    }
    if (plan->logits && t->logits) {
        t->p = calloc(splits * (size_t)t->logits, sizeof *t->p);
        t->plogp = calloc(splits, sizeof *t->plogp);
        t->count = calloc(splits, sizeof *t->count);
        ok = ok && t->p && t->plogp && t->count;
    }
    // Of a judge of other classes it would say nothing.
    if (t->p && t->logits == t->classes) {
        t->confusion = calloc((size_t)(t->classes * t->logits), sizeof *t->confusion);
        ok = ok && t->confusion;
    }
    if (!ok)
        return dr_fail(err, DR_ENOMEM, "out of memory for the features of %zu images", cap);
    return plan->moments ? dr_moments_create(t->d, &t->open, err) : 0;
}

int eval_tally_create(const struct dr_eval_config *cfg, const struct eval_judge *j, int64_t classes,
                      const struct eval_plan *plan, struct dr_moments *against,
                      struct eval_tally **out, struct dr_err *err) {
    struct eval_tally *t = *out = calloc(1, sizeof *t);
    if (!t)
        return dr_fail(err, DR_ENOMEM, "out of memory for an evaluation");
    *t = (struct eval_tally){.cfg = cfg,
                             .against = against,
                             .d = j->d,
                             .logits = j->classes,
                             .classes = classes,
                             .planned = plan->n,
                             .cap = DR_MIN(plan->cap, plan->n)};
    t->blocks = plan->parts ? blocks_for(cfg, j->d, plan->n) : 1;
    const int rc = allocate(t, plan, err);
    if (rc) {
        eval_tally_free(t);
        *out = NULL;
    }
    return rc;
}

void eval_tally_free(struct eval_tally *t) {
    if (!t)
        return;
    dr_moments_free(t->open);
    for (int i = 0; i < EVAL_LEVELS; i++)
        dr_moments_free(t->level[i]);
    free(t->rows);
    free(t->cls);
    free(t->p);
    free(t->plogp);
    free(t->count);
    free(t->confusion);
    free(t);
}

static int note_distance(struct eval_tally *t, int level, struct dr_moments *m,
                         struct dr_err *err) {
    double fd;
    int rc = t->against ? dr_frechet(m, t->against, &fd, err) : 0;
    if (rc || !t->against)
        return rc;
    t->fd[level] += fd;
    t->fds[level]++;
    if (!level)
        t->fd_square += fd * fd;
    return 0;
}

// The open part is full: distances of it and of every larger part that ends with it.
static int close_part(struct eval_tally *t, struct dr_err *err) {
    struct dr_moments *m = t->open;
    int level = 0, rc = note_distance(t, 0, m, err);
    t->open = NULL;
    t->part++;
    while (!rc && t->level[level]) {
        struct dr_moments *first = t->level[level];
        t->level[level++] = NULL;
        rc = dr_moments_merge(first, m, err);
        dr_moments_free(m);
        m = first;
        if (!rc)
            rc = note_distance(t, level, m, err);
    }
    t->level[level] = m;
    return rc ? rc : t->part < t->blocks ? dr_moments_create(t->d, &t->open, err) : 0;
}

static int add_moments(struct eval_tally *t, const real *feature, int64_t n, struct dr_err *err) {
    int rc = 0;
    for (int64_t i = 0, at = t->n; i < n && t->open && !rc;) {
        const int64_t end = (t->part + 1) * t->planned / t->blocks;
        const int64_t count = DR_MIN(n - i, end - at);
        dr_moments_add(t->open, feature + i * t->d, count);
        i += count;
        at += count;
        if (at == end)
            rc = close_part(t, err);
    }
    return rc;
}

int64_t eval_argmax(const real *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

// Image number i of all.
static void add_logits(struct eval_tally *t, const real *logits, int32_t cls, int64_t i,
                       double *p) {
    const int64_t split = i * t->cfg->is_splits / t->planned;
    dr_softmax(logits, t->logits, p);
    for (int64_t c = 0; c < t->logits; c++) {
        t->p[split * t->logits + c] += p[c];
        t->plogp[split] += p[c] > 0 ? p[c] * log(p[c]) : 0;
    }
    t->count[split]++;
    if (t->confusion && cls >= 0 && cls < t->classes)
        t->confusion[cls * t->logits + eval_argmax(logits, t->logits)]++;
}

int eval_tally_add(struct eval_tally *t, const real *feature, const real *logits,
                   const int32_t *cls, int64_t n, struct dr_err *err) {
    n = DR_MIN(n, t->planned - t->n);
    const int64_t keep = DR_MAX(DR_MIN(n, t->cap - t->n), (int64_t)0);
    double *p = t->p ? malloc((size_t)t->logits * sizeof *p) : NULL;
    if (t->p && !p)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld probabilities",
                       (long long)t->logits);
    if (keep) {
        memcpy(t->rows + t->n * t->d, feature, (size_t)(keep * t->d) * sizeof *feature);
        memcpy(t->cls + t->n, cls, (size_t)keep * sizeof *cls);
    }
    for (int64_t i = 0; i < n && t->p; i++)
        add_logits(t, logits + i * t->logits, cls[i], t->n + i, p);
    free(p);
    const int rc = add_moments(t, feature, n, err);
    t->n += n;
    return rc;
}

struct dr_moments *eval_tally_all(struct eval_tally *t) {
    for (int i = EVAL_LEVELS - 1; i >= 0; i--)
        if (t->level[i])
            return t->level[i];
    return NULL;
}

void eval_tally_correct(const struct eval_tally *t, int64_t cls, int64_t *right, int64_t *all) {
    *right = *all = 0;
    for (int64_t c = cls < 0 ? 0 : cls; c < (cls < 0 ? t->classes : cls + 1); c++)
        for (int64_t k = 0; k < t->logits; k++) {
            *all += t->confusion[c * t->logits + k];
            *right += k == c ? t->confusion[c * t->logits + k] : 0;
        }
}
