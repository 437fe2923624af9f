// See mapped.h. The table is the one thing that the handler of a signal can reach.
#include "engine/core/mapped.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SLOTS = 256 };

static struct slot {
    _Atomic bool used, lost;
    _Atomic uintptr_t begin; // 0: nothing is mapped
    _Atomic size_t n;
} slots[SLOTS];
static struct sigaction before;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // of the handler's place

// Zeros in place of a watched file. lost comes first: who sees zeros can see that.
static bool replace(uintptr_t at) {
    for (int i = 0; i < SLOTS; i++) {
        const uintptr_t begin = atomic_load(&slots[i].begin);
        const size_t n = atomic_load(&slots[i].n);
        if (!begin || at - begin >= n)
            continue;
        atomic_store(&slots[i].lost, true);
        // By number: in a signal no library comes between, such as a sanitizer's.
        return syscall(SYS_mmap, begin, n, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                       0L) == (long)begin;
    }
    return false;
}

static void on_bus(int sig, siginfo_t *info, void *context) {
    const int saved = errno;
    (void)context;
    const bool sent = info->si_code <= 0; // by kill, without an address
    if (sent || !replace((uintptr_t)info->si_addr)) {
        sigaction(SIGBUS, &before, NULL); // which gets it when this returns
        if (sent)
            raise(sig);
    }
    errno = saved;
}

// Unless it is there: others may have taken the signal since the last file.
static void install(void) {
    struct sigaction sa = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO}, now;
    pthread_mutex_lock(&lock);
    if (!sigaction(SIGBUS, NULL, &now) && now.sa_sigaction != on_bus) {
        before = now;
        sigaction(SIGBUS, &sa, NULL);
    }
    pthread_mutex_unlock(&lock);
}

int dr_mapped_open(int fd, size_t n, struct dr_mapped *out) {
    install();
    *out = (struct dr_mapped){.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3), .slot = -1};
    void *p = out->fd < 0 ? MAP_FAILED : mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        const int why = errno;
        if (out->fd >= 0)
            close(out->fd);
        return why;
    }
    out->p = p;
    out->n = n;
    for (int i = 0; i < SLOTS && out->slot < 0; i++)
        if (!atomic_exchange(&slots[i].used, true))
            out->slot = i;
    if (out->slot < 0)
        return 0;
    struct slot *s = &slots[out->slot];
    atomic_store(&s->lost, false);
    atomic_store(&s->n, n);
    atomic_store(&s->begin, (uintptr_t)p);
    return 0;
}

void dr_mapped_close(struct dr_mapped *m) {
    if (!m->p)
        return;
    if (m->slot >= 0)
        atomic_store(&slots[m->slot].begin, 0);
    munmap((void *)(uintptr_t)m->p, m->n);
    close(m->fd);
    if (m->slot >= 0)
        atomic_store(&slots[m->slot].used, false);
    *m = (struct dr_mapped){.slot = -1};
}

bool dr_mapped_lost(const struct dr_mapped *m) {
    struct stat st;
    if (!m->p)
        return false;
    return (m->slot >= 0 && atomic_load(&slots[m->slot].lost)) || fstat(m->fd, &st) ||
           (uint64_t)st.st_size < m->n;
}
