// `driftctl follow`: a job's progress until it ends. The event stream brings steps as they happen,
// a request for the job every few seconds corrects them. When the server goes away (a restart), the
// stream continues where it was left. Ctrl-C detaches; a second one ends the process at once.
#include "api/client/ctl.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_EVERY 3.0  // s between requests for the job
#define LOOK_S 10.0     // s that the server may take to answer one
#define LINE_EVERY 10.0 // s between plain lines
#define GRACE 20.0      // s for an interrupted job to be queued again

static volatile sig_atomic_t interrupted_flag;

static void on_signal(int sig) {
    (void)sig;
    interrupted_flag = 1;
}

bool ctl_interrupted(void) {
    return interrupted_flag;
}

struct follow {
    struct ctl *c;
    char *path, *events;
    char last_id[64], state[24];
    CURL *h;
    struct ctl_buf line; // of the stream, up to a newline
    char event[32];
    double step, steps, seconds, minutes, loss, drift, accuracy, rate;
    double rate_step, rate_time, looked, printed, interrupted_at;
    double patience; // s that the server may take to answer
    bool ended, connected, missing, dirty, unreachable;
    int status, tail; // widest tail so far: the bar keeps its width
};

double ctl_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double progress(const struct follow *f) {
    double by_step = f->steps > 0 ? f->step / f->steps : 0;
    double by_time = f->minutes > 0 ? f->seconds / (60 * f->minutes) : 0;
    return by_step > by_time ? by_step : by_time;
}

static double eta(const struct follow *f) {
    double left = NAN;
    if (f->rate > 0 && f->steps > 0)
        left = (f->steps - f->step) / f->rate;
    if (f->minutes > 0 && !(left < 60 * f->minutes - f->seconds))
        left = 60 * f->minutes - f->seconds;
    return left;
}

static void clear(struct follow *f) {
    if (f->dirty)
        fprintf(f->c->out, "\r\033[K");
    f->dirty = false;
}

static void show(struct follow *f, bool force) {
    char bar[64], tail[240], a[32], loss[24] = "-", drift[24] = "-", total[32];
    double t = ctl_now();
    if (f->c->json || (!force && t - f->printed < (f->c->tty ? 0.1 : LINE_EVERY)))
        return;
    f->printed = t;
    if (isfinite(f->loss))
        snprintf(loss, sizeof loss, "%.4g", f->loss);
    // An encoder's steps have an accuracy, a generator's a drift norm.
    const double second = isfinite(f->accuracy) ? f->accuracy : f->drift;
    if (isfinite(second))
        snprintf(drift, sizeof drift, "%.4g", second);
    // Fixed columns keep the width of the bar beside them; 7 are enough for an ETA of hours.
    int digits = snprintf(total, sizeof total, "%.0f", f->steps);
    int decimals = f->rate < 10 ? 2 : f->rate < 100 ? 1 : 0;
    int n =
        snprintf(tail, sizeof tail, "%3.0f%%  step %*.0f/%s  loss %-7s  %s %-7s  %5.*f/s  ETA %s",
                 100 * fmin(progress(f), 1), digits, f->step, total, loss,
                 isfinite(f->accuracy) ? "accuracy" : "drift", drift, decimals, f->rate,
                 ctl_duration(eta(f), a, sizeof a));
    n += 7 - (int)strlen(a);
    if (!f->c->tty) {
        fprintf(f->c->out, "%s  %s\n", ctl_safe(f->state), tail);
    } else {
        f->tail = n > f->tail ? n : f->tail;
        int room = ctl_width() - f->tail - 5;
        room = room > 40 ? 40 : room;
        clear(f);
        if (room >= 5) {
            ctl_bar(bar, sizeof bar, room, progress(f));
            fprintf(f->c->out, "[%s] ", bar);
        }
        fprintf(f->c->out, "%.*s", ctl_width() - 1, tail);
        f->dirty = true;
    }
    fflush(f->c->out);
}

// A line of its own: text, or "text: more".
static void say(struct follow *f, const char *text, const char *more) {
    if (f->c->json)
        return;
    clear(f);
    fprintf(f->c->out, "%s%s%s\n", ctl_safe(text), *more ? ": " : "", ctl_safe(more));
    fflush(f->c->out);
}

static void set_state(struct follow *f, const char *state, const char *error) {
    static const struct {
        const char *state;
        int status;
    } ends[] = {{"completed", CTL_OK},
                {"failed", CTL_REFUSED},
                {"stopped", CTL_STOPPED},
                {"paused", CTL_PAUSED}};
    if (!*state)
        return;
    if (strcmp(state, "interrupted"))
        f->interrupted_at = 0;
    else if (f->interrupted_at == 0)
        f->interrupted_at = ctl_now();
    if (!strcmp(state, f->state))
        return;
    bool first = !*f->state;
    snprintf(f->state, sizeof f->state, "%s", state);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (!strcmp(ends[i].state, state)) {
            f->ended = true;
            f->status = ends[i].status;
        }
    if (f->ended && progress(f) > 0)
        show(f, true);
    if (f->c->tty && f->dirty && f->ended) { // keep the last bar on the screen
        fprintf(f->c->out, "\n");
        f->dirty = false;
    }
    if (!first || strcmp(state, "running"))
        say(f, state, error);
}

// Asks for the job itself. False when the server does not answer.
static bool look(struct follow *f) {
    struct ctl_reply r;
    f->looked = ctl_now();
    f->c->timeout = f->patience;
    if (ctl_http(f->c, "GET", f->path, NULL, NULL, true, &r)) {
        ctl_reply_free(&r);
        return false;
    }
    if (r.status >= 400 && r.status < 500 && r.status != 408 && r.status != 429) {
        clear(f);
        ctl_print_problem(f->c, &r);
        f->ended = f->missing = true;
        f->status = CTL_REFUSED;
    }
    json_t *o = r.status == 200 ? json_loadb(r.body.s, r.body.n, 0, NULL) : NULL;
    ctl_reply_free(&r);
    if (!*ctl_str(o, "state")) { // not driftd's
        json_decref(o);
        return f->missing;
    }
    double step = ctl_num(o, "step");
    if (step > f->step || !strcmp(ctl_str(o, "state"), "queued"))
        f->step = step;
    f->steps = ctl_num(o, "steps_total");
    f->seconds = ctl_num(o, "seconds");
    f->minutes = ctl_num(json_object_get(json_object_get(o, "config"), "train"), "minutes");
    set_state(f, ctl_str(o, "state"), ctl_str(o, "error"));
    if (f->ended && f->c->json)
        ctl_json(f->c, o);
    json_decref(o);
    return true;
}

static void on_metrics(struct follow *f, const json_t *d) {
    const json_t *cols = json_object_get(d, "cols"), *rows = json_object_get(d, "rows"), *name;
    const json_t *row = json_array_get(rows, json_array_size(rows) - 1);
    size_t i;
    double t = ctl_now();
    if (!row)
        return;
    json_array_foreach(cols, i, name) {
        const char *key = json_string_value(name);
        const json_t *v = json_array_get(row, i);
        double x = json_is_number(v) ? json_number_value(v) : (double)NAN;
        if (!key)
            continue;
        if (!strcmp(key, "step"))
            f->step = x;
        else if (!strcmp(key, "loss"))
            f->loss = x;
        else if (!strcmp(key, "drift_norm"))
            f->drift = x;
        else if (!strcmp(key, "accuracy"))
            f->accuracy = x;
    }
    if (f->rate_time == 0 || f->step < f->rate_step) {
        f->rate_time = t;
        f->rate_step = f->step;
    } else if (t - f->rate_time > 1) {
        double r = (f->step - f->rate_step) / (t - f->rate_time);
        f->seconds += t - f->rate_time;
        f->rate = f->rate > 0 ? 0.7 * f->rate + 0.3 * r : r;
        f->rate_time = t;
        f->rate_step = f->step;
    }
    show(f, false);
}

static void on_event(struct follow *f, const char *data) {
    json_t *d = json_loads(data, 0, NULL);
    if (!strcmp(f->event, "metrics")) {
        on_metrics(f, d);
    } else if (!strcmp(f->event, "state") || !strcmp(f->event, "gap")) {
        f->looked = 0; // ask for the job itself
    } else if (!strcmp(f->event, "alert")) {
        char *kind = ctl_printf("alert: %s", ctl_str(d, "kind"));
        say(f, kind, ctl_str(d, "text"));
        free(kind);
    } else if (!strcmp(f->event, "checkpoint") && !f->c->tty) {
        char *line = ctl_printf("checkpoint %s", ctl_str(d, "id"));
        say(f, line, "");
        free(line);
    }
    json_decref(d);
}

static void on_line(struct follow *f, const char *s) {
    if (!*s)
        f->event[0] = '\0';
    else if (!strncmp(s, "id: ", 4))
        snprintf(f->last_id, sizeof f->last_id, "%s", s + 4);
    else if (!strncmp(s, "event: ", 7))
        snprintf(f->event, sizeof f->event, "%s", s + 7);
    else if (!strncmp(s, "data: ", 6))
        on_event(f, s + 6);
}

static size_t on_stream(char *p, size_t size, size_t n, void *arg) {
    struct follow *f = arg;
    long status = 0;
    curl_easy_getinfo(f->h, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200)
        return size * n;
    f->connected = true;
    for (size_t i = 0; i < size * n; i++) {
        if (p[i] != '\n') {
            if (f->line.n > (8u << 20) || ctl_buf_add(&f->line, p + i, 1))
                return 0;
            continue;
        }
        if (ctl_buf_add(&f->line, "", 0))
            return 0;
        on_line(f, f->line.s);
        f->line.n = 0;
    }
    return size * n;
}

static int on_tick(void *arg, curl_off_t a, curl_off_t b, curl_off_t d, curl_off_t e) {
    struct follow *f = arg;
    (void)a, (void)b, (void)d, (void)e;
    if (ctl_now() - f->looked > LOOK_EVERY && !f->ended) {
        look(f);
        show(f, false);
    }
    if (f->interrupted_at > 0 && ctl_now() - f->interrupted_at > GRACE)
        return 1;
    return f->ended || interrupted_flag;
}

static void stream(struct follow *f) {
    struct curl_slist *list = NULL;
    f->c->timeout = f->patience;
    f->h = ctl_handle(f->c, f->events, &list);
    f->connected = false;
    f->line.n = 0;
    if (!f->h)
        return;
    if (f->last_id[0]) {
        char *last = ctl_printf("Last-Event-ID: %s", f->last_id);
        list = curl_slist_append(list, last);
        free(last);
    }
    curl_easy_setopt(f->h, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(f->h, CURLOPT_WRITEFUNCTION, on_stream);
    curl_easy_setopt(f->h, CURLOPT_WRITEDATA, f);
    curl_easy_setopt(f->h, CURLOPT_XFERINFOFUNCTION, on_tick);
    curl_easy_setopt(f->h, CURLOPT_XFERINFODATA, f);
    curl_easy_setopt(f->h, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(f->h, CURLOPT_LOW_SPEED_LIMIT, 1L); // pings come every 15 s
    curl_easy_setopt(f->h, CURLOPT_LOW_SPEED_TIME, 60L);
    curl_easy_perform(f->h);
    curl_easy_cleanup(f->h);
    curl_slist_free_all(list);
}

static int finish(struct follow *f, const char *job) {
    clear(f);
    free(f->line.s);
    free(f->path);
    free(f->events);
    if (f->ended)
        return f->status;
    if (interrupted_flag) {
        fprintf(stderr, "driftctl: detached; job %s goes on (driftctl follow %s)\n", ctl_safe(job),
                ctl_safe(job));
        return CTL_DETACHED;
    }
    if (f->unreachable) {
        fprintf(stderr, "driftctl: %s does not answer\n",
                ctl_safe(f->c->unix_path ? f->c->unix_path : f->c->url));
        return CTL_UNREACHABLE;
    }
    fprintf(stderr, "driftctl: the job was interrupted; continue it with: driftctl resume %s\n",
            ctl_safe(job));
    return CTL_INTERRUPTED;
}

int ctl_follow(struct ctl *c, const char *job) {
    struct follow f = {.c = c, .loss = NAN, .drift = NAN, .accuracy = NAN, .patience = LOOK_S};
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    const double timeout = c->timeout; // of what comes after
    bool lost = false;
    int failures = 0;
    sigaction(SIGINT, &sa, NULL);
    struct ctl_buf path = ctl_path("/v1/jobs/", job, "");
    f.path = path.s;
    f.events = ctl_printf("%s/events", path.s);
    if (ctl_get(c, "timeout"))
        f.patience = c->timeout;
    while (!f.ended && !interrupted_flag) {
        bool answered = look(&f);
        if (f.ended || (f.interrupted_at > 0 && ctl_now() - f.interrupted_at > GRACE))
            break;
        if (answered) {
            if (lost)
                say(&f, "connected again", "");
            lost = false;
            failures = 0;
            show(&f, false);
            stream(&f);
        } else if (!lost && (failures || f.state[0])) {
            say(&f, "connection lost; trying again", "");
            lost = true;
        }
        if (!answered && !f.state[0] && !interrupted_flag && ++failures > 5) {
            f.unreachable = true;
            break;
        }
        if (!f.ended && !f.connected)
            usleep(500000);
        f.connected = false;
    }
    c->timeout = timeout;
    return finish(&f, job);
}
