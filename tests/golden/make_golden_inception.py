#!/usr/bin/env python3
"""Makes inception.safetensors: Inception-v3 and the resizes before it, by torchvision, PyTorch and Pillow.

Weights and images follow from a rule (value i of the tensor NAME is a hash of both), so the file holds
outputs only: the engine's test makes the same weights, writes them as a file of pytorch-fid's and reads
that. Networks run in double. Not part of the test suite, which has no PyTorch (Debian: python3-torch,
torchvision by hand). From this folder:

    /usr/bin/python3 make_golden_inception.py
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image

from make_golden import write_safetensors

STEP = 13  # every so many pixels of a resized image are kept
CASES = {  # resize: height, width, channels
    "clean": (32, 32, 3),
    "legacy_pytorch": (28, 28, 1),
    "legacy_tensorflow": (40, 36, 3),
}
LARGE = (331, 350, 3)


# ---- the rule


def uniform(name, count):
    """Multiples of 2^-24 in [0,1): FNV-1a of the name, then a mixed counter."""
    h = 2166136261
    for c in name.encode():
        h = (h ^ c) * 16777619 & 0xFFFFFFFF
    x = (np.uint64(h) + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B9)) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint64(shift)
        x = x * np.uint64(factor) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    return (x >> np.uint64(8)).astype(np.float64) * 2.0**-24


def weights(name, shape):
    u = uniform(name, math.prod(shape))
    if name.endswith("bn.weight"):
        v = 0.8 + 0.4 * u
    elif name.endswith("running_var"):
        v = 0.5 + u
    elif len(shape) == 1:  # biases and means
        v = 0.4 * u - 0.2
    else:
        v = (2 * u - 1) * math.sqrt(6 / math.prod(shape[1:]))
    return v.astype(np.float32).reshape(shape)


def picture(name, h, w, c):
    return np.floor(uniform(name, h * w * c) * 256).astype(np.uint8).reshape(h, w, c)


# ---- networks


def mean_pool(x, kernel_size, stride, padding=0):
    return F.avg_pool2d(x, kernel_size, stride, padding, count_include_pad=False)


class Functions:
    """torch.nn.functional with other pools, as torchvision's blocks see it."""

    def __init__(self, **other):
        self.__dict__.update(other)

    def __getattr__(self, name):
        return getattr(F, name)


def patched(module, functions):
    """The same block with its forward pass in a namespace whose `F` is `functions`."""
    import types

    plain = type(module)._forward
    space = dict(plain.__globals__, F=functions)
    module._forward = types.MethodType(types.FunctionType(plain.__code__, space), module)


def network(variant):
    net = torchvision.models.inception_v3(num_classes=1008 if variant == "fid" else 1000,
                                          aux_logits=False, init_weights=False, transform_input=False)
    state = net.state_dict()
    for name, t in state.items():
        if t.dtype.is_floating_point:
            t.copy_(torch.tensor(weights(name, tuple(t.shape))))
    net.load_state_dict(state)
    if variant == "fid":
        for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
            patched(getattr(net, "Mixed_" + name), Functions(avg_pool2d=mean_pool))
        patched(net.Mixed_7c, Functions(avg_pool2d=F.max_pool2d))
    return net.double().eval()


def outputs(net, x):
    kept = []
    hook = net.avgpool.register_forward_hook(lambda m, i, o: kept.append(o.flatten(1)))
    with torch.no_grad():
        logits = net(x)
    hook.remove()
    return kept[0], logits


# ---- resizes


def bilinear_tf1(p, out):
    """TensorFlow 1's resize_bilinear with align_corners=False: source = i in / out."""
    def taps(n):
        at = np.arange(out) * (n / out)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, n - 1), at - low

    p = p.astype(np.float64)
    a, b, f = taps(p.shape[0])
    p = p[a] + (p[b] - p[a]) * f[:, None, None]
    a, b, f = taps(p.shape[1])
    return p[:, a] + (p[:, b] - p[:, a]) * f[None, :, None]


def resized(way, p):
    """Bytes [h,w,c] to what the network takes, [3,299,299]."""
    p = np.repeat(p, 3, 2) if p.shape[2] == 1 else p
    if way == "clean":
        one = [np.asarray(Image.fromarray(p[:, :, k].astype(np.float32), mode="F").resize(
            (299, 299), resample=Image.BICUBIC)).clip(0, 255) for k in range(3)]
        out = (np.stack(one, 2).astype(np.float64) - 128) / 128
    elif way == "legacy_pytorch":
        x = torch.tensor(p.transpose(2, 0, 1)[None].astype(np.float64))
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)[0]
        return 2 * (x.numpy() / 255) - 1
    else:
        out = (bilinear_tf1(p, 299) - 128) / 128
    return out.transpose(2, 0, 1)


# ---- the file


def inception_score(logits):
    p = torch.softmax(torch.tensor(logits), 1).numpy()
    kl = (p * (np.log(p) - np.log(p.mean(0)))).sum(1)
    return math.exp(kl.mean())


def main():
    torch.set_num_threads(2)
    t, unbiased = {}, []
    fid, plain = network("fid"), network("torchvision")
    bias = weights("fc.bias", (1008,)).astype(np.float64)

    def add(name, a):
        t[name] = np.ascontiguousarray(a, dtype=np.float32)

    for way, shape in CASES.items():
        x = resized(way, picture("image." + way, *shape))
        add("resized." + way, x[:, ::STEP, ::STEP])
        pooled, logits = outputs(fid, torch.tensor(x)[None])
        add("fid.%s.pooled" % way, pooled[0])
        add("fid.%s.logits" % way, logits[0])
        unbiased.append(logits[0].numpy() - bias)
        print("%-18s features %.3g +- %.3g, logits +- %.3g" % (
            way, pooled.mean(), pooled.std(), logits.std()))
        if way == "clean":
            pooled, logits = outputs(plain, torch.tensor(x)[None])
            add("torchvision.clean.pooled", pooled[0])
            add("torchvision.clean.logits", logits[0])
    for way in CASES:
        add("large." + way, resized(way, picture("image.large", *LARGE))[:, ::STEP, ::STEP])
    add("is", [inception_score(np.stack(unbiased))])
    write_safetensors("inception.safetensors", t, {"made by": "make_golden_inception.py"})


if __name__ == "__main__":
    main()
