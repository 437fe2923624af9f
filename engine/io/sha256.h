// SHA-256 (FIPS 180-4), incremental. Used for checkpoint checksums while they are written. Pure
// state in the struct, any thread; uses the CPU's SHA instructions where they exist (same digests).
#pragma once

#include <stddef.h>
#include <stdint.h>

struct dr_sha256 {
    uint32_t h[8];
    uint64_t bytes;   // fed so far
    uint8_t tail[64]; // the last, incomplete block: bytes % 64 of it
};
void dr_sha256_init(struct dr_sha256 *s);
void dr_sha256_update(struct dr_sha256 *s, const void *p, size_t n);
// 64 lower-case hex digits and NUL; the state is spent.
void dr_sha256_hex(struct dr_sha256 *s, char hex[65]);
