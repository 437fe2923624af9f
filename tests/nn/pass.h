// An encoder, judge or generator on the CPU with all it needs to run, for tests: random weights and
// inputs, memory as the dry run measures it (a disagreement aborts). Everything lies in the host's
// memory and may be read and written directly between passes.
#pragma once

#include "engine/core/arena.h"
#include "engine/core/backend.h"
#include "engine/nn/net.h"
#include "engine/nn/params.h"

struct pass {
    struct dr_backend *be;
    struct dr_net *net;
    const struct dr_params *params;
    struct dr_net_saved *saved;
    struct dr_ctx cx;
    struct dr_arena keep, tmp;
    struct dr_net_in in;
    real *w, *g; // [total]
    dr_bf16 *w16;
    real *x, *dx; // [b,input]
    real *y[DR_NET_OUTPUTS], *dy[DR_NET_OUTPUTS];
    int64_t b;
    void *mem[128];
    int nmem;
};
// Fails the cmocka test on any error. Takes net. Weights, x and dy are random, the same for every
// call with this seed, whatever b (samples) and the number of threads.
void pass_open(struct pass *p, struct dr_net *net, int64_t b, int threads, enum dr_dtype act,
               uint64_t seed);
void pass_close(struct pass *p);
struct dr_net *pass_parse(const char *json);          // the network of a description
int64_t pass_count(const struct pass *p, int output); // reals per sample
// With kept activations or without; then sum over outputs of y dy, those of `mask`.
double pass_forward(struct pass *p, bool keep, unsigned mask);
// After pass_forward(keep). g from zero; frozen: g stays.
void pass_backward(struct pass *p, bool frozen, unsigned mask);
// Weights have changed: makes the rounded copy again.
void pass_round(struct pass *p);
// Double build: gradients of weights and of the input against finite differences, along a random
// direction through each parameter and one through the input; frozen passes give the same input
// gradient and no other.
void pass_check_gradients(struct pass *p, unsigned mask);
// Float build: bytes of the outputs do not depend on batch, threads, or what is kept.
void pass_check_bytes(const char *json, enum dr_dtype act);
// |a - b| / |b| over n values.
double pass_distance(const real *a, const real *b, int64_t n);
