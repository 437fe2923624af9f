// The smallest judge, for test_net.c: logits = W image + b. A whole network in one file; its row is
// in tests/nn/nets.def.
#include "engine/nn/layers.h"

#include <jansson.h>
#include <string.h>

struct judge {
    struct dr_net net;
    struct dr_linear linear;
    int64_t size, channels, classes;
};

static int parse(struct dr_net *net, const char *json, size_t len, const char *where,
                 struct dr_err *err) {
    struct judge *k = (struct judge *)net;
    json_t *root = json_loadb(json, len, 0, NULL);
    json_int_t size, channels, classes;
    int bad = json_unpack(root, "{s:I, s:I, s:I}", "size", &size, "channels", &channels, "classes",
                          &classes);
    json_decref(root);
    if (bad)
        return dr_fail(err, DR_ECONFIG, "%s: expected size, channels and classes", where);
    k->size = size, k->channels = channels, k->classes = classes;
    return 0;
}

static int build(struct dr_net *net, struct dr_err *err) {
    struct judge *k = (struct judge *)net;
    if (k->size < 1 || k->size > 64 || k->channels < 1 || k->channels > 4)
        return dr_fail_at(err, DR_ECONFIG, "size", "size is %lld; expected 1 to 64",
                          (long long)k->size);
    net->input = k->channels * k->size * k->size;
    net->outputs = 1;
    net->output[0] = (struct dr_net_shape){k->classes, 1, 1};
    strcpy(net->output_name[0], "logits");
    k->linear =
        dr_linear_add(&net->params, net->input, k->classes, DR_INIT_XAVIER, 0, true, "linear");
    return 0;
}

static char *describe(const struct dr_net *net) {
    const struct judge *k = (const struct judge *)net;
    json_t *o =
        json_pack("{s:s, s:I, s:I, s:I}", "arch", net->type->name, "size", (json_int_t)k->size,
                  "channels", (json_int_t)k->channels, "classes", (json_int_t)k->classes);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

static void forward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                    const struct dr_net_in *in, real *const y[], void *saved) {
    (void)saved;
    dr_linear_forward(cx, w, &((const struct judge *)net)->linear, in->x, DR_F32, in->b, y[0],
                      DR_F32, 0);
}

static void backward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                     const struct dr_net_in *in, void *saved, const real *const dy[], real *dx) {
    const struct dr_linear *l = &((const struct judge *)net)->linear;
    (void)saved;
    dr_linear_backward(cx, w, l, in->x, dy[0], DR_F32, in->b, 0);
    if (dx)
        dr_linear_backward_input(cx, w, l, dy[0], DR_F32, in->b, dx, DR_F32, false);
}

const struct dr_net_type dr_net_linear_judge = {.name = "linear_judge",
                                                .kind = DR_NET_JUDGE,
                                                .anchor = "linear.weight",
                                                .size = sizeof(struct judge),
                                                .parse = parse,
                                                .build = build,
                                                .describe = describe,
                                                .forward = forward,
                                                .backward = backward};
