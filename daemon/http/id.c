// Ids in paths and queries (daemon.h).
#include "daemon/http/daemon.h"

#include <errno.h>
#include <stdlib.h>

bool dd_glue_id(const char *id, int64_t *out) {
    char *end;
    errno = 0;
    long long v = strtoll(id, &end, 10);
    *out = v;
    return id[0] >= '1' && id[0] <= '9' && !*end && !errno;
}
