// Bearer tokens with scopes and rates (tokens.h). Called by request.c through the gate.
#include "api/tokens.h"

#include "api/query.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MIN_TOKEN = 8, MAX_TOKEN = 512, MAX_TOKENS = 1000 };

struct token {
    char *text;
    uint64_t number; // its own among all that the server has had, from 1
    unsigned scopes;
    double count, period_s; // `count` requests per period; 0: any number
    double left;            // of them, as of at_ns
    uint64_t at_ns;
};
struct api_tokens {
    size_t n;
    uint64_t given; // numbers up to this one
    struct token *v;
};

static const char *const scope_names[] = {"generate", "read", "admin"};
enum { NSCOPES = 3 };

void api_tokens_free(struct api_tokens *t) {
    for (size_t i = 0; t && i < t->n; i++) {
        explicit_bzero(t->v[i].text, strlen(t->v[i].text));
        free(t->v[i].text);
    }
    if (t)
        free(t->v);
    free(t);
}

// Of a list of words, which is cut up.
static int scopes(char *list, unsigned *out, char *err, size_t n) {
    char near[96], *save;
    const char *names[NSCOPES + 1] = {scope_names[0], scope_names[1], scope_names[2]};
    *out = 0;
    for (char *w = strtok_r(list, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        unsigned bit = 0;
        for (int i = 0; i < NSCOPES; i++)
            bit |= strcmp(w, scope_names[i]) ? 0 : 1u << i;
        if (!bit) {
            snprintf(err, n, "no scope `%.40s`; expected generate, read or admin%s", w,
                     api_nearest(w, names, near, sizeof near));
            return -1;
        }
        *out |= bit;
    }
    if (*out)
        return 0;
    snprintf(err, n, "names no scope; expected generate, read or admin");
    return -1;
}

static int rate(const char *word, struct token *t, char *err, size_t n) {
    static const struct {
        const char *name;
        double seconds;
    } units[] = {{"s", 1}, {"min", 60}, {"h", 3600}};
    char *end;
    const long v = strtol(word, &end, 10);
    for (size_t i = 0; i < 3 && *end == '/'; i++)
        if (!strcmp(end + 1, units[i].name) && v >= 1 && v <= 1000000 && *word != '+') {
            t->count = t->left = (double)v;
            t->period_s = units[i].seconds;
            return 0;
        }
    snprintf(err, n,
             "`%.40s` is no rate; expected a number from 1 to 1000000 per s, min or h, "
             "such as 60/min",
             word);
    return -1;
}

static int parse_line(char *line, struct token *t, char *err, size_t n) {
    char *save, *word[4] = {0};
    int k = 0;
    for (char *w = strtok_r(line, " \t\r", &save); w && k < 4; w = strtok_r(NULL, " \t\r", &save))
        word[k++] = w;
    const size_t len = word[0] ? strlen(word[0]) : 0;
    if (len < MIN_TOKEN || len > MAX_TOKEN) {
        snprintf(err, n, "expected at least %d characters, and at most %d", MIN_TOKEN, MAX_TOKEN);
        return -1;
    }
    *t = (struct token){.scopes = API_SCOPE_ADMIN};
    int at = 1;
    if (word[at] && !strchr("0123456789+-", *word[at]) && scopes(word[at++], &t->scopes, err, n))
        return -1;
    if (word[at] && rate(word[at++], t, err, n))
        return -1;
    if (word[at]) {
        snprintf(err, n, "`%.40s` is too much; expected TOKEN [SCOPES] [RATE]", word[at]);
        return -1;
    }
    t->text = strdup(word[0]);
    t->at_ns = api_now_ns();
    return t->text ? 0 : -1;
}

static int add_line(struct api_tokens *t, char *line, char *err, size_t n) {
    char *c = line; // a comment begins a word
    while (*c && !(*c == '#' && (c == line || c[-1] == ' ' || c[-1] == '\t')))
        c++;
    *c = '\0';
    if (!line[strspn(line, " \t\r")])
        return 0;
    if (t->n == MAX_TOKENS) {
        snprintf(err, n, "more than %d tokens", MAX_TOKENS);
        return -1;
    }
    struct token *grown = realloc(t->v, (t->n + 1) * sizeof *grown), one;
    snprintf(err, n, "out of memory");
    if (!grown)
        return -1;
    t->v = grown;
    if (parse_line(line, &one, err, n))
        return -1;
    for (size_t i = 0; i < t->n; i++)
        if (!strcmp(t->v[i].text, one.text)) {
            snprintf(err, n, "the same token as in a line before");
            free(one.text);
            return -1;
        }
    one.number = ++t->given;
    t->v[t->n++] = one;
    return 0;
}

int api_tokens_parse(const char *text, struct api_tokens **out, char *err, size_t err_size) {
    char why[200] = "";
    *out = NULL;
    if (!text || !*text)
        return 0;
    struct api_tokens *t = calloc(1, sizeof *t);
    char *copy = strdup(text);
    int line = 0, rc = t && copy ? 0 : -1;
    for (char *at = copy, *next; !rc && at; at = next) {
        if ((next = strchr(at, '\n')))
            *next++ = '\0';
        line++;
        rc = add_line(t, at, why, sizeof why);
    }
    if (rc)
        snprintf(err, err_size, "line %d: %s", line, why);
    else if (!t->n && (rc = -1))
        snprintf(err, err_size, "no token: expected one of at least %d characters", MIN_TOKEN);
    if (copy)
        explicit_bzero(copy, strlen(text));
    free(copy);
    if (rc) {
        api_tokens_free(t);
        return -1;
    }
    *out = t;
    return 0;
}

int api_tokens_check(const char *text, char *err, size_t err_size) {
    struct api_tokens *t;
    int rc = api_tokens_parse(text, &t, err, err_size);
    api_tokens_free(t);
    return rc;
}

void api_tokens_inherit(struct api_tokens *fresh, const struct api_tokens *old) {
    if (!fresh || !old)
        return;
    fresh->given += old->given;
    for (size_t i = 0; i < fresh->n; i++) {
        struct token *f = &fresh->v[i];
        f->number += old->given;
        for (size_t k = 0; k < old->n; k++) {
            const struct token *o = &old->v[k];
            if (strcmp(f->text, o->text))
                continue;
            f->number = o->number;
            if (f->count != o->count || f->period_s != o->period_s)
                continue;
            f->left = o->left;
            f->at_ns = o->at_ns;
        }
    }
}

bool api_token_equal(const char *a, const char *b) {
    size_t la = strlen(a), lb = strlen(b);
    unsigned diff = la != lb;
    for (size_t i = 0; i < lb; i++) {
        volatile unsigned char x = (unsigned char)(la ? a[i % la] : 0);
        diff |= (unsigned)(x ^ (unsigned char)b[i]);
    }
    return diff == 0;
}

enum api_scope api_route_scope(const struct api_route *route) {
    return route->flags & API_GENERATES                                   ? API_SCOPE_GENERATE
           : !strcmp(route->method, "GET") && !(route->flags & API_ADMIN) ? API_SCOPE_READ
                                                                          : API_SCOPE_ADMIN;
}

static const char *scope_word(unsigned scope) {
    return scope_names[scope == API_SCOPE_GENERATE ? 0 : scope == API_SCOPE_READ ? 1 : 2];
}

// Takes one request off the rate. 0, or -1 with the time until there is one again.
static int spend(struct token *t, struct api_problem *p) {
    const uint64_t now = api_now_ns();
    const double per_s = t->count / (t->period_s > 0 ? t->period_s : 1);
    if (!(t->count > 0))
        return 0;
    t->left = fmin(t->count, t->left + (double)(now - t->at_ns) * 1e-9 * per_s);
    t->at_ns = now;
    if (t->left >= 1) {
        t->left -= 1;
        return 0;
    }
    const char *unit = t->period_s < 2 ? "second" : t->period_s < 100 ? "minute" : "hour";
    api_problem_set(p, 429, "rate-limited", "this token may make %.0f requests per %s", t->count,
                    unit);
    p->retry_after = (1 - t->left) / per_s;
    return -1;
}

static int missing_scope(const struct token *t, unsigned need, struct api_problem *p) {
    char has[40] = "";
    for (int i = 0; i < NSCOPES; i++)
        if (t->scopes >> i & 1)
            snprintf(has + strlen(has), sizeof has - strlen(has), "%s%s", *has ? ", " : "",
                     scope_names[i]);
    return api_problem_set(p, 403, "insufficient-scope",
                           "this needs the scope `%s`; the token has %s", scope_word(need), has);
}

int api_check_token(struct api_req *r, struct api_problem *p) {
    struct api_server *s = r->srv;
    const char *auth = api_header(r, "Authorization");
    const unsigned need = api_route_scope(r->route);
    const bool bearer = auth && !strncasecmp(auth, "Bearer ", 7);
    const char *given = bearer ? auth + 7 + strspn(auth + 7, " ") : "";
    struct token *t = NULL;
    int rc = 0;
    pthread_mutex_lock(&s->token_mu);
    for (size_t i = 0; s->tokens && i < s->tokens->n; i++) // all of them, whichever it is
        if (api_token_equal(given, s->tokens->v[i].text) && bearer)
            t = &s->tokens->v[i];
    if (s->tokens && !t)
        rc = api_problem_set(p, 401, "unauthorized",
                             auth ? "the bearer token is wrong"
                                  : "a bearer token is required (Authorization: Bearer ...)");
    else if (t && !(t->scopes & (need | API_SCOPE_ADMIN)))
        rc = missing_scope(t, need, p);
    else if (t)
        rc = spend(t, p);
    r->token = t ? t->number : 0;
    pthread_mutex_unlock(&s->token_mu);
    return rc;
}

bool api_token_holds(struct api_server *s, uint64_t number, enum api_scope need) {
    pthread_mutex_lock(&s->token_mu);
    bool ok = !s->tokens;
    for (size_t i = 0; s->tokens && i < s->tokens->n; i++)
        ok |= s->tokens->v[i].number == number && s->tokens->v[i].scopes & (need | API_SCOPE_ADMIN);
    pthread_mutex_unlock(&s->token_mu);
    return ok;
}
