// Launches, and the operations in which lanes of a warp read each other's values. Blocks are run by
// fibers.cc, or by lanes.cc under ThreadSanitizer; streams and memory are gpu_runtime.cc's.
#include "machine.h"

void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel) {
    gridDim = grid;
    blockDim = block;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                emu_run_block(shared, kernel);
            }
}

void emu_poison() {
    memset(emu_shared(), 0xff, EMU_SHARED_LIMIT);
}

void emu_check_past(size_t shared) {
    const unsigned char *p = (const unsigned char *)emu_shared() + shared;
    const size_t n = EMU_SHARED_LIMIT - shared;
    if (n && (*p != 0xff || memcmp(p, p + 1, n - 1) != 0))
        emu_die("a block has written past its shared memory");
}

uint64_t emu_exchange(uint64_t mine, unsigned lane) {
    struct gift g = {};
    unsigned lanes;
    memcpy(&g, &mine, sizeof mine);
    const struct gift *warp = emu_give(g, &lanes);
    if (lane < lanes)
        memcpy(&mine, &warp[lane], sizeof mine);
    return mine;
}

static const struct gift *give_whole(const struct gift &mine) {
    unsigned lanes;
    const struct gift *warp = emu_give(mine, &lanes);
    if (lanes < 32)
        emu_die("tensor cores need whole warps");
    return warp;
}

static float half_of(uint32_t pair, unsigned k) {
    const uint32_t u = k ? pair & 0xffff0000u : pair << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

void emu_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const struct gift *warp = give_whole({{a[0], a[1], a[2], a[3], b[0], b[1]}});
    const unsigned row = emu_lane() / 4, col = emu_lane() % 4 * 2;
    for (unsigned e = 0; e < 4; e++) // rows row, row + 8; columns col, col + 1
        for (unsigned k = 0; k < 16; k++) {
            const uint32_t *x = warp[row * 4 + k % 8 / 2].word;
            const uint32_t *y = warp[(col + e % 2) * 4 + k % 8 / 2].word + 4;
            d[e] += half_of(x[k / 8 * 2 + e / 2], k % 2) * half_of(y[k / 8], k % 2);
        }
}

void emu_ldmatrix(uint32_t (&r)[4], const void *row, bool trans) {
    struct gift g = {};
    memcpy(&g, &row, sizeof row);
    if ((uintptr_t)row % 16)
        emu_die("a matrix row is not aligned to 16 bytes");
    const struct gift *warp = give_whole(g);
    const unsigned i = emu_lane() / 4, j = emu_lane() % 4 * 2;
    for (unsigned k = 0; k < 4; k++) {
        uint32_t half[2];
        for (unsigned e = 0; e < 2; e++) {
            const uint16_t *p;
            memcpy(&p, &warp[8 * k + (trans ? j + e : i)], sizeof p);
            half[e] = p[trans ? i : j + e];
        }
        r[k] = half[0] | half[1] << 16;
    }
}
