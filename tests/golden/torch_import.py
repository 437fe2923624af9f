#!/usr/bin/env python3
"""Weights exported by PyTorch give PyTorch's images through a running daemon's import.

A DriftDiT is built as a PyTorch module whose state dict has the reference's names (method.md 6), gets
random weights, and is exported as safetensors in the ways people do it: with the model's config in
the metadata, as a bare state dict with a recipe named beside it or with nothing at all, in half
precision, under the prefix of a wrapper. The daemon imports each file by POST /v1/checkpoints and
generates with format=npy; noise and style indices of the seed are drawn here from method.md 8, and
PyTorch runs the network on them, in float64 (the reference) and in float32 (for comparison).

Not part of the test suite, which has no PyTorch (Debian: python3-torch). From the repository root:

    /usr/bin/python3 tests/golden/torch_import.py [--original FOLDER] build/daemon/driftd

--original: a checkout of the unofficial PyTorch code; its model.py is used instead of the module here
(it imports einops without using it, so einops need not be installed).
"""
import argparse
import http.client
import io
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time
import types
import urllib.parse

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LIMIT = 1e-10  # NMSE


# ---- the network


class RMSNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.weight


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.q_norm, self.k_norm = RMSNorm(d // heads), RMSNorm(d // heads)
        self.proj = nn.Linear(d, d)

    def forward(self, x):
        b, t, d = x.shape
        hd = d // self.heads
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, hd).permute(2, 0, 3, 1, 4)
        angle = torch.outer(torch.arange(t, dtype=torch.float64),
                            10000.0 ** (-torch.arange(0, hd, 2, dtype=torch.float64) / hd))
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)

        def turn(z):
            a, c = z[..., : hd // 2], z[..., hd // 2:]
            return torch.cat([a * cos - c * sin, c * cos + a * sin], -1)

        q, k = turn(self.q_norm(q)), turn(self.k_norm(k))
        att = torch.softmax(q @ k.mT / math.sqrt(hd), -1)
        return self.proj((att @ v).transpose(1, 2).reshape(b, t, d))


class FeedForward(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.w1 = nn.Linear(d, hidden, bias=False)
        self.w2 = nn.Linear(hidden, d, bias=False)
        self.w3 = nn.Linear(d, hidden, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def modulation(d, n):
    return nn.Sequential(nn.SiLU(), nn.Linear(d, n * d))


def modulated(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.norm1, self.attn = RMSNorm(d), Attention(d, heads)
        self.norm2, self.mlp = RMSNorm(d), FeedForward(d, 4 * d)
        self.adaLN_modulation = modulation(d, 6)

    def forward(self, x, c):
        m = self.adaLN_modulation(c).chunk(6, 1)
        x = x + m[2][:, None] * self.attn(modulated(self.norm1(x), m[0], m[1]))
        return x + m[5][:, None] * self.mlp(modulated(self.norm2(x), m[3], m[4]))


class Final(nn.Module):
    def __init__(self, d, out):
        super().__init__()
        self.norm, self.linear = RMSNorm(d), nn.Linear(d, out)
        self.adaLN_modulation = modulation(d, 2)

    def forward(self, x, c):
        return self.linear(modulated(self.norm(x), *self.adaLN_modulation(c).chunk(2, 1)))


class Named(nn.Module):
    """A module that holds one other under a name."""

    def __init__(self, name, module):
        super().__init__()
        setattr(self, name, module)


class DriftDiT(nn.Module):
    def __init__(self, size, channels, dim, depth, heads, patch, classes, style):
        super().__init__()
        self.patch, self.side, self.channels = patch, size // patch, channels
        self.patch_embed = Named("proj", nn.Conv2d(channels, dim, patch, patch))
        self.register_tokens = nn.Parameter(torch.zeros(1, 8, dim))
        self.label_embed = Named("embedding_table", nn.Embedding(classes + 1, dim))
        self.alpha_embed = Named("mlp", nn.Sequential(nn.Linear(256, dim), nn.SiLU(),
                                                      nn.Linear(dim, dim)))
        if style:
            self.style_embed = Named("codebook", nn.Embedding(64, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.final_layer = Final(dim, patch * patch * channels)

    def run(self, noise, label, alpha, style):
        x = self.patch_embed.proj(noise).flatten(2).mT
        x = torch.cat([self.register_tokens.expand(len(x), -1, -1), x], 1)
        f = 10.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
        angle = alpha.double()[:, None] * f
        c = self.label_embed.embedding_table(label)
        c = c + self.alpha_embed.mlp(torch.cat([angle.cos(), angle.sin()], 1).to(x.dtype))
        if style is not None:
            c = c + self.style_embed.codebook(style).sum(1)
        for block in self.blocks:
            x = block(x, c)
        x = self.final_layer(x[:, 8:], c)
        x = x.reshape(-1, self.side, self.side, self.patch, self.patch, self.channels)
        x = x.permute(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, self.channels, self.side * self.patch, self.side * self.patch)


def original(folder, size, channels, dim, depth, heads, patch, classes, style):
    """The network of the unofficial code, with `run` as above."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
        unused = types.ModuleType("einops")
        unused.rearrange = None
        sys.modules.setdefault("einops", unused)
    import model

    net = model.DriftDiT(img_size=size, patch_size=patch, in_channels=channels, hidden_size=dim,
                         depth=depth, num_heads=heads, num_classes=classes, use_style_embed=style)
    net.eval()

    def run(noise, label, alpha, indices):
        keep = torch.randint
        torch.randint = lambda *a, **k: indices  # the style tokens are the only draw
        try:
            return net(noise, label, alpha)
        finally:
            torch.randint = keep

    net.run = run
    return net


# ---- randomness (method.md 8)


def philox(key, counter):
    """key [2], counter [n,4] as uint32; ten rounds."""
    c = [counter[:, i].astype(np.uint64) for i in range(4)]
    k = [np.uint64(key[0]), np.uint64(key[1])]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ k[0], b & low, (a >> np.uint64(32)) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(c, 1)


def draw(seed, index, stream, count):
    blocks = (count + 3) // 4
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0], counter[:, 1] = np.arange(blocks), stream
    counter[:, 2], counter[:, 3] = index & 0xFFFFFFFF, index >> 32
    return philox((seed & 0xFFFFFFFF, seed >> 32), counter)


def normals(seed, index, count):
    u = (draw(seed, index, 0, count).astype(np.float64) + 0.5) * 2.0**-32
    out = np.empty_like(u)
    for i in (0, 2):
        r = np.sqrt(-2 * np.log(u[:, i]))
        out[:, i] = r * np.cos(2 * np.pi * u[:, i + 1])
        out[:, i + 1] = r * np.sin(2 * np.pi * u[:, i + 1])
    return out.reshape(-1)[:count]


def styles(seed, index, count=32, codebook=64):
    r = draw(seed, index, 1, count).reshape(-1)[:count].astype(np.uint64)
    return (r * np.uint64(codebook) >> np.uint64(32)).astype(np.int64)


# ---- files and the daemon


def safetensors(tensors, meta=None):
    """tensors: name -> (dtype name, shape, bytes)."""
    head, data, at = ({"__metadata__": meta} if meta else {}), [], 0
    for name, (dtype, shape, raw) in tensors.items():
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data.append(raw)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data)


def exported(state, dtype=torch.float32, prefix=""):
    name = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16",
            torch.bfloat16: "BF16"}[dtype]
    out = {}
    for key, t in state.items():
        t = t.detach().to(dtype).contiguous()
        raw = (t.view(torch.int16) if t.element_size() == 2 else t).numpy().tobytes()
        out[prefix + key] = (name, tuple(t.shape), raw)
    return out


class Daemon:
    def __init__(self, binary, folder):
        self.sock = os.path.join(folder, "sock")
        self.process = subprocess.Popen(
            [binary, "serve", "--listen=unix:" + self.sock, "--state-dir=" + folder + "/state",
             "--config-dir=configs", "--log-level=error"])
        for _ in range(600):
            if os.path.exists(self.sock):
                return
            time.sleep(0.1)
        raise SystemExit("driftd does not start")

    def ask(self, method, path, body=None, kind="application/octet-stream"):
        import socket

        c = http.client.HTTPConnection("localhost", timeout=300)
        c.sock = socket.socket(socket.AF_UNIX)
        c.sock.connect(self.sock)
        c.request(method, path, body, {"Content-Type": kind} if body else {})
        r = c.getresponse()
        return r.status, r.read()

    def end(self):
        self.process.terminate()
        return self.process.wait()


def imported(daemon, data, **query):
    status, body = daemon.ask("POST", "/v1/checkpoints?" + urllib.parse.urlencode(query), data)
    body = json.loads(body)
    if status != 201:
        raise SystemExit("import: %d %s" % (status, body))
    return body["id"]


def generated(daemon, ident, classes, cfg, seed, **more):
    query = dict(checkpoint=ident, cfg=cfg, seed=seed, format="npy",
                 **{"class": ",".join(map(str, classes))}, **more)
    status, body = daemon.ask("GET", "/v1/generate?" + urllib.parse.urlencode(query))
    if status != 200:
        raise SystemExit("generate: %d %s" % (status, body[:400]))
    return np.load(io.BytesIO(body))


def nmse(got, want):
    return float(((got - want) ** 2).sum() / (want**2).sum())


SIZES = {
    "Tiny, 32x32x1": dict(size=32, channels=1, dim=256, depth=6, heads=4, patch=4, classes=10, style=True),
    "Small, 32x32x3": dict(size=32, channels=3, dim=384, depth=8, heads=6, patch=4, classes=10, style=True),
    "28x28x1, no style": dict(size=28, channels=1, dim=96, depth=2, heads=2, patch=7, classes=7, style=False),
}


def config(z):
    m = {k: z[k] for k in ("dim", "depth", "heads", "patch", "size", "channels", "classes")}
    return dict(m, arch="driftdit", style_tokens=32 if z["style"] else 0)


def networks(z, folder, seed):
    """The network in float32 and a float64 one of the same weights, none of them special."""
    torch.manual_seed(seed)
    make = (lambda **a: original(folder, **a)) if folder else DriftDiT
    single, double = make(**z), make(**z).double()
    for name, p in single.named_parameters():
        ones = "norm" in name
        nn.init.normal_(p, 1.0 if ones else 0.0, 0.1 if ones else 0.5 / math.sqrt(p.shape[-1]))
    double.load_state_dict({k: v.double() for k, v in single.state_dict().items()})
    if folder:  # its rotary angles, computed in float32, are buffers
        double.rope.inv_freq = 1.0 / 10000.0 ** (
            torch.arange(0, double.rope.dim, 2).double() / double.rope.dim)
        double.rope._build_cache(double.rope.max_seq_len)
    return single, double


def images(net, z, classes, cfg, seed, dtype, two_pass=False):
    n = len(classes)
    shape = (n, z["channels"], z["size"], z["size"])
    noise = np.stack([normals(seed, k, math.prod(shape[1:])) for k in range(n)]).reshape(shape)
    noise = torch.tensor(noise.astype(np.float32)).to(dtype)
    style = torch.tensor(np.stack([styles(seed, k) for k in range(n)])) if z["style"] else None
    alpha = torch.full((n,), cfg, dtype=dtype)
    with torch.no_grad():
        x = net.run(noise, torch.tensor(classes), alpha, style)
        if two_pass:
            u = net.run(noise, torch.full((n,), z["classes"]), alpha, style)
            x = u + cfg * (x - u)
    return x.double().numpy()


def compare(daemon, ident, what, net, z, two_pass=False, limit=LIMIT):
    classes, cfg, seed = list(range(z["classes"])), 1.75, 2**40 + 12345
    want = images(net[1], z, classes, cfg, seed, torch.float64, two_pass)
    torch32 = images(net[0], z, classes, cfg, seed, torch.float32, two_pass)
    got = generated(daemon, ident, classes, cfg, seed,
                    guidance="two-pass" if two_pass else "one-step").astype(np.float64)
    bad = nmse(got, want)
    print("%-52s NMSE %.1e, largest difference %.1e (PyTorch's own fp32: %.1e, %.1e)" % (
        what, bad, abs(got - want).max(), nmse(torch32, want), abs(torch32 - want).max()))
    if not bad <= limit:
        raise SystemExit("over %g" % limit)


def check(daemon, folder):
    for number, (name, z) in enumerate(SIZES.items()):
        net = networks(z, folder, number)
        meta = {"driftd.config": json.dumps(config(z))}
        ident = imported(daemon, safetensors(exported(net[0].state_dict()), meta))
        compare(daemon, ident, name + ", config in the metadata", net, z)
        compare(daemon, ident, name + ", two-pass guidance", net, z, True)
    z = SIZES["Tiny, 32x32x1"]
    net = networks(z, folder, 7)
    state = net[0].state_dict()
    ident = imported(daemon, safetensors(exported(state), {"format": "pt"}), config="mnist")
    compare(daemon, ident, "bare state dict, config=mnist", net, z)
    if folder:  # only its state dict tells the size of the images
        both = {**exported(state, prefix="ema."), **exported(state, torch.float64, "model.")}
        ident = imported(daemon, safetensors(both))
        compare(daemon, ident, "ema. and model. in one file, no config", net, z)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        for n in net:
            for p in n.parameters():
                p.data = p.data.to(dtype).to(p.dtype)
        ident = imported(daemon, safetensors(exported(net[0].state_dict(), dtype)), config="mnist")
        compare(daemon, ident, "%s, config=mnist" % dtype, net, z)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--original", metavar="FOLDER")
    p.add_argument("driftd")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(a.driftd, folder)
        try:
            check(daemon, a.original)
        finally:
            status = daemon.end()
    if status:
        raise SystemExit("driftd ended with status %d" % status)


if __name__ == "__main__":
    main()
