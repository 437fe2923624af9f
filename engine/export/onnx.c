// ONNX files: one model around the graph that a network's walk builds. See export.h. The numbers of
// fields are those of onnx.proto.
#include "engine/export/export_priv.h"
#include "engine/export/onnx_priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { IR_VERSION = 10, OPSET = 21 };
enum { MODEL_IR = 1, MODEL_PRODUCER = 2, MODEL_GRAPH = 7, MODEL_OPSET = 8, MODEL_META = 14 };
#define LIMIT ((size_t)INT32_MAX) // bytes of a message of protocol buffers

static const struct {
    const char *name;
    dr_onnx_walk *walk;
} walks[] = {
    {"driftdit", dr_onnx_dit},
    {"lightningdit", dr_onnx_dit},
    {"mlp", dr_onnx_mlp},
    {"unet", dr_onnx_unet},
};

static dr_onnx_walk *walk_of(const struct dr_net *net, struct dr_err *err) {
    for (size_t i = 0; i < DR_COUNT(walks); i++)
        if (!strcmp(walks[i].name, dr_net_name(net)))
            return walks[i].walk;
    dr_export_refused(net, "as ONNX", err);
    return NULL;
}

static void inputs(struct dr_graph *g, struct dr_onnx_in *in) {
    const struct dr_model_config *m = in->m;
    const bool vector = dr_gen_noise_count(in->net) == m->latent_dim &&
                        (m->noise == DR_NOISE_LATENT || m->kind == DR_KIND_POINTS);
    char doc[128];
    in->noise = dr_graph_input(g, "noise", DR_ELEM_F32, vector ? 1 : 3,
                               vector ? &m->latent_dim : (int64_t[]){m->channels, m->size, m->size},
                               "independent standard normal numbers");
    if (m->temperature != 1)
        in->noise = dr_graph_mul(g, in->noise, dr_graph_number(g, m->temperature));
    snprintf(doc, sizeof doc, "class, 0 to %lld%s", (long long)(m->classes - !m->null_class),
             m->null_class ? ", the last for no class" : "");
    in->cls = dr_graph_input(g, "class", DR_ELEM_I64, 0, NULL, doc);
    in->alpha = dr_graph_input(g, "guidance", DR_ELEM_F32, 0, NULL, "guidance scale; 1: none");
    if (!m->style_tokens)
        return;
    snprintf(doc, sizeof doc, "independent uniform indices, 0 to %lld", (long long)m->codebook - 1);
    in->style = dr_graph_input(g, "style", DR_ELEM_I64, 1, &m->style_tokens, doc);
}

static void output(struct dr_graph *g, const struct dr_net *net, struct dr_val image) {
    const struct dr_net_shape s = dr_net_output(net, 0);
    if (dr_gen_config(net)->kind == DR_KIND_POINTS)
        dr_graph_output(g, image, "image", 1, &s.c, "points x, y");
    else
        dr_graph_output(g, image, "image", 3, (int64_t[]){s.c, s.h, s.w},
                        "images; -1 is black, 1 white");
}

static int add_meta(void *ctx, const char *key, const char *value, struct dr_err *err) {
    struct dr_proto p = {0};
    (void)err;
    dr_proto_text(&p, 1, key);
    dr_proto_text(&p, 2, value);
    dr_proto_message(ctx, MODEL_META, &p);
    return 0;
}

// Everything before the graph's bytes.
static int model_head(const struct dr_export *x, size_t graph, struct dr_proto *head,
                      struct dr_err *err) {
    struct dr_proto opset = {0};
    dr_proto_int(head, MODEL_IR, IR_VERSION);
    dr_proto_text(head, MODEL_PRODUCER, "driftd");
    dr_proto_text(&opset, 1, "");
    dr_proto_int(&opset, 2, OPSET);
    dr_proto_message(head, MODEL_OPSET, &opset);
    const int rc = dr_export_meta(x, add_meta, head, err);
    dr_proto_head(head, MODEL_GRAPH, graph);
    return rc;
}

static int write_file(const struct dr_proto *const part[], int n, const char *path,
                      struct dr_err *err) {
    FILE *f = fopen(path, "wb");
    bool ok = f;
    for (int i = 0; i < n && ok; i++)
        ok = fwrite(part[i]->p, 1, part[i]->n, f) == part[i]->n;
    ok = f && !fclose(f) && ok;
    if (ok)
        return 0;
    return dr_fail(err, errno == ENOSPC ? DR_ENOSPC : DR_EIO, "cannot write %s: %s", path,
                   strerror(errno));
}

static int write_model(const struct dr_export *x, struct dr_graph *g, const char *path,
                       struct dr_err *err) {
    struct dr_proto head = {0}, name = {0};
    dr_proto_text(&name, 2, dr_net_name(x->snap->net));
    const struct dr_proto *const part[] = {&head, &name, &g->node, &g->init, &g->in, &g->out};
    size_t graph = 0;
    bool failed = false;
    for (size_t i = 1; i < DR_COUNT(part); i++) {
        graph += part[i]->n;
        failed |= part[i]->failed;
    }
    int rc = model_head(x, graph, &head, err);
    if (!rc && (failed || head.failed))
        rc = dr_fail(err, DR_ENOMEM, "out of memory for an ONNX file");
    else if (!rc && graph + head.n > LIMIT)
        rc = dr_fail_at(err, DR_EINVAL, "format",
                        "the model takes %zu bytes; an ONNX file holds at most %zu (2 GiB); "
                        "expected a smaller one, or safetensors",
                        graph + head.n, LIMIT);
    rc = rc ? rc : write_file(part, (int)DR_COUNT(part), path, err);
    dr_proto_free(&head);
    dr_proto_free(&name);
    return rc;
}

int dr_export_onnx(const struct dr_export *x, const char *path, struct dr_err *err) {
    const struct dr_net *net = x->snap->net;
    dr_onnx_walk *const walk = walk_of(net, err);
    if (!walk)
        return DR_EUNSUPPORTED;
    struct dr_graph g = {.ps = dr_net_params(net), .w = x->snap->weights, .err = err};
    struct dr_onnx_in in = {.net = net, .m = dr_gen_config(net)};
    inputs(&g, &in);
    output(&g, net, walk(&g, &in));
    const int rc = g.rc ? g.rc : write_model(x, &g, path, err);
    dr_graph_free(&g);
    return rc;
}
