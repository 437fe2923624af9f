// Starting a run from the weights of another one (init_from): tensors are found by name, behind the
// prefix that an import of the file finds.
#include "engine/sample/foreign.h"
#include "engine/train/trainer_priv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Appends a name, or "..." once the room is used up.
static void list(char *out, size_t size, const char *name) {
    const size_t used = strlen(out);
    if (used + strlen(name) + sizeof ", , ..." < size)
        snprintf(out + used, size - used, "%s%s", used ? ", " : "", name);
    else if (used >= 3 && strcmp(out + used - 3, "..."))
        snprintf(out + used, size - used, ", ...");
}

// The tensors of the file that fit, over the initial weights in host.
static int take_all(const struct dr_st_file *f, const char *path, const struct dr_params *ps,
                    real *host, char note[400], struct dr_err *err) {
    char fresh[300] = "", prefix[DR_PREFIX_MAX] = "", name[DR_PREFIX_MAX + sizeof ps->p->name];
    const char *anchor = dr_net_anchor_in(ps);
    int taken = 0, rc = anchor ? dr_foreign_prefix(f, path, anchor, prefix, err) : 0;
    for (int i = 0; i < ps->n && !rc; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, ps->p[i].name);
        if (!dr_st_find(f, name)) {
            list(fresh, sizeof fresh, ps->p[i].name);
            continue;
        }
        rc = dr_param_read(f, path, prefix, &ps->p[i], host, err);
        taken++;
    }
    if (rc)
        return rc;
    if (!taken)
        return dr_fail_at(err, DR_EINVAL, "init_from",
                          "%s: none of this network's tensors is in the file; expected %s", path,
                          fresh);
    note[0] = 0;
    if (taken < ps->n)
        snprintf(note, 400, "%d of %d tensors are not in the file and start fresh: %s",
                 ps->n - taken, ps->n, fresh);
    return 0;
}

int dr_trainer_init_from(struct dr_trainer *t, const char *path, char note[400],
                         struct dr_err *err) {
    const struct dr_group *g = &t->group[0];
    const size_t bytes = (size_t)g->layout->total * sizeof(real);
    struct dr_st_file *f;
    int rc = dr_st_open(path, &f, err);
    if (rc)
        return rc;
    real *host = malloc(DR_MAX(bytes, (size_t)1));
    if (!host)
        rc = dr_fail(err, DR_ENOMEM, "out of memory for the weights of %s", path);
    if (!rc) {
        t->be->download(t->be, host, g->w, bytes);
        rc = t->be->sync(t->be, err);
    }
    if (!rc)
        rc = take_all(f, path, g->layout, host, note, err);
    if (!rc) {
        t->be->upload(t->be, g->w, host, bytes);
        for (int i = 0; i < t->cfg.ema.n; i++)
            t->be->upload(t->be, g->ema[i], host, bytes);
        trainer_round_weights(t);
        rc = t->be->sync(t->be, err);
    }
    free(host);
    dr_st_close(f);
    return rc;
}
