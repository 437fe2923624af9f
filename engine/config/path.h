// Paths that come from elsewhere.
#pragma once

#include <stdbool.h>

// Whether a path from a configuration or an archive stays below the folder that it is relative to:
// not absolute, without "..".
bool dr_path_is_below(const char *path);
