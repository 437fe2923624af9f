// See frozen.h.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/io/safetensors.h"
#include "engine/nn/net.h"
#include "engine/nn/params.h"
#include "tests/train/frozen.h"

// Norms away from 1 and 0, so that every parameter counts.
static void fill(const struct dr_params *ps, int seed, real *w) {
    dr_params_init(ps, (uint64_t)seed, w);
    for (int i = 0; i < ps->n; i++)
        for (int64_t j = 0; ps->p[i].ndim == 1 && j < ps->p[i].count; j++)
            w[ps->p[i].offset + j] += (real)(0.02 * (double)((i * 7 + j * 3) % 11 - 5));
}

void frozen_write(const char *path, int size, int channels, int width, const char *head, int seed) {
    const enum dr_st_dtype type = sizeof(real) == 8 ? DR_ST_F64 : DR_ST_F32;
    struct dr_err err = {0};
    struct dr_net *net;
    struct dr_st_writer *w;
    char json[400];
    const int classes = strcmp(head, "none") ? 10 : 0;
    snprintf(json, sizeof json,
             "{\"arch\": \"resnet\", \"size\": %d, \"channels\": %d, \"width\": %d, \"groups\": 2, "
             "\"blocks\": [1, 1, 1], \"every\": 1, \"head\": \"%s\", \"classes\": %d}",
             size, channels, width, head, classes);
    if (dr_net_parse(json, strlen(json), NULL, &net, &err) || dr_st_writer_new(&w, &err))
        fail_msg("%s", err.msg);
    const struct dr_params *ps = dr_net_params(net);
    real *values = calloc((size_t)ps->total, sizeof *values);
    assert_non_null(values);
    fill(ps, seed, values);
    int rc = dr_st_add_meta(w, "driftd.config", dr_net_description(net), &err);
    for (int i = 0; i < ps->n && !rc; i++)
        rc = dr_st_add(w, ps->p[i].name, type, ps->p[i].ndim, ps->p[i].dim,
                       values + ps->p[i].offset, &err);
    if (rc || dr_st_finish(w, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    free(values);
    dr_net_free(net);
}
