#!/bin/bash
# One call on a machine with a GPU: builds, checks every op and a training run against the CPU, runs
# compute-sanitizer, times training and sampling beside PyTorch; a table last. Under ten minutes.
# usage: tests/bench/gpu.sh [--device cuda[:N]] [--archs 80,90] [--steps 8000]
#        tests/bench/gpu.sh --emulated      the emulated device and tiny sizes: a test of the script
#        tests/bench/gpu.sh --fetch         unpacks Debian's development packages into .deps, to carry
#                                           to a machine that has no package of its own
# Environment: DRIFTD_DATA (folder with mnist/; else digits stand in), DRIFTD_DEPS (.deps),
# PYTHON (python3, the one that has PyTorch).
# shellcheck disable=SC2317  # functions called through `step`
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

device=cuda archs=80,90 steps=8000 size=full emulated=
fetch() {
    local packages=(libjansson-dev libjansson4 libpng-dev libpng16-16 zlib1g-dev zlib1g libdeflate-dev libdeflate0
        libcmocka-dev libcmocka0)
    local deps temporary
    deps=$(realpath -m "${DRIFTD_DEPS:-.deps}")
    temporary=$(mktemp -d)
    mkdir -p "$deps"
    (cd "$temporary" && apt-get download -qq "${packages[@]}" && for p in *.deb; do
        dpkg -x "$p" "$deps"
    done)
    rm -r "$temporary" "${deps:?}/usr/share"
    du -sh "$deps"
}
while [ $# -gt 0 ]; do
    case $1 in
    --device) device=$2; shift 2 ;;
    --archs) archs=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    --emulated) emulated=1 size=small steps=3; shift ;;
    --fetch) fetch; exit ;;
    *)
        sed -n '2,10p' "$0" | cut -c3-
        exit 2
        ;;
    esac
done

build="build-gpu"
[ -z "$emulated" ] || build="build-gpu-emulated"
logs="build-logs/gpu"
python=${PYTHON:-python3}
rows=() failed=0
mkdir -p "$logs"

# Unpacked packages, and tools that came as Python packages.
deps=$(realpath -m "${DRIFTD_DEPS:-.deps}")
if [ -d "$deps" ]; then
    for lib in "$deps"/usr/lib/*-linux-gnu "$deps"/lib/*-linux-gnu; do
        [ -d "$lib" ] || continue
        export LIBRARY_PATH="$lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
        export LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    done
    export CPATH="$deps/usr/include${CPATH:+:$CPATH}"
fi
PATH="$PATH:$(dirname "$(readlink -f "$(command -v "$python")")"):/usr/local/cuda/bin"
export PATH

# step NAME LIMIT COMMAND...: runs it with its output in a log; a row of the table. 77: skipped.
step() {
    local name=$1 limit=$2 start=$SECONDS log="$logs/$1.log" result=ok rc=0
    shift 2
    timeout "$limit" "$@" >"$log" 2>&1 || rc=$?
    case $rc in
    0) ;;
    77) result=skipped ;;
    124) result='TOO LONG' failed=1 ;;
    *) result=FAILED failed=1 ;;
    esac
    [ "$rc" -eq 0 ] || tail -n 15 "$log"
    rows+=("$(printf '%-22s %-8s %5d s   %s' "$name" "$result" $((SECONDS - start)) "$log")")
    printf '%s\n' "${rows[-1]}"
    [ "$rc" -eq 0 ]
}

table() {
    printf '\n%-22s %-8s %7s   %s\n' step result time log
    printf '%s\n' "${rows[@]}"
    printf '\n'
    "$python" tests/bench/gpu_table.py "$logs" || failed=1
    [ "$failed" -eq 0 ]
}

configure() {
    local options=(-Dserver=disabled -Dcuda=disabled)
    [ -n "$emulated" ] || options=(-Dserver=disabled -Dcuda=enabled "-Dgpu_archs=$archs")
    [ ! -f "$build/build.ninja" ] || options+=(--reconfigure)
    meson setup "$build" "${options[@]}"
}

# The driver's and the card's names, clocks and load belong to every figure.
machine() {
    uname -rm
    nproc
    nvcc --version | tail -n 2
    nvidia-smi
}

parity() { "$build/tests/ops/ops_parity" "$device"; }

# Small ops under the sanitizer; a launch in a hundred shapes is slow there, so the time is bounded
# by the list.
sanitized() {
    local tool=$1 op rc=0
    for op in gather adamw attn_fwd attn_bwd rmsnorm_mod_bwd swiglu_bwd drift_coef drift_combine \
        colsum embed_bwd normals gemm; do
        compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/tests/ops/ops_parity" \
            "$device" "$op" || rc=1
    done
    return $rc
}

# A few whole steps, recorded and replayed, under memcheck.
sanitized_step() {
    compute-sanitizer --tool memcheck --error-exitcode 1 "$build/tests/bench/gpu_bench" curve \
        "$device" configs/digits.json 4 train.generated=4 model.depth=1 data.count=1200
}

bench() { "$build/tests/bench/gpu_bench" bench "$device" "$size"; }

curve() { # DEVICE
    local set=(train.precision=fp32 metrics.spread_every=0) n=150
    [ -z "$emulated" ] || {
        set+=(data.size=14 data.count=600 model.dim=16 model.depth=1 model.heads=2
            train.generated=4 train.positives=4 train.unconditional=4)
        n=6
    }
    "$build/tests/bench/gpu_bench" curve "$1" configs/digits.json "$n" "${set[@]}"
}

# The reference's run, as arguments; without MNIST's files, digits drawn by code: the same shapes.
reference() {
    set=(train.precision=bf16 "train.steps=$steps" metrics.spread_every=0)
    if [ -n "$emulated" ]; then
        set+=(data.set=digits data.size=8 data.count=2000 model.dim=16 model.depth=1 model.heads=2
            model.registers=1 train.generated=2 train.positives=3)
    elif [ ! -e "${DRIFTD_DATA:-}/mnist" ]; then
        echo "note: no MNIST under \$DRIFTD_DATA: digits"
        set+=(data.set=digits)
    fi
}

mnist() {
    local set
    reference
    "$build/tests/bench/gpu_bench" curve "$device" configs/mnist.json "$steps" "${set[@]}"
}

# Where the time of its steps goes.
ops() {
    local set n=20
    reference
    [ -z "$emulated" ] || n=1
    "$build/tests/bench/step_bench" "$device" configs/mnist.json "$n" "${set[@]}"
}

baseline() {
    local options=()
    if [ -n "$emulated" ]; then options=(--small --seconds 0.2 --device cpu); fi
    "$build/tests/bench/gpu_bench" config "$size" |
        "$python" tests/bench/torch_baseline.py "${options[@]}"
}

export -f machine parity sanitized sanitized_step bench curve reference mnist ops baseline configure
export build device size emulated archs steps python
run() { step "$1" "$2" bash -c "$3"; }

trap "table || exit 1" EXIT
run configure 60 configure || exit 1
run build 420 "ninja -C $build" || exit 1
if [ -n "$emulated" ]; then
    export DRIFTD_CUDA_MODULE=$PWD/$build/tests/emu/libdriftd_emu.so
else
    run machine 30 machine || exit 1
fi
run parity 240 parity || true
run curve-device 120 "curve $device" || true
run curve-cpu 120 'curve cpu' || true
run bench 150 bench || true
run mnist 200 mnist || true
run ops 60 ops || true
run torch 150 baseline || true
if [ -z "$emulated" ] && command -v compute-sanitizer >/dev/null; then
    run memcheck 60 'sanitized memcheck' || true
    run memcheck-step 40 sanitized_step || true
    run racecheck 60 'sanitized racecheck' || true
fi
