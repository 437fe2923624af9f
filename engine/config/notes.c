// Collecting what is wrong with a configuration (field.h).
#include "engine/config/field.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void dr_problems_add(struct dr_problems *list, const struct dr_err *err) {
    if (!list)
        return;
    if (list->n == DR_MAX_PROBLEMS) {
        list->more++;
        return;
    }
    struct dr_problem *p = &list->row[list->n++];
    memcpy(p->field, err->field, sizeof p->field);
    memcpy(p->msg, err->msg, sizeof p->msg);
}

bool dr_note(struct dr_notes *n, const struct dr_err *e) {
    if (!n->rc) {
        n->rc = e->code;
        if (n->err)
            *n->err = *e;
    }
    dr_problems_add(n->list, e);
    return n->list != NULL;
}

void dr_notes_bad_section(struct dr_notes *n, const char *section) {
    const size_t len = strlen(section);
    int count;
    const struct dr_config_field *f = dr_config_fields(&count);
    for (int i = 0; n->bad && i < count; i++)
        if (!strncmp(f[i].path, section, len) && f[i].path[len] == '.')
            n->bad[i] = true;
}

// Whether a check rests on this field: on one of its keys, or on a choice that decides which checks
// there are (any in the section of the first key; `kind` and those of the data: everywhere).
static bool rests_on(const char *const *keys, const struct dr_config_field *f) {
    const char *dot = strchr(f->path, '.');
    const size_t section = dot ? (size_t)(dot - f->path) + 1 : 0;
    if (f->type == DR_F_ENUM &&
        (!section || !strncmp(f->path, "data.", 5) || !strncmp(f->path, keys[0], section)))
        return true;
    for (; *keys; keys++)
        if (!strcmp(f->path, *keys))
            return true;
    return false;
}

void dr_note_check(struct dr_notes *n, const char *const *keys, const char *fmt, ...) {
    struct dr_err e = {0};
    int count;
    const struct dr_config_field *f = dr_config_fields(&count);
    for (int i = 0; n->bad && i < count; i++)
        if (n->bad[i] && rests_on(keys, &f[i]))
            return;
    va_list ap;
    va_start(ap, fmt);
    char msg[sizeof e.msg];
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    dr_fail_at(&e, DR_ECONFIG, keys[0], "%s", msg);
    dr_note(n, &e);
}
