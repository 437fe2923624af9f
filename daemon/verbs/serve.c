// `driftd serve`: builds the daemon, reports to systemd and the terminal that it is ready, waits
// for signals, and stops it: the job writes a checkpoint at its step while HTTP quiesces and the
// batch ends, then the store is flushed. Exit 0 after a graceful stop.
#include "daemon/base/log.h"
#include "daemon/base/notify.h"
#include "daemon/base/util.h"
#include "daemon/http/daemon.h"
#include "daemon/http/listen.h"
#include "daemon/store/backup.h"
#include "daemon/sweeps/sweeps.h"
#include "daemon/verbs/verbs.h"
#include "driftd_config.h"
#ifdef DD_HAVE_WEB
#include "web/assets.h"
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { GRACE_MS = 10000 };
enum { STATE_DIR_MAX = 480 }; // SQLite takes 512 bytes of path, its own suffixes included
// How long a thread may be silent: quick ones (store, HTTP) two thirds of the watchdog's time,
// those that compute ten times that; within bounds for very short or long watchdogs.
enum { QUICK_MIN_S = 3, QUICK_MAX_S = 20, LONG_MIN_S = 5, LONG_MAX_S = 300 };
// How often systemd hears from driftd, and how much time it is asked for.
enum { NOTIFY_S = 5, EXTEND_S = 30 };

// --- secrets and files ---

static int read_token(const struct dd_options *o, char **out, struct dr_err *err) {
    size_t n;
    *out = NULL;
    if (!*o->token_file)
        return 0;
    int rc = dd_read_text(o->token_file, 1 << 16, out, &n, err);
    if (rc)
        return dr_fail_prefix(err, rc, "token-file");
    while (n && strchr(" \t\r\n", (*out)[n - 1]))
        (*out)[--n] = 0;
    char why[300];
    if (n && !api_tokens_check(*out, why, sizeof why))
        return 0;
    free(*out);
    *out = NULL;
    return n ? dr_fail(err, DR_EINVAL, "token-file: %s: %s", o->token_file, why)
             : dr_fail(err, DR_EINVAL, "token-file: %s: expected at least 8 characters",
                       o->token_file);
}

// Keeps the token that is valid now. A credential is a copy that systemd made at the start: who has
// changed the file and reloads it would trust in the new token, or in the old one being void.
static void keep_token(struct dd *d, char *token) {
    const char *dir = getenv("CREDENTIALS_DIRECTORY"), *file = d->opt.token_file;
    const size_t n = dir ? strlen(dir) : 0;
    char q[700];
    if (n && !strncmp(file, dir, n) && file[n] == '/' && token && d->token &&
        !strcmp(token, d->token))
        dd_log(DR_LOG_WARN, "reload.token",
               "file=%s reason=\"the credential is systemd's copy of the last start and has not "
               "changed: a new token needs a restart\"",
               dd_log_quote(file, q, sizeof q));
    free(d->token);
    d->token = token;
}

static int read_tls(const struct dd_options *o, char **cert, char **key, struct dr_err *err) {
    *cert = *key = NULL;
    if (!*o->tls_cert)
        return 0;
    int rc = dd_read_file(o->tls_cert, 1 << 20, cert, NULL, err);
    if (!rc)
        rc = dd_read_file(o->tls_key, 1 << 20, key, NULL, err);
    return rc;
}

static void remove_files(const char *dir) {
    DIR *f = opendir(dir);
    for (struct dirent *e; f && (e = readdir(f));)
        if (e->d_type == DT_REG)
            unlinkat(dirfd(f), e->d_name, 0);
    if (f)
        closedir(f);
}

// Absolute from here on, whatever folder the process was started in.
static int settle_state_dir(struct dd *d, struct dr_err *err) {
    char *full = realpath(d->opt.state_dir, NULL);
    if (!full)
        return dr_fail(err, DR_EIO, "%s: %s", d->opt.state_dir, strerror(errno));
    free(d->opt.state_dir);
    d->opt.state_dir = full;
    if (strlen(full) > STATE_DIR_MAX)
        return dr_fail(err, DR_EINVAL, "%.80s... is %zu bytes long; at most %d are possible", full,
                       strlen(full), STATE_DIR_MAX);
    return 0;
}

static int prepare_state_dir(struct dd *d, struct dr_err *err) {
    static const char *const below[] = {"checkpoints", "samples", "uploads"};
    char path[DD_PATH_MAX];
    int rc = dd_mkdirs(d->opt.state_dir, err);
    if (!rc)
        rc = settle_state_dir(d, err);
    for (int i = 0; i < 3 && !rc; i++) {
        snprintf(path, sizeof path, "%s/%s", d->opt.state_dir, below[i]);
        rc = dd_mkdirs(path, err);
    }
    if (rc)
        return dr_fail_prefix(err, rc, "state-dir");
    snprintf(path, sizeof path, "%s/lock", d->opt.state_dir);
    d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (d->lock_fd < 0)
        return dr_fail(err, DR_EIO, "state-dir: cannot open %s: %s", path, strerror(errno));
    if (flock(d->lock_fd, LOCK_EX | LOCK_NB))
        return dr_fail(err, DR_EIO, "state-dir: %s is in use by another driftd", d->opt.state_dir);
    snprintf(path, sizeof path, "%s/uploads", d->opt.state_dir);
    dd_backup_remove_all(d->opt.state_dir);
    remove_files(path); // left by uploads that the previous process did not finish
    return 0;
}

// --- HTTP ---

static uint64_t publish(void *ctx, const char *type, const char *job, const json_t *data) {
    return api_publish(ctx, type, job, data);
}
static void publish_metrics(void *ctx, const char *job, int64_t step, size_t n,
                            const char *const *names, const double *values) {
    api_publish_metrics(ctx, job, step, n, names, values);
}

static uint64_t event_head(void *ctx) {
    return api_event_head(ctx);
}

// The table of kinds as the API describes it. Returns how many.
static size_t list_kinds(struct api_job_kind out[DD_MAX_KINDS]) {
    size_t n = 0;
    for (; dd_job_kinds[n] && n < DD_MAX_KINDS; n++)
        out[n] = (struct api_job_kind){dd_job_kinds[n]->name, dd_job_kinds[n]->about};
    return n;
}

static int start_http(struct dd *d, struct dd_listeners *l, struct dr_err *err) {
    char *token = NULL, *cert = NULL, *key = NULL, text[400] = "", uploads[DD_PATH_MAX];
    int rc = read_token(&d->opt, &token, err);
    if (!rc)
        rc = read_tls(&d->opt, &cert, &key, err);
    if (!rc)
        rc = dd_listen_open(&d->opt, token != NULL, l, err);
    snprintf(uploads, sizeof uploads, "%s/uploads", d->opt.state_dir);
    struct api_job_kind kinds[DD_MAX_KINDS];
    struct api_config c = {.listeners = l->l,
                           .nlisteners = (size_t)l->n,
                           .hosts = (const char *const *)d->opt.allow_host.v,
                           .nhosts = (size_t)d->opt.allow_host.n,
                           .token = token,
                           .tls_cert = cert,
                           .tls_key = key,
                           .upload_dir = uploads,
                           .boot = (uint64_t)dd_store_boot(d->store),
                           .version = DRIFTD_VERSION,
#ifdef DD_HAVE_WEB
                           .assets = web_assets,
                           .nassets = web_nassets,
#endif
                           .job_kinds = kinds,
                           .njob_kinds = list_kinds(kinds),
                           .max_connections = (int)d->opt.max_connections,
                           .max_per_address = (int)d->opt.max_per_address,
                           .max_sse = (int)d->opt.max_sse,
                           .max_upload = (uint64_t)d->opt.max_upload_mb << 20,
                           .min_free = DD_MIN_FREE,
                           .header_timeout_ms = (int)d->opt.header_timeout_ms,
                           .body_timeout_ms = (int)d->opt.body_timeout_ms,
                           .send_timeout_ms = (int)d->opt.send_timeout_ms};
    if (!rc && api_server_start(&c, &dd_callbacks, d, &d->server, text, sizeof text)) {
        rc = dr_fail(err, DR_EIO, "%s", text);
        dd_listen_close(l);
    }
    if (!rc) {
        struct dd_event_sink sink = {d->server, publish, publish_metrics, event_head};
        dd_events_attach(d->events, &sink);
    }
    d->token = token;
    free(cert);
    free(key);
    return rc;
}

static void reload(struct dd *d) {
    struct dr_err err = {0};
    char *token = NULL, *cert = NULL, *key = NULL, text[400] = "", q[700];
    const char *file = *d->opt.token_file ? d->opt.token_file : "-";
    struct dd_options fresh;
    dd_notify("RELOADING=1\nMONOTONIC_USEC=%lld", (long long)(dd_now_ns() / 1000));
    // Only the log level, the token and the certificate are read again; the rest needs a restart.
    int rc = 0;
    if (d->opt.config_file) {
        rc = dd_options_parse(d->argc, d->argv, NULL, NULL, NULL, &fresh, &err);
        if (!rc) {
            dd_log_init((enum dr_log_level)dd_log_parse(fresh.log_level));
            dd_log_format(fresh.log_format);
            dd_options_free(&fresh);
        }
    }
    if (!rc)
        rc = read_token(&d->opt, &token, &err);
    if (!rc)
        rc = read_tls(&d->opt, &cert, &key, &err);
    if (!rc && api_server_reload(d->server, token, cert, key, text, sizeof text))
        rc = dr_fail(&err, DR_EIO, "%s", text);
    if (rc) {
        dd_log(DR_LOG_ERROR, "reload.failed", "reason=%s", dd_log_quote(err.msg, q, sizeof q));
        free(token);
    } else {
        dd_log(DR_LOG_INFO, "reload", "log_level=%s token_file=%s", dd_log_word(dd_log_level()),
               dd_log_quote(file, q, sizeof q));
        keep_token(d, token);
    }
    free(cert);
    free(key);
    dd_notify("READY=1");
}

// --- life ---

// `auto` is decided once: jobs run on the device of the generator, even if that device is lost
// later.
static const char *device_of_jobs(const struct dd *d) {
    struct dd_batcher_stats s;
    if (strcmp(d->opt.device, "auto"))
        return d->opt.device;
    dd_batcher_stats(d->batcher, &s);
    return s.on_device ? "cuda" : "cpu";
}

static int build(struct dd *d, struct dd_listeners *l, struct dr_err *err) {
    char path[DD_PATH_MAX];
    int rc = prepare_state_dir(d, err);
    snprintf(path, sizeof path, "%s/driftd.sqlite3", d->opt.state_dir);
    if (!rc)
        rc = dd_store_open(path, &d->store, err);
    if (rc)
        return rc;
    d->live = dd_live_new();
    d->models = dd_models_new(d->store);
    d->events = dd_events_new(d->store);
    d->disk = dd_disk_start(d->store, d->events, d->opt.disk_budget);
    d->pump = dd_pump_start(d->store, d->events, d->opt.keep_metric_steps);
    if (*d->opt.tensorboard_dir) {
        struct dd_tensorboard *t;
        rc = dd_tensorboard_open(d->opt.tensorboard_dir, &t, err);
        if (rc)
            return rc;
        dd_pump_tensorboard(d->pump, t);
    }
    const struct dd_datasets_env ds = {.store = d->store,
                                       .events = d->events,
                                       .data_dir = d->opt.data_dir,
                                       .roots = (const char *const *)d->opt.import_root.v,
                                       .nroots = d->opt.import_root.n,
                                       .max_upload = d->opt.max_upload_mb << 20,
                                       .threads = (int)d->opt.threads};
    rc = dd_datasets_start(&ds, &d->datasets, err);
    if (rc)
        return rc;
    struct dd_batcher_env be = {&d->opt, d->store, d->events, d->live, d->models};
    struct dd_jobs_env je = {.opt = &d->opt,
                             .store = d->store,
                             .events = d->events,
                             .pump = d->pump,
                             .live = d->live,
                             .between = dd_sweeps_between,
                             .between_ctx = &d->jobs};
    rc = dd_batcher_start(&be, &d->batcher, err);
    if (!rc)
        je.device = device_of_jobs(d);
    if (!rc)
        rc = dd_jobs_new(&je, &d->jobs, err);
    if (!rc)
        rc = start_http(d, l, err);
    if (!rc)
        rc = dd_jobs_start(d->jobs, err);
    if (!rc && *d->opt.autostart && dd_jobs_autostart(d->jobs, d->opt.autostart, err))
        rc = dr_fail_prefix(err, DR_EINVAL, "autostart");
    return rc;
}

// Those that compute: how long one may be silent.
static int64_t stall_ns(int64_t feed_us) {
    const int64_t s = 1000000000;
    return feed_us ? DR_MAX(LONG_MIN_S * s, DR_MIN(LONG_MAX_S * s, feed_us * 20000))
                   : LONG_MAX_S * s;
}

static int64_t notify_us(int64_t feed_us) {
    const int64_t most = NOTIFY_S * 1000000;
    return feed_us && feed_us < most ? feed_us : most;
}

// A step, or its checkpoint on a slow disk, may take longer than systemd waits: more time is asked
// for again and again, while the job makes progress.
static void wait_for_jobs(struct dd *d, pthread_t stopper) {
    const int64_t feed = dd_watchdog_interval_us();
    struct dd_jobs_now j;
    for (;;) {
        const int64_t until = dd_now_ns() + notify_us(feed) * 1000;
        const struct timespec t = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
        if (pthread_clockjoin_np(stopper, NULL, CLOCK_MONOTONIC, &t) != ETIMEDOUT)
            return;
        dd_jobs_now(d->jobs, &j);
        if (j.beat_ns != INT64_MAX && dd_now_ns() - j.beat_ns < stall_ns(feed))
            dd_notify("EXTEND_TIMEOUT_USEC=%d000000", EXTEND_S);
    }
}

static void *stop_jobs(void *jobs) {
    dd_jobs_stop(jobs);
    return NULL;
}

static void take_down(struct dd *d, struct dd_listeners *l) {
    pthread_t stopper;
    atomic_store(&d->stopping, true);
    dd_listen_unlink(l);
    if (d->batcher)
        dd_batcher_drain(d->batcher);
    if (d->events)
        dd_events_attach(d->events, NULL);
    // Beside the rest: whoever kills a daemon that takes long to stop must not lose steps for it.
    const bool beside = d->jobs && !pthread_create(&stopper, NULL, stop_jobs, d->jobs);
    dd_backup_cancel();
    api_server_stop(d->server, GRACE_MS); // lets the queue finish meanwhile
    dd_batcher_stop(d->batcher);
    if (beside)
        wait_for_jobs(d, stopper);
    else if (d->jobs)
        dd_jobs_stop(d->jobs);
    dd_datasets_stop(d->datasets);
    dd_disk_stop(d->disk);
    dd_pump_stop(d->pump);
    dd_jobs_free(d->jobs);
    dd_events_free(d->events);
    dd_live_free(d->live);
    dd_models_free(d->models);
    dd_store_close(d->store);
    if (d->lock_fd >= 0)
        close(d->lock_fd);
}

// The watchdog is fed only while every thread that has work makes progress.
static bool healthy(struct dd *d, int64_t feed_us) {
    struct dd_batcher_stats b;
    struct dd_jobs_now j;
    struct api_counters c;
    const int64_t s = 1000000000, now = dd_now_ns();
    int64_t quick = DR_MAX(QUICK_MIN_S * s, DR_MIN(QUICK_MAX_S * s, feed_us * 4000 / 3));
    const int64_t stall = stall_ns(feed_us);
    dd_batcher_stats(d->batcher, &b);
    dd_jobs_now(d->jobs, &j);
    api_server_counters(d->server, &c);
    const char *sick = now - dd_store_beat_ns(d->store) > quick            ? "store"
                       : b.beat_ns != INT64_MAX && now - b.beat_ns > stall ? "batcher"
                       : j.beat_ns != INT64_MAX && now - j.beat_ns > stall ? "trainer"
                       : c.beat_ns && now - (int64_t)c.beat_ns > quick     ? "http"
                                                                           : NULL;
    if (sick)
        dd_log(DR_LOG_ERROR, "watchdog", "thread=%s state=stalled", sick);
    return !sick;
}

// A library that starts threads of its own before main (OpenBLAS) leaves signals open in them; what
// they catch goes to the thread that waits.
static pthread_t waiting;
static void forward(int sig) {
    pthread_kill(waiting, sig);
}
static void forward_signals(void) {
    static const int all[] = {SIGTERM, SIGINT, SIGHUP, SIGXCPU};
    const struct sigaction sa = {.sa_handler = forward, .sa_flags = SA_RESTART};
    waiting = pthread_self();
    for (size_t i = 0; i < DR_COUNT(all); i++)
        sigaction(all[i], &sa, NULL);
}

static void wait_for_end(struct dd *d, const sigset_t *set) {
    const int64_t feed = dd_watchdog_interval_us(), step = notify_us(feed);
    for (;;) {
        struct timespec t = {.tv_sec = step / 1000000, .tv_nsec = step % 1000000 * 1000};
        int sig = sigtimedwait(set, NULL, &t);
        if (sig == SIGTERM || sig == SIGINT || sig == SIGXCPU)
            return;
        if (sig == SIGHUP)
            reload(d);
        struct dd_jobs_now now;
        dd_jobs_now(d->jobs, &now);
        for (char *p = now.name; *p; p++) // each line of the message is an assignment
            if ((unsigned char)*p < ' ')
                *p = ' ';
        if (feed && healthy(d, feed))
            dd_notify("WATCHDOG=1\nSTATUS=%s%s, %d queued", now.running ? "training " : "idle",
                      now.name, now.queued);
    }
}

static int serve(struct dd *d) {
    struct dr_err err = {0};
    sigset_t set;
    struct dd_listeners l = {0};
    char q[700];
    // Blocked before any thread of ours starts, so that only sigtimedwait below sees them.
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGXCPU);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    forward_signals();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); // a file-size limit is a write error like a full disk
    signal(SIGUSR1, SIG_IGN); // some send these to any daemon, after they moved its log for one
    signal(SIGUSR2, SIG_IGN);
    int rc = build(d, &l, &err);
    if (rc) {
        if (dd_log_is_json())
            dd_log(DR_LOG_ERROR, "start.failed", "reason=%s", dd_log_quote(err.msg, q, sizeof q));
        else
            fprintf(stderr, "driftd: %s\n", err.msg);
        take_down(d, &l);
        return 1;
    }
    struct dd_batcher_stats bs;
    dd_batcher_stats(d->batcher, &bs);
    dd_log(DR_LOG_INFO, "ready", "url=%s state_dir=%s device=%s", l.url, d->opt.state_dir,
           dd_log_quote(bs.device, q, sizeof q));
    printf("driftd ready: %s state %s device %s\n", l.url, d->opt.state_dir, bs.device);
    fflush(stdout);
    dd_notify("READY=1\nSTATUS=ready at %s", l.url);
    wait_for_end(d, &set);
    dd_log(DR_LOG_INFO, "stopping", "grace_ms=%d", GRACE_MS);
    dd_notify("STOPPING=1\nSTATUS=finishing requests and writing a checkpoint\n"
              "EXTEND_TIMEOUT_USEC=60000000");
    take_down(d, &l);
    dd_log(DR_LOG_INFO, "stopped", "status=0");
    return 0;
}

int dd_serve_main(int argc, char **argv) {
    struct dd d = {.lock_fd = -1,
                   .exports = {.lock = PTHREAD_MUTEX_INITIALIZER},
                   .started_ns = dd_now_ns(),
                   .argc = argc,
                   .argv = argv};
    struct dr_err err = {0};
    if (dd_options_parse(argc, argv, NULL, NULL, NULL, &d.opt, &err) ||
        (d.opt.nargs && dr_fail(&err, DR_EINVAL, "unexpected argument %.60s", d.opt.args[0]))) {
        fprintf(stderr, "driftd: %s\n", err.msg);
        dd_options_free(&d.opt);
        return 2;
    }
    dd_log_init((enum dr_log_level)dd_log_parse(d.opt.log_level));
    dd_log_format(d.opt.log_format);
    int status = serve(&d);
    free(d.token);
    dd_options_free(&d.opt);
    return status;
}
