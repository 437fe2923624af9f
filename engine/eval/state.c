// Saved states: a safetensors file whose tensors are the sums and rows of an evaluation. See
// eval_priv.h.
#include "engine/eval/eval_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY "driftd.eval.key"
enum { SMALL = 4096 }; // bytes

// A buffer that lives until the file is written.
static void *hold(struct eval_io *io, size_t bytes) {
    void *p = malloc(DR_MAX(bytes, (size_t)1));
    void **more = p ? realloc(io->held, (size_t)(io->nheld + 1) * sizeof *more) : NULL;
    if (!more) {
        free(p);
        io->rc = dr_fail(io->err, DR_ENOMEM, "out of memory for a saved evaluation");
        return NULL;
    }
    io->held = more;
    more[io->nheld++] = p;
    return p;
}

static void name_of(const struct eval_io *io, const char *name, char out[128]) {
    snprintf(out, 128, "%s/%s", io->part, name);
}

static void move(struct eval_io *io, const char *name, enum dr_st_dtype type, void *v, size_t bytes,
                 int64_t n) {
    char full[128];
    if (io->rc || !n)
        return;
    name_of(io, name, full);
    if (io->w) {
        if (bytes <= SMALL) { // may lie on a caller's stack, and the writer only borrows it
            void *copy = hold(io, bytes);
            if (!copy)
                return;
            v = memcpy(copy, v, bytes);
        }
        io->rc = dr_st_add(io->w, full, type, 1, &n, v, io->err);
        return;
    }
    const struct dr_st_tensor *t = dr_st_find(io->f, full);
    if (!t || t->dtype != type || t->count != n || t->bytes != bytes)
        io->rc = dr_fail(io->err, DR_EFORMAT, "%s: the saved evaluation has no %s of %lld values",
                         dr_st_path(io->f), full, (long long)n);
    else
        memcpy(v, t->data, bytes);
}

void eval_io_numbers(struct eval_io *io, const char *name, double *v, int64_t n) {
    move(io, name, DR_ST_F64, v, (size_t)n * sizeof *v, n);
}

void eval_io_counts(struct eval_io *io, const char *name, int64_t *v, int64_t n) {
    move(io, name, DR_ST_I64, v, (size_t)n * sizeof *v, n);
}

void eval_io_classes(struct eval_io *io, const char *name, int32_t *v, int64_t n) {
    move(io, name, DR_ST_I32, v, (size_t)n * sizeof *v, n);
}

void eval_io_reals(struct eval_io *io, const char *name, real *v, int64_t n, int64_t d) {
    move(io, name, sizeof(real) == 4 ? DR_ST_F32 : DR_ST_F64, v, (size_t)(n * d) * sizeof *v,
         n * d);
}

void eval_io_moments(struct eval_io *io, const char *name, struct dr_moments **m, int64_t d) {
    char full[128];
    if (io->rc)
        return;
    name_of(io, name, full);
    if (io->f) {
        dr_moments_free(*m);
        *m = NULL;
        io->rc = dr_st_find(io->f, full) ? dr_moments_create(d, m, io->err) : 0;
    }
    if (io->rc || !*m)
        return;
    const int64_t n = dr_moments_state_count(*m);
    double *state = hold(io, (size_t)n * sizeof *state);
    if (!state)
        return;
    if (io->w)
        dr_moments_state_get(*m, state);
    eval_io_numbers(io, name, state, n);
    if (io->f && !io->rc)
        io->rc = dr_moments_state_set(*m, state, io->err);
}

void eval_io_tally(struct eval_io *io, const char *part, struct eval_tally *t) {
    io->part = part;
    eval_io_counts(io, "images", &t->n, 1);
    eval_io_counts(io, "part", &t->part, 1);
    if (!io->rc && (t->n < 0 || t->n > t->planned || t->part < 0 || t->part > t->blocks))
        io->rc = dr_fail(io->err, DR_EFORMAT, "the saved counts of %s are out of range", part);
    eval_io_moments(io, "open", &t->open, t->d);
    for (int i = 0; i < EVAL_LEVELS; i++) {
        char name[32];
        snprintf(name, sizeof name, "level%d", i);
        eval_io_moments(io, name, &t->level[i], t->d);
    }
    eval_io_numbers(io, "fd", t->fd, EVAL_LEVELS);
    eval_io_numbers(io, "fd_square", &t->fd_square, 1);
    eval_io_counts(io, "fds", t->fds, EVAL_LEVELS);
    eval_io_reals(io, "rows", t->rows, eval_tally_kept(t), t->d);
    eval_io_classes(io, "classes", t->cls, eval_tally_kept(t));
    if (t->p) {
        eval_io_numbers(io, "p", t->p, t->cfg->is_splits * t->logits);
        eval_io_numbers(io, "plogp", t->plogp, t->cfg->is_splits);
        eval_io_counts(io, "count", t->count, t->cfg->is_splits);
    }
    if (t->confusion)
        eval_io_counts(io, "confusion", t->confusion, t->classes * t->logits);
}

static void release(struct eval_io *io) {
    for (int i = 0; i < io->nheld; i++)
        free(io->held[i]);
    free(io->held);
}

int eval_state_save(const char *path, const char *key, eval_io_fn *fn, void *what,
                    struct dr_err *err) {
    struct eval_io io = {.part = "", .err = err};
    io.rc = dr_st_writer_new(&io.w, err);
    if (!io.rc)
        io.rc = dr_st_add_meta(io.w, KEY, key, err);
    if (!io.rc)
        fn(&io, what);
    if (io.rc)
        dr_st_writer_free(io.w);
    else
        io.rc = dr_st_finish(io.w, path, NULL, NULL, err);
    release(&io);
    return io.rc;
}

int eval_state_restore(const char *path, const char *key, eval_io_fn *fn, void *what,
                       struct dr_err *err) {
    struct eval_io io = {.part = "", .err = err};
    io.rc = dr_st_open(path, &io.f, err);
    if (io.rc)
        return io.rc;
    const char *found = dr_st_meta(io.f, KEY);
    if (!found || strcmp(found, key))
        io.rc = dr_fail(err, DR_ECONFLICT,
                        "%s: saved by an evaluation with other weights, data or settings",
                        dr_st_path(io.f));
    if (!io.rc)
        fn(&io, what);
    if (!io.rc)
        io.rc = dr_st_intact(io.f, err);
    dr_st_close(io.f);
    release(&io);
    return io.rc;
}
