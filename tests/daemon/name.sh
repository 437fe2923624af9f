#!/bin/sh
# driftd starts itself once more to set up OpenMP, and is still called driftd: ./run, ps and pkill go
# by that name. And its generator, idle, has no helper threads: libgomp counts them against training.
# usage: name.sh DRIFTD
set -eu
unset OMP_WAIT_POLICY GOMP_SPINCOUNT
state=$(mktemp -d)
"$1" serve --listen "unix:$state/socket" --state-dir "$state" --data-dir "$state" --generate-threads 3 >"$state/out" 2>&1 &
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

generators() {
    grep -lx generate /proc/"$pid"/task/*/comm | wc -l
}
for _ in $(seq 100); do
    [ "$(generators)" != 1 ] || exit 0
    sleep 0.1
done
echo "$(generators) threads of the generator, which has nothing to do"
exit 1
