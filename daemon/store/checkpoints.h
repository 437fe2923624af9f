// Rows of checkpoints and sample grids: recording, verifying, listing, importing, activating. Any
// thread but the store's writer.
#pragma once

#include "daemon/store/events.h"
#include "daemon/store/store.h"
#include "engine/config/config.h"

#include <jansson.h>

struct dd_ckpt_row {
    char id[24];
    int64_t job, step, bytes, created_us; // job 0: imported
    bool best;                            // of its job, by eval.best
    char path[DD_PATH_MAX];               // absolute in what is read
    char sha256[65], kind[16], name[201], state[16];
    char *config; // what dr_net_parse reads, of generators the model section; malloc'd unless
                  // borrowed
    bool config_borrowed;
    char *notes, *tags; // tags: a JSON array; NULL is empty; as config
};
void dd_ckpt_row_free(struct dd_ckpt_row *r);
// Inserts or, for a path that is known, replaces. Fills id. Durable when it returns.
int dd_ckpt_record(struct dd_store *s, struct dd_ckpt_row *row, struct dr_err *err);
int dd_ckpt_set_state(struct dd_store *s, const char *path, const char *state, struct dr_err *err);
// Good checkpoints among these paths (a JSON array, as stored) whose files are gone count as
// removed from now on, each with an alert (ckpt_lost.c). DR_EBUSY where the folder of one is gone
// as well, as that of a disk that is not mounted: it stays as it is.
int dd_ckpt_lost(struct dd_store *s, struct dd_events *e, const json_t *paths, struct dr_err *err);
// Compares the file's sha256 with its row; a file without a row (killed between rename and commit)
// is given one. Non-zero and the reason when the file must not be used.
int dd_ckpt_verify(struct dd_store *s, const char *path, int64_t job, const char *kind,
                   const char *model_json, struct dr_err *err);
// By id. DR_ENOENT when unknown; the state is the caller's to judge.
int dd_ckpt_get(struct dd_store *s, int64_t id, struct dd_ckpt_row *out, struct dr_err *err);
// By the file, whatever the state. DR_ENOENT: it has no row.
int dd_ckpt_at(struct dd_store *s, const char *path, struct dd_ckpt_row *out, struct dr_err *err);
// Changes what is not NULL; tags: a JSON array. DR_ENOENT when unknown.
int dd_ckpt_patch(struct dd_store *s, int64_t id, const char *name, const char *notes,
                  const char *tags, struct dr_err *err);
// Marks the row as removed and deletes the file. DR_ECONFLICT, naming why, where it is promoted, or
// needed by a job, or the newest of a job that can go on.
int dd_ckpt_remove(struct dd_store *s, int64_t id, struct dr_err *err);
// The newest good checkpoint with this tag; 0: there is none.
int64_t dd_ckpt_tagged(struct dd_store *s, const char *tag);
// EINVAL with a sentence unless the row's network is a generator.
int dd_ckpt_expect_generator(const struct dd_ckpt_row *r, struct dr_err *err);
// The file that a configuration's `key` names: the id of a good checkpoint (`7` or `checkpoint:7`),
// or a safetensors file below the data directory (relative, may not leave it). EINVAL at the key.
int dd_ckpt_find(struct dd_store *s, const char *data_dir, const char *key, const char *what,
                 char path[DD_PATH_MAX], struct dr_err *err);
// Puts ids in the places where cfg names a checkpoint as `checkpoint:` and its name or tag, of
// several the newest good one, so that the job stays with it. EINVAL at the key of one that is not
// there.
int dd_ckpt_pin(struct dd_store *s, struct dr_config *cfg, struct dr_err *err);
// The newest good generator. DR_ENOENT: there is none.
int dd_ckpt_latest(struct dd_store *s, struct dd_ckpt_row *out, struct dr_err *err);
// What is served until the next such call: the checkpoint `id`, or one of the words below.
enum { DD_SERVE_AUTO = 0, DD_SERVE_LIVE = -1 };
int dd_ckpt_activate(struct dd_store *s, int64_t id, struct dr_err *err); // DR_EGONE: not good
// The promoted checkpoint where it is still good, DD_SERVE_LIVE or DD_SERVE_AUTO.
int64_t dd_ckpt_active(struct dd_store *s);
// The final checkpoint of the newest completed job of a generator: what is served without a
// decision. 0: none. By the time of the checkpoints, which grows also when the clock is set back.
int64_t dd_ckpt_final(struct dd_store *s);
#define DD_CKPT_FINAL                                                                              \
    "(SELECT k.id FROM checkpoints k JOIN jobs j ON j.id=k.job WHERE j.state='completed'"          \
    " AND k.state='ok' AND k.kind<>'encoder' ORDER BY k.created_us DESC, k.id DESC LIMIT 1)"
// What the configuration of a job n names where it may name a checkpoint by its id, as rows r; and
// whether that is the row c.
#define DD_CKPT_NAMES                                                                              \
    "json_each(json_array(json_extract(n.config,'$.init_from'),"                                   \
    " json_extract(n.config,'$.features.encoder'), json_extract(n.config,'$.eval.judge'),"         \
    " json_extract(n.config,'$.eval.inception'), json_extract(n.config,'$.eval.checkpoint'))) r"
#define DD_CKPT_NAMED "r.value IN (''||c.id, 'checkpoint:'||c.id, c.id)"
// Whether a run e of an eval job n still waits for its checkpoint.
#define DD_CKPT_AWAITED                                                                            \
    "(e.state IN ('queued','running') AND n.state NOT IN ('completed','failed','stopped'))"
// Whether a row c is needed by a job that may still run: its encoder, the judge of its evaluations,
// what it starts from, what it evaluates. So is the best one of a job (eval.best), as long as it is
// that. A job may run until it has completed; it takes the newest checkpoint of the job that it
// needs, or the one that its configuration names by id, or that a run of it waits for.
#define DD_CKPT_NEEDED                                                                             \
    "(c.best=1 OR EXISTS (SELECT 1 FROM evals e JOIN jobs n ON n.id=e.eval_job WHERE"              \
    " e.checkpoint=c.id AND " DD_CKPT_AWAITED ")"                                                  \
    " OR EXISTS (SELECT 1 FROM jobs n WHERE n.state<>'completed' AND c.job IN (n.needs, n.judge)"  \
    " AND c.id=(SELECT id FROM checkpoints m WHERE m.job=c.job AND m.state='ok'"                   \
    " ORDER BY step DESC, id DESC LIMIT 1))"                                                       \
    " OR EXISTS (SELECT 1 FROM jobs n, " DD_CKPT_NAMES " WHERE n.state<>'completed' AND"           \
    " " DD_CKPT_NAMED "))"
// Whether neither rotation nor the disk budget may take it: it is needed, promoted, or has a name
// or a tag.
#define DD_CKPT_KEPT                                                                               \
    "(c.name<>'' OR c.tags<>'[]' OR EXISTS (SELECT 1 FROM meta WHERE key='active' AND"             \
    " value=''||c.id) OR " DD_CKPT_NEEDED ")"
bool dd_ckpt_is_kept(struct dd_store *s, const char *path);
// Whether it is the newest of a job that has not completed, which would go on from it.
#define DD_CKPT_CONTINUED                                                                          \
    "EXISTS (SELECT 1 FROM jobs j WHERE j.id=c.job AND j.state<>'completed' AND c.id="             \
    "(SELECT id FROM checkpoints m WHERE m.job=c.job AND m.state='ok'"                             \
    " ORDER BY step DESC, id DESC LIMIT 1))"
// Whether the disk budget may take it: of a job that has ended, and neither kept nor the one that
// the job would go on from. What was imported belongs to no job and stays.
#define DD_CKPT_SPENT                                                                              \
    "(c.state='ok' AND c.kind<>'import' AND NOT " DD_CKPT_KEPT " AND NOT " DD_CKPT_CONTINUED       \
    " AND EXISTS (SELECT 1 FROM jobs j WHERE j.id=c.job AND j.state IN"                            \
    " ('completed','failed','stopped')))"
// Marks it as removed, so that its file may go. DR_ECONFLICT: it is kept or, for the budget, not
// spent.
enum dd_ckpt_taker { DD_CKPT_ROTATION, DD_CKPT_BUDGET };
int dd_ckpt_let_go(struct dd_store *s, const char *path, enum dd_ckpt_taker taker,
                   struct dr_err *err);

// Imports a file as a checkpoint of the state folder (ckpt_import.c). It is read once, through one
// descriptor: copied into the state folder (take: it lies there already and is moved) and hashed on
// the way. What is validated, mapped and served is the copy, so what happens to the original
// meanwhile does no harm: one that changes while it is read is refused. Takes as long as the file
// is large; DR_ECANCELED once *cancel is true (NULL: never). DR_EBUSY where the folder of those
// before is gone.
struct dd_ckpt_source {
    const char *path;
    bool take;                           // an upload: consumed, also on failure
    const char *name;                    // may be NULL
    const struct dr_model_config *model; // for files without driftd.config, or NULL
    const _Atomic bool *cancel;
};
int dd_ckpt_import(struct dd_store *s, const struct dd_ckpt_source *in, struct dd_ckpt_row *out,
                   struct dr_err *err);

json_t *dd_ckpt_to_json(const struct dd_ckpt_row *r, int64_t active);
// {"checkpoints": [...]} or {"samples": [...]}, newest first. job 0: all.
json_t *dd_ckpts_json(struct dd_store *s, int64_t job, const char *cursor, int limit, char *next,
                      size_t next_size, struct dr_err *err);
json_t *dd_samples_json(struct dd_store *s, int64_t job, const char *cursor, int limit, char *next,
                        size_t next_size, struct dr_err *err);

// A grid that has been written. While the database is held or the disk is full it fails, and the
// row comes later.
int dd_sample_record(struct dd_store *s, int64_t job, int64_t step, const char *path, int64_t bytes,
                     int64_t w, int64_t h, int64_t *id, struct dr_err *err);
int dd_sample_path(struct dd_store *s, int64_t id, char path[DD_PATH_MAX], int64_t *created_us,
                   struct dr_err *err);
// ISO 8601 in UTC with milliseconds; JSON null for 0.
json_t *dd_json_time(int64_t us);
