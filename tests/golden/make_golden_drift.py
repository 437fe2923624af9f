#!/usr/bin/env python3
"""Writes drift_vectors.h: tiny drifting losses in float64 PyTorch, gradients by autograd.

Of feature vectors, and of images through every pixel feature. Written from method.md 2, 3 and 7 (paper
Alg. 1-2, A.6, A.7). Run in this folder: ./make_golden_drift.py
"""
import math

import torch

torch.set_default_dtype(torch.float64)
B, N, U, P, S = 2, 3, 2, 4, 5
W_UNC = torch.tensor([0.75, 2.5])
WEIGHT = 0.5
TAUS = [0.05, 0.25]
# Squared distances over small temperatures are logits in the hundreds: without a softmax, or between
# far points, nothing is left in fp32, and sinkhorn's iterations amplify the rounding of the distances
# to just over 1e-10.
WIDE = [0.5, 1.0]
SINKHORN = 4


def cloud(key, *shape):
    """Exactly representable in float32."""
    count = math.prod(shape)
    x = torch.sin(torch.arange(1, count + 1) * (1.37 + key)) + 0.1 * key
    return x.float().double().reshape(shape)


gen, neg, unc, pos = cloud(1, B, N, S), cloud(2, B, N, S), cloud(3, B, U, S), cloud(4, B, P, S)


def plan(logits, w, rounds):
    """exp of it times w has rows of 1; without w columns of n / sum(w)."""
    for _ in range(rounds):
        logits = logits - torch.logsumexp(logits + torch.log(w)[:, None], 2, keepdim=True)
        mass = logits.shape[1] / w.sum(1)
        logits = logits - torch.logsumexp(logits, 1, keepdim=True) + torch.log(mass)[:, None, None]
    return logits


def affinity(logits, normalize, floor, w, n_neg):
    if normalize == "sinkhorn-split":
        sides = [plan(logits[:, :, :n_neg], w[:, :n_neg], SINKHORN),
                 plan(logits[:, :, n_neg:], w[:, n_neg:], SINKHORN)]
        a = torch.exp(torch.cat(sides, 2))
    elif normalize == "both":
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


def drift(field, normalize="both", kernel="laplace", floor=0.0, independent=False, bias="none",
          most=0.0):
    x = gen.clone().requires_grad_()
    negatives = neg if independent else None
    loss, s, raw = drift_loss(field, x, negatives, unc, pos, W_UNC, normalize, kernel, floor,
                              taus_of(field == "kernel-l2", normalize, kernel), bias, most)
    (WEIGHT * loss).backward()
    return WEIGHT * loss.item(), s, raw, x.grad


def taus_of(l2, normalize, kernel):
    wide = kernel == "gaussian" and (l2 or normalize not in ("both", "y"))
    return WIDE if wide else TAUS


def corrected(a, y):
    """Centroids without the leading term of their bias."""
    a = a / a.sum(2, True)
    h = (a**2).sum(2, True)
    return (1 - h) * (a @ y) + a**2 @ y


def drift_loss(field, x, negatives, unc, pos, w_unc, normalize, kernel, floor, taus=TAUS,
               bias="none", most=0.0):
    """x [B,N,S] with gradient, negatives [B,N,S] or None, unc [B,U,S], pos [B,P,S], w_unc [B]."""
    l2 = field == "kernel-l2"
    unit = (lambda t: t / t.norm(dim=2, keepdim=True).clamp(min=1e-12)) if l2 else (lambda t: t)
    n, width, u = x.shape[1], x.shape[2], unc.shape[1]
    with torch.no_grad():
        parts = [x if negatives is None else negatives] + ([] if l2 else [unc]) + [pos]
        y = unit(torch.cat(parts, 1))
        w = torch.ones(y.shape[:2])
        if not l2:
            w[:, n:n + u] = w_unc[:, None]
        n_neg = y.shape[1] - pos.shape[1]
        old = unit(x)
        d = ((old[:, :, None] - y[:, None]) ** 2).sum(3).clamp(min=1e-8).sqrt()
        s = (d * w[:, None]).mean() / w.mean()
        feature = 1.0 if l2 else max(s.item() / math.sqrt(width), 1e-3)
        dt = d if l2 else d / max(s.item(), 1e-3)
        if negatives is None:
            dt[:, range(n), range(n)] += 1e6 if l2 else 100
        total, raw = torch.zeros_like(x), []
        for tau in taus:
            logits = -dt / tau if kernel == "laplace" else -dt**2 / (2 * tau**2)
            a = affinity(logits, normalize, floor, w, n_neg) * w[:, None]
            am, ap = a[:, :, :n_neg], a[:, :, n_neg:]
            c = torch.cat([-am * ap.sum(2, True), ap * am.sum(2, True)], 2)
            v = (c @ y - c.sum(2, True) * old) / feature
            if bias == "abc":
                both = am.sum(2, True) * ap.sum(2, True)
                v = both * (corrected(ap, y[:, n_neg:]) - corrected(am, y[:, :n_neg])) / feature
            if l2:
                v2 = (v**2).mean((1, 2), True)
                total += v / (torch.sqrt(v2 + 1e-8) + 1e-8)
            else:
                v2 = (v**2).mean()
                total += v / torch.sqrt(v2.clamp(min=1e-8))
            raw.append(v2.mean().item())
        if most:
            total *= (most / (total**2).mean(2, True).sqrt()).clamp(max=1)
        target = old / feature + total
    return ((unit(x) / feature - target) ** 2).mean(), s.item(), raw


# ---- images through all pixel features (method.md 7): their losses summed

IMAGE = (2, 4, 4)  # channels, height, width
RMS_WEIGHT = 0.25


def features(x, norm):
    """x [G,n,C,H,W]: name -> [G*T, n, S], locations row by row."""
    g, n, c, h, w = x.shape
    cut = x.reshape(g, n, c, 2, h // 2, 2, w // 2).permute(0, 3, 5, 1, 2, 4, 6)
    out = {"image": x.reshape(g, n, -1), "quadrants": cut.reshape(4 * g, n, -1)}
    for p in (2, 4):
        patch = x.reshape(g, n, c, h // p, p, w // p, p).permute(0, 1, 2, 3, 5, 4, 6).flatten(5)
        out["patch%d mean" % p] = patch.mean(5).reshape(g, n, -1)
        out["patch%d std" % p] = torch.sqrt(patch.var(5, unbiased=False) + 1e-6).reshape(g, n, -1)
    if norm == "sphere":
        out = {k: v / v.norm(dim=2, keepdim=True) for k, v in out.items()}
    out["rms"] = torch.sqrt((x * x).mean((3, 4)))
    return out


images = [cloud(5, B, N, *IMAGE), cloud(6, 1, U, *IMAGE), cloud(7, B, P, *IMAGE)]


def feature_losses(norm):
    x = images[0].clone().requires_grad_()
    gen, unc, pos = (features(t, norm) for t in (x, *images[1:]))
    total = 0
    for name in gen:
        t = len(gen[name]) // B
        loss, _, _ = drift_loss("kernel", gen[name], None, unc[name].repeat(B, 1, 1), pos[name],
                                W_UNC.repeat_interleave(t), "both", "laplace", 0.0)
        total = total + loss * (RMS_WEIGHT if name == "rms" else 1)
    total.backward()
    return total.item(), x.grad


CASES = [
    ("KERNEL", "both", "laplace", 1e-6, False),
    ("KERNEL", "both", "laplace", 0.0, True),
    ("KERNEL", "y", "laplace", 0.0, False),
    ("KERNEL", "none", "laplace", 0.0, False),
    ("KERNEL", "sinkhorn", "laplace", 0.0, False),
    ("KERNEL", "both", "gaussian", 1e-6, False),
    ("KERNEL_L2", "both", "laplace", 0.0, False),
    # every normalisation with every kernel and both kinds of negatives
    ("KERNEL", "both", "gaussian", 0.0, True),
    ("KERNEL", "y", "laplace", 1e-6, True),
    ("KERNEL", "y", "gaussian", 1e-6, False),
    ("KERNEL", "y", "gaussian", 0.0, True),
    ("KERNEL", "none", "laplace", 1e-6, True),
    ("KERNEL", "none", "gaussian", 1e-6, False),
    ("KERNEL", "none", "gaussian", 0.0, True),
    ("KERNEL", "sinkhorn", "laplace", 1e-6, True),
    ("KERNEL", "sinkhorn", "gaussian", 1e-6, False),
    ("KERNEL", "sinkhorn", "gaussian", 0.0, True),
    ("KERNEL_L2", "both", "laplace", 0.0, True),
    ("KERNEL_L2", "both", "gaussian", 0.0, False),
    ("KERNEL_L2", "y", "laplace", 0.0, False),
    ("KERNEL_L2", "none", "gaussian", 0.0, True),
    ("KERNEL_L2", "sinkhorn", "laplace", 0.0, False),
    # what came later: the bias correction, two plans, a limit to V
    ("KERNEL", "both", "laplace", 1e-6, False, "abc"),
    ("KERNEL", "y", "laplace", 0.0, False, "abc", 0.75),
    ("KERNEL", "sinkhorn", "laplace", 0.0, True, "abc"),
    ("KERNEL", "none", "gaussian", 0.0, True, "abc", 0.5),
    ("KERNEL", "sinkhorn-split", "laplace", 0.0, True),
    ("KERNEL", "sinkhorn-split", "gaussian", 1e-6, True, "abc", 0.5),
    ("KERNEL_L2", "both", "laplace", 0.0, False, "abc", 0.75),
    ("KERNEL_L2", "sinkhorn-split", "laplace", 0.0, True),
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
    f.write("static const struct {\n    int field, normalize, kernel, independent, bias;\n")
    f.write(f"    double max_velocity, floor, tau[{len(TAUS)}], loss, s, v2[{len(TAUS)}], dgen[{gen.numel()}];\n")
    f.write("} golden[] = {\n")
    for case in CASES:
        field, norm, kernel, floor, independent, bias, most = case + ("none", 0.0)[len(case) - 5:]
        loss, s, raw, grad = drift(field.lower().replace("_", "-"), norm, kernel, floor, independent,
                                   bias, most)
        word = norm.upper().replace("-", "_")
        f.write(f"    {{DR_FIELD_{field}, DR_NORM_{word}, DR_KERNEL_{kernel.upper()}, "
                f"{int(independent)}, DR_BIAS_{bias.upper()}, {most!r}, {floor!r}, {row(taus_of(field == 'KERNEL_L2', norm, kernel))}, {loss:.17g}, "
                f"{s:.17g}, {row(raw)},\n     "
                f"{row(grad.flatten().tolist())}}},\n")
    f.write("};\n")
    f.write("enum { GC = %d, GH = %d, GW = %d };\n" % IMAGE)
    for name, t in zip(("gen", "unc", "pos"), images):
        f.write(f"static const double golden_{name}_image[] = {row(t.flatten().tolist())};\n")
    f.write("static const struct {\n    int norm;\n")
    f.write(f"    double loss, dx[{images[0].numel()}];\n}} golden_features[] = {{\n")
    for norm in ("none", "sphere"):
        loss, dx = feature_losses(norm)
        f.write(f"    {{DR_FEATURE_NORM_{norm.upper()}, {loss:.17g},\n     "
                f"{row(dx.flatten().tolist())}}},\n")
    f.write(f"}};\nstatic const double golden_rms_weight = {RMS_WEIGHT};\n// clang-format on\n")
