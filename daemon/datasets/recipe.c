// A recipe fitted to a data set: the recipe `folder` of the configuration folder where there is
// time, and a picture large enough, for the encoder that it asks for, else the build's for a small
// CPU, with what the set dictates changed. Any thread.
#include "daemon/datasets/datasets_priv.h"

#include "daemon/base/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKENS_SIDE = 8, MIN_TOKENS_SIDE = 4, ALL_CLASSES = 16, SOME_CLASSES = 10 };
enum { MAX_PATCH = 64 };     // of model.patch
enum { ENCODER_WORTH = 30 }; // minutes, from which on an encoder is trained first
enum { ENCODER_SIDE = 8 };   // pixels, below which there is nothing for it to see

// A patch that leaves at most 8 x 8 tokens, or 16 x 16 where that leaves fewer than 4 x 4; else the
// largest there may be.
static int64_t patch_for(int64_t size) {
    for (int64_t side = MAX_TOKENS_SIDE; side <= 2 * MAX_TOKENS_SIDE; side *= 2)
        for (int64_t p = 1; p <= DR_MIN(size, (int64_t)MAX_PATCH); p++)
            if (size % p == 0 && size / p <= side) {
                if (size / p >= MIN_TOKENS_SIDE)
                    return p;
                break;
            }
    for (int64_t p = DR_MIN(size / MIN_TOKENS_SIDE, (int64_t)MAX_PATCH); p > 0; p--)
        if (size % p == 0)
            return p;
    return size % 2 ? 1 : 2;
}

// Sets "section.key", which may be there nested or dotted.
static void set(json_t *root, const char *path, json_t *value) {
    char section[32];
    const char *dot = strchr(path, '.');
    snprintf(section, sizeof section, "%.*s", (int)(dot - path), path);
    json_object_del(root, path);
    json_t *o = json_object_get(root, section);
    if (!json_is_object(o)) {
        o = json_object();
        json_object_set_new(root, section, o);
    }
    json_object_set_new(o, dot + 1, value);
}

// The text of the recipe to start from; malloc'd.
static char *base_text(const char *config_dir, int64_t size, double minutes, bool *own) {
    char path[DD_PATH_MAX], *text = NULL;
    *own = config_dir && minutes >= ENCODER_WORTH && size >= ENCODER_SIDE &&
           !dd_path(path, NULL, "%s/folder.json", config_dir) &&
           !dd_read_file(path, 1 << 20, &text, NULL, NULL);
    if (*own)
        return text;
    for (const struct dd_builtin_recipe *r = dd_builtin_recipes; r->name; r++)
        if (!strcmp(r->name, "mnist-pixels"))
            return dd_xstrdup(r->json);
    return NULL;
}

// What the set dictates.
static void fit_data(json_t *root, const char *name, const struct dd_dataset_facts *f) {
    json_t *data = json_object();
    set(root, "data.set", json_string("folder"));
    json_object_set_new(root, "data", data);
    json_object_set_new(data, "set", json_string("folder"));
    json_object_set_new(data, "path", json_string(name));
    json_object_set_new(data, "size", json_integer(f->size));
    json_object_set_new(data, "channels", json_integer(f->channels));
    json_object_set_new(data, "classes", json_integer(f->classes));
    if (f->smallest < 1000) // few pictures: mirrored ones are more
        json_object_set_new(data, "flip", json_true());
}

static int64_t number(const json_t *root, const char *section, const char *key, int64_t otherwise) {
    const json_t *v = json_object_get(json_object_get(root, section), key);
    return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

static void fit_training(json_t *root, const struct dd_dataset_facts *f, double minutes) {
    const int64_t positives = number(root, "train", "positives", 32);
    const int64_t unconditional = number(root, "train", "unconditional", 0);
    set(root, "train.classes", json_integer(f->classes > ALL_CLASSES ? SOME_CLASSES : 0));
    set(root, "train.positives", json_integer(DR_MAX((int64_t)1, DR_MIN(positives, f->smallest))));
    set(root, "train.unconditional", json_integer(DR_MIN(unconditional, f->train)));
    set(root, "train.sampler", json_string("exact"));
    set(root, "train.minutes", json_real(minutes)); // the steps that this machine does in that time
    if (f->size % 2) {
        set(root, "features.quadrants", json_false());
        set(root, "features.patch2", json_false());
    }
    if (f->size % 4)
        set(root, "features.patch4", json_false());
}

int dd_dataset_recipe(struct dd_store *s, const char *config_dir, const char *name, double minutes,
                      struct dr_config *out, struct dr_err *err) {
    struct dd_dataset_facts f;
    bool own;
    int rc = dd_dataset_facts(s, name, &f, err);
    if (rc == DR_ENOENT && dd_builtin_set(name))
        return dr_fail(
            err, rc,
            "%s is a data set of the build, for which there are recipes; one is fitted to "
            "sets that users have added",
            name);
    if (rc)
        return rc;
    char *text = base_text(config_dir, f.size, minutes, &own);
    json_t *root = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    free(text);
    if (!json_is_object(root)) {
        json_decref(root);
        return dr_fail(err, DR_ECONFIG, "the recipe folder.json is not a JSON object");
    }
    fit_data(root, name, &f);
    fit_training(root, &f, minutes);
    const bool levels = json_object_get(json_object_get(root, "model"), "widths"); // no patches
    if (!own) { // made for white digits on black
        set(root, "model.patch", json_integer(patch_for(f.size)));
        set(root, "model.out_bias", json_real(0));
        set(root, "features.rms_gain", json_real(1));
        set(root, "optim.lr", json_real(2e-3));
    } else if (!levels && f.size % DR_MAX((int64_t)1, number(root, "model", "patch", 4))) {
        set(root, "model.patch", json_integer(patch_for(f.size)));
    }
    json_object_set_new(root, "name", json_string(name));
    json_object_set_new(root, "about", json_sprintf("%s, fitted to this data set", name));
    text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    rc = text ? dr_config_parse(text, strlen(text), NULL, out, err)
              : dr_fail(err, DR_ENOMEM, "out of memory");
    free(text);
    return rc;
}
