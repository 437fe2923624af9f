// safetensors reader (see safetensors.h; format: github.com/huggingface/safetensors, README).
// Called by checkpoint loading and import. Everything in the header is checked before a tensor is
// returned: lengths, nesting, dtypes, shapes, offsets, gaps and overlaps. The file stays mapped
// read-only.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/core/mapped.h"
#include "engine/io/safetensors.h"

#define HEADER_MAX (100u << 20)
#define DEPTH_MAX 3        // root object, tensor object, array
#define COMMAS_MAX 1000000 // bounds what the JSON tree can cost, about 140 000 tensors

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are read as they lie");

struct dr_st_file {
    char path[300]; // for messages: of a long one, the end
    struct dr_mapped file;
    const uint8_t *map; // the file's bytes
    size_t size;
    json_t *root; // owns the metadata strings
    int n;
    struct dr_st_tensor *t; // in header order
    int *by_name;           // [n] indices sorted by name
};

static const struct {
    char name[8];
    enum dr_st_dtype t;
    uint8_t size;
} dtypes[] = {
    {"F32", DR_ST_F32, 4},   {"F64", DR_ST_F64, 8},       {"F16", DR_ST_F16, 2},
    {"BF16", DR_ST_BF16, 2}, {"I64", DR_ST_I64, 8},       {"I32", DR_ST_I32, 4},
    {"U8", DR_ST_U8, 1},     {"BOOL", DR_ST_OTHER, 1},    {"I8", DR_ST_OTHER, 1},
    {"I16", DR_ST_OTHER, 2}, {"U16", DR_ST_OTHER, 2},     {"U32", DR_ST_OTHER, 4},
    {"U64", DR_ST_OTHER, 8}, {"F8_E5M2", DR_ST_OTHER, 1}, {"F8_E4M3", DR_ST_OTHER, 1},
};

static int map_file(struct dr_st_file *f, const char *path, struct dr_err *err) {
    // O_NONBLOCK: a FIFO must not hang the caller before fstat refuses it.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return dr_fail(err, errno == ENOENT ? DR_ENOENT : DR_EIO, "%s: cannot open: %s", f->path,
                       strerror(errno));
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st) < 0)
        rc = dr_fail(err, DR_EIO, "%s: cannot stat: %s", f->path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = dr_fail(err, DR_EFORMAT, "%s: not a regular file", f->path);
    else if (st.st_size < 8)
        rc = dr_fail(err, DR_EFORMAT,
                     "%s: %lld bytes are too short for safetensors, which begins with an 8-byte "
                     "header length",
                     f->path, (long long)st.st_size);
    if (!rc) {
        f->size = (size_t)st.st_size;
        const int failed = dr_mapped_open(fd, f->size, &f->file);
        if (failed)
            rc = dr_fail(err, DR_EIO, "%s: cannot map: %s", f->path, strerror(failed));
        f->map = (const uint8_t *)f->file.p;
    }
    close(fd);
    return rc;
}

// Bounds nesting and the number of values before the JSON parser allocates anything.
static int scan_header(const struct dr_st_file *f, const char *p, size_t n, struct dr_err *err) {
    int depth = 0;
    size_t commas = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (p[i] == '\\')
                i++;
            else if (p[i] == '"')
                in_string = false;
            continue;
        }
        if (p[i] == '"')
            in_string = true;
        else if (p[i] == '{' || p[i] == '[')
            depth++;
        else if (p[i] == '}' || p[i] == ']')
            depth--;
        else if (p[i] == ',')
            commas++;
        if (depth > DEPTH_MAX)
            return dr_fail(err, DR_EFORMAT, "%s: header is nested deeper than %d levels", f->path,
                           DEPTH_MAX);
        if (commas > COMMAS_MAX)
            return dr_fail(err, DR_EFORMAT, "%s: header has more than %d values", f->path,
                           COMMAS_MAX);
    }
    return 0;
}

static int parse_header(struct dr_st_file *f, uint64_t *len, struct dr_err *err) {
    memcpy(len, f->map, 8);
    if (*len > f->size - 8 &&
        (!memcmp(f->map, "PK\3\4", 4) || !memcmp(f->map, "\x80\2", 2))) // zip, pickle
        return dr_fail(err, DR_EFORMAT,
                       "%s: this is no safetensors file but one as torch.save writes (.pt, .pth), "
                       "which can run programs when it is read: save its state dict with "
                       "safetensors.torch.save_file (docs/networks.md has the lines)",
                       f->path);
    if (*len > f->size - 8)
        return dr_fail(err, DR_EFORMAT,
                       "%s: header length %" PRIu64 " is beyond the file, which has %zu bytes",
                       f->path, *len, f->size);
    if (*len > HEADER_MAX)
        return dr_fail(err, DR_EFORMAT, "%s: header length %" PRIu64 " is over the limit of %u",
                       f->path, *len, HEADER_MAX);
    const char *text = (const char *)f->map + 8;
    if (*len < 2 || text[0] != '{')
        return dr_fail(err, DR_EFORMAT, "%s: the header is not a JSON object", f->path);
    int rc = scan_header(f, text, *len, err);
    if (rc)
        return rc;
    json_error_t je;
    f->root = json_loadb(text, *len, JSON_REJECT_DUPLICATES, &je);
    if (!f->root)
        return dr_fail(err, DR_EFORMAT, "%s: header is not valid JSON at byte %d: %.120s", f->path,
                       je.position, je.text);
    if (!json_is_object(f->root))
        return dr_fail(err, DR_EFORMAT, "%s: the header is not a JSON object", f->path);
    return 0;
}

static int parse_meta(const struct dr_st_file *f, const json_t *meta, struct dr_err *err) {
    if (!json_is_object(meta))
        return dr_fail(err, DR_EFORMAT, "%s: __metadata__ is not an object", f->path);
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)meta, key, v) {
        if (!json_is_string(v))
            return dr_fail(err, DR_EFORMAT, "%s: __metadata__ key '%.60s' is not a string", f->path,
                           key);
    }
    return 0;
}

static int parse_shape(const struct dr_st_file *f, struct dr_st_tensor *t, const json_t *shape,
                       struct dr_err *err) {
    size_t nd = json_array_size(shape);
    if (!json_is_array(shape) || nd > DR_COUNT(t->dim))
        return dr_fail(err, DR_EFORMAT, "%s: tensor '%s': shape is not a list of at most %zu sizes",
                       f->path, t->name, DR_COUNT(t->dim));
    t->ndim = (int)nd;
    t->count = 1;
    for (size_t i = 0; i < nd; i++) {
        const json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return dr_fail(err, DR_EFORMAT,
                           "%s: tensor '%s': shape entry %zu is not a non-negative integer",
                           f->path, t->name, i);
        t->dim[i] = json_integer_value(d);
        if (__builtin_mul_overflow(t->count, t->dim[i], &t->count))
            return dr_fail(err, DR_EFORMAT, "%s: tensor '%s': the product of its shape overflows",
                           f->path, t->name);
    }
    return 0;
}

static int parse_tensor(const struct dr_st_file *f, const char *key, const json_t *v,
                        uint64_t header, struct dr_st_tensor *t, struct dr_err *err) {
    size_t len = strlen(key);
    if (!len || len >= sizeof t->name)
        return dr_fail(err, DR_EFORMAT, "%s: tensor name '%.60s' has %zu bytes, expected 1 to %zu",
                       f->path, key, len, sizeof t->name - 1);
    memcpy(t->name, key, len + 1);
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    if (!json_is_object(v) || !dtype || json_object_size(v) != 3)
        return dr_fail(err, DR_EFORMAT,
                       "%s: tensor '%s' is not an object of dtype, shape and data_offsets", f->path,
                       t->name);
    size_t k = 0;
    while (k < DR_COUNT(dtypes) && strcmp(dtypes[k].name, dtype))
        k++;
    if (k == DR_COUNT(dtypes))
        return dr_fail(err, DR_EFORMAT, "%s: tensor '%s': unknown dtype '%.20s'", f->path, t->name,
                       dtype);
    t->dtype = dtypes[k].t;
    int rc = parse_shape(f, t, json_object_get(v, "shape"), err);
    if (rc)
        return rc;
    const json_t *off = json_object_get(v, "data_offsets");
    const json_t *b = json_array_get(off, 0), *e = json_array_get(off, 1);
    if (json_array_size(off) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return dr_fail(err, DR_EFORMAT, "%s: tensor '%s': data_offsets is not [begin, end]",
                       f->path, t->name);
    int64_t begin = json_integer_value(b), end = json_integer_value(e);
    int64_t data = (int64_t)(f->size - 8 - header), want;
    if (begin < 0 || begin > end || end > data)
        return dr_fail(err, DR_EFORMAT,
                       "%s: tensor '%s': data_offsets [%" PRId64 ", %" PRId64
                       "] do not lie in the %" PRId64 " bytes of data",
                       f->path, t->name, begin, end, data);
    if (__builtin_mul_overflow(t->count, (int64_t)dtypes[k].size, &want) || want != end - begin)
        return dr_fail(err, DR_EFORMAT,
                       "%s: tensor '%s': %" PRId64 " %s values do not fill its %" PRId64 " bytes",
                       f->path, t->name, t->count, dtype, end - begin);
    t->data = f->map + 8 + header + begin;
    t->bytes = (size_t)want;
    return 0;
}

static int cmp_data(const void *a, const void *b) {
    const struct dr_st_tensor *x = *(const struct dr_st_tensor *const *)a;
    const struct dr_st_tensor *y = *(const struct dr_st_tensor *const *)b;
    if (x->data != y->data)
        return (uintptr_t)x->data < (uintptr_t)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

// The format allows neither overlaps nor holes: the tensors tile the data exactly.
static int check_tiling(const struct dr_st_file *f, uint64_t header, struct dr_err *err) {
    const struct dr_st_tensor **s = malloc(sizeof *s * (size_t)(f->n + 1));
    if (!s)
        return dr_fail(err, DR_ENOMEM, "%s: no memory for %d tensors", f->path, f->n);
    for (int i = 0; i < f->n; i++)
        s[i] = &f->t[i];
    qsort(s, (size_t)f->n, sizeof *s, cmp_data);
    const uint8_t *at = f->map + 8 + header;
    int rc = 0;
    for (int i = 0; i < f->n && !rc; i++) {
        const uint8_t *p = s[i]->data;
        if (p < at)
            rc = dr_fail(err, DR_EFORMAT, "%s: tensors '%s' and '%s' overlap", f->path,
                         s[i - 1]->name, s[i]->name);
        else if (p > at)
            rc = dr_fail(err, DR_EFORMAT, "%s: %td unclaimed bytes before tensor '%s'", f->path,
                         p - at, s[i]->name);
        at = p + s[i]->bytes;
    }
    if (!rc && at != f->map + f->size)
        rc = dr_fail(err, DR_EFORMAT, "%s: %td unclaimed bytes after the last tensor", f->path,
                     f->map + f->size - at);
    free(s);
    return rc;
}

static int cmp_name(const void *a, const void *b, void *ctx) {
    const struct dr_st_tensor *t = ctx;
    return strcmp(t[*(const int *)a].name, t[*(const int *)b].name);
}

static int parse(struct dr_st_file *f, struct dr_err *err) {
    uint64_t header;
    int rc = parse_header(f, &header, err);
    if (rc)
        return rc;
    size_t room = json_object_size(f->root) + 1;
    f->t = calloc(room, sizeof *f->t);
    f->by_name = calloc(room, sizeof *f->by_name);
    if (!f->t || !f->by_name)
        return dr_fail(err, DR_ENOMEM, "%s: no memory for %zu tensors", f->path, room);
    const char *key;
    json_t *v;
    json_object_foreach(f->root, key, v) {
        if (!strcmp(key, "__metadata__"))
            rc = parse_meta(f, v, err);
        else
            rc = parse_tensor(f, key, v, header, &f->t[f->n++], err);
        if (rc)
            return rc;
    }
    for (int i = 0; i < f->n; i++)
        f->by_name[i] = i;
    qsort_r(f->by_name, (size_t)f->n, sizeof *f->by_name, cmp_name, f->t);
    return check_tiling(f, header, err);
}

int dr_st_open(const char *path, struct dr_st_file **out, struct dr_err *err) {
    *out = NULL;
    struct dr_st_file *f = calloc(1, sizeof *f);
    if (!f)
        return dr_fail(err, DR_ENOMEM, "%.300s: no memory", path);
    const size_t n = strlen(path), room = sizeof f->path - 4;
    snprintf(f->path, sizeof f->path, "%s%s", n > room ? "..." : "",
             n > room ? path + n - room : path);
    int rc = map_file(f, path, err);
    if (!rc)
        rc = parse(f, err);
    if (f->map && dr_st_intact(f, err)) // whatever the zeros looked like
        rc = DR_EIO;
    if (rc)
        dr_st_close(f);
    else
        *out = f;
    return rc;
}

void dr_st_close(struct dr_st_file *f) {
    if (!f)
        return;
    dr_mapped_close(&f->file);
    json_decref(f->root);
    free(f->t);
    free(f->by_name);
    free(f);
}

int dr_st_intact(const struct dr_st_file *f, struct dr_err *err) {
    return dr_mapped_lost(&f->file)
               ? dr_fail(err, DR_EIO, "%s: the file was truncated while it was read", f->path)
               : 0;
}

const char *dr_st_path(const struct dr_st_file *f) {
    return f->path;
}

int dr_st_count(const struct dr_st_file *f) {
    return f->n;
}

const struct dr_st_tensor *dr_st_at(const struct dr_st_file *f, int i) {
    return i >= 0 && i < f->n ? &f->t[i] : NULL;
}

const struct dr_st_tensor *dr_st_find(const struct dr_st_file *f, const char *name) {
    int lo = 0, hi = f->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        const struct dr_st_tensor *t = &f->t[f->by_name[mid]];
        int c = strcmp(name, t->name);
        if (!c)
            return t;
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const char *dr_st_meta(const struct dr_st_file *f, const char *key) {
    return json_string_value(json_object_get(json_object_get(f->root, "__metadata__"), key));
}

const char *dr_st_meta_at(const struct dr_st_file *f, int i, const char **value) {
    json_t *meta = json_object_get(f->root, "__metadata__");
    void *at = json_object_iter(meta);
    while (at && i-- > 0)
        at = json_object_iter_next(meta, at);
    if (!at)
        return NULL;
    *value = json_string_value(json_object_iter_value(at));
    return json_object_iter_key(at);
}

static float from_half(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023, u;
    if (e == 31) {
        u = sign | 0x7f800000 | m << 13;
    } else if (e) {
        u = sign | (e + 112) << 23 | m << 13;
    } else { // subnormal: m * 2^-24, exact in float
        float x = (float)m * 0x1p-24f;
        return sign ? -x : x;
    }
    float x;
    memcpy(&x, &u, 4);
    return x;
}

// Data may lie at any alignment, hence memcpy.
static void convert(const struct dr_st_tensor *t, float *out) {
    const uint8_t *p = t->data;
    for (int64_t i = 0; i < t->count; i++) {
        uint16_t h;
        double d;
        uint32_t u;
        if (t->dtype == DR_ST_F64) {
            memcpy(&d, p + 8 * i, 8);
            out[i] = (float)d;
        } else if (t->dtype == DR_ST_F16) {
            memcpy(&h, p + 2 * i, 2);
            out[i] = from_half(h);
        } else {
            memcpy(&h, p + 2 * i, 2);
            u = (uint32_t)h << 16;
            memcpy(&out[i], &u, 4);
        }
    }
}

static void print_shape(char *buf, size_t size, int ndim, const int64_t *dim) {
    size_t n = 0;
    buf[0] = 0;
    for (int i = 0; i < ndim && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%" PRId64, i ? "," : "", dim[i]);
}

int dr_st_read_f32(const struct dr_st_file *f, const char *name, int ndim, const int64_t *dim,
                   float *out, struct dr_err *err) {
    const struct dr_st_tensor *t = dr_st_find(f, name);
    if (!t)
        return dr_fail(err, DR_ENOENT, "%s: tensor '%s' is missing", f->path, name);
    bool same = t->ndim == ndim;
    for (int i = 0; i < ndim && same; i++)
        same = t->dim[i] == dim[i];
    if (!same) {
        char have[80], want[80];
        print_shape(have, sizeof have, t->ndim, t->dim);
        print_shape(want, sizeof want, ndim, dim);
        return dr_fail(err, DR_EFORMAT, "%s: tensor '%s' has shape [%s], expected [%s]", f->path,
                       name, have, want);
    }
    if (t->dtype > DR_ST_BF16)
        return dr_fail(err, DR_EFORMAT, "%s: tensor '%s' is not of dtype F32, F64, F16 or BF16",
                       f->path, name);
    if (out && t->dtype == DR_ST_F32)
        memcpy(out, t->data, t->bytes);
    else if (out)
        convert(t, out);
    return out ? dr_st_intact(f, err) : 0;
}
