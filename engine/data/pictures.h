// Colour pictures as a data set: a folder, an archive or CIFAR's files read once, decoded, fitted
// to one size and written to one file, the picture file. Training maps that file, so that a source
// that changes later, or data larger than memory, costs a running job nothing.
//
// Called by the sets `cifar10`, `cifar100` and `folder` (sets.def) and by whoever keeps data sets
// for users. Any thread; an import decodes on as many as dr_workers_use says and calls back on its
// own.
//
// Sources, told apart by what they hold:
// - CIFAR-10 and -100: the binary or the python version, unpacked or as .tar.gz;
// - a folder of JPEG, PNG and WebP: each folder directly below it is a class (its name in UTF-8,
//   sorted naturally: 2 before 10), with what lies deeper belonging to it. Pictures without such
//   folders are one class, "all". `train/` and `test/` (or `val/`) on top are the splits, and what
//   lies beside the two is left out; one folder around everything is passed through, whatever its
//   name;
// - a zip or tar (plain, gzip, xz, zstd, bzip2) of either; it is read as a stream, never unpacked.
#pragma once

#include "engine/data/data.h"

// What is asked for. {0} with size and channels 0 is what dr_import_defaults improves on.
struct dr_import_options {
    int64_t size;          // height and width in the picture file; 0: chosen from the pictures
    int64_t channels;      // 1 grey, 3 rgb; 0: 1 where every picture is grey, else 3
    int fit;               // enum dr_fit
    uint8_t background[3]; // rgb: under transparent pixels and around padded pictures
    bool refuse_bad;       // the first bad file fails the import; false: it is skipped and reported
    bool present;          // of CIFAR: without classes that have no picture to train on; false: all
    double test_share;     // of each class, where the source has no test split; 0: no test split
    uint64_t seed;         // of that choice
    // Limits; 0: the default. What goes beyond is refused (the source) or skipped (a picture).
    int64_t max_files;      // entries of the source: 10 million
    int64_t max_names;      // bytes of their names together: 1 GiB
    int64_t max_bytes;      // unpacked bytes of an archive: 1 TiB
    int64_t max_file_bytes; // of one file: 256 MiB
    int64_t max_pixels;     // of one picture: 2^29, as 20 000 x 20 000 fits
    int64_t max_ratio;      // unpacked over packed bytes of an archive, beyond 64 MiB: 1000
    int64_t max_classes;    // a million: DR_IMPORT_CLASSES, and no more
};
void dr_import_defaults(struct dr_import_options *o); // crop, white, skip, test_share .1

// The options that a data section stands for.
void dr_import_of_config(const struct dr_data_config *cfg, struct dr_import_options *o);

enum dr_import_stage {
    DR_IMPORT_LISTING,  // names are collected; `total` is 0
    DR_IMPORT_DECODING, // `done` files of `total` (0: not known, as in an archive)
    DR_IMPORT_WRITING,  // `done` pictures of `total` into the file
    DR_IMPORT_MAKING,   // no import: `done` samples of `total` of a procedurally generated set
};
struct dr_import_progress {
    enum dr_import_stage stage;
    int64_t done, total;
    int64_t bytes, total_bytes; // read of the source as it is on disk; total 0: not known
    int64_t pictures, skipped;  // so far
    int64_t to_write;           // bytes that the picture file will still take; 0: not known yet
    const char *now;            // the name of a file at hand, or ""
};
// Called on the importing thread, every 0.2 s or 16 MiB written or so. False cancels: the import
// fails with DR_ECANCELED and leaves no file.
typedef bool (*dr_import_progress_fn)(void *ctx, const struct dr_import_progress *p);

// Progress of the imports that dr_dataset_load makes on the calling thread, and of the sets that it
// generates, until this is called again; NULL: none, as at a thread's start. False cancels as
// above.
void dr_pictures_watch(dr_import_progress_fn progress, void *ctx);

struct dr_import_class {
    char *name;          // UTF-8
    int64_t train, test; // pictures
};
struct dr_import_skip {
    char *name, *reason; // path within the source, sentence without the path
};
#define DR_IMPORT_SKIPS 1000      // named at most; notes as well
#define DR_IMPORT_CLASSES 1000000 // of a picture file
struct dr_import_report {
    char *source;                  // "folder", "zip" or "tar", after "CIFAR, " where it is that
    int64_t size, channels;        // of the picture file
    int fit;                       // enum dr_fit
    int64_t classes;               // length of `class`
    struct dr_import_class *class; // in the order of their labels
    int64_t train, test;
    bool own_test;                                   // the source has a test split of its own
    int64_t min_w, min_h, max_w, max_h, median_side; // pictures as stored; side: the shorter one
    int64_t upscaled;                                // pictures smaller than `size`
    int64_t skipped;                                 // files left out, all of them
    int64_t nskip;                                   // the first of them, by name
    struct dr_import_skip *skip;
    char **note; // sentences: an empty class, a split that is not used, ...
    int64_t nnote;
    int64_t read_bytes, file_bytes; // of the source; of the picture file
    double seconds;
    uint64_t fingerprint; // of the training split's values: dr_dataset's
};
void dr_import_report_free(struct dr_import_report *r); // its members; NULL and {0} are fine
// The report as a JSON object with the members' names; malloc'd, NULL: no memory.
char *dr_import_report_json(const struct dr_import_report *r);

// Imports `source` into the picture file `out`, which appears complete or not at all (written
// beside it as out + ".part-*", then renamed). report (may be NULL) is filled on success and, as
// far as it goes, on failure; free it in either case. Errors: DR_ENOENT, DR_EIO, DR_ENOSPC;
// DR_EFORMAT for a source that holds no pictures, a damaged archive or (refuse_bad) a bad file;
// DR_ECONFLICT when the source changed meanwhile; DR_EUNSUPPORTED for what this build lacks a
// library for; DR_ECANCELED.
int dr_pictures_import(const char *source, const char *out, const struct dr_import_options *o,
                       dr_import_progress_fn progress, void *ctx, struct dr_import_report *report,
                       struct dr_err *err);

// A cheap description of source and options, 32 hex digits: equal while names, sizes and times of
// the source's files, and the options, are. What a picture file is kept under.
int dr_pictures_key(const char *source, const struct dr_import_options *o, char key[33],
                    struct dr_err *err);

// Maps a picture file as a data set. Nothing in it is trusted: sizes, labels and the header's
// checksum are checked; pixels may be anything. data.size and channels must be the file's where
// they are not 0; limit as in the configuration. DR_ENOENT for a test split that is empty.
// d->name is "folder".
int dr_pictures_open(const char *path, const struct dr_data_config *want, bool test_split,
                     struct dr_dataset **out, struct dr_err *err);
// What a picture file holds, from its own header (cheap: no pixels are read); free the report.
int dr_pictures_info(const char *path, struct dr_import_report *report, struct dr_err *err);
bool dr_pictures_is_file(const char *path); // by its first bytes
// The extension that `data.path` may leave out: data.path "cats" is DATA_DIR/cats (a folder, an
// archive or a picture file) or DATA_DIR/cats.pictures.
#define DR_PICTURES_SUFFIX ".pictures"

// Where the sets keep picture files that they make themselves: $DRIFTD_CACHE, else
// $CACHE_DIRECTORY (a systemd service's), else $XDG_CACHE_HOME/driftd, else $HOME/.cache/driftd,
// else `fallback`/cache. Created. malloc'd.
int dr_cache_dir(const char *fallback, char **dir, struct dr_err *err);
