// Handlers of data sets: list, detail, creation by path or by upload, removal, a look at the
// pictures, and a recipe fitted to them.
//
// An upload is sent in parts: PUT /v1/datasets/NAME/upload?offset=N, each part beginning where the
// one before has ended, then POST /v1/datasets/NAME/import. A part is stored whole or not at all.
#include "api/handlers.h"
#include "api/params.h"
#include "api/respond.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4000, SOURCE_BYTES = 400, COLUMNS = 8, MAX_PICTURES = 128 };
#define MAX_OFFSET ((int64_t)1 << 53)

#define NEED(member)                                                                               \
    if (!r->srv->cb.member)                                                                        \
    return api_not_built(r)

enum MHD_Result api_h_dataset_list(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(dataset_list);
    return api_send_reply(r, r->srv->cb.dataset_list(r->srv->ctx, &reply), &reply);
}

enum MHD_Result api_h_dataset_get(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(dataset_get);
    return api_send_reply(r, r->srv->cb.dataset_get(r->srv->ctx, r->seg[0], &reply), &reply);
}

enum MHD_Result api_h_dataset_create(struct api_req *r) {
    static const char *const keys[] = {"name", "path", "source", "options", NULL};
    struct api_dataset_create in = {0};
    struct api_problem p = {0};
    struct api_reply reply = {0};
    NEED(dataset_create);
    json_t *o = api_body_object(r, keys, &p);
    if (!o)
        return api_send_problem(r, &p);
    api_body_str(o, "name", PATH_BYTES, &in.name, &p);
    api_body_str(o, "path", PATH_BYTES, &in.path, &p);
    api_body_str(o, "source", SOURCE_BYTES, &in.source, &p);
    const json_t *name = json_object_get(o, "name");
    if (!name || json_is_null(name)) {
        if (!p.status)
            api_problem_set(&p, 422, "invalid-value", "name is required");
        api_problem_field(&p, "name", "a name for the data set");
    }
    in.options = json_object_get(o, "options");
    if (p.status) { // with what the daemon finds in the members that could be read
        in.check = true;
        r->srv->cb.dataset_create(r->srv->ctx, &in, &reply);
        json_decref(reply.body);
        api_problem_more(&p, &reply.problem);
    }
    enum MHD_Result rc =
        p.status ? api_send_problem(r, &p)
                 : api_send_reply(r, r->srv->cb.dataset_create(r->srv->ctx, &in, &reply), &reply);
    json_decref(o);
    return rc;
}

enum MHD_Result api_h_dataset_upload(struct api_req *r) {
    struct api_dataset_part in = {.path = r->upload_path};
    struct api_problem p = {0};
    struct api_reply reply = {0};
    NEED(dataset_append);
    if (api_q_int(r, "offset", 0, MAX_OFFSET, &in.offset, &p))
        return api_send_problem(r, &p);
    int failed = fsync(r->upload_fd);
    failed |= close(r->upload_fd);
    r->upload_fd = -1;
    if (failed)
        return api_send_error(r, 507, "storage", "the upload could not be written to disk");
    int rc = r->srv->cb.dataset_append(r->srv->ctx, r->seg[0], &in, &reply);
    free(r->upload_path); // the callback moved or deleted the file
    r->upload_path = NULL;
    return api_send_reply(r, rc, &reply);
}

enum MHD_Result api_h_dataset_import(struct api_req *r) {
    struct api_problem p = {0};
    struct api_reply reply = {0};
    int64_t bytes = -1;
    NEED(dataset_import);
    if (api_q_int(r, "bytes", 0, MAX_OFFSET, &bytes, &p))
        return api_send_problem(r, &p);
    return api_send_reply(r, r->srv->cb.dataset_import(r->srv->ctx, r->seg[0], bytes, &reply),
                          &reply);
}

enum MHD_Result api_h_dataset_remove(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(dataset_remove);
    return api_send_reply(r, r->srv->cb.dataset_remove(r->srv->ctx, r->seg[0], &reply), &reply);
}

enum MHD_Result api_h_dataset_samples(struct api_req *r) {
    struct api_problem p = {0};
    int64_t n = COLUMNS;
    void *bytes = NULL;
    size_t size = 0;
    NEED(dataset_samples);
    if (api_q_int(r, "n", 1, MAX_PICTURES, &n, &p) ||
        r->srv->cb.dataset_samples(r->srv->ctx, r->seg[0], api_query_get(&r->query, "class"),
                                   (int)n, &bytes, &size, &p))
        return api_send_problem(r, &p);
    return api_send_bytes(r, 200, "image/png", bytes, size);
}

enum MHD_Result api_h_dataset_recipe(struct api_req *r) {
    struct api_problem p = {0};
    struct api_reply reply = {0};
    double minutes = 10;
    NEED(dataset_recipe);
    if (api_q_num(r, "minutes", 0.1, 100000, &minutes, &p))
        return api_send_problem(r, &p);
    return api_send_reply(r, r->srv->cb.dataset_recipe(r->srv->ctx, r->seg[0], minutes, &reply),
                          &reply);
}
