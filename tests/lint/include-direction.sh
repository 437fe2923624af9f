#!/bin/bash
# Dependencies run one way (docs/architecture.md); this reads every #include of the tree.
# usage: include-direction.sh ROOT
set -euo pipefail
cd "$1"
bad=0

# may FOLDER PATTERN: project includes of FOLDER's files must match PATTERN.
may() {
    local folder=$1 pattern=$2 hits
    [ -d "$folder" ] || return 0
    hits=$(grep -rnE --include='*.c' --include='*.h' --include='*.cu' --include='*.def' \
        '^[[:space:]]*#[[:space:]]*include[[:space:]]+"(engine|api|daemon|web|tests)/' "$folder" |
        grep -vE "\"($pattern)" || true)
    if [ -n "$hits" ]; then
        printf '%s may include only %s:\n%s\n' "$folder" "$pattern" "$hits"
        bad=1
    fi
}

ops='engine/ops\.(def|h)'
base="engine/core/|$ops"
may engine/core "$base"
may engine/config "$base|engine/config/|engine/data/sets\.def" # a table, as ops.def is
may engine/cpu "$base|engine/cpu/"
may engine/cuda "$base|engine/c(pu|uda)/"
may engine/io "$base|engine/io/"
may engine/nn "$base|engine/config/|engine/nn/"
may engine/loss "$base|engine/config/|engine/nn/|engine/loss/"
may engine/data "$base|engine/config/|engine/io/|engine/data/"
may engine/sample "$base|engine/config/|engine/nn/|engine/io/|engine/sample/"
may engine/train "$base|engine/(config|nn|loss|data|io|sample|train)/"
may engine "engine/"
may api "api/"
# The daemon sees drift.h and the headers that drift.h lists.
public=$(sed -nE 's/^#include "(engine\/[^"]+)\.h"$/\1/p' engine/drift.h | paste -sd'|')
engine="(engine/drift|engine/core/types|$public)\.h"
# The daemon's rooms, from the ground up; only http/ and verbs/ know of HTTP.
rooms=daemon/base/
may daemon/base "$engine|$rooms"
for room in store generate jobs; do
    rooms+="|daemon/$room/"
    may "daemon/$room" "$engine|$rooms"
done
may daemon/http "$engine|api/|$rooms|daemon/http/"
may daemon "$engine|api/|web/|daemon/"
may web "api/api\.h|web/"
exit $bad
