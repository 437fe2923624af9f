// Points for a random search (sweeps.h): each value from its range or its list, by a seed of the
// file.
#include "daemon/sweeps/sweeps.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double LARGEST = 0x1p53; // whole numbers up to here are exact

static uint64_t next(uint64_t *state) { // splitmix64
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double uniform(uint64_t *state) { // [0, 1)
    return (double)(next(state) >> 11) * 0x1p-53;
}

static bool check_range(const char *key, const json_t *r, json_t *problems) {
    const json_t *lo = json_object_get(r, "min"), *hi = json_object_get(r, "max"),
                 *scale = json_object_get(r, "scale"), *v;
    const char *word = scale ? json_string_value(scale) : "linear", *member;
    char field[96];
    const size_t before = json_array_size(problems);
    snprintf(field, sizeof field, "search.ranges.%.60s", key);
    if (json_is_array(r) && json_array_size(r))
        return true;
    if (!json_is_object(r)) {
        dd_sweep_problem(problems, field,
                         "expected {\"min\", \"max\"} or a list of values to choose from");
        return false;
    }
    json_object_foreach((json_t *)(uintptr_t)r, member, v) if (strcmp(member, "min") &&
                                                               strcmp(member, "max") &&
                                                               strcmp(member, "scale"))
        dd_sweep_problem(problems, field, "unknown key %.40s; expected min, max and scale", member);
    if (!json_is_number(lo) || !json_is_number(hi) ||
        !(json_number_value(lo) < json_number_value(hi)) || !(json_number_value(lo) >= -LARGEST) ||
        !(json_number_value(hi) <= LARGEST))
        dd_sweep_problem(problems, field,
                         "expected numbers `min` and `max`, min below max, neither beyond 2^53");
    if (!word || (strcmp(word, "linear") && strcmp(word, "log")))
        dd_sweep_problem(problems, field, "`scale` is linear or log");
    else if (!strcmp(word, "log") && !(json_number_value(lo) > 0))
        dd_sweep_problem(problems, field, "`min` must be greater than 0 with the scale log");
    return json_array_size(problems) == before;
}

static json_t *draw(const json_t *r, uint64_t *state) {
    const double u = uniform(state);
    if (json_is_array(r))
        return json_incref(json_array_get(r, (size_t)(u * (double)json_array_size(r))));
    const json_t *lo = json_object_get(r, "min"), *hi = json_object_get(r, "max");
    const char *scale = json_string_value(json_object_get(r, "scale"));
    const bool whole = json_is_integer(lo) && json_is_integer(hi),
               logs = scale && !strcmp(scale, "log");
    double a = json_number_value(lo), b = json_number_value(hi) + whole;
    double v = logs ? a * pow(b / a, u) : a + u * (b - a);
    if (whole)
        return json_integer((json_int_t)fmin(floor(v), b - 1));
    char text[40]; // as many digits as anybody would write
    snprintf(text, sizeof text, "%.4g", v);
    sscanf(text, "%lf", &v);
    return json_real(fmin(fmax(v, a), b));
}

json_t *dd_sweep_draw(const json_t *ranges, int64_t count, int64_t seed, json_t *problems) {
    const char *key;
    json_t *r, *points = json_array();
    uint64_t state = (uint64_t)seed;
    bool ok = json_is_object(ranges) && json_object_size(ranges);
    if (!ok)
        dd_sweep_problem(problems, "search.ranges",
                         "expected an object such as {\"optim.lr\": {\"min\": 1e-4, \"max\": "
                         "1e-2, \"scale\": \"log\"}}");
    if (json_object_size(ranges) > DD_SWEEP_MAX_KEYS) {
        dd_sweep_problem(problems, "search.ranges", "%zu ranges; expected at most %d",
                         json_object_size(ranges), DD_SWEEP_MAX_KEYS);
        ok = false;
    }
    json_object_foreach((json_t *)(uintptr_t)ranges, key, r) ok &= check_range(key, r, problems);
    for (int64_t i = 0; ok && i < count; i++) {
        json_t *point = json_object();
        json_object_foreach((json_t *)(uintptr_t)ranges, key, r)
            json_object_set_new(point, key, draw(r, &state));
        json_array_append_new(points, point);
    }
    if (ok)
        return points;
    json_decref(points);
    return NULL;
}
