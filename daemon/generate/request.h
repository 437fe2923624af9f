// A request for images as the batcher takes it, and what it gives back. Plain data and four calls;
// whoever submits decides what they mean (daemon/http/generate.c: a suspended HTTP request).
#pragma once

#include "engine/core/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// DD_APNG: a walk's pictures one after the other. DD_OPENAI: JSON as OpenAI's image API has it.
enum dd_format { DD_PNG, DD_JSON, DD_ZIP, DD_NPY, DD_APNG, DD_OPENAI };

// One image. Its bytes depend on (checkpoint, seed, index, label, cfg) and where
// the noise comes from.
struct dd_gen_image {
    int32_t label;  // class index, or -1: drawn from (seed, index)
    float cfg;      // guidance scale
    uint32_t index; // noise stream under the request's seed; equal for the rows of a sweep
    float walk;     // where on the way to the noise of seed2: 0 to 1
};

// Where the noise comes from, apart from the seed.
struct dd_gen_noise {
    bool scaled; // by the temperature; false: as the model was trained
    double temperature;
    int steps; // of a walk to seed2, images of one row; 0: none
    uint64_t seed2;
    const float *own; // [n, own_count] in place of what the seed gives, or NULL
    size_t own_count;
};

// What is served when a request names no checkpoint.
struct dd_served {
    int64_t id;      // 0: the running job's weights
    const char *why; // static: "promoted", "completed" (the newest completed job's final
                     // checkpoint), "live" or "latest" (nothing else is there)
};

// A finished request. Takes part in nothing else: `bytes` belongs to the receiver.
struct dd_gen_result {
    void *bytes; // malloc'ed
    size_t size;
    const char *content_type; // static text
    char checkpoint[80];      // id, or "live:JOB"
    int64_t step;
    double queue_ms, compute_ms;
    int batch_size;          // largest batch that held an image of this request
    struct dd_served served; // when the request was accepted; why NULL: nothing was
    char note[200];          // what the client should know about the images, "" if nothing
};

struct dd_gen_request {
    const struct dd_gen_image *images; // [n]
    int n;
    uint64_t seed;
    int cols, rows; // grid, cols * rows >= n
    int scale;      // magnification of the picture, >= 1
    enum dd_format format;
    char checkpoint[80]; // "served", "live", "latest" or an id
    bool two_pass;       // guidance by the null class
    bool raw;            // the weights themselves, not their average
    struct dd_gen_noise noise;
    int64_t received_ns; // monotonic, 0: unknown

    void *owner; // for the calls below, which may come from any thread
    // True when nobody waits for the result any more. Asked just before a batch is put together and
    // before each picture is rendered.
    bool (*abandoned)(void *owner);
    // Exactly one of these, exactly once per accepted request, possibly before dd_batcher_submit
    // has returned; the request may be freed by it.
    void (*complete)(void *owner, const struct dd_gen_result *result);
    // rc: DR_E*, with its sentence in err; DR_ECANCELED: nobody waits.
    void (*fail)(void *owner, int rc, const struct dr_err *err);
};
