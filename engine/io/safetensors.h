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

// Maps a regular file and checks its header. ENOENT, EIO, ENOMEM, EFORMAT with what is wrong; *out
// is NULL on failure. Pointers from the functions below live until it is closed. Any thread.
int dr_st_open(const char *path, struct dr_st_file **out, struct dr_err *err);
void dr_st_close(struct dr_st_file *f); // NULL is fine
// The path for messages, of which it leaves room for the rest: the end of a long one.
const char *dr_st_path(const struct dr_st_file *f);
int dr_st_count(const struct dr_st_file *f);
const struct dr_st_tensor *dr_st_at(const struct dr_st_file *f, int i); // header order; NULL: none
const struct dr_st_tensor *dr_st_find(const struct dr_st_file *f, const char *name); // NULL: none
// Value of a key of __metadata__, NULL if absent. Lives as long as the file.
const char *dr_st_meta(const struct dr_st_file *f, const char *key);
// The i-th key of __metadata__ in the file's order and its value; NULL after the last one.
const char *dr_st_meta_at(const struct dr_st_file *f, int i, const char **value);
// Converts a tensor to out[count]; ENOENT where it is missing, EFORMAT where its shape is not
// exactly dim[ndim] or its dtype not a float. out NULL: only checks.
int dr_st_read_f32(const struct dr_st_file *f, const char *name, int ndim, const int64_t *dim,
                   float *out, struct dr_err *err);

// DR_EIO where the file was truncated since it was opened: zeros are read then. For who reads a
// tensor's `data`, afterwards; dr_st_read_f32 fails by itself.
int dr_st_intact(const struct dr_st_file *f, struct dr_err *err);

// Writing: add tensors (data is borrowed until finish), then write the whole file at once:
// temporary name in the same folder, fsync, rename, fsync of the folder. On failure nothing is left
// behind and the old file, if any, is untouched; ENOSPC is an error of its own.
struct dr_st_writer;
int dr_st_writer_new(struct dr_st_writer **out, struct dr_err *err);
// data: as many values as dim[ndim] says. EINVAL for a name that is taken or not 1 to 127 bytes,
// and for a dtype or shape that cannot be written.
int dr_st_add(struct dr_st_writer *w, const char *name, enum dr_st_dtype t, int ndim,
              const int64_t *dim, const void *data, struct dr_err *err);
// Strings are copied; a key given twice keeps the last value.
int dr_st_add_meta(struct dr_st_writer *w, const char *key, const char *value, struct dr_err *err);
// Only when dr_st_finish is never called. NULL is fine.
void dr_st_writer_free(struct dr_st_writer *w);
// The temporary is called `<path>.<8 hex digits>.tmp`; one that a killed process left may be
// deleted. sha256_hex: 65 bytes, NULL: not wanted; bytes: file size, may be NULL. Frees the writer
// either way.
int dr_st_finish(struct dr_st_writer *w, const char *path, char *sha256_hex, int64_t *bytes,
                 struct dr_err *err);
// SHA-256 of a file as 64 hex digits and NUL; ENOENT, EIO, ENOMEM.
int dr_sha256_file(const char *path, char hex[65], struct dr_err *err);
