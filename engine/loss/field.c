// The table of drifting fields and the loss by the one that a configuration names. See field.h.
#include "engine/loss/field.h"

static const struct dr_field_def *const table[] = {
#define X(ID, name, text) [DR_FIELD_##ID] = &dr_field_##name,
    DR_FIELDS(X)
#undef X
};

const struct dr_field_def *dr_field(int field) {
    return table[field];
}

void dr_drift_loss(struct dr_ctx *cx, const struct dr_loss_config *cfg,
                   const struct dr_drift_in *in, const struct dr_drift_out *out) {
    dr_field(cfg->field)->loss(cx, cfg, NULL, in, out);
}

real dr_guidance_weight(double alpha, int64_t N, int64_t U) {
    return U ? (real)((alpha - 1) * (double)(N - 1) / (double)U) : (real)0;
}
