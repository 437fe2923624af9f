// The form in which OpenAI's image API asks: its members become the parameters of a generate
// request, and the answer is marked to have its shape. The handler of POST /v1/images/generations.
#include "api/handlers.h"
#include "api/params.h"
#include "api/respond.h"

#include <stdio.h>
#include <string.h>

static int invalid(struct api_problem *p, const char *field, const char *text) {
    if (!p->status)
        api_problem_set(p, 422, "invalid-value", "%s: %s", field, text);
    return api_problem_field(p, field, "%s", text);
}

// What its clients send and what has no meaning here.
static const char *const openai_keys[] = {
    "prompt",      "n",     "size", "response_format", "model",         "seed",       "cfg",
    "quality",     "style", "user", "stream",          "output_format", "moderation", "background",
    "temperature", NULL};

static void expect_word(const json_t *o, const char *key, const char *word, struct api_problem *p) {
    const json_t *v = json_object_get(o, key);
    char text[80];
    if (!v || json_is_null(v) || (json_is_string(v) && !strcmp(json_string_value(v), word)))
        return;
    snprintf(text, sizeof text, "only `%s` is made here", word);
    invalid(p, key, text);
}

// Members without a meaning here: a value of the wrong type is a mistake all the same.
static void expect_texts(const json_t *o, struct api_problem *p) {
    static const char *const keys[] = {"quality", "style", "user", "moderation", "background"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *v = json_object_get(o, keys[i]);
        if (v && !json_is_null(v) && !json_is_string(v))
            invalid(p, keys[i], "expected a string");
    }
}

// A number, or the same as a string; cfg may be a list of them.
static void add_number(struct api_req *r, const json_t *o, const char *key, struct api_problem *p) {
    const json_t *v = json_object_get(o, key);
    if (v && json_is_array(v) && strcmp(key, "cfg") != 0)
        invalid(p, key, "expected a number");
    else if (v)
        api_gen_add(r, key, v, p);
}

// `driftd` is what is served; anything else names a checkpoint, whose id may be a number.
static void add_model(struct api_req *r, const json_t *o, struct api_problem *p) {
    const json_t *v = json_object_get(o, "model");
    if (!v || json_is_null(v))
        return;
    if (!json_is_string(v) && !json_is_integer(v))
        invalid(p, "model", "expected `driftd`, or a checkpoint: its id or a tag");
    else if (!json_is_string(v) || strcmp(json_string_value(v), "driftd") != 0)
        api_gen_add(r, "checkpoint", v, p);
}

static void openai_query(struct api_req *r, const json_t *o, struct api_problem *p) {
    static const char *const same[] = {"n", "seed", "cfg", "temperature", NULL};
    const json_t *prompt = json_object_get(o, "prompt"), *size = json_object_get(o, "size"),
                 *stream = json_object_get(o, "stream");
    if (!json_is_string(prompt) && !json_is_integer(prompt))
        invalid(p, "prompt", "expected the name or the number of a class, or `random`");
    else
        api_gen_add(r, "class", prompt, p);
    for (int i = 0; same[i]; i++)
        add_number(r, o, same[i], p);
    add_model(r, o, p);
    if (json_is_true(stream))
        invalid(p, "stream", "answers come whole");
    else if (stream && !json_is_boolean(stream) && !json_is_null(stream))
        invalid(p, "stream", "expected false: answers come whole");
    expect_texts(o, p);
    expect_word(o, "response_format", "b64_json", p);
    expect_word(o, "output_format", "png", p);
    if (size && !json_is_null(size) && (!json_is_string(size) || json_string_length(size) > 20))
        invalid(p, "size", "expected WIDTHxHEIGHT or `auto`");
    else if (json_is_string(size) && strcmp(json_string_value(size), "auto") != 0)
        snprintf(r->size, sizeof r->size, "%s", json_string_value(size));
}

enum MHD_Result api_h_openai(struct api_req *r) {
    struct api_problem p = {0};
    json_t *o = api_body_object(r, openai_keys, &p);
    if (o)
        openai_query(r, o, &p);
    json_decref(o);
    return p.status ? api_send_problem(r, &p) : api_h_generate(r);
}
