// Which class of the data set each class of a source stands for, by their names (eval_priv.h).
#include "daemon/jobs/eval_priv.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "engine/io/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAMED = 4 }; // at most, in a sentence

bool dd_eval_needs_classes(const struct dd_eval_work *w) {
    for (int j = 0; j < w->njudges; j++)
        for (int i = 0; i < DR_EVAL_METRICS; i++)
            if ((w->judge[j].cfg.metrics >> i & 1) && (dr_eval_metrics[i].needs & DR_NEED_CLASSES))
                return true;
    return false;
}

void dd_eval_note(struct dd_eval_work *w, const struct dd_eval_run *r, const char *text,
                  char note[DD_EVAL_NOTE]) {
    char q[2 * DD_EVAL_NOTE];
    snprintf(note, DD_EVAL_NOTE, "%s", text);
    dd_trim_text(note);
    dd_log(DR_LOG_WARN, "eval.classes", "job=%lld eval=%lld note=%s", (long long)w->job->id,
           (long long)r->id, dd_log_quote(note, q, sizeof q));
    if (!w->noted) // the runs of a job have the same
        dd_job_alert(w->job, "eval", r->step, note);
    w->noted = true;
}

// --- names ---

static const char *name_of(const struct dr_dataset *d, int64_t k, char number[24]) {
    if (d->class_name)
        return d->class_name[k];
    snprintf(number, 24, "%lld", (long long)k);
    return number;
}

// Whether a folder of this name is that of a class: of "T-shirt/top" also T-shirt_top and T-shirt,
// since no folder has a slash in its name; of "7" also 007.
static bool is_named(const char *folder, const char *class) {
    const char *f = folder, *c = class;
    for (; *c; f++, c++)
        if (*f != *c && !(*c == '/' && *f && strchr("_- ", *f)))
            break;
    if (!*f && (!*c || *c == '/'))
        return true;
    if (folder[strspn(folder, "0123456789")])
        return false;
    while (folder[0] == '0' && folder[1])
        folder++;
    return !strcmp(folder, class);
}

// The class of d that a folder stands for; -1: none. hint: where to look first.
static int64_t find(const struct dr_dataset *d, const char *folder, int64_t hint) {
    char number[24];
    if (hint < d->classes && is_named(folder, name_of(d, hint, number)))
        return hint;
    for (int64_t k = 0; k < d->classes; k++)
        if (is_named(folder, name_of(d, k, number)))
            return k;
    return -1;
}

// The names of the classes of d for which at[k] < 0, as "a, b and 7 more".
static int64_t list(const struct dr_dataset *d, const int64_t *at, char out[200]) {
    char number[24];
    int64_t n = 0;
    size_t len = 0;
    out[0] = 0;
    for (int64_t k = 0; k < d->classes; k++)
        if (at[k] < 0 && n++ < NAMED) {
            snprintf(out + len, 200 - len, "%s%.40s", n > 1 ? ", " : "", name_of(d, k, number));
            len = strlen(out);
        }
    if (n > NAMED)
        snprintf(out + len, 200 - len, " and %lld more", (long long)(n - NAMED));
    dd_trim_text(out);
    return n;
}

static bool flat(const struct dr_dataset *d) {
    return d->classes == 1 && !strcmp(d->class_name[0], "all");
}

// --- a folder ---

// Why the folder's classes are not the data set's. to: of each of its classes, from: of each of
// the data set's.
static int differ(const struct dd_eval_work *w, const struct dr_dataset *folder, const int64_t *to,
                  const int64_t *from, struct dr_err *err) {
    char missing[200], strange[200];
    const bool m = list(w->train, from, missing), s = list(folder, to, strange);
    return dr_fail_at(err, DR_EINVAL, "eval.folder",
                      "eval.folder: %s%s%s%s%s; its class folders are to be those of the data set "
                      "(or none), or eval.metrics without classes, as `fd,kid`",
                      m ? "no picture of class " : "", missing, m && s ? "; " : "",
                      s ? "no class of the data: " : "", strange);
}

// to[k]: the class of the data set that class k of the folder stands for.
static int map(struct dd_eval_work *w, const struct dd_eval_run *r, const struct dr_dataset *folder,
               int64_t *to, int64_t *from, char note[DD_EVAL_NOTE], struct dr_err *err) {
    int64_t known = 0, found = 0, hint = 0;
    char text[DD_EVAL_NOTE], number[24];
    for (int64_t i = 0; i < w->train->classes; i++)
        from[i] = -1;
    for (int64_t k = 0; k < folder->classes; k++) {
        to[k] = find(w->train, folder->class_name[k], hint);
        if (to[k] < 0)
            continue;
        found += from[to[k]] < 0;
        from[to[k]] = k;
        hint = to[k] + 1;
        known++;
    }
    if (known == folder->classes && found == w->train->classes)
        return 0;
    if (known || folder->classes != w->train->classes || !dd_eval_needs_classes(w))
        return differ(w, folder, to, from, err);
    for (int64_t k = 0; k < folder->classes; k++)
        to[k] = k;
    snprintf(text, sizeof text,
             "no folder of %.100s has the name of a class: they were taken in their order, "
             "%.60s for %.60s and so on",
             w->job->cfg.eval.folder, folder->class_name[0], name_of(w->train, 0, number));
    dd_eval_note(w, r, text, note);
    return 0;
}

int dd_eval_match_folder(struct dd_eval_work *w, const struct dd_eval_run *r,
                         struct dr_dataset *folder, char note[DD_EVAL_NOTE], struct dr_err *err) {
    // `all` is what can be had.
    const bool wanted = dd_eval_needs_classes(w),
               needed = wanted && strcmp(w->job->cfg.eval.metrics, "all");
    const int64_t have = folder->classes, want = w->train->classes;
    int64_t *to = calloc((size_t)(have + want), sizeof *to);
    int rc = to ? 0 : dr_fail(err, DR_ENOMEM, "no memory for %lld classes", (long long)have);
    bool unlabelled = want < 2 || flat(folder);
    struct dr_err why = {0};
    char text[DD_EVAL_NOTE];
    if (!rc && want > 1 && unlabelled && needed)
        rc = dr_fail_at(err, DR_EINVAL, "eval.metrics",
                        "eval.metrics: `%.60s` needs classes, and %.150s has no class folders",
                        w->job->cfg.eval.metrics, w->job->cfg.eval.folder);
    if (!rc && !unlabelled && map(w, r, folder, to, to + have, note, &why)) {
        unlabelled = true;
        snprintf(text, sizeof text, "measured without classes; %.280s", why.msg);
        if (needed)
            rc = dr_fail_at(err, why.code, why.field, "%s", why.msg);
        else if (wanted)
            dd_eval_note(w, r, text, note);
    }
    for (int64_t k = 0; k < have && unlabelled && !rc; k++)
        to[k] = 0;
    if (!rc)
        rc = dr_dataset_renumber(folder, to, unlabelled ? 1 : want, err);
    free(to);
    return rc;
}

// --- a checkpoint ---

// Its classes by name; NULL: not known. Free with json_decref.
static json_t *names_of(const char *path) {
    struct dr_st_file *f;
    struct dr_err ignored;
    if (dr_st_open(path, &f, &ignored))
        return NULL;
    const char *text = dr_st_meta(f, "driftd.classes");
    json_t *names = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    dr_st_close(f);
    return names;
}

int dd_eval_match_names(struct dd_eval_work *w, const struct dd_eval_run *r, const char *path,
                        char note[DD_EVAL_NOTE], struct dr_err *err) {
    const struct dr_dataset *d = w->train;
    if (!d->class_name || d->classes < 2)
        return 0;
    json_t *names = names_of(path), *own = json_object();
    const int64_t n = (int64_t)json_array_size(names);
    int64_t first = -1, known = 0;
    char text[DD_EVAL_NOTE];
    for (int64_t k = 0; k < n && n == d->classes; k++)
        json_object_set_new_nocheck(own, d->class_name[k], json_true());
    for (int64_t k = 0; k < n && n == d->classes; k++) {
        const char *name = json_string_value(json_array_get(names, (size_t)k));
        known += name && json_object_get(own, name);
        if (first < 0 && name && strcmp(name, d->class_name[k]))
            first = k;
    }
    json_decref(own);
    int rc = 0;
    if (first >= 0) {
        snprintf(text, sizeof text,
                 "class %lld of the checkpoint is %.60s, that of the data set is %.60s%s",
                 (long long)first, json_string_value(json_array_get(names, (size_t)first)),
                 d->class_name[first], known == n ? ": the same classes in another order" : "");
        if (known == n && dd_eval_needs_classes(w))
            rc = dr_fail_at(err, DR_EINVAL, "data",
                            "%s; eval.metrics without classes, as `fd,kid`, can be had", text);
        else
            dd_eval_note(w, r, text, note);
    }
    json_decref(names);
    return rc;
}
