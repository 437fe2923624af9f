// Deflate by run lengths and dynamic Huffman codes (deflate.h). A block of at most 65535 bytes is
// read once into tokens and counts, gets codes of its own, and is written, or stored where codes do
// not make it smaller. Code lengths: Moffat and Katajainen, "In-place calculation of minimum-
// redundancy codes" (1995), then shortened to deflate's limits.
#include "engine/io/deflate.h"

#include "engine/core/types.h"

#include <string.h>
#include <zlib.h>

enum {
    END = 256,     // of a block
    LITLEN = 286,  // literals, END, 29 codes for lengths
    PRECODES = 19, // symbols that code lengths are written in
    RUN_MIN = 3,   // bytes that a match repeats
    RUN_MAX = 258,
    TOKEN_RUN = 256 // tokens from here on are runs of token - TOKEN_RUN + RUN_MIN bytes
};

size_t dr_deflate_bound(size_t n) {
    return n + 6 * (n / DR_DEFLATE_BLOCK + 1) + 2 + 4; // 6: bits up to a byte's end, head, length
}

// --- bits, the first in the lowest place ---

struct bits {
    uint64_t acc;
    unsigned n; // below 32 between calls
    uint8_t *p;
};

static inline void put(struct bits *b, uint64_t v, unsigned n) {
    b->acc |= v << b->n;
    b->n += n;
    if (b->n >= 32) {
        for (int i = 0; i < 4; i++) // one store where bytes lie in this order
            b->p[i] = (uint8_t)(b->acc >> 8 * i);
        b->p += 4;
        b->acc >>= 32;
        b->n -= 32;
    }
}

static void to_byte(struct bits *b) {
    for (; b->n; b->n = b->n > 8 ? b->n - 8 : 0) {
        *b->p++ = (uint8_t)b->acc;
        b->acc >>= 8;
    }
    b->acc = 0;
}

// --- codes ---

struct code {
    uint8_t len[LITLEN];
    uint16_t bits[LITLEN]; // reversed, as they are written
};

// Symbols of nonzero count by count, ascending; two passes of eight bits. Returns how many.
static int by_count(const uint32_t *count, int n, uint16_t *sym) {
    uint16_t other[LITLEN], start[256];
    int used = 0;
    for (int i = 0; i < n; i++)
        if (count[i])
            other[used++] = (uint16_t)i;
    for (int shift = 0; shift < 16; shift += 8) {
        uint16_t *from = shift ? sym : other, *to = shift ? other : sym;
        memset(start, 0, sizeof start);
        for (int i = 0; i < used; i++)
            start[count[from[i]] >> shift & 255]++;
        for (int i = 0, at = 0; i < 256; i++) {
            int k = start[i];
            start[i] = (uint16_t)at;
            at += k;
        }
        for (int i = 0; i < used; i++)
            to[start[count[from[i]] >> shift & 255]++] = from[i];
    }
    memcpy(sym, other, (size_t)used * sizeof *sym);
    return used;
}

// Depths of Huffman's tree over ascending weights w[n >= 2], in place; the largest come first.
static void depths(uint32_t *w, int n) {
    int leaf = 0, root = 0;
    for (int next = 0; next < n - 1; next++) { // pairs; w[root..next) are trees, not yet paired
        uint32_t sum = 0;
        for (int k = 0; k < 2; k++) {
            if (leaf >= n || (root < next && w[root] < w[leaf])) {
                sum += w[root];
                w[root++] = (uint32_t)next; // the parent
            } else {
                sum += w[leaf++];
            }
        }
        w[next] = sum;
    }
    w[n - 2] = 0;
    for (int i = n - 3; i >= 0; i--) // parents to depths of inner nodes
        w[i] = w[w[i]] + 1;
    int inner = n - 2, at = n - 1;
    for (uint32_t depth = 0, avail = 1; avail; depth++) { // depths of leaves, from the last on
        uint32_t nodes = 0;
        for (; inner >= 0 && w[inner] == depth; inner--)
            nodes++;
        for (; avail > nodes; avail--)
            w[at--] = depth;
        avail = 2 * nodes;
    }
}

// Shortens depths to `limit` and keeps the tree whole: Kraft's sum is brought back to one by
// lengthening codes, the longest that may grow first, and by shortening what then has room.
static void shorten(uint32_t *d, int n, unsigned limit) {
    uint32_t sum = 0, whole = 1u << limit;
    for (int i = 0; i < n; i++) {
        d[i] = DR_MIN(d[i], limit);
        sum += whole >> d[i];
    }
    for (int i = 0; sum > whole; i = i + 1 < n ? i + 1 : 0)
        while (d[i] < limit && sum > whole) {
            d[i]++;
            sum -= whole >> d[i];
        }
    for (int i = n - 1; i >= 0; i--)
        while (d[i] > 1 && sum + (whole >> d[i]) <= whole) {
            sum += whole >> d[i];
            d[i]--;
        }
}

static uint16_t reversed(uint32_t v, unsigned n) {
    uint32_t r = 0;
    for (; n--; v >>= 1)
        r = r << 1 | (v & 1);
    return (uint16_t)r;
}

static void make_code(const uint32_t *count, int n, unsigned limit, struct code *c) {
    uint16_t sym[LITLEN];
    uint32_t w[LITLEN], first[17] = {0}, per[17] = {0};
    memset(c->len, 0, sizeof c->len);
    int used = by_count(count, n, sym);
    for (int i = 0; i < used; i++)
        w[i] = count[sym[i]];
    if (used > 1)
        depths(w, used);
    else if (used)
        w[0] = 1;
    shorten(w, used, limit);
    for (int i = 0; i < used; i++) {
        c->len[sym[i]] = (uint8_t)w[i];
        per[w[i]]++;
    }
    for (unsigned l = 1; l <= limit; l++)
        first[l + 1] = (first[l] + per[l]) << 1;
    for (int i = 0; i < n; i++)
        if (c->len[i])
            c->bits[i] = reversed(first[c->len[i]]++, c->len[i]);
}

// --- lengths of runs: RFC 1951, 3.2.5 ---

static int length_code(int run, unsigned *extra, unsigned *value) {
    int v = run - RUN_MIN, e = 0;
    *extra = *value = 0;
    if (run == RUN_MAX)
        return LITLEN - 1;
    if (v < 8)
        return END + 1 + v;
    while (v >> (e + 3))
        e++; // v has e + 3 bits
    *extra = (unsigned)e;
    *value = (unsigned)v & ((1u << e) - 1);
    return END + 1 + 4 * e + (v >> e);
}

// --- a block ---

// Tokens of p[n]; a run repeats the byte before it, also one of the block before. Counts them.
static size_t tokens(const uint8_t *p, size_t n, bool first, uint16_t *tok,
                     uint32_t count[TOKEN_RUN + RUN_MAX - RUN_MIN + 1]) {
    size_t m = 0;
    for (size_t i = 0; i < n;) {
        if ((i || !first) && i + RUN_MIN <= n && p[i] == p[(ptrdiff_t)i - 1] && p[i] == p[i + 1] &&
            p[i] == p[i + 2]) {
            size_t run = RUN_MIN, most = DR_MIN(n - i, (size_t)RUN_MAX);
            while (run < most && p[i + run] == p[i])
                run++;
            tok[m] = (uint16_t)(TOKEN_RUN + run - RUN_MIN);
            i += run;
        } else {
            tok[m] = p[i++];
        }
        count[tok[m++]]++;
    }
    return m;
}

// How code lengths are written: 16 repeats the last 3-6 times, 17 and 18 are 3-10, 11-138 zeros.
struct lengths {
    uint8_t sym[LITLEN + 1], extra[LITLEN + 1];
    int n;
};
static void pack_lengths(const uint8_t *len, int n, struct lengths *out) {
    out->n = 0;
    for (int i = 0; i < n;) {
        int run = 1, most;
        while (i + run < n && len[i + run] == len[i])
            run++;
        bool again = i && len[i] == len[i - 1];
        if (!len[i] && run >= 3) {
            run = DR_MIN(run, 138);
            out->sym[out->n] = run < 11 ? 17 : 18;
            out->extra[out->n++] = (uint8_t)(run < 11 ? run - 3 : run - 11);
        } else if (len[i] && again && run >= 3) {
            most = DR_MIN(run, 6);
            run = most;
            out->sym[out->n] = 16;
            out->extra[out->n++] = (uint8_t)(run - 3);
        } else {
            run = 1;
            out->sym[out->n] = len[i];
            out->extra[out->n++] = 0;
        }
        i += run;
    }
}

static const uint8_t pre_order[PRECODES] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                            11, 4,  12, 3, 13, 2, 14, 1, 15};
static unsigned pre_extra(int sym) {
    return sym < 16 ? 0 : sym == 16 ? 2 : sym == 17 ? 3 : 7;
}

struct block {
    uint32_t token_count[TOKEN_RUN + RUN_MAX - RUN_MIN + 1];
    struct code lit, pre;
    struct lengths lengths;
    int nlit, npre;
    size_t size; // bits
};

static void plan(struct block *b) {
    uint32_t count[LITLEN] = {0}, pre_count[PRECODES] = {0};
    unsigned extra, value;
    memcpy(count, b->token_count, TOKEN_RUN * sizeof *count);
    count[END] = 1;
    b->size = 0;
    for (int run = RUN_MIN; run <= RUN_MAX; run++) {
        uint32_t k = b->token_count[TOKEN_RUN + run - RUN_MIN];
        if (!k)
            continue;
        count[length_code(run, &extra, &value)] += k;
        b->size += (size_t)k * (extra + 1); // 1: the distance
    }
    make_code(count, LITLEN, 15, &b->lit);
    for (b->nlit = LITLEN; b->nlit > END + 1 && !b->lit.len[b->nlit - 1];)
        b->nlit--;
    uint8_t all[LITLEN + 1];
    memcpy(all, b->lit.len, (size_t)b->nlit);
    all[b->nlit] = 1; // the one code for distances: 1, of one bit
    pack_lengths(all, b->nlit + 1, &b->lengths);
    for (int i = 0; i < b->lengths.n; i++)
        pre_count[b->lengths.sym[i]]++;
    make_code(pre_count, PRECODES, 7, &b->pre);
    for (b->npre = PRECODES; b->npre > 4 && !b->pre.len[pre_order[b->npre - 1]];)
        b->npre--;
    b->size += 3 + 5 + 5 + 4 + 3 * (size_t)b->npre;
    for (int i = 0; i < PRECODES; i++)
        b->size += (size_t)pre_count[i] * (b->pre.len[i] + pre_extra(i));
    for (int i = 0; i < b->nlit; i++)
        b->size += (size_t)count[i] * b->lit.len[i];
}

static void write_head(const struct block *b, bool last, struct bits *out) {
    put(out, last, 1);
    put(out, 2, 2);
    put(out, (uint64_t)b->nlit - 257, 5);
    put(out, 0, 5);
    put(out, (uint64_t)b->npre - 4, 4);
    for (int i = 0; i < b->npre; i++)
        put(out, b->pre.len[pre_order[i]], 3);
    for (int i = 0; i < b->lengths.n; i++) {
        int s = b->lengths.sym[i];
        put(out, b->pre.bits[s], b->pre.len[s]);
        put(out, b->lengths.extra[i], pre_extra(s));
    }
}

static void write_tokens(const struct block *b, const uint16_t *tok, size_t n, struct bits *out) {
    // What a token writes: the bits above, their number in the lowest byte.
    uint32_t table[TOKEN_RUN + RUN_MAX - RUN_MIN + 1];
    unsigned extra, value;
    for (int i = 0; i < TOKEN_RUN; i++)
        table[i] = (uint32_t)b->lit.bits[i] << 8 | b->lit.len[i];
    for (int run = RUN_MIN; run <= RUN_MAX; run++) {
        int c = length_code(run, &extra, &value);
        uint32_t v = b->lit.bits[c] | value << b->lit.len[c]; // then a zero for the distance
        table[TOKEN_RUN + run - RUN_MIN] = v << 8 | (b->lit.len[c] + extra + 1);
    }
    struct bits o = *out;
    for (size_t i = 0; i < n; i++)
        put(&o, table[tok[i]] >> 8, table[tok[i]] & 255);
    *out = o;
    put(out, b->lit.bits[END], b->lit.len[END]);
}

static void store(const uint8_t *p, size_t n, bool last, struct bits *out) {
    put(out, last, 3);
    to_byte(out);
    *out->p++ = (uint8_t)n;
    *out->p++ = (uint8_t)(n >> 8);
    *out->p++ = (uint8_t)~n;
    *out->p++ = (uint8_t)(~n >> 8);
    memcpy(out->p, p, n);
    out->p += n;
}

size_t dr_deflate(const uint8_t *p, size_t n, uint16_t *scratch, uint8_t *out) {
    struct block b;
    struct bits o = {.p = out};
    put(&o, 0x0178, 16); // a window of 32 KiB, fastest
    size_t at = 0;
    do {
        size_t k = DR_MIN(n - at, (size_t)DR_DEFLATE_BLOCK);
        bool last = at + k == n;
        memset(b.token_count, 0, sizeof b.token_count);
        size_t m = tokens(p + at, k, at == 0, scratch, b.token_count);
        plan(&b);
        if (b.size / 8 >= k + 4) {
            store(p + at, k, last, &o);
        } else {
            write_head(&b, last, &o);
            write_tokens(&b, scratch, m, &o);
        }
        at += k;
    } while (at < n);
    to_byte(&o);
    uint32_t sum = (uint32_t)adler32_z(1, p, n);
    for (int i = 3; i >= 0; i--)
        *o.p++ = (uint8_t)(sum >> 8 * i);
    return (size_t)(o.p - out);
}
