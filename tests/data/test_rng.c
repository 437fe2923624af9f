// Philox4x32-10 against the known-answer vectors of Random123 (kat_vectors), and the moments and
// frequencies of what is drawn from it. Public API: these numbers may never change.
#include "tests/data/util.h"

#include <math.h>

#include "engine/core/rng.h"

static void test_known_answers(void **state) {
    (void)state;
    static const struct {
        uint64_t key;
        uint32_t c0, c1;
        uint64_t c23;
        uint32_t out[4];
    } kat[] = {
        {0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX,
         UINT32_MAX,
         UINT32_MAX,
         UINT64_MAX,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x243f6a88,
         0x85a308d3,
         0x0370734413198a2e,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < DR_COUNT(kat); i++) {
        uint32_t r[4];
        dr_philox(kat[i].key, kat[i].c0, kat[i].c1, kat[i].c23, r);
        assert_memory_equal(r, kat[i].out, sizeof r);
    }
}

static void test_normals(void **state) {
    (void)state;
    enum { N = 200000 };
    real *z = malloc(N * sizeof *z), *y = malloc(N * sizeof *y);
    double m[5] = {0}, cross = 0;
    dr_normals(1, DR_STREAM_NOISE, 0, z, N);
    dr_normals(1, DR_STREAM_NOISE, 1, y, N);
    for (int i = 0; i < N; i++) {
        for (int k = 1; k < 5; k++)
            m[k] += pow(z[i], k) / N;
        cross += z[i] * y[i] / N;
    }
    // Five standard errors: sqrt(1, 2, 15, 96) / sqrt(N).
    const double e = 5 / sqrt(N);
    assert_true(fabs(m[1]) < e);
    assert_true(fabs(m[2] - 1) < sqrt(2) * e);
    assert_true(fabs(m[3]) < sqrt(15) * e);
    assert_true(fabs(m[4] - 3) < sqrt(96) * e);
    assert_true(fabs(cross) < e);
    // The definition of method.md 8, and prefixes agree for any length.
    uint32_t r[4];
    dr_philox(1, 3, DR_STREAM_NOISE, 0, r);
    double u0 = (r[2] + 0.5) * 0x1p-32, u1 = (r[3] + 0.5) * 0x1p-32;
    assert_true(z[14] == (real)(sqrt(-2 * log(u0)) * cos(2 * M_PI * u1)));
    assert_true(z[15] == (real)(sqrt(-2 * log(u0)) * sin(2 * M_PI * u1)));
    dr_normals(1, DR_STREAM_NOISE, 0, y, 7);
    assert_memory_equal(z, y, 7 * sizeof *z);
    free(z);
    free(y);
}

static void test_indices(void **state) {
    (void)state;
    enum { N = 64000, RANGE = 64 };
    int32_t *v = malloc(N * sizeof *v);
    int count[RANGE] = {0};
    dr_indices(5, DR_STREAM_STYLE, 9, RANGE, v, N);
    for (int i = 0; i < N; i++) {
        assert_in_range(v[i], 0, RANGE - 1);
        count[v[i]]++;
    }
    double chi2 = 0, want = (double)N / RANGE;
    for (int k = 0; k < RANGE; k++)
        chi2 += (count[k] - want) * (count[k] - want) / want;
    assert_true(chi2 > 25 && chi2 < 120); // 63 degrees of freedom, std 11
    uint32_t r[4];
    dr_philox(5, 2, DR_STREAM_STYLE, 9, r);
    assert_int_equal(v[9], (int32_t)((uint64_t)r[1] * RANGE >> 32));
    free(v);
}

static void test_reader(void **state) {
    (void)state;
    struct dr_rng g;
    dr_rng_init(&g, 77, DR_STREAM_ALPHA, 1234567890123);
    for (uint32_t b = 0; b < 3; b++) {
        uint32_t r[4];
        dr_philox(77, b, DR_STREAM_ALPHA, 1234567890123, r);
        for (int i = 0; i < 4; i++)
            assert_int_equal(dr_rng_u32(&g), r[i]);
    }
    for (int i = 0; i < 1000; i++) {
        double u = dr_rng_uniform(&g);
        assert_true(u > 0 && u < 1);
        assert_true(dr_rng_below(&g, 7) < 7);
        assert_true(isfinite(dr_rng_normal(&g)));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_normals),
        cmocka_unit_test(test_indices),
        cmocka_unit_test(test_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
