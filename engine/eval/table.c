// The table of metrics, and what needs only sums. See eval.h and metrics.h.
#include "engine/eval/eval.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct dr_eval_metric_def dr_eval_metrics[DR_EVAL_METRICS] = {
#define X(ID, name_, unit_, better_, needs_, help_)                                                \
    {.name = #name_, .unit = unit_, .help = help_, .better = better_, .needs = needs_},
#include "engine/eval/eval.def"
#undef X
};

static int find(const char *word, size_t len) {
    for (int i = 0; i < DR_EVAL_METRICS; i++)
        if (strlen(dr_eval_metrics[i].name) == len && !memcmp(dr_eval_metrics[i].name, word, len))
            return i;
    return -1;
}

static int unknown(const char *word, size_t len, struct dr_err *err) {
    const char *names[DR_EVAL_METRICS + 1] = {[DR_EVAL_METRICS] = "all"};
    char copy[64];
    snprintf(copy, sizeof copy, "%.*s", (int)DR_MIN(len, sizeof copy), word);
    for (int i = 0; i < DR_EVAL_METRICS; i++)
        names[i] = dr_eval_metrics[i].name;
    const char *near = dr_nearest(copy, names, DR_EVAL_METRICS + 1);
    if (near)
        return dr_fail_at(err, DR_EINVAL, "metrics",
                          "there is no metric \"%s\"; did you mean \"%s\"?", copy, near);
    return dr_fail_at(
        err, DR_EINVAL, "metrics",
        "there is no metric \"%s\"; there are fd, fd_inf, kid, is, precision, recall, "
        "density, coverage, accuracy, diversity, diversity_worst and nn",
        copy);
}

int dr_eval_metrics_parse(const char *list, unsigned *out, struct dr_err *err) {
    unsigned bits = 0;
    for (const char *p = list; *p;) {
        const size_t len = strcspn(p, ", ");
        const int i = find(p, len);
        if (len == 3 && !memcmp(p, "all", 3))
            bits |= DR_EVAL_ALL;
        else if (len && i < 0)
            return unknown(p, len, err);
        else if (len)
            bits |= 1u << i;
        p += len + (p[len] != 0);
    }
    if (!bits)
        return dr_fail_at(err, DR_EINVAL, "metrics", "no metric is named");
    *out = bits;
    return 0;
}

void dr_eval_defaults(struct dr_eval_config *c) {
    *c = (struct dr_eval_config){.n = 10000,
                                 .split = DR_EVAL_TRAIN,
                                 .metrics = DR_EVAL_ALL,
                                 .batch = 64,
                                 .precision = DR_FP32,
                                 .rows = 10000,
                                 .train_rows = 100000,
                                 .kid_subsets = 100,
                                 .kid_size = 1000,
                                 .is_splits = 10,
                                 .k_manifold = 3,
                                 .k_density = 5,
                                 .blocks = 8};
}

void dr_softmax(const real *logits, int64_t classes, double *p) {
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < classes; i++)
        most = fmax(most, (double)logits[i]);
    for (int64_t i = 0; i < classes; i++)
        sum += p[i] = exp((double)logits[i] - most);
    for (int64_t i = 0; i < classes; i++)
        p[i] /= sum;
}

int dr_inception_score(int64_t splits, int64_t classes, const double *p, const double *plogp,
                       const int64_t *count, struct dr_estimate *out, struct dr_err *err) {
    double sum = 0, squares = 0;
    if (splits < 1)
        return dr_fail(err, DR_EINVAL, "an inception score needs a split");
    for (int64_t s = 0; s < splits; s++) {
        double divergence = plogp[s] / (double)count[s];
        if (count[s] < 1)
            return dr_fail(err, DR_EINVAL, "split %lld of the inception score has no images",
                           (long long)s);
        for (int64_t c = 0; c < classes; c++) {
            const double mean = p[s * classes + c] / (double)count[s];
            divergence -= mean > 0 ? mean * log(mean) : 0;
        }
        const double score = exp(divergence);
        sum += score;
        squares += score * score;
    }
    const double n = (double)splits, mean = sum / n;
    out->value = mean;
    out->se = splits > 1 ? sqrt(fmax(0, squares - n * mean * mean) / (n - 1) / n) : NAN;
    return 0;
}
