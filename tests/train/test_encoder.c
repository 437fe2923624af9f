// Training through a frozen encoder (tests/loss/tiny_encoder.h): its weights reach the step, chunks
// change only the order of the parameters' gradient sums, and a resumed run goes on exactly.
#include "tests/train/util.h"

#include "engine/train/objective.h"
#include "tests/loss/tiny_encoder.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static const struct dr_trainer_parts parts = {.kind = &tiny_encoder};

static void configure(struct dr_config *c) {
    struct dr_err err = {0};
    config_of(c, tiny_digits);
    if (dr_config_set(c, "loss.negatives=independent", &err))
        fail_msg("%s", err.msg);
}

static void it_trains_and_resumes(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    double whole[8], tail[4];
    const char *path = scratch_path("encoder.safetensors");
    configure(&c);
    run_open_of(&r, &c, &parts);
    run_steps(&r, 4, whole);
    if (dr_trainer_save(r.t, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 4, whole + 4);
    run_close(&r);
    run_open_of(&r, &c, &parts);
    if (dr_trainer_load(r.t, path, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 4, tail);
    assert_memory_equal(whole + 4, tail, sizeof tail);
    run_close(&r);
    unlink(path);
    assert_int_equal(tiny_encoder_alive, 0);
}

static void chunks_change_rounding_only(void **state) {
    (void)state;
    struct dr_config c;
    double a[4], b[4];
    struct run r;
    configure(&c);
    run_open_of(&r, &c, &parts);
    run_steps(&r, 4, a);
    run_close(&r);
    c.train.micro_batch = 7;
    run_open_of(&r, &c, &parts);
    run_steps(&r, 4, b);
    run_close(&r);
    assert_true(a[0] == b[0]); // no gradient has come in yet
    for (int i = 1; i < 4; i++)
        assert_true(fabs(a[i] - b[i]) < 1e-3 * fabs(a[i]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_trains_and_resumes),
        cmocka_unit_test(chunks_change_rounding_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
