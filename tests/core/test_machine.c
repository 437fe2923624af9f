// The default number of threads and the memory limit, from trees of files as proc and sysfs show
// them: bare machines, hyperthreads, affinity, cgroup v2 and v1 with limits at any level.
#include "engine/core/backend.h"
#include "engine/core/machine.h"
#include "engine/data/data.h"
#include "engine/open.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];

static int setup(void **state) {
    (void)state;
    snprintf(root, sizeof root, P_tmpdir "/driftd-machine-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", root);
    return system(cmd);
}

static void put(const char *path, const char *text) {
    char name[512];
    snprintf(name, sizeof name, "%s%s", root, path);
    for (char *p = name + strlen(root) + 1; *p; p++)
        if (*p == '/') {
            *p = '\0';
            mkdir(name, 0755);
            *p = '/';
        }
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

// A machine of `n` processors, `ways` of them per core: the siblings are n / ways apart, as usual.
static void processors(int n, int ways, const char *allowed) {
    char path[128], text[256];
    snprintf(text, sizeof text, "Name:\tdriftd\nCpus_allowed:\tff\nCpus_allowed_list:\t%s\nX:\t1\n",
             allowed);
    put("/proc/self/status", text);
    for (int i = 0; i < n; i++) {
        int k = snprintf(text, sizeof text, "%d", i % (n / ways));
        for (int w = 1; w < ways; w++)
            k +=
                snprintf(text + k, sizeof text - (size_t)k, ",%d", i % (n / ways) + w * (n / ways));
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", i,
                 i % 2 ? "core_cpus_list" : "thread_siblings_list"); // kernels have one or both
        put(path, strcat(text, "\n"));
    }
}

static void v2(const char *path) {
    char text[256];
    snprintf(text, sizeof text, "0::%s\n", path);
    put("/proc/self/cgroup", text);
    put("/proc/self/mountinfo", "22 1 0:5 / / rw - ext4 /dev/sda rw\n"
                                "30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n");
}

static struct dr_machine get(void) {
    struct dr_machine m;
    dr_machine_read(root, &m);
    return m;
}

static void expect(int processors, int cores, double quota, int threads) {
    struct dr_machine m = get();
    char text[200];
    if (m.processors != processors || m.cores != cores || m.quota != quota || m.threads != threads)
        fail_msg("%s", dr_machine_describe(&m, text, sizeof text));
}

static void test_processors(void **state) {
    (void)state;
    processors(8, 1, "0-7");
    expect(8, 8, 0, 8);
    processors(8, 2, "0-7"); // hyperthreads: four cores
    expect(8, 4, 0, 4);
    processors(8, 2, "1,5"); // both halves of one core
    expect(2, 1, 0, 1);
    processors(8, 2, "0-2,6");
    expect(4, 3, 0, 3);
    processors(256, 4, "0-255");
    expect(256, 64, 0, 64);
    processors(4, 1, "3");
    expect(1, 1, 0, 1);
}

static void test_no_files(void **state) {
    (void)state;
    struct dr_machine m = get(); // an empty tree
    assert_true(m.processors >= 1 && m.cores == m.processors && m.threads == m.cores);
    assert_true(m.quota == 0 && m.memory_limit == 0);
    put("/proc/self/status", "Cpus_allowed_list:\n"); // and one that makes no sense
    put("/proc/self/cgroup", "no\n::\n0::\n");
    put("/proc/self/mountinfo", "x - \n- cgroup2 a b\n\n");
    m = get();
    assert_true(m.threads >= 1 && m.quota == 0);
}

static void test_v2_quota(void **state) {
    (void)state;
    processors(64, 2, "0-63");
    v2("/system.slice/driftd.service");
    expect(64, 32, 0, 32);
    put("/sys/fs/cgroup/system.slice/driftd.service/cpu.max", "max 100000\n");
    expect(64, 32, 0, 32);
    put("/sys/fs/cgroup/system.slice/driftd.service/cpu.max", "200000 100000\n");
    expect(64, 32, 2, 2);
    put("/sys/fs/cgroup/system.slice/cpu.max",
        "150000 100000\n"); // the folder above counts as well
    expect(64, 32, 1.5, 2);
    put("/sys/fs/cgroup/cpu.max", "10000 100000\n");
    expect(64, 32, 0.1, 1);
    put("/sys/fs/cgroup/cpu.max", "9900000 100000\n"); // wider than what is below it
    expect(64, 32, 1.5, 2);
}

// A container without a namespace of its own: the mount shows a part of the hierarchy.
static void test_v2_part(void **state) {
    (void)state;
    processors(64, 1, "0-63");
    put("/proc/self/cgroup", "0::/docker/abc/inner\n");
    put("/proc/self/mountinfo",
        "30 22 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate\n");
    put("/sys/fs/cgroup/inner/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/cpu.max", "400000 100000\n");
    expect(64, 64, 4, 4);
}

static void test_v1(void **state) {
    (void)state;
    processors(64, 1, "0-63");
    put("/proc/self/cgroup", "9:memory:/pod/a\n4:cpuacct:/other\n3:cpu,cpuset:/pod/a\n0::/\n");
    put("/proc/self/mountinfo",
        "31 30 0:28 / /sys/fs/cgroup/cpu,cpuset rw - cgroup cgroup rw,cpu,cpuset\n"
        "32 30 0:29 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n"
        "33 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    put("/sys/fs/cgroup/cpu,cpuset/pod/a/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuset/pod/a/cpu.cfs_period_us", "100000\n");
    put("/sys/fs/cgroup/memory/pod/a/memory.limit_in_bytes", "9223372036854771712\n");
    expect(64, 64, 0, 64);
    assert_int_equal(get().memory_limit, 0);
    put("/sys/fs/cgroup/cpu,cpuset/pod/cpu.cfs_quota_us", "250000\n");
    put("/sys/fs/cgroup/cpu,cpuset/pod/cpu.cfs_period_us", "100000\n");
    put("/sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "1073741824\n");
    expect(64, 64, 2.5, 3);
    assert_int_equal(get().memory_limit, 1 << 30);
}

static void test_memory(void **state) {
    (void)state;
    processors(4, 1, "0-3");
    v2("/box");
    dr_machine_use_root(root);
    assert_true(dr_machine_memory_left() == INT64_MAX);
    put("/sys/fs/cgroup/box/memory.max", "104857600\n");    // 100 MiB
    put("/sys/fs/cgroup/box/memory.current", "94371840\n"); // 90, of which 40 are page cache
    put("/sys/fs/cgroup/box/memory.stat",
        "anon 1\nfile 1\ninactive_file 31457280\nactive_file 10485760\nslab 5\n");
    assert_int_equal(get().memory_limit, 100 << 20);
    assert_int_equal(dr_machine_memory_left(), 50 << 20);
    put("/sys/fs/cgroup/memory.max", "max\n");
    put("/sys/fs/cgroup/box/memory.current", "204857600\n"); // over the limit already
    assert_int_equal(dr_machine_memory_left(), 0);
    put("/sys/fs/cgroup/box/memory.current", "41943040\n");
    assert_int_equal(dr_machine_memory_left(), 100 << 20);
}

// The backend takes the default, and refuses what would be killed.
static void test_backend(void **state) {
    (void)state;
    struct dr_backend *be;
    struct dr_err err = {0};
    void *p, *q;
    processors(64, 2, "0-63");
    v2("/box");
    put("/sys/fs/cgroup/box/cpu.max", "300000 100000\n");
    put("/sys/fs/cgroup/box/memory.max", "104857600\n");
    put("/sys/fs/cgroup/box/memory.current", "20971520\n");
    dr_machine_use_root(root);
    assert_int_equal(dr_backend_open("cpu", 0, &be, &err), 0);
    assert_int_equal(be->threads, 3);
    assert_true(be->mem_left(be) > 60 << 20 && be->mem_left(be) <= 80 << 20);
    assert_int_equal(be->mem_alloc(be, 8 << 20, &p, &err), 0);
    assert_int_equal(be->mem_alloc(be, 79 << 20, &q, &err), DR_ENOMEM);
    assert_non_null(strstr(err.msg, "79.0 MiB"));
    assert_non_null(strstr(err.msg, "limit of 100.0 MiB"));
    be->mem_free(be, p);
    dr_backend_free(be);
    assert_int_equal(dr_backend_open("cpu", 5, &be, &err), 0); // what is asked for is given
    assert_int_equal(be->threads, 5);
    dr_backend_free(be);
}

// A child whose addresses are nearly used up: what computes would end it by a signal.
static void test_addresses(void **state) {
    (void)state;
    int status;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        struct dr_backend *be;
        struct dr_err err = {0};
        long pages = 0;
        FILE *f = fopen("/proc/self/statm", "r");
        if (!f || fscanf(f, "%ld", &pages) != 1)
            _exit(1);
        const rlim_t most = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (64 << 20);
        if (dr_machine_cramped() || setrlimit(RLIMIT_AS, &(struct rlimit){most, most}))
            _exit(2);
        _exit(get().memory_limit == (int64_t)most && !dr_machine_memory_left() &&
                      dr_backend_open("cpu", 1, &be, &err) == DR_ENOMEM &&
                      strstr(err.msg, "ulimit -v")
                  ? 0
                  : 3);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

// A limit above the machine's memory, as batch systems set it, does not take its place.
static void test_addresses_beyond_memory(void **state) {
    (void)state;
    int status;
    const size_t all = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        const rlim_t most = 4 * (rlim_t)all + ((rlim_t)1 << 46); // sanitizers reserve 20 TiB
        if (setrlimit(RLIMIT_AS, &(struct rlimit){most, most}))
            _exit(2);
        _exit(get().memory_limit == (int64_t)most && dr_machine_room() <= all ? 0 : 3);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static int threads_now(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

// Waits: the kernel removes a thread a moment after it was joined.
static bool becomes(int n) {
    for (int i = 0; i < 1000 && threads_now() != n; i++)
        usleep(10000);
    return threads_now() == n;
}

// Neither is a set generated that has no place.
static void test_generated(void **state) {
    (void)state;
    struct dr_data_config cfg = {
        .set = DR_DATA_DIGITS, .size = 64, .channels = 1, .classes = 10, .count = 30000};
    struct dr_dataset *d;
    struct dr_err err = {0};
    const int before = threads_now();
    processors(4, 1, "0-3");
    v2("/box");
    put("/sys/fs/cgroup/box/memory.max", "104857600\n");
    put("/sys/fs/cgroup/box/memory.current", "20971520\n");
    dr_machine_use_root(root);
    assert_int_equal(dr_dataset_load(&cfg, NULL, false, &d, &err), DR_ENOMEM);
    assert_non_null(strstr(err.msg, "30000 samples"));
    cfg.count = 300;
    assert_int_equal(dr_dataset_load(&cfg, NULL, false, &d, &err), 0);
    dr_dataset_free(d);
    dr_workers_rest(); // that drew
    assert_true(becomes(before));
}

static void test_rest(void **state) {
    (void)state;
    const int before = threads_now();
    for (int again = 0; again < 2; again++) {
        int ran = 0;
#pragma omp parallel num_threads(3) reduction(+ : ran)
        ran++;
        assert_int_equal(ran, 3);
        assert_true(threads_now() >= before + 2);
        dr_workers_rest();
        assert_true(becomes(before));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_processors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_v2_quota, setup, teardown),
        cmocka_unit_test_setup_teardown(test_v2_part, setup, teardown),
        cmocka_unit_test_setup_teardown(test_v1, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_addresses_beyond_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backend, setup, teardown),
        cmocka_unit_test_setup_teardown(test_generated, setup, teardown),
        cmocka_unit_test(test_rest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
