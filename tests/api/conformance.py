#!/usr/bin/env python3
"""The interface against the running daemon: /openapi.json walked in both directions, every status
code, images in every format.

Arguments: driftd, docs/api.md.
"""
import base64
import gzip
import http.client
import io
import json
import pathlib
import random
import re
import socket
import struct
import sys
import threading
import urllib.parse
import zipfile

from live import Stream, daemon, npy, png, problem, run, trained

MANUAL = pathlib.Path(sys.argv[2]).read_text()

# What the interface promises; the document of the server must say exactly this.
PROMISED = """
GET POST /generate
GET POST /v1/generate
POST /v1/images/generations
GET POST /v1/jobs
GET PATCH DELETE /v1/jobs/{id}
POST /v1/jobs/{id}/stop
POST /v1/jobs/{id}/pause
POST /v1/jobs/{id}/resume
POST /v1/jobs/{id}/checkpoint
GET /v1/jobs/{id}/metrics
GET /v1/jobs/{id}/alerts
GET /v1/metrics.csv
GET /v1/jobs/{id}/events
GET /v1/jobs/{id}/field
GET /v1/events
GET POST /v1/checkpoints
GET PATCH DELETE /v1/checkpoints/{id}
POST /v1/checkpoints/{id}/activate
GET PUT DELETE /v1/served
GET /v1/checkpoints/{id}/file
GET POST /v1/datasets
GET DELETE /v1/datasets/{id}
PUT /v1/datasets/{id}/upload
POST /v1/datasets/{id}/import
GET /v1/datasets/{id}/samples
GET /v1/datasets/{id}/recipe
GET POST /v1/evals
GET DELETE /v1/evals/{id}
GET /v1/evals/{id}/files/{name}
GET /v1/evals.csv
GET /v1/evals/curve
GET /v1/evals/curve.png
GET /v1/samples
GET /v1/samples/{id}.png
GET POST /v1/sweeps
GET DELETE /v1/sweeps/{id}
GET /v1/sweeps/{id}.csv
GET /v1/sweeps/{id}.md
GET /v1/sweeps/{id}.png
GET /v1/sweeps/{id}/curve
POST /v1/sweeps/{id}/stop
POST /v1/sweeps/{id}/resume
GET /v1/configs
GET /v1/configs/schema
GET /v1/configs/{id}
GET /v1/status
POST /v1/db/backup
POST /v1/backups
GET /v1/backups/{id}/files/{name}
DELETE /v1/backups/{id}
GET /metrics
GET /livez
GET /health
GET /readyz
GET /openapi.json
"""
# JSON whose members depend on the recipe, the file or the document.
OPEN = {"/v1/configs/{id}", "/v1/evals/{id}/files/{name}", "/openapi.json"}
# There only while a two-dimensional job trains, or after it.
OF_TOYS = {("GET", "/v1/jobs/{id}/field")}


# ---- the document and the server ----

def concrete(path):
    for folder, name in [("configs", "tiny"), ("checkpoints", "2"), ("datasets", "digits")]:
        path = path.replace(f"/v1/{folder}/{{id}}", f"/v1/{folder}/{name}")
    return path.replace("{id}", "1").replace("{name}", "grid.png")


BODIES = {("POST", "/v1/jobs"): {"config": "tiny"}, ("PATCH", "/v1/jobs/{id}"): {"notes": "x"},
          ("PATCH", "/v1/checkpoints/{id}"): {"tags": ["good"]},
          ("POST", "/v1/checkpoints"): {"path": "/nowhere"}, ("POST", "/v1/datasets"): {"name": "x"},
          ("POST", "/v1/images/generations"): {"prompt": "3"},
          ("PUT", "/v1/datasets/{id}/upload"): b"x", ("POST", "/v1/evals"): {"checkpoint": "77", "judge": "x"},
          ("PUT", "/v1/served"): {"checkpoint": "2"},
          ("POST", "/v1/sweeps"): {"name": "x", "recipes": ["tiny"]}}


def test_document_and_server():
    promised = {(m, line.split()[-1]) for line in PROMISED.split("\n") if line
                for m in line.split()[:-1]}
    with trained() as d:
        doc = d.get("/openapi.json").json()
        assert doc["openapi"].startswith("3.1")
        kind = doc["components"]["schemas"]["JobCreate"]["properties"]["kind"]
        assert kind["enum"] == ["train", "encoder", "eval"], kind  # the daemon's table
        listed = {(m.upper(), path) for path, ops in doc["paths"].items() for m in ops}
        assert listed == promised, listed ^ promised
        for _, path in promised:
            assert path.replace("{id}", "ID").replace("{name}", "NAME") in MANUAL, f"docs/api.md does not describe {path}"
        for path, ops in doc["paths"].items():
            allow = d.ask("OPTIONS", concrete(path)).header("Allow").split(", ")
            assert set(allow) - {"HEAD", "OPTIONS"} == {m.upper() for m in ops}, (path, allow)
            wrong = d.ask("PATCH" if "PUT" in allow else "PUT", concrete(path))
            problem(wrong, 405, "method-not-allowed")
            assert wrong.header("Allow") == ", ".join(allow), wrong
        ids = [op["operationId"] for ops in doc["paths"].values() for op in ops.values()]
        assert len(set(ids)) == len(ids) and all(re.fullmatch(r"\w+", i) for i in ids), ids
        references(doc, doc)
        for path, ops in doc["paths"].items():  # each has a schema of its own
            for method, op in ops.items():
                for content in [*op["responses"].values(), op.get("requestBody", {})]:
                    got = content.get("content", {}).get("application/json", {"schema": {"$ref": "none"}})
                    assert got["schema"]["$ref"] != "#/components/schemas/Any" or path in OPEN, (method, path)
        operations = [(m.upper(), path, op) for path, ops in doc["paths"].items() for m, op in ops.items()]
        for method, path, op in sorted(operations, key=lambda x: x[0] == "DELETE"):
            walk(d, method, path, op)


def references(doc, part):
    """Every $ref leads somewhere."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if key == "$ref":
            at = doc
            for name in value.removeprefix("#/").split("/"):
                at = at[name]
        elif isinstance(value, (dict, list)):
            references(doc, value)


def walk(d, method, path, op):
    """One operation: it exists and takes its documented parameters and no others."""
    target = concrete(path)
    if "text/event-stream" in str(op["responses"]):
        s = Stream(d, target)
        assert s.next()[1] == "hello"
        s.close()
        return
    if method == "DELETE" and "jobs" in path:  # the job of an activated checkpoint cannot be removed
        problem(d.ask(method, target), 409, "conflict", None, "checkpoint 2 of job 1 is activated")
        d.ask("POST", "/v1/checkpoints/live/activate")
    r = d.ask(method, target, BODIES.get((method, path)))
    ok = int(next(code for code in op["responses"] if code != "default"))
    expected = {("DELETE", "/v1/jobs/{id}"): {204, 404},
                ("DELETE", "/v1/checkpoints/{id}"): {404, 409},
                ("GET", "/v1/backups/{id}/files/{name}"): {404}, ("DELETE", "/v1/backups/{id}"): {404}, ("GET", "/v1/evals/{id}"): {404},
                ("DELETE", "/v1/evals/{id}"): {404}, ("GET", "/v1/evals/{id}/files/{name}"): {404},
                ("POST", "/v1/evals"): {422}, ("DELETE", "/v1/sweeps/{id}"): {204, 404, 409},
                ("POST", "/v1/checkpoints"): {403}, ("DELETE", "/v1/datasets/{id}"): {409},
                ("PUT", "/v1/datasets/{id}/upload"): {415},
                ("POST", "/v1/datasets/{id}/import"): {404},
                ("GET", "/v1/datasets/{id}/recipe"): {404}}.get((method, path), {ok})
    if path.startswith("/v1/jobs/{id}/") and method == "POST":
        expected = {202, 409}  # job 1 has ended
    if (method, path) in OF_TOYS:
        expected = {200, 404}
    assert r.status in expected, (method, path, r)
    if r.status == ok and r.body:
        said = op["responses"][str(ok)]["content"]
        assert any(r.header("Content-Type").startswith(kind) for kind in said), (method, path, r)
    names = [p["name"] for p in op.get("parameters", []) if p["in"] == "query"]
    p = problem(d.ask(method, target + "?frobnicate=1", BODIES.get((method, path))), 400,
                "unknown-parameter", "frobnicate")
    for param in op.get("parameters", []):
        bounds(d, method, target, param)
    for name in names:
        refused = d.ask(method, f"{target}?{name}=%2A%2A", BODIES.get((method, path)))
        assert refused.status != 400, (method, path, name, refused)
        near = problem(d.ask(method, f"{target}?{name}q=1", BODIES.get((method, path))), 400)
        assert name in str(near["errors"]), near
    assert names or "takes none" in str(p["errors"]), p


def bounds(d, method, target, p):
    """The ranges that the document states are those that the server goes by."""
    low, high = (p["schema"].get(k) for k in ("minimum", "maximum"))
    if low is None or p["in"] != "query" or method != "GET":
        return
    more = "&seed2=1" if p["name"] == "steps" else ""  # which are of a walk
    values = {low - 1: 422} | ({high + 1: 422} if high < 2**53 - 1 else {})
    for value, status in values.items():
        r = d.ask(method, f"{target}?{p['name']}={value}{more}")
        assert r.status == status and p["name"] in [e["field"] for e in r.json()["errors"]], (target, p, r)
    for key in ("default", "minimum"):  # these are taken, whatever else is wrong with the request
        if key in p["schema"]:
            r = d.ask(method, f"{target}?{p['name']}={p['schema'][key]}{more}")
            assert r.status != 422 or p["name"] not in str(r.json().get("errors")), (target, p, r)


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
        problem(d.ask("POST", "/v1/jobs/1/stop", b"x"), 400, "unexpected-body")
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
            ("/v1/generate?cfg=1001", "cfg", "0 to 1000"), ("/v1/generate?n=65", "n", "1 to 64"),
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
            ({"config": "tiny", "kind": "encoder"}, "kind", "kind train"),
            ({"confg": "tiny"}, "confg", "`config`")]:
        problem(d.ask("POST", "/v1/jobs", body), 422, None, field, word)
    problem(d.ask("POST", "/v1/jobs", {"config": "tiny", "kind": "eval"}), 422, None, "kind", "kind train")
    problem(d.ask("PATCH", "/v1/jobs/1", {"priority": 1}), 409, "conflict", "priority", "completed")
    problem(d.ask("PATCH", "/v1/jobs/1", {"priority": 1001}), 422, None, "priority", "-1000 to 1000")
    problem(d.ask("PATCH", "/v1/jobs/1", {"prioriti": 1}), 422, None, "prioriti", "`priority`")


def test_busy():
    """429 with a queue that is full, 504 past the deadline, 503 while the first model is made."""
    with daemon("--max-queue=8", "--max-batch=1") as d:
        problem(d.get("/generate"), 409, "no-model-yet")
        d.recipe("slow", {"model": {"dim": 128, "depth": 4, "heads": 4, "patch": 1},
                          "data": {"set": "digits", "count": 2000000, "size": 8, "fit": "resize"},
                          "train": {"steps": 10**6, "classes": 4, "generated": 16, "positives": 16}})
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
    """By name, any case, in lists; an unknown one is answered with the nearest; also of an imported file."""
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


def test_many_long_names():
    """90 classes, names of up to 200 bytes in UTF-8, of a file's own metadata: none is cut or lost."""
    names = [f"Straßenkreuzung mit Ampel und Zebrastreifen Nr. {i} " + "ü" * (i % 70) for i in range(90)]
    with daemon() as d:
        d.end()
        d.start(f"--data-dir={d.dir}/data")
        folder = d.dir / "data/signs"
        folder.mkdir(parents=True)
        for part in ("train", "t10k"):
            pixels = random.Random(2).randbytes(180 * 8 * 8)
            for kind, head, body in [("images-idx3", struct.pack(">IIII", 0x803, 180, 8, 8), pixels),
                                     ("labels-idx1", struct.pack(">II", 0x801, 180), bytes(range(90)) * 2)]:
                (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + body))
        d.recipe("signs", {"data": {"set": "idx", "path": "signs", "size": 8, "classes": 90}, "train": {
            "steps": 3, "classes": 2, "generated": 4, "positives": 2, "unconditional": 4}})
        job = d.job("signs")
        d.wait(job, "completed", "failed")
        assert d.state(job) == "completed", d.get(f"/v1/jobs/{job}").json()["error"]
        data = d.get("/v1/checkpoints/1/file").body
        size = struct.unpack("<Q", data[:8])[0]
        head = json.loads(data[8:8 + size])
        head["__metadata__"]["driftd.classes"] = json.dumps(names)
        head = json.dumps(head).encode()
        head += b" " * (-len(head) % 8)
        data = struct.pack("<Q", len(head)) + head + data[8 + size:]
        new = d.ask("POST", "/v1/checkpoints", data, Content_Type="application/octet-stream").json()["id"]
        ask = f"/generate?checkpoint={new}&seed=5&format=json&class="
        for i in (0, 63, 64, 69, 89):
            r = d.get(ask + urllib.parse.quote(names[i]))
            assert [x["class"] for x in r.json()["images"]] == [i], (i, r)
        problem(d.get(ask + urllib.parse.quote(names[89][:-1] + "u")), 422, None, "class")
        d.end()


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
        packed = d.get("/v1/generate?n=2&format=zip&seed=7").body
        assert packed == d.get("/v1/generate?n=2&format=zip&seed=7").body
        z = zipfile.ZipFile(io.BytesIO(packed))
        assert all(i.compress_type == zipfile.ZIP_STORED for i in z.infolist())
        assert png(z.read("0001.png"))[:2] == (8, 8)
        assert z.testzip() is None and z.namelist() == ["parameters.json", "0000.png", "0001.png"]
        assert json.loads(z.read("parameters.json"))["seed"] == 7
        for accept, kind in [("image/*", "image/png"), ("application/json", "application/json"),
                             ("application/zip", "application/zip"), ("text/html,*/*;q=0.1", "image/png"),
                             ("application/octet-stream, image/png;q=0", "application/octet-stream")]:
            assert d.get("/generate?seed=1", Accept=accept).header("Content-Type") == kind
        for accept, kind in [("application/json, */*;q=0.1", "application/json"), ("image/apng", "image/apng"),
                             ("image/png;q=0.2, application/zip;q=0.9", "application/zip"), ("*/*", "image/png"),
                             ("image/apng, image/png;q=0.5", "image/apng")]:  # by weight; apng is of walks
            assert d.get("/generate?seed=1&seed2=2&steps=2", Accept=accept).header("Content-Type") == kind, accept
        problem(d.get("/generate?seed=1", Accept="image/apng"), 406)
        ids = [c["id"] for c in d.get("/v1/checkpoints").json()["checkpoints"]]
        for which in ("served", "live", "latest", ids[-1]):
            r = d.get(f"/generate?checkpoint={which}")
            assert r.header("Driftd-Checkpoint") == (ids[-1] if which == ids[-1] else ids[0]), r


if __name__ == "__main__":
    run([test_document_and_server, test_status_codes, test_busy, test_formats, test_class_names,
         test_many_long_names])
