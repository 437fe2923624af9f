// Command line: options after the command in any order, help, nearest names.
#include "api/client/ctl.h"

#include "api/query.h"

#include <stdlib.h>
#include <string.h>

const char *ctl_get(const struct ctl *c, const char *name) {
    for (int i = c->nopt - 1; i >= 0; i--)
        if (!strcmp(c->opt[i].name, name))
            return c->opt[i].value;
    return NULL;
}

void ctl_nearest(const char *word, const char *const *names, char *buf, size_t n) {
    int best = 4;
    buf[0] = '\0';
    for (; *names; names++) {
        int d = api_edit_distance(word, *names, 5);
        if (d < best && d < (int)strlen(*names)) {
            best = d;
            snprintf(buf, n, "; did you mean `%s`?", *names);
        }
    }
}

static const struct ctl_opt *find(const struct ctl_opt *o, const char *name, size_t n,
                                  char letter) {
    for (; o && o->name; o++)
        if ((letter && o->letter == letter) ||
            (!letter && strlen(o->name) == n && !strncmp(o->name, name, n)))
            return o;
    return NULL;
}

static int unknown_option(const struct ctl *c, const char *name) {
    const char *names[CTL_MAX_OPTS] = {0};
    char near[96], word[64];
    int n = 0;
    for (const struct ctl_opt *o = c->command->opts; o && o->name && n < CTL_MAX_OPTS - 8; o++)
        names[n++] = o->name;
    for (const struct ctl_opt *o = ctl_common; o->name; o++)
        names[n++] = o->name;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(name, "="), name);
    ctl_nearest(word, names, near, sizeof near);
    fprintf(stderr, "driftctl %s: unknown option `--%s`%s\n", c->command->name, word, near);
    return CTL_USAGE;
}

static int add(struct ctl *c, const struct ctl_opt *o, const char *value, int *i, int argc,
               char **argv) {
    if (o->arg && !value) {
        if (*i + 1 >= argc) {
            fprintf(stderr, "driftctl: --%s needs a value (%s)\n", o->name, o->arg);
            return CTL_USAGE;
        }
        value = argv[++*i];
    } else if (!o->arg && value) {
        fprintf(stderr, "driftctl: --%s takes no value\n", o->name);
        return CTL_USAGE;
    }
    if (c->nopt == CTL_MAX_OPTS) {
        fprintf(stderr, "driftctl: more than %d options\n", CTL_MAX_OPTS);
        return CTL_USAGE;
    }
    c->opt[c->nopt].name = o->name;
    c->opt[c->nopt++].value = value ? value : "";
    return 0;
}

static int long_option(struct ctl *c, int *i, int argc, char **argv) {
    const char *name = argv[*i] + 2, *eq = strchr(name, '=');
    size_t n = eq ? (size_t)(eq - name) : strlen(name);
    const struct ctl_opt *o = c->command ? find(c->command->opts, name, n, 0) : NULL;
    if (!o)
        o = find(ctl_common, name, n, 0);
    if (!o && c->command)
        return unknown_option(c, name);
    if (!o) {
        fprintf(stderr, "driftctl: unknown option `--%s` before the command\n", name);
        return CTL_USAGE;
    }
    return add(c, o, eq ? eq + 1 : NULL, i, argc, argv);
}

static int short_option(struct ctl *c, int *i, int argc, char **argv) {
    char letter = argv[*i][1];
    const struct ctl_opt *o = c->command ? find(c->command->opts, NULL, 0, letter) : NULL;
    if (!o)
        o = find(ctl_common, NULL, 0, letter);
    if (!o) {
        fprintf(stderr, "driftctl: unknown option `-%c`\n", letter);
        return CTL_USAGE;
    }
    return add(c, o, argv[*i][2] ? argv[*i] + 2 : NULL, i, argc, argv);
}

static int set_command(struct ctl *c, const char *name) {
    const char *names[64] = {0};
    char near[96];
    int n = 0;
    for (const struct ctl_command *k = ctl_commands; k->name; k++) {
        names[n++] = k->name;
        if (!strcmp(k->name, name)) {
            c->command = k;
            return 0;
        }
    }
    ctl_nearest(name, names, near, sizeof near);
    fprintf(stderr, "driftctl: unknown command `%s`%s\n", name, near);
    return CTL_USAGE;
}

int ctl_parse(struct ctl *c, int argc, char **argv) {
    bool options = true;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        int rc = 0;
        if (options && !strcmp(a, "--"))
            options = false;
        else if (options && a[0] == '-' && a[1] == '-')
            rc = long_option(c, &i, argc, argv);
        else if (options && a[0] == '-' && a[1])
            rc = short_option(c, &i, argc, argv);
        else if (!c->command)
            rc = set_command(c, a);
        else if (c->narg < 8)
            c->arg[c->narg++] = a;
        if (rc)
            return rc;
    }
    if (!c->command || ctl_get(c, "help"))
        return 0;
    if (c->narg < c->command->min_args || c->narg > c->command->max_args) {
        fprintf(stderr, "usage: driftctl %s %s\n", c->command->name, c->command->args);
        return CTL_USAGE;
    }
    return 0;
}

static void print_options(const struct ctl_opt *o, FILE *out) {
    for (; o && o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, "%s%c%s--%s%s%s", o->letter ? "-" : "  ",
                 o->letter ? o->letter : ' ', o->letter ? ", " : " ", o->name, o->arg ? " " : "",
                 o->arg ? o->arg : "");
        fprintf(out, "  %-28s %s\n", left, o->help);
    }
}

void ctl_help(const struct ctl_command *cmd, FILE *out) {
    if (cmd) {
        fprintf(out, "usage: driftctl %s %s%s[options]\n\n%s\n\n", cmd->name, cmd->args,
                *cmd->args ? " " : "", cmd->help);
        print_options(cmd->opts, out);
        print_options(ctl_common, out);
        return;
    }
    fprintf(out, "usage: driftctl COMMAND [options]\n\n");
    for (const struct ctl_command *k = ctl_commands; k->name; k++)
        fprintf(out, "  %-12s %-10s %s\n", k->name, k->args, k->help);
    fprintf(out, "\n");
    print_options(ctl_common, out);
    fprintf(out, "\nExit status: 0 done, 1 refused or failed, 2 usage, 3 server unreachable,\n"
                 "4 job stopped, 5 job interrupted. `driftctl help COMMAND` tells more.\n");
}
