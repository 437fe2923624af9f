// Exports: the wire format, what the files hold, what is refused, and one set of files per recipe
// for other programs to compare with: NAME.onnx, NAME.safetensors and NAME.vectors (safetensors:
// inputs of 16 samples and the images that the engine makes of them). usage:
//   test_export FOLDER [RECIPE.json...]    FOLDER "": a temporary one, removed at the end
#include "engine/core/rng.h"
#include "engine/drift.h"
#include "engine/nn/params.h"
#include "tests/nn/rig.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { SAMPLES = 16 };
static const char *folder;
static char **recipe;
static int recipes;

static void must(int rc, const struct dr_err *err) {
    if (rc)
        fail_msg("%s", err->msg);
}

static const char *at(const char *name, const char *tail) {
    static char path[4][1024];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s%s", folder, name, tail);
    return p;
}

// ---- the wire format ----

static void proto_bytes(void **state) {
    struct dr_proto b = {0}, inner = {0};
    (void)state;
    dr_proto_int(&b, 1, 0);
    dr_proto_int(&b, 1, 300);
    dr_proto_int(&b, 16, -2);
    dr_proto_text(&b, 2, "ab");
    dr_proto_float(&b, 3, 1);
    dr_proto_double(&b, 4, -2);
    dr_proto_int(&inner, 1, 127);
    dr_proto_message(&b, 5, &inner);
    assert_null(inner.p);
    static const unsigned char want[] = {0x08, 0x00, 0x08, 0xac, 0x02, 0x80, 0x01, 0xfe, 0xff, 0xff,
                                         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x12, 0x02, 'a',
                                         'b',  0x1d, 0,    0,    0x80, 0x3f, 0x21, 0,    0,    0,
                                         0,    0,    0,    0,    0xc0, 0x2a, 0x02, 0x08, 0x7f};
    assert_false(b.failed);
    assert_int_equal(b.n, sizeof want);
    assert_memory_equal(b.p, want, sizeof want);
    dr_proto_free(&b);
}

static void proto_failure_sticks(void **state) {
    struct dr_proto b = {0}, inner = {.failed = true};
    (void)state;
    assert_null(dr_proto_space(&b, SIZE_MAX / 2));
    assert_true(b.failed);
    dr_proto_int(&b, 1, 1);
    assert_int_equal(b.n, 0);
    struct dr_proto outer = {0};
    dr_proto_message(&outer, 1, &inner);
    assert_true(outer.failed);
    dr_proto_free(&outer);
}

// ---- models ----

static struct dr_snapshot *snapshot(const struct dr_model_config *m, uint64_t seed) {
    struct dr_net *net;
    struct dr_err err = {0};
    must(dr_gen_create(m, &net, &err), &err);
    struct dr_snapshot *s = dr_snapshot_new(net, rig_random_weights(dr_net_params(net), seed), 42);
    assert_non_null(s);
    return s;
}

static void export_to(const struct dr_snapshot *s, enum dr_export_format f, const char *path) {
    struct dr_err err = {0};
    const struct dr_export x = {.snap = s, .format = f, .weights = "ema"};
    must(dr_export(&x, path, &err), &err);
}

// Inputs of sample i as the sampler draws them, its images beside them.
static void write_vectors(struct dr_snapshot *s, const char *path) {
    const struct dr_model_config *m = dr_gen_config(s->net);
    const int64_t noise = dr_gen_noise_count(s->net), style = dr_gen_style_count(s->net),
                  image = dr_gen_image_count(s->net);
    struct dr_err err = {0};
    struct dr_backend *be;
    struct dr_sampler *sampler;
    struct dr_st_writer *w;
    struct dr_sample row[SAMPLES];
    int32_t cls[SAMPLES];
    float *z = calloc((size_t)(SAMPLES * noise), sizeof *z), alpha[SAMPLES];
    float *x = calloc((size_t)(SAMPLES * image), sizeof *x);
    int32_t *index = calloc((size_t)(SAMPLES * style + 1), sizeof *index);
    assert_true(z && x && index);
    for (int i = 0; i < SAMPLES; i++) {
        cls[i] = i % (int)m->classes;
        if (m->null_class && i == SAMPLES - 1)
            cls[i] = (int)m->classes;
        alpha[i] = 1 + (float)i / 5;
        row[i] = (struct dr_sample){.seed = 7,
                                    .index = (uint64_t)i,
                                    .cls = cls[i] == m->classes ? -1 : cls[i],
                                    .alpha = alpha[i]};
        dr_normals(7, DR_STREAM_NOISE, (uint64_t)i, z + i * noise, noise);
        dr_indices(7, DR_STREAM_STYLE, (uint64_t)i, (uint32_t)m->codebook, index + i * style,
                   style);
    }
    must(dr_backend_open("cpu", 1, &be, &err), &err);
    dr_backend_enter(be);
    must(dr_sampler_create(be, DR_FP32, SAMPLES, &sampler, &err), &err);
    must(dr_sampler_run(sampler, s, row, SAMPLES, x, &err), &err);
    must(dr_st_writer_new(&w, &err), &err);
    const bool vector = m->noise == DR_NOISE_LATENT || m->kind == DR_KIND_POINTS;
    const int64_t picture[4] = {SAMPLES, m->channels, m->size, m->size};
    const int64_t flat[2] = {SAMPLES, noise}, draws[2] = {SAMPLES, style};
    const int64_t points[2] = {SAMPLES, image};
    dr_st_add(w, "in.noise", DR_ST_F32, vector ? 2 : 4, vector ? flat : picture, z, &err);
    dr_st_add(w, "in.class", DR_ST_I32, 1, picture, cls, &err);
    dr_st_add(w, "in.alpha", DR_ST_F32, 1, picture, alpha, &err);
    if (style)
        dr_st_add(w, "in.style", DR_ST_I32, 2, draws, index, &err);
    const bool flat_image = m->kind == DR_KIND_POINTS;
    dr_st_add(w, "image", DR_ST_F32, flat_image ? 2 : 4, flat_image ? points : picture, x, &err);
    must(dr_st_finish(w, path, NULL, NULL, &err), &err);
    dr_sampler_free(sampler);
    dr_backend_free(be);
    free(z);
    free(x);
    free(index);
}

static void write_case(const char *name, const struct dr_model_config *m) {
    struct dr_snapshot *s = snapshot(m, 11);
    export_to(s, DR_EXPORT_ONNX, at(name, ".onnx"));
    export_to(s, DR_EXPORT_SAFETENSORS, at(name, ".safetensors"));
    write_vectors(s, at(name, ".vectors"));
    dr_snapshot_unref(s);
}

// Every recipe of a generator with all of its options, narrower and less deep where that is slow.
static void recipes_in_files(void **state) {
    (void)state;
    for (int i = 0; i < recipes; i++) {
        struct dr_config c;
        struct dr_err err = {0};
        char name[128];
        must(dr_config_load(recipe[i], &c, &err), &err);
        if (c.kind != DR_RECIPE_TRAIN)
            continue;
        if (c.model.dim > 128) {
            c.model.dim = c.model.heads * 16;
            c.model.depth = DR_MIN(c.model.depth, 2);
        }
        const char *slash = strrchr(recipe[i], '/'), *base = slash ? slash + 1 : recipe[i];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(base, "."), base);
        write_case(name, &c.model);
    }
}

// What no recipe has yet.
static void options_in_files(void **state) {
    static const char *const model[][2] = {
        {"unet", "{\"arch\":\"unet\",\"dim\":8,\"depth\":2,\"heads\":2,\"widths\":[1,2,2],"
                 "\"size\":18,\"channels\":3,\"classes\":4,\"attention\":9}"},
        {"unet-latent",
         "{\"arch\":\"unet\",\"dim\":6,\"depth\":1,\"heads\":1,\"widths\":[1,1.5],\"size\":7,"
         "\"channels\":1,\"noise\":\"latent\",\"temperature\":1.2,\"style_tokens\":0,"
         "\"attention\":4}"},
        {"light", "{\"arch\":\"lightningdit\",\"dim\":24,\"depth\":2,\"heads\":2,\"patch\":2,"
                  "\"size\":8,\"channels\":4,\"registers\":3,\"style_tokens\":5,\"codebook\":7}"},
        {"light-plain",
         "{\"arch\":\"lightningdit\",\"dim\":8,\"depth\":1,\"heads\":1,\"patch\":4,\"size\":8,"
         "\"channels\":1,\"registers\":0,\"mlp\":\"gelu\",\"rope\":false,\"qk_norm\":false,"
         "\"noise\":\"latent\",\"head\":\"conv\",\"null_class\":false,\"style_tokens\":0}"},
        {"positions", "{\"arch\":\"driftdit\",\"dim\":16,\"depth\":1,\"heads\":2,\"patch\":4,"
                      "\"size\":8,\"channels\":1,\"registers\":2,\"pos_embed\":true,"
                      "\"qk_norm\":false,\"style_tokens\":1,\"temperature\":0.7}"},
    };
    (void)state;
    for (size_t i = 0; i < DR_COUNT(model); i++) {
        struct dr_model_config m;
        struct dr_err err = {0};
        must(dr_model_config_parse(model[i][1], strlen(model[i][1]), model[i][0], &m, &err), &err);
        write_case(model[i][0], &m);
    }
}

// The served weights and nothing else, under the network's names; read back they are the same.
static void weights_alone(void **state) {
    static const char small[] = "{\"dim\":8,\"depth\":1,\"heads\":2,\"size\":8,\"channels\":1}";
    struct dr_model_config m;
    assert_int_equal(dr_model_config_parse(small, strlen(small), NULL, &m, NULL), 0);
    struct dr_snapshot *s = snapshot(&m, 3), *again;
    const struct dr_params *ps = dr_net_params(s->net);
    struct dr_st_file *f;
    struct dr_err err = {0};
    (void)state;
    export_to(s, DR_EXPORT_SAFETENSORS, at("alone", ".safetensors"));
    must(dr_st_open(at("alone", ".safetensors"), &f, &err), &err);
    assert_int_equal(dr_st_count(f), ps->n);
    assert_string_equal(dr_st_meta(f, "driftd.config"), dr_net_description(s->net));
    assert_string_equal(dr_st_meta(f, "driftd.step"), "42");
    assert_string_equal(dr_st_meta(f, "driftd.weights"), "ema");
    assert_null(dr_st_meta(f, "driftd.classes"));
    dr_st_close(f);
    must(dr_snapshot_load(at("alone", ".safetensors"), NULL, &again, &err), &err);
    assert_memory_equal(again->weights, s->weights, dr_net_bytes(s->net));
    assert_int_equal(again->step, 42);
    dr_snapshot_unref(again);
    assert_int_equal(dr_snapshot_load_raw(at("alone", ".safetensors"), NULL, &again, &err),
                     DR_EINVAL);
    assert_string_equal(err.field, "weights");
    assert_non_null(strstr(err.msg, "weights=raw"));
    dr_snapshot_unref(s);
}

// Bytes of a file; *n: their number.
static char *bytes_of(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *p = malloc(1 << 20);
    assert_non_null(p);
    *n = fread(p, 1, 1 << 20, f);
    fclose(f);
    return p;
}

static void zip_for_torch(void **state) {
    struct dr_model_config m = rig_config();
    struct dr_snapshot *s = snapshot(&m, 3);
    struct dr_err err = {0};
    size_t n[2];
    (void)state;
    const struct dr_export x = {.snap = s, .format = DR_EXPORT_PYTORCH};
    if (dr_export(&x, at("a", ".zip"), &err) == DR_EUNSUPPORTED) {
        assert_non_null(strstr(err.msg, "libarchive"));
        dr_snapshot_unref(s);
        skip();
    }
    must(dr_export(&x, at("b", ".zip"), &err), &err);
    char *a = bytes_of(at("a", ".zip"), &n[0]), *b = bytes_of(at("b", ".zip"), &n[1]);
    assert_true(n[0] > 4 && n[0] == n[1] && !memcmp(a, b, n[0])); // no time in it
    assert_memory_equal(a, "PK\3\4", 4);
    assert_non_null(memmem(a, n[0], "driftd_model.py", 15));
    assert_non_null(memmem(a, n[0], "model.safetensors", 17));
    assert_non_null(memmem(a, n[0], "Every network of driftd in PyTorch", 34));
    assert_int_not_equal(access(at("a", ".zip.st"), F_OK), 0);
    free(a);
    free(b);
    dr_snapshot_unref(s);
}

// ---- refusals ----

static void judge_has_no_graph(void **state) {
    static const char json[] =
        "{\"arch\":\"resnet\",\"size\":8,\"channels\":1,\"width\":4,\"blocks\":[1],"
        "\"head\":\"classifier\",\"classes\":2}";
    struct dr_net *net;
    struct dr_err err = {0};
    (void)state;
    must(dr_net_parse(json, strlen(json), NULL, &net, &err), &err);
    struct dr_snapshot *s = dr_snapshot_new(net, rig_random_weights(dr_net_params(net), 5), 1);
    assert_non_null(s);
    const struct dr_export x = {.snap = s, .format = DR_EXPORT_ONNX};
    assert_int_equal(dr_export(&x, at("judge", ".onnx"), &err), DR_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "\"resnet\""));
    assert_string_equal(err.field, "format");
    assert_int_not_equal(access(at("judge", ".onnx"), F_OK), 0);
    export_to(s, DR_EXPORT_SAFETENSORS, at("judge", ".safetensors"));
    dr_snapshot_unref(s);
}

// Every network is in driftd_model.py or refused: a zip whose program cannot run it helps nobody.
static void torch_runs_it_or_refuses(void **state) {
    static const char *const json[] = {
        "{\"arch\":\"driftdit\",\"dim\":8,\"depth\":1,\"heads\":2,\"size\":8,\"channels\":1}",
        "{\"arch\":\"lightningdit\",\"dim\":8,\"depth\":1,\"heads\":2,\"size\":8,\"channels\":1}",
        "{\"arch\":\"mlp\",\"kind\":\"points\",\"dim\":8,\"depth\":1}",
        "{\"arch\":\"unet\",\"dim\":8,\"depth\":1,\"heads\":2,\"size\":8,\"channels\":1}",
        "{\"arch\":\"resnet\",\"size\":8,\"channels\":1,\"width\":4,\"blocks\":[1],"
        "\"head\":\"classifier\",\"classes\":2}",
        "{\"arch\":\"inception\",\"size\":75,\"narrow\":16,\"classes\":0}",
    };
    enum {
#define GENERATOR(ID, word, needs) NET_##word,
#define NETWORK(word) NET_##word,
#include "engine/nn/nets.def"
#undef GENERATOR
#undef NETWORK
        NETS
    };
    (void)state;
    assert_int_equal(DR_COUNT(json), NETS);
    for (int i = 0; i < NETS; i++) {
        struct dr_net *net;
        struct dr_err err = {0};
        must(dr_net_parse(json[i], strlen(json[i]), NULL, &net, &err), &err);
        struct dr_snapshot *s = dr_snapshot_new(net, rig_random_weights(dr_net_params(net), 5), 1);
        assert_non_null(s);
        const struct dr_export x = {.snap = s, .format = DR_EXPORT_PYTORCH};
        const int rc = dr_export(&x, at("net", ".zip"), &err);
        if (rc == DR_EUNSUPPORTED && strstr(err.msg, "libarchive")) {
            dr_snapshot_unref(s);
            skip();
        }
        assert_int_equal(rc, i == NET_inception ? DR_EUNSUPPORTED : 0);
        assert_int_equal(access(at("net", ".zip"), F_OK), rc ? -1 : 0);
        if (rc) {
            assert_non_null(strstr(err.msg, "\"inception\" cannot be written for PyTorch"));
            assert_string_equal(err.field, "format");
        }
        unlink(at("net", ".zip"));
        dr_snapshot_unref(s);
    }
}

static void nowhere_to_write(void **state) {
    struct dr_model_config m = rig_config();
    struct dr_snapshot *s = snapshot(&m, 3);
    (void)state;
    for (int f = 0; f < DR_EXPORT_FORMATS; f++) {
        struct dr_err err = {0};
        const struct dr_export x = {.snap = s, .format = (enum dr_export_format)f};
        assert_int_not_equal(dr_export(&x, at("no/such", ".file"), &err), 0);
        assert_true(err.msg[0]);
    }
    dr_snapshot_unref(s);
}

static void remove_folder(const char *path) {
    char full[1400];
    DIR *d = opendir(path);
    for (const struct dirent *e; d && (e = readdir(d));) {
        snprintf(full, sizeof full, "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.')
            unlink(full);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

int main(int argc, char **argv) {
    char own[] = "/tmp/driftd-export-XXXXXX";
    const bool temporary = argc < 2 || !argv[1][0];
    folder = temporary ? mkdtemp(own) : argv[1];
    if (!folder)
        return 1;
    recipe = argv + 2;
    recipes = argc > 2 ? argc - 2 : 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(proto_bytes),        cmocka_unit_test(proto_failure_sticks),
        cmocka_unit_test(weights_alone),      cmocka_unit_test(zip_for_torch),
        cmocka_unit_test(judge_has_no_graph), cmocka_unit_test(torch_runs_it_or_refuses),
        cmocka_unit_test(nowhere_to_write),   cmocka_unit_test(options_in_files),
        cmocka_unit_test(recipes_in_files),
    };
    const int rc = cmocka_run_group_tests_name("export", tests, NULL, NULL);
    if (temporary)
        remove_folder(folder);
    return rc;
}
