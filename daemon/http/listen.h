// Listening sockets from --listen and systemd, and the rule that only this machine's own addresses
// go without a token. Main thread.
#pragma once

#include "api/api.h"
#include "daemon/base/options.h"

#define DD_MAX_LISTENERS (DD_LIST_MAX + 16)

struct dd_listeners {
    struct api_listener l[DD_MAX_LISTENERS];
    int n;
    char url[128]; // of the first one, for people
};
int dd_listen_open(const struct dd_options *o, bool have_token, struct dd_listeners *out,
                   struct dr_err *err);
void dd_listen_close(struct dd_listeners *l);
