// Opening devices. See open.h.
#include "engine/open.h"

#include "engine/cpu/backend.h"
#include "engine/cuda/module.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// "cuda" or "cuda:N"; -1: neither.
static int cuda_index(const char *device) {
    if (!strcmp(device, "cuda"))
        return 0;
    if (strncmp(device, "cuda:", 5) || device[5] < '0' || device[5] > '9')
        return -1;
    char *end;
    long n = strtol(device + 5, &end, 10);
    return *end || n > 1023 ? -1 : (int)n;
}

static int open_auto(int threads, struct dr_backend **out, struct dr_err *err) {
    struct dr_err why = {0};
    int rc = dr_backend_cuda(0, out, &why);
    if (rc)
        rc = dr_backend_cpu(threads, out, err);
    if (!rc)
        dr_log(DR_LOG_INFO, "device=auto picked=%s detail=\"%s\"%s%s%s", (*out)->name,
               (*out)->detail, why.code ? " no_cuda=\"" : "", why.msg, why.code ? "\"" : "");
    return rc;
}

int dr_backend_open(const char *device, int threads, struct dr_backend **out, struct dr_err *err) {
    *out = NULL;
    if (!strcmp(device, "cpu"))
        return dr_backend_cpu(threads, out, err);
    if (!strcmp(device, "auto"))
        return open_auto(threads, out, err);
    if (cuda_index(device) >= 0) {
        int rc = dr_backend_cuda(cuda_index(device), out, err);
        char prefix[64];
        snprintf(prefix, sizeof prefix, "device \"%.40s\"", device);
        return rc ? dr_fail_prefix(err, rc, prefix) : 0;
    }
    return dr_fail(err, DR_EINVAL, "device \"%s\" is not known; expected auto, cpu or cuda[:N]",
                   device);
}
