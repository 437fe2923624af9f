#!/usr/bin/python3
"""Judges class-conditional MNIST samples with a small CNN of its own (python3-torch, python3-numpy).

A SOURCE is the address of a running driftd (http://localhost:8080), asked for n images per class at scale
cfg, class c of set s with seed 10 s + c; or a file, float32 [10 * n, 1, 28, 28], n images of class 0,
then n of class 1, ... Pixels are clamped to [-1, 1], as in a picture.

The CNN is trained on MNIST's training set once (about two minutes on two cores) and kept beside the
data's owner in $XDG_CACHE_HOME/driftd-judge-JUDGE.pt. Printed per set: agreement with the asked class; the
Frechet distance of the CNN's features to 10 000 training images, and the same distance of other
real images in the samples' number (the floor); the mean pairwise within-class distance over that of
reals, in features (diversity) and in pixels (spread), mean and worst class. Of several sets, the mean too.
"""
import argparse
import gzip
import io
import os
import sys
import urllib.parse
import urllib.request

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def read_idx(folder, name, header):
    for suffix in ("", ".gz"):
        path = os.path.join(folder, name + suffix)
        if os.path.exists(path):
            with (gzip.open if suffix else open)(path, "rb") as f:
                return np.frombuffer(f.read()[header:], np.uint8)
    sys.exit(f"judge.py: {folder} has no {name} or {name}.gz")


def load(folder, part):
    images = read_idx(folder, f"{part}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
    labels = read_idx(folder, f"{part}-labels-idx1-ubyte", 8).astype(np.int64)
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1), torch.from_numpy(labels)


class Cnn(nn.Module):
    """Strided convolutions with batch norm, 128 features."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 96, 3, padding=1, stride=2), nn.BatchNorm2d(96), nn.ReLU())
        self.hidden = nn.Linear(96 * 49, 128)
        self.out = nn.Linear(128, 10)

    def features(self, x):
        return F.relu(self.hidden(self.conv(x).flatten(1)))

    def forward(self, x):
        return self.out(F.dropout(self.features(x), 0.3, self.training))


class Lenet(nn.Module):
    """Max pooling, no batch norm, 84 features: cares more about contrast."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 16, 5, padding=2), nn.Conv2d(16, 32, 5)
        self.h1, self.h2, self.out = nn.Linear(800, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def features(self, x):
        for conv in (self.c1, self.c2):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        return F.relu(self.h2(F.relu(self.h1(x.flatten(1)))))

    def forward(self, x):
        return self.out(self.features(x))


JUDGES = {"cnn": Cnn, "lenet": Lenet}


def train(net, folder):
    x, y = load(folder, "train")
    epochs, batch = 2, 128
    opt = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, total_steps=epochs * len(x) // batch + 5)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for i in range(0, len(x) - batch + 1, batch):
            j = order[i:i + batch]
            opt.zero_grad()
            F.cross_entropy(net(x[j]), y[j]).backward()
            opt.step()
            schedule.step()
    return net.eval()


def judge(folder, kind):
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    path = os.path.join(cache, f"driftd-judge-{kind}.pt")
    torch.manual_seed(0)
    net = JUDGES[kind]()
    if os.path.exists(path):
        net.load_state_dict(torch.load(path))
        net.eval()
    else:
        net = train(net, folder)
        os.makedirs(cache, exist_ok=True)
        torch.save(net.state_dict(), path)
    with torch.no_grad():
        x, y = load(folder, "t10k")
        print(f"judge: accuracy on the test set {(net(x).argmax(1) == y).float().mean():.4f}")
    return net


def describe(net, x):
    with torch.no_grad():
        f = torch.cat([net.features(part) for part in x.split(1000)])
        return f, net.out(f).argmax(1)


def frechet(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    ca, cb = np.cov(a.T), np.cov(b.T)
    w, v = np.linalg.eigh(ca)
    root = (v * np.sqrt(np.maximum(w, 0))) @ v.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cb @ root), 0)).sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross


def spread(x):
    d = torch.cdist(x.flatten(1), x.flatten(1))
    return (d.sum() / (len(x) * (len(x) - 1))).item()


def fetch(address, seed, args):
    images = []
    for c in range(10):
        query = {"class": c, "n": args.n, "cfg": args.cfg, "seed": 10 * seed + c, "format": "npy",
                 "checkpoint": args.checkpoint}
        url = f"{address.rstrip('/')}/v1/generate?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url) as reply:
            images.append(np.load(io.BytesIO(reply.read())))
    return np.concatenate(images)


class Reals:
    """Of every class, 1000 images of reference and n others, with their features."""

    def __init__(self, net, x, y, n):
        rng = np.random.RandomState(0)
        order = [rng.permutation(np.where(y.numpy() == c)[0]) for c in range(10)]
        self.reference, _ = describe(net, x[np.concatenate([i[:1000] for i in order])])
        self.images = x[np.concatenate([i[1000:1000 + n] for i in order])]
        self.features, _ = describe(net, self.images)
        self.floor = frechet(self.features, self.reference)


def measure(net, reals, samples):
    asked = torch.arange(10).repeat_interleave(len(samples) // 10)
    features, says = describe(net, samples)
    per_class = [asked == c for c in range(10)]
    div = [spread(features[i]) / spread(reals.features[i]) for i in per_class]
    pix = [spread(samples[i]) / spread(reals.images[i]) for i in per_class]
    right = [(says[i] == asked[i]).float().mean().item() for i in per_class]
    fd = frechet(features, reals.reference)
    return np.array([np.mean(right), min(right), fd, reals.floor, fd / reals.floor, np.mean(div), min(div),
                     np.mean(pix), min(pix), max(pix)])


def show(name, v):
    print(f"{name}: accuracy {v[0]:.4f} (worst class {v[1]:.3f}), FD {v[2]:.2f} / floor {v[3]:.2f} = {v[4]:.2f}, "
          f"diversity {v[5]:.3f} (worst {v[6]:.3f}), spread {v[7]:.3f} ({v[8]:.3f} to {v[9]:.3f})")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", metavar="MNIST_FOLDER")
    p.add_argument("sources", metavar="SOURCE", nargs="+")
    p.add_argument("--n", type=int, default=200, help="images per class")
    p.add_argument("--cfg", type=float, default=1, help="guidance scale")
    p.add_argument("--seeds", default="1,2,3", help="one set each")
    p.add_argument("--checkpoint", default="live", help="what to ask the daemon for")
    p.add_argument("--judge", choices=JUDGES, default="cnn", help="which network judges")
    return p.parse_args()


def sets(args):
    for source in args.sources:
        if source.startswith(("http://", "https://")):
            for seed in args.seeds.split(","):
                yield f"{source}, set {seed}", fetch(source, int(seed), args)
        else:
            yield source, np.load(source)


def main():
    args = arguments()
    net = judge(args.folder, args.judge)
    x, y = load(args.folder, "train")
    reals, rows = {}, []
    for name, samples in sets(args):
        n = len(samples) // 10
        if n not in reals:
            reals[n] = Reals(net, x, y, n)
        rows.append(measure(net, reals[n], torch.from_numpy(samples).clamp(-1, 1)))
        show(f"{name}, {10 * n} images", rows[-1])
    if len(rows) > 1:
        show("mean", np.mean(rows, 0))


main()
