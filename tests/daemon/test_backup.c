// Backups of the state folder: what belongs into one, a checkpoint without its file, the clock set
// back. And imports against removals of the same bytes, whose file must be there afterwards.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"
#include "daemon/datasets/datasets_priv.h"
#include "daemon/store/backup.h"
#include "daemon/store/checkpoints.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct world w;
static struct dr_err err;

// A file below the state folder.
static void add_file(const char *name) {
    char path[DD_PATH_MAX];
    assert_int_equal(dd_path(path, &err, "%s/%s", w.dir, name), 0);
    assert_int_equal(dd_mkdir_for(path, &err), 0);
    FILE *f = fopen(path, "w"); // dd_write_file would leave no .tmp behind
    assert_non_null(f);
    fputs(name, f);
    assert_int_equal(fclose(f), 0);
}

static bool is_there(const char *name) {
    char path[DD_PATH_MAX];
    assert_int_equal(dd_path(path, &err, "%s/%s", w.dir, name), 0);
    return !access(path, F_OK);
}

static void add_ckpt(int64_t job, int64_t step) {
    struct dd_ckpt_row r = {
        .job = job, .step = step, .bytes = 9, .config = "{}", .config_borrowed = true};
    char name[100];
    snprintf(name, sizeof name, "checkpoints/%lld/step-%lld", (long long)job, (long long)step);
    add_file(name);
    snprintf(r.kind, sizeof r.kind, "train");
    assert_int_equal(dd_path(r.path, &err, "%s/%s", w.dir, name), 0);
    assert_int_equal(dd_ckpt_record(w.store, &r, &err), 0);
}

static json_t *make(void) {
    json_t *made = NULL;
    if (dd_backup_make(w.store, w.events, &made, &err))
        fail_msg("no backup: %s", err.msg);
    return made;
}

static const char *id_of(const json_t *made) {
    return json_string_value(json_object_get(made, "id"));
}

// The place of a file in the list; -1: it is not in the backup.
static int64_t place_of(const json_t *made, const char *path) {
    json_t *f;
    size_t i;
    json_array_foreach(json_object_get(made, "files"), i, f) {
        if (!strcmp(json_string_value(json_object_get(f, "path")), path))
            return (int64_t)i;
    }
    return -1;
}

// SELECT one number from the database of a backup.
static int64_t copied(const json_t *made, const char *sql) {
    char path[DD_PATH_MAX];
    sqlite3 *db;
    assert_int_equal(
        dd_backup_file(w.store, id_of(made), place_of(made, "driftd.sqlite3"), path, &err), 0);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    const int64_t n = dd_sql_one(db, -1, sql, "");
    sqlite3_close(db);
    return n;
}

// One file that somebody has deleted costs this checkpoint, and no backup.
static void a_lost_file_is_left_out(void **state) {
    (void)state;
    struct dr_config c;
    test_tiny(&c, 10);
    const int64_t job = world_submit(&w, &c, 0);
    char path[DD_PATH_MAX];
    add_ckpt(job, 1);
    add_ckpt(job, 2);
    assert_int_equal(dd_path(path, &err, "%s/checkpoints/1/step-1", w.dir), 0);
    assert_int_equal(unlink(path), 0);
    json_t *made = make();
    assert_true(place_of(made, "checkpoints/1/step-2") >= 0);
    assert_int_equal(place_of(made, "checkpoints/1/step-1"), -1);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints WHERE step=1 AND "
                                     "state='removed'"),
                     1);
    assert_int_equal(copied(made, "SELECT count(*) FROM checkpoints WHERE state='ok'"), 1);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM events WHERE type='alert' AND job=1 AND"
                                     " data LIKE '%checkpoint 1 is gone%'"),
                     1);
    json_decref(made);
    made = make();
    assert_int_equal(copied(made, "SELECT min(step) FROM checkpoints WHERE state='ok'"), 2);
    json_decref(made);
    // nor does a disk that is not mounted cost them all: an empty folder, or what a job has written
    // there meanwhile
    char folder[DD_PATH_MAX], aside[DD_PATH_MAX];
    assert_int_equal(dd_path(folder, &err, "%s/checkpoints", w.dir), 0);
    assert_int_equal(dd_path(aside, &err, "%s/aside", w.dir), 0);
    assert_int_equal(rename(folder, aside), 0);
    assert_int_equal(mkdir(folder, 0750), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(dd_backup_make(w.store, w.events, &made, &err), DR_EBUSY);
        assert_non_null(strstr(err.msg, "mounted"));
        assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints WHERE state='ok'"), 1);
        add_file("checkpoints/99/step-1");
    }
}

// Folders that lie on another disk, behind a link, are in the backup as the others are.
static void a_folder_behind_a_link(void **state) {
    (void)state;
    char other[256], from[DD_PATH_MAX], to[DD_PATH_MAX], link_to[DD_PATH_MAX];
    struct dr_config c;
    test_tiny(&c, 10);
    const int64_t job = world_submit(&w, &c, 0);
    add_ckpt(job, 1);
    add_file("samples/1/step-1.png");
    // on this file system, and on one that takes no hard links from here
    snprintf(other, sizeof other, "/dev/shm/driftd-test-XXXXXX");
    const bool two = mkdtemp(other) != NULL;
    if (!two)
        print_message("/dev/shm cannot be used: nothing of another file system is tested\n");
    assert_int_equal(dd_path(from, &err, "%s/checkpoints", w.dir), 0);
    assert_int_equal(dd_path(to, &err, "%s/elsewhere", w.dir), 0);
    assert_int_equal(rename(from, to), 0);
    assert_int_equal(symlink(to, from), 0);
    if (two) {
        assert_int_equal(dd_path(link_to, &err, "%s/evals", w.dir), 0);
        assert_int_equal(symlink(other, link_to), 0);
        add_file("evals/1/samples.npy");
    }
    json_t *made = make();
    assert_true(place_of(made, "checkpoints/1/step-1") >= 0);
    assert_true(place_of(made, "samples/1/step-1.png") >= 0);
    if (two) {
        char *text, path[DD_PATH_MAX];
        const int64_t at = place_of(made, "evals/1/samples.npy");
        assert_true(at >= 0);
        assert_int_equal(dd_backup_file(w.store, id_of(made), at, path, &err), 0);
        assert_int_equal(dd_read_file(path, 100, &text, NULL, &err), 0);
        assert_string_equal(text, "evals/1/samples.npy");
        free(text);
        test_rmdir(other);
    }
    json_decref(made);
}

// One that nobody reads any more goes; reading it keeps it.
static void left_behind(void **state) {
    (void)state;
    const time_t then = dd_now_ns() / 1000000000 - 7 * 3600;
    const struct timespec old[2] = {{.tv_sec = then}, {.tv_sec = then}};
    char list[DD_PATH_MAX], path[DD_PATH_MAX];
    json_t *made[2];
    for (int i = 0; i < 2; i++) {
        made[i] = make();
        assert_int_equal(dd_path(list, &err, "%s/backups/%s.list", w.dir, id_of(made[i])), 0);
        assert_int_equal(utimensat(AT_FDCWD, list, old, 0), 0);
    }
    assert_int_equal(dd_backup_file(w.store, id_of(made[1]), 0, path, &err), 0);
    dd_backup_expire(w.dir);
    assert_int_equal(dd_backup_file(w.store, id_of(made[0]), 0, path, &err), DR_ENOENT);
    assert_int_equal(dd_path(path, &err, "%s/backups/%s", w.dir, id_of(made[0])), 0);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(dd_backup_file(w.store, id_of(made[1]), 0, path, &err), 0);
    assert_int_equal(access(path, R_OK), 0);
    for (int i = 0; i < 2; i++)
        json_decref(made[i]);
}

static int add_set(sqlite3 *db, void *name, struct dr_err *e) {
    return dd_sql_run(db, e,
                      "INSERT INTO datasets(name,kind,state,source,upload,options,created_us)"
                      " VALUES(?1,'folder',?1,'',1,'{}',1)",
                      "t", (const char *)name);
}

// Uploads that still grow and files in the making change after the backup; what was put aside is in
// no database.
static void what_changes_is_left_out(void **state) {
    (void)state;
    static const struct {
        const char *path;
        bool kept;
    } files[] = {{"datasets/uploading/" DD_DATASET_UPLOAD, false},
                 {"datasets/uploading/" DD_DATASET_RECEIVED, false},
                 {"datasets/importing/" DD_DATASET_UPLOAD, true},
                 {"datasets/failed/" DD_DATASET_UPLOAD, true},
                 {"datasets/ready/ready.pictures", true},
                 {"datasets/ready/x.part-1.pictures", true},
                 {"datasets/importing/importing.pictures.part-Ab12Cd", false},
                 {"datasets/.lost-pics-17/pics.pictures", false},
                 {"datasets/.gone-3/x.pictures", false},
                 {"evals/1/samples.npy", true},
                 {"evals/2/samples.npy.part", false},
                 {"checkpoints/9/step-00000020.safetensors.tmp4711", false},
                 {"samples/9/step-00000020.png.tmp", false}};
    static char *const states[] = {"uploading", "importing", "failed", "ready"};
    for (size_t i = 0; i < DR_COUNT(states); i++)
        assert_int_equal(dd_store_do(w.store, add_set, states[i], &err), 0);
    for (size_t i = 0; i < DR_COUNT(files); i++)
        add_file(files[i].path);
    json_t *made = make();
    for (size_t i = 0; i < DR_COUNT(files); i++)
        if ((place_of(made, files[i].path) >= 0) != files[i].kept)
            fail_msg("%s is %sin the backup", files[i].path, files[i].kept ? "not " : "");
    json_decref(made);
}

// Each file is found by its place in the list, and there is none before and behind.
static void files_by_their_place(void **state) {
    (void)state;
    char want[DD_PATH_MAX], path[DD_PATH_MAX], name[40];
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof name, "samples/%d/step-%d.png", i, i * i * i);
        add_file(name);
    }
    json_t *made = make(), *f;
    size_t i, n = json_array_size(json_object_get(made, "files"));
    assert_true(n > 30); // and the database
    json_array_foreach(json_object_get(made, "files"), i, f) {
        assert_int_equal(dd_backup_file(w.store, id_of(made), (int64_t)i, path, &err), 0);
        assert_int_equal(dd_path(want, &err, "%s/backups/%s/%s", dd_store_root(w.store),
                                 id_of(made), json_string_value(json_object_get(f, "path"))),
                         0);
        assert_string_equal(path, want);
        assert_int_equal(access(path, F_OK), 0);
    }
    assert_int_equal(dd_backup_file(w.store, id_of(made), -1, path, &err), DR_ENOENT);
    assert_int_equal(dd_backup_file(w.store, id_of(made), (int64_t)n, path, &err), DR_ENOENT);
    assert_int_equal(dd_backup_file(w.store, "17-0000", 0, path, &err), DR_ENOENT);
    assert_int_equal(dd_backup_remove(w.store, id_of(made), &err), 0);
    assert_int_equal(dd_backup_file(w.store, id_of(made), 0, path, &err), DR_ENOENT);
    assert_int_equal(dd_backup_remove(w.store, id_of(made), &err), DR_ENOENT);
    json_decref(made);
}

static int use_set(sqlite3 *db, void *arg, struct dr_err *e) {
    return dd_sql_run(db, e,
                      "UPDATE jobs SET config=json_set(config,'$.data.set','folder','$.data.path',"
                      "'ready'), state=?",
                      "t", (const char *)arg);
}

// The removal itself looks for jobs: one may have come since anybody else has looked.
static void a_set_in_use_stays(void **state) {
    (void)state;
    struct dd_dataset_row row;
    struct dr_config c;
    test_tiny(&c, 10);
    assert_int_equal(dd_store_do(w.store, add_set, "ready", &err), 0);
    assert_int_equal(dd_dataset_row_get(w.store, "ready", &row, &err), 0);
    world_submit(&w, &c, 0); // no job thread runs here
    assert_int_equal(dd_store_do(w.store, use_set, "queued", &err), 0);
    assert_int_equal(dd_dataset_row_delete(w.store, &row, &err), DR_ECONFLICT);
    assert_non_null(strstr(err.msg, "in use by job 1"));
    assert_int_equal(world_count(&w, "SELECT count(*) FROM datasets"), 1);
    assert_int_equal(dd_store_do(w.store, use_set, "completed", &err), 0);
    assert_int_equal(dd_dataset_row_delete(w.store, &row, &err), 0);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM datasets"), 0);
    dd_dataset_row_free(&row);
}

static int count_backups(void) {
    char path[DD_PATH_MAX];
    int n = 0;
    assert_int_equal(dd_path(path, &err, "%s/backups", w.dir), 0);
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += !strchr(e->d_name, '.');
    closedir(d);
    return n;
}

// Four backups from a time when the clock ran ahead, and one of now: the new one stays.
static void the_clock_goes_back(void **state) {
    (void)state;
    char name[100], path[DD_PATH_MAX];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "backups/400000000000%d-0000/driftd.sqlite3", i); // 2096
        add_file(name);
        snprintf(name, sizeof name, "backups/400000000000%d-0000.json", i);
        add_file(name);
    }
    for (int i = 1; i <= 2; i++) {
        json_t *made = make();
        assert_int_equal(strncmp(id_of(made), "400000000000", 12), 0);
        assert_int_equal(dd_backup_file(w.store, id_of(made), 0, path, &err), 0);
        assert_int_equal(access(path, F_OK), 0);
        json_decref(made);
        assert_int_equal(count_backups(), 4);
        snprintf(name, sizeof name, "backups/400000000000%d-0000", i - 1); // the oldest went
        assert_false(is_there(name));
        snprintf(name, sizeof name, "backups/400000000000%d-0000", i);
        assert_true(is_there(name));
    }
}

// --- imports and removals ---

struct removal {
    int64_t id;
    unsigned wait_us;
};
static void *take_away(void *arg) {
    const struct removal *r = arg;
    struct dr_err ignored;
    usleep(r->wait_us);
    dd_ckpt_remove(w.store, r->id, &ignored);
    return NULL;
}

static int64_t import(const char *path) {
    struct dd_ckpt_row row;
    const struct dd_ckpt_source source = {.path = path};
    if (dd_ckpt_import(w.store, &source, &row, &err))
        fail_msg("%s", err.msg);
    const int64_t id = strtoll(row.id, NULL, 10);
    dd_ckpt_row_free(&row);
    return id;
}

// The same bytes are imported and removed at once, again and again: whichever comes last, a row
// that is good has its file.
static void imports_and_removals_meet(void **state) {
    (void)state;
    enum { ROUNDS = 120 };
    struct dr_config c;
    struct dd_ckpt_row trained, row;
    int good = 0;
    test_tiny(&c, 20);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, world_submit(&w, &c, 0), "completed");
    assert_int_equal(dd_ckpt_latest(w.store, &trained, &err), 0);
    srand(7);
    for (int i = 0; i < ROUNDS; i++) {
        const int64_t from = dd_now_ns(), id = import(trained.path),
                      took = (dd_now_ns() - from) / 1000;
        struct removal r = {.id = id, .wait_us = (unsigned)(took * (rand() % 120) / 100)};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, take_away, &r), 0);
        assert_int_equal(import(trained.path), id);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(dd_ckpt_get(w.store, id, &row, &err), 0);
        const bool ok = !strcmp(row.state, "ok");
        if (ok && access(row.path, F_OK))
            fail_msg("round %d: checkpoint %s is good, and its file is gone", i, row.id);
        good += ok;
        dd_ckpt_row_free(&row);
    }
    print_message("%d of %d times the import came last\n", good, ROUNDS);
    dd_ckpt_row_free(&trained);
}

int main(void) {
#define T(f) WORLD_TEST(f, world_setup)
    const struct CMUnitTest tests[] = {T(a_lost_file_is_left_out),
                                       T(what_changes_is_left_out),
                                       T(a_folder_behind_a_link),
                                       T(files_by_their_place),
                                       T(a_set_in_use_stays),
                                       T(the_clock_goes_back),
                                       T(left_behind),
                                       T(imports_and_removals_meet)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
