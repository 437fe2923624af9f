// Which class and split each picture belongs to, and the order of the samples (see pictures.h for
// the rules). Called once per import, with everything decoded.
#include "engine/data/pictures_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FEW(part, whole) ((part)*10 <= (whole)) // strays do not change what a folder is

bool pic_utf8(const char *s) {
    for (const uint8_t *p = (const uint8_t *)s; *p;) {
        const int more = *p < 0x80       ? 0
                         : *p >> 5 == 6  ? 1
                         : *p >> 4 == 14 ? 2
                         : *p >> 3 == 30 ? 3
                                         : -1;
        uint32_t v = more < 1 ? *p : *p & (0x3fu >> more);
        if (more < 0)
            return false;
        for (int k = 1; k <= more; k++) {
            if (p[k] >> 6 != 2)
                return false;
            v = v << 6 | (p[k] & 63u);
        }
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        if (v < least[more] || v > 0x10ffff || v >> 11 == 27)
            return false;
        p += more + 1;
    }
    return true;
}

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

int pic_natural(const char *a, const char *b) {
    const char *x = a, *y = b;
    while (*x && *y) {
        if (digit(*x) && digit(*y)) {
            while (*x == '0' && digit(x[1]))
                x++;
            while (*y == '0' && digit(y[1]))
                y++;
            size_t n = strspn(x, "0123456789"), m = strspn(y, "0123456789");
            int c = n != m ? (n < m ? -1 : 1) : memcmp(x, y, n);
            if (c)
                return c;
            x += n;
            y += m;
        } else if (*x == *y) {
            x++, y++;
        } else if (*x == '/' || *y == '/') {
            return *x == '/' ? -1 : 1; // a folder before what continues its name
        } else {
            return (uint8_t)*x < (uint8_t)*y ? -1 : 1;
        }
    }
    if (*x || *y)
        return *x ? 1 : -1;
    return strcmp(a, b); // 01 and 1
}

static int by_path(const void *a, const void *b) {
    const struct pic_entry *x = a, *y = b;
    const bool out_x = x->slot < 0, out_y = y->slot < 0;
    if (out_x != out_y)
        return out_x - out_y;
    const int c = pic_natural(x->path, y->path);
    return c ? c : (x->slot > y->slot) - (x->slot < y->slot);
}

// train, test or val; -1: no split's name.
static int split_of(const char *path) {
    static const struct {
        const char *name;
        int split;
    } names[] = {{"train", 0}, {"training", 0}, {"test", 1},      {"testing", 1},
                 {"val", 2},   {"valid", 2},    {"validation", 2}};
    const size_t n = strcspn(path, "/");
    for (size_t i = 0; i < DR_COUNT(names) && path[n]; i++)
        if (strlen(names[i].name) == n && !strncasecmp(path, names[i].name, n))
            return names[i].split;
    return -1;
}

// The length of folders around everything. One in which pictures lie is a class, unless it has the
// name of a split: a split that is alone there says nothing.
static size_t wrapping(const struct pic_entry *e, int64_t n) {
    size_t strip = 0;
    for (;;) {
        const char *rest = e->path + strip;
        const size_t len = strcspn(rest, "/") + 1;
        int64_t flat = 0;
        if (!strchr(rest, '/'))
            return strip;
        for (int64_t i = 0; i < n; i++) {
            if (strncmp(e[i].path + strip, rest, len) != 0) // before it all are the same
                return strip;
            flat += !strchr(e[i].path + strip + len, '/');
        }
        if (!FEW(flat, n) && split_of(rest) < 0)
            return strip;
        strip += len;
    }
}

struct names {
    char **name;
    int64_t n, room;
    int32_t *slot; // by hash: 1 + its number, 0: free
    int64_t slots; // a power of two, at least twice n
};

static int by_name(const void *a, const void *b) {
    return pic_natural(*(char *const *)a, *(char *const *)b);
}

// The slot that has the name, or the free one where it belongs. There are slots.
static int64_t slot_of(const struct names *c, const char *name, size_t len) {
    uint64_t at = dr_fnv1a(DR_FNV1A_START, name, len);
    for (;; at++) {
        const int64_t s = (int64_t)(at & (uint64_t)(c->slots - 1));
        const char *k = c->slot[s] ? c->name[c->slot[s] - 1] : NULL;
        if (!k || (strlen(k) == len && !memcmp(k, name, len)))
            return s;
    }
}

static bool grow_names(struct names *c) {
    const int64_t room = c->room ? 2 * c->room : 64;
    char **p = realloc(c->name, (size_t)room * sizeof *p);
    if (!p)
        return false;
    c->name = p;
    int32_t *slot = calloc((size_t)(2 * room), sizeof *slot);
    if (!slot)
        return false;
    free(c->slot);
    c->slot = slot;
    c->slots = 2 * room;
    c->room = room;
    for (int64_t k = 0; k < c->n; k++)
        slot[slot_of(c, c->name[k], strlen(c->name[k]))] = (int32_t)(k + 1);
    return true;
}

// The number of a class by its name.
static int64_t class_of(struct names *c, const char *name, size_t len) {
    if (c->n == c->room && !grow_names(c))
        return -1;
    const int64_t s = slot_of(c, name, len);
    if (c->slot[s])
        return c->slot[s] - 1;
    if (!(c->name[c->n] = strndup(name, len)))
        return -1;
    c->slot[s] = (int32_t)++c->n;
    return c->n - 1;
}

// What the paths say, before classes are numbered.
struct paths {
    struct pic_entry *e;
    int64_t n;
    size_t strip;
    bool splits, classed; // the first folder is a split; then come class folders
    int test;             // the split that tests: 1 test, 2 val, -1: none
};

static const char *below(const struct paths *p, const struct pic_entry *e) {
    const char *rel = e->path + p->strip;
    if (p->splits && split_of(rel) >= 0)
        rel = strchr(rel, '/') + 1;
    return rel;
}

static void look(struct paths *p) {
    int64_t of[3] = {0}, inside = 0, classed = 0;
    p->strip = wrapping(p->e, p->n);
    p->test = -1;
    for (int64_t i = 0; i < p->n; i++) {
        const int s = split_of(p->e[i].path + p->strip);
        if (s >= 0)
            of[s]++;
    }
    // Beside one of them alone, much that is elsewhere makes it a class called train.
    p->splits = of[0] && (of[1] || of[2] || FEW(p->n - of[0], p->n));
    if (p->splits)
        p->test = of[1] ? 1 : of[2] ? 2 : -1;
    for (int64_t i = 0; i < p->n; i++) {
        if (p->splits && split_of(p->e[i].path + p->strip) < 0)
            continue; // it is left out
        inside++;
        classed += strchr(below(p, &p->e[i]), '/') != NULL;
    }
    p->classed = !FEW(classed, inside);
}

static int leave_out(struct dr_import *im, struct pic_entry *e, const char *why) {
    e->slot = -1;
    return import_skip(im, e->path, false, "%s", why);
}

// Split and class (its number in order of appearance) of every picture.
static int assign(struct dr_import *im, const struct paths *p, struct names *c) {
    for (int64_t i = 0; i < p->n; i++) {
        struct pic_entry *e = &p->e[i];
        const char *rel = below(p, e), *slash = strchr(rel, '/');
        const int split = p->splits ? split_of(e->path + p->strip) : 0;
        int rc = 0;
        if (i && !strcmp(e->path, e[-1].path))
            rc = leave_out(im, e, "a second file of this name");
        else if (split < 0)
            rc = leave_out(im, e, "it lies beside the folders train and test");
        else if (split == 2 && p->test == 1)
            rc = leave_out(im, e, "the folder val is not used beside a folder test");
        else if (p->classed && !slash)
            rc = leave_out(im, e, "it lies beside the folders of the classes");
        if (rc)
            return rc;
        if (e->slot < 0)
            continue;
        e->split = split > 0;
        const int64_t at =
            p->classed ? class_of(c, rel, (size_t)(slash - rel)) : class_of(c, "all", 3);
        if (c->n > im->o.max_classes)
            return dr_fail(im->err, DR_EINVAL, "%.300s has more than %lld classes", im->source,
                           (long long)im->o.max_classes);
        if (at < 0)
            return dr_fail(im->err, DR_ENOMEM, "no memory for the classes");
        e->label = (int32_t)at;
    }
    return 0;
}

// What the rules of the folders do with many pictures at once. They follow the shape of the whole,
// which one folder too many can change.
static int note_shape(struct dr_import *im, const struct paths *p) {
    const char *first_out = NULL, *first_in = NULL;
    int64_t out = 0, in = 0; // outside of the splits; in folders although there are no classes
    for (int64_t i = 0; i < p->n; i++) {
        const char *path = p->e[i].path;
        if (p->splits && split_of(path + p->strip) < 0) {
            first_out = out++ ? first_out : path;
        } else if (!p->classed && strchr(below(p, &p->e[i]), '/')) {
            first_in = in++ ? first_in : path;
        }
    }
    int rc = 0;
    if (out)
        rc = import_note(im,
                         "%lld pictures lie beside the folders train and test and are left out; "
                         "the first is %.200s",
                         (long long)out, first_out);
    if (!rc && in)
        rc = import_note(im,
                         "most pictures lie in no class folder: all are one class, also the %lld "
                         "that lie in folders; the first of these is %.200s",
                         (long long)in, first_in);
    return rc;
}

// Class folders in which there is no picture that could be read.
static int find_empty(struct dr_import *im, const struct paths *p, const struct names *c) {
    int rc = 0;
    for (int64_t i = 0; i < im->folders.n && p->classed && !rc; i++) {
        const char *name = im->folders.e[i].path;
        if (strlen(name) <= p->strip || strncmp(name, p->e->path, p->strip) != 0)
            continue;
        name += p->strip;
        if (p->splits) { // TRAIN/CLASS
            const int split = split_of(name);
            if (split < 0 || (split == 2 && p->test == 1))
                continue;
            name = strchr(name, '/') + 1;
        }
        const bool found = !*name || strchr(name, '/') ||
                           (c->slots > 0 && c->slot[slot_of(c, name, strlen(name))]);
        if (!found)
            rc =
                import_note(im, "folder %.200s holds no picture that could be read: no class of it",
                            im->folders.e[i].path);
        if (!rc && !found && im->o.refuse_bad)
            rc = dr_fail(im->err, DR_EFORMAT, "folder %.200s holds no picture that could be read",
                         im->folders.e[i].path);
    }
    return rc;
}

static int by_label(const void *a, const void *b) {
    const struct pic_entry *x = a, *y = b;
    const bool out_x = x->slot < 0, out_y = y->slot < 0;
    if (out_x != out_y)
        return out_x - out_y;
    return x->label != y->label ? (x->label < y->label ? -1 : 1) : by_path(a, b);
}

// Classes in their natural order. Those without a picture to train on are left out.
static int number_classes(struct dr_import *im, const struct paths *p, struct names *c) {
    int64_t *train = calloc((size_t)c->n + 1, sizeof *train),
            *to = calloc((size_t)c->n + 1, sizeof *to);
    struct {
        char *name; // first, for by_name
        int64_t old;
    } *sorted = calloc((size_t)c->n + 1, sizeof *sorted);
    int rc = train && to && sorted ? 0 : dr_fail(im->err, DR_ENOMEM, "no memory for the classes");
    for (int64_t k = 0; k < c->n && !rc; k++) {
        sorted[k].name = c->name[k];
        sorted[k].old = k;
    }
    if (!rc)
        qsort(sorted, (size_t)c->n, sizeof *sorted, by_name);
    for (int64_t i = 0; i < p->n && !rc; i++)
        if (p->e[i].slot >= 0)
            train[p->e[i].label] += !p->e[i].split;
    int64_t next = 0;
    for (int64_t k = 0; k < c->n && !rc; k++) {
        const int64_t old = sorted[k].old;
        to[old] = train[old] ? next : -1;
        if (!train[old])
            rc = import_note(im, "class %.200s has no picture to train on and is left out",
                             sorted[k].name);
        else
            sorted[next++] = sorted[k];
    }
    for (int64_t i = 0; i < p->n && !rc; i++)
        if (p->e[i].slot >= 0) {
            p->e[i].label = (int32_t)to[p->e[i].label];
            if (p->e[i].label < 0)
                rc = leave_out(im, &p->e[i], "its class has no picture to train on");
        }
    struct dr_import_report *r = im->report;
    r->class = rc ? NULL : calloc((size_t)next + 1, sizeof *r->class);
    for (int64_t k = 0; k < next && r->class && !rc; k++, r->classes++)
        if (!(r->class[k].name = strdup(sorted[k].name)))
            break;
    if (!rc && r->classes < next)
        rc =
            dr_fail(im->err, DR_ENOMEM, "no memory for the names of %lld classes", (long long)next);
    free(train);
    free(to);
    free(sorted);
    return rc;
}

// A seeded share of each class, never all of it; e is sorted by class.
static void take_test_share(struct dr_import *im, struct pic_entry *e, int64_t n) {
    for (int64_t from = 0, to; from < n; from = to) {
        for (to = from; to < n && e[to].label == e[from].label;)
            to++;
        const int64_t m = to - from;
        const int64_t k = DR_MIN((int64_t)(im->o.test_share * (double)m + 0.5), m - 1);
        struct dr_rng g;
        dr_rng_init(&g, im->o.seed, DR_STREAM_DATA, ((uint64_t)1 << 41) + (uint64_t)e[from].label);
        for (int64_t i = 0, left = k; i < m && left > 0; i++) { // selection sampling
            e[from + i].split = dr_rng_uniform(&g) * (double)(m - i) < (double)left;
            left -= e[from + i].split;
        }
    }
}

static int by_order(const void *a, const void *b) {
    const struct pic_entry *x = a, *y = b;
    const bool out_x = x->slot < 0, out_y = y->slot < 0;
    if (out_x != out_y)
        return out_x - out_y;
    if (x->split != y->split)
        return x->split < y->split ? -1 : 1;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return (x->label > y->label) - (x->label < y->label);
}

// The k-th of each class, then the next: the first N samples are balanced.
static void interleave(struct pic_entry *e, int64_t n) {
    int64_t at[2] = {0};
    for (int64_t i = 0; i < n; i++) {
        if (!i || e[i].label != e[i - 1].label)
            at[0] = at[1] = 0;
        e[i].order = at[e[i].split]++;
    }
}

static int lay_out_pictures(struct dr_import *im) {
    struct paths p = {.e = im->list.e};
    struct names c = {0};
    if (im->list.n)
        qsort(p.e, (size_t)im->list.n, sizeof *p.e, by_path);
    while (p.n < im->list.n && p.e[p.n].slot >= 0)
        p.n++;
    const struct dr_import_report *r = im->report;
    if (!p.n && im->misfit) // it was to be CIFAR
        return dr_fail(im->err, DR_EFORMAT, "%s", im->misfit);
    if (!p.n && r->nskip)
        return dr_fail(im->err, DR_EFORMAT,
                       "%.200s: none of its %lld files could be read as a picture; %.60s: %.150s",
                       im->source, (long long)r->skipped, r->skip[0].name, r->skip[0].reason);
    if (!p.n)
        return dr_fail(im->err, DR_EFORMAT, "%.300s: there is no picture in it", im->source);
    look(&p);
    im->report->own_test = p.test >= 0;
    int rc = assign(im, &p, &c);
    if (!rc)
        rc = note_shape(im, &p);
    if (!rc)
        rc = find_empty(im, &p, &c);
    if (!rc)
        rc = number_classes(im, &p, &c);
    for (int64_t k = 0; k < c.n; k++)
        free(c.name[k]);
    free(c.name);
    free(c.slot);
    if (rc)
        return rc;
    qsort(p.e, (size_t)p.n, sizeof *p.e, by_label);
    while (p.n && p.e[p.n - 1].slot < 0)
        p.n--;
    if (p.test < 0 && im->o.test_share > 0)
        take_test_share(im, p.e, p.n);
    interleave(p.e, p.n);
    return 0;
}

// Names the classes of CIFAR. Where those without a picture to train on are left out, the others
// are numbered anew.
static int name_cifar(struct dr_import *im) {
    struct dr_import_report *r = im->report;
    int64_t train[100] = {0}, to[100], left_out = 0;
    int rc = 0;
    for (int64_t i = 0; i < im->list.n; i++)
        if (im->list.e[i].slot >= 0)
            train[im->list.e[i].label] += !im->list.e[i].split;
    r->class = calloc((size_t)im->cifar_classes, sizeof *r->class);
    for (int64_t k = 0; k < im->cifar_classes && r->class && !rc; k++) {
        const char *name = cifar_class(im->cifar_classes, k);
        const bool there = train[k] || !im->o.present;
        to[k] = there ? r->classes : -1;
        if (!there)
            rc = import_note(im, "class %s has no picture to train on and is left out", name);
        else if ((r->class[r->classes].name = strdup(name)))
            r->classes++;
        left_out += !there;
    }
    if (!rc && (!r->class || r->classes + left_out < im->cifar_classes))
        rc = dr_fail(im->err, DR_ENOMEM, "no memory for the classes");
    for (int64_t i = 0; i < im->list.n && !rc; i++) {
        struct pic_entry *e = &im->list.e[i];
        e->slot = e->slot >= 0 && to[e->label] >= 0 ? e->slot : -1;
        e->label = e->slot >= 0 ? (int32_t)to[e->label] : 0;
    }
    return rc;
}

static int lay_out_cifar(struct dr_import *im) {
    int rc = cifar_note_missing(im);
    for (int64_t i = 0; i < im->list.n && !rc; i++) {
        struct pic_entry *e = &im->list.e[i];
        if (e->path && e->slot >= 0)
            rc = leave_out(im, e, "it lies beside the files of CIFAR");
    }
    if (rc)
        return rc;
    im->report->own_test = im->cifar_part[CIFAR_PARTS] != NULL;
    return name_cifar(im);
}

int layout(struct dr_import *im) {
    if (im->cifar && im->misfit)
        return dr_fail(im->err, DR_EFORMAT, "%s", im->misfit);
    int rc = im->cifar ? lay_out_cifar(im) : lay_out_pictures(im);
    if (rc)
        return rc;
    if (im->list.n)
        qsort(im->list.e, (size_t)im->list.n, sizeof *im->list.e, by_order);
    while (im->list.n && im->list.e[im->list.n - 1].slot < 0)
        free(im->list.e[--im->list.n].path);
    for (int64_t i = 0; i < im->list.n; i++) {
        const struct pic_entry *e = &im->list.e[i];
        struct dr_import_class *k = &im->report->class[e->label];
        *(e->split ? &k->test : &k->train) += 1;
        *(e->split ? &im->report->test : &im->report->train) += 1;
    }
    return im->report->train ? 0 : dr_fail(im->err, DR_EFORMAT, "no picture to train on");
}
