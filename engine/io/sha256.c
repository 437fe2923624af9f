// SHA-256 (FIPS 180-4): a portable compression function and one with x86 SHA instructions, chosen
// by cpuid at run time. Called by the safetensors writer and dr_sha256_file.
#include "engine/io/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/io/safetensors.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t ror(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

static void blocks_plain(uint32_t h[8], const uint8_t *p, size_t n) {
    for (; n; n--, p += 64) {
        uint32_t w[64];
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
                   (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
        for (int i = 16; i < 64; i++) {
            uint32_t a = w[i - 15], b = w[i - 2];
            w[i] = w[i - 16] + w[i - 7] + (ror(a, 7) ^ ror(a, 18) ^ a >> 3) +
                   (ror(b, 17) ^ ror(b, 19) ^ b >> 10);
        }
        uint32_t v[8];
        memcpy(v, h, sizeof v);
        for (int i = 0; i < 64; i++) {
            uint32_t a = v[0], e = v[4];
            uint32_t t1 = v[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) +
                          ((e & v[5]) ^ (~e & v[6])) + K[i] + w[i];
            uint32_t t2 =
                (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
            memmove(v + 1, v, 7 * sizeof *v);
            v[4] += t1;
            v[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++)
            h[i] += v[i];
    }
}

#if defined(__x86_64__)
// The instructions keep the state as (ABEF, CDGH) and do two rounds each; four schedule words at a
// time are extended by msg1 (sigma0 part) and msg2 (sigma1 part).
__attribute__((target("sha,sse4.1,ssse3"))) static void blocks_sha(uint32_t h[8], const uint8_t *p,
                                                                   size_t n) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i abef = _mm_set_epi32((int)h[0], (int)h[1], (int)h[4], (int)h[5]);
    __m128i cdgh = _mm_set_epi32((int)h[2], (int)h[3], (int)h[6], (int)h[7]);
    for (; n; n--, p += 64) {
        __m128i save0 = abef, save1 = cdgh, w[4];
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)),
                                    swap);
        for (int i = 0; i < 16; i++) {
            __m128i x = w[i & 3];
            if (i >= 4) {
                __m128i w7 = _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4);
                x = _mm_add_epi32(_mm_sha256msg1_epu32(x, w[(i + 1) & 3]), w7);
                x = w[i & 3] = _mm_sha256msg2_epu32(x, w[(i + 3) & 3]);
            }
            __m128i k = _mm_loadu_si128((const __m128i *)(const void *)(K + 4 * i));
            __m128i m = _mm_add_epi32(x, k);
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, m);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(m, 0x0e));
        }
        abef = _mm_add_epi32(abef, save0);
        cdgh = _mm_add_epi32(cdgh, save1);
    }
    uint32_t a[4], c[4];
    _mm_storeu_si128((__m128i *)(void *)a, abef);
    _mm_storeu_si128((__m128i *)(void *)c, cdgh);
    h[0] = a[3], h[1] = a[2], h[4] = a[1], h[5] = a[0];
    h[2] = c[3], h[3] = c[2], h[6] = c[1], h[7] = c[0];
}

static int have_sha(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 29))
        return 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && (c & bit_SSSE3);
}
#endif

static void blocks(uint32_t h[8], const uint8_t *p, size_t n) {
#if defined(__x86_64__)
    if (n && have_sha()) {
        blocks_sha(h, p, n);
        return;
    }
#endif
    blocks_plain(h, p, n);
}

void dr_sha256_init(struct dr_sha256 *s) {
    *s = (struct dr_sha256){.h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                                  0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void dr_sha256_update(struct dr_sha256 *s, const void *data, size_t n) {
    const uint8_t *p = data;
    size_t have = s->bytes % 64;
    s->bytes += n;
    if (have) {
        size_t take = 64 - have < n ? 64 - have : n;
        memcpy(s->tail + have, p, take);
        if (have + take < 64)
            return;
        blocks(s->h, s->tail, 1);
        p += take;
        n -= take;
    }
    blocks(s->h, p, n / 64);
    if (n % 64)
        memcpy(s->tail, p + n / 64 * 64, n % 64);
}

void dr_sha256_hex(struct dr_sha256 *s, char hex[65]) {
    uint8_t pad[128] = {0x80};
    uint64_t bits = s->bytes * 8;
    size_t have = s->bytes % 64, len = (have < 56 ? 64 : 128) - have;
    for (int i = 0; i < 8; i++)
        pad[len - 1 - i] = (uint8_t)(bits >> 8 * i);
    dr_sha256_update(s, pad, len);
    for (int i = 0; i < 8; i++)
        snprintf(hex + 8 * i, 9, "%08x", s->h[i]);
}

int dr_sha256_file(const char *path, char hex[65], struct dr_err *err) {
    enum { CHUNK = 1 << 20 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return dr_fail(err, errno == ENOENT ? DR_ENOENT : DR_EIO, "%.300s: cannot open: %s", path,
                       strerror(errno));
    uint8_t *buf = malloc(CHUNK);
    if (!buf) {
        close(fd);
        return dr_fail(err, DR_ENOMEM, "%.300s: no memory for a read buffer", path);
    }
    struct dr_sha256 s;
    dr_sha256_init(&s);
    ssize_t got;
    while ((got = read(fd, buf, CHUNK)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        dr_sha256_update(&s, buf, (size_t)got);
    }
    int rc = got < 0 ? dr_fail(err, DR_EIO, "%.300s: cannot read: %s", path, strerror(errno)) : 0;
    free(buf);
    close(fd);
    if (!rc)
        dr_sha256_hex(&s, hex);
    return rc;
}
