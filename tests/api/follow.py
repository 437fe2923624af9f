#!/usr/bin/env python3
"""`driftctl train --follow` in a terminal, and what its exit status tells, against the real daemon.

A small terminal interpreter (carriage return, erase to the end of the line, wrapping) shows what a
person would see. Arguments: driftd, driftctl.
"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

from live import certificate, daemon, die_with_parent, run

DRIFTCTL = os.path.abspath(sys.argv[2])
BAR = re.compile(r"^\[(=*>? *)\] +(\d+)%  step +(\d+)/(\d+)  loss (\S+) +drift (\S+) +(\S+)/s  ETA (\S+) *$")


def to(d):
    return os.environ | {"DRIFTD_URL": f"http://127.0.0.1:{d.port}"}


def own_terminal():
    """In the child: its standard input becomes its controlling terminal, so that Ctrl-C is a signal."""
    die_with_parent()
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command in a pseudo terminal of `width` columns; `screen` holds its lines."""

    def __init__(self, daemon, *command, width=100):
        self.width, self.screen, self.column, self.text = width, [""], 0, b""
        self.shown = []  # every state of the last line that a person could have seen
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        self.fd = master
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave,
                                        preexec_fn=own_terminal, env=to(daemon))
        os.close(slave)

    def feed(self, data):
        self.text += data
        while self.text:
            m = re.match(rb"\x1b\[K|\r|\n|[^\x1b\r\n]+", self.text)
            if not m:
                assert len(self.text) < 3, f"a sequence that no one asked for: {self.text[:20]!r}"
                return
            piece, self.text = m[0], self.text[m.end():]
            if piece == b"\r":
                self.column = 0
            elif piece == b"\n":
                self.screen.append("")
            elif piece == b"\x1b[K":
                self.screen[-1] = self.screen[-1][:self.column]
            else:
                for c in piece.decode():
                    if self.column == self.width:  # a line that is too long would leave a trail
                        self.screen.append("")
                        self.column = 0
                    line = self.screen[-1].ljust(self.column)
                    self.screen[-1] = line[:self.column] + c + line[self.column + 1:]
                    self.column += 1
                self.shown.append(self.screen[-1])

    def look(self, until, seconds=90):
        """Reads until the condition holds for this terminal or the command has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if until(self):
                return
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.feed(os.read(self.fd, 65536))
                except OSError:  # the command closed its end
                    assert until(self) or self.process.wait(60) is not None
                    return
        raise AssertionError("not seen in time:\n" + "\n".join(self.screen))

    def end(self):
        self.look(lambda t: False)
        os.close(self.fd)
        return self.process.wait(60)

    def bars(self):
        return [m for m in map(BAR.match, self.shown) if m]


def paced(d, name, steps, **changes):
    """A recipe whose steps take some milliseconds, so that there is something to look at."""
    d.recipe(name, {"model": {"dim": 32, "depth": 2, "heads": 2, "patch": 4},
                    "train": {"steps": steps, "classes": 4, "generated": 8, "positives": 8},
                    "metrics": {"spread_every": 0}, **changes})


def steps_in(d, seconds):
    """How many of those steps this machine does in so long; at least 100. Leaves job 1 behind."""
    paced(d, "measured", 300)
    d.wait(d.job("measured"), "completed")
    rows = d.get("/v1/jobs/1/metrics?names=step_seconds&max_points=0").json()["series"][0]["rows"]
    step = sorted(row[-1] for row in rows)[len(rows) // 10]  # the machine may have been busy for the most
    return max(100, int(seconds / step) // 100 * 100)


def test_bar_and_completion():
    with daemon() as d:
        total = steps_in(d, 3)
        paced(d, "paced", total)
        t = Terminal(d, DRIFTCTL, "train", "paced", "--follow")
        assert t.end() == 0, t.screen
        lines = [line for line in t.screen if line]
        assert lines[0] == "job 2 (paced)" and lines[-1] == "completed", lines
        last = BAR.match(lines[-2])
        assert last and last[2] == "100" and int(last[3]) == int(last[4]) == total, lines
        assert lines[1:-2] in ([], ["running"], ["queued", "running"]), \
            "the bar is drawn over itself: " + "\n".join(lines)
        bars = t.bars()
        assert len(bars) >= 5, t.shown
        steps = [int(b[3]) for b in bars]
        assert steps == sorted(steps)
        for b in bars:
            assert abs(int(b[2]) - 100 * int(b[3]) / total) <= 1, b[0]
            assert abs(b[1].count("=") / len(b[1]) - int(b[3]) / total) < 0.1, b[0]
        assert len({len(b[1]) for b in bars}) <= 2, "the bar keeps its width"
        seen = [b for b in bars if b[5] != "-" and b[6] != "-" and b[8] != "-"]
        assert seen and all(float(b[5]) > 0 and float(b[6]) > 0 and re.fullmatch(r"\d+:\d\d", b[8])
                            for b in seen), [b[0] for b in bars]
        assert all(len(line) <= 99 for line in t.shown)


def test_narrow():
    with daemon() as d:
        paced(d, "paced", 150)
        t = Terminal(d, DRIFTCTL, "train", "paced", "-f", width=50)
        assert t.end() == 0
        lines = [line for line in t.screen if line]
        assert len(lines) <= 5 and all(len(line) < 50 for line in lines), lines
        assert any("step 150/150" in line for line in t.shown), t.shown[-3:]


def test_restart():
    """The daemon ends and starts again in the middle, once politely and once by SIGKILL."""
    with daemon() as d:
        total = steps_in(d, 12)
        paced(d, "paced", total, checkpoint={"every": 40, "every_seconds": 0, "keep_last": 2})
        t = Terminal(d, DRIFTCTL, "train", "paced", "--follow")
        for sig, part in ((signal.SIGTERM, 10), (signal.SIGKILL, 4)):
            t.look(lambda t: t.bars() and int(t.bars()[-1][3]) > total // part)
            assert d.end(sig) in (0, -9)
            t.look(lambda t: "connection lost; trying again" in t.screen[-3:])
            d.start()
            t.look(lambda t: "connected again" in t.screen[-4:])
            t.screen.append("")
        assert t.end() == 0, t.screen
        assert t.screen[-2] == "completed" and int(BAR.match(t.screen[-3])[3]) == total, t.screen
        assert d.get("/v1/jobs/2").json()["attempts"] == 3


def test_fates():
    with daemon() as d:
        paced(d, "endless", 10**9)
        d.recipe("broken", {"data": {"set": "mnist", "size": 8, "fit": "resize", "path": "nowhere"}})
        t = Terminal(d, DRIFTCTL, "train", "broken", "--follow")
        assert t.end() == 1, t.screen
        assert any(line.startswith("failed: ") and "nowhere" in line for line in t.screen), t.screen
        t = Terminal(d, DRIFTCTL, "train", "endless", "--follow")
        t.look(lambda t: t.bars())
        d.ask("POST", "/v1/jobs/2/stop")
        assert t.end() == 4 and t.screen[-2] == "stopped", t.screen
        t = Terminal(d, DRIFTCTL, "resume", "2", "--follow")
        t.look(lambda t: len(t.bars()) > 3)
        os.write(t.fd, b"\x03")  # Ctrl-C detaches, the job goes on
        assert t.end() == 130 and "driftctl follow 2" in t.screen[-2], t.screen
        assert d.state("2") == "running"
        # Cut off, and not taken up again by a daemon that asks first.
        t = Terminal(d, DRIFTCTL, "follow", "2")
        t.look(lambda t: t.bars())
        d.end()
        d.start("--resume=ask")
        assert t.end() == 5 and "driftctl resume 2" in t.screen[-2], t.screen
        for job, why in (("99", "there is no"), ("a b", "there is no"), ("1/2", "canonical")):
            t = Terminal(d, DRIFTCTL, "follow", job)
            assert t.end() == 1 and why in t.screen[0], t.screen
        d.end()
        t = Terminal(d, DRIFTCTL, "train", "endless", "--follow")
        assert t.end() == 3, t.screen


def test_paused():
    """A job that is paused ends the command, with a status of its own: nothing will go on by itself."""
    with daemon() as d:
        job = d.job("long")
        d.wait(job, "running")
        p = subprocess.Popen([DRIFTCTL, "follow", job], stdout=subprocess.PIPE, text=True, env=to(d),
                             preexec_fn=die_with_parent)
        time.sleep(0.5)
        d.ask("POST", f"/v1/jobs/{job}/pause")
        out, _ = p.communicate(timeout=30)
        assert p.returncode == 6 and out.endswith("paused\n"), (p.returncode, out)
        assert plain(d, "follow", job).returncode == 6
        r = plain(d, "train", "tiny")
        assert r.returncode == 0 and not r.stderr, r
        d.end()


def test_broken_recipes():
    with daemon() as d:
        d.recipe("bent", {"optim": {"rl": 1}})
        r = plain(d, "configs")
        assert re.search(r"^bent +\(broken.*\n(.*\n)*bent: .*rl", r.stdout, re.M), r.stdout
        assert "train.steps\n" in plain(d, "configs", "--keys").stdout
        d.end()


def plain(d, *words):
    return subprocess.run([DRIFTCTL, *words], capture_output=True, text=True, timeout=120, preexec_fn=die_with_parent,
                          env=to(d), cwd=d.dir)


def test_pipes():
    """Without a terminal: plain lines, no escapes; with --json only the job, at its end."""
    with daemon() as d:
        paced(d, "paced", 200)
        r = plain(d, "train", "paced", "--follow")
        assert r.returncode == 0 and "\x1b" not in r.stdout and "\r" not in r.stdout, r
        assert r.stdout.startswith("job 1 (paced)\n") and r.stdout.endswith("completed\n"), r.stdout
        assert re.search(r"^completed  100%  step 200/200  loss \S+ +drift \S+", r.stdout, re.M), r.stdout
        r = plain(d, "train", "paced", "--follow", "--json")
        assert r.returncode == 0 and json.loads(r.stdout)["state"] == "completed", r.stdout


def test_tls():
    with daemon() as d:
        certificate(d.dir, "own")
        d.end()
        d.start(f"--tls-cert={d.dir}/cert.pem", f"--tls-key={d.dir}/key.pem")
        url = ["--url", f"https://127.0.0.1:{d.port}"]
        r = plain(d, "status", *url)
        assert r.returncode == 3 and "certificate" in r.stderr, r
        assert plain(d, "status", *url, "--ca-file", "cert.pem").returncode == 0
        assert plain(d, "train", "tiny", "--follow", *url, "--ca-file", "cert.pem").stdout.endswith("completed\n")


def test_json_everywhere():
    with daemon() as d:
        job = json.loads(plain(d, "train", "tiny", "--json").stdout)["id"]
        assert plain(d, "follow", job).returncode == 0
        ckpt = json.loads(plain(d, "checkpoints", "--json").stdout)["checkpoints"][0]["id"]
        for words in [("jobs",), ("jobs", "--all", "--limit", "1"), ("job", job), ("follow", job), ("status",),
                      ("configs",), ("configs", "tiny"), ("checkpoints",), ("activate", ckpt), ("activate", "live"),
                      ("serve",), ("serve", ckpt), ("serve", "auto"),
                      ("edit", job, "--notes", "seen"), ("job", job, "--alerts"), ("metrics", job),
                      ("checkpoints", "show", ckpt), ("checkpoints", "edit", ckpt, "--tag", "good"), ("grids",), ("export", ckpt, "-o", "x.safetensors"),
                      ("import", "x.safetensors", "--name", "again"), ("sample", "-o", "x.png"),
                      ("sweep", "--rows", "2", "-o", "y.png"), ("db", "backup", "-o", "x.sqlite3"),
                      ("resume", str(json.loads(plain(d, "train", "long", "--json").stdout)["id"])),
                      ("checkpoint", "2"), ("pause", "2"), ("resume", "2"), ("stop", "2"), ("remove", job)]:
            if words[0] == "resume":
                d.ask("POST", "/v1/jobs/2/pause")
                d.wait("2", "paused")
            if words[0] in ("checkpoint", "pause"):
                d.wait("2", "running")
            r = plain(d, *words, "--json")
            assert r.returncode == 0 and not r.stderr, (words, r)
            json.loads(r.stdout)
        for words, status in [(("job", "77"), 404), (("eval", "--job", "77"), 422), (("sample", "--class", "99"), 422)]:
            r = plain(d, *words, "--json")
            assert r.returncode == 1 and not r.stdout and json.loads(r.stderr)["status"] == status, (words, r)
        whole = (d.dir / "x.safetensors").read_bytes()
        (d.dir / "z.safetensors.part").write_bytes(b"x" * 1000)  # left behind by another download
        kept = json.loads(plain(d, "import", "x.safetensors", "--json").stdout)["id"]
        r = plain(d, "export", kept, "-o", "z.safetensors")
        assert r.returncode == 0 and (d.dir / "z.safetensors").read_bytes() == whole, r


def terminals():
    """Whether there are pseudo terminals: a bare chroot may have no /dev/pts."""
    try:
        for fd in pty.openpty():
            os.close(fd)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    run([test_pipes, test_tls, test_json_everywhere, test_paused, test_broken_recipes])
    if not terminals():
        print("skipped: no pseudo terminals here (is /dev/pts mounted?), so no bar to look at")
        sys.exit(77)
    run([test_bar_and_completion, test_narrow, test_restart, test_fates])
