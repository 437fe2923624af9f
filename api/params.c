// Typed query parameters and strict JSON bodies. A field that does not fit adds one entry to the
// problem (422) and parsing goes on, so that a client sees all its mistakes at once.
#include "api/params.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The first field error turns the problem into a 422 whose detail repeats it.
static int invalid(struct api_problem *p, const char *field, const char *message) {
    if (!p->status)
        api_problem_set(p, 422, "invalid-value", "%s: %s", field, message);
    return api_problem_field(p, field, "%s", message);
}

int api_parse_int(const char *text, int64_t *out) {
    char *end;
    if (!*text || (*text != '-' && (*text < '0' || *text > '9')))
        return -1;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || *end || end == text)
        return -1;
    *out = v;
    return 0;
}

int api_parse_num(const char *text, double *out) {
    char *end;
    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text))
        return -1;
    double v = strtod(text, &end);
    if (*end || end == text || !isfinite(v))
        return -1;
    *out = v;
    return 0;
}

int api_q_int(struct api_req *r, const char *key, int64_t min, int64_t max, int64_t *out,
              struct api_problem *p) {
    const char *text = api_query_get(&r->query, key);
    char msg[160];
    int64_t v;
    if (!text)
        return 0;
    if (!api_parse_int(text, &v) && v >= min && v <= max) {
        *out = v;
        return 0;
    }
    snprintf(msg, sizeof msg, "`%.40s` is not a whole number from %lld to %lld", text,
             (long long)min, (long long)max);
    return invalid(p, key, msg);
}

int api_q_steps(struct api_req *r, int64_t *from, int64_t *to, int64_t points, int *max_points,
                struct api_problem *p) {
    *to = INT64_MAX;
    api_q_int(r, "from", 0, INT64_MAX, from, p);
    api_q_int(r, "to", 0, INT64_MAX, to, p);
    api_q_int(r, "max_points", 0, 100000, &points, p);
    *max_points = (int)points;
    if (!p->status && *from > *to) {
        api_problem_set(p, 422, "invalid-value", "from is greater than to");
        api_problem_field(p, "from", "must not be greater than `to`");
    }
    return p->status ? -1 : 0;
}

int api_q_num(struct api_req *r, const char *key, double min, double max, double *out,
              struct api_problem *p) {
    const char *text = api_query_get(&r->query, key);
    char msg[160];
    double v;
    if (!text)
        return 0;
    if (!api_parse_num(text, &v) && v >= min && v <= max) {
        *out = v;
        return 0;
    }
    snprintf(msg, sizeof msg, "`%.40s` is not a number from %g to %g", text, min, max);
    return invalid(p, key, msg);
}

int api_q_enum(struct api_req *r, const char *key, const char *list, int *out,
               struct api_problem *p) {
    const char *text = api_query_get(&r->query, key), *names[17] = {0};
    char copy[256], near[96], msg[320];
    int n = 0;
    if (!text)
        return 0;
    snprintf(copy, sizeof copy, "%s", list);
    for (char *save, *t = strtok_r(copy, "|", &save); t && n < 16; t = strtok_r(NULL, "|", &save))
        names[n++] = t;
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], text)) {
            *out = i;
            return 0;
        }
    snprintf(msg, sizeof msg, "`%.40s` is not one of %s%s", text, list,
             api_nearest(text, names, near, sizeof near));
    return invalid(p, key, msg);
}

int api_q_known(struct api_req *r, struct api_problem *p) {
    const char *names[API_QUERY_MAX + 1] = {0};
    char near[96], list[400] = "";
    size_t n = 0;
    for (const struct api_param *a = r->route->params; a && a->name && n < API_QUERY_MAX; a++) {
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", n ? ", " : "", a->name);
        names[n++] = a->name;
    }
    for (size_t i = 0; i < r->query.n; i++) {
        const char *key = r->query.arg[i].key;
        bool known = false;
        for (size_t j = 0; j < n; j++)
            known |= !strcmp(names[j], key);
        if (known)
            continue;
        api_nearest(key, names, near, sizeof near);
        if (!p->status)
            api_problem_set(p, 400, "unknown-parameter", "unknown query parameter `%.64s`%s", key,
                            near);
        if (!n)
            api_problem_field(p, key, "unknown parameter; this endpoint takes none");
        else
            api_problem_field(p, key, "unknown parameter%s%s%s", near,
                              *near ? "" : "; expected one of ", *near ? "" : list);
    }
    return p->status ? -1 : 0;
}

int api_parse_page(struct api_req *r, struct api_page *out, struct api_problem *p) {
    int64_t limit = 50;
    *out = (struct api_page){.state = api_query_get(&r->query, "state"),
                             .job = api_query_get(&r->query, "job"),
                             .cursor = api_query_get(&r->query, "cursor")};
    api_q_int(r, "limit", 1, 1000, &limit, p);
    if (out->cursor && strlen(out->cursor) > 127)
        invalid(p, "cursor", "not a cursor of this server");
    out->limit = (int)limit;
    return p->status ? -1 : 0;
}

json_t *api_body_any_object(struct api_req *r, struct api_problem *p) {
    json_error_t e;
    json_t *o = json_loadb(r->body ? r->body : "", r->body_len, JSON_REJECT_DUPLICATES, &e);
    if (!o) {
        api_problem_set(p, 400, "malformed-json",
                        "the body is not JSON: %.200s (line %d column %d)", e.text, e.line,
                        e.column);
        return NULL;
    }
    if (!json_is_object(o)) {
        api_problem_set(p, 422, "invalid-value", "the body must be a JSON object");
        json_decref(o);
        return NULL;
    }
    return o;
}

json_t *api_body_object(struct api_req *r, const char *const *keys, struct api_problem *p) {
    json_t *o = api_body_any_object(r, p), *value;
    char near[96], msg[400];
    const char *key;
    if (!o)
        return NULL;
    json_object_foreach(o, key, value) {
        const char *const *k = keys;
        while (*k && strcmp(*k, key))
            k++;
        if (*k)
            continue;
        api_nearest(key, keys, near, sizeof near);
        int len = snprintf(msg, sizeof msg, "unknown key%s", near);
        if (!*near) {
            len += snprintf(msg + len, sizeof msg - len, "; expected one of");
            for (k = keys; *k && len < 300; k++)
                len += snprintf(msg + len, sizeof msg - len, "%s %.40s", k == keys ? "" : ",", *k);
        }
        invalid(p, key, msg);
    }
    return o;
}

int api_body_str(const json_t *o, const char *key, size_t max, const char **out,
                 struct api_problem *p) {
    const json_t *v = json_object_get(o, key);
    char msg[96];
    *out = NULL;
    if (!v || json_is_null(v))
        return 0;
    if (json_is_string(v) && json_string_length(v) <= max) {
        *out = json_string_value(v);
        return 0;
    }
    snprintf(msg, sizeof msg, "must be a string of at most %zu bytes", max);
    return invalid(p, key, msg);
}

const char *api_idempotency_key(struct api_req *r, struct api_problem *p) {
    const char *key = api_header(r, "Idempotency-Key");
    if (!key)
        return NULL;
    bool ok = *key && strlen(key) <= 255;
    for (const char *c = key; *c; c++)
        ok = ok && *c > 32 && *c < 127;
    if (!ok) {
        api_problem_set(p, 400, "bad-idempotency-key",
                        "Idempotency-Key must be 1 to 255 printable characters");
        api_problem_field(p, "Idempotency-Key", "1 to 255 printable ASCII characters");
    }
    return key;
}
