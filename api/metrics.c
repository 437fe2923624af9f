// GET /v1/jobs/ID/metrics: buckets (or raw rows) streamed out of the daemon's cursor as JSON, CSV
// or NDJSON, so that a million rows are never in memory at once. The text is made on MHD's thread,
// block by block.
#include "api/handlers.h"
#include "api/params.h"
#include "api/respond.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 32768
#define ROW_MAX 512

enum format { JSON_TEXT, CSV_TEXT, NDJSON_TEXT };

struct stream {
    struct api_metrics_cursor cursor;
    enum format format;
    bool raw, started, ended, failed;
    char name[96]; // of the series being written (JSON)
    char job[API_ID_MAX];
    char buf[BLOCK];
    size_t len, off;
};

static void put(struct stream *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct stream *s, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(s->buf + s->len, sizeof s->buf - s->len, fmt, ap);
    va_end(ap);
    if (n > 0 && (size_t)n < sizeof s->buf - s->len)
        s->len += (size_t)n;
}

static const char *num(double v, char *buf, size_t n, const char *none) {
    if (isfinite(v))
        snprintf(buf, n, "%.9g", v);
    else
        snprintf(buf, n, "%s", none);
    return buf;
}

static void head(struct stream *s) {
    s->started = true;
    if (s->format == JSON_TEXT)
        put(s, "{\"job\":\"%s\",\"columns\":%s,\"series\":[", s->job,
            s->raw ? "[\"step\",\"time\",\"value\"]"
                   : "[\"step\",\"step_last\",\"time\",\"n\",\"min\",\"max\",\"mean\",\"last\","
                     "\"nonfinite\"]");
    else if (s->format == CSV_TEXT)
        put(s, s->raw ? "name,step,time,value\n"
                      : "name,step,step_last,time,n,min,max,mean,last,nonfinite\n");
}

static void row(struct stream *s, const struct api_metric_bucket *b) {
    char a[5][32];
    const char *none = s->format == CSV_TEXT ? "" : "null";
    const double v[5] = {b->min, b->max, b->mean, b->last, 0};
    for (int i = 0; i < 4; i++)
        num(v[i], a[i], sizeof a[i], none);
    if (s->format == JSON_TEXT) {
        bool fresh = strcmp(s->name, b->name) != 0;
        if (fresh) {
            put(s, "%s{\"name\":\"%s\",\"rows\":[", s->name[0] ? "]}," : "", b->name);
            snprintf(s->name, sizeof s->name, "%s", b->name);
        }
        if (s->raw)
            put(s, "%s[%" PRId64 ",%.3f,%s]", fresh ? "" : ",", b->step, b->time, a[3]);
        else
            put(s, "%s[%" PRId64 ",%" PRId64 ",%.3f,%" PRId64 ",%s,%s,%s,%s,%" PRId64 "]",
                fresh ? "" : ",", b->step, b->step_last, b->time, b->n, a[0], a[1], a[2], a[3],
                b->nonfinite);
    } else if (s->format == CSV_TEXT) {
        if (s->raw)
            put(s, "%s,%" PRId64 ",%.3f,%s\n", b->name, b->step, b->time, a[3]);
        else
            put(s, "%s,%" PRId64 ",%" PRId64 ",%.3f,%" PRId64 ",%s,%s,%s,%s,%" PRId64 "\n", b->name,
                b->step, b->step_last, b->time, b->n, a[0], a[1], a[2], a[3], b->nonfinite);
    } else if (s->raw) {
        put(s, "{\"name\":\"%s\",\"step\":%" PRId64 ",\"time\":%.3f,\"value\":%s}\n", b->name,
            b->step, b->time, a[3]);
    } else {
        put(s,
            "{\"name\":\"%s\",\"step\":%" PRId64 ",\"step_last\":%" PRId64
            ",\"time\":%.3f,\"n\":%" PRId64
            ",\"min\":%s,\"max\":%s,\"mean\":%s,\"last\":%s,\"nonfinite\":%" PRId64 "}\n",
            b->name, b->step, b->step_last, b->time, b->n, a[0], a[1], a[2], a[3], b->nonfinite);
    }
}

static void refill(struct stream *s) {
    s->len = s->off = 0;
    if (!s->started)
        head(s);
    while (!s->ended && s->len + ROW_MAX < sizeof s->buf) {
        struct api_metric_bucket b = {0};
        int rc = s->cursor.next(s->cursor.self, &b);
        if (rc == 1) {
            row(s, &b);
            continue;
        }
        s->ended = true;
        s->failed = rc < 0;
        if (rc == 0 && s->format == JSON_TEXT)
            put(s, "%s]}\n", s->name[0] ? "]}" : "");
    }
}

static ssize_t stream_read(void *cls, uint64_t pos, char *buf, size_t max) {
    struct stream *s = cls;
    (void)pos;
    if (s->off == s->len && !s->ended)
        refill(s);
    if (s->off == s->len)
        return s->failed ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
    size_t n = s->len - s->off < max ? s->len - s->off : max;
    memcpy(buf, s->buf + s->off, n);
    s->off += n;
    return (ssize_t)n;
}

static void stream_free(void *cls) {
    struct stream *s = cls;
    if (s->cursor.close)
        s->cursor.close(s->cursor.self);
    free(s);
}

static enum MHD_Result open_stream(struct api_req *r, const struct api_metrics_query *q,
                                   int format) {
    static const char *const types[] = {"application/json", "text/csv; charset=utf-8",
                                        "application/x-ndjson"};
    struct api_problem p = {0};
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return MHD_NO;
    s->format = (enum format)format;
    s->raw = q->max_points == 0;
    snprintf(s->job, sizeof s->job, "%s", q->job);
    if (r->srv->cb.metrics_open(r->srv->ctx, q, &s->cursor, &p)) {
        free(s);
        return api_send_problem(r, &p);
    }
    struct MHD_Response *resp = api_stream_response(r, stream_read, s, stream_free);
    if (!resp) {
        stream_free(s);
        return MHD_NO;
    }
    MHD_add_response_header(resp, "Content-Type", types[format]);
    return api_send(r, 200, resp);
}

static int parse_query(struct api_req *r, struct api_metrics_query *q, int *format,
                       struct api_problem *p) {
    api_q_enum(r, "format", "json|csv|ndjson", format, p);
    // Files for other programs have every row.
    return api_q_steps(r, &q->from, &q->to, *format == JSON_TEXT ? 2000 : 0, &q->max_points, p);
}

enum MHD_Result api_h_job_metrics(struct api_req *r) {
    struct api_problem p = {0};
    struct api_metrics_query q = {.job = r->seg[0]};
    struct api_list names = {0};
    enum MHD_Result rc = MHD_NO;
    int format = JSON_TEXT;
    if (!r->srv->cb.metrics_open)
        return api_not_built(r);
    if (parse_query(r, &q, &format, &p))
        return api_send_problem(r, &p);
    if (api_list_split(api_query_get(&r->query, "names"), &names)) {
        q.names = names.word;
        q.nnames = names.n;
        rc = open_stream(r, &q, format);
    }
    api_list_free(&names);
    return rc;
}
