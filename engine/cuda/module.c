// Loading the CUDA backend: a shared module of its own, so that one driftd starts on machines with
// and without a GPU, driver or cuBLAS. Called by dr_backend_open. See engine/cuda/backend.cu,
// docs/gpu.md.
#include "engine/cuda/module.h"

#include "driftd_cuda.h"

#ifndef DR_DOUBLE

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME "libdriftd_cuda.so"

typedef int open_fn(int index, size_t size, struct dr_backend **out, struct dr_err *err);

// $DRIFTD_CUDA_MODULE, else in the build tree next to the program, else where it is installed.
static int find(char path[PATH_MAX], struct dr_err *err) {
    static const char *const near[] = {"../engine/cuda", "../../engine/cuda"};
    const char *env = getenv("DRIFTD_CUDA_MODULE");
    char exe[PATH_MAX / 2];
    if (env && *env) {
        if (access(env, R_OK))
            return dr_fail(err, DR_EUNSUPPORTED, "DRIFTD_CUDA_MODULE: cannot read %.300s", env);
        snprintf(path, PATH_MAX, "%s", env);
        return 0;
    }
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    char *slash = strrchr(exe, '/');
    for (size_t i = 0; slash && i < DR_COUNT(near); i++) {
        snprintf(path, PATH_MAX, "%.*s/%s/%s", (int)(slash - exe), exe, near[i], FILE_NAME);
        if (!access(path, R_OK))
            return 0;
    }
    snprintf(path, PATH_MAX, "%s", DR_CUDA_MODULE);
    if (!access(path, R_OK))
        return 0;
    return dr_fail(err, DR_EUNSUPPORTED,
                   "the CUDA backend, %s, is not installed (DRIFTD_CUDA_MODULE can name it)",
                   FILE_NAME);
}

int dr_backend_cuda(int index, struct dr_backend **out, struct dr_err *err) {
    char path[PATH_MAX];
    int rc = find(path, err);
    *out = NULL;
    if (rc)
        return rc;
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL); // stays loaded: CUDA cannot be unloaded
    const char *why = module ? NULL : dlerror();
    if (!module)
        return dr_fail(err, DR_EDEVICE, "the CUDA backend does not load: %s", why ? why : path);
    open_fn *open = NULL;
    *(void **)&open = dlsym(module, "dr_cuda_open");
    if (!open)
        return dr_fail(err, DR_EUNSUPPORTED, "%.300s is not driftd's CUDA backend", path);
    rc = open(index, sizeof(struct dr_backend), out, err);
    if (!rc && (rc = dr_backend_check(*out, err))) {
        dr_backend_free(*out);
        *out = NULL;
    }
    return rc;
}

#else

int dr_backend_cuda(int index, struct dr_backend **out, struct dr_err *err) {
    (void)index;
    *out = NULL;
    return dr_fail(err, DR_EUNSUPPORTED, "the double build has no CUDA backend; use \"cpu\"");
}

#endif
