// Start, stop and reload of the HTTP server: one libmicrohttpd daemon a listener (epoll, a pool of
// four threads), one housekeeping thread for all (keeper.c). Called by the daemon's main thread.
#include "api/api_priv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

uint64_t api_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void api_log(struct api_server *s, int level, const char *fmt, ...) {
    char line[600];
    va_list ap;
    if (!s->cb.log)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    s->cb.log(s->ctx, level, line);
}

static void mhd_log(void *cls, const char *fmt, va_list ap) {
    struct api_server *s = cls;
    char line[400];
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\r\n")] = '\0';
    api_log(s, 7, "microhttpd: %s", line); // mostly clients that went away
}

static void fill_limits(struct api_config *c) {
#define DEFAULT(field, value)                                                                      \
    if (!c->field)                                                                                 \
    c->field = (value)
    DEFAULT(max_body, 1u << 20);
    DEFAULT(max_upload, (uint64_t)4 << 30);
    DEFAULT(max_connections, 4096);
    DEFAULT(max_per_address, 1536);
    DEFAULT(max_sse, 100);
    DEFAULT(header_timeout_ms, 10000);
    DEFAULT(body_timeout_ms, 30000);
    DEFAULT(idle_timeout_ms, 60000);
    DEFAULT(default_timeout_ms, 60000);
    DEFAULT(ping_ms, 15000);
#undef DEFAULT
}

// Every connection costs a descriptor: lift the soft limit, then stay below what there is.
static void fit_descriptors(struct api_config *c) {
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim))
        return;
    rlim_t want = (rlim_t)c->max_connections + 512;
    if (lim.rlim_cur < want && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = want < lim.rlim_max ? want : lim.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &lim))
            getrlimit(RLIMIT_NOFILE, &lim);
    }
    if (lim.rlim_cur != RLIM_INFINITY && (rlim_t)c->max_connections + 128 > lim.rlim_cur)
        c->max_connections = lim.rlim_cur > 256 ? (int)(lim.rlim_cur - 128) : 128;
}

static void add_host(struct api_server *s, const char *host) {
    for (size_t i = 0; i < s->nhosts; i++)
        if (!strcmp(s->hosts[i], host))
            return;
    if (s->nhosts < API_MAX_HOSTS && (s->hosts[s->nhosts] = strdup(host)))
        s->nhosts++;
}

static void add_listener_hosts(struct api_server *s, int fd) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char host[128], ip[64];
    unsigned port = 0;
    if (getsockname(fd, (struct sockaddr *)&a, &n))
        return;
    if (a.ss_family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&a;
        port = ntohs(v4->sin_port);
        inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof ip);
        snprintf(host, sizeof host, "%s:%u", ip, port);
    } else if (a.ss_family == AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a;
        port = ntohs(v6->sin6_port);
        inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof ip);
        snprintf(host, sizeof host, "[%s]:%u", ip, port);
    } else {
        return;
    }
    add_host(s, host);
    static const char *const local[] = {"127.0.0.1", "localhost", "[::1]"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(host, sizeof host, "%s:%u", local[i], port);
        add_host(s, host);
    }
}

static char *dup_or_null(const char *text) {
    return text && *text ? strdup(text) : NULL;
}

static struct api_server *server_create(const struct api_config *config,
                                        const struct api_callbacks *cb, void *ctx) {
    struct api_server *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->cb = *cb;
    s->ctx = ctx;
    s->cfg = *config;
    fill_limits(&s->cfg);
    fit_descriptors(&s->cfg);
    pthread_mutex_init(&s->token_mu, NULL);
    pthread_mutex_init(&s->conn_mu, NULL);
    pthread_mutex_init(&s->gen_mu, NULL);
    s->token = dup_or_null(config->token);
    s->upload_dir = dup_or_null(config->upload_dir);
    s->version = strdup(config->version ? config->version : "");
    s->cfg.token = s->cfg.tls_cert = s->cfg.tls_key = NULL;
    if (getrandom(&s->id_salt, sizeof s->id_salt, 0) != sizeof s->id_salt)
        s->id_salt = api_now_ns();
    for (size_t i = 0; i < config->nhosts; i++)
        add_host(s, config->hosts[i]);
    atomic_store(&s->beat_ns, api_now_ns());
    return s;
}

static void server_free(struct api_server *s) {
    api_sse_free(s);
    api_tls_free(s->tls);
    for (size_t i = 0; i < s->nhosts; i++)
        free(s->hosts[i]);
    if (s->token)
        explicit_bzero(s->token, strlen(s->token));
    free(s->token);
    free(s->upload_dir);
    free(s->version);
    free(s->openapi);
    pthread_mutex_destroy(&s->token_mu);
    pthread_mutex_destroy(&s->conn_mu);
    pthread_mutex_destroy(&s->gen_mu);
    free(s);
}

static int start_listener(struct api_server *s, const struct api_listener *l,
                          const struct api_config *config, char *err, size_t n) {
    struct api_listener_ctx *ctx = &s->lis[s->nlis];
    struct MHD_OptionItem ops[12];
    int k = 0;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    *ctx = (struct api_listener_ctx){.srv = s, .listener = *l, .tls = s->tls && !l->is_unix};
    ops[k++] = (struct MHD_OptionItem){MHD_OPTION_LISTEN_SOCKET, l->fd, NULL};
    ops[k++] = (struct MHD_OptionItem){MHD_OPTION_THREAD_POOL_SIZE, API_WORKERS, NULL};
    // The keeper evicts at our own limit; MHD's, which would leave clients hanging, is never met.
    ops[k++] =
        (struct MHD_OptionItem){MHD_OPTION_CONNECTION_LIMIT, s->cfg.max_connections * 4, NULL};
    ops[k++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_TIMEOUT,
                                       (s->cfg.idle_timeout_ms + 999) / 1000, NULL};
    ops[k++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_MEMORY_LIMIT, 72 * 1024, NULL};
    if (ctx->tls) {
        flags |= MHD_USE_TLS;
        ops[k++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)config->tls_cert};
        ops[k++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)config->tls_key};
        api_tls_options(s->tls, ops, &k);
    }
    ops[k++] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    s->mhd[s->nlis] = MHD_start_daemon(
        flags, 0, NULL, NULL, api_req_handle, ctx, MHD_OPTION_EXTERNAL_LOGGER, mhd_log, s,
        MHD_OPTION_URI_LOG_CALLBACK, api_req_begin, ctx, MHD_OPTION_NOTIFY_COMPLETED, api_req_end,
        ctx, MHD_OPTION_NOTIFY_CONNECTION, api_conn_notify, ctx, MHD_OPTION_ARRAY, ops,
        MHD_OPTION_END);
    if (!s->mhd[s->nlis]) {
        snprintf(err, n, "the HTTP server did not start on listener %zu: %s", s->nlis,
                 errno ? strerror(errno) : "see the log");
        return -1;
    }
    s->nlis++;
    return 0;
}

static int start_all(struct api_server *s, const struct api_config *config, char *err, size_t n) {
    if (!config->nlisteners || config->nlisteners > API_MAX_LISTENERS) {
        snprintf(err, n, "between 1 and %d listeners are needed, not %zu", API_MAX_LISTENERS,
                 config->nlisteners);
        return -1;
    }
    if (!config->tls_cert != !config->tls_key) {
        snprintf(err, n, "TLS needs both a certificate and a key");
        return -1;
    }
    if (config->tls_cert && api_tls_create(config->tls_cert, config->tls_key, &s->tls, err, n))
        return -1;
    snprintf(err, n, "out of memory");
    if (api_sse_create(s) || !(s->openapi = api_openapi_text(s, &s->openapi_len)))
        return -1;
    for (size_t i = 0; i < config->nlisteners; i++)
        if (!config->listeners[i].is_unix)
            add_listener_hosts(s, config->listeners[i].fd);
    if (api_nudge_prepare() || pthread_create(&s->keeper, NULL, api_keeper_main, s)) {
        snprintf(err, n, "cannot start a thread");
        return -1;
    }
    s->keeper_started = true;
    for (size_t i = 0; i < config->nlisteners; i++)
        if (start_listener(s, &config->listeners[i], config, err, n))
            return -1;
    return 0;
}

int api_server_start(const struct api_config *config, const struct api_callbacks *cb, void *ctx,
                     struct api_server **out, char *err, size_t err_size) {
    struct api_server *s = server_create(config, cb, ctx);
    *out = NULL;
    if (!s) {
        snprintf(err, err_size, "out of memory");
        return -1;
    }
    if (start_all(s, config, err, err_size)) {
        api_server_stop(s, 0);
        return -1;
    }
    *out = s;
    return 0;
}

static void sleep_ms(int ms) {
    nanosleep(&(struct timespec){ms / 1000, (ms % 1000) * 1000000L}, NULL);
}

static int waiting_generates(struct api_server *s) {
    pthread_mutex_lock(&s->gen_mu);
    int n = s->ngens;
    pthread_mutex_unlock(&s->gen_mu);
    return n;
}

void api_server_stop(struct api_server *s, int grace_ms) {
    MHD_socket fds[API_MAX_LISTENERS];
    if (!s)
        return;
    for (size_t i = 0; i < s->nlis; i++)
        fds[i] = MHD_quiesce_daemon(s->mhd[i]);
    atomic_store(&s->closing, true);
    uint64_t start = api_now_ns();
    if (s->sse)
        api_sse_close(s);
    while (waiting_generates(s) && api_now_ns() - start < (uint64_t)grace_ms * 1000000u)
        sleep_ms(2);
    api_gen_shutdown(s);
    // MHD aborts the process when stopped with a suspended connection: all are resumed by now, and
    // responses get a moment to leave.
    uint64_t resumed = api_now_ns();
    while (atomic_load(&s->active) && api_now_ns() - resumed < 2000000000u) {
        api_gen_shutdown(s); // also those that slipped past the closing flag
        sleep_ms(2);
    }
    atomic_store(&s->stopping, true);
    if (s->keeper_started)
        pthread_join(s->keeper, NULL);
    for (size_t i = 0; i < s->nlis; i++) {
        MHD_stop_daemon(s->mhd[i]);
        if (fds[i] != MHD_INVALID_SOCKET)
            close(fds[i]);
    }
    server_free(s);
}

int api_server_reload(struct api_server *s, const char *token, const char *tls_cert,
                      const char *tls_key, char *err, size_t err_size) {
    if (!tls_cert != !tls_key || (tls_cert && !s->tls)) {
        snprintf(err, err_size,
                 s->tls ? "TLS needs both a certificate and a key"
                        : "TLS cannot be switched on by a reload");
        return -1;
    }
    if (tls_cert && api_tls_replace(s->tls, tls_cert, tls_key, err, err_size))
        return -1;
    if (!token)
        return 0;
    pthread_mutex_lock(&s->token_mu);
    if (!*token && s->token) {
        pthread_mutex_unlock(&s->token_mu);
        snprintf(err, err_size, "the token is empty; the old one stays");
        return -1;
    }
    char *copy = dup_or_null(token), *old = s->token;
    if (copy || !*token)
        s->token = copy;
    pthread_mutex_unlock(&s->token_mu);
    if (old && old != s->token) {
        explicit_bzero(old, strlen(old));
        free(old);
    }
    return 0;
}

void api_server_counters(struct api_server *s, struct api_counters *out) {
    *out = (struct api_counters){
        .requests = atomic_load(&s->requests),
        .responses_4xx = atomic_load(&s->r4xx),
        .responses_5xx = atomic_load(&s->r5xx),
        .shed = atomic_load(&s->shed),
        .reaped = atomic_load(&s->reaped),
        .sse_clients = api_sse_count(s),
        .generates_waiting = waiting_generates(s),
        .beat_ns = atomic_load(&s->beat_ns),
    };
    pthread_mutex_lock(&s->conn_mu);
    out->connections = s->nconn;
    pthread_mutex_unlock(&s->conn_mu);
}
