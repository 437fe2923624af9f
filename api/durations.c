// Histograms of the time from a request's first byte to its end (durations.h).
#include "api/durations.h"

#include <stdlib.h>
#include <string.h>

#define NAME "driftd_http_request_duration_seconds"

static const double bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                0.25,  0.5,    1,     2.5,  5,     10,   60};
enum { NBOUNDS = (int)(sizeof bounds / sizeof *bounds) };

struct slot {
    atomic_uint_fast64_t count[NBOUNDS + 1], sum_us;
};
struct api_durations {
    const struct api_route *routes;
    size_t n;
    struct slot slot[];
};

struct api_durations *api_durations_new(const struct api_route *routes, size_t n) {
    struct api_durations *d = calloc(1, sizeof *d + n * sizeof d->slot[0]);
    if (!d)
        return NULL;
    d->routes = routes;
    d->n = n;
    return d;
}

void api_durations_free(struct api_durations *d) {
    free(d);
}

void api_durations_add(const struct api_req *r) {
    struct api_durations *d = r->srv->durations;
    size_t at = 0;
    while (at < d->n && &d->routes[at] != r->route)
        at++;
    if (at == d->n || !strcmp(r->route->produces, "text/event-stream"))
        return;
    const uint64_t us = (api_now_ns() - r->start_ns) / 1000;
    int i = 0;
    while (i < NBOUNDS && (double)us > bounds[i] * 1e6)
        i++;
    atomic_fetch_add_explicit(&d->slot[at].count[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&d->slot[at].sum_us, us, memory_order_relaxed);
}

static void print_slot(const struct api_route *route, struct slot *s, struct api_text *out) {
    unsigned long long n[NBOUNDS + 1], total = 0;
    for (int i = 0; i <= NBOUNDS; i++)
        n[i] = total += atomic_load(&s->count[i]);
    if (!total)
        return;
    for (int i = 0; i < NBOUNDS; i++)
        api_text_fmt(out, NAME "_bucket{method=\"%s\",route=\"%s\",le=\"%g\"} %llu\n",
                     route->method, route->path, bounds[i], n[i]);
    api_text_fmt(out, NAME "_bucket{method=\"%s\",route=\"%s\",le=\"+Inf\"} %llu\n", route->method,
                 route->path, total);
    api_text_fmt(out, NAME "_sum{method=\"%s\",route=\"%s\"} %.6f\n", route->method, route->path,
                 (double)atomic_load(&s->sum_us) * 1e-6);
    api_text_fmt(out, NAME "_count{method=\"%s\",route=\"%s\"} %llu\n", route->method, route->path,
                 total);
}

void api_durations_print(const struct api_durations *d, struct api_text *out) {
    api_text_fmt(out, "# HELP " NAME " Time from a request's first byte to its end.\n"
                      "# TYPE " NAME " histogram\n");
    for (size_t i = 0; i < d->n; i++)
        print_slot(&d->routes[i], (struct slot *)&d->slot[i], out);
}
