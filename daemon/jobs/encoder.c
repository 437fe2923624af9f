// The kind `encoder`: the runner as for `train` (train.c), which follows the configuration's kind.
// Its checkpoints are of this kind too, and are never served.
#include "daemon/jobs/jobs_priv.h"

const struct dd_job_kind dd_kind_encoder = {.name = "encoder",
                                            .about = "Trains an encoder or a judge.",
                                            .section = "encoder",
                                            .steps = dd_train_steps,
                                            .run = dd_train_run,
                                            .resumes = true};
