// Sample grids of a snapshot (grid.h).
#include "daemon/generate/grid.h"

#include "daemon/base/util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GRID_BATCH = 16, GRID_MAX_CLASSES = 16, SCATTER_POINTS = 2048 };
enum { LARGE = 256, MAX_VALUES = 1 << 26 }; // pixels of a side; values of all images, 256 MiB

struct dd_grid {
    struct dr_sampler *s;
};

int dd_grid_new(struct dr_backend *be, int precision, struct dd_grid **out, struct dr_err *err) {
    struct dd_grid *g = dd_xcalloc(1, sizeof *g);
    int rc = dr_sampler_create(be, precision, GRID_BATCH, &g->s, err);
    if (rc) {
        free(g);
        return rc;
    }
    *out = g;
    return 0;
}

void dd_grid_free(struct dd_grid *g) {
    if (!g)
        return;
    dr_sampler_free(g->s);
    free(g);
}

struct dd_grid_shape dd_grid_shape(int64_t rows, int64_t columns, int64_t values, int64_t side) {
    while (rows * columns > 1 && rows * columns * values > MAX_VALUES) {
        if (columns > 1)
            columns = (columns + 1) / 2;
        else
            rows = (rows + 1) / 2;
    }
    return (struct dd_grid_shape){rows, columns, side >= LARGE ? 1 : 2};
}

void dd_scatter(const real *points, int64_t n, int64_t size, real *image) {
    for (int64_t i = 0; i < size * size; i++)
        image[i] = -1;
    for (int64_t i = 0; i < n; i++) {
        double u = ((double)points[2 * i] + 1.5) / 3 * (double)size;
        double v = (1.5 - (double)points[2 * i + 1]) / 3 * (double)size;
        if (!(u >= 0 && v >= 0 && u < (double)size && v < (double)size))
            continue;
        real *p = &image[(int64_t)v * size + (int64_t)u];
        *p = *p < 0 ? (real)0.2 : (real)DR_MIN(1.0, (double)*p + 0.2);
    }
}

// x: [n * count], filled batch by batch.
static int generate(struct dd_grid *g, struct dr_snapshot *s, int64_t classes, int64_t per_class,
                    double cfg, int64_t count, real *x, struct dr_err *err) {
    int64_t n = classes * per_class;
    for (int64_t i = 0; i < n; i += GRID_BATCH) {
        struct dr_sample req[GRID_BATCH];
        int64_t b = DR_MIN((int64_t)GRID_BATCH, n - i);
        for (int64_t j = 0; j < b; j++)
            req[j] = (struct dr_sample){.seed = 0,
                                        .index = (uint64_t)(i + j),
                                        .cls = (int32_t)((i + j) / per_class),
                                        .alpha = (real)cfg};
        int rc = dr_sampler_run(g->s, s, req, b, x + i * count, err);
        if (rc)
            return rc;
    }
    return 0;
}

// Width and height are big-endian in the IHDR chunk, always at bytes 16 and 20.
static int64_t png_be32(const uint8_t *p) {
    return (int64_t)p[0] << 24 | (int64_t)p[1] << 16 | (int64_t)p[2] << 8 | p[3];
}

struct dd_grid_file dd_grid_size(const uint8_t *png, size_t n) {
    return (struct dd_grid_file){
        .bytes = (int64_t)n, .width = png_be32(png + 16), .height = png_be32(png + 20)};
}

int dd_grid_png(struct dd_grid *g, struct dr_snapshot *s, int64_t per_class, double cfg,
                struct dr_bytes *png, struct dr_err *err) {
    const struct dr_model_config *m = dr_gen_config(s->net);
    int64_t count = dr_gen_image_count(s->net),
            classes = DR_MIN(m->classes, (int64_t)GRID_MAX_CLASSES);
    bool points = m->kind == DR_KIND_POINTS;
    const struct dd_grid_shape shape = dd_grid_shape(classes, per_class, count, m->size);
    classes = points ? classes : shape.rows;
    per_class = points ? SCATTER_POINTS / classes : shape.columns;
    real *x = malloc((size_t)(classes * per_class * count) * sizeof *x);
    real *plot = points ? malloc(sizeof(real) * DD_PLOT_SIDE * DD_PLOT_SIDE) : NULL;
    int rc = x && (plot || !points) ? 0 : dr_fail(err, DR_ENOMEM, "no memory for a sample grid");
    if (!rc)
        rc = generate(g, s, classes, per_class, cfg, count, x, err);
    if (!rc && points) {
        dd_scatter(x, classes * per_class, DD_PLOT_SIDE, plot);
        rc = dr_png_grid(plot, 1, 1, DD_PLOT_SIDE, DD_PLOT_SIDE, DR_SHOW_GREY, 1, 1, 0, NULL, NULL,
                         png, err);
    } else if (!rc) {
        char text[160];
        snprintf(text, sizeof text,
                 "{\"step\": %lld, \"seed\": 0, \"cfg\": %g, \"per_class\": %lld}",
                 (long long)s->step, cfg, (long long)per_class);
        rc = dr_png_grid(x, classes * per_class, m->channels, m->size, m->size,
                         dr_show(m->kind, m->channels), per_class, shape.scale, 2, "driftd", text,
                         png, err);
    }
    free(plot);
    free(x);
    return rc;
}

int dd_grid_write(struct dd_grid *g, struct dr_snapshot *s, int64_t per_class, double cfg,
                  const char *path, struct dd_grid_file *info, struct dr_err *err) {
    struct dr_bytes png = {0};
    int rc = dd_grid_png(g, s, per_class, cfg, &png, err);
    if (!rc)
        rc = dd_write_file(path, png.p, png.n, err);
    if (!rc)
        *info = dd_grid_size(png.p, png.n);
    dr_bytes_free(&png);
    return rc;
}
