// Fuzz target: decodes the input as a picture, with small limits, whole and reduced; and reads it
// as an EXIF block. What is decoded keeps to its limits and its pixels are all there.
#include "tests/fuzz/memfile.h"

#include "engine/io/picture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct dr_picture_options o = {.max_pixels = 1 << 20, .max_decoded = 1 << 16};
    const int turned = dr_exif_orientation(data, size);
    if (turned < 1 || turned > 8)
        abort();
    for (int side = 0; side <= 8; side += 8) {
        struct dr_picture p, head;
        struct dr_err err = {0};
        o.side = side;
        if (dr_picture_decode(data, size, &o, &p, &err)) {
            if (!err.msg[0] || p.pixels)
                abort(); // every refusal has a sentence
            continue;
        }
        if (p.w < 1 || p.h < 1 || p.w * p.h > o.max_decoded || (p.c != 1 && p.c != 3))
            abort();
        touch(p.pixels, (size_t)(p.w * p.h * p.c));
        if (dr_picture_probe(data, size, &head, &err) || head.full_w != p.full_w)
            abort();
        dr_picture_free(&p);
    }
    return 0;
}
