#!/bin/sh
# Fetches the test's packages (once for a lock file), then runs it. usage:
#   run.sh SOURCE BUILD DRIFTD CONFIGS [SCRIPT [ARGUMENT...]]    SCRIPT: browser.mjs, data.mjs, evals.mjs, sweeps.mjs, many.mjs, access.mjs
skip() {
    echo "skipped: $1"
    exit 77
}
source=$1 build=$2 driftd=$3 configs=$4
shift 4
script=${1:-browser.mjs}
[ $# -eq 0 ] || shift
command -v node >/dev/null || skip "there is no node"
command -v npm >/dev/null || skip "there is no npm"
if ! cmp -s "$source/package-lock.json" "$build/installed-lock.json"; then
    rm -rf "$build/node_modules"
    said=$(sh "$source/../../web/fetch.sh" "$source" "$build" 2>&1) ||
        skip "npm could not install the packages of tests/web: $(echo "$said" | tail -n 1)"
    cp "$source/package-lock.json" "$build/installed-lock.json"
fi
exec node "$source/$script" "$driftd" "$configs" "$build/node_modules" "$@"
