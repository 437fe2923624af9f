// See judge.h.
#include "daemon/jobs/judge.h"

#include "daemon/evals/evals.h"

#include <string.h>

// Of the judge's metrics.
static bool names_accuracy(const struct dr_eval_section *e) {
    unsigned metrics[DD_EVAL_BYS];
    return strcmp(e->metrics, "all") && !dd_eval_metrics_parse(e->metrics, metrics, NULL) &&
           (metrics[DD_EVAL_BY_JUDGE] >> DR_EVAL_ACCURACY & 1);
}

int dd_judge_expect(const struct dr_eval_section *e, const struct dr_net *net, int64_t classes,
                    struct dr_err *err) {
    const int logits = dr_net_output_find(net, "logits");
    const int64_t known = logits < 0 ? 0 : dr_net_output(net, logits).c;
    if (dr_net_kind(net) == DR_NET_GENERATOR)
        return dr_fail_at(err, DR_EINVAL, "eval.judge",
                          "eval.judge: %.200s is a generator; expected a judge", e->judge);
    if (!strcmp(dr_net_name(net), "inception"))
        return dr_fail_at(err, DR_EINVAL, "eval.judge",
                          "eval.judge: %.200s is Inception-v3; name it as eval.inception",
                          e->judge);
    if (known && classes > 1 && known != classes &&
        (names_accuracy(e) || !strcmp(e->best, "accuracy")))
        return dr_fail_at(err, DR_EINVAL, "eval.judge",
                          "eval.judge: %.200s tells %lld classes apart, the data has %lld; leave "
                          "accuracy out of eval.metrics and eval.best, or name another judge",
                          e->judge, (long long)known, (long long)classes);
    return 0;
}

int dd_inception_expect(const struct dr_eval_section *e, const struct dr_net *net, int64_t *side,
                        struct dr_err *err) {
    struct dr_err why = {0};
    const int rc = dr_fid_network(net, e->inception, side, &why);
    return rc ? dr_fail_at(err, rc, "eval.inception", "eval.inception: %.400s", why.msg) : 0;
}
