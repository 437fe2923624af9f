// Writes the weights of a narrow Inception-v3 as docs/evaluation.md saves pytorch-fid's, its names,
// BatchNorms and all; for small images, which only a description can say. usage: narrow_inception
// FILE
#include "engine/nn/net.h"
#include "tests/golden/inception_rule.h"

#include <string.h>

int main(int argc, char **argv) {
    static const char json[] = "{\"arch\":\"inception\",\"size\":75,\"narrow\":16}";
    struct dr_net *net;
    if (argc != 2 || dr_net_parse(json, strlen(json), NULL, &net, NULL))
        return 2;
    rule_write(argv[1], net, &(struct rule_file){.description = json});
    dr_net_free(net);
    return 0;
}
