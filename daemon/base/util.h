// Small helpers of the daemon: clocks, paths, files. Any thread.
#pragma once

#include "engine/core/err.h"

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int64_t dd_now_ns(void);  // monotonic
int64_t dd_wall_us(void); // microseconds since 1970
double dd_seconds(void);  // monotonic, as seconds
// Waits for a signal until a monotonic time: a clock that is set leaves it alone. 0 or ETIMEDOUT.
int dd_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *held, int64_t until_ns);
// Room for any path that the kernel takes: a buffer of this size never cuts one that could be
// opened.
enum { DD_PATH_MAX = PATH_MAX };
enum { DD_MIN_FREE = 64 << 20 }; // bytes of disk that uploads and imports leave alone
// snprintf for paths: DR_EINVAL, and nothing cut in silence, when it does not fit.
int dd_path(char out[DD_PATH_MAX], struct dr_err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// mkdir -p with mode 0750. DR_EIO names the folder.
int dd_mkdirs(const char *path, struct dr_err *err);
// Folder of path created if needed.
int dd_mkdir_for(const char *path, struct dr_err *err);
// Writes a whole file atomically (temporary name, fsync, rename). DR_ENOSPC when the disk is full.
int dd_write_file(const char *path, const void *data, size_t n, struct dr_err *err);
// Whether a path stands for standard output: "-", or another name of the same file.
bool dd_is_stdout(const char *path);
// Whether a path is standard output, a device or a pipe: nothing that a rename may take the place
// of.
bool dd_is_direct(const char *path);
// Writes to a path that somebody has named: directly where dd_is_direct, else as dd_write_file, to
// where a symbolic link leads. Waits for who reads a pipe.
int dd_write_output(const char *path, const void *data, size_t n, struct dr_err *err);
// Makes the names in a folder durable. DR_EIO names it.
int dd_sync_folder(const char *path, struct dr_err *err);
// Bytes of the disk below path that this process may still use; -1: not known.
int64_t dd_free_bytes(const char *path);
// Removes a file, or a folder with all that is in it; what cannot be removed stays. Links are not
// followed.
void dd_remove_tree(const char *path);
// Reads a whole file into malloc'd, NUL-terminated memory; refuses more than max bytes.
int dd_read_file(const char *path, size_t max, char **out, size_t *n, struct dr_err *err);
// The same for text: without the byte-order mark of some editors.
int dd_read_text(const char *path, size_t max, char **out, size_t *n, struct dr_err *err);
// A whole decimal number within [lo, hi]; NULL and anything else: false.
bool dd_parse_int(const char *text, int64_t lo, int64_t hi, int64_t *out);
bool dd_is_utf8(const char *text);
// Removes what cuts have left of UTF-8 characters in a text: JSON takes whole ones only.
void dd_trim_text(char *text);
// Makes a text that is no UTF-8 one that is: trimmed, and question marks for what is none besides.
void dd_sound_text(char *text);
// snprintf into malloc'd memory; aborts when out of memory.
char *dd_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *dd_xcalloc(size_t n, size_t size); // never NULL
char *dd_xstrdup(const char *s);         // NULL gives NULL
