// The page and its assets: an exact-match table made by the web build, or a small built-in page
// when there is none. No path is ever opened on disk. Called by request.c.
#include "api/handlers.h"
#include "api/negotiate.h"
#include "api/respond.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define CSP                                                                                        \
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "         \
    "frame-ancestors 'none'; form-action 'self'"

static const char page_html[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<title>driftd</title><link rel=\"stylesheet\" href=\"./index.css\">\n"
    "<script type=\"module\" src=\"./index.js\"></script></head>\n<body><main>\n"
    "<h1>driftd</h1>\n"
    "<p>This daemon trains and serves drifting models: one-step image generators.</p>\n"
    "<p id=\"live\" aria-live=\"polite\">Waiting for events.</p>\n"
    "<dl id=\"values\"></dl>\n<h2>Try</h2>\n"
    "<pre>curl -X POST 'localhost:8080/generate?class=3&amp;cfg=1.5' -o three.png</pre>\n"
    "<ul><li><a href=\"./v1/status\">status</a></li><li><a href=\"./v1/jobs\">jobs</a></li>\n"
    "<li><a href=\"./v1/configs\">recipes</a></li>"
    "<li><a href=\"./v1/checkpoints\">checkpoints</a></li>\n"
    "<li><a href=\"./metrics\">Prometheus metrics</a></li>"
    "<li><a href=\"./openapi.json\">OpenAPI document</a></li></ul>\n"
    "</main></body></html>\n";

static const char page_css[] =
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;"
    "max-width:44rem;padding:0 1rem}pre{overflow-x:auto;padding:.6rem;border:1px solid #8888}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dd{margin:0;"
    "font-variant-numeric:tabular-nums}\n";

static const char page_js[] =
    "const live = document.getElementById('live'), list = document.getElementById('values');\n"
    "const cells = new Map();\n"
    "function show(name, value) {\n"
    "  if (!cells.has(name)) {\n"
    "    const dt = document.createElement('dt'), dd = document.createElement('dd');\n"
    "    dt.textContent = name;\n    list.append(dt, dd);\n    cells.set(name, dd);\n  }\n"
    "  cells.get(name).textContent = value === null ? 'not finite' :\n"
    "    Number.isInteger(value) ? value : value.toPrecision(5);\n}\n"
    "const es = new EventSource('./v1/events');\n"
    "es.onerror = () => { live.textContent = 'Can\\'t reach driftd, retrying.'; };\n"
    "es.addEventListener('hello', () => { live.textContent = 'Connected.'; });\n"
    "es.addEventListener('metrics', (e) => {\n"
    "  const d = JSON.parse(e.data), row = d.rows[d.rows.length - 1];\n"
    "  live.textContent = `Job ${d.job} is training.`;\n"
    "  d.cols.forEach((c, i) => show(c, row[i]));\n});\n"
    "for (const kind of ['state', 'checkpoint', 'sample', 'alert', 'dataset'])\n"
    "  es.addEventListener(kind, (e) => { live.textContent = `${kind}: ${e.data}`; });\n";

struct builtin {
    const char *path, *type, *text;
    size_t size;
};

static const struct builtin builtins[] = {
    {"/", "text/html; charset=utf-8", page_html, sizeof page_html - 1},
    {"/index.css", "text/css; charset=utf-8", page_css, sizeof page_css - 1},
    {"/index.js", "text/javascript; charset=utf-8", page_js, sizeof page_js - 1},
};

static const struct api_asset *find_asset(struct api_server *s, const char *path) {
    for (size_t i = 0; s->cfg.assets && i < s->cfg.nassets; i++)
        if (!strcmp(s->cfg.assets[i].path, path))
            return &s->cfg.assets[i];
    return NULL;
}

static const struct builtin *find_builtin(struct api_server *s, const char *path) {
    for (size_t i = 0; !s->cfg.assets && i < sizeof builtins / sizeof *builtins; i++)
        if (!strcmp(builtins[i].path, path))
            return &builtins[i];
    return NULL;
}

bool api_page_find(struct api_server *s, const char *path) {
    return find_asset(s, path) || find_builtin(s, path);
}

static enum MHD_Result finish(struct api_req *r, unsigned status, struct MHD_Response *resp,
                              const char *type) {
    if (resp) {
        MHD_add_response_header(resp, "Content-Type", type);
        MHD_add_response_header(resp, "Content-Security-Policy", CSP);
        MHD_add_response_header(resp, "Referrer-Policy", "no-referrer");
        MHD_add_response_header(resp, "Cross-Origin-Opener-Policy", "same-origin");
        MHD_add_response_header(resp, "Cross-Origin-Resource-Policy", "same-origin");
        MHD_add_response_header(resp, "Cache-Control", "no-cache"); // revalidated by the ETag
    }
    return api_send(r, status, resp);
}

static void *inflate_asset(const struct api_asset *a) {
    z_stream z = {.next_in = (unsigned char *)(uintptr_t)a->gzip,
                  .avail_in = (unsigned)a->gzip_size};
    unsigned char *plain = malloc(a->plain_size ? a->plain_size : 1);
    if (!plain || inflateInit2(&z, 31) != Z_OK) {
        free(plain);
        return NULL;
    }
    z.next_out = plain;
    z.avail_out = (unsigned)a->plain_size;
    int rc = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    if (rc != Z_STREAM_END || z.avail_out) {
        free(plain);
        return NULL;
    }
    return plain;
}

static enum MHD_Result send_asset(struct api_req *r, const struct api_asset *a) {
    char etag[96] = "", quoted[100];
    char *accept = api_header_list(r, "Accept-Encoding");
    const int gzip = api_pick_gzip(accept);
    free(accept);
    if (gzip < 0)
        return api_send_error(r, 406, "not-acceptable",
                              "Accept-Encoding allows neither gzip nor "
                              "identity");
    if (a->etag && *a->etag) // of the bytes sent: each coding has its own
        snprintf(etag, sizeof etag, "%.80s%s", a->etag, gzip ? "-gzip" : "");
    unsigned status = (unsigned)api_precondition(r, etag);
    if (status == 412)
        return api_send_error(r, 412, "precondition", "the file has another entity tag");
    void *plain = gzip ? NULL : inflate_asset(a);
    if (!gzip && !plain)
        return api_send_error(r, 500, "internal", "an asset of the page is damaged");
    struct MHD_Response *resp =
        gzip ? MHD_create_response_from_buffer(a->gzip_size, (void *)(uintptr_t)a->gzip,
                                               MHD_RESPMEM_PERSISTENT)
             : api_bytes_response(r, plain, a->plain_size);
    if (!resp)
        return api_send_no_room(r);
    if (gzip)
        MHD_add_response_header(resp, "Content-Encoding", "gzip");
    snprintf(quoted, sizeof quoted, "\"%s\"", etag);
    if (*etag)
        MHD_add_response_header(resp, "ETag", quoted);
    MHD_add_response_header(resp, "Vary", "Accept-Encoding");
    return finish(r, status ? status : 200, resp, a->content_type);
}

enum MHD_Result api_h_page(struct api_req *r) {
    const struct api_asset *a = find_asset(r->srv, r->path);
    if (a)
        return send_asset(r, a);
    const struct builtin *b = find_builtin(r->srv, r->path);
    if (!b)
        return api_send_error(r, 404, "not-found", "there is no such page");
    return finish(r, 200,
                  MHD_create_response_from_buffer(b->size, (void *)(uintptr_t)b->text,
                                                  MHD_RESPMEM_PERSISTENT),
                  b->type);
}
