// What a device does in a second: a large bf16 product, training steps, sampling. Run by gpu.sh,
// which makes the table; one JSON object per line. `driftd bench` is the program for users.
// usage: gpu_bench bench DEVICE small|full       small: a size that the emulated device gets
// through
//        gpu_bench curve DEVICE CONFIG STEPS [KEY=VALUE]...
//        gpu_bench config small|full             the networks as configurations, for other programs
#include "engine/core/backend.h"
#include "engine/drift.h"
#include "engine/nn/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void stop(const struct dr_err *err) {
    fprintf(stderr, "gpu_bench: %s\n", err->msg);
    exit(1);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double percentile(double *t, int n, double p) {
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[(int)(p * (n - 1))];
}

static bool small;
static double peak; // FLOP/s of the large product

// Several products between two waits, so that starting them is hidden; the best of some rounds.
static void product(struct dr_backend *be) {
    const int64_t n = small ? 64 : 8192;
    const int each = small ? 1 : 10;
    struct dr_err err = {0};
    void *p;
    if (be->mem_alloc(be, (size_t)(n * n) * 10, &p, &err)) // f32 [n,n], then bf16 a, b, c
        stop(&err);
    real *f = p;
    dr_bf16 *a = (dr_bf16 *)(f + n * n), *b = a + n * n, *c = b + n * n;
    real *host = malloc((size_t)(n * n) * sizeof *host); // random: constant data runs faster
    for (int k = 0; k < 2 && host; k++) {
        for (int64_t i = 0; i < n; i++)
            dr_normals((uint64_t)k, DR_STREAM_NOISE, (uint64_t)i, host + i * n, n);
        be->upload(be, f, host, (size_t)(n * n) * sizeof *host);
        DR_OP(be, cast, .dst = k ? b : a, .src = f, .dt = DR_BF16, .st = DR_F32, .n = n * n);
    }
    free(host);
    double best = INFINITY;
    for (int round = 0; round < 8; round++) {
        const double start = now();
        for (int i = 0; i < each; i++)
            DR_OP(be, gemm, .m = n, .n = n, .k = n, .a = a, .b = b, .c = c, .lda = n, .ldb = n,
                  .ldc = n, .abt = DR_BF16, .ct = DR_BF16);
        if (be->sync(be, &err))
            stop(&err);
        if (round)
            best = fmin(best, (now() - start) / each);
    }
    be->mem_free(be, p);
    peak = 2.0 * (double)n * (double)n * (double)n / best;
    printf("{\"what\": \"gemm\", \"n\": %lld, \"ms\": %.6g, \"tflops\": %.6g}\n", (long long)n,
           best * 1e3, peak * 1e-12);
    fflush(stdout);
}

struct network {
    const char *name;
    const char *set[16];
    int64_t channels; // of latents, which no data set has yet; 0: as configured
};
static const struct network full_size[] = {
    {"Tiny", {NULL}},
    {"Small", {"model.dim=384", "model.depth=8", "model.heads=6", NULL}},
    {"lightningdit B/2",
     {"model.arch=lightningdit", "model.dim=768", "model.depth=12", "model.heads=12",
      "model.patch=2", "model.registers=16", "model.pos_embed=true", NULL},
     4}};
static const struct network small_size[] = {
    {"Tiny",
     {"data.size=8", "data.count=400", "model.dim=16", "model.depth=1", "model.heads=2",
      "model.registers=1", "model.style_tokens=2", "train.generated=2", "train.positives=3",
      NULL}}};

static void training(struct dr_backend *be, const struct network *n, const struct dr_config *c) {
    struct dr_dataset *data;
    struct dr_trainer *t;
    struct dr_err err = {0};
    struct dr_metrics m;
    if (dr_dataset_load(&c->data, NULL, false, &data, &err) ||
        dr_trainer_create(c, be, data, &t, &err))
        stop(&err);
    const int warm = small ? 3 : 10, steps = small ? 3 : 200;
    for (int i = 0; i < warm; i++)
        if (dr_trainer_step(t, &m, &err))
            stop(&err);
    if (dr_trainer_wait(t, &m, &err))
        stop(&err);
    const double start = now();
    for (int i = 0; i < steps; i++)
        if (dr_trainer_step(t, &m, &err))
            stop(&err);
    if (dr_trainer_wait(t, &m, &err))
        stop(&err);
    const double s = (now() - start) / steps, rate = dr_trainer_step_flops(t) / s;
    printf("{\"what\": \"train\", \"network\": \"%s\", \"precision\": \"%s\", \"samples\": %lld, "
           "\"ms\": %.6g, \"tflops\": %.6g, \"share\": %.6g, \"MiB\": %.6g}\n",
           n->name, c->train.precision == DR_PREC_BF16 ? "bf16" : "fp32",
           (long long)dr_config_batch(c), s * 1e3, rate * 1e-12, rate / peak,
           (double)dr_trainer_memory(t) / 1048576);
    fflush(stdout);
    dr_trainer_free(t);
    dr_dataset_free(data);
}

static struct dr_snapshot *untrained(const struct dr_config *c) {
    struct dr_net *g;
    struct dr_err err = {0};
    if (dr_gen_create(&c->model, &g, &err))
        stop(&err);
    const struct dr_params *ps = dr_net_params(g);
    const size_t bytes = ((size_t)ps->total * sizeof(real) + 63) / 64 * 64;
    real *w = aligned_alloc(64, bytes);
    if (!w)
        exit(1);
    memset(w, 0, bytes);
    dr_params_init(ps, 1, w);
    return dr_snapshot_new(g, w, 0);
}

// Batches as requests see them: from host to host, the whole call.
static void sampling(struct dr_backend *be, const struct network *n, const struct dr_config *c) {
    static const int64_t batches[] = {1, 256, 2048};
    struct dr_snapshot *snap = untrained(c);
    struct dr_sampler *s;
    struct dr_err err = {0};
    const int64_t most = small ? 4 : 2048, count = dr_gen_image_count(snap->net);
    struct dr_sample *req = calloc((size_t)most, sizeof *req);
    real *x = malloc((size_t)(most * count) * sizeof *x);
    if (!req || !x || dr_sampler_create(be, DR_PREC_BF16, most, &s, &err))
        stop(&err);
    for (int64_t i = 0; i < most; i++)
        req[i] = (struct dr_sample){.index = (uint64_t)i, .cls = (int32_t)(i % 10), .alpha = 1.5f};
    for (size_t k = 0; k < (small ? 2 : DR_COUNT(batches)); k++) {
        const int64_t b = DR_MIN(batches[k], most);
        const int repeats = small ? 4 : b == 1 ? 400 : 20;
        double t[400];
        for (int i = -4; i < repeats; i++) {
            const double start = now();
            if (dr_sampler_run(s, snap, req, b, x, &err))
                stop(&err);
            if (i >= 0)
                t[i] = now() - start;
        }
        const double p50 = percentile(t, repeats, 0.5), p95 = percentile(t, repeats, 0.95);
        printf("{\"what\": \"sample\", \"network\": \"%s\", \"precision\": \"bf16\", \"batch\": "
               "%lld, \"ms\": %.6g, \"p95_ms\": %.6g, \"images_s\": %.6g, \"share\": %.6g}\n",
               n->name, (long long)b, p50 * 1e3, p95 * 1e3, (double)b / p50,
               dr_sampler_flops(s) * (double)b / p50 / peak);
        fflush(stdout);
    }
    dr_sampler_free(s);
    dr_snapshot_unref(snap);
    free(req);
    free(x);
}

static void configure(const struct network *n, struct dr_config *c) {
    struct dr_err err = {0};
    int count = 0;
    while (n->set[count])
        count++;
    dr_config_defaults(c);
    c->metrics.spread_every = 0;
    c->data.count = 4000;
    if (count && dr_config_set_all(c, n->set, count, &err))
        stop(&err);
    if (n->channels)
        c->data.channels = c->model.channels = n->channels;
}

static int bench(const char *device) {
    struct dr_backend *be;
    struct dr_err err = {0};
    if (dr_backend_open(device, 0, &be, &err))
        stop(&err);
    be->enter(be);
    printf("{\"what\": \"device\", \"name\": \"%s\", \"detail\": \"%s\"}\n", be->name, be->detail);
    product(be);
    const struct network *all = small ? small_size : full_size;
    const size_t n = small ? DR_COUNT(small_size) : DR_COUNT(full_size);
    for (size_t i = 0; i < n; i++) {
        struct dr_config c;
        configure(&all[i], &c);
        for (int p = 0; p < 2 && c.data.channels == 1; p++) { // digits have one channel
            c.train.precision = p ? DR_FP32 : DR_PREC_BF16;
            training(be, &all[i], &c);
        }
        sampling(be, &all[i], &c);
    }
    dr_backend_free(be);
    return 0;
}

static int configs(void) {
    const struct network *all = small ? small_size : full_size;
    const size_t n = small ? DR_COUNT(small_size) : DR_COUNT(full_size);
    for (size_t i = 0; i < n; i++) {
        struct dr_config c;
        configure(&all[i], &c);
        char *json = dr_config_to_json(&c);
        printf("{\"network\": \"%s\", \"config\": %s}\n", all[i].name, json ? json : "null");
        free(json);
    }
    return 0;
}

// One line per step: what two devices have to agree on.
static int curve(const char *device, const char *config, int64_t steps, char **set, int nset) {
    struct dr_backend *be;
    struct dr_dataset *data;
    struct dr_trainer *t;
    struct dr_config c;
    struct dr_metrics m;
    struct dr_err err = {0};
    if (dr_config_load(config, &c, &err) ||
        (nset && dr_config_set_all(&c, (const char *const *)set, nset, &err)) ||
        dr_backend_open(device, 0, &be, &err))
        stop(&err);
    be->enter(be);
    if (dr_dataset_load(&c.data, getenv("DRIFTD_DATA"), false, &data, &err) ||
        dr_trainer_create(&c, be, data, &t, &err))
        stop(&err);
    const double start = now();
    for (int64_t i = 0; i <= steps; i++) {
        if (i < steps ? dr_trainer_step(t, &m, &err) : dr_trainer_wait(t, &m, &err))
            stop(&err);
        if (m.step)
            printf("{\"what\": \"curve\", \"device\": \"%s\", \"step\": %lld, \"loss\": %.9g, "
                   "\"drift\": %.9g, \"grad\": %.9g, \"seconds\": %.4g}\n",
                   be->name, (long long)m.step, m.loss, m.drift_norm[0], m.grad_norm,
                   now() - start);
    }
    dr_trainer_free(t);
    dr_dataset_free(data);
    dr_backend_free(be);
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 2 ? argv[1] : "";
    small = argc > 2 && !strcmp(argv[argc - 1], "small");
    if (!strcmp(what, "bench") && argc == 4)
        return bench(argv[2]);
    if (!strcmp(what, "config") && argc == 3)
        return configs();
    if (!strcmp(what, "curve") && argc >= 5 && atoll(argv[4]) > 0)
        return curve(argv[2], argv[3], atoll(argv[4]), argv + 5, argc - 5);
    fputs("usage: gpu_bench bench DEVICE small|full\n"
          "       gpu_bench curve DEVICE CONFIG STEPS [KEY=VALUE]...\n"
          "       gpu_bench config small|full\n",
          stderr);
    return 2;
}
