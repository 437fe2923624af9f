// See spike.h. The mean is of logarithms, which a single outlier hardly moves.
#include "daemon/jobs/spike.h"

#include <math.h>

bool dd_spike(struct dd_spike *s, double value, double *usual) {
    *usual = exp(s->log_mean);
    if (!isfinite(value) || value <= 0)
        return false;
    const double times = value / *usual;
    if (!s->on && s->n >= DD_SPIKE_STEPS && times >= DD_SPIKE_TIMES) {
        s->on = true;
        s->lasting = 0;
        return true;
    }
    if (s->on && times >= 2) {
        if (++s->lasting < DD_SPIKE_STEPS)
            return false;
        s->n = 0;
    }
    s->on = false;
    if (s->n < DD_SPIKE_STEPS)
        s->n++;
    s->log_mean += (log(value) - s->log_mean) / s->n;
    return false;
}
