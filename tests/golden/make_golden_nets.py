#!/usr/bin/env python3
"""Makes the golden vectors of the convolutional networks: unet*.safetensors and resnet*.safetensors.

Independent of the engine, like make_golden.py, whose format the U-Nets' files have: plain PyTorch
operations in double precision, written from docs/networks.md. A ResNet has two files: its weights
alone, as anybody would save them, and NAME-vectors.safetensors with images (`in.x`, F32) and outputs
(`out.NAME`, F64; maps as [b,h,w,c]).

    ./make_golden_nets.py                       writes the files into this folder
    ./make_golden_nets.py --torchvision BINARY  torchvision's own resnet18 and resnet34 with random
                                                weights, compared by build/tests/golden/golden-nets
"""
import argparse
import json
import math
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F

from make_golden import BASE, Weights, condition, write_safetensors

UNETS = {
    "unet": dict(arch="unet", depth=1, dim=4, heads=2, size=5, channels=3, widths=[1, 1.5],
                 attention=3, style_tokens=2),
    "unet-latent": dict(arch="unet", depth=1, dim=4, heads=1, size=4, channels=1, widths=[1, 1],
                        attention=4, style_tokens=0, noise="latent"),
}
RESNETS = {
    "resnet": dict(arch="resnet", size=7, channels=2, width=4, blocks=[3, 1, 2], classes=3, head="both"),
    "resnet-strided": dict(arch="resnet", size=9, channels=1, width=6, blocks=[1, 1], groups=2, stride=2,
                           kernel=5, classes=2, head="both"),
    # without a description: torchvision's names and shapes tell
    "resnet-torch": dict(size=32, channels=3, width=3, blocks=[1, 2], stride=2, kernel=7, pool=True,
                         resize=64, imagenet=True, norm="batch", classes=5, head="classifier"),
}


# ---- layers


def groups_of(c, most):
    return max(g for g in range(1, c + 1) if c % g == 0 and g <= min(most, max(c // 2, 1)))


class Layers(Weights):
    """Convolutions and norms on [b,c,h,w]."""

    most, batch = 32, False

    def conv(self, x, name, co, k, stride=1, bias=False):
        ci = x.shape[1]
        w = self(name + ".weight", (co, ci, k, k), math.sqrt(1.5 / (ci * k * k)))
        b = self(name + ".bias", (co,), 0.3) if bias else None
        return F.conv2d(x, w, b, stride=stride, padding=k // 2)

    def norm(self, x, name):
        c = x.shape[1]
        w, b = self(name + ".weight", (c,), 0.2, 1.0), self(name + ".bias", (c,), 0.3)
        if not self.batch:
            return F.group_norm(x, groups_of(c, self.most), w, b, 1e-5)
        mean = self(name + ".running_mean", (c,), 0.3).detach()
        if name + ".running_var" not in self.t:
            v = self.rng.uniform(0.5, 2, c).astype(np.float32)
            self.t[name + ".running_var"] = torch.tensor(v.astype(np.float64))
        return F.batch_norm(x, mean, self.t[name + ".running_var"], w, b, False, 0, 1e-5)


# ---- the U-Net


def res(w, m, x, c, co, attends, name):
    h = w.conv(F.silu(w.norm(x, name + ".norm1")), name + ".conv1", co, 3, bias=True)
    c = F.silu(c)
    scale = c @ w(name + ".scale.weight", (co, c.shape[1]), 0.2).T + w(name + ".scale.bias", (co,), 0.2, 1.0)
    shift = c @ w(name + ".shift.weight", (co, c.shape[1]), 0.2).T + w(name + ".shift.bias", (co,), 0.3)
    h = F.group_norm(h, groups_of(co, 32), eps=1e-5) * scale[:, :, None, None] + shift[:, :, None, None]
    h = w.conv(F.silu(h), name + ".conv2", co, 3, bias=True)
    x = h + (x if x.shape[1] == co else w.conv(x, name + ".skip", co, 1, bias=True))
    if not attends:
        return x
    b, _, side, _ = x.shape
    n = w.norm(x, name + ".attn.norm").flatten(2).transpose(1, 2)
    qkv = w.linear(n, name + ".attn.qkv", 3 * co).reshape(b, -1, 3, m["heads"], co // m["heads"])
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    a = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v
    a = w.linear(a.transpose(1, 2).reshape(b, -1, co), name + ".attn.proj", co)
    return x + a.transpose(1, 2).reshape(b, co, side, side)


def unet(w, m, inp):
    latent = m["noise"] == "latent"
    c = condition(w, dict(m, dim=4 * m["dim"]), inp, latent)
    width = [round(m["dim"] * k) for k in m["widths"]]
    size, ch = m["size"], m["channels"]
    if latent:
        x = w.linear(inp["noise"], "latent_embed", ch * size * size)
        x = x.reshape(-1, size, size, ch).permute(0, 3, 1, 2)
    else:
        x = inp["noise"]
    x = w.conv(x, "conv_in", width[0], 3, bias=True)
    skips = [x]

    def attends():
        return x.shape[-1] <= m["attention"]

    for i, co in enumerate(width):
        for j in range(m["depth"]):
            x = res(w, m, x, c, co, attends(), "down.%d.%d" % (i, j))
            skips.append(x)
        if i + 1 < len(width):
            x = w.conv(x, "down.%d.conv" % i, co, 3, 2, bias=True)
            skips.append(x)
    x = res(w, m, x, c, width[-1], attends(), "mid.0")
    x = res(w, m, x, c, width[-1], False, "mid.1")
    for i in reversed(range(len(width))):
        for j in range(m["depth"] + 1):
            x = torch.cat([x, skips.pop()], 1)
            x = res(w, m, x, c, width[i], attends(), "up.%d.%d" % (i, j))
        if i:
            x = F.interpolate(x, size=skips[-1].shape[-2:], mode="nearest")
            x = w.conv(x, "up.%d.conv" % i, width[i], 3, bias=True)
    assert not skips
    return w.conv(F.silu(w.norm(x, "norm_out")), "conv_out", ch, 3, bias=True)


def make_unet(name, changes, seed):
    m = dict(BASE, **changes)
    rng = np.random.default_rng(seed)
    b, image = 3, (3, m["channels"], m["size"], m["size"])

    def f32(shape):
        return rng.standard_normal(shape).astype(np.float32)

    raw = {
        "noise": f32((b, m["latent_dim"]) if m["noise"] == "latent" else image),
        "class": rng.integers(0, m["classes"] + m["null_class"], b).astype(np.int32),
        "alpha": rng.uniform(1, 4, b).astype(np.float32),
        "style": rng.integers(0, m["codebook"], (b, m["style_tokens"])).astype(np.int32),
        "dimage": f32(image),
    }
    inp = {k: torch.tensor(v.astype(np.float64)) for k, v in raw.items()}
    w = Layers(rng)
    out = unet(w, m, inp)
    out.backward(inp["dimage"])
    tensors = {"in." + k: v for k, v in raw.items() if v.size}
    tensors["image"] = out.detach().numpy()
    for k, v in w.t.items():
        tensors[k] = v.detach().numpy().astype(np.float32)
        tensors["grad." + k] = v.grad.numpy()
    write_safetensors(name + ".safetensors", tensors, {"driftd.config": json.dumps(m)})


# ---- residual encoders


def nhwc(x):
    return np.ascontiguousarray(x.detach().permute(0, 2, 3, 1).numpy())


def prepared(m, x):
    if m.get("imagenet"):
        mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
        std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
        x = ((x + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    if m.get("resize"):
        x = F.interpolate(x, size=m["resize"], mode="bilinear", align_corners=False)
    return x


def basic(w, x, co, stride, name, bn):
    h = F.relu(w.norm(w.conv(x, name + ".conv1", co, 3, stride), "%s.%s1" % (name, bn)))
    h = w.norm(w.conv(h, name + ".conv2", co, 3), "%s.%s2" % (name, bn))
    if stride > 1 or x.shape[1] != co:
        x = w.norm(w.conv(x, name + ".downsample.0", co, 1, stride), name + ".downsample.1")
    return F.relu(h + x)


def resnet(w, m, x):
    w.batch, w.most = m.get("norm") == "batch", m.get("groups", 32)
    bn, size = "bn" if w.batch else "norm", x.shape[-2:]
    out, ends = {}, []
    x = F.relu(w.norm(w.conv(prepared(m, x), "conv1", m["width"], m.get("kernel", 3), m.get("stride", 1)),
                      bn + "1"))
    if m.get("pool"):
        x = F.max_pool2d(x, 3, 2, 1)
    for s, blocks in enumerate(m["blocks"]):
        for i in range(blocks):
            x = basic(w, x, m["width"] << s, 2 if s and not i else 1, "layer%d.%d" % (s + 1, i), bn)
            if i + 1 == blocks:
                out["stage%d" % (s + 1)] = nhwc(x)
            elif i % 2:
                out["stage%d.block%d" % (s + 1, i + 1)] = nhwc(x)
        ends.append(x)
    pooled = x.mean((2, 3))
    out["pooled"] = pooled.detach().numpy()
    out["logits"] = w.linear(pooled, "fc", m["classes"]).detach().numpy()
    if m["head"] != "both":
        return out
    for s in reversed(range(len(ends) - 1)):
        name, skip = "decoder.stage%d." % (s + 1), ends[s]
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        x = w.norm(torch.cat([x, skip], 1), name + "norm")
        for k in "12":
            x = F.relu(w.norm(w.conv(x, name + "conv" + k, skip.shape[1], 3), name + "norm" + k))
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    out["reconstruction"] = nhwc(w.conv(x, "decoder.head", m["channels"], 1, bias=True))
    return out


def write_resnet(name, weights, meta, x, out):
    write_safetensors(name + ".safetensors", weights, meta)
    vectors = {"in.x": x}
    vectors.update({"out." + k: np.ascontiguousarray(v) for k, v in out.items()})
    write_safetensors(name + "-vectors.safetensors", vectors, {})


def make_resnet(name, m, seed):
    rng = np.random.default_rng(seed)
    w = Layers(rng)
    x = rng.standard_normal((2, m["channels"], m["size"], m["size"])).astype(np.float32)
    out = resnet(w, m, torch.tensor(x.astype(np.float64)))
    weights = {k: v.detach().numpy().astype(np.float32) for k, v in w.t.items()}
    write_resnet(name, weights, {"driftd.config": json.dumps(m)} if "arch" in m else {}, x, out)


# ---- torchvision's own


def torchvision_net(name, seed):
    from torchvision import models

    torch.manual_seed(seed)
    net = getattr(models, name)(weights=None, num_classes=1000).eval()
    for k, p in net.state_dict().items():  # statistics and norms that are nowhere special
        if k.endswith("running_mean"):
            p.normal_(0, 0.3)
        elif k.endswith("running_var"):
            p.uniform_(0.5, 2)
        elif p.dim() == 1 and p.dtype == torch.float32:
            p.normal_(1 if k.endswith("weight") else 0, 0.2)
    return net


def check_torchvision(binary):
    for name in ("resnet18", "resnet34"):
        net = torchvision_net(name, 3)
        state = {k: v.numpy().copy() for k, v in net.state_dict().items() if "num_batches" not in k}
        x = np.random.default_rng(4).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
        net, out = net.double(), {}
        hooks = [getattr(net, "layer%d" % s).register_forward_hook(
            lambda _, __, y, s=s: out.__setitem__("stage%d" % s, nhwc(y))) for s in (1, 2, 3, 4)]
        with torch.no_grad():
            out["logits"] = net(prepared(dict(imagenet=True, resize=64),
                                         torch.tensor(x).double())).numpy()
        assert len(hooks) == 4
        with tempfile.TemporaryDirectory() as folder:
            write_resnet(folder + "/" + name, state, {"format": "pt"}, x, out)
            print(name, flush=True)
            subprocess.run([binary, folder, name], check=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--torchvision", metavar="BINARY")
    a = p.parse_args()
    if a.torchvision:
        return check_torchvision(a.torchvision)
    for i, (name, m) in enumerate(UNETS.items()):
        make_unet(name, m, 200 + i)
    for i, (name, m) in enumerate(RESNETS.items()):
        make_resnet(name, m, 300 + i)


if __name__ == "__main__":
    sys.exit(main())
