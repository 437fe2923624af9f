// Between the files of an import (pictures.h): where pictures come from, the spool of decoded rows
// in their order of arrival, and how they are laid out as a data set.
#pragma once

#include "engine/data/data_priv.h"
#include "engine/data/pictures.h"
#include "engine/io/picture.h"

struct dr_import;

// A sample, or a file that may become one.
struct pic_entry {
    char *path;          // within the source, UTF-8; CIFAR: NULL
    int64_t order;       // CIFAR: number of the part and the row
    int64_t size, mtime; // folders: bytes, ns
    int64_t slot;        // of the spool; -1: not decoded, or left out
    int32_t label;
    int32_t split; // 0 train, 1 test
    int32_t w, h;  // as stored; 0: not known
};

struct pic_list {
    struct pic_entry *e;
    int64_t n, room;
};
int pic_list_add(struct pic_list *l, const char *path, struct dr_err *err); // slot -1
void pic_list_free(struct pic_list *l);
// By their numbers where names have some: "2" before "10".
int pic_natural(const char *a, const char *b);
bool pic_utf8(const char *s);

// ---- import.c

struct dr_import {
    const char *source;
    struct dr_import_options o;
    struct dr_picture_options pic;
    dr_import_progress_fn progress;
    void *ctx;
    struct dr_import_report *report;
    struct dr_import_progress at;
    double told; // when progress was
    struct pic_list list;
    struct pic_list folders; // names of all folders, to find those without pictures
    bool probing;            // headers alone, to choose size and channels
    bool colour;             // probing: some picture has colour
    bool archive, cifar;
    int64_t cifar_classes; // 10 or 100, once a part has been read
    const char *format;    // "folder", "zip" or "tar"
    int spool;
    int64_t slots;
    size_t row; // bytes of a fitted picture
    struct pic_batch *batch;
    int64_t bad; // files that could not be read although they should
    struct dr_err *err;
};
// One file of the source. bytes: malloc'd, taken; NULL: a folder's file, read by the batch.
int import_take(struct dr_import *im, int64_t entry, uint8_t *bytes, size_t n);
int import_flush(struct dr_import *im);
int import_folder(struct dr_import *im, const char *path);
// Leaves a file out. bad: it fails the import where that is the policy.
int import_skip(struct dr_import *im, const char *path, bool bad, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int import_note(struct dr_import *im, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int import_progress(struct dr_import *im, const char *now, bool force); // DR_ECANCELED
int import_spool(struct dr_import *im, const void *rows, int64_t n);    // at slot im->slots
// A decoded picture [h,w,c] as the options want it: out [channels,size,size].
int import_fit(const struct dr_import_options *o, const struct dr_picture *p, uint8_t *out,
               struct dr_err *err);

// ---- the sources

int folder_list(const char *source, int64_t max_files, struct pic_list *list, struct dr_import *im,
                struct dr_err *err); // im NULL: names alone, nothing reported
int folder_read(const char *source, const struct pic_entry *e, int64_t max, uint8_t **p, size_t *n,
                struct dr_err *err);
int archive_walk(struct dr_import *im); // every file to import_take

// ---- cifar.c

// Whether a file of this name holds samples of CIFAR; `p` NULL: by its name alone.
bool cifar_is_part(const char *path, const uint8_t *p, size_t n);
// Spools its rows as entries with label, split and order.
int cifar_take(struct dr_import *im, const char *path, const uint8_t *p, size_t n);
const char *cifar_class(int64_t classes, int64_t k); // of 10 or 100

// ---- layout.c

// Labels, splits and the final order (list.e sorted, those that are left out at its end); fills
// class, train, test, own_test of the report.
int layout(struct dr_import *im);

// ---- picture_file.c

int picture_file_write(struct dr_import *im, const char *out);
int report_from_json(const char *json, size_t n, struct dr_import_report *r, struct dr_err *err);
