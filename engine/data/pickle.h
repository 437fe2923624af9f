// Python pickles that hold data and nothing else: None, bools, integers, floats, strings, bytes,
// lists, tuples, dicts and numpy arrays of bytes and integers, protocols 1 to 5, and of 0 what has
// no strings with escapes, which are taken as they stand. It builds no other object and calls
// nothing: any other opcode or name is an error that names it.
//
// Values point into the input, which must outlive them, or into memory of the pickle. Memory is
// bounded by the input's size.
#pragma once

#include "engine/core/err.h"
#include "engine/core/types.h"

enum dr_pk_type {
    DR_PK_NONE,
    DR_PK_BOOL,
    DR_PK_INT,
    DR_PK_REAL,
    DR_PK_BYTES, // str and bytes alike
    DR_PK_LIST,  // and tuples
    DR_PK_DICT,  // items: key, value, key, value, ...
    DR_PK_ARRAY,
    DR_PK_TYPE, // a numpy dtype
    DR_PK_NAME, // of something that may be called, while it is read; never in a result
};
struct dr_pk {
    enum dr_pk_type type;
    int64_t i; // bool, int
    double x;  // real
    const uint8_t *p;
    size_t n;      // bytes: p[n]; array: its values; type: "u1", "<i8", ...
    int32_t *item; // list, dict: numbers of values (dr_pk_at)
    int32_t items, room;
    int64_t dim[4]; // array
    int ndim;
    char kind; // array, type: 'u', 'i', 'b'
    int width; // bytes of a number
};
struct dr_pickle;
int dr_pickle_read(const uint8_t *p, size_t n, struct dr_pickle **out, struct dr_err *err);
void dr_pickle_free(struct dr_pickle *k);
const struct dr_pk *dr_pickle_root(const struct dr_pickle *k);
const struct dr_pk *dr_pk_at(const struct dr_pickle *k, const struct dr_pk *list, int32_t i);
// The value of a string key; NULL: not a dict, or none of that name.
const struct dr_pk *dr_pk_get(const struct dr_pickle *k, const struct dr_pk *dict, const char *key);
