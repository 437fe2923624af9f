// The U-Net generator: gradients (double build); bytes, bf16, description and refusals (float
// build).
#include "engine/core/rng.h"
#include "engine/drift.h"
#include "tests/nn/pass.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEED 6
#define UNET(rest) "{\"arch\":\"unet\",\"codebook\":4," rest "}"
static const char *const nets[] = {
    // odd sides, attention below the top, every shortcut
    UNET("\"size\":7,\"channels\":2,\"classes\":3,\"dim\":4,\"depth\":1,\"heads\":2,"
         "\"widths\":[1,1.5,2],\"attention\":4,\"style_tokens\":2"),
    // latent noise, attention everywhere, no styles
    UNET("\"size\":4,\"channels\":3,\"classes\":1,\"dim\":4,\"depth\":2,\"heads\":1,"
         "\"widths\":[1,1],\"attention\":4,\"style_tokens\":0,\"noise\":\"latent\","
         "\"latent_dim\":5"),
    // a single level without attention
    UNET("\"size\":5,\"channels\":1,\"classes\":2,\"dim\":6,\"depth\":1,\"widths\":[1],"
         "\"attention\":0,\"style_tokens\":1"),
};

#ifdef DR_DOUBLE
static void gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < DR_COUNT(nets); i++) {
        struct pass p;
        pass_open(&p, pass_parse(nets[i]), 2, 1, DR_F32, SEED);
        pass_check_gradients(&p, ~0u);
        pass_close(&p);
    }
}
#else
static void bytes_do_not_depend_on_the_batch(void **state) {
    (void)state;
    static const char cifar[] =
        UNET("\"size\":32,\"channels\":3,\"classes\":10,\"dim\":32,\"depth\":1,\"heads\":4,"
             "\"widths\":[1,2,2],\"attention\":8");
    for (size_t i = 0; i <= DR_COUNT(nets); i++) {
        pass_check_bytes(i < DR_COUNT(nets) ? nets[i] : cifar, DR_F32);
        pass_check_bytes(i < DR_COUNT(nets) ? nets[i] : cifar, DR_BF16);
    }
}

static void bf16_is_near_fp32(void **state) {
    (void)state;
    struct pass p[2];
    for (int i = 0; i < 2; i++) {
        pass_open(&p[i],
                  pass_parse(UNET("\"size\":16,\"channels\":3,\"classes\":3,\"dim\":16,\"depth\":1,"
                                  "\"heads\":2,\"widths\":[1,2],\"attention\":8")),
                  4, 1, i ? DR_BF16 : DR_F32, SEED);
        pass_forward(&p[i], true, ~0u);
        pass_backward(&p[i], false, ~0u);
    }
    const double y = pass_distance(p[1].y[0], p[0].y[0], 4 * pass_count(&p[0], 0));
    const double g = pass_distance(p[1].g, p[0].g, p[0].params->total);
    if (!(y < 0.03 && g < 0.05))
        fail_msg("images are %g away, gradients of the weights %g", y, g);
    pass_close(&p[0]);
    pass_close(&p[1]);
}

// At the start the blocks add nothing, the modulation neither scales nor shifts, and the output has
// the size that model.out_std gives it.
static void starts_as_it_should(void **state) {
    (void)state;
    struct pass p;
    pass_open(
        &p,
        pass_parse(UNET("\"size\":16,\"channels\":3,\"classes\":3,\"dim\":32,\"depth\":1,"
                        "\"widths\":[1,2],\"attention\":8,\"out_std\":0.05,\"out_bias\":-0.5")),
        2, 1, DR_F32, SEED);
    dr_params_init(p.params, 1, p.w);
    pass_forward(&p, false, ~0u);
    double sum = 0, square = 0;
    const int64_t n = 2 * pass_count(&p, 0);
    for (int64_t i = 0; i < n; i++) {
        sum += (double)p.y[0][i];
        square += ((double)p.y[0][i] + 0.5) * ((double)p.y[0][i] + 0.5);
    }
    // SiLU of a standard normal has mean square 0.356; 288 inputs
    const double want = 0.05 * sqrt(0.356 * 288), rms = sqrt(square / (double)n);
    if (!(rms > 0.6 * want && rms < 1.6 * want && sum < 0))
        fail_msg("the first images are %g around the bias; expected about %g", rms, want);
    pass_close(&p);
}

static void is_described(void **state) {
    (void)state;
    for (size_t i = 0; i < DR_COUNT(nets); i++) {
        struct dr_net *a = pass_parse(nets[i]), *b = pass_parse(dr_net_description(a));
        assert_true(dr_net_same(a, b));
        assert_true(dr_model_config_equal(dr_gen_config(a), dr_gen_config(b)));
        assert_int_equal(dr_net_kind(a), DR_NET_GENERATOR);
        dr_net_free(b);
        b = pass_parse(nets[(i + 1) % DR_COUNT(nets)]);
        assert_false(dr_model_config_equal(dr_gen_config(a), dr_gen_config(b)));
        dr_net_free(a);
        dr_net_free(b);
    }
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *json, *field;
    } bad[] = {
        {"{\"data\":{\"set\":\"digits\"},\"model\":{\"arch\":\"unet\",\"depth\":0}}",
         "model.depth"},
        {"{\"data\":{\"set\":\"digits\"},\"model\":{\"arch\":\"unet\",\"depth\":17}}",
         "model.depth"},
        {"{\"data\":{\"set\":\"digits\"},\"model\":{\"arch\":\"unet\",\"depth\":1,"
         "\"widths\":[]}}",
         "model.widths"},
        {"{\"data\":{\"set\":\"digits\"},\"model\":{\"arch\":\"unet\",\"depth\":1,"
         "\"widths\":[1,1,1,1,1,1,1]}}",
         "model.widths"},
        {"{\"data\":{\"set\":\"digits\"},\"model\":{\"arch\":\"unet\",\"depth\":1,\"dim\":32,"
         "\"heads\":3,\"widths\":[1,2,2]}}",
         "model.heads"},
        {"{\"data\":{\"set\":\"toy-swiss-roll\",\"classes\":1},\"model\":{\"arch\":\"unet\"}}",
         "model.arch"},
    };
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        struct dr_err err = {0};
        struct dr_config c;
        assert_int_equal(dr_config_parse(bad[i].json, strlen(bad[i].json), "here", &c, &err),
                         DR_ECONFIG);
        assert_string_equal(err.field, bad[i].field);
    }
    struct dr_err err = {0};
    struct dr_net *net;
    static const char small[] = UNET("\"size\":2,\"channels\":1,\"classes\":1,\"depth\":1,"
                                     "\"dim\":8,\"heads\":1,\"widths\":[1,1,1]");
    assert_int_equal(dr_net_parse(small, strlen(small), "here", &net, &err), DR_ECONFIG);
    assert_string_equal(err.field, "model.widths");
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
#ifdef DR_DOUBLE
        cmocka_unit_test(gradients),
#else
        cmocka_unit_test(bytes_do_not_depend_on_the_batch),
        cmocka_unit_test(bf16_is_near_fp32),
        cmocka_unit_test(starts_as_it_should),
        cmocka_unit_test(is_described),
        cmocka_unit_test(refuses),
#endif
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests_name("U-Net", tests, NULL, NULL);
}
