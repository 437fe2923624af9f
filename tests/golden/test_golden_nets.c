// Residual encoders against golden vectors of an independent double-precision program
// (make_golden_nets.py): weights as a file of their own, read as any checkpoint is, and the outputs
// of the network and of the encoder inside it. `golden-nets FOLDER NAME...` compares other files.
#include "engine/drift.h"
#include "tests/nn/pass.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *folder;
#ifdef DR_DOUBLE
#define LIMIT 1e-20
#else
#define LIMIT 1e-10
#endif

static struct dr_st_file *open_vectors(const char *name) {
    char path[1024];
    struct dr_err err = {0};
    struct dr_st_file *f;
    snprintf(path, sizeof path, "%s/%s-vectors.safetensors", folder, name);
    if (dr_st_open(path, &f, &err))
        fail_msg("%s", err.msg);
    return f;
}

static struct dr_snapshot *load(const char *name) {
    char path[1024];
    struct dr_err err = {0};
    struct dr_snapshot *s;
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, name);
    if (dr_snapshot_load(path, NULL, &s, &err))
        fail_msg("%s", err.msg);
    return s;
}

static double nmse(const real *got, const struct dr_st_tensor *want) {
    double err = 0, ref = 0;
    for (int64_t i = 0; i < want->count; i++) {
        double v; // the file does not promise alignment
        memcpy(&v, (const char *)want->data + 8 * i, 8);
        err += ((double)got[i] - v) * ((double)got[i] - v);
        ref += v * v;
    }
    return err / ref;
}

// Takes net, whose parameters are among the snapshot's. Returns how many outputs were compared.
static int compare(struct dr_net *net, const struct dr_snapshot *s, const struct dr_st_file *f) {
    struct pass p;
    struct dr_err err = {0};
    int seen = 0;
    const struct dr_st_tensor *x = dr_st_find(f, "in.x");
    assert_non_null(x);
    pass_open(&p, net, x->dim[0], 1, DR_F32, 1);
    if (dr_params_copy_named(p.params, p.w, dr_net_params(s->net), s->weights, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(x->count, p.b * dr_net_input(net));
    for (int64_t i = 0; i < x->count; i++) {
        float v;
        memcpy(&v, (const char *)x->data + 4 * i, 4);
        p.x[i] = v;
    }
    pass_forward(&p, true, ~0u);
    for (int i = 0; i < dr_net_outputs(net); i++) {
        char name[64];
        snprintf(name, sizeof name, "out.%s", dr_net_output_name(net, i));
        const struct dr_st_tensor *want = dr_st_find(f, name);
        if (!want)
            continue;
        assert_int_equal(want->count, p.b * pass_count(&p, i));
        const double bad = nmse(p.y[i], want);
        print_message("  %-16s NMSE %.1e\n", dr_net_output_name(net, i), bad);
        if (!(bad <= LIMIT))
            fail_msg("%s: NMSE %g", name, bad);
        seen++;
    }
    pass_close(&p);
    return seen;
}

static void agrees(void **state) {
    struct dr_err err = {0};
    struct dr_st_file *f = open_vectors(*state);
    struct dr_snapshot *s = load(*state);
    struct dr_net *whole = pass_parse(dr_net_description(s->net)), *encoder;
    if (dr_net_encoder(s->net, 0, &encoder, &err))
        fail_msg("%s", err.msg);
    int seen = compare(whole, s, f);
    seen += compare(encoder, s, f);
    assert_int_equal(seen, dr_st_count(f) - 1); // all but in.x
    dr_snapshot_unref(s);
    dr_st_close(f);
}

int main(int argc, char **argv) {
    static const char *const own[] = {"resnet", "resnet-strided", "resnet-torch"};
    struct CMUnitTest tests[16];
    const int n = argc > 2 ? argc - 2 : (int)DR_COUNT(own);
    folder = argc > 1 ? argv[1] : ".";
    for (int i = 0; i < n && i < (int)DR_COUNT(tests); i++) {
        const char *name = argc > 2 ? argv[2 + i] : own[i];
        tests[i] =
            (struct CMUnitTest){.name = name, .test_func = agrees, .initial_state = (void *)name};
    }
    return _cmocka_run_group_tests("golden nets", tests, (size_t)DR_MIN(n, 16), NULL, NULL);
}
