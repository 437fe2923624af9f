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
        return dr_fail(
            err, DR_EINVAL,
            "\"%.100s\" is neither the id of a checkpoint (checkpoint:NAME names one by its "
            "name or tag) nor a file below the data directory",
            what);
    n = strlen(root);
    if (strncmp(real_path, root, n) || (real_path[n] != '/' && n > 1))
        return dr_fail(err, DR_EINVAL, "\"%.100s\" leads out of the data directory", what);
    return dd_path(path, err, "%s", real_path);
}

// What follows `checkpoint:`; NULL: another kind of word.
static const char *after_prefix(const char *what) {
    static const char prefix[] = "checkpoint:";
    return strncmp(what, prefix, sizeof prefix - 1) ? NULL : what + sizeof prefix - 1;
}
static bool is_number(const char *word) {
    return word[strspn(word, "0123456789")] == 0;
}

int dd_ckpt_find(struct dd_store *s, const char *data_dir, const char *key, const char *what,
                 char path[DD_PATH_MAX], struct dr_err *err) {
    struct dr_err why = {0};
    const char *id = after_prefix(what);
    what = id ? id : what;
    int rc = is_number(what) ? by_id(s, what, path, &why) : by_file(data_dir, what, path, &why);
    if (!rc)
        return 0;
    return dr_fail_at(err, rc == DR_ENOENT ? DR_EINVAL : rc, key, "%s: %.400s", key, why.msg);
}

static int64_t newest(struct dd_store *s, const char *sql, const char *word) {
    sqlite3 *db = dd_store_reader(s, NULL);
    const int64_t id = db ? dd_sql_one(db, 0, sql, "t", word) : 0;
    sqlite3_close(db);
    return id;
}

int dd_ckpt_pin(struct dd_store *s, struct dr_config *cfg, struct dr_err *err) {
    const struct {
        const char *key;
        char *word;
        size_t size;
    } at[] = {{"init_from", cfg->init_from, sizeof cfg->init_from},
              {"features.encoder", cfg->features.encoder, sizeof cfg->features.encoder},
              {"eval.judge", cfg->eval.judge, sizeof cfg->eval.judge},
              {"eval.inception", cfg->eval.inception, sizeof cfg->eval.inception}};
    for (size_t i = 0; i < DR_COUNT(at); i++) {
        const char *name = after_prefix(at[i].word);
        if (!name || is_number(name))
            continue;
        const int64_t id =
            newest(s,
                   "SELECT c.id FROM checkpoints c WHERE c.state='ok' AND (c.name=?1 OR EXISTS"
                   "(SELECT 1 FROM json_each(c.tags) t WHERE t.value=?1))"
                   " ORDER BY c.created_us DESC, c.id DESC LIMIT 1",
                   name);
        if (!id)
            return dr_fail_at(err, DR_EINVAL, at[i].key,
                              "%s: there is no checkpoint with the name or tag \"%.100s\"",
                              at[i].key, name);
        snprintf(at[i].word, at[i].size, "checkpoint:%lld", (long long)id);
    }
    return 0;
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
    return newest(s,
                  "SELECT c.id FROM checkpoints c, json_each(c.tags) t WHERE t.value=?1 AND"
                  " c.state='ok' ORDER BY c.created_us DESC, c.id DESC LIMIT 1",
                  tag);
}
