// The table of objectives. See objective.h.
#include "engine/train/objective.h"

#include <string.h>

static const struct dr_objective *const table[] = {&dr_objective_drift, &dr_objective_classify,
                                                   &dr_objective_autoencode, &dr_objective_both};

const struct dr_objective *dr_objective_find(const char *name) {
    for (size_t i = 0; i < DR_COUNT(table); i++)
        if (!strcmp(table[i]->name, name))
            return table[i];
    return NULL;
}

const struct dr_objective *dr_objective_of(const struct dr_config *cfg) {
    static const struct dr_objective *const encoder[] = {
        [DR_ENCODER_CLASSIFY] = &dr_objective_classify,
        [DR_ENCODER_AUTOENCODE] = &dr_objective_autoencode,
        [DR_ENCODER_BOTH] = &dr_objective_both};
    return cfg->kind == DR_RECIPE_ENCODER ? encoder[cfg->encoder.objective] : &dr_objective_drift;
}
