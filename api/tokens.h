// Bearer tokens: which there are, what each may do and how often. Parsed once at start and at each
// reload; a table is shared by MHD's threads under the server's token_mu.
#pragma once

#include "api/req.h"

// What a token may do. Admin includes the two others.
enum api_scope { API_SCOPE_GENERATE = 1, API_SCOPE_READ = 2, API_SCOPE_ADMIN = 4 };

struct api_tokens;

// One token per line: TOKEN [SCOPE[,SCOPE...]] [COUNT/s|min|h]; `#` begins a comment. A token alone
// may do everything, at any rate. *out is NULL for NULL and "". 0, or -1 with a sentence that names
// the line.
int api_tokens_parse(const char *text, struct api_tokens **out, char *err, size_t err_size);
void api_tokens_free(struct api_tokens *t); // wipes them; NULL is fine
// Tokens that are in both keep their number, and what remains of a rate that is the same.
void api_tokens_inherit(struct api_tokens *fresh, const struct api_tokens *old);

// What the route asks for: images, reading (GET), or the rest.
enum api_scope api_route_scope(const struct api_route *route);
// 0, or -1 with 401 (no such token), 403 (its scopes do not include the route's) or 429. Sets
// r->token.
int api_check_token(struct api_req *r, struct api_problem *p);
// Whether the token of this number (0: none was needed) would still do, after a reload. Takes
// token_mu.
bool api_token_holds(struct api_server *s, uint64_t number, enum api_scope need);
bool api_token_equal(const char *a, const char *b); // constant time in the length of b
