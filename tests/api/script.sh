#!/bin/sh
# docs/three-jobs.sh against a real daemon on a unix socket, with jobs cut down to a few steps.
# Arguments: driftd, driftctl, the script, the folder of recipes.
set -e
driftd=$(realpath "$1"); driftctl=$(realpath "$2"); script=$(realpath "$3"); recipes=$(realpath "$4")
dir=$(mktemp -d)
mkdir "$dir/state" "$dir/out" "$dir/bin"
ln -s "$driftctl" "$dir/bin/driftctl"
export PATH="$dir/bin:$PATH" DRIFTD_URL="unix:$dir/sock" RECIPE=toy-two-modes-middle
"$driftd" serve --listen "unix:$dir/sock" --state-dir "$dir/state" --config-dir "$recipes" \
    --threads 1 > "$dir/log" 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null || true; wait $pid 2>/dev/null || true; rm -rf "$dir"' EXIT
for _ in $(seq 100); do
    driftctl status > /dev/null 2>&1 && break
    sleep 0.1
done
cd "$dir/out"
"$script" --set train.steps=20 --set train.minutes=0 --set samples.every=0 || { cat "$dir/log"; exit 1; }
for id in 1 2 3; do
    [ "$(head -c 4 "job-$id.png" | tail -c 3)" = PNG ]
    grep -q '^loss,20,' "job-$id.csv"
done
driftctl status
driftctl jobs
[ "$(driftctl jobs --state completed --json | grep -c '"state": "completed"')" = 3 ]
kill $pid
wait $pid
trap 'rm -rf "$dir"' EXIT
