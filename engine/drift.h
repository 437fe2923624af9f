// driftd's engine, for outsiders (daemon, tests, tools): include this and nothing below it.
//
// Ownership: every *_create/_new has a *_free that accepts NULL; structs are opaque unless
// documented. Threads: configs, data sets, generators and snapshots are immutable and may be
// shared; a backend, a trainer and a sampler belong to the one thread that called backend->enter().
// The daemon has two such threads, trainer and batcher, each with its own backend; the only thing
// that crosses is dr_snapshot. Errors: 0 or a negative DR_E* and a sentence in struct dr_err.
// Nothing here ends the process on bad input.
#pragma once

#include "engine/config/config.h"
#include "engine/core/backend.h"
#include "engine/core/err.h"
#include "engine/core/metric.h"
#include "engine/core/rng.h"
#include "engine/data/data.h"
#include "engine/io/image.h"
#include "engine/io/safetensors.h"
#include "engine/io/sha256.h"
#include "engine/loss/drift.h"
#include "engine/nn/gen.h"
#include "engine/sample/sampler.h"
#include "engine/train/trainer.h"
