#!/bin/sh
# Fetches the test's packages once, then runs it. usage: run.sh SOURCE BUILD DRIFTD CONFIGS
[ -d "$2/node_modules/playwright-core" ] || sh "$1/../../web/fetch.sh" "$1" "$2" || {
    echo "skipped: npm could not install the packages of tests/web"
    exit 77
}
exec node "$1/browser.mjs" "$3" "$4" "$2/node_modules"
