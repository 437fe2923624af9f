// The seam of networks, shown by a judge that only this test knows: one file (linear_judge.c) and
// one row (nets.def). It is built from its description, runs forward and backward, frozen or not,
// and its weights go through a checkpoint, a snapshot and `driftd inspect` like those of a
// generator.
#include "daemon/verbs/verbs.h"
#include "engine/core/arena.h"
#include "engine/core/rng.h"
#include "engine/cpu/backend.h"
#include "engine/drift.h"
#include "engine/nn/params.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SEED 7
enum { BATCH = 3, PIXELS = 2 * 4 * 4, CLASSES = 3, OUT = BATCH * CLASSES, IN = BATCH * PIXELS };
static const char description[] =
    "{\"arch\":\"linear_judge\",\"size\":4,\"channels\":2,\"classes\":3}";

static struct dr_net *judge(void) {
    struct dr_err err = {0};
    struct dr_net *net;
    if (dr_net_parse(description, sizeof description - 1, "here", &net, &err))
        fail_msg("%s", err.msg);
    return net;
}

static void is_described(void **state) {
    (void)state;
    struct dr_net *net = judge(), *other;
    struct dr_err err = {0};
    assert_string_equal(dr_net_name(net), "linear_judge");
    assert_int_equal(dr_net_kind(net), DR_NET_JUDGE);
    assert_string_equal(dr_net_description(net), description);
    assert_int_equal(dr_net_input(net), PIXELS);
    assert_int_equal(dr_net_outputs(net), 1);
    assert_int_equal(dr_net_output(net, 0).c, CLASSES);
    assert_int_equal(dr_net_parameters(net), CLASSES * PIXELS + CLASSES);
    assert_null(dr_gen_config(net));
    assert_int_equal(dr_net_expect(net, DR_NET_GENERATOR, "checkpoint 3", &err), DR_EINVAL);
    assert_string_equal(err.msg,
                        "checkpoint 3 holds the judge \"linear_judge\"; expected a generator");
    // Errors keep their field, and nothing comes back.
    static const char wrong[] =
        "{\"arch\":\"linear_judge\",\"size\":0,\"channels\":2,\"classes\":3}";
    assert_int_equal(dr_net_parse(wrong, strlen(wrong), "here", &other, &err), DR_ECONFIG);
    assert_null(other);
    assert_string_equal(err.field, "size");
    // A whole configuration and the model section describe the same generator; an unknown word and
    // broken text are the configuration's errors.
    static const char flat[] = "{\"arch\":\"mlp\",\"size\":1,\"channels\":2,\"classes\":1}";
    static const char whole[] = "{\"data.set\":\"toy-checkerboard\",\"data.classes\":1,"
                                "\"model\":{\"arch\":\"mlp\"}}";
    struct dr_net *a, *b;
    if (dr_net_parse(flat, strlen(flat), NULL, &a, &err) ||
        dr_net_parse(whole, strlen(whole), NULL, &b, &err))
        fail_msg("%s", err.msg);
    assert_true(dr_net_same(a, b));
    assert_false(dr_net_same(a, net));
    assert_int_equal(dr_net_parse("{\"arch\":\"x\"}", 12, "f", &other, &err), DR_ECONFIG);
    assert_non_null(strstr(err.msg, "driftdit"));
    assert_int_equal(dr_net_parse("{", 1, "f", &other, &err), DR_ECONFIG);
    assert_null(other);
    // Readers of samples go by the kind, so a file cannot choose it against its network.
    static const char shown[] =
        "{\"arch\":\"mlp\",\"size\":1024,\"channels\":3,\"kind\":\"images\"}";
    assert_int_equal(dr_net_parse(shown, strlen(shown), "f", &other, &err), DR_ECONFIG);
    assert_null(other);
    assert_non_null(strstr(err.msg, "model.arch is mlp, which makes points"));
    dr_net_free(a);
    dr_net_free(b);
    dr_net_free(net);
}

struct pass {
    struct dr_backend *be;
    struct dr_net *net;
    struct dr_arena keep, tmp;
    struct dr_ctx cx;
    struct dr_net_saved *saved;
    real w[128], g[128], x[IN], y[OUT], dy[OUT], dx[IN];
    char scratch[4096];
};

static void pass_open(struct pass *p) {
    struct dr_err err = {0};
    *p = (struct pass){.net = judge()};
    const struct dr_params *ps = dr_net_params(p->net);
    assert_true(ps->total <= (int64_t)DR_COUNT(p->w));
    if (dr_backend_cpu(1, &p->be, &err))
        fail_msg("%s", err.msg);
    dr_backend_enter(p->be);
    dr_arena_init(&p->tmp, p->scratch, sizeof p->scratch);
    p->cx = (struct dr_ctx){.be = p->be, .keep = &p->keep, .tmp = &p->tmp, .act = DR_F32};
    p->saved = dr_net_saved_new(p->net);
    dr_normals(SEED, DR_STREAM_INIT, 0, p->w, ps->total);
    dr_normals(SEED, DR_STREAM_DATA, 0, p->x, IN);
    dr_normals(SEED, DR_STREAM_DATA, 1, p->dy, OUT);
}

static void pass_close(struct pass *p) {
    dr_net_saved_free(p->saved);
    dr_net_free(p->net);
    dr_backend_free(p->be);
}

static double run(struct pass *p, bool backward, bool frozen) {
    const struct dr_weights w = {
        .layout = dr_net_params(p->net), .w = p->w, .g = frozen ? NULL : p->g};
    const struct dr_net_in in = {.x = p->x, .b = BATCH};
    real *const y[] = {p->y};
    const real *const dy[] = {p->dy};
    dr_net_forward(&p->cx, p->net, &w, &in, y, backward ? p->saved : NULL);
    if (backward)
        dr_net_backward(&p->cx, p->net, &w, &in, p->saved, dy, p->dx);
    assert_int_equal(p->be->sync(p->be, NULL), 0);
    double loss = 0;
    for (int i = 0; i < OUT; i++)
        loss += (double)p->y[i] * p->dy[i];
    return loss;
}

// The loss is linear in weights and image: central differences are exact but for rounding.
static void check(struct pass *p, real *at, const real *grad, int64_t n) {
    const double step = sizeof(real) == 8 ? 1e-3 : 0.25, tol = sizeof(real) == 8 ? 1e-9 : 1e-3;
    for (int64_t i = 0; i < n; i++) {
        const real was = at[i];
        at[i] = was + (real)step;
        const double up = run(p, false, false);
        at[i] = was - (real)step;
        const double down = run(p, false, false);
        at[i] = was;
        if (!(fabs((up - down) / (2 * step) - grad[i]) < tol * (1 + fabs((double)grad[i]))))
            fail_msg("element %lld: backward %g, differences %g", (long long)i, (double)grad[i],
                     (up - down) / (2 * step));
    }
}

static void gradients_are_right(void **state) {
    (void)state;
    struct pass p;
    pass_open(&p);
    real g[DR_COUNT(p.g)], dx[IN];
    run(&p, true, false);
    memcpy(g, p.g, sizeof g);
    memcpy(dx, p.dx, sizeof dx);
    for (int i = 0; i < dr_net_params(p.net)->n; i++) {
        const struct dr_param *q = &dr_net_params(p.net)->p[i];
        check(&p, p.w + q->offset, g + q->offset, q->count);
    }
    check(&p, p.x, dx, IN);
    memset(p.dx, 0, sizeof p.dx);
    run(&p, true, true); // frozen: the same input gradient, no others
    assert_memory_equal(p.dx, dx, sizeof dx);
    assert_memory_equal(p.g, g, sizeof g);
    pass_close(&p);
}

#ifndef DR_DOUBLE
// As dr_trainer_save writes any network: weights by name, the description in the metadata.
static void write_checkpoint(const char *path, const char *prefix, const struct dr_net *net,
                             const real *w, bool described) {
    struct dr_err err = {0};
    struct dr_st_writer *out;
    const struct dr_params *ps = dr_net_params(net);
    int rc = dr_st_writer_new(&out, &err);
    for (int i = 0; i < ps->n && !rc; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", prefix, ps->p[i].name);
        rc =
            dr_st_add(out, name, DR_ST_F32, ps->p[i].ndim, ps->p[i].dim, w + ps->p[i].offset, &err);
    }
    if (!rc && described)
        rc = dr_st_add_meta(out, "driftd.config", dr_net_description(net), &err);
    if (!rc)
        rc = dr_st_add_meta(out, "driftd.step", "12", &err);
    if (rc || dr_st_finish(out, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
}

static void goes_through_a_checkpoint(void **state) {
    (void)state;
    char path[] = "/tmp/driftd-net-XXXXXX";
    struct dr_net *net = judge();
    struct dr_snapshot *s;
    struct dr_sampler *sampler;
    struct dr_err err = {0};
    real *w = calloc(1, dr_net_bytes(net)), x[4];
    close(mkstemp(path));
    dr_params_init(dr_net_params(net), SEED, w);
    for (int i = 0; i < 3; i++) { // own names; behind a wrapper's prefix; described by the caller
        write_checkpoint(path, i == 1 ? "module." : "", net, w, i < 2);
        if (dr_snapshot_load(path, i == 2 ? description : NULL, &s, &err))
            fail_msg("%s", err.msg);
        assert_true(dr_net_same(s->net, net));
        assert_int_equal(s->step, i < 3 ? 12 : 0);
        assert_memory_equal(s->weights, w, dr_net_bytes(net));
        if (i < 2)
            dr_snapshot_unref(s);
    }
    struct dr_backend *be;
    if (dr_backend_cpu(1, &be, &err) || dr_sampler_create(be, DR_FP32, 4, &sampler, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(dr_sampler_run(sampler, s, &(struct dr_sample){0}, 1, x, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "judge"));
    dr_sampler_free(sampler);
    dr_snapshot_unref(s);
    dr_backend_free(be);
    dr_net_free(net);
    free(w);
    unlink(path);
}

// One image of the smallest generator of this description, from seed 3 or from the noise given.
static void image_of(const char *model, const real *noise, real x[16]) {
    struct dr_err err = {0};
    struct dr_net *net;
    struct dr_sampler *sampler;
    struct dr_backend *be;
    if (dr_net_parse(model, strlen(model), NULL, &net, &err))
        fail_msg("%s", err.msg);
    real *w = calloc(1, dr_net_bytes(net));
    for (int64_t i = 0; i < dr_net_params(net)->total; i++)
        w[i] = (real)sin(1.7 * (double)i) / 4; // what starts as zeros would hide the noise
    struct dr_snapshot *s = dr_snapshot_new(net, w, 0);
    if (dr_backend_cpu(1, &be, &err) || dr_sampler_create(be, DR_FP32, 4, &sampler, &err) ||
        dr_sampler_run(sampler, s, &(struct dr_sample){.seed = 3, .alpha = 1, .noise = noise}, 1, x,
                       &err))
        fail_msg("%s", err.msg);
    dr_sampler_free(sampler);
    dr_snapshot_unref(s);
    dr_backend_free(be);
}

// Samples of temperature t are those of the noise times t, drawn or given.
static void temperature_scales_the_noise(void **state) {
#define SMALLEST                                                                                   \
    "{\"arch\":\"driftdit\",\"dim\":8,\"depth\":1,\"heads\":1,\"patch\":2,\"size\":4,"             \
    "\"channels\":1,\"classes\":2,\"registers\":0,\"style_tokens\":0,\"noise\":\"latent\","        \
    "\"latent_dim\":6"
    (void)state;
    static const char plain[] = SMALLEST "}", warm[] = SMALLEST ",\"temperature\":1.5}";
#undef SMALLEST
    real z[6], scaled[6], want[16], x[16];
    dr_normals(3, DR_STREAM_NOISE, 0, z, 6);
    for (int i = 0; i < 6; i++)
        scaled[i] = (real)1.5 * z[i];
    image_of(plain, scaled, want);
    image_of(plain, NULL, x);
    assert_memory_not_equal(x, want, sizeof x);
    image_of(warm, NULL, x);
    assert_memory_equal(x, want, sizeof x);
    image_of(warm, z, x);
    assert_memory_equal(x, want, sizeof x);
}

static void is_inspected(void **state) {
    (void)state;
    char path[] = "/tmp/driftd-net-XXXXXX", listing[] = "/tmp/driftd-list-XXXXXX", text[4096];
    struct dr_net *net = judge();
    real *w = calloc(1, dr_net_bytes(net));
    close(mkstemp(path));
    write_checkpoint(path, "", net, w, true);
    const int list = mkstemp(listing), out = dup(STDOUT_FILENO);
    fflush(stdout);
    dup2(list, STDOUT_FILENO);
    const int rc = dd_inspect_main(1, (char *[]){path});
    fflush(stdout);
    dup2(out, STDOUT_FILENO);
    const ssize_t n = pread(list, text, sizeof text - 1, 0);
    close(list);
    close(out);
    unlink(path);
    unlink(listing);
    dr_net_free(net);
    free(w);
    assert_int_equal(rc, 0);
    assert_true(n > 0);
    text[n] = '\0';
    if (!strstr(text, "\nnetwork linear_judge (judge, 99 parameters)\n") ||
        !strstr(text, "linear.weight ") || !strstr(text, "[3, 32]"))
        fail_msg("inspect printed:\n%s", text);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_described),
        cmocka_unit_test(gradients_are_right),
#ifndef DR_DOUBLE
        cmocka_unit_test(goes_through_a_checkpoint),
        cmocka_unit_test(temperature_scales_the_noise),
        cmocka_unit_test(is_inspected),
#endif
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests_name("networks", tests, NULL, NULL);
}
