// Implementation of fake.h: canned answers for every callback, and a socket client that hides
// nothing of what the server wrote.
#include "fake.h"

#include <arpa/inet.h>
#include <assert.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const char *const names[10] = {"zero", "one",  "two",   "three", "four",
                                      "five", "2001", "seven", "SEVEN", "7"};

// For the checkpoint `commas`.
static const char *const odd_names[10] = {
    "tench, Tinca tinca", " lead", "a", "b", "a,b", "2,3", "f", "g", "h", "i"};

static int describe(void *ctx, const char *ckpt, struct api_model *out, struct api_problem *p) {
    (void)ctx;
    if (!strcmp(ckpt, "gone"))
        return api_problem_set(p, 404, "not-found", "there is no checkpoint `gone`");
    if (!strcmp(ckpt, "loading")) {
        api_problem_set(p, 503, "loading", "the model is loading");
        p->retry_after = 2.5;
        return -1;
    }
    const bool points = !strcmp(ckpt, "points");
    const int side = !strcmp(ckpt, "large") ? 256 : points ? 1 : 32;
    *out = (struct api_model){.classes = 10,
                              .names = strcmp(ckpt, "commas") ? names : odd_names,
                              .cfg_min = 1,
                              .cfg_max = 4,
                              .cfg_default = 1,
                              .max_n = points || !strcmp(ckpt, "many") ? 4096 : 64,
                              .width = side,
                              .height = side,
                              .channels = points ? 2 : 1,
                              .plot_side = points ? 256 : 0,
                              .noise_count = strcmp(ckpt, "vector") ? 0 : 4};
    return 0;
}

static void complete(struct fake *f, struct api_gen *g) {
    static const unsigned char png[] = "\x89PNG\r\n\x1a\n\0fake";
    if (api_gen_abandoned(g)) {
        atomic_fetch_add(&f->abandoned, 1);
        api_gen_fail(g, NULL);
        return;
    }
    const struct api_gen_request *q = api_gen_request(g);
    struct api_gen_result res = {
        .checkpoint = "ck1", .step = 77, .queue_ms = 1.5, .compute_ms = 2.25, .batch_size = q->n};
    if (q->format == API_NPY) {
        float one = 1.5f;
        const size_t asked = (size_t)atomic_load(&f->answer_bytes);
        res.size = asked ? asked : 10 + sizeof one;
        res.bytes = calloc(1, res.size);
        memcpy(res.bytes, "\x93NUMPY\1\0\0\0", 10);
        memcpy((char *)res.bytes + 10, &one, sizeof one);
        res.content_type = "application/octet-stream";
    } else {
        res.size = sizeof png;
        res.bytes = malloc(res.size);
        memcpy(res.bytes, png, sizeof png);
        res.content_type = "image/png";
    }
    atomic_fetch_add(&f->completed, 1);
    api_gen_complete(g, &res);
}

struct later {
    struct fake *f;
    struct api_gen *g;
};

static void *later_main(void *arg) {
    struct later l = *(struct later *)arg;
    free(arg);
    usleep((useconds_t)atomic_load(&l.f->delay_ms) * 1000);
    complete(l.f, l.g);
    return NULL;
}

static int generate(void *ctx, struct api_gen *g, struct api_problem *p) {
    struct fake *f = ctx;
    int mode = atomic_load(&f->mode);
    if (mode == FAKE_FULL || mode == FAKE_DRAINING) {
        api_problem_set(p, mode == FAKE_FULL ? 429 : 503,
                        mode == FAKE_FULL ? "queue-full" : "draining", "not now");
        p->retry_after = 3.2;
        return -1;
    }
    pthread_mutex_lock(&f->mu);
    f->served_by[api_gen_request(g)->seed % 1024] = pthread_self();
    f->last_gen = *api_gen_request(g);
    const size_t n = f->last_gen.n < FAKE_IMAGES ? (size_t)f->last_gen.n : FAKE_IMAGES;
    memcpy(f->last_images, f->last_gen.images, sizeof *f->last_images * n);
    f->last_gen.images = NULL;
    pthread_mutex_unlock(&f->mu);
    atomic_fetch_add(&f->submitted, 1);
    if (mode == FAKE_AT_ONCE) {
        complete(f, g);
    } else if (mode == FAKE_LATER) {
        struct later *l = malloc(sizeof *l);
        pthread_t t;
        *l = (struct later){f, g};
        pthread_create(&t, NULL, later_main, l);
        pthread_detach(t);
    } else {
        pthread_mutex_lock(&f->mu);
        assert(f->nheld < 256);
        f->held[f->nheld++] = g;
        pthread_mutex_unlock(&f->mu);
    }
    return 0;
}

void fake_release(struct fake *f) {
    pthread_mutex_lock(&f->mu);
    for (int i = 0; i < f->nheld; i++)
        complete(f, f->held[i]);
    f->nheld = 0;
    pthread_mutex_unlock(&f->mu);
}

static int job_create(void *ctx, const struct api_job_create *in, struct api_reply *out) {
    struct fake *f = ctx;
    if (atomic_load(&f->mode) == FAKE_BLOCK_JOBS)
        atomic_fetch_add(&f->blocked, 1);
    while (atomic_load(&f->mode) == FAKE_BLOCK_JOBS)
        usleep(1000);
    if (json_is_string(in->config) && strcmp(json_string_value(in->config), "digits")) {
        api_problem_set(&out->problem, 422, "invalid-config", "there is no recipe of this name");
        return api_problem_field(&out->problem, "config", "did you mean `digits`?");
    }
    if (in->check)
        return 0;
    if (in->idempotency_key && !strcmp(in->idempotency_key, f->last_key)) {
        if (strcmp(in->fingerprint, f->last_job))
            return api_problem_set(&out->problem, 422, "idempotency", "the key has another body");
        out->replayed = true;
    }
    pthread_mutex_lock(&f->mu);
    snprintf(f->last_job, sizeof f->last_job, "%s", in->fingerprint);
    snprintf(f->last_key, sizeof f->last_key, "%s", in->idempotency_key ? in->idempotency_key : "");
    pthread_mutex_unlock(&f->mu);
    out->body = json_pack("{s:s, s:s, s:i}", "id", "j1", "kind", in->kind ? in->kind : "train",
                          "priority", in->priority);
    snprintf(out->location, sizeof out->location, "/v1/jobs/j1");
    return 0;
}

static int job_list(void *ctx, const struct api_page *page, struct api_reply *out) {
    struct fake *f = ctx;
    f->last_limit = page->limit;
    out->body = json_pack("{s:[{s:s}]}", "jobs", "id", "j1");
    if (!page->cursor)
        snprintf(out->next_cursor, sizeof out->next_cursor, "a b");
    return 0;
}

static int job_get(void *ctx, const char *id, struct api_reply *out) {
    static const char *const states[] = {"running", "completed", "failed", "stopped"};
    struct fake *f = ctx;
    int ended = atomic_load(&f->job_ended);
    if (strcmp(id, "j1"))
        return api_problem_set(&out->problem, 404, "not-found", "there is no job `%s`", id);
    out->body = json_pack("{s:s, s:s, s:i, s:i, s:f, s:s?}", "id", id, "state", states[ended],
                          "step", atomic_load(&f->job_step), "steps_total", 200, "seconds", 1.0,
                          "error", ended == 2 ? "no luck" : NULL);
    return 0;
}

static int job_field(void *ctx, const char *id, struct api_reply *out) {
    (void)ctx;
    out->body = json_pack("{s:s, s:i, s:[], s:[]}", "job", id, "step", 1, "samples", "data");
    return 0;
}

static int job_patch(void *ctx, const char *id, const struct api_job_patch *in,
                     struct api_reply *out) {
    (void)ctx;
    out->body = json_pack("{s:s, s:s?, s:s?}", "id", id, "name", in->name, "notes", in->notes);
    return 0;
}

static int job_remove(void *ctx, const char *id, struct api_reply *out) {
    (void)ctx;
    return strcmp(id, "j1") ? 0 : api_problem_set(&out->problem, 409, "running", "it runs");
}

static int job_action(void *ctx, const char *id, enum api_job_action a, struct api_reply *out) {
    struct fake *f = ctx;
    pthread_mutex_lock(&f->mu);
    f->last_action = (int)a;
    pthread_mutex_unlock(&f->mu);
    out->body = json_pack("{s:s}", "id", id);
    return 0;
}

struct cursor {
    int i, n;
};

static int cursor_next(void *self, struct api_metric_bucket *out) {
    struct cursor *c = self;
    if (c->i == c->n)
        return 0;
    int half = c->n / 2;
    *out = (struct api_metric_bucket){.name = c->i < half ? "grad_norm" : "loss",
                                      .step = c->i % half,
                                      .step_last = c->i % half,
                                      .time = 1000 + c->i,
                                      .n = 1,
                                      .min = 1,
                                      .max = 2,
                                      .mean = 1.5,
                                      .last = c->i == 1 ? NAN : 0.25};
    c->i++;
    return 1;
}

static int metrics_open(void *ctx, const struct api_metrics_query *q,
                        struct api_metrics_cursor *out, struct api_problem *p) {
    (void)ctx;
    if (strcmp(q->job, "j1"))
        return api_problem_set(p, 404, "not-found", "no such job");
    struct cursor *c = calloc(1, sizeof *c);
    c->n = q->max_points == 0 ? 20000 : 4;
    *out = (struct api_metrics_cursor){c, cursor_next, free};
    return 0;
}

// Two jobs of two steps; the second has no `lr` at all, and a value that is not finite.
struct table {
    int i;
    int asked; // two calls of three find nothing yet
    double value[2];
    bool have[2];
};
static int table_next(void *self, struct api_wide_row *out) {
    struct table *t = self;
    if (t->asked++ % 3 != 2)
        return 2;
    if (t->i == 4)
        return 0;
    const bool second = t->i >= 2;
    t->value[0] = t->i == 3 ? NAN : 0.25 * t->i;
    t->value[1] = 1e-4;
    t->have[0] = true;
    t->have[1] = !second;
    *out = (struct api_wide_row){.job = second ? "j2" : "j1",
                                 .run = second ? "a, \"b\"" : "first",
                                 .step = t->i % 2 + 1,
                                 .time = 1000 + t->i,
                                 .value = t->value,
                                 .have = t->have};
    t->i++;
    return 1;
}
static int metrics_wide(void *ctx, const struct api_wide_query *q, struct api_wide_cursor *out,
                        struct api_problem *p) {
    static const char *const columns[] = {"loss", "lr"};
    struct fake *f = ctx;
    if (atomic_load(&f->mode) == FAKE_BLOCK_READS)
        atomic_fetch_add(&f->blocked, 1);
    while (atomic_load(&f->mode) == FAKE_BLOCK_READS)
        usleep(1000);
    for (size_t i = 0; i < q->njobs; i++)
        if (q->jobs[i][0] != 'j')
            return api_problem_set(p, 404, "not-found", "there is no job %s", q->jobs[i]);
    *out = (struct api_wide_cursor){calloc(1, sizeof(struct table)), columns, 2, table_next, free};
    return 0;
}
static int job_alerts(void *ctx, const char *id, struct api_reply *out) {
    (void)ctx;
    if (strcmp(id, "j1"))
        return api_problem_set(&out->problem, 404, "not-found", "there is no job %s", id);
    out->body = json_pack("{s:[{s:s, s:i}]}", "alerts", "kind", "collapse", "step", 7);
    return 0;
}

static int events_read(void *ctx, uint64_t boot, uint64_t seq, uint64_t boot2, uint64_t seq2,
                       const char *job, int max, api_event_fn *fn, void *arg) {
    struct fake *f = ctx;
    char data[32];
    int n = 0;
    (void)boot2, (void)seq2, (void)job;
    f->events_asked++;
    for (; f->stored && n < max && seq < (uint64_t)f->stored; n++) {
        snprintf(data, sizeof data, "{\"n\":%d}", (int)++seq);
        fn(arg, &(struct api_event){boot, seq, "state", "j1", data});
    }
    if (f->stored)
        return n;
    fn(arg, &(struct api_event){boot, seq + 1, "state", "j1", "{\"state\":\"stored\"}"});
    return 1;
}

static int reply_list(void *ctx, const struct api_page *page, struct api_reply *out) {
    (void)ctx, (void)page;
    out->body = json_pack("{s:[]}", "checkpoints");
    return 0;
}

static int served_put(void *ctx, const char *what, struct api_reply *out) {
    (void)ctx;
    const bool word = !strcmp(what, "auto");
    out->body =
        json_pack("{s:s, s:s?, s:i, s:s, s:s}", "mode", word ? "auto" : "checkpoint", "checkpoint",
                  word ? NULL : what, "step", 60, "why", word ? "live" : "promoted", "text",
                  word ? "the running job" : "a checkpoint that was promoted");
    return 0;
}
static int served_get(void *ctx, struct api_reply *out) {
    return served_put(ctx, "auto", out);
}

static int reply_id(void *ctx, const char *id, struct api_reply *out) {
    (void)ctx;
    out->body = json_pack("{s:s}", "id", id);
    return 0;
}

static int file_of_digits(struct api_file *out) {
    char path[] = P_tmpdir "/driftd-test-XXXXXX", text[1000];
    out->fd = mkstemp(path);
    unlink(path);
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('0' + i % 10);
    out->size = sizeof text;
    snprintf(out->etag, sizeof out->etag, "abc");
    return write(out->fd, text, sizeof text) == (ssize_t)sizeof text ? 0 : -1;
}

static int checkpoint_file(void *ctx, const char *id, struct api_file *out, struct api_problem *p) {
    (void)ctx;
    if (!strcmp(id, "gone"))
        return api_problem_set(p, 410, "gone", "the checkpoint was rotated away");
    snprintf(out->filename, sizeof out->filename, "%s.safetensors", id);
    return file_of_digits(out);
}

static int checkpoint_export(void *ctx, const char *id, const struct api_export *as,
                             struct api_file *out, struct api_problem *p) {
    static const char *const tail[] = {"safetensors", "onnx", "zip"};
    (void)ctx;
    if (!strcmp(id, "gone"))
        return api_problem_set(p, 410, "gone", "the checkpoint was rotated away");
    snprintf(out->filename, sizeof out->filename, "%s%s.%s", id,
             as->weights == API_WEIGHTS_RAW ? "-raw" : "", tail[as->format]);
    return file_of_digits(out);
}

static int sample_png(void *ctx, const char *id, struct api_file *out, struct api_problem *p) {
    (void)ctx, (void)id, (void)p;
    snprintf(out->content_type, sizeof out->content_type, "image/png");
    out->immutable = true;
    return file_of_digits(out);
}

static int checkpoint_patch(void *ctx, const char *id, const struct api_ckpt_patch *in,
                            struct api_reply *out) {
    (void)in;
    return reply_id(ctx, id, out);
}

static int db_backup(void *ctx, struct api_file *out, struct api_problem *p) {
    (void)ctx, (void)p;
    return file_of_digits(out);
}

static int checkpoint_import(void *ctx, const struct api_import *in, struct api_reply *out) {
    struct fake *f = ctx;
    pthread_mutex_lock(&f->mu);
    f->imported[0] = '\0';
    if (in->uploaded) {
        int fd = open(in->path, O_RDONLY);
        ssize_t n = read(fd, f->imported, sizeof f->imported - 1);
        f->imported[n > 0 ? n : 0] = '\0';
        close(fd);
        unlink(in->path);
    } else {
        snprintf(f->imported, sizeof f->imported, "path:%s", in->path);
    }
    pthread_mutex_unlock(&f->mu);
    out->body = json_pack("{s:s}", "id", "c9");
    snprintf(out->location, sizeof out->location, "/v1/checkpoints/c9");
    return 0;
}

static int reply_object(void *ctx, struct api_reply *out) {
    (void)ctx;
    out->body = json_pack("{s:s}", "fake", "yes");
    return 0;
}

// ---- data sets: the part of an upload is gone, a removal is refused

static int dataset_create(void *ctx, const struct api_dataset_create *in, struct api_reply *out) {
    (void)ctx;
    if (in->check)
        return 0;
    out->body = json_pack("{s:s, s:b}", "name", in->name, "uploaded", !in->path);
    snprintf(out->location, sizeof out->location, "/v1/datasets/%s", in->name);
    return 0;
}

static int dataset_append(void *ctx, const char *name, const struct api_dataset_part *in,
                          struct api_reply *out) {
    struct stat st;
    (void)ctx;
    if (in->offset)
        return api_problem_set(&out->problem, 409, "wrong-offset", "go on from 0");
    out->body = json_pack("{s:s, s:I}", "name", name, "received",
                          (json_int_t)(stat(in->path, &st) ? -1 : st.st_size));
    unlink(in->path);
    return 0;
}

static int dataset_import(void *ctx, const char *name, int64_t bytes, struct api_reply *out) {
    (void)ctx;
    out->body = json_pack("{s:s, s:I}", "name", name, "bytes", (json_int_t)bytes);
    return 0;
}

static int dataset_samples(void *ctx, const char *name, const char *cls, int n, void **bytes,
                           size_t *size, struct api_problem *p) {
    char text[200];
    (void)ctx, (void)p;
    *size = (size_t)snprintf(text, sizeof text, "%s %s %d", name, cls ? cls : "-", n);
    *bytes = strdup(text);
    return 0;
}

static int dataset_recipe(void *ctx, const char *name, double minutes, struct api_reply *out) {
    (void)ctx;
    out->body = json_pack("{s:{s:s, s:f}}", "config", "name", name, "minutes", minutes);
    return 0;
}

static int status(void *ctx, struct api_reply *out) {
    struct fake *f = ctx;
    if (atomic_load(&f->mode) == FAKE_BLOCK) {
        atomic_fetch_add(&f->blocked, 1);
        usleep((useconds_t)atomic_load(&f->delay_ms) * 1000);
    }
    return reply_object(ctx, out);
}

static char *prometheus(void *ctx) {
    (void)ctx;
    return strdup("driftd_train_steps_total 5\n");
}

static int listen_tcp(int *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert(!bind(fd, (struct sockaddr *)&a, sizeof a) && !listen(fd, 512));
    getsockname(fd, (struct sockaddr *)&a, &n);
    *port = ntohs(a.sin_port);
    return fd;
}

static int listen_unix(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    assert(!bind(fd, (struct sockaddr *)&a, sizeof a) && !listen(fd, 64));
    return fd;
}

static const struct api_callbacks callbacks = {.describe = describe,
                                               .generate = generate,
                                               .job_create = job_create,
                                               .job_list = job_list,
                                               .job_get = job_get,
                                               .job_field = job_field,
                                               .job_patch = job_patch,
                                               .job_remove = job_remove,
                                               .job_action = job_action,
                                               .metrics_open = metrics_open,
                                               .metrics_wide = metrics_wide,
                                               .job_alerts = job_alerts,
                                               .events_read = events_read,
                                               .checkpoint_list = reply_list,
                                               .checkpoint_get = reply_id,
                                               .checkpoint_patch = checkpoint_patch,
                                               .checkpoint_remove = job_remove,
                                               .checkpoint_activate = reply_id,
                                               .served_get = served_get,
                                               .served_put = served_put,
                                               .checkpoint_file = checkpoint_file,
                                               .checkpoint_export = checkpoint_export,
                                               .checkpoint_import = checkpoint_import,
                                               .config_list = reply_object,
                                               .config_get = reply_id,
                                               .config_schema = reply_object,
                                               .dataset_list = reply_object,
                                               .dataset_get = reply_id,
                                               .dataset_create = dataset_create,
                                               .dataset_append = dataset_append,
                                               .dataset_import = dataset_import,
                                               .dataset_remove = job_remove,
                                               .dataset_samples = dataset_samples,
                                               .dataset_recipe = dataset_recipe,
                                               .sample_list = reply_list,
                                               .sample_png = sample_png,
                                               .status = status,
                                               .ready = reply_object,
                                               .prometheus = prometheus,
                                               .db_backup = db_backup};

void fake_start(struct fake *f, void (*edit)(struct api_config *c)) {
    char err[256] = "";
    *f = (struct fake){.boot = 7};
    pthread_mutex_init(&f->mu, NULL);
    snprintf(f->dir, sizeof f->dir, P_tmpdir "/driftd-api-XXXXXX");
    assert(mkdtemp(f->dir));
    snprintf(f->unix_path, sizeof f->unix_path, "%s/sock", f->dir);
    struct api_listener lis[2] = {{listen_tcp(&f->port), false}, {listen_unix(f->unix_path), true}};
    struct api_config c = {.listeners = lis,
                           .nlisteners = 2,
                           .upload_dir = f->dir,
                           .boot = f->boot,
                           .version = "0.test"};
    if (edit)
        edit(&c);
    if (api_server_start(&c, &callbacks, f, &f->srv, err, sizeof err)) {
        fprintf(stderr, "start: %s\n", err);
        abort();
    }
}

void fake_stop(struct fake *f) {
    api_server_stop(f->srv, 0);
    unlink(f->unix_path);
    rmdir(f->dir);
    pthread_mutex_destroy(&f->mu);
}

// ---- client
// --------------------------------------------------------------------------------------

int http_connect(const struct fake *f) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)f->port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert(fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof a));
    return fd;
}

static void unchunk(struct reply *r) {
    size_t out = 0, in = 0;
    while (in < r->body_len) {
        char *end;
        size_t n = strtoul(r->body + in, &end, 16);
        if (!n || end == r->body + in)
            break;
        in = (size_t)(end - r->body) + 2;
        if (in + n > r->body_len)
            break;
        memmove(r->body + out, r->body + in, n);
        out += n;
        in += n + 2;
    }
    r->body_len = out;
    r->body[out] = '\0';
}

static struct reply read_reply(int fd) {
    struct reply r = {0};
    size_t n = 0, cap = 1 << 16;
    char *buf = malloc(cap);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (poll(&p, 1, 60000) > 0) {
        if (n + 4096 > cap)
            buf = realloc(buf, cap *= 2);
        ssize_t k = recv(fd, buf + n, cap - n - 1, 0);
        if (k <= 0)
            break;
        n += (size_t)k;
    }
    buf[n] = '\0';
    char *split = strstr(buf, "\r\n\r\n");
    if (n > 12 && split) {
        r.status = atoi(buf + 9);
        *split = '\0';
        r.head = buf;
        r.body_len = n - (size_t)(split + 4 - buf);
        r.body = malloc(r.body_len + 1);
        memcpy(r.body, split + 4, r.body_len + 1);
        const char *te = reply_header(&r, "Transfer-Encoding");
        if (te && !strcasecmp(te, "chunked"))
            unchunk(&r);
    } else {
        free(buf);
    }
    return r;
}

struct reply http_raw(const struct fake *f, const char *bytes, size_t n) {
    int fd = http_connect(f);
    for (size_t done = 0; done < n;) {
        ssize_t k = send(fd, bytes + done, n - done, MSG_NOSIGNAL);
        if (k <= 0)
            break;
        done += (size_t)k;
    }
    struct reply r = read_reply(fd);
    close(fd);
    return r;
}

struct reply http_do(const struct fake *f, const char *method, const char *target,
                     const char *extra, const char *body) {
    char *bytes;
    int n = body ? asprintf(&bytes,
                            "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n%s"
                            "Content-Length: %zu\r\n\r\n%s",
                            method, target, f->port, extra ? extra : "", strlen(body), body)
                 : asprintf(&bytes,
                            "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n%s\r\n",
                            method, target, f->port, extra ? extra : "");
    assert(n > 0);
    struct reply r = http_raw(f, bytes, (size_t)n);
    free(bytes);
    return r;
}

void reply_free(struct reply *r) {
    free(r->head);
    free(r->body);
    memset(r, 0, sizeof *r);
}

const char *reply_header(const struct reply *r, const char *name) {
    static _Thread_local char value[1024];
    size_t n = strlen(name);
    for (const char *p = r->head ? strstr(r->head, "\r\n") : NULL; p; p = strstr(p, "\r\n")) {
        p += 2;
        if (strncasecmp(p, name, n) || p[n] != ':')
            continue;
        p += n + 1;
        p += strspn(p, " ");
        snprintf(value, sizeof value, "%.*s", (int)strcspn(p, "\r"), p);
        return value;
    }
    return NULL;
}

int read_until(int fd, char *buf, size_t size, const char *needle, int ms) {
    size_t n = strlen(buf);
    struct timespec t0, t;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (;;) {
        if (strstr(buf, needle))
            return 1;
        clock_gettime(CLOCK_MONOTONIC, &t);
        int left = ms - (int)((t.tv_sec - t0.tv_sec) * 1000 + (t.tv_nsec - t0.tv_nsec) / 1000000);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (left <= 0 || n + 1 >= size || poll(&p, 1, left) <= 0)
            return 0;
        ssize_t k = recv(fd, buf + n, size - n - 1, 0);
        if (k <= 0)
            return 0;
        for (ssize_t i = 0; i < k; i++)
            if (!buf[n + (size_t)i])
                buf[n + (size_t)i] = '?'; // keep it a string
        n += (size_t)k;
        buf[n] = '\0';
    }
}
