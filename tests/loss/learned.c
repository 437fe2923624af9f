// See learned.h.
#include "tests/loss/learned.h"

#include "engine/loss/operator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void learned_open(struct learned *l, const struct dr_loss_config *cfg, int64_t s, uint64_t seed) {
    *l = (struct learned){.cfg = *cfg, .key = {seed, 0}};
    dr_operator_params(&l->layout, cfg, s, "x");
    dr_params_finish(&l->layout);
    l->w = calloc((size_t)l->layout.total, sizeof *l->w);
    l->g = calloc((size_t)l->layout.total, sizeof *l->g);
    dr_params_init(&l->layout, seed, l->w);
}

void learned_close(struct learned *l) {
    dr_params_free(&l->layout);
    free(l->w);
    free(l->g);
}

void learned_run(struct rig *r, struct learned *l, const struct dr_drift_in *in,
                 struct learned_out *out) {
    const size_t n = (size_t)(in->B * in->N * in->S);
    // The layout of a run whose feature number in->feature this is: those before it are not looked
    // at.
    const int before = in->feature * l->layout.n;
    struct dr_params layout = l->layout;
    layout.n += before;
    layout.p = calloc((size_t)layout.n, sizeof *layout.p);
    memcpy(layout.p + before, l->layout.p, (size_t)l->layout.n * sizeof *layout.p);
    const struct dr_weights own = {.layout = &layout, .w = l->w, .g = l->g};
    struct dr_err err = {0};
    *out = (struct learned_out){.dgen = calloc(n, sizeof(real)), .v = calloc(n, sizeof(real))};
    dr_field(DR_FIELD_LEARNED)
        ->loss(&r->cx, &l->cfg, &own, in,
               &(struct dr_drift_out){.dgen = out->dgen,
                                      .loss = &out->loss,
                                      .v2 = out->v2,
                                      .stats = out->stats,
                                      .field = out->v,
                                      .own = out->own});
    if (r->be->sync(r->be, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    free(layout.p);
}

void learned_drop(struct learned_out *out) {
    free(out->dgen);
    free(out->v);
}
