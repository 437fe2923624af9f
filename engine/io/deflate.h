// A fast writer of zlib streams (RFC 1950, 1951) for pictures: runs of one byte and Huffman codes,
// no search for matches. Generated images have little else to find, and the time counts beside
// that of making them.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Room that a stream of n bytes needs at most.
size_t dr_deflate_bound(size_t n);
// Writes the stream of p[n] to out[dr_deflate_bound(n)] and returns its length. The same input
// always gives the same bytes. scratch: [min(n, DR_DEFLATE_BLOCK)] of the caller's.
enum { DR_DEFLATE_BLOCK = 65535 };
size_t dr_deflate(const uint8_t *p, size_t n, uint16_t *scratch, uint8_t *out);
