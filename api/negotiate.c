// Reading of Accept, Accept-Encoding, entity tags and Range (negotiate.h).
#include "api/negotiate.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SPACE " \t"

// q of the parameters in [s, end); 1 when absent. What is no number counts as 0.
static double quality(const char *s, const char *end) {
    while (s < end && (s = memchr(s, ';', (size_t)(end - s)))) {
        s += 1 + strspn(s + 1, SPACE);
        if (end - s >= 2 && (*s == 'q' || *s == 'Q') && s[1] == '=')
            return strtod(s + 2, NULL);
    }
    return 1;
}

static bool media_match(const char *range, size_t n, const char *type) {
    const char *slash = strchr(type, '/');
    if (n == 3 && !strncmp(range, "*/*", 3))
        return true;
    if (n >= 2 && range[n - 1] == '*' && range[n - 2] == '/')
        return (size_t)(slash - type) == n - 2 && !strncasecmp(range, type, n - 2);
    return strlen(type) == n && !strncasecmp(range, type, n);
}

double api_media_quality(const char *p, const char *type) {
    double best = 0;
    int best_rank = -1;
    if (!p || !*p)
        return 1;
    while (*p) {
        p += strspn(p, SPACE ",");
        size_t len = strcspn(p, ","), n = strcspn(p, ",;" SPACE);
        if (n && media_match(p, n, type)) {
            int rank = (n == 3 && *p == '*') ? 0 : p[n - 1] == '*' ? 1 : 2;
            if (rank > best_rank) {
                best_rank = rank;
                best = quality(p + n, p + len);
            }
        }
        p += len;
    }
    return best > 0 ? best : 0;
}

bool api_media_accepted(const char *accept, const char *type) {
    return api_media_quality(accept, type) > 0;
}

// Also by its old name with "x-".
static bool coding_match(const char *p, size_t n, const char *coding) {
    if (n > 2 && !strncasecmp(p, "x-", 2)) {
        p += 2;
        n -= 2;
    }
    return n == strlen(coding) && !strncasecmp(p, coding, n);
}

double api_coding_quality(const char *p, const char *coding) {
    double any = -1;
    while (p && *p) {
        p += strspn(p, SPACE ",");
        size_t len = strcspn(p, ","), n = strcspn(p, ",;" SPACE);
        if (coding_match(p, n, coding))
            return quality(p + n, p + len);
        if (n == 1 && *p == '*')
            any = quality(p + n, p + len);
        p += len;
    }
    return any;
}

int api_pick_gzip(const char *accept_encoding) {
    double gzip = api_coding_quality(accept_encoding, "gzip");
    double plain = api_coding_quality(accept_encoding, "identity");
    if (gzip > 0 && gzip >= plain)
        return 1;
    return plain != 0 ? 0 : -1; // plain needs no mention
}

bool api_etag_listed(const char *p, const char *etag, bool strong) {
    if (!p)
        return false;
    p += strspn(p, SPACE);
    if (*p == '*' && !p[1 + strspn(p + 1, SPACE)])
        return true;
    while (*p) {
        p += strspn(p, SPACE ",");
        bool weak = p[0] == 'W' && p[1] == '/';
        p += weak ? 2 : 0;
        const char *end = *p == '"' ? strchr(p + 1, '"') : NULL;
        if (!end)
            return false; // malformed from here on
        size_t n = (size_t)(end - p) - 1;
        if (*etag && n == strlen(etag) && !memcmp(p + 1, etag, n) && !(strong && weak))
            return true;
        p = end + 1;
    }
    return false;
}

bool api_if_range(const char *header, const char *etag) {
    return *header == '"' && !strchr(header, ',') && api_etag_listed(header, etag, true);
}

static bool digits(const char *s, uint64_t *out, const char **end) {
    uint64_t v = 0;
    const char *p = s;
    for (; *p >= '0' && *p <= '9'; p++) // saturates
        v = v > UINT64_MAX / 10 - 1 ? UINT64_MAX : v * 10 + (uint64_t)(*p - '0');
    *out = v;
    *end = p;
    return p > s;
}

int api_parse_range(const char *h, uint64_t size, uint64_t *from, uint64_t *to) {
    uint64_t first, last = UINT64_MAX;
    const char *p;
    if (!h || strncasecmp(h, "bytes=", 6) || strchr(h, ','))
        return 0;
    h += 6;
    if (*h == '-') {
        uint64_t tail;
        if (!digits(h + 1, &tail, &p) || *p)
            return 0;
        if (!tail || !size)
            return -1;
        *from = tail < size ? size - tail : 0;
        *to = size - 1;
        return 1;
    }
    if (!digits(h, &first, &p) || *p++ != '-')
        return 0;
    if (*p && (!digits(p, &last, &p) || *p || last < first))
        return 0;
    if (first >= size)
        return -1;
    *from = first;
    *to = last < size ? last : size - 1;
    return 1;
}
