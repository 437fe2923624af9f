// Bodies of generate requests: JSON becomes parameters, as if the query had them; a npy is the
// noise. And the form in which OpenAI's image API asks. Called by genparse.c and the handler below.
#include "api/handlers.h"
#include "api/npy.h"
#include "api/params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int invalid(struct api_problem *p, const char *field, const char *text) {
    if (!p->status)
        api_problem_set(p, 422, "invalid-value", "%s: %s", field, text);
    return api_problem_field(p, field, "%s", text);
}

// Text as a query would have it: a string, a number, or a list of those with `sep` between them.
// NULL: neither.
static char *as_text(const json_t *v, const char *sep) {
    char *text = NULL;
    size_t size = 0, i;
    json_t *item;
    if (json_is_string(v))
        return strdup(json_string_value(v));
    if (json_is_integer(v) || json_is_real(v))
        return json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    FILE *f = json_is_array(v) ? open_memstream(&text, &size) : NULL;
    if (!f)
        return NULL;
    bool ok = true;
    json_array_foreach(v, i, item) {
        char *one = json_is_array(item) ? NULL : as_text(item, sep);
        ok = ok && one;
        fprintf(f, "%s%s", i ? sep : "", one ? one : "");
        free(one);
    }
    if (fclose(f) || !ok) {
        free(text);
        return NULL;
    }
    return text;
}

int api_gen_add(struct api_req *r, const char *key, const json_t *v, struct api_problem *p) {
    if (json_is_null(v))
        return 0;
    if (api_query_get(&r->query, key))
        return invalid(p, key, "is given in the query and in the body");
    char *text = as_text(v, strcmp(key, "class") ? "," : API_ITEMS); // names may have commas
    int rc = text ? api_query_add(&r->query, key, text)
                  : invalid(p, key, "expected a string, a number or a list of those");
    free(text);
    if (rc && !p->status)
        return api_problem_set(p, 500, "internal", "out of memory");
    return rc;
}

// The body becomes the noise, which then belongs to `out`; what is held for it (api_hold) stays the
// request's.
static int read_noise(struct api_req *r, struct api_gen_request *out, struct api_problem *p) {
    char why[120] = "";
    int n = 0;
    if (api_npy_read(r->body, r->body_len, &n, &out->noise_count, why, sizeof why))
        return invalid(p, "body", why);
    out->n = n;
    out->noise = (float *)(void *)r->body;
    r->body = NULL;
    r->body_cap = 0;
    return 0;
}

int api_gen_body(struct api_req *r, struct api_gen_request *out, struct api_problem *p) {
    const char *keys[API_QUERY_MAX + 1] = {0}, *key;
    json_t *value;
    size_t n = 0;
    if (r->body_is_bytes)
        return read_noise(r, out, p);
    if (!r->body || r->openai)
        return 0;
    for (const struct api_param *a = r->route->params; a && a->name && n < API_QUERY_MAX; a++)
        keys[n++] = a->name;
    json_t *o = api_body_object(r, keys, p);
    if (!o)
        return -1;
    json_object_foreach(o, key, value) api_gen_add(r, key, value, p);
    json_decref(o);
    return p->status ? -1 : 0;
}
