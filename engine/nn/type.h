// What a network's own file provides: one const struct dr_net_type, named in engine/nn/nets.def.
// Included by the files of engine/nn, and by tests that bring a network of their own.
#pragma once

#include "engine/nn/net.h"
#include "engine/nn/params.h"

#include <jansson.h>

// The part every network has. A network's struct begins with it; `build` fills it.
struct dr_net {
    const struct dr_net_type *type;
    enum dr_net_kind kind;   // the type's, unless `build` says otherwise
    char *description;       // by type->describe, once
    struct dr_params params; // finished by the caller of build
    int64_t input;           // reals per sample
    int64_t tables;          // reals of constant tables, 0: none
    size_t saved_bytes;      // of what forward keeps on the host for backward
    int outputs;
    struct dr_net_shape output[DR_NET_OUTPUTS];
    char output_name[DR_NET_OUTPUTS][24];
};

struct dr_net_type {
    const char *name; // the word of engine/nn/nets.def, unique
    enum dr_net_kind kind;
    // A parameter's name that ends the names of no others: finds the weights in a file whose names
    // have a prefix.
    const char *anchor;
    size_t size; // of the struct that begins with struct dr_net; it comes zeroed
    // Reads the configuration from JSON into the network's struct.
    int (*parse)(struct dr_net *net, const char *json, size_t len, const char *where,
                 struct dr_err *err);
    // Checks the configuration and fills struct dr_net; whatever it allocates, `clear` frees.
    int (*build)(struct dr_net *net, struct dr_err *err);
    // Configures `encoder` (of the same type, zeroed) as the bare encoder inside `net`, for images
    // of this side; `build` follows. NULL: there is none.
    int (*encoder)(const struct dr_net *net, int64_t side, struct dr_net *encoder,
                   struct dr_err *err);
    // The same for dr_net_resized: all of `net`. NULL: its weights are for one side.
    int (*resized)(const struct dr_net *net, int64_t side, struct dr_net *out, struct dr_err *err);
    void (*clear)(struct dr_net *net);           // NULL: nothing to free
    char *(*describe)(const struct dr_net *net); // malloc'd JSON for `parse`; NULL: no memory
    void (*fill)(const struct dr_net *, real *); // the constant tables; NULL: none
    // As dr_net_forward and dr_net_backward; `saved` has saved_bytes, zeroed when made.
    void (*forward)(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                    const struct dr_net_in *in, real *const y[], void *saved);
    // backward NULL: the network runs forward only.
    void (*backward)(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                     const struct dr_net_in *in, void *saved, const real *const dy[], real *dx);
};

// nets.c: the row of a word, NULL: none; generator number `arch` (enum dr_arch), NULL: none.
const struct dr_net_type *dr_net_type_named(const char *word);
const struct dr_net_type *dr_net_type_of_arch(int arch);

// For a type's `parse`: hands each key of the JSON object to read_key, with `to`, until one fails.
// `where` (NULL: nothing) is put before the message.
int dr_net_read_keys(const char *json, size_t len, const char *where, void *to,
                     int (*read_key)(const char *key, json_t *v, void *to, struct dr_err *err),
                     struct dr_err *err);
