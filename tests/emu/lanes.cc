// A block by pthreads, one per lane, so that ThreadSanitizer sees each access to shared or global
// memory that no barrier orders. Blocks still run one after another. What fibers.cc checks (that
// all lanes reach the same barriers) is taken for granted here.
#include "machine.h"

#include <pthread.h>
#include <semaphore.h>

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

enum { LANE_STACK = 256 * 1024, WARPS = EMU_MAX_THREADS / 32 };

namespace {
struct lane {
    sem_t go;
    unsigned index, shuffles;
};
struct machine {
    lane lanes[EMU_MAX_THREADS];
    unsigned threads; // of the block; also what the barriers count
    sem_t done;
    pthread_barrier_t block, warp[WARPS];
    dim3 block_index, block_size, grid_size;
    const std::function<void()> *kernel;
    struct gift shown[2][EMU_MAX_THREADS];
    alignas(64) unsigned char shared[EMU_SHARED_LIMIT];
};
machine m;
pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER;
thread_local lane *me;
} // namespace

void emu_die(const char *what) {
    fprintf(stderr, "emulator: %s: block (%u,%u,%u), thread (%u,%u,%u)\n", what, blockIdx.x,
            blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    abort();
}

void emu_block_barrier() {
    pthread_barrier_wait(&m.block);
}
void emu_warp_barrier() {
    pthread_barrier_wait(&m.warp[me->index / 32]);
}
void *emu_shared() {
    return m.shared;
}
unsigned emu_lane() {
    return me->index % 32;
}
void emu_reverse(bool) {} // the order is the scheduler's

const struct gift *emu_give(const struct gift &mine, unsigned *lanes) {
    const unsigned first = me->index / 32 * 32, buffer = me->shuffles++ & 1;
    m.shown[buffer][me->index] = mine;
    emu_warp_barrier();
    *lanes = m.threads - first < 32 ? m.threads - first : 32;
    return m.shown[buffer] + first;
}

static void *live(void *arg) {
    me = (lane *)arg;
    for (;;) {
        while (sem_wait(&me->go)) {
        }
        const unsigned i = me->index;
        me->shuffles = 0;
        blockIdx = m.block_index;
        blockDim = m.block_size;
        gridDim = m.grid_size;
        threadIdx = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
        (*m.kernel)();
        sem_post(&m.done);
    }
    return NULL;
}

static void start() {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, LANE_STACK);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sem_init(&m.done, 0, 0);
    for (unsigned i = 0; i < EMU_MAX_THREADS; i++) {
        pthread_t t;
        sem_init(&m.lanes[i].go, 0, 0);
        m.lanes[i].index = i;
        if (pthread_create(&t, &attr, live, &m.lanes[i]))
            emu_die("no threads for the lanes");
    }
    pthread_attr_destroy(&attr);
}

// Barriers for a block of `threads`.
static void resize(unsigned threads) {
    if (m.threads == threads)
        return;
    for (unsigned w = 0; m.threads && w < (m.threads + 31) / 32; w++)
        pthread_barrier_destroy(&m.warp[w]);
    if (m.threads)
        pthread_barrier_destroy(&m.block);
    else
        start();
    m.threads = threads;
    pthread_barrier_init(&m.block, NULL, threads);
    for (unsigned w = 0; w < (threads + 31) / 32; w++)
        pthread_barrier_init(&m.warp[w], NULL, threads - 32 * w < 32 ? threads - 32 * w : 32);
}

void emu_run_block(size_t shared, const std::function<void()> &kernel) {
    pthread_mutex_lock(&busy);
    resize(blockDim.x * blockDim.y * blockDim.z);
    emu_poison();
    m.block_index = blockIdx;
    m.block_size = blockDim;
    m.grid_size = gridDim;
    m.kernel = &kernel;
    for (unsigned i = 0; i < m.threads; i++)
        sem_post(&m.lanes[i].go);
    for (unsigned i = 0; i < m.threads; i++)
        while (sem_wait(&m.done)) {
        }
    emu_check_past(shared);
    pthread_mutex_unlock(&busy);
}
