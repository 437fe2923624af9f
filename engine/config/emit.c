// JSON out: a configuration, its model section, and the schema of every key. Numbers are written
// with the fewest digits that read back as the same double.
#include "engine/config/field.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_number(FILE *o, double x) {
    char s[32] = "0";
    if (x == 0)
        x = 0; // "-0" would come back as the integer 0
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, x);
        if (strtod(s, NULL) == x)
            break;
    }
    fputs(s, o);
}

static void put_string(FILE *o, const char *s) {
    fputc('"', o);
    for (; *s; s++) {
        unsigned char ch = (unsigned char)*s;
        if (ch == '"' || ch == '\\')
            fprintf(o, "\\%c", ch);
        else if (ch < 0x20)
            fprintf(o, "\\u%04x", ch);
        else
            fputc(ch, o);
    }
    fputc('"', o);
}

static void put_value(FILE *o, const struct dr_config_field *f, const struct dr_config *c) {
    const void *at = (const char *)c + f->offset;
    char word[64];
    switch (f->type) {
    case DR_F_INT:
        fprintf(o, "%lld", (long long)*(const int64_t *)at);
        break;
    case DR_F_NUM:
        put_number(o, *(const double *)at);
        break;
    case DR_F_BOOL:
        fputs(*(const bool *)at ? "true" : "false", o);
        break;
    case DR_F_ENUM:
        put_string(o, dr_enum_word(f->values, *(const int *)at, word));
        break;
    case DR_F_STR:
        put_string(o, at);
        break;
    case DR_F_LIST: {
        int n = *(const int *)(const void *)((const char *)c + f->count_offset);
        for (int i = 0; i < n; i++) {
            fputs(i ? "," : "[", o);
            put_number(o, ((const double *)at)[i]);
        }
        fputc(']', o);
    }
    }
}

char *dr_config_to_json(const struct dr_config *c) {
    char *text = NULL, section[64] = "";
    size_t size;
    FILE *o = open_memstream(&text, &size);
    if (!o)
        return NULL;
    int n;
    const struct dr_config_field *f = dr_config_fields(&n);
    fputc('{', o);
    for (int i = 0; i < n; i++) {
        const char *dot = strchr(f[i].path, '.');
        int len = dot ? (int)(dot - f[i].path) : 0;
        bool same = (int)strlen(section) == len && strncmp(section, f[i].path, (size_t)len) == 0;
        if (!same && section[0])
            fputc('}', o);
        if (i)
            fputc(',', o);
        if (!same) {
            snprintf(section, sizeof section, "%.*s", len, f[i].path);
            if (len)
                fprintf(o, "\"%s\":{", section);
        }
        fprintf(o, "\"%s\":", dot ? dot + 1 : f[i].path);
        put_value(o, &f[i], c);
    }
    fputs(section[0] ? "}}" : "}", o);
    return fclose(o) == 0 ? text : NULL;
}

char *dr_model_config_to_json(const struct dr_model_config *m) {
    struct dr_config c;
    dr_config_defaults(&c);
    c.model = *m;
    char *text = NULL;
    size_t size;
    FILE *o = open_memstream(&text, &size);
    if (!o)
        return NULL;
    int n;
    const struct dr_config_field *f = dr_config_fields(&n);
    fprintf(o, "{\"size\":%lld,\"channels\":%lld,\"classes\":%lld", (long long)m->size,
            (long long)m->channels, (long long)m->classes);
    for (int i = 0; i < n; i++) {
        if (strncmp(f[i].path, "model.", 6) != 0)
            continue;
        fprintf(o, ",\"%s\":", f[i].path + 6);
        put_value(o, &f[i], &c);
    }
    fputc('}', o);
    return fclose(o) == 0 ? text : NULL;
}

bool dr_model_config_equal(const struct dr_model_config *a, const struct dr_model_config *b) {
    const size_t base = offsetof(struct dr_config, model);
    int n;
    const struct dr_config_field *f = dr_config_fields(&n);
    for (int i = 0; i < n; i++)
        if (strncmp(f[i].path, "model.", 6) == 0 &&
            memcmp((const char *)a + (f[i].offset - base), (const char *)b + (f[i].offset - base),
                   f[i].size) != 0)
            return false;
    return a->size == b->size && a->channels == b->channels && a->classes == b->classes;
}

static void put_range(FILE *o, const struct dr_config_field *f) {
    char word[64];
    switch (f->type) {
    case DR_F_INT:
    case DR_F_NUM:
    case DR_F_LIST:
        fputs(",\"min\":", o);
        put_number(o, f->min);
        fputs(",\"max\":", o);
        put_number(o, f->max);
        if (f->type == DR_F_LIST)
            fprintf(o, ",\"max_items\":%zu", f->size / sizeof(double));
        break;
    case DR_F_ENUM:
        for (int i = 0; dr_enum_word(f->values, i, word)[0]; i++) {
            fputs(i ? "," : ",\"values\":[", o);
            put_string(o, word);
        }
        fputc(']', o);
        break;
    case DR_F_STR:
        fprintf(o, ",\"max_length\":%zu", f->size - 1);
        break;
    case DR_F_BOOL:
        break;
    }
}

char *dr_config_schema_json(void) {
    static const char *const type[] = {
        [DR_F_INT] = "integer", [DR_F_NUM] = "number", [DR_F_BOOL] = "boolean",
        [DR_F_ENUM] = "enum",   [DR_F_STR] = "string", [DR_F_LIST] = "list",
    };
    struct dr_config c;
    dr_config_defaults(&c);
    char *text = NULL;
    size_t size;
    FILE *o = open_memstream(&text, &size);
    if (!o)
        return NULL;
    int n;
    const struct dr_config_field *f = dr_config_fields(&n);
    for (int i = 0; i < n; i++) {
        fprintf(o, "%s{\"path\":\"%s\",\"type\":\"%s\",\"default\":", i ? ",\n" : "[\n", f[i].path,
                type[f[i].type]);
        put_value(o, &f[i], &c);
        put_range(o, &f[i]);
        fputs(",\"doc\":", o);
        put_string(o, f[i].doc);
        fputc('}', o);
    }
    fputs("\n]\n", o);
    return fclose(o) == 0 ? text : NULL;
}
