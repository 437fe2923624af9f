// Weights made elsewhere: PyTorch's state dicts as people save them are served under any of the
// usual names, with or without a description of the model, in any float type; what cannot be served
// is refused with the tensor's name.
#include "tests/train/util.h"

#include "engine/io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A small network of the reference's kind: four patches of 4x4, one register.
static struct dr_model_config model(void) {
    struct dr_config c;
    dr_config_defaults(&c);
    c.model.size = 8;
    c.model.channels = 2;
    c.model.classes = 3;
    c.model.dim = 8;
    c.model.depth = 2;
    c.model.heads = 2;
    c.model.registers = 1;
    c.model.codebook = 5;
    return c.model;
}

struct export {
    const char *prefix, *second; // second: prefix of a second set, all zeros; NULL: none
    const char *without;         // this parameter is left out
    const char *extra;           // name of one more tensor
    const char *spoil;           // this parameter gets another shape
    bool config, rope, nan;
    enum dr_st_dtype type;
    bool bare;              // no registers: their parameter has no values
    int64_t dim, hidden;    // of the network; 0: those of model()
    const char *buffers;    // prefix of the rotary table; NULL: that of the weights
    const char *other_rope; // one more table of another length
};

static struct dr_model_config model_of(const struct export *e) {
    struct dr_model_config m = model();
    m.registers = e->bare ? 0 : m.registers;
    m.dim = e->dim ? e->dim : m.dim;
    if (e->hidden) // the smallest ratio that comes to it
        for (m.mlp_ratio = (double)e->hidden / (double)m.dim;
             (int64_t)((double)m.dim * m.mlp_ratio) < e->hidden;)
            m.mlp_ratio = nextafter(m.mlp_ratio, INFINITY);
    return m;
}

static void *converted(const real *x, int64_t n, enum dr_st_dtype type) {
    uint8_t *out = malloc((size_t)n * 8);
    assert_non_null(out);
    for (int64_t i = 0; i < n; i++) {
        float v = (float)x[i];
        double d = x[i];
        uint32_t u;
        memcpy(&u, &v, 4);
        // Weights are multiples of 1/64 below 1: exact in every type.
        uint32_t bits = v == 0 ? 0 : (u >> 16 & 0x8000) | (((u >> 13) - (112u << 10)) & 0x7fff);
        uint16_t half = (uint16_t)bits;
        uint16_t bf16 = (uint16_t)(u >> 16);
        if (type == DR_ST_F64)
            memcpy(out + 8 * i, &d, 8);
        else if (type == DR_ST_F16)
            memcpy(out + 2 * i, &half, 2);
        else if (type == DR_ST_BF16)
            memcpy(out + 2 * i, &bf16, 2);
        else
            memcpy(out + 4 * i, &v, 4);
    }
    return out;
}

enum { TENSORS = 128 };

// What a state dict holds beside the weights.
static void add_rest(struct dr_st_writer *out, const struct export *e,
                     const struct dr_model_config *m) {
    struct dr_err err = {0};
    static float table[4 + 1 + 64][4];
    char name[128];
    snprintf(name, sizeof name, "%srope.cos_cached", e->buffers ? e->buffers : e->prefix);
    const int64_t rope[] = {1, 1, 4 + m->registers + 64, 4}, other[] = {1, 1, 3, 4};
    if (e->rope && dr_st_add(out, name, DR_ST_F32, 4, rope, table, &err))
        fail_msg("%s", err.msg);
    if (e->other_rope && dr_st_add(out, e->other_rope, DR_ST_F32, 4, other, table, &err))
        fail_msg("%s", err.msg);
    snprintf(name, sizeof name, "%sregister_tokens", e->prefix);
    if (e->bare && dr_st_add(out, name, DR_ST_F32, 3, (int64_t[]){1, 0, m->dim}, table, &err))
        fail_msg("%s", err.msg);
    if (e->extra && dr_st_add(out, e->extra, DR_ST_F32, 1, (int64_t[]){4}, table, &err))
        fail_msg("%s", err.msg);
}

// Writes the file; *w: what its weights are, in the layout of the model.
static const char *write_file(const struct export *e, real **w) {
    struct dr_model_config m = model_of(e);
    struct dr_net *g;
    struct dr_st_writer *out;
    struct dr_err err = {0};
    void *keep[TENSORS];
    int kept = 0;
    if (dr_gen_create(&m, &g, &err) || dr_st_writer_new(&out, &err))
        fail_msg("%s", err.msg);
    const struct dr_params *ps = dr_net_params(g);
    real *zero = calloc((size_t)ps->total, sizeof *zero);
    *w = calloc((size_t)ps->total, sizeof **w);
    assert_true(zero && *w && ps->n < TENSORS / 2);
    for (int i = 0; i < ps->n; i++)
        for (int64_t j = 0; j < ps->p[i].count; j++)
            (*w)[ps->p[i].offset + j] = (real)((double)((i * 7 + j * 5) % 101 - 50) / 64);
    for (int set = 0; set < (e->second ? 2 : 1); set++)
        for (int i = 0; i < ps->n; i++) {
            const struct dr_param *p = &ps->p[i];
            char name[128];
            int64_t dim[5] = {0};
            snprintf(name, sizeof name, "%s%s", set ? e->second : e->prefix, p->name);
            if (!set && e->without && !strcmp(p->name, e->without))
                continue;
            real *values = (set ? zero : *w) + p->offset;
            if (!set && i == 4 && e->nan)
                values[0] = NAN;
            keep[kept] = converted(values, p->count, e->type);
            memcpy(dim, p->dim, sizeof p->dim);
            int nd = p->ndim;
            if (e->spoil && !strcmp(p->name, e->spoil))
                dim[nd++] = 1;
            if (dr_st_add(out, name, e->type, nd, dim, keep[kept++], &err))
                fail_msg("%s", err.msg);
        }
    add_rest(out, e, &m);
    char *json = dr_model_config_to_json(&m);
    if (e->config && dr_st_add_meta(out, "driftd.config", json, &err))
        fail_msg("%s", err.msg);
    free(json);
    const char *path = scratch_path("foreign.safetensors");
    if (dr_st_finish(out, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    while (kept)
        free(keep[--kept]);
    free(zero);
    dr_net_free(g);
    return path;
}

static void served(const struct export *e, bool named) {
    struct dr_model_config m = model_of(e);
    struct dr_snapshot *s;
    struct dr_err err = {0};
    real *w;
    const char *path = write_file(e, &w);
    char *json = dr_model_config_to_json(&m);
    if (dr_snapshot_load(path, named ? json : NULL, &s, &err))
        fail_msg("prefix \"%s\": %s", e->prefix, err.msg);
    const struct dr_model_config *got = dr_gen_config(s->net);
    assert_int_equal(got->size, 8);
    assert_int_equal(got->style_tokens, 32);
    assert_int_equal(got->classes, 3);
    assert_int_equal(got->depth, 2);
    assert_true(dr_model_config_equal(got, &m));
    assert_memory_equal(s->weights, w, dr_net_bytes(s->net));
    dr_snapshot_unref(s);
    free(json);
    free(w);
    unlink(path);
}

static void usual_exports_are_served(void **state) {
    (void)state;
    static const char *const prefixes[] = {"", "module.", "_orig_mod.", "model.", "ema.shadow."};
    for (size_t i = 0; i < DR_COUNT(prefixes); i++) {
        served(&(struct export){.prefix = prefixes[i], .config = true}, false);
        served(&(struct export){.prefix = prefixes[i]}, true);
        served(&(struct export){.prefix = prefixes[i], .rope = true}, false);
    }
    served(&(struct export){.prefix = "ema.", .second = "model.", .rope = true}, false);
    served(&(struct export){.prefix = "ema.", .second = "", .rope = true}, false);
    served(&(struct export){.prefix = "ema_model.", .second = ""}, true);
    served(&(struct export){.prefix = "", .second = "ema1/", .config = true},
           false); // driftd's own
    served(&(struct export){.prefix = "model.", .extra = "step", .rope = true}, false);
}

// The reference's parameter of registers is there without any, and then has no values.
static void networks_without_registers_are_served(void **state) {
    (void)state;
    served(&(struct export){.prefix = "", .bare = true, .rope = true}, false);
    served(&(struct export){.prefix = "", .bare = true}, true);
    served(&(struct export){.prefix = "", .bare = true, .config = true}, false);
}

// 28 times 61 / 28 comes to less than 61.
static void every_hidden_width_is_found(void **state) {
    (void)state;
    for (int64_t hidden = 60; hidden < 63; hidden++)
        served(&(struct export){.prefix = "", .rope = true, .dim = 28, .hidden = hidden}, false);
}

// An average of parameters only, beside the weights of the last step and their buffers.
static void buffers_lie_beside_another_set(void **state) {
    (void)state;
    struct export e = {
        .prefix = "ema.shadow.", .second = "model.", .rope = true, .buffers = "model."};
    served(&e, false);
    e.buffers = "";
    served(&e, false);
}

static void every_float_type_is_converted(void **state) {
    (void)state;
    static const enum dr_st_dtype type[] = {DR_ST_F32, DR_ST_F64, DR_ST_F16, DR_ST_BF16};
    for (size_t i = 0; i < DR_COUNT(type); i++)
        served(&(struct export){.prefix = "", .type = type[i], .rope = true}, false);
}

static void refused(const struct export *e, bool named, int code, const char *word) {
    struct dr_model_config m = model_of(e);
    struct dr_snapshot *s = (void *)&m;
    struct dr_err err = {0};
    real *w;
    const char *path = write_file(e, &w);
    char *json = dr_model_config_to_json(&m);
    assert_int_equal(dr_snapshot_load(path, named ? json : NULL, &s, &err), code);
    free(json);
    assert_null(s);
    if (!strstr(err.msg, word) || !strstr(err.msg, "foreign.safetensors"))
        fail_msg("\"%s\" lacks \"%s\"", err.msg, word);
    free(w);
    unlink(path);
}

static void others_are_refused_by_name(void **state) {
    (void)state;
    static const char norm[] = "blocks.1.norm2.weight";
    for (int named = 0; named < 2; named++) {
        const bool rope = !named;
        refused(&(struct export){.prefix = "", .rope = rope, .without = norm}, named, DR_ENOENT,
                "'blocks.1.norm2.weight' is missing");
        refused(&(struct export){.prefix = "module.", .rope = rope, .without = norm}, named,
                DR_ENOENT, "'module.blocks.1.norm2.weight' is missing");
        refused(&(struct export){.prefix = "", .rope = rope, .spoil = norm}, named, DR_EFORMAT,
                "shape [8,1], expected [8]");
        refused(&(struct export){.prefix = "", .rope = rope, .extra = "blocks.2.norm1.bias"}, named,
                DR_EFORMAT, "\"blocks.2.norm1.bias\" is not part");
        refused(&(struct export){.prefix = "", .rope = rope, .nan = true}, named, DR_ENONFINITE,
                "non-finite");
        refused(&(struct export){.prefix = "", .rope = rope, .type = DR_ST_I32}, named, DR_EFORMAT,
                "is not of dtype F32");
        refused(&(struct export){.prefix = "a.", .second = "b.", .rope = rope}, named, DR_EFORMAT,
                "\"a.\" and \"b.\"");
    }
    // Without a description and without what tells it: which tensor, and what to do.
    refused(&(struct export){.prefix = ""}, false, DR_EFORMAT, "name a config");
    refused(&(struct export){.prefix = "", .rope = true, .spoil = "blocks.0.mlp.w1.weight"}, false,
            DR_EFORMAT, "\"blocks.0.mlp.w1.weight\" is missing");
    refused(&(struct export){.prefix = "", .without = "alpha_embed.mlp.0.weight"}, true, DR_ENOENT,
            "'alpha_embed.mlp.0.weight' is missing");
    // Two tables that say different sizes, neither of them the average's own.
    refused(&(struct export){.prefix = "ema.",
                             .second = "model.",
                             .rope = true,
                             .buffers = "model.",
                             .other_rope = "old.rope.cos_cached"},
            false, DR_EFORMAT, "\"rope.cos_cached\" is missing");
}

// A description of 700 GB in a file of a few kilobytes: nothing of the kind is allocated.
static void promises_cost_nothing(void **state) {
    (void)state;
    struct dr_model_config m = model();
    struct dr_snapshot *s;
    struct dr_err err = {0};
    real *w;
    const char *path = write_file(&(struct export){.prefix = ""}, &w);
    m.dim = 8192;
    m.depth = 128;
    char *json = dr_model_config_to_json(&m);
    assert_int_equal(dr_snapshot_load(path, json, &s, &err), DR_EFORMAT);
    free(json);
    assert_non_null(strstr(err.msg, "expected [8192"));
    free(w);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usual_exports_are_served),
        cmocka_unit_test(networks_without_registers_are_served),
        cmocka_unit_test(every_hidden_width_is_found),
        cmocka_unit_test(buffers_lie_beside_another_set),
        cmocka_unit_test(every_float_type_is_converted),
        cmocka_unit_test(others_are_refused_by_name),
        cmocka_unit_test(promises_cost_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
