// How much of the machine this process may use: processors, physical cores, and the limits of its
// control groups (cgroup v2 and v1), which is how containers and services are bounded. Any thread.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dr_machine {
    int processors;       // in the affinity mask
    int cores;            // physical cores that these belong to
    double quota;         // processors' worth of time that the control groups allow; 0: no limit
    int threads;          // the default: the smallest of cores and quota, rounded up
    int64_t memory_limit; // bytes, of the tightest control group or of addresses; 0: no limit
};

// Reads the files of proc and sysfs below `root` ("" for this machine, a folder in tests).
void dr_machine_read(const char *root, struct dr_machine *out);
// This machine, read once. The memory limit may be raised or lowered later; the default number of
// threads stays.
const struct dr_machine *dr_machine(void);
// Bytes that may still be allocated under the control groups' limits and that of addresses; page
// cache, which the kernel gives back, counts as free. INT64_MAX: no limit.
int64_t dr_machine_memory_left(void);
// Whether a limit of this process's addresses (RLIMIT_AS) leaves too few to compute at all: for the
// stacks of threads and for code that is made at run time.
bool dr_machine_cramped(void);
// Bytes that a block may have: all that the machine has, as more can only be swapped, and at most
// what the limits leave, but for workspaces, since a process that takes too much is killed.
size_t dr_machine_room(void);
// How many threads compute for the calling thread from now on; 0: the machine's `threads`. A
// backend has a number of its own, which dr_backend_enter takes.
void dr_workers_use(int threads);
// The calling thread will not compute for a while: the threads that helped it end, until it
// computes again. libgomp counts the helpers of all threads, idle ones too; where they are more
// than the processors, every barrier in the process sleeps at once instead of spinning for
// microseconds, and training steps of many small ops take nearly twice as long. Outside of parallel
// regions.
void dr_workers_rest(void);
// "2 threads: 64 processors, 32 cores, quota 2.0 processors, memory limit 4.0 GiB".
char *dr_machine_describe(const struct dr_machine *m, char *buf, size_t size);
// For tests, before the first use of the three above: another root.
void dr_machine_use_root(const char *root);
