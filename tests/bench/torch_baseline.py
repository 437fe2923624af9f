#!/usr/bin/env python3
"""PyTorch on the same device: the same networks and the same loss, eager and compiled, in bf16 or fp32.

Our own code, written from docs/method.md; measured beside driftd by tests/bench/gpu.sh. Reads lines of
`gpu_bench config`, prints one JSON object a line, as gpu_bench does.

usage: torch_baseline.py [--device cuda|cpu] [--small] [--modes eager,compile] [--seconds S]
                         [--precision bf16|fp32] [--networks NAME,...] [--what train,sample]
                         [--budget S] <CONFIGS          what does not start in time is named, not measured
       torch_baseline.py --resnet FILE                  torchvision's ResNet-18 with random weights
       torch_baseline.py --check tests/golden/NAME.safetensors...    the same network?

Without torch it prints a sentence on stderr and exits with 77.
"""
import argparse
import json
import math
import os
import resource
import statistics
import struct
import sys
import time

begin = time.monotonic()  # loading PyTorch takes a while
try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError:
    print("torch_baseline: no torch in this Python: skipped", file=sys.stderr)
    sys.exit(77)


def attention(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v)
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v


class RMSNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        if hasattr(F, "rms_norm"):
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), 1e-6)
        return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6).to(x.dtype) * self.weight


class Ada(nn.Sequential):
    def __init__(self, dim, n):
        super().__init__(nn.SiLU(), nn.Linear(dim, n * dim))
        nn.init.zeros_(self[1].weight)
        nn.init.zeros_(self[1].bias)


class Attention(nn.Module):
    def __init__(self, m, light):
        super().__init__()
        self.heads, hd = m["heads"], m["dim"] // m["heads"]
        self.qkv = nn.Linear(m["dim"], 3 * m["dim"], bias=light)
        self.q_norm, self.k_norm = RMSNorm(hd), RMSNorm(hd)
        self.proj = nn.Linear(m["dim"], m["dim"])

    def forward(self, x, cos, sin):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotated(self.q_norm(q), cos, sin), rotated(self.k_norm(k), cos, sin)
        return self.proj(attention(q, k, v).transpose(1, 2).reshape(b, t, d))


def rotated(x, cos, sin):
    a, b = x.chunk(2, -1)
    return (x * cos + torch.cat([-b, a], -1) * sin).to(x.dtype)


class SwiGLU(nn.Module):
    def __init__(self, m, light):
        super().__init__()
        hidden = int(m["dim"] * m["mlp_ratio"])
        if light:
            hidden = (int(2 / 3 * hidden) + 31) // 32 * 32
        self.w1 = nn.Linear(m["dim"], hidden, bias=light)
        self.w3 = nn.Linear(m["dim"], hidden, bias=light)
        self.w2 = nn.Linear(hidden, m["dim"], bias=light)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, m, light):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(m["dim"]), RMSNorm(m["dim"])
        self.attn, self.mlp = Attention(m, light), SwiGLU(m, light)
        self.adaLN_modulation = Ada(m["dim"], 6)

    def forward(self, x, c, cos, sin):
        sh1, sc1, g1, sh2, sc2, g2 = self.adaLN_modulation(c)[:, None].chunk(6, -1)
        x = x + g1 * self.attn(self.norm1(x) * (1 + sc1) + sh1, cos, sin)
        return x + g2 * self.mlp(self.norm2(x) * (1 + sc2) + sh2)


class Final(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.norm = RMSNorm(m["dim"])
        self.linear = nn.Linear(m["dim"], m["patch"] ** 2 * m["channels"])
        nn.init.normal_(self.linear.weight, std=0.02)
        self.adaLN_modulation = Ada(m["dim"], 2)

    def forward(self, x, c):
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, -1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


class Named(nn.Module):  # a submodule that holds one thing under a name
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Generator(nn.Module):
    """Both transformer generators, parameters under the names that driftd's files have."""

    def __init__(self, m):
        super().__init__()
        d, self.m, self.light = m["dim"], m, m["arch"] == "lightningdit"
        rows, self.side = m["classes"] + m["null_class"], m["size"] // m["patch"]
        norm = {"norm": RMSNorm(d)} if self.light else {}
        self.alpha_embed = Named(mlp=nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d)), **norm)
        if self.light:
            self.label_embed = nn.Embedding(rows, d)
            self.style_embed = nn.ModuleList(nn.Embedding(m["codebook"], d) for _ in range(m["style_tokens"]))
            self.patch_embed = nn.Linear(m["patch"] ** 2 * m["channels"], d)
            self.cls_proj, self.cls_embed = nn.Linear(d, d), nn.Parameter(torch.zeros(1, m["registers"], d))
        else:
            self.label_embed = Named(embedding_table=nn.Embedding(rows, d))
            self.style_embed = Named(codebook=nn.Embedding(m["codebook"], d))
            self.patch_embed = Named(proj=nn.Conv2d(m["channels"], d, m["patch"], m["patch"]))
            self.register_tokens = nn.Parameter(torch.zeros(1, m["registers"], d))
        if self.light or m["pos_embed"]:
            self.pos_embed = nn.Parameter(torch.zeros(1, self.side ** 2, d))
        self.blocks = nn.ModuleList(Block(m, self.light) for _ in range(m["depth"]))
        self.final_layer = Final(m)
        hd, t = d // m["heads"], m["registers"] + self.side ** 2
        ang = torch.outer(torch.arange(t).double(), 1e4 ** (-torch.arange(0, hd, 2).double() / hd))
        self.register_buffer("cos", torch.cat([ang, ang], 1).cos().float(), persistent=False)
        self.register_buffer("sin", torch.cat([ang, ang], 1).sin().float(), persistent=False)
        f = (1e4 if self.light else 10.0) ** (-torch.arange(128).double() / 128)
        self.register_buffer("freq", f.float(), persistent=False)

    def condition(self, cls, alpha, style):
        ang = alpha[:, None] * self.freq
        a = self.alpha_embed.mlp(torch.cat([ang.cos(), ang.sin()], 1))
        if self.light:
            c = self.label_embed(cls) + 0.02 * self.alpha_embed.norm(a)
            for k, table in enumerate(self.style_embed):
                c = c + table(style[:, k])
            return c
        return self.label_embed.embedding_table(cls) + a + self.style_embed.codebook(style).sum(1)

    def forward(self, noise, cls, alpha, style):
        p, ch, s = self.m["patch"], self.m["channels"], self.side
        c = self.condition(cls, alpha, style)
        if self.light:
            z = noise.view(-1, ch, s, p, s, p).permute(0, 2, 4, 3, 5, 1).reshape(-1, s * s, p * p * ch)
            x, extra = self.patch_embed(z), self.cls_embed + self.cls_proj(c)[:, None]
        else:
            x = self.patch_embed.proj(noise).flatten(2).transpose(1, 2)
            extra = self.register_tokens.expand(x.shape[0], -1, -1)
        if hasattr(self, "pos_embed"):
            x = x + self.pos_embed
        x = torch.cat([extra.to(x.dtype), x], 1)
        for b in self.blocks:
            x = b(x, c, self.cos, self.sin)
        x = self.final_layer(x[:, self.m["registers"]:], c).float()
        return x.view(-1, s, s, p, p, ch).permute(0, 5, 1, 3, 2, 4).reshape(-1, ch, s * p, s * p)


def drifting_loss(gen, pos, taus, floor=1e-6):
    """gen [B,N,S] with gradient, pos [B,P,S]: method.md 2 on pixels without unconditional reals."""
    b, n, s = gen.shape
    with torch.no_grad():
        y = torch.cat([gen, pos], 1).float()
        x = gen.float()
        d2 = x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None] - 2 * x @ y.transpose(1, 2)
        dist = d2.clamp_min(1e-8).sqrt()
        scale = dist.mean()
        length = (scale / math.sqrt(s)).clamp_min(1e-3)
        dist = dist / scale.clamp_min(1e-3)
        dist[:, :, :n] += 100 * torch.eye(n, device=gen.device)
        total = torch.zeros_like(x)
        for tau in taus:
            logit = -dist / tau
            a = (torch.softmax(logit, 2) * torch.softmax(logit, 1)).clamp_min(floor).sqrt()
            neg, pos_a = a[:, :, :n], a[:, :, n:]
            coef = torch.cat([-neg * pos_a.sum(2, keepdim=True), pos_a * neg.sum(2, keepdim=True)], 2)
            v = (coef @ y - coef.sum(2, keepdim=True) * x) / length
            total += v / v.square().mean().clamp_min(1e-8).sqrt()
        goal = x / length + total
    return (gen.float() / length - goal).square().mean()


class PooledResNet(nn.Module):
    """torchvision's ResNet-18 in inference, random weights: the mean over the places of each stage's map."""

    def __init__(self):
        super().__init__()
        from torchvision.models import resnet18
        self.net = resnet18().eval().requires_grad_(False)

    def forward(self, x):
        r, means = self.net, []
        x = F.interpolate(x / 2 + 0.5, size=64, mode="bilinear", align_corners=False)
        x = r.maxpool(r.relu(r.bn1(r.conv1((x - 0.45) / 0.226))))
        for stage in (r.layer1, r.layer2, r.layer3, r.layer4):
            x = stage(x)
            means.append(x.mean((2, 3)).float())
        return means


class Trainer:
    def __init__(self, cfg, device, compiled, autocast):
        m, t = cfg["model"], cfg["train"]
        self.classes, self.n, self.p, self.cfg, self.device = 10, t["generated"], t["positives"], cfg, device
        self.batch, self.autocast = self.classes * self.n, autocast
        self.net = Generator(m).to(device)
        self.ema = [w.detach().clone() for w in self.net.parameters()]
        o = cfg["optim"]
        fused = {"fused": True} if device == "cuda" else {}
        self.opt = torch.optim.AdamW(self.net.parameters(), o["lr"], (o["beta1"], o["beta2"]), o["eps"],
                                     o["weight_decay"], **fused)
        size = m["size"]
        self.data = torch.rand(self.classes, 400, m["channels"] * size * size, device=device) * 2 - 1
        encoder = cfg["features"]["kind"] == "encoder"
        self.features = PooledResNet().to(device) if encoder else None
        self.run = torch.compile(self.forward) if compiled else self.forward

    def forward(self, noise, cls, alpha, style, pos):
        kind = "cuda" if self.device == "cuda" else "cpu"
        with torch.autocast(kind, torch.bfloat16, enabled=self.autocast):
            x = self.net(noise, cls, alpha, style)
            pairs = self.vectors(x, pos)
        loss = self.cfg["loss"]
        return sum(drifting_loss(g, r, loss["temperatures"], loss["affinity_floor"]) for g, r in pairs)

    def vectors(self, x, pos):
        """The features of samples and reals, [classes,n,S] each."""
        if self.features is None:
            return [(x.view(self.classes, self.n, -1), pos)]
        grouped = lambda maps: [F.normalize(v, dim=1).view(self.classes, -1, v.shape[1]) for v in maps]
        with torch.no_grad():
            reals = grouped(self.features(pos.reshape(-1, *x.shape[1:])))
        return list(zip(grouped(self.features(x)), reals))

    def step(self):
        m, dev = self.cfg["model"], self.device
        noise = torch.randn(self.batch, m["channels"], m["size"], m["size"], device=dev)
        cls = torch.arange(self.classes, device=dev).repeat_interleave(self.n)
        alpha = (1 + 2 * torch.rand(self.classes, device=dev)).repeat_interleave(self.n)
        style = torch.randint(m["codebook"], (self.batch, m["style_tokens"]), device=dev)
        rows = torch.randint(400, (self.classes, self.p), device=dev)
        pos = self.data.gather(1, rows[:, :, None].expand(-1, -1, self.data.shape[2]))
        loss = self.run(noise, cls, alpha, style, pos)
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.cfg["optim"]["clip"])
        self.opt.step()
        with torch.no_grad():
            torch._foreach_mul_(self.ema, 0.999)
            torch._foreach_add_(self.ema, list(self.net.parameters()), alpha=0.001)
        return loss


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def timed(call, device, seconds, warm):
    """Seconds of one call, several between two waits; the first `warm` calls do not count."""
    for _ in range(warm):
        call()
    wait(device)
    rounds, spent, each = [], 0.0, 1 if device == "cpu" else 5
    while spent < seconds or len(rounds) < 3:
        start = time.perf_counter()
        for _ in range(each):
            call()
        wait(device)
        rounds.append((time.perf_counter() - start) / each)
        spent += rounds[-1] * each
    return statistics.median(rounds)


def latency(call, device, seconds, warm):
    """From the host to the host, one after another."""
    for _ in range(warm):
        call()
    wait(device)
    each, begin = [], time.perf_counter()
    while len(each) < 10 or (time.perf_counter() - begin < seconds and len(each) < 400):
        start = time.perf_counter()
        call().cpu()
        each.append(time.perf_counter() - start)
    return statistics.median(each)


def emit(**row):
    print(json.dumps(row), flush=True)


def in_time(options):
    if time.monotonic() > begin + options.budget:
        raise TimeoutError("no time left")


def training(name, cfg, options, mode):
    t = Trainer(cfg, options.device, mode == "compile", options.precision == "bf16")
    warm = 2 if options.small or options.device == "cpu" else 10
    s = timed(t.step, options.device, options.seconds, warm)
    emit(what="train", torch=mode, network=name, precision=options.precision, samples=t.batch, ms=s * 1e3,
         peak_MiB=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def sampling(name, cfg, options, mode):
    m, device = cfg["model"], options.device
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    net = Generator(m).to(device).to(dtype).eval().requires_grad_(False)
    # every batch size has its own graph, as in driftd; compiling takes long
    run = torch.compile(net, mode="reduce-overhead", dynamic=False) if mode == "compile" else net
    batches = [1, 4] if options.small else [1, 256] if mode == "compile" else [1, 256, 2048]
    for b in batches:
        in_time(options)
        kind = dict(device=device, dtype=dtype)
        args = [torch.randn(b, m["channels"], m["size"], m["size"], **kind),
                torch.arange(b, device=device) % m["classes"], torch.full((b,), 1.5, **kind),
                torch.randint(m["codebook"], (b, m["style_tokens"]), device=device)]
        with torch.no_grad():
            s = latency(lambda: run(*args), device, options.seconds, 5)
        emit(what="sample", torch=mode, network=name, precision=options.precision, batch=b, ms=s * 1e3, images_s=b / s)


def measure(options):
    networks = [json.loads(line) for line in sys.stdin]
    for mode in options.modes.split(","):
        for row in networks:
            name, cfg = row["network"], row["config"]
            if options.networks and name not in options.networks.split(","):
                continue
            cfg["model"].update({k: cfg["data"][k] for k in ("size", "channels", "classes")})
            try:
                in_time(options)
                if mode == "compile":
                    torch._dynamo.reset()  # or the networks before count towards its limits
                encoder = cfg["features"]["kind"] == "encoder"
                if "train" in options.what and (encoder or cfg["model"]["channels"] == 1 and name != "Small"):
                    training(name, cfg, options, mode)
                if "sample" in options.what:
                    sampling(name, cfg, options, mode)
            except Exception as e:  # a mode this PyTorch does not have: the others still count
                why = (str(e) or type(e).__name__).splitlines()[0][:200]
                emit(what="failed", torch=mode, network=name, why=why)


def read_safetensors(path):
    kinds = {"F32": torch.float32, "F64": torch.float64, "I32": torch.int32}
    with open(path, "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        body = f.read()
    meta = head.pop("__metadata__", {})
    out = {}
    for name, t in head.items():
        if t["dtype"] in kinds and t["data_offsets"][0] < t["data_offsets"][1]:
            part = bytearray(body[t["data_offsets"][0]:t["data_offsets"][1]])
            out[name] = torch.frombuffer(part, dtype=kinds[t["dtype"]]).reshape(t["shape"])
    return out, meta


def write_resnet(path):
    net = PooledResNet().net
    t = {k: v for k, v in net.state_dict().items() if v.dtype == torch.float32}
    head, at = {}, 0
    for name, v in t.items():
        head[name] = {"dtype": "F32", "shape": list(v.shape), "data_offsets": [at, at + 4 * v.numel()]}
        at += 4 * v.numel()
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(v.contiguous().numpy().tobytes() for v in t.values()))


def check(path):
    """The golden vectors of tests/golden hold weights, inputs and the image: is this the same network?"""
    t, meta = read_safetensors(path)
    m = json.loads(meta["driftd.config"])
    net = Generator(m)
    net.load_state_dict({k: t[k].float() for k in net.state_dict()})
    with torch.no_grad():
        x = net(t["in.noise"].float(), t["in.class"].long(), t["in.alpha"].float(), t["in.style"].long())
    want = t["image"].float()
    error = ((x - want).square().sum() / want.square().sum()).item()
    print("%s: normalised mean square error %.3g" % (path, error))
    return 0 if error < 1e-9 else 1


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--device", default="cuda")
    a.add_argument("--small", action="store_true")
    a.add_argument("--modes", default="eager,compile")
    a.add_argument("--seconds", type=float, default=2.0)
    a.add_argument("--budget", type=float, default=100.0)
    a.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    a.add_argument("--networks", help="those of the configurations to measure; all")
    a.add_argument("--what", default="train,sample")
    a.add_argument("--check", nargs="+")
    a.add_argument("--resnet", metavar="FILE")
    options = a.parse_args()
    if options.check:
        sys.exit(max(check(p) for p in options.check))
    if options.resnet:
        write_resnet(options.resnet)
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch_baseline: this PyTorch finds no GPU: skipped", file=sys.stderr)
        sys.exit(77)
    torch.backends.cuda.matmul.allow_tf32 = True
    # As many as driftd takes: by itself Debian's PyTorch took one of two.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    emit(what="torch", version=torch.__version__, device=options.device, threads=torch.get_num_threads())
    measure(options)


if __name__ == "__main__":
    main()
