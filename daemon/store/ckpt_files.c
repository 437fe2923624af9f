// Names, listing and rotation of checkpoint files (ckpt_files.h).
#include "daemon/store/ckpt_files.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/store/ckpt_sums.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void dd_ckpt_path(const char *dir, int64_t step, char *out, size_t size) {
    snprintf(out, size, "%s/step-%08lld.safetensors", dir, (long long)step);
}

int64_t dd_ckpt_step(const char *name) {
    static const char head[] = "step-", tail[] = ".safetensors";
    char digits[24];
    size_t n = strlen(name), h = sizeof head - 1, t = sizeof tail - 1;
    int64_t step;
    if (n <= h + t || n - h - t >= sizeof digits || strncmp(name, head, h) != 0 ||
        strcmp(name + n - t, tail) != 0)
        return -1;
    memcpy(digits, name + h, n - h - t);
    digits[n - h - t] = 0;
    return dd_parse_int(digits, 0, INT64_MAX, &step) ? step : -1;
}

static int cannot_list(const char *dir, struct dr_err *err) {
    return dr_fail(err, DR_EIO, "%s: cannot read the folder: %s", dir, strerror(errno));
}

static int by_step(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int dd_ckpt_list(const char *dir, struct dd_ckpt_list *out, struct dr_err *err) {
    *out = (struct dd_ckpt_list){0};
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT ? 0 : cannot_list(dir, err);
    int cap = 0;
    for (;;) {
        errno = 0; // an error and the end look alike
        const struct dirent *e = readdir(d);
        if (!e)
            break;
        int64_t step = dd_ckpt_step(e->d_name);
        if (step < 0)
            continue;
        if (out->n == cap) {
            cap = cap ? 2 * cap : 16;
            int64_t *p = realloc(out->step, (size_t)cap * sizeof *p);
            if (!p)
                abort();
            out->step = p;
        }
        out->step[out->n++] = step;
    }
    const int rc = errno ? cannot_list(dir, err) : 0;
    closedir(d);
    if (rc)
        dd_ckpt_list_free(out);
    else if (out->n)
        qsort(out->step, (size_t)out->n, sizeof *out->step, by_step);
    return rc;
}

void dd_ckpt_list_free(struct dd_ckpt_list *l) {
    free(l->step);
    *l = (struct dd_ckpt_list){0};
}

void dd_ckpt_rotate(const char *dir, const struct dr_checkpoint_config *c, int64_t newest,
                    bool (*let_go)(void *ctx, const char *path), void *ctx) {
    struct dd_ckpt_list l;
    struct dr_err why = {0};
    char q[600];
    if (dd_ckpt_list(dir, &l, &why))
        dd_log(DR_LOG_WARN, "checkpoints.rotate", "reason=%s", dd_log_quote(why.msg, q, sizeof q));
    int n = l.n;
    while (n && l.step[n - 1] > newest)
        n--;
    for (int i = 0; i < n - c->keep_last; i++) {
        if (c->keep_every > 0 && l.step[i] % c->keep_every == 0)
            continue;
        char path[DD_PATH_MAX];
        dd_ckpt_path(dir, l.step[i], path, sizeof path);
        // Written down first: a process that ends between the two leaves a file too many, which the
        // next rotation takes, and never a row without its file.
        if (!let_go || let_go(ctx, path))
            unlink(path);
    }
    dd_ckpt_list_free(&l);
}

void dd_ckpt_sweep(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        const char *end = strstr(e->d_name, ".tmp");
        if (!strncmp(e->d_name, "step-", 5) && end && !end[4 + strspn(end + 4, "0123456789")])
            unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
}

int dd_ckpt_set_aside(const char *dir, struct dr_err *err) {
    struct dd_ckpt_list l;
    char to[DD_PATH_MAX], path[DD_PATH_MAX], there[DD_PATH_MAX];
    int rc = dd_ckpt_list(dir, &l, err);
    if (!rc)
        rc = dd_path(to, err, "%s/earlier-%lld", dir, (long long)(dd_wall_us() / 1000000));
    if (!rc && l.n)
        rc = dd_mkdirs(to, err);
    for (int i = 0; i < l.n && !rc; i++) {
        dd_ckpt_path(dir, l.step[i], path, sizeof path);
        dd_ckpt_path(to, l.step[i], there, sizeof there);
        if (rename(path, there))
            rc = dr_fail(err, DR_EIO, "cannot move %s out of the way: %s", path, strerror(errno));
        else
            rc = dd_ckpt_sum_move(path, there, err);
    }
    if (l.n && !rc)
        dd_log(DR_LOG_WARN, "checkpoints.set_aside", "n=%d to=%s", l.n, to);
    dd_ckpt_list_free(&l);
    return rc;
}
