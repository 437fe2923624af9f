// Start, stop and reload of the HTTP server: one libmicrohttpd daemon per listener (epoll, a pool
// of four threads), one housekeeping thread for all (keeper.c). Called by the daemon's main thread.
#include "api/conn.h"
#include "api/durations.h"
#include "api/handlers.h"
#include "api/later.h"
#include "api/request.h"
#include "api/routes.h"
#include "api/tokens.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    FDS_PER_LISTENER = 2 * (API_WORKERS + 1), // epoll and its wake-up, of each thread
    FDS_PER_CONNECTION = 2,                   // the socket, and the file that is sent or received
    SPARE_FDS = 64,                           // for the database and other files
    LAST_MOMENT_MS = 2000                     // of a stop, for answers on their way
};

static void mhd_log(void *cls, const char *fmt, va_list ap) {
    struct api_server *s = cls;
    char line[400];
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\r\n")] = '\0';
    api_log(&s->log, 7, "microhttpd: %s", line); // mostly clients that went away
}

static void fill_limits(struct api_config *c) {
#define DEFAULT(field, value)                                                                      \
    if (!c->field)                                                                                 \
    c->field = (value)
    DEFAULT(max_body, 1u << 20);
    DEFAULT(max_held, (size_t)256 << 20);
    DEFAULT(max_unsent, (size_t)512 << 20);
    DEFAULT(max_upload, (uint64_t)4 << 30);
    DEFAULT(min_free, (uint64_t)64 << 20);
    DEFAULT(max_connections, 4096);
    DEFAULT(max_per_address, 1536);
    DEFAULT(max_sse, 100);
    DEFAULT(header_timeout_ms, 10000);
    DEFAULT(body_timeout_ms, 30000);
    DEFAULT(idle_timeout_ms, 60000);
    DEFAULT(send_timeout_ms, 300000);
    DEFAULT(stall_ms, 5000);
    DEFAULT(default_timeout_ms, 60000);
    DEFAULT(ping_ms, 15000);
#undef DEFAULT
}

// Every connection costs descriptors: use what the hard limit allows.
static void lift_descriptors(void) {
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) || lim.rlim_cur == lim.rlim_max)
        return;
    lim.rlim_cur = lim.rlim_max;
    setrlimit(RLIMIT_NOFILE, &lim);
}

static int open_descriptors(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

// Keeps the connections below the descriptors that are left: a thread of libmicrohttpd whose
// accept() fails for want of one, and that has no connection of its own, tries again without end.
static void fit_connections(struct api_server *s) {
    struct rlimit lim;
    int n = (int)s->cfg.nlisteners;
    s->mhd_limit = s->cfg.max_connections * 4; // never met: the oldest idle ones are cut before
    if (getrlimit(RLIMIT_NOFILE, &lim) || lim.rlim_cur > INT_MAX)
        return;
    int left = (int)lim.rlim_cur - open_descriptors() - n * FDS_PER_LISTENER;
    left -= left / 4 < SPARE_FDS ? left / 4 : SPARE_FDS;
    int each = left / n / FDS_PER_CONNECTION;
    if (each < API_WORKERS)
        each = API_WORKERS;
    if (each < s->mhd_limit)
        s->mhd_limit = each;
    int fit = each - (each + 7) / 8; // the rest: cut, but not closed yet
    if (fit >= s->cfg.max_connections)
        return;
    api_log(&s->log, 4, "http.connections limit=%d configured=%d reason=RLIMIT_NOFILE", fit,
            s->cfg.max_connections);
    s->cfg.max_connections = fit;
}

// Event streams stay open: with a place for each of them there would be none for anything else.
static void fit_streams(struct api_server *s) {
    const int most = s->cfg.max_connections > 1 ? s->cfg.max_connections / 2 : 1;
    if (s->cfg.max_sse <= most)
        return;
    api_log(&s->log, 4, "http.streams limit=%d configured=%d reason=connections", most,
            s->cfg.max_sse);
    s->cfg.max_sse = most;
}

static int add_host(struct api_server *s, const char *host) {
    for (size_t i = 0; i < s->nhosts; i++)
        if (!strcmp(s->hosts[i], host))
            return 0;
    char **grown = realloc(s->hosts, (s->nhosts + 1) * sizeof *grown);
    if (!grown)
        return -1;
    s->hosts = grown;
    if (!(s->hosts[s->nhosts] = strdup(host)))
        return -1;
    s->nhosts++;
    return 0;
}

static int add_hosts(struct api_server *s, const char *const *hosts, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (add_host(s, hosts[i]))
            return -1;
    return 0;
}

// The Host values that a listener is known by; *any: it is bound to every address.
static int add_listener_hosts(struct api_server *s, int fd, bool *any) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char host[4][80], ip[INET6_ADDRSTRLEN];
    unsigned port = 0;
    if (getsockname(fd, (struct sockaddr *)&a, &n))
        return 0;
    if (a.ss_family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&a;
        port = ntohs(v4->sin_port);
        *any = v4->sin_addr.s_addr == htonl(INADDR_ANY);
        inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof ip);
        snprintf(host[0], sizeof host[0], "%s:%u", ip, port);
    } else if (a.ss_family == AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a;
        port = ntohs(v6->sin6_port);
        *any = IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
        inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof ip);
        snprintf(host[0], sizeof host[0], "[%s]:%u", ip, port);
    } else {
        return 0;
    }
    snprintf(host[1], sizeof host[1], "127.0.0.1:%u", port);
    snprintf(host[2], sizeof host[2], "localhost:%u", port);
    snprintf(host[3], sizeof host[3], "[::1]:%u", port);
    return add_hosts(s, (const char *const[]){host[0], host[1], host[2], host[3]}, 4);
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
    s->log = (struct api_logger){cb->log, ctx};
    s->cfg = *config;
    fill_limits(&s->cfg);
    lift_descriptors();
    pthread_mutex_init(&s->token_mu, NULL);
    pthread_mutex_init(&s->conn_mu, NULL);
    pthread_mutex_init(&s->gen_mu, NULL);
    s->upload_dir = dup_or_null(config->upload_dir);
    s->version = strdup(config->version ? config->version : "");
    s->cfg.token = s->cfg.tls_cert = s->cfg.tls_key = NULL;
    if (getrandom(&s->id_salt, sizeof s->id_salt, 0) != sizeof s->id_salt)
        s->id_salt = api_now_ns();
    atomic_store(&s->beat_ns, api_now_ns());
    return s;
}

static void server_free(struct api_server *s) {
    api_later_free(s->later);
    api_sse_free(s);
    api_tls_free(s->tls);
    for (size_t i = 0; i < s->nhosts; i++)
        free(s->hosts[i]);
    free(s->hosts);
    api_tokens_free(s->tokens);
    api_durations_free(s->durations);
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
    if (!l->is_unix && add_listener_hosts(s, l->fd, &ctx->any_address)) {
        snprintf(err, n, "out of memory");
        return -1;
    }
    ops[k++] = (struct MHD_OptionItem){MHD_OPTION_LISTEN_SOCKET, l->fd, NULL};
    ops[k++] = (struct MHD_OptionItem){MHD_OPTION_THREAD_POOL_SIZE, API_WORKERS, NULL};
    ops[k++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_LIMIT, s->mhd_limit, NULL};
    // For answers that are not read; conn.c ends the other waits.
    ops[k++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_TIMEOUT,
                                       (s->cfg.send_timeout_ms + 999) / 1000, NULL};
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
    if (config->token && api_tokens_parse(config->token, &s->tokens, err, n))
        return -1;
    snprintf(err, n, "out of memory");
    if (!(s->durations = api_durations_new(api_routes, api_nroutes)) ||
        !(s->later = api_later_new()) || api_sse_create(s) ||
        !(s->openapi = api_openapi_text(s, &s->openapi_len)))
        return -1;
    if (add_hosts(s, config->hosts, config->nhosts))
        return -1;
    fit_connections(s);
    fit_streams(s);
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

// MHD_quiesce_daemon takes the listener from each worker's epoll set, and so does a worker that
// wakes meanwhile. Where the worker was first (ENOENT) it calls its panic function (0.9.75 to
// 1.0.1), and returning from that is undefined. Nothing is held there, so it can be left and called
// again.
static _Thread_local jmp_buf *quiescing;

static void on_panic(void *cls, const char *file, unsigned line, const char *reason) {
    (void)cls;
    if (quiescing && errno == ENOENT)
        longjmp(*quiescing, 1);
    fprintf(stderr, "libmicrohttpd, %s:%u: %s\n", file, line, reason);
    abort();
}

static MHD_socket stop_accepting(struct MHD_Daemon *d) {
    jmp_buf again;
    MHD_set_panic_func(on_panic, NULL);
    if (setjmp(again))
        sched_yield();
    quiescing = &again;
    const MHD_socket fd = MHD_quiesce_daemon(d);
    quiescing = NULL;
    return fd;
}

void api_server_stop(struct api_server *s, int grace_ms) {
    MHD_socket fds[API_MAX_LISTENERS];
    if (!s)
        return;
    for (size_t i = 0; i < s->nlis; i++)
        fds[i] = stop_accepting(s->mhd[i]);
    atomic_store(&s->closing, true);
    const uint64_t until = api_now_ns() + api_ms_ns(grace_ms);
    if (s->sse)
        api_sse_close(s);
    while (api_gen_waiting(s) && api_now_ns() < until)
        sleep_ms(2);
    api_gen_shutdown(s);
    if (s->later)
        api_later_drain(s->later);
    // MHD aborts the process when stopped with a suspended connection: all are resumed by now, and
    // responses get what is left of the grace to leave, a moment at least.
    const uint64_t moment = api_now_ns() + api_ms_ns(LAST_MOMENT_MS);
    while (atomic_load(&s->active) && (api_now_ns() < until || api_now_ns() < moment)) {
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
    struct api_tokens *fresh;
    if (api_tokens_parse(token, &fresh, err, err_size))
        return -1;
    pthread_mutex_lock(&s->token_mu);
    struct api_tokens *old = s->tokens;
    const bool ok = fresh || !old;
    if (ok) {
        api_tokens_inherit(fresh, old);
        s->tokens = fresh;
    }
    pthread_mutex_unlock(&s->token_mu);
    if (!ok) {
        snprintf(err, err_size, "the token is empty; the old one stays");
        return -1;
    }
    api_tokens_free(old);
    api_sse_recheck(s);
    return 0;
}
