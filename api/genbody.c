// Bodies of generate requests: JSON becomes parameters, as if the query had them; a npy is the
// noise. And the form in which OpenAI's image API asks. Called by genparse.c and the handler below.
#include "api/handlers.h"
#include "api/npy.h"
#include "api/params.h"
#include "api/respond.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int invalid(struct api_problem *p, const char *field, const char *text) {
    if (!p->status)
        api_problem_set(p, 422, "invalid-value", "%s: %s", field, text);
    return api_problem_field(p, field, "%s", text);
}

// Text as a query would have it: a string, a number, or a list of those with commas. NULL: neither.
static char *as_text(const json_t *v) {
    char *text = NULL;
    size_t size = 0, i;
    json_t *item;
    if (json_is_string(v))
        return strdup(json_string_value(v));
    if (json_is_integer(v) || json_is_real(v))
        return json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    FILE *f = json_is_array(v) ? open_memstream(&text, &size) : NULL;
    if (!f)
        return NULL;
    bool ok = true;
    json_array_foreach(v, i, item) {
        char *one = json_is_array(item) ? NULL : as_text(item);
        ok = ok && one;
        fprintf(f, "%s%s", i ? "," : "", one ? one : "");
        free(one);
    }
    if (fclose(f) || !ok) {
        free(text);
        return NULL;
    }
    return text;
}

static int add(struct api_req *r, const char *key, const json_t *v, struct api_problem *p) {
    if (json_is_null(v))
        return 0;
    if (api_query_get(&r->query, key))
        return invalid(p, key, "is given in the query and in the body");
    char *text = as_text(v);
    int rc = text ? api_query_add(&r->query, key, text)
                  : invalid(p, key, "expected a string, a number or a list of those");
    free(text);
    if (rc && !p->status)
        return api_problem_set(p, 500, "internal", "out of memory");
    return rc;
}

static int read_noise(struct api_req *r, struct api_gen_request *out, struct api_problem *p) {
    char why[120] = "";
    int n = 0;
    if (api_npy_read(r->body, r->body_len, &n, &out->noise_count, &out->noise, why, sizeof why))
        return invalid(p, "body", why);
    out->n = n;
    return 0;
}

int api_gen_body(struct api_req *r, struct api_gen_request *out, struct api_problem *p) {
    const char *keys[API_QUERY_MAX + 1] = {0}, *key;
    json_t *value;
    size_t n = 0;
    if (!r->body || r->openai)
        return 0;
    if (r->body_is_bytes)
        return read_noise(r, out, p);
    for (const struct api_param *a = r->route->params; a && a->name && n < API_QUERY_MAX; a++)
        keys[n++] = a->name;
    json_t *o = api_body_object(r, keys, p);
    if (!o)
        return -1;
    json_object_foreach(o, key, value) add(r, key, value, p);
    json_decref(o);
    return p->status ? -1 : 0;
}

// ---- OpenAI's form ----

// What its clients send and what has no meaning here.
static const char *const openai_keys[] = {
    "prompt",      "n",     "size", "response_format", "model",         "seed",       "cfg",
    "quality",     "style", "user", "stream",          "output_format", "moderation", "background",
    "temperature", NULL};

static void expect_word(const json_t *o, const char *key, const char *word, struct api_problem *p) {
    const json_t *v = json_object_get(o, key);
    char text[80];
    if (!v || json_is_null(v) || (json_is_string(v) && !strcmp(json_string_value(v), word)))
        return;
    snprintf(text, sizeof text, "only `%s` is made here", word);
    invalid(p, key, text);
}

static void openai_query(struct api_req *r, const json_t *o, struct api_problem *p) {
    static const char *const same[] = {"n", "seed", "cfg", "temperature", NULL};
    const json_t *prompt = json_object_get(o, "prompt"), *size = json_object_get(o, "size");
    const char *model = json_string_value(json_object_get(o, "model"));
    if (!json_is_string(prompt) && !json_is_integer(prompt))
        invalid(p, "prompt", "expected the name or the number of a class, or `random`");
    else
        add(r, "class", prompt, p);
    for (int i = 0; same[i]; i++)
        if (json_object_get(o, same[i]))
            add(r, same[i], json_object_get(o, same[i]), p);
    if (model && strcmp(model, "driftd") != 0)
        add(r, "checkpoint", json_object_get(o, "model"), p);
    if (json_is_true(json_object_get(o, "stream")))
        invalid(p, "stream", "answers come whole");
    expect_word(o, "response_format", "b64_json", p);
    expect_word(o, "output_format", "png", p);
    if (size && !json_is_null(size) && (!json_is_string(size) || json_string_length(size) > 20))
        invalid(p, "size", "expected WIDTHxHEIGHT or `auto`");
    else if (json_is_string(size) && strcmp(json_string_value(size), "auto") != 0)
        snprintf(r->size, sizeof r->size, "%s", json_string_value(size));
}

enum MHD_Result api_h_openai(struct api_req *r) {
    struct api_problem p = {0};
    r->openai = true;
    json_t *o = api_body_object(r, openai_keys, &p);
    if (o)
        openai_query(r, o, &p);
    json_decref(o);
    return p.status ? api_send_problem(r, &p) : api_h_generate(r);
}
