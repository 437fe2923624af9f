// Fuzz target: opens the input as a safetensors file and uses all that the reader then offers. What
// is accepted must be consistent: tensors lie in the data and convert without touching anything
// else.
#include "tests/fuzz/memfile.h"

#include <string.h>

#include "engine/io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    int fd = mem_file(data, size, path);
    struct dr_st_file *f;
    struct dr_err err = {0};
    if (dr_st_open(path, &f, &err) == 0) {
        size_t bytes = 0;
        for (int i = 0; i < dr_st_count(f); i++) {
            const struct dr_st_tensor *t = dr_st_at(f, i);
            if (dr_st_find(f, t->name) != t)
                abort();
            touch(t->data, t->bytes);
            bytes += t->bytes;
            float *out = malloc((size_t)t->count * sizeof *out + 1);
            if (out && dr_st_read_f32(f, t->name, t->ndim, t->dim, out, &err) == 0)
                touch(out, (size_t)t->count * sizeof *out);
            free(out);
        }
        if (bytes > size)
            abort();
        const char *meta = dr_st_meta(f, "format");
        if (meta)
            touch(meta, strlen(meta));
        dr_st_close(f);
    } else if (!err.msg[0] || f) {
        abort(); // every refusal has a sentence
    }
    close(fd);
    return 0;
}
