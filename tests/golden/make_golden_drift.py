#!/usr/bin/env python3
"""Writes drift_vectors.h: tiny drifting losses in float64 PyTorch, gradients by autograd.

Written from method.md 2 and 3 (paper Alg. 1-2, A.6, A.7). Run in this folder: ./make_golden_drift.py
"""
import math

import torch

torch.set_default_dtype(torch.float64)
B, N, U, P, S = 2, 3, 2, 4, 5
W_UNC = torch.tensor([0.75, 2.5])
WEIGHT = 0.5
TAUS = [0.05, 0.25]
SINKHORN = 4


def cloud(key, *shape):
    """Exactly representable in float32."""
    count = math.prod(shape)
    x = torch.sin(torch.arange(1, count + 1) * (1.37 + key)) + 0.1 * key
    return x.float().double().reshape(shape)


gen, neg, unc, pos = cloud(1, B, N, S), cloud(2, B, N, S), cloud(3, B, U, S), cloud(4, B, P, S)


def affinity(logits, normalize, floor):
    if normalize == "both":
        a = torch.sqrt(torch.softmax(logits, 2) * torch.softmax(logits, 1))
    elif normalize == "y":
        a = torch.softmax(logits, 2)
    elif normalize == "none":
        a = torch.exp(logits)
    else:
        n, m = logits.shape[1:]
        for _ in range(SINKHORN):
            logits = logits - torch.logsumexp(logits, 2, keepdim=True)
            logits = logits - torch.logsumexp(logits, 1, keepdim=True) + math.log(n / m)
        a = torch.exp(logits)
    return a.clamp(min=math.sqrt(floor))


def drift(field, normalize="both", kernel="laplace", floor=0.0, independent=False):
    l2 = field == "kernel-l2"
    x = gen.clone().requires_grad_()
    unit = (lambda t: t / t.norm(dim=2, keepdim=True).clamp(min=1e-12)) if l2 else (lambda t: t)
    parts = [neg if independent else gen] + ([] if l2 else [unc]) + [pos]
    y = unit(torch.cat(parts, 1))
    w = torch.ones(B, y.shape[1])
    if not l2:
        w[:, N:N + U] = W_UNC[:, None]
    n_neg = y.shape[1] - P
    with torch.no_grad():
        old = unit(gen)
        d = ((old[:, :, None] - y[:, None]) ** 2).sum(3).clamp(min=1e-8).sqrt()
        s = (d * w[:, None]).mean() / w.mean()
        feature = 1.0 if l2 else max(s.item() / math.sqrt(S), 1e-3)
        dt = d if l2 else d / max(s.item(), 1e-3)
        if not independent:
            dt[:, range(N), range(N)] += 1e6 if l2 else 100
        total, raw = torch.zeros_like(gen), []
        for tau in TAUS:
            logits = -dt / tau if kernel == "laplace" else -dt**2 / (2 * tau**2)
            a = affinity(logits, normalize, floor) * w[:, None]
            am, ap = a[:, :, :n_neg], a[:, :, n_neg:]
            c = torch.cat([-am * ap.sum(2, True), ap * am.sum(2, True)], 2)
            v = (c @ y - c.sum(2, True) * old) / feature
            if l2:
                v2 = (v**2).mean((1, 2), True)
                total += v / (torch.sqrt(v2 + 1e-8) + 1e-8)
            else:
                v2 = (v**2).mean()
                total += v / torch.sqrt(v2.clamp(min=1e-8))
            raw.append(v2.mean().item())
        target = old / feature + total
    loss = WEIGHT * ((unit(x) / feature - target) ** 2).mean()
    loss.backward()
    return loss.item(), s.item(), raw, x.grad


CASES = [
    ("KERNEL", "both", "laplace", 1e-6, False),
    ("KERNEL", "both", "laplace", 0.0, True),
    ("KERNEL", "y", "laplace", 0.0, False),
    ("KERNEL", "none", "laplace", 0.0, False),
    ("KERNEL", "sinkhorn", "laplace", 0.0, False),
    ("KERNEL", "both", "gaussian", 1e-6, False),
    ("KERNEL_L2", "both", "laplace", 0.0, False),
]


def row(values):
    return "{" + ", ".join(f"{v:.17g}" for v in values) + "}"


with open("drift_vectors.h", "w") as f:
    f.write("// Written by make_golden_drift.py: the drifting loss in float64.\n#pragma once\n\n")
    f.write('#include "engine/loss/drift.h"\n\n')
    f.write("// clang-format off\n")
    f.write(f"enum {{ GB = {B}, GN = {N}, GU = {U}, GP = {P}, GS = {S}, GTAUS = {len(TAUS)}, ")
    f.write(f"GSINKHORN = {SINKHORN} }};\n")
    f.write(f"static const double golden_taus[] = {row(TAUS)}, golden_weight = {WEIGHT};\n")
    for name, t in [("gen", gen), ("neg", neg), ("unc", unc), ("pos", pos), ("w_unc", W_UNC)]:
        f.write(f"static const double golden_{name}[] = {row(t.flatten().tolist())};\n")
    f.write("static const struct {\n    int field, normalize, kernel, independent;\n")
    f.write(f"    double floor, loss, s, v2[{len(TAUS)}], dgen[{gen.numel()}];\n}} golden[] = {{\n")
    for field, norm, kernel, floor, independent in CASES:
        loss, s, raw, grad = drift(field.lower().replace("_", "-"), norm, kernel, floor, independent)
        f.write(f"    {{DR_FIELD_{field}, DR_NORM_{norm.upper()}, DR_KERNEL_{kernel.upper()}, "
                f"{int(independent)}, {floor!r}, {loss:.17g}, {s:.17g}, {row(raw)},\n     "
                f"{row(grad.flatten().tolist())}}},\n")
    f.write("};\n// clang-format on\n")
