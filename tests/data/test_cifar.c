// The real CIFAR-10, from $DRIFTD_DATA or the folder given as first argument (as JPEG folders in a
// tar.xz there): counts, names, that the second opening comes from the cache and is quick. Skipped
// (77) without the files.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/core/clock.h"
#include "engine/data/pictures.h"

static int load(const char *dir, bool test, struct dr_dataset **d, double *seconds) {
    struct dr_data_config cfg = {
        .set = DR_DATA_CIFAR10, .size = 32, .channels = 3, .classes = 10, .count = 16};
    struct dr_err err;
    const double start = dr_seconds();
    int rc = dr_dataset_load(&cfg, dir, test, d, &err);
    *seconds = dr_seconds() - start;
    if (rc)
        printf("%s: %s\n", rc == DR_ENOENT ? "skipped" : "failed", err.msg);
    return rc == DR_ENOENT ? 77 : rc ? 1 : 0;
}

static int check(const struct dr_dataset *d, int64_t per_class) {
    int bad = d->n != 10 * per_class || d->c != 3 || d->h != 32 || d->w != 32;
    for (int k = 0; k < 10; k++)
        bad |= d->class_start[k + 1] - d->class_start[k] != per_class;
    bad |= strcmp(d->class_name[0], "airplane") || strcmp(d->class_name[9], "truck");
    double mean = 0;
    for (int64_t i = 0; i < d->n * 3072; i += 7)
        mean += d->pixels[i];
    mean /= (double)(d->n * 3072 / 7);
    printf("%lld pictures, mean %.2f, fingerprint %016llx\n", (long long)d->n, mean,
           (unsigned long long)d->fingerprint);
    return bad || mean < 115 || mean > 126; // 120.7 by the literature
}

int main(int argc, char **argv) {
    const char *tmp = getenv("TMPDIR");
    char cache[200];
    snprintf(cache, sizeof cache, "%s/driftd-cifar-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(cache) || setenv("DRIFTD_CACHE", cache, 1))
        return 1;
    struct dr_dataset *train = NULL, *test = NULL;
    double first, second;
    int rc = load(argc > 1 ? argv[1] : NULL, false, &train, &first);
    if (!rc)
        rc = load(argc > 1 ? argv[1] : NULL, true, &test, &second);
    if (!rc) {
        printf("the first opening took %.1f s, the second %.2f s\n", first, second);
        rc = check(train, 5000) | check(test, 1000);
        if (second > first / 4 + 0.5)
            rc = 1;
    }
    dr_dataset_free(train);
    dr_dataset_free(test);
    char clean[240];
    snprintf(clean, sizeof clean, "rm -rf '%s'", cache);
    return system(clean) ? 1 : rc;
}
