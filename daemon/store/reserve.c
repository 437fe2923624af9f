// See reserve.h. Halves, since whatever finds room first (metrics, another job) may take it: there
// is some left for the next removal.
#include "daemon/store/reserve.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROOM_TIMES = 4, LEAST = 64 << 10 };

static char *path_of(const char *state_dir) {
    return dd_printf("%s/reserve", state_dir);
}

static int64_t size_of(const char *path) {
    struct stat st;
    return lstat(path, &st) || !S_ISREG(st.st_mode) ? 0 : (int64_t)st.st_size;
}

void dd_reserve_keep(const char *state_dir) {
    char *path = path_of(state_dir);
    const int64_t room = dd_free_bytes(state_dir);
    const bool tips =
        room >= DD_MIN_FREE && room - DD_RESERVE < DD_MIN_FREE; // /readyz says no then
    if (size_of(path) < DD_RESERVE && room >= (int64_t)ROOM_TIMES * DD_RESERVE && !tips) {
        const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
        if (fd >= 0 && posix_fallocate(fd, 0, DD_RESERVE))
            unlink(path);
        if (fd >= 0)
            close(fd);
    }
    free(path);
}

bool dd_reserve_give(const char *state_dir) {
    char *path = path_of(state_dir);
    const int64_t half = size_of(path) / 2;
    const bool given = half >= LEAST && !truncate(path, half);
    if (given)
        dd_log(DR_LOG_WARN, "disk.reserve", "given=%lld left=%lld", (long long)half,
               (long long)half);
    free(path);
    return given;
}
