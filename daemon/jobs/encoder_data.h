// The encoder that a configuration names, or the judge of an evaluation, and whether one that was
// trained for a generator knows its data. No SQLite: `driftd run` asks too.
//
// features.encoder, and eval.judge of kind eval, names one of
//   a recipe of kind encoder, with or without "recipe:" before it
//   a checkpoint by its id, with or without "checkpoint:"
//   a safetensors file: a path with a slash or ending in .safetensors
#pragma once

#include "engine/drift.h"

enum dd_encoder_ref { DD_ENCODER_NONE, DD_ENCODER_RECIPE, DD_ENCODER_CHECKPOINT, DD_ENCODER_FILE };
// What kind of thing a configuration's encoder is; *word: its name without the prefix.
enum dd_encoder_ref dd_encoder_ref(const struct dr_config *cfg, const char **word);
bool dd_encoder_ref_is_recipe(const struct dr_config *cfg);
// The key that names it: "features.encoder" or "eval.judge".
const char *dd_encoder_key(const struct dr_config *cfg);
// The recipe of an encoder, checked against the configuration that names it and with its data
// section where both are of the same set. Errors are at the key.
int dd_encoder_recipe(const char *config_dir, const struct dr_config *cfg, struct dr_config *out,
                      struct dr_err *err);

// Whether two configurations make different encoders; *key: the first key in which they differ, by
// its dotted name. Names and descriptions change no weight.
bool dd_encoder_differs(const struct dr_config *a, const struct dr_config *b, char key[80]);

// ECONFIG at features.maps when a generator's configuration names a map that the encoder in `net`
// does not have; networks that cannot be looked at pass, and fail when the job runs.
int dd_encoder_maps(const struct dr_config *cfg, const struct dr_net *net, struct dr_err *err);

// ECONFLICT when the file was trained on the data set that cfg names, with the same settings, but
// on other contents: the files have changed since. Files that do not say what they were trained on,
// or were trained on something else by intent, pass.
int dd_encoder_data(const char *path, const struct dr_config *cfg, const struct dr_dataset *data,
                    struct dr_err *err);
