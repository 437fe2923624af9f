#!/bin/bash
# The calls between the C files of a part form no circle: a file calls those below it, never back.
# Read from the symbols of its object files: who defines what, and who refers to it.
# usage: circles.sh FILES AT_LEAST TARGET... (built targets whose object files are TARGET.p/*.o;
#        AT_LEAST: references that there must be, so that an empty build does not pass)
set -euo pipefail
part=$1 at_least=$2
shift 2
objects=()
for target in "$@"; do
    objects+=("$target.p"/*.o)
done
edges=$(nm -A -g "${objects[@]}" | awk '
    { object = $1; sub(/:[0-9a-f]*$/, "", object); sub(/.*\//, "", object); sub(/\.o$/, "", object) }
    $(NF - 1) ~ /^[Uw]$/ { uses[object, $NF] = 1; next }
    { home[$NF] = object }
    END {
        for (use in uses) {
            split(use, a, SUBSEP)
            if (a[2] in home && home[a[2]] != a[1] && !seen[a[1], home[a[2]]]++)
                print a[1], home[a[2]]
        }
    }')
[ "$(wc -l <<< "$edges")" -ge "$at_least" ] || {
    echo "$part: fewer than $at_least references between files: $(wc -l <<< "$edges")"
    exit 1
}
loops=$(tsort <<< "$edges" 2>&1 >/dev/null) || {
    echo "$part: files that refer to each other in a circle:"
    sed -n 's/^tsort: \([^-]*\)$/  \1/p' <<< "$loops"
    exit 1
}
