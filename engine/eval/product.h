// Blocks of dot products in double, the work behind every metric of metrics.h. Private to
// engine/eval.
#pragma once

#include "engine/core/types.h"

enum { EVAL_PIECE = 256 }; // terms that are summed before they are added to what came before

// c[i * ldc + j] += sum over k of a[i * depth + k] * b[j * depth + k], for i < n and j < m. Sums
// run in the order of k, in pieces of EVAL_PIECE, without fused multiply-add, so that the bits
// depend neither on threads nor on the instruction set. `upper`: a is b; below the diagonal c is
// not complete.
void eval_product(const double *a, int64_t n, const double *b, int64_t m, int64_t depth, double *c,
                  int64_t ldc, bool upper);
