// The driftd process that a test has under it (client.h): its folder, what it must answer, its data
// base from outside. Unlike there, whatever does not come about fails the test.
#pragma once

#include "tests/daemon/client.h"
#include "tests/daemon/helper.h"

// A fresh folder with the recipes tiny (60 steps) and long (without end). Keeps d->binary.
void daemon_open(struct daemon *d);
void daemon_close(struct daemon *d); // kills it where it runs, removes the folder
void daemon_up(struct daemon *d, const char *const *flags); // daemon_start, and it is ready

// One request (json NULL: no body) and its status.
int daemon_status(const struct daemon *d, const char *method, const char *path, const char *json);
// The same with the status that it must have and, where given, a word of its head or body.
void daemon_expect(const struct daemon *d, const char *method, const char *path, const char *json,
                   int status, const char *word);

sqlite3 *daemon_db(const struct daemon *d); // for sqlite3_close; NULL: there is none yet
int64_t daemon_sql(const struct daemon *d, const char *sql); // SELECT one number; -1: none
void daemon_wait_sql(const struct daemon *d, const char *sql, int64_t at_least); // up to 120 s
void daemon_check_db(const struct daemon *d);                                    // it is whole
// All losses of a job, as world_values; of a daemon that does not run.
int daemon_losses(const struct daemon *d, int64_t job, double *v, int max);
