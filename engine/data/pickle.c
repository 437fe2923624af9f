// The pickle reader (see pickle.h): a stack machine over values kept in one array. Called for
// CIFAR's python version.
#include "engine/data/pickle.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK_VALUE (-1)
#define VALUES_MAX (1 << 20) // of one pickle: CIFAR's have a fifth of that

struct dr_pickle {
    struct dr_pk *value;
    int32_t values, room;
    int32_t *stack, *memo;
    int32_t depth, stack_room, memos, memo_room;
    const uint8_t *p, *end;
    uint8_t *encoded; // [size of the input], from the first `_codecs.encode` on
    size_t nencoded, size;
    struct dr_err *err;
    int32_t root;
};

static int fail(struct dr_pickle *k, const char *what) {
    return dr_fail(k->err, DR_EFORMAT, "damaged pickle: %s", what);
}

// Room for one more behind the pointer at `list`.
static bool grow(void *list, int32_t *room, int32_t used, size_t one) {
    void *p;
    if (used < *room)
        return true;
    const int32_t next = *room ? *room * 2 : 8;
    memcpy(&p, list, sizeof p);
    p = next <= VALUES_MAX ? realloc(p, (size_t)next * one) : NULL;
    if (!p)
        return false;
    memcpy(list, &p, sizeof p);
    *room = next;
    return true;
}

static int push(struct dr_pickle *k, int32_t v) {
    if (!grow(&k->stack, &k->stack_room, k->depth, sizeof *k->stack))
        return dr_fail(k->err, DR_EFORMAT, "the pickle has more values than are read here");
    k->stack[k->depth++] = v;
    return 0;
}

static int make(struct dr_pickle *k, struct dr_pk v) {
    if (!grow(&k->value, &k->room, k->values, sizeof *k->value))
        return dr_fail(k->err, DR_EFORMAT, "the pickle has more values than are read here");
    k->value[k->values] = v;
    return push(k, k->values++);
}

// The top of the stack is taken; NULL: it is empty or a mark.
static struct dr_pk *pop(struct dr_pickle *k) {
    if (k->depth < 1 || k->stack[k->depth - 1] == MARK_VALUE)
        return NULL;
    return &k->value[k->stack[--k->depth]];
}
static struct dr_pk *top(struct dr_pickle *k) {
    if (k->depth < 1 || k->stack[k->depth - 1] == MARK_VALUE)
        return NULL;
    return &k->value[k->stack[k->depth - 1]];
}

static int take(struct dr_pickle *k, size_t n, const uint8_t **p) {
    *p = k->p;
    if (n > (size_t)(k->end - k->p))
        return fail(k, "it ends too early");
    k->p += n;
    return 0;
}

static int number(struct dr_pickle *k, int bytes, uint64_t *v) {
    const uint8_t *p;
    int rc = take(k, (size_t)bytes, &p);
    *v = 0;
    for (int i = 0; i < bytes && !rc; i++)
        *v |= (uint64_t)p[i] << 8 * i;
    return rc;
}

// Up to a line's end, which is taken as well.
static int line(struct dr_pickle *k, const uint8_t **p, size_t *n) {
    *p = k->p;
    *n = 0;
    const uint8_t *nl = k->p < k->end ? memchr(k->p, '\n', (size_t)(k->end - k->p)) : NULL;
    if (!nl)
        return fail(k, "it ends too early");
    *n = (size_t)(nl - k->p);
    k->p = nl + 1;
    return 0;
}

static int bytes(struct dr_pickle *k, int width) {
    uint64_t n;
    struct dr_pk v = {.type = DR_PK_BYTES};
    int rc = number(k, width, &n);
    if (!rc)
        rc = take(k, n, &v.p);
    v.n = n;
    return rc ? rc : make(k, v);
}

// Protocol 0: a quoted string, taken as it stands between its quotes.
static int quoted(struct dr_pickle *k, bool quotes) {
    struct dr_pk v = {.type = DR_PK_BYTES};
    int rc = line(k, &v.p, &v.n);
    if (!rc && quotes) {
        if (v.n < 2 || v.p[0] != v.p[v.n - 1] || (v.p[0] != '\'' && v.p[0] != '"'))
            return fail(k, "a string without quotes");
        v.p++;
        v.n -= 2;
    }
    return rc ? rc : make(k, v);
}

static int integer_line(struct dr_pickle *k) {
    const uint8_t *p;
    size_t n;
    char text[32];
    int rc = line(k, &p, &n);
    if (rc)
        return rc;
    if (n && p[n - 1] == 'L')
        n--;
    if (!n || n >= sizeof text)
        return fail(k, "an integer that is none");
    memcpy(text, p, n);
    text[n] = 0;
    char *stop;
    const bool is_bool = n == 2 && text[0] == '0'; // I00 and I01
    const struct dr_pk v = {.type = is_bool ? DR_PK_BOOL : DR_PK_INT,
                            .i = strtoll(text, &stop, 10)};
    return *stop ? fail(k, "an integer that is none") : make(k, v);
}

static int long_bytes(struct dr_pickle *k, int width) {
    uint64_t n, v = 0;
    const uint8_t *p;
    int rc = number(k, width, &n);
    if (!rc && n > 8)
        rc = fail(k, "an integer of more than 64 bits");
    if (!rc)
        rc = take(k, n, &p);
    for (uint64_t i = 0; i < 8 && !rc; i++) // the last byte carries the sign
        v |= (uint64_t)(i < n ? p[i] : n && p[n - 1] >> 7 ? 255 : 0) << 8 * i;
    return rc ? rc : make(k, (struct dr_pk){.type = DR_PK_INT, .i = (int64_t)v});
}

static int real_bytes(struct dr_pickle *k) {
    const uint8_t *p;
    uint64_t u = 0;
    double x;
    int rc = take(k, 8, &p);
    for (int i = 0; i < 8 && !rc; i++)
        u = u << 8 | p[i];
    memcpy(&x, &u, 8);
    return rc ? rc : make(k, (struct dr_pk){.type = DR_PK_REAL, .x = x});
}

// ---- names and what they may be called for

static const struct {
    const char *name;
    enum { RECONSTRUCT, FROMBUFFER, NDARRAY, DTYPE, ENCODE, BYTES } does;
} known[] = {{"numpy.core.multiarray._reconstruct", RECONSTRUCT},
             {"numpy._core.multiarray._reconstruct", RECONSTRUCT},
             {"numpy.core.numeric._frombuffer", FROMBUFFER}, // from protocol 5 on
             {"numpy._core.numeric._frombuffer", FROMBUFFER},
             {"numpy.ndarray", NDARRAY},
             {"numpy.dtype", DTYPE},
             {"_codecs.encode", ENCODE},    // bytes, as Python 3 writes them up to protocol 2
             {"__builtin__.bytes", BYTES}}; // and those without any

static int name(struct dr_pickle *k, const uint8_t *module, size_t m, const uint8_t *what,
                size_t w) {
    char full[120];
    snprintf(full, sizeof full, "%.*s.%.*s", (int)DR_MIN(m, 60), module, (int)DR_MIN(w, 50), what);
    for (int i = 0; i < (int)DR_COUNT(known); i++)
        if (!strcmp(full, known[i].name))
            return make(k, (struct dr_pk){.type = DR_PK_NAME, .i = known[i].does});
    return dr_fail(k->err, DR_EFORMAT,
                   "the pickle asks for `%s`; only arrays, strings, numbers, lists and dicts are "
                   "read",
                   full);
}

static int global_line(struct dr_pickle *k) {
    const uint8_t *m, *w;
    size_t nm, nw;
    int rc = line(k, &m, &nm);
    if (!rc)
        rc = line(k, &w, &nw);
    return rc ? rc : name(k, m, nm, w, nw);
}

static int global_stack(struct dr_pickle *k) {
    const struct dr_pk *w = pop(k), *m = w ? pop(k) : NULL;
    if (!m || m->type != DR_PK_BYTES || w->type != DR_PK_BYTES)
        return fail(k, "a name that is no string");
    return name(k, m->p, m->n, w->p, w->n);
}

static const struct dr_pk *arg(const struct dr_pickle *k, const struct dr_pk *list, int i,
                               enum dr_pk_type type) {
    const struct dr_pk *v = dr_pk_at(k, list, i);
    return v && v->type == type ? v : NULL;
}

// "u1", "|u1", "<i8", ...: what numpy calls numbers.
static int dtype(struct dr_pickle *k, const struct dr_pk *args) {
    const struct dr_pk *s = arg(k, args, 0, DR_PK_BYTES);
    struct dr_pk v = {.type = DR_PK_TYPE};
    const uint8_t *p = s ? s->p : NULL;
    size_t n = s ? s->n : 0;
    if (n && memchr("|<=", p[0], 3))
        p++, n--;
    if (n != 2 || !memchr("uib", p[0], 3) || !memchr("1248", p[1], 4) ||
        (p[0] == 'b' && p[1] != '1'))
        return dr_fail(k->err, DR_EFORMAT,
                       "the pickle has an array of `%.*s`; only integers are read",
                       s ? (int)DR_MIN(s->n, 20) : 1, s ? (const char *)s->p : "?");
    v.kind = (char)p[0];
    v.width = p[1] - '0';
    return make(k, v);
}

// The bytes of a text in Latin-1. A text may be asked for again and again, so that all results
// together get no more room than the input has.
static int encode(struct dr_pickle *k, const struct dr_pk *args) {
    const struct dr_pk *text = arg(k, args, 0, DR_PK_BYTES), *as = arg(k, args, 1, DR_PK_BYTES);
    struct dr_pk v = {.type = DR_PK_BYTES};
    if (!text || !as || args->items != 2 || as->n != 6 || memcmp(as->p, "latin1", 6))
        return fail(k, "`_codecs.encode` of something that is no text in latin1");
    if (!k->encoded && !(k->encoded = malloc(k->size)))
        return dr_fail(k->err, DR_ENOMEM, "no memory for a pickle");
    uint8_t *out = k->encoded + k->nencoded;
    for (const uint8_t *p = text->p, *end = p + text->n; p < end; p++) {
        const bool two = *p >> 1 == 0xc2 >> 1 && end - p > 1 && p[1] >> 6 == 2; // U+0080 to U+00FF
        if (*p > 127 && !two)
            return fail(k, "`_codecs.encode` of characters that Latin-1 has not");
        if (k->nencoded + v.n == k->size)
            return fail(k, "it makes more bytes than it has");
        out[v.n++] = two ? (uint8_t)(p[0] << 6 | (p[1] & 63)) : *p;
        p += two;
    }
    k->nencoded += v.n;
    v.p = out;
    return make(k, v);
}

// Makes `a` the array of these bytes.
static int fill_array(struct dr_pickle *k, struct dr_pk *a, const struct dr_pk *data,
                      const struct dr_pk *type, const struct dr_pk *shape) {
    if (!shape || !type || !data || shape->items > 4 || !type->width)
        return fail(k, "an array whose state is not shape, type and bytes");
    uint64_t count = (uint64_t)type->width;
    for (int i = 0; i < shape->items; i++) {
        const struct dr_pk *d = arg(k, shape, i, DR_PK_INT);
        if (!d || d->i < 0 || __builtin_mul_overflow(count, (uint64_t)d->i, &count))
            return fail(k, "an array of an impossible shape");
        a->dim[i] = d->i;
    }
    if (count != data->n)
        return dr_fail(k->err, DR_EFORMAT,
                       "damaged pickle: an array of %" PRIu64 " bytes holds %zu", count, data->n);
    a->ndim = shape->items;
    a->kind = type->kind;
    a->width = type->width;
    a->p = data->p;
    a->n = data->n;
    return 0;
}

// (bytes, dtype, shape, order)
static int from_buffer(struct dr_pickle *k, const struct dr_pk *args) {
    const struct dr_pk *order = arg(k, args, 3, DR_PK_BYTES);
    struct dr_pk a = {.type = DR_PK_ARRAY};
    if (args->items != 4 || !order || order->n != 1 || order->p[0] != 'C')
        return fail(k, "an array in another order than C's");
    int rc = fill_array(k, &a, arg(k, args, 0, DR_PK_BYTES), arg(k, args, 1, DR_PK_TYPE),
                        arg(k, args, 2, DR_PK_LIST));
    return rc ? rc : make(k, a);
}

static int reduce(struct dr_pickle *k) {
    const struct dr_pk *args = pop(k), *f = args ? pop(k) : NULL;
    if (!f || f->type != DR_PK_NAME || args->type != DR_PK_LIST)
        return fail(k, "REDUCE calls something that is no function of an array");
    if (f->i == DTYPE)
        return dtype(k, args);
    if (f->i == BYTES)
        return args->items ? fail(k, "`bytes` of something")
                           : make(k, (struct dr_pk){.type = DR_PK_BYTES, .p = k->p});
    if (f->i == ENCODE)
        return encode(k, args);
    if (f->i == FROMBUFFER)
        return from_buffer(k, args);
    const struct dr_pk *of = dr_pk_at(k, args, 0);
    if (f->i == NDARRAY || !of || of->type != DR_PK_NAME || of->i != NDARRAY)
        return fail(k, "REDUCE makes something that is no plain array");
    return make(k, (struct dr_pk){.type = DR_PK_ARRAY}); // empty until BUILD
}

// (version, shape, dtype, fortran order, bytes)
static int build_array(struct dr_pickle *k, struct dr_pk *a, const struct dr_pk *state) {
    const struct dr_pk *fortran = arg(k, state, 3, DR_PK_BOOL);
    int rc = fill_array(k, a, arg(k, state, 4, DR_PK_BYTES), arg(k, state, 2, DR_PK_TYPE),
                        arg(k, state, 1, DR_PK_LIST));
    return !rc && fortran && fortran->i && a->ndim > 1 ? fail(k, "an array in Fortran's order")
                                                       : rc;
}

static int build(struct dr_pickle *k) {
    const struct dr_pk *state = pop(k);
    struct dr_pk *o = state ? top(k) : NULL;
    if (!o || state->type != DR_PK_LIST)
        return fail(k, "BUILD without an object and its state");
    if (o->type == DR_PK_ARRAY && !o->p)
        return build_array(k, o, state);
    if (o->type != DR_PK_TYPE)
        return fail(k, "BUILD sets the state of something that is no array");
    const struct dr_pk *order = arg(k, state, 1, DR_PK_BYTES);
    if (o->width > 1 && order && order->n == 1 && order->p[0] == '>')
        return fail(k, "an array of big-endian numbers");
    return 0;
}

// ---- containers

static bool append(struct dr_pk *list, int32_t v) {
    if (!grow(&list->item, &list->room, list->items, sizeof *list->item))
        return false;
    list->item[list->items++] = v;
    return true;
}

// Index of the topmost mark, or -1.
static int32_t find_mark(const struct dr_pickle *k) {
    int32_t at = k->depth - 1;
    while (at >= 0 && k->stack[at] != MARK_VALUE)
        at--;
    return at;
}

// Appends the stack from `from` on to the container `v`. Cycles through other containers are
// harmless: whoever reads a pickle here goes down a fixed number of steps.
static int fill(struct dr_pickle *k, int32_t v, int32_t from) {
    for (int32_t i = from; i < k->depth; i++) {
        const int32_t x = k->stack[i];
        if (x == MARK_VALUE || x == v)
            return fail(k, "a container that holds a mark or itself");
        if (!append(&k->value[v], x))
            return dr_fail(k->err, DR_EFORMAT, "the pickle has more values than are read here");
    }
    k->depth = from;
    return 0;
}

// A list, tuple or dict of `n` values on the stack, or (n < 0) of those down to the mark.
static int collect(struct dr_pickle *k, enum dr_pk_type type, int n) {
    const int32_t mark = n < 0 ? find_mark(k) : k->depth - n, skip = n < 0;
    if (mark < 0)
        return fail(k, "a container without its values");
    int rc = make(k, (struct dr_pk){.type = type});
    if (rc)
        return rc;
    const int32_t v = k->stack[--k->depth];
    rc = fill(k, v, mark + skip);
    k->depth = mark;
    return rc ? rc : push(k, v);
}

// Values from the mark (or the last n) into the container under them.
static int extend(struct dr_pickle *k, enum dr_pk_type type, int n) {
    const int32_t from = n ? k->depth - n : find_mark(k) + 1, under = from - 1 - !n;
    if ((!n && from < 1) || under < 0 || k->stack[under] == MARK_VALUE ||
        k->value[k->stack[under]].type != type || (type == DR_PK_DICT && (k->depth - from) % 2))
        return fail(k, "values without the container they belong to");
    int rc = fill(k, k->stack[under], from);
    k->depth = under + 1;
    return rc;
}

static int put(struct dr_pickle *k, uint64_t at) {
    if (!top(k) || at >= VALUES_MAX)
        return fail(k, "a memo of nothing");
    while (k->memos <= (int32_t)at) {
        if (!grow(&k->memo, &k->memo_room, k->memos, sizeof *k->memo))
            return dr_fail(k->err, DR_EFORMAT, "the pickle has more values than are read here");
        k->memo[k->memos++] = MARK_VALUE;
    }
    k->memo[at] = k->stack[k->depth - 1];
    return 0;
}

static int get(struct dr_pickle *k, uint64_t at) {
    if (at >= (uint64_t)k->memos || k->memo[at] == MARK_VALUE)
        return fail(k, "a memo that is not there");
    return push(k, k->memo[at]);
}

// PUT and GET with a number of `width` bytes, or (0) in decimal on a line.
static int memo(struct dr_pickle *k, int width, int (*f)(struct dr_pickle *, uint64_t)) {
    uint64_t at = 0;
    if (width) {
        int rc = number(k, width, &at);
        return rc ? rc : f(k, at);
    }
    int rc = integer_line(k);
    const struct dr_pk *v = rc ? NULL : pop(k);
    return rc ? rc : f(k, v && v->i >= 0 ? (uint64_t)v->i : UINT64_MAX);
}

// ---- the opcodes

static int scalar(struct dr_pickle *k, uint8_t op, bool *known_op) {
    uint64_t v;
    int rc;
    *known_op = true;
    switch (op) {
    case 'N':
        return make(k, (struct dr_pk){.type = DR_PK_NONE});
    case 0x88: // NEWTRUE, NEWFALSE
    case 0x89:
        return make(k, (struct dr_pk){.type = DR_PK_BOOL, .i = op == 0x88});
    case 'I': // INT, LONG
    case 'L':
        return integer_line(k);
    case 'J': // BININT, BININT1, BININT2
    case 'K':
    case 'M':
        rc = number(k, op == 'J' ? 4 : op == 'K' ? 1 : 2, &v);
        return rc ? rc
                  : make(k, (struct dr_pk){.type = DR_PK_INT,
                                           .i = op == 'J' ? (int32_t)(uint32_t)v : (int64_t)v});
    case 0x8a: // LONG1, LONG4
    case 0x8b:
        return long_bytes(k, op == 0x8a ? 1 : 4);
    case 'G': // BINFLOAT
        return real_bytes(k);
    case 'S': // STRING, UNICODE
    case 'V':
        return quoted(k, op == 'S');
    case 'U': // SHORT_BINSTRING, SHORT_BINBYTES, SHORT_BINUNICODE
    case 'C':
    case 0x8c:
        return bytes(k, 1);
    case 'T': // BINSTRING, BINBYTES, BINUNICODE
    case 'B':
    case 'X':
        return bytes(k, 4);
    case 0x8d: // BINUNICODE8, BINBYTES8, BYTEARRAY8
    case 0x8e:
    case 0x96:
        return bytes(k, 8);
    default:
        *known_op = false;
        return 0;
    }
}

static int container(struct dr_pickle *k, uint8_t op, bool *known_op) {
    *known_op = true;
    switch (op) {
    case ']': // EMPTY_LIST, EMPTY_TUPLE, EMPTY_DICT
    case ')':
        return make(k, (struct dr_pk){.type = DR_PK_LIST});
    case '}':
        return make(k, (struct dr_pk){.type = DR_PK_DICT});
    case 'l': // LIST, TUPLE, DICT
    case 't':
        return collect(k, DR_PK_LIST, -1);
    case 'd':
        return collect(k, DR_PK_DICT, -1);
    case 0x85: // TUPLE1 to TUPLE3
    case 0x86:
    case 0x87:
        return collect(k, DR_PK_LIST, op - 0x84);
    case 'a': // APPEND, APPENDS, SETITEM, SETITEMS
        return extend(k, DR_PK_LIST, 1);
    case 'e':
        return extend(k, DR_PK_LIST, 0);
    case 's':
        return extend(k, DR_PK_DICT, 2);
    case 'u':
        return extend(k, DR_PK_DICT, 0);
    case '(':
        return push(k, MARK_VALUE);
    case '0': // POP
        return pop(k) ? 0 : fail(k, "nothing to drop");
    default:
        *known_op = false;
        return 0;
    }
}

static int other(struct dr_pickle *k, uint8_t op) {
    const uint8_t *p;
    switch (op) {
    case 0x80: // PROTO, FRAME
        return take(k, 1, &p);
    case 0x95:
        return take(k, 8, &p);
    case 'p': // PUT, BINPUT, LONG_BINPUT, MEMOIZE
        return memo(k, 0, put);
    case 'q':
        return memo(k, 1, put);
    case 'r':
        return memo(k, 4, put);
    case 0x94:
        return put(k, (uint64_t)k->memos);
    case 'g': // GET, BINGET, LONG_BINGET
        return memo(k, 0, get);
    case 'h':
        return memo(k, 1, get);
    case 'j':
        return memo(k, 4, get);
    case 'c': // GLOBAL, STACK_GLOBAL
        return global_line(k);
    case 0x93:
        return global_stack(k);
    case 'R':
        return reduce(k);
    case 'b':
        return build(k);
    default:
        return dr_fail(k->err, DR_EFORMAT,
                       "the pickle has the opcode 0x%02x (%c); only arrays, strings, numbers, "
                       "lists and dicts are read",
                       op, op > 32 && op < 127 ? op : '?');
    }
}

static int run(struct dr_pickle *k) {
    for (;;) {
        const uint8_t *op;
        bool known_op = false;
        int rc = take(k, 1, &op);
        if (rc)
            return rc;
        if (*op == '.')
            break;
        rc = scalar(k, *op, &known_op);
        if (!known_op)
            rc = container(k, *op, &known_op);
        if (!known_op)
            rc = other(k, *op);
        if (rc)
            return rc;
    }
    if (!top(k))
        return fail(k, "it holds no value");
    k->root = k->stack[k->depth - 1];
    return 0;
}

int dr_pickle_read(const uint8_t *p, size_t n, struct dr_pickle **out, struct dr_err *err) {
    struct dr_pickle *k = calloc(1, sizeof *k);
    *out = NULL;
    if (!k)
        return dr_fail(err, DR_ENOMEM, "no memory for a pickle");
    k->p = p;
    k->end = p + n;
    k->size = n;
    k->err = err;
    int rc = run(k);
    k->err = NULL;
    if (rc)
        dr_pickle_free(k);
    else
        *out = k;
    return rc;
}

void dr_pickle_free(struct dr_pickle *k) {
    if (!k)
        return;
    for (int32_t i = 0; i < k->values; i++)
        free(k->value[i].item);
    free(k->value);
    free(k->stack);
    free(k->memo);
    free(k->encoded);
    free(k);
}

const struct dr_pk *dr_pickle_root(const struct dr_pickle *k) {
    return &k->value[k->root];
}

const struct dr_pk *dr_pk_at(const struct dr_pickle *k, const struct dr_pk *list, int32_t i) {
    return i >= 0 && i < list->items ? &k->value[list->item[i]] : NULL;
}

const struct dr_pk *dr_pk_get(const struct dr_pickle *k, const struct dr_pk *dict,
                              const char *key) {
    for (int32_t i = 0; dict->type == DR_PK_DICT && i + 1 < dict->items; i += 2) {
        const struct dr_pk *name = dr_pk_at(k, dict, i);
        if (name->type == DR_PK_BYTES && name->n == strlen(key) && !memcmp(name->p, key, name->n))
            return dr_pk_at(k, dict, i + 1);
    }
    return NULL;
}
