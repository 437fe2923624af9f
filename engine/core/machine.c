// Reads affinity, topology and control groups (machine.h). Every file may be missing: then the
// limit it would hold does not apply.
#include "engine/core/machine.h"

#include "engine/core/types.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef _OPENMP // not in the fuzzers
#include <omp.h>
#endif

enum { MAX_CPUS = 1 << 14 };
#define UNLIMITED ((int64_t)1 << 60) // v1 writes a huge number for "no limit"

static char *join(const char *a, const char *b, const char *c) {
    char *s;
    return asprintf(&s, "%s%s%s", a, b, c) < 0 ? NULL : s;
}

// The text of root/path, or NULL.
static char *read_text(const char *root, const char *path) {
    char *name = join(root, path, ""), *text = NULL;
    size_t size = 0;
    FILE *f = name ? fopen(name, "re") : NULL;
    if (f && getdelim(&text, &size, '\0', f) < 0) {
        free(text);
        text = NULL;
    }
    if (f)
        fclose(f);
    free(name);
    return text;
}

// Calls fn for each number of a list such as "0-3,8"; returns how many there were.
static int each_cpu(const char *list, void (*fn)(void *ctx, int cpu), void *ctx) {
    int n = 0;
    while (list && *list >= '0' && *list <= '9') {
        char *end;
        long a = strtol(list, &end, 10), b = a;
        if (*end == '-')
            b = strtol(end + 1, &end, 10);
        for (long i = a; i <= b && i < MAX_CPUS; i++, n++)
            if (fn)
                fn(ctx, (int)i);
        list = *end == ',' ? end + 1 : NULL;
    }
    return n;
}

struct topology {
    const char *root;
    unsigned char *seen; // [MAX_CPUS] first processor of a core that has been counted
    int cores;
};

static void count_core(void *ctx, int cpu) {
    struct topology *t = ctx;
    char path[96];
    char *list = NULL;
    static const char *const names[] = {"core_cpus_list", "thread_siblings_list"};
    for (int i = 0; i < 2 && !list; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, names[i]);
        list = read_text(t->root, path);
    }
    long first = list ? strtol(list, NULL, 10) : cpu;
    free(list);
    if (first < 0 || first >= MAX_CPUS || t->seen[first])
        return;
    t->seen[first] = 1;
    t->cores++;
}

static void read_processors(const char *root, struct dr_machine *m) {
    char *status = read_text(root, "/proc/self/status");
    const char *list = status ? strstr(status, "\nCpus_allowed_list:") : NULL;
    struct topology t = {.root = root, .seen = calloc(MAX_CPUS, 1)};
    if (list)
        list += strlen("\nCpus_allowed_list:");
    while (list && (*list == ' ' || *list == '\t'))
        list++;
    m->processors = each_cpu(list, t.seen ? count_core : NULL, &t);
    if (m->processors < 1) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        m->processors = n > 0 ? (int)n : 1;
    }
    m->cores = t.cores > 0 ? t.cores : m->processors;
    free(t.seen);
    free(status);
}

// ---- control groups

// Where a hierarchy is mounted and which folder below it holds this process.
struct group {
    char *mount, *path;
};

static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; (p = strstr(p, word)); p += n)
        if ((p == list || p[-1] == ',') && (!p[n] || p[n] == ','))
            return true;
    return false;
}

// Path of the process in a hierarchy: that of `controller`, or of v2 when it is "". malloc'd.
static char *own_path(const char *root, const char *controller) {
    char *text = read_text(root, "/proc/self/cgroup"), *save, *found = NULL;
    for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line && !found;
         line = strtok_r(NULL, "\n", &save)) {
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        names++;
        if (*controller ? has_word(names, controller) : !*names)
            found = strdup(path);
    }
    free(text);
    return found;
}

// Fills *g with the mount of the hierarchy; the mount may show a part of it only (its field
// `root`).
static bool find_group(const char *root, const char *controller, struct group *g) {
    char *own = own_path(root, controller), *save;
    char *text = own ? read_text(root, "/proc/self/mountinfo") : NULL;
    *g = (struct group){0};
    for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
         line = strtok_r(NULL, "\n", &save)) {
        char *rest = strstr(line, " - "), part[2][1024], kind[32], options[512];
        if (!rest || sscanf(line, "%*s %*s %*s %1023s %1023s", part[0], part[1]) != 2 ||
            sscanf(rest + 3, "%31s %*s %511s", kind, options) != 2)
            continue;
        if (strcmp(kind, *controller ? "cgroup" : "cgroup2") ||
            (*controller && !has_word(options, controller)))
            continue;
        size_t n = strcmp(part[0], "/") ? strlen(part[0]) : 0;
        bool below = !strncmp(own, part[0], n) && (own[n] == '/' || !own[n]);
        g->mount = strdup(part[1]);
        g->path = strdup(below && strcmp(own, "/") ? own + n : "");
        break;
    }
    free(own);
    free(text);
    return g->mount && g->path;
}

// Calls fn(ctx, FOLDER) for the process's group and every group above it.
static void each_group(const char *root, const char *controller,
                       void (*fn)(void *ctx, const char *folder), void *ctx) {
    struct group g;
    bool there = find_group(root, controller, &g);
    while (there) {
        char *below = join(root, g.mount, g.path);
        if (below)
            fn(ctx, below);
        free(below);
        char *slash = strrchr(g.path, '/');
        there = slash != NULL;
        if (there)
            *slash = '\0';
    }
    free(g.mount);
    free(g.path);
}

static int64_t number_in(const char *folder, const char *file) {
    char *text = read_text(folder, file);
    int64_t v = -1;
    if (text && *text >= '0' && *text <= '9')
        v = strtoll(text, NULL, 10);
    free(text);
    return v;
}

static void tighter(double *quota, double v) {
    if (v > 0 && (*quota == 0 || v < *quota))
        *quota = v;
}

static void cpu_v2(void *ctx, const char *folder) {
    char *text = read_text(folder, "/cpu.max");
    double quota, period;
    if (text && sscanf(text, "%lf %lf", &quota, &period) == 2 && period > 0)
        tighter(ctx, quota / period);
    free(text);
}

static void cpu_v1(void *ctx, const char *folder) {
    int64_t quota = number_in(folder, "/cpu.cfs_quota_us");
    int64_t period = number_in(folder, "/cpu.cfs_period_us");
    if (quota > 0 && period > 0)
        tighter(ctx, (double)quota / (double)period);
}

struct memory {
    int64_t limit, left; // INT64_MAX: none
};

// A value of memory.stat; 0 when it is not there.
static int64_t stat_value(const char *stat, const char *key) {
    size_t n = strlen(key);
    for (const char *p = stat; p; p = strchr(p, '\n')) {
        p += *p == '\n';
        if (!strncmp(p, key, n) && p[n] == ' ')
            return strtoll(p + n, NULL, 10);
    }
    return 0;
}

static void bound_memory(struct memory *m, const char *folder, int64_t limit, const char *usage,
                         const char *const cache[2]) {
    if (limit < 0 || limit >= UNLIMITED)
        return;
    char *stat = read_text(folder, "/memory.stat");
    int64_t used = number_in(folder, usage);
    used -= stat_value(stat, cache[0]) + stat_value(stat, cache[1]);
    free(stat);
    int64_t left = used > 0 ? limit - used : limit;
    m->limit = limit < m->limit ? limit : m->limit;
    left = left > 0 ? left : 0;
    m->left = left < m->left ? left : m->left;
}

static void memory_v2(void *ctx, const char *folder) {
    static const char *const cache[2] = {"inactive_file", "active_file"};
    bound_memory(ctx, folder, number_in(folder, "/memory.max"), "/memory.current", cache);
}

static void memory_v1(void *ctx, const char *folder) {
    static const char *const cache[2] = {"total_inactive_file", "total_active_file"};
    bound_memory(ctx, folder, number_in(folder, "/memory.limit_in_bytes"), "/memory.usage_in_bytes",
                 cache);
}

// Addresses of this process (`ulimit -v`), but for what nobody plans and what ends the process
// where it finds no room: stacks of threads, and the code that oneDNN makes at run time.
static void bound_addresses(struct memory *m) {
    const int64_t reserve =
        ((int64_t)256 << 20) + ((int64_t)8 << 20) * sysconf(_SC_NPROCESSORS_ONLN);
    struct rlimit r;
    if (getrlimit(RLIMIT_AS, &r) || r.rlim_cur >= (rlim_t)UNLIMITED)
        return;
    char *pages = read_text("", "/proc/self/statm"); // the first number: all of them
    const int64_t limit = (int64_t)r.rlim_cur,
                  used = pages ? strtoll(pages, NULL, 10) * sysconf(_SC_PAGESIZE) : 0,
                  left = DR_MAX(limit - used - reserve, (int64_t)0);
    free(pages);
    m->limit = DR_MIN(m->limit, limit);
    m->left = DR_MIN(m->left, left);
}

static struct memory read_memory(const char *root) {
    struct memory m = {INT64_MAX, INT64_MAX};
    each_group(root, "", memory_v2, &m);
    each_group(root, "memory", memory_v1, &m);
    bound_addresses(&m);
    return m;
}

void dr_machine_read(const char *root, struct dr_machine *out) {
    *out = (struct dr_machine){0};
    read_processors(root, out);
    each_group(root, "", cpu_v2, &out->quota);
    each_group(root, "cpu", cpu_v1, &out->quota);
    struct memory m = read_memory(root);
    out->memory_limit = m.limit == INT64_MAX ? 0 : m.limit;
    out->threads = out->cores;
    if (out->quota > 0 && ceil(out->quota) < out->threads)
        out->threads = (int)ceil(out->quota);
}

// ---- this machine

static const char *the_root = "";
static struct dr_machine the_machine;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void read_once(void) {
    dr_machine_read(the_root, &the_machine);
}

void dr_machine_use_root(const char *root) {
    the_root = root;
}

const struct dr_machine *dr_machine(void) {
    pthread_once(&once, read_once);
    return &the_machine;
}

int64_t dr_machine_memory_left(void) {
    return read_memory(the_root).left;
}

bool dr_machine_cramped(void) {
    struct memory m = {INT64_MAX, INT64_MAX};
    bound_addresses(&m);
    return !m.left;
}

size_t dr_machine_room(void) {
    const int64_t left = dr_machine()->memory_limit ? dr_machine_memory_left() : INT64_MAX;
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    const size_t all = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX;
    if (left == INT64_MAX)
        return all;
    return DR_MIN(all, (size_t)(left - DR_MIN(left / 16, (int64_t)256 << 20)));
}

char *dr_machine_describe(const struct dr_machine *m, char *buf, size_t size) {
    char quota[48] = "", memory[48] = "";
    if (m->quota > 0)
        snprintf(quota, sizeof quota, ", quota %.1f processors", m->quota);
    if (m->memory_limit > 0)
        snprintf(memory, sizeof memory, ", memory limit %.1f GiB",
                 (double)m->memory_limit / (1 << 30));
    snprintf(buf, size, "%d thread%s: %d processor%s, %d core%s%s%s", m->threads,
             m->threads == 1 ? "" : "s", m->processors, m->processors == 1 ? "" : "s", m->cores,
             m->cores == 1 ? "" : "s", quota, memory);
    return buf;
}

void dr_workers_use(int threads) {
#ifdef _OPENMP
    omp_set_num_threads(threads > 0 ? threads : dr_machine()->threads);
#else
    (void)threads;
#endif
}

void dr_workers_rest(void) {
#ifdef _OPENMP
    omp_pause_resource_all(omp_pause_soft);
#endif
}
