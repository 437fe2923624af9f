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
    struct dd_socket_file {
        char path[108];
        uint64_t dev, ino;
    } file[DD_LIST_MAX]; // unix sockets made here
    int nfiles;
};
// A unix socket that another process listens on is refused; one that nobody listens on is replaced.
int dd_listen_open(const struct dd_options *o, bool have_token, struct dd_listeners *out,
                   struct dr_err *err);
void dd_listen_close(struct dd_listeners *l); // when no server took the descriptors over
// Removes the unix sockets made by dd_listen_open, unless another process has replaced them.
void dd_listen_unlink(struct dd_listeners *l);
