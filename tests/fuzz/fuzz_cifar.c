// Fuzz target: imports a folder with one file of CIFAR, whose first byte chooses its name.
#include "tests/fuzz/import_input.h"

#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[] = {"data_batch_1.bin", "train.bin", "data_batch_2", "train"};
    char dir[80], path[120];
    if (!size)
        return 0;
    snprintf(dir, sizeof dir, "/tmp/driftd-fuzz-cifar-%ld", (long)getpid());
    snprintf(path, sizeof path, "%s/%s", dir, names[data[0] % 4]);
    FILE *f = mkdir(dir, 0700) ? NULL : fopen(path, "wb");
    if (!f || fwrite(data + 1, 1, size - 1, f) != size - 1 || fclose(f))
        abort();
    import_input(dir);
    unlink(path);
    rmdir(dir);
    return 0;
}
