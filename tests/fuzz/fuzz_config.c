// Fuzz target: parses the input as a training configuration. What is accepted must survive the way
// to JSON and back unchanged, as jobs keep their configuration in that form.
#include "tests/fuzz/memfile.h"

#include <string.h>

#include "engine/config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct dr_config c, again;
    struct dr_err err = {0}, first = {0};
    struct dr_problems list = {0};
    const int listed = dr_config_parse_listed((const char *)data, size, "fuzz", &c, &list, &first);
    if (dr_config_parse((const char *)data, size, "fuzz", &c, &err)) {
        if (!err.msg[0])
            abort(); // every refusal has a sentence
        if (!listed || !list.n || strcmp(err.msg, first.msg) || strcmp(err.msg, list.row[0].msg) ||
            strcmp(err.field, list.row[0].field))
            abort(); // and is the first of the list
        return 0;
    }
    if (listed || list.n)
        abort();
    char *text = dr_config_to_json(&c);
    if (!text || dr_config_parse(text, strlen(text), "again", &again, &err))
        abort();
    char *twice = dr_config_to_json(&again);
    if (!twice || strcmp(text, twice))
        abort();
    free(text);
    free(twice);
    return 0;
}
