// What a request's header fields ask for (RFC 9110): media types, content codings, entity tags and
// byte ranges. Functions of strings alone. A header that is absent is NULL.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// The weight of a media type in Accept: 0 refused, 1 where there is no Accept. The most specific
// range decides.
double api_media_quality(const char *accept, const char *type);
// True when Accept (or its absence) allows the media type.
bool api_media_accepted(const char *accept, const char *type);

// The weight of a content coding in Accept-Encoding: 0 refused, -1 not mentioned, else up to 1.
double api_coding_quality(const char *accept_encoding, const char *coding);
// The coding for something that exists plain and gzip'ed. 1: gzip; 0: plain; -1: neither is
// accepted.
int api_pick_gzip(const char *accept_encoding);

// True when the list names the entity tag (without quotes; "": a representation without one), or
// is "*". Strong comparison: weak tags never match.
bool api_etag_listed(const char *list, const char *etag, bool strong);
// If-Range: true when the header is exactly this strong tag. Dates never match: nothing here has
// Last-Modified.
bool api_if_range(const char *header, const char *etag);

// One byte range. 1: use [*from, *to]; 0: send all (absent, malformed or several); -1: 416. Sets
// *from and *to with 1 alone.
int api_parse_range(const char *header, uint64_t size, uint64_t *from, uint64_t *to);
