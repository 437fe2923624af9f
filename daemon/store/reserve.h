// Room on the disk that driftd keeps for itself: the file STATE/reserve. On a full disk parts of it
// are given back, so that a removal, which is what makes room, can be written down and the next
// start can. Any thread.
#pragma once

#include <stdbool.h>

enum { DD_RESERVE = 8 << 20 };
// Makes the file, or makes it whole, where four times as much is free and DD_MIN_FREE is not
// crossed by it. A failure leaves none.
void dd_reserve_keep(const char *state_dir);
// Gives half of what there is back. False: there is nothing worth giving.
bool dd_reserve_give(const char *state_dir);
