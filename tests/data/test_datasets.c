// usage: test_datasets CONFIGS. What the daemon makes of data sets: imports on a disk that fills,
// and recipes for pictures of any size.
#include "tests/data/import_run.h"

#include "daemon/datasets/datasets_priv.h"

// ---- a disk that fills

static struct {
    int asked, refuse_at;
    int64_t most; // of what was asked for
    bool writing; // refuse once the file's size is known
} disk;

static int room(void *arg, int64_t bytes, struct dr_err *err) {
    (void)arg;
    disk.most = DR_MAX(disk.most, bytes);
    if (++disk.asked < disk.refuse_at || (disk.writing && !bytes))
        return 0;
    return dr_fail(err, DR_ENOSPC, "the disk is full: in STATE");
}

static void no_progress(void *arg, int64_t done, int64_t total) {
    (void)arg, (void)done, (void)total;
}

static int decode(struct dr_err *err) {
    const _Atomic bool cancel = false;
    json_t *options = json_pack("{s:i, s:i, s:f}", "size", 512, "channels", 3, "test_share", 0.0);
    const struct dd_decode in = {.source = at("set"),
                                 .cache = at("out.pictures"),
                                 .options = options,
                                 .cancel = &cancel,
                                 .progress = no_progress,
                                 .room = room};
    struct dd_dataset_result res;
    *err = (struct dr_err){0};
    int rc = dd_dataset_decode(&in, &res, err);
    dd_dataset_result_free(&res);
    json_decref(options);
    return rc;
}

static void imports_leave_room(void **state) {
    (void)state;
    struct dr_err err;
    tree_clear();
    for (int i = 0; i < 40; i++) { // of 0.75 MiB each once they are fitted
        char name[40];
        snprintf(name, sizeof name, "set/a/%d.png", i);
        put_made(name, make_flat(10, 10, (uint8_t)i, 0, 0));
    }
    assert_int_equal(decode(&err), 0); // refused once it is through
    disk.refuse_at = 1;
    disk.writing = true; // the second copy of all pictures does not fit
    unlink(at("out.pictures"));
    assert_int_equal(decode(&err), DR_ENOSPC);
    assert_string_equal(err.msg, "the disk is full: in STATE");
    assert_int_equal(disk.most, 40 * 3 * 512 * 512);
    assert_int_equal(dir_entries(), 1); // the folder
    // While pictures are decoded: at the start, and after 16 MiB however fast that was.
    disk.writing = false;
    for (disk.refuse_at = 1; disk.refuse_at < 4; disk.refuse_at++) {
        disk.asked = 0;
        assert_int_equal(decode(&err), DR_ENOSPC);
        assert_int_equal(disk.asked, disk.refuse_at);
        assert_int_equal(dir_entries(), 1);
    }
}

static void the_sentence_names_the_place(void **state) {
    (void)state;
    struct dd_datasets d = {0};
    struct dr_err err = {0};
    snprintf(d.root, sizeof d.root, "%s", test_dir);
    assert_int_equal(dd_dataset_room(&d, 0, &err), 0);
    assert_int_equal(dd_dataset_room(&d, INT64_C(1) << 60, &err), DR_ENOSPC);
    assert_non_null(strstr(err.msg, "1099511627777 MiB more are needed in "));
    assert_non_null(strstr(err.msg, test_dir));
    assert_non_null(strstr(err.msg, "64 MiB stay free"));
}

// ---- recipes

static const char *configs;

struct set {
    const char *name;
    int64_t size, channels;
};

static int add_set(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct set *s = arg;
    return dd_sql_run(db, err,
                      "INSERT OR REPLACE INTO datasets(name,kind,state,source,upload,options,"
                      "created_us,size,channels,train,classes) VALUES(?,'folder','ready','',0,'{}',"
                      "1,?,?,200,'[{\"train\":100},{\"train\":100}]')",
                      "tii", s->name, s->size, s->channels);
}

static void recipes_for_all_sizes(void **state) {
    (void)state;
    struct dd_store *store;
    struct dr_err err = {0};
    tree_clear();
    assert_int_equal(dd_store_open(at("driftd.sqlite3"), &store, &err), 0);
    for (int64_t size = 1; size <= 1024; size += size < 70 || size > 990 ? 1 : 17) {
        struct set s = {"set", size, size % 2 ? 3 : 1};
        assert_int_equal(dd_store_do(store, add_set, &s, &err), 0);
        for (int minutes = 10; minutes <= 60; minutes += 50) {
            struct dr_config c;
            if (dd_dataset_recipe(store, configs, "set", minutes, &c, &err))
                fail_msg("size %d, %d minutes: %s", (int)size, minutes, err.msg);
            assert_true(c.data.size == size && c.data.channels == s.channels);
        }
    }
    dd_store_close(store);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(imports_leave_room),
        cmocka_unit_test(the_sentence_names_the_place),
        cmocka_unit_test(recipes_for_all_sizes),
    };
    configs = argc > 1 ? argv[1] : "configs";
    disk.refuse_at = 1 << 30;
    return cmocka_run_group_tests(tests, dir_setup, tree_teardown);
}
