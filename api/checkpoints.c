// Handlers of checkpoints (list, detail, activation, download, import) and of the database backup.
#include "api/handlers.h"
#include "api/params.h"
#include "api/respond.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 200 };

#define NEED(member)                                                                               \
    if (!r->srv->cb.member)                                                                        \
    return api_not_built(r)

enum MHD_Result api_h_ckpt_list(struct api_req *r) {
    struct api_page page;
    struct api_problem p = {0};
    struct api_reply reply = {0};
    NEED(checkpoint_list);
    if (api_parse_page(r, &page, &p))
        return api_send_problem(r, &p);
    return api_send_reply(r, r->srv->cb.checkpoint_list(r->srv->ctx, &page, &reply), &reply);
}

enum MHD_Result api_h_ckpt_get(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(checkpoint_get);
    return api_send_reply(r, r->srv->cb.checkpoint_get(r->srv->ctx, r->seg[0], &reply), &reply);
}

static void bad_tags(struct api_problem *p) {
    static const char want[] = "expected at most 32 different words of a-z, 0-9, `.`, `_` and `-`, "
                               "1 to 63 long, each beginning with a letter; not served, live, "
                               "latest or auto";
    if (!p->status)
        api_problem_set(p, 422, "invalid-value", "tags: %s", want);
    api_problem_field(p, "tags", "%s", want);
}

static bool tag_ok(const char *t) {
    static const char *const words[] = {"served", "live", "latest", "auto"};
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    for (size_t i = 0; t && i < 4; i++)
        if (!strcmp(t, words[i]))
            return false;
    return t && *t >= 'a' && *t <= 'z' && strlen(t) < API_ID_MAX && t[strspn(t, allowed)] == '\0';
}

// What stands for a checkpoint in `checkpoint=`, beside its id.
static void read_tags(const json_t *tags, struct api_problem *p) {
    size_t i;
    const json_t *v;
    bool ok = json_is_array(tags) && json_array_size(tags) <= 32;
    json_array_foreach(tags, i, v) {
        ok = ok && tag_ok(json_string_value(v));
        for (size_t k = 0; ok && k < i; k++)
            ok = !json_equal(v, json_array_get(tags, k));
    }
    if (!ok)
        bad_tags(p);
}

enum MHD_Result api_h_ckpt_patch(struct api_req *r) {
    static const char *const keys[] = {"name", "notes", "tags", NULL};
    struct api_ckpt_patch in = {0};
    struct api_problem p = {0};
    struct api_reply reply = {0};
    NEED(checkpoint_patch);
    json_t *o = api_body_object(r, keys, &p);
    if (!o)
        return api_send_problem(r, &p);
    api_body_str(o, "name", NAME_MAX_BYTES, &in.name, &p);
    api_body_str(o, "notes", 65536, &in.notes, &p);
    if ((in.tags = json_object_get(o, "tags")))
        read_tags(in.tags, &p);
    enum MHD_Result rc =
        p.status ? api_send_problem(r, &p)
                 : api_send_reply(
                       r, r->srv->cb.checkpoint_patch(r->srv->ctx, r->seg[0], &in, &reply), &reply);
    json_decref(o);
    return rc;
}

enum MHD_Result api_h_ckpt_remove(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(checkpoint_remove);
    return api_send_reply(r, r->srv->cb.checkpoint_remove(r->srv->ctx, r->seg[0], &reply), &reply);
}

enum MHD_Result api_h_ckpt_activate(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(checkpoint_activate);
    return api_send_reply(r, r->srv->cb.checkpoint_activate(r->srv->ctx, r->seg[0], &reply),
                          &reply);
}

static enum MHD_Result send_export(struct api_req *r) {
    struct api_file f = {.fd = -1};
    struct api_problem p = {0};
    struct api_export as = {0};
    int weights = API_WEIGHTS_EMA;
    NEED(checkpoint_export);
    api_q_enum(r, "format", API_EXPORT_FORMATS, &as.format, &p);
    api_q_enum(r, "weights", "ema|raw", &weights, &p);
    as.weights = (enum api_weights)weights;
    if (p.status || r->srv->cb.checkpoint_export(r->srv->ctx, r->seg[0], &as, &f, &p))
        return api_send_problem(r, &p);
    return api_send_file(r, &f);
}

enum MHD_Result api_h_served_get(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(served_get);
    return api_send_reply(r, r->srv->cb.served_get(r->srv->ctx, &reply), &reply);
}

enum MHD_Result api_h_served_put(struct api_req *r) {
    static const char *const keys[] = {"checkpoint", NULL};
    struct api_problem p = {0};
    struct api_reply reply = {0};
    const char *what;
    NEED(served_put);
    json_t *o = api_body_object(r, keys, &p);
    if (!o)
        return api_send_problem(r, &p);
    api_body_str(o, "checkpoint", API_ID_MAX - 1, &what, &p);
    if (!what && !p.status) {
        api_problem_set(&p, 422, "invalid-value", "checkpoint is required");
        api_problem_field(&p, "checkpoint", "an id, `live` or `auto`");
    }
    enum MHD_Result rc =
        p.status ? api_send_problem(r, &p)
                 : api_send_reply(r, r->srv->cb.served_put(r->srv->ctx, what, &reply), &reply);
    json_decref(o);
    return rc;
}

enum MHD_Result api_h_served_auto(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(served_put);
    return api_send_reply(r, r->srv->cb.served_put(r->srv->ctx, "auto", &reply), &reply);
}

enum MHD_Result api_h_ckpt_file(struct api_req *r) {
    struct api_file f = {.fd = -1};
    struct api_problem p = {0};
    if (r->query.n)
        return send_export(r);
    NEED(checkpoint_file);
    if (r->srv->cb.checkpoint_file(r->srv->ctx, r->seg[0], &f, &p))
        return api_send_problem(r, &p);
    return api_send_file(r, &f);
}

// `name` and `config` of an import come in the query or in a JSON body (NULL: an upload), checked
// alike: what is longer than a row holds would be cut.
static void import_text(struct api_req *r, const json_t *body, const char *key, const char **out,
                        struct api_problem *p) {
    const char *asked = api_query_get(&r->query, key), *why = NULL;
    char text[60];
    api_body_str(body, key, NAME_MAX_BYTES, out, p);
    if (!asked)
        return;
    snprintf(text, sizeof text, "must be a string of at most %d bytes", NAME_MAX_BYTES);
    if (*out)
        why = "is given in the query and in the body";
    else if (strlen(asked) > NAME_MAX_BYTES)
        why = text;
    *out = asked;
    if (!why)
        return;
    if (!p->status)
        api_problem_set(p, 422, "invalid-value", "%s: %s", key, why);
    api_problem_field(p, key, "%s", why);
}

static enum MHD_Result import_upload(struct api_req *r) {
    struct api_reply reply = {0};
    struct api_problem p = {0};
    struct api_import in = {.path = r->upload_path, .uploaded = true};
    if (!r->upload_bytes)
        return api_send_error(r, 422, "invalid-value", "the upload is empty");
    import_text(r, NULL, "name", &in.name, &p);
    import_text(r, NULL, "config", &in.config, &p);
    if (p.status)
        return api_send_problem(r, &p);
    int failed = fsync(r->upload_fd);
    failed |= close(r->upload_fd);
    r->upload_fd = -1;
    if (failed)
        return api_send_error(r, 507, "storage", "the upload could not be written to disk");
    int rc = r->srv->cb.checkpoint_import(r->srv->ctx, &in, &reply);
    free(r->upload_path); // the callback moved or deleted the file
    r->upload_path = NULL;
    return api_send_reply(r, rc, &reply);
}

enum MHD_Result api_h_ckpt_import(struct api_req *r) {
    static const char *const keys[] = {"path", "name", "config", NULL};
    struct api_import in = {0};
    struct api_problem p = {0};
    struct api_reply reply = {0};
    NEED(checkpoint_import);
    if (r->upload_fd >= 0)
        return import_upload(r);
    json_t *o = api_body_object(r, keys, &p);
    if (!o)
        return api_send_problem(r, &p);
    api_body_str(o, "path", 4000, &in.path, &p);
    import_text(r, o, "name", &in.name, &p);
    import_text(r, o, "config", &in.config, &p);
    if (!in.path && !p.status) {
        api_problem_set(&p, 422, "invalid-value", "path is required");
        api_problem_field(&p, "path", "a file below the import roots");
    }
    enum MHD_Result rc =
        p.status
            ? api_send_problem(r, &p)
            : api_send_reply(r, r->srv->cb.checkpoint_import(r->srv->ctx, &in, &reply), &reply);
    json_decref(o);
    return rc;
}

enum MHD_Result api_h_backup(struct api_req *r) {
    struct api_file f = {.fd = -1};
    struct api_problem p = {0};
    NEED(db_backup);
    if (r->srv->cb.db_backup(r->srv->ctx, &f, &p))
        return api_send_problem(r, &p);
    return api_send_file(r, &f);
}

enum MHD_Result api_h_backup_make(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(backup_make);
    return api_send_reply(r, r->srv->cb.backup_make(r->srv->ctx, &reply), &reply);
}

enum MHD_Result api_h_backup_file(struct api_req *r) {
    struct api_file f = {.fd = -1};
    struct api_problem p = {0};
    NEED(backup_file);
    if (r->srv->cb.backup_file(r->srv->ctx, r->seg[0], r->seg[1], &f, &p))
        return api_send_problem(r, &p);
    return api_send_file(r, &f);
}

enum MHD_Result api_h_backup_remove(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(backup_remove);
    return api_send_reply(r, r->srv->cb.backup_remove(r->srv->ctx, r->seg[0], &reply), &reply);
}
