// Files over HTTP: downloads that continue a FILE.part and are checked against the server's sha256,
// uploads, and answers of any size.
#include "api/client/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATIENCE_S 300.0 // without a byte; a backup or an import is made before the answer begins
enum { AGAIN = -1 };     // the part belongs to another file: once more from the beginning

struct transfer {
    struct ctl_reply reply;
    CURL *h;
    FILE *f;
    gnutls_hash_hd_t hash; // of what is written directly; NULL: the file is read afterwards
    const char *label;
    uint64_t start; // bytes that were there before
    bool tty, json; // json: the file may be JSON
    int error;      // errno of a failed write
};

// Whether the answer is of a kind that the file may have: not what stands between here and driftd.
static bool wanted(const struct transfer *t) {
    const char *type = t->reply.content_type;
    return *type && !ctl_is_page(&t->reply) && (t->json || strncmp(type, "application/json", 16));
}

static size_t on_file(char *p, size_t size, size_t n, void *arg) {
    struct transfer *t = arg;
    long status = 0;
    curl_easy_getinfo(t->h, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 || status > 299)
        return ctl_on_body(p, size, n, &t->reply);
    if (!wanted(t) || (status == 206 && t->reply.first != t->start))
        return 0;                    // not what was asked for, or not the range
    if (status == 200 && t->start) { // the server sends all of it again
        if (fflush(t->f) || ftruncate(fileno(t->f), 0))
            t->error = errno;
        t->start = 0;
    }
    if (!t->error && fwrite(p, size, n, t->f) != n)
        t->error = errno;
    if (t->error)
        return 0;
    if (t->hash)
        gnutls_hash(t->hash, p, size * n);
    return size * n;
}

static int on_progress(void *arg, curl_off_t total, curl_off_t now, curl_off_t up_total,
                       curl_off_t up_now) {
    struct transfer *t = arg;
    char a[32], b[32], bar[64];
    if (up_total > 0) {
        total = up_total;
        now = up_now;
    }
    if (t->tty && total > 0) {
        double all = (double)total + (double)t->start, done = (double)now + (double)t->start;
        ctl_bar(bar, sizeof bar, 30, done / all);
        fprintf(stderr, "\r%s [%s] %s of %s \033[K", ctl_fit(t->label, 30, NULL), bar,
                ctl_bytes(done, a, sizeof a), ctl_bytes(all, b, sizeof b));
    }
    return ctl_interrupted();
}

static void set_transfer(struct transfer *t, struct ctl *c) {
    t->tty = ctl_terminal(STDERR_FILENO) && !c->json;
    curl_easy_setopt(t->h, CURLOPT_HEADERFUNCTION, ctl_on_header);
    curl_easy_setopt(t->h, CURLOPT_HEADERDATA, &t->reply);
    curl_easy_setopt(t->h, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(t->h, CURLOPT_XFERINFODATA, t);
    if (c->timeout > 0) { // whole seconds, at least one
        curl_easy_setopt(t->h, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(t->h, CURLOPT_LOW_SPEED_TIME, (long)(c->timeout + 0.999));
    }
}

static CURLcode perform(struct ctl *c, struct transfer *t, struct curl_slist *list, FILE *body) {
    curl_easy_setopt(t->h, CURLOPT_HTTPHEADER, list);
    CURLcode rc = ctl_perform(c, t->h, &t->reply, body);
    curl_easy_cleanup(t->h);
    curl_slist_free_all(list);
    if (t->tty)
        fprintf(stderr, "\r\033[K");
    return rc;
}

static int failed(const char *file, int error) {
    fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(file), strerror(error));
    return CTL_REFUSED;
}

// The sha256 that a strong ETag gives; false when it is something else.
static bool etag_sha(const char *etag, char sha[65]) {
    if (*etag != '"' || strspn(etag + 1, "0123456789abcdef") != 64 || etag[65] != '"')
        return false;
    snprintf(sha, 65, "%.64s", etag + 1);
    return true;
}

// GET or POST into t->f. CTL_OK: everything has arrived.
static int transfer(struct ctl *c, struct transfer *t, const char *method, const char *path,
                    const char *etag) {
    struct curl_slist *list = NULL;
    char range[32], line[120];
    ctl_allow_time(c, PATIENCE_S);
    if (!(t->h = ctl_handle(c, path, &list)))
        return ctl_unreachable(c, CURLE_OUT_OF_MEMORY, false);
    if (t->start) {
        snprintf(range, sizeof range, "%llu-", (unsigned long long)t->start);
        snprintf(line, sizeof line, "If-Range: %s", etag);
        curl_easy_setopt(t->h, CURLOPT_RANGE, range);
        list = curl_slist_append(list, line);
    }
    set_transfer(t, c);
    if (!strcmp(method, "POST")) {
        curl_easy_setopt(t->h, CURLOPT_POSTFIELDS, "");
        list = curl_slist_append(list, "Content-Type:");
    }
    curl_easy_setopt(t->h, CURLOPT_WRITEFUNCTION, on_file);
    curl_easy_setopt(t->h, CURLOPT_WRITEDATA, t);
    CURLcode rc = perform(c, t, list, NULL);
    if (t->error || fflush(t->f))
        return failed(t->label, t->error ? t->error : errno);
    if (t->reply.status >= 200 && t->reply.status < 300 && !wanted(t))
        return ctl_not_ours(c, &t->reply, "a file");
    if (t->start && (t->reply.status == 416 || rc == CURLE_WRITE_ERROR))
        return AGAIN;
    return rc ? ctl_unreachable(c, rc, false) : ctl_verdict(c, &t->reply);
}

// Standard output, a device or a pipe: no part, no second attempt, the sum is formed on the way.
static int to_stream(struct ctl *c, const char *method, const char *path, const char *file,
                     bool json) {
    char want[65];
    unsigned char sum[32];
    struct transfer t = {.label = file, .f = ctl_open_direct(file, true), .json = json};
    if (!t.f)
        return ctl_is_stdout(file) ? CTL_USAGE : CTL_REFUSED;
    if (gnutls_hash_init(&t.hash, GNUTLS_DIG_SHA256))
        t.hash = NULL;
    int rc = transfer(c, &t, method, path, "");
    if (t.hash)
        gnutls_hash_deinit(t.hash, sum);
    if (ctl_close(t.f) && !rc)
        rc = failed(file, errno);
    if (!rc && t.hash && etag_sha(t.reply.etag, want)) {
        char have[65];
        for (int i = 0; i < 32; i++)
            snprintf(have + 2 * i, 3, "%02x", sum[i]);
        if (strcmp(have, want)) {
            fprintf(stderr, "driftctl: %s: the sha256 is wrong\n", ctl_safe(file));
            rc = CTL_REFUSED;
        }
    }
    ctl_reply_free(&t.reply);
    return rc;
}

// The part as a regular file of our own at its end; NULL and a message otherwise.
static FILE *open_part(const char *part, uint64_t *size) {
    struct stat st;
    int fd = open(part, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "ab");
    if (!f) {
        failed(part, errno);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        fprintf(stderr, "driftctl: %s: not a regular file\n", ctl_safe(part));
        fclose(f);
        return NULL;
    }
    *size = (uint64_t)st.st_size;
    return f;
}

// How much of a part may be kept, by what the server says of the file now; 0: nothing.
static uint64_t usable(struct ctl *c, const char *path, uint64_t have, struct ctl_reply *head) {
    if (!have || ctl_http(c, "HEAD", path, NULL, NULL, true, head))
        return 0;
    bool known = head->status == 200 && head->total && *head->etag == '"';
    return known && have <= head->total ? have : 0;
}

static int check(const struct transfer *t, const char *part, const char *etag, uint64_t total) {
    char want[65], have[65];
    struct stat st;
    if (stat(part, &st))
        return failed(part, errno);
    bool long_enough = !total || (uint64_t)st.st_size == total;
    bool verified = etag_sha(etag, want);
    if (long_enough && (verified ? !ctl_sha256_file(part, have) && !strcmp(have, want)
                                 : t->start < (uint64_t)st.st_size || !st.st_size))
        return CTL_OK;
    unlink(part);
    if (t->start)
        return AGAIN;
    fprintf(stderr, "driftctl: %s: the %s is wrong\n", ctl_safe(t->label),
            long_enough ? "sha256" : "length");
    return CTL_REFUSED;
}

static int to_file(struct ctl *c, const char *method, const char *path, const char *file, bool json,
                   bool resume) {
    char *target = ctl_target(file), *part = ctl_printf("%s.part", target);
    struct transfer t = {.label = file, .json = json};
    struct ctl_reply head = {0};
    uint64_t have;
    int rc = CTL_REFUSED;
    if ((t.f = open_part(part, &have))) {
        t.start = resume ? usable(c, path, have, &head) : 0;
        if (t.start < have && ftruncate(fileno(t.f), 0))
            rc = failed(part, errno);
        else if (t.start && t.start == head.total)
            rc = CTL_OK; // all of it may be there already
        else
            rc = transfer(c, &t, method, path, head.etag);
        const bool empty = !ftello(t.f) && !t.start;
        if (fclose(t.f) && !rc)
            rc = failed(part, errno);
        if (rc && empty) // refused: nothing to go on from
            unlink(part);
    }
    if (!rc)
        rc = check(&t, part, *t.reply.etag ? t.reply.etag : head.etag,
                   t.reply.total ? t.reply.total : head.total);
    if (!rc && rename(part, target))
        rc = failed(target, errno);
    ctl_reply_free(&t.reply);
    ctl_reply_free(&head);
    free(part);
    free(target);
    return rc;
}

int ctl_download(struct ctl *c, const char *method, const char *path, const char *file, bool json) {
    if (ctl_is_direct(file))
        return to_stream(c, method, path, file, json);
    int rc = to_file(c, method, path, file, json, !strcmp(method, "GET"));
    return rc == AGAIN ? to_file(c, method, path, file, json, false) : rc;
}

int ctl_download_text(struct ctl *c, const char *path, const char *file, bool json) {
    struct ctl_reply r;
    if (!ctl_is_stdout(file) || !isatty(STDOUT_FILENO))
        return ctl_download(c, "GET", path, file, json);
    int rc = ctl_call(c, "GET", path, NULL, NULL, &r);
    if (!rc)
        rc = ctl_save(c, file, r.body.s ? r.body.s : "", r.body.n, false);
    ctl_reply_free(&r);
    return rc;
}

// A file to be sent; NULL and a message where it is none.
static FILE *open_source(const char *file, curl_off_t *size) {
    struct stat st;
    const int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe that nobody writes
    FILE *f = fd < 0 ? NULL : fdopen(fd, "rb");
    if (!f || fstat(fd, &st)) {
        failed(file, errno);
    } else if (!S_ISREG(st.st_mode)) {
        fprintf(stderr, "driftctl: %s: not a regular file\n", ctl_safe(file));
    } else {
        *size = (curl_off_t)st.st_size;
        return f;
    }
    if (f)
        fclose(f);
    return NULL;
}

int ctl_post(struct ctl *c, const char *path, const char *file, struct ctl_reply *out) {
    struct transfer t = {.label = file ? file : "answer"};
    struct curl_slist *list = NULL;
    curl_off_t size = 0;
    memset(out, 0, sizeof *out);
    if (file && !(t.f = open_source(file, &size)))
        return CTL_REFUSED;
    if (file)
        ctl_allow_time(c, PATIENCE_S);
    CURLcode rc = CURLE_OUT_OF_MEMORY;
    if ((t.h = ctl_handle(c, path, &list))) {
        list = curl_slist_append(list,
                                 file ? "Content-Type: application/octet-stream" : "Content-Type:");
        set_transfer(&t, c);
        curl_easy_setopt(t.h, CURLOPT_POST, 1L);
        curl_easy_setopt(t.h, CURLOPT_POSTFIELDS, file ? NULL : "");
        curl_easy_setopt(t.h, CURLOPT_READDATA, t.f);
        curl_easy_setopt(t.h, CURLOPT_POSTFIELDSIZE_LARGE, size);
        curl_easy_setopt(t.h, CURLOPT_WRITEFUNCTION, ctl_on_body);
        curl_easy_setopt(t.h, CURLOPT_WRITEDATA, &t.reply);
        rc = perform(c, &t, list, t.f);
    }
    if (t.f)
        fclose(t.f);
    *out = t.reply;
    if (rc && out->status < 400) // a refusal may come before all has been sent
        return ctl_unreachable(c, rc, false);
    return ctl_verdict(c, out);
}
