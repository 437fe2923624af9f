#!/bin/bash
# Deadlines and waits must not move when the clock is set: they use the monotonic clock. Wall time is
# for what people read: log lines, time stamps of rows, the stream's hello.
# usage: clocks.sh SOURCE_ROOT
set -euo pipefail
cd "$1"
# Waits by pthread's default clock, and sleeps and timers on the wall clock.
! grep -rnE 'pthread_cond_timedwait|(nanosleep|timer_create|timerfd_create)\(CLOCK_REALTIME|gettimeofday' \
    --include='*.c' --include='*.h' --include='*.cu' engine daemon api || {
    echo 'wait by dd_cond_wait_until and count with dd_now_ns instead'
    exit 1
}
# The wall clock is read in these places only.
! grep -rln CLOCK_REALTIME --include='*.c' --include='*.h' --include='*.cu' engine daemon api |
    grep -vxE 'daemon/base/(util|log)\.c|api/sse\.c' || {
    echo 'CLOCK_REALTIME: read it through dd_wall_us, and only to show it'
    exit 1
}
