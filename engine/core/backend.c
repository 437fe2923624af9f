// What every backend shares: the check of its op table, and the outsiders' view. See backend.h,
// device.h.
#include "engine/core/backend.h"

int dr_backend_check(const struct dr_backend *be, struct dr_err *err) {
#define X(slot, flags)                                                                             \
    if (!be->op.slot)                                                                              \
        return dr_fail(err, DR_EUNSUPPORTED, "backend %s lacks the op %s", be->name, #slot);
#include "engine/ops.def"
#undef X
    return 0;
}

struct dr_device dr_backend_device(const struct dr_backend *be) {
    return (struct dr_device){.name = be->name,
                              .detail = be->detail,
                              .host_memory = be->host_memory,
                              .threads = be->threads};
}

void dr_backend_enter(struct dr_backend *be) {
    be->enter(be);
}

int dr_backend_hurry(struct dr_backend *be, struct dr_err *err) {
    return be->hurry(be, err);
}

int dr_backend_probe(struct dr_backend *be, struct dr_err *err) {
    void *p;
    int rc = be->mem_alloc(be, 64, &p, err); // zeroes it, and waits
    if (!rc)
        be->mem_free(be, p);
    return rc;
}

void dr_backend_free(struct dr_backend *be) {
    if (be)
        be->destroy(be);
}
