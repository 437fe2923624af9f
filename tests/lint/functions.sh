#!/bin/bash
# A function fits on a screen: at most 60 lines from its first line to its closing brace.
# usage: functions.sh SOURCE_ROOT [LIMIT]
set -euo pipefail
cd "$1"
list=$(git ls-files '*.c' '*.h' '*.cu' '*.cc' 2>/dev/null) ||
    list=$(find engine daemon api tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cc')
# The layout is clang-format's: definitions start and end in column 0.
long=$(printf '%s\n' "$list" | xargs awk -v limit="${2:-60}" '
    FNR == 1 { inside = head = 0 }
    !inside && /^[A-Za-z_]/ && !/;$/ && !/^(template <[^>]*> )?(struct|union|enum|class)[^()]*\{( *\/\/.*)?$/ { head = FNR }
    !inside && head && /\) (const )?\{$/ { inside = 1; start = head }
    /^\}/ {
        if (inside && FNR - start + 1 > limit)
            printf "%s:%d: %d lines\n", FILENAME, start, FNR - start + 1
        inside = head = 0
    }')
if [ -n "$long" ]; then
    printf 'functions of more than %s lines:\n%s\n' "${2:-60}" "$long"
    exit 1
fi
