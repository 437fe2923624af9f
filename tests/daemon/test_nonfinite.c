// A step whose loss or gradient is not finite reports its row before the alert, so that curves and
// gauges show it.
#include "tests/daemon/helper.h"

#include "daemon/jobs/runner.h"

#include <math.h>
#include <string.h>

struct seen {
    struct dr_metrics last;
    int64_t alert_step;
};

static void on_step(void *ctx, const struct dr_metrics *m, double seconds, int64_t total) {
    (void)seconds;
    (void)total;
    ((struct seen *)ctx)->last = *m;
}
static void on_alert(void *ctx, const char *kind, int64_t step, const char *text) {
    struct seen *s = ctx;
    (void)text;
    if (strcmp(kind, "nonfinite"))
        return;
    assert_int_equal(s->last.step, step);
    s->alert_step = step;
}

static void the_failing_step_has_a_row(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct dd_run_result res;
    struct seen seen = {0};
    struct dd_run_hooks hooks = {.ctx = &seen, .step = on_step, .alert = on_alert};
    char dir[256];
    test_tiny(&c, 20);
    test_mkdir(dir);
    c.optim.lr = 1e38;
    c.optim.warmup = 0;
    c.optim.clip = 0;
    c.metrics.every = 1000;
    struct dd_run_spec spec = {.cfg = &c,
                               .data_dir = dir,
                               .device = "cpu",
                               .checkpoint_dir = dir,
                               .id = "test",
                               .threads = 1};
    assert_int_equal(dd_run(&spec, &hooks, &res, &err), DR_ENONFINITE);
    assert_int_equal(res.outcome, DD_RUN_FAILED);
    assert_true(seen.alert_step > 0);
    assert_false(seen.last.finite);
    assert_false(isfinite(seen.last.loss) && isfinite(seen.last.grad_norm));
    test_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_failing_step_has_a_row)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
