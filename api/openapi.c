// The OpenAPI 3.1 document, made from the route table at the start of the server, so that it
// always describes the API that runs. Schemas of bodies are written here.
#include "api/routes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *param_schema(const char *type) {
    if (!strchr(type, '|'))
        return json_pack("{s:s}", "type", type);
    json_t *values = json_array();
    for (const char *w = type; *w;) {
        size_t n = strcspn(w, "|");
        json_array_append_new(values, json_stringn(w, n));
        w += n + (w[n] == '|');
    }
    return json_pack("{s:s, s:o}", "type", "string", "enum", values);
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

static json_t *body(const struct api_route *r) {
    const char *ref = "#/components/schemas/Any";
    if (!strcmp(r->path, "/v1/jobs"))
        ref = "#/components/schemas/JobCreate";
    else if (!strcmp(r->method, "PATCH"))
        ref = "#/components/schemas/JobPatch";
    else if (!strcmp(r->path, "/v1/checkpoints"))
        ref = "#/components/schemas/ImportByPath";
    else if (!strcmp(r->path, "/v1/datasets"))
        ref = "#/components/schemas/DatasetCreate";
    else if (!strcmp(r->path, "/v1/served"))
        ref = "#/components/schemas/Serve";
    else if (!strcmp(r->path, "/v1/images/generations"))
        ref = "#/components/schemas/ImageCreate";
    else if (r->body == API_BODY_GENERATE)
        ref = "#/components/schemas/Generate";
    else if (!strcmp(r->path, "/v1/sweeps"))
        ref = "#/components/schemas/SweepCreate";
    else if (!strcmp(r->path, "/v1/evals"))
        ref = "#/components/schemas/EvalCreate";
    json_t *content = r->body == API_BODY_BYTES
                          ? json_object()
                          : json_pack("{s:{s:{s:s}}}", "application/json", "schema", "$ref", ref);
    if (r->body != API_BODY_JSON)
        json_object_set_new(
            content, "application/octet-stream",
            json_pack("{s:{s:s, s:s}}", "schema", "type", "string", "format", "binary"));
    return json_pack("{s:b, s:o}", "required", r->body != API_BODY_GENERATE, "content", content);
}

// The types that a handler chooses from by `format` or Accept, where the table has "*/*".
static json_t *content_types(const struct api_route *r) {
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
        json_object_set_new(o, *types, json_object());
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

static json_t *operation(const struct api_route *r) {
    char status[8];
    snprintf(status, sizeof status, "%d", r->status);
    json_t *ok = json_pack("{s:s}", "description", "done");
    if (r->status != 204)
        json_object_set_new(ok, "content", content_types(r));
    json_t *responses = json_pack("{s:o, s:{s:s}}", status, ok, "default", "$ref",
                                  "#/components/responses/Problem");
    json_t *op = json_pack("{s:o, s:s, s:o}", "operationId", operation_id(r), "summary", r->summary,
                           "responses", responses);
    json_t *params = parameters(r);
    if (json_array_size(params))
        json_object_set(op, "parameters", params);
    json_decref(params);
    if (r->body != API_BODY_NONE)
        json_object_set_new(op, "requestBody", body(r));
    if (r->flags & API_PUBLIC)
        json_object_set_new(op, "security", json_array());
    return op;
}

static const char components[] =
    "{\"securitySchemes\":{\"token\":{\"type\":\"http\",\"scheme\":\"bearer\"}},"
    "\"responses\":{\"Problem\":{\"description\":\"RFC 9457\",\"content\":{"
    "\"application/problem+json\":{\"schema\":{\"$ref\":\"#/components/schemas/Problem\"}}}}},"
    "\"schemas\":{\"Any\":{\"type\":\"object\"},"
    "\"Problem\":{\"type\":\"object\",\"required\":[\"type\",\"title\",\"status\",\"detail\"],"
    "\"properties\":{\"type\":{\"type\":\"string\"},\"title\":{\"type\":\"string\"},"
    "\"status\":{\"type\":\"integer\"},\"detail\":{\"type\":\"string\"},"
    "\"instance\":{\"type\":\"string\"},\"retry_after\":{\"type\":\"number\"},"
    "\"errors\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{"
    "\"field\":{\"type\":\"string\"},\"message\":{\"type\":\"string\"}}}}}},"
    "\"JobCreate\":{\"type\":\"object\",\"required\":[\"config\"],\"additionalProperties\":false,"
    "\"properties\":{\"config\":{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"object\"}]},"
    "\"overrides\":{\"type\":\"object\"},\"name\":{\"type\":\"string\",\"maxLength\":200},"
    "\"priority\":{\"type\":\"integer\",\"minimum\":-1000,\"maximum\":1000}}},"
    "\"JobPatch\":{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
    "\"name\":{\"type\":\"string\"},\"notes\":{\"type\":\"string\"}}},"
    "\"EvalCreate\":{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
    "\"checkpoint\":{\"type\":\"string\"},\"job\":{\"type\":\"string\"},"
    "\"folder\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"},\"alpha\":{\"oneOf\":["
    "{\"type\":\"number\"},{\"type\":\"array\",\"items\":{\"type\":\"number\"}}]},"
    "\"seed\":{\"type\":\"integer\"},\"split\":{\"type\":\"string\"},"
    "\"weights\":{\"type\":\"string\",\"enum\":[\"ema\",\"raw\"]},"
    "\"batch\":{\"type\":\"integer\"},\"metrics\":{\"type\":\"string\"},"
    "\"judge\":{\"type\":\"string\"},\"inception\":{\"type\":\"string\"},"
    "\"resize\":{\"type\":\"string\"},\"skip_existing\":{\"type\":\"boolean\"},"
    "\"samples\":{\"type\":\"boolean\"},\"share\":{\"type\":\"number\"},"
    "\"data\":{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"object\"}]},"
    "\"name\":{\"type\":\"string\",\"maxLength\":200},\"kind\":{\"type\":\"string\"},"
    "\"settings\":{\"type\":\"object\"},\"priority\":{\"type\":\"integer\"}}},"
    "\"SweepCreate\":{\"type\":\"object\",\"required\":[\"name\",\"recipes\"],"
    "\"additionalProperties\":false,\"properties\":{\"name\":{\"type\":\"string\","
    "\"maxLength\":100},\"about\":{\"type\":\"string\"},\"recipes\":{\"oneOf\":[{\"type\":"
    "\"array\",\"items\":{\"type\":\"string\"}},{\"type\":\"object\"}]},"
    "\"overrides\":{\"type\":\"object\"},\"axes\":{\"type\":\"object\"},"
    "\"skip\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},"
    "\"seeds\":{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"array\",\"items\":{\"type\":"
    "\"integer\"}}]},\"eval\":{\"type\":\"object\"},\"metrics\":{\"type\":\"array\","
    "\"items\":{\"type\":\"string\"}},\"search\":{\"type\":\"object\"},"
    "\"priority\":{\"type\":\"integer\"}}},"
    "\"DatasetCreate\":{\"type\":\"object\",\"required\":[\"name\"],"
    "\"additionalProperties\":false,\"properties\":{\"name\":{\"type\":\"string\","
    "\"maxLength\":63},\"path\":{\"type\":\"string\"},\"source\":{\"type\":\"string\"},\"options\":"
    "{\"type\":\"object\","
    "\"additionalProperties\":false,\"properties\":{\"size\":{\"type\":\"integer\"},"
    "\"channels\":{\"type\":\"integer\",\"enum\":[0,1,3]},\"fit\":{\"type\":\"string\","
    "\"enum\":[\"crop\",\"fit\",\"resize\",\"pad\"]},\"background\":{\"type\":\"string\"},"
    "\"test_share\":{\"type\":\"number\"},\"seed\":{\"type\":\"integer\"},"
    "\"refuse_bad\":{\"type\":\"boolean\"}}}}},"
    "\"Serve\":{\"type\":\"object\",\"required\":[\"checkpoint\"],"
    "\"additionalProperties\":false,\"properties\":{\"checkpoint\":{\"type\":\"string\"}}},"
    "\"ImageCreate\":{\"type\":\"object\",\"required\":[\"prompt\"],\"properties\":{"
    "\"prompt\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"},\"size\":{\"type\":\"string\"},"
    "\"model\":{\"type\":\"string\"},\"response_format\":{\"type\":\"string\",\"enum\":[\"b64_"
    "json\"]},"
    "\"seed\":{\"type\":\"integer\"},\"cfg\":{\"type\":\"number\"},"
    "\"temperature\":{\"type\":\"number\"}}},"
    "\"Generate\":{\"type\":\"object\",\"description\":\"the query parameters as members\"},"
    "\"ImportByPath\":{\"type\":\"object\",\"required\":[\"path\"],\"additionalProperties\":false,"
    "\"properties\":{\"path\":{\"type\":\"string\"},\"name\":{\"type\":\"string\"},"
    "\"config\":{\"type\":\"string\"}}}}}";

// The schemas, with the kinds of jobs that this server was started with.
static json_t *make_components(const struct api_server *s) {
    json_t *o = json_loads(components, 0, NULL), *names = json_array();
    json_t *job = json_object_get(json_object_get(o, "schemas"), "JobCreate");
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
    json_t *paths = json_object();
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
        json_object_set_new(item, method, operation(r));
    }
    json_t *doc = json_pack("{s:s, s:{s:s, s:s, s:s}, s:[{s:[]}, {}], s:o, s:o}", "openapi",
                            "3.1.0", "info", "title", "driftd", "version", s->version,
                            "description", "Trains and serves drifting models.", "security",
                            "token", "paths", paths, "components", make_components(s));
    char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    json_decref(doc);
    *len = text ? strlen(text) : 0;
    return text;
}
