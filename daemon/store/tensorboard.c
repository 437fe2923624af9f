// Event files of TensorBoard (tensorboard.h): TFRecord frames around Event messages. The numbers of
// fields are those of tensorflow's event.proto and summary.proto.
#include "daemon/store/tensorboard.h"

#include "daemon/base/log.h"
#include "engine/drift.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EVENT_TIME = 1, EVENT_STEP = 2, EVENT_VERSION = 3, EVENT_SUMMARY = 5 };
enum { VALUE_TAG = 1, VALUE_SCALAR = 2, VALUE_IMAGE = 4 };
enum { IMAGE_HEIGHT = 1, IMAGE_WIDTH = 2, IMAGE_COLORSPACE = 3, IMAGE_BYTES = 4 };
enum { PNG_MAX = 64 << 20 };

struct dd_tensorboard {
    pthread_mutex_t lock;
    char *dir;
    int64_t job; // whose file is open, 0: none yet
    FILE *file;  // NULL: it failed
    int files;   // opened by this process
};

uint32_t dd_crc32c(const void *p, size_t n) {
    const unsigned char *at = p;
    uint32_t c = ~0U;
    for (size_t i = 0; i < n; i++) {
        c ^= at[i];
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0x82f63b78U : 0);
    }
    return ~c;
}

static void put(unsigned char *out, uint64_t v, int n) {
    for (int i = 0; i < n; i++)
        out[i] = (unsigned char)(v >> 8 * i);
}

// A checksum that is itself stored among what is summed is turned, so that it stays one.
static uint32_t masked(const void *p, size_t n) {
    const uint32_t c = dd_crc32c(p, n);
    return (c >> 15 | c << 17) + 0xa282ead8U;
}

static void failed(struct dd_tensorboard *t, const char *what) {
    char q[300];
    dd_log(DR_LOG_ERROR, "tensorboard.failed", "job=%lld reason=%s", (long long)t->job,
           dd_log_quote(what, q, sizeof q));
    if (t->file)
        fclose(t->file);
    t->file = NULL;
}

static void write_event(struct dd_tensorboard *t, struct dr_proto *event) {
    unsigned char head[12], tail[4];
    if (t->file && !event->failed) {
        put(head, event->n, 8);
        put(head + 8, masked(head, 8), 4);
        put(tail, masked(event->p, event->n), 4);
        if (fwrite(head, sizeof head, 1, t->file) != 1 ||
            fwrite(event->p, event->n, 1, t->file) != 1 ||
            fwrite(tail, sizeof tail, 1, t->file) != 1)
            failed(t, strerror(errno));
    }
    dr_proto_free(event);
}

// The file of a job; the first record says what it is.
static void use_job(struct dd_tensorboard *t, int64_t job) {
    char path[DD_PATH_MAX];
    struct dr_err err = {0};
    struct dr_proto event = {0};
    if (t->job == job)
        return;
    if (t->file && fclose(t->file)) {
        t->file = NULL;
        failed(t, strerror(errno));
    }
    t->file = NULL;
    t->job = job;
    const double now = (double)dd_wall_us() / 1e6;
    int rc = dd_path(path, &err, "%s/job-%lld/events.out.tfevents.%010lld.driftd.%d.%d", t->dir,
                     (long long)job, (long long)now, (int)getpid(), t->files++);
    if (!rc)
        rc = dd_mkdir_for(path, &err);
    t->file = rc ? NULL : fopen(path, "wbe");
    if (!t->file) {
        failed(t, rc ? err.msg : strerror(errno));
        return;
    }
    dr_proto_double(&event, EVENT_TIME, now);
    dr_proto_text(&event, EVENT_VERSION, "brain.Event:2");
    write_event(t, &event);
}

static void begin(struct dr_proto *event, double time, int64_t step) {
    dr_proto_double(event, EVENT_TIME, time);
    dr_proto_int(event, EVENT_STEP, step);
}

void dd_tensorboard_row(struct dd_tensorboard *t, const struct dd_row *row) {
    struct dr_proto event = {0}, summary = {0}, value = {0};
    for (int i = 0; i < row->table->n; i++) {
        if (!(row->mask >> i & 1))
            continue;
        dr_proto_text(&value, VALUE_TAG, row->table->def[i].name);
        dr_proto_float(&value, VALUE_SCALAR, (float)row->v[i]);
        dr_proto_message(&summary, 1, &value);
    }
    begin(&event, (double)row->time_us / 1e6, row->step);
    dr_proto_message(&event, EVENT_SUMMARY, &summary);
    pthread_mutex_lock(&t->lock);
    use_job(t, row->job);
    write_event(t, &event);
    pthread_mutex_unlock(&t->lock);
}

void dd_tensorboard_image(struct dd_tensorboard *t, int64_t job, int64_t step, const char *png,
                          int64_t w, int64_t h) {
    struct dr_proto event = {0}, summary = {0}, value = {0}, image = {0};
    struct dr_err err = {0};
    char *bytes;
    size_t n;
    if (dd_read_file(png, PNG_MAX, &bytes, &n, &err)) {
        dd_log(DR_LOG_WARN, "tensorboard.image", "job=%lld step=%lld reason=unreadable",
               (long long)job, (long long)step);
        return;
    }
    dr_proto_int(&image, IMAGE_HEIGHT, h);
    dr_proto_int(&image, IMAGE_WIDTH, w);
    dr_proto_int(&image, IMAGE_COLORSPACE, 3);
    dr_proto_bytes(&image, IMAGE_BYTES, bytes, n);
    free(bytes);
    dr_proto_text(&value, VALUE_TAG, "samples");
    dr_proto_message(&value, VALUE_IMAGE, &image);
    dr_proto_message(&summary, 1, &value);
    begin(&event, (double)dd_wall_us() / 1e6, step);
    dr_proto_message(&event, EVENT_SUMMARY, &summary);
    pthread_mutex_lock(&t->lock);
    use_job(t, job);
    write_event(t, &event);
    pthread_mutex_unlock(&t->lock);
}

void dd_tensorboard_flush(struct dd_tensorboard *t) {
    pthread_mutex_lock(&t->lock);
    if (t->file && fflush(t->file))
        failed(t, strerror(errno));
    pthread_mutex_unlock(&t->lock);
}

int dd_tensorboard_open(const char *dir, struct dd_tensorboard **out, struct dr_err *err) {
    *out = NULL;
    const int rc = dd_mkdirs(dir, err);
    if (rc)
        return dr_fail_prefix(err, rc, "tensorboard-dir");
    struct dd_tensorboard *t = *out = dd_xcalloc(1, sizeof *t);
    t->dir = dd_xstrdup(dir);
    pthread_mutex_init(&t->lock, NULL);
    return 0;
}

void dd_tensorboard_close(struct dd_tensorboard *t) {
    if (!t)
        return;
    if (t->file)
        fclose(t->file);
    pthread_mutex_destroy(&t->lock);
    free(t->dir);
    free(t);
}
