// Strict query-string parser (see query.h). Own code; WHATWG's rules for '+' and '&'.
#include "api/query.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int hex(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int api_percent_decode(char *dst, const char *src, size_t len, bool plus) {
    for (size_t i = 0; i < len; i++) {
        char c = src[i];
        if (c == '%') {
            if (len - i < 3)
                return -1;
            int h = hex(src[i + 1]), l = hex(src[i + 2]);
            if (h < 0 || l < 0 || (h == 0 && l == 0))
                return -1;
            c = (char)(h * 16 + l);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        *dst++ = c;
    }
    *dst = '\0';
    return 0;
}

size_t api_utf8_length(const char *s) {
    const unsigned char *p = (const unsigned char *)s;
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (n <= 1)
        return n;
    uint32_t cp = p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        cp = cp << 6 | (p[i] & 0x3f);
    }
    bool good = n == 2 || (n == 3 ? cp >= 0x800 && (cp < 0xd800 || cp > 0xdfff)
                                  : cp >= 0x10000 && cp <= 0x10ffff);
    return good ? n : 0;
}

bool api_valid_utf8(const char *s) {
    while (*s) {
        size_t n = api_utf8_length(s);
        if (!n)
            return false;
        s += n;
    }
    return true;
}

static int add_pair(struct api_query *q, const char *text, size_t len, char **dst, char *err,
                    size_t n) {
    const char *eq = memchr(text, '=', len);
    size_t klen = eq ? (size_t)(eq - text) : len;
    char *key = *dst, *value = key + klen + 1;
    if (q->n == API_QUERY_MAX) {
        snprintf(err, n, "more than %d query parameters", API_QUERY_MAX);
        return -1;
    }
    if (api_percent_decode(key, text, klen, true) ||
        api_percent_decode(value, eq ? eq + 1 : "", eq ? len - klen - 1 : 0, true)) {
        snprintf(err, n, "malformed percent-encoding in the query (%%00 is never allowed)");
        return -1;
    }
    if (!*key) {
        snprintf(err, n, "a query parameter without a name");
        return -1;
    }
    if (!api_valid_utf8(key) || !api_valid_utf8(value)) {
        snprintf(err, n, "the query is not valid UTF-8");
        return -1;
    }
    if (api_query_get(q, key)) {
        snprintf(err, n, "query parameter `%.64s` is given twice", key);
        return -1;
    }
    q->arg[q->n].key = key;
    q->arg[q->n++].value = value;
    *dst = value + (eq ? len - klen - 1 : 0) + 1;
    return 0;
}

int api_query_parse(const char *text, struct api_query *out, char *err, size_t err_size) {
    memset(out, 0, sizeof *out);
    if (!text || !*text)
        return 0;
    size_t len = strlen(text);
    out->buf = malloc(2 * len + 4); // every pair grows by at most one terminator
    if (!out->buf) {
        snprintf(err, err_size, "out of memory");
        return -1;
    }
    char *dst = out->buf;
    for (const char *p = text; p <= text + len;) {
        const char *amp = strchr(p, '&');
        size_t n = amp ? (size_t)(amp - p) : strlen(p);
        if (n && add_pair(out, p, n, &dst, err, err_size))
            return -1;
        p += n + 1;
    }
    return 0;
}

int api_query_add(struct api_query *q, const char *key, const char *value) {
    const size_t k = strlen(key) + 1, v = strlen(value) + 1;
    char *copy = q->n < API_QUERY_MAX ? malloc(k + v) : NULL;
    if (!copy)
        return -1;
    memcpy(copy, key, k);
    memcpy(copy + k, value, v);
    q->added[q->nadded++] = copy;
    q->arg[q->n].key = copy;
    q->arg[q->n++].value = copy + k;
    return 0;
}

void api_query_free(struct api_query *q) {
    while (q->nadded)
        free(q->added[--q->nadded]);
    free(q->buf);
    q->buf = NULL;
    q->n = 0;
}

const char *api_query_get(const struct api_query *q, const char *key) {
    for (size_t i = 0; i < q->n; i++)
        if (!strcmp(q->arg[i].key, key))
            return q->arg[i].value;
    return NULL;
}

int api_edit_distance(const char *a, const char *b, int cap) {
    size_t la = strlen(a), lb = strlen(b);
    int row[65];
    if (la > 64 || lb > 64)
        return cap;
    for (size_t j = 0; j <= lb; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= la; i++) {
        int diag = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= lb; j++) {
            int sub = diag + (a[i - 1] != b[j - 1]);
            int best = row[j] + 1 < row[j - 1] + 1 ? row[j] + 1 : row[j - 1] + 1;
            diag = row[j];
            row[j] = sub < best ? sub : best;
        }
    }
    return row[lb] < cap ? row[lb] : cap;
}

bool api_list_split(const char *text, struct api_list *out) {
    size_t room = 1;
    char *save = NULL;
    text = text ? text : "";
    for (const char *c = text; *c; c++)
        room += *c == ',';
    *out = (struct api_list){.text = strdup(text), .word = calloc(room, sizeof *out->word)};
    if (!out->text || !out->word)
        return false;
    for (char *w = strtok_r(out->text, ",", &save); w; w = strtok_r(NULL, ",", &save))
        out->word[out->n++] = w;
    return true;
}

void api_list_free(struct api_list *list) {
    free(list->text);
    free(list->word);
}
