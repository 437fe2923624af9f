#!/usr/bin/env python3
"""The interface against the running daemon: /openapi.json walked in both directions, every status
code, images in every format, jobs, metrics, events, checkpoints, samples, Prometheus, reload, drain.

Arguments: driftd, docs/api.md.
"""
import base64
import contextlib
import gzip
import http.client
import io
import json
import pathlib
import random
import re
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import zipfile
import zlib

from live import Daemon, Stream, certificate, run

DRIFTD, MANUAL = sys.argv[1], pathlib.Path(sys.argv[2]).read_text()

# What the interface promises; the document of the server must say exactly this.
PROMISED = """
GET POST /generate
GET POST /v1/generate
GET POST /v1/jobs
GET PATCH DELETE /v1/jobs/{id}
POST /v1/jobs/{id}/stop
POST /v1/jobs/{id}/pause
POST /v1/jobs/{id}/resume
POST /v1/jobs/{id}/checkpoint
GET /v1/jobs/{id}/metrics
GET /v1/jobs/{id}/events
GET /v1/events
GET POST /v1/checkpoints
GET /v1/checkpoints/{id}
POST /v1/checkpoints/{id}/activate
GET /v1/checkpoints/{id}/file
GET POST /v1/evals
GET /v1/evals/{id}
GET /v1/evals.csv
GET /v1/evals/curve.png
GET /v1/samples
GET /v1/samples/{id}.png
GET /v1/configs
GET /v1/configs/schema
GET /v1/configs/{id}
GET /v1/status
POST /v1/db/backup
GET /metrics
GET /livez
GET /readyz
GET /openapi.json
"""
# Promised, and answered with 501 until a build can do it.
RESERVED = {("POST", "/v1/evals"), ("GET", "/v1/evals/curve.png")}


@contextlib.contextmanager
def daemon(*flags, **kw):
    d = Daemon(DRIFTD, *flags, **kw)
    try:
        yield d.start()
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


# ---- the document and the server ----

def concrete(path):
    for folder, name in [("configs", "tiny"), ("checkpoints", "2")]:
        path = path.replace(f"/v1/{folder}/{{id}}", f"/v1/{folder}/{name}")
    return path.replace("{id}", "1")


BODIES = {("POST", "/v1/jobs"): {"config": "tiny"}, ("PATCH", "/v1/jobs/{id}"): {"notes": "x"},
          ("POST", "/v1/checkpoints"): {"path": "/nowhere"}, ("POST", "/v1/evals"): {"kind": "fid"}}


def test_document_and_server():
    promised = {(m, line.split()[-1]) for line in PROMISED.split("\n") if line
                for m in line.split()[:-1]}
    with trained() as d:
        doc = d.get("/openapi.json").json()
        assert doc["openapi"].startswith("3.1")
        listed = {(m.upper(), path) for path, ops in doc["paths"].items() for m in ops}
        assert listed == promised, listed ^ promised
        for path, ops in doc["paths"].items():
            assert path.replace("{id}", "ID") in MANUAL, f"docs/api.md does not tell of {path}"
            allow = d.ask("OPTIONS", concrete(path)).header("Allow").split(", ")
            assert set(allow) - {"HEAD", "OPTIONS"} == {m.upper() for m in ops}, (path, allow)
            wrong = d.ask("PUT", concrete(path))
            problem(wrong, 405, "method-not-allowed")
            assert wrong.header("Allow") == ", ".join(allow), wrong
        operations = [(m.upper(), path, op) for path, ops in doc["paths"].items() for m, op in ops.items()]
        for method, path, op in sorted(operations, key=lambda x: x[0] == "DELETE"):
            walk(d, method, path, op)


def walk(d, method, path, op):
    """One operation: it is there, it takes the parameters that it says and no other."""
    target = concrete(path)
    if "text/event-stream" in str(op["responses"]):
        s = Stream(d, target)
        assert s.next()[1] == "hello"
        s.close()
        return
    r = d.ask(method, target, BODIES.get((method, path)))
    ok = int(next(code for code in op["responses"] if code != "default"))
    expected = {("DELETE", "/v1/jobs/{id}"): {204, 404}, ("GET", "/v1/evals/{id}"): {404},
                ("POST", "/v1/checkpoints"): {403}}.get((method, path), {ok})
    if path.startswith("/v1/jobs/{id}/") and method == "POST":
        expected = {202, 409}  # job 1 has ended
    if (method, path) in RESERVED:
        expected = {501}
    assert r.status in expected, (method, path, r)
    if r.status == ok and r.body:
        said = next(iter(op["responses"][str(ok)]["content"]))
        assert said == "*/*" or r.header("Content-Type").startswith(said), (method, path, r)
    names = [p["name"] for p in op.get("parameters", []) if p["in"] == "query"]
    p = problem(d.ask(method, target + "?frobnicate=1", BODIES.get((method, path))), 400,
                "unknown-parameter", "frobnicate")
    for name in names:
        refused = d.ask(method, f"{target}?{name}=%2A%2A", BODIES.get((method, path)))
        assert refused.status != 400, (method, path, name, refused)
        near = problem(d.ask(method, f"{target}?{name}q=1", BODIES.get((method, path))), 400)
        assert name in str(near["errors"]), near
    assert names or "takes none" in str(p["errors"]), p


# ---- status codes ----

def raw(d, text):
    with socket.create_connection(("127.0.0.1", d.port), 60) as s:
        s.sendall(text.encode())
        r = http.client.HTTPResponse(s)
        r.begin()
        return r.status, r.headers, r.read()


def test_status_codes():
    with trained("--max-n=64", "--max-queue=64") as d:
        J = {"Content_Type": "application/json"}
        problem(d.ask("POST", "/v1/jobs", b"{", **J), 400, "malformed-json")
        problem(d.get("/v1/jobs?limit=1&limit=2"), 400, "bad-query")
        problem(d.get("/v1/jobs/%00"), 400, "bad-uri")
        problem(d.get("/v1/status", Host="evil.example"), 403, "foreign-host", word="--allow-host")
        problem(d.ask("POST", "/generate", Origin="http://evil.example"), 403, "cross-site")
        problem(d.ask("POST", "/generate", Sec_Fetch_Site="cross-site"), 403, "cross-site")
        problem(d.get("/v1/nothing"), 404, "not-found")
        problem(d.get("/v1/jobs/77"), 404, "not-found")
        problem(d.get("/v1/generate?checkpoint=latst"), 404, "unknown-checkpoint", "checkpoint",
                "`latest`")
        problem(d.get("/v1/jobs", Accept="text/html"), 406, "not-acceptable")
        problem(d.get("/generate?format=png", Accept="application/json"), 406, "not-acceptable")
        problem(d.ask("POST", "/v1/jobs/1/pause"), 409, "conflict")
        status, headers, _ = raw(d, f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:{d.port}\r\n"
                                    "Content-Type: application/json\r\nConnection: close\r\n\r\n")
        assert status == 411 and headers["Content-Type"] == "application/problem+json"
        status, _, _ = raw(d, f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:{d.port}\r\n"
                              "Content-Type: application/json\r\nContent-Length: 1048577\r\n\r\n")
        assert status == 413
        problem(d.ask("POST", "/generate", b"x"), 413, "unexpected-body")
        problem(d.get("/v1/jobs?cursor=" + "1" * 32000), 414, "uri-too-long")
        problem(d.ask("POST", "/v1/jobs", b"{}", Content_Type="text/plain"), 415,
                "unsupported-media-type")
        problem(d.get("/v1/jobs", X_Big="a" * 32000), 431, "headers-too-large")
        r = d.get("/v1/checkpoints/2/file", Range="bytes=99999999-")
        assert problem(r, 416) and r.header("Content-Range").startswith("bytes */")
        unprocessable(d)
        problem(d.get("/v1/generate?n=64&timeout_ms=1&scale=32&cfg=1,2,3"), 422, "invalid-value", "n")
        for p in (d.dir / "state/checkpoints/1").iterdir():
            p.unlink()
        problem(d.get("/v1/checkpoints/2/file"), 410, "gone")
        for method, path in [("GET", "/generate?checkpoint=1"), ("POST", "/v1/checkpoints/1/activate")]:
            problem(d.ask(method, path), 410, "checkpoint-gone")  # rotated away


def unprocessable(d):
    for path, field, word in [
            ("/v1/generate?class=99", "class", "0 to 9"), ("/v1/generate?class=3,zz", "class", "zz"),
            ("/v1/generate?cfg=-1", "cfg", "0 to 100"), ("/v1/generate?n=65", "n", "1 to 64"),
            ("/v1/generate?format=pgn", "format", "`png`"), ("/v1/generate?grid=4", "grid", "8x4"),
            ("/v1/generate?guidance=twopass", "guidance", "`two-pass`"),
            ("/v1/generate?scale=33", "scale", "1 to 32"), ("/v1/generate?seed=-1", "seed", "0 to"),
            ("/v1/generate?timeout_ms=0", "timeout_ms", "1 to"), ("/v1/jobs?state=runing", "state",
            "running"), ("/v1/jobs?cursor=x", "cursor", "given out"), ("/v1/jobs?limit=0", "limit",
            "1 to 1000"), ("/v1/jobs/1/metrics?names=los", "names", "loss"),
            ("/v1/jobs/1/metrics?format=xml", "format", "csv"),
            ("/v1/jobs/1/metrics?from=9&to=3", "from", "greater")]:
        problem(d.get(path), 422, None, field, word)
    p = problem(d.get("/v1/generate?class=99&cfg=x&scale=0"), 422)
    assert [e["field"] for e in p["errors"]] == ["class", "cfg", "scale"], p
    for body, field, word in [
            ({"config": "tinny"}, "config", "tiny"), ({}, "config", "required"),
            ({"config": "tiny", "overrides": {"optim.rl": 1}}, "overrides.optim.rl", "optim.lr"),
            ({"config": "tiny", "overrides": {"optim": {"lr": "x"}}}, "overrides.optim.lr", "number"),
            ({"config": {"train": {"steps": -1}}}, "config.train.steps", "from"),
            ({"config": {"trian": {}}}, "config.trian", "train"),
            ({"config": "tiny", "priority": 5000}, "priority", "1000"),
            ({"config": "tiny", "kind": "trian"}, "kind", "`train`"),
            ({"confg": "tiny"}, "confg", "`config`")]:
        problem(d.ask("POST", "/v1/jobs", body), 422, None, field, word)
    for kind in ("mae", "judge", "eval"):
        problem(d.ask("POST", "/v1/jobs", {"config": "tiny", "kind": kind}), 501, None, "kind", "train")
    problem(d.ask("PATCH", "/v1/jobs/1", {"priority": 1}), 422, None, "priority", "name, notes")


def test_busy():
    """429 with a queue that is full, 504 past the deadline, 503 while the first model is made."""
    with daemon("--max-queue=8", "--max-batch=1") as d:
        problem(d.get("/generate"), 409, "no-model-yet")
        d.recipe("slow", {"model": {"dim": 192, "depth": 4, "heads": 4, "patch": 2},
                          "data": {"set": "digits", "count": 2000, "size": 16, "fit": "resize"},
                          "train": {"steps": 10**6, "classes": 10, "generated": 16, "positives": 16}})
        job = d.job("slow")
        problem(d.get("/generate"), 503, "loading")
        d.ask("POST", f"/v1/jobs/{job}/stop?mode=now")
        d.recipe("wide", {"model": {"dim": 192, "depth": 4, "heads": 4, "patch": 2},
                          "data": {"set": "digits", "count": 200, "size": 16, "fit": "resize"},
                          "train": {"steps": 1, "classes": 2, "generated": 4, "positives": 4}})
        d.wait(job, "stopped")
        d.wait(d.job("wide"), "completed")
        problem(d.get("/generate?n=64&timeout_ms=1"), 504, "deadline")
        got = []
        threads = [threading.Thread(target=lambda: got.append(d.get("/generate?n=8")))
                   for _ in range(24)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        full = [r for r in got if r.status == 429]
        assert full and all(r.status in (200, 429) for r in got), got
        problem(full[0], 429, "queue-full")


# ---- images ----

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


def clothes(d):
    """A set with names: 40 random pictures as Fashion-MNIST's idx files. Returns the trained job."""
    folder = d.dir / "data/fashion-mnist"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = random.Random(1).randbytes(40 * 28 * 28)
        for kind, head, body in [("images-idx3", struct.pack(">IIII", 0x803, 40, 28, 28), pixels),
                                 ("labels-idx1", struct.pack(">II", 0x801, 40), bytes(range(10)) * 4)]:
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + body))
    d.recipe("clothes", {"data": {"set": "fashion-mnist", "size": 8, "fit": "resize"}, "train": {
        "steps": 3, "classes": 2, "generated": 4, "positives": 4, "unconditional": 4}})
    job = d.job("clothes")
    d.wait(job, "completed", "failed")
    assert d.state(job) == "completed", d.get(f"/v1/jobs/{job}").json()["error"]
    return job


def test_class_names():
    """By name, any case, in lists; with the nearest one when it is none; also of an imported file."""
    with daemon() as d:
        d.end()
        d.start(f"--data-dir={d.dir}/data")
        job = clothes(d)
        names = d.get(f"/v1/jobs/{job}").json()["class_names"]
        assert len(names) == 10 and "Sneaker" in names, names
        at = names.index("Sneaker")
        ckpt = d.get(f"/v1/checkpoints?job={job}").json()["checkpoints"][0]
        data = d.get(f"/v1/checkpoints/{ckpt['id']}/file").body
        new = d.ask("POST", "/v1/checkpoints", data, Content_Type="application/octet-stream").json()["id"]
        for which in (ckpt["id"], new):
            ask = f"/generate?checkpoint={which}&seed=5&format=npy&class="
            assert d.get(ask + "sneaker").body == d.get(ask + str(at)).body
            r = d.get(f"/generate?checkpoint={which}&format=json&class=SNEAKER,0,Bag")
            assert [i["class"] for i in r.json()["images"]] == [at, 0, names.index("Bag")], r
            problem(d.get(ask + "snaeker"), 422, None, "class", "`Sneaker`")


def test_formats():
    with trained() as d:
        r = d.ask("POST", "/generate?class=3&cfg=1.5&seed=7")
        w, h, text = png(r.body)
        assert (w, h) == (8, 8) and r.header("Content-Type") == "image/png"
        assert r.header("Driftd-Seed") == "7" == str(text["seed"])
        assert r.header("Driftd-Step") == "60" == str(text["step"])
        assert r.header("Driftd-Checkpoint") == text["checkpoint"]
        assert text["images"] == [{"class": 3, "cfg": 1.5, "index": 0}] and text["guidance"] == "one-step"
        for name in ("Queue-Ms", "Compute-Ms", "Batch-Size"):
            assert float(r.header("Driftd-" + name)) >= 0
        again = d.get("/v1/generate?class=3&cfg=1.5&seed=7&grid=1x1&format=png")
        assert again.body == r.body, "the same seed gives the same bytes"
        w, h, text = png(d.get("/v1/generate?class=0,2,5-7,random&n=12&grid=4x3&scale=3&seed=1").body)
        assert (w, h) == (4 * 24 + 3 * 2, 3 * 24 + 2 * 2), (w, h)
        assert [i["class"] for i in text["images"]][:10] == [0, 0, 2, 2, 5, 5, 6, 6, 7, 7], text
        _, _, text = png(d.get("/v1/generate?class=1&cfg=1,2,3&n=2").body)
        assert [(i["cfg"], i["index"]) for i in text["images"]] == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
        shape, x = npy(d.get("/v1/generate?class=3&n=2&format=npy&seed=7").body)
        assert shape == (2, 1, 8, 8) and len(x) == 128
        two = npy(d.get("/v1/generate?class=3&n=2&format=npy&seed=7&guidance=two-pass&cfg=3").body)[1]
        one = npy(d.get("/v1/generate?class=3&n=2&format=npy&seed=7&cfg=3").body)[1]
        assert two != one, "two-pass guidance is another computation"
        body = d.get("/v1/generate?n=2&format=json&seed=7").json()
        assert png(base64.b64decode(body["images"][1]["png"]))[:2] == (8, 8)
        z = zipfile.ZipFile(io.BytesIO(d.get("/v1/generate?n=2&format=zip&seed=7").body))
        assert z.testzip() is None and z.namelist() == ["parameters.json", "0000.png", "0001.png"]
        assert json.loads(z.read("parameters.json"))["seed"] == 7
        for accept, kind in [("image/*", "image/png"), ("application/json", "application/json"),
                             ("application/zip", "application/zip"), ("text/html,*/*;q=0.1", "image/png"),
                             ("application/octet-stream, image/png;q=0", "application/octet-stream")]:
            assert d.get("/generate?seed=1", Accept=accept).header("Content-Type") == kind
        ids = [c["id"] for c in d.get("/v1/checkpoints").json()["checkpoints"]]
        for which in ("live", "latest", ids[-1]):
            r = d.get(f"/generate?checkpoint={which}")
            assert r.header("Driftd-Checkpoint") == (ids[0] if which in ("live", "latest") else ids[-1]), r


# ---- jobs ----

def test_jobs():
    with daemon() as d:
        key = {"Idempotency_Key": "one"}
        first = d.ask("POST", "/v1/jobs", {"config": "long", "name": "a"}, **key)
        again = d.ask("POST", "/v1/jobs", {"name": "a", "config": "long"}, **key)
        assert first.header("Location") == again.header("Location") == "/v1/jobs/1"
        assert again.header("Idempotency-Replayed") == "true" and not first.header("Idempotency-Replayed")
        problem(d.ask("POST", "/v1/jobs", {"config": "tiny"}, **key), 422, None, "Idempotency-Key")
        d.wait("1", "running")
        low, high = d.job("tiny", priority=-5), d.job("tiny", priority=7)
        problem(d.ask("DELETE", "/v1/jobs/1"), 409, "conflict")
        assert d.ask("POST", "/v1/jobs/1/checkpoint").status == 202
        assert d.ask("POST", "/v1/jobs/1/pause").status == 202
        d.wait("1", "paused")
        d.wait(low, "completed")
        jobs = {j["id"]: j for j in d.get("/v1/jobs").json()["jobs"]}
        assert jobs[high]["started"] < jobs[low]["started"], "the higher priority runs first"
        step = jobs["1"]["step"]
        assert d.ask("POST", "/v1/jobs/1/resume").status == 202
        d.wait("1", "running")
        assert d.ask("POST", "/v1/jobs/1/stop?mode=graceful").status == 202
        d.wait("1", "stopped")
        job = d.get("/v1/jobs/1").json()
        newest = d.get("/v1/checkpoints?job=1&limit=1").json()["checkpoints"][0]
        assert newest["step"] == job["step"] >= step, "graceful leaves a checkpoint at its step"
        d.ask("POST", "/v1/jobs/1/resume")
        d.wait("1", "running")
        assert d.ask("POST", "/v1/jobs/1/stop?mode=now").status == 202
        d.wait("1", "stopped")
        r = d.ask("PATCH", "/v1/jobs/1", {"name": "b", "notes": "two\nlines"})
        assert (r.json()["name"], r.json()["notes"]) == ("b", "two\nlines")
        pages(d)
        assert d.ask("DELETE", "/v1/jobs/1").status == 204
        problem(d.get("/v1/jobs/1"), 404)
        assert not (d.dir / "state/checkpoints/1").exists()


def pages(d):
    """Three jobs by pages of one, along the Link header."""
    path, seen = "/v1/jobs?limit=1&state=", []
    while path:
        r = d.get(path)
        seen += [j["id"] for j in r.json()["jobs"]]
        link = r.header("Link")
        assert bool(link) == ("next_cursor" in r.json())
        path = re.fullmatch(r'<(/[^>]+)>; rel="next"', link)[1] if link else None
    assert seen == ["3", "2", "1"], seen


def test_metrics():
    with trained() as d:
        m = d.get("/v1/jobs/1/metrics?names=loss,drift_norm&max_points=6").json()
        assert m["columns"] == ["step", "step_last", "time", "n", "min", "max", "mean", "last", "nonfinite"]
        for series in m["series"]:
            rows = series["rows"]
            assert 1 < len(rows) <= 6 and rows[0][0] == 1 and rows[-1][1] == 60
            assert sum(r[3] for r in rows) == 60 and all(r[4] <= r[6] <= r[5] for r in rows)
        csv = d.get("/v1/jobs/1/metrics?format=csv&names=loss&from=11&to=20")
        lines = csv.body.decode().split("\n")
        assert lines[0] == "name,step,time,value" and len(lines) == 12 and csv.header("Content-Type").startswith("text/csv")
        assert [int(x.split(",")[1]) for x in lines[1:-1]] == list(range(11, 21))
        nd = [json.loads(x) for x in d.get("/v1/jobs/1/metrics?format=ndjson&names=loss").body.split(b"\n")[:-1]]
        assert [x["step"] for x in nd] == list(range(1, 61))
        assert float(lines[1].split(",")[3]) == nd[10]["value"]


# ---- events ----

def test_events():
    with daemon() as d:
        s = Stream(d)
        at, event, hello = s.next()
        assert event == "hello" and s.retry == 2000 and not hello["resumed"], hello
        job = d.job("long")
        of_job = Stream(d, f"/v1/jobs/{job}/events")
        got = s.until("checkpoint")
        assert {"state", "metrics", "checkpoint"} <= {e for _, e, _ in got}
        metrics = [x for _, e, x in got if e == "metrics"]
        assert metrics[0]["cols"][0] == "step" and metrics[0]["step0"] == metrics[0]["rows"][0][0]
        steps = [row[0] for m in metrics for row in m["rows"]]
        assert steps == list(range(steps[0], steps[0] + len(steps))), "no step twice, none left out"
        assert all(x["job"] == job for _, e, x in of_job.until("checkpoint") if e != "hello")
        last = got[-1][0]
        seen = int(last.split("-")[1])
        s.close()
        of_job.close()
        time.sleep(0.5)
        s = Stream(d, last=last)
        at, event, hello = s.next()
        assert event == "hello" and hello["resumed"], hello
        ids = [int(s.next()[0].split("-")[1]) for _ in range(5)]
        assert ids == list(range(seen + 1, seen + 6)), (seen, ids)
        last = f"{last.split('-')[0]}-{ids[-1]}"
        s.close()
        assert d.end() == 0
        d.start()
        s = Stream(d, last=last)
        got = s.until("gap")
        assert got[0][1] == "hello" and not got[0][2]["resumed"]
        kinds = [e for _, e, _ in got]
        assert "state" in kinds, "the end of the run, out of the data base"
        assert got[-1][2]["from"] == last, got[-1]
        s.until("metrics")  # the job goes on by itself
        s.close()
        bad = Stream(d, "/v1/events?last_event_id=nonsense")
        assert bad.next()[1] == "hello"
        bad.close()
        d.recipe("frozen", {"metrics": {"spread_every": 10, "collapse_below": 1}, "train": {
            "steps": 10**6, "classes": 2, "generated": 4, "positives": 4}})
        d.ask("POST", f"/v1/jobs/{job}/stop")
        d.wait(job, "stopped")
        s = Stream(d)
        frozen = d.job("frozen")
        alert = s.until("alert", 20000)[-1][2]
        assert alert["kind"] == "collapse" and alert["job"] == frozen and "alike" in alert["text"], alert
        s.close()
        d.ask("POST", f"/v1/jobs/{frozen}/stop?mode=now")


# ---- checkpoints and samples ----

def without_config(data):
    """The same tensors as a file from elsewhere: no metadata but the format."""
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + n])
    head["__metadata__"] = {"format": "pt"}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + n:]


def test_checkpoints():
    with trained() as d:
        listed = d.get("/v1/checkpoints").json()["checkpoints"]
        assert [c["step"] for c in listed] == [60, 40] and all(c["state"] == "ok" for c in listed)
        mine = listed[0]
        whole = d.get(f"/v1/checkpoints/{mine['id']}/file")
        assert len(whole.body) == mine["bytes"] and whole.header("ETag") == f'"{mine["sha256"]}"'
        part = d.get(f"/v1/checkpoints/{mine['id']}/file", Range="bytes=100-199")
        assert part.status == 206 and part.body == whole.body[100:200]
        assert part.header("Content-Range") == f"bytes 100-199/{mine['bytes']}"
        assert d.ask("HEAD", f"/v1/checkpoints/{mine['id']}/file").header("Content-Length") == str(mine["bytes"])
        head = json.loads(whole.body[8:8 + struct.unpack("<Q", whole.body[:8])[0]])["__metadata__"]
        assert {"driftd.config", "driftd.step", "driftd.git", "driftd.data_fingerprint"} <= set(head), head
        O = {"Content_Type": "application/octet-stream"}
        r = d.ask("POST", "/v1/checkpoints?name=mine", whole.body, **O)
        assert r.status == 201 and r.json()["kind"] == "import" and r.json()["name"] == "mine"
        new = r.header("Location").rsplit("/", 1)[1]
        assert d.get(f"/v1/checkpoints/{new}").json()["name"] == "mine"
        a, b = (d.get(f"/generate?class=3&seed=5&format=npy&checkpoint={i}") for i in (new, mine["id"]))
        assert a.status == b.status == 200 and a.body == b.body, "an import gives the same images"
        foreign = without_config(whole.body)
        problem(d.ask("POST", "/v1/checkpoints", foreign, **O), 422, None, "body", "driftd.config")
        r = d.ask("POST", "/v1/checkpoints?config=tiny", foreign, **O)
        assert r.status == 201, r
        c = d.get(f"/generate?class=3&seed=5&format=npy&checkpoint={r.json()['id']}")
        assert c.body == b.body, "a file from elsewhere gives the same images"
        p = problem(d.ask("POST", "/v1/checkpoints", b"not a checkpoint", **O), 422, None, "body")
        assert str(d.dir) not in json.dumps(p), "paths of the server stay there"
        problem(d.ask("POST", "/v1/checkpoints?config=tinny", foreign, **O), 422, None, "config", "tiny")
        r = d.ask("POST", f"/v1/checkpoints/{listed[1]['id']}/activate")
        assert r.status == 200 and r.json()["active"]
        assert d.get("/generate").header("Driftd-Checkpoint") == listed[1]["id"]
        assert d.ask("POST", "/v1/checkpoints/live/activate").status == 200
        assert d.get("/generate").header("Driftd-Checkpoint") != listed[1]["id"]
        problem(d.ask("POST", "/v1/checkpoints", {"path": "/etc/passwd"}), 403, "import-root", None)


def test_import_by_path():
    with trained() as d:
        roots = d.dir / "roots"
        roots.mkdir()
        data = d.get("/v1/checkpoints/2/file").body
        (roots / "a.safetensors").write_bytes(data)
        (roots / "link").symlink_to("/etc/passwd")
        d.end()
        d.start(f"--import-root={roots}")
        r = d.ask("POST", "/v1/checkpoints", {"path": str(roots / "a.safetensors"), "name": "by path"})
        assert r.status == 201 and r.json()["name"] == "by path", r
        assert (roots / "a.safetensors").exists()
        for path in ("/etc/passwd", str(roots / "link"), f"{roots}/../state/driftd.sqlite3", "a.safetensors"):
            problem(d.ask("POST", "/v1/checkpoints", {"path": path}), 403, "import-root", "path")


def test_samples_and_evals():
    with trained() as d:
        samples = d.get("/v1/samples?job=1").json()["samples"]
        assert [s["step"] for s in samples] == [60, 40, 20]
        r = d.get(samples[0]["url"])
        assert png(r.body)[:2] == (samples[0]["width"], samples[0]["height"])
        assert "immutable" in r.header("Cache-Control")
        assert d.get(samples[0]["url"], If_None_Match=r.header("ETag")).status == 304
        assert d.get("/v1/samples?job=9").json() == {"samples": []}
        assert d.get("/v1/evals").json() == {"evals": [], "kinds": []}
        assert d.get("/v1/evals.csv").body == b"id,job,checkpoint,kind,step,metric,value\n"
        problem(d.ask("POST", "/v1/evals", {"kind": "fid", "job": "1"}), 501, "no-such-evaluation", "kind")
        problem(d.ask("POST", "/v1/evals", {"knd": "fid"}), 422, None, "knd", "`kind`")
        d.end()
        import sqlite3
        db = sqlite3.connect(d.dir / "state/driftd.sqlite3")
        for step in (20, 40):
            db.execute("INSERT INTO evals(job,kind,step,settings,results,created_us) VALUES(1,'fid',?,'{}',?,1)",
                       (step, json.dumps({"fid": 2.5, "note": "x"})))
        db.commit()
        db.close()
        d.start()
        assert [e["results"]["fid"] for e in d.get("/v1/evals?job=1").json()["evals"]] == [2.5, 2.5]
        assert d.get("/v1/evals/1").json()["step"] == 20
        assert d.get("/v1/evals.csv").body.endswith(b"2,1,,fid,40,fid,2.5\n1,1,,fid,20,fid,2.5\n")


# ---- service ----

def test_prometheus_and_status():
    with trained() as d:
        d.get("/generate")
        text = d.get("/metrics").body.decode()
        for name in ("train_steps_total", "loss", "drift_norm", "generate_images_total", "queue_depth",
                     "sse_clients", "metrics_dropped_total", "checkpoint_failures_total", "build_info"):
            assert re.search(rf"^driftd_{name}(\{{.*\}})? [-+0-9.e]+$", text, re.M), name
        for name in ("train_step_seconds", "generate_queue_seconds", "generate_compute_seconds", "batch_size"):
            assert re.search(rf'^driftd_{name}_bucket{{le="\+Inf"}} [1-9]', text, re.M), name
            assert f"# TYPE driftd_{name} histogram" in text
        for line in text.rstrip().split("\n"):
            assert re.fullmatch(r"# (HELP|TYPE) driftd_\w+ .+|driftd_\w+(\{[^}]*\})? \S+", line), line
        assert "job=" not in text, "no labels that grow"
        assert "driftd_train_steps_total 60" in text
        s = d.get("/v1/status").json()
        assert s["state"] == "running" and s["training"] is None and s["generation"]["images"] == 1
        assert set(d.get("/readyz").json()["checks"]) == {"engine", "store", "disk", "device"}
        assert d.get("/livez").body == b"ok\n"
        backup = d.dir / "copy.sqlite3"
        backup.write_bytes(d.ask("POST", "/v1/db/backup").body)
        import sqlite3
        db = sqlite3.connect(backup)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT state FROM jobs").fetchall() == [("completed",)]
        db.close()


def presented(d):
    with socket.create_connection(("127.0.0.1", d.port), 60) as s:
        context = ssl.create_default_context(cafile=d.dir / "cert.pem")
        with context.wrap_socket(s, server_hostname="127.0.0.1") as t:
            return dict(x[0] for x in t.getpeercert()["subject"])["commonName"]


def test_tls_token_reload():
    d = Daemon(DRIFTD)
    try:
        certificate(d.dir, "first")
        (d.dir / "token").write_text("correct horse\n")
        (d.dir / "d.json").write_text(json.dumps({"log_level": "error", "tls_cert": f"{d.dir}/cert.pem",
                                                  "tls_key": f"{d.dir}/key.pem",
                                                  "token_file": f"{d.dir}/token"}))
        d.flags = [f"--config={d.dir}/d.json"]
        d.start()
        d.tls = ssl.create_default_context(cafile=d.dir / "cert.pem")
        r = d.get("/v1/status")
        problem(r, 401, "unauthorized")
        assert r.header("WWW-Authenticate").startswith("Bearer")
        problem(d.get("/metrics", Authorization="Bearer wrong horse"), 401)
        assert d.get("/v1/status", Authorization="Bearer correct horse").status == 200
        for path in ("/livez", "/readyz", "/openapi.json"):
            assert d.get(path).status == 200
        assert presented(d) == "first" and "event=reload" not in d.said()
        certificate(d.dir, "second")
        (d.dir / "token").write_text("another horse\n")
        (d.dir / "d.json").write_text((d.dir / "d.json").read_text().replace('"error"', '"info"'))
        d.process.send_signal(signal.SIGHUP)
        for _ in range(500):
            if "event=reload" in d.said():
                break
            time.sleep(0.02)
        assert presented(d) == "second", "the certificate is read again"
        d.tls = ssl.create_default_context(cafile=d.dir / "cert.pem")
        problem(d.get("/v1/status", Authorization="Bearer correct horse"), 401)
        assert d.get("/v1/status", Authorization="Bearer another horse").status == 200
        assert d.end() == 0
        assert "event=stopped" in d.said(), "the level of the file is info now"
        d.start("--log-level=error")
        before = d.said()
        d.process.send_signal(signal.SIGHUP)
        assert d.get("/livez").status == 200 and d.end() == 0
        assert "event=stopped" not in d.said()[len(before):], "a flag goes before the file, at a reload too"
    finally:
        d.close()


def test_drain():
    """SIGTERM: what has been accepted is answered, newcomers are not, the exit status is 0."""
    with trained("--max-batch=1") as d:
        got = []
        t = threading.Thread(target=lambda: got.append(d.get("/generate?n=300&format=npy")))
        t.start()
        while d.get("/v1/status").json()["generation"]["waiting"] == 0 and not got:
            time.sleep(0.001)
        assert d.end() == 0
        t.join()
        assert got[0].status == 200 and len(got[0].body) > 300 * 64 * 4, got


if __name__ == "__main__":
    run([test_document_and_server, test_status_codes, test_busy, test_formats, test_class_names, test_jobs, test_metrics,
         test_events, test_checkpoints, test_import_by_path, test_samples_and_evals,
         test_prometheus_and_status, test_tls_token_reload, test_drain])
