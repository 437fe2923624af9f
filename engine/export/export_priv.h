// The formats. Private to engine/export.
#pragma once

#include "engine/export/export.h"

int dr_export_onnx(const struct dr_export *x, const char *path, struct dr_err *err);
int dr_export_safetensors(const struct dr_export *x, const char *path, struct dr_err *err);
int dr_export_pytorch(const struct dr_export *x, const char *path, struct dr_err *err);

// EUNSUPPORTED at the field "format": a format has no program for this network. how: "as ONNX".
int dr_export_refused(const struct dr_net *net, const char *how, struct dr_err *err);

// The metadata: calls add for each key that has a value, until one fails.
typedef int dr_export_add(void *ctx, const char *key, const char *value, struct dr_err *err);
int dr_export_meta(const struct dr_export *x, dr_export_add *add, void *ctx, struct dr_err *err);

extern const char dr_export_torch[]; // the text of driftd_model.py
