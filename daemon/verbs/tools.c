// Small verbs: check-config, version.
#include "daemon/base/log.h"
#include "daemon/verbs/verbs.h"
#include "driftd_config.h"
#include "driftd_git.h"
#include "engine/drift.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dd_print_problems(const char *who, const struct dr_problems *list, const struct dr_err *err) {
    for (int i = 0; i < list->n; i++)
        fprintf(stderr, "%s: %s\n", who, list->row[i].msg);
    if (!list->n)
        fprintf(stderr, "%s: %s\n", who, err->msg);
    if (list->more)
        fprintf(stderr, "%s: and %d more problems\n", who, list->more);
}

// Leaves KEY=VALUE of `--set KEY=VALUE`, `--set=KEY=VALUE` and KEY=VALUE; returns how many.
static int changes(char **argv, int argc) {
    int n = 0;
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--set") || i + 1 == argc)
            argv[n++] = argv[i] + (strncmp(argv[i], "--set=", 6) ? 0 : 6);
    return n;
}

int dd_check_config_main(int argc, char **argv) {
    struct dr_config cfg;
    struct dr_err err = {0};
    struct dr_problems list = {0};
    if (argc < 1) {
        fputs("usage: driftd check-config FILE [--set KEY=VALUE]...\n", stderr);
        return 2;
    }
    // The changes together: one may need another.
    const int broken = dr_config_load_listed(argv[0], &cfg, &list, &err);
    const int n = changes(argv + 1, argc - 1);
    if (dr_config_set_listed(broken ? NULL : &cfg, (const char *const *)argv + 1, n, &list,
                             broken ? NULL : &err) ||
        broken) {
        dd_print_problems("driftd", &list, &err);
        return 1;
    }
    char *json = dr_config_to_json(&cfg);
    if (json)
        puts(json);
    else
        fprintf(stderr, "driftd: %s: out of memory\n", argv[0]);
    free(json);
    return json ? 0 : 1;
}

// Instruction sets of this processor that kernels here or in oneDNN use.
static void print_features(void) {
#ifdef __x86_64__
    fputs("features", stdout);
#define FEATURE(name)                                                                              \
    if (__builtin_cpu_supports(name))                                                              \
    fputs(" " name, stdout)
    FEATURE("sse4.2");
    FEATURE("avx");
    FEATURE("avx2");
    FEATURE("fma");
    FEATURE("avx512f");
    FEATURE("avx512bw");
    FEATURE("avx512dq");
    FEATURE("avx512vl");
    FEATURE("avx512vnni");
    FEATURE("avx512bf16");
#undef FEATURE
    putchar('\n');
#endif
}

int dd_version_main(void) {
    struct dr_backend *be = NULL;
    struct dr_err err = {0};
    printf("driftd %s (%s)\ncompiler %s\nbackends cpu%s%s%s\n", DRIFTD_VERSION, DRIFTD_GIT,
           __VERSION__, DR_HAVE_ONEDNN ? " (oneDNN)" : " (reference GEMM)",
           DR_HAVE_BF16 ? ", bf16" : "", DR_HAVE_CUDA ? ", cuda" : "");
#ifdef DD_HAVE_SERVER
    puts("server yes");
#else
    puts("server no");
#endif
    char text[200];
    printf("machine %s\n", dr_machine_describe(dr_machine(), text, sizeof text));
    if (!dr_backend_open("cpu", 0, &be, &err))
        printf("cpu %s\n", dr_backend_device(be).detail);
    else
        printf("cpu %s\n", err.msg);
    print_features();
    dr_backend_free(be);
    if (!dr_backend_open("cuda", 0, &be, &err))
        printf("cuda %s\n", dr_backend_device(be).detail);
    else
        printf("no cuda: %s\n", err.msg);
    dr_backend_free(be);
    return 0;
}
