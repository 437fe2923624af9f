// See ckpt_sums.h.
#include "daemon/store/ckpt_sums.h"

#include "daemon/base/util.h"
#include "engine/drift.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEX = 64, MOST_BYTES = 1 << 16 };

static int sum_path(const char *path, char out[DD_PATH_MAX], struct dr_err *err) {
    return dd_path(out, err, "%s.sha256", path);
}

int dd_ckpt_sum_write(const char *path, const char *sha256, struct dr_err *err) {
    char sum[DD_PATH_MAX];
    const char *base = strrchr(path, '/');
    int rc = sum_path(path, sum, err);
    if (rc)
        return rc;
    char *line = dd_printf("%s  %s\n", sha256, base ? base + 1 : path);
    rc = dd_write_file(sum, line, strlen(line), err);
    free(line);
    return rc;
}

int dd_ckpt_sum_check(const char *path, struct dr_err *err) {
    char sum[DD_PATH_MAX], is[HEX + 1], *text;
    int rc = sum_path(path, sum, err);
    if (!rc)
        rc = dd_read_file(sum, MOST_BYTES, &text, NULL, err);
    if (rc)
        return rc == DR_ENOENT ? 0 : rc;
    rc = dr_sha256_file(path, is, err);
    if (!rc && strncmp(text, is, HEX) != 0)
        rc = dr_fail(err, DR_EFORMAT,
                     "%s: sha256 is %.16s..., the file .sha256 beside it says %.16s...", path, is,
                     text);
    free(text);
    return rc;
}

void dd_ckpt_sum_remove(const char *path) {
    char sum[DD_PATH_MAX];
    if (!sum_path(path, sum, NULL))
        unlink(sum);
}

int dd_ckpt_sum_move(const char *path, const char *to, struct dr_err *err) {
    char from[DD_PATH_MAX], there[DD_PATH_MAX];
    int rc = sum_path(path, from, err);
    if (!rc)
        rc = sum_path(to, there, err);
    if (!rc && rename(from, there) && errno != ENOENT)
        rc = dr_fail(err, DR_EIO, "cannot move %s out of the way: %s", from, strerror(errno));
    return rc;
}
