// Configurations from JSON: defaults, parsing over them, `key=value` changes. See config.h; the
// table is in field.c, the cross checks in check.c, JSON out in emit.c.
#include "engine/config/field.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE (1 << 20) // a configuration is a page, not a megabyte

void dr_config_defaults(struct dr_config *c) {
    int n;
    const struct dr_config_field *f = dr_config_fields(&n);
    memset(c, 0, sizeof *c);
    for (int i = 0; i < n; i++) {
        json_t *v = NULL;
        switch (f[i].type) {
        case DR_F_INT:
            v = json_integer((json_int_t)f[i].def);
            break;
        case DR_F_NUM:
            v = json_real(f[i].def);
            break;
        case DR_F_BOOL:
            v = json_boolean(f[i].def != 0);
            break;
        case DR_F_ENUM:
        case DR_F_STR:
            v = json_string(f[i].text);
            break;
        case DR_F_LIST:
            v = json_loads(f[i].text, 0, NULL);
            break;
        }
        dr_config_assign(c, &f[i], f[i].path, v, NULL);
        json_decref(v);
    }
    dr_config_link(c);
}

// ---- parsing ----

// One pass over a JSON object. `seen` has a flag per field: a key may be nested or dotted, but only
// once.
struct walk {
    struct dr_config *c;
    bool *seen;
    struct dr_notes *notes;
};

// False: a problem was found and nobody asks for more.
static bool walk_object(struct walk *w, const char *prefix, json_t *object);

static bool is_section(const char *path) {
    int n;
    const struct dr_config_field *f = dr_config_fields(&n);
    size_t len = strlen(path);
    for (int i = 0; i < n; i++)
        if (strncmp(f[i].path, path, len) == 0 && f[i].path[len] == '.')
            return true;
    return false;
}

static void mark_bad(struct dr_notes *notes, const struct dr_config_field *f) {
    int n;
    if (f && notes->bad)
        notes->bad[f - dr_config_fields(&n)] = true;
}

static bool walk_key(struct walk *w, const char *path, json_t *v) {
    int n;
    struct dr_err e = {0};
    const struct dr_config_field *f = dr_config_field(path), *all = dr_config_fields(&n);
    if (f) {
        const bool twice = w->seen[f - all];
        w->seen[f - all] = true;
        if (twice)
            dr_fail_at(&e, DR_ECONFIG, path, "%s is given twice", path);
        else if (dr_config_assign(w->c, f, path, v, &e))
            mark_bad(w->notes, f);
        return !e.code || dr_note(w->notes, &e);
    }
    if (!is_section(path)) {
        mark_bad(w->notes, dr_config_meant(path));
        dr_config_unknown(path, &e);
        return dr_note(w->notes, &e);
    }
    if (json_is_object(v))
        return walk_object(w, path, v);
    dr_notes_bad_section(w->notes, path);
    dr_fail_at(&e, DR_ECONFIG, path, "%s is a section; expected an object of its keys", path);
    return dr_note(w->notes, &e);
}

static bool walk_object(struct walk *w, const char *prefix, json_t *object) {
    const char *key;
    json_t *v;
    json_object_foreach(object, key, v) {
        char path[256];
        int n = snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", key);
        struct dr_err e;
        if (n < (int)sizeof path) {
            if (!walk_key(w, path, v))
                return false;
            continue;
        }
        dr_fail_at(&e, DR_ECONFIG, path, "unknown key `%.60s...`", path);
        if (!dr_note(w->notes, &e))
            return false;
    }
    return true;
}

static json_t *load_text(const char *json, size_t len, struct dr_err *err) {
    json_error_t je;
    if (len >= 3 && !memcmp(json, "\xef\xbb\xbf", 3)) { // the byte-order mark of some editors
        json += 3;
        len -= 3;
    } else if (len >= 2 && (!memcmp(json, "\xff\xfe", 2) || !memcmp(json, "\xfe\xff", 2))) {
        dr_fail(err, DR_ECONFIG, "the text is UTF-16; expected JSON in UTF-8");
        return NULL;
    }
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        dr_fail(err, DR_ECONFIG, "line %d, column %d: %s", je.line, je.column, je.text);
    else if (!json_is_object(root)) {
        dr_fail(err, DR_ECONFIG, "expected a JSON object of configuration keys");
        json_decref(root);
        root = NULL;
    }
    return root;
}

// Over *c, which stays as it is after a problem; c NULL: each key by itself, nothing is kept.
static int merge_object(struct dr_config *c, json_t *root, struct dr_problems *list,
                        struct dr_err *err) {
    int n;
    dr_config_fields(&n);
    bool *seen = calloc(2 * (size_t)n, sizeof *seen);
    if (!seen)
        return dr_fail(err, DR_ENOMEM, "out of memory");
    struct dr_config next;
    struct dr_notes notes = {.err = err, .list = list, .bad = seen + n};
    struct walk w = {.c = &next, .seen = seen, .notes = &notes};
    dr_config_defaults(&next);
    if (c)
        next = *c;
    if (walk_object(&w, "", root) && c) {
        dr_config_link(&next);
        dr_config_check(&next, &notes);
    }
    free(seen);
    if (!notes.rc && c)
        *c = next;
    return notes.rc;
}

// Puts the source before what a call has found: err's sentence, and the rows from `first` on.
static int prefix_all(struct dr_err *err, int rc, const char *where, struct dr_problems *list,
                      int first) {
    for (int i = first; list && i < list->n; i++) {
        struct dr_err e = {.code = rc};
        snprintf(e.msg, sizeof e.msg, "%s", list->row[i].msg);
        dr_fail_prefix(&e, rc, where);
        memcpy(list->row[i].msg, e.msg, sizeof e.msg);
    }
    return dr_fail_prefix(err, rc, where);
}

// `err` takes what makes the text unreadable as JSON; the list as well.
static json_t *load_listed(const char *json, size_t len, struct dr_problems *list,
                           struct dr_err *err) {
    struct dr_err e = {0};
    json_t *root = load_text(json, len, &e);
    if (!root) {
        dr_problems_add(list, &e);
        if (err)
            *err = e;
    }
    return root;
}

int dr_config_merge_listed(struct dr_config *c, const char *json, size_t len, const char *where,
                           struct dr_problems *list, struct dr_err *err) {
    const int first = list ? list->n : 0;
    json_t *root = load_listed(json, len, list, err);
    int rc = root ? merge_object(c, root, list, err) : DR_ECONFIG;
    json_decref(root);
    return rc && where ? prefix_all(err, rc, where, list, first) : rc;
}

int dr_config_parse_listed(const char *json, size_t len, const char *where, struct dr_config *out,
                           struct dr_problems *list, struct dr_err *err) {
    struct dr_config c;
    dr_config_defaults(&c);
    int rc = dr_config_merge_listed(&c, json, len, where, list, err);
    if (!rc)
        *out = c;
    return rc;
}

int dr_config_merge(struct dr_config *c, const char *json, size_t len, const char *where,
                    struct dr_err *err) {
    return dr_config_merge_listed(c, json, len, where, NULL, err);
}

int dr_config_parse(const char *json, size_t len, const char *where, struct dr_config *out,
                    struct dr_err *err) {
    return dr_config_parse_listed(json, len, where, out, NULL, err);
}

// Opens without waiting for a writer: a FIFO among the recipes must not hang the reader.
static int open_regular(const char *path, int *fd, struct dr_err *err) {
    struct stat st = {0};
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0)
        return dr_fail(err, errno == ENOENT ? DR_ENOENT : DR_EIO, "%.300s: %s", path,
                       strerror(errno));
    if (!fstat(*fd, &st) && S_ISREG(st.st_mode) && st.st_size <= MAX_FILE)
        return 0;
    const bool regular = S_ISREG(st.st_mode);
    close(*fd);
    if (regular)
        return dr_fail(err, DR_ECONFIG, "%.300s: larger than %d bytes", path, MAX_FILE);
    return dr_fail(err, DR_EIO, "%.300s: not a regular file", path);
}

int dr_config_load(const char *path, struct dr_config *out, struct dr_err *err) {
    return dr_config_load_listed(path, out, NULL, err);
}

int dr_config_load_listed(const char *path, struct dr_config *out, struct dr_problems *list,
                          struct dr_err *err) {
    int fd, rc = open_regular(path, &fd, err);
    if (rc)
        return rc;
    char *text = malloc(MAX_FILE + 1);
    size_t n = 0;
    ssize_t got = text ? 1 : -1;
    while (got > 0 && n <= MAX_FILE) { // the file may grow while it is read
        got = read(fd, text + n, MAX_FILE + 1 - n);
        n += got > 0 ? (size_t)got : 0;
        if (got < 0 && errno == EINTR)
            got = 1;
    }
    if (!text)
        rc = dr_fail(err, DR_ENOMEM, "%.300s: out of memory", path);
    else if (got < 0)
        rc = dr_fail(err, DR_EIO, "%.300s: %s", path, strerror(errno));
    else if (n > MAX_FILE)
        rc = dr_fail(err, DR_ECONFIG, "%.300s: larger than %d bytes", path, MAX_FILE);
    else
        rc = dr_config_parse_listed(text, n, path, out, list, err);
    free(text);
    close(fd);
    return rc;
}

// ---- changes ----

// The value of an assignment: JSON, or a bare word.
static json_t *assignment_value(const struct dr_config_field *f, const char *text) {
    json_t *v = NULL;
    bool words = f->type == DR_F_STR || f->type == DR_F_ENUM;
    if (!words || text[0] == '"')
        v = json_loads(text, JSON_DECODE_ANY, NULL);
    return v ? v : json_string(text);
}

static int apply(struct dr_config *c, const char *assignment, struct dr_notes *notes,
                 struct dr_err *err) {
    const char *eq = strchr(assignment, '=');
    char path[128];
    if (!eq || eq == assignment || eq - assignment >= (ptrdiff_t)sizeof path)
        return dr_fail(err, DR_ECONFIG, "`%.80s`: expected KEY=VALUE, like model.dim=128",
                       assignment);
    snprintf(path, sizeof path, "%.*s", (int)(eq - assignment), assignment);
    const struct dr_config_field *f = dr_config_field(path);
    if (!f && is_section(path))
        return dr_fail_at(err, DR_ECONFIG, path,
                          "%s is a section; set one of its keys, like model.dim=128", path);
    mark_bad(notes, f ? NULL : dr_config_meant(path));
    if (!f)
        return dr_config_unknown(path, err);
    json_t *v = assignment_value(f, eq + 1);
    if (!v)
        return dr_fail_at(err, DR_ECONFIG, path, "%s: the value is not UTF-8", path);
    int rc = dr_config_assign(c, f, path, v, err);
    json_decref(v);
    mark_bad(notes, rc ? f : NULL);
    return rc;
}

int dr_config_set_all(struct dr_config *c, const char *const *assignments, int n,
                      struct dr_err *err) {
    return dr_config_set_listed(c, assignments, n, NULL, err);
}

int dr_config_set_listed(struct dr_config *c, const char *const *assignments, int n,
                         struct dr_problems *list, struct dr_err *err) {
    struct dr_config next;
    int nfields;
    dr_config_fields(&nfields);
    bool *bad = calloc((size_t)nfields, sizeof *bad), more = true;
    if (!bad)
        return dr_fail(err, DR_ENOMEM, "out of memory");
    struct dr_notes notes = {.err = err, .list = list, .bad = bad};
    dr_config_defaults(&next);
    if (c)
        next = *c;
    for (int i = 0; i < n && more; i++) {
        struct dr_err e = {0};
        if (apply(&next, assignments[i], &notes, &e))
            more = dr_note(&notes, &e);
    }
    if (more && c) {
        dr_config_link(&next);
        dr_config_check(&next, &notes);
    }
    free(bad);
    if (!notes.rc && c)
        *c = next;
    return notes.rc;
}

int dr_config_set(struct dr_config *c, const char *assignment, struct dr_err *err) {
    return dr_config_set_all(c, &assignment, 1, err);
}

// ---- the model section alone ----

static int assign_kind(int *kind, json_t *v, struct dr_err *err) {
    *kind = json_is_string(v) ? dr_enum_index(dr_kind_words, json_string_value(v)) : -1;
    if (*kind < 0)
        return dr_fail_at(err, DR_ECONFIG, "kind", "kind: expected one of %s", dr_kind_words);
    return 0;
}

static int parse_model_object(json_t *root, struct dr_config *c, struct dr_err *err) {
    const char *key;
    json_t *v;
    int kind = -1, rc = 0;
    json_object_foreach(root, key, v) {
        bool shape = !strcmp(key, "size") || !strcmp(key, "channels") || !strcmp(key, "classes");
        char path[128];
        snprintf(path, sizeof path, "%s.%.100s", shape ? "data" : "model", key);
        const struct dr_config_field *f = dr_config_field(path);
        if (!strcmp(key, "kind"))
            rc = assign_kind(&kind, v, err);
        else
            rc = f ? dr_config_assign(c, f, key, v, err) : dr_config_unknown(path, err);
        if (rc)
            return rc;
    }
    c->model.size = c->data.size;
    c->model.channels = c->data.channels;
    c->model.classes = DR_MAX(c->data.classes, 1);
    c->model.kind = kind < 0 ? dr_model_implied_kind(&c->model) : kind;
    return dr_model_config_check(&c->model, err);
}

int dr_model_config_parse(const char *json, size_t len, const char *where,
                          struct dr_model_config *out, struct dr_err *err) {
    struct dr_config c;
    dr_config_defaults(&c);
    json_t *root = load_text(json, len, err);
    int rc = DR_ECONFIG;
    if (root) {
        bool whole = json_object_get(root, "model") || json_object_get(root, "data");
        rc = whole ? merge_object(&c, root, NULL, err) : parse_model_object(root, &c, err);
    }
    json_decref(root);
    if (!rc && c.kind != DR_RECIPE_TRAIN)
        rc = dr_fail_at(err, DR_ECONFIG, "kind",
                        "kind is %s; expected the configuration of a generator",
                        dr_recipe_word(c.kind));
    if (rc)
        return where ? dr_fail_prefix(err, rc, where) : rc;
    *out = c.model;
    return 0;
}

int64_t dr_config_batch(const struct dr_config *c) {
    return (c->train.classes ? c->train.classes : c->model.classes) * c->train.generated;
}

struct dr_guidance_range dr_config_guidance_range(const struct dr_config *c) {
    const double lo = c->train.alpha_min; // alpha_one_fraction draws 1 outside the range as well
    return (struct dr_guidance_range){.lo = c->train.alpha_one_fraction > 0 ? 1 : lo,
                                      .hi = c->train.alpha_max};
}

struct dr_guidance_range dr_guidance_range_parse(const char *json, size_t len) {
    struct dr_config c;
    json_t *root = load_text(json, len, NULL);
    const bool trained = json_is_object(json_object_get(root, "train"));
    json_decref(root);
    if (!trained || dr_config_parse(json, len, NULL, &c, NULL))
        return (struct dr_guidance_range){0};
    return dr_config_guidance_range(&c);
}
