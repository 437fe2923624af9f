// Files that are mapped for reading, and lose pages while they are: another process truncates one,
// or its disk fails. The kernel then ends whoever touches such a page (SIGBUS). Mapped here, the
// file's pages become zeros instead and dr_mapped_lost is true, which whoever has read asks before
// a result counts.
//
// This needs a handler of SIGBUS, installed with a file where it is not there; faults elsewhere go
// to the handler that was there before. A content that is changed in place, at the same size, is
// not noticed. Any thread.
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct dr_mapped {
    const char *p; // NULL: none
    size_t n;
    int fd;   // stays open: its size is looked at, too, since the rest of a last page is zeros
    int slot; // -1: more files at once than are watched; then SIGBUS is as ever
};
// The first n bytes of an open file, read-only and shared. 0 or an errno.
int dr_mapped_open(int fd, size_t n, struct dr_mapped *out);
void dr_mapped_close(struct dr_mapped *m);
bool dr_mapped_lost(const struct dr_mapped *m);
