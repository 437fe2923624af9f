// Answers made of a file: conditions, ranges and HEAD (RFC 9110). Called by handlers.
#include "api/negotiate.h"
#include "api/respond.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void file_headers(struct MHD_Response *resp, const struct api_file *f) {
    char text[256];
    MHD_add_response_header(resp, "Content-Type",
                            f->content_type[0] ? f->content_type : "application/octet-stream");
    MHD_add_response_header(resp, "Accept-Ranges", "bytes");
    if (f->etag[0]) {
        snprintf(text, sizeof text, "\"%s\"", f->etag);
        MHD_add_response_header(resp, "ETag", text);
    }
    if (f->filename[0] && !strpbrk(f->filename, "\"\\\r\n")) {
        snprintf(text, sizeof text, "attachment; filename=\"%s\"", f->filename);
        MHD_add_response_header(resp, "Content-Disposition", text);
    }
    MHD_add_response_header(resp, "Cache-Control",
                            f->immutable ? "private, max-age=31536000, immutable" : "no-cache");
}

static enum MHD_Result refuse(struct api_req *r, struct api_file *f, int status) {
    struct api_problem p;
    char text[64];
    close(f->fd);
    if (status == 412)
        return api_send_error(r, 412, "precondition", "the file has another entity tag");
    api_problem_set(&p, 416, "range", "the range lies outside of the %llu bytes",
                    (unsigned long long)f->size);
    snprintf(text, sizeof text, "bytes */%llu", (unsigned long long)f->size);
    return api_send_problem_with(r, &p, "Content-Range", text);
}

enum MHD_Result api_send_file(struct api_req *r, struct api_file *f) {
    char text[96];
    uint64_t from = 0, to = 0, n = f->size;
    r->file_closed = f->closed; // with the request, whatever becomes of it
    r->file_arg = f->arg;
    unsigned status = (unsigned)api_precondition(r, f->etag);
    if (status == 412)
        return refuse(r, f, 412);
    const char *if_range = api_header(r, "If-Range");
    // Only GET has ranges; libmicrohttpd leaves the body of HEAD and of 304 out, not its length.
    if (!status && !strcmp(r->method, "GET") && (!if_range || api_if_range(if_range, f->etag))) {
        int ranged = api_parse_range(api_header(r, "Range"), f->size, &from, &to);
        if (ranged < 0)
            return refuse(r, f, 416);
        status = ranged ? 206 : 200;
        n = ranged ? to - from + 1 : f->size;
    }
    struct MHD_Response *resp = MHD_create_response_from_fd_at_offset64(n, f->fd, from);
    if (!resp) {
        close(f->fd);
        return MHD_NO;
    }
    file_headers(resp, f);
    if (status == 206) {
        snprintf(text, sizeof text, "bytes %llu-%llu/%llu", (unsigned long long)from,
                 (unsigned long long)to, (unsigned long long)f->size);
        MHD_add_response_header(resp, "Content-Range", text);
    }
    return api_send(r, status ? status : 200, resp);
}
