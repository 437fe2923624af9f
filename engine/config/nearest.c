// The nearest valid word to a mistyped one, for error messages of configs and of the API.
// Damerau-Levenshtein distance in its optimal-string-alignment form, case-insensitive.
#include "engine/config/config.h"

#include <ctype.h>
#include <string.h>

#define MAX_WORD 64 // longer words are not typing mistakes

static int edit_distance(const char *a, int na, const char *b, int nb) {
    int row[3][MAX_WORD + 1];
    int *prev2 = row[0], *prev = row[1], *cur = row[2];
    for (int j = 0; j <= nb; j++)
        prev[j] = j;
    for (int i = 1; i <= na; i++) {
        cur[0] = i;
        for (int j = 1; j <= nb; j++) {
            int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
            int d = DR_MIN(prev[j] + 1, cur[j - 1] + 1);
            d = DR_MIN(d, prev[j - 1] + (ca != cb));
            if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
                cb == tolower((unsigned char)a[i - 2]))
                d = DR_MIN(d, prev2[j - 2] + 1);
            cur[j] = d;
        }
        int *spare = prev2;
        prev2 = prev;
        prev = cur;
        cur = spare;
    }
    return prev[nb];
}

const char *dr_nearest(const char *word, const char *const *words, int n) {
    const char *best = NULL;
    size_t nw = word ? strlen(word) : 0;
    if (nw == 0 || nw > MAX_WORD)
        return NULL;
    int best_d = MAX_WORD;
    for (int i = 0; i < n; i++) {
        size_t len = strlen(words[i]);
        if (len == 0 || len > MAX_WORD)
            continue;
        // A third of the longer word may be wrong; a two-letter word may have one slip.
        int limit = DR_MAX(1, (int)DR_MAX(len, nw) / 3);
        int d = edit_distance(word, (int)nw, words[i], (int)len);
        if (d <= limit && d < (int)DR_MAX(len, nw) && d < best_d) {
            best = words[i];
            best_d = d;
        }
    }
    return best;
}
