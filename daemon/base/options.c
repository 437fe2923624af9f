// Parser of the daemon's options (options.h).
#include "daemon/base/options.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "engine/config/config.h"

#include <jansson.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind { STR, INT, BOOL, LIST };
struct opt {
    const char *name;
    enum kind kind;
    size_t offset;
    const char *def;
    int64_t ival, min, max;
    const char *doc;
};
static const struct opt table[] = {
#define AT(member) offsetof(struct dd_options, member)
#define OPT_STR(n, m, d, t) {.name = n, .kind = STR, .offset = AT(m), .def = d, .doc = t},
#define OPT_INT(n, m, d, lo, hi, t)                                                                \
    {.name = n, .kind = INT, .offset = AT(m), .ival = d, .min = lo, .max = hi, .doc = t},
#define OPT_BOOL(n, m, t) {.name = n, .kind = BOOL, .offset = AT(m), .doc = t},
#define OPT_LIST(n, m, t) {.name = n, .kind = LIST, .offset = AT(m), .doc = t},
#include "daemon/base/options.def"
};
enum { NOPT = (int)(sizeof table / sizeof *table) };

// Later sources replace earlier ones.
enum source { FROM_DEFAULT, FROM_FILE, FROM_ENV, FROM_FLAG };
struct parse {
    struct dd_options *o;
    enum source from[NOPT];
};

static char **str_at(struct dd_options *o, const struct opt *d) {
    return (char **)((char *)o + d->offset);
}
static int64_t *int_at(struct dd_options *o, const struct opt *d) {
    return (int64_t *)((char *)o + d->offset);
}
static bool *bool_at(struct dd_options *o, const struct opt *d) {
    return (bool *)((char *)o + d->offset);
}
static struct dd_list *list_at(struct dd_options *o, const struct opt *d) {
    return (struct dd_list *)((char *)o + d->offset);
}

static int find(const char *name) {
    for (int i = 0; i < NOPT; i++)
        if (!strcmp(table[i].name, name))
            return i;
    return -1;
}

static int unknown(const char *where, const char *name, const char *const *extra,
                   struct dr_err *err) {
    const char *names[NOPT + 20];
    int n = 0;
    for (; n < NOPT; n++)
        names[n] = table[n].name;
    names[n++] = "config";
    for (; extra && *extra && n < NOPT + 20; extra++)
        names[n++] = *extra;
    const char *near = dr_nearest(name, names, n);
    return dr_fail(err, DR_EINVAL, "%s: unknown option %s%s%s%s", where, name,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static int list_add(struct dd_list *l, const char *where, const char *name, const char *value,
                    struct dr_err *err) {
    if (l->n == DD_LIST_MAX)
        return dr_fail(err, DR_EINVAL, "%s: %s: at most %d values", where, name, DD_LIST_MAX);
    l->v[l->n++] = dd_xstrdup(value);
    return 0;
}

static void list_clear(struct dd_list *l) {
    for (int i = 0; i < l->n; i++)
        free(l->v[i]);
    l->n = 0;
}

static int set_bool(struct parse *p, int i, const char *where, const char *value,
                    struct dr_err *err) {
    bool yes = !strcmp(value, "1") || !strcmp(value, "true") || !strcmp(value, "yes");
    if (!yes && strcmp(value, "0") && strcmp(value, "false") && strcmp(value, "no"))
        return dr_fail(err, DR_EINVAL, "%s: %s: expected true or false, got %.60s", where,
                       table[i].name, value);
    *bool_at(p->o, &table[i]) = yes;
    return 0;
}

static int set(struct parse *p, int i, enum source from, const char *where, const char *value,
               struct dr_err *err) {
    const struct opt *d = &table[i];
    if (p->from[i] > from)
        return 0;
    bool first = p->from[i] < from;
    p->from[i] = from;
    switch (d->kind) {
    case STR:
        free(*str_at(p->o, d));
        *str_at(p->o, d) = dd_xstrdup(value);
        return 0;
    case BOOL:
        return set_bool(p, i, where, value, err);
    case LIST:
        if (first)
            list_clear(list_at(p->o, d));
        return list_add(list_at(p->o, d), where, d->name, value, err);
    case INT:
        break;
    }
    int64_t v;
    if (!dd_parse_int(value, d->min, d->max, &v))
        return dr_fail(err, DR_EINVAL,
                       "%s: %s: expected a whole number from %lld to %lld, got %.60s", where,
                       d->name, (long long)d->min, (long long)d->max, value);
    *int_at(p->o, d) = v;
    return 0;
}

static int from_json(struct parse *p, int i, const char *where, const json_t *v,
                     struct dr_err *err) {
    char num[40];
    if (json_is_array(v) && table[i].kind == LIST) {
        size_t k;
        const json_t *e;
        json_array_foreach(v, k, e) {
            int rc = from_json(p, i, where, e, err);
            if (rc)
                return rc;
        }
        return 0;
    }
    if (json_is_string(v) && table[i].kind != INT)
        return set(p, i, FROM_FILE, where, json_string_value(v), err);
    if (json_is_integer(v) && table[i].kind == INT) {
        snprintf(num, sizeof num, "%lld", (long long)json_integer_value(v));
        return set(p, i, FROM_FILE, where, num, err);
    }
    if (json_is_boolean(v) && table[i].kind == BOOL)
        return set(p, i, FROM_FILE, where, json_is_true(v) ? "true" : "false", err);
    static const char *const want[] = {"a string", "a whole number", "true or false",
                                       "an array of strings"};
    return dr_fail(err, DR_EINVAL, "%s: %s: expected %s", where, table[i].name,
                   want[table[i].kind]);
}

static int read_file(struct parse *p, const char *path, struct dr_err *err) {
    json_error_t je;
    char *text;
    size_t n;
    int rc = dd_read_text(path, 1 << 20, &text, &n, err);
    if (rc)
        return dr_fail_prefix(err, rc, "--config");
    json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
    free(text);
    if (!json_is_object(j)) {
        json_decref(j);
        return dr_fail(err, DR_EINVAL, "%s: line %d: %s", path, je.line,
                       j ? "expected an object" : je.text);
    }
    const char *key;
    json_t *v;
    json_object_foreach(j, key, v) {
        char name[80];
        snprintf(name, sizeof name, "%s", key);
        for (char *c = name; *c; c++)
            *c = *c == '_' ? '-' : *c;
        int i = find(name);
        rc = i < 0 ? unknown(path, key, NULL, err) : from_json(p, i, path, v, err);
        if (rc)
            break;
    }
    json_decref(j);
    return rc;
}

static int read_env(struct parse *p, struct dr_err *err) {
    for (int i = 0; i < NOPT; i++) {
        char name[80];
        snprintf(name, sizeof name, "DRIFTD_%s", table[i].name);
        for (char *c = name; *c; c++)
            *c = *c == '-' ? '_' : (char)(*c >= 'a' && *c <= 'z' ? *c - 32 : *c);
        const char *v = getenv(name);
        if ((!v || !*v) && !strcmp(table[i].name, "data-dir"))
            v = getenv("DRIFTD_DATA"); // its name for everything that reads data
        if (!v || !*v)
            continue;
        int rc = 0;
        if (table[i].kind == LIST) {
            char *copy = dd_xstrdup(v), *save;
            for (char *w = strtok_r(copy, ",", &save); w && !rc; w = strtok_r(NULL, ",", &save))
                rc = set(p, i, FROM_ENV, name, w, err);
            free(copy);
        } else {
            rc = set(p, i, FROM_ENV, name, v, err);
        }
        if (rc)
            return rc;
    }
    return 0;
}

// 0: not one of the verb's own flags; 1: it takes a value; 2: it is a switch ("name!" in the list).
static int extra_kind(const char *const *list, const char *word) {
    size_t n = strlen(word);
    for (; list && *list; list++)
        if (!strncmp(*list, word, n) && (!(*list)[n] || !strcmp(*list + n, "!")))
            return (*list)[n] ? 2 : 1;
    return 0;
}

// Reads the flag at argv[*at] and advances past its value. The verb's own flags hide the table's.
static int read_flag(struct parse *p, int argc, char **argv, int *at, const char *const *extra,
                     dd_extra_fn *fn, void *ctx, struct dr_err *err) {
    char name[80];
    const char *arg = argv[*at] + 2, *eq = strchr(arg, '=');
    snprintf(name, sizeof name, "%.*s", (int)(eq ? (size_t)(eq - arg) : strlen(arg)), arg);
    int i = find(name), own = extra_kind(extra, name);
    bool file = !strcmp(name, "config");
    if (i < 0 && !own && !file)
        return unknown("command line", name, extra, err);
    const char *value = eq ? eq + 1 : NULL;
    if (!value && (own == 2 || (!own && i >= 0 && table[i].kind == BOOL)))
        value = "true";
    if (!value) {
        if (*at + 1 >= argc)
            return dr_fail(err, DR_EINVAL, "command line: --%s needs a value", name);
        value = argv[++*at];
    }
    if (own)
        return fn(ctx, name, value, err);
    if (file) {
        free(p->o->config_file);
        p->o->config_file = dd_xstrdup(value);
        return 0;
    }
    return set(p, i, FROM_FLAG, "command line", value, err);
}

static char *home_dir(const char *xdg, const char *below) {
    const char *x = getenv(xdg), *h = getenv("HOME");
    if (x && *x == '/')
        return dd_printf("%s/driftd", x);
    return h && *h == '/' ? dd_printf("%s/%s/driftd", h, below) : dd_xstrdup("driftd-files");
}

static void fill_paths(struct dd_options *o) {
    const char *sd = getenv("STATE_DIRECTORY");
    if (!*o->state_dir) {
        free(o->state_dir);
        o->state_dir = sd && *sd ? dd_printf("%.*s", (int)strcspn(sd, ":"), sd)
                                 : home_dir("XDG_STATE_HOME", ".local/state");
    }
    if (!*o->data_dir) {
        free(o->data_dir);
        o->data_dir = sd && *sd ? dd_printf("%s/data", o->state_dir)
                                : home_dir("XDG_DATA_HOME", ".local/share");
    }
    const char *cred = getenv("CREDENTIALS_DIRECTORY"); // systemd's LoadCredential=api-token
    if (!*o->token_file && cred && *cred) {
        char *path = dd_printf("%s/api-token", cred);
        if (!access(path, R_OK)) {
            free(o->token_file);
            o->token_file = path;
        } else {
            free(path);
        }
    }
    if (!*o->config_dir) {
        free(o->config_dir);
        o->config_dir = dd_xstrdup(access(DD_CONFIG_DIR, R_OK) ? "configs" : DD_CONFIG_DIR);
    }
}

static int check_words(const struct dd_options *o, struct dr_err *err) {
    if (dd_log_parse(o->log_level) < 0)
        return dr_fail(err, DR_EINVAL, "log-level: expected error, warn, info or debug, got %.60s",
                       o->log_level);
    if (strcmp(o->log_format, "text") && strcmp(o->log_format, "json"))
        return dr_fail(err, DR_EINVAL, "log-format: expected text or json, got %.60s",
                       o->log_format);
    if (strcmp(o->resume, "auto") && strcmp(o->resume, "ask"))
        return dr_fail(err, DR_EINVAL, "resume: expected auto or ask, got %.60s", o->resume);
    if (strcmp(o->precision, "fp32") && strcmp(o->precision, "bf16"))
        return dr_fail(err, DR_EINVAL, "precision: expected fp32 or bf16, got %.60s", o->precision);
    if (!*o->tls_cert != !*o->tls_key)
        return dr_fail(err, DR_EINVAL, "tls-cert and tls-key: one needs the other");
    return 0;
}

int dd_options_parse(int argc, char **argv, const char *const *extra, dd_extra_fn *extra_fn,
                     void *ctx, struct dd_options *out, struct dr_err *err) {
    struct parse p = {.o = out};
    *out = (struct dd_options){0};
    for (int i = 0; i < NOPT; i++) {
        if (table[i].kind == STR)
            *str_at(out, &table[i]) = dd_xstrdup(table[i].def);
        if (table[i].kind == INT)
            *int_at(out, &table[i]) = table[i].ival;
    }
    const char *env_file = getenv("DRIFTD_CONFIG");
    out->config_file = env_file && *env_file ? dd_xstrdup(env_file) : NULL;
    int rc = 0;
    for (int a = 0; a < argc && !rc; a++) {
        if (!strncmp(argv[a], "--", 2) && argv[a][2])
            rc = read_flag(&p, argc, argv, &a, extra, extra_fn, ctx, err);
        else if (argv[a][0] == '-' && argv[a][1])
            rc = unknown("command line", argv[a], extra, err);
        else if (out->nargs == (int)(sizeof out->args / sizeof *out->args))
            rc = dr_fail(err, DR_EINVAL, "command line: too many arguments at %.60s", argv[a]);
        else
            out->args[out->nargs++] = argv[a];
    }
    if (!rc)
        rc = read_env(&p, err);
    if (!rc && out->config_file)
        rc = read_file(&p, out->config_file, err);
    if (!rc)
        rc = check_words(out, err);
    if (rc) {
        dd_options_free(out);
        return rc;
    }
    fill_paths(out);
    return 0;
}

void dd_options_free(struct dd_options *o) {
    for (int i = 0; i < NOPT; i++) {
        if (table[i].kind == STR)
            free(*str_at(o, &table[i]));
        if (table[i].kind == LIST)
            list_clear(list_at(o, &table[i]));
    }
    free(o->config_file);
    *o = (struct dd_options){0};
}

// What the help calls an option's value: the last part of its name, where that says it. man.py has
// the same words.
static void value_word(const struct opt *o, char out[24]) {
    static const char *const words[][2] = {{"listen", "ADDRESS"},  {"autostart", "RECIPE"},
                                           {"resume", "auto|ask"}, {"precision", "fp32|bf16"},
                                           {"import-root", "DIR"}, {"tls-cert", "FILE"},
                                           {"tls-key", "FILE"},    {"log-format", "text|json"}};
    const char *last = strrchr(o->name, '-');
    snprintf(out, 24, "%s",
             o->kind == BOOL  ? ""
             : o->kind == INT ? "N"
             : last           ? last + 1
                              : o->name);
    for (char *p = out; *p; p++)
        *p = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(o->name, words[i][0]))
            snprintf(out, 24, "%s", words[i][1]);
}

void dd_options_help(FILE *f) {
    for (int i = 0; i < NOPT; i++) {
        char flag[64], value[24];
        value_word(&table[i], value);
        snprintf(flag, sizeof flag, "--%s%s%s", table[i].name, *value ? " " : "", value);
        fprintf(f, "  %-26s %s", flag, table[i].doc);
        if (table[i].kind == INT)
            fprintf(f, " (default %lld)", (long long)table[i].ival);
        else if (table[i].kind == STR && *table[i].def)
            fprintf(f, " (default %s)", table[i].def);
        fputc('\n', f);
    }
    fprintf(f, "  %-26s %s\n", "--config FILE", "options from a JSON file");
}
