// A job kind for the tests (kind_count.c).
#pragma once

#include "daemon/jobs/kinds.h"

extern const struct dd_job_kind kind_count;
