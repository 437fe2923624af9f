// What every request asks about checkpoints (which is active, which is latest, what it accepts),
// kept in memory so that /generate reads no database. Filled on demand; dropped as a whole when the
// store's version of the checkpoints changes. Any thread.
#pragma once

#include "daemon/store/checkpoints.h"
#include "engine/config/config.h"

struct dd_models;
struct dd_model_info {
    int64_t id, job, step;
    char path[DD_PATH_MAX], sha256[65], state[16];
    struct dr_model_config model;
    json_t *names; // array of class names or NULL, for dd_models_release
};
struct dd_models *dd_models_new(struct dd_store *s);
void dd_models_free(struct dd_models *m); // NULL is fine
struct dd_model_ids {
    int64_t active;        // as dd_ckpt_active
    int64_t final, latest; // as dd_ckpt_final, dd_ckpt_latest; 0: none
};
// What may be served. Fails as the store does, with zeros in *out, and asks again the next time.
int dd_models_ids(struct dd_models *m, struct dd_model_ids *out, struct dr_err *err);
int64_t dd_models_active(struct dd_models *m); // of these; DD_SERVE_AUTO on failure
int dd_models_get(struct dd_models *m, int64_t id, struct dd_model_info *out, struct dr_err *err);
// Class names of a job's data set, NULL: none known. For dd_models_release.
json_t *dd_models_names(struct dd_models *m, int64_t job);
// Gives names back. Several threads hold the same array: only here, under the lock, is it counted
// (jansson reads a count before it changes it).
void dd_models_release(struct dd_models *m, json_t *names); // NULL is fine
