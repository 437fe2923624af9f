// Images through every pixel feature, each with its drifting loss, and back to the pixels, against
// the vectors of make_golden_drift.py, a program that shares nothing with this one.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "engine/loss/features.h"
#include "tests/golden/drift_vectors.h"
#include "tests/loss/ref.h"

enum { IMAGE = GC * GH * GW };

static void take(real *dst, const double *src, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = (real)src[i];
}

// Feature i of the golden images: its loss is added to *loss, its gradient to dx.
static void add_feature(struct rig *r, const struct dr_features *f, int i, const real *gen,
                        const real *unc, const real *pos, real *loss, real *dx) {
    static real fg[GB * GN * IMAGE], fu[GB * GU * IMAGE], fp[GB * GP * IMAGE], dg[GB * GN * IMAGE];
    const struct dr_feature_dim d = dr_features_dim(f, i);
    real norm[GB * GN * 4], w[GB * 4], v2[GTAUS], stats[3];
    const int64_t T = d.locations, one = T * GU * d.s;
    feature_forward(&r->cx, f, i, gen, GB, GN, false, fg, norm);
    feature_forward(&r->cx, f, i, pos, GB, GP, false, fp, NULL);
    feature_forward(&r->cx, f, i, unc, 1, GU, false, fu, NULL);
    for (int b = 1; b < GB; b++)
        memcpy(fu + b * one, fu, (size_t)one * sizeof *fu);
    for (int64_t k = 0; k < GB * T; k++)
        w[k] = (real)golden_w_unc[k / T];
    struct dr_loss_config cfg = {.ntau = GTAUS};
    memcpy(cfg.tau, golden_taus, sizeof golden_taus);
    const struct dr_drift_in in = {.gen = fg,
                                   .unc = fu,
                                   .pos = fp,
                                   .unc_weight = w,
                                   .B = GB * T,
                                   .N = GN,
                                   .U = GU,
                                   .P = GP,
                                   .S = d.s,
                                   .weight = d.weight};
    dr_drift_loss(&r->cx, &cfg, &in,
                  &(struct dr_drift_out){.dgen = dg, .loss = loss, .v2 = v2, .stats = stats});
    feature_backward(&r->cx, f, i, gen, GB, GN, fg, norm, dg, dx);
}

static void golden_losses_agree(void **state) {
    (void)state;
#ifdef DR_DOUBLE
    const double tol = 1e-20;
#else
    const double tol = 1e-10;
#endif
    struct rig r;
    rig_open(&r, 2);
    real gen[GB * GN * IMAGE], unc[GU * IMAGE], pos[GB * GP * IMAGE], dx[GB * GN * IMAGE];
    take(gen, golden_gen_image, GB * GN * IMAGE);
    take(unc, golden_unc_image, GU * IMAGE);
    take(pos, golden_pos_image, GB * GP * IMAGE);
    for (size_t k = 0; k < DR_COUNT(golden_features); k++) {
        struct dr_feature_config cfg = {.norm = golden_features[k].norm,
                                        .image = true,
                                        .quadrants = true,
                                        .patch2 = true,
                                        .patch4 = true,
                                        .rms = golden_rms_weight};
        struct dr_features *f;
        struct dr_err err = {0};
        if (dr_features_create(&cfg, GC, GH, GW, &f, &err))
            fail_msg("%s", err.msg);
        real loss = 0;
        memset(dx, 0, sizeof dx);
        for (int i = 0; i < dr_features_count(f); i++)
            add_feature(&r, f, i, gen, unc, pos, &loss, dx);
        double want = golden_features[k].loss;
        double nmse = ref_nmse(dx, golden_features[k].dx, GB * GN * IMAGE);
        if (!(fabs((double)loss - want) <= 10 * sqrt(tol) * want && nmse <= tol))
            fail_msg("norm %d: loss %.17g, expected %.17g; gradient NMSE %.3g", cfg.norm,
                     (double)loss, want, nmse);
        dr_features_free(f);
    }
    struct dr_err err = {0};
    assert_int_equal(r.be->sync(r.be, &err), 0);
    assert_int_equal(r.tmp.used, 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_losses_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
