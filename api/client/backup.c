// `driftctl backup` and `restore`: database and files of a daemon in a folder of their own, and
// back into a state folder on any machine. A backup is read over HTTP from what the server has
// frozen; restoring needs no server.
#include "api/client/ctl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIST "backup.json" // what is in the folder, with sha256: written last

static int failed(const char *what) {
    fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(what), strerror(errno));
    return CTL_REFUSED;
}

// 1: nothing in it, or not there; 0: something; -1: not a folder.
static int is_empty(const char *dir) {
    DIR *d = opendir(dir);
    int n = 0;
    if (!d)
        return errno == ENOENT ? 1 : -1;
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return n == 0;
}

// The folders above a file, below `root`, for `owner` (NULL: whoever makes them).
static int make_folders(const char *root, const char *file, const struct stat *owner) {
    for (const char *p = file; (p = strchr(p, '/')); p++) {
        char *dir = ctl_printf("%s/%.*s", root, (int)(p - file), file);
        const int there = mkdir(dir, 0750) ? errno : 0;
        const bool bad =
            there ? there != EEXIST : owner && chown(dir, owner->st_uid, owner->st_gid);
        if (bad)
            failed(dir);
        free(dir);
        if (bad)
            return CTL_REFUSED;
    }
    return CTL_OK;
}

// A name from elsewhere stays below the folder.
static bool path_ok(const char *p) {
    return *p && *p != '/' && strcmp(p, "..") && strncmp(p, "../", 3) && !strstr(p, "/../") &&
           !(strlen(p) > 2 && !strcmp(p + strlen(p) - 3, "/.."));
}

static int fetch_all(struct ctl *c, json_t *files, const char *dir) {
    size_t i;
    json_t *f;
    int rc = CTL_OK;
    json_array_foreach(files, i, f) {
        const char *path = ctl_str(f, "path");
        char sha[65], *to = ctl_printf("%s/%s", dir, path);
        if (!path_ok(path)) {
            fprintf(stderr, "driftctl: the server names a file that is none: %s\n", ctl_safe(path));
            rc = CTL_REFUSED;
        }
        if (!rc)
            rc = make_folders(dir, path, NULL);
        if (!rc)
            rc = ctl_download(c, "GET", ctl_str(f, "url"), to, false);
        if (!rc && ctl_sha256_file(to, sha))
            rc = failed(to);
        if (!rc)
            json_object_set_new(f, "sha256", json_string(sha));
        json_object_del(f, "url");
        free(to);
        if (rc)
            break;
    }
    return rc;
}

static int report(struct ctl *c, const json_t *list, const char *done, const char *dir) {
    char a[32];
    if (c->json)
        ctl_json(c, list);
    else
        fprintf(c->out, "%s %s: %zu files, %s\n", done, ctl_safe(dir),
                json_array_size(json_object_get(list, "files")),
                ctl_bytes(ctl_num(list, "bytes"), a, sizeof a));
    return CTL_OK;
}

int ctl_cmd_backup(struct ctl *c) {
    const char *dir = c->arg[0];
    struct ctl_reply r = {0};
    if (is_empty(dir) != 1) {
        fprintf(stderr, "driftctl: %s: expected a folder that is empty or does not exist\n",
                ctl_safe(dir));
        return CTL_REFUSED;
    }
    if (mkdir(dir, 0750) && errno != EEXIST)
        return failed(dir);
    ctl_allow_time(c, 600);
    int rc = ctl_call(c, "POST", "/v1/backups", NULL, NULL, &r);
    json_t *o = NULL;
    if (!rc)
        rc = ctl_answer(c, &r, "files", &o);
    if (!rc && !json_array_size(json_object_get(o, "files"))) // the database is one
        rc = ctl_not_ours(c, &r, "files of a backup");
    ctl_reply_free(&r);
    if (rc) {
        json_decref(o);
        return rc;
    }
    rc = fetch_all(c, json_object_get(o, "files"), dir);
    struct ctl_buf path = ctl_path("/v1/backups/", ctl_str(o, "id"), "");
    const int ended = ctl_call(c, "DELETE", path.s, NULL, NULL, &r);
    ctl_reply_free(&r);
    free(path.s);
    char *list = ctl_printf("%s/" LIST, dir);
    if (!rc && json_dump_file(o, list, JSON_INDENT(1)))
        rc = failed(list);
    if (!rc)
        rc = report(c, o, "backed up to", dir);
    free(list);
    json_decref(o);
    return rc ? rc : ended;
}

// --- restore ---

static int copy(const char *from, const char *to, const struct stat *owner) {
    char buf[1 << 16];
    int in = open(from, O_RDONLY | O_CLOEXEC), rc = CTL_OK;
    if (in < 0)
        return failed(from);
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (out < 0 || (owner && fchown(out, owner->st_uid, owner->st_gid)))
        rc = failed(to);
    for (ssize_t n = 1; !rc && n;) {
        if ((n = read(in, buf, sizeof buf)) < 0)
            rc = failed(from);
        for (ssize_t k, at = 0; !rc && at < n; at += k)
            if ((k = write(out, buf + at, (size_t)(n - at))) < 0)
                rc = failed(to);
    }
    if (!rc && fsync(out))
        rc = failed(to);
    if (out >= 0)
        close(out);
    close(in);
    return rc;
}

// Every file is there, and as it was backed up.
static int verify(const char *dir, const json_t *files) {
    size_t i;
    const json_t *f;
    int bad = !json_array_size(files);
    if (bad)
        fprintf(stderr, "driftctl: %s: no complete backup (there is no " LIST ")\n", ctl_safe(dir));
    json_array_foreach(files, i, f) {
        char sha[65], *path = ctl_printf("%s/%s", dir, ctl_str(f, "path"));
        const bool ok = path_ok(ctl_str(f, "path")) && !ctl_sha256_file(path, sha) &&
                        !strcmp(sha, ctl_str(f, "sha256"));
        if (!ok)
            fprintf(stderr, "driftctl: %s: missing, or not as it was backed up\n", ctl_safe(path));
        bad |= !ok;
        free(path);
    }
    return bad ? CTL_REFUSED : CTL_OK;
}

// The database comes last: a folder without one is no state folder yet. Root restores for whom the
// folder belongs to: systemd gives a service what is in its state folder only where the folder
// itself is not the service's yet.
static int put_back(const char *dir, const char *state, const json_t *files) {
    struct stat st, *owner = geteuid() || stat(state, &st) ? NULL : &st;
    int rc = CTL_OK;
    for (int last = 0; last < 2 && !rc; last++) {
        size_t i;
        const json_t *f;
        json_array_foreach(files, i, f) {
            const char *path = ctl_str(f, "path");
            if (rc || last != !strcmp(path, "driftd.sqlite3"))
                continue;
            char *from = ctl_printf("%s/%s", dir, path), *to = ctl_printf("%s/%s", state, path);
            rc = make_folders(state, path, owner);
            if (!rc)
                rc = copy(from, to, owner);
            free(from);
            free(to);
        }
    }
    return rc;
}

// Where driftd looks without an option.
static char *state_dir(const struct ctl *c) {
    const char *given = ctl_get(c, "state-dir"), *xdg = getenv("XDG_STATE_HOME"),
               *home = getenv("HOME");
    if (!given)
        given = getenv("DRIFTD_STATE_DIR");
    if (given && *given)
        return ctl_printf("%s", given);
    if (xdg && *xdg == '/')
        return ctl_printf("%s/driftd", xdg);
    return home && *home == '/' ? ctl_printf("%s/.local/state/driftd", home)
                                : ctl_printf("driftd-files");
}

int ctl_cmd_restore(struct ctl *c) {
    const char *dir = c->arg[0];
    char *state = state_dir(c), *list = ctl_printf("%s/" LIST, dir);
    json_t *o = json_load_file(list, 0, NULL), *files = json_object_get(o, "files");
    int rc = verify(dir, files);
    if (!rc && is_empty(state) != 1) {
        fprintf(
            stderr,
            "driftctl: %s: expected a state folder that is empty or does not exist; stop driftd "
            "and move this one away\n",
            ctl_safe(state));
        rc = CTL_REFUSED;
    }
    if (!rc && *state == '/')
        rc = make_folders("", state + 1, NULL);
    if (!rc && mkdir(state, 0750) && errno != EEXIST)
        rc = failed(state);
    if (!rc)
        rc = put_back(dir, state, files);
    if (!rc)
        rc = report(c, o, "restored to", state);
    json_decref(o);
    free(list);
    free(state);
    return rc;
}
