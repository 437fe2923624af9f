// Checkpoints that configurations and tags name, what a row's network is, and what users write
// about one (checkpoints.h).
#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"
#include "engine/drift.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int dd_ckpt_expect_generator(const struct dd_ckpt_row *r, struct dr_err *err) {
    struct dr_net *net;
    char what[48];
    // A row that cannot be read is left to whoever needs the network itself.
    if (!r->config || dr_net_parse(r->config, strlen(r->config), NULL, &net, NULL))
        return 0;
    snprintf(what, sizeof what, "checkpoint %s", r->id);
    int rc = dr_net_expect(net, DR_NET_GENERATOR, what, err);
    dr_net_free(net);
    return rc;
}

static int by_id(struct dd_store *s, const char *what, char path[DD_PATH_MAX], struct dr_err *err) {
    struct dd_ckpt_row row;
    int64_t id;
    if (!dd_parse_int(what, 1, INT64_MAX, &id))
        return dr_fail(err, DR_EINVAL, "there is no checkpoint %.40s", what);
    int rc = dd_ckpt_get(s, id, &row, err);
    if (rc)
        return rc;
    if (strcmp(row.state, "ok"))
        rc = dr_fail(err, DR_EINVAL, "checkpoint %s is %s", row.id, row.state);
    memcpy(path, row.path, sizeof row.path);
    dd_ckpt_row_free(&row);
    return rc;
}

static int by_file(const char *data_dir, const char *what, char path[DD_PATH_MAX],
                   struct dr_err *err) {
    char root[PATH_MAX], real_path[PATH_MAX], named[DD_PATH_MAX];
    struct stat st;
    size_t n;
    int rc = dd_path(named, err, "%s/%s", data_dir ? data_dir : ".", what);
    if (rc)
        return rc;
    if (!data_dir || !realpath(data_dir, root) || !realpath(named, real_path) ||
        stat(real_path, &st) || !S_ISREG(st.st_mode))
        return dr_fail(err, DR_EINVAL,
                       "\"%.100s\" is neither the id of a checkpoint nor a file below the data "
                       "directory",
                       what);
    n = strlen(root);
    if (strncmp(real_path, root, n) || (real_path[n] != '/' && n > 1))
        return dr_fail(err, DR_EINVAL, "\"%.100s\" leads out of the data directory", what);
    return dd_path(path, err, "%s", real_path);
}

int dd_ckpt_find(struct dd_store *s, const char *data_dir, const char *what, char path[DD_PATH_MAX],
                 struct dr_err *err) {
    struct dr_err why = {0};
    if (!strncmp(what, "checkpoint:", 11))
        what += 11;
    const bool number = what[strspn(what, "0123456789")] == 0;
    int rc = number ? by_id(s, what, path, &why) : by_file(data_dir, what, path, &why);
    if (!rc)
        return 0;
    return dr_fail_at(err, rc == DR_ENOENT ? DR_EINVAL : rc, "init_from", "init_from: %.400s",
                      why.msg);
}

// --- changes by users ---

struct patch {
    int64_t id;
    const char *name, *notes, *tags;
};
static int patch(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct patch *p = arg;
    if (!dd_sql_one(db, 0, "SELECT 1 FROM checkpoints WHERE id=?", "i", p->id))
        return dr_fail(err, DR_ENOENT, "there is no checkpoint %lld", (long long)p->id);
    return dd_sql_run(db, err,
                      "UPDATE checkpoints SET name=coalesce(?,name), notes=coalesce(?,notes),"
                      " tags=coalesce(?,tags) WHERE id=?",
                      "ttti", p->name, p->notes, p->tags, p->id);
}
int dd_ckpt_patch(struct dd_store *s, int64_t id, const char *name, const char *notes,
                  const char *tags, struct dr_err *err) {
    int rc = dd_store_do(s, patch, &(struct patch){id, name, notes, tags}, err);
    dd_store_changed(s);
    return rc;
}

int64_t dd_ckpt_tagged(struct dd_store *s, const char *tag) {
    sqlite3 *db = dd_store_reader(s, NULL);
    const int64_t id =
        db ? dd_sql_one(db, 0,
                        "SELECT c.id FROM checkpoints c, json_each(c.tags) t WHERE t.value=? AND"
                        " c.state='ok' ORDER BY c.created_us DESC, c.id DESC LIMIT 1",
                        "t", tag)
           : 0;
    sqlite3_close(db);
    return id;
}
