// See path.h.
#include "engine/config/path.h"

#include <string.h>

bool dr_path_is_below(const char *path) {
    if (path[0] == '/')
        return false;
    for (const char *p = path; p; p = strchr(p, '/'), p = p ? p + 1 : NULL)
        if (!strncmp(p, "..", 2) && (p[2] == '/' || !p[2]))
            return false;
    return true;
}
