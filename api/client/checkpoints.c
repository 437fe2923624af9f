// Commands on checkpoints and sample grids: checkpoints, grids.
#include "api/client/ctl.h"

#include <stdlib.h>
#include <string.h>

static int list(struct ctl *c) {
    static const char *const columns[] = {"ID:id",       "JOB:job",         "NAME:name",
                                          "NET:net",     "STEP:step:num",   "SIZE:bytes:bytes",
                                          "STATE:state", "ACTIVE:active",   "TAGS:tags",
                                          "NOTES:notes", "CREATED:created", NULL};
    return ctl_list(c, "checkpoints", "job", columns);
}

// The tags that the checkpoint will have: its own, with those of --tag and without those of
// --untag. NULL: neither was given, and the request is not made; *rc otherwise.
static json_t *new_tags(struct ctl *c, const char *path, int *rc) {
    json_t *now, *tags, *v;
    size_t k;
    *rc = 0;
    if (!ctl_get(c, "tag") && !ctl_get(c, "untag"))
        return NULL;
    if ((*rc = ctl_get_json(c, path, &now)))
        return NULL;
    tags = json_incref(json_object_get(now, "tags"));
    json_decref(now);
    if (!json_is_array(tags)) {
        json_decref(tags);
        tags = json_array();
    }
    for (int i = 0; i < c->nopt; i++) {
        const bool add = !strcmp(c->opt[i].name, "tag");
        if (!add && strcmp(c->opt[i].name, "untag"))
            continue;
        for (k = json_array_size(tags); k-- > 0;) {
            v = json_array_get(tags, k);
            if (json_is_string(v) && !strcmp(json_string_value(v), c->opt[i].value))
                json_array_remove(tags, k);
        }
        if (add)
            json_array_append_new(tags, json_string(c->opt[i].value));
    }
    return tags;
}

static int edit(struct ctl *c, const char *path) {
    const char *name = ctl_get(c, "name"), *notes = ctl_get(c, "notes");
    int rc;
    json_t *tags = new_tags(c, path, &rc);
    if (rc)
        return rc;
    if (!name && !notes && !tags) {
        fprintf(stderr, "driftctl checkpoints edit: --name, --notes, --tag or --untag is needed\n");
        return CTL_USAGE;
    }
    json_t *body = json_pack("{s:s*, s:s*, s:o*}", "name", name, "notes", notes, "tags", tags);
    struct ctl_reply r = {0};
    rc = ctl_call(c, "PATCH", path, body, NULL, &r);
    json_decref(body);
    if (!rc)
        rc = ctl_answer(c, &r, NULL, NULL);
    if (!rc && c->json)
        ctl_json_text(c->out, r.body.s ? r.body.s : "{}");
    else if (!rc)
        fprintf(c->out, "checkpoint %s is changed\n", ctl_safe(c->arg[1]));
    ctl_reply_free(&r);
    return rc;
}

int ctl_cmd_checkpoints(struct ctl *c) {
    static const char *const actions[] = {"show", "edit", "remove"};
    if (!c->narg)
        return list(c);
    const int action = ctl_action(c, actions, 3);
    if (action < 0)
        return CTL_USAGE;
    struct ctl_buf path = ctl_path("/v1/checkpoints/", c->arg[1], "");
    const int rc = action == 0   ? ctl_show(c, path.s)
                   : action == 1 ? edit(c, path.s)
                                 : ctl_remove(c, path.s, "checkpoint", c->arg[1]);
    free(path.s);
    return rc;
}

int ctl_cmd_grids(struct ctl *c) {
    static const char *const columns[] = {
        "ID:id",       "JOB:job",       "STEP:step:num",   "SIZE:bytes:bytes",
        "WIDTH:width", "HEIGHT:height", "CREATED:created", NULL};
    const char *file = ctl_get(c, "output");
    if (!c->narg)
        return ctl_list(c, "samples", "job", columns);
    char *name = ctl_printf("grid-%s.png", c->arg[0]);
    struct ctl_buf path = ctl_path("/v1/samples/", c->arg[0], ".png");
    int rc = strchr(c->arg[0], '/') && !file ? CTL_USAGE : 0;
    if (rc)
        fprintf(stderr, "driftctl: `%s` is not the id of a grid\n", ctl_safe(c->arg[0]));
    else
        rc = ctl_download(c, "GET", path.s, file ? file : name, false);
    if (!rc)
        ctl_print_file(c, file ? file : name);
    free(path.s);
    free(name);
    return rc;
}
