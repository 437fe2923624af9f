// What is known of the reals through one judge. See eval.h.
#include "engine/eval/eval_priv.h"

#include "engine/core/backend.h"
#include "engine/core/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool wants(const struct dr_eval_ref *r, unsigned need) {
    for (int i = 0; i < DR_EVAL_METRICS; i++)
        if ((r->cfg.metrics >> i & 1) && (dr_eval_metrics[i].needs & need))
            return true;
    return false;
}

// ---- making one

static int check_config(const struct dr_eval_config *c, struct dr_err *err) {
    if (c->n < 2)
        return dr_fail_at(err, DR_EINVAL, "n", "an evaluation needs at least 2 images, not %lld",
                          (long long)c->n);
    if (!(c->metrics & DR_EVAL_ALL))
        return dr_fail_at(err, DR_EINVAL, "metrics", "no metric is asked for");
    if (c->blocks < 1 || c->blocks > 1 << (EVAL_LEVELS - 1) || (c->blocks & (c->blocks - 1)))
        return dr_fail_at(err, DR_EINVAL, "blocks", "blocks is a power of two, not %lld",
                          (long long)c->blocks);
    const struct {
        const char *name;
        int64_t value, least;
    } range[] = {{"batch", c->batch, 1},           {"rows", c->rows, 2},
                 {"train_rows", c->train_rows, 1}, {"reals", c->reals, 0},
                 {"tested", c->tested, 0},         {"kid_subsets", c->kid_subsets, 1},
                 {"kid_size", c->kid_size, 2},     {"is_splits", c->is_splits, 1},
                 {"k_manifold", c->k_manifold, 1}, {"k_density", c->k_density, 1}};
    for (size_t i = 0; i < DR_COUNT(range); i++)
        if (range[i].value < range[i].least || range[i].value > 1 << 30)
            return dr_fail_at(err, DR_EINVAL, range[i].name, "%s must be at least %lld, not %lld",
                              range[i].name, (long long)range[i].least, (long long)range[i].value);
    return 0;
}

static int check_judge(const struct dr_eval_ref *r, struct dr_err *err) {
    for (int i = 0; i < DR_EVAL_METRICS; i++) {
        const unsigned needs = r->cfg.metrics >> i & 1 ? dr_eval_metrics[i].needs : 0;
        if ((needs & DR_NEED_LOGITS) && !r->judge->classes)
            return dr_fail_at(err, DR_EINVAL, "metrics",
                              "%s needs a judge with a classifier, which \"%s\" is not",
                              dr_eval_metrics[i].name, dr_net_name(r->judge->as.snap->net));
        if (i == DR_EVAL_ACCURACY && needs && r->judge->classes != r->classes)
            return dr_fail_at(err, DR_EINVAL, "judge",
                              "accuracy needs a judge of the same classes: it knows %lld, the data "
                              "has %lld",
                              (long long)r->judge->classes, (long long)r->classes);
    }
    return 0;
}

static int check_data(const struct dr_dataset *train, const struct dr_dataset *test, int split,
                      struct dr_err *err) {
    if (split == DR_EVAL_TEST && !test)
        return dr_fail_at(err, DR_EINVAL, "split", "the data %s has no test split", train->name);
    if (test && (train->c != test->c || train->h != test->h || train->w != test->w ||
                 train->classes != test->classes))
        return dr_fail_at(err, DR_EINVAL, "data",
                          "the test split of %s has images of another shape or other classes than "
                          "the training split",
                          train->name);
    return 0;
}

// How many of the second pass: those of the floor, and what the training images that `nn` searches
// or the judge's accuracy need beyond them. Where there is no test split, `nn` searches the half
// that is held out as well.
static int64_t second_pass(const struct dr_eval_ref *r) {
    const struct dr_eval_config *c = &r->cfg;
    const int64_t have = r->total[1];
    if (r->test[1])
        return c->tested ? DR_MIN(DR_MAX(r->held_n, c->tested), have) : have;
    if (!wants(r, DR_NEED_TRAIN))
        return r->held_n;
    if (!r->halves)
        return DR_MAX(r->held_n, DR_MIN(c->train_rows, have));
    const int64_t left = c->train_rows - DR_MIN(c->train_rows, r->total[0]),
                  half = c->reals ? DR_MIN(c->reals, have) : have;
    return DR_MAX(r->held_n, DR_MIN(left, half));
}

// Which images each pass takes.
static int plan(struct dr_eval_ref *r, const struct dr_dataset *train,
                const struct dr_dataset *test, struct dr_err *err) {
    const struct dr_eval_config *c = &r->cfg;
    const bool on_test = c->split == DR_EVAL_TEST;
    r->of[0] = on_test ? test : train;
    r->of[1] = on_test || !test ? train : test;
    r->halves = !test;
    r->test[0] = on_test;
    r->test[1] = test && !on_test;
    const int64_t have = r->halves ? (train->n + 1) / 2 : r->of[0]->n;
    r->total[0] = c->reals ? DR_MIN(c->reals, have) : have;
    r->from[1] = r->halves ? have : 0;
    r->total[1] = r->of[1]->n - r->from[1];
    r->held_n = DR_MIN(c->n, r->total[1]);
    r->total[1] = second_pass(r);
    if (r->total[0] < 2 || r->held_n < 2)
        return dr_fail_at(err, DR_EINVAL, "data", "%s has too few images to compare with",
                          train->name);
    return 0;
}

static int tallies(struct dr_eval_ref *r, struct dr_err *err) {
    const struct dr_eval_config *c = &r->cfg;
    const bool rows = wants(r, DR_NEED_ROWS), train = wants(r, DR_NEED_TRAIN),
               apart = c->split == DR_EVAL_TEST;
    const int64_t keep = rows ? c->rows : 0;
    struct eval_plan p = {.n = r->total[0],
                          .cap = train && !apart ? DR_MAX(keep, c->train_rows) : keep,
                          .moments = wants(r, DR_NEED_MOMENTS)};
    int rc = eval_tally_create(&r->cfg, r->judge, r->classes, &p, NULL, &r->reals, err);
    p = (struct eval_plan){.n = r->held_n,
                           .cap = keep,
                           .moments = wants(r, DR_NEED_MOMENTS),
                           .logits = wants(r, DR_NEED_LOGITS),
                           .parts = true};
    if (!rc)
        rc = eval_tally_create(&r->cfg, r->judge, r->classes, &p, NULL, &r->held, err);
    // With halves what is left of train_rows, perhaps nothing.
    p = (struct eval_plan){.n = r->total[1],
                           .cap = c->train_rows - (apart ? 0 : DR_MIN(c->train_rows, r->total[0]))};
    if (!rc && train && (apart || r->halves))
        rc = eval_tally_create(&r->cfg, r->judge, r->classes, &p, NULL, &r->train, err);
    return rc;
}

static void make_key(struct dr_eval_ref *r, const struct dr_dataset *train,
                     const struct dr_dataset *test) {
    struct dr_eval_config c = r->cfg;
    const int64_t how[] = {EVAL_ORDER,  c.n,          c.split,       c.metrics,
                           c.seed,      c.precision,  c.rows,        c.train_rows,
                           c.reals,     c.tested,     c.kid_subsets, c.kid_size,
                           c.is_splits, c.k_manifold, c.k_density,   c.blocks};
    const uint64_t data[] = {train->fingerprint, test ? test->fingerprint : 0, test != NULL};
    struct dr_sha256 sum;
    dr_sha256_init(&sum);
    eval_judge_digest(r->judge, &sum);
    dr_sha256_update(&sum, how, sizeof how);
    dr_sha256_update(&sum, data, sizeof data);
    // Only where it matters, so that references made before keep their keys. The fingerprint of a
    // set of pictures is the same where its labels are ignored; the order of its images is not.
    if (r->classes == 1)
        dr_sha256_update(&sum, &r->classes, sizeof r->classes);
    if (r->halves && r->train)
        dr_sha256_update(&sum, "nn in both halves", sizeof "nn in both halves");
    eval_key(&sum, r->key);
}

static int allocate(struct dr_eval_ref *r, struct dr_err *err) {
    const struct eval_judge *j = r->judge;
    r->x = malloc((size_t)(j->chunk * j->c * j->h * j->w) * sizeof *r->x);
    r->cls = malloc((size_t)j->chunk * sizeof *r->cls);
    r->spread = malloc((size_t)r->classes * sizeof *r->spread);
    r->held_spread = malloc((size_t)r->classes * sizeof *r->held_spread);
    if (!r->x || !r->cls || !r->spread || !r->held_spread)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld classes", (long long)r->classes);
    for (int64_t c = 0; c < r->classes; c++)
        r->spread[c] = r->held_spread[c] = NAN;
    for (int i = 0; i < DR_EVAL_METRICS; i++)
        r->floor[i] = (struct dr_estimate){NAN, NAN};
    r->held_nearest = NAN;
    return 0;
}

int dr_eval_ref_create(struct dr_backend *be, const struct dr_eval_config *cfg,
                       const struct dr_eval_judge *judge, const struct dr_dataset *train,
                       const struct dr_dataset *test, struct dr_eval_ref **out,
                       struct dr_err *err) {
    *out = NULL;
    int rc = check_config(cfg, err);
    if (!rc)
        rc = check_data(train, test, cfg->split, err);
    if (rc)
        return rc;
    struct dr_eval_ref *r = calloc(1, sizeof *r);
    if (!r)
        return dr_fail(err, DR_ENOMEM, "out of memory for a reference");
    r->be = be;
    r->cfg = *cfg;
    r->kind = train->kind;
    r->classes = train->classes;
    rc = eval_beside_create(!be->host_memory, &r->beside, err);
    if (!rc)
        rc = eval_judge_open(be, judge, cfg->precision, train->c, train->h, train->w, &r->judge,
                             err);
    if (!rc)
        rc = check_judge(r, err);
    if (!rc)
        rc = plan(r, train, test, err);
    if (!rc)
        rc = tallies(r, err);
    if (!rc)
        rc = allocate(r, err);
    if (rc) {
        dr_eval_ref_free(r);
        return rc;
    }
    make_key(r, train, test);
    *out = r;
    return 0;
}

void dr_eval_ref_free(struct dr_eval_ref *r) {
    if (!r)
        return;
    eval_beside_free(r->beside);
    eval_judge_close(r->judge);
    eval_tally_free(r->reals);
    eval_tally_free(r->held);
    eval_tally_free(r->train);
    free(r->order);
    free(r->spread);
    free(r->held_spread);
    free(r->x);
    free(r->cls);
    free(r);
}

const char *dr_eval_ref_key(const struct dr_eval_ref *r) {
    return r->key;
}

// ---- its work

static int add(struct dr_eval_ref *r, int64_t n, struct dr_err *err) {
    const struct eval_judge *j = r->judge;
    for (int64_t i = 0; i < n && r->test[r->pass] && j->classes == r->classes; i++) {
        r->judged++;
        r->right += eval_argmax(j->logit + i * j->classes, j->classes) == r->cls[i];
    }
    if (!r->pass)
        return eval_beside_add(r->beside, r->reals, j, r->cls, n, err);
    const int rc = eval_beside_add(r->beside, r->held, j, r->cls, n, err);
    return rc || !r->train ? rc : eval_beside_add(r->beside, r->train, j, r->cls, n, err);
}

static int see(struct dr_eval_ref *r, struct dr_err *err) {
    const struct dr_dataset *d = r->of[r->pass];
    const int64_t n = DR_MIN(r->judge->chunk, r->total[r->pass] - r->at);
    if (!r->order && !(r->order = eval_order(d)))
        return dr_fail(err, DR_ENOMEM, "out of memory for the order of %lld images",
                       (long long)d->n);
    if (r->pass && !r->held->against) // nobody adds to them: a pass ends when all is added
        r->held->against = eval_tally_all(r->reals);
    const int64_t *ids = r->order + r->from[r->pass] + r->at;
    for (int64_t i = 0; i < n; i++)
        r->cls[i] = d->label[ids[i]];
    int rc = dr_dataset_reals(d, ids, n, r->x, err);
    if (!rc)
        rc = eval_judge_run(r->judge, r->x, n, err);
    if (!rc)
        rc = add(r, n, err);
    if (rc)
        return rc;
    r->at += n;
    if (r->at == r->total[r->pass]) {
        rc = eval_beside_wait(r->beside, err);
        free(r->order);
        r->order = NULL;
        r->at = 0;
        r->pass++;
    }
    return rc;
}

void eval_ref_sides(const struct dr_eval_ref *r, struct eval_tally *gen, double *spread,
                    struct eval_sides *out) {
    const bool apart = r->cfg.split == DR_EVAL_TEST; // held-out reals are the reference's own
    const struct eval_tally *train = apart ? r->train : r->reals,
                            *held = apart ? r->reals : r->held,
                            *more = r->halves ? r->train : NULL; // NULL: `nn` is not asked for
    *out = (struct eval_sides){.cfg = &r->cfg,
                               .gen = gen,
                               .real = r->reals,
                               .train = train ? train->rows : NULL,
                               .ntrain = train ? eval_tally_kept(train) : 0,
                               .more = more ? more->rows : NULL,
                               .nmore = more ? eval_tally_kept(more) : 0,
                               .held = held->rows,
                               .nheld = DR_MIN(eval_tally_kept(held), r->cfg.rows),
                               .real_spread = r->spread,
                               .spread = spread,
                               .manifold = {NAN, NAN, NAN, NAN},
                               .held_nearest = r->held_nearest,
                               .diversity_worst = NAN};
}

struct dr_estimate dr_eval_ref_accuracy(const struct dr_eval_ref *r) {
    const double n = (double)r->judged, p = r->judged ? (double)r->right / n : NAN;
    return (struct dr_estimate){p, sqrt(p * (1 - p) / n)};
}

// What held-out reals get, all metrics at once: they share sums.
static int floors(struct dr_eval_ref *r, struct dr_err *err) {
    struct eval_sides s;
    const bool classes = wants(r, DR_NEED_ROWS) && wants(r, DR_NEED_CLASSES);
    int rc = classes ? eval_spread(&r->cfg, r->reals, r->spread, err) : 0;
    eval_ref_sides(r, r->held, r->held_spread, &s);
    for (int i = 0; i < DR_EVAL_METRICS && !rc; i++) {
        if (!(r->cfg.metrics >> i & 1))
            continue;
        if (i == DR_EVAL_NN) {
            rc = eval_held_nearest(&s, err);
            r->held_nearest = s.held_nearest;
            r->floor[i].value = s.held_nearest > 0 ? 1 : NAN;
        } else if (i == DR_EVAL_ACCURACY && r->judged) {
            r->floor[i] = dr_eval_ref_accuracy(r);
        } else {
            rc = eval_statistic(&s, i, &r->floor[i], err);
        }
    }
    r->pass += !rc;
    return rc;
}

int dr_eval_ref_advance(struct dr_eval_ref *r, double seconds, bool *done, struct dr_err *err) {
    const double start = dr_seconds();
    int rc = 0;
    while (!rc && r->pass < 3) {
        rc = r->pass < 2 ? see(r, err) : floors(r, err);
        if (dr_seconds() - start >= seconds)
            break;
    }
    r->seconds += dr_seconds() - start;
    *done = !rc && r->pass == 3;
    return rc;
}

double dr_eval_ref_progress(const struct dr_eval_ref *r) {
    const double all = (double)(r->total[0] + r->total[1]);
    if (r->pass > 1)
        return r->pass == 3 ? 1 : .99;
    return .99 * (double)((r->pass ? r->total[0] : 0) + r->at) / all;
}

// ---- its state

static void move_state(struct eval_io *io, void *what) {
    struct dr_eval_ref *r = what;
    int64_t where[4] = {r->pass, r->at, r->judged, r->right};
    double values[2] = {r->held_nearest, r->seconds};
    io->part = "reference";
    eval_io_counts(io, "where", where, 4);
    eval_io_numbers(io, "values", values, 2);
    if (!io->rc && (where[0] < 0 || where[0] > 3 || where[1] < 0 || where[2] < 0 ||
                    (where[0] < 2 && where[1] >= r->total[where[0]])))
        io->rc = dr_fail(io->err, DR_EFORMAT, "the saved place of a reference is out of range");
    if (io->rc)
        return;
    r->pass = (int)where[0];
    r->at = where[1];
    r->judged = where[2];
    r->right = where[3];
    r->held_nearest = values[0];
    r->seconds = values[1];
    eval_io_numbers(io, "spread", r->spread, r->classes);
    eval_io_numbers(io, "held_spread", r->held_spread, r->classes);
    eval_io_numbers(io, "floor", &r->floor[0].value, 2 * DR_EVAL_METRICS);
    eval_io_tally(io, "reals", r->reals);
    eval_io_tally(io, "held", r->held);
    if (r->train)
        eval_io_tally(io, "train", r->train);
}

int dr_eval_ref_save(struct dr_eval_ref *r, const char *path, struct dr_err *err) {
    const int rc = eval_beside_wait(r->beside, err);
    return rc ? rc : eval_state_save(path, r->key, move_state, r, err);
}

int dr_eval_ref_restore(struct dr_eval_ref *r, const char *path, struct dr_err *err) {
    return eval_state_restore(path, r->key, move_state, r, err);
}
