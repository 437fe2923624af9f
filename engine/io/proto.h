// Writing protocol buffers (the wire format of protobuf.dev/programming-guides/encoding): what ONNX
// files and the event files of TensorBoard consist of. A few fields of a few messages, so there is
// no schema compiler: the writer of a message knows its field numbers. A nested message is written
// to a buffer of its own first.
#pragma once

#include "engine/core/types.h"

// Zeroed: empty. Failure (no memory) is sticky: later calls do nothing, and whoever uses the bytes
// asks for it once.
struct dr_proto {
    unsigned char *p;
    size_t n, room;
    bool failed;
};
void dr_proto_free(struct dr_proto *b); // empties it as well
// Varint fields: int32, int64 (negative ones take ten bytes), bool, enum.
void dr_proto_int(struct dr_proto *b, int field, int64_t value);
void dr_proto_float(struct dr_proto *b, int field, float value);
void dr_proto_double(struct dr_proto *b, int field, double value);
void dr_proto_text(struct dr_proto *b, int field, const char *text);
void dr_proto_bytes(struct dr_proto *b, int field, const void *p, size_t n);
// The field's bytes are those of `message`, which is emptied; its failure is b's.
void dr_proto_message(struct dr_proto *b, int field, struct dr_proto *message);
// Only the head of a field of n bytes, which the caller writes with dr_proto_raw or elsewhere.
void dr_proto_head(struct dr_proto *b, int field, size_t n);
void dr_proto_raw(struct dr_proto *b, const void *p, size_t n);
// Room for n bytes that the caller fills in; NULL: no memory.
void *dr_proto_space(struct dr_proto *b, size_t n);
