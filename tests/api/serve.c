// The fake daemon as a process, for measuring the HTTP layer alone: api-serve SECONDS prints its
// port and answers every generate request at once.
#include "fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static struct fake f;
    fake_start(&f, NULL);
    printf("%d\n", f.port);
    fflush(stdout);
    sleep(argc > 1 ? (unsigned)atoi(argv[1]) : 10);
    fake_stop(&f);
    return 0;
}
