// A network that judges images. See eval.h and eval_priv.h.
#include "engine/eval/eval_priv.h"

#include "engine/core/backend.h"
#include "engine/nn/inception.h"
#include "engine/nn/params.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CPU_CHUNK = 16, DEVICE_CHUNK = 256 };

// The output that features are taken from.
static int feature_output(const struct dr_net *net) {
    static const char *const names[] = {"pooled", "pool3"};
    for (size_t i = 0; i < DR_COUNT(names); i++)
        if (dr_net_output_find(net, names[i]) >= 0)
            return dr_net_output_find(net, names[i]);
    for (int i = dr_net_outputs(net) - 1; i >= 0; i--)
        if (strncmp(dr_net_output_name(net, i), "logits", 6) &&
            strcmp(dr_net_output_name(net, i), "reconstruction"))
            return i;
    return -1;
}

// Inception's score rests on logits without bias (nn/inception.h).
static int logits_output(const struct dr_net *net) {
    const int i = dr_net_output_find(net, "logits_unbiased");
    return i >= 0 ? i : dr_net_output_find(net, "logits");
}

static void prepare_fid(struct eval_judge *j, const struct dr_backend *be) {
    const struct dr_inception_config *c = dr_inception_config(j->as.snap->net);
    if (!c || j->as.prepare)
        return;
    j->way = (struct dr_fid_way){
        .resize = (enum dr_fid_resize)j->as.resize, .side = c->size, .threads = be->threads};
    j->as.prepare = dr_fid_prepare;
    j->as.ctx = &j->way;
    j->as.prepare_name = dr_fid_resize_word(j->way.resize);
}

int dr_fid_network(const struct dr_net *net, const char *what, int64_t *side, struct dr_err *err) {
    const struct dr_inception_config *c = dr_inception_config(net);
    if (!c)
        return dr_fail(err, DR_EINVAL, "%.200s is no network of Inception-v3", what);
    if (c->variant != DR_INCEPTION_FID)
        return dr_fail(err, DR_EINVAL,
                       "%.200s is torchvision's inception_v3, whose distances are no FID; expected "
                       "pytorch-fid's weights (docs/evaluation.md, FID)",
                       what);
    if (c->narrow == 1 && c->size != DR_INCEPTION_SIZE)
        return dr_fail(err, DR_EINVAL, "%.200s takes images of %lld x %lld; FID is of %d x %d",
                       what, (long long)c->size, (long long)c->size, DR_INCEPTION_SIZE,
                       DR_INCEPTION_SIZE);
    *side = c->size;
    return 0;
}

static int check(const struct eval_judge *j, struct dr_err *err) {
    const struct dr_net *net = j->as.snap->net;
    if (j->features < 0)
        return dr_fail_at(err, DR_EINVAL, "judge", "the judge \"%s\" gives no features",
                          dr_net_name(net));
    if (!j->as.prepare && dr_net_input(net) != j->c * j->h * j->w)
        return dr_fail_at(
            err, DR_EINVAL, "judge", "the judge takes images of %lld values, not %lldx%lldx%lld",
            (long long)dr_net_input(net), (long long)j->c, (long long)j->h, (long long)j->w);
    return 0;
}

static int allocate(struct eval_judge *j, struct dr_err *err) {
    const size_t n = (size_t)j->chunk, map = (size_t)(j->map.c * j->map.h * j->map.w);
    j->in = malloc(n * (size_t)dr_net_input(j->as.snap->net) * sizeof(real));
    j->maps = malloc(n * map * sizeof(real));
    j->feature = malloc(n * (size_t)j->d * sizeof(real));
    j->logit = malloc(n * (size_t)DR_MAX(j->classes, (int64_t)1) * sizeof(real));
    return j->in && j->maps && j->feature && j->logit
               ? 0
               : dr_fail(err, DR_ENOMEM, "out of memory for the features of %zu images", n);
}

int eval_judge_open(struct dr_backend *be, const struct dr_eval_judge *as, int precision, int64_t c,
                    int64_t h, int64_t w, struct eval_judge **out, struct dr_err *err) {
    *out = NULL;
    const struct dr_net *net = as->snap->net;
    if (dr_net_kind(net) == DR_NET_GENERATOR)
        return dr_fail_at(err, DR_EINVAL, "judge",
                          "the judge is a generator (\"%s\"); a job of kind encoder makes judges",
                          dr_net_name(net));
    struct eval_judge *j = calloc(1, sizeof *j);
    if (!j)
        return dr_fail(err, DR_ENOMEM, "out of memory for a judge");
    *j = (struct eval_judge){.as = *as, .c = c, .h = h, .w = w};
    dr_snapshot_ref(as->snap);
    j->features = feature_output(net);
    j->logits = logits_output(net);
    prepare_fid(j, be);
    j->chunk = be->host_memory ? CPU_CHUNK : DEVICE_CHUNK;
    int rc = check(j, err);
    if (!rc) {
        j->map = dr_net_output(net, j->features);
        j->d = j->map.c;
        j->classes = j->logits < 0 ? 0 : dr_net_output(net, j->logits).c;
        rc = allocate(j, err);
    }
    if (!rc)
        rc = dr_encode_create(be, precision, j->chunk, &j->run, err);
    if (rc)
        eval_judge_close(j);
    else
        *out = j;
    return rc;
}

void eval_judge_close(struct eval_judge *j) {
    if (!j)
        return;
    dr_encode_free(j->run);
    dr_snapshot_unref(j->as.snap);
    free(j->in);
    free(j->maps);
    free(j->feature);
    free(j->logit);
    free(j);
}

// Averages the maps [n,h,w,c] over places.
static void average(struct eval_judge *j, int64_t n) {
    const int64_t places = j->map.h * j->map.w;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < j->d; k++) {
            double sum = 0;
            for (int64_t p = 0; p < places; p++)
                sum += (double)j->maps[(i * places + p) * j->d + k];
            j->feature[i * j->d + k] = (real)(sum / (double)places);
        }
}

int eval_judge_run(struct eval_judge *j, const real *x, int64_t n, struct dr_err *err) {
    real *y[DR_NET_OUTPUTS] = {0};
    int rc = 0;
    if (j->as.prepare)
        rc = j->as.prepare(j->as.ctx, x, n, j->c, j->h, j->w, j->in, err);
    y[j->features] = j->maps;
    if (j->logits >= 0)
        y[j->logits] = j->logit;
    if (!rc)
        rc = dr_encode_run(j->run, j->as.snap, j->as.prepare ? j->in : x, n, y, err);
    if (!rc)
        average(j, n);
    for (int64_t i = 0; i < n * j->d && !rc; i++)
        if (!isfinite(j->feature[i]))
            rc = dr_fail_at(err, DR_ENONFINITE, "judge", "a feature of the judge is not finite");
    return rc;
}

void eval_judge_digest(const struct eval_judge *j, struct dr_sha256 *sum) {
    const struct dr_net *net = j->as.snap->net;
    const char *text = dr_net_description(net), *name = j->as.prepare ? j->as.prepare_name : "";
    const int64_t run[] = {j->chunk, j->features, j->logits};
    dr_sha256_update(sum, text, strlen(text) + 1);
    dr_sha256_update(sum, name, strlen(name) + 1);
    dr_sha256_update(sum, run, sizeof run);
    dr_sha256_update(sum, j->as.snap->weights, (size_t)dr_net_params(net)->total * sizeof(real));
}
