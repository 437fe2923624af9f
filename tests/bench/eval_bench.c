// Evaluates a generator, or a set of pictures, with a judge (method.md 9), without a daemon.
// usage: eval_bench DEVICE GENERATOR JUDGE [N [ALPHA [SEED]]] [KEY=VALUE]...
//   GENERATOR  a checkpoint (.safetensors), or a folder, an archive or a picture file
//   JUDGE      a checkpoint of a classifier (recipes mnist-judge, cifar10-judge); its own
//              configuration says which data set, else `recipe`. Inception's weights make fd FID
// Keys: metrics (fd,accuracy,diversity,diversity_worst), split (train), data (the folder of data
// sets; $DRIFTD_DATA, else ../shared/data), refs (a folder where references are kept for the next
// time), rows, reals, tested, batch, blocks, train_rows, two_pass (0), confusion (0), threads,
// precision (fp32), recipe (a configuration whose data section names the data), resize (of
// Inception's images: clean, legacy_pytorch, legacy_tensorflow).
#include "engine/drift.h"
#include "engine/eval/fid_input.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static void stop(const struct dr_err *err) {
    fprintf(stderr, "eval_bench: %s\n", err->msg);
    exit(1);
}

struct options {
    const char *device, *generator, *judge, *data, *refs, *recipe;
    enum dr_fid_resize resize;
    struct dr_eval_config cfg;
    double alpha;
    uint64_t seed;
    bool two_pass, confusion;
    int threads;
};

static void set(struct options *o, const char *key, size_t len, const char *value) {
    struct dr_err err = {0};
    const struct {
        const char *name;
        int64_t *at;
    } number[] = {{"n", &o->cfg.n},           {"rows", &o->cfg.rows},
                  {"reals", &o->cfg.reals},   {"batch", &o->cfg.batch},
                  {"blocks", &o->cfg.blocks}, {"train_rows", &o->cfg.train_rows},
                  {"tested", &o->cfg.tested}};
    char name[32];
    snprintf(name, sizeof name, "%.*s", (int)len, key);
    for (size_t i = 0; i < DR_COUNT(number); i++)
        if (!strcmp(name, number[i].name)) {
            *number[i].at = atoll(value);
            return;
        }
    if (!strcmp(name, "metrics") && dr_eval_metrics_parse(value, &o->cfg.metrics, &err))
        stop(&err);
    else if (!strcmp(name, "split"))
        o->cfg.split = strcmp(value, "test") ? DR_EVAL_TRAIN : DR_EVAL_TEST;
    else if (!strcmp(name, "precision"))
        o->cfg.precision = strcmp(value, "bf16") ? DR_FP32 : DR_PREC_BF16;
    else if (!strcmp(name, "resize") && dr_fid_resize_named(value, &o->resize, &err))
        stop(&err);
    else if (!strcmp(name, "recipe"))
        o->recipe = value;
    else if (!strcmp(name, "data"))
        o->data = value;
    else if (!strcmp(name, "refs"))
        o->refs = value;
    else if (!strcmp(name, "threads"))
        o->threads = atoi(value);
    else if (!strcmp(name, "two_pass"))
        o->two_pass = atoi(value) != 0;
    else if (!strcmp(name, "confusion"))
        o->confusion = atoi(value) != 0;
    else if (strcmp(name, "metrics") && strcmp(name, "resize")) {
        fprintf(stderr, "eval_bench: there is no key \"%s\"\n", name);
        exit(2);
    }
}

static struct options parse(int argc, char **argv) {
    struct options o = {.device = argv[1], .generator = argv[2], .judge = argv[3], .alpha = 1};
    struct dr_err err = {0};
    int place = 0;
    dr_eval_defaults(&o.cfg);
    dr_eval_metrics_parse("fd,accuracy,diversity,diversity_worst", &o.cfg.metrics, &err);
    o.seed = 1;
    o.data = getenv("DRIFTD_DATA") ? getenv("DRIFTD_DATA") : "../shared/data";
    for (int i = 4; i < argc; i++) {
        const char *eq = strchr(argv[i], '=');
        if (eq)
            set(&o, argv[i], (size_t)(eq - argv[i]), eq + 1);
        else if (place++ == 0)
            o.cfg.n = atoll(argv[i]);
        else if (place == 2)
            o.alpha = atof(argv[i]);
        else
            o.seed = strtoull(argv[i], NULL, 10);
    }
    return o;
}

// The data section of the recipe, else that which the judge was trained with.
static void read_config(const struct options *o, struct dr_config *c) {
    struct dr_err err = {0};
    struct dr_st_file *f;
    if (o->recipe) {
        if (dr_config_load(o->recipe, c, &err))
            stop(&err);
        return;
    }
    if (dr_st_open(o->judge, &f, &err))
        stop(&err);
    const char *json = dr_st_meta(f, "driftd.config");
    if (!json) {
        fprintf(stderr,
                "eval_bench: %s does not say what it was trained on; expected recipe=FILE\n",
                o->judge);
        exit(1);
    }
    if (dr_config_parse(json, strlen(json), o->judge, c, &err))
        stop(&err);
    dr_st_close(f);
}

static void load_data(const struct options *o, struct dr_dataset **train,
                      struct dr_dataset **test) {
    struct dr_err err = {0};
    struct dr_config c;
    read_config(o, &c);
    if (dr_dataset_load(&c.data, o->data, false, train, &err))
        stop(&err);
    if (dr_dataset_load(&c.data, o->data, true, test, &err)) {
        if (err.code != DR_ENOENT)
            stop(&err);
        *test = NULL;
    }
}

static struct dr_eval_ref *reference(const struct options *o, struct dr_backend *be,
                                     struct dr_snapshot *judge, const struct dr_dataset *train,
                                     const struct dr_dataset *test) {
    const struct dr_eval_judge as = {.snap = judge, .resize = (int)o->resize};
    struct dr_eval_ref *r;
    struct dr_err err = {0};
    char path[4096];
    bool done = false;
    if (dr_eval_ref_create(be, &o->cfg, &as, train, test, &r, &err))
        stop(&err);
    snprintf(path, sizeof path, "%s/%s.safetensors", o->refs ? o->refs : "", dr_eval_ref_key(r));
    if (o->refs && dr_eval_ref_restore(r, path, &err) && err.code != DR_ENOENT)
        stop(&err);
    const bool kept = dr_eval_ref_progress(r) >= 1;
    while (!done)
        if (dr_eval_ref_advance(r, 1, &done, &err))
            stop(&err);
    if (o->refs && !kept && dr_eval_ref_save(r, path, &err))
        stop(&err);
    return r;
}

static bool is_checkpoint(const char *path) {
    const size_t n = strlen(path);
    return n > 12 && !strcmp(path + n - 12, ".safetensors");
}

static struct dr_eval_source *source(const struct options *o, struct dr_backend *be,
                                     const struct dr_dataset *like) {
    struct dr_err err = {0};
    struct dr_eval_source *s;
    if (is_checkpoint(o->generator)) {
        struct dr_eval_generator g = {.like = like,
                                      .alpha = o->alpha,
                                      .seed = o->seed,
                                      .n = o->cfg.n,
                                      .batch = o->cfg.batch,
                                      .precision = o->cfg.precision,
                                      .two_pass = o->two_pass};
        if (dr_snapshot_load(o->generator, NULL, &g.snap, &err) ||
            dr_eval_source_generator(be, &g, &s, &err))
            stop(&err);
        dr_snapshot_unref(g.snap);
        return s;
    }
    struct dr_config c;
    struct dr_dataset *d;
    dr_config_defaults(&c);
    c.data.set = DR_DATA_FOLDER;
    snprintf(c.data.path, sizeof c.data.path, "%s", o->generator);
    c.data.size = like->h;
    c.data.channels = like->c;
    c.data.test_share = 0;
    if (dr_dataset_load(&c.data, o->data, false, &d, &err) ||
        dr_eval_source_dataset(d, o->cfg.n, &s, &err)) // the data set lives until the end
        stop(&err);
    return s;
}

static void print(const struct dr_eval_result *r, const struct options *o) {
    printf("%lld images, alpha %g, seed %llu, against %lld reals (%s split); %lld features\n",
           (long long)r->n, o->alpha, (unsigned long long)o->seed, (long long)r->reals,
           o->cfg.split == DR_EVAL_TEST ? "test" : "train", (long long)r->width);
    printf("judge accuracy on test data %.4f +- %.4f\n", r->judge_accuracy.value,
           r->judge_accuracy.se);
    printf("floor: %lld held-out reals (%s) in the samples' place\n", (long long)r->floor_n,
           r->floor_halves                ? "the other half of the training split"
           : o->cfg.split == DR_EVAL_TEST ? "training split"
                                          : "test split");
    printf("%-16s %12s %12s %12s %10s\n", "metric", "value", "se", "floor", "/floor");
    for (int i = 0; i < DR_EVAL_METRICS; i++) {
        const struct dr_eval_value *v = &r->metric[i];
        if (o->cfg.metrics >> i & 1)
            printf("%-16s %12.6g %12.3g %12.6g %10.4g\n", dr_eval_metrics[i].name, v->value, v->se,
                   v->floor, v->value / v->floor);
    }
    for (int i = 0; i < r->fd_points; i++)
        printf("fd of parts of %.0f: %.6g\n", r->fd_sizes[i], r->fd_at[i]);
    printf("class:");
    for (int64_t c = 0; c < r->classes && c < 20; c++)
        printf(" %lld: acc %.3f div %.3f;", (long long)c, r->accuracy[c], r->diversity[c]);
    putchar('\n');
    for (int64_t c = 0; o->confusion && r->confusion && c < r->classes; c++, putchar('\n'))
        for (int64_t k = 0; k < r->logits; k++)
            printf("%6lld", (long long)r->confusion[c * r->logits + k]);
    printf("seconds: generate %.2f, features %.2f, statistics %.2f; reference %.2f\n",
           r->seconds_generate, r->seconds_features, r->seconds_statistics, r->seconds_reference);
}

int main(int argc, char **argv) {
    struct dr_err err = {0};
    struct dr_backend *be;
    struct dr_dataset *train, *test;
    struct dr_snapshot *judge;
    struct dr_eval *e;
    struct dr_eval_result result;
    struct rusage use;
    bool done = false;
    if (argc < 4) {
        fputs("usage: eval_bench DEVICE GENERATOR JUDGE [N [ALPHA [SEED]]] [KEY=VALUE]...\n",
              stderr);
        return 2;
    }
    struct options o = parse(argc, argv);
    if (dr_backend_open(o.device, o.threads, &be, &err))
        stop(&err);
    dr_backend_enter(be);
    if (dr_snapshot_load(o.judge, NULL, &judge, &err))
        stop(&err);
    load_data(&o, &train, &test);
    // Without a test split the reference has the message.
    struct dr_eval_source *s = source(&o, be, o.cfg.split == DR_EVAL_TEST && test ? test : train);
    o.cfg.n = DR_MIN(o.cfg.n, s->n);
    struct dr_eval_ref *ref = reference(&o, be, judge, train, test);
    if (dr_eval_create(s, &ref, 1, &e, &err))
        stop(&err);
    while (!done)
        if (dr_eval_advance(e, 1, &done, &err))
            stop(&err);
    if (dr_eval_result(e, 0, &result, &err))
        stop(&err);
    print(&result, &o);
    getrusage(RUSAGE_SELF, &use);
    printf("peak memory %.1f MiB\n", (double)use.ru_maxrss / 1024);
    dr_eval_free(e);
    dr_eval_source_free(s);
    dr_eval_ref_free(ref);
    dr_snapshot_unref(judge);
    dr_dataset_free(train);
    dr_dataset_free(test);
    dr_backend_free(be);
    return 0;
}
