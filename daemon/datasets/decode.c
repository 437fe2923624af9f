// Options of an import, and the import itself: the engine's, with its report as the row keeps it.
// Called by the thread of datasets.c; the options are checked on HTTP's.
#include "daemon/datasets/datasets_priv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIDE = 1024, REASONS = 100 };
enum { MAX_CLASSES = 100000 }; // of data.classes: no job could use the labels of more

// In the order of enum dr_fit.
static const char *const fits[] = {
    [DR_FIT_PAD] = "pad", [DR_FIT_RESIZE] = "resize", [DR_FIT_CROP] = "crop", [DR_FIT_FIT] = "fit"};
enum { NFITS = sizeof fits / sizeof *fits };

static const char *const keys[] = {"size",       "channels", "fit",       "background",
                                   "refuse_bad", "seed",     "test_share"};
enum { NKEYS = sizeof keys / sizeof *keys };

void dd_dataset_fault(struct dd_dataset_faults *f, const struct dr_err *e) {
    dr_problems_add(f->list, e);
    if (f->rc)
        return;
    f->rc = e->code;
    *f->err = *e;
}

static void wrong(struct dd_dataset_faults *f, const char *key, const char *why) {
    struct dr_err e = {0};
    char field[sizeof e.field];
    snprintf(field, sizeof field, "options%s%.60s", *key ? "." : "", key);
    dr_fail_at(&e, DR_EINVAL, field, "%s: %s", field, why);
    dd_dataset_fault(f, &e);
}

static int fit_of(const char *word) {
    for (int i = 0; word && i < NFITS; i++)
        if (!strcmp(fits[i], word))
            return i;
    return -1;
}

static void check_keys(const json_t *options, struct dd_dataset_faults *f) {
    const char *key;
    char text[120];
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)options, key, v) {
        bool found = false;
        for (int i = 0; i < NKEYS; i++)
            found |= !strcmp(keys[i], key);
        if (found)
            continue;
        const char *near = dr_nearest(key, keys, NKEYS);
        snprintf(text, sizeof text, "there is no such option%s%s%s", near ? "; did you mean `" : "",
                 near ? near : "", near ? "`?" : "");
        wrong(f, key, text);
    }
}

// An integer within [lo, hi]; absent or null: *out stays.
static void whole(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out,
                  struct dd_dataset_faults *f) {
    const json_t *v = json_object_get(o, key);
    char text[80];
    if (!v || json_is_null(v))
        return;
    *out = json_integer_value(v);
    snprintf(text, sizeof text, "expected a whole number from %lld to %lld", (long long)lo,
             (long long)hi);
    if (!json_is_integer(v) || *out < lo || *out > hi)
        wrong(f, key, text);
}

static int colour(const char *text, uint8_t out[3]) {
    unsigned rgb;
    char more;
    if (!text || strlen(text) != 7 || text[0] != '#' ||
        strspn(text + 1, "0123456789abcdefABCDEF") != 6 ||
        sscanf(text + 1, "%x%c", &rgb, &more) != 1)
        return -1;
    out[0] = (uint8_t)(rgb >> 16);
    out[1] = (uint8_t)(rgb >> 8);
    out[2] = (uint8_t)rgb;
    return 0;
}

static void read_options(const json_t *o, struct dr_import_options *out,
                         struct dd_dataset_faults *f) {
    dr_import_defaults(out);
    out->max_classes = MAX_CLASSES;
    out->present = true;
    int64_t seed = (int64_t)out->seed;
    const json_t *v;
    check_keys(o, f);
    whole(o, "size", 0, MAX_SIDE, &out->size, f);
    whole(o, "channels", 0, 3, &out->channels, f);
    if (out->channels == 2)
        wrong(f, "channels", "expected 1 (grey) or 3 (colour)");
    whole(o, "seed", 0, (int64_t)1 << 53, &seed, f);
    out->seed = (uint64_t)seed;
    if ((v = json_object_get(o, "fit")) && (out->fit = fit_of(json_string_value(v))) < 0)
        wrong(f, "fit", "expected crop, fit, resize or pad");
    if ((v = json_object_get(o, "background")) && colour(json_string_value(v), out->background))
        wrong(f, "background", "expected a colour as #rrggbb");
    if ((v = json_object_get(o, "refuse_bad"))) {
        out->refuse_bad = json_is_true(v);
        if (!json_is_boolean(v))
            wrong(f, "refuse_bad", "expected true or false");
    }
    if ((v = json_object_get(o, "test_share"))) {
        out->test_share = json_number_value(v);
        if (!json_is_number(v) || out->test_share < 0 || out->test_share > 0.9)
            wrong(f, "test_share", "expected a number from 0 to 0.9");
    }
}

int dd_dataset_fit(struct dd_store *s, struct dr_data_config *cfg, struct dr_err *err) {
    struct dd_dataset_row row;
    struct dr_import_options o;
    struct dd_dataset_faults f = {.err = err};
    if (!dd_dataset_named(cfg))
        return 0;
    int rc = dd_dataset_row_get(s, cfg->path, &row, err);
    if (rc)
        return rc == DR_ENOENT ? 0 : rc;
    json_t *options = json_loads(row.options, 0, NULL);
    read_options(options, &o, &f);
    if (!f.rc) {
        cfg->fit = o.fit;
        snprintf(cfg->background, sizeof cfg->background, "#%02x%02x%02x", o.background[0],
                 o.background[1], o.background[2]);
    }
    json_decref(options);
    dd_dataset_row_free(&row);
    return f.rc;
}

json_t *dd_dataset_options(const json_t *options, struct dd_dataset_faults *f) {
    struct dr_import_options o = {0};
    char colour_text[8];
    if (options && !json_is_object(options))
        wrong(f, "", "expected an object");
    else
        read_options(options, &o, f);
    if (f->rc)
        return NULL;
    snprintf(colour_text, sizeof colour_text, "#%02x%02x%02x", o.background[0], o.background[1],
             o.background[2]);
    return json_pack("{s:I, s:I, s:s, s:s, s:b, s:I, s:f}", "size", (json_int_t)o.size, "channels",
                     (json_int_t)o.channels, "fit", fits[o.fit], "background", colour_text,
                     "refuse_bad", o.refuse_bad, "seed", (json_int_t)o.seed, "test_share",
                     o.test_share);
}

struct decoding {
    const struct dd_decode *in;
    struct dr_err full; // why there is no room, if that has ended it
};

static bool on_progress(void *ctx, const struct dr_import_progress *p) {
    struct decoding *run = ctx;
    const struct dd_decode *in = run->in;
    // Of an archive only the bytes are known.
    const bool files = p->stage == DR_IMPORT_WRITING || p->total > 0;
    if (p->stage != DR_IMPORT_LISTING)
        in->progress(in->arg, files ? p->done : p->bytes, files ? p->total : p->total_bytes);
    return !atomic_load(in->cancel) && !(in->room && in->room(in->arg, p->to_write, &run->full));
}

// What the dashboard and `data show` print: the engine's report with fewer names.
static json_t *report_json(const struct dr_import_report *r) {
    json_t *skipped = json_array(), *notes = json_array();
    for (int64_t i = 0; i < r->nskip && i < REASONS; i++)
        json_array_append_new(
            skipped, json_pack("{s:s, s:s}", "file", r->skip[i].name, "reason", r->skip[i].reason));
    for (int64_t i = 0; i < r->nnote && i < REASONS; i++)
        json_array_append_new(notes, json_string(r->note[i]));
    return json_pack("{s:s*, s:I, s:o, s:o, s:[I,I], s:[I,I], s:I, s:I, s:b, s:f}", "source",
                     r->source, "skipped", (json_int_t)r->skipped, "reasons", skipped, "notes",
                     notes, "smallest", (json_int_t)r->min_w, (json_int_t)r->min_h, "largest",
                     (json_int_t)r->max_w, (json_int_t)r->max_h, "median_side",
                     (json_int_t)r->median_side, "upscaled", (json_int_t)r->upscaled, "own_test",
                     r->own_test, "seconds", round(r->seconds * 1000) / 1000);
}

static void fill_result(const struct dr_import_report *r, struct dd_dataset_result *out) {
    out->size = r->size;
    out->channels = r->channels;
    out->train = r->train;
    out->test = r->test;
    out->bytes = r->file_bytes;
    snprintf(out->fingerprint, sizeof out->fingerprint, "%016llx",
             (unsigned long long)r->fingerprint);
    out->classes = json_array();
    for (int64_t k = 0; k < r->classes; k++)
        json_array_append_new(out->classes, json_pack("{s:s, s:I, s:I}", "name", r->class[k].name,
                                                      "train", (json_int_t)r->class[k].train,
                                                      "test", (json_int_t)r->class[k].test));
    out->report = report_json(r);
}

int dd_dataset_decode(const struct dd_decode *in, struct dd_dataset_result *out,
                      struct dr_err *err) {
    struct dr_import_options o;
    struct dr_import_report r = {0};
    struct decoding run = {.in = in};
    struct dd_dataset_faults f = {.err = err};
    *out = (struct dd_dataset_result){0};
    read_options(in->options, &o, &f);
    int rc = f.rc;
    dr_workers_use(in->threads);
    if (!rc)
        rc = dr_pictures_import(in->source, in->cache, &o, on_progress, &run, &r, err);
    if (rc == DR_ECANCELED && run.full.code) {
        rc = run.full.code;
        *err = run.full;
    }
    dr_workers_rest();
    if (!rc)
        fill_result(&r, out);
    else
        out->report = report_json(&r); // what was skipped before it failed
    dr_import_report_free(&r);
    return rc;
}
