// The table of objectives. See objective.h.
#include "engine/train/objective.h"

#include <string.h>

static const struct dr_objective *const table[] = {&dr_objective_drift};

const struct dr_objective *dr_objective_find(const char *name) {
    for (size_t i = 0; i < DR_COUNT(table); i++)
        if (!strcmp(table[i]->name, name))
            return table[i];
    return NULL;
}
