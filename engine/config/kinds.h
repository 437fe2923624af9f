// What the tables of the engine hold under a word of the configuration: X(ID, name, "text"). The
// enums, the words that config.def accepts and the tables come from these lists, so that a new kind
// is one line here and the file that its row stands in.
#pragma once

#define DR_KIND_TEXT(ID, name, text) "|" text

// loss.field: engine/loss/field_NAME.c defines dr_field_NAME (engine/loss/field.h)
#define DR_FIELDS(X)                                                                               \
    X(KERNEL, kernel, "kernel")                                                                    \
    X(KERNEL_L2, kernel_l2, "kernel-l2")                                                           \
    X(LEARNED, learned, "learned")
#define DR_FIELD_WORDS (&(DR_FIELDS(DR_KIND_TEXT))[1])

// features.kind: engine/loss/feature_NAME.c defines dr_feature_NAME (engine/loss/features.h)
#define DR_FEATURES(X)                                                                             \
    X(PIXEL, pixel, "pixel")                                                                       \
    X(ENCODER, encoder, "encoder")                                                                 \
    X(KDE, kde, "kde")
#define DR_FEATURE_WORDS (&(DR_FEATURES(DR_KIND_TEXT))[1])

// kind: what a recipe's job does. The names of job kinds (daemon/jobs/kinds.c).
#define DR_RECIPES(X)                                                                              \
    X(TRAIN, train, "train")                                                                       \
    X(ENCODER, encoder, "encoder")                                                                 \
    X(EVAL, eval, "eval")
#define DR_RECIPE_WORDS (&(DR_RECIPES(DR_KIND_TEXT))[1])
