// safetensors and SHA-256: round trip, conversions, lying headers, torn files, failing disks.
// System calls are failed by wrapping them at link time, so no root and no special file system is
// needed.
#include "tests/data/util.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "engine/core/rng.h"
#include "engine/io/safetensors.h"
#include "engine/io/sha256.h"

// The wrapped calls: each fails with fault_errno when its countdown reaches zero.
static int fault_write = -1, fault_fsync = -1, fault_rename = -1, fault_errno;
static size_t short_write; // at most so many bytes a write; 0: no limit

ssize_t __real_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n) {
    if (fd > 2) {
        if (fault_write == 0) {
            errno = fault_errno;
            return -1;
        }
        if (fault_write > 0)
            fault_write--;
        if (short_write && n > short_write)
            n = short_write;
    }
    return __real_write(fd, p, n);
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd) {
    if (fault_fsync >= 0 && fault_fsync-- == 0) {
        errno = fault_errno;
        return -1;
    }
    return __real_fsync(fd);
}

int __real_rename(const char *a, const char *b);
int __wrap_rename(const char *a, const char *b);
int __wrap_rename(const char *a, const char *b) {
    if (fault_rename >= 0 && fault_rename-- == 0) {
        errno = fault_errno;
        return -1;
    }
    return __real_rename(a, b);
}

static void no_faults(void) {
    fault_write = fault_fsync = fault_rename = -1;
    short_write = 0;
}

static void test_sha256_vectors(void **state) {
    (void)state;
    static const struct {
        const char *text, *hex;
    } v[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char hex[65];
    struct dr_sha256 s;
    for (size_t i = 0; i < DR_COUNT(v); i++) {
        dr_sha256_init(&s);
        dr_sha256_update(&s, v[i].text, strlen(v[i].text));
        dr_sha256_hex(&s, hex);
        assert_string_equal(hex, v[i].hex);
    }
    // A million 'a', fed in pieces of every size.
    dr_sha256_init(&s);
    char a[997];
    memset(a, 'a', sizeof a);
    for (size_t left = 1000000, k = 1; left; k = k % 997 + 1) {
        size_t n = DR_MIN(k, left);
        dr_sha256_update(&s, a, n);
        left -= n;
    }
    dr_sha256_hex(&s, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static const float f32[6] = {0, -1.5f, 3.25f, 1e-40f, INFINITY, -0.0f};

static struct dr_st_writer *sample_writer(void) {
    static const double f64[2] = {0.1, -2};
    static const uint16_t f16[5] = {0x3c00, 0xc000, 0x0001, 0x7c00, 0x83ff};
    static const uint16_t bf16[2] = {0x3f80, 0xc040};
    static const uint8_t u8[3] = {1, 2, 255};
    static const int64_t i64[1] = {-7};
    struct dr_st_writer *w;
    struct dr_err err;
    assert_int_equal(dr_st_writer_new(&w, &err), 0);
    assert_int_equal(dr_st_add(w, "u8", DR_ST_U8, 1, (int64_t[]){3}, u8, &err), 0);
    assert_int_equal(dr_st_add(w, "blocks.0.w", DR_ST_F32, 2, (int64_t[]){2, 3}, f32, &err), 0);
    assert_int_equal(dr_st_add(w, "scalar", DR_ST_I64, 0, NULL, i64, &err), 0);
    assert_int_equal(dr_st_add(w, "empty", DR_ST_F32, 2, (int64_t[]){0, 5}, NULL, &err), 0);
    assert_int_equal(dr_st_add(w, "f64", DR_ST_F64, 1, (int64_t[]){2}, f64, &err), 0);
    assert_int_equal(dr_st_add(w, "f16", DR_ST_F16, 1, (int64_t[]){5}, f16, &err), 0);
    assert_int_equal(dr_st_add(w, "bf16", DR_ST_BF16, 1, (int64_t[]){2}, bf16, &err), 0);
    assert_int_equal(dr_st_add_meta(w, "format", "pt", &err), 0);
    assert_int_equal(dr_st_add_meta(w, "driftd.note", "Zahl \"drei\"\n\xc3\xa9", &err), 0);
    return w;
}

static void test_round_trip(void **state) {
    (void)state;
    struct dr_err err;
    char hex[65], again[65];
    int64_t bytes;
    short_write = 7; // every write is cut short and continued
    int rc = dr_st_finish(sample_writer(), in_dir("a.safetensors"), hex, &bytes, &err);
    no_faults();
    assert_int_equal(rc, 0);
    assert_int_equal(dir_entries(), 1);
    struct stat st;
    assert_int_equal(stat(in_dir("a.safetensors"), &st), 0);
    assert_int_equal(st.st_size, bytes);
    assert_int_equal(dr_sha256_file(in_dir("a.safetensors"), again, &err), 0);
    assert_string_equal(hex, again);
    assert_int_equal(dr_st_finish(sample_writer(), in_dir("b.safetensors"), again, NULL, &err), 0);
    assert_string_equal(hex, again); // the bytes are a function of the content

    struct dr_st_file *f;
    assert_int_equal(dr_st_open(in_dir("a.safetensors"), &f, &err), 0);
    assert_int_equal(dr_st_count(f), 7);
    assert_string_equal(dr_st_at(f, 1)->name, "blocks.0.w");
    assert_null(dr_st_at(f, 7));
    assert_null(dr_st_find(f, "blocks.0.x"));
    const struct dr_st_tensor *t = dr_st_find(f, "scalar");
    assert_int_equal(t->ndim, 0);
    assert_int_equal(t->count, 1);
    int64_t v;
    memcpy(&v, t->data, 8);
    assert_int_equal(v, -7);
    assert_int_equal(dr_st_find(f, "empty")->count, 0);
    assert_string_equal(dr_st_meta(f, "driftd.note"), "Zahl \"drei\"\n\xc3\xa9");
    assert_null(dr_st_meta(f, "no"));

    float x[8];
    assert_int_equal(dr_st_read_f32(f, "blocks.0.w", 2, (int64_t[]){2, 3}, x, &err), 0);
    assert_memory_equal(x, f32, sizeof f32);
    assert_int_equal(dr_st_read_f32(f, "f64", 1, (int64_t[]){2}, x, &err), 0);
    assert_true(x[0] == 0.1f && x[1] == -2);
    assert_int_equal(dr_st_read_f32(f, "f16", 1, (int64_t[]){5}, x, &err), 0);
    assert_true(x[0] == 1 && x[1] == -2 && x[2] == 0x1p-24f && isinf(x[3]) &&
                x[4] == -1023 * 0x1p-24f);
    assert_int_equal(dr_st_read_f32(f, "bf16", 1, (int64_t[]){2}, x, &err), 0);
    assert_true(x[0] == 1 && x[1] == -3);

    assert_int_equal(dr_st_read_f32(f, "blocks.0.w", 2, (int64_t[]){3, 2}, x, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "blocks.0.w"));
    assert_non_null(strstr(err.msg, "[2,3]"));
    assert_non_null(strstr(err.msg, "[3,2]"));
    assert_int_equal(dr_st_read_f32(f, "u8", 1, (int64_t[]){3}, x, &err), DR_EFORMAT);
    assert_int_equal(dr_st_read_f32(f, "gone", 1, (int64_t[]){3}, x, &err), DR_ENOENT);
    dr_st_close(f);
    dir_clear();
}

// Folders 700 bytes deep: written, read and named in errors whose end is still there. A path that
// the system does not take is refused by both.
static void test_long_paths(void **state) {
    (void)state;
    enum { DEEP = 3, WIDE = 230 };
    char path[5000], part[WIDE + 2], hex[65];
    size_t at[DEEP];
    struct dr_err err;
    struct dr_st_file *f;
    float x[8];
    part[0] = '/';
    memset(part + 1, 'p', WIDE);
    part[WIDE + 1] = 0;
    snprintf(path, sizeof path, "%s", in_dir("deep"));
    assert_int_equal(mkdir(path, 0700), 0);
    for (int i = 0; i < DEEP; i++) {
        at[i] = strlen(path);
        strcat(path, part);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    const size_t folder = strlen(path);
    strcat(path, "/a.safetensors");
    if (dr_st_finish(sample_writer(), path, hex, NULL, &err) || dr_st_open(path, &f, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(dr_st_read_f32(f, "gone", 1, (int64_t[]){3}, x, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "ppp/a.safetensors: tensor 'gone' is missing"));
    dr_st_close(f);
    assert_int_equal(unlink(path), 0);
    path[folder] = 0;
    for (int i = DEEP - 1; i >= 0; i--) {
        assert_int_equal(rmdir(path), 0);
        path[at[i]] = 0;
    }
    assert_int_equal(rmdir(path), 0);
    while (strlen(path) < 4200)
        strcat(path, part);
    assert_int_equal(dr_st_finish(sample_writer(), path, hex, NULL, &err), DR_EIO);
    assert_int_equal(dr_st_open(path, &f, &err), DR_EIO);
    assert_null(f);
}

static void test_add_refuses(void **state) {
    (void)state;
    struct dr_err err;
    struct dr_st_writer *w;
    float x = 0;
    char name[200];
    memset(name, 'n', sizeof name);
    name[128] = 0;
    assert_int_equal(dr_st_writer_new(&w, &err), 0);
    assert_int_equal(dr_st_add(w, "x", DR_ST_F32, 0, NULL, &x, &err), 0);
    assert_int_equal(dr_st_add(w, "x", DR_ST_F32, 0, NULL, &x, &err), DR_EINVAL);
    assert_int_equal(dr_st_add(w, "", DR_ST_F32, 0, NULL, &x, &err), DR_EINVAL);
    assert_int_equal(dr_st_add(w, name, DR_ST_F32, 0, NULL, &x, &err), DR_EINVAL);
    assert_int_equal(dr_st_add(w, "__metadata__", DR_ST_F32, 0, NULL, &x, &err), DR_EINVAL);
    assert_int_equal(dr_st_add(w, "bad\xff", DR_ST_F32, 0, NULL, &x, &err), DR_EINVAL);
    assert_int_equal(dr_st_add(w, "o", DR_ST_OTHER, 0, NULL, &x, &err), DR_EINVAL);
    int64_t neg[1] = {-1}, huge[2] = {INT64_MAX / 2, 3};
    assert_int_equal(dr_st_add(w, "y", DR_ST_F32, 1, neg, &x, &err), DR_EINVAL);
    assert_int_equal(dr_st_add(w, "y", DR_ST_F32, 2, huge, &x, &err), DR_EINVAL);
    assert_int_equal(dr_st_add_meta(w, "k", "\xff", &err), DR_EINVAL);
    name[127] = 0;
    assert_int_equal(dr_st_add(w, name, DR_ST_F32, 0, NULL, &x, &err), 0);
    dr_st_writer_free(w);
}

static void write_raw(const char *path, uint64_t len, const char *header, size_t hlen,
                      size_t data) {
    uint8_t *b = calloc(1, 8 + hlen + data);
    memcpy(b, &len, 8);
    memcpy(b + 8, header, hlen);
    put_file(path, b, 8 + hlen + data);
    free(b);
}

#define T(dtype, shape, off)                                                                       \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" off "}"

// Each with 16 bytes of data; `says`: a part of the sentence.
static const struct {
    const char *header, *says;
} bad[] = {
    {"", "not a JSON object"},
    {"[]", "not a JSON object"},
    {" {}", "not a JSON object"},
    {"{\"a\":", "not valid JSON"},
    {"{} x", "not valid JSON"},
    {"{}", "unclaimed"},
    {"{\"a\":1}", "'a'"},
    {"{\"a\":{}}", "'a'"},
    {"{\"a\":" T("F33", "[4]", "[0,16]") "}", "unknown dtype 'F33'"},
    {"{\"a\":" T("F32", "4", "[0,16]") "}", "shape is not a list"},
    {"{\"a\":" T("F32", "[4.0]", "[0,16]") "}", "shape entry 0"},
    {"{\"a\":" T("F32", "[-4]", "[0,16]") "}", "shape entry 0"},
    {"{\"a\":" T("F32", "[-4,-1]", "[0,16]") "}", "shape entry 0"},
    {"{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,4]", "[0,16]") "}", "at most 8"},
    {"{\"a\":" T("F32", "[4294967296,4294967296,4]", "[0,16]") "}", "overflows"},
    {"{\"a\":" T("F32", "[4611686018427387908]", "[0,16]") "}", "do not fill"},
    {"{\"a\":" T("F32", "[99999999999999999999]", "[0,16]") "}", "not valid JSON"},
    {"{\"a\":" T("F32", "[4]", "[0,12]") "}", "do not fill"},
    {"{\"a\":" T("F32", "[5]", "[0,20]") "}", "do not lie in"},
    {"{\"a\":" T("F32", "[4]", "[16,0]") "}", "do not lie in"},
    {"{\"a\":" T("F32", "[4]", "[-16,0]") "}", "do not lie in"},
    {"{\"a\":" T("F32", "[4]", "[9223372036854775800,9223372036854775807]") "}", "do not lie"},
    {"{\"a\":" T("F32", "[4]", "[0,16,16]") "}", "data_offsets"},
    {"{\"a\":" T("F32", "[4]", "[0,\"16\"]") "}", "data_offsets"},
    {"{\"a\":" T("F32", "[4]", "{}") "}", "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", "'a'"},
    {"{\"a\":" T("F32", "[3]", "[0,12]") ",\"b\":" T("F32", "[2]", "[8,16]") "}", "overlap"},
    {"{\"a\":" T("F32", "[4]", "[0,16]") ",\"b\":" T("F32", "[4]", "[0,16]") "}", "overlap"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[2]", "[8,16]") "}", "unclaimed"},
    {"{\"a\":" T("F32", "[3]", "[0,12]") "}", "unclaimed"},
    {"{\"a\":" T("F32", "[4]", "[0,16]") ",\"a\":" T("F32", "[4]", "[0,16]") "}", "duplicate"},
    {"{\"a\\u0000b\":" T("F32", "[4]", "[0,16]") "}", "not valid JSON"},
    {"{\"\":" T("F32", "[4]", "[0,16]") "}", "tensor name"},
    {"{\"\xff\":" T("F32", "[4]", "[0,16]") "}", "not valid JSON"},
    {"{\"a\":" T("F32", "[[4]]", "[0,16]") "}", "nested"},
    {"{\"__metadata__\":[],\"a\":" T("F32", "[4]", "[0,16]") "}", "__metadata__"},
    {"{\"__metadata__\":{\"k\":1},\"a\":" T("F32", "[4]", "[0,16]") "}", "'k'"},
};

static void test_lying_headers(void **state) {
    (void)state;
    const char *path = in_dir("lie");
    struct dr_st_file *f;
    struct dr_err err;
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        size_t n = strlen(bad[i].header);
        write_raw(path, n, bad[i].header, n, 16);
        err.msg[0] = 0;
        assert_int_equal(dr_st_open(path, &f, &err), DR_EFORMAT);
        assert_null(f);
        if (!strstr(err.msg, bad[i].says) || !strstr(err.msg, path))
            fail_msg("%s: got '%s', expected '%s'", bad[i].header, err.msg, bad[i].says);
    }
    // Header lengths that lie, with a good header.
    const char *good = "{\"a\":" T("F32", "[4]", "[0,16]") "}";
    size_t n = strlen(good);
    static const uint64_t lens[] = {
        0, 1, UINT64_MAX, UINT64_MAX - 7, 1ull << 63, 1ull << 32, 104857601u, 5, 1000};
    for (size_t i = 0; i < DR_COUNT(lens); i++) {
        write_raw(path, lens[i], good, n, 16);
        assert_int_equal(dr_st_open(path, &f, &err), DR_EFORMAT);
    }
    write_raw(path, n, good, n, 16);
    assert_int_equal(dr_st_open(path, &f, &err), 0);
    dr_st_close(f);
    char padded[640]; // this length begins like a pickle
    memset(padded, ' ', sizeof padded);
    memcpy(padded, good, n);
    write_raw(path, sizeof padded, padded, sizeof padded, 16);
    assert_int_equal(dr_st_open(path, &f, &err), 0);
    dr_st_close(f);
    put_file(path, "PK\3\4\0\0\x08\x08\0\0\0\0", 12);
    assert_int_equal(dr_st_open(path, &f, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "torch.save"));
    put_file(path, "\x80\2\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.", 15); // before PyTorch 1.6
    assert_int_equal(dr_st_open(path, &f, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "torch.save"));
    dir_clear();
}

static void test_greedy_headers(void **state) {
    (void)state;
    // Deep nesting and very many values must be refused before a JSON tree is built.
    enum { N = 3000000 };
    char *h = malloc(N);
    struct dr_st_file *f;
    struct dr_err err;
    memset(h, '[', N);
    h[0] = '{';
    write_raw(in_dir("deep"), N, h, N, 0);
    assert_int_equal(dr_st_open(in_dir("deep"), &f, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "nested"));
    for (int i = 1; i < N; i++)
        h[i] = i & 1 ? '1' : ',';
    write_raw(in_dir("wide"), N, h, N, 0);
    assert_int_equal(dr_st_open(in_dir("wide"), &f, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "values"));
    free(h);
    assert_int_equal(dr_st_open(in_dir("none"), &f, &err), DR_ENOENT);
    assert_int_equal(dr_st_open(test_dir, &f, &err), DR_EFORMAT);
    dir_clear();
}

static void test_torn(void **state) {
    (void)state;
    struct dr_err err;
    struct dr_st_file *f;
    assert_int_equal(dr_st_finish(sample_writer(), in_dir("whole"), NULL, NULL, &err), 0);
    size_t n;
    uint8_t *p = get_file(in_dir("whole"), &n);
    for (size_t len = 0; len < n; len++) {
        put_file(in_dir("torn"), p, len);
        assert_int_equal(dr_st_open(in_dir("torn"), &f, &err), DR_EFORMAT);
    }
    uint8_t *longer = calloc(1, n + 1);
    memcpy(longer, p, n);
    put_file(in_dir("torn"), longer, n + 1);
    assert_int_equal(dr_st_open(in_dir("torn"), &f, &err), DR_EFORMAT);
    free(longer);
    free(p);
    dir_clear();
}

// Another process truncates a file that is open: an error, where it used to be the process's end.
static void test_truncated(void **state) {
    (void)state;
    static const int64_t n = 100000;
    struct dr_err err;
    struct dr_st_file *f;
    struct dr_st_writer *w;
    float *x = calloc((size_t)n, sizeof *x), *got = malloc((size_t)n * sizeof *got);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)i;
    assert_int_equal(dr_st_writer_new(&w, &err), 0);
    assert_int_equal(dr_st_add(w, "x", DR_ST_F32, 1, &n, x, &err), 0);
    assert_int_equal(dr_st_finish(w, in_dir("cut"), NULL, NULL, &err), 0);
    assert_int_equal(dr_st_open(in_dir("cut"), &f, &err), 0);
    assert_int_equal(dr_st_read_f32(f, "x", 1, &n, got, &err), 0);
    assert_memory_equal(x, got, (size_t)n * sizeof *got);
    assert_int_equal(dr_st_intact(f, &err), 0);
    assert_int_equal(truncate(in_dir("cut"), 5000), 0);
    assert_int_equal(dr_st_read_f32(f, "x", 1, &n, got, &err), DR_EIO);
    assert_non_null(strstr(err.msg, "truncated while it was read"));
    assert_int_equal(dr_st_intact(f, &err), DR_EIO);
    dr_st_close(f);
    free(x);
    free(got);
    dir_clear();
}

// After a failure: the code and path are named, the old file is whole, nothing else lies about.
static void expect_failure(int code) {
    struct dr_err err;
    char before[65], after[65];
    assert_int_equal(dr_sha256_file(in_dir("keep"), before, &err), 0);
    int rc = dr_st_finish(sample_writer(), in_dir("keep"), after, NULL, &err);
    no_faults();
    assert_int_equal(rc, code);
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.msg, "keep"));
    assert_int_equal(dr_sha256_file(in_dir("keep"), after, &err), 0);
    assert_string_equal(before, after);
    assert_int_equal(dir_entries(), 1);
}

static void test_full_disk(void **state) {
    (void)state;
    put_file(in_dir("keep"), "old contents", 12);
    for (int at = 0; at < 7; at++) { // the header and each of the six tensors with bytes
        fault_write = at;
        fault_errno = at % 2 ? EDQUOT : ENOSPC;
        expect_failure(DR_ENOSPC);
    }
    fault_write = 2, fault_errno = EIO;
    expect_failure(DR_EIO);
    fault_fsync = 0, fault_errno = ENOSPC;
    expect_failure(DR_ENOSPC);
    fault_fsync = 0, fault_errno = EIO;
    expect_failure(DR_EIO);
    fault_rename = 0, fault_errno = EACCES;
    expect_failure(DR_EIO);
    struct dr_err err;
    int rc = dr_st_finish(sample_writer(), in_dir("no/such/folder"), NULL, NULL, &err);
    assert_int_equal(rc, DR_ENOENT);
    dir_clear();
}

// A real limit of the kernel's, not a wrapped call: files over 64 KiB end in EFBIG.
static void test_file_size_limit(void **state) {
    (void)state;
    put_file(in_dir("keep"), "old contents", 12);
    struct rlimit old, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 65536;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    float *big = calloc(1 << 20, sizeof *big);
    struct dr_st_writer *w;
    struct dr_err err;
    assert_int_equal(dr_st_writer_new(&w, &err), 0);
    assert_int_equal(dr_st_add(w, "big", DR_ST_F32, 1, (int64_t[]){1 << 20}, big, &err), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    int rc = dr_st_finish(w, in_dir("keep"), NULL, NULL, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    free(big);
    assert_int_equal(rc, DR_EIO);
    assert_int_equal(dir_entries(), 1);
    size_t n;
    uint8_t *p = get_file(in_dir("keep"), &n);
    assert_int_equal(n, 12);
    free(p);
    dir_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256_vectors), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_long_paths),     cmocka_unit_test(test_add_refuses),
        cmocka_unit_test(test_lying_headers),  cmocka_unit_test(test_greedy_headers),
        cmocka_unit_test(test_torn),           cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_full_disk),      cmocka_unit_test(test_file_size_limit),
    };
    return cmocka_run_group_tests(tests, dir_setup, dir_teardown);
}
