// See room.h.
#include "daemon/base/room.h"

#include "daemon/base/util.h"

#include <stdlib.h>

int dd_room(const char *dir, int64_t bytes, struct dr_err *err) {
    const int64_t room = dd_free_bytes(dir), left = room - DD_MIN_FREE;
    if (room < 0 || left >= bytes) // where it is not known, writing will tell
        return 0;
    return dr_fail(err, DR_ENOSPC,
                   "the disk is full: %lld MiB more are needed in %.200s, %lld MiB may be used (%d "
                   "MiB stay free); remove data sets or checkpoints",
                   (long long)(bytes >> 20) + 1, dir, (long long)(left < 0 ? 0 : left >> 20),
                   DD_MIN_FREE >> 20);
}

int dd_cache_room(const char *data_dir, const struct dr_import_progress *p, struct dr_err *err) {
    char *dir;
    if (p->stage == DR_IMPORT_MAKING) // in memory
        return 0;
    int rc = dr_cache_dir(data_dir, &dir, err);
    if (rc)
        return rc;
    rc = dd_room(dir, p->to_write, err);
    free(dir);
    return rc;
}
