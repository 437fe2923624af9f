// Problems (RFC 9457): filling them, their JSON, titles of statuses, the nearest valid name.
#include "api/problem.h"

#include "api/ground.h"
#include "api/query.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int api_problem_set(struct api_problem *p, int status, const char *type, const char *fmt, ...) {
    va_list ap;
    memset(p, 0, sizeof *p);
    p->status = status;
    snprintf(p->type, sizeof p->type, "%s", type);
    va_start(ap, fmt);
    vsnprintf(p->detail, sizeof p->detail, fmt, ap);
    va_end(ap);
    return -1;
}

int api_problem_field(struct api_problem *p, const char *field, const char *fmt, ...) {
    va_list ap;
    if (p->nerrors == API_PROBLEM_ERRORS)
        return -1;
    struct api_field_error *e = &p->errors[p->nerrors++];
    snprintf(e->field, sizeof e->field, "%s", field);
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return -1;
}

void api_problem_more(struct api_problem *p, const struct api_problem *more) {
    const size_t had = p->nerrors;
    for (size_t i = 0; i < more->nerrors; i++) {
        const struct api_field_error *e = &more->errors[i];
        bool known = false;
        for (size_t k = 0; k < had; k++)
            known |= !strcmp(p->errors[k].field, e->field);
        if (!known)
            api_problem_field(p, e->field, "%s", e->message);
    }
}

const char *api_status_title(int status) {
    static const struct {
        int status;
        const char *title;
    } titles[] = {
        {400, "Bad request"},
        {401, "Authentication required"},
        {403, "Forbidden"},
        {404, "Not found"},
        {405, "Method not allowed"},
        {406, "Not acceptable"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length required"},
        {413, "Content too large"},
        {414, "URI too long"},
        {415, "Unsupported media type"},
        {416, "Range not satisfiable"},
        {422, "Invalid value"},
        {429, "Too many requests"},
        {431, "Header fields too large"},
        {500, "Internal error"},
        {501, "Not in this build"},
        {503, "Service unavailable"},
        {504, "Deadline passed"},
        {507, "Insufficient storage"},
    };
    for (size_t i = 0; i < sizeof titles / sizeof *titles; i++)
        if (titles[i].status == status)
            return titles[i].title;
    return status < 500 ? "Request refused" : "Server error";
}

// Text that quotes a request may be cut inside a character, which jansson refuses: such bytes
// become U+FFFD.
static json_t *text(const char *s) {
    if (api_valid_utf8(s))
        return json_string(s);
    struct api_text t = {0};
    while (*s) {
        size_t n = api_utf8_length(s);
        if (n)
            api_text_add(&t, s, n);
        else
            api_text_fmt(&t, "\uFFFD");
        s += n ? n : 1;
    }
    json_t *o = t.failed ? NULL : json_string(t.s);
    free(t.s);
    return o;
}

json_t *api_problem_json(const struct api_problem *p, const char *instance) {
    char type[96];
    snprintf(type, sizeof type, "urn:driftd:problem:%s", p->type[0] ? p->type : "error");
    json_t *o = json_pack("{s:s, s:s, s:i}", "type", type, "title", api_status_title(p->status),
                          "status", p->status);
    json_object_set_new(o, "detail", text(p->detail));
    json_object_set_new(o, "instance", json_sprintf("urn:driftd:request:%s", instance));
    if (p->nerrors) {
        json_t *list = json_array();
        for (size_t i = 0; i < p->nerrors; i++) {
            json_t *e = json_object();
            json_object_set_new(e, "field", text(p->errors[i].field));
            json_object_set_new(e, "message", text(p->errors[i].message));
            json_array_append_new(list, e);
        }
        json_object_set_new(o, "errors", list);
    }
    if (p->retry_after > 0)
        json_object_set_new(o, "retry_after", json_real(p->retry_after));
    return o;
}

const char *api_nearest(const char *word, const char *const *names, char *buf, size_t n) {
    int best = 4;
    const char *name = NULL;
    for (; *names; names++) {
        int d = api_edit_distance(word, *names, 5);
        if (d < best && d < (int)strlen(*names)) {
            best = d;
            name = *names;
        }
    }
    if (name)
        snprintf(buf, n, "; did you mean `%s`?", name);
    else
        buf[0] = '\0';
    return buf;
}
