// The report of an import (see pictures.h): what is left out and noted, to and from JSON. Kept in
// the picture file, shown by whoever keeps data sets.
#include "engine/data/pictures_priv.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBERS(X)                                                                                 \
    X(size)                                                                                        \
    X(channels)                                                                                    \
    X(train)                                                                                       \
    X(test)                                                                                        \
    X(min_w)                                                                                       \
    X(min_h)                                                                                       \
    X(max_w)                                                                                       \
    X(max_h)                                                                                       \
    X(median_side)                                                                                 \
    X(upscaled)                                                                                    \
    X(skipped)                                                                                     \
    X(read_bytes)                                                                                  \
    X(file_bytes)

static const char *const fits[] = {
    [DR_FIT_PAD] = "pad", [DR_FIT_RESIZE] = "resize", [DR_FIT_CROP] = "crop", [DR_FIT_FIT] = "fit"};

void dr_import_report_free(struct dr_import_report *r) {
    if (!r)
        return;
    for (int64_t i = 0; r->class && i < r->classes; i++)
        free(r->class[i].name);
    for (int64_t i = 0; i < r->nskip; i++) {
        free(r->skip[i].name);
        free(r->skip[i].reason);
    }
    for (int64_t i = 0; i < r->nnote; i++)
        free(r->note[i]);
    free(r->source);
    free(r->class);
    free(r->skip);
    free(r->note);
    *r = (struct dr_import_report){0};
}

// A name as it may stand in a sentence or in JSON; those beyond a path's length are cut.
static char *printable(const char *name) {
    size_t n = strnlen(name, PATH_MAX);
    while (n && (uint8_t)name[n] >> 6 == 2) // not within a character
        n--;
    char *s = strndup(name, n);
    const bool utf8 = s && pic_utf8(s);
    for (uint8_t *p = (uint8_t *)s; p && *p; p++)
        if (*p < 32 || *p == 127 || (!utf8 && *p > 127))
            *p = '?';
    return s;
}

int import_skip(struct dr_import *im, const char *path, bool bad, const char *fmt, ...) {
    struct dr_import_report *r = im->report;
    char *why = NULL, *name = printable(path);
    va_list ap;
    va_start(ap, fmt);
    const int n = vasprintf(&why, fmt, ap);
    va_end(ap);
    int rc = 0;
    if (n < 0 || !name)
        rc = dr_fail(im->err, DR_ENOMEM, "no memory for a report");
    else if (bad && im->o.refuse_bad)
        rc = dr_fail(im->err, DR_EFORMAT, "%.250s: %.240s", name, why);
    im->bad += bad;
    r->skipped += !im->probing;
    im->at.skipped = r->skipped;
    if (!rc && !im->probing && r->nskip < DR_IMPORT_SKIPS) {
        if (!r->skip)
            r->skip = calloc(DR_IMPORT_SKIPS, sizeof *r->skip);
        if (r->skip) {
            r->skip[r->nskip++] = (struct dr_import_skip){.name = name, .reason = why};
            return 0;
        }
        rc = dr_fail(im->err, DR_ENOMEM, "no memory for a report");
    }
    free(n < 0 ? NULL : why);
    free(name);
    return rc;
}

int import_note(struct dr_import *im, const char *fmt, ...) {
    struct dr_import_report *r = im->report;
    char *text = NULL, *plain;
    va_list ap;
    if (r->nnote == DR_IMPORT_SKIPS)
        return 0;
    va_start(ap, fmt);
    const int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    char **all = n < 0 ? NULL : realloc(r->note, (size_t)(r->nnote + 1) * sizeof *all);
    if (!all) {
        free(n < 0 ? NULL : text);
        return dr_fail(im->err, DR_ENOMEM, "no memory for a report");
    }
    r->note = all;
    if ((plain = printable(text))) { // names of folders are in it
        free(text);
        text = plain;
    }
    r->note[r->nnote++] = text;
    return 0;
}

static json_t *classes_json(const struct dr_import_report *r) {
    json_t *list = json_array();
    for (int64_t i = 0; i < r->classes; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "name", r->class[i].name, "train",
                                              (json_int_t)r->class[i].train, "test",
                                              (json_int_t)r->class[i].test));
    return list;
}

char *dr_import_report_json(const struct dr_import_report *r) {
    json_t *o = json_object(), *skip = json_array(), *note = json_array();
    char hex[20];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)r->fingerprint);
    json_object_set_new(o, "source", json_string(r->source ? r->source : ""));
    json_object_set_new(o, "fit", json_string(fits[r->fit]));
    json_object_set_new(o, "own_test", json_boolean(r->own_test));
    json_object_set_new(o, "seconds", json_real(r->seconds));
    json_object_set_new(o, "fingerprint", json_string(hex));
#define X(member) json_object_set_new(o, #member, json_integer((json_int_t)r->member));
    NUMBERS(X)
#undef X
    json_object_set_new(o, "classes", classes_json(r));
    for (int64_t i = 0; i < r->nskip; i++)
        json_array_append_new(
            skip, json_pack("{s:s, s:s}", "name", r->skip[i].name, "reason", r->skip[i].reason));
    for (int64_t i = 0; i < r->nnote; i++)
        json_array_append_new(note, json_string(r->note[i]));
    json_object_set_new(o, "skip", skip);
    const bool whole = json_array_size(skip) == (size_t)r->nskip &&
                       json_array_size(json_object_get(o, "classes")) == (size_t)r->classes;
    json_object_set_new(o, "notes", note);
    char *text = whole ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return text;
}

static char *copy(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? strdup(s) : NULL;
}

static bool read_classes(const json_t *list, struct dr_import_report *r) {
    const size_t n = json_array_size(list);
    r->class = calloc(n + 1, sizeof *r->class);
    for (size_t i = 0; r->class && i < n; i++) {
        const json_t *o = json_array_get(list, i);
        struct dr_import_class *k = &r->class[r->classes];
        if (!(k->name = copy(o, "name")))
            return false;
        k->train = json_integer_value(json_object_get(o, "train"));
        k->test = json_integer_value(json_object_get(o, "test"));
        r->classes++;
    }
    return r->class && n > 0;
}

static bool read_lists(const json_t *o, struct dr_import_report *r) {
    const json_t *skip = json_object_get(o, "skip"), *note = json_object_get(o, "notes");
    const size_t ns = json_array_size(skip), nn = json_array_size(note);
    r->skip = calloc(ns + 1, sizeof *r->skip);
    r->note = calloc(nn + 1, sizeof *r->note);
    for (size_t i = 0; r->skip && i < ns; i++) {
        struct dr_import_skip *s = &r->skip[r->nskip++];
        s->name = copy(json_array_get(skip, i), "name");
        s->reason = copy(json_array_get(skip, i), "reason");
        if (!s->name || !s->reason)
            return false;
    }
    for (size_t i = 0; r->note && i < nn; i++)
        if (!(r->note[r->nnote++] = strdup(json_string_value(json_array_get(note, i))
                                               ? json_string_value(json_array_get(note, i))
                                               : "")))
            return false;
    return r->skip && r->note;
}

int report_from_json(const char *json, size_t n, struct dr_import_report *r, struct dr_err *err) {
    json_t *o = json_loadb(json, n, 0, NULL);
    *r = (struct dr_import_report){0};
#define X(member) r->member = json_integer_value(json_object_get(o, #member));
    NUMBERS(X)
#undef X
    const char *fit = json_string_value(json_object_get(o, "fit"));
    for (int i = 0; fit && i < (int)DR_COUNT(fits); i++)
        r->fit = strcmp(fit, fits[i]) ? r->fit : i;
    r->own_test = json_is_true(json_object_get(o, "own_test"));
    r->seconds = json_number_value(json_object_get(o, "seconds"));
    r->source = copy(o, "source");
    bool ok = json_is_object(o) && r->source && read_classes(json_object_get(o, "classes"), r) &&
              read_lists(o, r);
    json_decref(o);
    if (ok)
        return 0;
    dr_import_report_free(r);
    return dr_fail(err, DR_EFORMAT, "the report of the import is damaged");
}
