// SHA-256, incremental, by nettle (which uses the CPU's SHA instructions where they exist):
// checksums of checkpoints while they are written or copied. Pure state in the struct, any thread.
#pragma once

#include <nettle/sha2.h>
#include <stddef.h>

struct dr_sha256 {
    struct sha256_ctx state;
};
void dr_sha256_init(struct dr_sha256 *s);
void dr_sha256_update(struct dr_sha256 *s, const void *p, size_t n);
// 64 lower-case hex digits and NUL; s then is as after init.
void dr_sha256_hex(struct dr_sha256 *s, char hex[65]);
