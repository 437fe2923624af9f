// Inception-v3, narrow and on small images: bytes, descriptions, what it refuses; files under both
// sets of names, and those that do not fit. Its numbers: ../golden/test_golden_inception.c.
#include "engine/drift.h"
#include "engine/eval/fid_input.h"
#include "engine/nn/inception.h"
#include "engine/open.h"
#include "engine/sample/encode.h"
#include "tests/golden/inception_rule.h"
#include "tests/nn/pass.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define NARROW(rest) "{\"arch\":\"inception\",\"size\":75,\"narrow\":16" rest "}"
static const char plain[] = NARROW(",\"classes\":7");

static struct dr_snapshot *snapshot_of(const char *json) {
    struct dr_net *net = pass_parse(json);
    real *w = calloc((size_t)dr_net_params(net)->total, sizeof *w);
    assert_non_null(w);
    dr_params_init(dr_net_params(net), 3, w);
    return dr_snapshot_new(net, w, 0);
}

struct outputs {
    real logits[19 * 7], pooled[19 * 128], unbiased[19 * 7];
};

static void run(struct dr_snapshot *s, const real *x, int64_t n, int threads, int64_t piece,
                int precision, struct outputs *out) {
    real *y[DR_NET_OUTPUTS] = {out->logits, out->pooled, out->unbiased};
    struct dr_backend *be;
    struct dr_encode *e;
    struct dr_err err = {0};
    if (dr_backend_open("cpu", threads, &be, &err))
        fail_msg("%s", err.msg);
    dr_backend_enter(be);
    if (dr_encode_create(be, precision, piece, &e, &err) || dr_encode_run(e, s, x, n, y, &err))
        fail_msg("%s", err.msg);
    dr_encode_free(e);
    dr_backend_free(be);
}

// Also across the pieces that a batch is cut into.
static void bytes_do_not_depend_on_the_batch(void **state) {
    enum { N = 19, INPUT = 3 * 75 * 75 };
    static real x[N * INPUT];
    static struct outputs all, one;
    struct dr_snapshot *s = snapshot_of(plain);
    (void)state;
    for (int64_t i = 0; i < N * INPUT; i++)
        x[i] = rule_pixel("x", i) / (real)127.5 - 1;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        run(s, x, N, 2, 32, bf16 ? DR_PREC_BF16 : DR_FP32, &all);
        for (int i = 0; i < N; i += 6) {
            run(s, x + (int64_t)i * INPUT, 1, 1, 1, bf16 ? DR_PREC_BF16 : DR_FP32, &one);
            assert_memory_equal(one.pooled, all.pooled + i * 128, sizeof(real) * 128);
            assert_memory_equal(one.logits, all.logits + i * 7, sizeof(real) * 7);
            assert_memory_equal(one.unbiased, all.unbiased + i * 7, sizeof(real) * 7);
        }
    }
    dr_snapshot_unref(s);
}

static void is_described(void **state) {
    (void)state;
    static const char *const json[] = {plain, NARROW(",\"classes\":0"),
                                       NARROW(",\"variant\":\"torchvision\""),
                                       "{\"arch\":\"inception\"}"};
    for (size_t i = 0; i < DR_COUNT(json); i++) {
        struct dr_net *a = pass_parse(json[i]), *b = pass_parse(dr_net_description(a)), *c;
        assert_true(dr_net_same(a, b));
        assert_int_equal(dr_inception_create(dr_inception_config(a), &c, NULL), 0);
        assert_true(dr_net_same(a, c));
        const bool classes = dr_inception_config(a)->classes > 0;
        assert_int_equal(dr_net_kind(a), classes ? DR_NET_JUDGE : DR_NET_ENCODER);
        assert_int_equal(dr_net_outputs(a), !classes ? 1 : i == 2 ? 2 : 3);
        const int pooled = dr_net_output_find(a, "pooled");
        assert_int_equal(dr_net_output(a, pooled).c, 2048 / dr_inception_config(a)->narrow);
        dr_net_free(a);
        dr_net_free(b);
        dr_net_free(c);
    }
    struct dr_net *net = pass_parse("{\"arch\":\"inception\"}");
    assert_int_equal(dr_inception_layers(net), 94);
    assert_int_equal(dr_net_input(net), 3 * 299 * 299);
    dr_net_free(net);
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *json, *field;
    } bad[] = {{"{\"arch\":\"inception\",\"size\":74}", "size"},
               {"{\"arch\":\"inception\",\"size\":5000}", "size"},
               {"{\"arch\":\"inception\",\"size\":\"299\"}", "size"},
               {"{\"arch\":\"inception\",\"classes\":-1}", "classes"},
               {"{\"arch\":\"inception\",\"narrow\":3}", "narrow"},
               {"{\"arch\":\"inception\",\"variant\":\"tf\"}", "variant"},
               {"{\"arch\":\"inception\",\"variant\":3}", "variant"},
               {"{\"arch\":\"inception\",\"width\":64}", "width"}};
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        struct dr_err err = {0};
        struct dr_net *net;
        assert_int_equal(dr_net_parse(bad[i].json, strlen(bad[i].json), "here", &net, &err),
                         DR_ECONFIG);
        assert_null(net);
        assert_string_equal(err.field, bad[i].field);
        assert_non_null(strstr(err.msg, bad[i].field));
    }
    // Nothing can be trained through it.
    struct dr_err err = {0};
    struct dr_net *net = pass_parse(plain), *encoder;
    assert_false(dr_net_learns(net));
    assert_int_equal(dr_net_encoder(net, 0, &encoder, &err), DR_EINVAL);
    assert_null(encoder);
    assert_string_equal(err.field, "encoder");
    assert_non_null(strstr(err.msg, "forward only"));
    dr_net_free(net);
}

// ---- files

static char path[64];
static int make_path(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/driftd-inception-XXXXXX");
    const int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}
static int drop_path(void **state) {
    (void)state;
    return unlink(path);
}

static struct dr_snapshot *loaded(void) {
    struct dr_err err = {0};
    struct dr_snapshot *s;
    if (dr_snapshot_load(path, NULL, &s, &err))
        fail_msg("%s", err.msg);
    return s;
}

// The folded layer of a rule's weights, in double.
static void check_layer(const struct dr_snapshot *s, int i) {
    const struct dr_inception_layer *l = dr_inception_layer(s->net, i);
    const struct dr_param *w = &dr_net_params(s->net)->p[l->weight],
                          *b = &dr_net_params(s->net)->p[l->bias];
    static const char *const part[] = {"weight", "bias", "running_mean", "running_var"};
    const int64_t fan = w->count / w->dim[0];
    char name[128];
    for (int64_t c = 0; c < w->dim[0]; c++) {
        double bn[4];
        for (int k = 0; k < 4; k++) {
            snprintf(name, sizeof name, "%s.bn.%s", l->name, part[k]);
            bn[k] = (double)rule_weight(name, 1, 1, c);
        }
        const double scale = bn[0] / sqrt(bn[3] + 1e-3);
        snprintf(name, sizeof name, "%s.conv.weight", l->name);
        for (int64_t j = 0; j < fan; j++)
            assert_true(fabs(s->weights[w->offset + c * fan + j] -
                             scale * (double)rule_weight(name, 4, fan, c * fan + j)) < 1e-6);
        assert_true(fabs(s->weights[b->offset + c] - (bn[1] - bn[2] * scale)) < 1e-6);
    }
}

// From names and shapes alone: torchvision's names, behind a prefix, beside an auxiliary
// classifier, counters and what has no values; those of pytorch-fid's module, which has no
// classifier.
static void reads_both_names(void **state) {
    static const char json[] = "{\"arch\":\"inception\",\"narrow\":16}";
    struct dr_net *net = pass_parse(json);
    struct dr_snapshot *s[4];
    (void)state;
    const struct rule_file how[] = {
        {.more = "Mixed_5b.branch1x1.bn.num_batches_tracked"},
        {.prefix = "inception.", .empty = "inception.register_tokens"},
        {.more = "AuxLogits.fc.weight"},
        {.blocks = true, .prefix = "module."},
    };
    for (size_t i = 0; i < DR_COUNT(how); i++) {
        rule_write(path, net, &how[i]);
        s[i] = loaded();
        const struct dr_inception_config *c = dr_inception_config(s[i]->net);
        assert_int_equal(c->narrow, 16);
        assert_int_equal(c->size, 299);
        assert_int_equal(c->classes, i == 3 ? 0 : 1008);
        assert_int_equal(c->variant, i == 2 ? DR_INCEPTION_TORCHVISION : DR_INCEPTION_FID);
    }
    assert_true(dr_net_same(s[0]->net, net));
    for (int i = 0; i < dr_inception_layers(net); i++)
        check_layer(s[0], i);
    assert_memory_equal(s[0]->weights, s[1]->weights, dr_net_bytes(net));
    assert_memory_equal(s[0]->weights, s[2]->weights, dr_net_bytes(net));
    const struct dr_params *full = dr_net_params(s[0]->net), *bare = dr_net_params(s[3]->net);
    real *w = calloc((size_t)bare->total, sizeof *w);
    assert_int_equal(dr_params_copy_named(bare, w, full, s[0]->weights, NULL), 0);
    assert_memory_equal(w, s[3]->weights, dr_net_bytes(s[3]->net));
    free(w);
    for (size_t i = 0; i < DR_COUNT(s); i++)
        dr_snapshot_unref(s[i]);
    dr_net_free(net);
}

// What driftd writes has its own description and no BatchNorms.
static void reads_its_own(void **state) {
    struct dr_snapshot *s = snapshot_of(plain), *again;
    const struct dr_params *ps = dr_net_params(s->net);
    struct dr_st_writer *out;
    struct dr_err err = {0};
    (void)state;
    int rc = dr_st_writer_new(&out, &err);
    for (int i = 0; i < ps->n && !rc; i++)
        rc = dr_st_add(out, ps->p[i].name, DR_ST_F32, ps->p[i].ndim, ps->p[i].dim,
                       s->weights + ps->p[i].offset, &err);
    if (!rc)
        rc = dr_st_add_meta(out, "driftd.config", dr_net_description(s->net), &err);
    if (rc || dr_st_finish(out, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    again = loaded();
    assert_true(dr_net_same(s->net, again->net));
    assert_memory_equal(s->weights, again->weights, dr_net_bytes(s->net));
    dr_snapshot_unref(s);
    dr_snapshot_unref(again);
}

static void refuses_files_that_do_not_fit(void **state) {
    static const char conv[] = "Mixed_6c.branch7x7dbl_3.conv.weight",
                      mean[] = "Mixed_7a.branch3x3_1.bn.running_mean",
                      var[] = "Conv2d_3b_1x1.bn.running_var",
                      block[] = "blocks.2.5.branch7x7dbl_3.conv.weight";
    static const struct {
        struct rule_file how;
        int code;
        const char *named;
    } bad[] = {
        {{.leave_out = conv}, DR_ENOENT, conv},
        {{.leave_out = mean}, DR_ENOENT, mean},
        {{.leave_out = "fc.bias"}, DR_ENOENT, "fc.bias"},
        {{.leave_out = block, .blocks = true}, DR_ENOENT, block},
        {{.flat = conv}, DR_EFORMAT, conv},
        {{.flat = "fc.weight"}, DR_EFORMAT, "fc.weight"},
        {{.flat = block, .blocks = true}, DR_EFORMAT, block},
        {{.more = "Mixed_6c.branch9x9.conv.weight"}, DR_EFORMAT, "Mixed_6c.branch9x9.conv.weight"},
        {{.more = "fc.scale"}, DR_EFORMAT, "fc.scale"},
        {{.more = "Conv2d_3b_1x1.bn.scale"}, DR_EFORMAT, "Conv2d_3b_1x1.bn.scale"},
        {{.more = "head.weight", .blocks = true}, DR_EFORMAT, "head.weight"},
        {{.poison = conv, .value = NAN}, DR_ENONFINITE, conv},
        {{.poison = mean, .value = INFINITY}, DR_ENONFINITE, mean},
        {{.poison = "fc.bias", .value = NAN}, DR_ENONFINITE, "fc.bias"},
        {{.poison = var, .value = -1}, DR_EFORMAT, var},
        {{.description = NARROW(",\"classes\":9")}, DR_EFORMAT, "fc.weight"},
        {{.description = "{\"arch\":\"inception\",\"narrow\":8}"}, DR_EFORMAT, "Conv2d_1a_3x3"},
        {{.description = NARROW(",\"variant\":\"x\"")}, DR_ECONFIG, "variant"},
    };
    struct dr_net *net = pass_parse("{\"arch\":\"inception\",\"narrow\":16}");
    (void)state;
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        struct dr_err err = {0};
        struct dr_snapshot *s;
        rule_write(path, net, &bad[i].how);
        const int rc = dr_snapshot_load(path, NULL, &s, &err);
        if (rc != bad[i].code || !strstr(err.msg, bad[i].named))
            fail_msg("%s: %d, %s", bad[i].named, rc, err.msg);
        assert_null(s);
    }
    dr_net_free(net);
}

// torchvision's network and images of another side make no FID; narrow ones are for tests.
static void not_all_are_the_network_of_fid(void **state) {
    static const struct {
        const char *json, *words; // NULL: it is
    } nets[] = {
        {plain, NULL},
        {"{\"arch\":\"inception\"}", NULL},
        {"{\"arch\":\"inception\",\"classes\":1000,\"variant\":\"torchvision\"}", "torchvision's"},
        {"{\"arch\":\"inception\",\"size\":224}", "224 x 224"},
        {"{\"arch\":\"resnet\"}", "no network of Inception-v3"},
    };
    (void)state;
    for (size_t i = 0; i < DR_COUNT(nets); i++) {
        struct dr_net *net = pass_parse(nets[i].json);
        struct dr_err err = {0};
        int64_t side = 0;
        const int rc = dr_fid_network(net, "checkpoint 7", &side, &err);
        if (nets[i].words)
            assert_true(rc == DR_EINVAL && strstr(err.msg, nets[i].words));
        else
            assert_true(!rc && 3 * side * side == dr_net_input(net));
        dr_net_free(net);
    }
}

// ---- images

static void refuses_images_that_do_not_fit(void **state) {
    real x[4] = {0}, out[3 * 16];
    struct dr_err err = {0};
    enum dr_fid_resize way;
    (void)state;
    assert_int_equal(dr_fid_input(DR_FID_CLEAN, x, 1, 2, 1, 1, 4, 1, out, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "2 channels"));
    assert_int_equal(dr_fid_input(DR_FID_CLEAN, x, 1, 1, 0, 1, 4, 1, out, &err), DR_EINVAL);
    assert_int_equal(dr_fid_resize_named("bicubic", &way, &err), DR_EINVAL);
    assert_string_equal(err.field, "resize");
    assert_non_null(strstr(err.msg, "legacy_tensorflow"));
    for (int i = 0; i < DR_FID_RESIZES; i++) {
        assert_int_equal(dr_fid_resize_named(dr_fid_resize_word(i), &way, &err), 0);
        assert_int_equal(way, i);
    }
}

// Bytes of an image do not depend on the others or the threads; grey ones have three equal
// channels; what is not quite a pixel's value becomes it; no size changes nothing.
static void images_become_the_networks(void **state) {
    enum { N = 7, IN = 5 * 6, SIDE = 20, PLANE = SIDE * SIDE };
    real x[N * IN], one[3 * PLANE], square[36], same[3 * 36];
    static real all[N * 3 * PLANE];
    (void)state;
    for (int i = 0; i < N * IN; i++)
        x[i] = rule_pixel("grey", i) / (real)127.5 - 1;
    for (int r = 0; r < DR_FID_RESIZES; r++) {
        struct dr_fid_way way = {.resize = r, .side = SIDE, .threads = 3};
        assert_int_equal(dr_fid_prepare(&way, x, N, 1, 5, 6, all, NULL), 0);
        for (int i = 0; i < N; i++) {
            x[i * IN] += i % 2 ? (real)1e-4 : 0;
            assert_int_equal(dr_fid_input(r, x + i * IN, 1, 1, 5, 6, SIDE, 1, one, NULL), 0);
            assert_memory_equal(one, all + i * 3 * PLANE, sizeof one);
            assert_memory_equal(one, one + 2 * PLANE, sizeof one / 3);
        }
        for (int i = 0; i < 36; i++)
            square[i] = rule_pixel("square", i) / (real)127.5 - 1;
        assert_int_equal(dr_fid_input(r, square, 1, 1, 6, 6, 6, 1, same, NULL), 0);
        for (int i = 0; i < 36; i++) {
            const real p = rule_pixel("square", i);
            const real want = r == DR_FID_LEGACY_PYTORCH ? square[i] : (p - 128) / 128;
            assert_true(fabs((double)(same[i] - want)) < 1e-6);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_do_not_depend_on_the_batch),
        cmocka_unit_test(is_described),
        cmocka_unit_test(refuses),
        cmocka_unit_test_setup_teardown(reads_both_names, make_path, drop_path),
        cmocka_unit_test_setup_teardown(reads_its_own, make_path, drop_path),
        cmocka_unit_test_setup_teardown(refuses_files_that_do_not_fit, make_path, drop_path),
        cmocka_unit_test(not_all_are_the_network_of_fid),
        cmocka_unit_test(refuses_images_that_do_not_fit),
        cmocka_unit_test(images_become_the_networks),
    };
    return cmocka_run_group_tests_name("inception", tests, NULL, NULL);
}
