// Where driftctl writes what it receives: standard output, devices and pipes directly, regular
// files through symbolic links to where these lead.
#include "api/client/ctl.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_LINKS = 40 };

char *ctl_printf(const char *fmt, ...) {
    char *s;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0) {
        fputs("driftctl: out of memory\n", stderr);
        exit(CTL_REFUSED);
    }
    return s;
}

// "-", or another name of the same file, such as /dev/stdout.
bool ctl_is_stdout(const char *file) {
    struct stat st, out;
    if (!file)
        return false;
    return !strcmp(file, "-") || (!stat(file, &st) && !fstat(STDOUT_FILENO, &out) &&
                                  st.st_dev == out.st_dev && st.st_ino == out.st_ino);
}

bool ctl_is_direct(const char *file) {
    struct stat st;
    return ctl_is_stdout(file) || (!stat(file, &st) && !S_ISREG(st.st_mode));
}

FILE *ctl_open_direct(const char *file, bool binary) {
    if (ctl_is_stdout(file) && binary && isatty(STDOUT_FILENO)) {
        fprintf(stderr, "driftctl: binary data is not written to a terminal; use -o FILE\n");
        return NULL;
    }
    FILE *f = ctl_is_stdout(file) ? stdout : fopen(file, "wbe");
    if (!f)
        fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(file), strerror(errno));
    return f;
}

int ctl_close(FILE *f) {
    if (f != stdout)
        return fclose(f) ? -1 : 0;
    return fflush(f) || ferror(f) ? -1 : 0;
}

char *ctl_target(const char *file) {
    char *path = ctl_printf("%s", file), link[PATH_MAX];
    for (int i = 0; i < MAX_LINKS; i++) {
        ssize_t n = readlink(path, link, sizeof link - 1);
        if (n < 0)
            return path;
        link[n] = '\0';
        const char *slash = strrchr(path, '/');
        char *next = *link == '/' || !slash
                         ? ctl_printf("%s", link)
                         : ctl_printf("%.*s/%s", (int)(slash - path), path, link);
        free(path);
        path = next;
    }
    return path; // a circle: opening it reports ELOOP
}

int ctl_save(struct ctl *c, const char *file, const void *data, size_t n, bool binary) {
    FILE *f = ctl_open_direct(file, binary); // fopen follows links and takes devices as they are
    if (!f)
        return ctl_is_stdout(file) ? CTL_USAGE : CTL_REFUSED;
    bool ok = true;
    if (f == stdout && !binary)
        ctl_put(c, f, data, n);
    else
        ok = !n || fwrite(data, 1, n, f) == n;
    if (ctl_close(f) || !ok) {
        fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(file), strerror(errno));
        return CTL_REFUSED;
    }
    return CTL_OK;
}
