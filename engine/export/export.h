// A model as one file for other programs: the weights of a snapshot without the optimiser's state.
// Called by the daemon's downloads and the tests; docs/export.md describes the files.
#pragma once

#include "engine/sample/sampler.h"

// X(ID, word, file name's end, media type)
#define DR_EXPORTS(X)                                                                              \
    X(SAFETENSORS, "safetensors", ".safetensors", "application/octet-stream")                      \
    X(ONNX, "onnx", ".onnx", "application/octet-stream")                                           \
    X(PYTORCH, "pytorch", "-pytorch.zip", "application/zip")
enum dr_export_format {
#define X(ID, word, tail, type) DR_EXPORT_##ID,
    DR_EXPORTS(X)
#undef X
        DR_EXPORT_FORMATS
};
struct dr_export {
    const struct dr_snapshot *snap;
    enum dr_export_format format;
    // Metadata beside the network's description; NULL: none.
    const char *config;  // the whole configuration it was trained with, instead of the description
    const char *classes; // JSON array of class names
    const char *weights; // "ema" or "raw"
};
// Writes the file at `path`, replacing it.
// safetensors: the parameters under their names, F32; metadata driftd.config, driftd.step,
//   driftd.weights, driftd.classes.
// onnx: a generator's graph (IR version 10, opset 21, fp32); inputs noise, class, guidance and,
//   where the network has them, style; output image; the same metadata.
// pytorch: a zip with model.safetensors and driftd_model.py, which runs it.
// EUNSUPPORTED, naming it, for a network that has no graph, or no class in driftd_model.py, and for
// a format this build cannot write; EINVAL for more than an ONNX file can hold (2 GiB); EIO,
// ENOSPC, ENOMEM.
int dr_export(const struct dr_export *x, const char *path, struct dr_err *err);
const char *dr_export_word(enum dr_export_format format);
