#!/usr/bin/env python3
"""Writes field_vectors.h: the learned field in float64 PyTorch, gradients of its parameters by autograd.

Written from method.md 4. Run in this folder: ./make_golden_field.py
"""
import math

import torch

torch.set_default_dtype(torch.float64)
B, N, U, P, S = 2, 3, 2, 4, 5
HIDDEN, WIDTH, SCORE = 7, 6, 8
W_UNC = torch.tensor([0.75, 2.5])
WEIGHT = 0.5
SEED, STEP, FEATURE, FIRST = 11, 5, 3, 7
STREAM = 1024 + 4 * FEATURE
SIGMA = (0.25, 1.0)


def cloud(key, *shape):
    """Exactly representable in float32."""
    count = math.prod(shape)
    x = torch.sin(torch.arange(1, count + 1) * (1.37 + key)) + 0.1 * key
    return x.float().double().reshape(shape)


gen, unc, pos = cloud(1, B, N, S), cloud(3, B, U, S), cloud(4, B, P, S)


def philox(block, stream, index):
    c = [block, stream, index & 0xFFFFFFFF, index >> 32]
    k = [SEED & 0xFFFFFFFF, SEED >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return [(r + 0.5) / 2**32 for r in c]


def noise(rows, which):
    """[rows,S] normals and [rows] scales of set number `which`."""
    z, sigma = [], []
    for r in range(rows):
        index = (STEP << 32) + FIRST * (rows // B) + r
        values = []
        for block in range((S + 3) // 4):
            u = philox(block, STREAM + 2 * which, index)
            for a, b in (u[:2], u[2:]):
                length = math.sqrt(-2 * math.log(a))
                values += [length * math.cos(2 * math.pi * b), length * math.sin(2 * math.pi * b)]
        z.append(values[:S])
        sigma.append(SIGMA[0] * (SIGMA[1] / SIGMA[0]) ** philox(0, STREAM + 2 * which + 1, index)[0])
    return torch.tensor(z), torch.tensor(sigma)


def parameters(objective, projection):
    """Of one operator, in the order of the layout."""
    r = WIDTH if projection else S
    shapes = [(HIDDEN, S), (HIDDEN,), (WIDTH, HIDDEN), (WIDTH,)] if projection else []
    shapes += [(SCORE, r)] * 3 + [(SCORE,)] * 3
    shapes += [(S, r)] if projection and objective != "nce" else []
    return [(0.5 * cloud(0.3 * k + 0.17, *s)).requires_grad_() for k, s in enumerate(shapes)]


def project(w, projection, x):
    if not projection:
        return x
    return torch.nn.functional.gelu(x @ w[0].T + w[1]) @ w[2].T + w[3]


def score(w, projection, rx, ry):
    at = 4 if projection else 0
    wx, wy, wd, u, b, v = w[at:at + 6]
    x, y = rx[:, :, None], ry[:, None]
    d = (y - x).pow(2).sum(3).clamp(min=1e-8).sqrt()
    h = x @ wx.T + y @ wy.T + (y - x) @ wd.T + d[..., None] * u + b
    return torch.nn.functional.gelu(h) @ v


def leave(w, objective, projection, x):
    return x @ w[-1].T if projection and objective != "nce" else x


def softmax(a, weight):
    """Over the last axis of weight exp(a)."""
    e = weight * torch.exp(a - a.max(2, True)[0])
    return e / e.sum(2, True)


def step(p, r, x):
    return p @ r - p.sum(2, True) * x


def case(objective, projection):
    w = parameters(objective, projection)
    y = torch.cat([gen, unc, pos], 1)
    weight = torch.ones(B, N + U + P)
    weight[:, N:N + U] = W_UNC[:, None]
    d = (gen[:, :, None] - y[:, None]).pow(2).sum(3).clamp(min=1e-8).sqrt()
    s = ((d * weight[:, None]).mean() / weight.mean()).item()
    f = s / math.sqrt(S)
    x, y = gen / f, y / f
    rx, ry = project(w, projection, x), project(w, projection, y)
    weight = weight[:, None].repeat(1, N, 1)
    weight[:, range(N), range(N)] = 0  # itself
    a, k = score(w, projection, rx, ry), N + U
    if objective == "nce":
        share = softmax(a, weight)
        down, up = share[:, :, :k], share[:, :, k:]
        c = torch.cat([-down * up.sum(2, True), up * down.sum(2, True)], 2)
        v = step(c, y, x)
    else:
        c = torch.cat([-softmax(a[:, :, :k], weight[:, :, :k]), softmax(a[:, :, k:], weight[:, :, k:])], 2)
        v = leave(w, objective, projection, step(c, ry, rx))
    v2 = (v**2).mean()
    dgen = -2 * WEIGHT * v / v2.sqrt() / (B * N * S) / f
    objective_value = torch.zeros(())
    if objective == "denoise":
        for which, clean in enumerate((y[:, k:], x)):
            m = clean.shape[1]
            z, sigma = noise(B * m, which)
            noisy = clean + (sigma[:, None] * z).reshape(B, m, S)
            rn, rc = project(w, projection, noisy), project(w, projection, clean)
            left = 1 - torch.eye(m).repeat(B, 1, 1)
            p = softmax(score(w, projection, rn, rc), left)
            e = leave(w, objective, projection, step(p, rc, rn)) - (clean - noisy)
            objective_value = objective_value + 0.5 * ((e / sigma.reshape(B, m, 1)) ** 2).mean()
    if objective == "nce":
        both = torch.cat([x, y[:, k:]], 1)
        a = score(w, projection, ry[:, k:], project(w, projection, both))
        left = torch.ones(B, P, N + P)
        left[:, range(P), range(N, N + P)] = 0
        objective_value = -torch.log(softmax(a, left)[:, :, N:].sum(2)).mean()
    grads = torch.autograd.grad(objective_value, w) if objective != "frozen" else [torch.zeros_like(t) for t in w]
    return w, s, v2.item(), v, dgen, objective_value.item(), grads


def row(t):
    return "{" + ", ".join(f"{v:.17g}" for v in t.detach().flatten().tolist()) + "}"


with open("field_vectors.h", "w") as f:
    f.write("// Written by make_golden_field.py: the learned field in float64.\n#pragma once\n\n")
    f.write('#include "engine/loss/field.h"\n\n// clang-format off\n')
    f.write(f"enum {{ FB = {B}, FN = {N}, FU = {U}, FP = {P}, FS = {S}, FHIDDEN = {HIDDEN}, "
            f"FWIDTH = {WIDTH}, FSCORE = {SCORE},\n       FSEED = {SEED}, FSTEP = {STEP}, "
            f"FFEATURE = {FEATURE}, FFIRST = {FIRST} }};\n")
    f.write(f"static const double field_weight = {WEIGHT}, field_sigma[] = {{{SIGMA[0]}, {SIGMA[1]}}};\n")
    for name, t in [("gen", gen), ("unc", unc), ("pos", pos), ("w_unc", W_UNC)]:
        f.write(f"static const double field_{name}[] = {row(t)};\n")
    f.write("static const struct {\n    int objective, projection;\n    double s, v2, objective_value;\n"
            f"    double v[{gen.numel()}], dgen[{gen.numel()}], weight[512], gradient[512]; "
            "// parameters one after the other\n} field_golden[] = {\n")
    for objective in ("denoise", "nce", "frozen"):
        for projection in (True, False):
            w, s, v2, v, dgen, value, grads = case(objective, projection)
            flat = lambda ts: row(torch.cat([t.flatten() for t in ts]))
            f.write(f"    {{DR_LDF_{objective.upper()}, {int(projection)}, {s:.17g}, {v2:.17g}, {value:.17g},\n"
                    f"     {row(v)},\n     {row(dgen)},\n     {flat(w)},\n     {flat(grads)}}},\n")
    f.write("};\n// clang-format on\n")
