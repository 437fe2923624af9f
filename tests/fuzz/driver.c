// Runs a fuzz target without libFuzzer: every file of a corpus folder, then seeded mutations of
// each. Usage: fuzz_X CORPUS_FOLDER [MUTATIONS_PER_FILE [SEED]]. Ends normally or by the target's
// crash.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/rng.h"
#include "tests/fuzz/memfile.h"

#define ROOM 65536 // bytes of an input

struct input {
    uint8_t p[ROOM];
    size_t n;
};

static int read_file(const char *dir, const char *name, struct input *in) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        return -1;
    in->n = fread(in->p, 1, ROOM, f);
    fclose(f);
    return 0;
}

// One change: flipped bit, any byte, an extreme byte run, digits, cut, doubled piece or removed
// piece.
static void mutate(struct input *in, struct dr_rng *g) {
    static const uint64_t extreme[] = {0, 1, UINT64_MAX, 1ull << 63, 1ull << 31, 0x7fffffffu, 4096};
    uint32_t n = (uint32_t)in->n;
    if (!n) {
        in->p[in->n++] = (uint8_t)dr_rng_below(g, 256);
        return;
    }
    uint32_t at = dr_rng_below(g, n), len = 1 + dr_rng_below(g, DR_MIN(n - at, 16));
    switch (dr_rng_below(g, 7)) {
    case 0:
        in->p[at] ^= (uint8_t)(1u << dr_rng_below(g, 8));
        break;
    case 1:
        in->p[at] = (uint8_t)dr_rng_below(g, 256);
        break;
    case 2: {
        uint64_t v = extreme[dr_rng_below(g, (uint32_t)DR_COUNT(extreme))];
        memcpy(in->p + at, &v, DR_MIN(8, n - at));
        break;
    }
    case 3:
        in->p[at] = "0123456789[]{}\",:-\\"[dr_rng_below(g, 19)];
        break;
    case 4:
        in->n = at;
        break;
    case 5:
        if (in->n + len <= ROOM) {
            memmove(in->p + at + len, in->p + at, n - at);
            in->n += len;
        }
        break;
    default:
        memmove(in->p + at, in->p + at + len, n - at - len);
        in->n -= len;
    }
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER [MUTATIONS_PER_FILE [SEED]]\n", argv[0]);
        return 2;
    }
    const long rounds = argc > 2 ? atol(argv[2]) : 2000;
    const uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 0) : 1;
    struct dirent **files;
    int n = scandir(argv[1], &files, NULL, alphasort), used = 0;
    static struct input whole, in;
    for (int i = 0; i < n; i++) {
        if (files[i]->d_name[0] != '.' && read_file(argv[1], files[i]->d_name, &whole) == 0) {
            used++;
            LLVMFuzzerTestOneInput(whole.p, whole.n);
            for (long k = 0; k < rounds; k++) {
                struct dr_rng g;
                dr_rng_init(&g, seed, (uint32_t)i, (uint64_t)k);
                memcpy(in.p, whole.p, whole.n);
                in.n = whole.n;
                for (uint32_t m = 1 + dr_rng_below(&g, 4); m; m--)
                    mutate(&in, &g);
                LLVMFuzzerTestOneInput(in.p, in.n);
            }
        }
        free(files[i]);
    }
    if (n > 0)
        free(files);
    printf("%d files, %ld mutations each, seed %llu\n", used, rounds, (unsigned long long)seed);
    return used ? 0 : 1;
}
