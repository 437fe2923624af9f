#!/usr/bin/env python3
"""Makes the golden vectors of the generators: tests/golden/*.safetensors.

Independent of the engine: written from the method (architecture of the two transformer generators and
of the toys' network) with plain PyTorch tensor operations in double precision; the gradients come from
autograd. Inputs and weights are random numbers rounded to single precision, stored as F32; images and
gradients are stored as F64. A file holds the weights under their names, `in.*` (noise, class, alpha,
style), `image`, `in.dimage` (the fixed gradient by the image) and `grad.NAME` of each weight; its
metadata has the model section as `driftd.config`.

Run it in this folder: ./make_golden.py. The same PyTorch version gives the same files.
"""
import json
import math
import struct

import numpy as np
import torch
import torch.nn.functional as F

BASE = dict(
    arch="driftdit", dim=8, depth=2, heads=2, patch=4, registers=3, mlp="swiglu", mlp_ratio=4,
    rope=True, qk_norm=True, pos_embed=False, noise="image", latent_dim=5, style_tokens=3, codebook=4,
    head="linear", head_width=3, label_dropout=0, null_class=True, out_std=0.02, out_bias=0,
    size=8, channels=1, classes=3)

CASES = {
    "driftdit": dict(),
    "driftdit-options": dict(
        dim=8, heads=4, depth=1, patch=3, size=6, channels=2, registers=0, mlp="gelu", mlp_ratio=2,
        rope=False, pos_embed=True, noise="latent", head="conv", null_class=False),
    "driftdit-plain": dict(depth=1, qk_norm=False, style_tokens=0, channels=3, patch=2, size=4,
                           mlp_ratio=1.5, head="conv", registers=1),
    "lightningdit": dict(arch="lightningdit", patch=2, size=4, channels=3, registers=2, depth=1,
                         style_tokens=4),
    "mlp": dict(arch="mlp", depth=3, size=1, channels=2, style_tokens=2),
    "driftdit-position": dict(depth=1, pos_embed=True, qk_norm=False, mlp="gelu", registers=2,
                              style_tokens=1),
    "lightningdit-options": dict(
        arch="lightningdit", patch=2, size=4, heads=1, registers=0, depth=1, mlp="gelu", mlp_ratio=2,
        rope=False, noise="latent", head="conv", style_tokens=0, null_class=False),
    "lightningdit-plain": dict(arch="lightningdit", patch=4, channels=2, registers=1, depth=1,
                               qk_norm=False, mlp_ratio=1.5, style_tokens=1, out_std=0),
    "mlp-plain": dict(arch="mlp", depth=1, size=1, channels=2, style_tokens=0, null_class=False),
}


class Weights:
    """Draws a weight the first time its name is asked for, and keeps it."""

    def __init__(self, rng):
        self.rng, self.t = rng, {}

    def __call__(self, name, shape, std, mean=0.0):
        if name not in self.t:
            v = (self.rng.standard_normal(shape) * std + mean).astype(np.float32)
            self.t[name] = torch.tensor(v.astype(np.float64), requires_grad=True)
        assert tuple(self.t[name].shape) == tuple(shape), name
        return self.t[name]

    def linear(self, x, name, out, bias=True):
        n = x.shape[-1]
        y = x @ self(name + ".weight", (out, n), 1 / math.sqrt(n)).T
        return y + self(name + ".bias", (out,), 0.3) if bias else y

    def norm(self, x, name):
        rms = torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)
        return x / rms * self(name + ".weight", (x.shape[-1],), 0.2, 1.0)


def modulated(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


def condition(w, m, inp, latent):
    light = m["arch"] == "lightningdit"
    rows = m["classes"] + (1 if m["null_class"] else 0)
    table = w("label_embed.weight" if light else "label_embed.embedding_table.weight",
              (rows, m["dim"]), 0.5)
    c = table[inp["class"].long()]
    period = 10000.0 if light else 10.0
    f = period ** (-torch.arange(128, dtype=torch.float64) / 128)
    ang = inp["alpha"][:, None] * f
    a = w.linear(torch.cat([ang.cos(), ang.sin()], 1), "alpha_embed.mlp.0", m["dim"])
    a = w.linear(F.silu(a), "alpha_embed.mlp.2", m["dim"])
    c = c + (0.02 * w.norm(a, "alpha_embed.norm") if light else a)
    for k in range(m["style_tokens"]):
        name = "style_embed.%d.weight" % k if light else "style_embed.codebook.weight"
        c = c + w(name, (m["codebook"], m["dim"]), 0.5)[inp["style"][:, k].long()]
    if latent:
        c = c + w.linear(inp["noise"], "latent_cond", m["dim"])
    return c


def rope(x):
    t, hd = x.shape[-2:]
    f = 10000.0 ** (-torch.arange(0, hd, 2, dtype=torch.float64) / hd)
    ang = torch.outer(torch.arange(t, dtype=torch.float64), f)
    cos, sin = torch.cat([ang, ang], 1).cos(), torch.cat([ang, ang], 1).sin()
    half = torch.cat([-x[..., hd // 2:], x[..., :hd // 2]], -1)
    return x * cos + half * sin


def attention(w, m, x, name):
    b, t, d = x.shape
    h = m["heads"]
    qkv = w.linear(x, name + ".qkv", 3 * d, bias=m["arch"] == "lightningdit")
    q, k, v = qkv.reshape(b, t, 3, h, d // h).permute(2, 0, 3, 1, 4)
    if m["qk_norm"]:
        q, k = w.norm(q, name + ".q_norm"), w.norm(k, name + ".k_norm")
    if m["rope"]:
        q, k = rope(q), rope(k)
    a = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(d // h), -1)
    return w.linear((a @ v).transpose(1, 2).reshape(b, t, d), name + ".proj", d)


def feed_forward(w, m, x, name):
    d, light = m["dim"], m["arch"] == "lightningdit"
    hidden = int(d * m["mlp_ratio"])
    if m["mlp"] == "gelu":
        return w.linear(F.gelu(w.linear(x, name + ".fc1", hidden)), name + ".fc2", d)
    if light:
        hidden = (int(2 / 3 * hidden) + 31) // 32 * 32
    gate = F.silu(w.linear(x, name + ".w1", hidden, bias=light))
    return w.linear(gate * w.linear(x, name + ".w3", hidden, bias=light), name + ".w2", d, bias=light)


def ada(w, c, name, n):
    out = n * c.shape[1]
    y = F.silu(c) @ w(name + ".adaLN_modulation.1.weight", (out, c.shape[1]), 0.3).T
    return (y + w(name + ".adaLN_modulation.1.bias", (out,), 0.3)).chunk(n, 1)


def tokens_in(w, m, inp, c):
    d, p, light = m["dim"], m["patch"], m["arch"] == "lightningdit"
    side = m["size"] // p
    if m["noise"] == "latent":
        x = w.linear(inp["noise"], "latent_embed", side * side * d).reshape(-1, side * side, d)
    elif light:
        z = inp["noise"].reshape(-1, m["channels"], side, p, side, p).permute(0, 2, 4, 3, 5, 1)
        x = w.linear(z.reshape(-1, side * side, p * p * m["channels"]), "patch_embed", d)
    else:
        k = w("patch_embed.proj.weight", (d, m["channels"], p, p), 1 / math.sqrt(m["channels"]) / p)
        x = F.conv2d(inp["noise"], k, w("patch_embed.proj.bias", (d,), 0.3), stride=p)
        x = x.flatten(2).transpose(1, 2)
    if light or m["pos_embed"]:
        x = x + w("pos_embed", (1, side * side, d), 0.5)
    if m["registers"]:
        r = w("cls_embed" if light else "register_tokens", (1, m["registers"], d), 0.5)
        if light:
            r = r + w.linear(c, "cls_proj", d)[:, None]
        x = torch.cat([r.expand(x.shape[0], -1, -1), x], 1)
    return x


def transformer(w, m, inp):
    c = condition(w, m, inp, m["noise"] == "latent")
    x = tokens_in(w, m, inp, c)
    for i in range(m["depth"]):
        name = "blocks.%d" % i
        sh1, sc1, g1, sh2, sc2, g2 = ada(w, c, name, 6)
        y = modulated(w.norm(x, name + ".norm1"), sh1, sc1)
        x = x + g1[:, None] * attention(w, m, y, name + ".attn")
        y = modulated(w.norm(x, name + ".norm2"), sh2, sc2)
        x = x + g2[:, None] * feed_forward(w, m, y, name + ".mlp")
    shift, scale = ada(w, c, "final_layer", 2)
    x = modulated(w.norm(x[:, m["registers"]:], "final_layer.norm"), shift, scale)
    p, ch, side = m["patch"], m["channels"], m["size"] // m["patch"]
    x = w.linear(x, "final_layer.linear", p * p * ch)
    x = x.reshape(-1, side, side, p, p, ch).permute(0, 5, 1, 3, 2, 4)
    x = x.reshape(-1, ch, m["size"], m["size"])
    if m["head"] == "conv":
        hw = m["head_width"]
        h = F.conv2d(x, w("head.conv1.weight", (hw, ch, 3, 3), 0.3),
                     w("head.conv1.bias", (hw,), 0.3), padding=1)
        x = x + F.conv2d(F.silu(h), w("head.conv2.weight", (ch, hw, 3, 3), 0.3),
                         w("head.conv2.bias", (ch,), 0.3), padding=1)
    return x


def toy(w, m, inp):
    h = condition(w, m, inp, True)
    for i in range(m["depth"] - 1):
        h = w.linear(F.silu(h), "hidden.%d" % i, m["dim"])
    return w.linear(F.silu(h), "out", 2)


def write_safetensors(path, tensors, meta):
    names = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64", np.dtype(np.int32): "I32"}
    head, at = {"__metadata__": meta}, 0
    for name, t in tensors.items():
        head[name] = dict(dtype=names[t.dtype], shape=list(t.shape), data_offsets=[at, at + t.nbytes])
        at += t.nbytes
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(np.ascontiguousarray(t).tobytes())


def make(name, changes, seed):
    m = dict(BASE, **changes)
    rng = np.random.default_rng(seed)
    b = 3

    def f32(shape):
        return rng.standard_normal(shape).astype(np.float32)

    image = (b, 2) if m["arch"] == "mlp" else (b, m["channels"], m["size"], m["size"])
    latent = m["arch"] == "mlp" or m["noise"] == "latent"
    raw = {
        "noise": f32((b, m["latent_dim"]) if latent else image),
        "class": rng.integers(0, m["classes"] + m["null_class"], b).astype(np.int32),
        "alpha": rng.uniform(1, 4, b).astype(np.float32),
        "style": rng.integers(0, m["codebook"], (b, m["style_tokens"])).astype(np.int32),
        "dimage": f32(image),
    }
    inp = {k: torch.tensor(v.astype(np.float64)) for k, v in raw.items()}
    w = Weights(rng)
    out = (toy if m["arch"] == "mlp" else transformer)(w, m, inp)
    out.backward(inp["dimage"])
    tensors = {"in." + k: v for k, v in raw.items() if v.size}
    tensors["image"] = out.detach().numpy()
    for k, v in w.t.items():
        tensors[k] = v.detach().numpy().astype(np.float32)
        tensors["grad." + k] = v.grad.numpy()
    write_safetensors(name + ".safetensors", tensors, {"driftd.config": json.dumps(m)})


if __name__ == "__main__":
    for number, (case, diff) in enumerate(CASES.items()):
        make(case, diff, 100 + number)
