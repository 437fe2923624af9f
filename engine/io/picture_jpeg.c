// JPEG by libjpeg-turbo: grey, YCbCr, RGB, CMYK and YCCK, reduced in its transform where the
// picture is large. What libjpeg only warns of is damage here, as it would fill in grey.
#include "engine/io/picture_priv.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
// after jpeglib.h
#include <jerror.h>

#define MEMORY_MAX (512l << 20) // of libjpeg, which keeps progressive pictures whole
#define SCANS_MAX 200           // a small file can ask for any number of passes

struct reader {
    struct jpeg_error_mgr mgr;
    jmp_buf jmp;
    char msg[JMSG_LENGTH_MAX];
};

static void on_error(j_common_ptr info) {
    struct reader *r = (struct reader *)info->err;
    info->err->format_message(info, r->msg);
    longjmp(r->jmp, 1);
}

static void on_message(j_common_ptr info, int level) {
    const int code = info->err->msg_code;
    const bool harmless = code == JWRN_EXTRANEOUS_DATA || code == JWRN_ADOBE_XFORM ||
                          code == JWRN_JFIF_MAJOR || code == JWRN_TOO_MUCH_DATA ||
                          code == JWRN_BOGUS_PROGRESSION;
    if (level < 0 && !harmless)
        on_error(info);
}

static void on_progress(j_common_ptr info) {
    const struct jpeg_decompress_struct *d = (const struct jpeg_decompress_struct *)info;
    if (d->input_scan_number > SCANS_MAX) {
        struct reader *r = (struct reader *)info->err;
        snprintf(r->msg, sizeof r->msg, "more than %d scans", SCANS_MAX);
        longjmp(r->jmp, 1);
    }
}

// EXIF is the first APP1 segment that begins with its name.
static int orientation_of(const struct jpeg_decompress_struct *d) {
    for (const struct jpeg_marker_struct *m = d->marker_list; m; m = m->next)
        if (m->data_length > 6 && !memcmp(m->data, "Exif\0\0", 6))
            return dr_exif_orientation(m->data + 6, m->data_length - 6);
    return 1;
}

// Adobe's programs store CMYK inverted.
static void from_cmyk(const uint8_t *in, int64_t n, bool inverted, uint8_t *out) {
    for (int64_t i = 0; i < n; i++, in += 4)
        for (int k = 0; k < 3; k++) {
            const int ink = inverted ? in[k] : 255 - in[k], key = inverted ? in[3] : 255 - in[3];
            *out++ = (uint8_t)((ink * key + 127) / 255);
        }
}

static int start(struct jpeg_decompress_struct *d, const struct dr_picture_options *o,
                 struct dr_picture *out, struct dr_err *err) {
    const bool cmyk = d->jpeg_color_space == JCS_CMYK || d->jpeg_color_space == JCS_YCCK;
    const bool grey = d->jpeg_color_space == JCS_GRAYSCALE;
    const int64_t by = picture_reduction(o, d->image_width, d->image_height);
    d->out_color_space = cmyk ? JCS_CMYK : grey ? JCS_GRAYSCALE : JCS_RGB;
    d->scale_num = by >= 8 ? 1 : by >= 4 ? 2 : by >= 2 ? 4 : 8;
    d->scale_denom = 8;
    d->dct_method = JDCT_ISLOW;
    jpeg_calc_output_dimensions(d);
    int rc = picture_start(o, d->image_width, d->image_height, d->output_width, d->output_height,
                           grey ? 1 : 3, out, err);
    picture_reduced(out, 8.0 / d->scale_num);
    return rc;
}

// Everything that can longjmp happens here; out->pixels and *line are freed by the caller.
static int decode(struct jpeg_decompress_struct *d, struct reader *r, const uint8_t *p, size_t n,
                  const struct dr_picture_options *o, bool probe, struct dr_picture *out,
                  int *orientation, uint8_t **line, struct dr_err *err) {
    if (setjmp(r->jmp))
        return dr_fail(err, DR_EFORMAT, "damaged JPEG: %s", r->msg);
    struct jpeg_progress_mgr progress = {.progress_monitor = on_progress};
    jpeg_create_decompress(d);
    d->progress = &progress;
    d->mem->max_memory_to_use = MEMORY_MAX;
    jpeg_mem_src(d, p, n);
    jpeg_save_markers(d, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(d, TRUE);
    *orientation = orientation_of(d);
    if (probe) {
        *out = (struct dr_picture){.w = d->image_width,
                                   .h = d->image_height,
                                   .c = d->jpeg_color_space == JCS_GRAYSCALE ? 1 : 3,
                                   .full_w = d->image_width,
                                   .full_h = d->image_height};
        return 0;
    }
    int rc = start(d, o, out, err);
    if (rc)
        return rc;
    const bool cmyk = d->out_color_space == JCS_CMYK;
    jpeg_start_decompress(d);
    if (cmyk && !(*line = malloc((size_t)out->w * 4)))
        return dr_fail(err, DR_ENOMEM, "no memory for a JPEG");
    while (d->output_scanline < d->output_height) {
        uint8_t *to = out->pixels + d->output_scanline * (size_t)(out->w * out->c);
        uint8_t *row = cmyk ? *line : to;
        jpeg_read_scanlines(d, &row, 1);
        if (cmyk)
            from_cmyk(*line, out->w, d->saw_Adobe_marker, to);
    }
    jpeg_finish_decompress(d);
    return 0;
}

int picture_jpeg(const uint8_t *p, size_t n, const struct dr_picture_options *o, bool probe,
                 struct dr_picture *out, int *orientation, struct dr_err *err) {
    struct jpeg_decompress_struct d = {0};
    struct reader r;
    uint8_t *line = NULL;
    d.err = jpeg_std_error(&r.mgr);
    r.mgr.error_exit = on_error;
    r.mgr.emit_message = on_message;
    int rc = decode(&d, &r, p, n, o, probe, out, orientation, &line, err);
    d.progress = NULL;
    jpeg_destroy_decompress(&d);
    free(line);
    return rc;
}
