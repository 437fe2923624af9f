#!/bin/bash
# Dependencies run one way in what is linked as well: a folder's objects need only symbols of the
# folders below it. Catches what include-direction.sh cannot see, a header that declares what a file
# further up defines.
# usage: symbol-direction.sh LIBENGINE.A
set -euo pipefail
nm -A "$1" | awk '
# "lib.a:engine/libengine.a.p/core_err.c.o:0000 T dr_fail"; kernels built once more per instruction
# set lie in a library of their own.
function folder(object) {
    if (object ~ /libcpu_/) return "cpu"
    sub(/.*\//, "", object)
    return object ~ /^[a-z]+_/ ? substr(object, 1, index(object, "_") - 1) : "top"
}
BEGIN {
    low["core"] = " core "
    low["config"] = " core config "
    low["cpu"] = " core cpu "
    low["cuda"] = " core cuda "
    low["io"] = " core io "
    low["nn"] = " core config nn "
    low["loss"] = " core config nn loss "
    low["data"] = " core config io data "
    low["sample"] = " core config nn io sample "
    low["train"] = " core config nn loss data io sample train "
    low["eval"] = " core config nn data io sample eval "
    low["top"] = " core cpu cuda top "
}
{
    object = $1
    sub(/^[^:]*:/, "", object)
    sub(/:.*/, "", object)
    from = folder(object)
    seen[from] = 1
    if ($2 == "U") needs[from, $3] = object
    else if ($2 ~ /^[A-Z]$/) home[$3] = from
}
END {
    for (f in seen)
        if (!(f in low)) { print "folder " f " has no row in symbol-direction.sh"; bad = 1 }
    for (key in needs) {
        split(key, k, SUBSEP)
        if (k[2] in home && index(low[k[1]], " " home[k[2]] " ") == 0) {
            print needs[key] " needs " k[2] " of engine/" home[k[2]]
            bad = 1
        }
        n++
    }
    if (n < 100) { print "only " n + 0 " symbols read"; bad = 1 }
    exit bad
}'
