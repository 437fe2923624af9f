// Every file of configs/ loads, is named after its file, says what it is for and survives a round
// trip. usage: test-recipes FOLDER FILE...; a .json in FOLDER that is not among FILEs is an error,
// since it would not be installed.
#include "engine/config/config.h"

#include <dirent.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int bad(const char *path, const char *what) {
    printf("%s: %s\n", path, what);
    return 1;
}

static int check(const char *path) {
    struct dr_config c, back;
    struct dr_err err;
    if (dr_config_load(path, &c, &err) != 0)
        return bad(path, err.msg);
    char copy[1024], expected[128];
    snprintf(copy, sizeof copy, "%s", path);
    snprintf(expected, sizeof expected, "%s.json", c.name);
    if (strcmp(basename(copy), expected) != 0)
        return bad(path, "`name` is not the file's name");
    // the reference draws its guidance scales uniformly (method.md 1)
    if (!strcmp(c.name, "mnist") && c.train.alpha_power != 0)
        return bad(path, "train.alpha_power is not 0, the reference's");
    if (!c.about[0])
        return bad(path, "`about` is empty");
    char *text = dr_config_to_json(&c);
    int rc = dr_config_parse(text, strlen(text), path, &back, &err);
    free(text);
    if (rc)
        return bad(path, err.msg);
    return memcmp(&c, &back, sizeof c) == 0 ? 0 : bad(path, "changes in a round trip");
}

static int listed(const char *name, int n, char **paths) {
    for (int i = 0; i < n; i++) {
        const char *slash = strrchr(paths[i], '/');
        if (strcmp(slash ? slash + 1 : paths[i], name) == 0)
            return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    int failed = argc < 3;
    for (int i = 2; i < argc; i++)
        failed += check(argv[i]);
    DIR *d = argc > 1 ? opendir(argv[1]) : NULL;
    if (!d)
        return bad("configs", "no such folder");
    for (struct dirent *e; (e = readdir(d));) {
        const char *dot = strrchr(e->d_name, '.');
        if (dot && strcmp(dot, ".json") == 0 && !listed(e->d_name, argc - 2, argv + 2))
            failed += bad(e->d_name, "is not in configs/meson.build");
    }
    closedir(d);
    return failed != 0;
}
