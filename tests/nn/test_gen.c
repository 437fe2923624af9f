// Generators: what a user relies on. The bytes of a sample do not depend on the batch it rode in or
// on the thread count, in fp32 and bf16; initial weights are a function of the seed and start
// adaLN-Zero; layouts keep joined matrices together; wrong configurations are refused by name;
// memory of the standard networks stays in bounds.
#include "engine/core/rng.h"
#include "tests/nn/rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEED 9
#define BATCH 5

struct inputs {
    real *noise, *alpha;
    int32_t cls[BATCH], *style;
};

static struct inputs draw_inputs(const struct rig *r, const struct dr_model_config *m) {
    struct inputs in = {.noise = calloc((size_t)(BATCH * r->noise), sizeof(real)),
                        .alpha = calloc(BATCH, sizeof(real)),
                        .style = calloc((size_t)(BATCH * r->style) + 1, sizeof(int32_t))};
    assert_true(in.noise && in.alpha && in.style);
    for (int i = 0; i < BATCH; i++) {
        dr_normals(SEED, DR_STREAM_NOISE, (uint64_t)i, in.noise + i * r->noise, r->noise);
        dr_indices(SEED, DR_STREAM_STYLE, (uint64_t)i, (uint32_t)m->codebook,
                   in.style + i * r->style, r->style);
        in.cls[i] = (int32_t)(i % (m->classes + m->null_class));
        in.alpha[i] = (real)(1 + 0.61 * i);
    }
    return in;
}

static void run_rows(struct rig *r, const struct inputs *in, int from, int n, real *x) {
    rig_inputs(r, n, in->noise + from * r->noise, in->cls + from, in->alpha + from,
               in->style + from * r->style);
    rig_forward(r, false, x);
}

static void same_bytes(const struct dr_model_config *m, enum dr_dtype act) {
    struct rig one, two;
    rig_open(&one, m, BATCH, 1, act);
    rig_open(&two, m, BATCH, 2, act);
    real *w = rig_random_weights(one.params, SEED);
    struct inputs in = draw_inputs(&one, m);
    size_t row = (size_t)one.image * sizeof(real);
    real *all = malloc(BATCH * row), *part = malloc(BATCH * row);
    rig_weights(&one, w);
    rig_weights(&two, w);
    run_rows(&one, &in, 0, BATCH, all);
    for (int i = 0; i < BATCH; i++) {
        run_rows(&one, &in, i, 1, part);
        assert_memory_equal(part, (char *)all + (size_t)i * row, row);
    }
    run_rows(&two, &in, 0, BATCH, part);
    assert_memory_equal(part, all, BATCH * row);
    run_rows(&two, &in, 1, 3, part);
    assert_memory_equal(part, (char *)all + row, 3 * row);
    rig_forward(&two, true, part); // keeping activations changes nothing either
    assert_memory_equal(part, (char *)all + row, 3 * row);
    free(w);
    free(all);
    free(part);
    free(in.noise);
    free(in.alpha);
    free(in.style);
    rig_close(&one);
    rig_close(&two);
}

static struct dr_model_config tiny(void) {
    struct dr_model_config m = rig_config();
    m.size = 32;
    m.classes = 10;
    m.dim = 256;
    m.depth = 6;
    m.heads = 4;
    m.registers = 8;
    m.style_tokens = 32;
    m.codebook = 64;
    return m;
}

static struct dr_model_config mnist_cpu(void) {
    struct dr_model_config m = tiny();
    m.size = 28;
    m.dim = 96;
    m.depth = 4;
    m.heads = 3;
    m.patch = 7;
    m.registers = 0;
    m.mlp = DR_MLP_GELU;
    m.rope = m.null_class = false;
    m.pos_embed = true;
    m.noise = DR_NOISE_LATENT;
    m.latent_dim = 32;
    m.head = DR_HEAD_CONV;
    m.head_width = 32;
    return m;
}

static void batch_invariance(void **state) {
    (void)state;
    struct dr_model_config m[] = {tiny(), mnist_cpu(), rig_config(), rig_config(), rig_config()};
    m[0].depth = 2; // enough to see it, and quick
    m[2].dim = 20;
    m[2].channels = 3;
    m[2].head = DR_HEAD_CONV;
    m[3].arch = DR_ARCH_LIGHTNINGDIT;
    m[3].dim = 24;
    m[4].arch = DR_ARCH_MLP;
    m[4].kind = DR_KIND_POINTS;
    m[4].dim = 33;
    m[4].depth = 3;
    for (size_t i = 0; i < DR_COUNT(m); i++) {
        same_bytes(&m[i], DR_F32);
        same_bytes(&m[i], DR_BF16);
    }
}

static void gradients_thread_invariant(void **state) {
    (void)state;
    struct dr_model_config m = mnist_cpu();
    struct rig r[2];
    real *g[2];
    for (int i = 0; i < 2; i++) {
        rig_open(&r[i], &m, BATCH, i + 1, DR_F32);
        real *w = rig_random_weights(r[i].params, SEED);
        real *x = calloc((size_t)(BATCH * r[i].image), sizeof *x);
        g[i] = calloc((size_t)r[i].params->total, sizeof *g[i]);
        assert_true(x && g[i]);
        rig_weights(&r[i], w);
        rig_random_inputs(&r[i], SEED);
        rig_forward(&r[i], true, x);
        rig_backward(&r[i], x, g[i]);
        free(w);
        free(x);
    }
    assert_memory_equal(g[0], g[1], (size_t)r[0].params->total * sizeof(real));
    for (int i = 0; i < 2; i++) {
        free(g[i]);
        rig_close(&r[i]);
    }
}

static void layout_and_init(void **state) {
    (void)state;
    struct dr_model_config m = tiny();
    struct dr_net *g;
    assert_int_equal(dr_gen_create(&m, &g, NULL), 0);
    const struct dr_params *ps = dr_net_params(g);
    size_t bytes = (size_t)ps->total * sizeof(real);
    real *a = malloc(bytes), *b = malloc(bytes), *c = malloc(bytes);
    dr_params_init(ps, 1, a);
    dr_params_init(ps, 1, b);
    dr_params_init(ps, 2, c);
    assert_memory_equal(a, b, bytes);
    assert_memory_not_equal(a, c, bytes);
    assert_int_equal(ps->total % 16, 0);
    int w1 = dr_params_find(ps, "blocks.3.mlp.w1.weight");
    int w3 = dr_params_find(ps, "blocks.3.mlp.w3.weight");
    assert_true(w1 >= 0 && w3 >= 0);
    assert_int_equal(ps->p[w3].offset, ps->p[w1].offset + ps->p[w1].count);
    double xavier = sqrt(6.0 / (256 + 1024)), sum = 0;
    for (int64_t i = 0; i < ps->p[w1].count; i++) {
        double v = a[ps->p[w1].offset + i];
        assert_true(fabs(v) <= xavier);
        sum += v * v;
    }
    assert_true(fabs(sum / (double)ps->p[w1].count / (xavier * xavier / 3) - 1) < 0.02);
    int ada = dr_params_find(ps, "blocks.0.adaLN_modulation.1.weight");
    for (int64_t i = 0; i < ps->p[ada].count; i++)
        assert_true(a[ps->p[ada].offset + i] == 0);
    for (int i = 0; i < ps->n; i++) // decayed parameters, and only they, lie in front
        assert_int_equal(ps->p[i].offset < ps->decayed, (ps->p[i].flags & DR_PARAM_DECAY) != 0);
    assert_int_equal(dr_gen_null_class(g), 10);
    free(a);
    free(b);
    free(c);
    dr_net_free(g);
}

// Seen by the dry run: activations of 320 samples of Tiny in 20 chunks, and what the rest needs.
static size_t tiny_bytes(enum dr_dtype act) {
    struct dr_model_config m = tiny();
    struct dr_net *g;
    struct dr_backend *null;
    struct dr_arena keep, tmp;
    assert_int_equal(dr_gen_create(&m, &g, NULL), 0);
    assert_int_equal(dr_backend_null(&null, NULL), 0);
    dr_arena_measure(&keep);
    dr_arena_measure(&tmp);
    static real some[1]; // addresses that the null backend never follows
    static const int32_t index[1];
    real *const y[] = {some};
    struct dr_ctx cx = {.be = null, .keep = &keep, .tmp = &tmp, .act = act};
    struct dr_weights w = {
        .layout = dr_net_params(g), .w = some, .w16 = (const dr_bf16 *)some, .g = some};
    struct dr_net_in in = {some, index, some, index, some, 16};
    struct dr_net_saved *s = dr_net_saved_new(g);
    assert_non_null(s);
    for (int chunk = 0; chunk < 20; chunk++) {
        dr_net_forward(&cx, g, &w, &in, y, s);
        dr_net_backward(&cx, g, &w, &in, s, (const real *const *)y, NULL);
    }
    size_t per_param = 5 * sizeof(float) + sizeof(dr_bf16); // w, g, m, v, one EMA, rounded copy
    size_t bytes = keep.peak + tmp.peak + (size_t)dr_net_params(g)->total * per_param;
    dr_net_saved_free(s);
    dr_net_free(g);
    dr_backend_free(null);
    return bytes;
}

static void memory_of_tiny(void **state) {
    (void)state;
    assert_in_range(tiny_bytes(DR_F32), 1, (size_t)2900 << 20); // leaves room for the loss
    assert_in_range(tiny_bytes(DR_BF16), 1, (size_t)1900 << 20);
}

static void refuse(struct dr_model_config m, const char *word) {
    struct dr_net *g;
    struct dr_err err = {0};
    assert_int_equal(dr_gen_create(&m, &g, &err), DR_ECONFIG);
    assert_null(g);
    if (!strstr(err.msg, word))
        fail_msg("\"%s\" does not mention %s", err.msg, word);
}

static void refusals(void **state) {
    (void)state;
    struct dr_model_config m;
#define WITH(change, word) (m = rig_config(), change, refuse(m, word))
    WITH(m.heads = 3, "model.heads is 3");
    WITH((m.dim = 12, m.heads = 4), "model.rope");
    WITH(m.patch = 3, "model.patch is 3");
    WITH((m.dim = 10, m.rope = false, m.pos_embed = true), "model.dim is 10");
    WITH(m.dim = 1 << 20, "model.dim");
    WITH(m.depth = -1, "model.depth");
    WITH(m.classes = 0, "data.classes");
    WITH(m.mlp_ratio = NAN, "model.mlp_ratio");
    WITH(m.temperature = 0, "model.temperature");
    WITH(m.temperature = NAN, "model.temperature");
    WITH((m.arch = DR_ARCH_LIGHTNINGDIT, m.dim = 4, m.heads = 1, m.mlp = DR_MLP_SWIGLU,
          m.mlp_ratio = .25),
         "hidden width");
    WITH(m.arch = 7, "model.arch");
    WITH((m.label_dropout = 0.1, m.null_class = false), "model.null_class");
    WITH((m.arch = DR_ARCH_MLP, m.kind = DR_KIND_POINTS, m.depth = 0), "model.depth");
    WITH(m.arch = DR_ARCH_MLP, "model.arch is mlp");
    WITH(m.kind = DR_KIND_POINTS, "but the kind is points");
#undef WITH
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_invariance), cmocka_unit_test(gradients_thread_invariant),
        cmocka_unit_test(layout_and_init),  cmocka_unit_test(memory_of_tiny),
        cmocka_unit_test(refusals),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests_name("generators", tests, NULL, NULL);
}
