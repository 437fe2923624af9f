// Each metric on real images with one known fault each (docs/evaluation.md): real test images,
// blurred, noised, ..., half of the classes.
// usage: eval_sanity DEVICE JUDGE DATA_DIR [N [METRICS]]     N: images per row, 5000
// Prints a table in markdown, a row per metric.
#include "tests/eval/faults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void stop(const struct dr_err *err) {
    fprintf(stderr, "eval_sanity: %s\n", err->msg);
    exit(1);
}

struct world {
    struct dr_backend *be;
    struct dr_snapshot *judge;
    struct dr_dataset *train, *test;
    struct dr_eval_ref *ref;
};

static void open_world(struct world *w, char **argv, const struct dr_eval_config *cfg) {
    struct dr_err err = {0};
    struct dr_config c;
    struct dr_st_file *f;
    bool done = false;
    if (dr_backend_open(argv[1], 0, &w->be, &err))
        stop(&err);
    dr_backend_enter(w->be);
    if (dr_snapshot_load(argv[2], NULL, &w->judge, &err) || dr_st_open(argv[2], &f, &err))
        stop(&err);
    const char *json = dr_st_meta(f, "driftd.config");
    json = json ? json : "{}";
    if (dr_config_parse(json, strlen(json), argv[2], &c, &err) ||
        dr_dataset_load(&c.data, argv[3], false, &w->train, &err) ||
        dr_dataset_load(&c.data, argv[3], true, &w->test, &err))
        stop(&err);
    dr_st_close(f);
    const struct dr_eval_judge judge = {.snap = w->judge};
    if (dr_eval_ref_create(w->be, cfg, &judge, w->train, w->test, &w->ref, &err))
        stop(&err);
    while (!done)
        if (dr_eval_ref_advance(w->ref, 1, &done, &err))
            stop(&err);
}

static void evaluate(struct world *w, enum fault fault, int64_t n, struct dr_eval_value *out) {
    struct dr_err err = {0};
    struct dr_eval_source *s;
    struct dr_eval *e;
    struct dr_eval_result r;
    bool done = false;
    if (fault_source(fault, w->train, w->test, n, &s, &err) ||
        dr_eval_create(s, &w->ref, 1, &e, &err))
        stop(&err);
    while (!done)
        if (dr_eval_advance(e, 1, &done, &err))
            stop(&err);
    if (dr_eval_result(e, 0, &r, &err))
        stop(&err);
    memcpy(out, r.metric, sizeof r.metric);
    dr_eval_free(e);
    dr_eval_source_free(s);
}

int main(int argc, char **argv) {
    static struct dr_eval_value value[FAULT_COUNT][DR_EVAL_METRICS];
    struct dr_err err = {0};
    struct dr_eval_config cfg;
    struct world w;
    if (argc < 4) {
        fputs("usage: eval_sanity DEVICE JUDGE DATA_DIR [N [METRICS]]\n", stderr);
        return 2;
    }
    dr_eval_defaults(&cfg);
    cfg.n = argc > 4 ? atoll(argv[4]) : 5000;
    if (dr_eval_metrics_parse(argc > 5 ? argv[5] : "all", &cfg.metrics, &err))
        stop(&err);
    open_world(&w, argv, &cfg);
    for (int f = 0; f < FAULT_COUNT; f++)
        evaluate(&w, (enum fault)f, cfg.n, value[f]);
    printf("judge accuracy on test data %.4f; %lld images per column\n\n| metric | ",
           dr_eval_ref_accuracy(w.ref).value, (long long)cfg.n);
    for (int f = 0; f < FAULT_COUNT; f++)
        printf("%s | ", fault_names[f]);
    printf("floor |\n|---|");
    for (int f = 0; f <= FAULT_COUNT; f++)
        printf("---|");
    for (int m = 0; m < DR_EVAL_METRICS; m++) {
        if (!(cfg.metrics >> m & 1))
            continue;
        printf("\n| `%s` | ", dr_eval_metrics[m].name);
        for (int f = 0; f < FAULT_COUNT; f++)
            printf("%.3g | ", value[f][m].value);
        printf("%.3g |", value[0][m].floor);
    }
    putchar('\n');
    dr_eval_ref_free(w.ref);
    dr_snapshot_unref(w.judge);
    dr_dataset_free(w.train);
    dr_dataset_free(w.test);
    dr_backend_free(w.be);
    return 0;
}
