// The settings of an inception: read from its JSON description, checked, written again. See
// inception.h.
#include "engine/nn/inception_priv.h"

#include <jansson.h>
#include <string.h>

static const char *const variants[] = {"fid", "torchvision"};

struct dr_inception_config dr_inception_defaults(void) {
    return (struct dr_inception_config){
        .size = DR_INCEPTION_SIZE, .classes = DR_INCEPTION_CLASSES, .narrow = 1};
}

static int read_key(const char *key, json_t *v, void *cfg, struct dr_err *err) {
    struct dr_inception_config *c = cfg;
    static const char *const number[] = {"size", "classes", "narrow"};
    int64_t *const to[] = {&c->size, &c->classes, &c->narrow};
    if (!strcmp(key, "arch"))
        return 0;
    for (size_t i = 0; i < DR_COUNT(number); i++)
        if (!strcmp(key, number[i])) {
            *to[i] = json_integer_value(v);
            return json_is_integer(v)
                       ? 0
                       : dr_fail_at(err, DR_ECONFIG, key, "%s must be a whole number", key);
        }
    if (strcmp(key, "variant"))
        return dr_fail_at(err, DR_ECONFIG, key,
                          "unknown key `%.40s`; an inception has arch, size, classes, narrow, "
                          "variant",
                          key);
    const char *word = json_string_value(v);
    for (size_t i = 0; word && i < DR_COUNT(variants); i++)
        if (!strcmp(word, variants[i])) {
            c->variant = (int)i;
            return 0;
        }
    return dr_fail_at(err, DR_ECONFIG, key, "variant is %s%.40s; expected fid or torchvision",
                      word ? "" : "no word", word ? word : "");
}

int dr_inception_parse(struct dr_net *net, const char *json, size_t len, const char *where,
                       struct dr_err *err) {
    struct dr_inception_config *c = &((struct dr_inception *)net)->cfg;
    *c = dr_inception_defaults();
    return dr_net_read_keys(json, len, where, c, read_key, err);
}

char *dr_inception_describe(const struct dr_net *net) {
    const struct dr_inception_config *c = dr_inception_config(net);
    json_t *o = json_pack("{s:s,s:I,s:I,s:I,s:s}", "arch", net->type->name, "size",
                          (json_int_t)c->size, "classes", (json_int_t)c->classes, "narrow",
                          (json_int_t)c->narrow, "variant", variants[c->variant]);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

int dr_inception_check(const struct dr_inception_config *c, struct dr_err *err) {
    if (c->size < 75 || c->size > 1024)
        return dr_fail_at(err, DR_ECONFIG, "size", "size is %lld; expected 75 to 1024",
                          (long long)c->size);
    if (c->classes < 0 || c->classes > 100000)
        return dr_fail_at(err, DR_ECONFIG, "classes", "classes is %lld; expected 0 to 100000",
                          (long long)c->classes);
    if (c->narrow != 1 && c->narrow != 2 && c->narrow != 4 && c->narrow != 8 && c->narrow != 16)
        return dr_fail_at(err, DR_ECONFIG, "narrow", "narrow is %lld; expected 1, 2, 4, 8 or 16",
                          (long long)c->narrow);
    if (c->variant < 0 || c->variant >= (int)DR_COUNT(variants))
        return dr_fail_at(err, DR_ECONFIG, "variant", "variant is %d; expected fid or torchvision",
                          c->variant);
    return 0;
}
