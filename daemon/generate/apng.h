// Several PNGs of one size as one animated PNG (the APNG extension of the PNG specification, third
// edition). Any thread.
#pragma once

#include "engine/io/image.h"

// frame: [n] whole PNGs of equal width, height and colours. Text and other chunks are those of the
// first. Each is shown for delay_ms; it repeats for ever. out is freed by dr_bytes_free. EFORMAT
// for what is no PNG, ENOMEM.
int dd_apng(const struct dr_bytes *frame, int n, int delay_ms, struct dr_bytes *out,
            struct dr_err *err);
