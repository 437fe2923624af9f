// Reads npy, NumPy's file format, as far as noise needs it. Nothing in the bytes is trusted.
#pragma once

#include <stddef.h>

// An array of little-endian float32 or float64 in C order, at least one-dimensional: *n is its
// first size, *count the product of the others. Its values take the place of the file, as
// float[n * count], so that large noise is in memory once; bytes must be aligned as malloc does. 0,
// or -1 with a sentence in err: what it is not, or that a value is not finite.
int api_npy_read(void *bytes, size_t size, int *n, size_t *count, char *err, size_t err_size);
