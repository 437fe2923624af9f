// TLS credentials that can be replaced while connections run (SIGHUP). libmicrohttpd asks for the
// certificate at each handshake through gnutls' callback; replaced pairs stay until the server
// ends, since a handshake may still hold them. Used by server.c.
#include "api/server.h"

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pair {
    struct pair *older;
    gnutls_pcert_st *chain;
    unsigned count;
    gnutls_privkey_t key;
};

struct api_tls {
    pthread_mutex_t mu;
    struct pair *current;
    char *cert, *key; // first pair, as libmicrohttpd wants one at the start
};

// gnutls hands the callback no user pointer: the TLS listeners of the process share one set.
static struct api_tls *active;
static pthread_mutex_t active_mu = PTHREAD_MUTEX_INITIALIZER;

static void pair_free(struct pair *p) {
    for (unsigned i = 0; i < p->count; i++)
        gnutls_pcert_deinit(&p->chain[i]);
    free(p->chain);
    if (p->key)
        gnutls_privkey_deinit(p->key);
    free(p);
}

static int load_key(struct pair *p, const char *key) {
    gnutls_x509_privkey_t x = NULL;
    gnutls_datum_t d = {(unsigned char *)key, (unsigned)strlen(key)};
    int rc = gnutls_x509_privkey_init(&x);
    if (!rc)
        rc = gnutls_x509_privkey_import(x, &d, GNUTLS_X509_FMT_PEM);
    if (rc == GNUTLS_E_BASE64_UNEXPECTED_HEADER_ERROR || rc == GNUTLS_E_ASN1_DER_ERROR)
        rc = gnutls_x509_privkey_import2(x, &d, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (!rc)
        rc = gnutls_privkey_init(&p->key);
    if (!rc)
        rc = gnutls_privkey_import_x509(p->key, x, GNUTLS_PRIVKEY_IMPORT_COPY);
    gnutls_x509_privkey_deinit(x);
    return rc;
}

static int pair_matches(const struct pair *p) {
    unsigned char a[64], b[64];
    size_t na = sizeof a, nb = sizeof b;
    gnutls_pubkey_t pub;
    int rc = gnutls_pubkey_init(&pub);
    if (rc)
        return rc;
    rc = gnutls_pubkey_import_privkey(pub, p->key, 0, 0);
    if (!rc)
        rc = gnutls_pubkey_get_key_id(pub, GNUTLS_KEYID_USE_SHA256, a, &na);
    if (!rc)
        rc = gnutls_pubkey_get_key_id(p->chain[0].pubkey, GNUTLS_KEYID_USE_SHA256, b, &nb);
    if (!rc && (na != nb || memcmp(a, b, na)))
        rc = GNUTLS_E_CERTIFICATE_KEY_MISMATCH;
    gnutls_pubkey_deinit(pub);
    return rc;
}

static struct pair *pair_load(const char *cert, const char *key, char *err, size_t n) {
    struct pair *p = calloc(1, sizeof *p);
    gnutls_datum_t d = {(unsigned char *)cert, (unsigned)strlen(cert)};
    unsigned max = 8;
    if (!p || !(p->chain = calloc(max, sizeof *p->chain))) {
        snprintf(err, n, "out of memory");
        free(p);
        return NULL;
    }
    int rc = gnutls_pcert_list_import_x509_raw(p->chain, &max, &d, GNUTLS_X509_FMT_PEM, 0);
    if (rc) {
        snprintf(err, n, "TLS certificate: %s", gnutls_strerror(rc));
        pair_free(p);
        return NULL;
    }
    p->count = max;
    if ((rc = load_key(p, key)) || (rc = pair_matches(p))) {
        snprintf(err, n, "TLS key: %s", gnutls_strerror(rc));
        pair_free(p);
        return NULL;
    }
    return p;
}

static int retrieve(gnutls_session_t session, const gnutls_datum_t *ca, int nca,
                    const gnutls_pk_algorithm_t *algos, int nalgos, gnutls_pcert_st **chain,
                    unsigned *count, gnutls_privkey_t *key) {
    (void)session, (void)ca, (void)nca, (void)algos, (void)nalgos;
    int rc = -1;
    pthread_mutex_lock(&active_mu);
    if (active) {
        pthread_mutex_lock(&active->mu);
        *chain = active->current->chain;
        *count = active->current->count;
        *key = active->current->key;
        pthread_mutex_unlock(&active->mu);
        rc = 0;
    }
    pthread_mutex_unlock(&active_mu);
    return rc;
}

int api_tls_create(const char *cert, const char *key, struct api_tls **out, char *err, size_t n) {
    struct api_tls *t = calloc(1, sizeof *t);
    if (!t)
        return -1;
    pthread_mutex_init(&t->mu, NULL);
    t->current = pair_load(cert, key, err, n);
    t->cert = strdup(cert);
    t->key = strdup(key);
    if (!t->current || !t->cert || !t->key) {
        api_tls_free(t);
        return -1;
    }
    pthread_mutex_lock(&active_mu);
    active = t;
    pthread_mutex_unlock(&active_mu);
    *out = t;
    return 0;
}

int api_tls_replace(struct api_tls *t, const char *cert, const char *key, char *err, size_t n) {
    struct pair *p = pair_load(cert, key, err, n);
    if (!p)
        return -1;
    pthread_mutex_lock(&t->mu);
    p->older = t->current;
    t->current = p;
    pthread_mutex_unlock(&t->mu);
    return 0;
}

void api_tls_free(struct api_tls *t) {
    if (!t)
        return;
    pthread_mutex_lock(&active_mu);
    if (active == t)
        active = NULL;
    pthread_mutex_unlock(&active_mu);
    for (struct pair *p = t->current, *older; p; p = older) {
        older = p->older;
        pair_free(p);
    }
    free(t->cert);
    if (t->key)
        explicit_bzero(t->key, strlen(t->key));
    free(t->key);
    pthread_mutex_destroy(&t->mu);
    free(t);
}

void api_tls_options(struct api_tls *t, struct MHD_OptionItem *ops, int *n) {
    ops[(*n)++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_PRIORITIES, 0,
                                          (void *)"SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"};
    ops[(*n)++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)&retrieve};
    (void)t;
}
