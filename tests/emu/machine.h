// Between the parts of the emulator: what runs a block (fibers.cc or lanes.cc) and what is built on
// it (gpu_emu.cc).
#pragma once

#include "gpu_emu.h"

struct gift { // what a lane shows to its warp
    uint32_t word[6];
};

// Runs the threads of block blockIdx; its shared memory is poisoned first.
void emu_run_block(size_t shared, const std::function<void()> &kernel);
// Shows `mine` to the warp and returns what its lanes showed, in their order; *lanes of them exist.
// Two buffers: a lane that is ahead by one call must not overwrite what the others still read.
const struct gift *emu_give(const struct gift &mine, unsigned *lanes);
// Before a block all of shared memory is poisoned; after one with `shared` bytes, what is past them
// must be so still.
void emu_poison();
void emu_check_past(size_t shared);
// Ends the program, naming block and thread.
void emu_die(const char *what) __attribute__((noreturn));
