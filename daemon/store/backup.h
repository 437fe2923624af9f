// Backups of the whole state folder: the database and every file that it names, frozen at one
// moment while jobs go on. Files are hard links in STATE_DIR/backups/ID, so that one takes no space
// until what it holds is removed elsewhere; those on another file system are copied. Any thread but
// the store's writer.
#pragma once

#include "daemon/store/events.h"

#include <jansson.h>

// Makes one; *out: {"id", "created", "bytes", "files": [{"path", "bytes", "url"}]}. Of more than
// four the oldest goes. A good checkpoint whose file is gone counts as removed from then on, with
// an alert.
int dd_backup_make(struct dd_store *s, struct dd_events *e, json_t **out, struct dr_err *err);
// The n-th file of a backup, to open. DR_ENOENT when there is none.
int dd_backup_file(struct dd_store *s, const char *id, int64_t n, char path[DD_PATH_MAX],
                   struct dr_err *err);
void dd_backup_cancel(void); // driftd stops: what is being copied ends with DR_ECANCELED
int dd_backup_remove(struct dd_store *s, const char *id, struct dr_err *err);
// Removes those of which nobody has read a file for six hours: they keep the bytes of what is
// removed elsewhere.
void dd_backup_expire(const char *state_dir);
void dd_backup_remove_all(const char *state_dir); // what the process before has left
