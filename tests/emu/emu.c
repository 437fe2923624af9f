// Opening the emulated backend. See emu.h.
#include "tests/emu/emu.h"

int dr_cuda_open(int index, size_t size, struct dr_backend **out, struct dr_err *err);
void emu_reverse(bool on);

int dr_backend_emu(bool reverse, struct dr_backend **out, struct dr_err *err) {
    emu_reverse(reverse);
    int rc = dr_cuda_open(0, sizeof(struct dr_backend), out, err);
    return rc ? rc : dr_backend_check(*out, err);
}
