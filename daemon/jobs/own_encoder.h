// Whether the judge of an evaluation is the very encoder that the generator was trained with: then
// the generator is judged by what it was trained to please. Compared by the SHA-256 of the encoder
// itself, so that neither another file nor another name hides it.
#pragma once

#include "daemon/store/store.h"
#include "engine/drift.h"

// Whether a generator's checkpoint names the encoder inside `judge`, for images of this side.
// False too where it was trained without one, or is of elsewhere and does not say.
bool dd_own_encoder(const char *generator, const struct dr_snapshot *judge, int64_t side);
// DR_EINVAL at eval.judge, naming both.
int dd_own_encoder_refuse(const char *judge, const char *generator, struct dr_err *err);
// Refuses an evaluation, or a training job with evaluations, whose judge is that encoder, as far as
// both are there already; eval.allow_own_encoder allows it.
int dd_own_encoder_check(struct dd_store *s, const char *data_dir, const char *config_dir,
                         const struct dr_config *cfg, struct dr_err *err);
