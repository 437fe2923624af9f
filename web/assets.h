// The dashboard's files, packed at build time by web/embed.py (only where npm was there to fetch
// their libraries). Handed to the HTTP server by daemon/verbs/serve.c.
#pragma once

#include "api/api.h"

extern const struct api_asset web_assets[];
extern const size_t web_nassets;
