// Writer of protocol buffers (see proto.h). Used by engine/export and the daemon's event files.
#include "engine/io/proto.h"

#include <stdlib.h>
#include <string.h>

enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

void dr_proto_free(struct dr_proto *b) {
    free(b->p);
    *b = (struct dr_proto){0};
}

void *dr_proto_space(struct dr_proto *b, size_t n) {
    size_t room = DR_MAX(b->room, (size_t)64);
    if (b->failed || n > SIZE_MAX / 4 || b->n > SIZE_MAX / 4) {
        b->failed = true;
        return NULL;
    }
    while (room < b->n + n)
        room *= 2;
    if (room != b->room) {
        unsigned char *p = realloc(b->p, room);
        if (!p) {
            b->failed = true;
            return NULL;
        }
        b->p = p;
        b->room = room;
    }
    void *at = b->p + b->n;
    b->n += n;
    return at;
}

void dr_proto_raw(struct dr_proto *b, const void *p, size_t n) {
    void *to = dr_proto_space(b, n);
    if (to && n)
        memcpy(to, p, n);
}

// Seven bits per byte, the lowest first.
static void varint(struct dr_proto *b, uint64_t v) {
    unsigned char out[10];
    size_t n = 0;
    do {
        out[n++] = (unsigned char)((v & 127) | (v > 127 ? 128 : 0));
        v >>= 7;
    } while (v);
    dr_proto_raw(b, out, n);
}

static void key(struct dr_proto *b, int field, enum wire wire) {
    varint(b, (uint64_t)field << 3 | wire);
}

static void little_endian(struct dr_proto *b, uint64_t v, size_t n) {
    unsigned char out[8];
    for (size_t i = 0; i < n; i++)
        out[i] = (unsigned char)(v >> 8 * i);
    dr_proto_raw(b, out, n);
}

void dr_proto_int(struct dr_proto *b, int field, int64_t value) {
    key(b, field, VARINT);
    varint(b, (uint64_t)value);
}

void dr_proto_float(struct dr_proto *b, int field, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    key(b, field, FIXED32);
    little_endian(b, bits, sizeof bits);
}

void dr_proto_double(struct dr_proto *b, int field, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    key(b, field, FIXED64);
    little_endian(b, bits, sizeof bits);
}

void dr_proto_head(struct dr_proto *b, int field, size_t n) {
    key(b, field, BYTES);
    varint(b, n);
}

void dr_proto_bytes(struct dr_proto *b, int field, const void *p, size_t n) {
    dr_proto_head(b, field, n);
    dr_proto_raw(b, p, n);
}

void dr_proto_text(struct dr_proto *b, int field, const char *text) {
    dr_proto_bytes(b, field, text, strlen(text));
}

void dr_proto_message(struct dr_proto *b, int field, struct dr_proto *message) {
    if (message->failed)
        b->failed = true;
    dr_proto_bytes(b, field, message->p, message->n);
    dr_proto_free(message);
}
