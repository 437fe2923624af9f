// A backend as outsiders see it: a device that was opened (engine/open.h) and belongs to one
// thread. What it can do is in backend.h, for the engine alone.
#pragma once

#include "engine/core/err.h"
#include "engine/core/types.h"

struct dr_backend;
struct dr_device {
    const char *name;   // "cpu", "cuda"; lives as long as the backend, as does detail
    const char *detail; // what it found, e.g. "2 threads, avx512_core_bf16, oneDNN 2.6.3"
    bool host_memory;   // computes in the host's memory
    int threads;        // CPU threads of this instance
};
struct dr_device dr_backend_device(const struct dr_backend *be);
// Binds the instance to the calling thread (thread count, device). Call once, first.
void dr_backend_enter(struct dr_backend *be);
// From now on this instance's work goes before that of others on the same device. After enter.
int dr_backend_hurry(struct dr_backend *be, struct dr_err *err);
// Whether the device still answers: allocates a little, waits, gives it back. After enter.
int dr_backend_probe(struct dr_backend *be, struct dr_err *err);
void dr_backend_free(struct dr_backend *be); // NULL is fine
