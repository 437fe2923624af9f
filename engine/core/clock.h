// The engine's clock: monotonic, so setting the time of day moves nothing. Any thread.
#pragma once

double dr_seconds(void); // since some moment in the past
