// Clocks, paths and files (util.h).
#include "daemon/base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

int64_t dd_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t dd_wall_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

double dd_seconds(void) {
    return (double)dd_now_ns() * 1e-9;
}

int dd_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *held, int64_t until_ns) {
    struct timespec t = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    return pthread_cond_clockwait(c, held, CLOCK_MONOTONIC, &t);
}

int dd_path(char out[DD_PATH_MAX], struct dr_err *err, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, DD_PATH_MAX, fmt, ap);
    va_end(ap);
    return n >= 0 && n < DD_PATH_MAX
               ? 0
               : dr_fail(err, DR_EINVAL, "path too long: %.80s... (%d bytes)", out, n);
}

int dd_mkdirs(const char *path, struct dr_err *err) {
    char buf[DD_PATH_MAX];
    if (dd_path(buf, err, "%s", path))
        return DR_EINVAL;
    for (char *p = buf + 1;; p++) {
        if (*p && *p != '/')
            continue;
        char c = *p;
        *p = 0;
        if (mkdir(buf, 0750) && errno != EEXIST)
            return dr_fail(err, DR_EIO, "cannot create folder %s: %s", buf, strerror(errno));
        if (!c)
            break;
        *p = c;
    }
    struct stat st;
    if (stat(path, &st) || !S_ISDIR(st.st_mode))
        return dr_fail(err, DR_EIO, "%s is not a folder", path);
    return 0;
}

int dd_mkdir_for(const char *path, struct dr_err *err) {
    char buf[DD_PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return 0;
    if (dd_path(buf, err, "%.*s", (int)(slash - path), path))
        return DR_EINVAL;
    return dd_mkdirs(buf, err);
}

static int write_all(int fd, const char *p, size_t n) {
    while (n) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return -1;
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

static int not_written(const char *path, int e, struct dr_err *err) {
    return dr_fail(err, e == ENOSPC || e == EFBIG || e == EDQUOT ? DR_ENOSPC : DR_EIO,
                   "cannot write %s: %s", path, strerror(e));
}

int dd_write_file(const char *path, const void *data, size_t n, struct dr_err *err) {
    char tmp[DD_PATH_MAX];
    if (dd_path(tmp, err, "%s.tmp%d", path, (int)getpid()))
        return DR_EINVAL;
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return dr_fail(err, errno == ENOSPC ? DR_ENOSPC : DR_EIO, "cannot create %s: %s", tmp,
                       strerror(errno));
    int e = write_all(fd, data, n) || fsync(fd) ? errno : 0;
    if (close(fd) && !e)
        e = errno;
    if (!e && rename(tmp, path))
        e = errno;
    if (e) {
        unlink(tmp);
        return not_written(path, e, err);
    }
    return 0;
}

bool dd_is_stdout(const char *path) {
    struct stat st, out;
    return !strcmp(path, "-") || (!stat(path, &st) && !fstat(STDOUT_FILENO, &out) &&
                                  st.st_dev == out.st_dev && st.st_ino == out.st_ino);
}

bool dd_is_direct(const char *path) {
    struct stat st;
    return dd_is_stdout(path) || (!stat(path, &st) && !S_ISREG(st.st_mode));
}

// flags: O_CREAT for a file that is not there.
static int write_direct(const char *path, int flags, const void *data, size_t n,
                        struct dr_err *err) {
    const bool out = dd_is_stdout(path);
    const int fd = out ? STDOUT_FILENO : open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | flags, 0640);
    int e = fd < 0 || write_all(fd, data, n) ? errno : 0;
    if (fd >= 0 && !out && close(fd) && !e)
        e = errno;
    return e ? not_written(path, e, err) : 0;
}

int dd_write_output(const char *path, const void *data, size_t n, struct dr_err *err) {
    struct stat st;
    if (dd_is_direct(path))
        return write_direct(path, 0, data, n, err);
    char *target = realpath(path, NULL);
    if (!target && !lstat(path, &st)) // a link to a file that is still to come
        return write_direct(path, O_CREAT, data, n, err);
    const int rc = dd_write_file(target ? target : path, data, n, err);
    free(target);
    return rc;
}

int dd_sync_folder(const char *path, struct dr_err *err) {
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd)
                 ? dr_fail(err, DR_EIO, "cannot write %s: %s", path, strerror(errno))
                 : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

int64_t dd_free_bytes(const char *path) {
    struct statvfs v;
    return statvfs(path, &v) ? -1 : (int64_t)(v.f_bavail * v.f_frsize);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f) {
    (void)st, (void)type, (void)f;
    remove(path);
    return 0;
}

void dd_remove_tree(const char *path) {
    enum { OPEN_FOLDERS = 8 };
    nftw(path, remove_one, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
}

int dd_read_file(const char *path, size_t max, char **out, size_t *n, struct dr_err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not hang us
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) {
        int e = errno;
        if (fd >= 0)
            close(fd);
        return dr_fail(err, e == ENOENT ? DR_ENOENT : DR_EIO, "cannot read %s: %s", path,
                       strerror(e));
    }
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > max) {
        close(fd);
        return dr_fail(err, DR_EFORMAT, "%s: not a regular file of at most %zu bytes", path, max);
    }
    size_t size = (size_t)st.st_size, got = 0;
    char *p = malloc(size + 1);
    while (p && got < size) {
        ssize_t r = read(fd, p + got, size - got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            break;
        got += (size_t)r;
    }
    close(fd);
    if (!p)
        return dr_fail(err, DR_ENOMEM, "%s: out of memory", path);
    p[got] = 0;
    *out = p;
    if (n)
        *n = got;
    return 0;
}

int dd_read_text(const char *path, size_t max, char **out, size_t *n, struct dr_err *err) {
    const int rc = dd_read_file(path, max, out, n, err);
    if (!rc && *n >= 3 && !memcmp(*out, "\xef\xbb\xbf", 3)) {
        *n -= 3;
        memmove(*out, *out + 3, *n + 1);
    }
    return rc;
}

char *dd_printf(const char *fmt, ...) {
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0)
        abort();
    return s;
}

void *dd_xcalloc(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p)
        abort();
    return p;
}

char *dd_xstrdup(const char *s) {
    return s ? dd_printf("%s", s) : NULL;
}

void dd_trim_text(char *text) {
    char *to = text;
    for (const char *p = text; *p;) {
        const unsigned char lead = (unsigned char)*p;
        const size_t n = lead < 0x80 ? 1 : lead < 0xc0 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        size_t have = 1;
        while (have < n && ((unsigned char)p[have] & 0xc0) == 0x80)
            have++;
        if (have == n) {
            memmove(to, p, n);
            to += n;
        }
        p += have;
    }
    *to = 0;
}

bool dd_is_utf8(const char *text) {
    json_t *j = json_string(text);
    json_decref(j);
    return j != NULL;
}

void dd_sound_text(char *text) {
    if (dd_is_utf8(text))
        return;
    dd_trim_text(text);
    for (; !dd_is_utf8(text); text++)
        *text = (unsigned char)*text < 0x80 ? *text : '?';
}

bool dd_parse_int(const char *text, int64_t lo, int64_t hi, int64_t *out) {
    char *end = NULL;
    errno = 0;
    const bool digits = text && *text && strspn(text, "-0123456789") == strlen(text);
    long long v = digits ? strtoll(text, &end, 10) : 0;
    if (!end || *end || errno || v < lo || v > hi)
        return false;
    *out = v;
    return true;
}
