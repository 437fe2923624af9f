// usage: test_datasets CONFIGS. What the daemon makes of data sets: imports on a disk that fills,
// parts of uploads there, and recipes for pictures of any size.
#include "tests/data/import_run.h"

#include "daemon/datasets/datasets_priv.h"
#include "daemon/jobs/encoder_data.h"

#include <omp.h>

// ---- a disk that fills

static struct {
    int asked, refuse_at;
    int64_t most; // of what was asked for
    bool writing; // refuse once the file's size is known
    int threads;  // of the importing thread
    int64_t free; // -1: as it is
} disk;

int64_t __real_dd_free_bytes(const char *path);
int64_t __wrap_dd_free_bytes(const char *path);
int64_t __wrap_dd_free_bytes(const char *path) {
    return disk.free < 0 ? __real_dd_free_bytes(path) : disk.free;
}

static int room(void *arg, int64_t bytes, struct dr_err *err) {
    (void)arg;
    disk.most = DR_MAX(disk.most, bytes);
    disk.threads = omp_get_max_threads();
    if (++disk.asked < disk.refuse_at || (disk.writing && !bytes))
        return 0;
    return dr_fail(err, DR_ENOSPC, "the disk is full: in STATE");
}

static void no_progress(void *arg, int64_t done, int64_t total) {
    (void)arg, (void)done, (void)total;
}

static int decode_with(int threads, struct dr_err *err) {
    const _Atomic bool cancel = false;
    json_t *options = json_pack("{s:i, s:i, s:f}", "size", 512, "channels", 3, "test_share", 0.0);
    const struct dd_decode in = {.source = at("set"),
                                 .cache = at("out.pictures"),
                                 .options = options,
                                 .threads = threads,
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

static int decode(struct dr_err *err) {
    return decode_with(0, err);
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

static void imports_take_the_threads_they_are_given(void **state) {
    (void)state;
    struct dr_err err;
    tree_clear();
    disk.refuse_at = 1 << 30;
    put_made("set/a/1.png", make_flat(10, 10, 1, 0, 0));
    omp_set_num_threads(2);
    for (int threads = 3; threads >= 0; threads -= threads > 1 ? 2 : 1) {
        assert_int_equal(decode_with(threads, &err), 0);
        assert_int_equal(disk.threads, threads ? threads : dr_machine()->threads);
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

// ---- classes

static int64_t max_classes; // of the last import

typedef int import_fn(const char *source, const char *out, const struct dr_import_options *o,
                      dr_import_progress_fn progress, void *ctx, struct dr_import_report *r,
                      struct dr_err *err);
import_fn __real_dr_pictures_import, __wrap_dr_pictures_import;
int __wrap_dr_pictures_import(const char *source, const char *out,
                              const struct dr_import_options *o, dr_import_progress_fn progress,
                              void *ctx, struct dr_import_report *r, struct dr_err *err) {
    max_classes = o->max_classes;
    return __real_dr_pictures_import(source, out, o, progress, ctx, r, err);
}

static int configured(int64_t classes, struct dr_err *err) {
    char text[120];
    struct dr_config c;
    snprintf(text, sizeof text,
             "{\"data\": {\"set\": \"folder\", \"path\": \"a\", \"classes\": %lld},"
             " \"train\": {\"classes\": 8}}",
             (long long)classes);
    return dr_config_parse(text, strlen(text), NULL, &c, err);
}

static void imports_take_the_classes_of_a_configuration(void **state) {
    (void)state;
    struct dr_err err;
    tree_clear();
    disk.refuse_at = 1 << 30;
    put_made("set/a/1.png", make_flat(10, 10, 1, 0, 0));
    assert_int_equal(decode(&err), 0);
    if (configured(max_classes, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(configured(max_classes + 1, &err), DR_ECONFIG);
    assert_string_equal(err.field, "data.classes");
}

// ---- uploads

static int uploading(sqlite3 *db, void *arg, struct dr_err *err) {
    (void)arg;
    return dd_sql_run(db, err,
                      "INSERT INTO datasets(name,kind,state,source,upload,options,created_us)"
                      " VALUES('big','folder','uploading','',1,'{}',1)",
                      "");
}

static int send(struct dd_datasets *d, int64_t offset, size_t n, struct dr_err *err) {
    int64_t received;
    uint8_t *bytes = calloc(1, n);
    assert_non_null(bytes);
    put_file(at("part"), bytes, n);
    free(bytes);
    *err = (struct dr_err){0};
    const int rc = dd_datasets_append(d, "big", offset, at("part"), &received, err);
    assert_int_equal(received, offset + (rc ? 0 : (int64_t)n));
    assert_int_not_equal(access(at("part"), F_OK), 0);
    return rc;
}

// The first part is the upload from then on; others are copied behind it and take their size twice.
static void parts_need_room_for_their_copy_alone(void **state) {
    (void)state;
    struct dd_datasets d = {.env.max_upload = 1 << 20};
    struct dr_err err = {0};
    tree_clear();
    assert_int_equal(dd_store_open(at("driftd.sqlite3"), &d.env.store, &err), 0);
    assert_int_equal(dd_store_do(d.env.store, uploading, NULL, &err), 0);
    pthread_mutex_init(&d.change, NULL);
    snprintf(d.root, sizeof d.root, "%s", at("datasets"));
    assert_int_equal(dd_mkdirs(at("datasets/big"), &err), 0);
    disk.free = DD_MIN_FREE - 1;
    assert_int_equal(send(&d, 0, 5000, &err), DR_ENOSPC);
    disk.free = DD_MIN_FREE + 1;
    if (send(&d, 0, 5000, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(send(&d, 5000, 300, &err), DR_ENOSPC);
    disk.free = DD_MIN_FREE + 300;
    assert_int_equal(send(&d, 5000, 300, &err), 0);
    disk.free = -1;
    pthread_mutex_destroy(&d.change);
    dd_store_close(d.env.store);
}

// ---- as JSON

static int add_odd(sqlite3 *db, void *arg, struct dr_err *err) {
    (void)arg;
    return dd_sql_run(db, err,
                      "INSERT INTO datasets(name,kind,state,source,upload,options,created_us,"
                      "classes,class_count,report) VALUES('odd','folder','ready',"
                      "CAST(x'2f636166e92f63617473' AS TEXT),0,'{}',1,'[{\"name\":',3,'{')",
                      "");
}

// A list takes no look at classes and reports, which may be long: here they are no JSON.
static void lists_are_short(void **state) {
    (void)state;
    struct dd_datasets d = {0};
    struct dr_err err = {0};
    tree_clear();
    assert_int_equal(dd_store_open(at("driftd.sqlite3"), &d.env.store, &err), 0);
    assert_int_equal(dd_store_do(d.env.store, add_odd, NULL, &err), 0);
    json_t *list = dd_datasets_list(&d, &err), *one = dd_datasets_get(&d, "odd", &err);
    const json_t *row = json_array_get(json_object_get(list, "datasets"), 0);
    assert_string_equal(json_string_value(json_object_get(row, "name")), "odd");
    assert_int_equal(json_integer_value(json_object_get(row, "class_count")), 3);
    assert_null(json_object_get(row, "classes"));
    assert_null(json_object_get(row, "report"));
    // As earlier builds stored it; it was in no list.
    assert_string_equal(json_string_value(json_object_get(row, "source")), "/caf/cats");
    assert_true(json_is_array(json_object_get(one, "classes")));
    assert_true(json_is_object(json_object_get(one, "report")));
    json_decref(list);
    json_decref(one);
    dd_store_close(d.env.store);
}

// ---- recipes

static const char *configs;

struct set {
    const char *name;
    int64_t size, channels;
    const char *classes;
};

static int add_set(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct set *s = arg;
    return dd_sql_run(db, err,
                      "INSERT OR REPLACE INTO datasets(name,kind,state,source,upload,options,"
                      "created_us,size,channels,train,classes) VALUES(?,'folder','ready','',0,'{}',"
                      "1,?,?,200,?)",
                      "tiit", s->name, s->size, s->channels, s->classes);
}

// The encoder that a job by this recipe would have trained first.
static void check_encoder(const struct dr_config *c) {
    struct dr_config encoder;
    struct dr_err err = {0};
    if (c->features.kind != DR_FEATURE_ENCODER)
        return;
    if (dd_encoder_recipe(configs, c, &encoder, &err))
        fail_msg("size %d, %d classes: %s", (int)c->data.size, (int)c->data.classes, err.msg);
    assert_true(encoder.data.size == c->data.size);
    assert_true(c->data.size % 2 || encoder.encoder.mask_patch == 2); // as the recipe has it
    struct dr_net *net;
    char *json = dr_config_to_json(&encoder);
    if (dr_net_parse(json, strlen(json), NULL, &net, &err))
        fail_msg("size %d: %s", (int)c->data.size, err.msg);
    dr_net_free(net);
    free(json);
}

static void recipes_for_all_sizes(void **state) {
    (void)state;
    static const char *const classes[] = {"[{\"train\":200}]", "[{\"train\":100},{\"train\":100}]"};
    struct dd_store *store;
    struct dr_err err = {0};
    tree_clear();
    assert_int_equal(dd_store_open(at("driftd.sqlite3"), &store, &err), 0);
    for (int64_t size = 1; size <= 1024; size += size < 70 || size > 990 ? 1 : 17) {
        for (int k = 0; k < 4; k++) {
            const int minutes = k % 2 ? 60 : 10;
            struct set s = {"set", size, size % 2 ? 3 : 1, classes[k / 2]};
            struct dr_config c;
            if (k % 2 == 0)
                assert_int_equal(dd_store_do(store, add_set, &s, &err), 0);
            if (dd_dataset_recipe(store, configs, "set", minutes, &c, &err))
                fail_msg("size %d, %d minutes: %s", (int)size, minutes, err.msg);
            assert_true(c.data.size == size && c.data.channels == s.channels);
            check_encoder(&c);
        }
    }
    dd_store_close(store);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(imports_leave_room),
        cmocka_unit_test(imports_take_the_threads_they_are_given),
        cmocka_unit_test(imports_take_the_classes_of_a_configuration),
        cmocka_unit_test(the_sentence_names_the_place),
        cmocka_unit_test(parts_need_room_for_their_copy_alone),
        cmocka_unit_test(lists_are_short),
        cmocka_unit_test(recipes_for_all_sizes),
    };
    configs = argc > 1 ? argv[1] : "configs";
    disk.refuse_at = 1 << 30;
    disk.free = -1;
    return cmocka_run_group_tests(tests, dir_setup, tree_teardown);
}
