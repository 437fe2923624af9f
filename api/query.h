// Strict query strings: percent-decoding, no NUL, valid UTF-8, every key once. Used by request.c
// on the raw URI, and by the tests and the fuzzer on their own.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define API_QUERY_MAX 32

struct api_query {
    size_t n;
    struct {
        const char *key, *value; // point into buf
    } arg[API_QUERY_MAX];
    char *buf;
    char *added[API_QUERY_MAX]; // by api_query_add
    size_t nadded;
};

// Parses "a=1&b=x%20y" (no leading '?', NULL or "" is empty). 0, or -1 with a sentence in err.
// The result is released by api_query_free in both cases.
int api_query_parse(const char *text, struct api_query *out, char *err, size_t err_size);
void api_query_free(struct api_query *q);
// Adds a copy of a pair. -1: too many, or no memory.
int api_query_add(struct api_query *q, const char *key, const char *value);
// The value, or NULL when the key is absent.
const char *api_query_get(const struct api_query *q, const char *key);

// The words of a comma-separated list, as pointers into a copy of it; n 0: text is NULL or empty.
struct api_list {
    char *text;
    const char **word;
    size_t n;
};
// False: out of memory. The list is released by api_list_free in both cases.
bool api_list_split(const char *text, struct api_list *out);
void api_list_free(struct api_list *list);

// Decodes %XX (and '+' as a space when plus) in place of dst, which has strlen(src) + 1 bytes.
// -1 for a malformed escape or an escaped NUL.
int api_percent_decode(char *dst, const char *src, size_t len, bool plus);
// Bytes of the character at the start of s, which is not empty; 0: it is not valid UTF-8.
size_t api_utf8_length(const char *s);
bool api_valid_utf8(const char *s);
// Levenshtein distance, capped at `cap`.
int api_edit_distance(const char *a, const char *b, int cap);
