"""Evaluations of a real driftd, from outside: a judge that is trained when it is needed, rows that hold what
was measured, curves, tables and files, bad input, evaluations beside training, and kills at random.

Usage: evals.py DRIFTD DRIFTCTL [NAME...]; the names are those of tests below.
"""
import contextlib
import csv
import io
import json
import os
import random
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
        judge = d.get(f"/v1/checkpoints?job={info['needs']}").json()["checkpoints"][0]["id"]
        again = evaluate(d, checkpoint=checkpoint)
        assert d.get(f"/v1/jobs/{again}").json()["needs"] == info["needs"]
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
                ({"checkpoint": checkpoint, "data": "nothing"}, "data", "nothing"),
                ({"folder": "../x"}, "folder", "`..`"), ({"folder": "nowhere"}, "folder", "nowhere"),
                ({"checkpoint": checkpoint, "chekpoint": "1"}, "chekpoint", "`checkpoint`")]:
            r = d.ask("POST", "/v1/evals", {"judge": "judge", "n": 200, **body})
            problem(r, 422, None, field, word)
        r = d.ask("POST", "/v1/jobs", {"config": {"kind": "eval", "eval": {"job": 1, "judge": "judge"},
                                                  "model": {"dim": 32}}})
        problem(r, 422, None, "config.model.dim", "eval")
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
        (d.dir / "data/empty").mkdir()
        bad = evaluate(d, folder="empty", data="tiny", wait="failed")
        assert rows(d, f"&eval_job={bad}")[0]["error"], rows(d)
        judged = d.get("/v1/jobs?limit=100").json()["jobs"]
        judge = next(j["id"] for j in judged if j["kind"] == "encoder")
        judge = d.get(f"/v1/checkpoints?job={judge}").json()["checkpoints"][0]["id"]
        bad = evaluate(d, checkpoint=big, judge=f"checkpoint:{judge}", wait="failed")
        assert "eval.judge" in d.get(f"/v1/jobs/{bad}").json()["error"]
        problem(d.ask("POST", "/v1/evals", {"checkpoint": judge, "judge": "judge"}), 422, None, "checkpoint",
                "generator")
        evaluate(d, checkpoint=checkpoint)  # and nothing is lost
        assert rows(d)[0]["state"] == "done"


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
            folder = d.dir / f"data/drawn/{i % 10}"
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
            time.sleep(random.uniform(0.05, 0.6))
            if d.state(job) == "completed":
                break
            d.end(signal.SIGKILL)
            killed += 1
            d.start()
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


if __name__ == "__main__":
    tests = {k[5:]: v for k, v in list(globals().items()) if k.startswith("test_")}
    for name in sys.argv[3:] or tests:
        start = time.monotonic()
        tests[name]()
        print(f"ok {name} ({time.monotonic() - start:.1f} s)", flush=True)
