// Animated PNG (apng.h): the chunks of each picture between a frame's control chunks. The pixels
// stay as they were compressed.
#include "daemon/generate/apng.h"

#include <libdeflate.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIGNATURE = 8, HEAD = 8, CRC = 4, IHDR_END = SIGNATURE + HEAD + 13 + CRC };

static void put32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint32_t get32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

// A chunk whose data are `head` and then `rest`.
static void put_chunk(FILE *f, const char *type, const uint8_t *head, size_t nhead,
                      const uint8_t *rest, size_t nrest) {
    uint8_t b[HEAD];
    put32(b, (uint32_t)(nhead + nrest));
    memcpy(b + 4, type, 4);
    uint32_t crc = libdeflate_crc32(0, b + 4, 4);
    fwrite(b, 1, sizeof b, f);
    if (nhead) { // neither call takes a NULL
        crc = libdeflate_crc32(crc, head, nhead);
        fwrite(head, 1, nhead, f);
    }
    if (nrest) {
        crc = libdeflate_crc32(crc, rest, nrest);
        fwrite(rest, 1, nrest, f);
    }
    put32(b, crc);
    fwrite(b, 1, CRC, f);
}

struct anim {
    FILE *f;
    uint32_t sequence;
    uint8_t control[26]; // of a frame, the same for all but for its first 4 bytes
};

static void put_control(struct anim *a) {
    put32(a->control, a->sequence++);
    put_chunk(a->f, "fcTL", a->control, sizeof a->control, NULL, 0);
}

// The chunks of picture i behind its header, without its end.
static int put_picture(struct anim *a, const struct dr_bytes *png, int i) {
    bool begun = false;
    for (size_t at = IHDR_END, n; at + HEAD + CRC <= png->n; at += HEAD + n + CRC) {
        const uint8_t *p = png->p + at;
        n = get32(p);
        if (n > png->n - at - HEAD - CRC)
            return -1;
        if (!memcmp(p + 4, "IEND", 4))
            return begun ? 0 : -1;
        if (memcmp(p + 4, "IDAT", 4) != 0) {
            if (i == 0)
                fwrite(p, 1, HEAD + n + CRC, a->f);
            continue;
        }
        if (!begun)
            put_control(a);
        begun = true;
        uint8_t sequence[4];
        if (i == 0) {
            fwrite(p, 1, HEAD + n + CRC, a->f);
        } else {
            put32(sequence, a->sequence++);
            put_chunk(a->f, "fdAT", sequence, sizeof sequence, p + HEAD, n);
        }
    }
    return -1;
}

int dd_apng(const struct dr_bytes *frame, int n, int delay_ms, struct dr_bytes *out,
            struct dr_err *err) {
    char *text = NULL;
    size_t size = 0;
    struct anim a = {.f = open_memstream(&text, &size)};
    uint8_t all[8];
    if (!a.f)
        return dr_fail(err, DR_ENOMEM, "no memory for an animation");
    int rc = n < 1 ? -1 : 0;
    for (int i = 0; i < n && !rc; i++) // one size and kind of pixels
        if (frame[i].n < IHDR_END || memcmp(frame[i].p, frame[0].p, IHDR_END) != 0)
            rc = -1;
    if (!rc) {
        memcpy(a.control + 4, frame[0].p + SIGNATURE + HEAD, 8); // width, height; offsets stay 0
        a.control[20] = (uint8_t)(delay_ms >> 8);
        a.control[21] = (uint8_t)delay_ms;
        a.control[22] = 1000 >> 8;
        a.control[23] = 1000 & 255;
        fwrite(frame[0].p, 1, IHDR_END, a.f);
        put32(all, (uint32_t)n);
        put32(all + 4, 0); // for ever
        put_chunk(a.f, "acTL", all, sizeof all, NULL, 0);
    }
    for (int i = 0; i < n && !rc; i++)
        rc = put_picture(&a, &frame[i], i);
    put_chunk(a.f, "IEND", NULL, 0, NULL, 0);
    if (ferror(a.f) | fclose(a.f)) {
        free(text);
        return dr_fail(err, DR_ENOMEM, "no memory for an animation");
    }
    if (rc) {
        free(text);
        return dr_fail(err, DR_EFORMAT, "the frames of an animation are PNGs of one size");
    }
    *out = (struct dr_bytes){.p = (uint8_t *)text, .n = size};
    return 0;
}
