#!/bin/bash
# Are the emulator's tests able to fail? Puts one fault at a time into a copy of a kernel and expects
# the parity test of its op to fail.
# usage: mutants.sh SOURCE_ROOT BUILD_ROOT PARITY_PROGRAM LIBRARY COMPILER...
set -euo pipefail
root=$1 build=$2 parity=$3 library=$4
shift 4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/engine"
cp -r "$root/engine/cuda" "$work/engine/"

# FILE TO COMPILE | OP | FAULT | FILE TO CHANGE | SED SCRIPT (must change exactly one line)
mutants() {
    cat <<'END'
reduce.cu|colsum|a barrier removed|reduce.cu|0,/__syncthreads();/s///
norm.cu|l2norm_fwd|a barrier in block_sum removed|device.h|/^template <typename T> __device__ inline T block_sum/,/^}/{0,/__syncthreads();/s///}
norm.cu|rmsnorm_mod_bwd|the barrier before columns are added removed|norm.cu|/which ? sxh/,/__syncthreads/s/__syncthreads();//
embed.cu|embed_bwd|no barrier before what was found is read|embed.cu|/found\[at\]/,/__syncthreads/s/__syncthreads();//
embed.cu|embed_bwd|only the nearest earlier lookups looked at|embed.cu|s/last -= step \* ROW/last = -1/
patch.cu|patch_stats_fwd|an index off by one|patch.cu|/^__device__ inline int64_t patch_at/,/^}/s/x \* p/x * p + 1/
drift.cu|pair_dist|the last column left out|drift.cu|s/c0 + lane < cols ?/c0 + lane < cols - 1 ?/
drift_coef.cu|drift_coef|the self mask removed|drift_coef.cu|s/if (i == j \&\& j < c.a.n_neg)/if (i == j \&\& j < 0)/
drift_coef.cu|drift_coef|no barrier before a column is put together|drift_coef.cu|/pass ? sum : low/,/__syncthreads/s/__syncthreads();//
drift_coef.cu|drift_coef|sums written over minima still to be read|drift_coef.cu|s/__syncthreads(); \/\/ all minima/; \/\/ all minima/
attn_mma.cu|attn_fwd|keys past the end not masked|attn_mma.h|s/col + e % 2 >= valid/col + e % 2 >= 16/
attn_mma_bwd.cu|attn_bwd|no barrier before the keys' walk|attn_mma_bwd.cu|s/__syncthreads(); \/\/ lse and delta of all queries//
attn_mma_bwd.cu|attn_bwd|a lane's wait for its warp removed|attn_mma_bwd.cu|/stage\[lane \/ 4/,/__syncwarp/s/__syncwarp();//
attn_mma_bwd.cu|attn_bwd|shared memory for half of lse and delta|attn_mma_bwd.cu|s/(2 \* t16 + warps/(t16 + warps/
flat.cu|copy4|quotients one too small|divide.h|s/(uint64_t)by - 1) \/ (uint64_t)by/0) \/ (uint64_t)by/
affine.cu|groupnorm_bwd|no barrier before the warps' sums are added|affine.cu|/s\[256 + warp \* 32 + lane\] = sumx/,/__syncthreads/s/__syncthreads();//
window.cu|pool_bwd|the first window of a pixel left out|window.cu|s/first > 0 ? (first + stride - 1)/first > 0 ? (first + stride)/
target.cu|softmax_xent|a barrier in block_max removed|target.cu|/inline float block_max/,/^}/{0,/__syncthreads();/s///}
END
}

failed=0 number=0
while IFS='|' read -r unit op fault file script; do
    number=$((number + 1))
    cp "$root/engine/cuda/$file" "$work/engine/cuda/$file"
    sed -i "$script" "$work/engine/cuda/$file"
    changed=$(diff "$root/engine/cuda/$file" "$work/engine/cuda/$file" | grep -c '^<' || true)
    if [ "$changed" -ne 1 ]; then
        echo "FAIL  $file: the script for \"$fault\" changed $changed lines, not one"
        failed=1
        continue
    fi
    so=$work/$number.so
    "$@" -x c++ -std=gnu++17 -O1 -fPIC -shared -fno-strict-aliasing -D_GNU_SOURCE -w \
        -include "$root/tests/emu/gpu_emu.h" -I"$work" -I"$root" -I"$build" \
        "$work/engine/cuda/$unit" -o "$so"
    if LD_PRELOAD=$so "$parity" emu "$op" >"$work/log" 2>&1; then
        echo "FAIL  $op passes with this fault in $file: $fault"
        failed=1
    elif ! grep -qE "$op on emu|emulator:|depend on the number" "$work/log"; then
        echo "FAIL  $op fails for another reason than \"$fault\" in $file:"
        tail -n 5 "$work/log"
        failed=1
    else
        printf 'ok    %-16s %-44s %s\n' "$op" "$fault" \
            "$(grep -oE -m1 'emulator: .*|depend on the number.*|: [a-z_0-9]+(\[|: NMSE).*' "$work/log" | cut -c1-70)"
    fi
    cp "$root/engine/cuda/$file" "$work/engine/cuda/$file"
done < <(mutants)

# The harness itself: without any fault the same way of running passes.
"$parity" emu colsum >/dev/null
nm -D --defined-only "$library" | grep -c dr_cuda_colsum >/dev/null # or nothing could be put in front
exit $failed
