// `driftd inspect`: what a safetensors file holds, from its header alone.
#include "daemon/verbs/verbs.h"
#include "engine/drift.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The network that the file's own description names; nothing where it has none or this build does
// not know it.
static void print_network(const struct dr_st_file *f) {
    const char *json = dr_st_meta(f, "driftd.config");
    struct dr_net *net;
    if (!json || dr_net_parse(json, strlen(json), NULL, &net, NULL))
        return;
    printf("network %s (%s, %lld parameters)\n", dr_net_name(net),
           dr_net_kind_word(dr_net_kind(net)), (long long)dr_net_parameters(net));
    dr_net_free(net);
}

// What a file says, on one line and without what a terminal would act on.
static void print_plain(const char *text, int width) {
    char *plain = malloc(2 * strlen(text) + 1), *to = plain;
    if (!plain)
        abort();
    for (; *text; text++) {
        if (*text == '\n')
            *to++ = '\\';
        *to++ = *text == '\n' ? 'n' : *text;
    }
    *to = 0;
    dr_make_plain(plain);
    printf("%-*s", width, plain);
    free(plain);
}

int dd_inspect_main(int argc, char **argv) {
    static const char *const dtype[] = {"F32", "F64", "F16", "BF16", "I64", "I32", "U8", "other"};
    struct dr_st_file *f = NULL;
    struct dr_err err = {0};
    char sha[65];
    if (argc != 1) {
        fputs("usage: driftd inspect FILE.safetensors\n", stderr);
        return 2;
    }
    if (dr_st_open(argv[0], &f, &err) || dr_sha256_file(argv[0], sha, &err)) {
        dr_st_close(f);
        fprintf(stderr, "driftd: %s\n", err.msg);
        return 1;
    }
    fputs("file ", stdout);
    print_plain(argv[0], 0);
    printf("\nsha256 %s\ntensors %d\n", sha, dr_st_count(f));
    print_network(f);
    const char *key, *value;
    for (int i = 0; (key = dr_st_meta_at(f, i, &value)); i++) {
        print_plain(key, 0);
        putchar(' ');
        print_plain(value, 0);
        putchar('\n');
    }
    int64_t total = 0;
    for (int i = 0; i < dr_st_count(f); i++) {
        const struct dr_st_tensor *t = dr_st_at(f, i);
        print_plain(t->name, 60);
        printf(" %-5s [", dtype[t->dtype]);
        for (int k = 0; k < t->ndim; k++)
            printf("%s%lld", k ? ", " : "", (long long)t->dim[k]);
        puts("]");
        total += t->count;
    }
    printf("elements %lld\n", (long long)total);
    dr_st_close(f);
    return 0;
}
