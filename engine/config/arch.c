// The words of `model.arch` and what each generator needs, from engine/nn/nets.def.
#include "engine/config/field.h"

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

const char *dr_arch_word(int arch, char out[64]) {
    return dr_enum_word(dr_arch_words + 1, arch < 0 ? DR_ARCHS : arch, out);
}
