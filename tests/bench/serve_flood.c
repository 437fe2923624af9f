// flood: more requests at once than are taken (serve_bench.h).
#include "tests/bench/serve_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FLOOD = 1000 };

static void flood(int times) {
    struct load l = {.port = bench.port,
                     .connections = FLOOD,
                     .requests = FLOOD,
                     .retry = true,
                     .target = mix_target};
    mix_set(times, "png");
    double start = bench_now(), drained = 0;
    load_run(&l);
    int first[6] = {0}, ok = 0, within = 0, within_json = 0, refused = 0, again = 0, seen_n = 0;
    bool *seen = calloc(FLOOD, sizeof *seen);
    double *ratio = calloc((size_t)l.nlog + 1, sizeof *ratio), images = 0;
    if (!seen || !ratio)
        bench_die("out of memory");
    // The first wave: a request's first attempt. What it accepted is done at `drained`.
    for (int i = 0; i < l.nlog; i++) {
        struct attempt *a = &l.log[i];
        ok += a->status == 200;
        again += a->status == 429 && seen[a->request];
        if (seen[a->request])
            continue;
        seen[a->request] = true;
        seen_n++;
        first[a->status == 200 ? 0 : a->status == 429 ? 1 : a->status == 503 ? 2 : 3]++;
        if (a->status == 200) {
            drained = fmax(drained, a->done);
            images += mix(a->request).n;
        }
    }
    memset(seen, 0, FLOOD * sizeof *seen);
    for (int i = 0; i < l.nlog; i++) {
        struct attempt *a = &l.log[i];
        if (!seen[a->request] && a->status == 429) {
            double real_wait = drained - a->done;
            within += a->retry_after <= 2 * real_wait && a->retry_after >= real_wait / 2;
            within_json += a->retry_json <= 2 * real_wait && a->retry_json >= real_wait / 2;
            ratio[refused++] = a->retry_json / real_wait;
        }
        seen[a->request] = true;
    }
    char what[96];
    snprintf(what, sizeof what, "1000 requests at once for %d to %d images: 200, 429, 503, other",
             times, 16 * times);
    report(what, "", "%d, %d, %d, %d", first[0], first[1], first[2], first[3]);
    report("  in the end: answered with images, lost", "", "%d, %d (refused again %d times)", ok,
           FLOOD - seen_n + l.lost, again);
    report("  first wave", "", "%.0f images in %.2f s", images, drained - start);
    if (refused) {
        report("  Retry-After (whole seconds) within a factor of two", "", "%d of %d", within,
               refused);
        report("  retry_after (JSON) within a factor of two", "", "%d of %d", within_json, refused);
        double p50 = quantile(ratio, refused, 0.5);
        report("  retry_after said / turned out", "", "%.2f (%.2f to %.2f)", p50, ratio[0],
               ratio[refused - 1]);
    }
    free(seen);
    free(ratio);
    free(l.log);
}

void bench_flood(void) {
    flood(1);
    flood(8);
}
