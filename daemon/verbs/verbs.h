// The verbs of driftd. Each gets argv after the verb and returns the process's exit status:
// 0 done, 1 failed, 2 wrong usage, 3 stopped by a signal with a checkpoint written.
#pragma once

struct dr_config;
struct dr_err;
struct dr_problems;

int dd_serve_main(int argc, char **argv); // only with DD_HAVE_SERVER
int dd_run_main(int argc, char **argv);
int dd_bench_main(int argc, char **argv);
int dd_check_config_main(int argc, char **argv);
int dd_inspect_main(int argc, char **argv);
int dd_version_main(void);

// On stderr: a line `who: sentence` per problem of the list; *err alone where it has none.
void dd_print_problems(const char *who, const struct dr_problems *list, const struct dr_err *err);

// What bench runs for a name: the recipe of this build, or for `tiny` the default configuration.
// Only the data differ where they would need files (2000 procedurally generated digits, of the same
// size), the precision, and metrics.spread_every, which is 0. DR_ENOENT: no such recipe.
int dd_bench_config(const char *name, int precision, struct dr_config *out, struct dr_err *err);
