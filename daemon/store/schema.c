// Tables of the store and their migrations: version N of user_version is reached by steps[0..N-1],
// each in a transaction of its own. Steps are never edited once released, only appended.
#include "daemon/store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const steps[] = {
    // 1: everything of the first release
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;"
    "CREATE TABLE jobs(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,"
    " notes TEXT NOT NULL DEFAULT '', kind TEXT NOT NULL, recipe TEXT NOT NULL, config TEXT NOT "
    "NULL,"
    " state TEXT NOT NULL CHECK(state IN "
    "('queued','running','paused','stopping','completed','failed',"
    "'stopped','interrupted')), priority INTEGER NOT NULL DEFAULT 0, resume INTEGER NOT NULL "
    "DEFAULT 0,"
    " created_us INTEGER NOT NULL, started_us INTEGER, ended_us INTEGER, step INTEGER NOT NULL "
    "DEFAULT 0,"
    " steps_total INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0,"
    " attempts INTEGER NOT NULL DEFAULT 0, error TEXT, data_name TEXT, class_names TEXT) STRICT;"
    "CREATE INDEX jobs_state ON jobs(state, priority DESC, id);"
    "CREATE TABLE metric_names(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;"
    "CREATE TABLE metrics(job INTEGER NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,"
    " name INTEGER NOT NULL REFERENCES metric_names(id), step INTEGER NOT NULL, time_us INTEGER "
    "NOT NULL,"
    " value REAL, PRIMARY KEY(job, name, step)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE metric_rollups(job INTEGER NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,"
    " name INTEGER NOT NULL REFERENCES metric_names(id), width INTEGER NOT NULL,"
    " bucket INTEGER NOT NULL, n INTEGER NOT NULL, nonfinite INTEGER NOT NULL, min REAL, max REAL,"
    " sum REAL NOT NULL, last REAL, last_step INTEGER NOT NULL, time_us INTEGER NOT NULL,"
    " PRIMARY KEY(job, name, width, bucket)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE checkpoints(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " job INTEGER REFERENCES jobs(id) ON DELETE CASCADE, name TEXT NOT NULL DEFAULT '',"
    " kind TEXT NOT NULL, step INTEGER NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL,"
    " bytes INTEGER NOT NULL, config TEXT NOT NULL, created_us INTEGER NOT NULL,"
    " state TEXT NOT NULL DEFAULT 'ok' CHECK(state IN ('ok','corrupt','removed'))) STRICT;"
    "CREATE INDEX checkpoints_job ON checkpoints(job, step);"
    "CREATE INDEX checkpoints_path ON checkpoints(path);"
    "CREATE TABLE samples(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " job INTEGER NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, step INTEGER NOT NULL,"
    " path TEXT NOT NULL, bytes INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,"
    " created_us INTEGER NOT NULL, UNIQUE(job, step)) STRICT;"
    "CREATE TABLE evals(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " job INTEGER REFERENCES jobs(id) ON DELETE CASCADE,"
    " checkpoint INTEGER REFERENCES checkpoints(id) ON DELETE CASCADE, kind TEXT NOT NULL,"
    " step INTEGER NOT NULL, settings TEXT NOT NULL, results TEXT NOT NULL, created_us INTEGER NOT "
    "NULL)"
    " STRICT;"
    "CREATE TABLE events(boot INTEGER NOT NULL, seq INTEGER NOT NULL, job INTEGER, type TEXT NOT "
    "NULL,"
    " data TEXT NOT NULL, time_us INTEGER NOT NULL, PRIMARY KEY(boot, seq)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE idempotency(key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL,"
    " job INTEGER NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, created_us INTEGER NOT NULL) "
    "STRICT;",
    // 2: names of metrics. Up to version 1 rows carried positions in a list of the program (plus
    // one), and this table was written but never read; now it alone says what an id means.
    "INSERT OR IGNORE INTO metric_names(id, name) VALUES"
    "(1,'loss'),(2,'drift_norm'),(3,'grad_norm'),(4,'lr'),(5,'step_seconds'),(6,'loss_seconds'),"
    "(7,'feature_scale'),(8,'dist_mean'),(9,'dist_var'),(10,'alpha_mean'),(11,'spread'),"
    "(12,'spread_min'),(13,'drift_norm_0'),(14,'drift_norm_1'),(15,'drift_norm_2'),"
    "(16,'drift_norm_3'),(17,'drift_norm_4'),(18,'drift_norm_5'),(19,'drift_norm_6'),"
    "(20,'drift_norm_7'),(21,'drift_norm_8'),(22,'drift_norm_9'),(23,'drift_norm_10'),"
    "(24,'drift_norm_11'),(25,'drift_norm_12'),(26,'drift_norm_13'),(27,'drift_norm_14'),"
    "(28,'drift_norm_15');",
    // 3: paths relative to the state folder; before, they were as the command line had named it.
    "UPDATE checkpoints SET path=state_path(path); UPDATE samples SET path=state_path(path);",
    // 4: jobs that need jobs: the one whose encoder a job trains with
    "ALTER TABLE jobs ADD COLUMN needs INTEGER;",
    // 5: data sets that users own; their files lie below datasets/NAME of the state folder
    "CREATE TABLE datasets(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,"
    " kind TEXT NOT NULL, state TEXT NOT NULL CHECK(state IN"
    " ('uploading','importing','ready','failed')), source TEXT NOT NULL, upload INTEGER NOT NULL,"
    " options TEXT NOT NULL, size INTEGER NOT NULL DEFAULT 0, channels INTEGER NOT NULL DEFAULT 0,"
    " train INTEGER NOT NULL DEFAULT 0, test INTEGER NOT NULL DEFAULT 0,"
    " bytes INTEGER NOT NULL DEFAULT 0, classes TEXT NOT NULL DEFAULT '[]',"
    " report TEXT NOT NULL DEFAULT '{}', fingerprint TEXT NOT NULL DEFAULT '', error TEXT,"
    " created_us INTEGER NOT NULL, ended_us INTEGER) STRICT;",
    // 6: evaluations, one row per run (a checkpoint or a folder at one guidance scale). Rows
    // outlive
    // their jobs and checkpoints. `source` says what was evaluated, also once that is gone;
    // `comparable` is the same for runs that were measured in the same way. jobs.parent: the
    // training job that an eval job belongs to.
    "ALTER TABLE jobs ADD COLUMN parent INTEGER;"
    "ALTER TABLE checkpoints ADD COLUMN best INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE evals RENAME TO evals_1;"
    "CREATE TABLE evals(id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " job INTEGER REFERENCES jobs(id) ON DELETE SET NULL, job_name TEXT NOT NULL DEFAULT '',"
    " eval_job INTEGER REFERENCES jobs(id) ON DELETE SET NULL,"
    " checkpoint INTEGER REFERENCES checkpoints(id) ON DELETE SET NULL, kind TEXT NOT NULL,"
    " source TEXT NOT NULL, name TEXT NOT NULL DEFAULT '', folder TEXT, step INTEGER NOT NULL,"
    " epoch REAL, data TEXT NOT NULL DEFAULT '', weights TEXT NOT NULL DEFAULT 'ema',"
    " alpha REAL NOT NULL DEFAULT 1, seed INTEGER NOT NULL DEFAULT 0, n INTEGER NOT NULL DEFAULT 0,"
    " state TEXT NOT NULL CHECK(state IN ('queued','running','done','failed')),"
    " progress REAL NOT NULL DEFAULT 0, best INTEGER NOT NULL DEFAULT 0,"
    " comparable TEXT NOT NULL DEFAULT '', settings TEXT NOT NULL DEFAULT '{}',"
    " training TEXT NOT NULL DEFAULT '{}', details TEXT NOT NULL DEFAULT '{}', error TEXT,"
    " created_us INTEGER NOT NULL, started_us INTEGER, ended_us INTEGER,"
    " seconds REAL NOT NULL DEFAULT 0, UNIQUE(eval_job, source, alpha)) STRICT;"
    "CREATE INDEX evals_job ON evals(job, step);"
    "CREATE INDEX evals_checkpoint ON evals(checkpoint);"
    "CREATE TABLE eval_values(eval INTEGER NOT NULL REFERENCES evals(id) ON DELETE CASCADE,"
    " name TEXT NOT NULL, value REAL, stderr REAL, floor REAL, PRIMARY KEY(eval, name)) STRICT,"
    " WITHOUT ROWID;"
    "INSERT INTO evals(id,job,checkpoint,kind,source,step,settings,state,created_us,ended_us)"
    " SELECT id,job,checkpoint,kind,coalesce('checkpoint:'||checkpoint,'row:'||id),step,settings,"
    "'done',created_us,created_us FROM evals_1;"
    "INSERT INTO eval_values(eval,name,value) SELECT e.id, r.key, CAST(r.value AS REAL) FROM "
    "evals_1 e,"
    " json_each(e.results) r WHERE r.type IN ('integer','real');"
    "DROP TABLE evals_1;",
    // 7: sweeps. `file` is what was submitted; a cell is a configuration with a seed, and one job
    // per cell and rung trains it, by the index never two. rung counts up in a search by halving.
    "CREATE TABLE sweeps(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,"
    " file TEXT NOT NULL, stopped INTEGER NOT NULL DEFAULT 0, rung INTEGER NOT NULL DEFAULT 0,"
    " rungs INTEGER NOT NULL DEFAULT 1, error TEXT, created_us INTEGER NOT NULL, key TEXT UNIQUE,"
    " fingerprint TEXT NOT NULL DEFAULT '') STRICT;"
    "CREATE TABLE sweep_cells(sweep INTEGER NOT NULL REFERENCES sweeps(id) ON DELETE CASCADE,"
    " cell INTEGER NOT NULL, label TEXT NOT NULL, params TEXT NOT NULL, seed INTEGER NOT NULL,"
    " recipe TEXT NOT NULL, config TEXT NOT NULL, PRIMARY KEY(sweep, cell)) STRICT, WITHOUT ROWID;"
    "ALTER TABLE jobs ADD COLUMN sweep INTEGER REFERENCES sweeps(id) ON DELETE SET NULL;"
    "ALTER TABLE jobs ADD COLUMN cell INTEGER;"
    "ALTER TABLE jobs ADD COLUMN rung INTEGER;"
    "CREATE UNIQUE INDEX jobs_sweep ON jobs(sweep, cell, rung) WHERE sweep IS NOT NULL;"
    "CREATE INDEX jobs_parent ON jobs(parent) WHERE parent IS NOT NULL;",
    // 8: what a job changes of its recipe, as JSON; NULL: not known (daemon/jobs/changed.h fills it
    // in)
    "ALTER TABLE jobs ADD COLUMN changed TEXT;",
    // 9: notes and tags of checkpoints
    "ALTER TABLE checkpoints ADD COLUMN notes TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE checkpoints ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';",
// 10: texts that earlier builds cut inside a character, of which there could be no JSON
#define WHOLE(table, column)                                                                       \
    "UPDATE " table " SET " column "=whole_text(" column ") WHERE whole_text(" column              \
    ") IS NOT " column ";"
    WHOLE("jobs", "name") WHOLE("jobs", "notes") WHOLE("jobs", "error") WHOLE("jobs", "data_name")
        WHOLE("checkpoints", "name") WHOLE("checkpoints", "notes") WHOLE("evals", "name")
            WHOLE("evals", "job_name") WHOLE("evals", "error") WHOLE("sweeps", "name")
                WHOLE("sweeps", "error") WHOLE("sweep_cells", "label") WHOLE("datasets", "source")
                    WHOLE("datasets", "error")
#undef WHOLE
                        ,
    // 11: jobs.judge: the job that trains the judge of a training job's evaluations, which `needs`
    // does not name since training does not wait for it. jobs.crashes: how often in a row the
    // process has ended while the job ran, without anything saved in between. Runs of removed jobs
    // were left waiting for ever.
    "ALTER TABLE jobs ADD COLUMN judge INTEGER;"
    "ALTER TABLE jobs ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;"
    "UPDATE jobs SET judge=(SELECT e.needs FROM jobs e WHERE e.parent=jobs.id AND e.kind='eval')"
    " WHERE id IN (SELECT parent FROM jobs WHERE kind='eval' AND needs IS NOT NULL);"
    "DELETE FROM evals WHERE eval_job IS NULL AND state IN ('queued','running');",
    // 12: lists of data sets count classes without reading them
    "ALTER TABLE datasets ADD COLUMN class_count INTEGER NOT NULL DEFAULT 0;"
    "UPDATE datasets SET class_count=json_array_length(classes) WHERE json_valid(classes);"};
enum { VERSION = (int)(sizeof steps / sizeof *steps) };

int dd_schema_version(void) {
    return VERSION;
}

// state_path(PATH): relative to the state folder. A path that is not below it (relative to a folder
// that is not known any more, or of a state folder that has been moved) is looked for there by its
// last parts, and stays as it is when nothing is found.
static void state_path(sqlite3_context *c, int n, sqlite3_value **v) {
    static const char *const parts[] = {"checkpoints/", "samples/"};
    const char *root = sqlite3_user_data(c), *path = (const char *)sqlite3_value_text(v[0]);
    const size_t len = strlen(root);
    const char *rest = NULL;
    char there[DD_PATH_MAX];
    (void)n;
    if (path && !strncmp(path, root, len) && path[len] == '/')
        rest = path + len + strspn(path + len, "/");
    for (int i = 0; path && !rest && i < 2 && (*path != '/' || access(path, F_OK)); i++) {
        for (const char *p = path; (p = strstr(p, parts[i])); p++)
            if (p == path || p[-1] == '/')
                rest = p;
        if (rest && (dd_path(there, NULL, "%s/%s", root, rest) || access(there, F_OK)))
            rest = NULL;
    }
    sqlite3_result_text(c, rest ? rest : path, -1, SQLITE_TRANSIENT);
}

// whole_text(TEXT): the same where it is UTF-8, else as dd_sound_text makes it.
static void whole_text(sqlite3_context *c, int n, sqlite3_value **v) {
    const char *text = (const char *)sqlite3_value_text(v[0]);
    (void)n;
    if (!text || dd_is_utf8(text)) {
        sqlite3_result_value(c, v[0]);
        return;
    }
    char *copy = dd_xstrdup(text);
    dd_sound_text(copy);
    sqlite3_result_text(c, copy, -1, SQLITE_TRANSIENT);
    free(copy);
}

int dd_schema_migrate(sqlite3 *db, const char *root, struct dr_err *err) {
    int64_t v = dd_sql_one(db, -1, "PRAGMA user_version", "");
    if (v < 0)
        return dd_sql_fail(db, err, "reading user_version");
    if (v > VERSION)
        return dr_fail(
            err, DR_EFORMAT,
            "the database has version %lld, made by a newer driftd; this one knows up to %d",
            (long long)v, VERSION);
    if (sqlite3_create_function_v2(db, "state_path", 1, SQLITE_UTF8, (void *)root, state_path, NULL,
                                   NULL, NULL) ||
        sqlite3_create_function_v2(db, "whole_text", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL,
                                   whole_text, NULL, NULL, NULL))
        return dd_sql_fail(db, err, "migrating the database");
    for (; v < VERSION; v++) {
        char pragma[60];
        snprintf(pragma, sizeof pragma, "PRAGMA user_version = %lld; COMMIT", (long long)v + 1);
        if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) ||
            sqlite3_exec(db, steps[v], NULL, NULL, NULL) ||
            sqlite3_exec(db, pragma, NULL, NULL, NULL)) {
            int rc = dd_sql_fail(db, err, "migrating the database");
            sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
            return rc;
        }
    }
    return 0;
}
