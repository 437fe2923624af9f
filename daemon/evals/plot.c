// A curve of evaluations as a picture (evals.h), drawn by cairo.
#include "daemon/evals/evals.h"

#include <cairo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEFT = 70, RIGHT = 20, TOP = 40, BOTTOM = 50, LINE = 16, LEGEND_LINES = 10, FEW = 6 };
static const double colours[][3] = {{0.12, 0.47, 0.71}, {0.84, 0.15, 0.16}, {0.17, 0.63, 0.17},
                                    {0.58, 0.40, 0.74}, {1.00, 0.50, 0.05}, {0.09, 0.75, 0.81},
                                    {0.55, 0.34, 0.29}, {0.89, 0.47, 0.76}};

// Of series i; each time the colours are used up, the same ones darker.
static void set_colour(cairo_t *c, size_t i) {
    const double *rgb = colours[i % DR_COUNT(colours)];
    const double k = pow(0.6, (double)(i / DR_COUNT(colours) % 3));
    cairo_set_source_rgb(c, k * rgb[0], k * rgb[1], k * rgb[2]);
}

struct plot {
    cairo_t *c;
    double w, h;  // of the picture
    double right; // of the axes, to the picture's edge
    double x0, x1, y0, y1;
    const char *x;
};

static double px(const struct plot *p, double x) {
    return LEFT + (x - p->x0) / (p->x1 - p->x0) * (p->w - LEFT - p->right);
}

static double py(const struct plot *p, double y) {
    return p->h - BOTTOM - (y - p->y0) / (p->y1 - p->y0) * (p->h - TOP - BOTTOM);
}

static double member(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static void include(double *lo, double *hi, double v) {
    if (isnan(v))
        return;
    *lo = fmin(*lo, v);
    *hi = fmax(*hi, v);
}

// Ranges of everything that is drawn; an empty one is widened.
static void ranges(struct plot *p, const json_t *all) {
    const json_t *s, *point;
    size_t i, k;
    p->x0 = p->y0 = INFINITY;
    p->x1 = p->y1 = -INFINITY;
    json_array_foreach(all, i, s) json_array_foreach(json_object_get(s, "points"), k, point) {
        const double v = member(point, "value"), e = member(point, "error");
        include(&p->x0, &p->x1, member(point, p->x));
        include(&p->y0, &p->y1, v);
        include(&p->y0, &p->y1, v - e);
        include(&p->y0, &p->y1, v + e);
        include(&p->y0, &p->y1, member(point, "floor"));
    }
    if (!(p->x0 <= p->x1)) {
        p->x0 = p->y0 = 0;
        p->x1 = p->y1 = 1;
    }
    if (p->x1 == p->x0) {
        p->x0 -= 0.5;
        p->x1 += 0.5;
    }
    const double pad = p->y1 > p->y0 ? 0.05 * (p->y1 - p->y0) : fmax(0.5 * fabs(p->y0), 1e-9);
    p->y0 -= pad;
    p->y1 += pad;
}

// 1, 2 or 5 times a power of ten: about `n` of them in the range.
static double tick(double range, int n) {
    const double raw = range / n, ten = pow(10, floor(log10(raw))), m = raw / ten;
    return ten * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

// Centred at x (at = 0.5), or ending there (at = 1).
static void label(struct plot *p, double x, double y, double at, const char *text) {
    cairo_text_extents_t e;
    cairo_text_extents(p->c, text, &e);
    cairo_move_to(p->c, x - at * e.x_advance, y);
    cairo_show_text(p->c, text);
}

static void axes(struct plot *p, const char *title) {
    char text[80];
    cairo_set_line_width(p->c, 1);
    for (int axis = 0; axis < 2; axis++) {
        const double lo = axis ? p->y0 : p->x0, hi = axis ? p->y1 : p->x1, d = tick(hi - lo, 6);
        const int ticks = (int)(floor(hi / d + 1e-9) - ceil(lo / d)) + 1;
        for (int i = 0; i < ticks; i++) {
            const double v = (ceil(lo / d) + i) * d;
            const double at = axis ? py(p, v) : px(p, v);
            cairo_set_source_rgb(p->c, 0.88, 0.88, 0.88);
            cairo_move_to(p->c, axis ? LEFT : at, axis ? at : TOP);
            cairo_line_to(p->c, axis ? p->w - p->right : at, axis ? at : p->h - BOTTOM);
            cairo_stroke(p->c);
            cairo_set_source_rgb(p->c, 0.2, 0.2, 0.2);
            snprintf(text, sizeof text, "%.6g", fabs(v) < 1e-9 * d ? 0 : v);
            label(p, axis ? LEFT - 8 : at, axis ? at + 4 : p->h - BOTTOM + 18, axis ? 1 : 0.5,
                  text);
        }
    }
    cairo_set_source_rgb(p->c, 0.2, 0.2, 0.2);
    cairo_rectangle(p->c, LEFT, TOP, p->w - LEFT - p->right, p->h - TOP - BOTTOM);
    cairo_stroke(p->c);
    label(p, (LEFT + p->w - p->right) / 2, p->h - 12, 0.5, p->x);
    snprintf(text, sizeof text, "%.40s against %s", title, p->x);
    cairo_set_font_size(p->c, 15);
    label(p, (LEFT + p->w - p->right) / 2, 24, 0.5, text);
    cairo_set_font_size(p->c, 12);
}

static void draw_floor(struct plot *p, const json_t *points) {
    static const double dash[] = {4, 4};
    const json_t *point;
    size_t i;
    bool on = false;
    cairo_set_dash(p->c, dash, 2, 0);
    json_array_foreach(points, i, point) {
        const double x = px(p, member(point, p->x)), y = py(p, member(point, "floor"));
        if (isnan(y))
            on = false;
        else if (on)
            cairo_line_to(p->c, x, y);
        else
            cairo_move_to(p->c, x, y);
        on = on || !isnan(y);
    }
    cairo_stroke(p->c);
    cairo_set_dash(p->c, NULL, 0, 0);
}

static void draw_series(struct plot *p, const json_t *s, size_t number) {
    const json_t *points = json_object_get(s, "points"), *point;
    size_t i;
    set_colour(p->c, number);
    cairo_set_line_width(p->c, 1);
    draw_floor(p, points);
    json_array_foreach(points, i, point) {
        const double e = member(point, "error"), x = px(p, member(point, p->x));
        if (isnan(e))
            continue;
        cairo_move_to(p->c, x, py(p, member(point, "value") - e));
        cairo_line_to(p->c, x, py(p, member(point, "value") + e));
    }
    cairo_stroke(p->c);
    cairo_set_line_width(p->c, 2);
    json_array_foreach(points, i, point)
        cairo_line_to(p->c, px(p, member(point, p->x)), py(p, member(point, "value")));
    cairo_stroke(p->c);
    json_array_foreach(points, i, point) {
        cairo_arc(p->c, px(p, member(point, p->x)), py(p, member(point, "value")), 3, 0, 2 * M_PI);
        cairo_fill(p->c);
    }
}

static void name_of(const json_t *s, char out[160]) {
    const json_t *alpha = json_object_get(s, "alpha");
    const char *own = json_string_value(json_object_get(s, "label"));
    if (own)
        snprintf(out, 160, "%.150s", own);
    else
        snprintf(out, 160, "%.50s, %s %g, n %lld, %s",
                 json_string_value(json_object_get(s, "name")), alpha ? "alpha" : "step",
                 member(s, alpha ? "alpha" : "step"),
                 (long long)json_integer_value(json_object_get(s, "n")),
                 json_string_value(json_object_get(s, "weights")));
}

// The many series of a sweep are named beside the axes, where no line runs.
static void make_room(struct plot *p, const json_t *all) {
    const json_t *s;
    size_t i;
    char text[160];
    cairo_text_extents_t e;
    p->right = RIGHT;
    if (json_array_size(all) <= FEW || !json_object_get(json_array_get(all, 0), "label"))
        return;
    json_array_foreach(all, i, s) {
        name_of(s, text);
        cairo_text_extents(p->c, text, &e);
        p->right = fmin(0.4 * p->w, fmax(p->right, e.x_advance + 2 * RIGHT));
    }
}

static void legend(struct plot *p, const json_t *all) {
    const bool beside = p->right > RIGHT;
    const size_t n = json_array_size(all),
                 room = beside ? (size_t)fmax(2, (p->h - TOP - BOTTOM) / LINE) : LEGEND_LINES;
    const json_t *s;
    size_t i;
    char text[160];
    json_array_foreach(all, i, s) {
        const double y = TOP + 18 + LINE * (double)i;
        const bool last = i + 1 == room && n > room;
        name_of(s, text);
        if (last)
            snprintf(text, sizeof text, "and %zu more", n - i);
        set_colour(p->c, i);
        label(p, p->w - (beside ? p->right - RIGHT / 2.0 : RIGHT + 8), y, beside ? 0 : 1, text);
        if (last)
            return;
    }
}

static cairo_status_t collect(void *stream, const unsigned char *data, unsigned n) {
    return fwrite(data, 1, n, stream) == n ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

int dd_eval_plot(const json_t *curve, int64_t width, int64_t height, void **png, size_t *size,
                 struct dr_err *err) {
    const json_t *all = json_object_get(curve, "series"), *s;
    size_t i;
    cairo_surface_t *surface =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)width, (int)height);
    struct plot p = {.c = cairo_create(surface),
                     .w = (double)width,
                     .h = (double)height,
                     .x = json_string_value(json_object_get(curve, "x"))};
    cairo_set_source_rgb(p.c, 1, 1, 1);
    cairo_paint(p.c);
    cairo_select_font_face(p.c, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(p.c, 12);
    make_room(&p, all);
    ranges(&p, all);
    axes(&p, json_string_value(json_object_get(curve, "metric")));
    json_array_foreach(all, i, s) draw_series(&p, s, i);
    legend(&p, all);
    if (!json_array_size(all)) {
        cairo_set_source_rgb(p.c, 0.4, 0.4, 0.4);
        label(&p, (LEFT + p.w - p.right) / 2, p.h / 2, 0.5, "no finished evaluations");
    }
    FILE *f = open_memstream((char **)png, size);
    const bool ok = f && cairo_status(p.c) == CAIRO_STATUS_SUCCESS &&
                    cairo_surface_write_to_png_stream(surface, collect, f) == CAIRO_STATUS_SUCCESS;
    cairo_destroy(p.c);
    cairo_surface_destroy(surface);
    if (f && fclose(f) == 0 && ok)
        return 0;
    free(f ? *png : NULL);
    return dr_fail(err, DR_ENOMEM, "no memory for a plot");
}
