// See watch.h.
#include "daemon/jobs/watch.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"

#include <stdio.h>
#include <stdlib.h>

// A probe is fitted on so many images while training goes on, on four times as many at the end.
enum { PROBE_IMAGES = 2000, ROWS = 8, TRIPLES = 4 };

struct dd_watch {
    const struct dr_config *cfg;
    const struct dr_dataset *train;
    struct dr_dataset *test; // NULL: there is none
    struct dr_judge *judge;
};

int dd_watch_new(const struct dr_config *cfg, struct dr_backend *be, const struct dr_dataset *train,
                 const char *data_dir, bool (*go_on)(void *ctx), void *ctx, struct dd_watch **out,
                 struct dr_err *err) {
    struct dd_watch *w = *out = dd_xcalloc(1, sizeof *w);
    struct dr_err why = {0};
    w->cfg = cfg;
    w->train = train;
    if (dr_dataset_load(&cfg->data, data_dir, true, &w->test, &why)) {
        char q[600];
        w->test = NULL;
        dd_log(DR_LOG_WARN, "encoder.test_split", "reason=%s", dd_log_quote(why.msg, q, sizeof q));
    }
    int rc =
        dr_judge_create(be, cfg->train.precision, train, w->test ? w->test : train, &w->judge, err);
    if (!rc)
        dr_judge_watch(w->judge, go_on, ctx);
    return rc;
}

void dd_watch_free(struct dd_watch *w) {
    if (!w)
        return;
    dr_judge_free(w->judge);
    dr_dataset_free(w->test);
    free(w);
}

static bool test_due(const struct dd_watch *w, int64_t step, bool last) {
    const int64_t every = w->cfg->metrics.test_every;
    return w->cfg->encoder.objective != DR_ENCODER_AUTOENCODE &&
           (last || (every && step % every == 0));
}

static bool probe_due(const struct dd_watch *w, int64_t step, bool last) {
    const int64_t every = w->cfg->metrics.probe_every;
    return w->cfg->encoder.objective != DR_ENCODER_CLASSIFY && w->cfg->data.classes > 1 &&
           (last || (every && step % every == 0));
}

bool dd_watch_due(const struct dd_watch *w, int64_t step, bool last) {
    return w->test && (test_due(w, step, last) || probe_due(w, step, last));
}

int dd_watch_measure(struct dd_watch *w, struct dr_trainer *t, bool last, struct dr_metrics *m,
                     struct dr_err *err) {
    const int64_t count = last ? 0 : w->cfg->metrics.test_count;
    double v;
    int rc = 0;
    struct dr_snapshot *s = dr_trainer_snapshot(t, 0);
    if (!s)
        return dr_fail(err, DR_ENOMEM,
                       "no weights to test the encoder: no memory, or a device that failed");
    if (test_due(w, m->step, last)) {
        rc = dr_judge_accuracy(w->judge, s, count, &v, err);
        if (!rc)
            dr_metric_put(t, m, "test_accuracy", v);
    }
    if (!rc && probe_due(w, m->step, last)) {
        rc = dr_judge_probe(w->judge, s, last ? 4 * PROBE_IMAGES : PROBE_IMAGES, count, &v, err);
        if (!rc)
            dr_metric_put(t, m, "probe_accuracy", v);
    }
    dr_snapshot_unref(s);
    return rc;
}

bool dd_watch_draws(const struct dd_watch *w) {
    return w->cfg->encoder.objective != DR_ENCODER_CLASSIFY;
}

int dd_watch_grid(struct dd_watch *w, struct dr_snapshot *s, const char *path,
                  struct dd_grid_file *info, struct dr_err *err) {
    const struct dr_dataset *d = w->test ? w->test : w->train;
    const struct dr_encoder_config *e = &w->cfg->encoder;
    const struct dd_grid_shape g = dd_grid_shape(ROWS, TRIPLES, 3 * d->c * d->h * d->w, d->h);
    const int64_t n = DR_MIN(g.rows * g.columns, d->n);
    char text[120];
    real *x = malloc((size_t)(3 * n * d->c * d->h * d->w) * sizeof *x);
    struct dr_bytes png = {0};
    int rc = x ? dr_judge_reconstruct(w->judge, s, n, e->mask_patch, e->mask_probability, x, err)
               : dr_fail(err, DR_ENOMEM, "no memory for a sample grid");
    snprintf(text, sizeof text, "{\"step\": %lld, \"columns\": \"original, masked, filled in\"}",
             (long long)s->step);
    if (!rc)
        rc = dr_png_grid(x, 3 * n, d->c, d->h, d->w, dr_show(d->kind, d->c), 3 * g.columns, g.scale,
                         2, "driftd", text, &png, err);
    if (!rc)
        rc = dd_write_file(path, png.p, png.n, err);
    if (!rc)
        *info = dd_grid_size(png.p, png.n);
    dr_bytes_free(&png);
    free(x);
    return rc;
}
