// Opening the CPU backend; engine/open.c does it for outsiders.
#pragma once

#include "engine/core/backend.h"

// threads <= 0: all online CPUs. Fails with a sentence, never falls back. Any thread.
int dr_backend_cpu(int threads, struct dr_backend **out, struct dr_err *err);
