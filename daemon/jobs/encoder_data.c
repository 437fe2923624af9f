// See encoder_data.h.
#include "daemon/jobs/encoder_data.h"

#include "engine/io/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// Same samples in the same order, as long as the files are the same. Mirroring and shifts happen
// while training.
static bool same_section(const struct dr_data_config *a, const struct dr_data_config *b) {
    return a->set == b->set && !strcmp(a->path, b->path) && a->size == b->size &&
           a->fit == b->fit && a->channels == b->channels && a->classes == b->classes &&
           a->count == b->count && a->limit == b->limit && a->seed == b->seed &&
           !strcmp(a->background, b->background) &&
           (int)(1e6 * a->test_share) == (int)(1e6 * b->test_share);
}

int dd_encoder_data(const char *path, const struct dr_config *cfg, const struct dr_dataset *data,
                    struct dr_err *err) {
    struct dr_st_file *f;
    struct dr_config own;
    int rc = dr_st_open(path, &f, err);
    if (rc)
        return rc;
    const char *json = dr_st_meta(f, "driftd.config"),
               *was = dr_st_meta(f, "driftd.data_fingerprint");
    char now[32];
    snprintf(now, sizeof now, "%016" PRIx64, data->fingerprint);
    if (json && was && !dr_config_parse(json, strlen(json), NULL, &own, NULL) &&
        same_section(&own.data, &cfg->data) && strcmp(was, now))
        rc = dr_fail_at(err, DR_ECONFLICT, "features.encoder",
                        "the encoder %.200s was trained on data with fingerprint %.16s; the set %s "
                        "has %s now: remove the job that trained it, and resume this one",
                        dr_st_path(f), was, data->name, now);
    dr_st_close(f);
    return rc;
}
