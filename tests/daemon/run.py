#!/usr/bin/env python3
"""`driftd run` from outside: signals, output that cannot be written, --set. Arguments: driftd, the folder
of recipes."""
import ctypes
import json
import os
import pathlib
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib

DRIFTD, RECIPES = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
RECIPE = {"name": "small", "data": {"set": "digits", "count": 100, "size": 8, "fit": "resize"},
          "model": {"dim": 8, "depth": 1, "heads": 1, "patch": 4, "registers": 0, "style_tokens": 0},
          "train": {"steps": 10**9, "classes": 2, "generated": 4, "positives": 4},
          "checkpoint": {"every": 0, "every_seconds": 0, "keep_last": 100}, "metrics": {"spread_every": 0}}
ENCODER = {"name": "small", "kind": "encoder", "data": {"set": "digits", "count": 100, "size": 8},
           "encoder": {"objective": "autoencode", "width": 4, "blocks": [1, 1], "groups": 2, "batch": 16},
           "train": {"steps": 12}, "metrics": {"test_every": 5}, "checkpoint": {"every": 0, "every_seconds": 0}}


class Run:
    def __init__(self, *flags, before=None, stdout=subprocess.PIPE, recipe=RECIPE):
        self.scratch = tempfile.TemporaryDirectory(prefix="driftd-run-")
        self.dir = pathlib.Path(self.scratch.name)
        (self.dir / "r.json").write_text(json.dumps(recipe))

        def child():
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a suite under nohup ignores it
            if before:
                before()

        self.process = subprocess.Popen([DRIFTD, "run", "r.json", "--out", "out", "--device", "cpu", "--threads", "1", *flags],
                                        stdout=stdout, stderr=subprocess.PIPE, cwd=self.dir, preexec_fn=child)
        self.text = b""

    def wait_for(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while not (m := re.search(pattern, self.text.decode())):
            assert time.monotonic() < end and self.process.poll() is None, (pattern, self.text, self.process.poll())
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                self.text += os.read(self.process.stdout.fileno(), 65536)
        return m

    def kill(self, sig):
        self.process.send_signal(sig)

    def end(self):
        out, err = self.process.communicate(timeout=60)
        self.text += out or b""
        return self.process.returncode, self.text.decode(), err.decode()

    def checkpoints(self):
        return sorted(self.dir.glob("out/*.safetensors"))


def test_stop():
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR2):
        r = Run()
        r.wait_for(r"step 1/")
        r.kill(sig)
        status, out, err = r.end()
        m = re.search(r"^stopped at step (\d+) .*checkpoint (\S+)$", out, re.M)
        assert status == 3 and m and (r.dir / m[2]).is_file(), (sig, status, out, err)


def test_warned_twice():
    """What a batch system sends before its kill does not count as the second signal, which saves nothing."""
    r = Run()
    r.wait_for(r"step 1/")
    for sig in (signal.SIGSTOP, signal.SIGXCPU, signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT):
        r.kill(sig)
    status, out, err = r.end()
    assert status == 3 and len(r.checkpoints()) == 1, (status, out, err)


def test_checkpoint_and_go_on():
    r = Run()
    steps = []
    r.wait_for(r"step 1/")
    for n in (1, 2):
        r.kill(signal.SIGUSR1)
        m = r.wait_for(r"(?s)(?:checkpoint step (\d+) .*){%d}" % n)
        steps.append(int(m[1]))
    r.text = b""
    r.wait_for(r"step (\d+)/")
    assert len(r.checkpoints()) == 2 and steps[1] > steps[0], (steps, r.checkpoints())
    r.kill(signal.SIGTERM)
    assert r.end()[0] == 3 and len(r.checkpoints()) == 3


def test_folder_in_use():
    """A second run in the same folder is refused and touches nothing there."""
    r = Run()
    r.wait_for(r"step 1/")
    r.kill(signal.SIGUSR1)
    r.wait_for(r"checkpoint step")
    before = r.checkpoints()
    second = subprocess.run([DRIFTD, "run", "r.json", "--out", "out", "--device", "cpu", "--threads", "1"], cwd=r.dir,
                            capture_output=True, text=True, timeout=60)
    assert second.returncode == 1 and second.stderr == "driftd run: out is in use by another driftd run\n", second
    assert r.checkpoints() == before and not list(r.dir.glob("out/earlier-*")), r.checkpoints()
    r.kill(signal.SIGTERM)
    assert r.end()[0] == 3
    # and one that has ended leaves the folder to the next
    third = subprocess.run([DRIFTD, "run", "r.json", "--out", "out", "--device", "cpu", "--threads", "1", "--set",
                            "train.steps=2"], cwd=r.dir, capture_output=True, text=True, timeout=60)
    assert third.returncode == 0 and list(r.dir.glob("out/earlier-*")), third


def test_same_file_twice():
    """Two runs of one configuration write the same bytes: no time, no name of the day is in them."""
    files = []
    for _ in range(2):
        r = Run("--set", "train.steps=6")
        status, out, err = r.end()
        assert status == 0, (out, err)
        files.append(r.checkpoints()[-1].read_bytes())
    assert files[0] == files[1] and b"driftd.seconds" not in files[0]
    r = Run("--set", "train.steps=6", "--set", "train.minutes=5")
    assert r.end()[0] == 0 and b"driftd.seconds" in r.checkpoints()[-1].read_bytes(), "here the time is part of the run"


def test_nobody_reads():
    r = Run()
    r.wait_for(r"step 1/")
    r.kill(signal.SIGPIPE)
    r.process.stdout.close()
    line = r.process.stderr.readline().decode()
    while line and "standard output" not in line:
        line = r.process.stderr.readline().decode()
    assert "Broken pipe; training goes on" in line, line
    assert r.process.poll() is None
    r.kill(signal.SIGTERM)
    err = r.process.stderr.read().decode()
    assert r.process.wait(60) == 3 and r.checkpoints() and "standard output" not in err, err


def test_file_size_limit():
    r = Run(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    r.wait_for(r"step 1/")
    r.kill(signal.SIGXFSZ)
    r.kill(signal.SIGUSR1)
    line = r.process.stderr.readline().decode()
    while line and "checkpoint.failed" not in line:
        line = r.process.stderr.readline().decode()
    assert "File too large" in line, line
    r.text = b""
    r.wait_for(r"step \d+/")
    r.kill(signal.SIGTERM)
    status, out, err = r.end()
    assert status == 1 and "its checkpoint could not be written" in err and not r.checkpoints(), (status, out, err)


def test_nohup():
    r = Run(before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    r.wait_for(r"step 1/")
    r.kill(signal.SIGHUP)
    r.text = b""
    r.wait_for(r"step \d+/")
    r.kill(signal.SIGTERM)
    assert r.end()[0] == 3


def test_set_together():
    """Keys that only fit together are accepted in any order; what does not fit is refused."""
    pair = ["model.dim=100", "model.heads=5"]
    for a, b in (pair, pair[::-1]):
        r = subprocess.run([DRIFTD, "check-config", f"{RECIPES}/digits.json", a, b], capture_output=True, text=True)
        assert r.returncode == 0 and json.loads(r.stdout)["model"]["heads"] == 5, r
        s = subprocess.run([DRIFTD, "check-config", f"{RECIPES}/digits.json", "--set", a, f"--set={b}"], capture_output=True, text=True)
        assert s.returncode == 0 and s.stdout == r.stdout, s
        r = Run("--set", a, "--set", b, "--set", "model.patch=4", "--set", "train.steps=1")
        assert r.end()[0] == 0, (a, r.text)
    r = Run("--set", "model.dim=100", "--set", "model.heads=3")
    status, _, err = r.end()
    assert status == 2 and "heads" in err, (status, err)
    r = subprocess.run([DRIFTD, "check-config", f"{RECIPES}/digits.json", "--set"], capture_output=True, text=True)
    assert r.returncode == 1 and "expected KEY=VALUE" in r.stderr, r


def test_every_problem():
    """One line for each thing that is wrong, in the file and in the changes."""
    bad = {**RECIPE, "optim": {"lr": "fast"}, "trian": {}, "train": {**RECIPE["train"], "alpha_min": 4, "alpha_max": 2}}
    r = Run("--set", "ema.ramp=7", recipe=bad)
    status, _, err = r.end()
    lines = err.splitlines()
    assert status == 2 and len(lines) == 4 and all(x.startswith("driftd run: ") for x in lines), err
    for line, word in zip(lines, ("optim.lr is", "`trian`", "train.alpha_min is", "ema.ramp is")):
        assert word in line, (word, err)
    c = subprocess.run([DRIFTD, "check-config", r.dir / "r.json", "ema.ramp=7"], capture_output=True, text=True)
    assert c.returncode == 1 and c.stderr.count("\n") == 4 and c.stderr.count("r.json: ") == 3, c


def test_encoder():
    """Encoders train by their recipe alone, and one starts from another's file."""
    first = Run(recipe=ENCODER)
    status, out, err = first.end()
    # what is measured at the end has a line of its own
    assert status == 0 and re.search(r"^step 12/12 loss \S+ grad", out, re.M) and "drift" not in out, (out, err)
    assert re.search(r"^checkpoint step 12 .*\nstep 12/12 probe \S+ time", out, re.M), (out, err)
    file = next(first.dir.glob("out/*.safetensors"))
    r = Run("--set", "encoder.objective=both", "--set", f"init_from={file.name}", "--data-dir", str(file.parent),
            recipe=ENCODER)
    status, out, err = r.end()
    assert status == 0 and re.search(r"^step 12/12 .* accuracy \S+ grad", out, re.M), (out, err)
    assert re.search(r"^step 12/12 test \S+", out, re.M), (out, err)
    assert "fc.weight" in err, err  # what the file does not have is named
    for flags, word in ((["--grid", "x.png"], "makes no samples"), (["--set", "init_from=7"], "init_from"),
                        (["--set", "model.dim=64"], "model.dim"), (["--set", "kind=train"], "encoder.")):
        status, out, err = Run(*flags, recipe=ENCODER).end()
        assert status in (1, 2) and word in err, (flags, status, err)


def header(file):
    """The header of a safetensors file, and where its data begin."""
    data = file.read_bytes()
    n, = struct.unpack_from("<Q", data)
    return json.loads(data[8:8 + n]), 8 + n


def again(r, *flags):
    """The same command in the folder of a run that has ended."""
    return subprocess.run([DRIFTD, "run", "r.json", "--out", "out", "--device", "cpu", "--threads", "1", *flags], cwd=r.dir,
                          capture_output=True, text=True, timeout=60)


def test_damaged():
    """A checkpoint whose bytes have changed since is refused, and the one before it is used."""
    flags = ("--set", "train.steps=4", "--set", "checkpoint.every=2", "--set", "checkpoint.keep_last=2")
    r = Run(*flags)
    assert r.end()[0] == 0, r.text
    last, want = r.checkpoints()[-1], r.checkpoints()[-1].read_bytes()
    sums = sorted(r.dir.glob("out/*.sha256"))
    assert len(sums) == 2, sums
    for file in sums:
        assert subprocess.run(["sha256sum", "-c", file.name], cwd=file.parent, capture_output=True).returncode == 0
    tensors, start = header(last)
    at = start + next(v["data_offsets"][0] for k, v in tensors.items() if k.startswith("opt.m/"))
    for damage in (want[:at] + bytes([want[at] ^ 1]) + want[at + 1:], r.checkpoints()[0].read_bytes()):
        last.write_bytes(damage)
        done = again(r, *flags, "--resume")
        assert done.returncode == 0 and "checkpoint.refused" in done.stderr and "resumed at step 2\n" in done.stdout, done
        assert last.read_bytes() == want
        for file in r.dir.glob("out/*.sha256"):
            file.unlink()  # as those of an earlier driftd: what is wrong with the next one its step says
    assert again(r, *flags).returncode == 0
    assert again(r, *flags, "--set", "train.steps=8", "--resume").returncode == 0
    assert len(list(r.dir.glob("out/*.sha256"))) == len(r.checkpoints()) == 2, "rotation takes them along"
    assert again(r, *flags).returncode == 0
    assert len(list(r.dir.glob("out/earlier-*/step-00000008.*"))) == 2, "and so does a run that starts anew"


def test_encoder_recipe():
    """The encoder of OUT/encoder is one of its recipe as it is now."""
    def put(lr):
        (r.dir / "enc.json").write_text(json.dumps({**ENCODER, "name": "enc", "optim": {"lr": lr}}))

    def lr():
        return json.loads(header(r.dir / "out/encoder/step-00000012.safetensors")[0]["__metadata__"]["driftd.config"])["optim"]["lr"]

    flags = ("--config-dir=.", "--set", "train.steps=2", "--set", "features.kind=encoder", "--set", "features.encoder=enc")
    r = Run("--set", "train.steps=1")
    assert r.end()[0] == 0, r.text
    put(1e-3)
    done = again(r, *flags)
    assert done.returncode == 0 and lr() == 1e-3, done
    assert "resumed at step 12\n" in again(r, *flags).stdout
    put(2e-3)
    done = again(r, *flags, "--resume")
    assert done.returncode == 1 and "features.encoder" in done.stderr and "another optim.lr" in done.stderr, done
    done = again(r, *flags)
    assert done.returncode == 0 and lr() == 2e-3 and list(r.dir.glob("out/encoder/earlier-*")), done


def test_start_is_gone():
    """The file of init_from is needed until there is a checkpoint of the run's own."""
    r = Run("--set", "train.steps=2")
    assert r.end()[0] == 0, r.text
    r.checkpoints()[-1].rename(r.dir / "start.safetensors")

    def go(*flags):
        return subprocess.run([DRIFTD, "run", "r.json", "--out", "two", "--device", "cpu", "--threads", "1", "--set", "train.steps=4",
                               "--set", "checkpoint.every=2", "--set", "init_from=start.safetensors", *flags],
                              cwd=r.dir, capture_output=True, text=True)

    done = go()
    assert done.returncode == 0, done
    (r.dir / "start.safetensors").unlink()
    last = r.dir / "two/step-00000004.safetensors"
    want = last.read_bytes()
    last.unlink()
    done = go("--resume")
    assert done.returncode == 0 and last.read_bytes() == want, done
    for file in (r.dir / "two").glob("*.safetensors"):
        file.unlink()
    for flags in ([], ["--resume"]):
        done = go(*flags)
        assert done.returncode == 1 and 'init_from is "start.safetensors", which is no file' in done.stderr, done


def png_rows(data):
    """Width, height, channels and the bytes of a PNG of 8 bits that is grey or rgb."""
    at, idat = 8, b""
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + n]
        if kind == b"IHDR":
            width, height, bits, colour = struct.unpack(">IIBB", body[:10])
        if kind == b"IDAT":
            idat += body
        at += 12 + n
    c = {0: 1, 2: 3}[colour]
    assert bits == 8
    raw, rows, above = zlib.decompress(idat), [], bytes(width * c)
    for y in range(height):
        line = raw[y * (width * c + 1):(y + 1) * (width * c + 1)]
        kind, row = line[0], bytearray(line[1:])
        assert kind in (0, 2), kind  # a grid that is enlarged has no other
        if kind == 2:
            row = bytearray((a + b) & 255 for a, b in zip(row, above))
        rows.append(row)
        above = row
    return width, height, c, rows


def test_colour():
    """A procedurally generated set of rgb images gives sample grids in colour, the same in two runs."""
    colour = ("data.set=shapes", "data.classes=8", "data.channels=3", "data.size=16", "data.flip=true", "data.crop=2",
              "train.classes=8", "train.steps=12", "samples.per_class=2", "metrics.spread_every=4",
              "features.rms=1")
    grids = []
    for _ in range(2):
        r = Run("--grid", "grid.png", *(word for key in colour for word in ("--set", key)))
        status, text, err = r.end()
        assert status == 0, (status, text, err)
        grids.append((r.dir / "grid.png").read_bytes())
    assert grids[0] == grids[1]
    width, height, c, rows = png_rows(grids[0])
    assert (width, height, c) == (2 * (2 * 16) + 2, 8 * (2 * 16 + 2) - 2, 3), (width, height, c)
    assert any(row[i] != row[i + 1] for row in rows for i in range(0, width * 3, 3)), "no colour"
    r = Run("--set", "data.set=shapes", "--set", "data.classes=8")
    status, _, err = r.end()
    assert status == 2 and "data.channels is 1; the set shapes has 3" in err, (status, err)


def test_grid_outputs():
    """A pipe gets the grid, a link leads to it, `-` is standard output: none of them is replaced by a file."""
    def png(data):
        return data.startswith(b"\x89PNG") and data.endswith(b"IEND\xaeB`\x82")

    flags = ("--set", "train.steps=2", "--grid")
    r = Run(*flags, "-")
    out, err = r.process.communicate(timeout=60)
    assert r.process.returncode == 0 and png(out) and b"\ncompleted at step 2 " in err, (out[:200], err)
    assert not (r.dir / "-").exists()
    (r.dir / "link").symlink_to("target")
    for _ in range(2):  # a file that is still to come, then one that is there
        done = again(r, *flags, "link")
        assert done.returncode == 0 and "\ngrid link " in done.stdout, done
        assert (r.dir / "link").is_symlink() and png((r.dir / "target").read_bytes())
    os.mkfifo(r.dir / "pipe")
    reader = os.open(r.dir / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # a grid of this size fits into the pipe
    done = again(r, *flags, "pipe")
    assert done.returncode == 0 and (r.dir / "pipe").is_fifo(), done
    assert png(os.read(reader, 1 << 16))
    os.close(reader)


def test_closed_descriptors():
    """What is printed does not get into the files that are opened in the place of closed descriptors."""
    for closed in ((1,), (2,), (0, 1, 2)):
        r = Run("--set", "train.steps=2", before=lambda closed=closed: [os.close(fd) for fd in closed])
        status, out, err = r.end()
        assert status == 0 and (r.dir / "out/lock").read_bytes() == b"", (closed, status, out, err)
        assert 1 not in closed or 2 in closed or "training goes on without progress" in err, err


def test_hostile_names():
    """What is in a file cannot act on the terminal, nor look like a line of inspect's own."""
    r = Run("--set", "train.steps=1")
    assert r.end()[0] == 0
    file = r.dir / "esc.safetensors"
    head = json.dumps({"__metadata__": {"a\x1b]0;t\x07": "v\x1b[31m\x9bx\nsha256 0", "b": "\u00fc"},
                       "t\x1b[2Jx": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    head += b" " * (-len(head) % 8)
    file.write_bytes(struct.pack("<Q", len(head)) + head + bytes(4))
    done = subprocess.run([DRIFTD, "inspect", file], capture_output=True)
    text = done.stdout.decode()
    assert done.returncode == 0 and text.replace("\u00fc", "").isascii(), done
    assert all(c == "\n" or c >= " " for c in text) and text.count("\n") == 7, text
    assert "\na?]0;t? v?[31m??x\\nsha256 0\n" in text and "\nb \u00fc\n" in text, text


def test_full_output():
    """What was printed and could not be written is a failure."""
    with open("/dev/full", "w") as full:
        for verb in (["--version"], ["--help"], ["check-config", f"{RECIPES}/mnist.json"]):
            r = subprocess.run([DRIFTD, *verb], stdout=full, stderr=subprocess.PIPE, text=True)
            assert r.returncode == 1 and "standard output: No space left" in r.stderr, (verb, r)


for test in (test_stop, test_checkpoint_and_go_on, test_folder_in_use, test_same_file_twice, test_nobody_reads, test_file_size_limit, test_nohup, test_set_together,
             test_every_problem, test_colour, test_encoder, test_encoder_recipe, test_damaged, test_start_is_gone,
             test_full_output, test_warned_twice, test_grid_outputs, test_closed_descriptors, test_hostile_names):
    start = time.monotonic()
    print(f"{test.__name__} ...", end=" ", flush=True)
    test()
    print(f"ok ({time.monotonic() - start:.1f} s)", flush=True)
