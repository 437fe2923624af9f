// usage: test-recipe CONFIGS. A folder of recipes as people leave it: byte-order marks, spaces and
// umlauts in names, a name that the interface needs, names that are no text, a FIFO, a folder, a
// broken file. Then the recipes that are compiled in, and what bench makes of them.
#include "daemon/base/recipe.h"
#include "daemon/verbs/verbs.h"
#include "tests/daemon/helper.h"

#include <jansson.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/driftd-recipes-XXXXXX";

static const char *at(const char *name) {
    static char path[400];
    snprintf(path, sizeof path, "%s/%s.json", dir, name);
    return path;
}

static void put(const char *name, const char *text) {
    FILE *f = fopen(at(name), "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

#define LATIN1 "caf\xe9"
#define UMLAUT                                                                                     \
    "kleine Gr\xc3\xb6\xc3\x9f"                                                                    \
    "e"

static int set_up(void **state) {
    (void)state;
    assert_non_null(mkdtemp(dir));
    put("plain", "{\"name\": \"other\"}");
    put("marked", "\xef\xbb\xbf{\"model\": {\"dim\": 64}}");
    put(UMLAUT, "{}");
    put("schema", "{}");
    put(LATIN1, "{}");
    put("two\nlines", "{}");
    put("back\\slash", "{}");
    put("broken", "{");
    put(".hidden", "{}");
    assert_int_equal(mkfifo(at("fifo"), 0600), 0);
    assert_int_equal(mkdir(at("folder"), 0700), 0);
    char longest[80];
    memset(longest, 'n', 70);
    longest[70] = 0;
    put(longest, "{}");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    char cmd[100];
    snprintf(cmd, sizeof cmd, "rm -r %s", dir);
    return system(cmd);
}

static void by_name(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err;
    assert_int_equal(dd_recipe_named(dir, "plain", &c, &err), 0);
    assert_string_equal(c.name, "other");
    assert_int_equal(dd_recipe_named(dir, "marked", &c, &err), 0);
    assert_int_equal(c.model.dim, 64);
    assert_string_equal(c.name, "marked");
    assert_int_equal(dd_recipe_named(dir, UMLAUT, &c, &err), 0);
    assert_string_equal(c.name, UMLAUT);
    assert_int_equal(dd_recipe_named(dir, "plian", &c, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "did you mean plain?"));
    static const char *const missing[] = {"", ".hidden", "../plain", "a/b", "nothing-like-it"};
    for (size_t i = 0; i < DR_COUNT(missing); i++)
        assert_int_equal(dd_recipe_named(dir, missing[i], &c, &err), DR_ENOENT);
}

static void what_cannot_be_used_says_why(void **state) {
    (void)state;
    static const struct {
        const char *name, *part;
    } t[] = {
        {"schema", "reserved"},         {LATIN1, "not UTF-8"},
        {"two\nlines", "not UTF-8"},    {"broken", "line 1"},
        {"fifo", "not a regular file"}, {"folder", "not a regular file"},
        {"back\\slash", "backslash"},
    };
    struct dr_config c;
    struct dr_err err;
    alarm(20); // nothing here may wait
    for (size_t i = 0; i < DR_COUNT(t); i++) {
        err = (struct dr_err){0};
        assert_int_not_equal(dd_recipe_named(dir, t[i].name, &c, &err), 0);
        if (!strstr(err.msg, t[i].part))
            fail_msg("%s: %s", t[i].name, err.msg);
    }
    char longest[80];
    memset(longest, 'n', 70);
    longest[70] = 0;
    assert_int_equal(dd_recipe_named(dir, longest, &c, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "longer than 63 bytes"));
    alarm(0);
    // in a shell a file is a file, whatever it is called
    assert_int_equal(dd_recipe_load(dir, at("schema"), &c, &err), 0);
}

struct seen {
    int n, usable;
    bool schema, umlaut, latin;
};

static void see(void *ctx, const char *name, const struct dr_config *cfg, const char *error) {
    struct seen *s = ctx;
    s->n++;
    s->usable += cfg != NULL;
    assert_true(!cfg == (error != NULL));
    s->schema |= !strcmp(name, "schema") && strstr(error, "reserved");
    s->umlaut |= !strcmp(name, UMLAUT) && cfg;
    s->latin |= !strcmp(name, "caf?") && strstr(error, "not UTF-8");
}

static void the_list_has_them_all(void **state) {
    (void)state;
    struct seen s = {0};
    struct dr_err err = {0};
    alarm(20);
    assert_int_equal(dd_recipe_each(dir, see, &s, &err), 0);
    alarm(0);
    assert_int_equal(s.n, 11);
    assert_int_equal(s.usable, 3);
    assert_true(s.schema && s.umlaut && s.latin);
    s = (struct seen){0};
    assert_int_equal(dd_recipe_each("/nonexistent/folder", see, &s, &err), 0);
    assert_int_equal(s.n, 0);
    assert_int_equal(dd_recipe_each(at("plain"), see, &s, &err), DR_EIO);
    assert_non_null(strstr(err.msg, "cannot be read"));
}

static const char *configs;

static json_t *as_json(const struct dr_config *c) {
    char *text = dr_config_to_json(c);
    json_t *j = json_loads(text, 0, NULL);
    free(text);
    assert_non_null(j);
    return j;
}

// Keys whose values differ, "train.steps data.set "; sections have the same keys on either side.
static void differing(const struct dr_config *a, const struct dr_config *b, char out[200]) {
    json_t *x = as_json(a), *y = as_json(b), *section, *v;
    const char *name, *key;
    out[0] = 0;
    json_object_foreach(x, name, section) {
        json_t *other = json_object_get(y, name);
        if (!json_is_object(section) && !json_equal(section, other))
            snprintf(out + strlen(out), 200 - strlen(out), "%s ", name);
        json_object_foreach(section, key, v) if (!json_equal(v, json_object_get(other, key)))
            snprintf(out + strlen(out), 200 - strlen(out), "%s.%s ", name, key);
    }
    json_decref(x);
    json_decref(y);
}

static void compare(void *ctx, const char *name, const struct dr_config *cfg, const char *error) {
    struct dr_config built, bench;
    struct dr_err err = {0};
    char keys[200];
    int *n = ctx;
    if (error || dd_recipe_builtin(name, &built, &err))
        fail_msg("%s: %s", name, error ? error : err.msg);
    differing(cfg, &built, keys);
    assert_string_equal(keys, "");
    const int rc = dd_bench_config(name, cfg->train.precision, &bench, &err);
    ++*n;
    if (cfg->kind != DR_RECIPE_TRAIN || cfg->features.kind == DR_FEATURE_ENCODER) {
        assert_int_equal(rc, DR_EUNSUPPORTED);
        assert_non_null(strstr(err.msg, name));
        return;
    }
    if (rc)
        fail_msg("%s: %s", name, err.msg);
    differing(cfg, &bench, keys);
    const bool files = !dr_set_facts(cfg->data.set)->made, spread = cfg->metrics.spread_every > 0;
    char want[200];
    snprintf(want, sizeof want, "%s%sdata.count %s", files ? "data.set " : "",
             files && cfg->data.channels == 3 ? "data.classes " : "",
             spread ? "metrics.spread_every " : "");
    assert_string_equal(keys, want);
}

// The network, the loss and the training that bench measures are the recipe's.
static void bench_runs_the_recipes(void **state) {
    (void)state;
    struct dr_config c, d;
    struct dr_err err = {0};
    char keys[200];
    int n = 0, built = 0;
    assert_int_equal(dd_recipe_each(configs, compare, &n, &err), 0);
    for (; dd_builtin_recipes[built].name; built++)
        ;
    assert_true(n == built && n >= 9);
    assert_int_equal(dd_bench_config("tiny", DR_PREC_BF16, &c, &err), 0);
    dr_config_defaults(&d);
    differing(&c, &d, keys);
    assert_string_equal(keys, "data.count train.precision metrics.spread_every ");
    assert_int_equal(dd_bench_config("mnist-pixel", DR_FP32, &c, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "did you mean mnist-pixels?"));
}

int main(int argc, char **argv) {
    configs = argc > 1 ? argv[1] : "configs";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_name),
        cmocka_unit_test(what_cannot_be_used_says_why),
        cmocka_unit_test(the_list_has_them_all),
        cmocka_unit_test(bench_runs_the_recipes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
