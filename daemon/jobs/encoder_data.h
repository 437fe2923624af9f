// Whether an encoder that was trained for a generator knows its data. No SQLite: `driftd run` asks
// too.
#pragma once

#include "engine/drift.h"

// ECONFLICT when the file was trained on the data set that cfg names, with the same settings, but
// on other contents: the files have changed since. Files that do not say what they were trained on,
// or were trained on something else by intent, pass.
int dd_encoder_data(const char *path, const struct dr_config *cfg, const struct dr_dataset *data,
                    struct dr_err *err);
