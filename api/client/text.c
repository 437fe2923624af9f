// Text of driftctl: made safe and measured, tables, bars, sizes, durations; JSON in and out.
#include "api/client/ctl.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

enum { RESULTS = 8, WIDEST = 60, NO_LIMIT = 1 << 30 };

const char *ctl_str(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

double ctl_num(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

const char *ctl_bytes(double n, char *buf, size_t size) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    while (n >= 1024 && u < 4) {
        n /= 1024;
        u++;
    }
    snprintf(buf, size, u ? "%.1f %s" : "%.0f %s", n, units[u]);
    return buf;
}

const char *ctl_duration(double s, char *buf, size_t size) {
    if (!isfinite(s) || s < 0)
        snprintf(buf, size, "-");
    else if (s < 3600)
        snprintf(buf, size, "%d:%02d", (int)s / 60, (int)s % 60);
    else if (s < 360000)
        snprintf(buf, size, "%d:%02d:%02d", (int)s / 3600, (int)s / 60 % 60, (int)s % 60);
    else
        snprintf(buf, size, "%.0f days", s / 86400);
    return buf;
}

// ---- text from elsewhere

bool ctl_terminal(int fd) {
    const char *term = getenv("TERM");
    return isatty(fd) && term && *term && strcmp(term, "dumb");
}

// Turns the direction of the text around it, or has no place on a line.
static bool steers(wchar_t w) {
    return w < 32 || (w >= 0x7f && w < 0xa0) || w == 0x61c || w == 0x200e || w == 0x200f ||
           (w >= 0x2028 && w <= 0x202e) || (w >= 0x2066 && w <= 0x2069) || w == 0xfeff;
}

// The character at s, its bytes and its columns; false: not for a terminal (*bytes is still set).
static bool look_at(const char *s, size_t left, size_t *bytes, int *columns, wchar_t *w) {
    mbstate_t state = {0};
    size_t n = mbrtowc(w, s, left, &state);
    *bytes = 1;
    *columns = 1;
    if (n == (size_t)-1 || n == (size_t)-2 || !n) {
        *w = (unsigned char)*s;
        return false;
    }
    *bytes = n;
    int width = wcwidth(*w);
    if (width < 0 || steers(*w))
        return false;
    *columns = width;
    return true;
}

const char *ctl_fit(const char *s, int max, int *columns) {
    static struct ctl_buf results[RESULTS];
    static unsigned turn;
    struct ctl_buf *b = &results[turn++ % RESULTS];
    size_t left = strlen(s), n, at = 0; // at: where the last column would begin
    int width = 0, w;
    wchar_t wc;
    b->n = 0;
    ctl_buf_add(b, "", 0);
    for (; left; s += n, left -= n) {
        bool ok = look_at(s, left, &n, &w, &wc);
        if (width + w > max) {
            b->n = at;
            ctl_buf_add(b, "\xe2\x80\xa6", 3);
            break;
        }
        ctl_buf_add(b, ok ? s : "?", ok ? n : 1);
        width += w;
        if (width < max)
            at = b->n;
    }
    if (columns) {
        *columns = 0;
        for (const char *p = b->s; p && *p; p += n) {
            look_at(p, strlen(p), &n, &w, &wc);
            *columns += w;
        }
    }
    return b->s ? b->s : "";
}

const char *ctl_safe(const char *s) {
    return ctl_fit(s, NO_LIMIT, NULL);
}

void ctl_put(const struct ctl *c, FILE *f, const char *s, size_t n) {
    size_t k;
    int w;
    wchar_t wc;
    if (f != c->out || !isatty(STDOUT_FILENO)) {
        fwrite(s, 1, n, f);
        return;
    }
    for (; n; s += k, n -= k)
        if (look_at(s, n, &k, &w, &wc) || *s == '\n' || *s == '\t')
            fwrite(s, 1, k, f);
        else
            fputc('?', f);
}

void ctl_json_text(FILE *f, const char *s) {
    size_t n;
    int w;
    wchar_t wc;
    for (size_t left = strlen(s); left; s += n, left -= n)
        if (look_at(s, left, &n, &w, &wc) || *s == '\n' || wc > 0xffff)
            fwrite(s, 1, n, f);
        else
            fprintf(f, "\\u%04x", (unsigned)wc);
    fputc('\n', f);
}

void ctl_json(const struct ctl *c, const json_t *v) {
    char *text = json_dumps(v, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    if (text)
        ctl_json_text(c->out, text);
    free(text);
}

// Takes the byte-order mark that some editors write. NULL, or why the text is no JSON.
static const char *skip_mark(FILE *f) {
    const int first = getc(f);
    if (first == 0xfe || first == 0xff)
        return "the text is UTF-16; expected JSON in UTF-8";
    if (first == 0xef)
        return getc(f) == 0xbb && getc(f) == 0xbf ? NULL : "expected JSON in UTF-8";
    ungetc(first, f);
    return NULL;
}

json_t *ctl_read_json(const char *file) {
    json_error_t e = {0};
    struct stat st;
    const char *why = NULL;
    json_t *o = NULL;
    FILE *f = fopen(file, "rbe");
    if (!f || fstat(fileno(f), &st))
        why = strerror(errno);
    else if (S_ISDIR(st.st_mode))
        why = "a folder; expected a file with JSON";
    else if (!(why = skip_mark(f)))
        o = json_loadf(f, JSON_REJECT_DUPLICATES, &e);
    if (why)
        fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(file), why);
    else if (!o)
        fprintf(stderr, "driftctl: %s: %s (line %d column %d)\n", ctl_safe(file), ctl_safe(e.text),
                e.line, e.column);
    if (f)
        fclose(f);
    return o;
}

// ---- bars and tables

int ctl_width(void) {
    struct winsize w;
    if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_col > 20)
        return w.ws_col;
    return 80;
}

void ctl_bar(char *buf, size_t size, int width, double fraction) {
    if (width >= (int)size)
        width = (int)size - 1;
    fraction = !(fraction > 0) ? 0 : fraction > 1 ? 1 : fraction;
    int full = (int)(fraction * width);
    for (int i = 0; i < width; i++)
        buf[i] = i < full ? '=' : i == full ? '>' : ' ';
    buf[width < 0 ? 0 : width] = '\0';
}

// Returns the cell's text, cut to `limit` columns, and its width; buf holds numbers.
static const char *cell(const json_t *v, const char *kind, int limit, char *buf, size_t n,
                        int *columns) {
    if (!v || json_is_null(v))
        snprintf(buf, n, "-");
    else if (json_is_boolean(v))
        snprintf(buf, n, "%s", json_is_true(v) ? "yes" : "");
    else if (json_is_string(v))
        return ctl_fit(json_string_value(v), limit, columns);
    else if (!json_is_number(v))
        snprintf(buf, n, "...");
    else if (!strcmp(kind, "bytes"))
        ctl_bytes(json_number_value(v), buf, n);
    else if (!strcmp(kind, "duration"))
        ctl_duration(json_number_value(v), buf, n);
    else if (json_is_integer(v))
        snprintf(buf, n, "%lld", (long long)json_integer_value(v));
    else
        snprintf(buf, n, "%.5g", json_number_value(v));
    *columns = (int)strlen(buf);
    return buf;
}

// Long text is cut only where a line of a terminal would break in the middle of a row: not in the
// last column, and not for a program that reads it.
void ctl_table(const struct ctl *c, const json_t *rows, const char *const *columns) {
    const int widest = isatty(STDOUT_FILENO) ? WIDEST : NO_LIMIT;
    char title[CTL_MAX_COLUMNS][32], key[CTL_MAX_COLUMNS][32], kind[CTL_MAX_COLUMNS][16], buf[64];
    int width[CTL_MAX_COLUMNS], n = 0, w;
    size_t i;
    json_t *row;
    for (; columns[n] && n < CTL_MAX_COLUMNS; n++) {
        title[n][0] = key[n][0] = kind[n][0] = '\0';
        sscanf(columns[n], "%31[^:]:%31[^:]:%15s", title[n], key[n], kind[n]);
        width[n] = (int)strlen(title[n]);
        json_array_foreach(rows, i, row) {
            cell(json_object_get(row, key[n]), kind[n], widest, buf, sizeof buf, &w);
            width[n] = w > width[n] ? w : width[n];
        }
    }
    for (int k = 0; k < n; k++)
        fprintf(c->out, "%-*s%s", k + 1 < n ? width[k] : 0, title[k], k + 1 < n ? "  " : "\n");
    json_array_foreach(rows, i, row) for (int k = 0; k < n; k++) {
        const bool last = k + 1 == n;
        const json_t *v = json_object_get(row, key[k]);
        const char *text = cell(v, kind[k], last ? NO_LIMIT : widest, buf, sizeof buf, &w);
        const int gap = width[k] - w;
        fprintf(c->out, "%*s%s%*s%s", json_is_number(v) ? gap : 0, "", text,
                json_is_number(v) || last ? 0 : gap, "", last ? "\n" : "  ");
    }
}
