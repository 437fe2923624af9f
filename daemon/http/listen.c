// Opening listening sockets (listen.h).
#include "daemon/http/listen.h"

#include "daemon/base/notify.h"
#include "daemon/base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 1024, LOCK_TRIES_PER_S = 50, LOCK_TRIES = 2 * LOCK_TRIES_PER_S };

void dd_listen_close(struct dd_listeners *l) {
    for (int i = 0; i < l->n; i++)
        close(l->l[i].fd);
    l->n = 0;
}

void dd_listen_unlink(struct dd_listeners *l) {
    for (int i = 0; i < l->nfiles; i++) {
        struct stat st;
        const struct dd_socket_file *f = &l->file[i];
        if (!lstat(f->path, &st) && st.st_dev == f->dev && st.st_ino == f->ino)
            unlink(f->path);
    }
    l->nfiles = 0;
}

static bool is_local(const struct sockaddr *a) {
    if (a->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24) == 127;
    if (a->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
    return a->sa_family == AF_UNIX;
}

static int add(struct dd_listeners *out, int fd, bool allowed, const char *tls, const char *what,
               struct dr_err *err) {
    union {
        struct sockaddr a;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    } s = {0};
    socklen_t len = sizeof s;
    if (getsockname(fd, &s.a, &len)) {
        close(fd);
        return dr_fail(err, DR_EINVAL, "listen: %s: not a socket: %s", what, strerror(errno));
    }
    if (!is_local(&s.a) && !allowed) {
        close(fd);
        return dr_fail(err, DR_EINVAL,
                       "listen: %s is open to other machines: pass --token-file or --insecure",
                       what);
    }
    if (out->n == DD_MAX_LISTENERS) {
        close(fd);
        return dr_fail(err, DR_EINVAL, "listen: at most %d sockets", DD_MAX_LISTENERS);
    }
    char host[INET6_ADDRSTRLEN] = "";
    bool un = s.a.sa_family == AF_UNIX;
    if (s.a.sa_family == AF_INET)
        inet_ntop(AF_INET, &s.v4.sin_addr, host, sizeof host);
    else if (s.a.sa_family == AF_INET6)
        inet_ntop(AF_INET6, &s.v6.sin6_addr, host, sizeof host);
    if (!out->url[0] && un)
        snprintf(out->url, sizeof out->url, "unix:%s", s.un.sun_path);
    else if (!out->url[0])
        snprintf(out->url, sizeof out->url,
                 s.a.sa_family == AF_INET6 ? "%s://[%s]:%d" : "%s://%s:%d", *tls ? "https" : "http",
                 host, ntohs(s.a.sa_family == AF_INET6 ? s.v6.sin6_port : s.v4.sin_port));
    out->l[out->n++] = (struct api_listener){.fd = fd, .is_unix = un};
    return 0;
}

// Locks the folder of a socket, so that of two processes that find a stale file one replaces it and
// the other finds it in use. *out: -1 where the folder cannot be opened; bind() then says why.
static int lock_folder(const char *path, int *out, struct dr_err *err) {
    char *copy = dd_xstrdup(path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(copy);
    *out = fd;
    for (int i = 0; fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK; i++) {
        if (i == LOCK_TRIES) {
            return dr_fail(err, DR_EIO, "listen: unix:%s: another process locks its folder", path);
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000000 / LOCK_TRIES_PER_S}, NULL);
    }
    return 0;
}

// 0: nobody listens there; what a killed process left is removed.
static int claim_path(const struct sockaddr_un *a, struct dr_err *err) {
    struct stat st;
    if (lstat(a->sun_path, &st) || !S_ISSOCK(st.st_mode))
        return 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return dr_fail(err, DR_EIO, "listen: unix:%s: %s", a->sun_path, strerror(errno));
    bool stale = connect(fd, (const struct sockaddr *)a, sizeof *a) && errno == ECONNREFUSED;
    close(fd);
    if (!stale)
        return dr_fail(err, DR_EIO, "listen: unix:%s: in use by another process", a->sun_path);
    unlink(a->sun_path);
    return 0;
}

static int bind_unix(const struct sockaddr_un *a, struct dd_listeners *l, int *out,
                     struct dr_err *err) {
    struct stat st = {0};
    int rc = claim_path(a, err), fd = -1, e = 0;
    if (rc)
        return rc;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)a, sizeof *a))
        e = errno;
    else if (chmod(a->sun_path, 0660) || listen(fd, BACKLOG) || lstat(a->sun_path, &st)) {
        e = errno;
        unlink(a->sun_path);
    }
    if (e) {
        if (fd >= 0)
            close(fd);
        return dr_fail(err, DR_EIO, "listen: unix:%s: %s", a->sun_path, strerror(e));
    }
    struct dd_socket_file *f = &l->file[l->nfiles++];
    memcpy(f->path, a->sun_path, sizeof f->path);
    f->dev = st.st_dev;
    f->ino = st.st_ino;
    *out = fd;
    return 0;
}

static int open_unix(const char *path, struct dd_listeners *l, int *out, struct dr_err *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int lock = -1;
    if (!*path || strlen(path) >= sizeof a.sun_path)
        return dr_fail(err, DR_EINVAL, "listen: unix:%.60s: expected a path of 1 to %zu bytes",
                       path, sizeof a.sun_path - 1);
    memcpy(a.sun_path, path, strlen(path));
    int rc = lock_folder(path, &lock, err);
    if (!rc)
        rc = bind_unix(&a, l, out, err);
    if (lock >= 0)
        close(lock);
    return rc;
}

// A number up to 65535, and nothing else: getaddrinfo() takes more of it.
static bool port_ok(const char *s) {
    size_t n = strspn(s, "0123456789");
    return n >= 1 && n <= 5 && !s[n] && atoi(s) <= 65535;
}

static int open_tcp(const char *spec, int *out, struct dr_err *err) {
    char host[256];
    const char *colon = strrchr(spec, ':');
    if (!colon || (size_t)(colon - spec) >= sizeof host || !port_ok(colon + 1))
        return dr_fail(err, DR_EINVAL,
                       "listen: %.80s: expected ADDR:PORT, with a port up to 65535, or unix:PATH",
                       spec);
    snprintf(host, sizeof host, "%.*s", (int)(colon - spec), spec);
    char *h = host;
    size_t n = strlen(h);
    if (n > 1 && h[0] == '[' && h[n - 1] == ']') {
        h[n - 1] = 0;
        h++;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *ai = NULL;
    int g = getaddrinfo(*h ? h : NULL, colon + 1, &hints, &ai);
    if (g)
        return dr_fail(err, DR_EINVAL, "listen: %.80s: %s", spec, gai_strerror(g));
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, e = 0;
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (ai->ai_family == AF_INET6)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    }
    if (fd < 0 || bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, BACKLOG))
        e = errno;
    freeaddrinfo(ai);
    if (e) {
        if (fd >= 0)
            close(fd);
        return dr_fail(err, DR_EIO, "listen: %.80s: %s", spec, strerror(e));
    }
    *out = fd;
    return 0;
}

int dd_listen_open(const struct dd_options *o, bool have_token, struct dd_listeners *out,
                   struct dr_err *err) {
    *out = (struct dd_listeners){0};
    bool allowed = have_token || o->insecure;
    int rc = 0, inherited = dd_listen_fds();
    for (int i = 0; i < inherited && !rc; i++)
        rc = add(out, 3 + i, allowed, o->tls_cert, "a socket from systemd", err);
    for (int i = 0; i < o->listen.n && !rc; i++) {
        const char *spec = o->listen.v[i];
        int fd = -1;
        rc = strncmp(spec, "unix:", 5) ? open_tcp(spec, &fd, err)
                                       : open_unix(spec + 5, out, &fd, err);
        if (!rc)
            rc = add(out, fd, allowed, o->tls_cert, spec, err);
    }
    if (!rc && !out->n) {
        int fd = -1;
        rc = open_tcp("127.0.0.1:8080", &fd, err);
        if (!rc)
            rc = add(out, fd, true, o->tls_cert, "127.0.0.1:8080", err);
    }
    if (rc) {
        dd_listen_close(out);
        dd_listen_unlink(out);
    }
    return rc;
}
