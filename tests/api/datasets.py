#!/usr/bin/env python3
"""Data sets through the running daemon's HTTP and through driftctl: added by path and by upload,
looked at, trained on, removed; uploads that are cut off, collide or lie, archives that are damaged
or hostile, a full disk, and a daemon that is killed in the middle.

Arguments: driftd, driftctl. The pictures are drawn here; nothing is read from elsewhere.
"""
import contextlib
import io
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
import zlib

from live import Daemon, daemon, die_with_parent, png, problem, run

os.environ.pop("DRIFTD_DATA", None)  # each test brings its own

DRIFTCTL = os.path.abspath(sys.argv[2])
OCTETS = {"Content_Type": "application/octet-stream"}


# ---- pictures ----

def write_png(w, h, kind, bits, rows, *chunks):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    body = b"".join(b"\0" + r for r in rows)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, kind, 0, 0, 0)) +
            b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", zlib.compress(body, 1)) + chunk(b"IEND", b""))


def picture(rng, red):
    """A disc or a bar on a ground, 20 to 90 pixels each way, as one of six kinds of PNG."""
    w, h, form = rng.randint(20, 90), rng.randint(20, 90), rng.randrange(6)
    cx, cy, r = w / 2 + rng.uniform(-4, 4), h / 2 + rng.uniform(-4, 4), min(w, h) * rng.uniform(0.2, 0.4)
    inside = ((lambda x, y: (x - cx) ** 2 + (y - cy) ** 2 < r * r) if red else
              (lambda x, y: abs(x - cx) < r / 2.5))
    ink, ground = ((200, 30, 30), (240, 240, 230)) if red else ((20, 60, 200), (230, 240, 240))
    mask = [[inside(x, y) for x in range(w)] for y in range(h)]
    grey = [40 if red else 90, 230]
    if form == 0:  # palette
        return write_png(w, h, 3, 8, [bytes(m) for m in mask], (b"PLTE", bytes(ground + ink)))
    if form == 1:  # grey
        return write_png(w, h, 0, 8, [bytes(grey[not v] for v in m) for m in mask])
    if form == 2:  # 16 bit
        return write_png(w, h, 2, 16, [struct.pack(f">{3 * w}H", *(257 * c for v in m for c in (ink if v else ground)))
                                       for m in mask])
    if form == 3:  # alpha
        return write_png(w, h, 6, 8, [b"".join(bytes(ink) + b"\xff" if v else b"\0\0\0\0" for v in m) for m in mask])
    if form == 4:  # one bit
        return write_png(w, h, 0, 1, [int("".join("01"[not v] for v in m).ljust((w + 7) // 8 * 8, "0"), 2)
                                      .to_bytes((w + 7) // 8, "big") for m in mask])
    return write_png(w, h, 2, 8, [b"".join(bytes(ink if v else ground) for v in m) for m in mask])


def two_classes(n=200, seed=1):
    """{path: bytes} of n pictures in discs/ and bars/."""
    rng = random.Random(seed)
    return {f"{'discs' if i % 2 else 'bars'}/{i:03}.png": picture(rng, i % 2 == 1) for i in range(n)}


FEW = two_classes(24, 2)


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return out.getvalue()


def tarred(files, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for name, data in files.items():
            e = tarfile.TarInfo(name)
            e.size = len(data)
            t.addfile(e, io.BytesIO(data))
    return out.getvalue()


def folder(at, files):
    for name, data in files.items():
        p = pathlib.Path(at) / name
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_bytes(data)


# ---- the interface ----

def create(d, name, **more):
    r = d.ask("POST", "/v1/datasets", {"name": name, **more})
    assert r.status == 201 and r.header("Location") == f"/v1/datasets/{name}", r
    return r.json()


def put(d, name, data, offset=0):
    return d.ask("PUT", f"/v1/datasets/{name}/upload?offset={offset}", data, **OCTETS)


def settled(d, name, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        s = d.get(f"/v1/datasets/{name}").json()
        if s["state"] in ("ready", "failed"):
            return s
        time.sleep(0.05)
    raise AssertionError(f"{name} is {s}")


def upload(d, name, data, part=1 << 20, **options):
    create(d, name, options=options)
    for at in range(0, len(data), part):
        r = put(d, name, data[at:at + part], at)
        assert r.status == 200 and r.json()["received"] == min(len(data), at + part), r
    r = d.ask("POST", f"/v1/datasets/{name}/import?bytes={len(data)}")
    assert r.status == 202 and r.json()["state"] in ("importing", "ready", "failed"), r
    return settled(d, name)


def files_of(d, name):
    return sorted(p.name for p in (d.dir / "state/datasets" / name).iterdir())


def test_upload_look_train():
    """200 pictures of two classes, of wild sizes and kinds: sent, seen, trained on, generated."""
    with daemon() as d:
        s = upload(d, "shapes200", zipped(two_classes()), 100000, size=16, test_share=0.1)
        assert s["state"] == "ready", s
        assert (s["size"], s["channels"], s["train"] + s["test"]) == (16, 3, 200), s
        assert [c["name"] for c in s["classes"]] == ["bars", "discs"], s
        assert s["report"]["skipped"] == 0 and s["report"]["largest"][0] > 60, s
        assert files_of(d, "shapes200") == ["shapes200.pictures"]
        listed = {x["name"]: x for x in d.get("/v1/datasets").json()["datasets"]}
        assert listed["shapes200"]["class_count"] == 2 and listed["digits"]["state"] == "ready"
        assert listed["mnist"]["own"] is False and "classes" not in listed["shapes200"]
        w, h, _ = png(d.get("/v1/datasets/shapes200/samples?n=5").body)
        assert (w, h) == (5 * 64 + 8, 2 * 64 + 2) or w > 5 * 16, (w, h)
        assert png(d.get("/v1/datasets/shapes200/samples?class=discs&n=3").body)[1] < h
        problem(d.get("/v1/datasets/shapes200/samples?class=cats"), 422, None, "class")
        assert d.get("/v1/datasets/digits/samples").status == 200
        r = d.get("/v1/datasets/shapes200/recipe?minutes=5")
        assert r.status == 200, r
        data = r.json()["config"]["data"]
        assert (data["set"], data["path"], data["size"], data["channels"], data["classes"]) == (
            "folder", "shapes200", 16, 3, 2), data
        job = trained_on(d, r.json()["config"])
        assert d.get(f"/v1/jobs/{job}").json()["class_names"] == ["bars", "discs"]
        assert png(d.ask("POST", "/v1/generate?class=discs&n=4").body)
        long = d.job({**small(), "train": {"steps": 10**9, "generated": 4, "positives": 4}})
        d.wait(long, "running")
        problem(d.ask("DELETE", "/v1/datasets/shapes200"), 409, "conflict", None, f"job {long}")
        d.ask("POST", f"/v1/jobs/{long}/stop?mode=now")
        d.wait(long, "stopped")
        assert d.ask("DELETE", "/v1/datasets/shapes200").status == 204
        problem(d.get("/v1/datasets/shapes200"), 404, "not-found")
        assert not (d.dir / "state/datasets/shapes200").exists()


def test_truncated_while_training():
    """Somebody truncates the file that a job trains from: an error of the job, not the end of the daemon."""
    with daemon() as d:
        assert upload(d, "lost", zipped(two_classes()), size=16, test_share=0.1)["state"] == "ready"
        job = d.job({**small("lost"), "train": {"steps": 10**9, "generated": 4, "positives": 4}})
        d.wait(job, "running")
        while not d.get(f"/v1/jobs/{job}").json()["step"]:
            time.sleep(0.05)
        os.truncate(d.dir / "state/datasets/lost/lost.pictures", 5000)
        d.wait(job, "failed")
        error = d.get(f"/v1/jobs/{job}").json()["error"]
        assert "lost.pictures: the picture file was truncated" in error and "import" in error, error
        assert d.get("/v1/datasets/lost/samples").status >= 400
        r = d.ask("POST", "/v1/jobs", {"config": small("lost")})
        assert r.status == 201, r
        d.wait(r.json()["id"], "failed")
        assert d.get("/livez").status == 200
        d.wait(d.job("tiny"), "completed")


def test_removed_while_a_job_may_go_on():
    """A set stays while a job that uses it is paused; once it is gone, no folder of its name takes its place."""
    with tempfile.TemporaryDirectory() as tmp:
        os.mkdir(f"{tmp}/data")
        with daemon(f"--data-dir={tmp}/data") as d:
            assert upload(d, "few", tarred(FEW), size=16)["state"] == "ready"
            config = {**small("few"), "train": {"steps": 10**9, "generated": 4, "positives": 4}}
            config["data"]["fit"] = "crop"
            job = d.job(config)
            d.wait(job, "running")
            while not d.get(f"/v1/jobs/{job}").json()["step"]:
                time.sleep(0.05)
            assert d.ask("POST", f"/v1/jobs/{job}/pause").status == 202
            d.wait(job, "paused")
            problem(d.ask("DELETE", "/v1/datasets/few"), 409, "conflict", None, f"job {job}")
            assert d.ask("POST", f"/v1/jobs/{job}/stop").status == 202
            d.wait(job, "stopped")
            assert d.ask("DELETE", "/v1/datasets/few").status == 204
            assert d.ask("POST", f"/v1/jobs/{job}/resume").status == 202
            d.wait(job, "failed")
            error = d.get(f"/v1/jobs/{job}").json()["error"]
            assert "no data set few: it was removed" in error, error
            folder(f"{tmp}/data/few", two_classes(24, 9))
            assert d.ask("POST", f"/v1/jobs/{job}/resume").status == 202
            d.wait(job, "failed")
            error = d.get(f"/v1/jobs/{job}").json()["error"]
            assert "trained on data with fingerprint" in error, error
            kept = d.get(f"/v1/checkpoints?job={job}").json()["checkpoints"]
            assert kept and kept[0]["state"] == "ok", kept


def small(path="shapes200"):
    return {"data": {"set": "folder", "path": path},
            "model": {"dim": 16, "depth": 1, "heads": 2, "patch": 8, "registers": 1, "style_tokens": 2},
            "train": {"steps": 20, "generated": 4, "positives": 4}, "optim": {"warmup": 5}}


def trained_on(d, config):
    config["train"].update(steps=20, minutes=0, generated=8, positives=8, unconditional=0)
    job = d.job(config)
    d.wait(job, "completed", "failed", seconds=200)
    assert d.state(job) == "completed", d.get(f"/v1/jobs/{job}").json()
    return job


def test_what_a_configuration_leaves_out():
    with daemon() as d:
        assert upload(d, "few", tarred(FEW), size=16)["state"] == "ready"
        job = d.job({**small("few")})
        data = d.get(f"/v1/jobs/{job}").json()["config"]["data"]
        assert (data["size"], data["channels"], data["classes"]) == (16, 3, 2), data
        d.wait(job, "completed", "failed")
        assert d.state(job) == "completed", d.get(f"/v1/jobs/{job}").json()
        for key, value in [("size", 32), ("channels", 1), ("classes", 3)]:
            config = small("few")
            config["data"][key] = value
            problem(d.ask("POST", "/v1/jobs", {"config": config}), 422, None, None, f"data.{key}")
        over = {"config": "tiny", "overrides": {"data.set": "folder", "data.path": "few", "data.fit": "crop",
                                                "model.patch": 8}}
        r = d.ask("POST", "/v1/jobs", over)
        assert r.status == 201 and r.json()["config"]["data"]["classes"] == 2, r
        create(d, "later")
        problem(d.ask("POST", "/v1/jobs", {"config": small("later")}), 409, None, None, "uploading")


def test_more_pictures_a_step_than_there_are():
    """Said at once: an encoder may have to be trained before the job itself begins."""
    with daemon() as d:
        files = {k: v for k, v in FEW.items() if not k.startswith("discs/") or k.endswith(("1.png", "3.png"))}
        s = upload(d, "few", tarred(files), size=16, test_share=0)
        smallest = min(s["classes"], key=lambda c: c["train"])
        assert smallest["name"] == "discs" and smallest["train"] < s["train"] / 2, s
        config = small("few")
        config["train"]["positives"] = smallest["train"] + 1
        r = d.ask("POST", "/v1/jobs", {"config": config})
        problem(r, 422, None, None, "train.positives")
        assert f"class discs of the data set few has {smallest['train']} pictures" in r.body.decode(), r
        config["data"]["limit"] = 3
        config["train"].update(positives=1, unconditional=4)
        problem(d.ask("POST", "/v1/jobs", {"config": config}), 422, None, None, "train.unconditional")
        assert d.get("/v1/jobs").json()["jobs"] == []


def test_part_of_cifar():
    """A part with two of the ten classes is a set of two classes, on which one can train."""
    rng = random.Random(1)
    rows = [bytes([label]) + rng.randbytes(3072) for label in [3, 5] * 10]
    with daemon() as d:
        s = upload(d, "part", zipped({"cifar-10-batches-bin/data_batch_1.bin": b"".join(rows),
                                      "cifar-10-batches-bin/test_batch.bin": rows[0] + rows[1]}))
        assert [(c["name"], c["train"], c["test"]) for c in s["classes"]] == [("cat", 10, 1), ("dog", 10, 1)], s
        assert "class airplane has no picture to train on and is left out" in s["report"]["notes"], s
        config = d.get("/v1/datasets/part/recipe?minutes=5").json()["config"]
        assert config["data"]["classes"] == 2 and config["train"]["positives"] == 10, config


def test_recipe_with_an_encoder():
    """From half an hour on: the recipe `folder`, whose encoder is trained on the same pictures."""
    configs = pathlib.Path(__file__).parent.parent.parent / "configs"
    with daemon() as d:
        for name in ("folder.json", "folder-encoder.json"):
            shutil.copy(configs / name, d.dir / "recipes" / name)
        assert upload(d, "few", tarred(FEW), size=16)["state"] == "ready"
        for side in (15, 18): # sides that 4 does not divide
            assert upload(d, f"few{side}", tarred(FEW), size=side)["size"] == side
            assert d.get(f"/v1/datasets/few{side}/recipe?minutes=45").status == 200
        config = d.get("/v1/datasets/few/recipe?minutes=45").json()["config"]
        assert config["features"]["kind"] == "encoder" and config["train"]["minutes"] == 45, config
        job = d.job(config)
        jobs = {j["kind"]: j["id"] for j in d.get("/v1/jobs").json()["jobs"]}
        data = d.get(f"/v1/jobs/{jobs['encoder']}").json()["config"]["data"]
        assert jobs["train"] == job and (data["path"], data["size"], data["classes"]) == ("few", 16, 2), data
        d.wait(jobs["encoder"], "running")
        problem(d.ask("DELETE", "/v1/datasets/few"), 409, None, None, jobs["encoder"])
        for j in (job, jobs["encoder"]):
            d.ask("POST", f"/v1/jobs/{j}/stop?mode=now")
            d.wait(j, "stopped", "failed")


def test_by_path():
    with tempfile.TemporaryDirectory() as tmp:
        folder(f"{tmp}/data/mine", FEW)
        folder(f"{tmp}/elsewhere", FEW)
        os.symlink(f"{tmp}/elsewhere", f"{tmp}/data/link")
        os.mkdir(f"{tmp}/data/".encode() + b"caf\xe9")
        os.symlink(b"caf\xe9", f"{tmp}/data/latin1".encode())
        pathlib.Path(f"{tmp}/data/few.zip").write_bytes(zipped(FEW))
        with daemon(f"--data-dir={tmp}/data") as d:
            for name, path in [("a", "mine"), ("b", f"{tmp}/data/mine"), ("c", "few.zip")]:
                create(d, name, path=path, options={"size": 16})
                s = settled(d, name)
                assert s["state"] == "ready" and s["train"] + s["test"] == 24, s
            shutil.rmtree(f"{tmp}/data/mine")  # decoded: the source is not needed any more
            assert d.get("/v1/datasets/a/samples").status == 200
            for path in ["link", "../elsewhere", f"{tmp}/elsewhere", "/etc", "", "nowhere", str(d.dir / "state")]:
                problem(d.ask("POST", "/v1/datasets", {"name": "x", "path": path}), 422, None, "path")
            problem(d.ask("POST", "/v1/datasets", {"name": "x", "path": "latin1"}), 422, None, "path", "not UTF-8")
            assert [s["name"] for s in d.get("/v1/datasets").json()["datasets"] if s["own"]] == ["a", "b", "c"]


def test_by_path_again():
    """A set that failed is tried again where it was added, not where a link leads by then."""
    with tempfile.TemporaryDirectory() as tmp:
        folder(f"{tmp}/data/mine", {"a/1.png": b"no picture"})
        folder(f"{tmp}/elsewhere", FEW)
        with daemon(f"--data-dir={tmp}/data") as d:
            create(d, "a", path="mine")
            assert settled(d, "a")["state"] == "failed"
            shutil.rmtree(f"{tmp}/data/mine")
            os.symlink(f"{tmp}/elsewhere", f"{tmp}/data/mine")
            assert d.ask("POST", "/v1/datasets/a/import").status == 202
            s = settled(d, "a")
            assert s["state"] == "failed" and "below the data directory" in s["error"], s


def test_samples_read_nothing_first():
    """Looking at a built-in set does not import it on a thread of HTTP."""
    with tempfile.TemporaryDirectory() as tmp:
        part = b"".join(bytes([k % 10]) + bytes([k]) * 3072 for k in range(20))
        names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
        folder(f"{tmp}/data/cifar10/cifar-10-batches-bin", {name: part for name in names})
        with daemon(f"--data-dir={tmp}/data") as d:
            problem(d.get("/v1/datasets/cifar10/samples"), 409)
            assert d.get("/v1/datasets/cifar10").json()["state"] == "ready"


def test_built_in_sets_that_are_there():
    """Ready is what a job would find: also beside a folder of the set's name, or in the data directory itself."""
    with tempfile.TemporaryDirectory() as tmp:
        os.mkdir(f"{tmp}/data")
        with daemon(f"--data-dir={tmp}/data") as d:
            state = lambda name: d.get(f"/v1/datasets/{name}").json()["state"]
            names = ["cifar10", "cifar100", "mnist", "fashion-mnist"]
            assert [state(name) for name in [*names, "digits"]] == [*4 * ["missing"], "ready"]
            folder(f"{tmp}/data", {"cifar-10-batches-bin/data_batch_1.bin": b"", "cifar100/README": b"",
                                   "fashion-mnist/README": b"", "train-images-idx3-ubyte.gz": b""})
            assert [state(name) for name in names] == ["ready", "missing", "missing", "missing"]
            folder(f"{tmp}/data", {"cifar100/apple/1.png": b"", "train-labels-idx1-ubyte": b""})
            listed = {s["name"]: s["state"] for s in d.get("/v1/datasets").json()["datasets"]}
            assert [listed[name] for name in names] == 4 * ["ready"], listed


def test_many_looks():
    """Each look holds a set and its pictures in memory: no more than four at a time, and not where writes go."""
    with daemon() as d:
        seen = []
        look = lambda: seen.append(d.get("/v1/datasets/shapes/samples?n=2").status)
        d.get("/v1/datasets")  # the schema of what is compared, once
        lookers = [threading.Thread(target=look) for _ in range(12)]
        for t in lookers:
            t.start()
        for t in lookers:
            t.join()
        assert seen == 12 * [200], seen
        # Threads of such requests stay for ten seconds.
        names = [p.read_text() for p in pathlib.Path(f"/proc/{d.process.pid}/task").glob("*/comm")]
        assert 1 <= names.count("http-later\n") <= 4, names


def test_refusals():
    with daemon("--max-upload-mb=1") as d:
        for name in ["", ".x", "a/b", "../a", "ä", "a b", "x" * 64, "con\n"]:
            problem(d.ask("POST", "/v1/datasets", {"name": name}), 422, None, "name")
        for name in ["digits", "folder", "mnist"]:
            problem(d.ask("POST", "/v1/datasets", {"name": name}), 409, None, "name")
        problem(d.ask("POST", "/v1/datasets", {}), 422, None, "name")
        for key, value in [("size", 0.5), ("size", 5000), ("channels", 2), ("fit", "squash"), ("background", "red"),
                           ("test_share", 1), ("refuse_bad", 1), ("sise", 3), ("seed", -1)]:
            problem(d.ask("POST", "/v1/datasets", {"name": "x", "options": {key: value}}), 422, None, "options." + key)
        problem(d.ask("POST", "/v1/datasets", {"name": "x", "options": []}), 422, None, "options")
        # Everything that is wrong, in one answer.
        for more, fields in [({}, []), ({"naem": "x"}, ["naem"]), ({"source": 3}, ["source"])]:
            p = problem(d.ask("POST", "/v1/datasets", {"name": "a b", "path": "/etc", "options": {"size": -1, "fit": "x", "sise": 3},
                                                       **more}), 422, None, None)
            assert sorted(e["field"] for e in p["errors"]) == sorted(
                ["name", "path", "options.size", "options.fit", "options.sise", *fields]), p
        p = problem(d.ask("POST", "/v1/datasets", {"options": {"sise": 1}}), 422, None, "options.sise", "`size`")
        assert [e["field"] for e in p["errors"]] == ["name", "options.sise"], p
        problem(d.get("/v1/datasets/digits/recipe"), 404, "not-found", None, "of the build")
        problem(d.get("/v1/datasets/nobody/recipe"), 404, "not-found", None, "no data set")
        problem(put(d, "nobody", b"x"), 404)
        create(d, "x")
        problem(d.ask("POST", "/v1/datasets/x/import"), 422)
        problem(d.get("/v1/datasets/x/samples"), 409)
        problem(d.ask("PUT", "/v1/datasets/x/upload", {"a": 1}), 415)
        problem(put(d, "x", b"x", -1), 422, None, "offset")
        assert put(d, "x", b"a" * 700000).status == 200
        problem(put(d, "x", b"a" * 700000, 700000), 413, "body-too-large")
        problem(d.ask("POST", "/v1/datasets/x/import?bytes=5"), 409, None, "bytes")
        assert d.get("/v1/datasets/x").json()["received"] == 700000
        problem(d.ask("DELETE", "/v1/datasets/digits"), 409)
        problem(d.ask("DELETE", "/v1/datasets/nobody"), 404)


# ---- uploads that go wrong ----

def test_two_uploads_and_a_resume():
    data = zipped(FEW)
    half = len(data) // 2
    with daemon() as d:
        create(d, "few")
        problem(d.ask("POST", "/v1/datasets", {"name": "few"}), 409, "conflict", "name")
        assert put(d, "few", data[:half]).status == 200
        problem(put(d, "few", data[:half]), 409, "wrong-offset", "offset", str(half))
        problem(put(d, "few", data[half:], half + 1), 409, "wrong-offset", "offset")
        # A client that vanishes in the middle of a part: the part is dropped, the rest stays.
        with socket.create_connection(("127.0.0.1", d.port)) as s:
            s.sendall(f"PUT /v1/datasets/few/upload?offset={half} HTTP/1.1\r\nHost: 127.0.0.1:{d.port}\r\n"
                      f"Content-Type: application/octet-stream\r\nContent-Length: {len(data) - half}\r\n\r\n".encode()
                      + data[half:half + 500])
        assert d.get("/v1/datasets/few").json()["received"] == half
        # A restart, and one of two that send the same part at once.
        assert d.end() == 0
        d.start()
        answers = []
        send = lambda: answers.append(put(d, "few", data[half:], half).status)
        threads = [threading.Thread(target=send) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert sorted(answers) == [200, 409, 409, 409], answers
        assert d.ask("POST", f"/v1/datasets/few/import?bytes={len(data)}").status == 202
        assert settled(d, "few")["train"] > 0
        problem(put(d, "few", b"x", len(data)), 409, "conflict")


def test_part_that_was_cut():
    """A kill while a part is copied behind the others: what is half there does not count and is not kept."""
    data = zipped(FEW)
    third = len(data) // 3
    with daemon() as d:
        create(d, "few", options={"size": 16})
        for at in (0, third):
            assert put(d, "few", data[at:at + third], at).status == 200
        for again in range(2):
            d.end(signal.SIGKILL)
            archive = d.dir / "state/datasets/few/upload.archive"
            assert archive.stat().st_size == 2 * third
            with open(archive, "ab") as f:
                f.write(b"half of a part")
            d.start()
            assert d.get("/v1/datasets/few").json()["received"] == 2 * third
            problem(put(d, "few", b"x", 2 * third + 14), 409, "wrong-offset", "offset", str(2 * third))
            if not again:  # the next part takes its place
                assert put(d, "few", b"", 2 * third).json()["received"] == 2 * third
        problem(d.ask("POST", f"/v1/datasets/few/import?bytes={2 * third + 14}"), 409, None, "bytes")
        r = put(d, "few", data[2 * third:], 2 * third)
        assert r.status == 200 and r.json()["received"] == len(data), r
        assert d.ask("POST", f"/v1/datasets/few/import?bytes={len(data)}").status == 202
        s = settled(d, "few")
        assert s["state"] == "ready" and s["train"] + s["test"] == 24, s
        assert files_of(d, "few") == ["few.pictures"], files_of(d, "few")


def test_bad_archives():
    good = zipped(FEW)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as z:
        with z.open("a/bomb.png", "w", force_zip64=True) as f:
            for _ in range(300):
                f.write(bytes(1 << 20))
    links = io.BytesIO()
    with tarfile.open(fileobj=links, mode="w") as t:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            e = tarfile.TarInfo(f"a/{kind!r}.png")
            e.type, e.linkname = kind, "/etc/passwd"
            t.addfile(e)
    cases = {"cut": good[:len(good) // 2], "cut-tar": tarred(FEW, "w:gz")[:2000], "noise": os.urandom(5000),
             "empty": zipped({}), "text": zipped({"a/readme.txt": b"hello"}), "links": links.getvalue(),
             "bomb": bomb.getvalue()}
    with daemon() as d:
        for name, data in cases.items():
            s = upload(d, name, data)
            assert s["state"] == "failed" and len(s["error"]) > 15, (name, s)
            assert str(d.dir) not in s["error"], s["error"]
            problem(d.get(f"/v1/datasets/{name}/samples"), 409)
            assert not (d.dir / f"state/datasets/{name}/{name}.pictures").exists()
            problem(d.ask("POST", "/v1/jobs", {"config": small(name)}), 409, None, None, "failed")
        escape = {"../../evil/1.png": next(iter(FEW.values())), **FEW}
        s = upload(d, "escape", tarred(escape), size=16)
        assert not list(d.dir.rglob("evil")) and s["state"] in ("ready", "failed"), s
        assert s["state"] == "failed" or s["train"] + s["test"] <= 25
        broken = {**FEW, "bars/broken.png": b"\x89PNG\r\n\x1a\nnothing", "discs/notes.txt": b"x",
                  "discs/one.png": write_png(1, 1, 0, 8, [b"\x80"]), "bars/n\u00e4me \u202e.png": FEW["bars/000.png"]}
        s = upload(d, "broken", zipped(broken), size=16)
        assert s["state"] == "ready" and s["report"]["skipped"] >= 1, s
        assert "broken.png" in json.dumps(s["report"]["reasons"]), s
        s = upload(d, "strict", zipped(broken), size=16, refuse_bad=True)
        assert s["state"] == "failed" and "broken.png" in s["error"], s
        assert d.ask("POST", "/v1/datasets/strict/import").status == 202  # once more: the same
        assert settled(d, "strict")["state"] == "failed"
        for name in [*cases, "escape", "broken", "strict"]:
            assert d.ask("DELETE", f"/v1/datasets/{name}").status == 204
        assert list((d.dir / "state/datasets").iterdir()) == []


def test_full_disk():
    """Files that may not grow beyond a limit stand for a full disk."""
    data = zipped({**two_classes(60, 4), "bars/noise.png": os.urandom(1 << 20)})
    with daemon() as d:
        create(d, "few", options={"size": 128})
        soft = resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE, (500000, soft[1]))
        r = put(d, "few", data)
        problem(r, 507)
        assert d.get("/v1/datasets/few").json()["received"] == 0
        resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE, soft)
        assert put(d, "few", data).status == 200
        resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE, (500000, soft[1]))
        assert d.ask("POST", "/v1/datasets/few/import").status == 202
        time.sleep(2)
        resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE, soft)
        s = settled(d, "few")
        if s["state"] == "failed":  # the upload is still there
            assert d.ask("POST", "/v1/datasets/few/import").status == 202
            s = settled(d, "few")
        assert s["state"] == "ready", s


def test_disk_budget():
    """Data sets count in the disk figures, and the budget removes none."""
    with daemon("--disk-budget=1000") as d:
        assert upload(d, "few", tarred(FEW), size=64)["state"] == "ready"
        own = d.get("/v1/datasets/few").json()["bytes"]
        job = d.job("tiny")  # a new checkpoint has the budget looked at
        d.wait(job, "completed")
        end = time.monotonic() + 60
        seen = 0
        while seen < own and time.monotonic() < end:
            time.sleep(0.2)
            seen = float(d.get("/metrics").body.decode().split("\ndriftd_state_bytes ")[1].split()[0])
        assert seen >= own > 1000, (seen, own)
        assert files_of(d, "few") == ["few.pictures"] and d.get("/v1/datasets/few/samples").status == 200


# ---- killed in the middle ----

def test_kills():
    """Ten kills at random moments: what was acknowledged is there, nothing half made is served."""
    seed = int(os.environ.get("SEED", 1))
    rng = random.Random(seed)
    print(f"seed {seed}", end=" ", flush=True)
    data = zipped(two_classes(120, 3))
    d = Daemon()
    try:
        d.start()
        create(d, "big", options={"size": 32})
        sent, killed = 0, 0
        while killed < 5:  # while it is sent
            end = min(len(data), sent + len(data) // 8 + 1)
            kill = threading.Timer(rng.uniform(0, 0.05), d.process.send_signal, [signal.SIGKILL])
            kill.start()
            with contextlib.suppress(OSError, EOFError, Exception):
                if put(d, "big", data[sent:end], sent).status == 200:
                    sent = end
            kill.join()
            d.end(signal.SIGKILL)
            killed += 1
            d.start()
            received = d.get("/v1/datasets/big").json()["received"]
            assert received in (sent, end), (received, sent, end)  # one may be stored and not acknowledged
            sent = received
        for at in range(sent, len(data), 50000):
            assert put(d, "big", data[at:at + 50000], at).status == 200
        assert d.ask("POST", "/v1/datasets/big/import").status == 202
        for _ in range(5):  # while it is decoded
            time.sleep(rng.uniform(0, 0.3))
            d.end(signal.SIGKILL)
            stray = [p.name for p in (d.dir / "state/datasets").iterdir() if p.name != "big"]
            d.start()
            s = d.get("/v1/datasets/big").json()
            assert s["state"] in ("importing", "ready") and not stray, (s, stray)
            seen = d.get("/v1/datasets/big/samples")
            assert seen.status in (200, 409), seen
        s = settled(d, "big")
        assert s["state"] == "ready" and s["train"] + s["test"] == 120, s
        assert d.get("/v1/datasets/big/samples").status == 200
        assert files_of(d, "big") == ["big.pictures"], files_of(d, "big")
        assert d.end() == 0
    finally:
        d.close()


def test_old_leftovers():
    with daemon() as d:
        assert upload(d, "few", tarred(FEW), size=16)["state"] == "ready"
        at = d.dir / "state/datasets"
        (at / "few/few.pictures.part-x").write_bytes(b"x")
        for name in ("stranger", ".gone-9"):
            (at / name).mkdir()
            (at / name / "a").write_bytes(b"x")
        (at / "empty").mkdir()
        assert d.end() == 0
        d.start()
        assert files_of(d, "few") == ["few.pictures"]
        [kept] = lost(at)
        assert kept.name.startswith(".lost-stranger-") and (kept / "a").read_bytes() == b"x", kept
        assert sorted(p.name for p in at.iterdir()) == [kept.name, "few"]
        # A removal while it is decoded.
        create(d, "gone", options={"size": 256})
        data = zipped(two_classes(120, 3))
        put(d, "gone", data)
        d.ask("POST", "/v1/datasets/gone/import")
        assert d.ask("DELETE", "/v1/datasets/gone").status == 204
        assert upload(d, "gone", tarred(FEW), size=16)["size"] == 16
        assert d.end() == 0
        (at / "few/few.pictures").write_bytes(b"x" * 100)  # damaged: an error, not a crash
        d.start()
        assert d.get("/v1/datasets/few/samples").status >= 400
        assert d.get("/v1/datasets/gone/samples").status == 200


def lost(at):
    return [p for p in at.iterdir() if p.name.startswith(".lost-")]


def test_lost_sets():
    """The database does not know a set: its folder is put aside with a warning, and may be put back."""
    with daemon() as d:
        assert upload(d, "pics", tarred(FEW), size=16)["state"] == "ready"
        at, db = d.dir / "state/datasets", d.dir / "state/driftd.sqlite3"
        assert d.end() == 0
        known = db.read_bytes()
        db.write_bytes(b"")
        for _ in range(2):  # a second start leaves it there
            d.start()
            assert d.get("/v1/datasets/pics").status == 404
            [kept] = lost(at)
            assert kept.name.startswith(".lost-pics-") and not (at / "pics").exists(), kept
            assert [p.name for p in kept.iterdir()] == ["pics.pictures"]
            assert d.end() == 0
        [line] = [x for x in d.said().splitlines() if "event=dataset.lost" in x]
        assert "level=warn" in line and kept.name in line, line
        for p in (d.dir / "state").glob("driftd.sqlite3*"):
            p.unlink()
        db.write_bytes(known)
        kept.rename(at / "pics")
        d.start()
        assert d.get("/v1/datasets/pics").json()["state"] == "ready" and not lost(at)
        assert d.get("/v1/datasets/pics/samples").status == 200


# ---- driftctl ----

def ctl(d, *args, ok=True):
    p = subprocess.run([DRIFTCTL, "-u", f"http://127.0.0.1:{d.port}", *args], capture_output=True, text=True,
                       timeout=300, preexec_fn=die_with_parent)
    assert not ok or p.returncode == 0, (args, p)
    return p


def test_driftctl():
    with tempfile.TemporaryDirectory() as tmp:
        files = two_classes(200, 7)
        files["bars/broken.png"] = b"no picture"
        folder(f"{tmp}/shapes", files)
        folder(f"{tmp}/data/near", FEW)
        with daemon(f"--data-dir={tmp}/data") as d:
            said = ctl(d, "data", "add", "wild", f"{tmp}/shapes", "--size", "16").stdout
            assert "ready" in said and "bars" in said and "broken.png" in said, said
            s = d.get("/v1/datasets/wild").json()
            assert s["uploaded"] and s["train"] + s["test"] == 200, s
            ctl(d, "data", "add", "near", f"{tmp}/data/near", "--size=16")
            assert not d.get("/v1/datasets/near").json()["uploaded"]
            assert "wild" in ctl(d, "data", "list").stdout
            ctl(d, "data", "samples", "wild", "-o", f"{tmp}/grid.png", "-n", "4")
            assert png(pathlib.Path(f"{tmp}/grid.png").read_bytes())
            job = json.loads(ctl(d, "data", "train", "wild", "--minutes", "0.1", "--json").stdout)["id"]
            d.wait(job, "completed", "failed", seconds=200)
            assert d.state(job) == "completed", d.get(f"/v1/jobs/{job}").json()
            ctl(d, "sample", "-c", "bars", "-n", "4", "-o", f"{tmp}/made.png")
            assert png(pathlib.Path(f"{tmp}/made.png").read_bytes())
            again = ctl(d, "data", "add", "wild", f"{tmp}/shapes", ok=False)
            assert again.returncode == 1 and "already" in again.stderr, again
            assert ctl(d, "data", "add", "bad/name", f"{tmp}/shapes", ok=False).returncode == 1
            assert ctl(d, "data", "shwo", "wild", ok=False).returncode == 2
            assert ctl(d, "data", "add", "x", f"{tmp}/nothing", ok=False).returncode == 1
            # Names that are long, or of another encoding, are the upload's alone.
            for at in ("a" + "\u00e9" * 100, os.fsdecode(b"data/caf\xe9")):
                pathlib.Path(f"{tmp}/{at}.zip").write_bytes(zipped(FEW))
                ctl(d, "data", "add", "odd", f"{tmp}/{at}.zip", "--size=16")
                s = d.get("/v1/datasets/odd").json()
                assert s["uploaded"] and s["source"].startswith(("a" + "\u00e9" * 100 + ".zip, ", "caf?.zip, ")), s
                ctl(d, "data", "remove", "odd")
            said = ctl(d, "data", "add", "odd", f"{tmp}/{at}.zip", "--path", ok=False)
            assert said.returncode == 2 and "caf?.zip: not UTF-8" in said.stderr, said
            ctl(d, "data", "remove", "wild")
            assert ctl(d, "data", "show", "wild", ok=False).returncode == 1


def test_driftctl_resumes():
    """Cut off by a kill of the daemon in the middle: the same command goes on."""
    with tempfile.TemporaryDirectory() as tmp:
        folder(f"{tmp}/shapes", {**FEW, "bars/noise.png": os.urandom(24 << 20)})
        with daemon() as d:
            for _ in range(20):  # until the kill comes before all has been sent
                p = subprocess.Popen([DRIFTCTL, "-u", f"http://127.0.0.1:{d.port}", "data", "add", "big",
                                      f"{tmp}/shapes", "--size=16", "--background=#FFAA00"],
                                     stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    r = d.get("/v1/datasets/big")
                    had = r.json()
                    if r.status == 200 and (had["state"] != "uploading" or had["received"] >= 8 << 20):
                        break
                    time.sleep(0.002)
                p.kill()
                p.wait()
                had = d.get("/v1/datasets/big").json()
                if had["state"] == "uploading":
                    break
                assert d.ask("DELETE", "/v1/datasets/big").status == 204
            assert had["state"] == "uploading" and had["received"] >= 8 << 20, had
            said = ctl(d, "data", "add", "big", f"{tmp}/shapes", "--size=8", ok=False)
            assert said.returncode == 2 and "another size" in said.stderr, said
            said = ctl(d, "data", "add", "big", f"{tmp}/shapes", "--background=#ffaa01", ok=False)
            assert said.returncode == 2 and "another background" in said.stderr, said
            said = ctl(d, "data", "add", "big", f"{tmp}/shapes/", "--size=16", "--background=#FFAA00")
            assert "going on" in said.stderr, said
            s = d.get("/v1/datasets/big").json()
            assert s["train"] + s["test"] == 24 and s["report"]["skipped"] == 1, s


if __name__ == "__main__":
    tests = [test_upload_look_train, test_removed_while_a_job_may_go_on, test_truncated_while_training,
             test_what_a_configuration_leaves_out, test_more_pictures_a_step_than_there_are,
             test_part_of_cifar, test_recipe_with_an_encoder, test_by_path, test_by_path_again,
             test_samples_read_nothing_first, test_built_in_sets_that_are_there, test_many_looks, test_refusals,
             test_two_uploads_and_a_resume, test_part_that_was_cut, test_bad_archives, test_full_disk,
             test_disk_budget, test_kills, test_old_leftovers, test_lost_sets,
             test_driftctl, test_driftctl_resumes]
    wanted = sys.argv[3:]
    run([t for t in tests if not wanted or t.__name__ in wanted])
