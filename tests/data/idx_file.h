// Writes idx files for tests: a header that may be wrong and data that may be cut short, raw or
// gzip.
#pragma once

#include <zlib.h>

#include "tests/data/util.h"

static inline size_t idx_bytes(uint8_t *out, uint32_t magic, int ndim, const uint32_t *dim,
                               const uint8_t *data, size_t n) {
    uint32_t head[4] = {magic};
    memcpy(head + 1, dim, (size_t)ndim * 4);
    for (int i = 0; i <= ndim; i++) {
        uint32_t be = __builtin_bswap32(head[i]);
        memcpy(out + 4 * i, &be, 4);
    }
    memcpy(out + 4 + 4 * ndim, data, n);
    return 4 + 4 * (size_t)ndim + n;
}

// gz: 0 raw, 1 gzip.
static inline void put_idx(const char *path, int gz, uint32_t magic, int ndim, const uint32_t *dim,
                           const uint8_t *data, size_t n) {
    uint8_t *b = malloc(16 + n);
    assert_non_null(b);
    size_t size = idx_bytes(b, magic, ndim, dim, data, n);
    if (gz) {
        gzFile f = gzopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(gzwrite(f, b, (unsigned)size), size);
        assert_int_equal(gzclose(f), Z_OK);
    } else {
        put_file(path, b, size);
    }
    free(b);
}

#define IMAGES 0x803
#define LABELS 0x801
