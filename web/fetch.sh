#!/bin/sh
# npm ci in the build folder: fetch.sh SOURCE BUILD, with SOURCE/package.json and its lock file.
set -e
mkdir -p "$2"
cp "$1/package.json" "$1/package-lock.json" "$2/"
cd "$2"
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
