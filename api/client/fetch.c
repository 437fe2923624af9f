// `driftctl fetch`: data sets from their official places or mirrors, or from a local folder. Each
// file is downloaded into NAME.part, continued where it stopped, checked by MD5 (the checksum that
// its publishers give) and only then renamed. Needs no running daemon.
#include "api/client/ctl.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define ATTEMPTS 5 // in a row without a new byte, per mirror

struct item {
    const char *name, *md5, *md5_inflated; // of the file, of what a .gz holds; NULL: not known
    const char *extracts;                  // a file that unpacking leaves, or NULL
};

struct set {
    const char *name;
    const char *mirrors[4];
    struct item items[5];
};

static const struct set sets[] = {
    {"mnist",
     {"https://ossci-datasets.s3.amazonaws.com/mnist/",
      "https://storage.googleapis.com/cvdf-datasets/mnist/", "http://yann.lecun.com/exdb/mnist/"},
     {{"train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873",
       "6bbc9ace898e44ae57da46a324031adb", NULL},
      {"train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432",
       "a25bea736e30d166cdddb491f175f624", NULL},
      {"t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3",
       "2646ac647ad5339dbf082846283269ea", NULL},
      {"t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c",
       "27ae3e4e09519cfbb04c329615203637", NULL}}},
    {"fashion-mnist",
     {"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
      "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"},
     {{"train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", NULL, NULL},
      {"train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", NULL, NULL},
      {"t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", NULL, NULL},
      {"t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", NULL, NULL}}},
    {"cifar10",
     {"https://www.cs.toronto.edu/~kriz/"},
     {{"cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", NULL, "test_batch.bin"}}},
};

// Hashes a file, or what a .gz holds; hex has room for twice the digest's bytes and the end.
static int digest(const char *path, gnutls_digest_algorithm_t alg, bool inflated, char *hex) {
    unsigned char buf[65536], sum[32];
    gnutls_hash_hd_t h;
    int n;
    gzFile f = gzopen(path, "rbe");
    FILE *raw = inflated ? NULL : fopen(path, "rbe");
    hex[0] = '\0';
    if (!f || (!inflated && !raw) || gnutls_hash_init(&h, alg)) {
        if (f)
            gzclose(f);
        if (raw)
            fclose(raw);
        return -1;
    }
    while ((n = inflated ? gzread(f, buf, sizeof buf) : (int)fread(buf, 1, sizeof buf, raw)) > 0)
        gnutls_hash(h, buf, (size_t)n);
    gnutls_hash_deinit(h, sum);
    gzclose(f);
    if (raw)
        fclose(raw);
    for (unsigned i = 0; i < gnutls_hash_get_len(alg); i++)
        snprintf(hex + 2 * i, 3, "%02x", sum[i]);
    return n < 0 ? -1 : 0;
}

int ctl_md5_file(const char *path, bool inflated, char hex[33]) {
    return digest(path, GNUTLS_DIG_MD5, inflated, hex);
}

int ctl_sha256_file(const char *path, char hex[65]) {
    return digest(path, GNUTLS_DIG_SHA256, false, hex);
}

// A gzip wrapper may differ (other compressor, same contents): either sum will do.
static bool intact(const char *path, const struct item *it) {
    char hex[33];
    if (it->md5 && !ctl_md5_file(path, false, hex) && !strcmp(hex, it->md5))
        return true;
    return it->md5_inflated && !ctl_md5_file(path, true, hex) && !strcmp(hex, it->md5_inflated);
}

static bool exists(const char *path) {
    struct stat st;
    return !stat(path, &st) && st.st_size > 0;
}

static int64_t size_of(const char *path) {
    struct stat st;
    return stat(path, &st) ? 0 : (int64_t)st.st_size;
}

struct get {
    CURL *h;
    FILE *f;
    int64_t start;
    bool tty, failed;
    const char *name;
};

static size_t on_data(char *p, size_t size, size_t n, void *arg) {
    struct get *g = arg;
    long status = 0;
    curl_easy_getinfo(g->h, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 400)
        return size * n;             // an error page is not data
    if (status == 200 && g->start) { // no ranges there: from the beginning
        if (fflush(g->f) || ftruncate(fileno(g->f), 0) || fseeko(g->f, 0, SEEK_SET))
            g->failed = true;
        g->start = 0;
    }
    if (g->failed || fwrite(p, size, n, g->f) != n) {
        g->failed = true;
        return 0;
    }
    return size * n;
}

static int on_progress(void *arg, curl_off_t total, curl_off_t now, curl_off_t a, curl_off_t b) {
    struct get *g = arg;
    char bar[64], have[32], all[32];
    (void)a, (void)b;
    if (g->tty && total > 0) {
        ctl_bar(bar, sizeof bar, 30, (double)(now + g->start) / (double)(total + g->start));
        fprintf(stderr, "\r%s [%s] %s of %s \033[K", g->name, bar,
                ctl_bytes((double)(now + g->start), have, sizeof have),
                ctl_bytes((double)(total + g->start), all, sizeof all));
    }
    return 0;
}

// One attempt at one mirror; continues PART. Returns the HTTP status, or 0 with a curl code.
static long attempt(const char *url, const char *part, const char *name, CURLcode *code) {
    struct get g = {.h = curl_easy_init(), .f = fopen(part, "ab"), .name = name};
    long status = 0;
    char range[32];
    *code = CURLE_WRITE_ERROR;
    if (g.h && g.f) {
        g.tty = ctl_terminal(STDERR_FILENO);
        g.start = size_of(part);
        curl_easy_setopt(g.h, CURLOPT_URL, url);
        ctl_set_proxy(g.h, url, false);
        curl_easy_setopt(g.h, CURLOPT_FOLLOWLOCATION, 1L);
        curl_easy_setopt(g.h, CURLOPT_MAXREDIRS, 5L);
        curl_easy_setopt(g.h, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(g.h, CURLOPT_CONNECTTIMEOUT, 20L);
        curl_easy_setopt(g.h, CURLOPT_LOW_SPEED_LIMIT, 100L);
        curl_easy_setopt(g.h, CURLOPT_LOW_SPEED_TIME, 30L);
        curl_easy_setopt(g.h, CURLOPT_USERAGENT, "driftctl");
        curl_easy_setopt(g.h, CURLOPT_WRITEFUNCTION, on_data);
        curl_easy_setopt(g.h, CURLOPT_WRITEDATA, &g);
        curl_easy_setopt(g.h, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(g.h, CURLOPT_XFERINFODATA, &g);
        curl_easy_setopt(g.h, CURLOPT_NOPROGRESS, 0L);
        if (g.start) {
            snprintf(range, sizeof range, "%lld-", (long long)g.start);
            curl_easy_setopt(g.h, CURLOPT_RANGE, range);
        }
        *code = curl_easy_perform(g.h);
        curl_easy_getinfo(g.h, CURLINFO_RESPONSE_CODE, &status);
    }
    if (g.tty)
        fprintf(stderr, "\r\033[K");
    if (g.f && fclose(g.f))
        *code = CURLE_WRITE_ERROR;
    curl_easy_cleanup(g.h);
    return status;
}

// Tries one mirror until the file is whole and intact, or nothing comes any more.
static int ask_mirror(const char *url, const struct item *it, const char *path, const char *part) {
    bool restarted = false;
    for (int idle = 0; idle < ATTEMPTS; idle++) {
        CURLcode code;
        int64_t before = size_of(part);
        long status = attempt(url, part, it->name, &code);
        if (size_of(part) > before)
            idle = -1; // progress
        if ((!code && (status == 200 || status == 206)) || status == 416) {
            if (intact(part, it))
                return rename(part, path);
            unlink(part);
            if (restarted) {
                fprintf(stderr, "driftctl: %s: the checksum is wrong\n", ctl_safe(url));
                return -1;
            }
            restarted = true; // the part may have been damaged: once more from the beginning
            continue;
        }
        fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(url),
                code ? curl_easy_strerror(code) : "the server refused");
        if ((status >= 400 && status < 500) || code == CURLE_COULDNT_RESOLVE_HOST ||
            code == CURLE_COULDNT_CONNECT)
            return -1; // asking again would not help
        usleep(200000u * (unsigned)(idle + 2));
    }
    return -1;
}

static int from_mirror(const char *mirror, const struct item *it, const char *path,
                       const char *part) {
    bool slash = *mirror && mirror[strlen(mirror) - 1] == '/';
    char *url = ctl_printf("%s%s%s", mirror, slash ? "" : "/", it->name);
    int rc = ask_mirror(url, it, path, part);
    free(url);
    return rc;
}

static int copy_local(const char *dir, const struct item *it, const char *path, const char *part) {
    char *from = ctl_printf("%s/%s", dir, it->name), buf[65536];
    size_t n;
    FILE *in = fopen(from, "rbe"), *out = in ? fopen(part, "wbe") : NULL;
    bool ok = in && out;
    while (ok && (n = fread(buf, 1, sizeof buf, in)) > 0)
        ok = fwrite(buf, 1, n, out) == n;
    if (!ok)
        fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(from), strerror(errno));
    if (in)
        fclose(in);
    if (out && fclose(out))
        ok = false;
    if (ok && !intact(part, it)) {
        fprintf(stderr, "driftctl: %s: the checksum is wrong\n", ctl_safe(from));
        ok = false;
    }
    free(from);
    if (!ok) {
        unlink(part);
        return -1;
    }
    return rename(part, path);
}

static int fetch_item(struct ctl *c, const struct set *set, const struct item *it,
                      const char *dir) {
    char *path = ctl_printf("%s/%s", dir, it->name), *part = ctl_printf("%s.part", path);
    char *left = ctl_printf("%s/%s", dir, it->extracts ? it->extracts : it->name), err[512];
    const char *own = ctl_get(c, "mirror"), *local = ctl_get(c, "from");
    int rc = -1;
    if (exists(path) && intact(path, it))
        rc = 0;
    else if (local)
        rc = copy_local(local, it, path, part);
    for (int i = 0; rc && !local && i < c->nopt; i++) // the user's mirrors, in their order
        if (!strcmp(c->opt[i].name, "mirror"))
            rc = from_mirror(c->opt[i].value, it, path, part);
    for (int i = 0; rc && !local && !own && i < 4 && set->mirrors[i]; i++)
        rc = from_mirror(set->mirrors[i], it, path, part);
    if (!rc && it->extracts && !exists(left) && (rc = ctl_unpack(path, dir, err, sizeof err)))
        fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(path), ctl_safe(err));
    if (!rc && !c->json)
        fprintf(c->out, "%s\n", ctl_safe(path));
    fflush(c->out);
    free(path);
    free(part);
    free(left);
    return rc;
}

static char *data_dir(struct ctl *c) {
    const char *dir = ctl_get(c, "data-dir"), *xdg = getenv("XDG_DATA_HOME");
    const char *home = getenv("HOME");
    if (!dir)
        dir = getenv("DRIFTD_DATA"); // where the daemon looks first
    if (!dir || !*dir)
        dir = getenv("DRIFTD_DATA_DIR");
    if (dir && *dir)
        return ctl_printf("%s", dir);
    return xdg && *xdg ? ctl_printf("%s/driftd", xdg)
                       : ctl_printf("%s/.local/share/driftd", home ? home : ".");
}

static int make_dirs(char *path) {
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = '\0';
            mkdir(path, 0755);
            *p = '/';
        }
    return mkdir(path, 0755) && errno != EEXIST ? -1 : 0;
}

static bool plain_name(const char *s) {
    return *s && *s != '.' && strlen(s) < 128 &&
           strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") ==
               strlen(s);
}

struct own_set {
    struct set set;
    char names[5][160], sums[5][33];
};

// A set of the user's own: up to five lines "MD5  NAME".
static int read_list(const char *file, const char *name, struct own_set *own) {
    char line[400], sum[40], item[160];
    FILE *f = fopen(file, "re");
    int n = 0;
    if (!f) {
        fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(file), strerror(errno));
        return CTL_USAGE;
    }
    own->set.name = name;
    while (fgets(line, sizeof line, f)) {
        if (n == 5 || sscanf(line, "%39s %159s", sum, item) != 2 || strlen(sum) != 32 ||
            !plain_name(item) || !plain_name(name)) {
            fprintf(stderr, "driftctl: %s: expected at most five lines `MD5  NAME`\n",
                    ctl_safe(file));
            fclose(f);
            return CTL_USAGE;
        }
        snprintf(own->names[n], sizeof own->names[n], "%s", item);
        snprintf(own->sums[n], sizeof own->sums[n], "%.32s", sum);
        own->set.items[n] = (struct item){.name = own->names[n], .md5 = own->sums[n]};
        n++;
    }
    fclose(f);
    return 0;
}

static const struct set *find_set(const char *name) {
    const char *names[8] = {0};
    char near[96];
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        names[i] = sets[i].name;
        if (!strcmp(sets[i].name, name))
            return &sets[i];
    }
    ctl_nearest(name, names, near, sizeof near);
    fprintf(stderr, "driftctl: no data set `%s`; there are mnist, fashion-mnist, cifar10%s\n",
            ctl_safe(name), near);
    return NULL;
}

static int fetch_set(struct ctl *c, const struct set *set, char *dir) {
    if (make_dirs(dir)) {
        fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(dir), strerror(errno));
        return CTL_REFUSED;
    }
    for (int i = 0; i < 5 && set->items[i].name; i++)
        if (fetch_item(c, set, &set->items[i], dir))
            return CTL_REFUSED;
    if (c->json) {
        json_t *o = json_pack("{s:s, s:s}", "set", set->name, "dir", dir);
        ctl_json(c, o);
        json_decref(o);
    }
    return CTL_OK;
}

int ctl_cmd_fetch(struct ctl *c) {
    const char *list = ctl_get(c, "list");
    struct own_set own = {0};
    if (list && read_list(list, c->arg[0], &own))
        return CTL_USAGE;
    const struct set *set = list ? &own.set : find_set(c->arg[0]);
    if (!set)
        return CTL_USAGE;
    if (list && !ctl_get(c, "mirror") && !ctl_get(c, "from")) {
        fprintf(stderr, "driftctl fetch: --list needs --mirror or --from\n");
        return CTL_USAGE;
    }
    char *root = data_dir(c), *dir = ctl_printf("%s/%s", root, set->name);
    int rc = fetch_set(c, set, dir);
    free(root);
    free(dir);
    return rc;
}
