// The OpenAPI 3.1 document, made from the route table at the start of the server, so that it
// always describes the API that runs. Schemas of bodies come from schemas.py.
#include "api/routes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *value_of(const char *word, bool number) {
    char *end;
    const double v = strtod(word, &end);
    if (!number || *end)
        return json_string(word);
    return v == floor(v) && fabs(v) < 9e15 ? json_integer((json_int_t)v) : json_real(v);
}

// "TYPE[ LOW..HIGH][ =DEFAULT]" (req.h); the type is a word or "a|b|c".
static json_t *param_schema(const char *text) {
    char copy[200], *save;
    snprintf(copy, sizeof copy, "%s", text);
    const char *type = strtok_r(copy, " ", &save);
    const bool number = !strcmp(type, "integer") || !strcmp(type, "number");
    json_t *o = json_pack("{s:s}", "type", strchr(type, '|') ? "string" : type);
    if (strchr(type, '|')) {
        json_t *values = json_array();
        for (const char *w = type; *w;) {
            size_t n = strcspn(w, "|");
            json_array_append_new(values, json_stringn(w, n));
            w += n + (w[n] == '|');
        }
        json_object_set_new(o, "enum", values);
    }
    for (char *w; (w = strtok_r(NULL, " ", &save));) {
        char *dots = strstr(w, "..");
        if (*w == '=') {
            json_object_set_new(o, "default", value_of(w + 1, number));
        } else if (dots) {
            *dots = '\0';
            json_object_set_new(o, "minimum", value_of(w, number));
            json_object_set_new(o, "maximum", value_of(dots + 2, number));
        }
    }
    return o;
}

static json_t *parameters(const struct api_route *r) {
    json_t *list = json_array();
    static const char *const in_path[] = {"id", "name"};
    for (int i = 0; i < 2; i++) {
        char braces[16];
        snprintf(braces, sizeof braces, "{%s}", in_path[i]);
        if (strstr(r->path, braces))
            json_array_append_new(list,
                                  json_pack("{s:s, s:s, s:b, s:{s:s}}", "name", in_path[i], "in",
                                            "path", "required", 1, "schema", "type", "string"));
    }
    if ((!strcmp(r->path, "/v1/jobs") || !strcmp(r->path, "/v1/sweeps")) &&
        !strcmp(r->method, "POST"))
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:{s:s, s:i}}", "name", "Idempotency-Key", "in",
                                        "header", "schema", "type", "string", "maxLength", 255));
    if (!strcmp(r->produces, "text/event-stream"))
        json_array_append_new(list, json_pack("{s:s, s:s, s:{s:s}}", "name", "Last-Event-ID", "in",
                                              "header", "schema", "type", "string"));
    for (const struct api_param *a = r->params; a && a->name; a++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s, s:o}", "name", a->name, "in", "query",
                                        "description", a->doc, "schema", param_schema(a->type)));
    return list;
}

// {"schema": {"$ref": ...}} of what the route takes (1) or returns (0) as JSON.
static json_t *schema(const json_t *routes, const struct api_route *r, size_t which) {
    char key[128];
    snprintf(key, sizeof key, "%s %s", r->method, r->path);
    const json_t *name = json_array_get(json_object_get(routes, key), which);
    return json_pack("{s:{s:o}}", "schema", "$ref",
                     json_sprintf("#/components/schemas/%s",
                                  json_is_string(name) ? json_string_value(name) : "Any"));
}

static json_t *body(const json_t *routes, const struct api_route *r) {
    json_t *content = json_object();
    if (r->body != API_BODY_BYTES)
        json_object_set_new(content, "application/json", schema(routes, r, 1));
    if (r->body != API_BODY_JSON)
        json_object_set_new(
            content, "application/octet-stream",
            json_pack("{s:{s:s, s:s}}", "schema", "type", "string", "format", "binary"));
    return json_pack("{s:b, s:o}", "required", r->body != API_BODY_GENERATE, "content", content);
}

// The types that a handler chooses from by `format` or Accept, where the table has "*/*".
static json_t *content_types(const json_t *routes, const struct api_route *r) {
    static const char *const image[] = {"image/png",       "application/json",
                                        "application/zip", "application/octet-stream",
                                        "image/apng",      NULL};
    static const char *const metrics[] = {"application/json", "text/csv", "application/x-ndjson",
                                          NULL};
    static const char *const file[] = {"application/octet-stream", "application/zip", NULL};
    static const char *const results[] = {"image/png", "application/json",
                                          "application/octet-stream", NULL};
    static const char *const sqlite[] = {"application/vnd.sqlite3", NULL};
    const char *const own[] = {r->produces, NULL};
    const char *const *types = strcmp(r->produces, "*/*")    ? own
                               : strstr(r->path, "generate") ? image
                               : strstr(r->path, "metrics")  ? metrics
                               : strstr(r->path, "evals")    ? results
                               : strstr(r->path, "backup")   ? sqlite
                                                             : file;
    json_t *o = json_object();
    for (; *types; types++)
        json_object_set_new(
            o, *types,
            !strcmp(*types, "application/json") ? schema(routes, r, 0)
            : !strncmp(*types, "text/", 5) || strstr(*types, "ndjson")
                ? json_pack("{s:{s:s}}", "schema", "type", "string")
                : json_pack("{s:{s:s, s:s}}", "schema", "type", "string", "format", "binary"));
    return o;
}

// "get_v1_jobs_id_metrics": a name for generated clients, unique as method and path are.
static json_t *operation_id(const struct api_route *r) {
    char id[128];
    size_t n = 0;
    for (const char *p = r->method; *p && n < sizeof id - 1; p++)
        id[n++] = (char)(*p | 0x20);
    for (const char *p = r->path; *p && n < sizeof id - 1; p++)
        if (strchr("/._", *p)) // braces are left out, their name stays
            id[n++] = '_';
        else if (*p != '{' && *p != '}')
            id[n++] = *p;
    id[n] = '\0';
    return json_string(id);
}

static json_t *operation(const json_t *routes, const struct api_route *r) {
    char status[8];
    snprintf(status, sizeof status, "%d", r->status);
    json_t *ok = json_pack("{s:s}", "description", "done");
    if (r->status != 204)
        json_object_set_new(ok, "content", content_types(routes, r));
    json_t *responses = json_pack("{s:o, s:{s:s}}", status, ok, "default", "$ref",
                                  "#/components/responses/Problem");
    json_t *op = json_pack("{s:o, s:s, s:o}", "operationId", operation_id(r), "summary", r->summary,
                           "responses", responses);
    json_t *params = parameters(r);
    if (json_array_size(params))
        json_object_set(op, "parameters", params);
    json_decref(params);
    if (r->body != API_BODY_NONE)
        json_object_set_new(op, "requestBody", body(routes, r));
    if (r->flags & API_PUBLIC)
        json_object_set_new(op, "security", json_array());
    else
        json_object_set_new(op, "x-scope",
                            json_string(r->flags & API_GENERATES ? "generate"
                                        : !strcmp(r->method, "GET") && !(r->flags & API_ADMIN)
                                            ? "read"
                                            : "admin"));
    return op;
}

// The schemas, with the kinds of jobs that this server was started with.
static json_t *make_components(const struct api_server *s, json_t *schemas) {
    json_t *names = json_array(), *job = json_object_get(schemas, "JobCreate");
    json_t *o =
        json_pack("{s:{s:{s:s, s:s}}, s:{s:{s:s, s:{s:{s:{s:s}}}}}, s:O}", "securitySchemes",
                  "token", "type", "http", "scheme", "bearer", "responses", "Problem",
                  "description", "RFC 9457", "content", "application/problem+json", "schema",
                  "$ref", "#/components/schemas/Problem", "schemas", schemas);
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    for (size_t i = 0; i < s->cfg.njob_kinds; i++) {
        const struct api_job_kind *k = &s->cfg.job_kinds[i];
        json_array_append_new(names, json_string(k->name));
        if (f)
            fprintf(f, "%s%s: %s", i ? " " : "", k->name, k->about);
    }
    if (f)
        fclose(f);
    json_object_set_new(json_object_get(job, "properties"), "kind",
                        json_pack("{s:s, s:s, s:o}", "type", "string", "description",
                                  text ? text : "", "enum", names));
    free(text);
    return o;
}

char *api_openapi_text(struct api_server *s, size_t *len) {
    json_t *paths = json_object(), *made = json_loads(api_schemas, 0, NULL);
    const json_t *routes = json_object_get(made, "routes");
    for (size_t i = 0; i < api_nroutes; i++) {
        const struct api_route *r = &api_routes[i];
        char method[8] = "";
        for (size_t k = 0; r->method[k] && k < 7; k++)
            method[k] = (char)(r->method[k] | 0x20);
        json_t *item = json_object_get(paths, r->path);
        if (!item) {
            item = json_object();
            json_object_set_new(paths, r->path, item);
        }
        json_object_set_new(item, method, operation(routes, r));
    }
    json_t *doc =
        json_pack("{s:s, s:{s:s, s:s, s:s}, s:[{s:[]}, {}], s:o, s:o}", "openapi", "3.1.0", "info",
                  "title", "driftd", "version", s->version, "description",
                  "Trains and serves drifting models.", "security", "token", "paths", paths,
                  "components", make_components(s, json_object_get(made, "schemas")));
    json_decref(made);
    char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    json_decref(doc);
    *len = text ? strlen(text) : 0;
    return text;
}
