// The objectives of encoders and judges (method.md 7; paper A.3), private to engine/train/encoder:
// `classify`, `autoencode` and `both` differ in the heads of their network and the terms of their
// loss.
#pragma once

#include "engine/nn/net.h"
#include "engine/train/objective.h"

// What a step needs from the host.
struct encoder_inputs {
    real *x;        // [B,C,H,W] augmented and, for reconstruction, masked: 0 where the mask is 1
    real *target;   // [B,H,W,C] the same unmasked; NULL: nothing is reconstructed
    real *mask;     // [B, H/p, W/p], 1: masked
    int32_t *label; // [B]
    real *weight;   // [2]: of the cross-entropy, of the reconstruction
};

struct encoder {
    const struct dr_config *cfg;
    const struct dr_dataset *data; // borrowed
    struct dr_backend *be;
    struct dr_comm *comm;
    struct dr_net *net;
    struct dr_net_saved *saved;   // of one chunk
    int logits, reconstruction;   // outputs, -1: none
    int64_t all, first, B, chunk; // images of a step, those before this process's, its own
    int64_t image, c, h, w, p, classes;
    struct encoder_inputs in[TRAINER_PLACES];
    real *tables; // device
    // host
    int64_t *order, epoch; // [data->n] the data set in the order of this epoch; -1: none yet
    int64_t *ids;          // [B]
    real *rows;            // [B, image]
};

// Of the report: sums over the batch.
enum { ENCODER_XENT, ENCODER_CORRECT, ENCODER_ERROR, ENCODER_REPORT };

// draw.c
int encoder_draw(void *o, int64_t done, int slot, struct dr_err *err);
// Weight of the cross-entropy in `both` in the step after `done` steps; 1 - that for the rest.
double encoder_weight(const struct dr_encoder_config *cfg, int64_t done);
// step.c
void encoder_device_step(void *o, struct dr_ctx *cx, const struct dr_step *s);
