// Streams of dr_deflate, read again by zlib: sizes around a block's, runs of every length, counts
// that would need codes longer than deflate allows, pictures and noise.
#include "tests/data/util.h"

#include <zlib.h>

#include "engine/core/rng.h"
#include "engine/core/types.h"
#include "engine/io/deflate.h"

// Returns the stream's length.
static size_t check(const uint8_t *p, size_t n) {
    static uint16_t scratch[DR_DEFLATE_BLOCK];
    size_t room = dr_deflate_bound(n);
    uint8_t *out = malloc(room + 1), *again = malloc(room + 1), *back = malloc(n + 1);
    out[room] = 0xa5; // must stay
    size_t k = dr_deflate(p, n, scratch, out);
    assert_true(k <= room);
    assert_int_equal(out[room], 0xa5);
    assert_int_equal(dr_deflate(p, n, scratch, again), k);
    assert_memory_equal(out, again, k);
    z_stream z = {.next_in = out, .avail_in = (uInt)k, .next_out = back, .avail_out = (uInt)n + 1};
    assert_int_equal(inflateInit(&z), Z_OK);
    int rc = inflate(&z, Z_FINISH);
    if (rc != Z_STREAM_END)
        fail_msg("%zu bytes: zlib says %d %s", n, rc, z.msg ? z.msg : "");
    assert_int_equal(z.total_out, n);
    assert_int_equal(z.avail_in, 0);
    inflateEnd(&z);
    assert_memory_equal(back, p, n);
    free(out);
    free(again);
    free(back);
    return k;
}

static void test_sizes(void **state) {
    (void)state;
    enum { N = 3 * DR_DEFLATE_BLOCK + 10 };
    uint8_t *p = malloc(N);
    static const size_t size[] = {
        0,   1,     2,     3,     4,      5,      257,        258,
        259, 65534, 65535, 65536, 131069, 131070, 2 * 65536u, N - 10 /*3 blocks*/,
        N};
    struct dr_rng g;
    dr_rng_init(&g, 1, 0, 0);
    for (int kind = 0; kind < 3; kind++) { // all the same, few values, noise
        for (size_t i = 0; i < N; i++)
            p[i] = kind ? (uint8_t)dr_rng_below(&g, kind == 1 ? 3 : 256) : 7;
        for (size_t i = 0; i < DR_COUNT(size); i++) {
            size_t k = check(p, size[i]);
            if (kind == 0 && size[i] > 1000)
                assert_true(k < size[i] / 100);
            if (kind == 1 && size[i] > 1000)
                assert_true(k < size[i] / 4);
        }
    }
    free(p);
}

static void test_runs(void **state) {
    (void)state;
    uint8_t p[2000];
    for (size_t run = 1; run <= 600; run++) { // alone, and with others around
        memset(p, 0, sizeof p);
        memset(p + 50, 9, run);
        check(p + 50, run);
        check(p + 49, run + 2);
        check(p, 50 + run + 300);
    }
    size_t n = 0;
    uint8_t *all = malloc(40000);
    for (size_t run = 1; run <= 262; run++, n += run - 1)
        memset(all + n, (int)(run & 1), run);
    check(all, n);
    free(all);
}

// Counts that grow as Fibonacci's numbers make the deepest trees there are.
static void test_deep_trees(void **state) {
    (void)state;
    for (int symbols = 2; symbols <= 22; symbols++) {
        size_t n = 0, a = 1, b = 1;
        uint8_t *p = malloc(DR_DEFLATE_BLOCK);
        for (int s = 0; s < symbols && n + a <= DR_DEFLATE_BLOCK; s++) {
            for (size_t i = 0; i < a; i++)
                p[n++] = (uint8_t)s;
            size_t c = a + b;
            a = b;
            b = c;
        }
        // Scattered, so that there are no runs.
        for (size_t i = 0, at = 0, step = 30011; i < n; i++, at = (at + step) % n) {
            uint8_t t = p[i];
            p[i] = p[at];
            p[at] = t;
        }
        size_t k = check(p, n);
        if (symbols > 10)
            assert_true(k < n / 2);
        free(p);
    }
}

// Random mixtures of runs, ramps and noise with skewed values.
static void test_mixtures(void **state) {
    (void)state;
    enum { N = 70000 };
    uint8_t *p = malloc(N);
    for (uint32_t seed = 0; seed < 200; seed++) {
        struct dr_rng g;
        dr_rng_init(&g, seed, 0, 0);
        size_t n = 1 + dr_rng_below(&g, seed % 20 ? 3000 : N - 1);
        for (size_t i = 0; i < n;) {
            size_t len = DR_MIN(n - i, (size_t)1 + dr_rng_below(&g, 300));
            uint32_t kind = dr_rng_below(&g, 4), v = dr_rng_below(&g, 256);
            for (size_t j = 0; j < len; j++)
                p[i + j] = (uint8_t)(kind == 0   ? v
                                     : kind == 1 ? v + j
                                     : kind == 2 ? dr_rng_below(&g, 256)
                                                 : dr_rng_below(&g, 1 + dr_rng_below(&g, 256)));
            i += len;
        }
        check(p, n);
    }
    free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes), cmocka_unit_test(test_runs),
                                       cmocka_unit_test(test_deep_trees),
                                       cmocka_unit_test(test_mixtures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
