// Command line: getopt_long over the tables of commands.c, numbers, help, nearest names. Options
// may stand anywhere; those of a command only behind it.
#include "api/client/ctl.h"

#include "api/query.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONG_BASE = 1000 }; // getopt's value of the first long option

const char *ctl_get(const struct ctl *c, const char *name) {
    for (int i = c->nopt - 1; i >= 0; i--)
        if (!strcmp(c->opt[i].name, name))
            return c->opt[i].value;
    return NULL;
}

// A decimal number and nothing else: no spaces, no words such as "inf", no hexadecimal.
static bool parse_number(const char *text, enum ctl_kind kind, double *out) {
    char *end;
    if (!*text || strspn(text, kind == CTL_INT ? "-0123456789" : "+-.0123456789eE") != strlen(text))
        return false;
    errno = 0;
    *out = kind == CTL_INT ? (double)strtoll(text, &end, 10) : strtod(text, &end);
    return end != text && !*end && !errno && isfinite(*out);
}

double ctl_get_num(const struct ctl *c, const char *name, double otherwise) {
    const char *text = ctl_get(c, name);
    double v;
    return text && parse_number(text, CTL_REAL, &v) ? v : otherwise;
}

static const char *nearest(const char *word, const char *const *names) {
    const char *name = NULL;
    for (int best = 4; *names; names++) {
        int d = api_edit_distance(word, *names, 5);
        if (d < best && d < (int)strlen(*names)) {
            best = d;
            name = *names;
        }
    }
    return name;
}

void ctl_nearest(const char *word, const char *const *names, char *buf, size_t n) {
    const char *name = nearest(word, names);
    buf[0] = '\0';
    if (name)
        snprintf(buf, n, "; did you mean `%s`?", name);
}

// The options that hold now: those of the command, then the common ones.
struct options {
    const struct ctl_opt *opt[CTL_MAX_OPTS];
    struct option longs[CTL_MAX_OPTS + 1];
    char shorts[3 * CTL_MAX_OPTS + 4];
    int n;
};

static void add_table(struct options *o, const struct ctl_opt *t) {
    for (; t && t->name && o->n < CTL_MAX_OPTS; t++) {
        char letter[4] = {t->letter, t->arg ? ':' : '\0', '\0', '\0'};
        o->longs[o->n] = (struct option){t->name, t->arg ? required_argument : no_argument, NULL,
                                         LONG_BASE + o->n};
        o->opt[o->n++] = t;
        if (t->letter && !strchr(o->shorts, t->letter))
            strcat(o->shorts, letter);
    }
}

static void collect(struct options *o, const struct ctl_command *command) {
    *o = (struct options){.shorts = "-:"}; // '-': arguments come in order; ':': no messages
    add_table(o, command ? command->opts : NULL);
    add_table(o, ctl_common);
}

static const struct ctl_opt *find(const struct options *o, int value) {
    if (!value) // getopt's word for a long option that it does not know
        return NULL;
    for (int i = 0; i < o->n; i++)
        if (value >= LONG_BASE ? value == LONG_BASE + i : value == o->opt[i]->letter)
            return o->opt[i];
    return NULL;
}

static int unknown_option(const struct ctl *c, const struct options *o, const char *arg) {
    const char *names[CTL_MAX_OPTS + 1] = {0}, *near;
    char word[64];
    for (int i = 0; i < o->n; i++)
        names[i] = o->opt[i]->name;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(arg + 2, "="), arg + 2);
    near = nearest(word, names);
    fprintf(stderr, "driftctl%s%s: unknown option `--%s`%s%s%s%s\n", c->command ? " " : "",
            c->command ? c->command->name : "", ctl_safe(word),
            c->command ? "" : " before the command", near ? "; did you mean `--" : "",
            near ? near : "", near ? "`?" : "");
    return CTL_USAGE;
}

static int bad_number(const struct ctl *c, const struct ctl_opt *o, const char *value) {
    fprintf(stderr, "driftctl%s%s: --%s: expected %s", c->command ? " " : "",
            c->command ? c->command->name : "", o->name,
            o->kind == CTL_INT ? "a whole number" : "a number");
    fprintf(stderr, " from %.16g to %.16g, got `%s`\n", o->lo, o->hi, ctl_safe(value));
    return CTL_USAGE;
}

int ctl_check_utf8(const struct ctl *c, const char *what, const char *value) {
    if (api_valid_utf8(value))
        return 0;
    fprintf(stderr, "driftctl%s%s: %s: expected UTF-8, got `%s`\n", c->command ? " " : "",
            c->command ? c->command->name : "", what, ctl_safe(value));
    return CTL_USAGE;
}

// Whether the value may be a path of this machine: any bytes.
static bool names_file(const struct ctl_opt *o) {
    return strstr(o->arg, "FILE") || strstr(o->arg, "DIR") || strstr(o->arg, "URL");
}

static int add_option(struct ctl *c, const struct ctl_opt *o, const char *value) {
    double v;
    char what[64];
    if (o->kind != CTL_TEXT && (!parse_number(value, o->kind, &v) || v < o->lo || v > o->hi))
        return bad_number(c, o, value);
    snprintf(what, sizeof what, "--%s", o->name);
    if (value && !names_file(o) && ctl_check_utf8(c, what, value))
        return CTL_USAGE;
    if (value && !*value && !strcmp(o->name, "output")) { // a script's variable that is not set
        fprintf(stderr, "driftctl: --output: expected a name, got an empty one\n");
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
    fprintf(stderr, "driftctl: unknown command `%s`%s\n", ctl_safe(name), near);
    return CTL_USAGE;
}

static int argument(struct ctl *c, const char *word) {
    if (!c->command)
        return set_command(c, word);
    if (c->narg < (int)(sizeof c->arg / sizeof *c->arg))
        c->arg[c->narg] = word;
    c->narg++;
    return 0;
}

// The word that held the option getopt_long has just returned. getopt_long takes a prefix for the
// whole name; a name must be spelt out here, so that a new option never changes what a script
// means.
static bool spelt_out(const struct ctl_opt *o, char **argv) {
    const char *word = argv[optind - 1];
    if (o->arg && optarg == word)
        word = argv[optind - 2];
    return strlen(o->name) == strcspn(word + 2, "=") &&
           !strncmp(o->name, word + 2, strlen(o->name));
}

static int option(struct ctl *c, const struct options *o, int k, char **argv) {
    const struct ctl_opt *hit = find(o, k == ':' || k == '?' ? optopt : k);
    const char *word = argv[optind - 1];
    if (k == '?' && hit) {
        fprintf(stderr, "driftctl: --%s takes no value\n", hit->name);
        return CTL_USAGE;
    }
    if (k == '?' && optopt) {
        fprintf(stderr, "driftctl: unknown option `-%c`\n", isprint(optopt) ? optopt : '?');
        return CTL_USAGE;
    }
    if (k == '?')
        return unknown_option(c, o, word);
    if (k == ':') {
        fprintf(stderr, "driftctl: --%s needs a value (%s)\n", hit->name, hit->arg);
        return CTL_USAGE;
    }
    if (k >= LONG_BASE && !spelt_out(hit, argv))
        return unknown_option(c, o, hit->arg && optarg == word ? argv[optind - 2] : word);
    return add_option(c, hit, optarg);
}

int ctl_parse(struct ctl *c, int argc, char **argv) {
    struct options o;
    int rc = 0, k;
    collect(&o, NULL);
    while (!rc && (k = getopt_long(argc, argv, o.shorts, o.longs, NULL)) != -1) {
        const struct ctl_command *before = c->command;
        rc = k == 1 ? argument(c, optarg) : option(c, &o, k, argv);
        if (c->command != before)
            collect(&o, c->command);
    }
    for (; !rc && optind < argc; optind++) // behind "--"
        rc = argument(c, argv[optind]);
    if (rc || !c->command || ctl_get(c, "help") || ctl_get(c, "version"))
        return rc;
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
                 "4 job stopped, 5 job interrupted, 6 job paused. Options of a command: driftctl "
                 "help COMMAND.\n");
}
