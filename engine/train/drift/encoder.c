// The frozen encoder of a run: read from a file, cut to what extraction needs, and named by a hash
// of its weights, so that a resumed run is held to the same one.
#include "engine/train/drift/drift.h"

#include "engine/io/sha256.h"
#include "engine/train/trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Of the description and the weights, as they are used.
static void identify(struct drift_encoder *e) {
    const char *description = dr_net_description(e->net);
    struct dr_sha256 s;
    dr_sha256_init(&s);
    dr_sha256_update(&s, description, strlen(description));
    dr_sha256_update(&s, e->weights, dr_net_bytes(e->net));
    dr_sha256_hex(&s, e->sha256);
}

// The bare encoder inside whatever network the file holds.
static int cut(struct drift_encoder *e, const struct dr_snapshot *snap, int64_t side,
               struct dr_err *err) {
    int rc = dr_net_encoder(snap->net, side, &e->net, err);
    if (rc)
        return rc;
    const struct dr_params *to = dr_net_params(e->net), *from = dr_net_params(snap->net);
    e->weights = calloc((size_t)DR_MAX(to->total, 1), sizeof *e->weights);
    if (!e->weights)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld weights", (long long)to->total);
    return dr_params_copy_named(to, e->weights, from, snap->weights, err);
}

int drift_encoder_open(struct drift_encoder *e, const char *path, int64_t side,
                       struct dr_err *err) {
    struct dr_snapshot *snap = NULL;
    int rc = dr_snapshot_load(path, NULL, &snap, err);
    if (!rc && (rc = cut(e, snap, side, err)))
        dr_fail_prefix(err, rc, path);
    dr_snapshot_unref(snap);
    if (!rc)
        identify(e);
    else if (err)
        snprintf(err->field, sizeof err->field, "features.encoder");
    return rc;
}

int dr_encoder_identity(const struct dr_snapshot *snap, int64_t side, char sha256_hex[65],
                        struct dr_err *err) {
    struct drift_encoder e = {0};
    int rc = cut(&e, snap, side, err);
    if (!rc) {
        identify(&e);
        memcpy(sha256_hex, e.sha256, sizeof e.sha256);
    }
    drift_encoder_close(&e);
    return rc;
}

void drift_encoder_loaded(struct drift_encoder *e) {
    free(e->weights);
    e->weights = NULL;
}

void drift_encoder_close(struct drift_encoder *e) {
    drift_encoder_loaded(e);
    dr_net_free(e->net);
    e->net = NULL;
}
