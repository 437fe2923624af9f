#!/usr/bin/env python3
"""The table at the end of tests/bench/gpu.sh. usage: gpu_table.py FOLDER-OF-LOGS

Exits with 1 when the curves of the device and the CPU part. They share every random number; rounding
grows with the steps, so the first ones are compared one by one and the end by its mean. Between oneDNN and
plain loops on one CPU, which round differently, two seeds gave 8e-8 for the first five, up to 8 % in single
steps after the 70th, and 0.4 and 0.5 % between the means: the limits leave room for a third way of rounding.
"""
import json
import os
import sys

folder = sys.argv[1]


def rows(name):
    path, out = os.path.join(folder, name + ".log"), []
    if os.path.exists(path):
        with open(path, errors="replace") as f:
            for line in f:
                if line.startswith("{"):
                    try:
                        out.append(json.loads(line))
                    except ValueError:
                        pass
    return out


def line(*cells):
    print("%-18s %-9s %7s %11s %10s %8s %9s %11s %11s" % cells)


def ms(value):
    return "%.3f" % value


bench, torch = rows("bench"), rows("torch")
device = [r["detail"] for r in bench if r["what"] == "device"]
versions = [r for r in torch if r["what"] == "torch"]
print("device: %s; PyTorch: %s" % (device[0] if device else "none",
                                   versions[0]["version"] if versions else "not measured"))
for r in bench:
    if r["what"] == "gemm":
        print("bf16 product of %d^3: %s ms, %.4g TFLOP/s" % (r["n"], ms(r["ms"]), r["tflops"]))


def ratio(r, mode):
    """PyTorch's time over ours."""
    for t in torch:
        same = all(t.get(k) == r.get(k) for k in ("what", "network", "precision", "batch"))
        if same and t.get("torch") == mode:
            return "%.2f" % (t["ms"] / r["ms"])
    return "-"


line("what", "precision", "samples", "ms", "images/s", "TFLOP/s", "of bf16", "eager/ours", "compile/ours")
for r in bench:
    if r["what"] == "train":
        line(r["network"] + " step", r["precision"], r["samples"], ms(r["ms"]), "-", "%.4g" % r["tflops"],
             "%.1f %%" % (100 * r["share"]), ratio(r, "eager"), ratio(r, "compile"))
    elif r["what"] == "sample":
        line(r["network"], r["precision"], r["batch"], ms(r["ms"]), "%.5g" % r["images_s"], "-",
             "%.1f %%" % (100 * r["share"]), ratio(r, "eager"), ratio(r, "compile"))
for t in torch:
    if t["what"] == "failed":
        print("PyTorch, %s, %s: %s" % (t["torch"], t["network"], t["why"]))

mnist = [r for r in rows("mnist") if r["what"] == "curve"]
if mnist:
    print("mnist: %d steps in %.1f s, drift norm %.4g" % (mnist[-1]["step"], mnist[-1]["seconds"],
                                                        mnist[-1]["drift"]))

ops = os.path.join(folder, "ops.log")
if os.path.exists(ops):
    with open(ops, errors="replace") as f:
        table = f.read().splitlines()
    print("\nwhere a step of mnist goes (%s has all of it):" % ops)
    print("\n".join(table[:25] + table[max(25, len(table) - 2):]) + "\n")

ours, cpu = ([r for r in rows(n) if r["what"] == "curve"] for n in ("curve-device", "curve-cpu"))
status = 0
if ours and len(ours) == len(cpu):
    early = max(abs(a[k] - b[k]) / abs(b[k]) for a, b in zip(ours[:5], cpu) for k in ("loss", "drift"))
    tail = max(1, len(cpu) // 4)
    late = [sum(r["drift"] for r in c[-tail:]) / tail for c in (ours, cpu)]
    apart = abs(late[0] - late[1]) / late[1]
    status = int(not (early < 1e-3 and apart < 0.03))
    print("digits, %d steps in fp32: first five within %.2g of the CPU; mean drift norm of the last %d: "
          "%.5g, CPU %.5g (%.2g apart)%s" % (len(cpu), early, tail, late[0], late[1], apart,
                                            ": THEY PART" if status else ""))
elif cpu or ours:
    print("digits: %d steps on the device, %d on the CPU: no comparison" % (len(ours), len(cpu)))
    status = 1
sys.exit(status)
