// Opening a device by name. The one place that knows every backend: core/ defines what one is, cpu/
// and cuda/ provide them.
#pragma once

#include "engine/core/device.h"

// device: "cpu", "cuda[:N]" or "auto". `auto` takes GPU 0 where it opens, else the CPU, and logs
// which and why; "cuda" never falls back. threads <= 0: all online CPUs. EUNSUPPORTED when the CUDA
// module is not installed, EDEVICE when it finds no driver or device, EINVAL for another name. The
// caller frees *out, which is NULL on failure. Any thread.
int dr_backend_open(const char *device, int threads, struct dr_backend **out, struct dr_err *err);
