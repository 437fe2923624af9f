// Pictures in: JPEG, PNG and WebP from memory, told apart by their first bytes, upright (EXIF), 8
// bits, grey or rgb. Nothing in a file is trusted. Memory in, memory out; any thread.
//
// Sentences of errors do not name the file, which only the caller knows.
#pragma once

#include "engine/core/err.h"
#include "engine/core/types.h"
#include "engine/io/resize.h"

enum dr_picture_format {
    DR_PICTURE_NONE, // no picture that is known here
    DR_PICTURE_JPEG,
    DR_PICTURE_PNG,
    DR_PICTURE_WEBP,
    DR_PICTURE_OTHER, // a format that is known but not read: GIF, BMP, TIFF, HEIF, JPEG XL, ...
};
enum dr_picture_format dr_picture_format(const uint8_t *p, size_t n);
// "JPEG", "GIF", ...; "" for DR_PICTURE_NONE.
const char *dr_picture_format_name(const uint8_t *p, size_t n);

struct dr_picture_options {
    int64_t side; // the shorter side that is wanted: larger pictures are reduced while they are
                  // decoded, to no less than twice this; 0: never
    int64_t max_pixels;    // of the stored picture
    int64_t max_decoded;   // pixels of what is decoded, after that reduction
    uint8_t background[3]; // under transparency
};
struct dr_picture {
    int64_t w, h, c;        // pixels [h,w,c], c 1 (grey) or 3
    int64_t full_w, full_h; // as stored, upright
    struct dr_box box;      // where that lies in `pixels`; a pixel at the edge may be a part of one
    uint8_t *pixels;        // malloc'd
};
// What the header says: sizes, upright, and c, without pixels. Less than the whole file will do
// when its header is in it.
int dr_picture_probe(const uint8_t *p, size_t n, struct dr_picture *out, struct dr_err *err);
// DR_EFORMAT: damaged, truncated or no picture; DR_EUNSUPPORTED: a format that is not read, or that
// this build has no library for; DR_EINVAL: beyond the limits. *out is empty then.
int dr_picture_decode(const uint8_t *p, size_t n, const struct dr_picture_options *o,
                      struct dr_picture *out, struct dr_err *err);
void dr_picture_free(struct dr_picture *p);

// Orientation of an EXIF block (a TIFF header and what follows), 1 to 8; 1 when there is none.
int dr_exif_orientation(const uint8_t *p, size_t n);
