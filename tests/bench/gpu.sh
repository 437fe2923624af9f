#!/bin/bash
# One call on a machine with a GPU: builds, checks every op and a training run against the CPU, runs
# compute-sanitizer, times training and sampling beside PyTorch; a table last. Under ten minutes.
# usage: tests/bench/gpu.sh [--device cuda[:N]] [--archs 80,90] [--steps 8000] [--only STEP,...]
#        tests/bench/gpu.sh --emulated      the emulated device and tiny sizes: a test of the script
#        tests/bench/gpu.sh --fetch         unpacks Debian's development packages into .deps, to carry
#                                           to a machine that has no package of its own
# Steps: parity,curve-device,curve-cpu,memcheck,memcheck-step,racecheck,bench,mnist,ops,torch. What is
# built, and the logs of steps that do not run, stay for the next call.
# Environment: DRIFTD_SECONDS (560, for all of it), DRIFTD_DATA (folder with mnist/; else digits stand
# in), DRIFTD_DEPS (.deps), PYTHON (python3, the one that has PyTorch), OUT (a folder that gets the
# logs, gpu-logs.tar.gz, after every step).
# shellcheck disable=SC2317  # functions called through `step`
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

device=cuda archs='' steps=8000 size=full emulated='' deadline=${DRIFTD_SECONDS:-560}
steps_known=parity,curve-device,curve-cpu,memcheck,memcheck-step,racecheck,bench,mnist,ops,torch
only=$steps_known
fetch() {
    local packages=(libjansson-dev libjansson4 libpng-dev libpng16-16 zlib1g-dev zlib1g libdeflate-dev libdeflate0
        nettle-dev libnettle8 libcmocka-dev libcmocka0
        libdnnl-dev libdnnl2 ocl-icd-libopencl1) # oneDNN: the CPU's curve
    local deps temporary
    deps=$(realpath -m "${DRIFTD_DEPS:-.deps}")
    temporary=$(mktemp -d)
    mkdir -p "$deps"
    (cd "$temporary" && apt-get download -qq "${packages[@]}" && for p in *.deb; do
        dpkg -x "$p" "$deps"
    done)
    rm -r "$temporary" "${deps:?}/usr/share"
    local link
    find "$deps" -type l -lname '/*' | while read -r link; do # or it leads out of the folder
        ln -srf "$deps$(readlink "$link")" "$link"
    done
    du -sh "$deps"
}
usage() {
    sed -n '2,12p' tests/bench/gpu.sh | cut -c3-
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
    --device) device=$2; shift 2 ;;
    --archs) archs=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --emulated) emulated=1 size=small steps=3; shift ;;
    --fetch) fetch; exit ;;
    *) usage ;;
    esac
done
for name in ${only//,/ }; do
    [[ ,$steps_known, == *,$name,* ]] || usage
done

build="build-gpu"
[ -z "$emulated" ] || build="build-gpu-emulated"
logs="build-logs/gpu"
python=${PYTHON:-python3}
rows=() failed=0
mkdir -p "$logs"
for name in configure build machine ${only//,/ }; do # no old log may pass for this run's
    rm -rf "$logs/$name.log" "${logs:?}/$name"
done

# Folders of headers and libraries: for the compilers, the linker and the programs. Earlier ones win.
headers() { export CPATH="${CPATH:+$CPATH:}$1"; }
libraries() {
    export LIBRARY_PATH="${LIBRARY_PATH:+$LIBRARY_PATH:}$1"
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$1"
}
plain_libraries=${LD_LIBRARY_PATH:-} # PyTorch brings its own
deps=$(realpath -m "${DRIFTD_DEPS:-.deps}")
if [ -d "$deps" ]; then
    for lib in "$deps"/usr/lib/*-linux-gnu "$deps"/lib/*-linux-gnu; do
        [ ! -d "$lib" ] || libraries "$lib"
    done
    headers "$deps/usr/include"
fi

# The toolkit, then tools and libraries that came as Python packages: a toolkit may have come without
# the files to build for cuBLAS and cuDNN. The linker wants names without a version.
toolkit=/usr/local/cuda
PATH="$toolkit/bin:$PATH:$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')"
export PATH
[ ! -d "$toolkit/lib64" ] || libraries "$toolkit/lib64"
wheels=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia
for name in cu13 cudnn; do
    [ -d "$wheels/$name/lib" ] || continue
    headers "$wheels/$name/include"
    libraries "$wheels/$name/lib"
done
links="$PWD/$build-libs"
for name in cublas cublasLt; do
    [ -e "$wheels/cu13/lib/lib$name.so.13" ] || continue
    mkdir -p "$links"
    ln -sf "$wheels/cu13/lib/lib$name.so.13" "$links/lib$name.so"
done
[ ! -d "$links" ] || libraries "$links"

if [ -z "$archs" ] && [ -z "$emulated" ]; then # the cards that are there
    archs=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>&1 | grep -xE '[0-9]+\.[0-9]+' |
        tr -d . | sort -nu | paste -sd,) || true
fi
archs=${archs:-80,90}

# step NAME LIMIT COMMAND...: runs it with its output in a log; a row of the table. It gets less than
# LIMIT when less is left, and knows as $limit what. 77: skipped.
step() {
    local name=$1 start=$SECONDS log="$logs/$1.log" result=ok rc=0
    local left=$((deadline - SECONDS))
    export limit=$(($2 < left ? $2 : left))
    shift 2
    if [ "$left" -lt 5 ]; then
        rc=-1
    else
        timeout -k 5 "$limit" "$@" >"$log" 2>&1 || rc=$?
    fi
    case $rc in
    0) ;;
    77) result=skipped ;;
    124 | 137) result='TOO LONG' ;;
    -1) result='NO TIME' ;;
    *) result=FAILED ;;
    esac
    case $name,$rc in
    *,0 | *,77) ;;
    torch,124 | torch,137 | torch,-1) ;; # what it measured counts, and nothing of ours is wrong
    *) failed=1 ;;
    esac
    [ "$rc" -eq 0 ] || [ ! -e "$log" ] || tail -n 15 "$log"
    rows+=("$(printf '%-22s %-8s %5d s   %s' "$name" "$result" $((SECONDS - start)) "$log")")
    printf '%s\n' "${rows[-1]}"
    keep
    [ "$rc" -eq 0 ]
}
keep() { [ ! -d "${OUT:-}" ] || tar -czf "$OUT/gpu-logs.tar.gz" -C "${logs%/*}" "${logs##*/}"; }

table() {
    printf '\n%-22s %-8s %7s   %s\n' step result time log
    printf '%s\n' "${rows[@]}"
    printf '\n'
    "$python" tests/bench/gpu_table.py "$logs" || failed=1
}
finish() {
    table > >(tee "$logs/table.txt")
    wait $! || true # tee is done
    keep
    [ "$failed" -eq 0 ]
}

configure() {
    local options=(-Dserver=disabled -Dwerror=false) # another compiler's warnings cost no run
    if [ -n "$emulated" ]; then
        options+=(-Dcuda=disabled)
    else
        options+=(-Dcuda=enabled "-Dgpu_archs=$archs")
    fi
    [ ! -f "$build/build.ninja" ] || options+=(--reconfigure)
    meson setup "$build" "${options[@]}"
}

compile() {
    local module=engine/cuda/libdriftd_cuda.so
    [ -z "$emulated" ] || module=tests/emu/libdriftd_emu.so
    ninja -C "$build" "$module" tests/ops/ops_parity tests/bench/gpu_bench tests/bench/step_bench
}

# The driver's and the card's names, clocks and load belong to every figure.
machine() {
    uname -rm
    nproc
    nvcc --version | tail -n 2
    nvidia-smi
}

parity() { "$build/tests/ops/ops_parity" "$device"; }

checkable() { [ -z "$emulated" ] && command -v compute-sanitizer >/dev/null; }

# Parity of single ops under the sanitizer; races only where threads share memory, and not in
# cuBLAS. Starting takes most of the time, so they run side by side. Each is a process group of its
# own, which the end of this step would not reach: it ends before.
sanitized() { # TOOL
    local ops=(attn_fwd attn_bwd rmsnorm_mod_bwd gate_bwd colsum embed_bwd pair_dist drift_scale
        drift_coef drift_combine drift_grad sumsq l2norm_bwd)
    [ "$1" = racecheck ] || ops+=(gather adamw swiglu_bwd normals copy4 gemm)
    checkable || return 77
    export tool=$1 stop_at=$((EPOCHSECONDS + limit - 8))
    mkdir -p "$logs/$tool"
    printf '%s\n' "${ops[@]}" | xargs -P "$(nproc)" -I{} bash -c 'sanitize {}'
}
sanitize() { # OP
    local left=$((stop_at - EPOCHSECONDS)) rc=0 log="$logs/$tool/$1.log"
    [ "$left" -gt 0 ] || { echo "$1: no time left" && return 1; }
    timeout -k 5 $((left < 80 ? left : 80)) compute-sanitizer --tool "$tool" --error-exitcode 1 \
        "$build/tests/ops/ops_parity" "$device" "$1" >"$log" 2>&1 || rc=$?
    [ "$rc" -ne 0 ] || return 0
    printf '%s: exit status %d, %s\n%s\n' "$1" "$rc" "$log" "$(tail -n 8 "$log")"
    return 1
}

# A few whole steps, recorded and replayed, under memcheck.
sanitized_step() {
    checkable || return 77
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

# The reference's run, as arguments; without MNIST's files, procedurally generated digits: the same shapes.
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
    "$build/tests/bench/gpu_bench" config "$size" | LD_LIBRARY_PATH=$plain_libraries \
        "$python" tests/bench/torch_baseline.py --budget $((limit > 50 ? limit - 50 : 1)) "${options[@]}"
}

export -f machine parity sanitized sanitize sanitized_step bench curve reference mnist ops baseline
export -f configure compile checkable
export build device size emulated archs steps python logs plain_libraries
run() { step "$1" "$2" bash -o pipefail -c "$3"; }

trap "finish || exit 1" EXIT
run configure 120 configure || exit 1
run build 420 compile || exit 1
if [ -n "$emulated" ]; then
    export DRIFTD_CUDA_MODULE=$PWD/$build/tests/emu/libdriftd_emu.so
else
    run machine 30 machine || exit 1
fi
wanted() { [[ ,$only, == *,$1,* ]]; }
try() { ! wanted "$1" || run "$@" || true; }
try parity 240 parity
try curve-device 120 "curve $device"
try curve-cpu 120 'curve cpu'
try memcheck 110 'sanitized memcheck'
try memcheck-step 60 sanitized_step
try racecheck 110 'sanitized racecheck'
try bench 150 bench
try mnist 200 mnist
try ops 60 ops
try torch 150 baseline
