// `driftctl data`: data sets of the server. A folder or an archive is added by its path where the
// daemon may read it, else uploaded; an upload that was cut off goes on.
#include "api/client/ctl.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { POLL_MS = 300, SHOWN_REASONS = 10 };

static int get(struct ctl *c, const char *name, json_t **out) {
    struct ctl_buf path = ctl_path("/v1/datasets/", name, "");
    int rc = ctl_get_json(c, path.s, out);
    free(path.s);
    return rc;
}

// --- text ---

static void print_set(struct ctl *c, const json_t *o) {
    const json_t *classes = json_object_get(o, "classes"), *k;
    const json_t *report = json_object_get(o, "report"), *reason;
    char a[32];
    size_t i;
    fprintf(c->out, "%s: %s", ctl_safe(ctl_str(o, "name")), ctl_safe(ctl_str(o, "state")));
    if (json_is_array(classes))
        fprintf(c->out,
                ", %.0f pictures to train on and %.0f to test with, %zu class%s, %.0fx%.0f, "
                "%s, %s",
                ctl_num(o, "train"), ctl_num(o, "test"), json_array_size(classes),
                json_array_size(classes) == 1 ? "" : "es", ctl_num(o, "size"), ctl_num(o, "size"),
                ctl_num(o, "channels") > 1 ? "colour" : "grey",
                ctl_bytes(ctl_num(o, "bytes"), a, sizeof a));
    fputc('\n', c->out);
    if (*ctl_str(o, "error"))
        fprintf(c->out, "  %s\n", ctl_safe(ctl_str(o, "error")));
    json_array_foreach(classes, i, k)
        fprintf(c->out, "  %-20s %.0f\n", ctl_safe(ctl_str(k, "name")),
                ctl_num(k, "train") + ctl_num(k, "test"));
    const double skipped = ctl_num(report, "skipped");
    if (skipped > 0)
        fprintf(c->out, "skipped %.0f file%s:\n", skipped, skipped > 1 ? "s" : "");
    json_array_foreach(json_object_get(report, "reasons"), i, reason) {
        if (i == SHOWN_REASONS)
            break;
        fprintf(c->out, "  %s: %s\n", ctl_safe(ctl_str(reason, "file")),
                ctl_safe(ctl_str(reason, "reason")));
    }
    json_array_foreach(json_object_get(report, "notes"), i, k) if (json_is_string(k))
        fprintf(c->out, "note: %s\n", ctl_safe(json_string_value(k)));
}

static int show(struct ctl *c, const char *name) {
    json_t *o;
    int rc = get(c, name, &o);
    if (rc)
        return rc;
    if (c->json)
        ctl_json(c, o);
    else
        print_set(c, o);
    json_decref(o);
    return 0;
}

static int list(struct ctl *c) {
    static const char *const columns[] = {"NAME:name",
                                          "STATE:state",
                                          "TRAIN:train:num",
                                          "TEST:test:num",
                                          "CLASSES:class_count:num",
                                          "SIZE:size:num",
                                          "BYTES:bytes:bytes",
                                          "KIND:kind",
                                          NULL};
    json_t *o;
    int rc = ctl_get_json(c, "/v1/datasets", &o);
    if (rc)
        return rc;
    if (c->json)
        ctl_json(c, o);
    else
        ctl_table(c, json_object_get(o, "datasets"), columns);
    json_decref(o);
    return 0;
}

// --- add ---

// A colour as the server keeps it, in lower case: an upload that goes on is compared with that.
static json_t *colour(const char *text) {
    char *low = ctl_printf("%s", text);
    for (char *p = low; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    json_t *o = json_string(low);
    free(low);
    return o;
}

// The options of an import, as JSON; NULL and a message when one is wrong.
static json_t *options(struct ctl *c) {
    static const char *const numbers[][2] = {
        {"size", "size"}, {"channels", "channels"}, {"seed", "seed"}};
    json_t *o = json_object();
    if (ctl_get(c, "fit"))
        json_object_set_new(o, "fit", json_string(ctl_get(c, "fit")));
    if (ctl_get(c, "background"))
        json_object_set_new(o, "background", colour(ctl_get(c, "background")));
    for (size_t i = 0; i < 3; i++)
        if (ctl_get(c, numbers[i][0]))
            json_object_set_new(o, numbers[i][1],
                                json_integer((json_int_t)ctl_get_num(c, numbers[i][0], 0)));
    if (ctl_get(c, "test-share"))
        json_object_set_new(o, "test_share", json_real(ctl_get_num(c, "test-share", 0)));
    if (ctl_get(c, "strict"))
        json_object_set_new(o, "refuse_bad", json_true());
    return o;
}

// Whether the server refused the path alone: it is elsewhere, or not one that the daemon may read.
static bool about_path(const struct ctl_reply *r) {
    json_t *o = json_loadb(r->body.s ? r->body.s : "", r->body.n, 0, NULL);
    const json_t *first = json_array_get(json_object_get(o, "errors"), 0);
    const bool yes = r->status == 422 && !strcmp(ctl_str(first, "field"), "path");
    json_decref(o);
    return yes;
}

static bool is_utf8(const char *s) {
    json_t *text = json_string(s);
    json_decref(text);
    return text != NULL;
}

static int post_set(struct ctl *c, const char *member, const char *value, struct ctl_reply *r) {
    json_t *body =
        json_pack("{s:s, s:o, s:s}", "name", c->arg[1], "options", options(c), member, value);
    if (!body) {
        fprintf(stderr, "driftctl: %s: not UTF-8\n",
                ctl_safe(is_utf8(c->arg[1]) ? value : c->arg[1]));
        return CTL_USAGE;
    }
    int rc = ctl_http(c, "POST", "/v1/datasets", body, NULL, false, r);
    json_decref(body);
    return rc;
}

static int refused(struct ctl *c, struct ctl_reply *r) {
    ctl_print_problem(c, r);
    ctl_reply_free(r);
    return CTL_REFUSED;
}

// 0: added; CTL_OPEN: to be uploaded.
enum { CTL_OPEN = -1 };
static int by_path(struct ctl *c, const char *path) {
    struct ctl_reply r = {0};
    const bool only = ctl_get(c, "path");
    char *real = only ? NULL : realpath(path, NULL);
    if (real && !is_utf8(real)) { // no daemon can be told
        free(real);
        return CTL_OPEN;
    }
    int rc = post_set(c, "path", real ? real : path, &r);
    free(real);
    if (!rc && !only && about_path(&r))
        rc = CTL_OPEN;
    else if (!rc && r.status != 201)
        return refused(c, &r);
    ctl_reply_free(&r);
    return rc;
}

// Whether an option given now is not the one the upload was begun with; other: its name.
static bool changed_option(struct ctl *c, const json_t *set, char other[32]) {
    json_t *given = options(c), *v;
    const char *key;
    other[0] = 0;
    json_object_foreach(
        given, key, v) if (!json_equal(v, json_object_get(json_object_get(set, "options"), key)))
        snprintf(other, 32, "%s", key);
    json_decref(given);
    return other[0];
}

// Whether NAME is an upload of the same source that was cut off; *received: how far it came.
// CTL_USAGE and a message: of other options.
static int resumable(struct ctl *c, const char *source, int64_t *received, bool *yes) {
    struct ctl_reply r;
    struct ctl_buf path = ctl_path("/v1/datasets/", c->arg[1], "");
    char key[32];
    int rc = 0;
    *yes = false;
    if (!ctl_http(c, "GET", path.s, NULL, NULL, true, &r) && r.status == 200) {
        json_t *o = json_loadb(r.body.s ? r.body.s : "", r.body.n, 0, NULL);
        *yes = !strcmp(ctl_str(o, "state"), "uploading") && !strcmp(ctl_str(o, "source"), source);
        *received = *yes ? json_integer_value(json_object_get(o, "received")) : 0;
        if (*yes && changed_option(c, o, key)) {
            fprintf(stderr,
                    "driftctl data add: the upload of %s was begun with another %s; go on with the "
                    "same options, or remove it first\n",
                    ctl_safe(c->arg[1]), key);
            rc = CTL_USAGE;
        }
        json_decref(o);
    }
    ctl_reply_free(&r);
    free(path.s);
    return rc;
}

static int upload(struct ctl *c, const char *path) {
    struct ctl_reply r = {0};
    char source[CTL_SOURCE], a[32];
    int64_t bytes, received = 0, sent = 0;
    bool again = false;
    int rc = ctl_describe(path, source, &bytes);
    if (!rc)
        rc = post_set(c, "source", source, &r);
    if (!rc && r.status == 409)
        rc = resumable(c, source, &received, &again);
    if (rc) {
        ctl_reply_free(&r);
        return rc;
    }
    if (again)
        fprintf(stderr, "driftctl: going on after %s\n", ctl_bytes((double)received, a, sizeof a));
    else if (r.status != 201)
        return refused(c, &r);
    ctl_reply_free(&r);
    rc = ctl_send(c, c->arg[1], path, received, &sent);
    if (rc == CTL_DETACHED || rc == CTL_UNREACHABLE)
        fprintf(stderr, "driftctl: %s; the same command goes on\n",
                rc == CTL_DETACHED ? "interrupted" : "the upload was cut off");
    if (rc)
        return rc;
    char *rest = ctl_printf("/import?bytes=%lld", (long long)sent);
    struct ctl_buf p = ctl_path("/v1/datasets/", c->arg[1], rest);
    rc = ctl_call(c, "POST", p.s, NULL, NULL, &r);
    free(p.s);
    free(rest);
    ctl_reply_free(&r);
    return rc;
}

// Waits until the set is ready or has failed.
static int follow(struct ctl *c, const char *name) {
    const bool tty = ctl_terminal(STDERR_FILENO) && !c->json;
    char bar[64];
    for (;;) {
        json_t *o;
        int rc = get(c, name, &o);
        if (rc)
            return rc;
        const char *state = ctl_str(o, "state");
        const bool done = !strcmp(state, "ready"), failed = !strcmp(state, "failed");
        const double progress = ctl_num(o, "progress");
        if (tty && !isnan(progress)) {
            ctl_bar(bar, sizeof bar, 30, progress);
            fprintf(stderr, "\r%s [%s] decoded %.0f %% \033[K", ctl_fit(name, 30, NULL), bar,
                    100 * progress);
        }
        if (tty && (done || failed))
            fprintf(stderr, "\r\033[K");
        if ((done || failed) && c->json)
            ctl_json(c, o);
        else if (done || failed)
            print_set(c, o);
        json_decref(o);
        if (done || failed)
            return done ? CTL_OK : CTL_REFUSED;
        if (ctl_interrupted())
            return CTL_DETACHED;
        usleep(POLL_MS * 1000);
    }
}

static int add_set(struct ctl *c) {
    struct stat st;
    const char *path = c->arg[2];
    const bool here = !stat(path, &st);
    int rc = CTL_OPEN;
    if (ctl_get(c, "path") || (!ctl_get(c, "upload") && here && ctl_is_local(c)))
        rc = by_path(c, path);
    if (rc == CTL_OPEN && !here) {
        fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(path), strerror(errno));
        return CTL_REFUSED;
    }
    if (rc == CTL_OPEN) { // by its real path: a link, or a slash at the end, is the same source
        char *real = realpath(path, NULL);
        rc = upload(c, real ? real : path);
        free(real);
    }
    return rc || ctl_get(c, "no-wait") ? rc : follow(c, c->arg[1]);
}

// --- remove, samples, train ---

static int remove_set(struct ctl *c, const char *name) {
    struct ctl_reply r = {0};
    struct ctl_buf path = ctl_path("/v1/datasets/", name, "");
    int rc = ctl_call(c, "DELETE", path.s, NULL, NULL, &r);
    free(path.s);
    if (!rc)
        rc = ctl_answer(c, &r, NULL, NULL);
    ctl_reply_free(&r);
    if (!rc && !c->json)
        fprintf(c->out, "%s is removed\n", ctl_safe(name));
    return rc;
}

static int samples(struct ctl *c, const char *name) {
    struct ctl_buf path = ctl_path("/v1/datasets/", name, "/samples");
    const char *file = ctl_get(c, "output");
    char *own = file ? NULL : ctl_printf("%s.png", name);
    ctl_query(&path, "class", ctl_get(c, "class"));
    ctl_query(&path, "n", ctl_get(c, "n"));
    int rc = ctl_download(c, "GET", path.s, file ? file : own, false);
    free(path.s);
    if (!rc && !ctl_is_direct(file ? file : own))
        fprintf(c->out, "%s\n", ctl_safe(file ? file : own));
    free(own);
    return rc;
}

// A job by the recipe that the server fits to the set.
static int train(struct ctl *c, const char *name) {
    struct ctl_buf path = ctl_path("/v1/datasets/", name, "/recipe");
    struct ctl_reply r = {0};
    json_t *o = NULL, *job = NULL;
    ctl_query(&path, "minutes", ctl_get(c, "minutes"));
    int rc = ctl_get_json(c, path.s, &o);
    free(path.s);
    if (rc)
        return rc;
    json_object_set_new(o, "name", json_string(name));
    rc = ctl_call(c, "POST", "/v1/jobs", o, NULL, &r);
    json_decref(o);
    if (!rc)
        rc = ctl_answer(c, &r, "id", &job);
    ctl_reply_free(&r);
    if (rc)
        return rc;
    char *id = ctl_printf("%s", ctl_str(job, "id"));
    const bool waits = ctl_get(c, "follow");
    if (c->json && !waits)
        ctl_json(c, job);
    else if (!c->json)
        fprintf(c->out, waits ? "job %s\n" : "%s\n", ctl_safe(id));
    fflush(c->out);
    json_decref(job);
    rc = waits ? ctl_follow(c, id) : CTL_OK;
    free(id);
    return rc;
}

int ctl_cmd_data(struct ctl *c) {
    static const struct {
        const char *word, *args;
        int narg;
        int (*run)(struct ctl *c, const char *name);
    } actions[] = {{"add", "NAME FOLDER|ARCHIVE", 3, NULL},
                   {"list", "", 1, NULL},
                   {"show", "NAME", 2, show},
                   {"remove", "NAME", 2, remove_set},
                   {"samples", "NAME", 2, samples},
                   {"train", "NAME", 2, train}};
    const char *names[7] = {0};
    char near[96];
    for (int i = 0; i < 6; i++) {
        names[i] = actions[i].word;
        if (strcmp(c->arg[0], names[i]))
            continue;
        if (c->narg != actions[i].narg) {
            fprintf(stderr, "usage: driftctl data %s %s\n", names[i], actions[i].args);
            return CTL_USAGE;
        }
        return i == 0 ? add_set(c) : i == 1 ? list(c) : actions[i].run(c, c->arg[1]);
    }
    ctl_nearest(c->arg[0], names, near, sizeof near);
    fprintf(stderr,
            "driftctl: `data` takes add, list, show, remove, samples or train, not `%s`%s\n",
            ctl_safe(c->arg[0]), near);
    return CTL_USAGE;
}
