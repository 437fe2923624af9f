// Shared by the files of engine/data only.
#pragma once

#include "engine/data/data.h"

// Test images of the sets made by code come from another range of indices than training images.
#define DR_DATA_TEST_INDEX ((uint64_t)1 << 40)

// Finds and reads the two idx files of a set: pixels [n,h,w], labels [n] (both malloc'd), checked
// against each other. dir_used: where they were found.
int dr_idx_load_set(const struct dr_data_config *cfg, const char *set, const char *data_dir,
                    bool test_split, uint8_t **pixels, uint8_t **labels, int64_t *n, int64_t *h,
                    int64_t *w, struct dr_err *err);
// Point number `index` of a toy (cfg->set), roughly within [-1,1].
void dr_toy_point(int set, uint64_t seed, uint64_t index, real out[2]);
