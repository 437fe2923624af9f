#!/usr/bin/env python3
"""driftctl against a server made for the purpose: where it writes, what it continues, how it ends,
which proxy it asks, which numbers it takes, what reaches a terminal. Arguments: driftctl."""
import fcntl
import hashlib
import http.server
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

from live import die_with_parent, run

DRIFTCTL = os.path.abspath(sys.argv[1])
DATA = bytes(range(256)) * 400
SHA = hashlib.sha256(DATA).hexdigest()
EVIL = "a\x1b]0;title\x07b\x9b31mc\u202ed"
JOBS = [{"id": "1", "name": "数字のモデル", "kind": "train", "state": "running", "step": 5, "steps_total": 10},
        {"id": "2", "name": "e\u0301te\u0301", "kind": "train", "state": "failed", "step": 12345, "steps_total": 10},
        {"id": "3", "name": "😀 smile", "kind": "train", "state": "failed", "error": EVIL},
        {"id": "4", "name": EVIL, "kind": "train", "state": "failed", "error": "x" * 200},
        {"id": "5", "name": "n" * 80, "kind": "train", "state": "failed"}]


# An encoder at work, which has no drift norm.
TRAINING = {"job": "3", "name": "an encoder", "step": 5, "steps_total": 60, "steps_per_second": 2.5, "loss": 2.25,
            "drift_norm": None, "eta_seconds": None}


def measured(job, fd, step=1, seed=0, alpha=1, error=None):
    """A finished evaluation; `job`: the one that trained what it is of."""
    return {"id": f"{job or 'x'}{step}", "job": job, "step": step, "state": "done", "comparable": "k",
            "settings": {"seed": seed, "alpha": alpha}, "results": {"fd": fd}, "errors": {} if error is None else {"fd": error}}


# Evaluations by eval job: of two steps, of two steps with other values, of other steps, of an import, of two seeds.
EVALS = {
    "11": [measured("1", 5, 2, error=0.4), measured("1", 9, 1, error=0.3)],
    "12": [measured("2", 7, 2, error=0.4), measured("2", 9, 1, error=0.3), measured("2", 3, 3, alpha=2)],
    "13": [measured("3", 1, 40), measured("3", 2, 50)],
    "14": [measured(None, 4, error=0.1)],
    "15": [measured("5", 1, step, seed) for seed in (1, 2) for step in (1, 2)],
    "16": [measured("6", 1 + seed + step, step, seed) for seed in (1, 2) for step in (1, 2)],
    "17": []}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body, kind="application/json", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self):
        s = self.server
        etag, wanted = f'"{s.etag}"', self.headers.get("Range")
        m = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if self.headers.get("If-Range", etag) != etag:
            m = None
        start = int(m[1]) if m else 0
        if m and start >= len(DATA):
            self.answer(416, {"detail": "no such range"}, Content_Range=f"bytes */{len(DATA)}")
        elif m:
            s.ranges.append((start, self.headers.get("If-Range")))
            self.answer(206, DATA[start:], "application/octet-stream", ETag=etag,
                        Content_Range=f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        else:
            self.answer(200, DATA, "application/octet-stream", ETag=etag)

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        path = self.path.split("?")[0]
        if path == "/v1/checkpoints/none/file":
            self.answer(422, {"detail": "format: `x` is none", "errors": [{"field": "format", "message": "`x` is none"}]})
        elif path.endswith("/file"):
            self.file()
        elif path == "/v1/jobs":
            self.answer(200, {"jobs": JOBS})
        elif path == "/v1/evals":
            self.answer(200, {"evals": EVALS[re.search(r"eval_job=(\d+)", self.path)[1]]})
        elif path.endswith("/metrics"):
            self.answer(200, b"loss,1,2\n\x1b[2Jx\n", "text/csv")
        elif path == "/v1/status":
            self.answer(200, {"version": "1", "state": "running", "training": TRAINING})
        elif path == "/v1/jobs/9":
            self.answer(200, {"id": "9", "state": "failed", "error": EVIL, "step": 1, "steps_total": 2})
        elif path == "/v1/jobs/8":
            self.answer(404, {"detail": "no " + EVIL, "status": 404, "errors": [{"field": EVIL, "message": EVIL}]})
        else:
            self.answer(200, {"version": "1", "state": "running"})

    do_HEAD = do_GET

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.posted.append(self.path)
        if self.path.endswith("backup"):
            self.answer(200, DATA, "application/vnd.sqlite3")
        elif re.search("/(stop|pause)", self.path):  # job 2 is queued, others run
            state = "stopping" if "/2/" not in self.path else "paused" if self.path.endswith("pause") else "stopped"
            self.answer(202, {"id": "1", "state": state})
        else:
            more = {"Driftd_Note": "cfg 9 is outside"} if "cfg=9" in self.path else {}
            self.answer(200, b"\x89PNG\r\n\x1a\nimage", "image/png", Driftd_Seed="5", **more)


class Place:
    """A server and a scratch folder."""

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="driftd-ctl-"))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that goes away
        self.server.seen, self.server.posted, self.server.ranges, self.server.etag = [], [], [], SHA
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        shutil.rmtree(self.dir)

    def env(self, **more):
        env = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
        return env | {"DRIFTD_URL": self.url, "TERM": "xterm"} | more

    def ctl(self, *words, shell=None, **env):
        command = shell.replace("$D", DRIFTCTL) if shell else [DRIFTCTL, *map(str, words)]
        r = subprocess.run(command, shell=bool(shell), capture_output=True, timeout=60, cwd=self.dir,
                           env=self.env(**env), preexec_fn=die_with_parent)
        r.out, r.err = r.stdout.decode("utf-8", "replace"), r.stderr.decode("utf-8", "replace")
        return r

    def terminal(self, *words, width=200, **env):
        """Exit status and all bytes that reach a terminal."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        p = subprocess.Popen([DRIFTCTL, *words], stdin=slave, stdout=slave, stderr=slave, cwd=self.dir,
                             env=self.env(**env), preexec_fn=die_with_parent)
        os.close(slave)
        text = b""
        try:
            while data := os.read(master, 65536):
                text += data
        except OSError:  # the command has closed its end
            pass
        os.close(master)
        return p.wait(60), text


FILES = [("export", "1"), ("db", "backup"), ("sample",), ("metrics", "1")]


def test_outputs():
    """Devices, pipes and links stay what they are; "-" is standard output."""
    with Place() as p:
        for words in FILES:
            body = {"export": DATA, "db": DATA, "sample": b"\x89PNG\r\n\x1a\nimage", "metrics": b"loss,1,2\n\x1b[2Jx\n"}[words[0]]
            r = p.ctl(*words, "-o", "-")
            assert r.returncode == 0 and r.stdout == body, (words, r)
            assert not (p.dir / "-").exists(), words
            r = p.ctl(*words, "-o", "/dev/stdout")
            assert r.returncode == 0 and body in r.stdout, (words, r)
            r = p.ctl(shell=f"(echo before; $D {' '.join(words)} -o /dev/stdout) > both; cat both")
            assert r.stdout.startswith(b"before\n" + body) or words[0] in ("sample", "metrics"), (words, r)
            fifo = p.dir / "fifo"
            os.mkfifo(fifo)
            r = p.ctl(shell=f"cat fifo > got & $D {' '.join(words)} -o fifo > said && wait && cat got")
            assert r.stdout == body and stat.S_ISFIFO(fifo.lstat().st_mode), (words, r)
            fifo.unlink()
            (p.dir / "sub").mkdir(exist_ok=True)
            for link, target in [("link", "sub/real"), ("sub/chain", "../link")]:
                (p.dir / link).symlink_to(target)
            r = p.ctl(*words, "-o", "sub/chain")
            assert r.returncode == 0 and (p.dir / "sub/real").read_bytes() == body, (words, r)
            assert (p.dir / "link").is_symlink() and (p.dir / "sub/chain").is_symlink(), words
            (p.dir / "link").unlink()
            (p.dir / "sub/chain").unlink()
            assert p.ctl(*words, "-o", "sub").returncode == 1 and (p.dir / "sub").is_dir(), words
            r = p.ctl(*words, "-o", "/dev/full")
            assert r.returncode == 1 and "No space left" in r.err, (words, r)
            if os.geteuid() == 0:  # only root could replace it
                node = p.dir / "null"
                try:
                    os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
                except PermissionError:
                    continue
                assert p.ctl(*words, "-o", "null").returncode == 0
                assert stat.S_ISCHR(node.lstat().st_mode), words
                node.unlink()


def test_parts():
    """What lies in FILE.part never keeps a download from being completed."""
    with Place() as p:
        part, whole = p.dir / "x.part", p.dir / "x"
        half = len(DATA) // 2
        for old, ranges in [(DATA[:half], 1), (b"?" * 100, 1), (DATA + b"more", 0), (b"?" * len(DATA), 0), (DATA, 0),
                            (b"?" * 3 * len(DATA), 0)]:
            part.write_bytes(old)
            p.server.ranges.clear()
            r = p.ctl("export", "1", "-o", "x")
            assert r.returncode == 0 and whole.read_bytes() == DATA and not part.exists(), (len(old), r)
            assert len(p.server.ranges) == ranges and all(t == f'"{SHA}"' for _, t in p.server.ranges), p.server.ranges
            whole.unlink()
        p.server.etag = "not-a-sum"  # a part of full length cannot be believed
        part.write_bytes(b"?" * len(DATA))
        assert p.ctl("export", "1", "-o", "x").returncode == 0 and whole.read_bytes() == DATA
        whole.unlink()
        p.server.etag = SHA[::-1]  # what arrives is not what was announced
        for target in ("x", "-"):
            r = p.ctl("export", "1", "-o", target)
            assert r.returncode == 1 and "sha256" in r.err and not whole.exists() and not part.exists(), r
        p.server.etag = SHA
        r = p.ctl("export", "none", "-o", "x")  # refused: nothing is left
        assert r.returncode == 1 and not part.exists(), r
        assert r.err == "driftctl: format: `x` is none (HTTP 422)\n", "one mistake is said once"
        (p.dir / "elsewhere").write_bytes(b"kept")
        part.symlink_to("elsewhere")
        assert p.ctl("export", "1", "-o", "x").returncode == 1 and (p.dir / "elsewhere").read_bytes() == b"kept"


def test_sample():
    with Place() as p:
        r = p.ctl("sample", "--cfg", "9", "-o", "x.png")
        assert r.returncode == 0 and r.err == "driftctl: cfg 9 is outside\n" and "seed 5" in r.out, r
        r = p.ctl("sample", "--cfg", "9", "-o", "x.png", "--json")
        assert json.loads(r.out)["note"] == "cfg 9 is outside" and not r.err, r
        r = p.ctl("sample", "-o", "x.png", "--json")
        assert json.loads(r.out)["note"] is None, r
        r = p.ctl("sample", "--clas", "9")
        assert r.returncode == 2 and r.err == "driftctl sample: unknown option `--clas`; did you mean `--class`?\n", r
        r = p.ctl("sample", "--clxss", "9")
        assert r.returncode == 2 and r.err == "driftctl sample: unknown option `--clxss`; did you mean `--class`?\n", r


def silent():
    """A server that takes connections and says nothing, as one stopped by SIGSTOP does."""
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen(64)
    return s, f"http://127.0.0.1:{s.getsockname()[1]}"


def test_silence():
    s, url = silent()
    with Place() as p, s:
        (p.dir / "f").write_bytes(b"x")
        sweep = subprocess.Popen([DRIFTCTL, "ablate", "follow", "1", "--url", url, "--timeout", "0.3"], text=True,
                                 stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=p.env(), preexec_fn=die_with_parent)
        for words in [("status",), ("jobs",), ("train", "digits"), ("sample",), ("export", "1", "-o", "x"), ("db", "backup"),
                      ("import", "f"), ("import", "--path", "f"), ("activate", "1"), ("follow", "1")]:
            began = time.monotonic()
            r = p.ctl(*words, "--url", url, "--timeout", "0.3")
            assert r.returncode == 3 and "answer" in r.err, (words, r)
            assert time.monotonic() - began < 25, words
        out, err = sweep.communicate(timeout=60)
        assert sweep.returncode == 3 and not out, (sweep, out, err)
        assert err == f"no answer yet; trying again\ndriftctl: {url} does not answer\n", err
        for signals in (1, 2):  # Ctrl-C ends it, a second one at once
            fresh, url = silent()
            with fresh:
                q = subprocess.Popen([DRIFTCTL, "follow", "1", "--url", url], env=p.env(), preexec_fn=die_with_parent,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                with fresh.accept()[0]:  # it has begun to follow
                    for _ in range(signals):
                        q.send_signal(signal.SIGINT)
                        time.sleep(0.05)
                    out, _ = q.communicate(timeout=60)
            assert q.returncode == 130 if signals == 1 else q.returncode in (130, -2), (signals, q.returncode, out)


def test_proxies():
    """Requests to this machine and the token never go to a proxy; others follow the environment."""
    with Place() as p:
        seen = []

        class Proxy(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                seen.append((self.path, dict(self.headers)))
                self.send_error(502)

            def log_message(self, *args):
                pass

        proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        to = f"http://127.0.0.1:{proxy.server_port}"
        env = {"http_proxy": to, "all_proxy": to, "ALL_PROXY": to}
        (p.dir / "token").write_text("secret-token\n")
        port = p.server.server_port
        for host in ("127.0.0.1", "localhost", "LocalHost", "[::ffff:127.0.0.1]"):
            r = p.ctl("status", "--url", f"http://{host}:{port}", "--token-file", "token", "--timeout", "5", **env)
            assert not seen, (host, r)
            assert r.returncode == 0 or host[0] == "[", (host, r)
        assert p.server.seen[0][1]["Authorization"] == "Bearer secret-token"
        p.ctl("status", "--url", "unix:nobody", "--token-file", "token", **env)
        p.ctl("fetch", "x", "--list", "/dev/null", "--mirror", p.url, **env)
        assert not seen, seen
        assert p.ctl("status", "--url", "http://driftd.invalid:1", **env).returncode == 1
        assert seen and seen[0][0].startswith("http://driftd.invalid:1/"), seen
        seen.clear()
        r = p.ctl("status", "--url", "http://driftd.invalid:1", "--timeout", "3", no_proxy="driftd.invalid", **env)
        assert r.returncode == 3 and not seen, (r, seen)
        proxy.shutdown()
        proxy.server_close()


def commands():
    text = subprocess.run([DRIFTCTL, "help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  ([a-z]+) ", text, re.M)


def test_numbers():
    """Every option whose value is a number takes a number and nothing else, before any request."""
    args = {"db": ["backup"], "completion": ["bash"], "edit": ["1", "--notes=x"], "eval": ["--job=1"], "compare": ["1", "2"], "evals": [],
            "sweep": ["--from=1"], "data": ["add", "x", "/nowhere"]}
    wrong = ["5x", "abc", "", " 5", "0x10", "inf", "99999999999999999999999"]
    found = 0
    with Place() as p:
        for command in commands():
            text = subprocess.run([DRIFTCTL, "help", command], capture_output=True, text=True, check=True).stdout
            needs = re.match(rf"usage: driftctl {command} ([A-Z]+) ", text)
            words = [command] + args.get(command, ["1"] if needs else [])
            for option, kind in re.findall(r"--([a-z-]+) (N|MS|S|STEP|SCALE|MINUTES)\b", text):
                if option == "cfg" or (option == "timeout" and command != "status"):  # a list; common to all
                    continue
                found += 1
                for value in wrong + (["1e3"] if kind not in ("S", "SCALE", "MINUTES") else []):
                    for form in ([f"--{option}", value], [f"--{option}={value}"])[:1 + (value == "5x")]:
                        r = p.ctl(*words, *form, "--url", "http://127.0.0.1:1")
                        assert r.returncode == 2 and f"--{option}: expected a" in r.err, (words, form, r)
                r = p.ctl(*words, f"--{option}=2", "--url", "http://127.0.0.1:1", "--timeout=1")
                assert r.returncode != 2 and "expected a" not in r.err, (words, option, r)
        assert found >= 18, found
        for value in ("1e300", "-1e300", "1001", "1,1e19", "nan", "inf", "1,,2", "x"):
            r = p.ctl("eval", "--job=1", f"--alpha={value}", "--url", "http://127.0.0.1:1")
            assert r.returncode == 2 and "from -1000 to 1000" in r.err, (value, r)
        for line, bound in [("train x -p 1001", "1000"), ("sweep -r 33", "from 1 to 32"), ("jobs -l 0", "from 1"), ("sample -n -1", "1")]:
            r = p.ctl(*line.split())
            assert r.returncode == 2 and bound in r.err, r


def steers(text):
    """Bytes that a terminal would act on, besides newlines and carriage returns."""
    return re.findall(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text.decode())


def columns(line):
    """Where columns of the table begin on a terminal: widths by East Asian Width and combining class."""
    import unicodedata
    at, starts, blanks = 0, [], 2
    for c in line:
        if c != " " and blanks >= 2:
            starts.append(at)
        blanks = blanks + 1 if c == " " else 0
        at += 0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
    return starts


def test_text():
    with Place() as p:
        for words, status in [(("jobs",), 0), (("job", "8"), 1), (("follow", "9"), 1), (("metrics", "1"), 0), (("status",), 0),
                              (("jobs", "--json"), 0), (("job", "8", "--json"), 1), (("job", EVIL), 0), (("stop", EVIL), 0),
                              (("follow", "9", "--json"), 1)]:
            for env in ({}, {"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}):
                got, text = p.terminal(*words, **env)
                assert got == status and not steers(text.replace(b"\r\x1b[K", b"")), (words, env, got, text)
        lines = p.ctl("jobs").out.splitlines()
        assert "數" not in lines[0] and "数字のモデル" in lines[1] and "e\u0301te\u0301" in lines[2] and "😀" in lines[3], lines
        state = lines[0].index("STATE")
        assert all(state in columns(line) for line in lines), [(state, columns(line), line) for line in lines]
        assert "n" * 80 in lines[5] and lines[1] == lines[1].rstrip(), "a program gets all of it, and no padding"
        _, text = p.terminal("jobs", LC_ALL="C.UTF-8")
        shown = text.decode().splitlines()
        assert "n" * 60 not in shown[5] and "…" in shown[5], shown
        assert "x" * 200 in shown[4], "the last column is whole: what ends it is what to do"
        assert json.loads(p.ctl("jobs", "--json").out)["jobs"] == JOBS, "escapes mean the same"


def test_end_of_a_job():
    """What is over at once is not to come."""
    with Place() as p:
        for words, said in [("stop 1", "will stop after its step"), ("stop 1 --now", "will stop without a checkpoint"),
                            ("pause 1", "will pause"), ("stop 2", "is stopped"), ("pause 2", "is paused")]:
            r = p.ctl(*words.split())
            assert r.returncode == 0 and r.out == f"job {words[5:].split()[0]} {said}\n", (words, r.out, r)


def test_not_utf8():
    """Text that JSON cannot carry is refused by name, before any request; names of files are any bytes."""
    bad = os.fsdecode(b"caf\xe9")
    with Place() as p:
        for line, what in [("train digits --name", "--name"), ("train digits -s x=1 -n", "--name"), ("train digits --set", "--set"),
                           ("train", "CONFIG"), ("edit 1 --notes", "--notes"), ("eval --job=1 --name", "--name"),
                           ("eval --folder", "--folder"), ("import x --path --name", "--name"), ("import --path", "FILE"),
                           ("checkpoints edit 1 --name", "--name"), ("serve", "ID")]:
            r = p.ctl(*line.split(), bad)
            assert r.returncode == 2 and f"driftctl {line.split()[0]}: {what}: expected UTF-8, got `caf?`" in r.err, (line, r.err, r)
        assert not p.server.seen and not p.server.posted, (p.server.seen, p.server.posted)
        assert p.ctl("sample", "-o", f"{p.dir}/{bad}.png").returncode == 0
        assert pathlib.Path(f"{p.dir}/{bad}.png").read_bytes().startswith(b"\x89PNG")


def test_status_of_an_encoder():
    """What a job does not measure is left out."""
    with Place() as p:
        out = p.ctl("status").out
        assert "training   job 3 (an encoder), step 5 of 60, 2.5 steps/s, loss 2.25, ETA -\n" in out, out


def test_compare():
    """Runs are paired by step, seed and guidance scale; the pairs of one seed are one observation."""
    with Place() as p:
        def fd(*jobs):
            r = p.ctl("compare", "--jobs", *jobs, "--json")
            assert r.returncode == 0, r
            return json.loads(r.out)[0]
        one = fd("11", "12")
        assert (one["pairs"], one["seeds"], one["by"]) == (2, 1, "runs"), one
        assert one["a"] == 7 and one["b"] == 8 and one["difference"] == 1, one
        assert abs(one["error"] ** 2 - 0.25) < 1e-12, one  # as if both steps erred together
        with_import = fd("11", "14")  # which has no step
        assert with_import["pairs"] == 2 and with_import["difference"] == -3, with_import
        several = fd("15", "16")
        assert (several["pairs"], several["seeds"], several["by"]) == (4, 2, "seeds"), several
        assert several["difference"] == 3 and abs(several["error"] - 0.5) < 1e-12, several  # of 2.5 and 3.5
        r = p.ctl("compare", "--jobs", "11", "13")
        assert r.returncode == 1 and "same step" in r.err and "driftctl compare 12 350" in r.err, r
        r = p.ctl("compare", "--jobs", "17", "11")
        assert r.returncode == 1 and "no finished evaluations" in r.err, r


def test_dumb_terminals():
    with Place() as p:
        for env in ({"TERM": "dumb"}, {"TERM": ""}):
            for words in [("follow", "9"), ("export", "1", "-o", "x"), ("jobs",)]:
                _, text = p.terminal(*words, **env)
                assert b"\x1b" not in text, (words, env, text)
        for words in [("follow", "9"), ("export", "1", "-o", "x"), ("jobs",), ("help",)]:  # no colours at all
            _, text = p.terminal(*words, NO_COLOR="1")
            assert not re.search(rb"\x1b\[[0-9;]*m", text), (words, text)


def terminals():
    try:
        for fd in pty.openpty():
            os.close(fd)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    run([test_outputs, test_parts, test_sample, test_silence, test_proxies, test_numbers, test_end_of_a_job, test_not_utf8,
         test_status_of_an_encoder, test_compare])
    if not terminals():
        print("skipped: no pseudo terminals here (is /dev/pts mounted?)")
        sys.exit(77)
    run([test_text, test_dumb_terminals])
