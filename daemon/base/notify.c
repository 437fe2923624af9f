// sd_notify(3) and sd_listen_fds(3) without libsystemd (notify.h).
#include "daemon/base/notify.h"

#include "daemon/base/util.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void dd_notify(const char *fmt, ...) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof a.sun_path)
        return;
    char msg[700];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    memcpy(a.sun_path, path, strlen(path));
    if (path[0] == '@')
        a.sun_path[0] = 0; // abstract name
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    size_t size = (size_t)n < sizeof msg ? (size_t)n : sizeof msg - 1;
    ssize_t sent = sendto(fd, msg, size, MSG_NOSIGNAL, (struct sockaddr *)&a, len);
    (void)sent; // the service manager may be gone
    close(fd);
}

// True when the variable is unset or names this process.
static bool meant_for_us(const char *variable) {
    const char *pid = getenv(variable);
    int64_t v;
    return !pid || (dd_parse_int(pid, 1, INT32_MAX, &v) && v == getpid());
}

int64_t dd_watchdog_interval_us(void) {
    int64_t v;
    if (!dd_parse_int(getenv("WATCHDOG_USEC"), 2, INT64_MAX, &v) || !meant_for_us("WATCHDOG_PID"))
        return 0;
    return v / 2;
}

int dd_listen_fds(void) {
    int64_t n;
    if (!getenv("LISTEN_PID") || !meant_for_us("LISTEN_PID") ||
        !dd_parse_int(getenv("LISTEN_FDS"), 0, 64, &n))
        return 0;
    for (int i = 0; i < n; i++)
        fcntl(3 + i, F_SETFD, FD_CLOEXEC);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return (int)n;
}
