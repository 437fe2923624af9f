// driftd: picks the verb. `serve` is the default where the build has a server.
#include "daemon/base/options.h"
#include "daemon/verbs/verbs.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void usage(FILE *f) {
    fputs("usage: driftd [serve] [OPTION]...        train and serve over HTTP\n"
          "       driftd run CONFIG [OPTION]...     one job in the foreground, no HTTP\n"
          "             --out DIR --grid FILE.png --set KEY=VALUE --resume --quiet\n"
          "       driftd bench [--device D] [--json]\n"
          "       driftd check-config FILE [--set KEY=VALUE]...\n"
          "                                         check a recipe and print it whole\n"
          "       driftd inspect FILE.safetensors   list a checkpoint's tensors\n"
          "       driftd --version | --help\n\n"
          "options (also DRIFTD_NAME in the environment and keys of the --config file):\n",
          f);
    dd_options_help(f);
}

static int serve(int argc, char **argv) {
#ifdef DD_HAVE_SERVER
    return dd_serve_main(argc, argv);
#else
    (void)argc, (void)argv;
    fputs("driftd: this build has no server; verbs: run, bench, check-config, inspect\n", stderr);
    return 2;
#endif
}

static int bench(int argc, char **argv) {
#ifdef DD_HAVE_BENCH
    return dd_bench_main(argc, argv);
#else
    (void)argc, (void)argv;
    fputs("driftd: this build has no bench\n", stderr);
    return 2;
#endif
}

// libgomp's threads spin for milliseconds at a barrier before they sleep; libgomp reads the time
// from the environment when it is loaded. On a busy machine a spinning thread occupies the
// processor that the thread it waits for needs, and a step takes ten times as long. So the process
// executes itself again with a short spin, unless the environment already sets one.
static void shorten_spinning(char **argv) {
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY"))
        return;
    char path[4096]; // not /proc/self/exe itself: the process would be called "exe"
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0 || setenv("GOMP_SPINCOUNT", "10000", 1))
        return;
    path[n] = 0;
    execv(path, argv); // on failure the process goes on with the long spin
}

// A standard descriptor that is closed would be given to the next file (a lock, a checkpoint), and
// what is printed would go there. Writing to these fails as it does to a closed one.
static void hold_standard_descriptors(void) {
    int fd;
    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static bool asks_for_help(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "help"))
        return true;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return true;
    return false;
}

// What was printed must have arrived, in a file on a full disk as anywhere. The server's one line
// is for whoever still listens.
static int checked(int status) {
    if (!fflush(stdout) && !ferror(stdout))
        return status;
    perror("driftd: standard output");
    return status ? status : 1;
}

int main(int argc, char **argv) {
    hold_standard_descriptors();
    shorten_spinning(argv);
    const char *verb = argc > 1 ? argv[1] : "serve";
    if (asks_for_help(argc, argv)) {
        usage(stdout);
        return checked(0);
    }
    if (!strcmp(verb, "--version") || !strcmp(verb, "version"))
        return checked(dd_version_main());
    if (argc < 2 || verb[0] == '-')
        return serve(argc - 1, argv + 1);
    argc -= 2;
    argv += 2;
    if (!strcmp(verb, "serve"))
        return serve(argc, argv);
    if (!strcmp(verb, "run"))
        return dd_run_main(argc, argv); // which goes on when nobody reads
    if (!strcmp(verb, "bench"))
        return checked(bench(argc, argv));
    if (!strcmp(verb, "check-config"))
        return checked(dd_check_config_main(argc, argv));
    if (!strcmp(verb, "inspect"))
        return checked(dd_inspect_main(argc, argv));
    fprintf(stderr, "driftd: unknown verb %s; see driftd --help\n", verb);
    return 2;
}
