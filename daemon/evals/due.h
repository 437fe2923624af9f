// Evaluations of a job while it trains (eval.every, eval.every_seconds, eval.at_end).
#pragma once

#include "daemon/jobs/jobs_priv.h"

struct dd_eval_outcome;

// The training job has written this checkpoint, which is to be evaluated: queues that. A failure
// costs the evaluation and not the training; it is reported as an alert.
void dd_eval_checkpoint(struct dd_job *job, int64_t step, const char *path);
// Of an eval job that belongs to a training job: the metric of eval.best, where the outcome has it;
// else NULL.
const char *dd_eval_best_name(struct dd_job *job, const struct dd_eval_outcome *o);
