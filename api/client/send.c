// Uploads of data sets in parts: a file as it is, a folder as a tar stream that is made on the way
// (the same bytes each time, so that an upload can go on where it was cut off). Called by data.c.
#include "api/client/ctl.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PART = 4 << 20, BLOCK = 1 << 16, TRIES = 6 };

struct sender {
    struct ctl *c;
    const char *name; // of the data set
    char *part;       // [PART]
    size_t n;         // bytes in it
    int64_t at;       // offset of part[0] in the stream
    int64_t received; // what the server has; bytes before it are made and dropped
    int64_t total;    // about; 0: not known
    bool tty;
    int rc; // CTL_*: why it failed
};

static void progress(const struct sender *s) {
    char a[32], b[32], bar[64];
    const double total = s->total > s->received ? (double)s->total : (double)s->received;
    if (!s->tty || !(total > 0))
        return;
    ctl_bar(bar, sizeof bar, 30, (double)s->received / total);
    fprintf(stderr, "\r%s [%s] %s of %s \033[K", ctl_fit(s->name, 30, NULL), bar,
            ctl_bytes((double)s->received, a, sizeof a), ctl_bytes(total, b, sizeof b));
}

static CURLcode put_once(struct sender *s, const char *data, size_t n, struct ctl_reply *r) {
    struct curl_slist *list = NULL;
    struct ctl_buf path = ctl_path("/v1/datasets/", s->name, "/upload");
    char *offset = ctl_printf("%lld", (long long)s->received);
    ctl_query(&path, "offset", offset);
    free(offset);
    memset(r, 0, sizeof *r);
    CURL *h = ctl_handle(s->c, path.s, &list);
    free(path.s);
    if (!h)
        return CURLE_OUT_OF_MEMORY;
    list = curl_slist_append(list, "Content-Type: application/octet-stream");
    list = curl_slist_append(list, "Expect:");
    curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n);
    curl_easy_setopt(h, CURLOPT_POSTFIELDS, data);
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, "PUT");
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)(1000 * s->c->timeout));
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, ctl_on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, ctl_on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, r);
    CURLcode rc = ctl_perform(s->c, h, r, NULL);
    curl_easy_cleanup(h);
    curl_slist_free_all(list);
    return rc;
}

// How far the upload has come; -1: the server does not say.
static int64_t ask_received(struct sender *s) {
    struct ctl_reply r;
    struct ctl_buf path = ctl_path("/v1/datasets/", s->name, "");
    int64_t n = -1;
    if (!ctl_http(s->c, "GET", path.s, NULL, NULL, true, &r) && r.status == 200) {
        json_t *o = json_loadb(r.body.s ? r.body.s : "", r.body.n, 0, NULL);
        const json_t *v = json_object_get(o, "received");
        n = json_is_integer(v) ? json_integer_value(v) : -1;
        json_decref(o);
    }
    ctl_reply_free(&r);
    free(path.s);
    return n;
}

// Sends the part from what the server has on, again after a lost connection.
static int flush_part(struct sender *s) {
    const int64_t end = s->at + (int64_t)s->n;
    for (int i = 0; s->received < end && !s->rc; i++) {
        struct ctl_reply r;
        CURLcode rc = put_once(s, s->part + (s->received - s->at), (size_t)(end - s->received), &r);
        const bool stored = !rc && r.status == 200;
        const bool lost = rc || r.status == 409 || r.status == 503;
        if (stored) {
            s->received = end;
        } else if (ctl_interrupted()) {
            s->rc = CTL_DETACHED;
        } else if (!lost || i + 1 == TRIES) {
            s->rc = rc ? ctl_unreachable(s->c, rc, false) : CTL_REFUSED;
            if (!rc)
                ctl_print_problem(s->c, &r);
        } else { // a restart of the server, another part of this upload, a queue that is full
            usleep(200000u << i);
            const int64_t have = ask_received(s);
            if (have >= s->at && have <= end)
                s->received = have;
        }
        ctl_reply_free(&r);
    }
    s->at = end;
    s->n = 0;
    progress(s);
    return s->rc;
}

static int add(struct sender *s, const char *p, size_t n) {
    while (n && !s->rc) {
        size_t k = PART - s->n < n ? PART - s->n : n;
        memcpy(s->part + s->n, p, k);
        s->n += k;
        p += k;
        n -= k;
        if (s->n == PART)
            flush_part(s);
    }
    return s->rc;
}

static int failed(struct sender *s, const char *file, const char *why) {
    fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(file), ctl_safe(why));
    return s->rc = CTL_REFUSED;
}

// --- a file ---

static int send_file(struct sender *s, const char *file) {
    char block[BLOCK];
    FILE *f = fopen(file, "rbe");
    if (!f || fseeko(f, s->received, SEEK_SET))
        failed(s, file, strerror(errno));
    s->at = s->received;
    for (size_t n; !s->rc && (n = fread(block, 1, sizeof block, f)) > 0;)
        add(s, block, n);
    if (!s->rc && ferror(f))
        failed(s, file, strerror(errno));
    if (f)
        fclose(f);
    return s->rc;
}

// --- a folder ---

static la_ssize_t on_write(struct archive *a, void *arg, const void *p, size_t n) {
    struct sender *s = arg;
    (void)a;
    return add(s, p, n) ? -1 : (la_ssize_t)n;
}

static int by_name(const FTSENT **a, const FTSENT **b) {
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

// Calls fn for each regular file, in the order of names; hidden ones and links are left out.
static int each_file(const char *folder, int (*fn)(void *arg, const FTSENT *e), void *arg,
                     int *links) {
    char *const roots[] = {(char *)(uintptr_t)folder, NULL};
    FTS *t = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
    int rc = t ? 0 : -1;
    for (FTSENT *e; !rc && t && (e = fts_read(t));) {
        const bool hidden = e->fts_level > 0 && e->fts_name[0] == '.';
        if (e->fts_info == FTS_D && hidden)
            fts_set(t, e, FTS_SKIP);
        else if (e->fts_info == FTS_SL || e->fts_info == FTS_SLNONE)
            *links += !hidden;
        else if (e->fts_info == FTS_DNR || e->fts_info == FTS_ERR || e->fts_info == FTS_NS)
            errno = e->fts_errno, rc = -1;
        else if (e->fts_info == FTS_F && !hidden)
            rc = fn(arg, e);
    }
    if (t)
        fts_close(t);
    return rc;
}

struct tar {
    struct sender *s;
    struct archive *a;
    size_t skip; // of each path: the folder itself
};

static int add_data(struct tar *t, int fd, int64_t size, const char *path) {
    char block[BLOCK];
    while (size > 0) {
        ssize_t n = read(fd, block, size < BLOCK ? (size_t)size : sizeof block);
        if (n <= 0)
            return failed(t->s, path, n ? strerror(errno) : "it became shorter while it was read");
        if (archive_write_data(t->a, block, (size_t)n) < 0)
            return t->s->rc ? t->s->rc : failed(t->s, path, archive_error_string(t->a));
        size -= n;
    }
    return 0;
}

static int add_file(void *arg, const FTSENT *file) {
    struct tar *t = arg;
    const char *path = file->fts_path;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st)) {
        failed(t->s, path, strerror(errno));
    } else {
        struct archive_entry *e = archive_entry_new();
        archive_entry_copy_pathname(e, path + t->skip + strspn(path + t->skip, "/"));
        archive_entry_set_filetype(e, AE_IFREG);
        archive_entry_set_perm(e, 0644);
        archive_entry_set_size(e, st.st_size);
        if (archive_write_header(t->a, e) < ARCHIVE_WARN && !t->s->rc)
            failed(t->s, path, archive_error_string(t->a));
        if (!t->s->rc)
            add_data(t, fd, st.st_size, path);
        archive_entry_free(e);
    }
    if (fd >= 0)
        close(fd);
    return t->s->rc;
}

static int send_folder(struct sender *s, const char *folder) {
    struct tar t = {.s = s, .a = archive_write_new(), .skip = strlen(folder)};
    int links = 0;
    if (!t.a)
        return failed(s, folder, "out of memory");
    archive_write_set_format_pax_restricted(t.a);
    archive_write_set_options(t.a, "hdrcharset=BINARY");
    archive_write_set_bytes_per_block(t.a, BLOCK);
    archive_write_set_bytes_in_last_block(t.a, 1);
    if (archive_write_open(t.a, s, NULL, on_write, NULL) != ARCHIVE_OK)
        failed(s, folder, archive_error_string(t.a));
    else if (each_file(folder, add_file, &t, &links) && !s->rc)
        failed(s, folder, strerror(errno));
    if (!s->rc && archive_write_close(t.a) != ARCHIVE_OK && !s->rc)
        failed(s, folder, archive_error_string(t.a));
    if (s->rc)
        archive_write_fail(t.a);
    archive_write_free(t.a);
    if (links && !s->rc)
        fprintf(stderr, "driftctl: %d symbolic link%s in %s left out\n", links,
                links == 1 ? " was" : "s were", ctl_safe(folder));
    return s->rc;
}

// --- what is sent ---

struct sum {
    int64_t files, bytes;
    uint64_t hash;
};

static int sum_up(void *arg, const FTSENT *e) {
    struct sum *s = arg;
    const struct stat *st = e->fts_statp;
    s->files++;
    s->bytes += (int64_t)st->st_size;
    const int64_t facts[] = {(int64_t)st->st_size, (int64_t)st->st_mtim.tv_sec};
    for (const char *p = e->fts_path; *p; p++)
        s->hash = (s->hash ^ (uint8_t)*p) * 0x100000001b3u;
    for (size_t i = 0; i < sizeof facts; i++)
        s->hash = (s->hash ^ ((const uint8_t *)facts)[i]) * 0x100000001b3u;
    return 0;
}

int ctl_describe(const char *path, char out[CTL_SOURCE], int64_t *bytes) {
    struct sum sum = {.hash = 0xcbf29ce484222325u};
    struct stat st;
    int links = 0;
    const char *slash = strrchr(path, '/');
    const char *base = ctl_safe(slash && slash[1] ? slash + 1 : path); // JSON carries UTF-8 only
    if (!stat(path, &st) && S_ISREG(st.st_mode)) {
        *bytes = (int64_t)st.st_size;
        snprintf(out, CTL_SOURCE, "%s, %lld bytes of %lld", base, (long long)st.st_size,
                 (long long)st.st_mtim.tv_sec);
        return 0;
    }
    if (!S_ISDIR(st.st_mode) || each_file(path, sum_up, &sum, &links)) {
        fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(path),
                errno ? strerror(errno) : "neither a folder nor an archive");
        return CTL_REFUSED;
    }
    *bytes = sum.bytes;
    snprintf(out, CTL_SOURCE, "folder %s, %lld files, %016llx", base, (long long)sum.files,
             (unsigned long long)sum.hash);
    return 0;
}

int ctl_send(struct ctl *c, const char *name, const char *path, int64_t received, int64_t *sent) {
    struct stat st;
    struct sender s = {.c = c,
                       .name = name,
                       .part = malloc(PART),
                       .received = received,
                       .tty = ctl_terminal(STDERR_FILENO) && !c->json};
    char what[CTL_SOURCE];
    int rc = s.part ? ctl_describe(path, what, &s.total) : CTL_REFUSED;
    if (!rc && !stat(path, &st))
        rc = S_ISDIR(st.st_mode) ? send_folder(&s, path) : send_file(&s, path);
    if (!rc)
        rc = flush_part(&s);
    if (s.tty)
        fprintf(stderr, "\r\033[K");
    *sent = s.received;
    free(s.part);
    return rc;
}
