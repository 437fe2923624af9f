// Evaluations as CSV: the reference's twenty columns and ours after them, or a line per metric
// (docs/api.md).
#include "daemon/evals/read_priv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A column: where its value lies in the row's JSON. Members of members with a dot.
static const struct column {
    const char *name, *path;
} columns[] = {{"timestamp_utc", "ended"},
               {"checkpoint", "checkpoint"},
               {"checkpoint_name", "name"},
               {"dataset", "settings.data"},
               {"epoch", "epoch"},
               {"step", "step"},
               {"fid", "results.fid"},
               {"num_samples", "settings.n"},
               {"batch_size", "settings.batch"},
               {"alpha", "settings.alpha"},
               {"seed", "settings.seed"},
               {"loss", "training.loss"},
               {"drift_norm", "training.drift_norm"},
               {"grad_norm", "training.grad_norm"},
               {"feature_dist_mean", "training.feature_dist_mean"},
               {"feature_dist_var", "training.feature_dist_var"},
               {"avg_loss", "training.avg_loss"},
               {"avg_drift_norm", "training.avg_drift_norm"},
               {"eval_seconds", "seconds"},
               {"artifact_dir", "artifact_dir"},
               {"id", "id"},
               {"job", "job"},
               {"eval_job", "eval_job"},
               {"split", "settings.split"},
               {"weights", "settings.weights"},
               {"resize", "settings.resize"},
               {"judge", "settings.judge"},
               {"judge_accuracy", "settings.judge_accuracy"},
               {"comparable", "comparable"},
               {"version", "settings.version"},
               {"judge_own_encoder", "settings.judge_own_encoder"}};

static void put_text(FILE *f, const char *s) {
    if (!strpbrk(s, "\",\r\n")) {
        fputs(s, f);
        return;
    }
    fputc('"', f);
    for (; *s; s++)
        fprintf(f, *s == '"' ? "\"\"" : "%c", *s);
    fputc('"', f);
}

static void put(FILE *f, const json_t *v) {
    if (json_is_string(v))
        put_text(f, json_string_value(v));
    else if (json_is_integer(v))
        fprintf(f, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        fprintf(f, "%.9g", json_real_value(v));
    else if (json_is_boolean(v))
        fputs(json_is_true(v) ? "true" : "false", f);
}

static const json_t *at(const json_t *row, const char *path) {
    char part[40];
    for (const char *p = path; row; p += strcspn(p, ".") + 1) {
        snprintf(part, sizeof part, "%.*s", (int)strcspn(p, "."), p);
        row = json_object_get(row, part);
        if (!p[strcspn(p, ".")])
            break;
    }
    return row;
}

static void put_header(FILE *f) {
    char name[DD_EVAL_NAME];
    for (size_t i = 0; i < DR_COUNT(columns); i++)
        fprintf(f, "%s%s", i ? "," : "", columns[i].name);
    for (int i = 0; i < 2 * DR_EVAL_METRICS; i++) {
        dd_eval_metric_name(i / 2, (enum dd_eval_by)(i % 2), name);
        if (strcmp(name, "fid")) // among the reference's
            fprintf(f, ",%s", name);
        fprintf(f, ",%s_stderr,%s_floor", name, name);
    }
    fputc('\n', f);
}

static void put_row(FILE *f, const json_t *row) {
    static const char *const member[] = {"results", "errors", "floors"};
    char name[DD_EVAL_NAME];
    for (size_t i = 0; i < DR_COUNT(columns); i++) {
        if (i)
            fputc(',', f);
        put(f, at(row, columns[i].path));
    }
    for (int i = 0; i < 2 * DR_EVAL_METRICS; i++) {
        dd_eval_metric_name(i / 2, (enum dd_eval_by)(i % 2), name);
        for (int k = strcmp(name, "fid") ? 0 : 1; k < 3; k++) {
            fputc(',', f);
            put(f, json_object_get(json_object_get(row, member[k]), name));
        }
    }
    fputc('\n', f);
}

static void put_long(FILE *f, const json_t *row) {
    static const char *const member[] = {"id", "job", "checkpoint", "kind", "step"};
    const char *metric;
    json_t *v;
    json_object_foreach(json_object_get(row, "results"), metric, v) {
        for (size_t i = 0; i < DR_COUNT(member); i++) {
            put(f, json_object_get(row, member[i]));
            fputc(',', f);
        }
        fprintf(f, "%s,", metric);
        put(f, v);
        fputc('\n', f);
    }
}

int dd_eval_csv(struct dd_store *s, const struct dd_eval_query *q, bool one_per_metric, char **out,
                size_t *size, struct dr_err *err) {
    struct dd_eval_query done = *q;
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return DR_EIO;
    done.state = q->state ? q->state : "done";
    sqlite3_stmt *st = dd_eval_select(db, &done, "", "e.id", INT64_MAX, -1, 0, err);
    FILE *f = st ? open_memstream(out, size) : NULL;
    if (f && one_per_metric)
        fputs("id,job,checkpoint,kind,step,metric,value\n", f);
    else if (f)
        put_header(f);
    while (f && sqlite3_step(st) == SQLITE_ROW) {
        json_t *row = dd_eval_row_json(s, db, st, false);
        char dir[40];
        snprintf(dir, sizeof dir, "artifacts/%s", json_string_value(json_object_get(row, "id")));
        json_object_set_new(row, "artifact_dir", json_string(dir));
        if (one_per_metric)
            put_long(f, row);
        else
            put_row(f, row);
        json_decref(row);
    }
    int rc = !st ? DR_EIO : !f || fclose(f) ? dr_fail(err, DR_ENOMEM, "no memory for a table") : 0;
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}
