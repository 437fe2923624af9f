// Writes a picture as a CMYK JPEG in the form of Adobe's programs (inverted, black ink apart),
// which no browser makes, for data.mjs. usage: cmyk_jpeg WIDTH HEIGHT < RGB > JPEG
#include "engine/core/types.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

enum { MAX_SIDE = 4096 };

// 255 is no ink. Black ink takes what the three have in common.
static void inks(const uint8_t rgb[3], uint8_t out[4]) {
    const int light = DR_MAX(DR_MAX(rgb[0], rgb[1]), rgb[2]);
    for (int k = 0; k < 3; k++)
        out[k] = (uint8_t)(light ? 255 * rgb[k] / light : 255);
    out[3] = (uint8_t)light;
}

static int side(const char *text) {
    const int n = atoi(text);
    return n >= 1 && n <= MAX_SIDE ? n : 0;
}

int main(int argc, char **argv) {
    const int w = argc == 3 ? side(argv[1]) : 0, h = argc == 3 ? side(argv[2]) : 0;
    struct jpeg_compress_struct j;
    struct jpeg_error_mgr e;
    uint8_t rgb[3], *row;
    if (!w || !h) {
        fprintf(stderr, "usage: cmyk_jpeg WIDTH HEIGHT < RGB > JPEG, sides up to %d\n", MAX_SIDE);
        return 2;
    }
    row = malloc((size_t)w * 4);
    j.err = jpeg_std_error(&e); // ends the program
    jpeg_create_compress(&j);
    jpeg_stdio_dest(&j, stdout);
    j.image_width = (JDIMENSION)w;
    j.image_height = (JDIMENSION)h;
    j.input_components = 4;
    j.in_color_space = JCS_CMYK;
    jpeg_set_defaults(&j);
    jpeg_set_quality(&j, 92, TRUE);
    j.write_Adobe_marker = TRUE;
    jpeg_start_compress(&j, TRUE);
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) {
            if (fread(rgb, 1, sizeof rgb, stdin) != sizeof rgb) {
                fprintf(stderr, "cmyk_jpeg: the picture ends in row %d of %d\n", y, h);
                jpeg_destroy_compress(&j);
                free(row);
                return 1;
            }
            inks(rgb, row + 4 * x);
        }
        jpeg_write_scanlines(&j, &row, 1);
    }
    jpeg_finish_compress(&j);
    jpeg_destroy_compress(&j);
    free(row);
    return fflush(stdout) ? 1 : 0;
}
