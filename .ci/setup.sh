# shellcheck shell=bash
# Shared by ./run, ./check and .ci/run: installs what is missing, builds in build/. Sourced with the
# repository root as the working directory. Quick when there is nothing to do.

# shellcheck disable=SC2034  # used by those who source this
build_packages=(
    build-essential meson ninja-build pkg-config git ca-certificates curl
    libdnnl-dev libmicrohttpd-dev libjansson-dev libpng-dev zlib1g-dev libdeflate-dev nettle-dev
    libsqlite3-dev libcurl4-openssl-dev libarchive-dev libcairo2-dev libsystemd-dev libcmocka-dev
    libjpeg62-turbo-dev libwebp-dev liblapacke-dev
)
# What the tests need besides: a browser for the dashboard's.
check_packages=(chromium)
# The dashboard needs npm at build time, from wherever it is.
command -v npm >/dev/null || build_packages+=(nodejs npm)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# install_packages PACKAGE...: only those that are missing.
install_packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "note: not a Debian system; these packages (or their likes) are needed: $*"
        return 0
    fi
    local have missing=() p sudo=()
    have=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
    for p in "$@"; do
        grep -qx "$p installed" <<<"$have" || missing+=("$p")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            die "missing packages, and no sudo to install them; as root: apt-get install ${missing[*]}"
        sudo=(sudo)
    fi
    say "installing ${missing[*]}"
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends "${missing[@]}" >/dev/null
}

# Compiling for GPUs takes minutes: DRIFTD_CUDA=enabled, disabled or auto asks for it; ./run sets it
# where there is a GPU.
cuda_option() { echo "-Dcuda=${DRIFTD_CUDA:-disabled}"; }

# configure_in FOLDER [MESON OPTION...]: once; ninja reconfigures by itself when files change. A folder
# that is there follows DRIFTD_CUDA where that asks for something else than the last time.
configure_in() {
    if [ ! -f "$1/build.ninja" ]; then
        logged "$1" meson setup "$(cuda_option)" "$@"
    elif [ -n "${DRIFTD_CUDA:-}" ] && [ "$(cat "$1/cuda-option" 2>/dev/null)" != "$(cuda_option)" ]; then
        logged "$1" meson configure "$1" "$(cuda_option)"
    else
        return 0
    fi
    cuda_option >"$1/cuda-option"
}

# build_in FOLDER [TARGET...]: without a target, everything.
build_in() {
    say "building in $1/"
    logged "$1" ninja -C "$@"
}

# logged NAME COMMAND...: what it prints goes to build-logs/NAME.log and is shown when it fails.
logged() {
    local log="build-logs/$1.log"
    shift
    mkdir -p build-logs
    "$@" >"$log" 2>&1 || {
        tail -n 60 "$log" >&2
        die "the build failed; all that it said is in $log"
    }
}

# test_in FOLDER [MESON TEST OPTION...]: builds what the tests need and runs them; `summary` says how
# they went.
test_in() {
    local folder=$1
    shift
    rm -f "$folder"/meson-logs/testlog*.json
    # Idle OpenMP threads sleep: several tests share the cores.
    OMP_WAIT_POLICY=passive meson test -C "$folder" --print-errorlogs "$@" || true
    skips "$folder"
}

# skips FOLDER: why tests were skipped, as they said it themselves.
skips() {
    python3 - "$1"/meson-logs/testlog*.json <<'PY'
import json, os, sys
for path in filter(os.path.exists, sys.argv[1:]):
    with open(path) as log:
        for test in map(json.loads, log):
            if test["result"] == "SKIP":
                said = (test.get("stdout") or test.get("stderr") or "").strip().splitlines()
                why = said[-1].removeprefix("skipped: ") if said else "no reason given"
                print(f"skipped {test['name']}: {why}")
PY
}

# unmoved COMMAND...: at fixed addresses, where that is allowed. The sanitizers of these compilers want
# memory for themselves where newer kernels (vm.mmap_rnd_bits of 32) may put the program.
unmoved() {
    local how=(env)
    ! setarch "$(uname -m)" -R true 2>/dev/null || how=(setarch "$(uname -m)" -R)
    "${how[@]}" "$@"
}

# fuzz_in FOLDER: builds the libFuzzer targets with clang and runs them, two at a time; `summary` says
# how they went. False, with a word, where there is no clang to be had.
fuzz_in() {
    local folder=$1
    install_packages clang libclang-rt-dev libomp-dev
    command -v clang >/dev/null || { say "note: no clang, so nothing is fuzzed"; return 1; }
    rm -f "$folder"/meson-logs/testlog*.json
    CC=clang configure_in "$folder" -Dfuzz=true -Dweb=disabled -Dwerror=false
    say "fuzzing in $folder/"
    logged "$folder" ninja -C "$folder" fuzzers
    unmoved meson test -C "$folder" --no-rebuild --print-errorlogs --num-processes 2 --suite libfuzzer ||
        true
}

# summary FOLDER...: "PASSED FAILED SKIPPED" of the folders' last `meson test`.
summary() {
    python3 - "$@" <<'PY'
import glob, json, sys
count = {"passed": 0, "failed": 0, "skipped": 0}
kind = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}
for folder in sys.argv[1:]:
    logs = glob.glob(folder + "/meson-logs/testlog*.json")
    count["failed"] += not logs
    for path in logs:
        with open(path) as log:
            for line in log:
                count[kind.get(json.loads(line)["result"], "failed")] += 1
print(count["passed"], count["failed"], count["skipped"])
PY
}

# report PASSED FAILED SKIPPED: the closing line; false when something failed or nothing ran.
report() {
    local line="$1 passed, $2 failed"
    [ "$3" -eq 0 ] || line+=", $3 skipped"
    printf '%s\n' "$line"
    [ "$2" -eq 0 ] && [ "$1" -gt 0 ]
}
