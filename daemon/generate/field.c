// See field.h.
#include "daemon/generate/field.h"

#include "daemon/base/util.h"

#include <math.h>
#include <stdlib.h>

enum { KEPT_MAX = 64 << 20 }; // bytes of a file that is believed to be one

// Six digits draw any picture; a value that is no number is null.
static json_t *number(double v) {
    if (!isfinite(v))
        return json_null();
    const double unit = 1e6;
    return json_real(round(v * unit) / unit);
}

// n rows of `width` numbers, column k of row i from at[k][2 * i + (k & 1)].
static json_t *rows(int64_t n, int width, const real *const at[2]) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) {
        json_t *row = json_array();
        for (int k = 0; k < width; k++)
            json_array_append_new(row, number((double)at[k / 2][2 * i + k % 2]));
        json_array_append_new(list, row);
    }
    return list;
}

json_t *dd_field_json(const struct dr_drift_field *f, int64_t job) {
    const real *x = f->at, *v = x + 2 * f->n, *data = v + 2 * f->n;
    return json_pack("{s:o, s:I, s:[s,s,s,s], s:o, s:o}", "job",
                     json_sprintf("%lld", (long long)job), "step", (json_int_t)f->step, "columns",
                     "x", "y", "vx", "vy", "samples", rows(f->n, 4, (const real *const[2]){x, v}),
                     "data", rows(f->p, 2, (const real *const[2]){data, NULL}));
}

int dd_field_keep(const struct dr_drift_field *f, int64_t job, const char *folder,
                  struct dr_err *err) {
    json_t *j = dd_field_json(f, job);
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL,
         *path = dd_printf("%s/field.json", folder);
    size_t n = 0;
    while (text && text[n])
        n++;
    int rc = text ? dd_mkdir_for(path, err) : dr_fail(err, DR_ENOMEM, "no memory for a field");
    if (!rc)
        rc = dd_write_file(path, text, n, err);
    free(path);
    free(text);
    json_decref(j);
    return rc;
}

json_t *dd_field_kept(const char *folder) {
    char *path = dd_printf("%s/field.json", folder), *text = NULL;
    struct dr_err ignored = {0};
    size_t n = 0;
    json_t *j =
        dd_read_file(path, KEPT_MAX, &text, &n, &ignored) ? NULL : json_loadb(text, n, 0, NULL);
    free(text);
    free(path);
    return j;
}
