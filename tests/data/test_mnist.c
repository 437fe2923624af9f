// The real MNIST, from $DRIFTD_DATA or the folder given as first argument: counts
// per class, shape, class names and the fingerprint of the whole. Skipped (77) without the files.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/data/data.h"

static const int64_t train_count[10] = {5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949};
static const int64_t test_count[10] = {980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009};

static int check(const char *dir, bool test_split, uint64_t fingerprint) {
    struct dr_data_config cfg = {
        .set = DR_DATA_MNIST, .size = 32, .channels = 1, .classes = 10, .count = 16};
    struct dr_dataset *d;
    struct dr_err err;
    int rc = dr_dataset_load(&cfg, dir, test_split, &d, &err);
    if (rc == DR_ENOENT) {
        printf("skipped: %s\n", err.msg);
        return 77;
    }
    if (rc) {
        printf("failed: %s\n", err.msg);
        return 1;
    }
    int bad = 0;
    const int64_t *want = test_split ? test_count : train_count;
    for (int k = 0; k < 10; k++) {
        int64_t got = d->class_start[k + 1] - d->class_start[k];
        if (got != want[k] || d->class_name[k][0] != '0' + k)
            bad = printf("class %d (%s): %" PRId64 " images, expected %" PRId64 "\n", k,
                         d->class_name[k], got, want[k]);
    }
    if (d->fingerprint != fingerprint)
        bad = printf("fingerprint %016" PRIx64 ", expected %016" PRIx64 "\n", d->fingerprint,
                     fingerprint);
    dr_dataset_free(d);
    return bad ? 1 : 0;
}

int main(int argc, char **argv) {
    const char *dir = argc > 1 ? argv[1] : NULL;
    int rc = check(dir, false, 0xfec581e81677095f);
    return rc ? rc : check(dir, true, 0x1600e5e9b48cb4bd);
}
