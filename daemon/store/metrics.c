// Tables of metric names, and rows of values from the trainer's metrics (metrics.h).
#include "daemon/store/metrics.h"

#include "daemon/base/util.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct dd_metric_tables {
    pthread_mutex_t lock;
    struct dd_metric_table **table;
    int n;
};

struct dd_metric_tables *dd_metric_tables_new(void) {
    struct dd_metric_tables *all = dd_xcalloc(1, sizeof *all);
    pthread_mutex_init(&all->lock, NULL);
    return all;
}

static void table_free(struct dd_metric_table *t) {
    for (int i = 0; i < t->n; i++) {
        free((char *)t->def[i].name);
        free((char *)t->def[i].unit);
        free((char *)t->def[i].help);
    }
    free(t);
}

void dd_metric_tables_free(struct dd_metric_tables *all) {
    for (int i = 0; i < all->n; i++)
        table_free(all->table[i]);
    pthread_mutex_destroy(&all->lock);
    free(all->table);
    free(all);
}

static bool same(const struct dd_metric_table *t, const struct dr_metric_def *def, int n) {
    for (int i = 0; i < n && n == t->n; i++)
        if (strcmp(t->def[i].name, def[i].name) || strcmp(t->def[i].help, def[i].help))
            return false;
    return n == t->n;
}

static struct dd_metric_table *copy(const struct dr_metric_def *def, int n) {
    struct dd_metric_table *t = dd_xcalloc(1, sizeof *t);
    t->n = n;
    for (int i = 0; i < n; i++)
        t->def[i] = (struct dr_metric_def){dd_xstrdup(def[i].name), dd_xstrdup(def[i].unit),
                                           dd_xstrdup(def[i].help), def[i].axis};
    return t;
}

const struct dd_metric_table *dd_metric_table(struct dd_metric_tables *all,
                                              const struct dr_metric_def *def, int n) {
    const struct dd_metric_table *t = NULL;
    n = n < DR_MAX_METRICS ? n : DR_MAX_METRICS;
    pthread_mutex_lock(&all->lock);
    for (int i = 0; i < all->n && !t; i++)
        t = same(all->table[i], def, n) ? all->table[i] : NULL;
    if (!t) {
        all->table = realloc(all->table, (size_t)(all->n + 1) * sizeof *all->table);
        if (!all->table)
            abort();
        t = all->table[all->n++] = copy(def, n);
    }
    pthread_mutex_unlock(&all->lock);
    return t;
}

int dd_metric_index(const struct dd_metric_table *t, const char *name) {
    for (int i = 0; t && i < t->n; i++)
        if (!strcmp(t->def[i].name, name))
            return i;
    return -1;
}

double dd_row_value(const struct dd_row *row, const char *name) {
    int i = dd_metric_index(row->table, name);
    return i >= 0 && row->mask >> i & 1 ? row->v[i] : NAN;
}

void dd_metric_row(const struct dd_metric_table *t, const struct dr_metrics *m, int64_t job,
                   double seconds, struct dd_row *row) {
    const int n = m->n < t->n ? m->n : t->n;
    *row = (struct dd_row){.job = job,
                           .step = m->step,
                           .time_us = dd_wall_us(),
                           .seconds = seconds,
                           .table = t,
                           .mask = n < 64 ? m->measured & (((uint64_t)1 << n) - 1) : m->measured};
    memcpy(row->v, m->value, (size_t)n * sizeof *row->v);
}
