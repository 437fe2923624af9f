#!/bin/sh
# driftd starts itself once more to set up OpenMP, and is still called driftd: ./run, ps and pkill go
# by that name. usage: name.sh DRIFTD
set -eu
unset OMP_WAIT_POLICY GOMP_SPINCOUNT
state=$(mktemp -d)
"$1" serve --listen "unix:$state/socket" --state-dir "$state" --data-dir "$state" >"$state/out" 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null || true; wait; rm -rf "$state"' EXIT
for _ in $(seq 300); do
    [ ! -S "$state/socket" ] || break
    kill -0 $pid || { cat "$state/out"; exit 1; }
    sleep 0.1
done
tr '\0' '\n' <"/proc/$pid/environ" | grep -qx GOMP_SPINCOUNT=10000 || { echo "it did not start itself again"; exit 1; }
name=$(cat "/proc/$pid/comm")
[ "$name" = driftd ] || { echo "the process is called $name"; exit 1; }
