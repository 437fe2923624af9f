// Residual encoders: gradients of every view (double build); bytes, bf16, descriptions, the encoder
// inside a classifier or an autoencoder, checkpoints and refusals (float build).
#include "engine/core/rng.h"
#include "engine/drift.h"
#include "engine/nn/resnet.h"
#include "tests/nn/pass.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SEED 5
#define RESNET(rest) "{\"arch\":\"resnet\"," rest "}"
static const char *const views[] = {
    // every pool and shortcut, odd sides, maps after every block
    RESNET("\"size\":7,\"channels\":2,\"width\":4,\"blocks\":[3,1,2],\"every\":1"),
    RESNET("\"size\":6,\"channels\":1,\"width\":6,\"blocks\":[1,1],\"groups\":2,\"classes\":3,"
           "\"head\":\"classifier\""),
    RESNET("\"size\":7,\"channels\":2,\"width\":4,\"blocks\":[1,1,1],\"head\":\"decoder\""),
    RESNET("\"size\":9,\"channels\":1,\"width\":2,\"blocks\":[1,1],\"stride\":2,\"kernel\":5,"
           "\"classes\":2,\"head\":\"both\""),
    // torchvision's stem and norms on enlarged pixels
    RESNET("\"size\":5,\"channels\":3,\"width\":3,\"blocks\":[1,1],\"stride\":2,\"kernel\":7,"
           "\"pool\":true,\"resize\":11,\"imagenet\":true,\"norm\":\"batch\",\"classes\":2,"
           "\"head\":\"classifier\""),
    RESNET("\"size\":5,\"channels\":3,\"width\":3,\"blocks\":[2],\"norm\":\"batch\""),
    RESNET("\"size\":5,\"channels\":2,\"width\":3,\"blocks\":[1],\"norm\":\"batch\",\"resize\":7,"
           "\"mean\":[0.1,0.7],\"std\":[0.3,0.25]"),
};

#ifdef DR_DOUBLE
static void gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < DR_COUNT(views); i++) {
        struct pass p;
        pass_open(&p, pass_parse(views[i]), 2, 1, DR_F32, SEED);
        pass_check_gradients(&p, ~0u);
        pass_close(&p);
    }
}

// Outputs that are not wanted have no gradient, whichever they are.
static void gradients_of_some_outputs(void **state) {
    (void)state;
    for (size_t i = 0; i < DR_COUNT(views); i++)
        for (int k = 0; k < 2; k++) {
            struct pass p;
            pass_open(&p, pass_parse(views[i]), 2, 1, DR_F32, SEED + 1);
            const int last = dr_net_outputs(p.net) - 1;
            if (last > 0)
                pass_check_gradients(&p, 1u << (k ? last : 0));
            pass_close(&p);
        }
}
#else

static void bytes_do_not_depend_on_the_batch(void **state) {
    (void)state;
    static const char *const wide[] = {
        RESNET("\"size\":32,\"channels\":3,\"width\":32,\"blocks\":[1,1,1],\"classes\":10,"
               "\"head\":\"both\""),
        RESNET("\"size\":16,\"channels\":3,\"width\":64,\"blocks\":[2,1],\"stride\":2,\"kernel\":7,"
               "\"pool\":true,\"resize\":40,\"imagenet\":true,\"norm\":\"batch\""),
    };
    for (size_t i = 0; i < DR_COUNT(views) + DR_COUNT(wide); i++) {
        const char *json = i < DR_COUNT(views) ? views[i] : wide[i - DR_COUNT(views)];
        pass_check_bytes(json, DR_F32);
        pass_check_bytes(json, DR_BF16);
    }
}

static void bf16_is_near_fp32(void **state) {
    (void)state;
    static const char json[] = RESNET("\"size\":16,\"channels\":3,\"width\":16,\"blocks\":[1,1,1],"
                                      "\"classes\":10,\"head\":\"both\"");
    struct pass p[2];
    for (int i = 0; i < 2; i++) {
        pass_open(&p[i], pass_parse(json), 4, 1, i ? DR_BF16 : DR_F32, SEED);
        pass_forward(&p[i], true, ~0u);
        pass_backward(&p[i], false, ~0u);
    }
    for (int i = 0; i < dr_net_outputs(p[0].net); i++)
        if (!(pass_distance(p[1].y[i], p[0].y[i], p[0].b * pass_count(&p[0], i)) < 0.03))
            fail_msg("%s is %g away", dr_net_output_name(p[0].net, i),
                     pass_distance(p[1].y[i], p[0].y[i], p[0].b * pass_count(&p[0], i)));
    const double g = pass_distance(p[1].g, p[0].g, p[0].params->total);
    const double dx = pass_distance(p[1].dx, p[0].dx, p[0].b * dr_net_input(p[0].net));
    // Random gradients through units that bf16 puts on the other side of a ReLU.
    if (!(g < 0.3 && dx < 0.3))
        fail_msg("gradients of the weights are %g away, of the input %g", g, dx);
    pass_close(&p[0]);
    pass_close(&p[1]);
}

static void is_described(void **state) {
    (void)state;
    for (size_t i = 0; i < DR_COUNT(views); i++) {
        struct dr_net *a = pass_parse(views[i]), *b = pass_parse(dr_net_description(a)), *c;
        assert_true(dr_net_same(a, b));
        assert_int_equal(dr_resnet_create(dr_resnet_config(a), &c, NULL), 0);
        assert_true(dr_net_same(a, c));
        dr_net_free(a);
        dr_net_free(b);
        dr_net_free(c);
    }
    // Stages 1 to 4 of the usual network and what a checkpoint's reader expects of it.
    struct dr_net *net = pass_parse(RESNET("\"blocks\":[3,4,6,3]"));
    static const char *const name[] = {"stage1.block2", "stage1",        "stage2.block2",
                                       "stage2",        "stage3.block2", "stage3.block4",
                                       "stage3",        "stage4.block2", "stage4"};
    assert_int_equal(dr_net_kind(net), DR_NET_ENCODER);
    assert_int_equal(dr_net_outputs(net), DR_COUNT(name));
    for (int i = 0; i < (int)DR_COUNT(name); i++) {
        const struct dr_net_shape s = dr_net_output(net, i);
        const int stage = name[i][5] - '1';
        assert_string_equal(dr_net_output_name(net, i), name[i]);
        assert_int_equal(dr_net_output_find(net, name[i]), i);
        assert_int_equal(s.c, 64 << stage);
        assert_int_equal(s.h, 32 >> stage);
    }
    assert_int_equal(dr_net_output_find(net, "stage5"), -1);
    assert_null(dr_gen_config(net));
    dr_net_free(net);
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *json, *field;
    } bad[] = {{RESNET("\"widht\":4"), "widht"},
               {RESNET("\"width\":0"), "width"},
               {RESNET("\"width\":\"4\""), "width"},
               {RESNET("\"blocks\":[]"), "blocks"},
               {RESNET("\"blocks\":[1,1,1,1,1]"), "blocks"},
               {RESNET("\"blocks\":[2,0]"), "blocks"},
               {RESNET("\"blocks\":[2,1.5]"), "blocks"},
               {RESNET("\"blocks\":[64,64]"), "blocks"},
               {RESNET("\"blocks\":[40],\"every\":1"), "every"},
               {RESNET("\"head\":\"judge\""), "head"},
               {RESNET("\"head\":\"classifier\""), "classes"},
               {RESNET("\"classes\":10"), "classes"},
               {RESNET("\"norm\":\"layer\""), "norm"},
               {RESNET("\"norm\":\"batch\",\"head\":\"decoder\""), "norm"},
               {RESNET("\"imagenet\":true,\"channels\":1"), "channels"},
               {RESNET("\"imagenet\":true,\"mean\":[0,0,0],\"std\":[1,1,1]"), "mean"},
               {RESNET("\"mean\":[0,0,0]"), "std"},
               {RESNET("\"mean\":[0.5],\"std\":[0.5]"), "mean"},
               {RESNET("\"channels\":1,\"mean\":[0.5],\"std\":[0]"), "std"},
               {RESNET("\"channels\":1,\"mean\":0.5,\"std\":[1]"), "mean"},
               {RESNET("\"kernel\":4"), "kernel"},
               {RESNET("\"pool\":1"), "pool"},
               {RESNET("\"size\":5000"), "size"}};
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        struct dr_err err = {0};
        struct dr_net *net;
        assert_int_equal(dr_net_parse(bad[i].json, strlen(bad[i].json), "here", &net, &err),
                         DR_ECONFIG);
        assert_null(net);
        assert_string_equal(err.field, bad[i].field);
        assert_non_null(strstr(err.msg, bad[i].field));
    }
}

// The encoder inside a trained network: its last map, averaged, is what the classifier pools, and
// an autoencoder's weights serve as well.
static void holds_its_encoder(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct pass judge, body;
    struct dr_net *enc, *bigger;
    pass_open(&judge,
              pass_parse(RESNET("\"size\":8,\"width\":4,\"blocks\":[2,3],\"classes\":3,"
                                "\"head\":\"both\"")),
              2, 1, DR_F32, SEED);
    assert_int_equal(dr_net_kind(judge.net), DR_NET_JUDGE);
    assert_int_equal(dr_net_encoder(judge.net, 0, &enc, &err), 0);
    assert_int_equal(dr_net_kind(enc), DR_NET_ENCODER);
    pass_open(&body, enc, 2, 1, DR_F32, SEED + 1);
    memcpy(body.x, judge.x, (size_t)(2 * dr_net_input(enc)) * sizeof(real));
    assert_int_equal(dr_params_copy_named(body.params, body.w, judge.params, judge.w, &err), 0);
    pass_forward(&judge, false, ~0u);
    pass_forward(&body, false, ~0u);
    const int pooled = dr_net_output_find(judge.net, "pooled");
    const int last = dr_net_outputs(enc) - 1;
    const struct dr_net_shape s = dr_net_output(enc, last);
    for (int64_t b = 0; b < 2; b++)
        for (int64_t c = 0; c < s.c; c++) {
            double sum = 0;
            for (int64_t i = 0; i < s.h * s.w; i++)
                sum += (double)body.y[last][(b * s.h * s.w + i) * s.c + c];
            assert_true(fabs(sum / (double)(s.h * s.w) - (double)judge.y[pooled][b * s.c + c]) <
                        1e-5);
        }
    // Other sides take the same weights; other weights are refused by name.
    assert_int_equal(dr_net_encoder(judge.net, 12, &bigger, &err), 0);
    assert_int_equal(dr_net_output(bigger, 0).h, 12);
    assert_int_equal(
        dr_params_copy_named(dr_net_params(bigger), body.w, judge.params, judge.w, &err), 0);
    assert_int_equal(dr_params_copy_named(judge.params, judge.w, body.params, body.w, &err),
                     DR_EINVAL);
    assert_non_null(strstr(err.msg, "fc.weight"));
    dr_net_free(bigger);
    assert_int_equal(dr_net_encoder(judge.net, 5000, &bigger, &err), DR_ECONFIG);
    assert_null(bigger);
    struct dr_net *points =
        pass_parse("{\"arch\":\"mlp\",\"size\":1,\"channels\":2,\"classes\":1}");
    assert_int_equal(dr_net_encoder(points, 0, &bigger, &err), DR_EINVAL);
    assert_string_equal(err.field, "encoder");
    dr_net_free(points);
    pass_close(&judge);
    pass_close(&body);
}

// The first map of a network with these keys, of the same weights and pictures.
static void first_map(const char *more, real *y, int64_t n) {
    char json[300];
    struct pass p;
    snprintf(json, sizeof json,
             "{\"arch\":\"resnet\",\"size\":6,\"channels\":3,\"width\":4,\"blocks\":[1],"
             "\"norm\":\"batch\"%s}",
             more);
    pass_open(&p, pass_parse(json), 2, 1, DR_F32, SEED);
    pass_forward(&p, false, ~0u);
    assert_int_equal(n, 2 * pass_count(&p, 0));
    memcpy(y, p.y[0], (size_t)n * sizeof *y);
    pass_close(&p);
}

// `mean` and `std` of pixels in 0..1: ImageNet's are `imagenet`, and .5 leaves [-1,1] as it is.
static void pixels_are_normalised(void **state) {
    (void)state;
    enum { N = 2 * 6 * 6 * 4 };
    real plain[N], half[N], imagenet[N], same[N];
    first_map("", plain, N);
    first_map(",\"mean\":[0.5,0.5,0.5],\"std\":[0.5,0.5,0.5]", half, N);
    first_map(",\"imagenet\":true", imagenet, N);
    first_map(",\"mean\":[0.485,0.456,0.406],\"std\":[0.229,0.224,0.225]", same, N);
    assert_memory_equal(plain, half, sizeof plain);
    assert_memory_equal(imagenet, same, sizeof same);
    assert_memory_not_equal(plain, same, sizeof same);
}

// Weights of elsewhere for another side: all of the network, with the same parameters. One that was
// trained here keeps the side that it was trained on.
static void takes_another_side(void **state) {
    (void)state;
#define SIDE(n)                                                                                    \
    RESNET("\"size\":" n ",\"channels\":1,\"width\":4,\"blocks\":[1,1],\"norm\":\"batch\","        \
           "\"classes\":3,\"head\":\"classifier\"")
    struct dr_err err = {0};
    struct dr_snapshot *other, *none;
    struct pass p;
    pass_open(&p, pass_parse(SIDE("32")), 1, 1, DR_F32, SEED);
    const struct dr_snapshot s = {.net = p.net, .weights = p.w, .step = 4};
    struct dr_net *want = pass_parse(SIDE("28"));
#undef SIDE
    assert_int_equal(dr_snapshot_resized(&s, 28, &other, &err), 0);
    assert_true(dr_net_same(other->net, want));
    assert_int_equal(dr_net_input(other->net), 28 * 28);
    assert_memory_equal(other->weights, p.w, dr_net_bytes(p.net));
    assert_int_equal(other->step, 4);
    assert_int_equal(dr_snapshot_resized(&s, 5000, &none, &err), DR_ECONFIG);
    dr_snapshot_unref(other);
    dr_net_free(want);
    pass_close(&p);
    struct dr_net *own = pass_parse(RESNET("\"size\":32")), *bigger;
    assert_int_equal(dr_net_resized(own, 28, &bigger, &err), DR_EINVAL);
    assert_null(bigger);
    assert_string_equal(err.field, "size");
    dr_net_free(own);
}

// A safetensors file of p's weights; description NULL: none; more: another tensor, NULL: none.
static void write_weights(const char *path, const struct pass *p, const char *prefix,
                          const char *description, const char *more) {
    static const real zero[1];
    static const int64_t one = 1;
    char name[160];
    struct dr_err err = {0};
    struct dr_st_writer *out;
    int rc = dr_st_writer_new(&out, &err);
    for (int i = 0; i < p->params->n && !rc; i++) {
        const struct dr_param *q = &p->params->p[i];
        snprintf(name, sizeof name, "%s%s", prefix, q->name);
        rc = dr_st_add(out, name, DR_ST_F32, q->ndim, q->dim, p->w + q->offset, &err);
    }
    snprintf(name, sizeof name, "%s%s", prefix, more ? more : "");
    if (!rc && more)
        rc = dr_st_add(out, name, DR_ST_F32, 1, &one, zero, &err);
    if (!rc && description)
        rc = dr_st_add_meta(out, "driftd.config", description, &err);
    if (rc || dr_st_finish(out, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
}

// Names and shapes tell what a file of torchvision's holds, behind a wrapper's prefix as well; its
// own description may say otherwise.
static void reads_torchvision(void **state) {
    (void)state;
    static const char net[] =
        RESNET("\"size\":32,\"channels\":3,\"width\":3,\"blocks\":[1,2],\"stride\":2,\"kernel\":7,"
               "\"pool\":true,\"resize\":64,\"imagenet\":true,\"norm\":\"batch\",\"classes\":5,"
               "\"head\":\"classifier\"");
    char path[] = "/tmp/driftd-resnet-XXXXXX";
    struct dr_err err = {0};
    struct dr_snapshot *s;
    struct pass p;
    pass_open(&p, pass_parse(net), 1, 1, DR_F32, SEED);
    close(mkstemp(path));
    for (int i = 0; i < 2; i++) {
        write_weights(path, &p, i ? "module." : "", NULL, "bn1.num_batches_tracked");
        if (dr_snapshot_load(path, NULL, &s, &err))
            fail_msg("%s", err.msg);
        assert_true(dr_net_same(s->net, p.net));
        assert_memory_equal(s->weights, p.w, dr_net_bytes(p.net));
        dr_snapshot_unref(s);
    }
    static const char other[] =
        RESNET("\"size\":16,\"channels\":3,\"width\":3,\"blocks\":[1,2],\"kernel\":7,"
               "\"norm\":\"batch\",\"classes\":5,\"head\":\"classifier\"");
    write_weights(path, &p, "", other, NULL);
    if (dr_snapshot_load(path, NULL, &s, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(dr_resnet_config(s->net)->resize, 0);
    dr_snapshot_unref(s);
    write_weights(path, &p, "", NULL, "layer1.0.conv3.weight");
    assert_int_equal(dr_snapshot_load(path, NULL, &s, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "bottleneck"));
    write_weights(path, &p, "", NULL, "layer1.0.extra");
    assert_int_equal(dr_snapshot_load(path, NULL, &s, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "layer1.0.extra"));
    assert_null(s);
    p.w[p.params->p[dr_params_find(p.params, "layer2.1.bn2.running_var")].offset + 2] = -1;
    write_weights(path, &p, "", NULL, NULL);
    assert_int_equal(dr_snapshot_load(path, NULL, &s, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "\"layer2.1.bn2.running_var\" holds -1 at 2"));
    pass_close(&p);
    unlink(path);
}

static void goes_through_a_checkpoint(void **state) {
    (void)state;
    char path[] = "/tmp/driftd-resnet-XXXXXX";
    struct dr_err err = {0};
    struct pass p;
    struct dr_snapshot *s;
    pass_open(&p, pass_parse(views[3]), 1, 1, DR_F32, SEED);
    close(mkstemp(path));
    write_weights(path, &p, "", dr_net_description(p.net), NULL);
    if (dr_snapshot_load(path, NULL, &s, &err))
        fail_msg("%s", err.msg);
    assert_true(dr_net_same(s->net, p.net));
    assert_memory_equal(s->weights, p.w, dr_net_bytes(p.net));
    dr_snapshot_unref(s);
    pass_close(&p);
    unlink(path);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
#ifdef DR_DOUBLE
        cmocka_unit_test(gradients),
        cmocka_unit_test(gradients_of_some_outputs),
#else
        cmocka_unit_test(bytes_do_not_depend_on_the_batch),
        cmocka_unit_test(bf16_is_near_fp32),
        cmocka_unit_test(is_described),
        cmocka_unit_test(refuses),
        cmocka_unit_test(pixels_are_normalised),
        cmocka_unit_test(takes_another_side),
        cmocka_unit_test(holds_its_encoder),
        cmocka_unit_test(goes_through_a_checkpoint),
        cmocka_unit_test(reads_torchvision),
#endif
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests_name("resnets", tests, NULL, NULL);
}
