// Renderers (render.h). The JSON in a PNG's iTXt chunk is that of format=json without the pictures.
// Its member `request` is the query that makes the same images again.
#include "daemon/generate/render.h"

#include "daemon/base/util.h"
#include "daemon/generate/apng.h"
#include "daemon/generate/grid.h"
#include "engine/io/image.h"

#include <archive.h>
#include <archive_entry.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 2, FRAME_MS = 80 };

// Images per guidance scale: the noise index restarts with every scale. 0: no query of
// /v1/generate makes these images (scale by scale, the same labels and noise for each).
static int images_per_scale(const struct dd_rendered *in) {
    const struct dd_gen_image *im = in->req->images;
    int n = in->req->n, each = 1;
    if (in->req->noise.own)
        return 0;
    if (in->req->noise.steps) // one scale; every label is there once per step
        return n / in->req->noise.steps;
    while (each < n && im[each].index != 0)
        each++;
    for (int i = 0; i < n; i++)
        if (im[i].index != (uint32_t)(i % each) || in->label[i] != in->label[i % each] ||
            im[i].cfg != im[i - i % each].cfg)
            return 0;
    return n % each ? 0 : each;
}

// The fewest digits that the parser reads as the same scale again.
static void print_scale(FILE *f, float v) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if ((float)strtod(text, NULL) == v)
            break;
    }
    fputs(text, f);
}

// The labels of one scale, or one number per scale, with commas between them; NULL: no memory.
static json_t *list_of(const struct dd_rendered *in, int each, bool scales) {
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    const int steps = DR_MAX(in->req->noise.steps, 1);
    for (int i = 0; i < (scales ? in->req->n / steps : each); i += scales ? each : 1) {
        fputs(i ? "," : "", f);
        if (scales)
            print_scale(f, in->req->images[i * steps].cfg);
        else
            fprintf(f, "%d", (int)in->label[i * steps]);
    }
    json_t *list = fclose(f) ? NULL : json_stringn(text, size);
    free(text);
    return list;
}

// What differs from the usual.
static void add_noise(const struct dd_gen_request *r, json_t *o) {
    if (r->raw)
        json_object_set_new(o, "weights", json_string("raw"));
    if (r->noise.scaled)
        json_object_set_new(o, "temperature", json_real(r->noise.temperature));
    if (r->noise.steps) {
        json_object_set_new(o, "seed2", json_integer((json_int_t)r->noise.seed2));
        json_object_set_new(o, "steps", json_integer(r->noise.steps));
    }
}

// The query of /v1/generate that makes the same images again, one member per parameter.
static json_t *query(const struct dd_rendered *in, const char *guidance) {
    const struct dd_gen_request *r = in->req;
    const int each = images_per_scale(in);
    if (!each)
        return json_null();
    const bool live = !strncmp(in->snap->id, "live:", 5); // weights that no id names
    json_t *q =
        json_pack("{s:o, s:o, s:i, s:I, s:o, s:i, s:s, s:s}", "class", list_of(in, each, false),
                  "cfg", list_of(in, each, true), "n", each, "seed", (json_int_t)r->seed, "grid",
                  json_sprintf("%dx%d", r->cols, r->rows), "scale", r->scale, "guidance", guidance,
                  "checkpoint", live ? "live" : in->snap->id);
    if (r->noise.steps)
        json_object_del(q, "grid"); // a walk has its own
    add_noise(r, q);
    return q;
}

static json_t *parameters(const struct dd_rendered *in) {
    const struct dd_gen_request *r = in->req;
    const char *guidance = r->two_pass ? "two-pass" : "one-step";
    json_t *images = json_array();
    for (int i = 0; i < r->n; i++) {
        json_t *im = json_pack("{s:i, s:f, s:I}", "class", in->label[i], "cfg",
                               (double)r->images[i].cfg, "index", (json_int_t)r->images[i].index);
        if (r->noise.steps)
            json_object_set_new(im, "walk", json_real((double)r->images[i].walk));
        json_array_append_new(images, im);
    }
    json_t *params = json_pack(
        "{s:s, s:I, s:i, s:o, s:i, s:s, s:I, s:s, s:o, s:o}", "generator", "driftd", "seed",
        (json_int_t)r->seed, "n", r->n, "grid", json_sprintf("%dx%d", r->cols, r->rows), "scale",
        r->scale, "checkpoint", in->snap->id, "step", (json_int_t)in->snap->step, "guidance",
        guidance, "request", query(in, guidance), "images", images);
    add_noise(r, params);
    if (r->noise.own)
        json_object_set_new(params, "noise", json_string("the client's own"));
    if (*in->note)
        json_object_set_new(params, "note", json_string(in->note));
    return params;
}

static bool has_points(const struct dd_rendered *in) {
    return dr_gen_config(in->snap->net)->kind == DR_KIND_POINTS;
}

int64_t dd_render_values(const struct dd_gen_request *r, const struct dr_net *net) {
    const int64_t values = r->n * dr_gen_image_count(net);
    if (r->format == DD_NPY)
        return values;
    if (dr_gen_config(net)->kind != DR_KIND_POINTS)
        return values * r->scale * r->scale;
    const int plots = r->format == DD_PNG ? 1 : r->format == DD_APNG ? r->noise.steps : r->n;
    return (int64_t)plots * DD_PLOT_SIDE * DD_PLOT_SIDE;
}

static int check_wanted(const struct dd_rendered *in, struct dr_err *err) {
    return in->req->abandoned(in->req->owner)
               ? dr_fail(err, DR_ECANCELED, "nobody waits for the answer")
               : 0;
}

// Samples [first, first + n) as one PNG; points as a scatter plot. Pictures are what takes long:
// before each, whether somebody still waits for the answer.
static int png(const struct dd_rendered *in, int first, int n, int cols, const char *text,
               struct dr_bytes *out, struct dr_err *err) {
    const struct dr_model_config *m = dr_gen_config(in->snap->net);
    const real *x = in->x + (int64_t)first * dr_gen_image_count(in->snap->net);
    int rc = check_wanted(in, err);
    if (rc)
        return rc;
    if (!has_points(in))
        return dr_png_grid(x, n, m->channels, m->size, m->size, dr_show(m->kind, m->channels), cols,
                           in->req->scale, n > 1 ? GAP : 0, text ? "driftd" : NULL, text, out, err);
    real *plot = malloc(sizeof(real) * DD_PLOT_SIDE * DD_PLOT_SIDE);
    if (!plot)
        return dr_fail(err, DR_ENOMEM, "no memory for a picture");
    dd_scatter(x, n, DD_PLOT_SIDE, plot);
    rc = dr_png_grid(plot, 1, 1, DD_PLOT_SIDE, DD_PLOT_SIDE, DR_SHOW_GREY, 1, 1, 0,
                     text ? "driftd" : NULL, text, out, err);
    free(plot);
    return rc;
}

// A walk's steps one after the other: a picture holds one image per row of the strip.
static int apng(const struct dd_rendered *in, const char *text, struct dr_bytes *out,
                struct dr_err *err) {
    const size_t count = (size_t)dr_gen_image_count(in->snap->net);
    const int steps = DR_MAX(in->req->noise.steps, 1), each = in->req->n / steps;
    struct dr_bytes *frame = dd_xcalloc((size_t)steps, sizeof *frame);
    real *x = malloc((size_t)each * count * sizeof *x);
    struct dd_rendered one = *in;
    int cols = 1, rc = x ? 0 : dr_fail(err, DR_ENOMEM, "no memory for a picture");
    while (cols * cols < each)
        cols++;
    one.x = x;
    for (int s = 0; s < steps && !rc; s++) {
        for (int k = 0; k < each; k++)
            memcpy(x + (size_t)k * count, in->x + (size_t)(k * steps + s) * count,
                   count * sizeof *x);
        rc = png(&one, 0, each, cols, s ? NULL : text, &frame[s], err);
    }
    if (!rc)
        rc = dd_apng(frame, steps, FRAME_MS, out, err);
    for (int s = 0; s < steps; s++)
        dr_bytes_free(&frame[s]);
    free(frame);
    free(x);
    return rc;
}

static int npy(const struct dd_rendered *in, struct dr_bytes *out, struct dr_err *err) {
    const struct dr_model_config *m = dr_gen_config(in->snap->net);
    if (has_points(in))
        return dr_npy(in->x, 2, (const int64_t[]){in->req->n, 2}, out, err);
    return dr_npy(in->x, 4, (const int64_t[]){in->req->n, m->channels, m->size, m->size}, out, err);
}

static char *base64(const uint8_t *p, size_t n) {
    static const char tab[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = dd_xcalloc((n + 2) / 3 * 4 + 1, 1), *o = out;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) |
                     (i + 2 < n ? p[i + 2] : 0);
        *o++ = tab[v >> 18];
        *o++ = tab[v >> 12 & 63];
        *o++ = i + 1 < n ? tab[v >> 6 & 63] : '=';
        *o++ = i + 2 < n ? tab[v & 63] : '=';
    }
    return out;
}

static int as_json(const struct dd_rendered *in, json_t *params, struct dr_bytes *out,
                   struct dr_err *err) {
    json_t *images = json_object_get(params, "images");
    for (int i = 0; i < in->req->n; i++) {
        struct dr_bytes b = {0};
        int rc = png(in, i, 1, 1, NULL, &b, err);
        if (rc)
            return rc;
        char *text = base64(b.p, b.n);
        json_object_set_new(json_array_get(images, (size_t)i), "png", json_string(text));
        free(text);
        dr_bytes_free(&b);
    }
    out->p = (uint8_t *)json_dumps(params, JSON_COMPACT);
    out->n = out->p ? strlen((char *)out->p) : 0;
    return out->p ? 0 : dr_fail(err, DR_ENOMEM, "no memory for the reply");
}

// {"created", "data": [{"b64_json"}], "driftd": the parameters}
static int as_openai(const struct dd_rendered *in, json_t *params, struct dr_bytes *out,
                     struct dr_err *err) {
    json_t *data = json_array();
    int rc = 0;
    for (int i = 0; i < in->req->n && !rc; i++) {
        struct dr_bytes b = {0};
        rc = png(in, i, 1, 1, NULL, &b, err);
        char *text = rc ? NULL : base64(b.p, b.n);
        if (text)
            json_array_append_new(data, json_pack("{s:s}", "b64_json", text));
        free(text);
        dr_bytes_free(&b);
    }
    json_t *o = json_pack("{s:I, s:o, s:O}", "created", (json_int_t)(dd_wall_us() / 1000000),
                          "data", data, "driftd", params);
    out->p = rc ? NULL : (uint8_t *)json_dumps(o, JSON_COMPACT);
    out->n = out->p ? strlen((char *)out->p) : 0;
    json_decref(o);
    return rc || out->p ? rc : dr_fail(err, DR_ENOMEM, "no memory for the reply");
}

// --- zip: stored entries, as PNG does not compress further ---

static la_ssize_t zip_write(struct archive *a, void *file, const void *p, size_t n) {
    (void)a;
    return fwrite(p, 1, n, file) == n ? (la_ssize_t)n : -1;
}

// Without a time of its own, so that equal content is equal bytes.
static int zip_add(struct archive *a, const char *name, const void *p, size_t n) {
    struct archive_entry *e = archive_entry_new();
    int rc = e ? ARCHIVE_OK : ARCHIVE_FATAL;
    if (e) {
        archive_entry_set_pathname(e, name);
        archive_entry_set_filetype(e, AE_IFREG);
        archive_entry_set_perm(e, 0644);
        archive_entry_set_size(e, (la_int64_t)n);
        rc = archive_write_header(a, e);
    }
    archive_entry_free(e);
    return rc == ARCHIVE_OK && archive_write_data(a, p, n) == (la_ssize_t)n ? 0 : -1;
}

static int zip_images(const struct dd_rendered *in, struct archive *a, struct dr_err *err) {
    for (int i = 0; i < in->req->n; i++) {
        struct dr_bytes b = {0};
        char name[32];
        int rc = png(in, i, 1, 1, NULL, &b, err);
        snprintf(name, sizeof name, "%04d.png", i);
        if (!rc && zip_add(a, name, b.p, b.n))
            rc = dr_fail(err, DR_ENOMEM, "no memory for the reply");
        dr_bytes_free(&b);
        if (rc)
            return rc;
    }
    return 0;
}

static int as_zip(const struct dd_rendered *in, json_t *params, struct dr_bytes *out,
                  struct dr_err *err) {
    char *text = json_dumps(params, JSON_INDENT(2)), *mem = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&mem, &size);
    struct archive *a = archive_write_new();
    bool ok = text && f && a && !archive_write_set_format_zip(a) &&
              !archive_write_set_options(a, "zip:compression=store") &&
              !archive_write_set_bytes_in_last_block(a, 1) &&
              !archive_write_open(a, f, NULL, zip_write, NULL) &&
              !zip_add(a, "parameters.json", text, strlen(text));
    int rc = ok ? zip_images(in, a, err) : dr_fail(err, DR_ENOMEM, "no memory for the reply");
    ok = a && archive_write_close(a) == ARCHIVE_OK && f;
    archive_write_free(a);
    if ((f && fclose(f)) || (!ok && !rc))
        rc = dr_fail(err, DR_ENOMEM, "no memory for the reply");
    free(text);
    if (rc) {
        free(mem);
        return rc;
    }
    *out = (struct dr_bytes){.p = (uint8_t *)mem, .n = size};
    return 0;
}

int dd_render(const struct dd_rendered *in, struct dd_gen_result *out, struct dr_err *err) {
    static const char *const types[] = {
        [DD_PNG] = "image/png",       [DD_JSON] = "application/json",
        [DD_ZIP] = "application/zip", [DD_NPY] = "application/octet-stream",
        [DD_APNG] = "image/apng",     [DD_OPENAI] = "application/json"};
    struct dr_bytes bytes = {0};
    char *text = NULL;
    int rc = check_wanted(in, err);
    if (rc)
        return rc;
    json_t *params = parameters(in);
    switch (in->req->format) {
    case DD_JSON:
        rc = as_json(in, params, &bytes, err);
        break;
    case DD_ZIP:
        rc = as_zip(in, params, &bytes, err);
        break;
    case DD_NPY:
        rc = npy(in, &bytes, err);
        break;
    case DD_OPENAI:
        rc = as_openai(in, params, &bytes, err);
        break;
    case DD_APNG:
        text = json_dumps(params, JSON_COMPACT);
        rc = apng(in, text, &bytes, err);
        free(text);
        break;
    case DD_PNG:
    default:
        text = json_dumps(params, JSON_COMPACT);
        rc = png(in, 0, in->req->n, in->req->cols, text, &bytes, err);
        free(text);
    }
    json_decref(params);
    if (rc)
        return rc;
    out->bytes = bytes.p;
    out->size = bytes.n;
    out->content_type = types[in->req->format];
    out->step = in->snap->step;
    snprintf(out->checkpoint, sizeof out->checkpoint, "%s", in->snap->id);
    return 0;
}
