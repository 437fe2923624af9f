// systemd's protocols without its library: readiness and watchdog datagrams, passed sockets.
// Main thread.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Sends a message such as "READY=1\nSTATUS=..." to $NOTIFY_SOCKET; without it does nothing.
void dd_notify(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
// Half of WATCHDOG_USEC in microseconds when the watchdog is meant for this process, else 0.
int64_t dd_watchdog_interval_us(void);
// Number of inherited sockets (LISTEN_FDS, starting at descriptor 3); made close-on-exec.
int dd_listen_fds(void);
