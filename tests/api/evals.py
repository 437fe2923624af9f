"""Evaluations of a real driftd, from outside: a judge that is trained when it is needed, rows that hold what
was measured, curves, tables and files, bad input, evaluations beside training, and kills at random.

Usage: evals.py DRIFTD DRIFTCTL [NAME...]; the names are those of tests below. The one of FID needs the program
tests/api/narrow_inception in $NARROW_INCEPTION.
"""
import contextlib
import csv
import io
import json
import math
import os
import pathlib
import random
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import time

from live import Daemon, problem

DATA = {"set": "digits", "count": 400, "size": 8, "fit": "resize"}
JUDGE = {"name": "judge", "kind": "encoder", "data": DATA,
         "encoder": {"objective": "classify", "width": 4, "blocks": [1, 1], "groups": 2, "batch": 32},
         "train": {"steps": 60}, "optim": {"lr": 0.01, "warmup": 5},
         "checkpoint": {"every": 0, "every_seconds": 0}, "metrics": {"test_every": 0}}
MODEL = {"dim": 16, "depth": 1, "heads": 2, "patch": 4, "registers": 1, "style_tokens": 2}
REFERENCE = ("timestamp_utc,checkpoint,checkpoint_name,dataset,epoch,step,fid,num_samples,batch_size,alpha,seed,"
             "loss,drift_norm,grad_norm,feature_dist_mean,feature_dist_var,avg_loss,avg_drift_norm,eval_seconds,"
             "artifact_dir").split(",")


@contextlib.contextmanager
def daemon(*flags):
    d = Daemon(*flags)
    try:
        (d.dir / "data").mkdir()
        d.flags.append(f"--data-dir={d.dir}/data")
        (d.dir / "recipes/judge.json").write_text(json.dumps(JUDGE))
        d.recipe("tiny", {"data": DATA})
        yield d.start()
    finally:
        d.close()


def trained(d, **changes):
    """A generator of a few steps; its job and its newest checkpoint."""
    job = d.job({"data": DATA, "model": MODEL, "train": {"steps": 40, "generated": 4, "positives": 4},
                 "checkpoint": {"every": 20, "every_seconds": 0}, **changes})
    d.wait(job, "completed")
    return job, d.get(f"/v1/checkpoints?job={job}").json()["checkpoints"][0]["id"]


def evaluate(d, wait="completed", **body):
    r = d.ask("POST", "/v1/evals", {"judge": "judge", "n": 200, **body})
    assert r.status == 201, r
    job = r.json()["id"]
    assert r.header("Location") == f"/v1/jobs/{job}", r
    if wait:
        d.wait(job, wait, "failed")
        assert d.state(job) == wait, d.get(f"/v1/jobs/{job}").json()
    return job


def rows(d, query=""):
    return d.get(f"/v1/evals?limit=1000{query}").json()["evals"]


def ctl(d, *words, status=0):
    r = subprocess.run([sys.argv[2], f"--url=http://127.0.0.1:{d.port}", *map(str, words)],
                       capture_output=True, text=True, timeout=300)
    assert r.returncode == status, (words, r)
    return r.stdout + r.stderr


def numbers(d, row):
    """What was measured, to the last bit: the API rounds."""
    with contextlib.closing(sqlite3.connect(f"file:{d.dir}/state/driftd.sqlite3?mode=ro", uri=True)) as db:
        return row["comparable"], db.execute("SELECT name, value, stderr, floor FROM eval_values WHERE eval=? "
                                             "ORDER BY name", (row["id"],)).fetchall()


# ---- one checkpoint: the judge is trained first, once; the row holds everything ----

def test_checkpoint():
    with daemon() as d:
        job, checkpoint = trained(d)
        first = evaluate(d, checkpoint=checkpoint, alpha=[1, 1.5], samples=True)
        info = d.get(f"/v1/jobs/{first}").json()
        assert info["kind"] == "eval" and info["needs"], info
        assert d.get(f"/v1/jobs/{info['needs']}").json()["changed"] == {}, "as its recipe has it"
        judge = d.get(f"/v1/checkpoints?job={info['needs']}").json()["checkpoints"][0]["id"]
        again = evaluate(d, checkpoint=checkpoint)
        more = d.get(f"/v1/jobs/{again}").json()
        assert more["needs"] == info["needs"]
        # Two runs and the reference, which counts as one; then a run that finds it.
        assert [(i["step"], i["steps_total"]) for i in (info, more)] == [(600, 600), (200, 200)], (info, more)
        three = rows(d)
        assert [(r["eval_job"], r["settings"]["alpha"]) for r in three] == [
            (again, 1.0), (first, 1.5), (first, 1.0)], three
        assert numbers(d, three[0]) == numbers(d, three[2]) != numbers(d, three[1])  # the same bits
        r = d.get(f"/v1/evals/{three[2]['id']}").json()
        assert r["state"] == "done" and r["job"] == job and r["step"] == 40 and r["error"] is None, r
        s = r["settings"]
        assert s["data"] == "digits" and s["judge"] == judge and s["judge_name"] == "judge", s
        assert 0 <= s["judge_accuracy"] <= 1 and len(s["judge_sha256"]) == 64 and s["split"] == "train", s
        assert s["n"] == 200 and s["weights"] == "ema" and s["seed"] == 0 and s["version"], s
        for metric in ("fd", "kid", "precision", "recall", "coverage", "accuracy", "diversity", "nn", "is"):
            assert r["results"][metric] is not None, (metric, r["results"])
        assert r["floors"]["fd"] < r["results"]["fd"], r
        assert "fid" not in r["results"], r  # there is no Inception
        assert r["training"]["loss"] > 0 and r["training"]["avg_loss"] > 0 and r["epoch"] > 0, r
        assert sum(map(sum, r["details"]["confusion"])) == 200 and len(r["details"]["classes"]) == 10, r
        assert len(r["details"]["nearest"]) == 16 and len(r["details"]["per_class"]) == 10, r
        names = [a["name"] for a in r["artifacts"]]
        assert names == ["metadata.json", "grid.png", "nearest.png", "samples.npy"], names
        for a in r["artifacts"]:
            f = d.get(a["url"])
            assert f.status == 200 and len(f.body) == a["bytes"], f
        exact = json.loads(d.get(r["artifacts"][0]["url"]).body)["results"]
        assert {k: v for k, v, *_ in numbers(d, r)[1]} == exact, exact
        assert len(d.get(r["artifacts"][3]["url"]).body) == 128 + 200 * 64 * 4
        problem(d.get(f"/v1/evals/{r['id']}/files/passwd"), 404, "not-found")
        raw = evaluate(d, checkpoint=checkpoint, weights="raw", seed=3)
        assert numbers(d, rows(d, f"&eval_job={raw}")[0]) != numbers(d, three[0])
        skipped = evaluate(d, checkpoint=checkpoint, skip_existing=True)
        assert rows(d, f"&eval_job={skipped}") == []
        both = evaluate(d, job=job)  # each checkpoint of the job
        assert sorted(r["step"] for r in rows(d, f"&eval_job={both}")) == [20, 40]
        reading(d, job, checkpoint)


def reading(d, job, checkpoint):
    """Lists, curves, tables, the command line, on what test_checkpoint has left."""
    everything = rows(d)
    for query, keep in [(f"&job={job}", lambda r: True), ("&job=77", lambda r: False),
                        (f"&checkpoint={checkpoint}", lambda r: r["checkpoint"] == checkpoint),
                        ("&alpha=1.5", lambda r: r["settings"]["alpha"] == 1.5), ("&n=3", lambda r: False),
                        ("&weights=raw", lambda r: r["settings"]["weights"] == "raw"),
                        ("&data=digits&state=done", lambda r: True), ("&state=failed", lambda r: False),
                        (f"&comparable={everything[0]['comparable']}", lambda r: True)]:
        assert [r["id"] for r in rows(d, query)] == [r["id"] for r in everything if keep(r)], query
    by_fd = [r["results"]["fd"] for r in rows(d, "&sort=fd")]
    assert by_fd == sorted(by_fd) and [r["results"]["fd"] for r in rows(d, "&sort=-fd")] == by_fd[::-1]
    problem(d.get("/v1/evals?sort=dd"), 422, None, "sort", "fd")
    for sort in ("", "&sort=step"):
        page = d.get(f"/v1/evals?limit=2{sort}").json()
        more = d.get(f"/v1/evals?limit=100&cursor={page['next_cursor']}{sort}").json()
        assert [r["id"] for r in page["evals"] + more["evals"]] == [r["id"] for r in rows(d, sort)]
    assert {"name": "fd", "better": "lower"}.items() <= page["metrics"][0].items() and "fid" in page["kinds"]

    curve = d.get("/v1/evals/curve?metric=fd&weights=ema&alpha=1").json()
    assert curve["metric"] == "fd" and len(curve["series"]) == 1, curve
    assert [p["step"] for p in curve["series"][0]["points"]] == [20, 40, 40, 40], curve
    assert len(d.get("/v1/evals/curve?x=alpha&weights=ema").json()["series"]) == 2
    problem(d.get("/v1/evals/curve?metric=fdd"), 422, None, "metric", "fd")
    png = d.get("/v1/evals/curve.png?metric=fd&width=640&height=400")
    assert png.header("Content-Type") == "image/png" and struct.unpack(">II", png.body[16:24]) == (640, 400), png

    table = list(csv.DictReader(io.StringIO(d.get("/v1/evals.csv").body.decode())))
    assert list(table[0])[:20] == REFERENCE and len(table) == len(everything), table[0]
    row, oldest = table[0], everything[-1]
    assert row["checkpoint"] == checkpoint and row["step"] == "40" and row["num_samples"] == "200", row
    assert row["fid"] == "" and abs(float(row["fd"]) - oldest["results"]["fd"]) < 1e-6, row
    assert row["artifact_dir"] == f"artifacts/{oldest['id']}" and row["timestamp_utc"].endswith("Z"), row
    long = d.get("/v1/evals.csv?format=long").body.decode().split("\n")
    assert long[0] == "id,job,checkpoint,kind,step,metric,value" and len(long) > 50

    # DELETE takes the row and its files
    victim = everything[0]["id"]
    assert (d.dir / f"state/evals/{victim}/grid.png").exists()
    assert d.ask("DELETE", f"/v1/evals/{victim}").status == 204
    problem(d.get(f"/v1/evals/{victim}"), 404, "not-found")
    assert not (d.dir / f"state/evals/{victim}").exists()
    # a row outlives its jobs
    assert d.ask("DELETE", f"/v1/jobs/{job}").status == 204
    assert rows(d)[-1]["job"] is None and rows(d)[-1]["results"] == oldest["results"]


# ---- bad input ----

def test_bad_input():
    with daemon() as d:
        job, checkpoint = trained(d)
        (d.dir / "data/empty").mkdir()
        (d.dir / "data/text").write_text("no tensors in here")
        os.mkfifo(d.dir / "data/pipe")  # nobody writes to it: reading would wait for ever
        for body, field, word in [
                ({}, "checkpoint", "expected one"), ({"checkpoint": "99"}, "checkpoint", "99"),
                ({"job": "99"}, "job", "99"), ({"checkpoint": checkpoint, "job": job}, "checkpoint", "several"),
                ({"checkpoint": checkpoint, "judge": "jugde"}, "judge", "judge"),
                ({"checkpoint": checkpoint, "judge": ""}, "judge", "judge"),
                ({"checkpoint": checkpoint, "judge": "tiny"}, "judge", "expected one of kind encoder"),
                ({"checkpoint": checkpoint, "judge": "checkpoint:99"}, "judge", "99"),
                ({"checkpoint": checkpoint, "n": 17}, "n", "at least two"),
                ({"checkpoint": checkpoint, "n": "x"}, "n", "integer"),
                ({"checkpoint": checkpoint, "metrics": "fd,kidd"}, "metrics", "kid"),
                ({"checkpoint": checkpoint, "split": "tset"}, "split", "test"),
                ({"checkpoint": checkpoint, "data": "nothing"}, "data", "no recipe named nothing"),
                ({"checkpoint": checkpoint, "data": 5}, "data", "recipe"),
                ({"checkpoint": checkpoint, "settings": [5]}, "settings", "object"),
                ({"checkpoint": checkpoint, "priority": "1"}, "priority", "-1000"),
                ({"checkpoint": checkpoint, "priority": 10**12}, "priority", "-1000"),
                ({"checkpoint": checkpoint, "name": 7}, "name", "200"),
                ({"checkpoint": checkpoint, "name": "x" * 201}, "name", "200"),
                ({"folder": "../x"}, "folder", "`..`"), ({"folder": "nowhere", "data": "tiny"}, "folder", "nowhere"),
                ({"folder": "empty"}, "data", "a folder of pictures needs the data set"),
                ({"checkpoint": checkpoint, "judge": f"checkpoint:{checkpoint}"}, "judge", "is a generator"),
                ({"checkpoint": checkpoint, "inception": "nothing.safetensors"}, "inception", "nor a file below the data directory"),
                ({"checkpoint": checkpoint, "inception": "text"}, "inception", "no network of Inception-v3"),
                ({"checkpoint": checkpoint, "inception": "pipe"}, "inception", "nor a file below the data directory"),
                ({"checkpoint": checkpoint, "inception": "checkpoint:nothing"}, "inception", "name or tag"),
                ({"checkpoint": checkpoint, "chekpoint": "1"}, "chekpoint", "`checkpoint`")]:
            r = d.ask("POST", "/v1/evals", {"judge": "judge", "n": 200, **body})
            problem(r, 422, None, field, word)
        r = d.ask("POST", "/v1/jobs", {"config": {"kind": "eval", "eval": {"job": 1, "judge": "judge"},
                                                  "model": {"dim": 32}}})
        problem(r, 422, None, "config.model.dim", "eval")
        for changes, field in [({"features": {"kind": "encoder", "encoder": f"checkpoint:{checkpoint}"}}, "features.encoder"),
                               ({"eval": {"at_end": True, "judge": checkpoint, "n": 100}}, "eval.judge")]:
            r = d.ask("POST", "/v1/jobs", {"config": {"data": DATA, "model": MODEL, "train": {
                "steps": 2, "generated": 4, "positives": 4}, **changes}})
            problem(r, 422, None, field, "is a generator")
        assert rows(d) == [] and all(j["kind"] != "eval" for j in d.get("/v1/jobs").json()["jobs"])

        # what only shows at work: a failed row with the reason, and the job fails with it
        other = d.job({"data": DATA | {"size": 12}, "model": MODEL,
                       "train": {"steps": 2, "generated": 4, "positives": 4}})
        d.wait(other, "completed")
        big = d.get(f"/v1/checkpoints?job={other}").json()["checkpoints"][0]["id"]
        bad = evaluate(d, checkpoint=big, data="tiny", wait="failed")
        row = rows(d, f"&eval_job={bad}")[0]
        assert row["state"] == "failed" and "12 x 12" in row["error"] and "8 x 8" in row["error"], row
        assert "12 x 12" in d.get(f"/v1/jobs/{bad}").json()["error"]
        bad = evaluate(d, folder="empty", data="tiny", wait="failed")
        error = rows(d, f"&eval_job={bad}")[0]["error"]
        assert f"{d.dir}/data/empty: there is no picture" in error, error
        judged = d.get("/v1/jobs?limit=100").json()["jobs"]
        judge = next(j["id"] for j in judged if j["kind"] == "encoder")
        judge = d.get(f"/v1/checkpoints?job={judge}").json()["checkpoints"][0]["id"]
        bad = evaluate(d, checkpoint=big, judge=f"checkpoint:{judge}", wait="failed")
        assert "eval.judge" in d.get(f"/v1/jobs/{bad}").json()["error"]
        problem(d.ask("POST", "/v1/evals", {"checkpoint": judge, "judge": "judge"}), 422, None, "checkpoint",
                "generator")
        evaluate(d, checkpoint=checkpoint)  # and nothing is lost
        assert rows(d)[0]["state"] == "done"


# ---- names that are cut stay text: a job is listed whatever its name begins with ----

# ---- the judge is the generator's own encoder: refused under any name, or marked in the row ----

def test_own_encoder():
    with daemon() as d:
        features = {"kind": "encoder", "encoder": "judge", "pool": "global"}
        base = {"data": DATA, "model": MODEL, "train": {"steps": 4, "generated": 4, "positives": 4}, "features": features}
        job, checkpoint = trained(d, features=features, train={"steps": 4, "generated": 4, "positives": 4})
        encoder = d.get(f"/v1/jobs/{job}").json()["needs"]
        judge = d.get(f"/v1/checkpoints?job={encoder}").json()["checkpoints"][0]["id"]
        copy = d.ask("POST", "/v1/checkpoints", d.get(f"/v1/checkpoints/{judge}/file").body,
                     Content_Type="application/octet-stream").json()["id"]
        (d.dir / "data/a.safetensors").write_bytes(d.get(f"/v1/checkpoints/{judge}/file").body)
        (d.dir / "recipes/other.json").write_text(json.dumps(JUDGE | {"name": "other"}))
        for name in ("judge", f"checkpoint:{judge}", copy, "a.safetensors", "other"):
            for what in ({"checkpoint": checkpoint}, {"job": job}):
                p = problem(d.ask("POST", "/v1/evals", {"judge": name, "n": 200, **what}), 422, None, "judge",
                            f"checkpoint {checkpoint}")
                assert name in p["detail"] and "allow_own_encoder" in p["detail"], p
            p = problem(d.ask("POST", "/v1/jobs", {"config": base | {"eval": {"judge": name, "n": 200, "at_end": True}}}),
                        422, None, "config.eval.judge" if name == "judge" else "eval.judge", name)
        assert f"checkpoint {checkpoint} is trained with" in ctl(d, "eval", "-k", checkpoint, "--judge", "judge", status=1)
        assert rows(d) == []
        ctl(d, "eval", "-k", checkpoint, "--judge", "judge", "-n", 200, "--allow-own-encoder", "-f")
        assert [r["settings"]["judge_own_encoder"] for r in rows(d)] == [True]
        another = JUDGE | {"name": "another", "train": {"steps": 61}}
        (d.dir / "recipes/another.json").write_text(json.dumps(another))
        evaluate(d, checkpoint=checkpoint, judge="another")
        assert [r["settings"]["judge_own_encoder"] for r in rows(d)] == [False, True]
        kept = rows(d)[0]["id"]
        assert json.loads(ctl(d, "evals", "show", kept))["details"]["nearest"]
        at = ctl(d, "evals", "--csv").splitlines()
        column = at[0].split(",").index("judge_own_encoder")
        assert [row[column] for row in csv.reader(at[1:])] == ["true", "false"], at
        # Found out at work as well, where it could not be known when the job was made.
        late = evaluate(d, checkpoint=checkpoint, allow_own_encoder=True, seed=5)
        d.end()
        with contextlib.closing(sqlite3.connect(d.dir / "state/driftd.sqlite3")) as db, db:
            db.execute("UPDATE jobs SET config=json_remove(config,'$.eval.allow_own_encoder'), state='queued'"
                       " WHERE id=?", (late,))
            db.execute("DELETE FROM evals WHERE eval_job=?", (late,))
        d.start()
        d.wait(late, "completed", "failed")
        row = rows(d, f"&eval_job={late}")[0]
        assert row["state"] == "failed" and f"judge is the encoder that checkpoint {checkpoint}" in row["error"], row


def test_long_names():
    with daemon() as d:
        d.wait(d.job("judge"), "completed")
        for name in ("a" * 179 + "\u00e9" * 10, "b" * 178 + "\U0001f600" * 5, "c" * 61 + "\u20ac" * 40):
            job = d.job({"data": DATA, "model": MODEL, "train": {"steps": 2, "generated": 4, "positives": 4},
                         "checkpoint": {"every": 0, "every_seconds": 0},
                         "eval": {"judge": "judge", "n": 20, "at_end": True}}, name=name)
            d.wait(job, "completed")
            known = {j["id"]: j["name"] for j in d.get("/v1/jobs?limit=100").json()["jobs"]}
            own = str(int(job) + 1)
            assert known[own].endswith(", evaluated") and name.startswith(known[own][:-len(", evaluated")]), known
            assert d.get(f"/v1/jobs/{own}").json()["name"] == known[own]
        folder = "d" * 149 + "\u00e9\u00e9"
        (d.dir / "data" / folder).mkdir()
        job = evaluate(d, folder=folder, data="tiny", wait="failed")
        assert d.get(f"/v1/jobs/{job}").json()["name"] == folder[:149] + ", evaluated"


# ---- a stop while the files of an evaluation are written: what was measured is not lost ----

def test_stop_late():
    with daemon() as d:
        _, checkpoint = trained(d)
        n = 20000  # longer than a stop takes to arrive
        job = evaluate(d, checkpoint=checkpoint, n=n, samples=True, wait=None)
        folder = d.dir / "state/evals/1"
        while not (rows(d) and rows(d)[0]["state"] == "running"):
            time.sleep(0.01)
        assert d.ask("POST", f"/v1/jobs/{job}/stop").status == 202
        d.wait(job, "stopped")
        assert (folder / "partial.safetensors").exists()
        os.mkfifo(folder / "samples.npy.part")  # the samples wait for a reader
        assert d.ask("POST", f"/v1/jobs/{job}/resume").status == 202
        end = time.monotonic() + 90
        while not (folder / "nearest.png").exists():
            assert time.monotonic() < end, d.get(f"/v1/jobs/{job}").json()
            time.sleep(0.02)
        assert (folder / "partial.safetensors").exists()
        with open(folder / "samples.npy.part", "rb") as f:
            assert len(f.read()) == 128 + n * 64 * 4
        d.wait(job, "completed")
        assert not (folder / "partial.safetensors").exists()


def test_no_picture():
    """A picture that cannot be written costs an alert, not what was measured."""
    with daemon() as d:
        _, checkpoint = trained(d)
        (d.dir / "state/evals/1/grid.png").mkdir(parents=True)  # in its place
        job = evaluate(d, checkpoint=checkpoint, metrics="fd")
        row = rows(d, f"&eval_job={job}")[0]
        assert row["id"] == "1" and row["state"] == "done" and row["results"]["fd"] > 0, row
        alerts = d.get(f"/v1/jobs/{job}/alerts").json()["alerts"]
        assert [a["kind"] for a in alerts] == ["eval"] and "has no grid.png" in alerts[0]["text"], alerts
        assert (d.dir / "state/evals/1/nearest.png").is_file()


# ---- a folder of pictures: what the generator drew gets the same figures ----

def write_png(path, grey, side):
    import zlib
    lines = b"".join(b"\0" + bytes(grey[i * side:(i + 1) * side]) for i in range(side))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def test_folder():
    with daemon() as d:
        _, checkpoint = trained(d)
        job = evaluate(d, checkpoint=checkpoint, samples=True)
        row = rows(d, f"&eval_job={job}")[0]
        body = d.get(f"/v1/evals/{row['id']}/files/samples.npy").body[128:]
        values = struct.unpack(f"<{200 * 64}f", body)
        for i in range(200):
            folder = d.dir / f"data/drawn/{i % 10:02}"  # of class 0 to 9
            folder.mkdir(parents=True, exist_ok=True)
            pixels = [round((min(1, max(-1, v)) + 1) * 127.5) for v in values[64 * i:64 * i + 64]]
            write_png(folder / f"{i:04}.png", pixels, 8)
        other = evaluate(d, folder="drawn", data="tiny")
        same = rows(d, f"&eval_job={other}")[0]
        assert same["kind"] == "folder" and same["folder"] == "drawn" and same["comparable"] == row["comparable"]
        for metric in ("fd", "accuracy", "precision", "coverage"):
            a, b = same["results"][metric], row["results"][metric]
            assert abs(a - b) <= 1e-5 * max(1, abs(b)), (metric, a, b)
        flat = d.dir / "data/flat"
        flat.mkdir()
        for k, p in enumerate(sorted((d.dir / "data/drawn").rglob("*.png"))):
            (flat / f"{k:04}.png").write_bytes(p.read_bytes())
        third = evaluate(d, folder="flat", data="tiny", metrics="fd,kid")
        assert abs(rows(d, f"&eval_job={third}")[0]["results"]["fd"] - row["results"]["fd"]) < 1e-4
        few = evaluate(d, folder="flat", data="tiny", n=300, wait="failed")
        assert "200 pictures" in rows(d, f"&eval_job={few}")[0]["error"]


def fails(d, says, **body):
    job = evaluate(d, wait="failed", **body)
    error = rows(d, f"&eval_job={job}")[0]["error"]
    assert all(word in error for word in says), error


def done(d, **body):
    job = evaluate(d, **body)
    alerts = d.get(f"/v1/jobs/{job}/alerts").json()["alerts"]
    return d.get(f"/v1/evals/{rows(d, f'&eval_job={job}')[0]['id']}").json(), [a["text"] for a in alerts]


def test_folder_classes():
    """Folders are matched to classes by their names, whose order is not the alphabet's."""
    names = ["disc", "ring", "square", "triangle", "cross", "stripes", "checks", "dots"]
    shapes = {"set": "shapes", "count": 160, "size": 8, "channels": 3, "classes": 8}
    with daemon() as d:
        (d.dir / "recipes/shaper.json").write_text(json.dumps({**JUDGE, "name": "shaper", "data": shapes}))
        rng, drawn = random.Random(1), d.dir / "data/drawn"
        for k, name in enumerate(names):
            (drawn / name).mkdir(parents=True)
            for i in range(k + 2):
                write_png(drawn / name / f"{i}.png", rng.randbytes(64), 8)
        ask = {"folder": "drawn", "data": shapes, "judge": "shaper", "n": 44, "metrics": "fd,accuracy"}
        row, alerts = done(d, **ask)
        assert row["details"]["classes"] == names and not alerts and "note" not in row["settings"], (row, alerts)
        assert [c["n"] for c in row["details"]["per_class"]] == list(range(2, 10)), row
        (drawn / "ring").rename(drawn / "rings")
        fails(d, ["no picture of class ring", "no class of the data: rings"], **ask)
        fd = done(d, **{**ask, "metrics": "fd"})[0]["results"]["fd"]
        assert math.isclose(fd, row["results"]["fd"], rel_tol=1e-6), (fd, row)
        whole, alerts = done(d, **{**ask, "metrics": "all"})
        assert whole["results"].get("accuracy") is None and "no picture of class ring" in alerts[0], (whole, alerts)
        assert whole["settings"]["note"] == alerts[0], whole
        for k, name in enumerate(["disc", "rings", *names[2:]]):
            (drawn / name).rename(drawn / f"{k:02} of 8")
        row, alerts = done(d, **ask)
        assert len(alerts) == 1 and "00 of 8 for disc" in alerts[0] and row["settings"]["note"] == alerts[0], (row, alerts)
        assert [c["n"] for c in row["details"]["per_class"]] == list(range(2, 10)), row
        for k, p in enumerate(sorted(drawn.rglob("*.png"))):
            p.rename(drawn / f"{k}.png")
        fails(d, ["accuracy", "has no class folders"], **ask)
        assert done(d, **{**ask, "metrics": "all"})[0]["results"].get("accuracy") is None


def test_folder_as_the_set_was_made():
    """Pictures of a folder are fitted as those of the user's set were."""
    with daemon() as d:
        judge = d.job("judge")
        rng = random.Random(1)
        for i in range(40):
            folder = d.dir / f"data/raw/{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            write_png(folder / f"{i:02}.png", rng.randbytes(256), 16)
        made = {"name": "us", "path": "raw", "options": {"size": 8, "fit": "crop", "channels": 1, "test_share": 0}}
        assert d.ask("POST", "/v1/datasets", made).status == 201
        end = time.monotonic() + 60
        while d.get("/v1/datasets/us").json()["state"] != "ready":
            assert time.monotonic() < end, d.get("/v1/datasets/us").json()
            time.sleep(0.05)
        d.wait(judge, "completed")
        judge = d.get(f"/v1/checkpoints?job={judge}").json()["checkpoints"][0]["id"]
        row, _ = done(d, folder="raw", data={"set": "folder", "path": "us"}, judge=judge, n=40, metrics="fd")
        nearest = row["details"]["nearest"]
        assert len(nearest) == 16 and all(p["distance"] == 0 for p in nearest), row  # the set's very pictures


def test_classes_of_a_checkpoint():
    """A checkpoint whose classes have other names than the data, or the same in another order."""
    with daemon() as d:
        _, checkpoint = trained(d)
        whole = d.get(f"/v1/checkpoints/{checkpoint}/file?format=safetensors").body
        n = struct.unpack("<Q", whole[:8])[0]
        header = json.loads(whole[8:8 + n])
        names = json.loads(header["__metadata__"]["driftd.classes"])
        assert names == list("0123456789"), names

        def renamed(name, classes):
            header["__metadata__"]["driftd.classes"] = json.dumps(classes)
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            r = d.ask("POST", f"/v1/checkpoints?name={name}", struct.pack("<Q", len(text)) + text + whole[8 + n:],
                      Content_Type="application/octet-stream")
            assert r.status == 201, r
            return r.json()["id"]
        turned, other = renamed("turned", names[::-1]), renamed("other", ["zebra", *names[1:]])
        fails(d, ["class 0 of the checkpoint is 9", "in another order"], checkpoint=turned, data="tiny")
        row, alerts = done(d, checkpoint=turned, data="tiny", metrics="fd")
        assert "in another order" in alerts[0] and row["settings"]["note"] == alerts[0], (row, alerts)
        row, alerts = done(d, checkpoint=other, data="tiny")
        assert "zebra" in alerts[0] and row["results"]["accuracy"] is not None, (row, alerts)


# ---- while a job trains ----

def test_while_training():
    with daemon() as d:
        (d.dir / "recipes/watched.json").write_text(json.dumps({
            "name": "watched", "data": DATA, "model": MODEL,
            "train": {"steps": 120, "generated": 4, "positives": 4}, "checkpoint": {"every": 0, "every_seconds": 0,
                                                                                  "keep_last": 1},
            "eval": {"every": 40, "at_end": True, "judge": "judge", "n": 100, "share": 1, "metrics": "fd,accuracy"}}))
        job = d.job("watched")
        d.wait(job, "completed")
        jobs = {j["id"]: j for j in d.get("/v1/jobs").json()["jobs"]}
        assert [j["kind"] for j in jobs.values()].count("encoder") == 1, jobs  # before the generator
        assert int(next(i for i, j in jobs.items() if j["kind"] == "encoder")) < int(job)
        mine = next(i for i, j in jobs.items() if j["kind"] == "eval")
        assert all(j["changed"] is not None for j in jobs.values()), jobs
        d.wait(mine, "completed")
        found = rows(d, f"&job={job}&sort=step")
        assert [r["step"] for r in found] == [40, 80, 120] and {r["eval_job"] for r in found} == {mine}, found
        best = min(found, key=lambda r: r["results"]["fd"])
        assert [r["id"] for r in found if r["best"]] == [best["id"]], found
        kept = d.get(f"/v1/checkpoints?job={job}").json()["checkpoints"]
        assert best["checkpoint"] in [c["id"] for c in kept], kept  # keep_last is 1
        assert [c["id"] for c in kept if c["best"]] == [best["checkpoint"]], kept
        # a training job that does not evaluate has no such key in its configuration
        assert "eval" not in d.get(f"/v1/jobs/{d.job('tiny')}").json()["config"]


def test_patience():
    with daemon() as d:
        job = d.job({"data": DATA, "model": MODEL, "train": {"steps": 10**8, "generated": 4, "positives": 4},
                     "optim": {"lr": 0}, "ema": {"decay": [0]},  # never better
                     "checkpoint": {"every": 0, "every_seconds": 0},
                     "eval": {"every_seconds": 0.3, "judge": "judge", "n": 40, "share": 1, "metrics": "fd",
                              "patience": 2}})
        d.wait(job, "completed", "failed", seconds=120)
        info = d.get(f"/v1/jobs/{job}").json()
        assert info["state"] == "completed" and info["step"] < 10**8, info
        assert "patience" in d.said()


# ---- the command line ----

def test_commands():
    with daemon() as d:
        job, checkpoint = trained(d)
        said = ctl(d, "eval", "--job", job, "--judge=judge", "--n=200", f"--output={d.dir}/out")
        head, first = said[said.index("ID "):].splitlines()[:2]
        assert {"FD", "ACCURACY", "NN", "PRECISION"} <= set(head.split()) and "done" in first, said
        assert re.search(r"\d \(\d", first), "no floor beside a value"
        out = d.dir / "out"
        table = list(csv.DictReader(open(out / "fid_metrics.csv")))
        assert [r["step"] for r in table] == ["20", "40"] and list(table[0])[:20] == REFERENCE, table
        assert (out / "fid_vs_step.png").read_bytes()[:4] == b"\x89PNG"
        for r in table:
            assert sorted(p.name for p in (out / r["artifact_dir"]).iterdir()) == [
                "grid.png", "metadata.json", "nearest.png"]
        a, b = table[0], table[1]
        assert ctl(d, "evals", "--sort=fd", "--json").index(f'"id": "{a["id"]}"') > 0
        assert "NN" not in ctl(d, "evals").split() and "--all shows them" in ctl(d, "evals", "--limit=1")
        assert ctl(d, "evals", "--csv", f"--job={job}").split("\n")[0].startswith(",".join(REFERENCE))
        ctl(d, "evals", "--png", "--metric=kid", f"--output={d.dir}/kid.png")
        assert struct.unpack(">II", (d.dir / "kid.png").read_bytes()[16:24]) == (900, 560)

        one = json.loads(ctl(d, "compare", a["id"], b["id"], "--json"))
        accuracy = next(m for m in one if m["metric"] == "accuracy")
        gap = float(b["accuracy"]) - float(a["accuracy"])
        error = (float(a["accuracy_stderr"]) ** 2 + float(b["accuracy_stderr"]) ** 2) ** 0.5
        assert abs(accuracy["difference"] - gap) < 1e-6 and abs(accuracy["error"] - error) < 1e-6, accuracy
        # paired by seed: the seeds' own differences say how sure it is
        jobs = []
        for weights in ("ema", "raw"):
            for seed in (1, 2, 3):
                jobs.append((weights, evaluate(d, checkpoint=checkpoint, weights=weights, seed=seed, metrics="fd")))
        with contextlib.closing(sqlite3.connect(d.dir / "state/driftd.sqlite3")) as db:  # as two jobs
            for weights, eval_job in jobs:
                first = next(j for w, j in jobs if w == weights)
                db.execute("UPDATE evals SET eval_job=?, source=source||seed WHERE eval_job=?", (first, eval_job))
            db.commit()
        sides = [next(j for w, j in jobs if w == k) for k in ("ema", "raw")]
        fd = json.loads(ctl(d, "compare", "--jobs", *sides, "--json"))[0]
        found = [{r["settings"]["seed"]: r["results"]["fd"] for r in rows(d, f"&eval_job={s}")} for s in sides]
        gaps = [found[1][s] - found[0][s] for s in (1, 2, 3)]
        mean = sum(gaps) / 3
        error = (sum((g - mean) ** 2 for g in gaps) / 2 / 3) ** 0.5
        assert fd["pairs"] == 3 and fd["by"] == "seeds", fd
        assert abs(fd["difference"] - mean) < 1e-4 * abs(mean) and abs(fd["error"] - error) < 1e-4 * error, (fd, gaps)
        other = evaluate(d, checkpoint=checkpoint, n=100)
        said = ctl(d, "compare", a["id"], rows(d, f"&eval_job={other}")[0]["id"], status=1)
        assert "same way" in said, said
        assert "PAIRS" in ctl(d, "compare", "--force", a["id"], rows(d, f"&eval_job={other}")[0]["id"])
        assert "numbers from -1000 to 1000" in ctl(d, "eval", f"--checkpoint={checkpoint}", "--alpha=1;2", status=2)
        assert "did you mean" in ctl(d, "eval", f"--checkpoint={checkpoint}", "--judge=jugde", status=1)


def reference():
    """The lines of docs/reference.md: (what the reference has, the command here)."""
    page = (pathlib.Path(__file__).parent / "../../docs/reference.md").read_text()
    for line in page.split("\n"):
        if line.startswith("| `"):
            _, old, new, *_ = [cell.strip() for cell in line.split("|")]
            yield old.strip("`"), new.strip("`")


def test_reference():
    """Each line of the table from the reference's flags to ours does what it says."""
    with daemon() as d:
        job, checkpoint = trained(d)
        (d.dir / "c.json").write_text(json.dumps({"data": DATA, "model": MODEL, "train": {
            "steps": 2, "generated": 4, "positives": 4}}))
        d.recipe("tiny", {"data": DATA, "train": {"steps": 4, "generated": 4, "positives": 4}})
        stopped = d.job("tiny")
        d.ask("POST", f"/v1/jobs/{stopped}/stop")
        fill = {"RECIPE": "tiny", "JUDGE": "judge", "CHECKPOINT": checkpoint, "FILE.json": f"{d.dir}/c.json",
                "FILE.png": f"{d.dir}/x.png", "FILE.csv": f"{d.dir}/x.csv", "DIR": str(d.dir), "NAME": "name"}
        flags = subprocess.run([sys.argv[1], "serve", "--help"], capture_output=True, text=True).stdout
        tried = 0
        for old, new in reference():
            words = new.split()
            tried += 1
            if words[0] == "driftd":
                assert re.search(rf"^ *{words[2]}\b", flags, re.M), (old, words)
                continue
            mine = dict(fill, JOB=stopped if "resume" in words and d.state(stopped) == "stopped" else job)
            for key, value in mine.items():
                words = [re.sub(rf"\b{re.escape(key)}\b", value, w) for w in words]
            if "eval" in words[1:2] and "--n" not in words:
                words += ["--n", "100", "--metrics", "fd,accuracy"]
            if "resume" in words and mine["JOB"] == job:
                continue  # it ended before it could be stopped
            ctl(d, *words[1:])
        assert tried >= 36, tried
        seen = {old.split()[0] for old, _ in reference()}
        assert seen == {"train.py", "sample.py", "eval.py"}
        for j in d.get("/v1/jobs?limit=200").json()["jobs"]:
            d.wait(j["id"], "completed", "failed", "stopped", seconds=200)
            assert d.state(j["id"]) != "failed", d.get(f"/v1/jobs/{j['id']}").json()
        assert (d.dir / "fid_metrics.csv").exists() and (d.dir / "x.csv").exists() and (d.dir / "grid.png").exists()


def test_tour():
    """The evaluation of the README's tour, of the run that the tour makes: its judge fits."""
    root = pathlib.Path(__file__).parent / "../.."
    words = re.search(r"^    driftctl (eval .*--judge (\S+).*)$", (root / "README.md").read_text(), re.M)
    with daemon() as d:
        for name, steps in (("digits", 2), (words[2], 20)):
            config = json.loads((root / "configs" / f"{name}.json").read_text())
            config["data"]["count"] = 1000
            config["train"] |= {"steps": steps}
            (d.dir / f"recipes/{name}.json").write_text(json.dumps(config))
        job = d.job("digits")
        d.wait(job, "completed", "failed")
        said = ctl(d, *words[1].replace("ID", job).split(), "--n", "100", "--metrics", "accuracy")
        assert [r["state"] for r in rows(d)] == ["done"], said


# ---- FID, from another machine ----

def test_fid():
    """The commands of docs/evaluation.md: the client has the weights, the server's data directory does not."""
    if "NARROW_INCEPTION" not in os.environ:
        return print("without NARROW_INCEPTION: FID was not tried")
    page = (pathlib.Path(__file__).parent / "../../docs/evaluation.md").read_text()
    take_in, measure = re.findall(r"^    driftctl (.*)$", page, re.M)[:2]
    with daemon() as d:
        _, checkpoint = trained(d)
        weights = d.dir / "inception.safetensors"
        subprocess.run([os.environ["NARROW_INCEPTION"], weights], check=True)
        taken = ctl(d, *take_in.replace("inception.safetensors", str(weights)).split()).strip()
        assert d.get(f"/v1/checkpoints/{taken}").json()["model"]["arch"] == "inception"
        said = ctl(d, *measure.replace("--checkpoint 12", f"--checkpoint {checkpoint}").replace("50000", "100").split())
        assert re.search(r"\bfid\b", said, re.I) and not os.listdir(d.dir / "data"), said
        by_id = ctl(d, "eval", "--checkpoint", checkpoint, "--inception", taken, "--metrics", "fid,fid_inf,is_inception",
                    "-n", "100", "--follow")
        again, first = rows(d)
        assert [r["state"] for r in (again, first)] == ["done", "done"], (said, by_id)
        assert first["results"]["fid"] > 0 and first["results"]["is_inception"] >= 1, first
        assert numbers(d, first) == numbers(d, again)
        details = d.get(f"/v1/evals/{first['id']}").json()["details"]
        assert details["confusion"] is None and details["per_class"] is None, details
        problem(d.ask("POST", "/v1/evals", {"checkpoint": checkpoint, "judge": taken}), 422, None, "judge",
                "name it as eval.inception")


# ---- killed at random: one row, the same bits ----

def test_kills(count=10):
    random.seed(7)
    with daemon() as d:
        _, checkpoint = trained(d)
        first = evaluate(d, checkpoint=checkpoint, n=6000, alpha=[1, 2])
        want = [numbers(d, r) for r in rows(d, f"&eval_job={first}&sort=alpha")]
        d.job("long")  # whatever else runs
        job = evaluate(d, checkpoint=checkpoint, n=6000, alpha=[1, 2], share=0.5, wait=None)
        killed = 0
        while killed < count and d.state(job) != "completed":
            time.sleep(random.uniform(0.05, 0.6 if killed >= 3 else 0.2))  # a fast machine is killed as often
            if d.state(job) == "completed":
                break
            d.end(signal.SIGKILL)
            killed += 1
            d.start()
            for j in d.get("/v1/jobs?state=interrupted").json()["jobs"]:  # killed too often to go on by itself
                assert d.ask("POST", f"/v1/jobs/{j['id']}/resume").status == 202, j
        d.wait(job, "completed", "failed", seconds=300)
        assert killed >= 3, killed
        print(f"killed {killed} times")
        got = rows(d, f"&eval_job={job}&sort=alpha")
        assert [r["settings"]["alpha"] for r in got] == [1.0, 2.0], got  # one row each
        assert [numbers(d, r) for r in got] == want
        # stopped by wish: it stays queued work, and goes on
        job = evaluate(d, checkpoint=checkpoint, n=6000, alpha=[1, 2], share=0.05, wait=None)
        d.wait(job, "running")
        time.sleep(0.3)
        assert d.ask("POST", f"/v1/jobs/{job}/stop").status == 202
        d.wait(job, "stopped")
        assert d.ask("POST", f"/v1/jobs/{job}/resume").status == 202
        d.ask("POST", "/v1/jobs/%s/stop?mode=now" % next(
            j["id"] for j in d.get("/v1/jobs?state=running").json()["jobs"] if j["kind"] == "train"))
        d.wait(job, "completed")
        assert [numbers(d, r) for r in rows(d, f"&eval_job={job}&sort=alpha")] == want
        with contextlib.closing(sqlite3.connect(f"file:{d.dir}/state/driftd.sqlite3?mode=ro", uri=True)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


# ---- killed, and not gone on with: what was at work waits again, and can be removed ----

def test_removed_after_a_kill():
    with daemon("--resume=ask") as d:
        _, checkpoint = trained(d)
        done = evaluate(d, checkpoint=checkpoint, n=60)
        job = evaluate(d, checkpoint=checkpoint, n=20000, alpha=[1, 2, 3], wait=None)
        runs = lambda: {r["settings"]["alpha"]: r for r in rows(d, f"&eval_job={job}")}
        end = time.monotonic() + 60
        while "running" not in [r["state"] for r in runs().values()]:
            assert time.monotonic() < end, runs()
        d.end(signal.SIGKILL)
        d.start()
        assert d.state(job) == "interrupted" and [r["state"] for r in runs().values()] == 3 * ["queued"], runs()
        problem(d.ask("POST", f"/v1/jobs/{job}/checkpoint"), 409)
        one, others = runs()[1]["id"], [runs()[a]["id"] for a in (2, 3)]
        assert d.ask("DELETE", f"/v1/evals/{one}").status == 204
        assert sorted(r["id"] for r in runs().values()) == sorted(others)
        folder = d.dir / "state/evals" / others[0]
        folder.mkdir(parents=True, exist_ok=True)  # as a run leaves it when it is cut off
        (folder / "partial.safetensors").write_bytes(b"x")
        for j in (job, done):
            assert d.ask("DELETE", f"/v1/jobs/{j}").status == 204
        left = rows(d)
        assert [(r["state"], r["eval_job"]) for r in left] == [("done", None)], left
        assert not folder.exists()


def test_no_checkpoint_of_an_evaluation():
    with daemon() as d:
        _, checkpoint = trained(d)
        job = evaluate(d, checkpoint=checkpoint, n=50000, wait=None)
        d.wait(job, "running")
        problem(d.ask("POST", f"/v1/jobs/{job}/checkpoint"), 409, "conflict", None, "no checkpoints")
        assert d.ask("POST", f"/v1/jobs/{job}/stop").status == 202
        d.wait(job, "stopped")


if __name__ == "__main__":
    tests = {k[5:]: v for k, v in list(globals().items()) if k.startswith("test_")}
    for name in sys.argv[3:] or tests:
        start = time.monotonic()
        tests[name]()
        print(f"ok {name} ({time.monotonic() - start:.1f} s)", flush=True)
