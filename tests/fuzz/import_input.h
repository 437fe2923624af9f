// Imports what a fuzz target has made, into a file that is gone again at once. What is accepted
// opens as a data set of as many samples as the report says.
#pragma once

#include "tests/fuzz/memfile.h"

#include "engine/data/pictures.h"

#include <string.h>

static inline void import_input(const char *source) {
    struct dr_import_options o;
    struct dr_import_report r;
    struct dr_dataset *d;
    struct dr_err err = {0};
    char out[80];
    // In memory where there is such a place: a picture file is synced to its disk.
    snprintf(out, sizeof out, "%s/driftd-fuzz-%ld", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm",
             (long)getpid());
    dr_log_set(DR_LOG_ERROR, NULL);
    dr_import_defaults(&o);
    o.size = 4;
    o.max_files = 100;
    o.max_bytes = 1 << 24;
    o.max_file_bytes = 1 << 20;
    o.max_pixels = 1 << 16;
    if (dr_pictures_import(source, out, &o, NULL, NULL, &r, &err)) {
        if (!err.msg[0] || !access(out, F_OK))
            abort(); // every refusal has a sentence and leaves nothing
    } else {
        if (dr_pictures_open(out, NULL, false, &d, &err) || d->n != r.train)
            abort();
        touch(d->pixels, (size_t)(d->n * d->c * d->h * d->w));
        dr_dataset_free(d);
        unlink(out);
    }
    dr_import_report_free(&r);
}
