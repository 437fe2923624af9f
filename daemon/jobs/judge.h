// Which networks may judge, as eval.judge and as eval.inception: asked when a job is made, of files
// that are there, and again when it runs.
#pragma once

#include "engine/drift.h"

// What of a network rules it out as e's judge of data with so many classes: EINVAL at eval.judge
// for a generator, for Inception-v3, which has a key of its own, and for one that tells other
// classes apart where accuracy is asked for by name (`all` leaves it out).
int dd_judge_expect(const struct dr_eval_section *e, const struct dr_net *net, int64_t classes,
                    struct dr_err *err);
// The side of images of the network that eval.inception names; EINVAL there for one that is not the
// network of FID.
int dd_inception_expect(const struct dr_eval_section *e, const struct dr_net *net, int64_t *side,
                        struct dr_err *err);
