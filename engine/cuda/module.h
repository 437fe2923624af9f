// Opening the CUDA backend: loads its module, libdriftd_cuda.so (docs/gpu.md). engine/open.c does
// it for outsiders.
#pragma once

#include "engine/core/backend.h"

// GPU `index`, counted from 0. EUNSUPPORTED when not built in or not installed, EDEVICE when the
// module finds no driver or device: the sentence says which. Any thread.
int dr_backend_cuda(int index, struct dr_backend **out, struct dr_err *err);
