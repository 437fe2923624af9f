// The interface of a data set (data_priv.h): the table's rows against the configuration, and a set
// that this test brings: ramps of grey from a file, fetched row by row or mapped, with many classes
// of long names.
#include "tests/data/util.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "engine/data/data_priv.h"

enum { N = 700, SIDE = 6, CLASSES = 70, ROW = SIDE * SIDE };

static const struct dr_set_facts facts = {.name = "ramps", .channels = 1};
static bool in_memory, fail_rows;
static int wrong_label, wrong_name; // -1: none

static const char *ramps(void) {
    static uint8_t pixels[N * ROW];
    for (int i = 0; i < N * ROW; i++)
        pixels[i] = (uint8_t)(i / ROW * 3 + i % ROW);
    const char *path = in_dir("ramps");
    put_file(path, pixels, sizeof pixels);
    return path;
}

static int fetch(const struct dr_dataset *d, const int64_t *ids, int64_t n, void *out,
                 struct dr_err *err) {
    const int fd = *(const int *)d->own;
    for (int64_t i = 0; i < n; i++)
        if (fail_rows || pread(fd, (char *)out + i * ROW, ROW, ids[i] * ROW) != ROW)
            return dr_fail(err, DR_EIO, "ramps: sample %lld cannot be read", (long long)ids[i]);
    return 0;
}

static void close_file(struct dr_dataset *d) {
    close(*(int *)d->own);
    free(d->own);
}
static void unmap(struct dr_dataset *d) {
    munmap(d->own, N * ROW);
}

// Class k's name: 30 bytes and more, not all of them ASCII.
static const char *name_of(int k) {
    static char name[80];
    snprintf(name, sizeof name, "Gr\xc3\xa4serrampe mit einem langen Namen, Nummer %d", k);
    return name;
}

static int open_ramps(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    (void)q;
    int fd = open(in_dir("ramps"), O_RDONLY | O_CLOEXEC), rc = 0;
    assert_true(fd >= 0);
    d->n = N;
    d->c = 1;
    d->h = d->w = SIDE;
    if (in_memory) {
        d->pixels = d->own = mmap(NULL, N * ROW, PROT_READ, MAP_PRIVATE, fd, 0);
        d->release = unmap;
        close(fd);
    } else {
        d->own = malloc(sizeof fd);
        memcpy(d->own, &fd, sizeof fd);
        d->rows = fetch;
        d->release = close_file;
    }
    d->label = calloc(N, sizeof *d->label);
    for (int i = 0; i < N; i++)
        d->label[i] = i == wrong_label ? CLASSES : i * 7 % CLASSES;
    for (int k = 0; k < CLASSES && !rc; k++)
        rc = dr_dataset_name(d, k, k == wrong_name ? "\xff" : name_of(k), err);
    return rc;
}

static int load(bool memory, struct dr_dataset **d, struct dr_err *err) {
    const struct dr_data_config cfg = {
        .channels = 1, .classes = CLASSES, .size = SIDE, .count = 16};
    const struct dr_set_query q = {.cfg = &cfg, .name = facts.name};
    in_memory = memory;
    *err = (struct dr_err){0};
    return dr_dataset_open(open_ramps, &facts, &q, d, err);
}

static void reset(void) {
    fail_rows = false;
    wrong_label = wrong_name = -1;
    ramps();
}

static void where_the_values_are_changes_nothing(void **state) {
    (void)state;
    struct dr_dataset *a, *b;
    struct dr_err err;
    reset();
    assert_int_equal(load(true, &a, &err), 0);
    assert_int_equal(load(false, &b, &err), 0);
    assert_non_null(dr_dataset_all(a));
    assert_null(dr_dataset_all(b));
    assert_true(a->fingerprint == b->fingerprint && a->fingerprint != 0);
    assert_int_equal(dr_dataset_row_bytes(b), ROW);
    const int64_t ids[3] = {N - 1, 0, 255};
    uint8_t x[3 * ROW], y[3 * ROW];
    real u[3 * ROW], v[3 * ROW];
    assert_int_equal(dr_dataset_rows(a, ids, 3, x, &err), 0);
    assert_int_equal(dr_dataset_rows(b, ids, 3, y, &err), 0);
    assert_memory_equal(x, y, sizeof x);
    assert_memory_equal(x + ROW, a->pixels, ROW);
    assert_int_equal(dr_dataset_reals(a, ids, 3, u, &err), 0);
    assert_int_equal(dr_dataset_reals(b, ids, 3, v, &err), 0);
    assert_memory_equal(u, v, sizeof u);
    for (int i = 0; i < 3 * ROW; i++)
        assert_true(u[i] == (real)x[i] / (real)127.5 - 1);
    dr_dataset_free(a);
    dr_dataset_free(b);
}

// More than 64 classes, names beyond 23 bytes.
static void names_are_whole(void **state) {
    (void)state;
    struct dr_dataset *d;
    struct dr_err err;
    reset();
    assert_int_equal(load(false, &d, &err), 0);
    for (int k = 0; k < CLASSES; k++)
        assert_string_equal(d->class_name[k], name_of(k));
    for (int k = 0; k < CLASSES; k++)
        for (int64_t j = d->class_start[k]; j < d->class_start[k + 1]; j++)
            assert_int_equal(d->label[d->by_class[j]], k);
    dr_dataset_free(d);
    wrong_name = 69;
    assert_int_equal(load(false, &d, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "class 69 is not UTF-8"));
    assert_null(d);
}

static void faults_of_a_set_are_errors(void **state) {
    (void)state;
    struct dr_dataset *d;
    struct dr_err err;
    reset();
    wrong_label = 5;
    assert_int_equal(load(false, &d, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "ramps: label 5 is 70"));
    reset();
    fail_rows = true; // while the fingerprint is taken
    assert_int_equal(load(false, &d, &err), DR_EIO);
    reset();
    assert_int_equal(load(false, &d, &err), 0);
    fail_rows = true;
    real x[ROW];
    assert_int_equal(dr_dataset_reals(d, (int64_t[]){3}, 1, x, &err), DR_EIO);
    assert_non_null(strstr(err.msg, "sample 3"));
    dr_dataset_free(d);
}

// Each row of the table is a value of data.set that the configuration takes as the row says.
static void rows_of_the_table(void **state) {
    (void)state;
    const struct dr_set_facts *f;
    int n = 0;
    for (; (f = dr_set_facts(n)); n++) {
        const bool points = f->kind == DR_KIND_POINTS;
        char json[400];
        snprintf(
            json, sizeof json,
            "{\"data\":{\"set\":\"%s\",\"path\":\"x\",\"classes\":%d,\"channels\":%d,\"size\":32},"
            "\"model\":{\"arch\":\"%s\"}}",
            f->name, f->classes ? (int)f->classes : 3, f->channels ? (int)f->channels : 1,
            points ? "mlp" : "driftdit");
        struct dr_config c;
        struct dr_err err = {0};
        if (dr_config_parse(json, strlen(json), NULL, &c, &err))
            fail_msg("%s: %s", json, err.msg);
        assert_int_equal(c.data.set, n);
        assert_int_equal(c.model.kind, f->kind);
        if (!f->made)
            continue;
        struct dr_dataset *d; // a procedurally generated set keeps what its row promises
        c.data.count = 40;
        assert_int_equal(dr_dataset_load(&c.data, NULL, false, &d, &err), 0);
        assert_true(d->n == 40 && d->kind == f->kind && d->classes == c.data.classes);
        assert_true(d->c == c.model.channels && d->h == c.model.size && d->w == c.model.size);
        assert_string_equal(d->name, f->name);
        dr_dataset_free(d);
    }
    assert_true(n >= 7);
    assert_null(dr_set_facts(-1));
    struct dr_dataset *d;
    struct dr_err err;
    assert_int_equal(dr_dataset_load(&(struct dr_data_config){.set = n}, NULL, false, &d, &err),
                     DR_ECONFIG);
    assert_string_equal(err.field, "data.set");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_the_values_are_changes_nothing),
        cmocka_unit_test(names_are_whole),
        cmocka_unit_test(faults_of_a_set_are_errors),
        cmocka_unit_test(rows_of_the_table),
    };
    return cmocka_run_group_tests(tests, dir_setup, dir_teardown);
}
