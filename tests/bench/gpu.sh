#!/bin/bash
# One call on a machine with a GPU: build, parity of every op, bench, a training run; a table last.
# usage: tests/bench/gpu.sh [--device cuda[:N]] [--archs 80,90] [--minutes M] [--emulated]
# --emulated: the emulated backend instead, to test the script: build and parity only.
# shellcheck disable=SC2317  # functions called through `step`
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

device=cuda archs=80,90 minutes=2 emulated=
while [ $# -gt 0 ]; do
    case $1 in
    --device) device=$2; shift 2 ;;
    --archs) archs=$2; shift 2 ;;
    --minutes) minutes=$2; shift 2 ;;
    --emulated) emulated=1; shift ;;
    *)
        sed -n '2,4p' "$0" | cut -c3-
        exit 2
        ;;
    esac
done

build=build-gpu rows=() failed=0
mkdir -p build-logs

# step NAME COMMAND...: runs it with its output in a log; a row of the table.
step() {
    local name=$1 start=$SECONDS log="build-logs/gpu-$1.log" result=ok
    shift
    "$@" >"$log" 2>&1 || {
        result=FAILED failed=1
        tail -n 20 "$log"
    }
    rows+=("$(printf '%-12s %-7s %5d s   %s' "$name" "$result" $((SECONDS - start)) "$log")")
    [ "$result" = ok ]
}

configure() {
    local options=(-Dserver=auto)
    [ -n "$emulated" ] || options+=(-Dcuda=enabled "-Dgpu_archs=$archs")
    if [ -f "$build/build.ninja" ]; then
        meson configure "$build" "${options[@]}"
    else
        meson setup "$build" "${options[@]}"
    fi
}

table() {
    printf '\n%-12s %-7s %7s   %s\n' step result time log
    printf '%s\n' "${rows[@]}"
    [ "$failed" -eq 0 ]
}
trap 'table' EXIT

step configure configure || exit 1
if [ -n "$emulated" ]; then
    step build ninja -C "$build" tests/ops/ops_parity_emu || exit 1
    step parity "$build/tests/ops/ops_parity_emu" emu || true
    exit "$failed"
fi
step build ninja -C "$build" || exit 1
step parity "$build/tests/ops/ops_parity" "$device" || true
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        step $tool compute-sanitizer --tool $tool --error-exitcode 1 \
            "$build/tests/ops/ops_parity" "$device" || true
    done
fi
step bench "$build/daemon/driftd" bench --device "$device" && cat build-logs/gpu-bench.log
step train timeout $((minutes * 60 + 60)) "$build/daemon/driftd" run configs/digits.json \
    --device "$device" --set "train.minutes=$minutes" --out build-logs/gpu-train || true
exit "$failed"
