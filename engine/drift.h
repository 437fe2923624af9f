// driftd's engine, for outsiders (daemon, tools, most tests): include this and nothing below it.
//
// Ownership: what a *_create, *_new, *_open or *_load returns is the caller's, to give to the
// *_free,
// *_close or *_unref beside it, which accept NULL. Structs are opaque unless their header documents
// the members. Strings and JSON described as malloc'd are the caller's to free.
//
// Threads: configurations, data sets, networks and snapshots are immutable and may be shared. A
// backend, a trainer and a sampler belong to the one thread that called dr_backend_enter. The
// daemon has two such threads, trainer and batcher, each with its own backend; the only thing that
// crosses is struct dr_snapshot, by reference count.
//
// Errors: functions return 0 or a negative DR_E* and fill an optional struct dr_err with a sentence
// for people and the name of the input at fault. No configuration, file or request ends the
// process.
//
// Backends' op tables, layers, losses and arenas are the engine's own: no header below includes
// them (tests/lint/include-direction.sh).
#pragma once

#include "engine/config/config.h"       // configurations
#include "engine/core/machine.h"        // threads and memory that this process may use
#include "engine/data/data.h"           // data sets
#include "engine/data/pictures.h"       // folders and archives of pictures
#include "engine/eval/eval.h"            // evaluation
#include "engine/export/export.h"       // models for other programs
#include "engine/io/image.h"            // PNG, npy
#include "engine/io/proto.h"            // protocol buffers
#include "engine/io/safetensors.h"      // checkpoint files
#include "engine/io/sha256.h"           // digests of files
#include "engine/measure.h"             // the rates of a device
#include "engine/nn/net.h"              // networks
#include "engine/open.h"                // devices
#include "engine/sample/sampler.h"      // snapshots, generation
#include "engine/train/encoder/judge.h" // tests of encoders in training
#include "engine/train/trainer.h"       // training
