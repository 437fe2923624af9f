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
may engine/config "$base|engine/config/|engine/(data/sets|nn/nets)\.def" # tables, as ops.def is
may engine/cpu "$base|engine/cpu/"
may engine/cuda "$base|engine/c(pu|uda)/"
may engine/io "$base|engine/io/"
may engine/nn "$base|engine/config/|engine/nn/"
may engine/loss "$base|engine/config/|engine/nn/|engine/loss/"
may engine/data "$base|engine/config/|engine/io/|engine/data/"
may engine/sample "$base|engine/config/|engine/nn/|engine/io/|engine/sample/"
may engine/export "$base|engine/(config|nn|io|sample|export)/"
may engine/train "$base|engine/(config|nn|loss|data|io|sample|train)/"
may engine/eval "$base|engine/(config|nn|data|io|sample|eval)/"
for file in engine/*.[ch]; do # above the folders: what knows them all, and the outsiders' header
    case $file in engine/open.* | engine/measure.* | engine/drift.h | engine/ops.h) ;; *)
        echo "$file: files of engine/ belong into a folder"
        bad=1
        ;;
    esac
done
may engine "engine/"
may api "api/"
# The daemon sees drift.h and the headers it leads to, and those lead to nothing of the engine's own.
public='' more=engine/drift.h
while [ -n "$more" ]; do
    public+=" $more"
    # shellcheck disable=SC2086  # lists of names without blanks
    more=$(sed -nE 's/^#include "(engine\/[^"]+)".*$/\1/p' $more | sort -u | while read -r h; do
        [[ "$public " == *" $h "* ]] || echo "$h"
    done)
done
for own in engine/ops.h engine/core/backend.h engine/core/arena.h engine/nn/params.h engine/nn/type.h \
    engine/nn/layers.h engine/loss/ engine/cpu/ engine/cuda/ _priv.h; do
    if [[ $public == *" "*"$own"* ]]; then
        echo "engine/drift.h leads to $own, which is the engine's own"
        bad=1
    fi
done
engine=$(tr ' ' '\n' <<<"$public" | grep . | sort -u | sed 's/\./\\./g' | paste -sd'|')
# The daemon's rooms, from the ground up; only http/ and verbs/ know of HTTP.
rooms=daemon/base/
may daemon/base "$engine|$rooms"
for room in store datasets generate evals jobs sweeps; do
    rooms+="|daemon/$room/"
    may "daemon/$room" "$engine|$rooms"
done
may daemon/http "$engine|api/|$rooms|daemon/http/"
may daemon "$engine|api/|web/|daemon/"
may web "api/api\.h|web/"
exit $bad
