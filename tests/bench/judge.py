#!/usr/bin/python3
"""Judges class-conditional MNIST samples with a small CNN of its own (python3-torch, python3-numpy).

usage: judge.py MNIST_FOLDER SAMPLES.npy [...]

SAMPLES.npy is float32 [10 * n, 1, 28, 28], n images of class 0, then n of class 1, ... as written by
curl 'localhost:8080/v1/generate?class=C&n=200&format=npy' for each class and stacked.

The CNN is trained on MNIST's training set once (about two minutes on two cores) and kept beside the
data's owner in $XDG_CACHE_HOME/driftd-judge.pt. Printed per file: agreement with the asked class; the
Frechet distance of the CNN's 128 features to 10 000 training images, and the same distance of other
real images in the samples' number (the floor); the mean pairwise within-class distance over that of
reals, in features (diversity) and in pixels (spread), mean and worst class.
"""
import gzip
import os
import sys

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


class Judge(nn.Module):
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


def train(folder):
    torch.manual_seed(0)
    x, y = load(folder, "train")
    net, epochs, batch = Judge(), 2, 128
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


def judge(folder):
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    path = os.path.join(cache, "driftd-judge.pt")
    net = Judge()
    if os.path.exists(path):
        net.load_state_dict(torch.load(path))
        net.eval()
    else:
        net = train(folder)
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


def report(net, x, y, path):
    samples = torch.from_numpy(np.load(path)).clamp(-1, 1)
    n = len(samples) // 10
    asked = torch.arange(10).repeat_interleave(n)
    rng = np.random.RandomState(0)
    first, second = [], []
    for c in range(10):
        i = rng.permutation(np.where(y.numpy() == c)[0])
        first.append(i[:1000])
        second.append(i[1000:1000 + n])
    reals = x[np.concatenate(second)]
    reference, _ = describe(net, x[np.concatenate(first)])
    real_features, _ = describe(net, reals)
    features, says = describe(net, samples)
    fd, floor = frechet(features, reference), frechet(real_features, reference)
    div = [spread(features[asked == c]) / spread(real_features[asked == c]) for c in range(10)]
    pix = [spread(samples[asked == c]) / spread(reals[asked == c]) for c in range(10)]
    right = (says == asked).float()
    print(f"{path}: {len(samples)} images, accuracy {right.mean():.4f} "
          f"(worst class {min(right[asked == c].mean() for c in range(10)):.3f}), "
          f"FD {fd:.2f} / floor {floor:.2f} = {fd / floor:.2f}, "
          f"diversity {np.mean(div):.3f} (worst {min(div):.3f}, class {int(np.argmin(div))}), "
          f"spread {np.mean(pix):.3f} ({min(pix):.3f} to {max(pix):.3f})")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    net = judge(sys.argv[1])
    x, y = load(sys.argv[1], "train")
    for path in sys.argv[2:]:
        report(net, x, y, path)


main()
