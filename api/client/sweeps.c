// The command ablate: many runs from one file, as one sweep of the server.
#include "api/client/ctl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_S 10.0                    // that the server may take to answer
#define LOST_S 120.0                   // after its last answer
enum { POLL_US = 1000000, TRIES = 6 }; // without an answer ever

static int usage(const char *text) {
    fprintf(stderr, "driftctl ablate: %s\n", text);
    return CTL_USAGE;
}

static struct ctl_buf path_of(const char *id, const char *rest) {
    return ctl_path("/v1/sweeps/", id, rest);
}

// --- following ---

static const char *const ends[] = {"completed", "failed", "stopped", NULL};

static bool ended(const char *state) {
    for (int i = 0; ends[i]; i++)
        if (!strcmp(state, ends[i]))
            return true;
    return false;
}

static int status_of(const char *state) {
    return !strcmp(state, "completed") ? CTL_OK
           : !strcmp(state, "stopped") ? CTL_STOPPED
                                       : CTL_REFUSED;
}

static char *line_of(const json_t *o) {
    const json_t *runs = json_object_get(o, "runs");
    const double rungs = ctl_num(o, "rungs"), evaluating = ctl_num(o, "evaluating");
    char rung[40] = "", more[40] = "";
    if (rungs > 1)
        snprintf(rung, sizeof rung, ", rung %.0f of %.0f", ctl_num(o, "rung") + 1, rungs);
    if (evaluating > 0)
        snprintf(more, sizeof more, ", %.0f evaluating", evaluating);
    return ctl_printf("%s%s: %.0f of %.0f runs done, %.0f running, %.0f queued, %.0f failed%s",
                      ctl_safe(ctl_str(o, "state")), rung, ctl_num(runs, "completed"),
                      ctl_num(runs, "total"), ctl_num(runs, "running"), ctl_num(runs, "queued"),
                      ctl_num(runs, "failed"), more);
}

static int table(struct ctl *c, const char *id, const char *kind, const char *file) {
    struct ctl_buf path = path_of(id, kind);
    int rc = ctl_download_text(c, path.s, file, false);
    free(path.s);
    return rc;
}

// Asks for the sweep. NULL: no answer that says how it stands; *rc: CTL_REFUSED, printed, where
// asking again is of no use.
static json_t *look(struct ctl *c, const char *path, int *rc, bool *there) {
    struct ctl_reply r = {0};
    json_t *o = NULL;
    *rc = ctl_http(c, "GET", path, NULL, NULL, true, &r);
    *there = *there || !*rc;
    if (!*rc && r.status >= 400 && r.status < 500) {
        ctl_print_problem(c, &r);
        *rc = CTL_REFUSED;
    } else if (!*rc && r.status < 300) {
        *rc = ctl_answer(c, &r, "state", &o);
    }
    ctl_reply_free(&r);
    return o;
}

// Waits through restarts of the server. The state that it ended with, or NULL and *rc. there: the
// server has answered before.
static char *watch(struct ctl *c, const char *id, bool there, int *rc) {
    struct ctl_buf path = path_of(id, "");
    char *said = ctl_printf("%s", ""), *state = NULL;
    double heard = ctl_now();
    for (int lost = 0;; usleep(POLL_US)) {
        json_t *o = look(c, path.s, rc, &there);
        if (*rc == CTL_REFUSED)
            break;
        lost = o ? 0 : lost + 1;
        heard = o ? ctl_now() : heard;
        if (there ? ctl_now() - heard > LOST_S : lost >= TRIES) {
            fprintf(stderr, "driftctl: %s does not answer\n",
                    ctl_safe(c->unix_path ? c->unix_path : c->url));
            break;
        }
        if (lost == 1 && !c->json)
            fprintf(stderr, "%s; trying again\n", there ? "connection lost" : "no answer yet");
        char *line = o ? line_of(o) : NULL;
        if (line && !c->json && strcmp(line, said))
            fprintf(stderr, "%s\n", line);
        if (line) {
            free(said);
            said = line;
        }
        if (o && ended(ctl_str(o, "state")))
            state = ctl_printf("%s", ctl_str(o, "state"));
        json_decref(o);
        if (state)
            break;
    }
    free(said);
    free(path.s);
    return state;
}

static int follow(struct ctl *c, const char *id, bool there) {
    const double timeout = c->timeout; // of what comes after
    int rc = 0;
    if (!ctl_get(c, "timeout"))
        c->timeout = LOOK_S;
    char *state = watch(c, id, there, &rc);
    c->timeout = timeout;
    if (!state)
        return rc ? rc : CTL_UNREACHABLE;
    if (c->json) {
        struct ctl_buf path = path_of(id, "");
        json_t *o;
        rc = ctl_get_json(c, path.s, &o);
        free(path.s);
        if (!rc)
            ctl_json(c, o);
        json_decref(rc ? NULL : o);
    } else {
        rc = table(c, id, ".md", "-");
    }
    if (!rc)
        rc = status_of(state);
    free(state);
    return rc;
}

// --- submission ---

static void print_check(struct ctl *c, const json_t *o) {
    const json_t *list = json_object_get(o, "list");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *cell = json_array_get(list, i);
        fprintf(c->out, "%s, seed %.0f\n", ctl_safe(ctl_str(cell, "label")), ctl_num(cell, "seed"));
    }
    fprintf(c->out, "%zu runs\n", json_array_size(list));
}

static int submit(struct ctl *c) {
    struct ctl_reply r = {0};
    json_t *file = ctl_read_json(c->arg[0]);
    if (!file)
        return CTL_USAGE;
    const char *path = ctl_get(c, "check") ? "/v1/sweeps?check=1" : "/v1/sweeps";
    int rc = ctl_create(c, path, file, &r);
    json_decref(file);
    json_t *o = NULL;
    if (!rc)
        rc = ctl_answer(c, &r, ctl_get(c, "check") ? "list" : "id", &o);
    ctl_reply_free(&r);
    if (rc)
        return rc;
    const bool follows = ctl_get(c, "follow") && !ctl_get(c, "check");
    if (c->json && !follows)
        ctl_json(c, o);
    else if (ctl_get(c, "check"))
        print_check(c, o);
    else if (!c->json)
        fprintf(follows ? stderr : c->out, follows ? "sweep %s\n" : "%s\n",
                ctl_safe(ctl_str(o, "id")));
    fflush(c->out);
    if (follows)
        rc = follow(c, ctl_str(o, "id"), true);
    json_decref(o);
    return rc;
}

// --- actions ---

static int list(struct ctl *c) {
    static const char *const columns[] = {"ID:id",           "NAME:name",     "STATE:state",
                                          "RUNS:total:num",  "DONE:done:num", "FAILED:failed:num",
                                          "CREATED:created", "ERROR:error",   NULL};
    json_t *o;
    int rc = ctl_get_list(c, "/v1/sweeps?limit=1000", "sweeps", &o);
    if (rc)
        return rc;
    json_t *all = json_object_get(o, "sweeps");
    if (c->json)
        ctl_json(c, o);
    for (size_t i = 0; !c->json && i < json_array_size(all); i++) {
        json_t *s = json_array_get(all, i), *runs = json_object_get(s, "runs");
        json_object_set(s, "total", json_object_get(runs, "total"));
        json_object_set(s, "done", json_object_get(runs, "completed"));
        json_object_set(s, "failed", json_object_get(runs, "failed"));
    }
    if (!c->json)
        ctl_table(c, all, columns);
    json_decref(o);
    return 0;
}

static int show(struct ctl *c) {
    static const char *const columns[] = {
        "RUN:label",       "SEED:seed:num", "JOB:job",
        "STATE:state",     "STEP:step:num", "STEPS:steps_total:num",
        "EVAL:evaluation", "ERROR:error",   NULL};
    struct ctl_buf path = path_of(c->arg[1], "");
    json_t *o;
    int rc = ctl_get_json(c, path.s, &o);
    free(path.s);
    if (rc)
        return rc;
    char *line = line_of(o);
    if (c->json)
        ctl_json(c, o);
    else
        fprintf(c->out, "%s\n%s\n", ctl_safe(ctl_str(o, "name")), line);
    if (!c->json)
        ctl_table(c, json_object_get(o, "list"), columns);
    free(line);
    json_decref(o);
    return 0;
}

static int act(struct ctl *c, const char *method, const char *rest, const char *said) {
    struct ctl_buf path = path_of(c->arg[1], rest);
    struct ctl_reply r;
    int rc = ctl_call(c, method, path.s, NULL, NULL, &r);
    free(path.s);
    if (!rc)
        rc = ctl_answer(c, &r, NULL, NULL);
    if (!rc && c->json)
        ctl_json_text(c->out, r.body.n ? r.body.s : "{}");
    else if (!rc)
        fprintf(c->out, "sweep %s %s\n", ctl_safe(c->arg[1]), said);
    ctl_reply_free(&r);
    return rc;
}

static int plot(struct ctl *c) {
    const char *file = ctl_get(c, "output");
    struct ctl_buf path = path_of(c->arg[1], ".png");
    ctl_query(&path, "metric", ctl_get(c, "metric"));
    char *own = ctl_printf("sweep-%s.png", c->arg[1]);
    int rc = ctl_download(c, "GET", path.s, file ? file : own, false);
    if (!rc && !ctl_is_stdout(file ? file : own))
        fprintf(c->out, "%s\n", ctl_safe(file ? file : own));
    free(own);
    free(path.s);
    return rc;
}

static int show_table(struct ctl *c) {
    const char *file = ctl_get(c, "output");
    if (ctl_get(c, "csv") && ctl_get(c, "markdown"))
        return usage("--csv or --markdown");
    return table(c, c->arg[1], ctl_get(c, "csv") ? ".csv" : ".md", file ? file : "-");
}

static int resume(struct ctl *c) {
    int rc = act(c, "POST", "/resume", "goes on");
    return rc || !ctl_get(c, "follow") ? rc : follow(c, c->arg[1], true);
}

int ctl_cmd_ablate(struct ctl *c) {
    static const char *const actions[] = {"list", "show",   "table",  "plot", "follow",
                                          "stop", "resume", "remove", NULL};
    const char *word = c->arg[0];
    const size_t n = strlen(word);
    int k = 0;
    char near[96];
    while (actions[k] && strcmp(word, actions[k]))
        k++;
    if (!actions[k] && !strchr(word, '/') && (n < 6 || strcmp(word + n - 5, ".json"))) {
        ctl_nearest(word, actions, near, sizeof near);
        fprintf(stderr, "driftctl ablate: `%s` is neither a file (FILE.json) nor an action%s\n",
                ctl_safe(word), near);
        return CTL_USAGE;
    }
    if ((k == 0 || !actions[k]) && c->narg > 1)
        return usage(k ? "one file at a time" : "list takes no id");
    if (!actions[k])
        return submit(c);
    if (k && c->narg < 2)
        return usage("the id of a sweep is missing (driftctl ablate list)");
    switch (k) {
    case 0:
        return list(c);
    case 1:
        return show(c);
    case 2:
        return show_table(c);
    case 3:
        return plot(c);
    case 4:
        return follow(c, c->arg[1], false);
    case 5:
        return act(c, "POST", "/stop", "stops; its checkpoints stay");
    case 6:
        return resume(c);
    default:
        ctl_allow_time(c, CTL_REMOVE_S);
        return ctl_get(c, "jobs") ? act(c, "DELETE", "?jobs=delete", "and its jobs are removed")
                                  : act(c, "DELETE", "", "is removed; its jobs stay");
    }
}
