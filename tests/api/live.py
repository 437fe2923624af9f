"""A real driftd (the test's first argument) for the tests in Python: started in a scratch folder, asked
over HTTP, ended; and readers of what it answers.

Only the standard library. A failed check raises AssertionError with what came back; every process
started here dies with the test.
"""
import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib

import schema

TINY = {
    "name": "tiny",
    "data": {"set": "digits", "count": 200, "size": 8, "fit": "resize"},
    "model": {"dim": 16, "depth": 1, "heads": 2, "patch": 4, "registers": 1, "style_tokens": 2,
              "label_dropout": 0.1, "null_class": True},
    "train": {"steps": 60, "classes": 2, "generated": 4, "positives": 4},
    "optim": {"warmup": 10, "lr": 0.002},
    "checkpoint": {"every": 20, "every_seconds": 0, "keep_last": 2},
    "samples": {"every": 20},
    "metrics": {"spread_every": 25},
}


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def header(self, name):
        return self.headers.get(name)

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {dict(self.headers)} {self.body[:400]!r}"


class Daemon:
    """driftd in `self.dir`; restartable with the same state and port."""

    def __init__(self, *flags):
        self.driftd, self.flags = os.path.abspath(sys.argv[1]), list(flags)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="driftd-api-"))
        self.port, self.process, self.tls = 0, None, None
        self.document = None  # its /openapi.json
        (self.dir / "recipes").mkdir()
        self.recipe("tiny", {})
        self.recipe("long", {"train": {"steps": 10**9, "classes": 2, "generated": 4, "positives": 4},
                             "checkpoint": {"every": 0, "every_seconds": 1}})

    def recipe(self, name, changes):
        config = TINY | {"name": name} | changes
        (self.dir / "recipes" / f"{name}.json").write_text(json.dumps(config))

    def start(self, *more):
        command = [self.driftd, "serve", f"--listen=127.0.0.1:{self.port}",
                   f"--state-dir={self.dir}/state", f"--config-dir={self.dir}/recipes",
                   "--threads=1", "--generate-threads=1", *self.flags, *more]
        self.log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        preexec_fn=die_with_parent)
        line = self.process.stdout.readline()
        ready = re.match(r"driftd ready: https?://[^ ]*:(\d+)", line)
        assert ready, f"not ready: {line!r} {self.said()}"
        self.port = int(ready[1])
        return self

    def listeners(self):
        """(address, port) of every TCP socket over IPv4 that it listens on."""
        fds = pathlib.Path(f"/proc/{self.process.pid}/fd")
        own = set()
        for fd in fds.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                own.add(os.readlink(fd))
        rows = [line.split() for line in open("/proc/net/tcp")][1:]
        where = [r[1].split(":") for r in rows if r[3] == "0A" and f"socket:[{r[9]}]" in own]
        return [(".".join(str(x) for x in bytes.fromhex(a)[::-1]), int(p, 16)) for a, p in where]

    def said(self):
        return (self.dir / "log").read_text(errors="replace")

    def end(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        status = self.process.wait(60)
        self.process.stdout.close()
        self.log.close()
        return status

    def close(self):
        if self.process and self.process.poll() is None:
            self.end(signal.SIGKILL)
        shutil.rmtree(self.dir)

    def connect(self, timeout=60):
        if self.tls:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout,
                                               context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, **headers):
        """body: dict (sent as JSON), bytes, or None. Header names with _ for -."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            fields.setdefault("Content-Type", "application/json")
        with contextlib.closing(self.connect()) as c:
            c.request(method, path, body, fields)
            r = c.getresponse()
            reply = Reply(r.status, r.headers, r.read())
        self.compare(method, path, reply)
        return reply

    def compare(self, method, path, reply):
        """Whatever JSON is answered is as /openapi.json says."""
        kind = reply.header("Content-Type") or ""
        if method == "HEAD" or not kind.startswith(("application/json", "application/problem+json")):
            return
        if self.document is None:
            with contextlib.closing(self.connect()) as c:
                c.request("GET", "/openapi.json")
                self.document = json.loads(c.getresponse().read())
        schema.check(self.document, method, path, reply.status, kind, reply.json())

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def job(self, config, name=None, **more):
        r = self.ask("POST", "/v1/jobs", {"config": config, **({"name": name} if name else {}), **more})
        assert r.status == 201, r
        return r.json()["id"]

    def state(self, job):
        return self.get(f"/v1/jobs/{job}").json()["state"]

    def wait(self, job, *states, seconds=90):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.state(job) in states:
                return
            time.sleep(0.02)
        raise AssertionError(f"job {job} is {self.state(job)}, not {states}")


class Stream:
    """A server-sent event stream, read by hand: next() returns (id, event, data)."""

    def __init__(self, daemon, path="/v1/events", last=None):
        self.c = daemon.connect()
        self.c.request("GET", path, headers={"Last-Event-ID": last} if last else {})
        self.r = self.c.getresponse()
        assert self.r.status == 200, self.r.read()
        assert self.r.getheader("Content-Type") == "text/event-stream"
        self.retry = None

    def next(self):
        at = event = None
        while True:
            line = self.r.readline().decode().rstrip("\n")
            if line.startswith("id: "):
                at = line[4:]
            elif line.startswith("event: "):
                event = line[7:]
            elif line.startswith("retry: "):
                self.retry = int(line[7:])
            elif line.startswith("data: "):
                return at, event, json.loads(line[6:])

    def until(self, event, limit=2000):
        """Everything up to and with the next such event."""
        got = []
        for _ in range(limit):
            got.append(self.next())
            if got[-1][1] == event:
                return got
        raise AssertionError(f"no {event} among {limit} events")

    def close(self):
        self.r.close()
        self.c.close()


@contextlib.contextmanager
def daemon(*flags):
    d = Daemon(*flags)
    try:
        yield d.start()
        assert d.process.poll() is not None or d.end() == 0, d.said()[-2000:]
    finally:
        d.close()


@contextlib.contextmanager
def trained(*flags):
    """A daemon whose job 1 has completed: three checkpoints' worth of steps, two of them kept."""
    with daemon(*flags) as d:
        assert d.job("tiny") == "1"
        d.wait("1", "completed")
        yield d


def problem(r, status, slug=None, field=None, word=None):
    """Checks that r is such a problem and returns it."""
    assert r.status == status, r
    assert r.header("Content-Type") == "application/problem+json", r
    assert r.header("X-Request-Id"), r
    p = r.json()
    assert p["status"] == status and p["title"] and p["detail"], p
    assert p["instance"].endswith(r.header("X-Request-Id")), p
    if slug:
        assert p["type"] == "urn:driftd:problem:" + slug, p
    if field:
        assert field in [e["field"] for e in p.get("errors", [])], p
    if word:
        assert word in json.dumps(p, ensure_ascii=False), p
    if status in (429, 503):
        assert int(r.header("Retry-After")) >= 1 and p["retry_after"] > 0, r
    return p


def png(data):
    """(width, height, text of the iTXt chunk)"""
    assert data[:8] == b"\x89PNG\r\n\x1a\n", data[:20]
    at, size, text = 8, None, None
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + n]
        assert struct.unpack(">I", data[at + 8 + n:at + 12 + n])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        if kind == b"iTXt":
            keyword, _, rest = body.partition(b"\0")
            assert keyword == b"driftd"
            text = json.loads(rest[2:].split(b"\0", 2)[2])
        at += 12 + n
    return *size, text


def npy(data):
    """(shape, floats)"""
    assert data[:6] == b"\x93NUMPY"
    n = struct.unpack("<H", data[8:10])[0]
    head = data[10:10 + n].decode()
    assert "'descr': '<f4'" in head and "'fortran_order': False" in head, head
    shape = tuple(int(x) for x in re.search(r"\(([\d, ]+)\)", head)[1].split(",") if x.strip())
    return shape, struct.unpack(f"<{(len(data) - 10 - n) // 4}f", data[10 + n:])


def certificate(folder, name):
    """A certificate of its own for 127.0.0.1: folder/cert.pem and key.pem."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                    "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out",
                    folder / "cert.pem"], check=True, capture_output=True)


def run(tests):
    """Calls each test and prints a line for it."""
    for test in tests:
        start = time.monotonic()
        print(f"{test.__name__} ...", end=" ", flush=True)
        test()
        print(f"ok ({time.monotonic() - start:.1f} s)", flush=True)
