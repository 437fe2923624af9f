#!/usr/bin/env python3
"""Jobs, metrics, events, checkpoints, samples and the service through the running daemon's HTTP.

Argument: driftd.
"""
import json
import os
import pathlib
import platform
import re
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse

from live import Daemon, Stream, certificate, daemon, png, problem, run, trained


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
        problem(d.ask("POST", "/v1/jobs", {"config": "long", "name": "a"}, **key), 410, "gone", "Idempotency-Key", "removed")


def test_repeated_job():
    """The answer to a repeated request is the same job, also once what it started from is gone."""
    with trained() as d:
        old = d.get("/v1/checkpoints?job=1").json()["checkpoints"][1]["id"]
        ask = lambda: d.ask("POST", "/v1/jobs", {"config": "tiny", "overrides": {"init_from": old}}, Idempotency_Key="two")
        first = ask().json()["id"]
        d.wait(first, "completed")
        assert d.ask("DELETE", f"/v1/checkpoints/{old}").status == 204
        problem(d.ask("POST", "/v1/jobs", {"config": "tiny", "overrides": {"init_from": old}}), 422, None, "init_from", old)
        again = ask()
        assert again.status == 201 and again.json()["id"] == first, again
        assert again.header("Idempotency-Replayed") == "true", again
        (d.dir / "recipes/tiny.json").unlink()
        again = ask()
        assert again.status == 201 and again.json()["id"] == first, again


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
        assert lines[0] == "name,step,time,value" and len(lines) == 12
        assert csv.header("Content-Type").startswith("text/csv")
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
        assert "state" in kinds, "the end of the run, out of the database"
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
        problem(d.ask("POST", "/v1/checkpoints?name=" + 201 * "a", whole.body, **O), 422, None, "name", "200")
        r = d.ask("POST", "/v1/checkpoints?name=" + 100 * "%C3%A9", whole.body, **O)
        assert r.status == 201 and r.json()["name"] == 100 * "\u00e9", "the same file again takes the new name"
        new = r.header("Location").rsplit("/", 1)[1]
        assert d.get(f"/v1/checkpoints/{new}").json()["name"] == 100 * "\u00e9"
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
        for step in (b"-5", b"x", b"", b"1e3", b"9" * 30):
            odd = whole.body.replace(b'"driftd.step":"60"', b'"driftd.step":"' + step + b'"')
            size = struct.unpack("<Q", odd[:8])[0] + len(odd) - len(whole.body)
            problem(d.ask("POST", "/v1/checkpoints", struct.pack("<Q", size) + odd[8:], **O), 422, None, "body",
                    "driftd.step")
        problem(d.ask("POST", "/v1/checkpoints?config=tinny", foreign, **O), 422, None, "config", "tiny")
        r = d.ask("POST", f"/v1/checkpoints/{listed[1]['id']}/activate")
        assert r.status == 200 and r.json()["active"]
        assert d.get("/generate").header("Driftd-Checkpoint") == listed[1]["id"]
        assert d.ask("POST", "/v1/checkpoints/live/activate").status == 200
        assert d.get("/generate").header("Driftd-Checkpoint") != listed[1]["id"]
        problem(d.ask("POST", "/v1/checkpoints", {"path": "/etc/passwd"}), 403, "import-root", None)


def test_served():
    """What is served is a decision: another job changes nothing, and both ways lead back."""
    with daemon() as d:
        assert d.get("/v1/served").json()["why"] is None
        first = d.job("long")
        d.wait(first, "running")
        end = time.monotonic() + 60
        while d.get("/generate").status != 200 and time.monotonic() < end:
            time.sleep(0.02)
        r = d.get("/generate")
        assert r.header("Driftd-Checkpoint") == f"live:{first}" and r.header("Driftd-Served") == "live;why=live", r
        d.ask("POST", f"/v1/jobs/{first}/stop?mode=now")
        d.wait(first, "stopped")
        d.wait(d.job("tiny"), "completed")
        final = d.get("/v1/served").json()
        assert (final["mode"], final["why"], final["job"], final["step"]) == ("auto", "completed", "2", 60), final
        id, same = final["checkpoint"], "/generate?seed=3&format=npy"
        bytes_of = lambda query="": d.get(same + query).body
        before = bytes_of()
        d.ask("POST", f"/v1/jobs/{first}/resume")
        d.wait(first, "running")
        s = Stream(d)
        for _ in range(3):  # the job that runs leaves what is served alone
            r = d.get(same)
            assert r.body == before and r.header("Driftd-Checkpoint") == id, r
            assert r.header("Driftd-Served") == f"{id};why=completed", r
        end = time.monotonic() + 60
        while not d.get("/generate?checkpoint=live").header("Driftd-Checkpoint").startswith("live:"):
            assert time.monotonic() < end
        other = next(c["id"] for c in d.get("/v1/checkpoints?job=2").json()["checkpoints"] if c["id"] != id)
        r = d.ask("PUT", "/v1/served", {"checkpoint": other})
        assert r.status == 200 and (r.json()["mode"], r.json()["why"]) == ("checkpoint", "promoted"), r
        r = d.get(same)
        assert r.header("Driftd-Served") == f"{other};why=promoted" and r.body == bytes_of(f"&checkpoint={other}"), r
        assert png(d.get("/generate").body)[2]["checkpoint"] == other
        status = d.get("/v1/status").json()["generation"]
        assert status["serving"] == other and status["served"]["why"] == "promoted", status
        assert d.get("/generate?checkpoint=live").header("Driftd-Checkpoint") == f"live:{first}"
        event = s.until("served")[-1][2]
        assert (event["mode"], event["checkpoint"], event["job"]) == ("checkpoint", other, None), event
        s.close()
        d.end()
        d.start()
        assert d.get("/v1/served").json()["checkpoint"] == other, "over a restart"
        problem(d.ask("DELETE", "/v1/jobs/2"), 409, "conflict")
        d.wait(first, "running")
        assert d.ask("PUT", "/v1/served", {"checkpoint": "live"}).json()["mode"] == "live"
        end = time.monotonic() + 60
        while d.get("/generate").header("Driftd-Checkpoint") != f"live:{first}":
            assert time.monotonic() < end
        assert d.ask("DELETE", "/v1/served").json()["mode"] == "auto"
        assert bytes_of() == before
        for what, status, word in (("77", 404, "77"), ("lve", 404, "`live`"), ("", 404, "expected"), (None, 422, "auto")):
            problem(d.ask("PUT", "/v1/served", {"checkpoint": what}), status, None, None, word)
        problem(d.ask("PUT", "/v1/served", {"id": "1"}), 422, None, "id", "checkpoint")
        d.ask("PUT", "/v1/served", {"checkpoint": other})
        next((d.dir / "state/checkpoints/2").glob("*40.safetensors")).write_bytes(b"damaged")
        assert "damaged" in d.get("/generate").json()["detail"]
        assert d.get("/v1/served").json()["why"] == "completed" and bytes_of() == before, "a damaged one steps back"
        problem(d.ask("PUT", "/v1/served", {"checkpoint": other}), 410, "checkpoint-gone")


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
        # A name in the query is held to what one in the body is: cut, it would be no text any more.
        for query, field in (("name=a" + 100 * "%C3%A9", "name"), ("name=" + 201 * "a", "name"), ("config=" + 201 * "a", "config")):
            problem(d.ask("POST", f"/v1/checkpoints?{query}", {"path": str(roots / "a.safetensors")}), 422, None, field, "200")
        problem(d.ask("POST", "/v1/checkpoints?name=b", {"path": str(roots / "a.safetensors"), "name": "a"}), 422, None,
                "name", "query")
        r = d.ask("POST", "/v1/checkpoints?name=" + 100 * "%C3%A9", {"path": str(roots / "a.safetensors")})
        assert r.status == 201 and r.json()["name"] == 100 * "\u00e9", r
        assert r.json()["id"] in [c["id"] for c in d.get("/v1/checkpoints").json()["checkpoints"]]


def test_field():
    """The drift field of a two-dimensional job: kept when the job ends, gone with the job."""
    with daemon() as d:
        job = d.job({"data": {"set": "toy-swiss-roll", "size": 1, "channels": 2, "classes": 1, "count": 200},
                     "model": {"arch": "mlp", "dim": 16, "depth": 1, "noise": "latent", "latent_dim": 2, "style_tokens": 0,
                               "null_class": False},
                     "features": {"image": True}, "loss": {"field": "kernel", "temperatures": [0.1], "affinity_floor": 0},
                     "train": {"steps": 20, "generated": 16, "positives": 16, "alpha_min": 1, "alpha_max": 1},
                     "metrics": {"spread_every": 0}})
        d.wait(job, "completed", "failed")
        field = d.get(f"/v1/jobs/{job}/field").json()
        assert field["step"] == 20 and len(field["samples"]) == 16, field
        assert d.ask("DELETE", f"/v1/jobs/{job}").status == 204
        problem(d.get(f"/v1/jobs/{job}/field"), 404, "not-found")


def test_pictures_come_back():
    """What a picture says of itself makes the same picture again."""
    with trained() as d:
        for query in ("class=0-9&n=10&grid=4x3&seed=3", "cfg=1,2,3&n=2&seed=4", "n=7&seed=5",
                      "class=3,random,1&cfg=1.1,0.333333343,7e-3&n=6&grid=5x4&scale=2&seed=6", "n=1",
                      "class=2&cfg=1,1&n=1&checkpoint=latest"):
            first = d.get("/v1/generate?" + query)
            request = png(first.body)[2]["request"]
            again = d.get("/v1/generate?" + urllib.parse.urlencode(request))
            assert again.status == 200 and again.body == first.body, (query, request)
        assert d.get("/v1/generate?n=2&format=json").json()["request"]["n"] == 2
        d.end()


def test_scales_never_trained():
    """A scale outside of the trained ones is taken, and said to be."""
    with trained() as d:
        for query in ("cfg=1", "cfg=1,2.5,3", "cfg=3&checkpoint=latest"):
            r = d.get("/v1/generate?" + query)
            assert r.header("Driftd-Note") is None and "note" not in png(r.body)[2], r
        for query in ("cfg=3.5", "cfg=2,0.5", "cfg=3.5&checkpoint=latest"):
            r = d.get("/v1/generate?" + query)
            note = r.header("Driftd-Note")
            assert r.status == 200 and note.endswith("trained with, 1 to 3"), r
            assert note.startswith("cfg 0.5" if "0.5" in query else "cfg 3.5"), note
            assert png(r.body)[2]["note"] == note
        assert "1 to 3" in d.get("/v1/generate?cfg=9&format=json").json()["note"]
        body = d.get("/v1/checkpoints/3/file").body
        imported = d.ask("POST", "/v1/checkpoints", body, Content_Type="application/octet-stream")
        r = d.get("/v1/generate?cfg=9&checkpoint=" + imported.json()["id"])
        assert r.header("Driftd-Note").endswith("1 to 3"), r  # the file knows
        d.end()


def test_long_paths():
    """A state folder of more characters than any fixed buffer once had."""
    with daemon() as d:
        d.end()
        where = f"--state-dir={d.dir}/" + "/".join(c * 200 for c in "ab")
        d.start(where)
        job = d.job("tiny")
        d.wait(job, "completed")
        d.end()
        d.start(where)
        for c in d.get("/v1/checkpoints").json()["checkpoints"]:
            assert c["state"] == "ok" and len(d.get(f"/v1/checkpoints/{c['id']}/file").body) == c["bytes"]
            assert d.get(f"/v1/generate?checkpoint={c['id']}").status == 200
        sample = d.get("/v1/samples").json()["samples"][0]
        assert len(d.get(sample["url"]).body) == sample["bytes"]
        assert d.ask("POST", "/v1/db/backup").status == 200
        long = d.job("long")
        d.wait(long, "running")
        d.ask("POST", f"/v1/jobs/{long}/pause")
        d.wait(long, "paused")
        step = d.get(f"/v1/jobs/{long}").json()["step"]
        d.ask("POST", f"/v1/jobs/{long}/resume")
        d.wait(long, "running")
        assert d.get(f"/v1/jobs/{long}").json()["step"] >= step
        d.end()


def test_samples_and_evals():
    with trained() as d:
        samples = d.get("/v1/samples?job=1").json()["samples"]
        assert [s["step"] for s in samples] == [60, 40, 20]
        r = d.get(samples[0]["url"])
        assert png(r.body)[:2] == (samples[0]["width"], samples[0]["height"])
        assert "immutable" in r.header("Cache-Control")
        assert d.get(samples[0]["url"], If_None_Match=r.header("ETag")).status == 304
        assert d.get("/v1/samples?job=9").json() == {"samples": []}
        assert d.get("/v1/evals").json()["evals"] == []
        assert d.get("/v1/evals.csv?format=long").body == b"id,job,checkpoint,kind,step,metric,value\n"
        problem(d.ask("POST", "/v1/evals", {"knd": "fid"}), 422, None, "knd", "`kind`")
        d.end()
        db = sqlite3.connect(d.dir / "state/driftd.sqlite3")
        for step in (20, 40):
            db.execute("INSERT INTO evals(job,kind,source,step,state,created_us,ended_us) VALUES(1,'checkpoint',?,?,"
                       "'done',1,1)", (f"row:{step}", step))
            db.execute("INSERT INTO eval_values VALUES(last_insert_rowid(),'fid',2.5,NULL,NULL)")
        db.commit()
        db.close()
        d.start()
        assert [e["results"]["fid"] for e in d.get("/v1/evals?job=1").json()["evals"]] == [2.5, 2.5]
        assert d.get("/v1/evals/1").json()["step"] == 20
        assert d.get("/v1/evals.csv?format=long").body.endswith(
            b"1,1,,checkpoint,20,fid,2.5\n2,1,,checkpoint,40,fid,2.5\n")


def run_to_end(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_no_files():
    """What stands where a checkpoint or a grid was is no file: nobody waits for it."""
    with trained() as d:
        sample = d.get("/v1/samples?job=1").json()["samples"][0]["url"]
        files = [d.dir / "state/checkpoints/1/step-00000060.safetensors", d.dir / "state/samples/1/step-00000060.png"]
        found = d.get("/v1/checkpoints?job=1").json()["checkpoints"]
        urls = [f"/v1/checkpoints/{next(c['id'] for c in found if c['step'] == 60)}/file", sample]

        def loop(path):
            path.symlink_to(path)

        for make in (os.mkfifo, pathlib.Path.mkdir, loop):
            for path in files:
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
                make(path)
            for _ in range(6):  # more than there are threads
                for url in urls:
                    problem(d.get(url), 410, "gone")
            assert d.get("/livez").status == 200
            if make is os.mkfifo:  # the one that cannot be served gives way to the one before
                assert [d.get("/v1/generate?class=1").status for _ in range(2)] == [500, 200]
            assert d.get("/v1/status").status == 200


def test_damaged_database():
    """Pages of the database are overwritten under a running daemon: errors say so, and nothing is denied."""
    with trained() as d:
        d.end()
        d.start()
        file = d.dir / "state/driftd.sqlite3"
        with open(file, "r+b") as f:
            for at in range(8192, file.stat().st_size - 4096, 8192):
                f.seek(at)
                f.write(b"\xaa" * 3000)
        for path in ("/v1/jobs", "/v1/jobs/1", "/v1/jobs/1/metrics", "/v1/jobs/1/alerts", "/v1/checkpoints"):
            problem(d.get(path), 500, "internal", None, "malformed")
        problem(d.ask("POST", "/v1/jobs", {"config": "tiny"}), 500, "internal", None, "malformed")
        problem(d.get("/readyz"), 503, "not-ready", None, "the database is damaged")
        assert d.get("/livez").status == 200
        assert d.end() == 0
        refused = run_to_end(d.driftd, "serve", f"--state-dir={d.dir}/state", "--listen=127.0.0.1:0")
        assert refused.returncode == 1 and "malformed" in refused.stderr, refused


def test_stop_while_data_is_made():
    """A set of millions of pictures takes minutes to draw; whoever wants none of it need not wait."""
    with daemon() as d:
        huge = {"data": {"set": "digits", "count": 20000000, "size": 8, "fit": "resize"}}
        d.recipe("huge", huge)
        for end in ("stop", "pause"):
            job = d.job("huge")
            d.wait(job, "running")
            time.sleep(1)
            start = time.monotonic()
            assert d.ask("POST", f"/v1/jobs/{job}/{end}").status == 202
            d.wait(job, "stopped", "paused", seconds=20)
            print(f"{end}: {time.monotonic() - start:.1f} s")
        job = d.job("huge")
        d.wait(job, "running")
        time.sleep(1)
        start = time.monotonic()
        assert d.end() == 0 and time.monotonic() - start < 30
        d.start("--resume=ask")
        assert d.state(job) in ("interrupted", "queued"), d.state(job)


# ---- service ----

def test_nonfinite_alert():
    """The rule of operations.md fires: value * 0 is 0 for a finite value and NaN for any other."""
    with daemon() as d:
        d.recipe("hot", {"train": {"steps": 200, "classes": 2, "generated": 4, "positives": 4},
                         "optim": {"lr": 2, "weight_decay": 2, "clip": 0, "warmup": 0}})
        assert d.ask("POST", "/v1/jobs", {"config": "hot"}).status == 201
        d.wait("1", "failed")
        text = d.get("/metrics").body.decode()
        value = {k: float(v) for k, v in re.findall(r"^driftd_(loss|grad_norm) (\S+)$", text, re.M)}
        assert any(v * 0 != 0 for v in value.values()), value
        rows = d.get("/v1/jobs/1/metrics?names=loss,grad_norm&max_points=0").json()["series"]
        assert any(s["rows"][-1][2] is None for s in rows), rows[0]["rows"][-2:]
        d.end()


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
            assert re.fullmatch(r"# (HELP|TYPE) (driftd|process)_\w+ .+|(driftd|process)_\w+(\{.*\})? \S+", line), line
        assert "job=" not in text, "no labels that grow"
        assert "driftd_train_steps_total 60" in text
        s = d.get("/v1/status").json()
        assert s["state"] == "running" and s["training"] is None and s["generation"]["images"] == 1
        assert set(d.get("/readyz").json()["checks"]) == {"engine", "store", "disk", "device"}
        assert d.get("/livez").body == b"ok\n"
        backup = d.dir / "copy.sqlite3"
        backup.write_bytes(d.ask("POST", "/v1/db/backup").body)
        db = sqlite3.connect(backup)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT state FROM jobs").fetchall() == [("completed",)]
        db.close()


def test_private_files():
    """The database's neighbours hold its rows: nobody else reads them either."""
    import os
    import stat
    old = os.umask(0o022)
    try:
        with daemon() as d:
            d.wait(d.job("tiny"), "completed")
            for kill in (False, True):
                modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (d.dir / "state").glob("driftd.sqlite3*")}
                assert len(modes) == 3 and set(modes.values()) == {0o640}, modes
                if not kill:
                    d.end(signal.SIGKILL)
                    for p in (d.dir / "state").glob("driftd.sqlite3*"):
                        p.chmod(0o644)  # as an earlier build left them
                    d.start()
                    d.get("/v1/jobs")
            d.end()
    finally:
        os.umask(old)


def test_waiting_job_says_so():
    with daemon() as d:
        first = d.job("long")
        d.wait(first, "running")
        r = d.ask("POST", "/v1/jobs", {"config": "tiny"})
        assert r.json()["ahead"] == 1, r
        assert d.job("tiny", priority=5) == "3"
        ahead = {j["id"]: j["ahead"] for j in d.get("/v1/jobs").json()["jobs"]}
        assert ahead == {"1": 0, "2": 2, "3": 1}, ahead
        d.end()


def test_time_of_a_resumed_job():
    """Without a limit in minutes a checkpoint does not hold the time; the job's row does."""
    with daemon() as d:
        job = d.job("long")
        d.wait(job, "running")
        while d.get(f"/v1/jobs/{job}").json()["seconds"] < 0.3:
            time.sleep(0.05)
        d.ask("POST", f"/v1/jobs/{job}/pause")
        d.wait(job, "paused")
        before = d.get(f"/v1/jobs/{job}").json()
        d.ask("POST", f"/v1/jobs/{job}/resume")
        d.wait(job, "running")
        end = time.monotonic() + 60
        while (now := d.get(f"/v1/jobs/{job}").json())["step"] <= before["step"]:
            assert time.monotonic() < end
        assert now["seconds"] > before["seconds"] >= 0.3, (before, now)
        d.end()


def presented(d):
    with socket.create_connection(("127.0.0.1", d.port), 60) as s:
        context = ssl.create_default_context(cafile=d.dir / "cert.pem")
        with context.wrap_socket(s, server_hostname="127.0.0.1") as t:
            return dict(x[0] for x in t.getpeercert()["subject"])["commonName"]


def test_tls_token_reload():
    d = Daemon()
    try:
        certificate(d.dir, "first")
        (d.dir / "token").write_text("correct-horse\n")
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
        assert d.get("/v1/status", Authorization="Bearer correct-horse").status == 200
        for path in ("/livez", "/readyz", "/openapi.json"):
            assert d.get(path).status == 200
        assert presented(d) == "first" and "event=reload" not in d.said()
        certificate(d.dir, "second")
        (d.dir / "token").write_text("another-horse\n")
        (d.dir / "d.json").write_text((d.dir / "d.json").read_text().replace('"error"', '"info"'))
        d.process.send_signal(signal.SIGHUP)
        for _ in range(500):
            if "event=reload" in d.said():
                break
            time.sleep(0.02)
        line = next(x for x in d.said().splitlines() if "event=reload" in x)
        assert re.findall(r"\b\w*level=\w+", line) == ["level=info", "log_level=info"], line
        assert presented(d) == "second", "the certificate is read again"
        d.tls = ssl.create_default_context(cafile=d.dir / "cert.pem")
        problem(d.get("/v1/status", Authorization="Bearer correct-horse"), 401)
        assert d.get("/v1/status", Authorization="Bearer another-horse").status == 200
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


# ---- the other verbs of the program ----

def test_verbs():
    def driftd(*words):
        r = subprocess.run([sys.argv[1], *map(str, words)], capture_output=True, text=True, timeout=120)
        return r.returncode, r.stdout, r.stderr

    with trained() as d:
        status, out, _ = driftd("--version")
        assert status == 0 and re.match(r"driftd \d+\.\d+\.\d+ \(.+\)\ncompiler .+\nbackends cpu", out), out
        assert "\ncpu " in out and ("\nfeatures " in out or platform.machine() != "x86_64"), out
        for words in (["--help"], ["help"], ["run", "--help"], ["inspect", "-h"], ["serve", "--help"]):
            status, out, _ = driftd(*words)
            assert status == 0 and out.startswith("usage: driftd") and "--max-upload-mb" in out, (words, out)
        recipe = d.dir / "recipes/tiny.json"
        status, out, _ = driftd("check-config", recipe, "optim.lr=0.25")
        config = json.loads(out)
        assert status == 0 and config["optim"]["lr"] == 0.25 and config["ema"]["ramp"] in (True, False)
        assert config["data"]["set"] == "digits", "every key, also those that the file leaves out"
        for words, word in [([recipe, "optim.rl=1"], "optim.lr"), ([d.dir / "none.json"], "none.json"),
                            ([d.dir / "state/driftd.sqlite3"], "line 1")]:
            status, _, err = driftd("check-config", *words)
            assert status == 1 and word in err, (words, err)
        file = next((d.dir / "state/checkpoints/1").glob("*60.safetensors"))
        status, out, _ = driftd("inspect", file)
        assert status == 0, out
        for line in (r"sha256 [0-9a-f]{64}", r"driftd\.step 60", r"driftd\.git \S+", r"driftd\.config \{.*",
                     r"driftd\.data digits", r"\S+\.weight +F32 +\[[\d, ]+\]", r"elements [1-9]\d+"):
            assert re.search(f"^{line}$", out, re.M), (line, out[:3000])
        torn = d.dir / "torn.safetensors"
        torn.write_bytes(file.read_bytes()[:500])
        status, _, err = driftd("inspect", torn)
        assert status == 1 and "torn.safetensors" in err, err
        for words in (["frobnicate"], ["--frobnicate"], ["serve", "extra"], ["run"], ["inspect"], ["check-config"]):
            assert driftd(*words)[0] == 2, words


if __name__ == "__main__":
    run([test_jobs, test_repeated_job, test_metrics, test_events, test_checkpoints, test_served, test_import_by_path, test_field, test_pictures_come_back,
         test_scales_never_trained, test_long_paths, test_samples_and_evals,
         test_no_files, test_damaged_database, test_stop_while_data_is_made,
         test_nonfinite_alert, test_prometheus_and_status, test_private_files, test_waiting_job_says_so,
         test_time_of_a_resumed_job, test_tls_token_reload, test_drain, test_verbs])
