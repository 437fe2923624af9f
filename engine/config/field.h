// The table behind config.def, private to engine/config: one row per key, with its place in
// struct dr_config. Constant; any thread.
#pragma once

#include "engine/config/config.h"

#include <jansson.h>

enum dr_field_type { DR_F_INT, DR_F_NUM, DR_F_BOOL, DR_F_ENUM, DR_F_STR, DR_F_LIST };

struct dr_config_field {
    const char *path;        // "model.dim"
    enum dr_field_type type; // of the member at `offset`
    size_t offset, size;     // member; size in bytes
    size_t count_offset;     // DR_F_LIST: the int that counts
    double min, max;         // DR_F_INT, DR_F_NUM, each element of DR_F_LIST
    double def;              // DR_F_INT, DR_F_NUM, DR_F_BOOL
    const char *text;        // default of DR_F_ENUM, DR_F_STR; JSON of DR_F_LIST
    const char *values;      // DR_F_ENUM: "a|b|c"
    const char *doc;
};

const struct dr_config_field *dr_config_fields(int *n);
// The row of a path, or NULL.
const struct dr_config_field *dr_config_field(const char *path);
// "a|b|c": copies word i (empty past the end); returns the index of a word, or -1.
const char *dr_enum_word(const char *values, int i, char out[64]);
int dr_enum_index(const char *values, const char *word);

// Sets a field from a JSON value. `shown` is the key as the user wrote it, for the error.
int dr_config_assign(struct dr_config *c, const struct dr_config_field *f, const char *shown,
                     json_t *v, struct dr_err *err);
// The row that an unknown key was probably meant to be, or NULL.
const struct dr_config_field *dr_config_meant(const char *path);
// Fails with "unknown key `x`" and the nearest valid one or the keys of the section.
int dr_config_unknown(const char *path, struct dr_err *err);

// "|word|word" of engine/nn/nets.def.
extern const char dr_arch_words[];

// Copies kind, size, channels and classes of the data section into the model section.
void dr_config_link(struct dr_config *c);
// The kind of recipe that alone has this key (enum dr_recipe_kind); -1: every recipe has it.
int dr_config_key_kind(const char *path);
// Whether a recipe of kind eval has this key, or shares it with training.
bool dr_config_of_eval(const char *path);
// Whether both configurations have the same value of this key.
bool dr_config_same_value(const struct dr_config_field *f, const struct dr_config *a,
                          const struct dr_config *b);
// What is wrong with a configuration, collected while it is read and checked (notes.c).
struct dr_notes {
    struct dr_err *err;       // the first; may be NULL
    struct dr_problems *list; // all of them; may be NULL
    int rc;                   // DR_E* of the first; 0: none so far
    bool *bad;                // [number of fields] those without a value to check; NULL: none
};
// Takes over what *e holds. A first problem ends the search where there is no list: false.
bool dr_note(struct dr_notes *n, const struct dr_err *e);
// Marks every field below `section` as one without a value.
void dr_notes_bad_section(struct dr_notes *n, const char *section);
// A problem across keys, NULL-terminated: the one to change, then the others that the check reads.
// Left out where one of them has no value, or a choice that decides which checks there are.
void dr_note_check(struct dr_notes *n, const char *const *keys, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// Cross-key checks of everything.
void dr_config_check(const struct dr_config *c, struct dr_notes *n);
// The kind that a model section's other keys imply (dr_model_config_to_json).
int dr_model_implied_kind(const struct dr_model_config *m);
// The words of enum dr_kind, as DR_F_ENUM has them.
extern const char *const dr_kind_words;
