#!/bin/sh
# Fetches the test's packages (once for a lock file), then runs it. usage:
#   run.sh SOURCE BUILD SCRIPT [ARGUMENT...]    SCRIPT: its path, or the name of one of SOURCE
skip() {
    echo "skipped: $1"
    exit 77
}
source=$1 build=$2 script=$3
shift 3
command -v node >/dev/null || skip "there is no node"
command -v npm >/dev/null || skip "there is no npm"
exec 9>"$build/fetch.lock" # two tests share the packages
flock 9
if ! cmp -s "$source/package-lock.json" "$build/installed-lock.json"; then
    rm -rf "$build/node_modules"
    said=$(sh "$source/../../web/fetch.sh" "$source" "$build" 2>&1) ||
        skip "npm could not install the packages of tests/export: $(echo "$said" | tail -n 1)"
    cp "$source/package-lock.json" "$build/installed-lock.json"
fi
flock -u 9
case $script in /*) ;; *) script=$source/$script ;; esac
exec node "$script" "$build/node_modules" "$@"
