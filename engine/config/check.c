// Checks across keys: what a single key's range cannot say. Called by config.c after every change.
// Each error carries the key to change as its field.
#include "engine/config/field.h"
#include "engine/config/path.h"
#include "engine/ops.h"

#include <math.h>
#include <string.h>

// Goes on after a problem: err has the first, a list has all. Of KEYS the first is to be changed,
// the others are what the check reads as well.
#define FAIL(key, ...) dr_note_check(notes, KEYS(key), __VA_ARGS__)
#define FAIL_OF(keys, ...) dr_note_check(notes, keys, __VA_ARGS__)
#define KEYS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define MAX_STEP_SAMPLES (1 << 20) // samples of one step; far above any machine's memory

#define DR_SET(id, open, set, ...) [DR_DATA_##id] = {.name = set, __VA_ARGS__},
static const struct dr_set_facts sets[] = {
#include "engine/data/sets.def"
};
#undef DR_SET

const struct dr_set_facts *dr_set_facts(int set) {
    return set >= 0 && set < (int)DR_COUNT(sets) ? &sets[set] : NULL;
}

static bool has_points(const struct dr_config *c) {
    return sets[c->data.set].kind == DR_KIND_POINTS;
}

void dr_config_link(struct dr_config *c) {
    // A point is two channels of one pixel.
    const bool points = has_points(c);
    c->model.kind = sets[c->data.set].kind;
    c->model.size = points ? 1 : c->data.size;
    c->model.channels = points ? 2 : c->data.channels;
    c->model.classes = DR_MAX(c->data.classes, 1); // none is one
}

enum dr_show dr_show(int kind, int64_t channels) {
    if (kind == DR_KIND_POINTS)
        return DR_SHOW_POINTS;
    if (kind == DR_KIND_IMAGES && channels == 1)
        return DR_SHOW_GREY;
    return kind == DR_KIND_IMAGES && channels == 3 ? DR_SHOW_RGB : DR_SHOW_PLANES;
}

int64_t dr_model_width(const struct dr_model_config *m, int level) {
    return DR_MAX((int64_t)lround((double)m->dim * m->widths[level]), (int64_t)1);
}

static void check_levels(const struct dr_model_config *m, struct dr_notes *notes) {
    if (m->depth < 1 || m->depth > 16)
        FAIL("model.depth", "model.depth is %lld; model.arch unet takes 1 to 16 blocks per level",
             (long long)m->depth);
    if (m->nwidths < 1 || m->nwidths > DR_MAX_LEVELS) {
        FAIL("model.widths", "model.widths lists %d levels; model.arch unet takes 1 to %d",
             m->nwidths, DR_MAX_LEVELS);
        return;
    }
    int64_t side = m->size;
    for (int l = 0; l < m->nwidths; l++) {
        const int64_t c = dr_model_width(m, l);
        if (l && side == 1) {
            FAIL_OF(KEYS("model.widths", "data.size"),
                    "model.widths lists %d levels; images of data.size %lld have at most %d",
                    m->nwidths, (long long)m->size, l);
            return;
        }
        side = l ? (side + 1) / 2 : side;
        if (side <= m->attention && (m->heads < 1 || c % m->heads)) {
            FAIL_OF(
                KEYS("model.heads", "model.dim", "model.widths", "model.attention", "data.size"),
                "model.heads is %lld; expected a divisor of the %lld channels of level "
                "%d, which has attention (model.attention, model.widths)",
                (long long)m->heads, (long long)c, l + 1);
            return;
        }
    }
}

// Blocks of attention and feed-forward over patches; of those of lightningdit a SwiGLU's hidden
// width is two thirds of what model.mlp_ratio says.
static void check_blocks(const struct dr_model_config *m, struct dr_notes *notes) {
    const double wide = floor((double)m->dim * m->mlp_ratio),
                 share = m->arch == DR_ARCH_LIGHTNINGDIT && m->mlp == DR_MLP_SWIGLU ? 2.0 / 3 : 1;
    if (share * wide < 1)
        FAIL_OF(KEYS("model.mlp_ratio", "model.dim", "model.mlp", "model.arch"),
                "model.mlp_ratio is %g; with model.dim %lld that leaves no hidden width",
                m->mlp_ratio, (long long)m->dim);
    if (m->dim % m->heads != 0)
        FAIL_OF(KEYS("model.heads", "model.dim"),
                "model.heads is %lld; expected a divisor of model.dim (%lld)", (long long)m->heads,
                (long long)m->dim);
    else if (m->rope && m->dim / m->heads % 2 != 0)
        FAIL_OF(KEYS("model.rope", "model.dim", "model.heads"),
                "model.rope needs an even head width; model.dim / model.heads is %lld",
                (long long)(m->dim / m->heads));
    if ((m->pos_embed || (dr_arch_needs(m->arch) & DR_ARCH_POSITIONS)) && m->dim % 4 != 0)
        FAIL_OF(KEYS("model.dim", "model.pos_embed"),
                "model.dim is %lld; a position embedding needs a multiple of 4", (long long)m->dim);
    if (m->size % m->patch != 0)
        FAIL_OF(KEYS("model.patch", "data.size"),
                "model.patch is %lld; expected a divisor of data.size (%lld)", (long long)m->patch,
                (long long)m->size);
}

static void check_model(const struct dr_model_config *m, struct dr_notes *notes) {
    const unsigned needs = dr_arch_needs(m->arch);
    const bool points = needs & DR_ARCH_POINTS;
    char arch[64], kind[64];
    // Whoever shows or stores samples takes their shape from the kind: with the wrong one it would
    // read past their end.
    if (points != (m->kind == DR_KIND_POINTS))
        FAIL("model.arch", "model.arch is %s, which makes %s, but the kind is %s",
             dr_enum_word(dr_arch_words + 1, m->arch, arch), points ? "points" : "images",
             dr_enum_word(dr_kind_words, m->kind, kind));
    if (m->label_dropout > 0 && !m->null_class)
        FAIL_OF(KEYS("model.label_dropout", "model.null_class"),
                "model.label_dropout is %g but model.null_class is false; dropped labels "
                "need the null class",
                m->label_dropout);
    if (points && m->depth < 1)
        FAIL_OF(KEYS("model.depth", "model.arch"),
                "model.depth is %lld; model.arch mlp needs at least 1 layer", (long long)m->depth);
    if (needs & DR_ARCH_LEVELS)
        check_levels(m, notes);
    if (needs & DR_ARCH_PATCHES)
        check_blocks(m, notes);
}

int dr_model_config_check(const struct dr_model_config *m, struct dr_err *err) {
    struct dr_notes notes = {.err = err};
    check_model(m, &notes);
    return notes.rc;
}

static bool colour(const char *text) {
    return text[0] == '#' && strlen(text) == 7 && strspn(text + 1, "0123456789abcdefABCDEF") == 6;
}

static void check_pictures(const struct dr_data_config *d, struct dr_notes *notes) {
    const struct dr_set_facts *f = &sets[d->set];
    if (d->set == DR_DATA_FOLDER && d->channels != 1 && d->channels != 3)
        FAIL("data.channels",
             "data.channels is %lld; the pictures of a folder have 1 (grey) or 3 (rgb)",
             (long long)d->channels);
    if (d->flip && f->kind != DR_KIND_IMAGES)
        FAIL("data.flip", "data.flip is on; the set %s has no images to mirror", f->name);
    if (d->crop && f->kind != DR_KIND_IMAGES)
        FAIL("data.crop", "data.crop is %lld; the set %s has no images to move", (long long)d->crop,
             f->name);
    if (d->crop >= d->size)
        FAIL_OF(KEYS("data.crop", "data.size"),
                "data.crop is %lld; expected less than data.size (%lld)", (long long)d->crop,
                (long long)d->size);
    if (!colour(d->background))
        FAIL("data.background", "data.background is \"%s\"; expected a colour as #rrggbb",
             d->background);
}

static void check_data(const struct dr_data_config *d, struct dr_notes *notes) {
    const struct dr_set_facts *f = &sets[d->set];
    if (!dr_path_is_below(d->path))
        FAIL("data.path",
             "data.path is \"%.100s\"; expected a relative path without `..`, below the "
             "data directory",
             d->path);
    if (f->folder && !d->path[0])
        FAIL("data.path", "data.path is empty; the set %s needs the folder of its files", f->name);
    if (f->classes && d->classes && d->classes != f->classes)
        FAIL("data.classes", "data.classes is %lld; the set %s has %lld (0: without labels)",
             (long long)d->classes, f->name, (long long)f->classes);
    if (f->channels && d->channels != f->channels)
        FAIL("data.channels", "data.channels is %lld; the set %s has %lld", (long long)d->channels,
             f->name, (long long)f->channels);
    if (f->side && d->fit == DR_FIT_PAD && d->size < f->side)
        FAIL("data.size",
             "data.size is %lld; images of %s are %lldx%lld and cannot be padded to that: "
             "use %lld or more, or data.fit resize",
             (long long)d->size, f->name, (long long)f->side, (long long)f->side,
             (long long)f->side);
    check_pictures(d, notes);
}

static void check_encoder_features(const struct dr_config *c, struct dr_notes *notes) {
    const struct dr_feature_config *f = &c->features;
    if (has_points(c)) {
        FAIL("features.kind",
             "features.kind encoder works on images; the set %s has points in two "
             "dimensions",
             sets[c->data.set].name);
        return;
    }
    if (!f->encoder[0])
        FAIL("features.encoder",
             "features.encoder is empty; the kind encoder needs a recipe that trains one, "
             "checkpoint:ID, or a safetensors file");
    if (!f->map_global &&
        (f->pool == DR_FEATURE_POOL_GLOBAL ||
         !(f->map_locations || f->map_quadrants || f->map_patch2 || f->map_patch4)))
        FAIL("features.map_global",
             "no feature of the encoder's maps is on; set features.map_global, or another "
             "one with features.pool all");
}

static void check_kde_features(const struct dr_config *c, struct dr_notes *notes) {
    const struct dr_feature_config *f = &c->features;
    if (has_points(c))
        FAIL("features.kind",
             "features.kind kde works on images; the set %s has points in two dimensions",
             sets[c->data.set].name);
    if (f->encoder[0])
        FAIL("features.encoder",
             "features.encoder is %.100s; features.kind kde trains an encoder of its own: "
             "remove it, or set features.kind to encoder",
             f->encoder);
    if (!f->image && !f->quadrants && !f->patch2 && !f->patch4)
        FAIL_OF(KEYS("features.image", "features.quadrants", "features.patch2", "features.patch4"),
                "the encoder of features.kind kde has no feature to learn from; set at least "
                "one of features.image, features.quadrants, features.patch2, features.patch4");
    if (c->train.positives < 2)
        FAIL_OF(KEYS("train.positives", "features.kind"),
                "train.positives is %lld; features.kind kde needs two reals per class or more",
                (long long)c->train.positives);
    if (c->loss.field == DR_FIELD_LEARNED)
        FAIL_OF(KEYS("loss.field", "features.kind"),
                "loss.field is learned; with features.kind kde, whose features change in every "
                "step, only kernel and kernel-l2 work");
}

// Whoever names an encoder and leaves the kind at its default wants the encoder. Its other keys may
// stay: the kind is often changed over a recipe that has them.
static void check_pixel_features(const struct dr_feature_config *f, struct dr_notes *notes) {
    if (f->kind == DR_FEATURE_PIXEL && f->encoder[0])
        FAIL_OF(KEYS("features.encoder", "features.kind"),
                "features.encoder is %.100s, but features.kind is pixel, which has none: set "
                "features.kind to encoder, or leave features.encoder empty",
                f->encoder);
}

static void check_features(const struct dr_config *c, struct dr_notes *notes) {
    const struct dr_feature_config *f = &c->features;
    long long size = c->data.size;
    if (f->kind == DR_FEATURE_KDE) {
        check_kde_features(c, notes);
        if (has_points(c) || (!f->image && !f->quadrants && !f->patch2 && !f->patch4))
            return;
    } else if (f->kind == DR_FEATURE_ENCODER) {
        check_encoder_features(c, notes);
        if (f->pixel_weight <= 0 || has_points(c))
            return;
    } else if (!f->image && !f->quadrants && !f->patch2 && !f->patch4 && f->rms <= 0) {
        FAIL_OF(KEYS("features.image", "features.quadrants", "features.patch2", "features.patch4",
                     "features.rms"),
                "no feature is on; set at least one of features.image, features.quadrants, "
                "features.patch2, features.patch4, features.rms");
        return;
    }
    if (has_points(c)) {
        const char *wrong = !f->image      ? "features.image"
                            : f->quadrants ? "features.quadrants"
                            : f->patch2    ? "features.patch2"
                            : f->patch4    ? "features.patch4"
                            : f->rms > 0   ? "features.rms"
                                           : NULL;
        if (wrong)
            FAIL_OF(KEYS(wrong, "features.image"),
                    "%s cannot be %s for points in two dimensions, which have "
                    "features.image alone",
                    wrong, f->image ? "on" : "off");
        return;
    }
    if (f->quadrants && size % 2 != 0)
        FAIL_OF(KEYS("features.quadrants", "data.size"),
                "features.quadrants needs an even data.size, which is %lld", size);
    if (f->patch2 && size % 2 != 0)
        FAIL_OF(KEYS("features.patch2", "data.size"),
                "features.patch2 needs an even data.size, which is %lld", size);
    if (f->patch4 && size % 4 != 0)
        FAIL_OF(KEYS("features.patch4", "data.size"),
                "features.patch4 needs data.size to be a multiple of 4, not %lld", size);
}

static void check_reals(const struct dr_config *c, struct dr_notes *notes) {
    const struct dr_train_config *t = &c->train;
    if (t->sampler == DR_SAMPLER_QUEUE) {
        if (t->positives > t->queue_class)
            FAIL_OF(KEYS("train.positives", "train.queue_class"),
                    "train.positives is %lld; the queue sampler has at most "
                    "train.queue_class (%lld) of a class",
                    (long long)t->positives, (long long)t->queue_class);
        if (t->unconditional > t->queue_global)
            FAIL_OF(KEYS("train.unconditional", "train.queue_global"),
                    "train.unconditional is %lld; the queue sampler has at most "
                    "train.queue_global (%lld)",
                    (long long)t->unconditional, (long long)t->queue_global);
    }
    if (!sets[c->data.set].made)
        return; // how many there are is known once the files are read
    int64_t n = c->data.count;
    if (c->data.limit > 0 && c->data.limit < n)
        n = c->data.limit;
    if (t->positives > n / c->model.classes)
        FAIL_OF(KEYS("train.positives", "data.count", "data.limit", "data.classes"),
                "train.positives is %lld; the set has %lld images per class (data.count, "
                "data.limit)",
                (long long)t->positives, (long long)(n / c->model.classes));
    if (t->unconditional > n)
        FAIL_OF(KEYS("train.unconditional", "data.count", "data.limit"),
                "train.unconditional is %lld; the set has %lld images (data.count, "
                "data.limit)",
                (long long)t->unconditional, (long long)n);
}

// Keys without an effect on this field, whose user would think they had one.
static void check_field(const struct dr_config *c, struct dr_notes *notes) {
    if (c->loss.field == DR_FIELD_KERNEL_L2 && c->features.rms > 0)
        FAIL_OF(KEYS("features.rms", "loss.field"),
                "features.rms is %g; the field kernel-l2 puts every feature on the unit sphere, "
                "which leaves nothing of the length that rms holds: set it to 0",
                c->features.rms);
    if (c->loss.field == DR_FIELD_LEARNED && c->loss.bias != DR_BIAS_NONE)
        FAIL_OF(KEYS("loss.bias", "loss.field"),
                "loss.bias is abc, which only the fields kernel and kernel-l2 apply: set it to "
                "none, or loss.field to one of these");
}

static void check_train(const struct dr_config *c, struct dr_notes *notes) {
    const struct dr_train_config *t = &c->train;
    if (t->classes > c->model.classes)
        FAIL_OF(KEYS("train.classes", "data.classes"),
                "train.classes is %lld; expected at most data.classes (%lld), or 0 for all",
                (long long)t->classes, (long long)c->model.classes);
    if (t->alpha_min > t->alpha_max)
        FAIL_OF(KEYS("train.alpha_min", "train.alpha_max"),
                "train.alpha_min is %g; expected at most train.alpha_max (%g)", t->alpha_min,
                t->alpha_max);
    if (dr_config_batch(c) > MAX_STEP_SAMPLES)
        FAIL_OF(KEYS("train.generated", "train.classes", "data.classes"),
                "train.generated is %lld: %lld samples per step; expected at most %d",
                (long long)t->generated, (long long)dr_config_batch(c), MAX_STEP_SAMPLES);
    if (c->loss.field == DR_FIELD_KERNEL_L2 && t->unconditional > 0)
        FAIL_OF(KEYS("train.unconditional", "loss.field"),
                "train.unconditional is %lld; the field kernel-l2 has no unconditional "
                "negatives: set it to 0",
                (long long)t->unconditional);
    check_field(c, notes);
    if (c->loss.ldf.sigma_min > c->loss.ldf.sigma_max)
        FAIL_OF(KEYS("loss.ldf_sigma_min", "loss.ldf_sigma_max"),
                "loss.ldf_sigma_min is %g; expected at most loss.ldf_sigma_max (%g)",
                c->loss.ldf.sigma_min, c->loss.ldf.sigma_max);
    if (c->loss.normalize == DR_NORM_SINKHORN_SPLIT && c->loss.negatives != DR_NEG_INDEPENDENT)
        FAIL("loss.negatives",
             "loss.negatives is self-masked; loss.normalize sinkhorn-split has a plan to a "
             "second generated batch: set it to independent");
    check_reals(c, notes);
}

// A key of another kind of recipe would do nothing: whoever sets one has forgotten `kind`, or
// started from the wrong recipe. False: there are such keys.
static bool check_kind(const struct dr_config *c, struct dr_notes *notes) {
    struct dr_config plain;
    int n, found = 0;
    const struct dr_config_field *f = dr_config_fields(&n);
    dr_config_defaults(&plain);
    for (int i = 0; i < n; i++) {
        const int kind = dr_config_key_kind(f[i].path);
        if (dr_config_same_value(&f[i], c, &plain))
            continue;
        const bool foreign = c->kind == DR_RECIPE_EVAL      ? !dr_config_of_eval(f[i].path)
                             : c->kind == DR_RECIPE_ENCODER ? !strncmp(f[i].path, "eval.", 5)
                                                            : false;
        if (!foreign && (kind < 0 || kind == c->kind))
            continue;
        found++;
        if (kind < 0)
            FAIL(f[i].path, "%s is no key of recipes of kind %s: remove it", f[i].path,
                 dr_recipe_word(c->kind));
        else
            FAIL(f[i].path,
                 "%s is a key of recipes of kind %s, and this one is of kind %s: remove it, or "
                 "set `kind` to %s",
                 f[i].path, dr_recipe_word(kind), dr_recipe_word(c->kind), dr_recipe_word(kind));
    }
    return !found;
}

static void check_encoder(const struct dr_config *c, struct dr_notes *notes) {
    const struct dr_encoder_config *e = &c->encoder;
    const long long size = c->data.size;
    if (has_points(c)) {
        FAIL("data.set", "data.set is %s, which has points; an encoder needs images",
             sets[c->data.set].name);
        return;
    }
    for (int i = 0; i < e->stages; i++)
        if (e->blocks[i] != (double)(int)e->blocks[i]) {
            FAIL("encoder.blocks", "encoder.blocks holds %g; expected whole numbers", e->blocks[i]);
            break;
        }
    if (e->objective != DR_ENCODER_AUTOENCODE && c->data.classes < 2)
        FAIL_OF(KEYS("encoder.objective", "data.classes"),
                "encoder.objective needs two classes or more to tell apart, and data.classes "
                "is %lld; use autoencode",
                (long long)c->data.classes);
    if (e->objective != DR_ENCODER_CLASSIFY && size % e->mask_patch)
        FAIL_OF(KEYS("encoder.mask_patch", "data.size"),
                "encoder.mask_patch is %lld; expected a divisor of data.size (%lld)",
                (long long)e->mask_patch, size);
}

bool dr_config_evaluates(const struct dr_config *c) {
    return c->kind == DR_RECIPE_TRAIN &&
           (c->eval.every > 0 || c->eval.every_seconds > 0 || c->eval.at_end);
}

// What an evaluation needs, in a job of its own and in a training job that asks for it.
static void check_measures(const struct dr_config *c, struct dr_notes *notes) {
    const struct dr_eval_section *e = &c->eval;
    const long long classes = DR_MAX(c->data.classes, (int64_t)1);
    if (has_points(c)) {
        FAIL("data.set", "data.set is %s, which has points; an evaluation needs images",
             sets[c->data.set].name);
        return;
    }
    if (!e->judge[0] && !e->inception[0])
        FAIL_OF(KEYS("eval.judge", "eval.inception"),
                "eval.judge and eval.inception are both empty; an evaluation "
                "needs a judge or Inception weights");
    if (e->n < 2 * classes)
        FAIL_OF(KEYS("eval.n", "data.classes"),
                "eval.n is %lld; expected at least two samples of each of the %lld "
                "classes",
                (long long)e->n, classes);
    if (!dr_path_is_below(e->inception))
        FAIL("eval.inception",
             "eval.inception is \"%.100s\"; expected the id of a checkpoint or a relative path "
             "without `..`, below the data directory",
             e->inception);
    if (!dr_path_is_below(e->judge))
        FAIL("eval.judge",
             "eval.judge is \"%.100s\"; expected a recipe, the id of a checkpoint or a "
             "relative path without `..`, below the data directory",
             e->judge);
    if (c->kind == DR_RECIPE_TRAIN && e->judge[0] && !e->allow_own_encoder &&
        !strcmp(e->judge, c->features.encoder))
        FAIL_OF(KEYS("eval.judge", "features.encoder", "eval.allow_own_encoder"),
                "eval.judge is %.100s, as features.encoder is; a judge must be another network "
                "than the one the generator trains with (or set eval.allow_own_encoder)",
                e->judge);
}

static void check_eval(const struct dr_config *c, struct dr_notes *notes) {
    const struct dr_eval_section *e = &c->eval;
    const int named = (e->checkpoint > 0) + (e->job > 0) + (e->folder[0] != 0);
    if (named != 1)
        FAIL_OF(KEYS("eval.checkpoint", "eval.job", "eval.folder"),
                "%s of eval.checkpoint, eval.job and eval.folder %s given; expected one",
                named ? "several" : "none", named ? "are" : "is");
    if (!dr_path_is_below(e->folder))
        FAIL("eval.folder",
             "eval.folder is \"%.100s\"; expected a relative path without `..`, below the "
             "data directory",
             e->folder);
    check_measures(c, notes);
}

static void check_generator(const struct dr_config *c, struct dr_notes *notes) {
    const char *set = sets[c->data.set].name;
    const bool points = dr_arch_needs(c->model.arch) & DR_ARCH_POINTS;
    if (dr_config_evaluates(c))
        check_measures(c, notes);
    if (c->eval.patience > 0 && c->eval.every <= 0 && c->eval.every_seconds <= 0)
        FAIL_OF(KEYS("eval.patience", "eval.every", "eval.every_seconds"),
                "eval.patience is %lld, and nothing is evaluated while the job trains: set "
                "eval.every or eval.every_seconds",
                (long long)c->eval.patience);
    if (has_points(c) && !points) {
        FAIL("model.arch", "model.arch must be mlp for the two-dimensional set %s", set);
    } else if (!has_points(c) && points) {
        FAIL("model.arch",
             "model.arch mlp makes points in two dimensions; the set %s has images: use "
             "driftdit, lightningdit or unet",
             set);
    } else {
        check_model(&c->model, notes);
        check_pixel_features(&c->features, notes);
        check_features(c, notes);
    }
    check_train(c, notes);
}

void dr_config_check(const struct dr_config *c, struct dr_notes *notes) {
    const bool own_keys = check_kind(c, notes);
    check_data(&c->data, notes);
    if (!dr_path_is_below(c->init_from))
        FAIL("init_from",
             "init_from is \"%.100s\"; expected the id of a checkpoint or a relative path "
             "without `..`, below the data directory",
             c->init_from);
    if (!own_keys)
        return;
    if (c->kind == DR_RECIPE_ENCODER)
        check_encoder(c, notes);
    else if (c->kind == DR_RECIPE_EVAL)
        check_eval(c, notes);
    else
        check_generator(c, notes);
}
