// Answers. Each queues one response and returns MHD's result; stolen arguments are released.
#pragma once

#include "api/req.h"

// A response of bytes, malloc'ed; a large one counts as long as it is in memory (conn.h). NULL:
// there is no room for it, to be answered by api_send_no_room. Only what can be asked for again is
// refused: images, and what is read.
struct MHD_Response *api_bytes_response(struct api_req *r, void *stolen, size_t n);
enum MHD_Result api_send_no_room(struct api_req *r); // 503
// A response whose length nobody knows before its end, for api_send. NULL: out of memory; cls stays
// the caller's.
struct MHD_Response *api_stream_response(struct api_req *r, MHD_ContentReaderCallback read,
                                         void *cls, MHD_ContentReaderFreeCallback release);

// Keeps the response for api_send_kept where MHD may not have it yet: while a thread of later.c has
// the request, and before MHD has asked for a body that does not come (api_req.early).
enum MHD_Result api_send(struct api_req *r, unsigned status, struct MHD_Response *stolen);
enum MHD_Result api_send_kept(struct api_req *r);
enum MHD_Result api_send_problem(struct api_req *r, const struct api_problem *p);
// The same with one more header field.
enum MHD_Result api_send_problem_with(struct api_req *r, const struct api_problem *p,
                                      const char *name, const char *value);
enum MHD_Result api_send_error(struct api_req *r, int status, const char *type, const char *fmt,
                               ...) __attribute__((format(printf, 4, 5)));
enum MHD_Result api_send_json(struct api_req *r, unsigned status, json_t *stolen);
enum MHD_Result api_send_bytes(struct api_req *r, unsigned status, const char *content_type,
                               void *stolen, size_t n);
enum MHD_Result api_send_reply(struct api_req *r, int rc, struct api_reply *reply);
enum MHD_Result api_not_built(struct api_req *r); // 501

// file.c: a file or a part of it; closes f->fd.
enum MHD_Result api_send_file(struct api_req *r, struct api_file *f);
