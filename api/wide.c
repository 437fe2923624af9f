// GET /v1/metrics.csv: the metrics of several jobs as one table, a line per job and step and a
// column per metric, streamed out of the daemon's cursor. GET /v1/jobs/ID/alerts.
#include "api/handlers.h"
#include "api/params.h"
#include "api/respond.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_JOBS = 1000, BLOCK = 32768, NUMBER = 26, FIXED = 500 };

struct wide {
    struct api_wide_cursor cursor;
    char *buf;
    size_t size, len, off, row_max;
    bool started, ended, failed;
};

static void put(struct wide *w, const char *text) {
    const size_t n = strlen(text);
    if (n < w->size - w->len) {
        memcpy(w->buf + w->len, text, n);
        w->len += n;
    }
}

// A text field: quoted, quotes doubled; a name has at most 200 bytes.
static void put_text(struct wide *w, const char *text) {
    put(w, "\"");
    for (; *text; text++)
        put(w, (char[]){*text, *text == '"' ? '"' : '\0', '\0'});
    put(w, "\"");
}

static void put_row(struct wide *w, const struct api_wide_row *r) {
    char text[80];
    snprintf(text, sizeof text, "%s,", r->job);
    put(w, text);
    put_text(w, r->run);
    snprintf(text, sizeof text, ",%" PRId64 ",%.3f", r->step, r->time);
    put(w, text);
    for (size_t i = 0; i < w->cursor.nnames; i++) {
        *text = '\0';
        if (r->have[i])
            snprintf(text, sizeof text, isfinite(r->value[i]) ? "%.9g" : "nan", r->value[i]);
        put(w, ",");
        put(w, text);
    }
    put(w, "\n");
}

static void refill(struct wide *w) {
    w->len = w->off = 0;
    if (!w->started) {
        w->started = true;
        put(w, "job,run,step,time");
        for (size_t i = 0; i < w->cursor.nnames; i++) {
            put(w, ",");
            put(w, w->cursor.names[i]);
        }
        put(w, "\n");
    }
    while (!w->ended && w->len + w->row_max < w->size) {
        struct api_wide_row r;
        const int rc = w->cursor.next(w->cursor.self, &r);
        if (rc == 2)
            break;
        if (rc == 1)
            put_row(w, &r);
        w->ended = rc != 1;
        w->failed = rc < 0;
    }
}

static ssize_t wide_read(void *cls, uint64_t pos, char *buf, size_t max) {
    struct wide *w = cls;
    (void)pos;
    if (w->off == w->len && !w->ended)
        refill(w);
    if (w->off == w->len && !w->ended)
        return 0; // libmicrohttpd asks again once it has served others on this thread
    if (w->off == w->len)
        return w->failed ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
    const size_t n = w->len - w->off < max ? w->len - w->off : max;
    memcpy(buf, w->buf + w->off, n);
    w->off += n;
    return (ssize_t)n;
}

static void wide_free(void *cls) {
    struct wide *w = cls;
    if (w->cursor.close)
        w->cursor.close(w->cursor.self);
    free(w->buf);
    free(w);
}

static enum MHD_Result send_wide(struct api_req *r, const struct api_wide_query *q) {
    struct api_problem p = {0};
    struct wide *w = calloc(1, sizeof *w);
    if (!w)
        return MHD_NO;
    if (r->srv->cb.metrics_wide(r->srv->ctx, q, &w->cursor, &p)) {
        free(w);
        return api_send_problem(r, &p);
    }
    size_t head = FIXED;
    for (size_t i = 0; i < w->cursor.nnames; i++)
        head += strlen(w->cursor.names[i]) + 1;
    w->row_max = FIXED + w->cursor.nnames * NUMBER;
    w->size = BLOCK + head + w->row_max;
    w->buf = malloc(w->size);
    struct MHD_Response *resp = w->buf ? api_stream_response(r, wide_read, w, wide_free) : NULL;
    if (!resp) {
        wide_free(w);
        return MHD_NO;
    }
    MHD_add_response_header(resp, "Content-Type", "text/csv; charset=utf-8");
    return api_send(r, 200, resp);
}

static int parse(struct api_req *r, struct api_wide_query *q, const struct api_list *jobs,
                 struct api_problem *p) {
    api_q_steps(r, &q->from, &q->to, 0, &q->max_points, p);
    if (!p->status && jobs->n > MAX_JOBS) {
        api_problem_set(p, 422, "invalid-value", "more than %d jobs are listed", MAX_JOBS);
        api_problem_field(p, "jobs", "at most %d ids", MAX_JOBS);
    }
    return p->status ? -1 : 0;
}

enum MHD_Result api_h_metrics_csv(struct api_req *r) {
    struct api_problem p = {0};
    struct api_wide_query q = {0};
    struct api_list jobs = {0}, names = {0};
    enum MHD_Result rc = MHD_NO;
    if (!r->srv->cb.metrics_wide)
        return api_not_built(r);
    if (api_list_split(api_query_get(&r->query, "jobs"), &jobs) &&
        api_list_split(api_query_get(&r->query, "names"), &names)) {
        q.jobs = jobs.word;
        q.njobs = jobs.n;
        q.names = names.word;
        q.nnames = names.n;
        rc = parse(r, &q, &jobs, &p) ? api_send_problem(r, &p) : send_wide(r, &q);
    }
    api_list_free(&jobs);
    api_list_free(&names);
    return rc;
}

enum MHD_Result api_h_job_alerts(struct api_req *r) {
    struct api_reply reply = {0};
    if (!r->srv->cb.job_alerts)
        return api_not_built(r);
    return api_send_reply(r, r->srv->cb.job_alerts(r->srv->ctx, r->seg[0], &reply), &reply);
}
