// HTTP callbacks for status, readiness, Prometheus and backup.
#include "daemon/base/util.h"
#include "daemon/http/daemon.h"
#include "daemon/store/checkpoints.h"
#include "driftd_config.h"
#include "driftd_git.h"
#include "engine/drift.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { STORE_STALL_S = 20 };

static json_t *number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static int64_t database_bytes(const struct dd *d) {
    struct stat st;
    char wal[DD_PATH_MAX + 8];
    int64_t bytes = stat(dd_store_path(d->store), &st) ? 0 : st.st_size;
    snprintf(wal, sizeof wal, "%s-wal", dd_store_path(d->store));
    return bytes + (stat(wal, &st) ? 0 : st.st_size); // new pages are there first
}

// Seconds that the running job will still take: to its last step at the present rate, or to the end
// of train.minutes, whichever comes first. NaN: not known yet.
static double remaining(const struct dd_jobs_now *now, const struct dd_pump_stats *ps) {
    const bool fresh = ps->newest.job == now->running;
    double left = NAN;
    double rate = ps->steps_per_second;
    if (fresh && now->minutes > 0 && ps->newest.seconds > 0) // as steps_total is estimated
        rate = (double)ps->newest.step / ps->newest.seconds;
    if (fresh && rate > 0)
        left = (double)(now->steps_total - ps->newest.step) / rate;
    if (fresh && now->minutes > 0)
        left = fmin(left, 60 * now->minutes - ps->newest.seconds);
    return fmax(left, isnan(left) ? NAN : 0);
}

static json_t *training(const struct dd_jobs_now *now, const struct dd_pump_stats *ps) {
    if (!now->running)
        return json_null();
    const struct dd_row *r = &ps->newest;
    bool fresh = r->job == now->running;
    double rate = fresh ? ps->steps_per_second : 0;
    json_t *j = json_pack("{s:o, s:s, s:I, s:I}", "job",
                          json_sprintf("%lld", (long long)now->running), "name", now->name, "step",
                          (json_int_t)now->step, "steps_total", (json_int_t)now->steps_total);
    json_object_set_new(j, "steps_per_second", number(rate));
    json_object_set_new(j, "seconds", number(fresh ? r->seconds : 0));
    json_object_set_new(j, "eta_seconds", number(remaining(now, ps)));
    json_object_set_new(j, "loss", fresh ? number(dd_row_value(r, "loss")) : json_null());
    json_object_set_new(j, "drift_norm",
                        fresh ? number(dd_row_value(r, "drift_norm")) : json_null());
    return j;
}

static json_t *generation(struct dd *d) {
    struct dd_batcher_stats s;
    dd_batcher_stats(d->batcher, &s);
    struct dd_served served = {0};
    json_t *serving = json_null();
    if (!dd_batcher_served(d->batcher, &served, NULL))
        serving = served.id ? json_sprintf("%lld", (long long)served.id) : json_string("live");
    return json_pack("{s:o, s:o, s:i, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:s}", "serving",
                     serving, "served", dd_glue_served(d), "waiting", s.waiting, "queue_limit",
                     (json_int_t)s.queue_limit, "images", (json_int_t)s.images, "batches",
                     (json_int_t)s.batches, "abandoned", (json_int_t)s.abandoned, "failed",
                     (json_int_t)s.failed, "images_per_second", s.images_per_second, "max_batch",
                     (json_int_t)d->opt.max_batch, "max_n", (json_int_t)d->opt.max_n, "device",
                     s.device);
}

// How the default number of threads came about, and what is left of the memory limit.
static json_t *machine(void) {
    const struct dr_machine *m = dr_machine();
    char text[200];
    json_t *j =
        json_pack("{s:i, s:i, s:i, s:s}", "threads", m->threads, "processors", m->processors,
                  "cores", m->cores, "description", dr_machine_describe(m, text, sizeof text));
    json_object_set_new(j, "quota", m->quota > 0 ? json_real(m->quota) : json_null());
    json_object_set_new(j, "memory_limit",
                        m->memory_limit ? json_integer(m->memory_limit) : json_null());
    json_object_set_new(j, "memory_left",
                        m->memory_limit ? json_integer(dr_machine_memory_left()) : json_null());
    return j;
}

int dd_glue_status(void *ctx, struct api_reply *out) {
    struct dd *d = ctx;
    struct dd_jobs_now now;
    struct dd_pump_stats ps;
    dd_jobs_now(d->jobs, &now);
    dd_pump_stats(d->pump, &ps);
    json_t *store = json_pack("{s:I, s:I, s:I, s:I, s:I}", "bytes", (json_int_t)database_bytes(d),
                              "disk_free", (json_int_t)dd_free_bytes(d->opt.state_dir), "failures",
                              (json_int_t)dd_store_failures(d->store), "metrics_dropped",
                              (json_int_t)ps.dropped, "checkpoint_failures",
                              (json_int_t)now.checkpoint_failures);
    out->body = json_pack(
        "{s:s, s:s, s:I, s:f, s:s, s:o, s:i, s:o, s:o}", "version", DRIFTD_VERSION, "git",
        DRIFTD_GIT, "boot", (json_int_t)dd_store_boot(d->store), "uptime_seconds",
        (double)(dd_now_ns() - d->started_ns) * 1e-9, "state",
        atomic_load(&d->stopping) ? "stopping" : "running", "training", training(&now, &ps),
        "queued_jobs", now.queued, "generation", generation(d), "store", store);
    json_object_set_new(out->body, "machine", machine());
    return 0;
}

// Whether the state folder that this process has locked lies where it was, with a database in it.
// Open files outlive a folder that is removed or replaced; whatever opens them anew fails.
static bool state_in_place(const struct dd *d) {
    struct stat held, now, database;
    char *path = dd_printf("%s/lock", d->opt.state_dir);
    const bool there = !fstat(d->lock_fd, &held) && !stat(path, &now) &&
                       held.st_dev == now.st_dev && held.st_ino == now.st_ino &&
                       !stat(dd_store_path(d->store), &database);
    free(path);
    return there;
}

int dd_glue_ready(void *ctx, struct api_reply *out) {
    struct dd *d = ctx;
    int64_t now = dd_now_ns(), free_bytes = dd_free_bytes(d->opt.state_dir);
    bool store = now - dd_store_beat_ns(d->store) < (int64_t)STORE_STALL_S * 1000000000;
    bool disk = free_bytes < 0 || free_bytes >= DD_MIN_FREE;
    struct dd_batcher_stats s;
    dd_batcher_stats(d->batcher, &s);
    bool engine = s.beat_ns == INT64_MAX || now - s.beat_ns < (int64_t)60 * 1000000000;
    bool up = !atomic_load(&d->stopping);
    const bool lost = s.device_lost || dd_jobs_device_lost(d->jobs);
    const struct {
        bool wrong;
        const char *text;
    } checks[] = {
        {!up, "stopping"},
        {!store, "the store does not answer"},
        {dd_sql_damaged(), "the database is damaged"},
        {!state_in_place(d), "the state folder or its database was removed or replaced"},
        {!disk, "less than 64 MiB of disk are free"},
        {!engine, "generation stalls"},
        {lost, "the device is lost, driftd has to be restarted"},
    };
    char why[400] = "";
    for (size_t i = 0; i < DR_COUNT(checks); i++)
        if (checks[i].wrong)
            snprintf(why + strlen(why), sizeof why - strlen(why), "%s%s", *why ? "; " : "",
                     checks[i].text);
    if (*why) {
        api_problem_set(&out->problem, 503, "not-ready", "not ready: %s", why);
        out->problem.retry_after = 5;
        return -1;
    }
    out->body = json_pack("{s:{s:s, s:s, s:s, s:s}}", "checks", "engine", "ok", "store", "ok",
                          "disk", "ok", "device", s.device);
    return 0;
}

static void gauge(FILE *f, const char *name, const char *type, const char *help, double v) {
    fprintf(f, "# HELP %s %s\n# TYPE %s %s\n%s ", name, help, name, type, name);
    if (isfinite(v))
        fprintf(f, "%.17g\n", v);
    else
        fputs(isnan(v) ? "NaN\n" : v > 0 ? "+Inf\n" : "-Inf\n", f);
}

// A gauge per metric that the newest step measured: driftd_NAME.
static void newest_step(FILE *f, const struct dd_row *row) {
    char name[64], help[200];
    for (int i = 0; row->step && i < row->table->n; i++) {
        const struct dr_metric_def *def = &row->table->def[i];
        if (!(row->mask >> i & 1))
            continue;
        snprintf(name, sizeof name, "driftd_%s", def->name);
        snprintf(help, sizeof help, "Newest step: %s.", def->help);
        gauge(f, name, "gauge", help, row->v[i]);
    }
}

// Of the job that trains; 0 each while none does.
static void running_job(FILE *f, const struct dd_jobs_now *now, const struct dd_pump_stats *ps) {
    const double steps = now->running ? (double)now->step : 0,
                 total = now->running ? (double)now->steps_total : 0;
    const double left = now->running ? remaining(now, ps) : 0;
    gauge(f, "driftd_jobs_running", "gauge", "Jobs that train: 0 or 1.", now->running ? 1 : 0);
    gauge(f, "driftd_job_step", "gauge", "Step of the running job; 0: none runs.", steps);
    gauge(f, "driftd_job_steps", "gauge",
          "Steps that the running job will take; an estimate where "
          "train.minutes ends it.",
          total);
    gauge(f, "driftd_job_eta_seconds", "gauge",
          "Time that the running job will still take; NaN: not known yet.", left);
}

static void disk_gauges(FILE *f, const struct dd *d) {
    struct statvfs v;
    if (!statvfs(d->opt.state_dir, &v)) {
        gauge(f, "driftd_disk_free_bytes", "gauge", "Free space where the state folder lies.",
              (double)v.f_bavail * (double)v.f_frsize);
        gauge(f, "driftd_disk_size_bytes", "gauge", "Size of that file system.",
              (double)v.f_blocks * (double)v.f_frsize);
    }
    gauge(f, "driftd_database_bytes", "gauge", "Database, with what was written last.",
          (double)database_bytes(d));
}

char *dd_glue_prometheus(void *ctx) {
    struct dd *d = ctx;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f)
        return NULL;
    struct dd_pump_stats ps;
    struct dd_jobs_now now;
    dd_pump_stats(d->pump, &ps);
    dd_jobs_now(d->jobs, &now);
    gauge(f, "driftd_train_steps_total", "counter", "Training steps done.", (double)ps.steps);
    dd_pump_prometheus(d->pump, f);
    newest_step(f, &ps.newest);
    gauge(f, "driftd_metrics_dropped_total", "counter", "Metric rows lost to a full ring.",
          (double)ps.dropped);
    gauge(f, "driftd_checkpoint_failures_total", "counter",
          "Checkpoints that could not be written.", (double)now.checkpoint_failures);
    struct dd_disk_stats disk;
    dd_disk_stats(d->disk, &disk);
    gauge(f, "driftd_state_bytes", "gauge", "Bytes of all files in the state folder.",
          (double)disk.bytes);
    gauge(f, "driftd_disk_budget_bytes", "gauge", "Bytes that the state folder may take; 0: any.",
          (double)disk.budget);
    gauge(f, "driftd_checkpoints_removed_total", "counter",
          "Checkpoints removed to stay within the disk budget.", (double)disk.removed);
    gauge(f, "driftd_jobs_queued", "gauge", "Jobs that wait.", now.queued);
    running_job(f, &now, &ps);
    disk_gauges(f, d);
    dd_glue_process(f);
    dd_batcher_prometheus(d->batcher, f);
    fprintf(f,
            "# HELP driftd_build_info Version of the program.\n# TYPE driftd_build_info gauge\n"
            "driftd_build_info{version=\"%s\",git=\"%s\"} 1\n",
            DRIFTD_VERSION, DRIFTD_GIT);
    if (fclose(f)) {
        free(text);
        return NULL;
    }
    return text;
}

int dd_glue_backup(void *ctx, struct api_file *out, struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    struct stat st;
    char path[DD_PATH_MAX];
    snprintf(path, sizeof path, "%s/uploads/backup-XXXXXX", d->opt.state_dir);
    int fd = mkstemp(path);
    if (fd < 0)
        return api_problem_set(p, 500, "backup", "cannot create the backup: %s", strerror(errno));
    int rc = dd_store_backup(d->store, path, &err);
    unlink(path);
    if (rc || fstat(fd, &st)) {
        close(fd);
        return dd_http_fail(p, rc ? rc : DR_EIO, &err);
    }
    *out = (struct api_file){.fd = fd, .size = (uint64_t)st.st_size};
    snprintf(out->content_type, sizeof out->content_type, "application/vnd.sqlite3");
    snprintf(out->filename, sizeof out->filename, "driftd-backup.sqlite3");
    return 0;
}
