// Backend "emu": the CUDA kernels of engine/cuda on the host. C side of gpu_emu.h.
#pragma once

#include "engine/core/backend.h"

// Opens it for the calling thread. `reverse`: the threads of a block run from last to first;
// results must not change. Device memory is not host_memory: callers have to copy, as with a GPU.
int dr_backend_emu(bool reverse, struct dr_backend **out, struct dr_err *err);
// The runtime's next but `after` call of one kind ("malloc", "launch", "sync", "devices", "driver",
// "capture", "instantiate") fails with a cudaError_t; a capture does so at its end, and until then
// its launches fail.
void emu_fail(const char *call, int error, int after);

void emu_memory(size_t bytes);  // of the device, for allocations to come; 1 GiB at first
void emu_grid_rows(unsigned n); // a grid's second and third dimensions at most; 65535 at first
long emu_replays(void);         // graphs launched so far
size_t emu_in_use(void);        // bytes of device and page-locked memory that are allocated

enum {
    EMU_OUT_OF_MEMORY = 2,
    EMU_OLD_DRIVER = 35,
    EMU_NO_DEVICE = 100,
    EMU_ILLEGAL_ADDRESS = 700,
    EMU_CAPTURE_INVALIDATED = 901,
    EMU_NO_DRIVER = 999
};
