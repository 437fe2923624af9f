// Configurations: defaults, parsing with errors that name key, value and what was expected, cross
// checks, changes by assignment, JSON out and back.
#include "engine/config/config.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

static int parse(const char *json, struct dr_config *c, struct dr_err *err) {
    return dr_config_parse(json, strlen(json), "test.json", c, err);
}

// `json` is refused, the sentence has all the given parts (up to a NULL) and the field is a key.
static void refuse(const char *json, ...) {
    struct dr_config c;
    struct dr_err err = {0};
    if (parse(json, &c, &err) != DR_ECONFIG)
        fail_msg("accepted: %s", json);
    assert_int_equal(err.code, DR_ECONFIG);
    assert_non_null(strstr(err.msg, "test.json: "));
    va_list ap;
    va_start(ap, json);
    for (const char *part; (part = va_arg(ap, const char *));)
        if (!strstr(err.msg, part))
            fail_msg("%s: `%s` is not in: %s", json, part, err.msg);
    va_end(ap);
}

static void accept(const char *json, struct dr_config *c) {
    struct dr_err err = {0};
    if (parse(json, c, &err) != 0)
        fail_msg("%s: %s", json, err.msg);
}

static void defaults(void **state) {
    (void)state;
    struct dr_config c, p;
    dr_config_defaults(&c);
    assert_int_equal(c.model.dim, 256);
    assert_int_equal(c.model.size, 32);
    assert_int_equal(c.model.classes, 10);
    assert_int_equal(c.loss.ntau, 3);
    assert_true(c.loss.tau[1] == 0.05);
    assert_true(c.loss.floor == 1e-6);
    assert_int_equal(c.ema.n, 1);
    assert_true(c.model.rope && !c.model.pos_embed);
    accept("{}", &p);
    assert_memory_equal(&c, &p, sizeof c);
}

static void values(void **state) {
    (void)state;
    struct dr_config c;
    accept(
        "{\"name\": \"n\", \"data\": {\"set\": \"mnist\", \"size\": 28}, \"model\": {\"dim\": 96,"
        "\"heads\": 3, \"patch\": 7, \"rope\": false, \"mlp\": \"gelu\", \"noise\": \"latent\"},"
        "\"loss\": {\"temperatures\": [0.5, 0.1], \"affinity_floor\": 0},"
        "\"train\": {\"steps\": 1e3, \"alpha_max\": 4}, \"optim.lr\": 4e-3}",
        &c);
    assert_string_equal(c.name, "n");
    assert_int_equal(c.data.set, DR_DATA_MNIST);
    assert_int_equal(c.model.size, 28);
    assert_int_equal(c.model.dim, 96);
    assert_int_equal(c.model.mlp, DR_MLP_GELU);
    assert_int_equal(c.model.noise, DR_NOISE_LATENT);
    assert_false(c.model.rope);
    assert_int_equal(c.loss.ntau, 2);
    assert_true(c.loss.tau[0] == 0.5 && c.loss.tau[1] == 0.1 && c.loss.floor == 0);
    assert_int_equal(c.train.steps, 1000);
    assert_true(c.train.alpha_max == 4 && c.optim.lr == 4e-3);
    assert_int_equal(dr_config_batch(&c), 320);
    accept("{\"train\": {\"classes\": 3, \"generated\": 5}}", &c);
    assert_int_equal(dr_config_batch(&c), 15);
}

static void unknown_keys(void **state) {
    (void)state;
    refuse("{\"model\": {\"dmi\": 1}}", "`model.dmi`", "did you mean `model.dim`", NULL);
    refuse("{\"modle\": {\"dim\": 1}}", "`modle`", NULL);
    refuse("{\"dim\": 64}", "`dim`", "`model.dim`", NULL);
    refuse("{\"learning_rate\": 1}", "`learning_rate`", NULL);
    refuse("{\"loss\": {\"temperature\": [1]}}", "`loss.temperatures`", NULL);
    refuse("{\"optim\": {\"zzzzzzzz\": 1}}", "keys of `optim`", "weight_decay", NULL);
    refuse("{\"model\": {\"dim\": {\"x\": 1}}}", "model.dim", "integer", NULL);
    refuse("{\"model\": 3}", "model is a section", NULL);
    refuse("{\"\": 3}", "unknown key", NULL);
    refuse("{\"model\": {\"size\": 3}}", "`model.size`", "data.size", NULL);
    char longest[2000];
    memset(longest, 'k', sizeof longest);
    memcpy(longest, "{\"", 2);
    strcpy(longest + 1900, "\":1}");
    refuse(longest, "unknown key", NULL);
}

static void wrong_values(void **state) {
    (void)state;
    refuse("{\"model\": {\"dim\": \"abc\"}}", "model.dim is \"abc\"", "an integer from 4 to 8192",
           NULL);
    refuse("{\"model\": {\"dim\": 2}}", "model.dim is 2", "from 4 to 8192", NULL);
    refuse("{\"model\": {\"dim\": 64.5}}", "model.dim is 64.5", "integer", NULL);
    refuse("{\"model\": {\"dim\": null}}", "model.dim is null", NULL);
    refuse("{\"model\": {\"dim\": 1e300}}", "model.dim", NULL);
    refuse("{\"model\": {\"rope\": 1}}", "model.rope is 1", "true or false", NULL);
    refuse("{\"loss\": {\"field\": \"kernal\"}}", "loss.field is \"kernal\"",
           "one of kernel, kernel-l2", "did you mean `kernel`", NULL);
    refuse("{\"loss\": {\"field\": 0}}", "loss.field is 0", "one of", NULL);
    refuse("{\"loss\": {\"field\": \"\"}}", "loss.field", NULL);
    refuse("{\"loss\": {\"field\": \"kernel|kernel-l2\"}}", "loss.field", NULL);
    refuse("{\"optim\": {\"lr\": -1}}", "optim.lr is -1", "a number from 0 to 10", NULL);
    refuse("{\"optim\": {\"lr\": \"1\"}}", "optim.lr is \"1\"", NULL);
    refuse("{\"loss\": {\"temperatures\": []}}", "loss.temperatures is []", "1 to 16", NULL);
    refuse("{\"loss\": {\"temperatures\": [0.1, 0]}}", "loss.temperatures", "0.0001", NULL);
    refuse("{\"loss\": {\"temperatures\": true}}", "loss.temperatures is true", "a list", NULL);
    refuse("{\"loss\": {\"temperatures\": \"0.1;2\"}}", "loss.temperatures", "a list", NULL);
    refuse("{\"loss\": {\"temperatures\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}}", "1 to 16", NULL);
    refuse("{\"ema\": {\"decay\": [1.5]}}", "ema.decay", NULL);
    char name[120];
    snprintf(name, sizeof name, "{\"name\": \"%064d\"}", 1);
    refuse(name, "name is", "at most 63 bytes", NULL);
}

static void malformed(void **state) {
    (void)state;
    refuse("", "line", NULL);
    refuse("{", "line 1", NULL);
    refuse("[]", "object", NULL);
    refuse("{} x", "line 1", NULL);
    refuse("{\"name\": \"a\"} {}", "line 1", NULL);
    refuse("{\"name\": \"a\", // no comments\n}", "line 1", NULL);
    refuse("{\"name\": \"a\", \"name\": \"b\"}", "duplicate", NULL);
    refuse("{\"model\": {\"dim\": 64}, \"model.dim\": 64}", "model.dim is given twice", NULL);
    refuse("{\"name\": \"\xff\"}", "line 1", NULL);
    refuse("{\"name\": \"a\\u0000b\"}", "line 1", NULL);
    struct dr_config c;
    struct dr_err err;
    assert_int_equal(dr_config_parse("{\"model\": {\"dim\": 64}}garbage", 22, NULL, &c, &err), 0);
    assert_int_equal(dr_config_parse("{}", 2, NULL, &c, NULL), 0);
    assert_int_equal(dr_config_parse("{", 1, NULL, &c, NULL), DR_ECONFIG);
}

static void cross_checks_of_data(void **state) {
    (void)state;
    refuse("{\"data\": {\"count\": 100}}", "train.positives is 32", "10 images per class", NULL);
    refuse("{\"data\": {\"limit\": 100}}", "train.positives is 32", NULL);
    refuse("{\"data\": {\"classes\": 9}}", "data.classes is 9", "digits has 10", NULL);
    refuse("{\"data\": {\"set\": \"mnist\", \"channels\": 3}}", "data.channels is 3", NULL);
    refuse("{\"data\": {\"set\": \"mnist\", \"size\": 16}}", "data.size is 16", "resize", NULL);
    refuse("{\"data\": {\"set\": \"idx\"}}", "data.path is empty", NULL);
    refuse("{\"data\": {\"set\": \"idx\", \"path\": \"x\", \"channels\": 3}}", "idx has 1", NULL);
    refuse("{\"data\": {\"path\": \"/etc\"}}", "data.path is \"/etc\"", NULL);
    refuse("{\"data\": {\"path\": \"a/../../b\"}}", "data.path", "`..`", NULL);
    refuse("{\"data\": {\"path\": \"..\"}}", "data.path", NULL);
    refuse("{\"data\": {\"crop\": 32}}", "data.crop is 32", "data.size (32)", NULL);
    refuse("{\"data\": {\"background\": \"red\"}}", "data.background is \"red\"", "#rrggbb", NULL);
    refuse("{\"data\": {\"set\": \"toy-two-modes\", \"classes\": 1, \"flip\": true}}",
           "data.flip is on", NULL);
    refuse("{\"data\": {\"set\": \"folder\", \"path\": \"x\", \"channels\": 4}}",
           "data.channels is 4", "1 (grey) or 3 (rgb)", NULL);
    refuse("{\"data\": {\"set\": \"folder\"}}", "data.path is empty", NULL);
    refuse("{\"data\": {\"set\": \"cifar10\", \"channels\": 3, \"size\": 16}}", "data.size is 16",
           NULL);
}

static void cross_checks(void **state) {
    (void)state;
    refuse("{\"model\": {\"heads\": 3}}", "model.heads is 3", "model.dim (256)", NULL);
    refuse("{\"model\": {\"dim\": 12, \"heads\": 4}}", "model.rope", "even", NULL);
    refuse("{\"model\": {\"patch\": 5}}", "model.patch is 5", "data.size (32)", NULL);
    refuse("{\"model\": {\"label_dropout\": 0.1, \"null_class\": false}}", "label_dropout", NULL);
    refuse("{\"loss\": {\"normalize\": \"sinkhorn-split\"}}", "loss.negatives is self-masked",
           "independent", NULL);
    struct dr_config split;
    accept("{\"loss\": {\"normalize\": \"sinkhorn-split\", \"negatives\": \"independent\"}}",
           &split);
    refuse("{\"train\": {\"alpha_min\": 4}}", "train.alpha_min is 4", "train.alpha_max (3)", NULL);
    refuse("{\"train\": {\"classes\": 11}}", "train.classes is 11", "(10)", NULL);
    refuse("{\"train\": {\"generated\": 65536, \"positives\": 1}, \"data\": {\"set\": \"idx\","
           "\"path\": \"x\", \"classes\": 1000}}",
           "train.generated is 65536", NULL);
    refuse("{\"train\": {\"sampler\": \"queue\", \"positives\": 129}}", "train.positives is 129",
           "train.queue_class (128)", NULL);
    refuse("{\"train\": {\"sampler\": \"queue\", \"unconditional\": 1001}}", "train.queue_global",
           NULL);
    refuse("{\"data\": {\"set\": \"toy-swiss-roll\", \"classes\": 1}}", "model.arch must be mlp",
           NULL);
    refuse("{\"model\": {\"arch\": \"mlp\"}}", "model.arch mlp", "digits", NULL);
    refuse("{\"data\": {\"set\": \"toy-swiss-roll\"}, \"model\": {\"arch\": \"mlp\"}}",
           "data.classes is 10", NULL);
    refuse("{\"features\": {\"encoder\": \"mnist-encoder\"}}", "features.encoder is mnist-encoder",
           "features.kind is pixel", "features.kind to encoder", NULL);
    refuse("{\"features\": {\"image\": false}}", "no feature is on", NULL);
    refuse("{\"data\": {\"size\": 33}, \"model\": {\"patch\": 3}, \"features\": {\"quadrants\": "
           "true}}",
           "features.quadrants", "33", NULL);
    refuse(
        "{\"data\": {\"size\": 30}, \"model\": {\"patch\": 3}, \"features\": {\"patch4\": true}}",
        "features.patch4", NULL);
    refuse("{\"loss\": {\"field\": \"kernel-l2\"}, \"train\": {\"unconditional\": 4}}",
           "train.unconditional is 4", "kernel-l2", NULL);
    refuse("{\"loss.field\": \"kernel-l2\", \"features.rms\": 0.1}", "features.rms is 0.1",
           "kernel-l2", NULL);
    refuse("{\"loss.field\": \"learned\", \"loss.bias\": \"abc\"}", "loss.bias is abc",
           "loss.field", NULL);
    struct dr_config c;
    accept("{\"loss.field\": \"learned\", \"features.rms\": 0.1}", &c);
    accept("{\"loss.field\": \"kernel-l2\", \"loss.bias\": \"abc\"}", &c);
    refuse("{\"eval\": {\"patience\": 2, \"at_end\": true, \"judge\": \"judge\"}}",
           "eval.patience is 2", "eval.every", NULL);
    accept("{\"eval\": {\"patience\": 2, \"every\": 10, \"judge\": \"judge\"}}", &c);
    accept("{\"data\": {\"path\": \"a..b/c\"}}", &c);
    accept("{\"data\": {\"set\": \"mnist\", \"size\": 16, \"fit\": \"resize\"}}", &c);
    accept("{\"data\": {\"set\": \"toy-checkerboard\", \"classes\": 1}, \"model\": {\"arch\": "
           "\"mlp\"}}",
           &c);
    assert_int_equal(c.model.size * c.model.size * c.model.channels, 2);
}

// What the network or the sampler would refuse only once the job runs.
static void cross_checks_of_sizes(void **state) {
    (void)state;
    struct dr_config c;
    refuse(
        "{\"data\": {\"set\": \"toy-swiss-roll\", \"classes\": 1}, \"model\": {\"arch\": \"mlp\","
        " \"depth\": 0}}",
        "model.depth is 0", "at least 1", NULL);
    accept(
        "{\"data\": {\"set\": \"toy-swiss-roll\", \"classes\": 1}, \"model\": {\"arch\": \"mlp\","
        " \"depth\": 1}}",
        &c);
    refuse(
        "{\"model\": {\"arch\": \"lightningdit\", \"dim\": 4, \"heads\": 1, \"mlp_ratio\": 0.25}}",
        "model.mlp_ratio is 0.25", "model.dim 4", NULL);
    accept(
        "{\"model\": {\"arch\": \"lightningdit\", \"dim\": 4, \"heads\": 1, \"mlp_ratio\": 0.5}}",
        &c);
    accept("{\"model\": {\"dim\": 4, \"heads\": 1, \"mlp_ratio\": 0.25}}", &c);
    refuse(
        "{\"train\": {\"sampler\": \"queue\", \"unconditional\": 900}, \"data\": {\"count\": 800}}",
        "train.unconditional is 900", "800 images", NULL);
    refuse("{\"train\": {\"sampler\": \"queue\"}, \"data\": {\"limit\": 100}}",
           "train.positives is 32", "10 images per class", NULL);
    accept(
        "{\"train\": {\"sampler\": \"queue\", \"unconditional\": 800}, \"data\": {\"count\": 800}}",
        &c);
    refuse("{\"optim\": {\"eps\": 0}}", "optim.eps is 0", NULL); // 0 / 0 where a gradient is 0
}

// The field at fault, as a form needs it.
static void fields(void **state) {
    (void)state;
    static const struct {
        const char *json, *field;
    } t[] = {
        {"{\"optim\": {\"lr\": -1}}", "optim.lr"},
        {"{\"optim.lr\": \"x\"}", "optim.lr"},
        {"{\"optim\": {\"lrr\": 1}}", "optim.lrr"},
        {"{\"lrr\": 1}", "lrr"},
        {"{\"optim\": 3}", "optim"},
        {"{\"model\": {\"dim\": 64}, \"model.dim\": 64}", "model.dim"},
        {"{\"loss\": {\"temperatures\": []}}", "loss.temperatures"},
        {"{\"data\": {\"set\": \"mnits\"}}", "data.set"},
        {"{\"data\": {\"set\": \"idx\"}}", "data.path"},
        {"{\"data\": {\"set\": \"mnist\", \"size\": 16}}", "data.size"},
        {"{\"data\": {\"classes\": 9}}", "data.classes"},
        {"{\"data\": {\"channels\": 3}}", "data.channels"},
        {"{\"data\": {\"count\": 100}}", "train.positives"},
        {"{\"model\": {\"heads\": 3}}", "model.heads"},
        {"{\"model\": {\"arch\": \"mlp\"}}", "model.arch"},
        {"{\"features\": {\"image\": false}}", "features.image"},
        {"{\"train\": {\"alpha_min\": 4}}", "train.alpha_min"},
        {"{\"train\": {\"classes\": 11}}", "train.classes"},
        {"{\"loss.field\": \"kernel-l2\", \"features.rms\": 0.1}", "features.rms"},
        {"{\"loss.field\": \"learned\", \"loss.bias\": \"abc\"}", "loss.bias"},
        {"{\"eval.patience\": 2}", "eval.patience"},
        {"{", ""},
        {"[]", ""},
    };
    struct dr_config c;
    for (size_t i = 0; i < DR_COUNT(t); i++) {
        struct dr_err err = {.field = "stale"};
        assert_int_equal(parse(t[i].json, &c, &err), DR_ECONFIG);
        if (strcmp(err.field, t[i].field) != 0)
            fail_msg("%s: field `%s`, expected `%s`", t[i].json, err.field, t[i].field);
    }
    struct dr_err err = {0};
    dr_config_defaults(&c);
    assert_int_equal(dr_config_set(&c, "optim.lr=-1", &err), DR_ECONFIG);
    assert_string_equal(err.field, "optim.lr");
}

static void assignments(void **state) {
    (void)state;
    struct dr_config c, before;
    struct dr_err err;
    dr_config_defaults(&c);
    assert_int_equal(dr_config_set(&c, "model.dim=128", &err), 0);
    assert_int_equal(dr_config_set(&c, "loss.normalize=sinkhorn", &err), 0);
    assert_int_equal(dr_config_set(&c, "loss.kernel=\"gaussian\"", &err), 0);
    assert_int_equal(dr_config_set(&c, "name=a=b 12", &err), 0);
    assert_int_equal(dr_config_set(&c, "about=12", &err), 0);
    assert_int_equal(dr_config_set(&c, "loss.temperatures=0.05", &err), 0);
    assert_int_equal(dr_config_set(&c, "ema.decay=[0.9, 0.99]", &err), 0);
    assert_int_equal(dr_config_set(&c, "model.rope=false", &err), 0);
    assert_int_equal(dr_config_set(&c, "data.size=64", &err), 0);
    assert_int_equal(c.model.dim, 128);
    assert_int_equal(c.model.size, 64);
    assert_int_equal(c.loss.normalize, 3);
    assert_int_equal(c.loss.kernel, 1);
    assert_string_equal(c.name, "a=b 12");
    assert_string_equal(c.about, "12");
    assert_int_equal(c.loss.ntau, 1);
    assert_true(c.loss.tau[0] == 0.05 && c.loss.tau[1] == 0 && c.ema.decay[1] == 0.99);
    assert_false(c.model.rope);
    before = c;
    static const char *const bad[] = {
        "model.dim",          "=3",
        "model.dim=",         "model.dim=x",
        "model.dim=1e9",      "model=3",
        "modl.dim=3",         "model.heads=3",
        "loss.field=kernell", "name=\xff",
        "model.rope=1",       "data.size=30",
        "loss.temperatures=", "loss.temperatures=a",
    };
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        err = (struct dr_err){0};
        if (dr_config_set(&c, bad[i], &err) != DR_ECONFIG || !err.msg[0])
            fail_msg("accepted: %s", bad[i]);
        assert_memory_equal(&c, &before, sizeof c);
    }
    static const char *const pair[] = {"data.size=30", "model.patch=3"};
    assert_int_equal(dr_config_set_all(&c, pair, 2, &err), 0);
    assert_int_equal(c.model.patch, 3);
    // one needs the other, in either order
    for (int swap = 0; swap < 2; swap++) {
        const char *const needs[] = {swap ? "model.heads=5" : "model.dim=100",
                                     swap ? "model.dim=100" : "model.heads=5"};
        dr_config_defaults(&c);
        assert_int_equal(dr_config_set_all(&c, needs, 2, &err), 0);
        assert_true(c.model.dim == 100 && c.model.heads == 5);
    }
}

static void merge(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err;
    accept("{\"train\": {\"steps\": 5, \"seed\": 7}}", &c);
    const char *over = "{\"train.steps\": 9, \"optim\": {\"lr\": 0.5}}";
    assert_int_equal(dr_config_merge(&c, over, strlen(over), "overrides", &err), 0);
    assert_true(c.train.steps == 9 && c.train.seed == 7 && c.optim.lr == 0.5);
    struct dr_config before = c;
    const char *bad = "{\"train\": {\"steps\": 11}, \"model\": {\"heads\": 7}}";
    assert_int_equal(dr_config_merge(&c, bad, strlen(bad), "overrides", &err), DR_ECONFIG);
    assert_non_null(strstr(err.msg, "overrides: model.heads"));
    assert_memory_equal(&c, &before, sizeof c);
}

static void round_trip(void **state) {
    (void)state;
    struct dr_config c, back;
    accept("{\"name\": \"q\\\"\\\\\\n\\u00e9\", \"optim\": {\"lr\": 0.1234567890123456789},"
           "\"loss\": {\"temperatures\": [0.1, 0.30000000000000004, 1e-4]},"
           "\"train\": {\"seed\": 9007199254740991}, \"ema\": {\"decay\": [0.9, 0.99, 0.999]}}",
           &c);
    char *text = dr_config_to_json(&c);
    accept(text, &back);
    assert_memory_equal(&c, &back, sizeof c);
    char *again = dr_config_to_json(&back);
    assert_string_equal(text, again);
    free(text);
    free(again);
    // what people write comes out as they wrote it, whole numbers without a fraction
    accept("{\"loss\": {\"temperatures\": [0.1, 0.2, 3]}, \"optim\": {\"clip\": 1e9}}", &c);
    text = dr_config_to_json(&c);
    assert_non_null(strstr(text, "\"temperatures\":[0.1,0.2,3]"));
    assert_non_null(strstr(text, "\"clip\":1000000000,"));
    free(text);
    accept("{\"model\": {\"out_bias\": -0.0}}", &c);
    text = dr_config_to_json(&c);
    accept(text, &back);
    assert_memory_equal(&c, &back, sizeof c);
    assert_true(signbit(back.model.out_bias));
    free(text);
}

// A configuration as the builds before jansson wrote it: 1e-06 for 1e-6, 0 for -0.0.
static void older_text(void **state) {
    (void)state;
    struct dr_config c, d;
    accept("{\"loss\":{\"affinity_floor\":1e-06},\"optim\":{\"eps\":1e-08},"
           "\"model\":{\"out_bias\":0}}",
           &c);
    dr_config_defaults(&d);
    assert_memory_equal(&c, &d, sizeof c);
    d.model.out_bias = -0.0;
    assert_true(dr_model_config_equal(&c.model, &d.model));
}

static void model_section(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_model_config m;
    struct dr_err err;
    accept("{\"data\": {\"size\": 28}, \"model\": {\"patch\": 7, \"out_bias\": -0.3}}", &c);
    char *text = dr_model_config_to_json(&c.model);
    assert_int_equal(dr_model_config_parse(text, strlen(text), "file", &m, &err), 0);
    assert_memory_equal(&m, &c.model, sizeof m);
    assert_true(dr_model_config_equal(&m, &c.model));
    m.head_width++;
    assert_false(dr_model_config_equal(&m, &c.model));
    free(text);
    text = dr_config_to_json(&c); // a whole configuration will do
    memset(&m, 0, sizeof m);
    assert_int_equal(dr_model_config_parse(text, strlen(text), "file", &m, &err), 0);
    assert_memory_equal(&m, &c.model, sizeof m);
    free(text);
    const char *part = "{\"size\": 16, \"classes\": 3, \"channels\": 3, \"patch\": 2}";
    assert_int_equal(dr_model_config_parse(part, strlen(part), NULL, &m, &err), 0);
    assert_true(m.size == 16 && m.classes == 3 && m.channels == 3 && m.dim == 256);
    static const char *const bad[] = {
        "{\"size\": 30}", "{\"heads\": 3}", "{\"sise\": 4}", "{\"count\": 5}", "[]", "",
        "{\"dim\": -1}",  "{\"model\": 3}",
    };
    for (size_t i = 0; i < DR_COUNT(bad); i++)
        if (dr_model_config_parse(bad[i], strlen(bad[i]), "f", &m, &err) != DR_ECONFIG)
            fail_msg("accepted: %s", bad[i]);
}

// Four channels are latents unless something says otherwise, and are never RGBA.
static void kinds(void **state) {
    (void)state;
    static const struct {
        const char *json;
        int kind;
        enum dr_show show;
    } t[] = {
        {"{\"size\": 8, \"patch\": 2, \"channels\": 1}", DR_KIND_IMAGES, DR_SHOW_GREY},
        {"{\"size\": 8, \"patch\": 2, \"channels\": 3}", DR_KIND_IMAGES, DR_SHOW_RGB},
        {"{\"size\": 8, \"patch\": 2, \"channels\": 4}", DR_KIND_LATENTS, DR_SHOW_PLANES},
        {"{\"size\": 8, \"patch\": 2, \"channels\": 3, \"kind\": \"latents\"}", DR_KIND_LATENTS,
         DR_SHOW_PLANES},
        {"{\"size\": 8, \"patch\": 2, \"channels\": 4, \"kind\": \"images\"}", DR_KIND_IMAGES,
         DR_SHOW_PLANES},
        {"{\"size\": 1, \"channels\": 2, \"classes\": 1, \"arch\": \"mlp\"}", DR_KIND_POINTS,
         DR_SHOW_POINTS},
    };
    for (size_t i = 0; i < DR_COUNT(t); i++) {
        struct dr_model_config m, back;
        struct dr_err err = {0};
        if (dr_model_config_parse(t[i].json, strlen(t[i].json), "f", &m, &err))
            fail_msg("%s: %s", t[i].json, err.msg);
        assert_int_equal(m.kind, t[i].kind);
        assert_int_equal(dr_show(m.kind, m.channels), t[i].show);
        char *text = dr_model_config_to_json(&m);
        assert_int_equal(strstr(text, "\"kind\"") != NULL, strstr(t[i].json, "kind") != NULL);
        assert_int_equal(dr_model_config_parse(text, strlen(text), "f", &back, &err), 0);
        assert_memory_equal(&m, &back, sizeof m);
        free(text);
    }
    struct dr_model_config m;
    struct dr_err err = {0};
    const char *bad = "{\"kind\": \"rgba\"}";
    assert_int_equal(dr_model_config_parse(bad, strlen(bad), "f", &m, &err), DR_ECONFIG);
    assert_string_equal(err.field, "kind");
    // What a network makes is not a matter of opinion.
    static const char *const other[] = {
        "{\"size\": 1024, \"channels\": 3, \"arch\": \"mlp\", \"kind\": \"images\"}",
        "{\"size\": 1, \"channels\": 2, \"arch\": \"mlp\", \"kind\": \"latents\"}",
        "{\"arch\": \"driftdit\", \"kind\": \"points\"}",
        "{\"arch\": \"lightningdit\", \"kind\": \"points\"}",
        "{\"arch\": \"unet\", \"kind\": \"points\"}",
    };
    for (size_t i = 0; i < DR_COUNT(other); i++) {
        if (dr_model_config_parse(other[i], strlen(other[i]), "f", &m, &err) != DR_ECONFIG)
            fail_msg("accepted: %s", other[i]);
        assert_string_equal(err.field, "model.arch");
        assert_non_null(strstr(err.msg, ", but the kind is "));
    }
}

// A sentence goes to terminals and into JSON, whatever the file says.
static void sentences_are_plain(void **state) {
    (void)state;
    char json[400], *at = json + sprintf(json, "{\"model\": {\"");
    for (int i = 0; i < 77; i++) // cut at 80 bytes, in the middle of one
        at = stpcpy(at, "\xc3\xa4");
    strcpy(at, "\": 1}}");
    struct dr_config c;
    struct dr_err err = {0};
    assert_int_equal(parse(json, &c, &err), DR_ECONFIG);
    json_t *text = json_string(err.msg), *field = json_string(err.field);
    assert_true(text && field);
    json_decref(text);
    json_decref(field);
    assert_int_equal(parse("{\"a\\u001b[2Jb\\u009b\\n\": 1}", &c, &err), DR_ECONFIG);
    assert_non_null(strstr(err.msg, "`a?[2Jb???`"));
    assert_string_equal(err.field, "a?[2Jb???");
    // every byte on its own and at the end
    for (int b = 1; b < 256; b++) {
        dr_fail(&err, DR_EINVAL, "%c", b);
        const bool kept = b >= 0x20 && b < 0x7f;
        assert_true(err.msg[0] == (kept ? b : '?') && !err.msg[1]);
    }
    static const char *const odd[] = {"\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "\xc0\x8a"};
    for (size_t i = 0; i < DR_COUNT(odd); i++) {
        dr_fail(&err, DR_EINVAL, "%s", odd[i]);
        assert_int_equal(strspn(err.msg, "?"), strlen(odd[i]));
    }
    dr_fail(&err, DR_EINVAL, "\xe2\x82\xac \xf0\x9f\x98\x80 \xc3\xa9");
    assert_string_equal(err.msg, "\xe2\x82\xac \xf0\x9f\x98\x80 \xc3\xa9");
    // a sentence may be made of the one before
    dr_fail(&err, DR_EINVAL, "no recipe named nothing");
    dr_fail_at(&err, DR_EINVAL, err.field, "data: %.300s", err.msg);
    assert_string_equal(err.msg, "data: no recipe named nothing");
}

static void guidance(void **state) {
    (void)state;
    struct dr_config c;
    accept("{\"train\": {\"alpha_min\": 1.5, \"alpha_max\": 4}}", &c);
    struct dr_guidance_range r = dr_config_guidance_range(&c);
    assert_true(r.lo == 1.5 && r.hi == 4);
    char *text = dr_config_to_json(&c);
    r = dr_guidance_range_parse(text, strlen(text));
    assert_true(r.lo == 1.5 && r.hi == 4);
    free(text);
    text = dr_model_config_to_json(&c.model); // knows nothing of training
    assert_true(dr_guidance_range_parse(text, strlen(text)).hi == 0);
    free(text);
    assert_true(dr_guidance_range_parse("{", 1).hi == 0);
    c.train.alpha_one_fraction = 0.1;
    assert_true(dr_config_guidance_range(&c).lo == 1);
}

// Recipes of kind encoder: keys of the other kind are refused in both, the text reads back.
static void encoders(void **state) {
    (void)state;
    struct dr_config c, back;
    accept("{\"kind\": \"encoder\", \"encoder\": {\"blocks\": [1, 2, 1], \"width\": 16,"
           "\"objective\": \"both\"}, \"optim.schedule\": \"one-cycle\", \"data.size\": 30,"
           "\"init_from\": \"12\"}",
           &c);
    assert_int_equal(c.kind, DR_RECIPE_ENCODER);
    assert_int_equal(c.encoder.stages, 3);
    assert_string_equal(dr_recipe_word(c.kind), "encoder");
    char *text = dr_config_to_json(&c);
    accept(text, &back);
    assert_memory_equal(&c, &back, sizeof c);
    assert_non_null(strstr(text, "\"encoder\":{"));
    assert_null(strstr(text, "\"model\":{"));
    assert_null(strstr(text, "\"temperatures\""));
    struct dr_model_config m;
    struct dr_err err = {0};
    assert_int_equal(dr_model_config_parse(text, strlen(text), NULL, &m, &err), DR_ECONFIG);
    assert_non_null(strstr(err.msg, "generator"));
    free(text);
    dr_config_defaults(&c);
    text = dr_config_to_json(&c); // a generator's has neither kind nor encoder, as before
    assert_null(strstr(text, "\"encoder\":{"));
    assert_null(strstr(text, "init_from"));
    assert_null(strstr(text, "kde"));
    free(text);
    accept("{\"features\": {\"kind\": \"kde\", \"kde_lr\": 2}}", &c);
    text = dr_config_to_json(&c);
    assert_non_null(strstr(text, "\"kde_width\":128"));
    free(text);
    refuse("{\"encoder\": {\"width\": 16}}", "encoder.width", "kind encoder", "kind train", NULL);
    refuse("{\"kind\": \"encoder\", \"model\": {\"dim\": 64}}", "model.dim", "kind train", NULL);
    refuse("{\"kind\": \"encoder\", \"train\": {\"generated\": 64}}", "train.generated", NULL);
    refuse("{\"features\": {\"kind\": \"kde\", \"encoder\": \"x\"}}", "features.encoder", NULL);
    refuse("{\"features\": {\"kind\": \"kde\", \"image\": false, \"rms\": 1}}", "features.image",
           "learn from", NULL);
    refuse("{\"features.kind\": \"kde\", \"train.positives\": 1}", "train.positives", NULL);
    refuse("{\"features.kind\": \"kde\", \"loss.field\": \"learned\"}", "loss.field", NULL);
    refuse("{\"features.kind\": \"kde\", \"data\": {\"set\": \"toy-swiss-roll\", \"classes\": 1},"
           "\"model.arch\": \"mlp\"}",
           "features.kind", "works on images", NULL);
    refuse("{\"features\": {\"kind\": \"kde\", \"kde_width\": 0}}", "features.kde_width", NULL);
    refuse("{\"kind\": \"encoders\"}", "kind", "did you mean `encoder`", NULL);
    refuse("{\"kind\": \"encoder\", \"encoder\": {\"blocks\": [1.5]}}", "whole numbers", NULL);
    refuse("{\"kind\": \"encoder\", \"encoder\": {\"objective\": \"autoencode\","
           "\"mask_patch\": 3}}",
           "encoder.mask_patch", "divisor", NULL);
    refuse("{\"kind\": \"encoder\", \"data\": {\"set\": \"toy-swiss-roll\", \"classes\": 1}}",
           "data.set", "needs images", NULL);
    refuse("{\"init_from\": \"../x\"}", "init_from", "relative path", NULL);
    // What `--set init_from=7` sends.
    accept("{\"init_from\":7,\"features\":{\"kind\":\"encoder\",\"encoder\":12,\"maps\":2}}", &c);
    assert_string_equal(c.init_from, "7");
    assert_string_equal(c.features.encoder, "12");
    assert_string_equal(c.features.maps, "2");
    refuse("{\"init_from\": -7}", "init_from", "expected a string", NULL);
    refuse("{\"name\": 7}", "name", "expected a string", NULL);
    refuse("{\"init_from\": 7.5}", "init_from", "expected a string", NULL);
}

static void schema(void **state) {
    (void)state;
    char *text = dr_config_schema_json();
    json_t *list = json_loads(text, 0, NULL);
    assert_true(json_is_array(list));
    assert_true(json_array_size(list) > 80);
    size_t i;
    json_t *e;
    bool dim = false;
    json_array_foreach(list, i, e) {
        assert_true(json_string_length(json_object_get(e, "doc")) > 0);
        assert_non_null(json_object_get(e, "default"));
        const char *type = json_string_value(json_object_get(e, "type"));
        bool ranged = !strcmp(type, "integer") || !strcmp(type, "number") || !strcmp(type, "list");
        assert_int_equal(ranged, json_object_get(e, "max") != NULL);
        assert_int_equal(!strcmp(type, "enum"), json_is_array(json_object_get(e, "values")));
        dim |= !strcmp(json_string_value(json_object_get(e, "path")), "model.dim") &&
               json_integer_value(json_object_get(e, "default")) == 256;
    }
    assert_true(dim);
    json_decref(list);
    free(text);
}

static void nearest(void **state) {
    (void)state;
    static const char *const w[] = {"class", "cfg", "seed", "format", "checkpoint", "n"};
    int n = DR_COUNT(w);
    assert_string_equal(dr_nearest("clas", w, n), "class");
    assert_string_equal(dr_nearest("CLASS", w, n), "class");
    assert_string_equal(dr_nearest("sede", w, n), "seed");
    assert_string_equal(dr_nearest("cgf", w, n), "cfg");
    assert_string_equal(dr_nearest("chekpiont", w, n), "checkpoint");
    assert_string_equal(dr_nearest("seed", w, n), "seed");
    assert_null(dr_nearest("zebra", w, n));
    assert_null(dr_nearest("x", w, n));
    assert_null(dr_nearest("", w, n));
    assert_null(dr_nearest(NULL, w, n));
    assert_null(dr_nearest("class", w, 0));
    char big[300];
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    assert_null(dr_nearest(big, w, n));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(values),
        cmocka_unit_test(unknown_keys),
        cmocka_unit_test(wrong_values),
        cmocka_unit_test(malformed),
        cmocka_unit_test(cross_checks),
        cmocka_unit_test(cross_checks_of_sizes),
        cmocka_unit_test(cross_checks_of_data),
        cmocka_unit_test(assignments),
        cmocka_unit_test(merge),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(model_section),
        cmocka_unit_test(encoders),
        cmocka_unit_test(schema),
        cmocka_unit_test(nearest),
        cmocka_unit_test(guidance),
        cmocka_unit_test(fields),
        cmocka_unit_test(older_text),
        cmocka_unit_test(sentences_are_plain),
        cmocka_unit_test(kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
