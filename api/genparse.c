// From the query of a generate request to one entry per image. Lists of classes and of scales span
// a grid: images go scale by scale, within a scale class by class, and the noise index restarts at
// every scale, so that the rows of a sweep show the same noise. Called by generate.c.
#include "api/handlers.h"
#include "api/negotiate.h"
#include "api/params.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#define MAX_LIST API_GEN_MAX_IMAGES // an answer's `request` names the class of each image
#define MAX_SCALES 64
#define MAX_VALUES ((int64_t)64 << 20) // of an answer: what one request may take of memory and time

struct parse {
    struct api_req *r;
    struct api_model model;
    struct api_problem *p;
    int32_t labels[MAX_LIST];
    int nlabels;
    float scales[MAX_SCALES];
    int nscales;
};

static void bad(struct parse *x, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void bad(struct parse *x, const char *field, const char *fmt, ...) {
    char msg[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (!x->p->status)
        api_problem_set(x->p, 422, "invalid-value", "%s: %s", field, msg);
    api_problem_field(x->p, field, "%s", msg);
}

static int add_label(struct parse *x, int64_t label) {
    if (x->nlabels == MAX_LIST) {
        bad(x, "class", "more than %d classes are listed", MAX_LIST);
        return -1;
    }
    x->labels[x->nlabels++] = (int32_t)label;
    return 0;
}

// As it is written, else in any case.
static int class_by_name(struct parse *x, const char *name) {
    int (*const same[])(const char *, const char *) = {strcmp, strcasecmp};
    for (int k = 0; k < 2; k++)
        for (int i = 0; x->model.names && i < x->model.classes; i++)
            if (!same[k](name, x->model.names[i]))
                return i;
    return -1;
}

static void unknown_class(struct parse *x, const char *word) {
    int best = 4, at = -1;
    for (int i = 0; x->model.names && i < x->model.classes; i++) {
        int d = api_edit_distance(word, x->model.names[i], 5);
        if (d < best && d < (int)strlen(x->model.names[i])) {
            best = d;
            at = i;
        }
    }
    bad(x, "class",
        "`%.40s` is not a class; expected an index from 0 to %d, a name, a list or "
        "`random`%s%.40s%s",
        word, x->model.classes - 1, at < 0 ? "" : "; did you mean `",
        at < 0 ? "" : x->model.names[at], at < 0 ? "" : "`?");
}

static const char *classes_of(const struct parse *x, char text[64]) {
    const int n = x->model.classes;
    if (n == 1)
        snprintf(text, 64, "the model has one class, 0");
    else
        snprintf(text, 64, "the model has %d classes, 0 to %d", n, n - 1);
    return text;
}

// One item of the list: an index, a name, a range "2-5", or "random". An index comes first: it is
// what replies hold, whatever the classes are called.
static int add_class(struct parse *x, char *word) {
    char has[64];
    int64_t a, b;
    int i;
    char *dash = strchr(word + (*word != '\0'), '-');
    if (!strcmp(word, "random"))
        return add_label(x, -1);
    const bool index = !api_parse_int(word, &a);
    if (index && a >= 0 && a < x->model.classes)
        return add_label(x, a);
    if ((i = class_by_name(x, word)) >= 0)
        return add_label(x, i);
    if (index) {
        bad(x, "class", "%lld is out of range; %s", (long long)a, classes_of(x, has));
        return -1;
    }
    if (dash) {
        *dash = '\0';
        bool range = !api_parse_int(word, &a) && !api_parse_int(dash + 1, &b);
        *dash = '-';
        if (range && a >= 0 && a <= b && b < x->model.classes) {
            for (; a <= b; a++)
                if (add_label(x, a))
                    return -1;
            return 0;
        }
        if (range) {
            bad(x, "class", "range %.40s; %s", word, classes_of(x, has));
            return -1;
        }
    }
    unknown_class(x, word);
    return -1;
}

// A list with commas, or a name that has them or begins with a space. Numbers stay a list.
static int add_classes(struct parse *x, char *text) {
    char *save = NULL;
    int i = text[strspn(text, "0123456789-, ")] ? class_by_name(x, text) : -1, rc = 0;
    if (i >= 0 && (*text == ' ' || strchr(text, ',')))
        return add_label(x, i);
    for (char *w = strtok_r(text, ",", &save); w && !rc; w = strtok_r(NULL, ",", &save))
        rc = add_class(x, w + strspn(w, " "));
    return rc;
}

static void parse_classes(struct parse *x) {
    const char *text = api_query_get(&x->r->query, "class");
    char *copy = strdup(text ? text : "random"), *save = NULL;
    if (!copy) {
        bad(x, "class", "out of memory");
        return;
    }
    for (char *w = strtok_r(copy, API_ITEMS, &save); w; w = strtok_r(NULL, API_ITEMS, &save))
        if (add_classes(x, w))
            break;
    if (!x->nlabels && !x->p->status)
        bad(x, "class", "is empty; expected an index, a name, a list or `random`");
    free(copy);
}

static int add_scale(struct parse *x, const char *word) {
    double v;
    if (x->nscales == MAX_SCALES) {
        bad(x, "cfg", "more than %d scales are listed", MAX_SCALES);
        return -1;
    }
    if (api_parse_num(word, &v) || v < x->model.cfg_min || v > x->model.cfg_max) {
        bad(x, "cfg", "`%.40s` is not a number from %g to %g", word, x->model.cfg_min,
            x->model.cfg_max);
        return -1;
    }
    x->scales[x->nscales++] = (float)v;
    return 0;
}

static void parse_scales(struct parse *x) {
    const char *text = api_query_get(&x->r->query, "cfg");
    if (!text) {
        x->scales[x->nscales++] = (float)x->model.cfg_default;
        return;
    }
    char *copy = strdup(text), *save = NULL;
    if (!copy) {
        bad(x, "cfg", "out of memory");
        return;
    }
    for (char *w = strtok_r(copy, ",", &save); w; w = strtok_r(NULL, ",", &save))
        if (add_scale(x, w + strspn(w, " ")))
            break;
    if (!x->nscales && !x->p->status)
        bad(x, "cfg", "is empty; expected a number or a list of numbers");
    free(copy);
}

// "8x4": digits, at most five a side. False: it is something else.
static bool two_sides(const char *text, int *w, int *h) {
    static const char digits[] = "0123456789";
    const size_t a = strspn(text, digits), b = text[a] == 'x' ? strspn(text + a + 1, digits) : 0;
    if (!a || a > 5 || !b || b > 5 || text[a + 1 + b])
        return false;
    *w = atoi(text);
    *h = atoi(text + a + 1);
    return true;
}

static void parse_grid(struct parse *x, int n, struct api_gen_request *out) {
    const char *text = api_query_get(&x->r->query, "grid");
    int cols, rows;
    if (!text)
        return;
    if (!two_sides(text, &cols, &rows) || cols < 1 || rows < 1 || cols > 1024 || rows > 1024) {
        bad(x, "grid", "`%.40s` is not COLUMNSxROWS, such as 8x4", text);
        return;
    }
    if (n && cols * rows < n) {
        bad(x, "grid", "%dx%d holds fewer than n=%d images", cols, rows, n);
        return;
    }
    out->cols = cols;
    out->rows = rows;
}

// Images per scale: n, else what the grid holds, else one per listed class.
static void layout(struct parse *x, int64_t n, struct api_gen_request *out) {
    int64_t each = n;
    if (!each && out->cols)
        each = (int64_t)out->cols * out->rows / x->nscales;
    if (!each)
        each = x->nlabels;
    int64_t total = each * x->nscales;
    if (total < 1 || total > x->model.max_n || total > API_GEN_MAX_IMAGES) {
        bad(x, "n", "%lld images; at most %d per request", (long long)total, x->model.max_n);
        return;
    }
    if (out->cols && (int64_t)out->cols * out->rows < total) {
        bad(x, "grid", "%dx%d holds fewer than the %lld images", out->cols, out->rows,
            (long long)total);
        return;
    }
    out->n = (int)total;
    out->images = calloc((size_t)total, sizeof *out->images);
    if (!out->images) {
        api_problem_set(x->p, 500, "internal", "out of memory");
        return;
    }
    for (int64_t i = 0; i < total; i++) {
        int64_t k = i % each;
        out->images[i] = (struct api_gen_image){.label = x->labels[k * x->nlabels / each],
                                                .cfg = x->scales[i / each],
                                                .index = (uint32_t)k};
    }
    if (each < x->nlabels)
        bad(x, "n", "%lld is fewer than the %d listed classes", (long long)each, x->nlabels);
    if (out->cols)
        return;
    if (x->nscales > 1) {
        out->cols = (int)each;
    } else {
        while (out->cols * out->cols < out->n)
            out->cols++;
        if (x->nlabels > 1 && each % x->nlabels == 0 && each > x->nlabels)
            out->cols = (int)(each / x->nlabels); // one row per class
        else if (x->nlabels > 1 && each == x->nlabels && each <= 16)
            out->cols = (int)each;
    }
    out->rows = (out->n + out->cols - 1) / out->cols;
}

// In the order of enum api_format; the last is of walks alone.
static const char *const types[] = {"image/png", "application/json", "application/zip",
                                    "application/octet-stream", "image/apng"};

// What Accept gives the greatest weight, the first of those where several have it.
static int default_format(struct api_req *r) {
    const int n = api_query_get(&r->query, "seed2") ? 5 : 4;
    char *accept = api_header_list(r, "Accept");
    int best = -1;
    double most = 0;
    for (int i = 0; i < n; i++) {
        const double q = api_media_quality(accept, types[i]);
        if (q > most) {
            most = q;
            best = i;
        }
    }
    free(accept);
    return best;
}

static int pick_format(struct parse *x, struct api_gen_request *out) {
    int format = -1;
    if (x->r->openai) {
        out->format = API_OPENAI;
        return 0;
    }
    api_q_enum(x->r, "format", "png|json|zip|npy|apng", &format, x->p);
    bool given = api_query_get(&x->r->query, "format");
    if (!given)
        format = default_format(x->r);
    if (format < 0 && given)
        return 0; // already reported
    if (format < 0 || (given && !api_accepts(x->r, types[format])))
        return api_problem_set(x->p, 406, "not-acceptable",
                               "Accept allows none of image/png, application/json, "
                               "application/zip, application/octet-stream and, of a walk, "
                               "image/apng%s",
                               given ? " that fits the format asked for" : "");
    out->format = (enum api_format)format;
    return 0;
}

// The size that OpenAI's form asks for: the model's own, or a whole multiple of it.
static void pick_size(struct parse *x, int64_t *scale) {
    int w = 0, h = 0;
    const char *text = x->r->size;
    if (!*text)
        return;
    const int side = x->model.width;
    if (two_sides(text, &w, &h) && w == h && side > 0 && w % side == 0 && w / side >= 1 &&
        w / side <= 32) {
        *scale = w / side;
        return;
    }
    bad(x, "size", "`%.20s`: this model makes %dx%d and whole multiples of it up to %dx%d", text,
        side, side, 32 * side, 32 * side);
}

// A walk from the noise of seed to that of seed2, and the noise's scale.
static void pick_noise(struct parse *x, struct api_gen_request *out) {
    int64_t seed2 = -1, steps = 16;
    int weights = 0;
    const bool stepped = api_query_get(&x->r->query, "steps");
    api_q_enum(x->r, "weights", "ema|raw", &weights, x->p);
    out->raw = weights == 1;
    out->scaled = api_query_get(&x->r->query, "temperature");
    api_q_num(x->r, "temperature", 0, 10, &out->temperature, x->p);
    if (out->temperature == 1)
        out->scaled = false;
    api_q_int(x->r, "seed2", 0, (1LL << 53) - 1, &seed2, x->p);
    api_q_int(x->r, "steps", 2, 256, &steps, x->p);
    if (stepped && seed2 < 0 && !x->p->status)
        bad(x, "steps", "is of a walk; `seed2` is where it leads");
    if (out->format == API_APNG && seed2 < 0 && !x->p->status)
        bad(x, "format", "apng is of a walk; `seed2` is where it leads");
    if (seed2 < 0)
        return;
    out->seed2 = (uint64_t)seed2;
    out->steps = (int)steps;
    if (x->nscales > 1)
        bad(x, "cfg", "a walk has one scale");
    if (out->noise)
        bad(x, "seed2", "a walk is between two seeds; the body holds noise");
    if (api_query_get(&x->r->query, "grid"))
        bad(x, "grid", "a walk has one row per image and one column per step");
}

// Own noise says how many images there are.
static void own_noise(struct parse *x, int64_t *n, const struct api_gen_request *out) {
    const size_t takes = x->model.noise_count;
    if (!out->noise)
        return;
    if (takes && out->noise_count != takes)
        bad(x, "body", "the noise has %zu values per image; this model takes %zu", out->noise_count,
            takes);
    if (*n && *n * x->nscales != out->n)
        bad(x, "n", "%lld images; the body holds noise for %d", (long long)*n * x->nscales, out->n);
    if (out->n % x->nscales)
        bad(x, "cfg", "%d scales do not divide the noise of %d images", x->nscales, out->n);
    *n = out->n / x->nscales;
}

// Each image of the plain layout becomes a row of steps.
static void lay_out_walk(struct parse *x, struct api_gen_request *out) {
    const int rows = out->n, steps = out->steps;
    const int64_t total = (int64_t)rows * steps;
    if (total > x->model.max_n || total > API_GEN_MAX_IMAGES) {
        bad(x, "steps", "%lld images; at most %d per request", (long long)total, x->model.max_n);
        return;
    }
    struct api_gen_image *all = calloc((size_t)total, sizeof *all);
    if (!all) {
        api_problem_set(x->p, 500, "internal", "out of memory");
        return;
    }
    for (int k = 0; k < rows; k++)
        for (int s = 0; s < steps; s++) {
            all[k * steps + s] = out->images[k];
            all[k * steps + s].walk = s == steps - 1 ? 1 : (float)s / (float)(steps - 1);
        }
    free(out->images);
    out->images = all;
    out->n = (int)total;
    out->cols = steps;
    out->rows = rows;
}

static void pick_seed(struct parse *x, struct api_gen_request *out) {
    int64_t seed = -1;
    api_q_int(x->r, "seed", 0, (1LL << 53) - 1, &seed, x->p);
    if (seed < 0) {
        uint64_t v;
        if (getrandom(&v, sizeof v, 0) != sizeof v)
            v = api_now_ns() * 0x9e3779b97f4a7c15u;
        seed = (int64_t)(v >> 32); // short enough to be typed again
    }
    out->seed = (uint64_t)seed;
}

// Pictures that an answer encodes: one with its empty places, or one per image. Of points: one
// plot, one per step of an animation, or one per image.
static int64_t pictures(const struct api_gen_request *out, bool plots) {
    const bool whole = out->format == API_PNG || out->format == API_APNG;
    if (plots && whole)
        return out->format == API_APNG ? out->steps : 1;
    return whole ? (int64_t)out->cols * out->rows : out->n;
}

// Values that an answer encodes: those of its pictures, or (npy) of the images as they are.
static void check_values(struct parse *x, const struct api_gen_request *out) {
    const struct api_model *m = &x->model;
    const bool plots = m->plot_side > 0 && out->format != API_NPY;
    const int64_t scale = out->format == API_NPY || plots ? 1 : out->scale;
    const int64_t each =
        plots ? (int64_t)m->plot_side * m->plot_side
              : scale * scale * m->width * m->height * (m->channels > 0 ? m->channels : 1);
    const int64_t values = each * (out->format == API_NPY ? out->n : pictures(out, plots));
    const char *field = scale == 1 ? "n" : x->r->openai ? "size" : "scale";
    if (values > MAX_VALUES)
        bad(x, field, "the answer would have %lld values; at most %lld are possible",
            (long long)values, (long long)MAX_VALUES);
}

static int parse_all(struct parse *x, struct api_gen_request *out) {
    int64_t n = 0, scale = 1, timeout = x->r->srv->cfg.default_timeout_ms;
    int guidance = 0;
    if (pick_format(x, out))
        return -1;
    parse_classes(x);
    parse_scales(x);
    pick_seed(x, out);
    pick_noise(x, out);
    api_q_int(x->r, "n", 1, x->model.max_n, &n, x->p);
    api_q_int(x->r, "scale", 1, 32, &scale, x->p);
    pick_size(x, &scale);
    api_q_int(x->r, "timeout_ms", 1, 3600000, &timeout, x->p);
    api_q_enum(x->r, "guidance", "one-step|two-pass", &guidance, x->p);
    if (guidance == API_GUIDANCE_TWO_PASS && !x->model.two_pass)
        bad(x, "guidance", "two-pass needs a model with a null class");
    if (!x->p->status)
        own_noise(x, &n, out);
    parse_grid(x, (int)n, out);
    if (x->p->status)
        return -1;
    layout(x, n, out);
    if (!x->p->status && out->steps)
        lay_out_walk(x, out);
    out->scale = (int)scale;
    out->guidance = (enum api_guidance)guidance;
    out->received_ns = x->r->start_ns;
    out->deadline_ns = x->r->start_ns + (uint64_t)timeout * 1000000u;
    if (!x->p->status)
        check_values(x, out);
    return x->p->status ? -1 : 0;
}

int api_gen_parse(struct api_req *r, struct api_gen_request *out, struct api_problem *p) {
    struct parse *x;
    if (api_gen_body(r, out, p))
        return -1;
    const char *ckpt = api_query_get(&r->query, "checkpoint");
    if (ckpt && (strlen(ckpt) >= API_ID_MAX || !*ckpt)) {
        static const char want[] = "expected served, live, latest, an id or a tag";
        api_problem_set(p, 422, "invalid-value", "checkpoint: %s", want);
        return api_problem_field(p, "checkpoint", "%s", want);
    }
    if (!(x = calloc(1, sizeof *x)))
        return api_problem_set(p, 500, "internal", "out of memory");
    x->r = r;
    x->p = p;
    snprintf(out->checkpoint, sizeof out->checkpoint, "%s", ckpt ? ckpt : "served");
    snprintf(out->request_id, sizeof out->request_id, "%s", r->id);
    int rc = r->srv->cb.describe(r->srv->ctx, out->checkpoint, &x->model, p);
    if (!rc) {
        rc = parse_all(x, out);
        if (x->model.release)
            x->model.release(&x->model);
    }
    free(x);
    return rc;
}
