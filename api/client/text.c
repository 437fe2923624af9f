// Text output of driftctl: tables, bars, sizes, durations.
#include "api/client/ctl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define MAX_COLUMNS 12

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

void ctl_json(const struct ctl *c, const json_t *v) {
    json_dumpf(v, c->out, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    fputc('\n', c->out);
}

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

static void cell(const json_t *v, const char *kind, char *buf, size_t n) {
    if (!v || json_is_null(v))
        snprintf(buf, n, "-");
    else if (json_is_boolean(v))
        snprintf(buf, n, "%s", json_is_true(v) ? "yes" : "");
    else if (json_is_string(v))
        snprintf(buf, n, "%s", json_string_value(v));
    else if (!json_is_number(v))
        snprintf(buf, n, "...");
    else if (!strcmp(kind, "bytes"))
        ctl_bytes(json_number_value(v), buf, n);
    else if (!strcmp(kind, "duration"))
        ctl_duration(json_number_value(v), buf, n);
    else if (!strcmp(kind, "percent"))
        snprintf(buf, n, "%.0f%%", 100 * json_number_value(v));
    else if (json_is_integer(v))
        snprintf(buf, n, "%lld", (long long)json_integer_value(v));
    else
        snprintf(buf, n, "%.5g", json_number_value(v));
    for (char *p = buf; *p; p++) // a name must not steer the terminal
        if ((unsigned char)*p < 32 || *p == 127)
            *p = '?';
}

void ctl_table(const struct ctl *c, const json_t *rows, const char *const *columns) {
    char title[MAX_COLUMNS][32], key[MAX_COLUMNS][32], kind[MAX_COLUMNS][16], text[256];
    size_t width[MAX_COLUMNS];
    int n = 0;
    size_t i;
    json_t *row;
    for (; columns[n] && n < MAX_COLUMNS; n++) {
        title[n][0] = key[n][0] = kind[n][0] = '\0';
        sscanf(columns[n], "%31[^:]:%31[^:]:%15s", title[n], key[n], kind[n]);
        width[n] = strlen(title[n]);
        json_array_foreach(rows, i, row) {
            cell(json_object_get(row, key[n]), kind[n], text, sizeof text);
            width[n] = strlen(text) > width[n] ? strlen(text) : width[n];
        }
        if (width[n] > 60)
            width[n] = 60;
    }
    for (int k = 0; k < n; k++)
        fprintf(c->out, "%-*s%s", (int)width[k], title[k], k + 1 < n ? "  " : "\n");
    json_array_foreach(rows, i, row) for (int k = 0; k < n; k++) {
        const json_t *v = json_object_get(row, key[k]);
        cell(v, kind[k], text, sizeof text);
        fprintf(c->out, json_is_number(v) ? "%*s%s" : "%-*s%s", (int)width[k], text,
                k + 1 < n ? "  " : "\n");
    }
}
