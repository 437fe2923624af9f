// The housekeeping thread: deadlines of connections and of waiting requests, the 10 Hz pulse of the
// event streams, the beat that the watchdog reads. Started by server.c.
#include "api/conn.h"
#include "api/handlers.h"

#include <time.h>

#define TICK_MS 50

void *api_keeper_main(void *server) {
    struct api_server *s = server;
    struct timespec next;
    pthread_setname_np(pthread_self(), "http-keeper");
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (unsigned tick = 0; !atomic_load(&s->stopping); tick++) {
        uint64_t now = api_now_ns();
        atomic_store(&s->beat_ns, api_conn_beat(s, now));
        api_nudge(s);
        if (tick % 2 == 0)
            api_sse_tick(s, now);
        api_gen_tick(s, now, tick % 4 == 0);
        if (tick % 4 == 0)
            api_conn_reap(s, now);
        next.tv_nsec += TICK_MS * 1000000L;
        if (next.tv_nsec >= 1000000000L) {
            next.tv_nsec -= 1000000000L;
            next.tv_sec++;
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
    return NULL;
}
