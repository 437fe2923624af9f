// Removing jobs (jobs.h): what still needs them, their metrics in slices, their rows, their
// folders. And the folders of removed jobs that a process which ended in between has left.
#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/jobs/jobs_priv.h"
#include "daemon/jobs/needs.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/keys.h"

#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>

enum { SLICE = 20000 }; // rows; about 50 ms, in which nobody else writes

static const char *const folders[] = {"checkpoints", "samples"};

// --- rows ---

struct removal {
    char *ids;         // of the jobs, JSON
    int64_t one;       // the only one, which has to be there; 0: a list
    dd_store_fn *also; // in the transaction that removes them; NULL: nothing
    void *arg;
    bool begun;          // nothing forbids it
    bool more;           // there may be another slice
    json_t *gone, *runs; // out: [[id, state], ...]; ids of evaluations that nobody will make
};

static int read_json(sqlite3 *db, const struct removal *r, const char *sql, json_t **out,
                     struct dr_err *err) {
    sqlite3_stmt *st = dd_sql_prepare(db, err, sql, "t", r->ids);
    const char *text =
        st && sqlite3_step(st) == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
    json_decref(*out); // of an earlier try
    *out = text ? json_loads(text, 0, NULL) : NULL;
    sqlite3_finalize(st);
    return *out ? 0 : dr_fail(err, DR_EIO, "database: cannot list what is removed");
}

static int check_ended(sqlite3 *db, const struct removal *r, struct dr_err *err) {
    char state[16];
    int rc = r->one ? dd_job_state(db, r->one, state, err) : 0;
    sqlite3_stmt *st = rc ? NULL
                          : dd_sql_prepare(db, err,
                                           "SELECT id, state FROM jobs WHERE id IN " DD_JOBS_LISTED
                                           " AND state NOT IN"
                                           " ('completed','failed','stopped','interrupted')"
                                           " LIMIT 1",
                                           "t", r->ids);
    if (!rc && !st)
        rc = DR_EIO;
    if (st && sqlite3_step(st) == SQLITE_ROW)
        rc = dr_fail(err, DR_ECONFLICT, "job %lld is %s; only a job that has ended can be removed",
                     (long long)sqlite3_column_int64(st, 0),
                     (const char *)sqlite3_column_text(st, 1));
    sqlite3_finalize(st);
    return rc;
}

// Another job that names one of the checkpoints by its id, has an evaluation of one waiting, or is
// to evaluate all of a job. Evaluations that belong to these jobs do not count.
static int check_named(sqlite3 *db, const struct removal *r, struct dr_err *err) {
#define OTHER " n.id NOT IN " DD_JOBS_LISTED " AND coalesce(n.parent,0) NOT IN " DD_JOBS_LISTED
    sqlite3_stmt *st = dd_sql_prepare(
        db, err,
        "SELECT n.id, c.job FROM jobs n CROSS JOIN " DD_CKPT_NAMES " CROSS JOIN checkpoints c ON"
        " c.id=CAST(replace(r.value,'checkpoint:','') AS INTEGER) WHERE n.state<>'completed' AND"
        " c.state='ok' AND c.job IN " DD_JOBS_LISTED " AND " DD_CKPT_NAMED " AND" OTHER
        " UNION ALL SELECT n.id, c.job FROM checkpoints c JOIN evals e ON e.checkpoint=c.id JOIN"
        " jobs n ON n.id=e.eval_job WHERE c.job IN " DD_JOBS_LISTED " AND " DD_CKPT_AWAITED
        " AND" OTHER " UNION ALL SELECT n.id, json_extract(n.config,'$.eval.job') FROM jobs n"
        " WHERE n.kind='eval' AND n.state NOT IN ('completed','failed','stopped') AND"
        " json_extract(n.config,'$.eval.job') IN " DD_JOBS_LISTED " AND" OTHER " LIMIT 1",
        "t", r->ids);
#undef OTHER
    int rc = st ? 0 : DR_EIO;
    if (st && sqlite3_step(st) == SQLITE_ROW)
        rc = dr_fail(
            err, DR_ECONFLICT, "job %lld needs a checkpoint of job %lld; remove that job first",
            (long long)sqlite3_column_int64(st, 0), (long long)sqlite3_column_int64(st, 1));
    sqlite3_finalize(st);
    return rc;
}

// Without the promoted one the server would answer with another model from one request to the next.
static int check_active(sqlite3 *db, const struct removal *r, struct dr_err *err) {
    sqlite3_stmt *st = dd_sql_prepare(
        db, err,
        "SELECT id, job FROM checkpoints WHERE job IN " DD_JOBS_LISTED " AND state='ok' AND id="
        "(SELECT CAST(value AS INTEGER) FROM meta WHERE key='active')",
        "t", r->ids);
    int rc = st ? 0 : DR_EIO;
    if (st && sqlite3_step(st) == SQLITE_ROW)
        rc =
            dr_fail(err, DR_ECONFLICT,
                    "checkpoint %lld of job %lld is activated; serve another one, or `auto`, "
                    "first",
                    (long long)sqlite3_column_int64(st, 0), (long long)sqlite3_column_int64(st, 1));
    sqlite3_finalize(st);
    return rc;
}

static int check(sqlite3 *db, const struct removal *r, struct dr_err *err) {
    int rc = check_ended(db, r, err);
    if (!rc)
        rc = dd_needs_check_drop(db, r->ids, err);
    if (!rc)
        rc = check_named(db, r, err);
    return rc ? rc : check_active(db, r, err);
}

// Some of the values, of which there may be tens of millions: others write in between. Whoever
// resumes a job meanwhile ends the removal, and has lost the beginning of its curves.
static int slice(sqlite3 *db, void *arg, struct dr_err *err) {
    static const char *const sql[] = {
        "DELETE FROM metrics WHERE (job,name,step) IN (SELECT job,name,step FROM metrics WHERE"
        " job IN " DD_JOBS_LISTED " LIMIT ?2)",
        "DELETE FROM metric_rollups WHERE (job,name,width,bucket) IN (SELECT job,name,width,bucket"
        " FROM metric_rollups WHERE job IN " DD_JOBS_LISTED " LIMIT ?2)"};
    struct removal *r = arg;
    int rc = r->begun ? check_ended(db, r, err) : check(db, r, err);
    r->more = false;
    for (size_t i = 0; i < DR_COUNT(sql) && !rc && !r->more; i++) {
        rc = dd_sql_run(db, err, sql[i], "ti", r->ids, (int64_t)SLICE);
        r->more = sqlite3_changes(db) == SLICE;
    }
    r->begun |= !rc;
    return rc;
}

static int drop(sqlite3 *db, void *arg, struct dr_err *err) {
#define RUNS " FROM evals WHERE eval_job IN " DD_JOBS_LISTED " AND state IN ('queued','running')"
    struct removal *r = arg;
    size_t i;
    json_t *job;
    int rc = check(db, r, err);
    if (!rc)
        rc = read_json(db, r,
                       "SELECT json_group_array(json_array(id,state)) FROM jobs WHERE id IN"
                       " " DD_JOBS_LISTED,
                       &r->gone, err);
    if (!rc)
        rc = read_json(db, r, "SELECT json_group_array(id)" RUNS, &r->runs, err);
    json_array_foreach(r->gone, i, job) if (!rc) rc =
        dd_key_retire(db, "job", "SELECT key FROM idempotency WHERE job=?2",
                      json_integer_value(json_array_get(job, 0)), err);
    if (!rc)
        rc = dd_sql_run(db, err, "DELETE" RUNS, "t", r->ids);
    if (!rc)
        rc = dd_sql_run(db, err, "DELETE FROM jobs WHERE id IN " DD_JOBS_LISTED, "t", r->ids);
    return rc || !r->also ? rc : r->also(db, r->arg, err);
#undef RUNS
}

static int go_on(struct dd_jobs *j, struct dr_err *err) {
    pthread_mutex_lock(&j->lock);
    const bool closing = j->closing;
    pthread_mutex_unlock(&j->lock);
    return closing ? dr_fail(err, DR_ECANCELED,
                             "driftd is stopping; remove it again after the next start")
                   : 0;
}

// --- folders ---

static void remove_folder(struct dd_jobs *j, const char *what, int64_t id) {
    char *dir = dd_job_dir(j, what, id);
    dd_remove_tree(dir);
    free(dir);
}

static void remove_folders(struct dd_jobs *j, int64_t id) {
    for (size_t i = 0; i < DR_COUNT(folders); i++)
        remove_folder(j, folders[i], id);
}

static void tell(struct dd_jobs *j, const struct removal *r) {
    size_t i;
    json_t *x;
    json_array_foreach(r->gone, i, x) {
        const int64_t id = json_integer_value(json_array_get(x, 0));
        remove_folders(j, id);
        dd_job_event(j, id, json_string_value(json_array_get(x, 1)), "removed", NULL);
    }
    json_array_foreach(r->runs, i, x) remove_folder(j, "evals", json_integer_value(x));
}

static int remove_jobs(struct dd_jobs *j, struct removal *r, struct dr_err *err) {
    int rc = r->ids ? 0 : dr_fail(err, DR_ENOMEM, "no memory for a list of jobs");
    r->more = true;
    while (!rc && r->more) {
        rc = dd_store_free_by(j->env.store, slice, r, err);
        if (!rc && r->more)
            rc = go_on(j, err);
    }
    if (!rc)
        rc = dd_store_free_by(j->env.store, drop, r, err);
    dd_store_changed(j->env.store);
    if (!rc)
        tell(j, r);
    json_decref(r->gone);
    json_decref(r->runs);
    free(r->ids);
    return rc;
}

int dd_jobs_remove(struct dd_jobs *j, int64_t id, struct dr_err *err) {
    struct removal r = {.ids = dd_printf("[%lld]", (long long)id), .one = id};
    return remove_jobs(j, &r, err);
}

int dd_jobs_remove_all(struct dd_jobs *j, const int64_t *ids, int n, dd_store_fn *also, void *arg,
                       struct dr_err *err) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    struct removal r = {.ids = json_dumps(list, JSON_COMPACT), .also = also, .arg = arg};
    json_decref(list);
    return remove_jobs(j, &r, err);
}

// Of a number that this database has given out and that is no job's. Folders with numbers beyond
// it may be those of a newer database whose copy of earlier has been put back, and stay.
static void sweep(struct dd_jobs *j, sqlite3 *db, const char *what) {
    char *dir = dd_printf("%s/%s", j->env.opt->state_dir, what);
    DIR *d = opendir(dir);
    int64_t id;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!dd_parse_int(e->d_name, 1, INT64_MAX, &id) ||
            !dd_sql_one(db, 0,
                        "SELECT 1 FROM sqlite_sequence WHERE name='jobs' AND seq>=?1 AND NOT"
                        " EXISTS(SELECT 1 FROM jobs WHERE id=?1)",
                        "i", id))
            continue;
        dd_log(DR_LOG_INFO, "job.leftover", "job=%lld folder=%s", (long long)id, what);
        remove_folders(j, id);
    }
    if (d)
        closedir(d);
    free(dir);
}

void dd_job_sweep_folders(struct dd_jobs *j) {
    struct dr_err ignored; // the next start looks again
    sqlite3 *db = dd_store_reader(j->env.store, &ignored);
    for (size_t i = 0; db && i < DR_COUNT(folders); i++)
        sweep(j, db, folders[i]);
    sqlite3_close(db);
}
