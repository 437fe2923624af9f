// Fuzz target: reads the input as idx images and as idx labels, raw or gzip as it comes.
#include "tests/fuzz/memfile.h"

#include "engine/data/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    int fd = mem_file(data, size, path);
    uint8_t *p;
    int64_t n, h, w;
    struct dr_err err = {0};
    if (dr_idx_read_images(path, &p, &n, &h, &w, &err) == 0)
        touch(p, (size_t)(n * h * w));
    else if (!err.msg[0] || p)
        abort(); // every refusal has a sentence
    free(p);
    if (dr_idx_read_labels(path, &p, &n, &err) == 0)
        touch(p, (size_t)n);
    free(p);
    close(fd);
    return 0;
}
