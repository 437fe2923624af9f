// The verbs of driftd. Each gets argv after the verb and returns the process's exit status:
// 0 done, 1 failed, 2 wrong usage, 3 stopped by a signal with a checkpoint written.
#pragma once

int dd_serve_main(int argc, char **argv); // only with DD_HAVE_SERVER
int dd_run_main(int argc, char **argv);
int dd_bench_main(int argc, char **argv);
int dd_check_config_main(int argc, char **argv);
int dd_inspect_main(int argc, char **argv);
int dd_version_main(void);
