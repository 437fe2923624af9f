// Sudden jumps of a positive number that is measured at every step, such as the gradient norm.
#pragma once

#include <stdbool.h>

enum { DD_SPIKE_TIMES = 10, DD_SPIKE_STEPS = 200 };

// All zero at first.
struct dd_spike {
    double log_mean; // of the last DD_SPIKE_STEPS values or so; stands still during a spike
    int n, lasting;  // values in the mean; steps of the spike so far
    bool on;
};
// Takes the next value; true when a spike begins: it is DD_SPIKE_TIMES the mean or more, once
// DD_SPIKE_STEPS values are known. A spike ends below twice the mean; one that lasts for as many
// steps is taken for the new level, which is then learnt from nothing. *usual: the mean it is
// compared to. A value that is not finite or not above zero is passed over.
bool dd_spike(struct dd_spike *s, double value, double *usual);
