// npy for noise (npy.h). The header is a Python dictionary: three keys, looked for by name.
#include "api/npy.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAGIC = 6, FIRST = 10, HEADER_MAX = 4096, MAX_N = 4096 };

static int fail(char *err, size_t n, const char *text) {
    snprintf(err, n, "%s", text);
    return -1;
}

// What follows 'KEY': in the header; NULL when it is not there.
static const char *member(const char *head, const char *key) {
    const char *p = strstr(head, key);
    if (!p)
        return NULL;
    p += strlen(key);
    p += strspn(p, " ");
    return *p == ':' ? p + 1 + strspn(p + 1, " ") : NULL;
}

// "(16, 1, 8, 8)" or "(16,)". False: no such list, or a size that is none.
static bool read_shape(const char *p, size_t *n, size_t *count) {
    int dims = 0;
    *count = 1;
    if (!p || *p++ != '(')
        return false;
    for (p += strspn(p, " "); *p && *p != ')'; dims++) {
        char *end;
        if (*p < '0' || *p > '9')
            return false;
        const unsigned long v = strtoul(p, &end, 10);
        if (v < 1 || v > 1 << 24 || *count > (size_t)1 << 24)
            return false;
        if (dims)
            *count *= v;
        else
            *n = v;
        p = end + strspn(end, " ");
        if (*p == ',')
            p += 1 + strspn(p + 1, " ");
        else if (*p != ')')
            return false;
    }
    return *p == ')' && dims > 0;
}

// The header as text, and where the values begin. 0: these are no bytes of a npy.
static size_t read_head(const uint8_t *b, size_t size, char head[HEADER_MAX]) {
    if (size < FIRST + 2 || memcmp(b, "\x93NUMPY", MAGIC) != 0 || b[6] < 1 || b[6] > 3)
        return 0;
    const size_t first = b[6] == 1 ? FIRST : FIRST + 2;
    size_t n = (size_t)b[8] | (size_t)b[9] << 8;
    if (b[6] > 1)
        n |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    if (n >= HEADER_MAX || n > size - first)
        return 0;
    memcpy(head, b + first, n);
    head[n] = '\0';
    return first + n;
}

// Moves the values to the front of the buffer, as floats; each lies behind the place that it moves
// to. False: one is not finite, or beyond float.
static bool take_values(uint8_t *b, size_t at, size_t total, bool wide) {
    const size_t each = wide ? sizeof(double) : sizeof(float);
    for (size_t i = 0; i < total; i++) {
        double d = 0;
        float s = 0;
        memcpy(wide ? (void *)&d : (void *)&s, b + at + i * each, each);
        if (wide ? !(fabs(d) <= FLT_MAX) : !isfinite(s)) // before the conversion
            return false;
        s = wide ? (float)d : s;
        memcpy(b + i * sizeof s, &s, sizeof s);
    }
    return true;
}

int api_npy_read(void *bytes, size_t size, int *n, size_t *count, char *err, size_t err_size) {
    char head[HEADER_MAX];
    size_t rows = 0;
    const size_t at = read_head(bytes, size, head);
    if (!at)
        return fail(err, err_size, "expected a npy file, as numpy.save writes it");
    const char *type = member(head, "'descr'"), *order = member(head, "'fortran_order'");
    const bool wide = type && !strncmp(type, "'<f8'", 5);
    if (!wide && (!type || strncmp(type, "'<f4'", 5) != 0))
        return fail(err, err_size, "expected float32 or float64, little-endian (<f4, <f8)");
    if (!order || strncmp(order, "False", 5) != 0)
        return fail(err, err_size, "expected C order (fortran_order: False)");
    if (!read_shape(member(head, "'shape'"), &rows, count) || rows > MAX_N)
        return fail(err, err_size, "expected the shape (images, values...), at most 4096 images");
    const size_t total = rows * *count, each = wide ? sizeof(double) : sizeof(float);
    if (total > size / each || size - at != total * each)
        return fail(err, err_size, "the file is shorter or longer than its shape says");
    if (!take_values(bytes, at, total, wide))
        return fail(err, err_size, "a value is not finite, or too large for float32");
    *n = (int)rows;
    return 0;
}
