// What the generators have in common: the model section, its ranges, the questions of net.h. The
// networks are in dit.c and mlp.c.
#include "engine/nn/layers.h"

// Bounds that keep the products of sizes far from overflow; config.def has the same ones, but a
// model section may also come from a foreign file.
static int check_ranges(const struct dr_model_config *m, struct dr_err *err) {
    const struct {
        const char *key;
        int64_t value, min, max;
    } range[] = {
        {"data.size", m->size, 1, 1024},
        {"data.channels", m->channels, 1, 64},
        {"data.classes", m->classes, 1, 100000},
        {"model.dim", m->dim, 4, 8192},
        {"model.depth", m->depth, 0, 128},
        {"model.heads", m->heads, 1, 256},
        {"model.patch", m->patch, 1, 64},
        {"model.registers", m->registers, 0, 256},
        {"model.latent_dim", m->latent_dim, 1, 4096},
        {"model.style_tokens", m->style_tokens, 0, 1024},
        {"model.codebook", m->codebook, 1, 65536},
        {"model.head_width", m->head_width, 1, 1024},
    };
    for (size_t i = 0; i < DR_COUNT(range); i++)
        if (range[i].value < range[i].min || range[i].value > range[i].max)
            return dr_fail_at(err, DR_ECONFIG, range[i].key, "%s is %lld; expected %lld to %lld",
                              range[i].key, (long long)range[i].value, (long long)range[i].min,
                              (long long)range[i].max);
    if (!(m->mlp_ratio >= 0.25 && m->mlp_ratio <= 16))
        return dr_fail_at(err, DR_ECONFIG, "model.mlp_ratio",
                          "model.mlp_ratio is %g; expected 0.25 to 16", m->mlp_ratio);
    if (!(m->temperature >= 0.01 && m->temperature <= 10))
        return dr_fail_at(err, DR_ECONFIG, "model.temperature",
                          "model.temperature is %g; expected 0.01 to 10", m->temperature);
    return 0;
}

int dr_gen_create(const struct dr_model_config *cfg, struct dr_net **out, struct dr_err *err) {
    const struct dr_net_type *type = dr_net_type_of_arch(cfg->arch);
    *out = NULL;
    if (!type)
        return dr_fail_at(err, DR_ECONFIG, "model.arch", "model.arch %d is not known", cfg->arch);
    int rc = dr_net_new(type, out, err);
    if (rc)
        return rc;
    ((struct dr_gen *)*out)->cfg = *cfg;
    rc = check_ranges(cfg, err);
    if (!rc)
        rc = dr_model_config_check(cfg, err);
    return dr_net_finish(out, rc, err);
}

int dr_gen_parse(struct dr_net *net, const char *json, size_t len, const char *where,
                 struct dr_err *err) {
    struct dr_model_config *m = &((struct dr_gen *)net)->cfg;
    int rc = dr_model_config_parse(json, len, where, m, err);
    return rc ? rc : check_ranges(m, err);
}

char *dr_gen_describe(const struct dr_net *net) {
    return dr_model_config_to_json(dr_gen_config(net));
}

const struct dr_model_config *dr_gen_config(const struct dr_net *net) {
    return net->type->kind == DR_NET_GENERATOR ? &((const struct dr_gen *)net)->cfg : NULL;
}
int64_t dr_gen_noise_count(const struct dr_net *net) {
    return net->input;
}
int64_t dr_gen_noise_of(const struct dr_model_config *m) {
    const bool vector = m->noise == DR_NOISE_LATENT || dr_arch_needs(m->arch) & DR_ARCH_POINTS;
    return vector ? m->latent_dim : m->channels * m->size * m->size;
}
int64_t dr_gen_style_count(const struct dr_net *net) {
    return dr_gen_config(net)->style_tokens;
}
int64_t dr_gen_image_count(const struct dr_net *net) {
    return net->output[0].c * net->output[0].h * net->output[0].w;
}
int dr_gen_null_class(const struct dr_net *net) {
    const struct dr_model_config *m = dr_gen_config(net);
    return m->null_class ? (int)m->classes : -1;
}
