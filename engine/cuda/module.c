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

static char *join(const char *folder, int length, const char *rest) {
    char *path = NULL;
    return asprintf(&path, "%.*s%s", length, folder, rest) < 0 ? NULL : path;
}

// Beside the program, in the build tree. malloc'd; NULL: not there.
static char *near_program(void) {
    static const char *const near[] = {"/../engine/cuda/" FILE_NAME,
                                       "/../../engine/cuda/" FILE_NAME};
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe);
    while (n > 0 && n < PATH_MAX && exe[n - 1] != '/')
        n--;
    for (size_t i = 0; n > 1 && n < PATH_MAX && i < DR_COUNT(near); i++) {
        char *path = join(exe, (int)n - 1, near[i]);
        if (path && !access(path, R_OK))
            return path;
        free(path);
    }
    return NULL;
}

// $DRIFTD_CUDA_MODULE, else in the build tree, else where it is installed. *path is malloc'd.
static int find(char **path, struct dr_err *err) {
    const char *env = getenv("DRIFTD_CUDA_MODULE");
    if (env && *env && access(env, R_OK))
        return dr_fail_at(err, DR_EUNSUPPORTED, "DRIFTD_CUDA_MODULE",
                          "DRIFTD_CUDA_MODULE: cannot read %.300s", env);
    if (env && *env)
        *path = strdup(env);
    else if (!(*path = near_program()) && !access(DR_CUDA_MODULE, R_OK))
        *path = strdup(DR_CUDA_MODULE);
    if (*path)
        return 0;
    return dr_fail(err, DR_EUNSUPPORTED,
                   "the CUDA backend, %s, is not installed (DRIFTD_CUDA_MODULE can name it)",
                   FILE_NAME);
}

static int open_module(const char *path, int index, struct dr_backend **out, struct dr_err *err) {
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL); // stays loaded: CUDA cannot be unloaded
    const char *why = module ? NULL : dlerror();
    if (!module)
        return dr_fail(err, DR_EDEVICE, "the CUDA backend does not load: %s", why ? why : path);
    open_fn *open = NULL;
    *(void **)&open = dlsym(module, "dr_cuda_open");
    if (!open)
        return dr_fail(err, DR_EUNSUPPORTED, "%.300s is not driftd's CUDA backend", path);
    return open(index, sizeof(struct dr_backend), out, err);
}

int dr_backend_cuda(int index, struct dr_backend **out, struct dr_err *err) {
    char *path = NULL;
    *out = NULL;
    int rc = find(&path, err);
    if (!rc)
        rc = open_module(path, index, out, err);
    free(path);
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
