// TLS: requests over it, suspended generates, event streams, a certificate replaced while running,
// plain HTTP refused on the TLS port while the unix socket stays plain.
#include "fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <curl/curl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

struct pem {
    char cert[8192], key[8192];
};

static struct pem first, second;
static struct fake f;

static void make(struct pem *out, const char *name) {
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t crt;
    size_t n = sizeof out->key - 1, m = sizeof out->cert - 1;
    gnutls_x509_privkey_init(&key);
    gnutls_x509_crt_init(&crt);
    assert_int_equal(gnutls_x509_privkey_generate(
                         key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
                     0);
    gnutls_x509_crt_set_version(crt, 3);
    gnutls_x509_crt_set_serial(crt, "\1", 1);
    gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                  (unsigned)strlen(name));
    gnutls_x509_crt_set_activation_time(crt, time(NULL) - 3600);
    gnutls_x509_crt_set_expiration_time(crt, time(NULL) + 3600);
    gnutls_x509_crt_set_key(crt, key);
    assert_int_equal(gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0), 0);
    assert_int_equal(gnutls_x509_privkey_export(key, GNUTLS_X509_FMT_PEM, out->key, &n), 0);
    assert_int_equal(gnutls_x509_crt_export(crt, GNUTLS_X509_FMT_PEM, out->cert, &m), 0);
    gnutls_x509_crt_deinit(crt);
    gnutls_x509_privkey_deinit(key);
}

static void edit(struct api_config *c) {
    c->tls_cert = first.cert;
    c->tls_key = first.key;
}

static int setup(void **state) {
    (void)state;
    make(&first, "first");
    make(&second, "second");
    fake_start(&f, edit);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fake_stop(&f);
    return 0;
}

// Of an event stream no more than its beginning: it has no end.
static size_t collect(char *p, size_t size, size_t n, void *arg) {
    char *buf = arg;
    size_t have = strlen(buf), k = size * n < 4000 - have ? size * n : 4000 - have;
    for (size_t i = 0; i < k; i++)
        buf[have + i] = p[i] ? p[i] : '?';
    buf[have + k] = '\0';
    const char *hello = strstr(buf, "event: hello");
    return hello && strstr(hello, "\n\n") ? 0 : size * n;
}

// Status of one request over TLS; body (4096 bytes) and the certificate's subject are filled.
static long https(const char *method, const char *target, char *body, char *subject) {
    char url[200];
    struct curl_certinfo *info = NULL;
    long status = 0;
    CURL *h = curl_easy_init();
    snprintf(url, sizeof url, "https://127.0.0.1:%d%s", f.port, target);
    body[0] = subject[0] = '\0';
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(h, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(h, CURLOPT_SSL_VERIFYHOST, 0L);
    curl_easy_setopt(h, CURLOPT_CERTINFO, 1L);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, body);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, 60000L);
    curl_easy_perform(h);
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(h, CURLINFO_CERTINFO, &info);
    if (info && info->num_of_certs > 0)
        for (struct curl_slist *l = info->certinfo[0]; l; l = l->next)
            if (!strncmp(l->data, "Subject:", 8))
                snprintf(subject, 200, "%s", l->data);
    curl_easy_cleanup(h);
    return status;
}

static void test_requests(void **state) {
    (void)state;
    char body[4096], subject[200];
    assert_int_equal(https("GET", "/v1/status", body, subject), 200);
    assert_non_null(strstr(subject, "first"));
    atomic_store(&f.mode, FAKE_LATER);
    atomic_store(&f.delay_ms, 20);
    assert_int_equal(https("POST", "/generate?class=3", body, subject), 200);
    assert_non_null(strstr(body, "PNG"));
    assert_int_equal(https("GET", "/v1/events", body, subject), 200);
    assert_non_null(strstr(body, "event: hello"));
    struct reply r = http_do(&f, "GET", "/livez", NULL, NULL); // plain HTTP on the TLS port
    assert_int_equal(r.status, 0);
    reply_free(&r);
}

static void test_reload(void **state) {
    (void)state;
    char body[4096], subject[200], err[200];
    assert_int_equal(api_server_reload(f.srv, NULL, second.cert, second.key, err, sizeof err), 0);
    assert_int_equal(https("GET", "/livez", body, subject), 200);
    assert_non_null(strstr(subject, "second"));
    assert_int_equal(api_server_reload(f.srv, NULL, first.cert, second.key, err, sizeof err), -1);
    assert_int_equal(api_server_reload(f.srv, NULL, "nonsense", first.key, err, sizeof err), -1);
    assert_int_equal(api_server_reload(f.srv, NULL, first.cert, NULL, err, sizeof err), -1);
    assert_int_equal(https("GET", "/livez", body, subject), 200);
    assert_non_null(strstr(subject, "second"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_requests),
                                       cmocka_unit_test(test_reload)};
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int rc = cmocka_run_group_tests(tests, setup, teardown);
    curl_global_cleanup();
    return rc;
}
