// Exports: the formats by number, the metadata, safetensors and the zip for PyTorch. See export.h.
#include "engine/export/export_priv.h"

#include "driftd_config.h"
#include "engine/io/safetensors.h"
#include "engine/nn/params.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if DR_HAVE_ARCHIVE
#include <archive.h>
#include <archive_entry.h>
#endif

const char *dr_export_word(enum dr_export_format format) {
#define X(ID, word, tail, type) word,
    static const char *const words[] = {DR_EXPORTS(X)};
#undef X
    return words[format];
}

int dr_export_meta(const struct dr_export *x, dr_export_add *add, void *ctx, struct dr_err *err) {
    char step[24];
    snprintf(step, sizeof step, "%lld", (long long)x->snap->step);
    const char *const kv[][2] = {
        {"driftd.config", x->config ? x->config : dr_net_description(x->snap->net)},
        {"driftd.step", step},
        {"driftd.weights", x->weights},
        {"driftd.classes", x->classes},
    };
    int rc = 0;
    for (size_t i = 0; i < DR_COUNT(kv) && !rc; i++)
        rc = kv[i][1] ? add(ctx, kv[i][0], kv[i][1], err) : 0;
    return rc;
}

int dr_export_refused(const struct dr_net *net, const char *how, struct dr_err *err) {
    return dr_fail_at(err, DR_EUNSUPPORTED, "format",
                      "the %s \"%s\" cannot be written %s; its weights can, as safetensors",
                      dr_net_kind_word(dr_net_kind(net)), dr_net_name(net), how);
}

// ---- safetensors ----

static int add_meta(void *ctx, const char *key, const char *value, struct dr_err *err) {
    return dr_st_add_meta(ctx, key, value, err);
}

// The weights as floats, whatever `real` is; *own is to be freed.
static const float *as_floats(const real *w, int64_t n, float **own) {
    *own = NULL;
    if (sizeof *w == sizeof **own)
        return (const void *)w;
    *own = malloc((size_t)n * sizeof **own);
    for (int64_t i = 0; *own && i < n; i++)
        (*own)[i] = (float)w[i];
    return *own;
}

int dr_export_safetensors(const struct dr_export *x, const char *path, struct dr_err *err) {
    const struct dr_params *ps = dr_net_params(x->snap->net);
    struct dr_st_writer *w;
    float *own;
    int rc = dr_st_writer_new(&w, err);
    if (rc)
        return rc;
    const float *v = as_floats(x->snap->weights, ps->total, &own);
    if (!v)
        rc = dr_fail(err, DR_ENOMEM, "out of memory for %lld weights", (long long)ps->total);
    if (!rc)
        rc = dr_export_meta(x, add_meta, w, err);
    for (int i = 0; i < ps->n && !rc; i++)
        rc = dr_st_add(w, ps->p[i].name, DR_ST_F32, ps->p[i].ndim, ps->p[i].dim,
                       v + ps->p[i].offset, err);
    if (rc)
        dr_st_writer_free(w);
    else
        rc = dr_st_finish(w, path, NULL, NULL, err);
    free(own);
    return rc;
}

// ---- a zip for PyTorch ----

#if DR_HAVE_ARCHIVE

static int begin(struct archive *zip, const char *name, int64_t size) {
    struct archive_entry *e = archive_entry_new();
    if (!e)
        return ARCHIVE_FATAL;
    archive_entry_set_pathname(e, name);
    archive_entry_set_size(e, size);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0644);
    archive_entry_set_mtime(e, 315532800, 0); // 1980: the same model gives the same bytes
    const int rc = archive_write_header(zip, e);
    archive_entry_free(e);
    return rc;
}

static bool add_text(struct archive *zip, const char *name, const char *text) {
    const size_t n = strlen(text);
    return !begin(zip, name, (int64_t)n) && archive_write_data(zip, text, n) == (la_ssize_t)n;
}

static bool add_file(struct archive *zip, const char *name, const char *path) {
    static const size_t chunk = 1 << 20;
    FILE *f = fopen(path, "rb");
    char *buf = malloc(chunk);
    bool ok = f && buf && !fseek(f, 0, SEEK_END);
    const long size = ok ? ftell(f) : -1;
    ok = ok && size >= 0 && !fseek(f, 0, SEEK_SET) && !begin(zip, name, size);
    for (size_t n; ok && (n = fread(buf, 1, chunk, f)) > 0;)
        ok = archive_write_data(zip, buf, n) == (la_ssize_t)n;
    ok = ok && !ferror(f);
    if (f)
        fclose(f);
    free(buf);
    return ok;
}

// Whether driftd_model.py has the network: the keys of its NETWORKS.
static bool in_torch(const char *name) {
    const char *from = strstr(dr_export_torch, "\nNETWORKS = {"),
               *end = from ? strchr(from, '}') : NULL;
    char key[64];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *found = from ? strstr(from, key) : NULL;
    return found && found < end;
}

int dr_export_pytorch(const struct dr_export *x, const char *path, struct dr_err *err) {
    const struct dr_net *net = x->snap->net;
    char weights[4096];
    if (!in_torch(dr_net_name(net)))
        return dr_export_refused(net, "for PyTorch", err);
    if (snprintf(weights, sizeof weights, "%s.st", path) >= (int)sizeof weights)
        return dr_fail(err, DR_EIO, "the path %.100s is too long", path);
    int rc = dr_export_safetensors(x, weights, err);
    if (rc)
        return rc;
    struct archive *zip = archive_write_new();
    bool ok = zip && !archive_write_set_format_zip(zip) &&
              !archive_write_set_options(zip, "zip:compression=store") &&
              !archive_write_open_filename(zip, path) &&
              add_text(zip, "driftd_model.py", dr_export_torch) &&
              add_file(zip, "model.safetensors", weights) && !archive_write_close(zip);
    if (!ok)
        rc = dr_fail(err, zip && archive_errno(zip) == ENOSPC ? DR_ENOSPC : DR_EIO,
                     "cannot write %.200s: %.200s", path,
                     zip && archive_error_string(zip) ? archive_error_string(zip) : "no memory");
    archive_write_free(zip);
    unlink(weights);
    return rc;
}

#else

int dr_export_pytorch(const struct dr_export *x, const char *path, struct dr_err *err) {
    (void)x;
    return dr_fail_at(err, DR_EUNSUPPORTED, "format",
                      "this build has no libarchive, so it cannot write the zip %.200s", path);
}

#endif

int dr_export(const struct dr_export *x, const char *path, struct dr_err *err) {
    static int (*const format[])(const struct dr_export *, const char *, struct dr_err *) = {
        [DR_EXPORT_SAFETENSORS] = dr_export_safetensors,
        [DR_EXPORT_ONNX] = dr_export_onnx,
        [DR_EXPORT_PYTORCH] = dr_export_pytorch,
    };
    return format[x->format](x, path, err);
}
