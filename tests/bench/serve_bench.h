// What the files of serve_bench share: its options, its figures, the driftd under test, the mix of
// requests. Everything but load_run's callback runs in one thread, and ends the bench when it
// fails.
#pragma once

#include "engine/core/backend.h"
#include "engine/drift.h"
#include "engine/nn/params.h"
#include "tests/bench/serve_load.h"

#include <stdio.h>
#include <sys/types.h>

struct bench {
    const char *driftd, *configs, *only;
    bool json, quick;
    char dir[64]; // of the daemon: its state, its log
    pid_t pid;
    int port;
    json_t *rows;
};
extern struct bench bench;

// ---- figures (serve_bench.c) ----

// One figure or a few words on it; `fmt` makes the value.
void report(const char *what, const char *unit, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
double quantile(double *v, int n, double q); // sorts v; NAN when it is empty
bool wanted(const char *section);
int by_value(const void *a, const void *b); // doubles, for qsort

// ---- the daemon (serve_daemon.c) ----

void start_daemon(void); // on a temporary folder; stopped at exit
// Another process: argv[0] with its standard output as the stream, and its log in a file.
FILE *start_driftd(char *const argv[], const char *log, pid_t *pid);
long start_job(const char *request);
void wait_steps(long job, json_int_t steps);
void stop_job(long job);

// When each step of a job ended, wall clock, in order; malloc'd. Returns their number.
int step_times(long job, double **out);

// Processor time of the daemon's threads so far: the busiest ones train, one for each processor.
struct cpu {
    double training, other; // seconds of the two sorts of threads
};
struct cpu daemon_cpu(void);

// What it has computed so far.
struct served {
    double images, batches;
};
struct served served(void);

// ---- the mix (serve_saturation.c) ----

// Request i: 1 to 16 images, so many `times`, of one class and scale.
struct mixed {
    int n, cls;
    double cfg;
};
void mix_set(int times, const char *format);
struct mixed mix(int i);
void mix_target(int i, char *out, size_t room); // for load_run

// ---- the sections ----

void bench_sse(void);      // serve_training.c
void bench_training(void); // serve_against_run.c
void bench_latency(void);  // leaves a checkpoint behind for the two that follow
void bench_saturation(void);
void bench_flood(void);
