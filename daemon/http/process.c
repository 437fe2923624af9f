// The process itself in Prometheus' own names, read from /proc. What cannot be read is left out.
#include "daemon/http/daemon.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static void print(FILE *f, const char *name, const char *type, const char *help, double v) {
    fprintf(f, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", name, help, name, type, name, v);
}

// When the machine started, in Unix seconds; 0: unknown.
static double boot_time(void) {
    char line[256];
    unsigned long long t = 0;
    FILE *f = fopen("/proc/stat", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "btime %llu", &t) == 1)
            break;
    if (f)
        fclose(f);
    return (double)t;
}

// CPU time, memory, threads and start, from the fields of /proc/self/stat behind the name.
static void from_stat(FILE *out) {
    char text[1024];
    unsigned long long user, system, start, bytes;
    long threads, pages;
    FILE *f = fopen("/proc/self/stat", "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = 0;
    const char *at = strrchr(text, ')');
    if (!at || sscanf(at + 1,
                      " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %ld"
                      " %*d %llu %llu %ld",
                      &user, &system, &threads, &start, &bytes, &pages) != 6)
        return;
    const double tick = (double)sysconf(_SC_CLK_TCK), boot = boot_time();
    print(out, "process_cpu_seconds_total", "counter", "CPU time, of the user and of the system.",
          (double)(user + system) / tick);
    print(out, "process_threads", "gauge", "Threads.", (double)threads);
    print(out, "process_virtual_memory_bytes", "gauge", "Address space.", (double)bytes);
    print(out, "process_resident_memory_bytes", "gauge", "Memory in use.",
          (double)pages * (double)sysconf(_SC_PAGESIZE));
    if (boot > 0)
        print(out, "process_start_time_seconds", "gauge", "Start of the process, in Unix time.",
              boot + (double)start / tick);
}

void dd_glue_process(FILE *out) {
    struct rlimit lim;
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    from_stat(out);
    if (d) { // without `.`, `..` and the one that reads
        closedir(d);
        print(out, "process_open_fds", "gauge", "Open descriptors.", n - 3);
    }
    if (!getrlimit(RLIMIT_NOFILE, &lim))
        print(out, "process_max_fds", "gauge", "Most descriptors that may be open.",
              (double)lim.rlim_cur);
}
