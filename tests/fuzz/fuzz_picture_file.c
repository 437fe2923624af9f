// Fuzz target: opens the input as a picture file, as it is and with its checksum made right, and
// uses all that it then holds.
#include "tests/fuzz/memfile.h"

#include "engine/data/data_priv.h"
#include "engine/data/pictures.h"

#include <string.h>

enum { HEAD = 104, LABEL_AT = 64, SUM = 96 }; // of docs/data.md

static void open_file(const char *path) {
    struct dr_import_report r;
    struct dr_err err = {0};
    if (dr_pictures_info(path, &r, &err)) {
        if (!err.msg[0] || r.class)
            abort(); // every refusal has a sentence
        return;
    }
    char *json = dr_import_report_json(&r);
    free(json);
    dr_import_report_free(&r);
    for (int test = 0; test < 2; test++) {
        struct dr_dataset *d;
        err.msg[0] = 0;
        if (dr_pictures_open(path, NULL, test, &d, &err)) {
            if (!err.msg[0] || d)
                abort();
            continue;
        }
        touch(d->pixels, (size_t)(d->n * d->c * d->h * d->w));
        touch(d->label, (size_t)d->n * sizeof *d->label);
        touch(d->class_name[d->classes - 1], strlen(d->class_name[d->classes - 1]));
        dr_dataset_free(d);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    int fd = mem_file(data, size, path);
    open_file(path);
    uint64_t at = 0;
    if (size >= HEAD)
        memcpy(&at, data + LABEL_AT, sizeof at);
    if (size >= HEAD && at < size) {
        uint8_t head[HEAD];
        memcpy(head, data, HEAD);
        memset(head + SUM, 0, 8);
        uint64_t sum = dr_fnv1a(DR_FNV1A_START, data + at, size - at);
        sum = dr_fnv1a(sum, head, HEAD);
        if (pwrite(fd, &sum, sizeof sum, SUM) != sizeof sum)
            abort();
        open_file(path);
    }
    close(fd);
    return 0;
}
