// Reading files made elsewhere (foreign.h). PyTorch's state dicts have the reference's names, often
// behind a wrapper's prefix (`module.`, `_orig_mod.`, `ema.`), and no description of the model.
#include "engine/sample/foreign.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// A parameter of every network of the reference, and its rotary table, which is a buffer.
static const char reference[] = "alpha_embed.mlp.0.weight", rope[] = "rope.cos_cached";
#define SETS_MAX 16
// The reference's rotary table is longer than the sequence by this much.
#define ROPE_SPARE 64

struct sets {
    char prefix[SETS_MAX][DR_PREFIX_MAX];
    int n, plain, average,
        averages; // averages: sets named ema or shadow; average: the last of them
};

// What driftd itself writes beside the set to serve, as `ema1/`, is none to choose from.
static void find_sets(const struct dr_st_file *f, const char *anchor, struct sets *s) {
    *s = (struct sets){.plain = -1, .average = -1};
    for (int i = 0; i < dr_st_count(f) && s->n < SETS_MAX; i++) {
        const char *name = dr_st_at(f, i)->name;
        size_t len = strlen(name), tail = strlen(anchor);
        if (len < tail || len - tail >= DR_PREFIX_MAX || strcmp(name + len - tail, anchor) ||
            dr_foreign_harmless(dr_st_at(f, i), name))
            continue;
        char *p = s->prefix[s->n];
        memcpy(p, name, len - tail);
        p[len - tail] = '\0';
        if (!*p)
            s->plain = s->n;
        if (strstr(p, "ema") || strstr(p, "shadow")) {
            s->average = s->n;
            s->averages++;
        }
        s->n++;
    }
}

int dr_foreign_prefix(const struct dr_st_file *f, const char *path, const char *anchor,
                      char prefix[DR_PREFIX_MAX], struct dr_err *err) {
    struct sets s;
    find_sets(f, anchor ? anchor : reference, &s);
    prefix[0] = '\0';
    if (!s.n)
        return 0;
    const int pick = s.averages == 1 ? s.average : s.plain >= 0 ? s.plain : s.n == 1 ? 0 : -1;
    if (pick < 0)
        return dr_fail(
            err, DR_EFORMAT,
            "%s: holds several sets of weights, among them \"%s\" and \"%s\"; export the "
            "one to serve",
            path, s.prefix[0], s.prefix[1]);
    memcpy(prefix, s.prefix[pick], DR_PREFIX_MAX);
    return 0;
}

static const struct dr_st_tensor *find(const struct dr_st_file *f, const char *prefix,
                                       const char *name, int ndim) {
    char full[DR_PREFIX_MAX + 96];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const struct dr_st_tensor *t = dr_st_find(f, full);
    for (int i = 0; t && i < t->ndim; i++)
        if (t->dim[i] < 1)
            return NULL;
    return t && t->ndim == ndim ? t : NULL;
}

// The rotary table, [1,1,length,width]: of the weights to serve, else the one shape that all such
// tables of the file have. Averages are often made of parameters only, so that the table lies
// beside the weights of the last step.
static const struct dr_st_tensor *find_rope(const struct dr_st_file *f, const char *prefix) {
    const struct dr_st_tensor *own = find(f, prefix, rope, 4), *first = NULL;
    for (int i = 0; !own && i < dr_st_count(f); i++) {
        const struct dr_st_tensor *t = dr_st_at(f, i);
        const size_t len = strlen(t->name), tail = sizeof rope - 1;
        if (len < tail || strcmp(t->name + len - tail, rope) ||
            (len > tail && t->name[len - tail - 1] != '.'))
            continue;
        if (t->ndim != 4 || (first && memcmp(t->dim, first->dim, 4 * sizeof *t->dim)))
            return NULL;
        first = t;
    }
    return own ? own : first;
}

// hidden / dim, so that the network's hidden width, the whole part of dim times it, is `hidden`: a
// product of rounded numbers may fall just short.
static double mlp_ratio(int64_t hidden, int64_t dim) {
    double ratio = (double)hidden / (double)dim;
    while ((int64_t)((double)dim * ratio) < hidden)
        ratio = nextafter(ratio, INFINITY);
    return ratio;
}

static int64_t count_blocks(const struct dr_st_file *f, const char *prefix) {
    char name[64];
    for (int64_t i = 0;; i++) {
        snprintf(name, sizeof name, "blocks.%lld.norm1.weight", (long long)i);
        if (!find(f, prefix, name, 1))
            return i;
    }
}

static int not_in_shapes(const char *path, const char *what, const char *name, struct dr_err *err) {
    return dr_fail_at(
        err, DR_EFORMAT, "config",
        "%s: the header's __metadata__ has no \"driftd.config\", and %s cannot be told "
        "from the weights (\"%s\" is missing or of another shape); name a config for "
        "this file",
        path, what, name);
}

int dr_foreign_model(const struct dr_st_file *f, const char *path, const char *prefix,
                     struct dr_model_config *out, struct dr_err *err) {
    static const char label[] = "label_embed.embedding_table.weight",
                      patch[] = "patch_embed.proj.weight", q[] = "blocks.0.attn.q_norm.weight",
                      w1[] = "blocks.0.mlp.w1.weight";
    const struct dr_st_tensor *tl = find(f, prefix, label, 2), *tp = find(f, prefix, patch, 4),
                              *tq = find(f, prefix, q, 1), *tw = find(f, prefix, w1, 2),
                              *tr = find_rope(f, prefix),
                              *reg = find(f, prefix, "register_tokens", 3),
                              *code = find(f, prefix, "style_embed.codebook.weight", 2);
    if (!tl || tl->dim[0] < 2)
        return not_in_shapes(path, "the number of classes", label, err);
    if (!tp)
        return not_in_shapes(path, "the patch", patch, err);
    if (!tq)
        return not_in_shapes(path, "the number of heads", q, err);
    if (!tw)
        return not_in_shapes(path, "the feed-forward", w1, err);
    struct dr_config c;
    dr_config_defaults(&c);
    struct dr_model_config *m = &c.model;
    m->dim = tl->dim[1];
    m->classes = tl->dim[0] - 1;
    m->channels = tp->dim[1];
    m->patch = tp->dim[2];
    m->depth = count_blocks(f, prefix);
    m->heads = m->dim / tq->dim[0];
    m->mlp_ratio = mlp_ratio(tw->dim[0], m->dim);
    m->registers = reg ? reg->dim[1] : 0;
    m->style_tokens = code ? m->style_tokens : 0;
    m->codebook = code ? code->dim[0] : m->codebook;
    int64_t patches = tr ? tr->dim[2] - m->registers - ROPE_SPARE : 0;
    int64_t side = patches > 0 ? (int64_t)lround(sqrt((double)patches)) : 0;
    if (!side || side > 1024 || side * side != patches)
        return not_in_shapes(path, "the size of the images", rope, err);
    m->size = side * m->patch;
    *out = *m;
    return 0;
}
