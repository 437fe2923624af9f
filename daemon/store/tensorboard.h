// Event files for TensorBoard (--tensorboard-dir): a folder per job, DIR/job-ID, to which each
// start of the job adds a file. Scalars are the job's metrics by name, images its periodic grids.
#pragma once

#include "daemon/store/store.h"

struct dd_tensorboard;
// Creates the folder. DR_EIO names it. *out is NULL on failure; the caller closes it.
int dd_tensorboard_open(const char *dir, struct dd_tensorboard **out, struct dr_err *err);
void dd_tensorboard_close(struct dd_tensorboard *t); // NULL is fine
// Any thread. What cannot be written (a full disk) is logged once per job and left out until the
// next job: it stops nothing else.
void dd_tensorboard_row(struct dd_tensorboard *t, const struct dd_row *row);
// png: the file of a grid, w by h pixels.
void dd_tensorboard_image(struct dd_tensorboard *t, int64_t job, int64_t step, const char *png,
                          int64_t w, int64_t h);
void dd_tensorboard_flush(struct dd_tensorboard *t); // what was added is in the files

// CRC-32C (Castagnoli) as records of event files have it.
uint32_t dd_crc32c(const void *p, size_t n);
