// Buffers, comparison and the table of the op parity tests. See harness.h.
#include "tests/ops/harness.h"

#ifdef DR_WITH_EMU
#include "tests/emu/emu.h"
#endif

#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

enum { FENCE = 256 }; // bytes of NaN on both sides

static uint64_t splitmix(uint64_t *s) {
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t t_rand(struct t *t) {
    return splitmix(&t->rng);
}
static double unit(struct t *t) {
    return ((double)(t_rand(t) >> 11) + 0.5) * 0x1p-53;
}

int t_dtypes(const struct t *t) {
    (void)t;
    return sizeof(real) == 4 ? 2 : 1;
}

void t_fail(struct t *t, const char *fmt, ...) {
    char msg[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    fail_msg("%s on %s (%s): %s", t->op, t->be->name, t->be->detail, msg);
    abort(); // not reached: fail_msg jumps
}

void t_sync(struct t *t) {
    struct dr_err err = {0};
    if (t->be->sync(t->be, &err))
        t_fail(t, "%s", err.msg);
}

// ---- buffers
// -----------------------------------------------------------------------------------------

static uint16_t bf16_of(double x) // to nearest even, from the definition: by bits of the float
{
    float f = (float)x;
    uint32_t u;
    memcpy(&u, &f, 4);
    uint32_t low = u & 0xffff, up = u >> 16;
    return (uint16_t)(up + (low > 0x8000 || (low == 0x8000 && (up & 1))));
}

static double double_of(const struct tbuf *b, const void *bytes, int64_t i) {
    if (b->width == 8)
        return ((const double *)bytes)[i];
    if (b->width == 2) {
        uint32_t u = (uint32_t)((const uint16_t *)bytes)[i] << 16;
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
    return ((const float *)bytes)[i];
}

static struct tbuf *make(struct t *t, int64_t n, size_t width, const void *bytes) {
    struct tbuf *b = calloc(1, sizeof *b);
    size_t size = (size_t)n * width, all = size + 2 * FENCE;
    struct dr_err err = {0};
    char *host = malloc(all);
    void *base = NULL;
    if (!b || !host || t->be->mem_alloc(t->be, all, &base, &err))
        t_fail(t, "no memory for %zu bytes: %s", all, err.msg);
    memset(host, 0xff, all);
    if (size && bytes)
        memcpy(host + FENCE, bytes, size);
    t->be->upload(t->be, base, host, all);
    *b = (struct tbuf){.p = (char *)base + FENCE,
                       .n = n,
                       .width = width,
                       .base = base,
                       .initial = host,
                       .next = t->bufs,
                       .v = calloc((size_t)n + 1, sizeof(double))};
    t->bufs = b;
    return b;
}

struct tbuf *t_values(struct t *t, enum dr_dtype type, int64_t n, const double *values) {
    size_t width = dr_sizeof(type);
    char *bytes = calloc((size_t)n + 1, width);
    for (int64_t i = 0; i < n; i++)
        if (type == DR_BF16)
            ((uint16_t *)bytes)[i] = bf16_of(values[i]);
        else
            ((real *)bytes)[i] = (real)values[i];
    struct tbuf *b = make(t, n, width, bytes);
    b->t = type;
    for (int64_t i = 0; i < n; i++)
        b->v[i] = double_of(b, bytes, i);
    free(bytes);
    return b;
}

struct tbuf *t_normal(struct t *t, enum dr_dtype type, int64_t n, double scale) {
    double *v = malloc((size_t)n * sizeof *v + 8);
    for (int64_t i = 0; i < n; i++)
        v[i] = scale * sqrt(-2 * log(unit(t))) * cos(2 * M_PI * unit(t));
    struct tbuf *b = t_values(t, type, n, v);
    free(v);
    return b;
}

struct tbuf *t_uniform(struct t *t, enum dr_dtype type, int64_t n, double lo, double hi) {
    double *v = malloc((size_t)n * sizeof *v + 8);
    for (int64_t i = 0; i < n; i++)
        v[i] = lo + (hi - lo) * unit(t);
    struct tbuf *b = t_values(t, type, n, v);
    free(v);
    return b;
}

struct tbuf *t_f64(struct t *t, int64_t n, const double *values) {
    struct tbuf *b = make(t, n, sizeof *values, values);
    memcpy(b->v, values, (size_t)n * sizeof *values);
    return b;
}

struct tbuf *t_i32(struct t *t, int64_t n, const int32_t *values) {
    struct tbuf *b = make(t, n, sizeof *values, values);
    for (int64_t i = 0; i < n; i++)
        b->v[i] = values[i];
    return b;
}

struct tbuf *t_u64(struct t *t, int64_t n, const uint64_t *values) {
    return make(t, n, sizeof *values, values);
}

struct tbuf *t_u8(struct t *t, int64_t n, const uint8_t *values) {
    struct tbuf *b = make(t, n, sizeof *values, values);
    for (int64_t i = 0; i < n; i++)
        b->v[i] = values[i];
    return b;
}

struct tbuf *t_out(struct t *t, enum dr_dtype type, int64_t n) {
    struct tbuf *b = make(t, n, dr_sizeof(type), NULL);
    b->t = type;
    b->out = true;
    return b;
}

struct tbuf *t_out_f64(struct t *t, int64_t n) {
    struct tbuf *b = make(t, n, sizeof(double), NULL);
    b->out = true;
    return b;
}

struct tbuf *t_out_i32(struct t *t, int64_t n) {
    struct tbuf *b = make(t, n, sizeof(int32_t), NULL);
    b->out = true;
    return b;
}

struct tbuf *t_inout(struct tbuf *b) {
    b->inout = true;
    return b;
}

double *t_tmp(struct t *t, int64_t n) {
    struct tbuf *b = make(t, 0, 1, NULL);
    free(b->v);
    b->v = calloc((size_t)n + 1, sizeof *b->v);
    return b->v;
}

// ---- checks
// ------------------------------------------------------------------------------------------

static char *fetch(struct t *t, struct tbuf *b) {
    size_t size = (size_t)b->n * b->width, all = size + 2 * FENCE;
    char *host = malloc(all);
    t->be->download(t->be, host, b->base, all);
    for (size_t i = 0; i < FENCE; i++)
        if ((unsigned char)host[i] != 0xff || (unsigned char)host[FENCE + size + i] != 0xff) {
            free(host);
            t_fail(t, "wrote outside of a buffer of %lld elements", (long long)b->n);
        }
    return host;
}

double *t_read(struct t *t, struct tbuf *b) {
    double *v = t_tmp(t, b->n);
    char *host = fetch(t, b);
    for (int64_t i = 0; i < b->n; i++)
        v[i] = double_of(b, host + FENCE, i);
    free(host);
    return v;
}

void t_check(struct t *t, const char *what, struct tbuf *b, const double *want, double tol) {
    char *host = fetch(t, b);
    const unsigned char *bytes = (const unsigned char *)host + FENCE;
    for (size_t i = 0; i < (size_t)b->n * b->width; i++)
        t->hash = (t->hash ^ bytes[i]) * 0x100000001b3u;
    double err = 0, ref = 0;
    int64_t bad = -1, worst = 0;
    double worst_err = -1;
    for (int64_t i = 0; i < b->n; i++) {
        double got = double_of(b, bytes, i), d = got - want[i];
        if (isnan(got) != isnan(want[i]) && bad < 0)
            bad = i;
        if (isnan(got) || isnan(want[i]))
            continue;
        err += d * d;
        ref += want[i] * want[i];
        if (fabs(d) > worst_err)
            worst_err = fabs(d), worst = i;
    }
    double got = b->n ? double_of(b, bytes, bad < 0 ? worst : bad) : 0;
    free(host);
    if (bad >= 0)
        t_fail(t, "%s[%lld of %lld] is %g, expected %g", what, (long long)bad, (long long)b->n, got,
               want[bad]);
    if (!(err <= tol * ref) && err > 0)
        t_fail(t, "%s: NMSE %.3g over %.3g; worst %s[%lld of %lld] is %.9g, expected %.9g", what,
               err / ref, tol, what, (long long)worst, (long long)b->n, got, want[worst]);
}

// Fences of everything, contents of what the op had no right to write; then frees.
static void finish(struct t *t) {
    while (t->bufs) {
        struct tbuf *b = t->bufs;
        char *host = fetch(t, b);
        bool changed = memcmp(host, b->initial, (size_t)b->n * b->width + 2 * FENCE) != 0;
        free(host);
        if (changed && !b->out && !b->inout)
            t_fail(t, "changed an input of %lld elements", (long long)b->n);
        t->bufs = b->next;
        t->be->mem_free(t->be, b->base);
        free(b->initial);
        free(b->v);
        free(b);
    }
}

// ---- the table
// ---------------------------------------------------------------------------------------

#define X(name, flags) __attribute__((weak)) void case_##name(struct t *t);
#include "engine/ops.def"
#undef X

struct row {
    const char *name, *device;
    int flags;
    void (*run)(struct t *);
};

// Backend "emu" runs the threads of a block forwards or, for a `threads` of 3, backwards.
static int open_device(const char *device, int threads, struct dr_backend **be,
                       struct dr_err *err) {
#ifdef DR_WITH_EMU
    if (!strcmp(device, "emu"))
        return dr_backend_emu(threads == 3, be, err);
#endif
    return dr_backend_open(device, threads, be, err);
}

static uint64_t run_with(const struct row *row, int threads) {
    struct dr_err err = {0};
    struct t t = {.op = row->name, .flags = row->flags, .rng = 20602, .hash = 1469598103934665603u};
    const char *level = strncmp(row->device, "cpu:", 4) ? NULL : row->device + 4;
    if (open_device(level ? "cpu" : row->device, threads, &t.be, &err))
        fail_msg("%s", err.msg);
    if (level && !t_use_level(t.be, level)) {
        dr_backend_free(t.be);
        skip(); // this CPU or build does not have it
    }
    t.be->enter(t.be);
    row->run(&t);
    finish(&t);
    dr_backend_free(t.be);
    return t.hash;
}

static void test_row(void **state) {
    const struct row *row = *state;
    if (!row->run)
        fail_msg("%s has no case in tests/ops", row->name);
    uint64_t one = run_with(row, 1);
    if (run_with(row, 3) != one)
        fail_msg("%s: the bytes depend on the number of threads or their order", row->name);
}

int main(int argc, char **argv) {
    struct row rows[] = {
#define X(op, fl)                                                                                  \
    {.name = #op, .device = argc > 1 ? argv[1] : "cpu", .flags = fl, .run = case_##op},
#include "engine/ops.def"
#undef X
    };
    struct CMUnitTest tests[DR_COUNT(rows)];
    size_t n = 0;
    for (size_t i = 0; i < DR_COUNT(rows); i++)
        if (argc < 3 || !strcmp(argv[2], rows[i].name)) // a second argument picks one op
            tests[n++] = (struct CMUnitTest){
                .name = rows[i].name, .test_func = test_row, .initial_state = &rows[i]};
    if (!n) {
        fprintf(stderr, "no op is called %s\n", argv[2]);
        return 2;
    }
    return _cmocka_run_group_tests("ops", tests, n, NULL, NULL);
}
