// Unpacks the regular files of a .tar.gz into one folder, by their last path component only, so
// that no archive can write elsewhere. For `driftctl fetch cifar10`. Format: POSIX ustar.
#include "api/client/ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define MAX_FILE (1LL << 30)

static int64_t octal(const char *s, size_t n) {
    int64_t v = 0;
    size_t i = 0;
    while (i < n && s[i] == ' ')
        i++;
    for (; i < n && s[i] >= '0' && s[i] <= '7'; i++)
        v = v * 8 + (s[i] - '0');
    return i < n && s[i] != '\0' && s[i] != ' ' ? -1 : v;
}

static bool checksum_ok(const char *block) {
    int64_t sum = 0;
    for (int i = 0; i < 512; i++)
        sum += i >= 148 && i < 156 ? ' ' : (unsigned char)block[i];
    return sum == octal(block + 148, 8);
}

static int copy_out(gzFile in, int64_t size, const char *path, char *err, size_t n) {
    char block[512];
    FILE *out = path ? fopen(path, "wbe") : NULL;
    bool ok = out || !path;
    if (!ok)
        snprintf(err, n, "%s: %s", path, strerror(errno));
    for (int64_t left = size; ok && left > 0; left -= 512) {
        size_t want = left < 512 ? (size_t)left : 512;
        if (gzread(in, block, 512) != 512) {
            snprintf(err, n, "the archive is cut off");
            ok = false;
        } else if (out && fwrite(block, 1, want, out) != want) {
            snprintf(err, n, "%s: %s", path, strerror(errno));
            ok = false;
        }
    }
    if (out && fclose(out) && ok) {
        snprintf(err, n, "%s: %s", path, strerror(errno));
        ok = false;
    }
    return ok ? 0 : -1;
}

static int entry(gzFile in, const char *block, const char *dir, char *err, size_t n) {
    char name[101], part[4200], path[4200];
    int64_t size = octal(block + 124, 12);
    bool regular = block[156] == '0' || block[156] == '\0';
    if (!checksum_ok(block) || size < 0 || size > MAX_FILE) {
        snprintf(err, n, "the archive is damaged");
        return -1;
    }
    snprintf(name, sizeof name, "%.100s", block);
    const char *base = strrchr(name, '/') ? strrchr(name, '/') + 1 : name;
    if (!regular || !*base || *base == '.')
        return copy_out(in, size, NULL, err, n);
    snprintf(part, sizeof part, "%s/%s.part", dir, base);
    snprintf(path, sizeof path, "%s/%s", dir, base);
    if (copy_out(in, size, part, err, n)) {
        unlink(part);
        return -1;
    }
    if (rename(part, path)) {
        snprintf(err, n, "%s: %s", path, strerror(errno));
        return -1;
    }
    return 0;
}

int ctl_untar(const char *archive, const char *dir, char *err, size_t n) {
    char block[512];
    int rc = 0, k;
    gzFile in = gzopen(archive, "rbe");
    if (!in) {
        snprintf(err, n, "%s", strerror(errno));
        return -1;
    }
    while (!rc && (k = gzread(in, block, 512)) == 512 && block[0])
        rc = entry(in, block, dir, err, n);
    if (!rc && k != 512) {
        snprintf(err, n, "the archive is cut off");
        rc = -1;
    }
    gzclose(in);
    return rc;
}
