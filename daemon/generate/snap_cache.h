// Weights of checkpoints that were asked for lately, least recently used out first when their bytes
// pass a limit. Belongs to the batcher's thread.
#pragma once

#include "daemon/generate/ckpt_cache.h"
#include "daemon/store/events.h"
#include "engine/sample/sampler.h"

struct dd_snapcache;
struct dd_snapcache *dd_snapcache_new(struct dd_store *s, struct dd_events *e, struct dd_models *m,
                                      int64_t max_bytes);
void dd_snapcache_free(struct dd_snapcache *c); // NULL is fine
// A reference to the weights of a checkpoint row; loads the file when needed. A file that no longer
// matches its row is refused and marked corrupt, one that is gone is marked as removed, each with
// an alert. DR_ENOENT: unknown or removed. DR_EBUSY: see dd_ckpt_lost. raw: the weights themselves,
// not their average. DR_EINVAL: the file has only one set.
int dd_snapcache_get(struct dd_snapcache *c, int64_t id, bool raw, struct dr_snapshot **out,
                     struct dr_err *err);
