// `driftd bench`: training-step and sampling rates of recipes beside the machine's own GEMM rate
// and memory bandwidth, all measured in one run, so that machines and builds compare as ratios.
// Needs no files: the recipes are compiled in and the images are procedurally generated
// (bench_config.c).
#include "daemon/base/util.h"
#include "daemon/verbs/verbs.h"
#include "engine/drift.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define GEMM_N 2048
#define GEMM_GPU_N 8192 // large enough to fill one
#define MIN_SECONDS 2.0 // of measurements per figure
#define MAX_REPEATS 200

enum { PRECISIONS = 2 };
struct bench {
    struct dr_backend *be;
    const char *device, *only;
    int threads;
    bool json;
    double gemm[PRECISIONS]; // FLOP/s of a large GEMM in fp32, bf16
    json_t *rows;
};

static const char *const precision_name[PRECISIONS] = {"fp32", "bf16"};

static double now(void) {
    return (double)dd_now_ns() * 1e-9;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *t, int n) {
    qsort(t, (size_t)n, sizeof *t, by_value);
    return n % 2 ? t[n / 2] : (t[n / 2 - 1] + t[n / 2]) / 2;
}

static void add_row(struct bench *b, const char *what, const char *precision, double ms,
                    double gflops, double share, json_t *more) {
    if (!b->json)
        printf("%-28s %-5s %10.2f ms %9.1f GFLOP/s %6.1f %%", what, precision, ms, gflops,
               100 * share);
    const char *key;
    json_t *value;
    json_object_foreach(more, key, value) if (!b->json)
        printf("  %s %.4g", key, json_number_value(value));
    if (!b->json)
        printf("\n");
    fflush(stdout);
    json_t *row = json_pack("{s:s, s:s, s:f, s:f, s:f}", "what", what, "precision", precision, "ms",
                            ms, "gflops", gflops, "gemm_share", share);
    json_object_update_new(row, more);
    json_array_append_new(b->rows, row);
}

// ---- the machine
// -------------------------------------------------------------------------------------

static int machine_gemm(struct bench *b, int precision, struct dr_err *err) {
    const int64_t n = strcmp(dr_backend_device(b->be).name, "cuda") ? GEMM_N : GEMM_GPU_N;
    double best;
    int rc = dr_measure_gemm(b->be, n, precision == DR_PREC_BF16, &best, err);
    if (rc)
        return rc;
    b->gemm[precision] = 2.0 * (double)n * (double)n * (double)n / best;
    char what[32];
    snprintf(what, sizeof what, "GEMM %lld^3", (long long)n);
    add_row(b, what, precision_name[precision], best * 1e3, b->gemm[precision] * 1e-9, 1,
            json_object());
    return 0;
}

static int machine_bandwidth(struct bench *b, struct dr_err *err) {
    const int64_t n = 32 << 20;
    double best;
    int rc = dr_measure_bandwidth(b->be, n, &best, err);
    if (!rc)
        add_row(b, "bandwidth (y += a x)", "fp32", best * 1e3, 2e-9 * (double)n / best, 0,
                json_pack("{s:f}", "GB/s", 3e-9 * (double)(n * (int64_t)sizeof(real)) / best));
    return rc;
}

// ---- networks
// ----------------------------------------------------------------------------------------

static const char *const usual[] = {"tiny", "mnist-pixels"};

static double peak_rss(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss / 1024;
}

static int training(struct bench *b, const char *name, const struct dr_config *c,
                    const struct dr_dataset *data, struct dr_snapshot **snap, struct dr_err *err) {
    struct dr_trainer *t;
    int rc = dr_trainer_create(c, b->be, data, &t, err);
    if (rc)
        return rc;
    double s[MAX_REPEATS], loss = 0, spent = 0;
    struct dr_metrics m;
    for (int i = 0; i < (dr_backend_device(b->be).host_memory ? 1 : 4) && !rc; i++)
        rc = dr_trainer_step(t, &m, err); // warm-up: primitives, page faults, recording
    int n = 0;
    while (!rc && n < MAX_REPEATS && (spent < MIN_SECONDS || n < 3)) {
        rc = dr_trainer_step(t, &m, err);
        s[n++] = m.step_seconds;
        loss += m.loss_seconds;
        spent += m.step_seconds;
    }
    if (!rc) {
        const int p = c->train.precision == DR_PREC_BF16;
        const double sec = median(s, n), rate = dr_trainer_step_flops(t) / sec;
        char what[128];
        snprintf(what, sizeof what, "%s step, %lld samples", name, (long long)dr_config_batch(c));
        json_t *more = json_pack("{s:f, s:f}", "held_MiB", (double)dr_trainer_memory(t) / 1048576.0,
                                 "peak_rss_MiB", peak_rss());
        if (!isnan(loss))
            json_object_set_new(more, "loss_percent", json_real(100 * loss / spent));
        add_row(b, what, precision_name[p], sec * 1e3, rate * 1e-9, rate / b->gemm[p], more);
        *snap = dr_trainer_snapshot(t, 0);
    }
    dr_trainer_free(t);
    return rc;
}

static int sampling(struct bench *b, const char *name, int precision, struct dr_snapshot *snap,
                    int64_t batch, struct dr_err *err) {
    const int64_t classes = dr_gen_config(snap->net)->classes;
    struct dr_sampler *s;
    int rc = dr_sampler_create(b->be, precision, batch, &s, err);
    struct dr_sample req[64];
    for (int64_t i = 0; i < batch; i++)
        req[i] =
            (struct dr_sample){.index = (uint64_t)i, .cls = (int32_t)(i % classes), .alpha = 1.5f};
    real *x = malloc((size_t)(batch * dr_gen_image_count(snap->net)) * sizeof *x);
    if (!rc && !x)
        rc = dr_fail(err, DR_ENOMEM, "out of memory for %lld images", (long long)batch);
    if (!rc)
        rc = dr_sampler_run(s, snap, req, batch, x, err);
    double t[MAX_REPEATS], spent = 0;
    int n = 0;
    while (!rc && n < MAX_REPEATS && (spent < MIN_SECONDS / 2 || n < 3)) {
        double start = now();
        rc = dr_sampler_run(s, snap, req, batch, x, err);
        t[n] = now() - start;
        spent += t[n++];
    }
    if (!rc) {
        const double sec = median(t, n), rate = dr_sampler_flops(s) * (double)batch / sec;
        char what[128];
        snprintf(what, sizeof what, "%s sample, batch %lld", name, (long long)batch);
        add_row(b, what, precision_name[precision], sec * 1e3, rate * 1e-9,
                rate / b->gemm[precision], json_pack("{s:f}", "images/s", (double)batch / sec));
    }
    free(x);
    dr_sampler_free(s);
    return rc;
}

static int bench_network(struct bench *b, const char *name, int precision, struct dr_err *err) {
    struct dr_config c;
    struct dr_dataset *data;
    int rc = dd_bench_config(name, precision, &c, err);
    if (!rc)
        rc = dr_dataset_load(&c.data, NULL, false, &data, err);
    if (rc)
        return rc;
    struct dr_snapshot *snap = NULL;
    rc = training(b, name, &c, data, &snap, err);
    static const int64_t batches[] = {1, 16, 64};
    for (size_t i = 0; i < DR_COUNT(batches) && !rc && snap; i++)
        rc = sampling(b, name, precision, snap, batches[i], err);
    dr_snapshot_unref(snap);
    dr_dataset_free(data);
    return rc;
}

static int run_all(struct bench *b, struct dr_err *err) {
    const char *const *name = b->only ? &b->only : usual;
    const size_t names = b->only ? 1 : DR_COUNT(usual);
    struct dr_config c;
    int rc = dd_bench_config(name[0], DR_FP32, &c, err); // before anything is measured
    if (!rc)
        rc = dr_backend_open(b->device, b->threads, &b->be, err);
    if (rc)
        return rc;
    dr_backend_enter(b->be);
    const struct dr_device d = dr_backend_device(b->be);
    if (!b->json)
        printf("%s: %s\n", d.name, d.detail);
    for (int p = 0; p < PRECISIONS && !rc; p++)
        rc = machine_gemm(b, p, err);
    if (!rc)
        rc = machine_bandwidth(b, err);
    for (size_t i = 0; i < names && !rc; i++)
        for (int p = 0; p < PRECISIONS && !rc; p++)
            rc = bench_network(b, name[i], p ? DR_PREC_BF16 : DR_FP32, err);
    return rc;
}

static int usage(FILE *to, int status) {
    fputs("usage: driftd bench [--device auto|cpu|cuda[:N]] [--threads N] [--only tiny|RECIPE] "
          "[--json]\n",
          to);
    return status;
}

int dd_bench_main(int argc, char **argv) {
    struct bench b = {.device = "auto", .rows = json_array()};
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            b.json = true;
        else if (!strcmp(argv[i], "--device") && i + 1 < argc)
            b.device = argv[++i];
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc) {
            int64_t n;
            if (!dd_parse_int(argv[++i], 0, 4096, &n)) {
                fprintf(stderr, "driftd bench: --threads %.40s: expected 0 to 4096\n", argv[i]);
                return usage(stderr, 2);
            }
            b.threads = (int)n;
        } else if (!strcmp(argv[i], "--only") && i + 1 < argc)
            b.only = argv[++i];
        else if (!strcmp(argv[i], "--help"))
            return usage(stdout, 0);
        else {
            fprintf(stderr, "driftd bench: unexpected argument \"%s\"\n", argv[i]);
            return usage(stderr, 2);
        }
    }
    struct dr_err err = {0};
    int rc = run_all(&b, &err);
    if (rc)
        fprintf(stderr, "driftd bench: %s\n", err.msg);
    else if (b.json) {
        const struct dr_device d = dr_backend_device(b.be);
        json_t *all =
            json_pack("{s:s, s:s, s:O}", "device", d.name, "detail", d.detail, "rows", b.rows);
        json_dumpf(all, stdout, JSON_INDENT(2));
        printf("\n");
        json_decref(all);
    }
    dr_backend_free(b.be);
    json_decref(b.rows);
    return rc ? 1 : 0;
}
