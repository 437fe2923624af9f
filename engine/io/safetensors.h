// safetensors files: 8-byte little-endian header length, JSON header, raw data. The reader trusts
// nothing: lengths, offsets, overlaps, dtypes and shapes are checked against the file before any
// use, and every error names the file and the tensor. Files are mmapped read-only.
#pragma once

#include "engine/core/err.h"
#include "engine/core/types.h"

enum dr_st_dtype {
    DR_ST_F32,
    DR_ST_F64,
    DR_ST_F16,
    DR_ST_BF16,
    DR_ST_I64,
    DR_ST_I32,
    DR_ST_U8,
    DR_ST_OTHER, // BOOL, I8, I16, U16, U32, U64, F8_*: listed, not converted
};
struct dr_st_tensor {
    char name[128];
    enum dr_st_dtype dtype;
    int ndim;
    int64_t dim[8];
    int64_t count; // elements
    const void *data;
    size_t bytes;
};
struct dr_st_file;

int dr_st_open(const char *path, struct dr_st_file **out, struct dr_err *err);
void dr_st_close(struct dr_st_file *f);
int dr_st_count(const struct dr_st_file *f);
const struct dr_st_tensor *dr_st_at(const struct dr_st_file *f, int i);
const struct dr_st_tensor *dr_st_find(const struct dr_st_file *f, const char *name);
// Value of a key of __metadata__, NULL if absent. Lives as long as the file.
const char *dr_st_meta(const struct dr_st_file *f, const char *key);
// The i-th key of __metadata__ in the file's order and its value; NULL behind the last one.
const char *dr_st_meta_at(const struct dr_st_file *f, int i, const char **value);
// Converts to float; EFORMAT when the shape is not exactly dim[ndim] or the dtype is not a float.
// out NULL: only looks whether it would.
int dr_st_read_f32(const struct dr_st_file *f, const char *name, int ndim, const int64_t *dim,
                   float *out, struct dr_err *err);

// Writing: add tensors (data is borrowed until finish), then write the whole file at once:
// temporary name in the same folder, fsync, rename, fsync of the folder. On failure nothing is left
// behind and the old file, if any, is untouched; ENOSPC is told apart.
struct dr_st_writer;
int dr_st_writer_new(struct dr_st_writer **out, struct dr_err *err);
int dr_st_add(struct dr_st_writer *w, const char *name, enum dr_st_dtype t, int ndim,
              const int64_t *dim, const void *data, struct dr_err *err);
int dr_st_add_meta(struct dr_st_writer *w, const char *key, const char *value, struct dr_err *err);
void dr_st_writer_free(
    struct dr_st_writer *w); // only when dr_st_finish is never called; NULL is fine
// The temporary is called `<path>.<8 hex digits>.tmp`; one that a killed process left may be
// deleted. sha256_hex: 65 bytes, NULL: not wanted; bytes: file size, may be NULL. Frees the writer
// either way.
int dr_st_finish(struct dr_st_writer *w, const char *path, char *sha256_hex, int64_t *bytes,
                 struct dr_err *err);
// SHA-256 of a file as 64 hex digits and NUL.
int dr_sha256_file(const char *path, char hex[65], struct dr_err *err);
