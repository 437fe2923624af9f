// Encoders and judges at work: images of the host through one snapshot, its outputs back to the
// host (method.md 7). For tests, probes and pictures of a network in training; a frozen encoder
// inside a training step runs on the device instead (loss/features.h).
//
// A runner belongs to the thread that enters its backend. What comes out of an image does not
// depend on the others.
#pragma once

#include "engine/sample/sampler.h"

struct dr_encode;
// piece: images per forward pass at most. precision: DR_FP32 or DR_PREC_BF16. be: borrowed.
int dr_encode_create(struct dr_backend *be, int precision, int64_t piece, struct dr_encode **out,
                     struct dr_err *err);
void dr_encode_free(struct dr_encode *e); // NULL is fine
// x: [n, input] as [C,H,W]. y[i]: [n, output i], NULL: not wanted; as many as the network has
// outputs. EINVAL for a generator; after ENOMEM and EDEVICE the runner is usable.
int dr_encode_run(struct dr_encode *e, struct dr_snapshot *snap, const real *x, int64_t n,
                  real *const y[], struct dr_err *err);
