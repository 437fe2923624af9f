#!/usr/bin/env python3
"""driftctl against servers whose answers break off, are not driftd's, drip, or refuse a token that asks
too often. Argument: driftctl."""
import concurrent.futures
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

from live import die_with_parent, run

DRIFTCTL = os.path.abspath(sys.argv[1])


def head(status, kind, length, *lines):
    lines = [f"HTTP/1.1 {status} Text", *([f"Content-Type: {kind}"] if kind else []), f"Content-Length: {length}", *lines]
    return "\r\n".join(lines + ["Connection: close", "", ""]).encode()


def reply(body, status=200, kind="application/json", *lines):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(status, kind, len(body), *lines) + body


class Server:
    """Calls answer(method, target, body), which gives bytes or the parts of what is sent, a tenth of a second apart;
    then the connection ends. With continues=False it ends after a 100, before the body."""

    def __init__(self, answer, continues=True):
        self.answer, self.continues, self.seen = answer, continues, []
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="driftd-answers-"))
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        shutil.rmtree(self.dir)

    def accept(self):
        while True:
            try:
                c, _ = self.socket.accept()
            except OSError:  # the test is over
                return
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        try:
            with c, c.makefile("rb") as f:
                method, target, _ = f.readline().decode().split()
                fields = {}
                while (line := f.readline().decode().strip()):
                    name, _, value = line.partition(":")
                    fields[name.lower()] = value.strip()
                if "expect" in fields:
                    c.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    if not self.continues:
                        return
                body = f.read(int(fields.get("content-length", 0)))
                self.seen.append((method, target, fields, body))
                got = self.answer(method, target, body)
                for i, part in enumerate([got] if isinstance(got, bytes) else got):
                    time.sleep(0.1 if i else 0)
                    c.sendall(part)
        except (OSError, ValueError):  # the client has gone
            pass

    def ctl(self, line, folder=None):
        env = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
        words = line.split() if isinstance(line, str) else line
        r = subprocess.run([DRIFTCTL, *words], capture_output=True, timeout=100, cwd=folder or self.dir,
                           env=env | {"DRIFTD_URL": self.url}, preexec_fn=die_with_parent)
        r.out, r.err = r.stdout.decode("utf-8", "replace"), r.stderr.decode("utf-8", "replace")
        return r

    def each(self, lines, given):
        """Runs each in a folder of its own with the files `given`: (line, result, files that it left)."""
        def one(numbered):
            folder = self.dir / str(numbered[0])
            folder.mkdir()
            for name, data in given.items():
                (folder / name).write_bytes(data)
            r = self.ctl(numbered[1], folder)
            return numbered[1], r, {p.name for p in folder.rglob("*") if p.is_file()} - set(given)

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            return list(pool.map(one, enumerate(lines)))


def test_cut_off():
    """An answer that ends early is none."""
    image = head(200, "image/png", 1000, "Driftd-Seed: 5") + b"\x89PNGshort"
    with Server(lambda *_: image) as s:
        for line, r, left in s.each(["import f", "sample --noise f -o x.png", "sample -o x.png", "sweep -o x.png",
                                     "data samples d -o x.png", "grids 1 -o x.png", "evals --csv -o x.csv"], {"f": b"x"}):
            assert r.returncode == 3 and left <= {"x.png.part", "x.csv.part"}, (line, r, left)
    with Server(lambda *_: b"", continues=False) as s:
        (s.dir / "f").write_bytes(bytes(3 << 20))
        for line in ("import f", "sample --noise f"):
            r = s.ctl(line)
            assert r.returncode == 3 and s.url in r.err and "HTTP 100" not in r.err, (line, r)
    problem = json.dumps({"detail": "too large"}).encode()  # a refusal counts, whole or not
    with Server(lambda *_: head(413, "application/problem+json", len(problem) + 5) + problem) as s:
        (s.dir / "f").write_bytes(b"x")
        r = s.ctl("import f")
        assert r.returncode == 1 and "too large (HTTP 413" in r.err, r


# Whatever reads an answer.
COMMANDS = """train toy|train toy -f|jobs|job 1|job 1 --alerts|edit 1 --notes=x|stop 1|pause 1|resume 1|checkpoint 1|remove 1
sample -o x.png|sample --noise f -o x.png|sample|sweep -o x.png|ablate s.json|ablate s.json --check|ablate list
ablate show 1|ablate table 1 -o x.md|ablate plot 1 -o x.png|ablate follow 1|ablate stop 1|ablate remove 1|eval -k 1|eval -k 1 -f
evals|evals show 1|evals remove 1|evals --csv|evals --png -o x.png|compare 1 2|checkpoints|checkpoints show 1
checkpoints edit 1 --notes=x|checkpoints remove 1|grids|grids 1 -o x.png|activate 1|serve|serve 1|export 1 -o x|import f
import --path f|data add d f --upload|data add d f|data list|data show d|data remove d|data samples d -o x.png|data train d
metrics 1|metrics 1 2|backup new|db backup -o x|status|configs|configs toy|configs --keys""".replace("\n", "|").split("|")


def test_strangers():
    """What a proxy or another program answers with 200 is no success, and leaves no file."""
    given = {"f": b"x", "s.json": b"{}"}
    page = reply(b"<html>", 200, "text/html; charset=utf-8")
    few = ["train toy", "remove 1", "stop 1", "sample -o x.png", "export 1 -o x", "import f", "metrics 1 -o x", "backup new"]
    for answer, commands in [(page, COMMANDS), (reply(b"", 200, ""), few), (reply([]), [*COMMANDS, "follow 1"])]:
        with Server(lambda *_: answer) as s:
            for line, r, left in s.each(commands, given):
                assert r.returncode in (1, 3) and (s.url in r.err or "(HTTP 200)" in r.err), (answer, line, r)
                assert not left, (answer, line, left)
    with Server(lambda *_: reply({"id": "1", "files": []})) as s:
        [(_, r, left)] = s.each(["backup new"], {})
        assert r.returncode == 1 and "files" in r.err and not left, (r, left)
    report = {"notes": [1, "small"], "skipped": 2, "reasons": [3]}
    with Server(lambda *_: reply({"name": "d", "state": "ready", "classes": [1], "report": report})) as s:
        r = s.ctl("data show d")
        assert r.returncode == 0 and r.out.endswith("note: small\n"), r


def test_large_answers():
    """--timeout is one without a byte for whatever may be large, not one for all of it."""
    drops = 55

    def answer(method, target, body):
        path = target.split("?")[0]
        if method == "POST" and path == "/v1/evals":
            return reply({"id": "1"})
        if path == "/v1/jobs/1":
            return reply({"id": "1", "state": "completed"})
        if path == "/v1/evals":
            return reply({"evals": [{"id": "7", "artifacts": [{"name": "samples.npy", "url": "/v1/evals/7/samples.npy"}]}]})
        if "eval_job" in target:
            return reply(b"x", 200, "text/csv")
        return [head(200, "text/csv" if "csv" in target else "image/png", drops, "Driftd-Seed: 5"), *[b"x"] * drops]

    lines = ["metrics 1 --csv -o x", "metrics 1 2", "evals --csv -o x", "evals --csv", "sample -o x", "sweep -o x",
             "sample --noise f -o x", "data samples d -o x", "eval -k 1 -o x"]
    with Server(answer) as s:
        for line, r, left in s.each([line + " --timeout 5" for line in lines], {"f": b"x"}):
            folder = s.dir / str(lines.index(line.replace(" --timeout 5", "")))
            assert r.returncode == 0, (line, r)
            files = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
            assert b"x" * drops in [r.stdout, *files], (line, r, left)


LIMITED = {"type": "urn:driftd:problem:rate-limited", "detail": "this token may make 9 requests per second", "status": 429,
           "retry_after": 0.01}


class Limited(Server):
    """Refuses each request the first time."""

    def __init__(self, answer, problem=LIMITED):
        self.refused = set()
        super().__init__(lambda *request: self.first(problem, *request) or answer(*request))

    def first(self, problem, method, target, body):
        if (method, target) in self.refused:
            return None
        self.refused.add((method, target))
        body = json.dumps(problem).encode() if method != "HEAD" else b""
        return reply(body, 429, "application/problem+json", "Retry-After: 1")


def query(target):
    return dict(urllib.parse.parse_qsl(target.partition("?")[2]))


def test_rates():
    """A token whose rate is spent is waited for, and everything goes on where it was."""
    data = os.urandom(9 << 20)
    stored = {}

    def upload(method, target, body):
        if "upload?" in target:
            stored[int(query(target)["offset"])] = body
            return reply({})
        if method == "POST":
            return reply({}, 201)
        return reply({"name": "d", "state": "ready", "received": 0})

    with Limited(upload) as s:
        (s.dir / "z.tar").write_bytes(data)
        r = s.ctl("data add d z.tar --upload")
        assert r.returncode == 0 and r.err.count("driftctl:") == 1, r
        assert b"".join(stored[k] for k in sorted(stored)) == data and len(stored) == 3, list(stored)

    def page(method, target, body):
        at = int(query(target).get("cursor", 0))
        return reply({"jobs": [{"id": str(at)}], **({"next_cursor": str(at + 1)} if at < 7 else {})})

    with Limited(page) as s:
        r = s.ctl("jobs --all --json")
        assert r.returncode == 0 and [j["id"] for j in json.loads(r.out)["jobs"]] == list("01234567") and not r.err, r
    with Limited(lambda *_: reply({"id": "c9"}, 201)) as s:
        (s.dir / "f").write_bytes(data)
        r = s.ctl("import f")
        assert r.returncode == 0 and r.out == "c9\n" and s.seen[-1][3] == data, r

    def sweep(method, target, body):
        return reply(b"| a |\n", 200, "text/markdown") if target.endswith(".md") else reply({"state": "completed"})

    with Limited(sweep) as s:
        r = s.ctl("ablate follow 1")
        assert r.returncode == 0 and "| a |" in r.out, r


def test_rate_of_a_part():
    """The part of a download stays while the server is asked about it: a HEAD has no body that says why."""
    data = os.urandom(1000)

    def answer(method, target, body):
        whole = head(200, "application/octet-stream", len(data), 'ETag: "v1"')
        if method == "HEAD":
            return whole
        return reply(data[400:], 206, "application/octet-stream", 'ETag: "v1"', "Content-Range: bytes 400-999/1000")

    with Limited(answer) as s:
        (s.dir / "x.part").write_bytes(data[:400])
        r = s.ctl("export 1 -o x")
        assert r.returncode == 0 and (s.dir / "x").read_bytes() == data, r


def test_other_refusals():
    """A full queue is not waited for, nor a rate for longer than --timeout, nor than a minute without it."""
    full = LIMITED | {"type": "urn:driftd:problem:queue-full", "retry_after": 3}
    for problem, line in [(full, "sample"), (LIMITED | {"retry_after": 61}, "jobs"), (LIMITED | {"retry_after": 3}, "jobs --timeout=2")]:
        with Server(lambda *_: reply(problem, 429, "application/problem+json", "Retry-After: 1")) as s:
            r = s.ctl(line)
            assert r.returncode == 1 and f"try again in {problem['retry_after']} s" in r.err, (line, r)
            assert len(s.seen) == 1, (line, s.seen)


def test_json_files():
    """The files that the server's own recipes may be: with a byte-order mark, or read from a pipe. Others are refused by name."""
    given = {"recipe": "ä"}
    text = json.dumps(given, ensure_ascii=False)
    with Server(lambda *_: reply({"id": "7", "name": "x", "list": []}, 201)) as s:
        (s.dir / "plain.json").write_text(text)
        (s.dir / "marked.json").write_text(text, encoding="utf-8-sig")
        (s.dir / "wide.json").write_text(text, encoding="utf-16")
        (s.dir / "almost.json").write_bytes(b"\xef\xbb" + text.encode())
        (s.dir / "mark.json").write_bytes(b"\xef\xbb\xbf")
        (s.dir / "empty.json").write_bytes(b"")
        (s.dir / "folder.json").mkdir()
        for command in ("train", "ablate"):
            for name in ("plain", "marked"):
                os.mkfifo(s.dir / "pipe.json")
                threading.Thread(target=(s.dir / "pipe.json").write_bytes, args=[(s.dir / f"{name}.json").read_bytes()]).start()
                for file in (f"{name}.json", "pipe.json"):
                    r = s.ctl(f"{command} {file}")
                    body = json.loads(s.seen.pop()[3])
                    assert r.returncode == 0 and (body["config"] if command == "train" else body) == given, (command, file, r, body)
                (s.dir / "pipe.json").unlink()
            for name, why in [("wide", "the text is UTF-16; expected JSON in UTF-8"), ("almost", "expected JSON in UTF-8"),
                              ("mark", "line 1"), ("empty", "line 1"), ("folder", "a folder"), ("none", "No such file")]:
                r = s.ctl(f"{command} {name}.json")
                assert r.returncode == 2 and f"driftctl: {name}.json: " in r.err and why in r.err, (command, name, r)
            assert not s.seen, s.seen


def test_file_names():
    """A file that cannot be read or written is refused before any request."""
    with Server(lambda *_: reply({})) as s:
        os.mkfifo(s.dir / "pipe")  # nobody writes to it
        for words, status, why in [(["export", "1", "-o", ""], 2, "empty"), (["sample", "--output="], 2, "empty"),
                                   (["db", "backup", ""], 2, "empty"), (["evals", "-o", "x"], 2, "--csv or --png"),
                                   (["evals", "show", "1", "-o", "x"], 2, "--csv or --png"),
                                   (["import", "pipe"], 1, "not a regular file"), (["sample", "--noise", "pipe"], 1, "not a regular file"),
                                   (["sample", "-s", str(1 << 53)], 2, f"from 0 to {(1 << 53) - 1}")]:
            r = s.ctl(words)
            assert r.returncode == status and why in r.err and not s.seen, (words, r, s.seen)
        assert [f.name for f in s.dir.iterdir()] == ["pipe"]


if __name__ == "__main__":
    run([test_cut_off, test_strangers, test_large_answers, test_rates, test_rate_of_a_part, test_other_refusals,
         test_json_files, test_file_names])
