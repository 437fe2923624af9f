// Cumulative histograms for Prometheus: lock-free counters on fixed bounds.
#pragma once

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#define DD_HIST_MAX 16

struct dd_hist {
    const double *bound; // ascending, nbound of them; +Inf is implied
    int nbound;
    _Atomic uint64_t count[DD_HIST_MAX + 1];
    _Atomic uint64_t sum_micro; // sum in millionths
};
// The value v, n times.
static inline void dd_hist_add_n(struct dd_hist *h, double v, uint64_t n) {
    int i = 0;
    while (i < h->nbound && v > h->bound[i])
        i++;
    atomic_fetch_add_explicit(&h->count[i], n, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_micro, v > 0 ? (uint64_t)(v * 1e6 * (double)n) : 0,
                              memory_order_relaxed);
}
static inline void dd_hist_add(struct dd_hist *h, double v) {
    dd_hist_add_n(h, v, 1);
}
static inline void dd_hist_print(const struct dd_hist *h, FILE *f, const char *name,
                                 const char *help) {
    struct dd_hist *m = (struct dd_hist *)h;
    uint64_t n = 0;
    fprintf(f, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (int i = 0; i < h->nbound; i++) {
        n += atomic_load(&m->count[i]);
        fprintf(f, "%s_bucket{le=\"%g\"} %llu\n", name, h->bound[i], (unsigned long long)n);
    }
    n += atomic_load(&m->count[h->nbound]);
    fprintf(f, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name,
            (unsigned long long)n, name, (double)atomic_load(&m->sum_micro) * 1e-6, name,
            (unsigned long long)n);
}
