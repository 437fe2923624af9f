// `driftd run CONFIG`: one job in the foreground, for shells and batch schedulers. Needs neither
// SQLite nor HTTP. Progress lines on stdout (on stderr where the sample grid goes to stdout), log
// on stderr. SIGINT, SIGTERM and SIGHUP write a checkpoint and exit with 3; a second one exits
// after the current step. SIGXCPU and SIGUSR2, by which batch systems announce a kill, do as the
// first. SIGUSR1 writes a checkpoint and goes on. SIGPIPE and SIGXFSZ are ignored: writing fails
// instead, and is reported.
#include "daemon/base/log.h"
#include "daemon/base/options.h"
#include "daemon/base/recipe.h"
#include "daemon/base/util.h"
#include "daemon/generate/grid.h"
#include "daemon/jobs/encoder_data.h"
#include "daemon/jobs/runner.h"
#include "daemon/store/ckpt_files.h"
#include "daemon/store/ckpt_sums.h"
#include "daemon/verbs/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static volatile sig_atomic_t stops;  // SIGINT, SIGTERM and SIGHUP so far
static volatile sig_atomic_t warned; // SIGXCPU, which comes each second, or SIGUSR2
static volatile sig_atomic_t save_wanted;

struct run_cmd {
    const char *out, *grid;
    FILE *say; // progress
    char *set[32];
    int nset;
    bool resume, quiet;
    bool mute; // progress cannot be written
    double printed_at, started_at;
    int64_t first_step;
    double grid_cfg;
    int64_t per_class;
    const struct dr_trainer *trainer; // while it runs
};

static void on_signal(int sig) {
    if (sig == SIGUSR1)
        save_wanted = 1;
    else if (sig == SIGXCPU || sig == SIGUSR2)
        warned = 1;
    else
        stops = stops + 1;
}

static void catch_signals(void) {
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old;
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGUSR1, &sa, NULL);
    sigaction(SIGUSR2, &sa, NULL);
    sigaction(SIGXCPU, &sa, NULL);
    if (!sigaction(SIGHUP, NULL, &old) && old.sa_handler != SIG_IGN) // nohup ignores it
        sigaction(SIGHUP, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

static int extra(void *ctx, const char *flag, const char *value, struct dr_err *err) {
    struct run_cmd *c = ctx;
    if (!strcmp(flag, "out"))
        c->out = value;
    else if (!strcmp(flag, "grid"))
        c->grid = value;
    else if (!strcmp(flag, "resume"))
        c->resume = strcmp(value, "false") != 0;
    else if (!strcmp(flag, "quiet"))
        c->quiet = true;
    else if (c->nset == (int)(sizeof c->set / sizeof *c->set))
        return dr_fail(err, DR_EINVAL, "--set: at most 32 of them");
    else
        c->set[c->nset++] = (char *)value;
    return 0;
}

static enum dd_wish on_wish(void *ctx) {
    (void)ctx;
    if (stops || warned)
        return stops > 1 ? DD_WISH_STOP_NOW : DD_WISH_STOP;
    if (!save_wanted)
        return DD_WISH_NONE;
    save_wanted = 0;
    return DD_WISH_CHECKPOINT;
}

// Flushes progress. Training goes on where nobody reads it any more, with one line on stderr.
static void flush_progress(struct run_cmd *c) {
    if (!fflush(c->say) && !ferror(c->say))
        return;
    if (!c->mute)
        fprintf(stderr, "driftd run: standard output: %s; training goes on without progress\n",
                strerror(errno));
    c->mute = true;
    clearerr(c->say);
}

static int on_started(void *ctx, const struct dr_trainer *t, const struct dr_dataset *d,
                      int64_t step, struct dr_err *err) {
    struct run_cmd *c = ctx;
    (void)err;
    c->started_at = dd_seconds();
    c->trainer = t;
    c->first_step = step;
    fprintf(c->say, "data %s: %lld images; memory %.1f MiB; %lld steps%s\n", d->name,
            (long long)d->n, (double)dr_trainer_memory(t) / 1048576,
            (long long)dr_trainer_steps_total(t), step ? "" : " from scratch");
    if (step)
        fprintf(c->say, "resumed at step %lld\n", (long long)step);
    flush_progress(c);
    return 0;
}

// Whether this step's metrics hold a measurement that is worth its line.
static bool tested(const struct run_cmd *c, const struct dr_metrics *m) {
    return !isnan(dr_metric(c->trainer, m, "test_accuracy")) ||
           !isnan(dr_metric(c->trainer, m, "probe_accuracy"));
}

static void on_step(void *ctx, const struct dr_metrics *m, double seconds, int64_t total) {
    static const struct {
        const char *name, *word;
    } shown[] = {{"accuracy", "accuracy"}, {"test_accuracy", "test"}, {"probe_accuracy", "probe"}};
    struct run_cmd *c = ctx;
    const bool of_step = !isnan(m->step_seconds); // else of what was measured after it
    double now = dd_seconds();
    if (c->quiet || c->mute ||
        (now - c->printed_at < 1 && m->step != total && m->step != 1 && !tested(c, m)))
        return;
    c->printed_at = now;
    double rate = (double)(m->step - c->first_step) / fmax(now - c->started_at, 1e-9);
    fprintf(c->say, "step %lld/%lld", (long long)m->step, (long long)total);
    if (of_step)
        fprintf(c->say, " loss %.5f", m->loss);
    if (m->ntau)
        fprintf(c->say, " drift %.4f", m->drift_norm[0]);
    for (size_t i = 0; i < DR_COUNT(shown); i++) {
        const double v = dr_metric(c->trainer, m, shown[i].name);
        if (!isnan(v))
            fprintf(c->say, " %s %.4f", shown[i].word, v);
    }
    if (!isnan(m->spread))
        fprintf(c->say, " spread %.3f min %.3f", m->spread, m->spread_min);
    if (of_step)
        fprintf(c->say, " grad %.3g lr %.3g step %.3fs", m->grad_norm, m->lr, m->step_seconds);
    fprintf(c->say, " time %.0fs eta %.0fs\n", seconds,
            (double)(total - m->step) / fmax(rate, 1e-9));
    flush_progress(c);
}

static void warn(const char *event, int64_t step, const char *path, const char *text) {
    char q[700];
    dd_log(DR_LOG_WARN, event, "step=%lld path=%s reason=%s", (long long)step, path,
           dd_log_quote(text, q, sizeof q));
}

// Without its sum a checkpoint is as good, as long as no earlier one's lies beside it.
static int on_checkpoint(void *ctx, int64_t step, const char *path, const char *sha, int64_t bytes,
                         struct dr_err *err) {
    struct run_cmd *c = ctx;
    struct dr_err why = {0};
    (void)err;
    if (dd_ckpt_sum_write(path, sha, &why)) {
        dd_ckpt_sum_remove(path);
        warn("checkpoint.sum", step, path, why.msg);
    }
    if (!c->quiet && !c->mute)
        fprintf(c->say, "checkpoint step %lld %s (%lld bytes, sha256 %.12s)\n", (long long)step,
                path, (long long)bytes, sha);
    flush_progress(c);
    return 0;
}

static bool on_let_go(void *ctx, const char *path) {
    (void)ctx;
    dd_ckpt_sum_remove(path);
    return true;
}
static int on_verify(void *ctx, const char *path, struct dr_err *err) {
    (void)ctx;
    return dd_ckpt_sum_check(path, err);
}
static void on_checkpoint_failed(void *ctx, int64_t step, const struct dr_err *e) {
    (void)ctx;
    warn("checkpoint.failed", step, "-", e->msg);
}
static void on_refused(void *ctx, const char *path, const struct dr_err *e) {
    (void)ctx;
    warn("checkpoint.refused", 0, path, e->msg);
}
static void on_alert(void *ctx, const char *kind, int64_t step, const char *text) {
    (void)ctx;
    char event[40];
    snprintf(event, sizeof event, "alert.%s", kind);
    warn(event, step, "-", text);
}

static void end_at_once(int sig) {
    (void)sig;
    _exit(3);
}

// A pipe may wait for its reader without end, and there is nothing left to save.
static void let_signals_end(void) {
    static const int all[] = {SIGINT, SIGTERM, SIGXCPU, SIGUSR2};
    struct sigaction old;
    for (size_t i = 0; i < DR_COUNT(all); i++)
        signal(all[i], end_at_once);
    if (!sigaction(SIGHUP, NULL, &old) && old.sa_handler != SIG_IGN)
        signal(SIGHUP, end_at_once);
}

// The grid after training, from the checkpoint just written, as later users of the file see it.
static int write_grid(const struct run_cmd *c, const struct dd_options *o, const char *ckpt,
                      struct dr_err *err) {
    struct dr_snapshot *s = NULL;
    struct dr_backend *be = NULL;
    struct dd_grid *g = NULL;
    struct dr_bytes png = {0};
    const bool direct = dd_is_direct(c->grid);
    int rc = dr_snapshot_load(ckpt, NULL, &s, err);
    if (!rc)
        rc = dr_backend_open(o->device, (int)o->threads, &be, err);
    if (!rc) {
        dr_backend_enter(be);
        rc = dd_grid_new(be, strcmp(o->precision, "bf16") ? DR_FP32 : DR_PREC_BF16, &g, err);
    }
    if (!rc)
        rc = dd_grid_png(g, s, c->per_class, c->grid_cfg, &png, err);
    if (!rc && direct)
        let_signals_end();
    else if (!rc)
        rc = dd_mkdir_for(c->grid, err);
    if (!rc)
        rc = dd_write_output(c->grid, png.p, png.n, err);
    if (!rc) {
        const struct dd_grid_file f = dd_grid_size(png.p, png.n);
        fprintf(c->say, "grid %s %lldx%lld\n", c->grid, (long long)f.width, (long long)f.height);
    }
    dr_bytes_free(&png);
    dd_grid_free(g);
    dr_backend_free(be);
    dr_snapshot_unref(s);
    return rc;
}

// The file that init_from names: as it is, else below the data directory. NULL: there is none.
static char *find_init(const struct dd_options *o, const struct dr_config *cfg,
                       struct dr_err *err) {
    if (!access(cfg->init_from, R_OK))
        return dd_xstrdup(cfg->init_from);
    char *path = dd_printf("%s/%s", o->data_dir ? o->data_dir : ".", cfg->init_from);
    if (!access(path, R_OK))
        return path;
    dr_fail_at(err, DR_ENOENT, "init_from",
               "init_from is \"%.100s\", which is no file here or below the data directory; ids of "
               "checkpoints are known to the daemon only",
               cfg->init_from);
    free(path);
    return NULL;
}

static void take_hooks(struct run_cmd *c, struct dd_run_hooks *h) {
    *h = (struct dd_run_hooks){.ctx = c,
                               .wish = on_wish,
                               .started = on_started,
                               .step = on_step,
                               .checkpoint = on_checkpoint,
                               .checkpoint_failed = on_checkpoint_failed,
                               .checkpoint_let_go = on_let_go,
                               .checkpoint_verify = on_verify,
                               .checkpoint_refused = on_refused,
                               .alert = on_alert};
}

// The configuration of the newest file in a folder that can be read. False: there is none.
static bool trained_with(const char *folder, struct dr_config *out) {
    struct dd_ckpt_list list;
    bool found = false;
    if (dd_ckpt_list(folder, &list, NULL)) // the run will say why
        return false;
    for (int i = list.n - 1; i >= 0 && !found; i--) {
        char path[DD_PATH_MAX];
        struct dr_st_file *f = NULL;
        dd_ckpt_path(folder, list.step[i], path, sizeof path);
        const char *json = dr_st_open(path, &f, NULL) ? NULL : dr_st_meta(f, "driftd.config");
        found = json && !dr_config_parse(json, strlen(json), NULL, out, NULL);
        dr_st_close(f);
    }
    dd_ckpt_list_free(&list);
    return found;
}

// An encoder that another recipe, or this one before it was changed, has left in the folder makes
// way for a new one; a run that goes on must not change its features under way.
static int make_way(const struct run_cmd *c, const struct dr_config *encoder, const char *folder,
                    struct dr_err *err) {
    struct dr_config was;
    char key[80];
    if (!trained_with(folder, &was) || !dd_encoder_differs(&was, encoder, key))
        return 0;
    if (!c->resume)
        return dd_ckpt_set_aside(folder, err);
    return dr_fail_at(
        err, DR_ECONFLICT, "features.encoder",
        "features.encoder: the encoder in %.200s was trained with another %s than the "
        "recipe %.60s has now; put that back, or start anew without --resume",
        folder, key, encoder->name);
}

// Trains the encoder of a recipe in OUT/encoder, or goes on with the one that is there; one that is
// complete is taken as it is. *stopped: by a signal, before its end.
static int train_encoder(struct run_cmd *c, const struct dd_options *o, const struct dr_config *cfg,
                         const char *out, char path[DD_PATH_MAX], bool *stopped,
                         struct dr_err *err) {
    struct dr_config encoder;
    int rc = dd_encoder_recipe(o->config_dir, cfg, &encoder, err);
    if (rc)
        return rc;
    char *folder = dd_printf("%s/encoder", out);
    const struct dd_run_spec spec = {.cfg = &encoder,
                                     .data_dir = o->data_dir,
                                     .device = o->device,
                                     .checkpoint_dir = folder,
                                     .id = encoder.name,
                                     .threads = (int)o->threads,
                                     .resume = true,
                                     .complete_is_tested = true};
    struct dd_run_hooks hooks;
    struct dd_run_result res;
    take_hooks(c, &hooks);
    fprintf(c->say, "encoder %s in %s\n", encoder.name, folder);
    rc = make_way(c, &encoder, folder, err);
    if (!rc)
        rc = dd_run(&spec, &hooks, &res, err);
    *stopped = !rc && res.outcome != DD_RUN_COMPLETED;
    if (!rc && !*stopped)
        rc = dd_path(path, err, "%s", res.last_good);
    free(folder);
    return rc;
}

// The file of the encoder that cfg names; empty: it names none.
static int find_encoder(struct run_cmd *c, const struct dd_options *o, const struct dr_config *cfg,
                        const char *out, char path[DD_PATH_MAX], bool *stopped,
                        struct dr_err *err) {
    const char *word;
    const enum dd_encoder_ref ref = dd_encoder_ref(cfg, &word);
    path[0] = 0;
    if (ref == DD_ENCODER_NONE)
        return 0;
    if (ref == DD_ENCODER_RECIPE)
        return train_encoder(c, o, cfg, out, path, stopped, err);
    if (ref == DD_ENCODER_FILE && !access(word, R_OK))
        return dd_path(path, err, "%s", word);
    int rc = dd_path(path, err, "%s/%s", o->data_dir ? o->data_dir : ".", word);
    if (!rc && ref == DD_ENCODER_FILE && !access(path, R_OK))
        return 0;
    return rc ? rc
              : dr_fail_at(err, DR_ENOENT, "features.encoder",
                           "features.encoder is \"%.100s\", which is no file here or below the "
                           "data directory; ids of checkpoints are known to the daemon only",
                           cfg->features.encoder);
}

static int check(const struct run_cmd *c, const struct dr_config *cfg, struct dr_err *err) {
    if (cfg->kind == DR_RECIPE_EVAL)
        return dr_fail_at(err, DR_EUNSUPPORTED, "kind",
                          "kind is eval: evaluations need the daemon's checkpoints; use `driftctl "
                          "eval`");
    if (c->grid && cfg->kind != DR_RECIPE_TRAIN)
        return dr_fail(err, DR_EINVAL, "--grid: a recipe of kind %s makes no samples",
                       dr_recipe_word(cfg->kind));
    if (c->grid && dd_is_stdout(c->grid) && isatty(STDOUT_FILENO))
        return dr_fail(err, DR_EINVAL,
                       "--grid: a PNG is not written to a terminal; expected a file or a pipe");
    return 0;
}

// Makes the folder and holds it until *lock is closed: two runs in one folder would take each
// other's checkpoints for their own. A file system that knows no locks does without.
static int hold_folder(const char *out, int *lock, struct dr_err *err) {
    char path[DD_PATH_MAX];
    int rc = dd_mkdirs(out, err);
    if (!rc)
        rc = dd_path(path, err, "%s/lock", out);
    if (rc)
        return rc;
    *lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (*lock < 0)
        return dr_fail(err, DR_EIO, "cannot open %s: %s", path, strerror(errno));
    if (!flock(*lock, LOCK_EX | LOCK_NB))
        return 0;
    if (errno == EWOULDBLOCK)
        return dr_fail(err, DR_ECONFLICT, "%s is in use by another driftd run", out);
    warn("run.lock", 0, path, strerror(errno));
    return 0;
}

static int run(struct run_cmd *c, const struct dd_options *o, struct dr_config *cfg,
               struct dr_err *err) {
    struct dr_err gone = {0}; // of use to a run that goes on only where it has to start anew
    char *init = cfg->init_from[0] ? find_init(o, cfg, &gone) : NULL;
    if (gone.code && !c->resume) {
        *err = gone;
        return 1;
    }
    char *out = c->out ? dd_xstrdup(c->out)
                       : dd_printf("%s/run/%s", o->state_dir, cfg->name[0] ? cfg->name : "unnamed");
    struct dd_run_spec spec = {.cfg = cfg,
                               .data_dir = o->data_dir,
                               .device = o->device,
                               .checkpoint_dir = out,
                               .id = cfg->name,
                               .init_from = init,
                               .no_init = gone.code ? &gone : NULL,
                               .threads = (int)o->threads,
                               .resume = c->resume,
                               .strict_resume = true};
    struct dd_run_hooks hooks;
    char encoder[DD_PATH_MAX] = "";
    bool stopped = false;
    take_hooks(c, &hooks);
    struct dd_run_result res = {.outcome = DD_RUN_STOPPED};
    int lock = -1, rc = hold_folder(out, &lock, err);
    if (!rc)
        rc = find_encoder(c, o, cfg, out, encoder, &stopped, err);
    const char *word;
    spec.encoder = encoder[0] ? encoder : NULL;
    spec.encoder_of_recipe = dd_encoder_ref(cfg, &word) == DD_ENCODER_RECIPE;
    if (!rc && !stopped)
        rc = dd_run(&spec, &hooks, &res, err);
    if (!rc && c->grid && res.last_good[0])
        rc = write_grid(c, o, res.last_good, err);
    if (lock >= 0)
        close(lock);
    free(out);
    free(init);
    if (rc)
        return 1;
    if (stopped)
        fprintf(c->say,
                "stopped while the encoder was being trained; the same command goes on with it\n");
    if (stopped)
        return 3;
    if (res.unsaved.code) {
        *err = res.unsaved;
        return 1;
    }
    fprintf(c->say, "%s at step %lld after %.1f s of training; checkpoint %s\n",
            res.outcome == DD_RUN_COMPLETED ? "completed" : "stopped", (long long)res.step,
            res.seconds, res.last_good[0] ? res.last_good : "none");
    return res.outcome == DD_RUN_COMPLETED ? 0 : 3;
}

// The recipe with its changes; everything that is wrong with both goes to *list.
static int read_recipe(const struct run_cmd *c, const struct dd_options *o, struct dr_config *cfg,
                       struct dr_problems *list, struct dr_err *err) {
    if (o->nargs != 1)
        return dr_fail(err, DR_EINVAL, "expected one recipe: a name or a file");
    const int broken = dd_recipe_load_listed(o->config_dir, o->args[0], cfg, list, err);
    int rc = dr_config_set_listed(broken ? NULL : cfg, (const char *const *)c->set, c->nset, list,
                                  broken ? NULL : err);
    return broken ? broken : rc;
}

int dd_run_main(int argc, char **argv) {
    static const char *const flags[] = {"out", "grid", "set", "resume!", "quiet!", NULL};
    struct run_cmd c = {0};
    struct dd_options o;
    struct dr_err err = {0};
    struct dr_problems list = {0};
    struct dr_config cfg;
    int status = 2;
    if (dd_options_parse(argc, argv, flags, extra, &c, &o, &err)) {
        fprintf(stderr, "driftd run: %s\n", err.msg);
        return 2;
    }
    dd_log_init((enum dr_log_level)dd_log_parse(o.log_level));
    int rc = read_recipe(&c, &o, &cfg, &list, &err);
    if (!rc)
        rc = check(&c, &cfg, &err);
    if (!rc) {
        c.per_class = cfg.samples.per_class;
        c.grid_cfg = cfg.samples.cfg;
        c.say = c.grid && dd_is_stdout(c.grid) ? stderr : stdout;
        catch_signals();
        status = run(&c, &o, &cfg, &err);
    }
    if (err.msg[0] && (rc || status))
        dd_print_problems("driftd run", &list, &err);
    dd_options_free(&o);
    return status;
}
