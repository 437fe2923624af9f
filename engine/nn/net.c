// Networks of every kind: made from a description, asked, run through their type's table. See
// net.h; the types are in the files of the networks.
#include "engine/nn/encoder.h"
#include "engine/nn/layers.h"

#include <assert.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int dr_net_new(const struct dr_net_type *type, struct dr_net **out, struct dr_err *err) {
    *out = calloc(1, type->size);
    if (!*out)
        return dr_fail(err, DR_ENOMEM, "out of memory for a network");
    (*out)->type = type;
    (*out)->kind = type->kind;
    return 0;
}

int dr_net_finish(struct dr_net **net, int rc, struct dr_err *err) {
    struct dr_net *n = *net;
    if (!rc)
        rc = n->type->build(n, err);
    if (!rc && n->params.cap < 0)
        rc = dr_fail(err, DR_ENOMEM, "out of memory for the parameter layout");
    if (!rc && !(n->description = n->type->describe(n)))
        rc = dr_fail(err, DR_ENOMEM, "out of memory for the description of a network");
    if (rc) {
        dr_net_free(n);
        *net = NULL;
        return rc;
    }
    dr_params_finish(&n->params);
    return 0;
}

// The type that a description names. Without a word, with an unknown one or in broken JSON it is
// that of the first generator, whose parser has the default and the message.
static const struct dr_net_type *type_of(const char *json, size_t len) {
    json_t *root = json_loadb(json, len, 0, NULL), *v = json_object_get(root, "arch");
    v = v ? v : json_object_get(root, "model.arch");
    v = v ? v : json_object_get(json_object_get(root, "model"), "arch");
    const char *word = json_string_value(v);
    const struct dr_net_type *t = word ? dr_net_type_named(word) : NULL;
    json_decref(root);
    return t ? t : dr_net_type_of_arch(0);
}

// Whether this is a whole configuration of kind `encoder`.
static bool of_encoder(const char *json, size_t len) {
    json_t *root = json_loadb(json, len, 0, NULL);
    const char *kind = json_string_value(json_object_get(root, "kind"));
    const bool yes = kind && !strcmp(kind, dr_recipe_word(DR_RECIPE_ENCODER));
    json_decref(root);
    return yes;
}

static int parse_encoder(const char *json, size_t len, const char *where, struct dr_net **out,
                         struct dr_err *err) {
    struct dr_config c;
    int rc = dr_config_parse(json, len, where, &c, err);
    if (rc)
        return rc;
    rc = dr_encoder_net(&c, out, err);
    return rc && where ? dr_fail_prefix(err, rc, where) : rc;
}

int dr_net_read_keys(const char *json, size_t len, const char *where, void *to,
                     int (*read_key)(const char *key, json_t *v, void *to, struct dr_err *err),
                     struct dr_err *err) {
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL), *v;
    const char *key;
    int rc = json_is_object(root)
                 ? 0
                 : dr_fail(err, DR_ECONFIG, "the description of a network must be a JSON object");
    json_object_foreach(root, key, v) {
        if (!rc)
            rc = read_key(key, v, to, err);
    }
    json_decref(root);
    return rc && where ? dr_fail_prefix(err, rc, where) : rc;
}

int dr_net_parse(const char *json, size_t len, const char *where, struct dr_net **out,
                 struct dr_err *err) {
    *out = NULL;
    if (of_encoder(json, len))
        return parse_encoder(json, len, where, out, err);
    const struct dr_net_type *type = type_of(json, len);
    int rc = dr_net_new(type, out, err);
    if (rc)
        return rc;
    rc = type->parse(*out, json, len, where, err);
    return dr_net_finish(out, rc, err);
}

void dr_net_free(struct dr_net *net) {
    if (!net)
        return;
    if (net->type->clear)
        net->type->clear(net);
    dr_params_free(&net->params);
    free(net->description);
    free(net);
}

const char *dr_net_name(const struct dr_net *net) {
    return net->type->name;
}
enum dr_net_kind dr_net_kind(const struct dr_net *net) {
    return net->kind;
}
const char *dr_net_kind_word(enum dr_net_kind kind) {
    static const char *const word[] = {"generator", "encoder", "judge"};
    return word[kind];
}
const char *dr_net_description(const struct dr_net *net) {
    return net->description;
}
const char *dr_net_anchor(const struct dr_net *net) {
    return net->type->anchor;
}
const struct dr_params *dr_net_params(const struct dr_net *net) {
    return &net->params;
}
size_t dr_net_bytes(const struct dr_net *net) {
    return (size_t)net->params.total * sizeof(real);
}
int64_t dr_net_input(const struct dr_net *net) {
    return net->input;
}
int dr_net_outputs(const struct dr_net *net) {
    return net->outputs;
}
struct dr_net_shape dr_net_output(const struct dr_net *net, int i) {
    return net->output[i];
}
const char *dr_net_output_name(const struct dr_net *net, int i) {
    return net->output_name[i];
}
int dr_net_output_find(const struct dr_net *net, const char *name) {
    for (int i = 0; i < net->outputs; i++)
        if (!strcmp(net->output_name[i], name))
            return i;
    return -1;
}
int64_t dr_net_tables_count(const struct dr_net *net) {
    return net->tables;
}

int dr_net_encoder(const struct dr_net *net, int64_t side, struct dr_net **out,
                   struct dr_err *err) {
    *out = NULL;
    if (!dr_net_learns(net))
        return dr_fail_at(err, DR_EINVAL, "encoder",
                          "the network \"%s\" runs forward only: it judges images, but nothing can "
                          "be trained through it; expected an encoder such as resnet",
                          net->type->name);
    if (!net->type->encoder)
        return dr_fail_at(err, DR_EINVAL, "encoder",
                          "the %s \"%s\" has no encoder; expected a network whose feature maps can "
                          "be taken",
                          dr_net_kind_word(net->kind), net->type->name);
    int rc = dr_net_new(net->type, out, err);
    if (rc)
        return rc;
    rc = net->type->encoder(net, side, *out, err);
    return dr_net_finish(out, rc, err);
}

int dr_net_resized(const struct dr_net *net, int64_t side, struct dr_net **out,
                   struct dr_err *err) {
    *out = NULL;
    if (!net->type->resized)
        return dr_fail_at(err, DR_EINVAL, "size",
                          "the %s \"%s\" takes images of one size; expected a resnet of norm batch",
                          dr_net_kind_word(net->kind), net->type->name);
    int rc = dr_net_new(net->type, out, err);
    if (rc)
        return rc;
    rc = net->type->resized(net, side, *out, err);
    return dr_net_finish(out, rc, err);
}

bool dr_net_learns(const struct dr_net *net) {
    return net->type->backward != NULL;
}

bool dr_net_same(const struct dr_net *a, const struct dr_net *b) {
    return a->type == b->type && !strcmp(a->description, b->description);
}

int dr_net_expect(const struct dr_net *net, enum dr_net_kind kind, const char *what,
                  struct dr_err *err) {
    if (net->kind == kind)
        return 0;
    return dr_fail(err, DR_EINVAL, "%.200s holds the %s \"%s\"; expected a %s", what,
                   dr_net_kind_word(net->kind), net->type->name, dr_net_kind_word(kind));
}

int64_t dr_net_parameters(const struct dr_net *net) {
    int64_t n = 0;
    for (int i = 0; i < net->params.n; i++)
        n += net->params.p[i].count;
    return n;
}

int dr_net_tables_upload(const struct dr_net *net, struct dr_backend *be, real *to,
                         struct dr_err *err) {
    if (!net->tables)
        return 0;
    real *host = calloc((size_t)net->tables, sizeof *host);
    if (!host)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld constants", (long long)net->tables);
    net->type->fill(net, host);
    be->upload(be, to, host, (size_t)net->tables * sizeof *host);
    free(host);
    return 0;
}

struct dr_net_saved *dr_net_saved_new(const struct dr_net *net) {
    return calloc(1, DR_MAX(net->saved_bytes, (size_t)1));
}

void dr_net_saved_free(struct dr_net_saved *s) {
    free(s);
}

void dr_net_forward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                    const struct dr_net_in *in, real *const y[], struct dr_net_saved *saved) {
    net->type->forward(cx, net, w, in, y, saved);
}

void dr_net_backward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                     const struct dr_net_in *in, struct dr_net_saved *saved, const real *const dy[],
                     real *dx) {
    assert(dr_net_learns(net));
    net->type->backward(cx, net, w, in, saved, dy, dx);
}
