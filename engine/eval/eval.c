// Evaluations: images of a source through the judges of references. See eval.h.
#include "engine/eval/eval_priv.h"

#include "engine/core/backend.h"
#include "engine/core/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// One judge's part.
struct seat {
    struct dr_eval_ref *ref; // borrowed
    struct eval_tally *tally;
    struct dr_estimate value[DR_EVAL_METRICS];
    struct eval_sides sides;
    double *diversity, *accuracy; // [classes]
    double fd_sizes[EVAL_LEVELS], fd_at[EVAL_LEVELS];
    int fd_points;
};

struct dr_eval {
    struct dr_eval_source *source; // borrowed
    struct seat seat[DR_EVAL_JUDGES];
    int nseat;
    int64_t n, at, batch, image;
    int next; // statistic of all judges
    real *x;
    int32_t *cls;
    struct eval_beside *beside;
    double generate, features, statistics;
    char key[33];
};

static bool wants(const struct dr_eval_config *c, unsigned need) {
    for (int i = 0; i < DR_EVAL_METRICS; i++)
        if ((c->metrics >> i & 1) && (dr_eval_metrics[i].needs & need))
            return true;
    return false;
}

// ---- making one

static int check(const struct dr_eval_source *s, const struct dr_eval_ref *r, int64_t n,
                 struct dr_err *err) {
    const struct eval_judge *j = r->judge;
    if (r->pass != 3)
        return dr_fail(err, DR_EINVAL, "the reference is not complete");
    if (r->cfg.n != n)
        return dr_fail_at(err, DR_EINVAL, "n", "the references are of %lld and of %lld images",
                          (long long)n, (long long)r->cfg.n);
    if (s->n < n)
        return dr_fail_at(err, DR_EINVAL, "n", "there are %lld images to evaluate, not %lld",
                          (long long)s->n, (long long)n);
    if (s->c != j->c || s->h != j->h || s->w != j->w)
        return dr_fail_at(
            err, DR_EINVAL, "checkpoint",
            "images of %lldx%lldx%lld cannot be compared with reals of %lldx%lldx%lld",
            (long long)s->c, (long long)s->h, (long long)s->w, (long long)j->c, (long long)j->h,
            (long long)j->w);
    if (wants(&r->cfg, DR_NEED_CLASSES) && s->classes != r->classes && s->classes != 1)
        return dr_fail_at(err, DR_EINVAL, "checkpoint",
                          "the images are of %lld classes, the data of %lld", (long long)s->classes,
                          (long long)r->classes);
    return 0;
}

static int take_seat(struct seat *t, struct dr_eval_ref *r, struct dr_err *err) {
    const struct dr_eval_config *c = &r->cfg;
    const struct eval_plan p = {.n = c->n,
                                .cap = wants(c, DR_NEED_ROWS) ? c->rows : 0,
                                .moments = wants(c, DR_NEED_MOMENTS),
                                .logits = wants(c, DR_NEED_LOGITS),
                                .parts = true};
    t->ref = r;
    t->diversity = malloc((size_t)r->classes * sizeof *t->diversity);
    t->accuracy = malloc((size_t)r->classes * sizeof *t->accuracy);
    if (!t->diversity || !t->accuracy)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld classes", (long long)r->classes);
    for (int64_t k = 0; k < r->classes; k++)
        t->diversity[k] = t->accuracy[k] = NAN;
    for (int i = 0; i < DR_EVAL_METRICS; i++)
        t->value[i] = (struct dr_estimate){NAN, NAN};
    return eval_tally_create(c, r->judge, r->classes, &p, eval_tally_all(r->reals), &t->tally, err);
}

static void make_key(struct dr_eval *e) {
    struct dr_sha256 sum;
    dr_sha256_init(&sum);
    dr_sha256_update(&sum, e->source->key, sizeof e->source->key);
    for (int i = 0; i < e->nseat; i++)
        dr_sha256_update(&sum, e->seat[i].ref->key, sizeof e->seat[i].ref->key);
    eval_key(&sum, e->key);
}

int dr_eval_create(struct dr_eval_source *source, struct dr_eval_ref *const refs[], int nrefs,
                   struct dr_eval **out, struct dr_err *err) {
    *out = NULL;
    int rc = 0;
    if (nrefs < 1 || nrefs > DR_EVAL_JUDGES)
        return dr_fail(err, DR_EINVAL, "an evaluation takes 1 to %d judges", DR_EVAL_JUDGES);
    for (int i = 0; i < nrefs && !rc; i++)
        rc = check(source, refs[i], refs[0]->cfg.n, err);
    if (rc)
        return rc;
    struct dr_eval *e = calloc(1, sizeof *e);
    if (!e)
        return dr_fail(err, DR_ENOMEM, "out of memory for an evaluation");
    // Judges see the same chunks whatever the batch.
    const int64_t chunk = refs[0]->judge->chunk, batch = refs[0]->cfg.batch;
    e->source = source;
    e->n = refs[0]->cfg.n;
    e->batch = (batch + chunk - 1) / chunk * chunk;
    e->image = source->c * source->h * source->w;
    e->x = malloc((size_t)(e->batch * e->image) * sizeof *e->x);
    e->cls = malloc((size_t)e->batch * sizeof *e->cls);
    if (!e->x || !e->cls)
        rc = dr_fail(err, DR_ENOMEM, "out of memory for %lld images", (long long)e->batch);
    if (!rc)
        rc = eval_beside_create(!refs[0]->be->host_memory, &e->beside, err);
    for (; e->nseat < nrefs && !rc; e->nseat++)
        rc = take_seat(&e->seat[e->nseat], refs[e->nseat], err);
    if (rc) {
        dr_eval_free(e);
        return rc;
    }
    make_key(e);
    *out = e;
    return 0;
}

void dr_eval_free(struct dr_eval *e) {
    if (!e)
        return;
    eval_beside_free(e->beside);
    for (int i = 0; i < e->nseat; i++) {
        eval_tally_free(e->seat[i].tally);
        free(e->seat[i].diversity);
        free(e->seat[i].accuracy);
    }
    free(e->x);
    free(e->cls);
    free(e);
}

const char *dr_eval_key(const struct dr_eval *e) {
    return e->key;
}

// ---- its work

// n images by the judge of a seat.
static int judge(struct dr_eval *e, const struct seat *t, int64_t n, struct dr_err *err) {
    struct eval_judge *j = t->ref->judge;
    int rc = 0;
    for (int64_t at = 0; at < n && !rc; at += j->chunk) {
        const int64_t b = DR_MIN(j->chunk, n - at);
        const double start = dr_seconds();
        rc = eval_judge_run(j, e->x + at * e->image, b, err);
        const double judged = dr_seconds();
        e->features += judged - start;
        if (!rc)
            rc = eval_beside_add(e->beside, t->tally, j, e->cls + at, b, err);
        e->statistics += dr_seconds() - judged;
    }
    return rc;
}

static int see(struct dr_eval *e, struct dr_err *err) {
    const int64_t n = DR_MIN(e->batch, e->n - e->at);
    const double start = dr_seconds();
    int rc = e->source->images(e->source, e->at, n, e->x, e->cls, err);
    if (!rc && e->source->kind == DR_KIND_IMAGES)
        eval_round(e->x, n * e->image);
    for (int64_t i = 0; i < n && e->source->classes != e->seat[0].ref->classes; i++)
        e->cls[i] = -1; // nothing was asked for
    e->generate += dr_seconds() - start;
    for (int i = 0; i < e->nseat && !rc; i++)
        rc = judge(e, &e->seat[i], n, err);
    e->at += rc ? 0 : n;
    return rc;
}

static void finish(struct seat *t) {
    int64_t right, all;
    for (int64_t c = 0; c < t->ref->classes && t->tally->confusion; c++) {
        eval_tally_correct(t->tally, c, &right, &all);
        t->accuracy[c] = all ? (double)right / (double)all : NAN;
    }
    t->fd_points = eval_fd_points(t->tally, t->fd_sizes, t->fd_at);
}

// The next statistic of the next judge.
static int statistic(struct dr_eval *e, struct dr_err *err) {
    struct seat *t = &e->seat[e->next / DR_EVAL_METRICS];
    const int i = e->next % DR_EVAL_METRICS;
    const bool wanted = t->ref->cfg.metrics >> i & 1;
    const double start = dr_seconds();
    int rc = e->next ? 0 : eval_beside_wait(e->beside, err);
    if (!i)
        eval_ref_sides(t->ref, t->tally, t->diversity, &t->sides);
    if (!rc && wanted)
        rc = eval_statistic(&t->sides, i, &t->value[i], err);
    if (!rc && ++e->next % DR_EVAL_METRICS == 0)
        finish(t);
    e->statistics += dr_seconds() - start;
    return rc;
}

static bool complete(const struct dr_eval *e) {
    return e->at == e->n && e->next == e->nseat * DR_EVAL_METRICS;
}

int dr_eval_advance(struct dr_eval *e, double seconds, bool *done, struct dr_err *err) {
    const double start = dr_seconds();
    int rc = 0;
    while (!rc && !complete(e)) {
        rc = e->at < e->n ? see(e, err) : statistic(e, err);
        if (dr_seconds() - start >= seconds)
            break;
    }
    *done = !rc && complete(e);
    return rc;
}

double dr_eval_progress(const struct dr_eval *e) {
    const double stats = (double)e->next / (e->nseat * DR_EVAL_METRICS);
    return .97 * (double)e->at / (double)e->n + .03 * stats;
}

// ---- its state: statistics start again

static void move_state(struct eval_io *io, void *what) {
    struct dr_eval *e = what;
    int64_t at = e->at;
    io->part = "samples";
    eval_io_counts(io, "at", &at, 1);
    if (!io->rc && (at < 0 || at > e->n))
        io->rc = dr_fail(io->err, DR_EFORMAT, "the saved place of an evaluation is out of range");
    double seconds[3] = {e->generate, e->features, e->statistics};
    eval_io_numbers(io, "seconds", seconds, 3);
    if (io->rc)
        return;
    e->at = at;
    e->generate = seconds[0];
    e->features = seconds[1];
    e->statistics = seconds[2];
    for (int i = 0; i < e->nseat; i++) {
        char part[32];
        snprintf(part, sizeof part, "judge%d", i);
        eval_io_tally(io, part, e->seat[i].tally);
    }
}

int dr_eval_save(struct dr_eval *e, const char *path, struct dr_err *err) {
    const int rc = eval_beside_wait(e->beside, err);
    return rc ? rc : eval_state_save(path, e->key, move_state, e, err);
}

int dr_eval_restore(struct dr_eval *e, const char *path, struct dr_err *err) {
    return eval_state_restore(path, e->key, move_state, e, err);
}

// ---- its result

int dr_eval_result(const struct dr_eval *e, int number, struct dr_eval_result *out,
                   struct dr_err *err) {
    if (!complete(e))
        return dr_fail(err, DR_EINVAL, "the evaluation is not complete");
    if (number < 0 || number >= e->nseat)
        return dr_fail(err, DR_EINVAL, "the evaluation has %d judges, not number %d", e->nseat,
                       number);
    const struct seat *t = &e->seat[number];
    const struct dr_eval_ref *r = t->ref;
    *out = (struct dr_eval_result){.n = e->n,
                                   .classes = r->classes,
                                   .width = r->judge->d,
                                   .floor_n = r->held_n,
                                   .floor_halves = r->halves,
                                   .reals = r->total[0],
                                   .judge_accuracy = dr_eval_ref_accuracy(r),
                                   .diversity = t->diversity,
                                   .accuracy = t->accuracy,
                                   .confusion = t->tally->confusion,
                                   .logits = r->judge->classes,
                                   .fd_sizes = t->fd_sizes,
                                   .fd_at = t->fd_at,
                                   .fd_points = t->fd_points,
                                   .seconds_generate = e->generate,
                                   .seconds_features = e->features,
                                   .seconds_statistics = e->statistics,
                                   .seconds_reference = r->seconds};
    for (int i = 0; i < DR_EVAL_METRICS; i++)
        out->metric[i] = (struct dr_eval_value){t->value[i].value, t->value[i].se,
                                                r->floor[i].value, r->floor[i].se};
    return 0;
}
