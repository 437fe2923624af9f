#!/usr/bin/env python3
"""engine/export/driftd_model.py against the golden vectors that the engine is tested with.

Each file of this folder has weights, inputs and the outputs of an independent program in double
precision; tests/golden/test_golden*.c hold the engine to the same numbers, so the three agree. With a
folder of exports (build/tests/export/test_export FOLDER writes one per recipe), also those: weights as
exported, inputs and the engine's images beside them.

Not part of the test suite, which has no PyTorch (Debian: python3-torch). From the repository root:

    /usr/bin/python3 tests/golden/torch_model.py [FOLDER]
"""
import glob
import os
import sys

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../engine/export"))
import driftd_model as dm  # noqa: E402

LIMIT = {torch.float64: 1e-20, torch.float32: 1e-9}  # NMSE


def nmse(got, want):
    want = want.double()
    return float(((got.double() - want) ** 2).sum() / (want**2).sum())


def compare(name, got, want, limit):
    bad = nmse(got, want)
    print("%-44s NMSE %.1e" % (name, bad))
    if not bad <= limit or got.shape != want.shape:
        sys.exit("%s: over %g, or of shape %s instead of %s" % (name, limit, tuple(got.shape), tuple(want.shape)))


def check(path, vectors, dtype):
    net, t = dm.load(path, dtype=dtype), vectors
    name = "%s %s" % (os.path.basename(path), str(dtype)[6:])
    if isinstance(net, dm.ResNet):
        got = net(t["in.x"].to(dtype))
        for key, want in t.items():
            if key.startswith("out."):
                x = got[key[4:]]
                compare(name + " " + key[4:], x.permute(0, 2, 3, 1) if x.dim() == 4 else x, want, LIMIT[dtype])
        return
    style = t["in.style"].long() if "in.style" in t else None
    x = net(t["in.noise"].to(dtype), t["in.class"].long(), t["in.alpha"].to(dtype), style)
    compare(name, x, t["image"].reshape(x.shape), LIMIT[dtype])


def main():
    for path in sorted(glob.glob(HERE + "/*.safetensors")):
        tensors, meta = dm.read_safetensors(path)
        if "-vectors" in path or "driftd.config" not in meta:
            continue  # the torchvision file has no description; the engine tells it by its shapes
        if not any(k.startswith("in.") for k in tensors):
            tensors, _ = dm.read_safetensors(path.replace(".safetensors", "-vectors.safetensors"))
        for dtype in (torch.float64, torch.float32):
            check(path, tensors, dtype)
    for path in sorted(glob.glob(sys.argv[1] + "/*.vectors")) if len(sys.argv) > 1 else []:
        tensors, _ = dm.read_safetensors(path)
        check(path[:-len("vectors")] + "safetensors", tensors, torch.float32)


if __name__ == "__main__":
    main()
