// Makes docs/configuration.md from config.def and tests that the committed page is that.
// usage: config-doc check|write docs/configuration.md
#include "engine/config/config.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char intro[] =
    "<!-- Made from engine/config/config.def by config-doc: ninja -C build update-docs -->\n"
    "# Configuration\n\n"
    "A training configuration is one JSON file in UTF-8; `configs/` has the recipes. It needs to\n"
    "hold only what differs from the defaults. Keys are nested (`{\"model\": {\"dim\": 256}}`) or\n"
    "dotted (`{\"model.dim\": 256}`). The whole is checked before a job starts: an unknown key, a\n"
    "value of the wrong type or out of range, or a combination that cannot work is an error that\n"
    "names the key, the value and what was expected. On the command line, `--set model.dim=128`\n"
    "changes one key of a recipe; several are applied first and checked together, so that their\n"
    "order does not matter. All that is wrong is listed. `driftd check-config FILE` checks a "
    "file.\n\n"
    "A recipe is named after its file, `NAME.json` in the folder of `--config-dir`: up to 63 "
    "bytes\n"
    "of UTF-8 without control characters. The name `schema` is reserved for\n"
    "`GET /v1/configs/schema`. A byte-order mark at the start of a file is skipped.\n";

static const char combinations[] =
    "\n## Combinations\n\n"
    "- `model.heads` divides `model.dim`; with `model.rope` the width of a head is even.\n"
    "- `model.patch` divides `data.size`; `features.quadrants` and `features.patch2` need an even\n"
    "  size, `features.patch4` a multiple of 4; at least one feature is on.\n"
    "- `model.label_dropout` needs `model.null_class`.\n"
    "- `train.alpha_min` is at most `train.alpha_max`; `train.classes` at most `data.classes`.\n"
    "- The reference draws guidance scales uniformly: `train.alpha_power: 0`, as in `mnist`. The\n"
    "  recipes tuned for small machines keep their own power: 3 in `mnist-cpu`, 1 in `digits` and\n"
    "  `fashion-mnist`.\n"
    "- With `train.sampler: queue`, `train.positives` is at most `train.queue_class` and\n"
    "  `train.unconditional` at most `train.queue_global`.\n"
    "- `loss.field: kernel-l2` has no unconditional negatives: `train.unconditional` is 0. It "
    "puts\n"
    "  every feature on the unit sphere: `features.rms` is 0. `loss.field: learned` has\n"
    "  `loss.bias: none`.\n"
    "- `eval.patience` needs `eval.every` or `eval.every_seconds`.\n"
    "- With a `data.size` under that of the files' images `data.fit` is `resize`. `idx` needs\n"
    "  `data.path`, which is relative and without `..`, and so does `folder`: a folder, an archive "
    "or\n"
    "  a picture file there (docs/data.md).\n"
    "- `data.crop` is less than `data.size`; it and `data.flip` need images. `data.background`,\n"
    "  `data.test_share` and `data.refuse_bad` are for `cifar10`, `cifar100` and `folder`.\n"
    "- A recipe of `kind: encoder` has the section `encoder`, and neither `model`, `features`, "
    "`loss`\n"
    "  nor the other keys of generators; a generator's recipe has no `encoder`. A key of the "
    "other\n"
    "  kind that is not at its default is an error.\n"
    "- `features.kind: pixel` and `kde` have no `features.encoder`; `kde` needs one of "
    "`features.image`,\n"
    "  `quadrants`, `patch2` and `patch4`, `train.positives` of at least 2, and not `loss.field: "
    "learned`.\n"
    "- `encoder.mask_patch` divides `data.size` where masked pixels are predicted; `classify` and\n"
    "  `both` need two classes or more.\n"
    "- Points in two dimensions have `model.arch: mlp` and `features.image` alone, and only they "
    "do.\n";

// What the rows of engine/data/sets.def ask of the data section.
static void put_sets(FILE *o) {
    const struct dr_set_facts *f;
    fputs(
        "\n## Data sets\n\n| set | samples | classes | channels | from |\n|---|---|---|---|---|\n",
        o);
    for (int i = 0; (f = dr_set_facts(i)); i++) {
        static const char *const kind[] = {"images", "points", "latents"};
        char side[32] = "", classes[32] = "`data.classes`", channels[32] = "`data.channels`";
        if (f->side)
            snprintf(side, sizeof side, " of %dx%d", (int)f->side, (int)f->side);
        if (f->classes)
            snprintf(classes, sizeof classes, "%d", (int)f->classes);
        if (f->channels)
            snprintf(channels, sizeof channels, "%d", (int)f->channels);
        fprintf(o, "| `%s` | %s%s | %s | %s | %s |\n", f->name, kind[f->kind], side, classes,
                f->kind == DR_KIND_POINTS ? "" : channels,
                f->made     ? "code: `data.count` of them"
                : f->folder ? "files in `data.path`"
                            : "files in the folder of its name, or `data.path`");
    }
}

static char *values_of(json_t *key) {
    char *text = NULL;
    size_t size, i;
    json_t *v, *values = json_object_get(key, "values");
    FILE *o = open_memstream(&text, &size);
    if (!o)
        return NULL;
    json_array_foreach(values, i, v) fprintf(o, "%s`%s`", i ? ", " : "", json_string_value(v));
    char *lo = json_dumps(json_object_get(key, "min"), JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    char *hi = json_dumps(json_object_get(key, "max"), JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    if (lo && hi)
        fprintf(o, "%s to %s", lo, hi);
    free(lo);
    free(hi);
    fclose(o);
    return text;
}

static void put_row(FILE *o, json_t *key) {
    char *def =
        json_dumps(json_object_get(key, "default"), JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    char *values = values_of(key);
    fprintf(o, "| `%s` | %s | `%s` | %s | %s |\n", json_string_value(json_object_get(key, "path")),
            json_string_value(json_object_get(key, "type")), def ? def : "", values ? values : "",
            json_string_value(json_object_get(key, "doc")));
    free(def);
    free(values);
}

static char *page(void) {
    char *schema = dr_config_schema_json(), *text = NULL, section[64] = "-";
    json_t *keys = schema ? json_loads(schema, 0, NULL) : NULL, *key;
    size_t size, i;
    FILE *o = open_memstream(&text, &size);
    if (!o)
        exit(1);
    fputs(intro, o);
    json_array_foreach(keys, i, key) {
        const char *path = json_string_value(json_object_get(key, "path"));
        const char *dot = strchr(path, '.');
        char now[64];
        snprintf(now, sizeof now, "%.*s", dot ? (int)(dot - path) : 0, path);
        if (strcmp(now, section) != 0)
            fprintf(
                o,
                "\n## %s\n\n| key | type | default | values | meaning |\n|---|---|---|---|---|\n",
                *now ? now : "The recipe");
        memcpy(section, now, sizeof now);
        put_row(o, key);
    }
    put_sets(o);
    fputs(combinations, o);
    fclose(o);
    json_decref(keys);
    free(schema);
    return text;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    char *text = page();
    int rc = 1;
    if (strcmp(argv[1], "write") == 0) {
        FILE *f = fopen(argv[2], "w");
        rc = !f || fputs(text, f) < 0;
        rc |= f && fclose(f) != 0;
    } else {
        FILE *f = fopen(argv[2], "r");
        size_t size = strlen(text);
        char *old = calloc(1, size + 2);
        if (f && old)
            rc = fread(old, 1, size + 1, f) != size || memcmp(old, text, size) != 0;
        if (f)
            fclose(f);
        free(old);
        if (rc)
            printf("%s is out of date; run: ninja -C build update-docs\n", argv[2]);
    }
    free(text);
    return rc;
}
