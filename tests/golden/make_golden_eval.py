#!/usr/bin/python3
"""Writes eval-vectors.safetensors: metrics of evaluation from independent programs.

Needs python3-numpy, python3-mpmath and python3-scipy. Frechet distances are computed with 60 digits
(mpmath), from the definition, and compared here with scipy's sqrtm where that is accurate; the rest in
float64 by numpy, from the papers (method.md 9). Case NAME has NAME.x and NAME.y, F32 [n,d], and values
NAME.<metric>, F64. Run in this folder: ./make_golden_eval.py
"""
import json
import struct

import mpmath as mp
import numpy as np
import scipy.linalg

mp.mp.dps = 60
rng = np.random.RandomState(12)
K, KD = 3, 5


def mp_root(c):
    w, v = mp.eigsy(c)
    return v * mp.diag([mp.sqrt(e) if e > 0 else mp.mpf(0) for e in w]) * v.T, w


def mp_moments(x):
    n, d = x.shape
    m = mp.matrix([[mp.mpf(float(v)) for v in row] for row in x])
    mean = [sum(m[i, k] for i in range(n)) / n for k in range(d)]
    for i in range(n):
        for k in range(d):
            m[i, k] -= mean[k]
    return mean, m.T * m / (n - 1)


def frechet(x, y):
    (m1, c1), (m2, c2) = mp_moments(x), mp_moments(y)
    root, _ = mp_root(c1)
    _, w = mp_root(root * c2 * root)
    cross = sum(mp.sqrt(e) for e in w if e > 0)
    d = len(m1)
    trace = sum(c1[k, k] + c2[k, k] for k in range(d))
    return float(sum((a - b) ** 2 for a, b in zip(m1, m2)) + trace - 2 * cross)


def frechet_scipy(x, y):
    x, y = x.astype(float), y.astype(float)
    c1, c2 = np.cov(x.T), np.cov(y.T)
    cross = np.trace(scipy.linalg.sqrtm(c1 @ c2)).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * cross


def distances(x, y):
    return np.sqrt(((x[:, None].astype(float) - y[None].astype(float)) ** 2).sum(2))


def manifold(real, gen):
    """Precision and recall at k = 3, density and coverage at k = 5."""
    rr, gg, rg = distances(real, real), distances(gen, gen), distances(real, gen)
    ball = {k: np.sort(rr, 1)[:, k] for k in (K, KD)}
    own = np.sort(gg, 1)[:, K]
    precision = (rg <= ball[K][:, None]).any(0).mean()
    recall = (rg <= own[None]).any(1).mean()
    inside = rg <= ball[KD][:, None]
    return [precision, recall, inside.sum() / (KD * len(gen)), inside.any(1).mean()]


def mmd(x, y):
    def kernel(a, b):
        return (a.astype(float) @ b.T.astype(float) / a.shape[1] + 1) ** 3
    n, m = len(x), len(y)
    kx, ky = kernel(x, x), kernel(y, y)
    return (kx.sum() - np.trace(kx)) / (n * (n - 1)) + (ky.sum() - np.trace(ky)) / (m * (m - 1)) \
        - 2 * kernel(x, y).mean()


def score(logits, splits):
    p = np.exp(logits.astype(float) - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    values = []
    for part in np.array_split(p, splits):
        values.append(np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()))
    return [np.mean(values), np.std(values, ddof=1) / np.sqrt(splits)]


def cases():
    """The hard cases: rank-deficient, near-identical, fewer images than features."""
    mix = rng.randn(12, 12) / 3
    yield "plain", rng.randn(150, 12) @ mix + 1, rng.randn(130, 12) @ mix.T - .5
    base = rng.randn(160, 10) * np.linspace(.1, 2, 10) + 3
    yield "near", base, base + 1e-3 * rng.randn(160, 10)
    yield "wide", np.maximum(0, rng.randn(18, 40)), np.maximum(0, rng.randn(25, 40) + .3)
    low = rng.randn(6, 24)
    yield "deficient", rng.randn(90, 6) @ low, rng.randn(80, 6) @ low + .2
    yield "apart", rng.randn(70, 4) @ rng.randn(4, 16), rng.randn(60, 4) @ rng.randn(4, 16)
    yield "far", 1e3 + .01 * rng.randn(100, 8), 1e3 + .02 * rng.randn(100, 8)
    x = rng.randn(60, 6)
    yield "copies", x, np.concatenate([x[:40], rng.randn(30, 6) * 2])


def write(path, tensors):
    header, data = {}, b""
    for name, v in tensors.items():
        raw = v.tobytes()
        kind = {"float32": "F32", "float64": "F64"}[str(v.dtype)]
        header[name] = {"dtype": kind, "shape": list(v.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def main():
    out = {}
    for name, x, y in cases():
        x, y = x.astype(np.float32), y.astype(np.float32)
        fd, other = frechet(x, y), frechet_scipy(x, y)
        print(f"{name}: fd {fd:.12g}, scipy's differs by {abs(other / fd - 1):.1e}")
        n = min(len(x), len(y))
        out |= {f"{name}.x": x, f"{name}.y": y, f"{name}.fd": np.array([fd]),
                f"{name}.manifold": np.array(manifold(x, y)),
                f"{name}.kid": np.array([mmd(x[:n], y[:n])]),
                f"{name}.nearest": np.array([distances(x, y).min(1).mean()]),
                f"{name}.spread": np.array([distances(x, x).sum() / (len(x) * (len(x) - 1))])}
    logits = (3 * rng.randn(105, 7)).astype(np.float32)
    out |= {"logits": logits, "score": np.array(score(logits, 5))}
    write("eval-vectors.safetensors", out)


main()
