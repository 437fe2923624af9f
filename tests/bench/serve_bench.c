// What serving costs: starts a driftd of its own on a temporary state folder and measures it from
// outside. Not a test: run it on a machine that does nothing else.
//   serve_bench [--driftd PATH] [--configs DIR] [--json] [--quick]
//               [--only sse,training,latency,saturation,flood]
// sse         steps per second with 0 and with 20 followers of /v1/events, in turns
// training    time of a step in the daemon over that of `driftd run` with the same recipe, in turns
// latency     POST /generate, 1 and 16 images, while a job trains and while none does
// saturation  images per second by HTTP over the engine's own rate for the same mix, in turns; what
//             HTTP adds to one image
// flood       1000 requests at once: what becomes of them, and whether Retry-After was right
#include "tests/bench/serve_bench.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bench bench = {.driftd = DRIFTD_PATH, .configs = CONFIG_DIR};

void report(const char *what, const char *unit, const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!bench.json)
        printf("%-58s %s %s\n", what, text, unit);
    fflush(stdout);
    json_array_append_new(bench.rows,
                          json_pack("{s:s, s:s, s:s}", "what", what, "value", text, "unit", unit));
}

int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double quantile(double *v, int n, double q) {
    if (!n)
        return NAN;
    qsort(v, (size_t)n, sizeof *v, by_value);
    double at = q * (n - 1);
    int i = (int)at;
    return i + 1 < n ? v[i] + (at - i) * (v[i + 1] - v[i]) : v[n - 1];
}

bool wanted(const char *section) {
    return !bench.only || strstr(bench.only, section);
}

int main(int argc, char **argv) {
    // As driftd itself does: threads that spin long at a barrier would disturb the daemon measured.
    if (!getenv("GOMP_SPINCOUNT") && !setenv("GOMP_SPINCOUNT", "10000", 1))
        execv("/proc/self/exe", argv);
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--json"))
            bench.json = true;
        else if (!strcmp(argv[i], "--quick"))
            bench.quick = true;
        else if (next && !strcmp(argv[i], "--driftd"))
            bench.driftd = next, i++;
        else if (next && !strcmp(argv[i], "--configs"))
            bench.configs = next, i++;
        else if (next && !strcmp(argv[i], "--only"))
            bench.only = next, i++;
        else
            bench_die("unknown option %s; see the head of serve_bench.c", argv[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    bench.rows = json_array();
    start_daemon();
    if (wanted("sse"))
        bench_sse();
    if (wanted("training"))
        bench_training();
    if (wanted("latency") || wanted("saturation") || wanted("flood"))
        bench_latency();
    if (wanted("saturation"))
        bench_saturation();
    if (wanted("flood"))
        bench_flood();
    if (bench.json)
        json_dumpf(bench.rows, stdout, JSON_INDENT(1));
    json_decref(bench.rows);
    return 0;
}
