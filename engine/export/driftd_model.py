#!/usr/bin/env python3
"""Every network of driftd in PyTorch: reads an exported model or a checkpoint and runs it.

Needs torch and nothing else. As a program it draws images as the server does, from the same noise:

    python3 driftd_model.py model.safetensors --class 3 --seed 7 -n 4 --guidance 1.5 -o digits.png

As a module:

    import driftd_model
    net = driftd_model.load("model.safetensors")          # eval mode, float32; net.config: a dict
    noise, style = driftd_model.draw(net, seed=7, n=4)    # driftd's own noise (method.md 8)
    x = net(noise, torch.tensor([3] * 4), torch.full((4,), 1.5), style)   # [4,C,H,W] in [-1,1]

The classes below carry the file's names: the key of a tensor is its place in the state dict, and each
class lists its keys. [out,in] is the shape of a linear layer's weight, as in PyTorch. Files:

    safetensors from `driftctl export`   the weights; metadata driftd.config describes the network
    a driftd checkpoint                  the averaged (EMA) weights have the plain names; `train/NAME`
                                         are the raw ones (weights="raw"); opt.m/, opt.v/ and ema1/
                                         are for resuming and are left out here

Metadata: driftd.config is JSON, either the network's settings alone or a whole training configuration;
driftd.classes a list of class names; driftd.step the training step.
"""
import argparse
import json
import math
import struct
import sys
import zlib

import torch
import torch.nn.functional as F
from torch import nn

# What a configuration leaves out (docs/configuration.md, section model).
DEFAULTS = dict(
    arch="driftdit", dim=256, depth=6, heads=4, patch=4, registers=8, mlp="swiglu", mlp_ratio=4, rope=True,
    qk_norm=True, pos_embed=False, noise="image", latent_dim=32, temperature=1, style_tokens=32, codebook=64,
    head="linear", head_width=32, null_class=True, widths=[1, 2, 2], attention=8, size=32, channels=1, classes=10)
RESNET = dict(size=32, channels=3, classes=0, width=64, blocks=[2, 2, 2, 2], groups=32, every=2, kernel=3,
              stride=1, resize=0, pool=False, imagenet=False, mean=[], std=[], norm="group", head="none")
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


# ---- parts


class RMSNorm(nn.Module):
    """weight [n]"""

    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.weight


class Holder(nn.Module):
    """A module under a name of its own, for keys such as label_embed.embedding_table.weight."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


def modulated(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


def attention(qkv, heads, turn=lambda x, which: x):
    """qkv [B,T,3d]: q, k and v one after the other, each in heads."""
    b, t, d = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.reshape(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    q, k = turn(q, "q"), turn(k, "k")
    a = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(d // heads), -1)
    return (a @ v).transpose(1, 2).reshape(b, t, d)


class Condition(nn.Module):
    """The conditioning vector [B,d]: class + guidance scale + styles + latent noise.

    label_embed.embedding_table.weight [classes(+1),d]   the last row, where null_class, is "no class"
                                                         (lightningdit: label_embed.weight)
    alpha_embed.mlp.{0,2}.{weight,bias}                  [d,256], [d,d]: of cos and sin of the scale
    alpha_embed.norm.weight [d]                          lightningdit
    style_embed.codebook.weight [codebook,d]             style_tokens > 0; lightningdit has a table per
                                                         token: style_embed.K.weight
    latent_cond.{weight,bias} [d,latent_dim]             noise: latent, and the toys' network

    It has no name in the keys: the networks below inherit it.
    """

    def __init__(self, m, d, latent):
        super().__init__()
        self.config, light = m, m["arch"] == "lightningdit"
        rows = m["classes"] + (1 if m["null_class"] else 0)
        self.label_embed = nn.Embedding(rows, d) if light else Holder(embedding_table=nn.Embedding(rows, d))
        self.alpha_embed = Holder(mlp=nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d)))
        if light:
            self.alpha_embed.norm = RMSNorm(d)
        if m["style_tokens"] and light:
            self.style_embed = nn.ModuleList(nn.Embedding(m["codebook"], d) for _ in range(m["style_tokens"]))
        elif m["style_tokens"]:
            self.style_embed = Holder(codebook=nn.Embedding(m["codebook"], d))
        if latent:
            self.latent_cond = nn.Linear(m["latent_dim"], d)

    def condition(self, noise, cls, guidance, style):
        m, light = self.config, self.config["arch"] == "lightningdit"
        c = self.label_embed(cls) if light else self.label_embed.embedding_table(cls)
        period = 10000.0 if light else 10.0
        angle = guidance.double()[:, None] * period ** (-torch.arange(128, dtype=torch.float64) / 128)
        a = self.alpha_embed.mlp(torch.cat([angle.cos(), angle.sin()], 1).to(c.dtype))
        c = c + (0.02 * self.alpha_embed.norm(a) if light else a)
        if m["style_tokens"] and light:
            c = c + sum(table(style[:, k]) for k, table in enumerate(self.style_embed))
        elif m["style_tokens"]:
            c = c + self.style_embed.codebook(style).sum(1)
        return c + self.latent_cond(noise) if hasattr(self, "latent_cond") else c


# ---- the transformers: driftdit, lightningdit


class Attention(nn.Module):
    """qkv.weight [3d,d], q_norm.weight, k_norm.weight [d/heads] (qk_norm), proj.{weight,bias} [d,d];
    lightningdit adds qkv.bias"""

    def __init__(self, m):
        super().__init__()
        d, hd = m["dim"], m["dim"] // m["heads"]
        self.heads, self.rope = m["heads"], m["rope"]
        self.qkv = nn.Linear(d, 3 * d, bias=m["arch"] == "lightningdit")
        if m["qk_norm"]:
            self.q_norm, self.k_norm = RMSNorm(hd), RMSNorm(hd)
        self.proj = nn.Linear(d, d)

    def turn(self, x, which):
        if hasattr(self, "q_norm"):
            x = (self.q_norm if which == "q" else self.k_norm)(x)
        if not self.rope:
            return x
        t, hd = x.shape[-2:]
        f = 10000.0 ** (-torch.arange(0, hd, 2, dtype=torch.float64) / hd)
        angle = torch.outer(torch.arange(t, dtype=torch.float64), f)
        cos, sin, (a, b) = angle.cos().to(x.dtype), angle.sin().to(x.dtype), x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def forward(self, x):
        return self.proj(attention(self.qkv(x), self.heads, self.turn))


class FeedForward(nn.Module):
    """swiglu: w1.weight, w3.weight [h,d], w2.weight [d,h] (with biases in lightningdit);
    gelu: fc1 [h,d], fc2 [d,h], both with bias. h = dim mlp_ratio; lightningdit's swiglu: 2/3 of it,
    rounded up to a multiple of 32"""

    def __init__(self, m):
        super().__init__()
        d, light = m["dim"], m["arch"] == "lightningdit"
        h = int(d * m["mlp_ratio"])
        if m["mlp"] == "gelu":
            self.fc1, self.fc2 = nn.Linear(d, h), nn.Linear(h, d)
            return
        h = (int(2 / 3 * h) + 31) // 32 * 32 if light else h
        self.w1, self.w3 = nn.Linear(d, h, bias=light), nn.Linear(d, h, bias=light)
        self.w2 = nn.Linear(h, d, bias=light)

    def forward(self, x):
        if hasattr(self, "fc1"):
            return self.fc2(F.gelu(self.fc1(x)))
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """norm1.weight, norm2.weight [d], attn.*, mlp.*, adaLN_modulation.1.{weight,bias} [6d,d]: shift,
    scale and gate of the attention, then of the feed-forward"""

    def __init__(self, m):
        super().__init__()
        self.norm1, self.attn = RMSNorm(m["dim"]), Attention(m)
        self.norm2, self.mlp = RMSNorm(m["dim"]), FeedForward(m)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(m["dim"], 6 * m["dim"]))

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, 1)
        x = x + gate1[:, None] * self.attn(modulated(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulated(self.norm2(x), shift2, scale2))


class Final(nn.Module):
    """norm.weight [d], linear.{weight,bias} [patch^2 channels,d], its rows ordered y, x, channel;
    adaLN_modulation.1.{weight,bias} [2d,d]: shift and scale"""

    def __init__(self, m):
        super().__init__()
        self.norm, self.linear = RMSNorm(m["dim"]), nn.Linear(m["dim"], m["patch"] ** 2 * m["channels"])
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(m["dim"], 2 * m["dim"]))

    def forward(self, x, c):
        return self.linear(modulated(self.norm(x), *self.adaLN_modulation(c).chunk(2, 1)))


class DiT(Condition):
    """P = (size / patch)^2 patches.

    patch_embed.proj.{weight,bias} [d,C,patch,patch]   driftdit, noise: image
    patch_embed.{weight,bias} [d,patch^2 C]            lightningdit, pixels ordered y, x, channel
    latent_embed.{weight,bias} [P d,latent_dim]        noise: latent
    pos_embed [1,P,d]                                  pos_embed, and always in lightningdit
    register_tokens [1,registers,d]                    before the patches; lightningdit: cls_embed, to
                                                       which cls_proj.{weight,bias} [d,d] of the condition
                                                       is added
    blocks.I.*, final_layer.*                          see Block and Final
    head.conv1, head.conv2 .{weight,bias}              head: conv, 3x3: [head_width,C,3,3], [C,head_width,3,3]
    """

    def __init__(self, m):
        super().__init__(m, m["dim"], m["noise"] == "latent")
        d, p, c, light = m["dim"], m["patch"], m["channels"], m["arch"] == "lightningdit"
        self.side = m["size"] // p
        if m["noise"] == "latent":
            self.latent_embed = nn.Linear(m["latent_dim"], self.side**2 * d)
        else:
            self.patch_embed = nn.Linear(p * p * c, d) if light else Holder(proj=nn.Conv2d(c, d, p, p))
        if light or m["pos_embed"]:
            self.pos_embed = nn.Parameter(torch.zeros(1, self.side**2, d))
        if m["registers"] and light:
            self.cls_embed, self.cls_proj = nn.Parameter(torch.zeros(1, m["registers"], d)), nn.Linear(d, d)
        elif m["registers"]:
            self.register_tokens = nn.Parameter(torch.zeros(1, m["registers"], d))
        self.blocks = nn.ModuleList(Block(m) for _ in range(m["depth"]))
        self.final_layer = Final(m)
        if m["head"] == "conv":
            self.head = Holder(conv1=nn.Conv2d(c, m["head_width"], 3, padding=1),
                               conv2=nn.Conv2d(m["head_width"], c, 3, padding=1))

    def patches(self, noise):
        m, p, s = self.config, self.config["patch"], self.side
        if m["noise"] == "latent":
            return self.latent_embed(noise).reshape(len(noise), s * s, m["dim"])
        if m["arch"] == "driftdit":
            return self.patch_embed.proj(noise).flatten(2).transpose(1, 2)
        x = noise.reshape(-1, m["channels"], s, p, s, p).permute(0, 2, 4, 3, 5, 1)
        return self.patch_embed(x.reshape(len(noise), s * s, -1))

    def forward(self, noise, cls, guidance, style=None):
        m, p, s = self.config, self.config["patch"], self.side
        noise = noise * m["temperature"]
        c = self.condition(noise, cls, guidance, style)
        x = self.patches(noise)
        if hasattr(self, "pos_embed"):
            x = x + self.pos_embed
        if hasattr(self, "cls_embed"):
            x = torch.cat([self.cls_embed + self.cls_proj(c)[:, None], x], 1)
        elif m["registers"]:
            x = torch.cat([self.register_tokens.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, c)
        x = self.final_layer(x[:, m["registers"]:], c)
        x = x.reshape(-1, s, s, p, p, m["channels"]).permute(0, 5, 1, 3, 2, 4)
        x = x.reshape(-1, m["channels"], m["size"], m["size"])
        return x + self.head.conv2(F.silu(self.head.conv1(x))) if m["head"] == "conv" else x


class MLP(Condition):
    """The toys' network, noise [B,latent_dim] to points [B,2]: hidden.I.{weight,bias} [d,d], depth - 1 of
    them, out.{weight,bias} [2,d]; the noise enters by latent_cond"""

    def __init__(self, m):
        super().__init__(m, m["dim"], True)
        self.hidden = nn.ModuleList(nn.Linear(m["dim"], m["dim"]) for _ in range(m["depth"] - 1))
        self.out = nn.Linear(m["dim"], 2)

    def forward(self, noise, cls, guidance, style=None):
        h = self.condition(noise * self.config["temperature"], cls, guidance, style)
        for layer in self.hidden:
            h = layer(F.silu(h))
        return self.out(F.silu(h))


# ---- the U-Net


def groups_of(c, most=32):
    """Groups of a GroupNorm: the largest divisor that leaves two channels to a group."""
    return max(g for g in range(1, c + 1) if c % g == 0 and g <= min(most, max(c // 2, 1)))


def group_norm(c, most=32):
    return nn.GroupNorm(groups_of(c, most), c)


class Res(nn.Module):
    """norm1 [ci], conv1 [co,ci,3,3], scale and shift [co,4 dim] of SiLU(condition) instead of a second
    norm's weight and bias, conv2 [co,co,3,3], skip [co,ci,1,1] where ci is not co; with attention
    attn.norm [co], attn.qkv [3 co,co], attn.proj [co,co]; all with .weight and .bias"""

    def __init__(self, m, ci, co, attends):
        super().__init__()
        self.norm1, self.conv1 = group_norm(ci), nn.Conv2d(ci, co, 3, padding=1)
        self.scale, self.shift = nn.Linear(4 * m["dim"], co), nn.Linear(4 * m["dim"], co)
        self.conv2, self.heads = nn.Conv2d(co, co, 3, padding=1), m["heads"]
        if ci != co:
            self.skip = nn.Conv2d(ci, co, 1)
        if attends:
            self.attn = Holder(norm=group_norm(co), qkv=nn.Linear(co, 3 * co), proj=nn.Linear(co, co))

    def forward(self, x, c):
        h, c = self.conv1(F.silu(self.norm1(x))), F.silu(c)
        h = F.group_norm(h, groups_of(h.shape[1]), eps=1e-5)
        h = h * self.scale(c)[:, :, None, None] + self.shift(c)[:, :, None, None]
        x = self.conv2(F.silu(h)) + (self.skip(x) if hasattr(self, "skip") else x)
        if not hasattr(self, "attn"):
            return x
        y = self.attn.qkv(self.attn.norm(x).flatten(2).transpose(1, 2))
        return x + self.attn.proj(attention(y, self.heads)).transpose(1, 2).reshape(x.shape)


class UNet(Condition):
    """Level L has dim widths[L] channels; levels of at most `attention` pixels a side attend.

    latent_embed.{weight,bias} [size^2 C,latent_dim]   noise: latent; the picture that enters, y, x, channel
    conv_in [w0,C,3,3], norm_out, conv_out [C,w0,3,3]
    down.L.I.*, mid.0.*, mid.1.*, up.L.I.*             see Res; depth of them on the way down, depth + 1
                                                       on the way up
    down.L.conv (stride 2), up.L.conv                  3x3, between levels
    """

    def __init__(self, m):
        super().__init__(m, 4 * m["dim"], m["noise"] == "latent")
        width = [max(int(m["dim"] * k + 0.5), 1) for k in m["widths"]]
        side, c, skips = m["size"], width[0], [width[0]]
        if m["noise"] == "latent":
            self.latent_embed = nn.Linear(m["latent_dim"], m["channels"] * m["size"] ** 2)
        self.conv_in = nn.Conv2d(m["channels"], c, 3, padding=1)
        self.down, self.up, sides = nn.ModuleDict(), nn.ModuleDict(), []
        for level, co in enumerate(width):
            part = self.down[str(level)] = nn.ModuleDict()
            sides.append(side)
            for i in range(m["depth"]):
                part[str(i)] = Res(m, c, co, side <= m["attention"])
                c = co
                skips.append(c)
            if level + 1 < len(width):
                part["conv"] = nn.Conv2d(c, c, 3, 2, 1)
                side = (side + 1) // 2
                skips.append(c)
        self.mid = nn.ModuleList([Res(m, c, c, side <= m["attention"]), Res(m, c, c, False)])
        for level in reversed(range(len(width))):
            part = self.up[str(level)] = nn.ModuleDict()
            for i in range(m["depth"] + 1):
                part[str(i)] = Res(m, c + skips.pop(), width[level], sides[level] <= m["attention"])
                c = width[level]
            if level:
                part["conv"] = nn.Conv2d(c, c, 3, padding=1)
        self.norm_out, self.conv_out = group_norm(c), nn.Conv2d(c, m["channels"], 3, padding=1)

    def forward(self, noise, cls, guidance, style=None):
        m = self.config
        noise = noise * m["temperature"]
        c = self.condition(noise, cls, guidance, style)
        if m["noise"] == "latent":
            shape = (-1, m["size"], m["size"], m["channels"])
            noise = self.latent_embed(noise).reshape(shape).permute(0, 3, 1, 2)
        x = self.conv_in(noise)
        skips = [x]
        for part in self.down.values():
            for name, layer in part.items():
                x = layer(x) if name == "conv" else layer(x, c)
                skips.append(x)
        for layer in self.mid:
            x = layer(x, c)
        for part in self.up.values():
            for name, layer in part.items():
                if name == "conv":
                    x = layer(F.interpolate(x, size=skips[-1].shape[-2:], mode="nearest"))
                else:
                    x = layer(torch.cat([x, skips.pop()], 1), c)
        return self.conv_out(F.silu(self.norm_out(x)))


# ---- encoders and judges: resnet


class FixedNorm(nn.Module):
    """A BatchNorm that applies stored statistics: weight, bias, running_mean, running_var [c]"""

    def __init__(self, c):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.register_buffer("running_mean", torch.zeros(c))
        self.register_buffer("running_var", torch.ones(c))

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0, 1e-5)


class Basic(nn.Module):
    """conv1 [co,ci,3,3], conv2 [co,co,3,3], norm1, norm2 [co] (norm: batch: bn1, bn2);
    downsample.0 [co,ci,1,1] and downsample.1 [co] where the shape changes"""

    def __init__(self, norm, bn, ci, co, stride):
        super().__init__()
        self.bn = bn
        self.conv1, self.conv2 = nn.Conv2d(ci, co, 3, stride, 1, bias=False), nn.Conv2d(co, co, 3, 1, 1, bias=False)
        setattr(self, bn + "1", norm(co))
        setattr(self, bn + "2", norm(co))
        if stride > 1 or ci != co:
            self.downsample = nn.Sequential(nn.Conv2d(ci, co, 1, stride, bias=False), norm(co))

    def forward(self, x):
        h = F.relu(getattr(self, self.bn + "1")(self.conv1(x)))
        h = getattr(self, self.bn + "2")(self.conv2(h))
        return F.relu(h + (self.downsample(x) if hasattr(self, "downsample") else x))


class Up(nn.Module):
    """A stage of the decoder: norm [c + skip], conv1 [skip,c + skip,3,3], norm1, conv2 [skip,skip,3,3], norm2"""

    def __init__(self, c, skip, groups):
        super().__init__()
        self.norm, self.norm1, self.norm2 = (group_norm(n, groups) for n in (c + skip, skip, skip))
        self.conv1 = nn.Conv2d(c + skip, skip, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(skip, skip, 3, padding=1, bias=False)

    def forward(self, x, skip):
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        x = F.relu(self.norm1(self.conv1(self.norm(torch.cat([x, skip], 1)))))
        return F.relu(self.norm2(self.conv2(x)))


class ResNet(nn.Module):
    """Images [B,C,H,W] in [-1,1] to a dict of outputs: maps ("stage1.block2", "stage1", ...), "pooled", and
    by head "logits" and "reconstruction". Torchvision's names: conv1, norm1 (bn1), layerS.B.* (see Basic),
    fc.{weight,bias} [classes,c] (head: classifier, both), decoder.stageS.* (see Up) and
    decoder.head.{weight,bias} [C,width,1,1] (head: decoder, both)"""

    def __init__(self, m):
        super().__init__()
        self.config, batch, w = m, m["norm"] == "batch", m["width"]
        norm = FixedNorm if batch else lambda c: group_norm(c, m["groups"])
        self.bn = "bn" if batch else "norm"
        self.conv1 = nn.Conv2d(m["channels"], w, m["kernel"], m["stride"], m["kernel"] // 2, bias=False)
        setattr(self, self.bn + "1", norm(w))
        c = w
        for s, blocks in enumerate(m["blocks"]):
            layers = []
            for i in range(blocks):
                layers.append(Basic(norm, self.bn, c, w << s, 2 if s and not i else 1))
                c = w << s
            setattr(self, "layer%d" % (s + 1), nn.Sequential(*layers))
        if m["head"] in ("classifier", "both"):
            self.fc = nn.Linear(c, m["classes"])
        if m["head"] in ("decoder", "both"):
            stages = {"stage%d" % (s + 1): Up(w << s + 1, w << s, m["groups"]) for s in range(len(m["blocks"]) - 1)}
            self.decoder = Holder(head=nn.Conv2d(w, m["channels"], 1), **stages)

    def forward(self, image):
        m, x, out, ends = self.config, image, {}, []
        mean, std = IMAGENET if m["imagenet"] else (m["mean"], m["std"])
        if mean:
            mean, std = (torch.tensor(v, dtype=x.dtype)[:, None, None] for v in (mean, std))
            x = ((x + 1) / 2 - mean) / std
        if m["resize"]:
            x = F.interpolate(x, size=m["resize"], mode="bilinear", align_corners=False)
        x = F.relu(getattr(self, self.bn + "1")(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1) if m["pool"] else x
        for s, blocks in enumerate(m["blocks"]):
            for i, block in enumerate(getattr(self, "layer%d" % (s + 1))):
                x = block(x)
                if i + 1 == blocks:
                    out["stage%d" % (s + 1)] = x
                elif (i + 1) % m["every"] == 0:
                    out["stage%d.block%d" % (s + 1, i + 1)] = x
            ends.append(x)
        out["pooled"] = x.mean((2, 3))
        if hasattr(self, "fc"):
            out["logits"] = self.fc(out["pooled"])
        if hasattr(self, "decoder"):
            for s in reversed(range(len(ends) - 1)):
                x = getattr(self.decoder, "stage%d" % (s + 1))(x, ends[s])
            x = F.interpolate(x, size=image.shape[-2:], mode="bilinear", align_corners=False)
            out["reconstruction"] = self.decoder.head(x)
        return out


NETWORKS = {"driftdit": DiT, "lightningdit": DiT, "mlp": MLP, "unet": UNet, "resnet": ResNet}


# ---- files


def read_safetensors(path):
    """A file's tensors by name (copies) and its metadata."""
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
             "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8}
    with open(path, "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = bytearray(f.read())
    meta, tensors = head.pop("__metadata__", {}), {}
    for name, t in head.items():
        begin, end = t["data_offsets"]
        if t["dtype"] in kinds and end > begin:
            tensors[name] = torch.frombuffer(data[begin:end], dtype=kinds[t["dtype"]]).reshape(t["shape"])
    return tensors, meta


def network_config(given):
    """The settings of the network from `driftd.config`: its own, or those inside a whole configuration."""
    data = given.get("data", {})
    if given.get("kind") == "encoder":
        e = given["encoder"]
        head = {"classify": "classifier", "autoencode": "decoder", "both": "both"}[e["objective"]]
        return dict(RESNET, arch=e["arch"], head=head, size=data["size"], channels=data["channels"],
                    classes=0 if head == "decoder" else data["classes"], blocks=[int(b) for b in e["blocks"]],
                    **{k: e[k] for k in ("width", "groups", "stride") if k in e})
    if given.get("arch") == "resnet":
        return dict(RESNET, **given)
    if "model" in given:
        given = dict({k: data[k] for k in ("size", "channels", "classes") if k in data}, **given["model"])
    m = dict(DEFAULTS, **given)
    return dict(m, classes=max(m["classes"], 1))


def load(path, weights="ema", dtype=torch.float32):
    """The network of an exported file or a checkpoint, in eval mode, without gradients."""
    tensors, meta = read_safetensors(path)
    if "driftd.config" not in meta:
        raise ValueError("%s: its metadata has no driftd.config, so the network is not known" % path)
    m = network_config(json.loads(meta["driftd.config"]))
    if m["arch"] not in NETWORKS:
        raise ValueError("%s: the network is %r; expected one of %s" % (path, m["arch"], ", ".join(NETWORKS)))
    net = NETWORKS[m["arch"]](m)
    prefix = "train/" if weights == "raw" and any(k.startswith("train/") for k in tensors) else ""
    if weights == "raw" and not prefix and meta.get("driftd.weights") != "raw":
        raise ValueError("%s holds no raw weights" % path)
    names = [prefix + k for k in net.state_dict()]
    missing = [k for k in names if k not in tensors]
    if missing:
        raise ValueError("%s: the tensor %r is missing" % (path, missing[0]))
    net.load_state_dict({k[len(prefix):]: tensors[k] for k in names})
    net.classes = json.loads(meta.get("driftd.classes", "null"))
    return net.to(dtype).eval().requires_grad_(False)


# ---- driftd's noise (docs/method.md, randomness): the k-th image of a seed, whatever the batch


def philox(seed, index, stream, count):
    """Philox4x32-10: `count` numbers of 32 bits."""
    out, low = [], 0xFFFFFFFF
    for block in range((count + 3) // 4):
        c, k = [block, stream, index & low, index >> 32], [seed & low, seed >> 32]
        for _ in range(10):
            a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [(b >> 32) ^ c[1] ^ k[0], b & low, (a >> 32) ^ c[3] ^ k[1], a & low]
            k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
        out += c
    return out[:count]


def normals(seed, index, count):
    u, out = [(r + 0.5) * 2.0**-32 for r in philox(seed, index, 0, (count + 3) // 4 * 4)], []
    for a, b in zip(u[::2], u[1::2]):
        r = math.sqrt(-2 * math.log(a))
        out += [r * math.cos(2 * math.pi * b), r * math.sin(2 * math.pi * b)]
    return out[:count]


def draw(net, seed, n, first=0):
    """noise and style (None without style tokens) of images first to first + n - 1 of a seed."""
    m = net.config
    vector = m["noise"] == "latent" or m["arch"] == "mlp"
    shape = (m["latent_dim"],) if vector else (m["channels"], m["size"], m["size"])
    noise = [normals(seed, first + k, math.prod(shape)) for k in range(n)]
    noise = torch.tensor(noise, dtype=torch.float32).reshape(n, *shape)
    if not m["style_tokens"]:
        return noise, None
    style = [[r * m["codebook"] >> 32 for r in philox(seed, first + k, 1, m["style_tokens"])] for k in range(n)]
    return noise, torch.tensor(style)


# ---- the program


def png(path, x):
    """x [n,C,H,W] in [-1,1], C 1 or 3, side by side."""
    x = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    x = x.permute(2, 0, 3, 1).reshape(x.shape[2], -1, x.shape[1])
    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in x)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", x.shape[1], x.shape[0], 8, 2 if x.shape[2] == 3 else 0, 0, 0, 0)
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def main():
    p = argparse.ArgumentParser(description="Draws images from a model that driftd trained.")
    p.add_argument("model", help="safetensors file")
    p.add_argument("--class", dest="cls", type=int, default=0)
    p.add_argument("--guidance", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-n", type=int, default=8)
    p.add_argument("--weights", choices=("ema", "raw"), default="ema")
    p.add_argument("-o", "--output", default="driftd.png", help="PNG, or .pt for the tensor itself")
    a = p.parse_args()
    net = load(a.model, a.weights)
    if isinstance(net, ResNet):
        sys.exit("%s holds an encoder or judge, which draws nothing; use it as a module" % a.model)
    noise, style = draw(net, a.seed, a.n)
    x = net(noise, torch.full((a.n,), a.cls), torch.full((a.n,), a.guidance), style)
    if a.output.endswith(".pt"):
        torch.save(x, a.output)
    elif x.dim() == 4 and x.shape[1] in (1, 3):
        png(a.output, x)
    else:
        sys.exit("samples of shape %s are not shown as a PNG; name a .pt file" % (tuple(x.shape[1:]),))


if __name__ == "__main__":
    main()
