// Sample grids: one row per class, fixed seed 0, so that grids of different steps show the same
// samples. Belongs to the thread of its backend.
#pragma once

#include "engine/drift.h"

struct dd_grid;
struct dd_grid_file {
    int64_t bytes, width, height;
};
int dd_grid_new(struct dr_backend *be, int precision, struct dd_grid **out, struct dr_err *err);
void dd_grid_free(struct dd_grid *g); // NULL is fine
// How a picture of rows x columns images of `values` values and height `side` is drawn: small
// images at twice their size, and of large ones fewer, first per row, so that they fit into memory.
struct dd_grid_shape {
    int64_t rows, columns, scale;
};
struct dd_grid_shape dd_grid_shape(int64_t rows, int64_t columns, int64_t values, int64_t side);
// At most the first 16 classes; points are drawn as one scatter plot, latents as grey planes. Of
// large images fewer than per_class (dd_grid_shape). The caller frees *png.
int dd_grid_png(struct dd_grid *g, struct dr_snapshot *s, int64_t per_class, double cfg,
                struct dr_bytes *png, struct dr_err *err);
// The same as a file (dd_write_file).
int dd_grid_write(struct dd_grid *g, struct dr_snapshot *s, int64_t per_class, double cfg,
                  const char *path, struct dd_grid_file *info, struct dr_err *err);
// The size of a PNG file of n bytes.
struct dd_grid_file dd_grid_size(const uint8_t *png, size_t n);
enum { DD_PLOT_SIDE = 256 }; // pixels of a plot, across and down
// Points [n,2] in [-1.5,1.5]^2 as a white-on-black density image [size,size] in [-1,1].
void dd_scatter(const real *points, int64_t n, int64_t size, real *image);
