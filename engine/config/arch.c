// Words of the tables: `model.arch` and what each generator needs, from engine/nn/nets.def; the
// kinds of recipes and which keys only one of them has.
#include "engine/config/field.h"

#include <string.h>

#define NETWORK(word)

const char dr_arch_words[] =
#define GENERATOR(ID, word, needs) "|" #word
#include "engine/nn/nets.def"
#undef GENERATOR
    ;

unsigned dr_arch_needs(int arch) {
    static const unsigned all[] = {
#define GENERATOR(ID, word, needs) needs,
#include "engine/nn/nets.def"
#undef GENERATOR
    };
    return arch >= 0 && arch < (int)DR_COUNT(all) ? all[arch] : 0;
}

const char *dr_recipe_word(int kind) {
#define X(ID, name, text) text,
    static const char *const word[] = {DR_RECIPES(X)};
#undef X
    return word[kind];
}

int dr_config_key_kind(const char *path) {
    static const struct {
        const char *prefix;
        int kind;
    } only[] = {{"model.", DR_RECIPE_TRAIN},
                {"features.", DR_RECIPE_TRAIN},
                {"loss.", DR_RECIPE_TRAIN},
                {"train.classes", DR_RECIPE_TRAIN},
                {"train.generated", DR_RECIPE_TRAIN},
                {"train.positives", DR_RECIPE_TRAIN},
                {"train.unconditional", DR_RECIPE_TRAIN},
                {"train.alpha_", DR_RECIPE_TRAIN},
                {"train.sampler", DR_RECIPE_TRAIN},
                {"train.queue_", DR_RECIPE_TRAIN},
                {"train.push_per_step", DR_RECIPE_TRAIN},
                {"metrics.spread_every", DR_RECIPE_TRAIN},
                {"metrics.collapse_below", DR_RECIPE_TRAIN},
                {"samples.cfg", DR_RECIPE_TRAIN},
                {"encoder.", DR_RECIPE_ENCODER},
                {"metrics.test_", DR_RECIPE_ENCODER},
                {"metrics.probe_", DR_RECIPE_ENCODER},
                {"eval.checkpoint", DR_RECIPE_EVAL},
                {"eval.job", DR_RECIPE_EVAL},
                {"eval.folder", DR_RECIPE_EVAL},
                {"eval.skip_existing", DR_RECIPE_EVAL},
                {"eval.every", DR_RECIPE_TRAIN}, // and every_seconds
                {"eval.at_end", DR_RECIPE_TRAIN},
                {"eval.best", DR_RECIPE_TRAIN},
                {"eval.patience", DR_RECIPE_TRAIN}};
    for (size_t i = 0; i < DR_COUNT(only); i++)
        if (!strncmp(path, only[i].prefix, strlen(only[i].prefix)))
            return only[i].kind;
    return -1;
}

bool dr_config_of_eval(const char *path) {
    return !strchr(path, '.') ? strcmp(path, "init_from") != 0
                              : !strncmp(path, "data.", 5) || !strncmp(path, "eval.", 5);
}
