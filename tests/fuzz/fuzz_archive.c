// Fuzz target: imports the input as an archive of pictures or of CIFAR's files.
#include "tests/fuzz/import_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    int fd = mem_file(data, size, path);
    import_input(path);
    close(fd);
    return 0;
}
