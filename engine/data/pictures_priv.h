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
    int64_t bytes; // of the names
};
int pic_list_add(struct pic_list *l, const char *path, struct dr_err *err); // slot -1
void pic_list_free(struct pic_list *l);
// By their numbers where names have some: "2" before "10".
int pic_natural(const char *a, const char *b);
bool pic_utf8(const char *s);

// ---- import.c

enum { CIFAR_PARTS = 6 }; // 1 to 5 to train on, 6 to test with

struct dr_import {
    const char *source, *out;
    struct dr_import_options o;
    struct dr_picture_options pic;
    dr_import_progress_fn progress;
    void *ctx;
    struct dr_import_report *report;
    struct dr_import_progress at;
    double told;    // when progress was
    int64_t untold; // bytes written since
    struct pic_list list;
    struct pic_list folders; // names of all folders, to find those without pictures
    bool probing;            // headers alone, to choose size and channels
    bool colour;             // probing: some picture has colour
    bool archive, cifar;
    int64_t cifar_classes;             // 10 or 100, once a part has been read
    char *cifar_part[CIFAR_PARTS + 1]; // by number: where the part was found, NULL: not yet
    char *misfit;       // why a file of a part's name is none; NULL: there is no such file
    const char *format; // "folder", "zip" or "tar"
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
int import_check_names(const struct dr_import *im); // DR_EINVAL: too long together
// Leaves a file out. bad: it fails the import where that is the policy.
int import_skip(struct dr_import *im, const char *path, bool bad, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int import_note(struct dr_import *im, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int64_t import_rows_at_once(const struct dr_import *im); // fitted pictures to hold in memory
int import_progress(struct dr_import *im, const char *now, bool force); // DR_ECANCELED
int import_wrote(struct dr_import *im, int64_t bytes); // the same, for whoever watches the disk
int import_spool(struct dr_import *im, const void *rows, int64_t n); // at slot im->slots
// Of a failed write, by errno.
int import_write_failed(struct dr_import *im);
// A decoded picture [h,w,c] as the options want it: out [channels,size,size].
int import_fit(const struct dr_import_options *o, const struct dr_picture *p, uint8_t *out,
               struct dr_err *err);

// ---- the sources

int folder_list(const char *source, int64_t max_files, struct pic_list *list, struct dr_import *im,
                struct dr_err *err); // im NULL: names alone, nothing reported
int folder_read(const char *source, const struct pic_entry *e, int64_t max, uint8_t **p, size_t *n,
                struct dr_err *err);
int archive_walk(struct dr_import *im); // every file to import_take

// ---- pictures_unpack.c: the wrapping of an archive as a stream

struct unpack;
// *out NULL: the file is not wrapped, and fd is at its start. fd is borrowed until unpack_close.
int unpack_open(int fd, struct unpack **out, struct dr_err *err);
// The next bytes, good until the next call: how many, 0 at the end of a sound stream, -1: damaged,
// see unpack_said.
int64_t unpack_read(struct unpack *u, const uint8_t **p);
const char *unpack_said(struct unpack *u);
int64_t unpack_bytes(const struct unpack *u); // so far
int64_t unpack_packed(struct unpack *u);      // read of the file so far
void unpack_close(struct unpack *u);          // NULL is fine

// ---- cifar.c

bool cifar_has_name(const char *path); // of a part
// Spools the rows of a part as entries with label, split and order. *taken false: the file is no
// part and goes the way of all others; where it has the name of one, im->misfit says why not.
int cifar_take(struct dr_import *im, const char *path, const uint8_t *p, size_t n, bool *taken);
int cifar_note_missing(struct dr_import *im);
const char *cifar_class(int64_t classes, int64_t k); // of 10 or 100

// ---- layout.c

// Labels, splits and the final order (list.e sorted, those that are left out at its end); fills
// class, train, test, own_test of the report.
int layout(struct dr_import *im);

// ---- picture_file.c

int picture_file_write(struct dr_import *im, const char *out);
int report_from_json(const char *json, size_t n, struct dr_import_report *r, struct dr_err *err);
