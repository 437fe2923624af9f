// Starting, asking and killing a driftd process (client.h).
#include "tests/daemon/client.h"

#include "daemon/base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOCALHOST "Host: localhost\r\n"
enum { FLAGS_MAX = 24, ANSWER_MAX = 1 << 24, TIMEOUT_S = 60 };

void daemon_exec(struct daemon *d, const char *const *args) {
    char log[300];
    const char *argv[FLAGS_MAX] = {d->binary};
    for (int n = 1; *args && n < FLAGS_MAX - 1; n++)
        argv[n] = *args++;
    snprintf(log, sizeof log, "%s/log", d->dir);
    d->pid = fork();
    if (d->pid)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL); // a test that fails leaves no daemon behind
    int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    execv(d->binary, (char **)argv);
    _exit(127);
}

void daemon_start(struct daemon *d, const char *const *flags) {
    char own[3][300];
    const char *args[FLAGS_MAX] = {own[0], own[1], own[2], "--threads=1", "--generate-threads=1"};
    snprintf(own[0], 300, "--state-dir=%s/s", d->dir);
    snprintf(own[1], 300, "--config-dir=%s", d->dir);
    snprintf(own[2], 300, "--listen=unix:%s/sock", d->dir);
    for (int n = 5; flags && *flags && n < FLAGS_MAX - 1; n++)
        args[n] = *flags++;
    daemon_exec(d, args);
}

int daemon_end(struct daemon *d, int sig) {
    int status = 0;
    if (d->pid <= 0)
        return 0;
    kill(d->pid, sig);
    while (waitpid(d->pid, &status, 0) < 0 && errno == EINTR)
        ;
    d->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

bool daemon_wait_ready(struct daemon *d) {
    for (int i = 0; i < TIMEOUT_S * 200; i++) {
        struct answer a;
        int status = ask_http(d, &a, "GET", "/livez", NULL, NULL, 0);
        answer_free(&a);
        if (status == 200)
            return true;
        if (waitpid(d->pid, NULL, WNOHANG) == d->pid) {
            d->pid = 0;
            return false;
        }
        usleep(5000);
    }
    return false;
}

bool daemon_says(const struct daemon *d, const char *word) {
    char path[300], *text;
    struct dr_err err;
    snprintf(path, sizeof path, "%s/log", d->dir);
    if (dd_read_file(path, ANSWER_MAX, &text, NULL, &err))
        return false;
    bool yes = strstr(text, word) != NULL;
    free(text);
    return yes;
}

void answer_free(struct answer *a) {
    free(a->head);
    *a = (struct answer){0};
}

static bool send_all(int fd, const void *data, size_t n) {
    for (const char *p = data; n;) {
        ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
        if (w <= 0)
            return false;
        p += w;
        n -= (size_t)w;
    }
    return true;
}

// Whole: the head has ended and, where it says a length, so much of a body has come.
static void parse(struct answer *a, size_t got) {
    char *blank = memmem(a->head, got, "\r\n\r\n", 4);
    if (!blank || got < 12 || strncmp(a->head, "HTTP/1.1 ", 9))
        return;
    a->body = blank + 4;
    a->size = got - (size_t)(a->body - a->head);
    *blank = 0;
    const char *len = strcasestr(a->head, "\r\nContent-Length: ");
    if (!len || strtoull(len + 18, NULL, 10) == a->size)
        a->status = atoi(a->head + 9);
}

static void patience(int fd) {
    struct timeval t = {.tv_sec = TIMEOUT_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

int ask_socket(int fd, struct answer *a, const char *method, const char *path, const char *headers,
               const void *body, size_t size) {
    char head[2000];
    size_t cap = 1 << 16, got = 0;
    *a = (struct answer){.head = dd_xcalloc(cap + 1, 1)};
    patience(fd);
    int n = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\n%sConnection: close\r\nContent-Length: %zu\r\n%s\r\n",
                     method, path, headers && !strncmp(headers, "Host:", 5) ? "" : LOCALHOST, size,
                     headers ? headers : "");
    // A body that is refused early still has an answer.
    if (send_all(fd, head, (size_t)n) && (send_all(fd, body, size) || size)) {
        for (ssize_t r; (r = recv(fd, a->head + got, cap - got, 0)) > 0;) {
            got += (size_t)r;
            if (got < cap)
                continue;
            if (cap >= ANSWER_MAX)
                break;
            char *more = realloc(a->head, 4 * cap + 1);
            if (!more)
                abort();
            a->head = more;
            cap *= 4;
        }
    }
    close(fd);
    a->head[got] = 0;
    parse(a, got);
    return a->status;
}

int unix_dial(const struct daemon *d) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if ((size_t)snprintf(un.sun_path, sizeof un.sun_path, "%s/sock", d->dir) >= sizeof un.sun_path)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof un)) {
        close(fd);
        return -1;
    }
    patience(fd);
    return fd;
}

int ask_http(const struct daemon *d, struct answer *a, const char *method, const char *path,
             const char *headers, const void *body, size_t size) {
    const int fd = unix_dial(d);
    *a = (struct answer){0};
    return fd < 0 ? 0 : ask_socket(fd, a, method, path, headers, body, size);
}

int tcp_dial(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a)) {
        close(fd);
        return -1;
    }
    patience(fd);
    return fd;
}

int tcp_listen(int *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&a, n) || listen(fd, 16) ||
        getsockname(fd, (struct sockaddr *)&a, &n)) {
        close(fd);
        return -1;
    }
    *port = ntohs(a.sin_port);
    return fd;
}

json_t *answer_json(const struct answer *a) {
    return a->body ? json_loadb(a->body, a->size, 0, NULL) : NULL;
}
