// Commands on jobs: train, jobs, job, follow, stop, pause, resume, checkpoint, remove.
#include "api/client/ctl.h"

#include <stdlib.h>
#include <string.h>

// A recipe's name, or the object in a JSON file.
static json_t *read_config(const struct ctl *c, const char *arg) {
    size_t n = strlen(arg);
    bool file = strchr(arg, '/') || (n > 5 && !strcmp(arg + n - 5, ".json"));
    if (!file)
        return ctl_check_utf8(c, "CONFIG", arg) ? NULL : json_string(arg);
    return ctl_read_json(arg);
}

// KEY=VALUE; a value that is JSON is taken as such, anything else is a string.
static int add_override(json_t *set, const char *text) {
    const char *eq = strchr(text, '=');
    if (!eq || eq == text) {
        fprintf(stderr, "driftctl: --set takes KEY=VALUE, such as optim.lr=0.001, not `%s`\n",
                ctl_safe(text));
        return CTL_USAGE;
    }
    char *key = ctl_printf("%.*s", (int)(eq - text), text);
    json_t *v = json_loads(eq + 1, JSON_DECODE_ANY, NULL);
    json_object_set_new(set, key, v ? v : json_string(eq + 1));
    free(key);
    return 0;
}

static int job_body(struct ctl *c, json_t **out) {
    json_t *config = read_config(c, c->arg[0]), *set = json_object();
    const char *name = ctl_get(c, "name");
    if (!config) {
        json_decref(set);
        return CTL_USAGE;
    }
    *out = json_pack("{s:o}", "config", config); // which says what kind of job it is for
    for (int i = 0; i < c->nopt; i++)
        if (!strcmp(c->opt[i].name, "set") && add_override(set, c->opt[i].value)) {
            json_decref(set);
            json_decref(*out);
            return CTL_USAGE;
        }
    if (json_object_size(set))
        json_object_set(*out, "overrides", set);
    json_decref(set);
    if (name)
        json_object_set_new(*out, "name", json_string(name));
    if (ctl_get(c, "priority"))
        json_object_set_new(*out, "priority",
                            json_integer((json_int_t)ctl_get_num(c, "priority", 0)));
    return 0;
}

int ctl_cmd_train(struct ctl *c) {
    struct ctl_reply r = {0};
    json_t *body = NULL;
    int rc = job_body(c, &body);
    if (rc)
        return rc;
    rc = ctl_create(c, "/v1/jobs", body, &r);
    json_decref(body);
    json_t *job = NULL;
    if (!rc)
        rc = ctl_answer(c, &r, "id", &job);
    ctl_reply_free(&r);
    if (rc)
        return rc;
    char *id = ctl_printf("%s", ctl_str(job, "id"));
    bool follow = ctl_get(c, "follow");
    if (c->json && !follow)
        ctl_json(c, job);
    else if (!c->json && !follow)
        fprintf(c->out, "%s\n", ctl_safe(id));
    else if (!c->json)
        fprintf(c->out, "job %s (%s)\n", ctl_safe(id), ctl_safe(ctl_str(job, "name")));
    fflush(c->out);
    const double ahead = ctl_num(job, "ahead"); // standard output may be read by a script
    if (ahead >= 1 && !c->json)
        fprintf(stderr, "driftctl: job %s waits, %.0f ahead of it (driftctl jobs)\n", ctl_safe(id),
                ahead);
    json_decref(job);
    rc = follow ? ctl_follow(c, id) : CTL_OK;
    free(id);
    return rc;
}

// In the column of errors: what a queued job waits for.
static void note_waiting(json_t *jobs) {
    size_t i;
    json_t *j;
    json_array_foreach(jobs, i, j) {
        const json_t *w = json_object_get(j, "waits_for");
        const char *id = json_string_value(json_object_get(w, "id")),
                   *name = json_string_value(json_object_get(w, "name")),
                   *state = json_string_value(json_object_get(w, "state"));
        if (id && name && state)
            json_object_set_new(
                j, "error", json_sprintf("waits for job %s (%s), which is %s", id, name, state));
        else if (ctl_num(j, "ahead") >= 1)
            json_object_set_new(j, "error", json_sprintf("%.0f ahead", ctl_num(j, "ahead")));
    }
}

// Lists of words as one text, for a table.
static void join_tags(json_t *rows) {
    size_t i, k;
    json_t *row, *tag;
    json_array_foreach(rows, i, row) {
        struct ctl_buf text = {0};
        json_array_foreach(json_object_get(row, "tags"), k, tag) {
            const char *word = json_is_string(tag) ? json_string_value(tag) : "";
            ctl_buf_add(&text, " ", k > 0);
            ctl_buf_add(&text, word, strlen(word));
        }
        if (json_is_array(json_object_get(row, "tags")))
            json_object_set_new(row, "tags", json_string(text.s ? text.s : ""));
        free(text.s);
    }
}

int ctl_action(struct ctl *c, const char *const *actions, int n) {
    const char *names[9] = {0};
    char near[96];
    for (int i = 0; i < n; i++) {
        names[i] = actions[i];
        if (strcmp(c->arg[0], actions[i]))
            continue;
        if (c->narg > 1)
            return i;
        fprintf(stderr, "usage: driftctl %s %s ID\n", c->command->name, actions[i]);
        return -1;
    }
    ctl_nearest(c->arg[0], names, near, sizeof near);
    fprintf(stderr, "driftctl %s: unknown action `%s`%s\n", c->command->name, ctl_safe(c->arg[0]),
            near);
    return -1;
}

int ctl_show(struct ctl *c, const char *path) {
    json_t *o;
    int rc = ctl_get_json(c, path, &o);
    if (rc)
        return rc;
    ctl_json(c, o);
    json_decref(o);
    return 0;
}

int ctl_remove(struct ctl *c, const char *path, const char *what, const char *id) {
    struct ctl_reply r;
    int rc = ctl_call(c, "DELETE", path, NULL, NULL, &r);
    if (!rc)
        rc = ctl_answer(c, &r, NULL, NULL);
    if (!rc && c->json) { // a 204 has no body
        json_t *o = json_pack("{s:s, s:b}", "id", id, "removed", 1);
        ctl_json(c, o);
        json_decref(o);
    } else if (!rc) {
        fprintf(c->out, "%s %s is deleted\n", what, ctl_safe(id));
    }
    ctl_reply_free(&r);
    return rc;
}

int ctl_list(struct ctl *c, const char *what, const char *filter, const char *const *columns) {
    struct ctl_buf path = ctl_path("/v1/", what, "");
    json_t *o;
    ctl_query(&path, filter, ctl_get(c, filter));
    ctl_query(&path, "limit", ctl_get(c, "limit"));
    int rc = ctl_get_list(c, path.s, what, &o);
    free(path.s);
    if (rc)
        return rc;
    if (!c->json && !strcmp(what, "jobs"))
        note_waiting(json_object_get(o, what));
    if (!c->json)
        join_tags(json_object_get(o, what));
    if (c->json)
        ctl_json(c, o);
    else
        ctl_table(c, json_object_get(o, what), columns);
    json_decref(o);
    return 0;
}

int ctl_cmd_jobs(struct ctl *c) {
    static const char *const columns[] = {"ID:id",
                                          "NAME:name",
                                          "KIND:kind",
                                          "STATE:state",
                                          "STEP:step:num",
                                          "STEPS:steps_total:num",
                                          "TIME:seconds:duration",
                                          "ETA:eta_seconds:duration",
                                          "ERROR:error",
                                          NULL};
    return ctl_list(c, "jobs", "state", columns);
}

static int show_alerts(struct ctl *c, const char *path) {
    static const char *const columns[] = {"STEP:step", "KIND:kind", "TIME:time", "TEXT:text", NULL};
    json_t *o;
    int rc = ctl_get_json(c, path, &o);
    if (rc)
        return rc;
    ctl_table(c, json_object_get(o, "alerts"), columns);
    json_decref(o);
    return 0;
}

int ctl_cmd_job(struct ctl *c) {
    const bool alerts = ctl_get(c, "alerts");
    struct ctl_buf path = ctl_path("/v1/jobs/", c->arg[0], alerts ? "/alerts" : "");
    int rc = alerts && !c->json ? show_alerts(c, path.s) : ctl_show(c, path.s);
    free(path.s);
    return rc;
}

// `said` of the job, unless the answer has it in the state `done` already: then that.
static int act(struct ctl *c, const char *method, const char *rest, const char *said,
               const char *done) {
    struct ctl_buf path = ctl_path("/v1/jobs/", c->arg[0], rest);
    struct ctl_reply r;
    json_t *job = NULL;
    int rc = ctl_call(c, method, path.s, NULL, NULL, &r);
    free(path.s);
    if (!rc)
        rc = ctl_answer(c, &r, NULL, done ? &job : NULL);
    if (!rc && c->json && r.body.n) {
        ctl_json_text(c->out, r.body.s);
    } else if (!rc && c->json) { // a 204 has no body
        json_t *o = json_pack("{s:s, s:b}", "id", c->arg[0], "removed", 1);
        ctl_json(c, o);
        json_decref(o);
    } else if (!rc && done && !strcmp(ctl_str(job, "state"), done)) {
        fprintf(c->out, "job %s is %s\n", ctl_safe(c->arg[0]), done);
    } else if (!rc) {
        fprintf(c->out, "job %s %s\n", ctl_safe(c->arg[0]), said);
    }
    json_decref(job);
    ctl_reply_free(&r);
    return rc;
}

int ctl_cmd_edit(struct ctl *c) {
    const char *name = ctl_get(c, "name"), *notes = ctl_get(c, "notes");
    struct ctl_reply r;
    if (!name && !notes && !ctl_get(c, "priority")) {
        fprintf(stderr, "driftctl edit: --name, --notes or --priority is needed\n");
        return CTL_USAGE;
    }
    json_t *body = json_pack("{s:s*, s:s*}", "name", name, "notes", notes);
    if (ctl_get(c, "priority"))
        json_object_set_new(body, "priority",
                            json_integer((json_int_t)ctl_get_num(c, "priority", 0)));
    struct ctl_buf path = ctl_path("/v1/jobs/", c->arg[0], "");
    int rc = ctl_call(c, "PATCH", path.s, body, NULL, &r);
    json_decref(body);
    free(path.s);
    if (!rc)
        rc = ctl_answer(c, &r, NULL, NULL);
    if (!rc && c->json)
        ctl_json_text(c->out, r.body.s ? r.body.s : "{}");
    else if (!rc)
        fprintf(c->out, "job %s is changed\n", ctl_safe(c->arg[0]));
    ctl_reply_free(&r);
    return rc;
}

int ctl_cmd_follow(struct ctl *c) {
    return ctl_follow(c, c->arg[0]);
}

int ctl_cmd_stop(struct ctl *c) {
    const bool now = ctl_get(c, "now");
    return act(c, "POST", now ? "/stop?mode=now" : "/stop",
               now ? "will stop without a checkpoint" : "will stop after its step", "stopped");
}

int ctl_cmd_pause(struct ctl *c) {
    return act(c, "POST", "/pause", "will pause", "paused");
}

int ctl_cmd_resume(struct ctl *c) {
    int rc = act(c, "POST", "/resume", "resumes", NULL);
    return rc || !ctl_get(c, "follow") ? rc : ctl_follow(c, c->arg[0]);
}

int ctl_cmd_checkpoint(struct ctl *c) {
    return act(c, "POST", "/checkpoint", "writes a checkpoint", NULL);
}

int ctl_cmd_remove(struct ctl *c) {
    ctl_allow_time(c, CTL_REMOVE_S);
    return act(c, "DELETE", "", "is deleted", NULL);
}
