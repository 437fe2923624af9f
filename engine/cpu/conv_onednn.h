// Shared by the files of oneDNN's convolutions: conv_onednn.c cuts them, conv_cache.c holds the
// primitives. Private to engine/cpu and the tests of convolutions.
#pragma once

#include "engine/cpu/cpu.h"

enum dr_conv_way { DR_CONV_FORWARD, DR_CONV_DATA, DR_CONV_WEIGHT };

// What a primitive depends on, and nothing else: never the batch or the number of threads. x is
// [b,h,w,ci] and y [b,ho,wo,co], both without gaps. Fields that do not matter are 0.
struct dr_conv_key {
    int64_t way;  // enum dr_conv_way
    int64_t b;    // samples of a piece: 1 except towards the weights
    int64_t h, w; // of the piece: forward it may be a band of lines of an image
    int64_t ho, wo, ci, co, kh, kw;
    int64_t above, below, left, right; // padding; below and right: as much of it as is used
    int64_t stride, dil;
    int64_t bf16, bias; // 1: yes. bf16: x, y and the weights of a forward or backward pass
};

struct dr_conv_prim; // one single-threaded primitive and each thread's handles

// The primitive of a key, made on first use. NULL: oneDNN has none that is worth it. Called outside
// parallel regions.
struct dr_conv_prim *dr_conv_prim(struct dr_conv_cache *c, const struct dr_conv_key *key);
// Drops all primitives if fewer than `room` more fit: no pointer to one may be in use.
void dr_conv_make_room(struct dr_conv_cache *c, int room);
// Never that of another primitive of this cache, also after that one was dropped.
int64_t dr_conv_prim_id(const struct dr_conv_prim *p);
size_t dr_conv_prim_scratch(const struct dr_conv_prim *p); // bytes that each thread needs
// Whether two primitives want their weights in the same layout.
bool dr_conv_prim_same_layout(const struct dr_conv_prim *a, const struct dr_conv_prim *b);
// Bytes of its weights or their gradient, in the layout that oneDNN chose.
size_t dr_conv_prim_weight_bytes(const struct dr_conv_prim *p);
// out = weight [co][ci][kh][kw] in that layout; false: oneDNN failed.
bool dr_conv_prim_arrange(struct dr_conv_cache *c, struct dr_conv_prim *p, const real *weight,
                          void *out);
// dweight [co][ci][kh][kw] += a gradient in that layout.
bool dr_conv_prim_add(struct dr_conv_cache *c, struct dr_conv_prim *p, const void *gradient,
                      real *dweight);
// Runs it as `thread`; x, y and weight: what the way reads and what it writes. bias [co]: only of
// keys with one. Its weights must have been named by dr_conv_prim_use, except towards them.
bool dr_conv_prim_run(struct dr_conv_cache *c, struct dr_conv_prim *p, int thread, const void *x,
                      const void *y, const void *weight, const real *bias, void *scratch);
// Hands the arranged weights to all threads before a parallel region: oneDNN may write the zeros
// of their padding once more then, which no thread must see half done.
void dr_conv_prim_use(struct dr_conv_cache *c, struct dr_conv_prim *p, const void *weight);

// ---- for tests

// The keys of all primitives, sorted by their bytes; returns their number, of which the
// first `max` are written.
int dr_conv_keys(const struct dr_conv_cache *c, struct dr_conv_key *out, int max);
