#!/usr/bin/env python3
"""What operators rely on: tokens with scopes and rates, logs, metrics and what watches them, checkpoints
that are tagged and removed, priorities.

Arguments: driftd, driftctl, docs/ops.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from live import daemon, problem, run, trained

DRIFTCTL, OPS = sys.argv[2], pathlib.Path(sys.argv[3])


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def ctl(d, *words):
    return subprocess.run([DRIFTCTL, *map(str, words), "--url", f"http://127.0.0.1:{d.port}"], capture_output=True,
                          text=True)


# ---- tokens ----

TOKENS = """# who may do what
admin-token-1
images-token  generate   # the demo page
reader-token\tread
both-token generate,read 1000/s
slow-token read 2/min
patient-token read 3/s
"""


def test_scopes():
    with daemon("--log-format=json") as d:
        d.end()
        path = d.dir / "tokens"
        path.write_text(TOKENS)
        d.start(f"--token-file={path}")
        asks = {"generate": ("GET", "/generate"), "read": ("GET", "/v1/jobs"), "admin": ("POST", "/v1/jobs/77/stop")}
        may = {"admin-token-1": {"generate", "read", "admin"}, "images-token": {"generate"}, "reader-token": {"read"},
               "both-token": {"generate", "read"}}
        for token, scopes in may.items():
            for scope, (method, target) in asks.items():
                r = d.ask(method, target, **bearer(token))
                if scope in scopes:
                    assert r.status not in (401, 403), (token, scope, r)
                else:
                    problem(r, 403, "insufficient-scope", None, f"`{scope}`")
                    assert 'error="insufficient_scope"' in r.header("WWW-Authenticate"), r
        for wrong in ("admin-token-2", "admin-token-", "", "#", "who"):
            problem(d.get("/v1/jobs", **bearer(wrong)), 401, "unauthorized")
        for _ in range(2):
            assert d.get("/v1/jobs", **bearer("slow-token")).status == 200
        p = problem(d.get("/v1/jobs", **bearer("slow-token")), 429, "rate-limited", None, "2 requests per minute")
        assert 0 < p["retry_after"] <= 30, p
        # driftctl waits for the rate of its token.
        (d.dir / "patient").write_text("patient-token\n")
        asked = [subprocess.Popen([DRIFTCTL, "jobs", "--url", f"http://127.0.0.1:{d.port}", "--token-file", d.dir / "patient"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(8)]
        assert [p.wait(60) for p in asked] == [0] * 8, asked
        reload_tokens(d, path)
        # The server's own file is one that driftctl takes: its first token.
        r = subprocess.run([DRIFTCTL, "jobs", "--json", "--url", f"http://127.0.0.1:{d.port}", "--token-file", path],
                           capture_output=True, text=True)
        assert r.returncode == 0, r


def reload_tokens(d, path):
    """SIGHUP: a file with a mistake changes nothing; a new one holds at once, and rates go on."""
    def reload(event):
        seen = d.said().count(f'"event":"{event}"')
        d.process.send_signal(signal.SIGHUP)
        for _ in range(500):
            if d.said().count(f'"event":"{event}"') > seen:
                return
            time.sleep(0.02)
        raise AssertionError(f"no {event}: {d.said()[-800:]}")

    for bad, why in [("new-token-123 wirte", "no scope `wirte`"), ("new-token-123 ,", "names no scope"), ("new-token-123 read 5", "60/min"), ("short", "at least 8"),
                     ("new-token-123 read 5/min x", "`x` is too much"), ("same-token\nsame-token", "line 2"), ("# none\n", "no token")]:
        path.write_text(bad)
        reload("reload.failed")
        assert why in d.said().splitlines()[-1], (bad, d.said().splitlines()[-1])
        assert d.get("/v1/jobs", **bearer("reader-token")).status == 200
    path.write_text("\ufeffadmin-token-1\nslow-token read 2/min\n", encoding="utf-8")  # the mark of some editors
    reload("reload")
    problem(d.get("/v1/jobs", **bearer("reader-token")), 401)
    problem(d.get("/v1/jobs", **bearer("slow-token")), 429)
    assert d.get("/v1/jobs", **bearer("admin-token-1")).status == 200
    text = d.get("/metrics", **bearer("admin-token-1")).body.decode()
    assert re.search(r"^driftd_http_limited_total [1-9]", text, re.M) and re.search(r"^driftd_http_shed_total 0$", text, re.M), text


# ---- signals and descriptors ----

def test_signals():
    """What log rotators send to any daemon does nothing; the warning before a kill ends it as TERM does."""
    with daemon() as d:
        d.process.send_signal(signal.SIGUSR1)
        d.process.send_signal(signal.SIGUSR2)
        assert d.get("/livez").status == 200
        assert d.end(signal.SIGXCPU) == 0 and "event=stopped" in d.said(), d.said()[-2000:]


def test_closed_output():
    """What is printed does not get into what is opened in the place of a closed standard output."""
    def closed(*words):
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(1))

    with daemon() as d:
        asked = closed(DRIFTCTL, "train", "tiny", "-f", "--url", f"http://127.0.0.1:{d.port}")
        said = asked.communicate(timeout=60)[1]
        assert asked.returncode == 1 and "standard output: Bad file descriptor" in said, said
        state = d.dir / "second"
        p = closed(d.driftd, "serve", "--listen=127.0.0.1:0", f"--state-dir={state}", f"--config-dir={d.dir}/recipes",
                   "--threads=1", "--generate-threads=1")
        try:
            said = next((line for line in p.stderr if "event=ready" in line), None)
            p.terminate()
            p.stderr.read()
            assert said and p.wait(60) == 0 and (state / "lock").read_bytes() == b"", (said, p.returncode)
        finally:
            p.kill()


# ---- logs ----

def test_json_logs():
    """Each line is one JSON object, whatever the requests and the names of jobs hold."""
    with daemon("--log-format=json", "--log-level=debug") as d:
        d.wait(d.job("tiny", name='a "name"\nin = two lines \U0001f600'), "completed")
        d.wait(d.job("tiny", name="will fail", overrides={"data.set": "mnist", "data.path": "nowhere", "data.size": 28}), "failed")
        d.get("/v1/jobs?state=runing")
        d.get("/%22quoted%22=x%20y", X_Request_Id="123")
        assert d.ask("GET", "/v1/nowhere\xa0\\".encode("latin-1").decode("latin-1").replace("\xa0", "%A0")).status >= 400
        d.end(signal.SIGTERM)
        lines = [json.loads(line) for line in d.said().splitlines()]
        assert all({"ts", "level", "event"} <= set(o) for o in lines), lines[:3]
        failed = [o for o in lines if o["event"] == "state" and o.get("state") == "failed"]
        assert len(failed) == 1 and failed[0]["level"] == "error" and "nowhere" in failed[0]["error"], lines
        assert failed[0]["from"] and failed[0]["job"] == 2, failed
        events = {o["event"] for o in lines}
        assert {"ready", "http", "stopped"} <= events, events
        asked = [o for o in lines if o["event"] == "http" and o.get("request") == "123"]
        assert asked and asked[0]["status"] == 404 and isinstance(asked[0]["ms"], float | int), asked
        assert [o for o in lines if o["event"] == "stopped"][0]["status"] == 0
        r = subprocess.run([sys.argv[1], "serve", "--log-format=json", f"--state-dir={d.dir}/state", "--listen=nowhere"],
                           capture_output=True, text=True)
        assert r.returncode == 1 and json.loads(r.stderr.splitlines()[-1])["event"] == "start.failed", r
        r = subprocess.run([sys.argv[1], "serve", "--log-format=xml"], capture_output=True, text=True)
        assert r.returncode == 2 and "text or json" in r.stderr, r
        d.start()


# ---- metrics ----

def exposed(d):
    """Names of samples, and the text."""
    text = d.get("/metrics").body.decode()
    return set(re.findall(r"^([a-z_:][a-z0-9_:]*)(?=[ {])", text, re.M)), text


def test_metrics():
    with trained() as d:
        d.get("/generate?n=2")
        d.get("/v1/nothing")
        job = d.job("long")
        d.wait(job, "running")
        for _ in range(200):
            names, text = exposed(d)
            if re.search(r"^driftd_job_step [1-9]", text, re.M):
                break
            time.sleep(0.05)
        assert re.search(r"^driftd_jobs_running 1$", text, re.M), text
        value = {k: float(v) for k, v in re.findall(r"^([a-z_]+) (\S+)$", text, re.M)}
        assert value["driftd_disk_size_bytes"] > value["driftd_disk_free_bytes"] > 0, value
        assert value["driftd_database_bytes"] > 4096 and value["process_resident_memory_bytes"] > 1 << 20, value
        assert abs(value["process_start_time_seconds"] - time.time()) < 600, value["process_start_time_seconds"]
        assert 0 < value["process_open_fds"] < value["process_max_fds"], value
        assert 'driftd_http_request_duration_seconds_count{method="GET",route="/generate"} 1\n' in text
        assert 'route="/v1/jobs/{id}"' in text and "nothing" not in text and "events" not in text
        for buckets in re.findall(r'_seconds_bucket\{method="GET",route="/v1/jobs/\{id\}",le="[^"]*"\} (\d+)', text)[:1]:
            assert int(buckets) >= 0
        used = set()
        for path in ("grafana.json", "rules.yml"):
            source = (OPS / path).read_text()
            used |= set(re.findall(r"\b((?:driftd|process)_[a-z0-9_]+)", source))
        assert len(used) > 20 and used <= names, used - names
        dashboard = json.loads((OPS / "grafana.json").read_text())
        assert all(t["expr"] for p in dashboard["panels"] for t in p["targets"])
        d.ask("POST", f"/v1/jobs/{job}/stop?mode=now")
        d.wait(job, "stopped")


def test_time_left():
    """A job that train.minutes ends says how much of that time is left, everywhere."""
    with daemon() as d:
        d.recipe("timed", {"train": {"steps": 10**9, "minutes": 5, "classes": 2, "generated": 4, "positives": 4},
                           "checkpoint": {"every": 0, "every_seconds": 1}})
        job = d.job("timed")
        for _ in range(400):
            training, one = d.get("/v1/status").json()["training"], d.get(f"/v1/jobs/{job}").json()
            if training and training["eta_seconds"] and one["seconds"] > 0 and one["eta_seconds"]:
                break
            time.sleep(0.05)
        for left in (training["eta_seconds"], one["eta_seconds"]):
            assert 200 < left <= 300, (training, one)
        assert one["progress"] < 0.4 and abs(one["progress"] * 300 - one["seconds"]) < 1, one
        left = float(re.search(r"^driftd_job_eta_seconds (\S+)$", exposed(d)[1], re.M)[1])
        assert 200 < left <= 300, left
        d.ask("POST", f"/v1/jobs/{job}/stop")
        d.wait(job, "stopped")
        d.ask("POST", f"/v1/jobs/{job}/resume")
        before = one["seconds"]
        for _ in range(400):  # a resumed one as well: it took its own early guess for the number of steps
            one = d.get(f"/v1/jobs/{job}").json()
            if one["state"] == "running" and one["seconds"] > before + 2:
                break
            time.sleep(0.05)
        assert one["steps_total"] == 10**9 and one["eta_seconds"] > 200, one
        d.ask("POST", f"/v1/jobs/{job}/stop?mode=now")
        d.wait(job, "stopped")


# ---- the state folder ----

def test_state_folder():
    """One that is moved away shows in /readyz, and is not taken for an empty one."""
    with trained() as d:
        d.end()
        d.start()  # nothing of it is in memory yet
        state, away = d.dir / "state", d.dir / "away"
        assert d.get("/readyz").status == 200
        state.rename(away)
        p = problem(d.get("/readyz"), 503, "not-ready", None, "the state folder or its database was removed")
        assert p["detail"].endswith("replaced"), p
        problem(d.get("/v1/jobs"), 500, "internal")
        problem(d.get("/generate?class=3"), 500, "internal")
        problem(d.get("/generate?class=3&checkpoint=latest"), 500, "internal")
        state.mkdir()  # another one in its place
        (state / "lock").touch()
        problem(d.get("/readyz"), 503, "not-ready", None, "replaced")
        shutil.rmtree(state)
        away.rename(state)
        assert d.get("/readyz").status == 200
        assert d.get("/generate?class=3").status == 200, "what could not be read is read again"


def test_no_model():
    """Waiting helps only where a job is on its way."""
    with daemon() as d:
        r = d.get("/generate")
        p = problem(r, 409, "no-model-yet")
        assert "retry_after" not in p and not r.header("Retry-After"), p


# ---- checkpoints and jobs ----

def test_checkpoints():
    with trained() as d:
        newest, older = [c["id"] for c in d.get("/v1/checkpoints").json()["checkpoints"]]
        r = d.ask("PATCH", f"/v1/checkpoints/{older}", {"name": "early", "notes": "blurred", "tags": ["demo", "v1.0"]})
        assert r.status == 200 and r.json()["tags"] == ["demo", "v1.0"] and r.json()["notes"] == "blurred", r
        assert d.ask("PATCH", f"/v1/checkpoints/{older}", {"notes": ""}).json()["name"] == "early"
        by_tag, by_id = (d.get(f"/generate?seed=1&format=npy&checkpoint={c}") for c in ("demo", older))
        assert by_tag.status == 200 and by_tag.body == by_id.body and by_tag.header("Driftd-Checkpoint") == older
        d.ask("PATCH", f"/v1/checkpoints/{newest}", {"tags": ["demo"]})  # the newest with the tag
        assert d.get("/generate?checkpoint=demo").header("Driftd-Checkpoint") == newest
        for tags in (["Demo"], ["a", "a"], ["1"], ["live"], "x", [1], [""], ["x" * 64], [f"t{i}" for i in range(33)]):
            problem(d.ask("PATCH", f"/v1/checkpoints/{older}", {"tags": tags}), 422, None, "tags", "letter")
        problem(d.ask("PATCH", "/v1/checkpoints/77", {"name": "x"}), 404)
        problem(d.ask("PATCH", f"/v1/checkpoints/{older}", {"nmae": "x"}), 422, None, "nmae", "`name`")
        problem(d.get("/generate?checkpoint=dem"), 404, "unknown-checkpoint", "checkpoint", "tag")
        problem(d.ask("DELETE", f"/v1/checkpoints/{newest}"), 409, "conflict", None, "served")
        d.ask("PUT", "/v1/served", {"checkpoint": older})
        problem(d.ask("DELETE", f"/v1/checkpoints/{older}"), 409, "conflict", None, "served")
        d.ask("DELETE", "/v1/served")
        files = set((d.dir / "state/checkpoints/1").iterdir())
        assert d.ask("DELETE", f"/v1/checkpoints/{older}").status == 204
        assert len(files - set((d.dir / "state/checkpoints/1").iterdir())) == 1
        problem(d.ask("DELETE", f"/v1/checkpoints/{older}"), 404)
        problem(d.get(f"/generate?checkpoint={older}"), 410, "checkpoint-gone")
        assert [c["id"] for c in d.get("/v1/checkpoints").json()["checkpoints"]] == [newest]


def test_commands():
    """What the API changes, driftctl changes: tags, names and notes, priorities, removal."""
    with trained() as d:
        newest, older = [c["id"] for c in d.get("/v1/checkpoints").json()["checkpoints"]]
        of = lambda c: d.get(f"/v1/checkpoints/{c}").json()
        r = ctl(d, "checkpoints", "edit", older, "--name", "early", "--notes", "blurred", "--tag", "demo", "--tag=v1.0")
        assert r.returncode == 0 and r.stdout == f"checkpoint {older} is changed\n", r
        assert [of(older)[k] for k in ("name", "notes", "tags")] == ["early", "blurred", ["demo", "v1.0"]], of(older)
        ctl(d, "checkpoints", "edit", older, "--tag", "demo", "--tag", "last", "--untag", "v1.0", "--untag", "none")
        assert of(older)["tags"] == ["demo", "last"] and of(older)["name"] == "early", of(older)
        table = ctl(d, "checkpoints").stdout.splitlines()
        assert "TAGS" in table[0] and "demo last" in table[2] and "blurred" in table[2], table
        shown = json.loads(ctl(d, "checkpoints", "show", older).stdout)
        assert shown["id"] == older and shown["tags"] == ["demo", "last"], shown
        picture = d.dir / "x.npy"
        assert ctl(d, "sample", "--checkpoint", "demo", "--seed", 1, "-o", picture).returncode == 0
        for words, status, word in (
                (("edit", older, "--tag", "Bad Tag"), 1, "letter"), (("edit", older), 2, "--untag is needed"),
                (("edit", "77", "--name", "x"), 1, "77"), (("edit", "77", "--tag", "x"), 1, "77"),
                (("remove", newest), 1, "served"), (("show",), 2, "checkpoints show ID"), (("shwo", older), 2, "`show`")):
            r = ctl(d, "checkpoints", *words)
            assert r.returncode == status and word in r.stderr, (words, r)
        r = ctl(d, "checkpoints", "remove", older, "--json")
        assert r.returncode == 0 and json.loads(r.stdout) == {"id": older, "removed": True}, r
        assert of(older)["state"] == "removed"
        long, job = d.job("long"), None
        d.wait(long, "running")
        job = d.job("tiny", name="a")
        assert ctl(d, "edit", job, "--priority", "7").returncode == 0
        assert d.get(f"/v1/jobs/{job}").json()["priority"] == 7 and d.get(f"/v1/jobs/{job}").json()["name"] == "a"
        assert "running" in ctl(d, "edit", long, "-p", "1").stderr
        assert "--priority is needed" in ctl(d, "edit", job).stderr
        assert ctl(d, "job", "1", "--alerts").stdout.startswith("STEP")
        wide = ctl(d, "metrics", "1", long, "--names", "loss").stdout.splitlines()
        assert wide[0].split(",")[-1] == "loss" and {x.split(",")[0] for x in wide[1:]} >= {"1"}, wide[:3]
        assert "CSV" in ctl(d, "metrics", "1", long, "--ndjson").stderr
        grids = json.loads(ctl(d, "grids", "--job", "1", "--json").stdout)["samples"]
        assert ctl(d, "grids").stdout.count("\n") >= 1 + len(grids) and grids
        file = d.dir / "g.png"
        assert ctl(d, "grids", grids[0]["id"], "-o", file).returncode == 0
        assert file.read_bytes() == d.get(grids[0]["url"]).body
        assert ctl(d, "grids", "77", "-o", d.dir / "none.png").returncode == 1 and not (d.dir / "none.png").exists()
        assert "evaluation" in ctl(d, "evals", "remove", "5").stderr and ctl(d, "evals", "show", "5").returncode == 1
        d.ask("POST", f"/v1/jobs/{long}/stop?mode=now")


def test_checkpoint_in_use():
    """What a job would go on from, or starts from, stays."""
    with daemon() as d:
        job = d.job("long")
        d.wait(job, "running")
        for _ in range(400):
            if d.get("/v1/checkpoints").json()["checkpoints"]:
                break
            time.sleep(0.05)
        d.ask("POST", f"/v1/jobs/{job}/pause")
        d.wait(job, "paused")
        own = d.get("/v1/checkpoints").json()["checkpoints"][0]["id"]
        d.wait(d.job("tiny"), "completed")
        problem(d.ask("DELETE", f"/v1/checkpoints/{own}"), 409, "conflict", None, "go on from it")


def test_live_without_a_job():
    with trained() as d:
        r = d.ask("PUT", "/v1/served", {"checkpoint": "live"}).json()
        assert (r["mode"], r["why"], r["text"]) == ("live", "latest", "the newest checkpoint until a job runs"), r
        other = d.job("tiny", overrides={"data.classes": 0, "train.classes": 0, "train.steps": 2})
        d.wait(other, "completed")
        problem(d.get("/v1/generate?class=1&checkpoint=latest"), 422, None, "class", "the model has one class, 0")


def test_priority():
    with daemon() as d:
        first = d.job("long")
        d.wait(first, "running")
        a, b = d.job("tiny", name="a"), d.job("tiny", name="b")
        r = d.ask("PATCH", f"/v1/jobs/{b}", {"priority": 7, "notes": "first"})
        assert r.status == 200 and r.json()["priority"] == 7 and r.json()["ahead"] == 1, r
        problem(d.ask("PATCH", f"/v1/jobs/{first}", {"priority": 1}), 409, "conflict", "priority", "running")
        problem(d.ask("PATCH", f"/v1/jobs/{a}", {"priority": "high", "name": 3}), 422, None, "priority")
        d.ask("POST", f"/v1/jobs/{first}/stop?mode=now")
        d.wait(a, "completed")
        ended = [d.get(f"/v1/jobs/{j}").json()["started"] for j in (a, b)]
        assert ended[1] < ended[0], ended


def test_every_problem():
    """All that is wrong with a job, a change of one and a sweep; the first is where it was."""
    wrong = {"optim.lr": "fast", "model": {"hedas": 2, "dim": -4}, "train.alpha_min": 5, "train.alpha_max": 2}
    keys = ["optim.lr", "model.hedas", "model.dim", "train.alpha_min"]

    def fields(p):
        assert p["errors"][0]["message"] in p["detail"] or p["detail"].endswith(p["errors"][0]["message"]), p
        return [e["field"] for e in p["errors"]]

    with daemon() as d:
        p = problem(d.ask("POST", "/v1/jobs", {"config": "tiny", "overrides": wrong}), 422, "invalid-config",
                    "overrides.optim.lr", "fast")
        assert fields(p) == [f"overrides.{k}" for k in keys], p
        p = problem(d.ask("POST", "/v1/jobs", {"config": wrong, "overrides": {"ema.ramp": 1}}), 422, "invalid-config",
                    "config.optim.lr", "fast")
        assert fields(p) == [f"config.{k}" for k in keys] + ["overrides.ema.ramp"], p
        p = problem(d.ask("POST", "/v1/jobs", {"config": "tiny", "overrides": wrong, "priority": "high"}), 422, None,
                    "priority", "whole")
        assert fields(p) == ["priority"] + [f"overrides.{k}" for k in keys], p
        p = problem(d.ask("POST", "/v1/evals", {"checkpoint": "1", "n": 0, "split": "all", "data": {"set": "mnist"}}),
                    422, None, "n")
        assert fields(p) == ["n", "split"], p
        p = problem(d.ask("POST", "/v1/evals", {"checkpoint": "1", "priority": "high", "name": 7, "n": 0, "data": {"set": "mnist"},
                                                "settings": {"split": "all"}}), 422, None, "name")
        assert fields(p) == ["name", "priority", "split", "n"], p
        p = problem(d.ask("POST", "/v1/evals", {"checkpoint": "99", "n": 0}), 422, None, "checkpoint")
        assert fields(p) == ["checkpoint", "n", "judge"], p
        p = problem(d.ask("POST", "/v1/evals", {"checkpoint": "1", "data": "nothing", "n": 0}), 422, None, "data")
        assert fields(p) == ["data", "checkpoint", "n", "judge"], p
        p = problem(d.ask("POST", "/v1/jobs", {"config": "tiny", "overrides": wrong, "kind": "trian", "prioriy": 1}), 422, None,
                    "prioriy", "`priority`")
        assert fields(p) == ["prioriy", "kind"] + [f"overrides.{k}" for k in keys], p
        p = problem(d.ask("POST", "/v1/sweeps", {"name": "x", "recipes": ["tiny"], "overrides": wrong}), 422)
        assert {e["field"] for e in p["errors"]} == {f"overrides.{k}" for k in keys}, p
        job = d.job("tiny")
        p = problem(d.ask("PATCH", f"/v1/jobs/{job}", {"name": 7, "notes": [], "priority": 5000}), 422, None, "name")
        assert fields(p) == ["name", "notes", "priority"], p
        r = ctl(d, "train", "tiny", "--set", "optim.lr=fast", "--set", "model.hedas=2")
        assert r.returncode == 1 and "overrides.optim.lr" in r.stderr and "overrides.model.hedas" in r.stderr, r
        assert len(d.get("/v1/jobs").json()["jobs"]) == 1


def test_backup():
    """While a job trains; restored elsewhere, the same requests give the same bytes and the job goes on."""
    with daemon() as d:
        d.wait(d.job("tiny"), "completed")
        job = d.job("long")
        d.wait(job, "running")
        time.sleep(1.5)  # some checkpoints and rotations
        best = d.get("/v1/checkpoints?job=1").json()["checkpoints"][-1]["id"]
        d.ask("PUT", "/v1/served", {"checkpoint": best})
        ask = "/generate?seed=7&class=3&n=4&format=npy"
        want, samples = d.get(ask).body, d.get("/v1/samples?job=1").json()["samples"]
        copy, state = d.dir / "copy", d.dir / "elsewhere/state"
        url = f"--url=http://127.0.0.1:{d.port}"

        def ctl(*words):
            return subprocess.run([DRIFTCTL, *map(str, words)], capture_output=True, text=True)

        r = ctl("backup", copy, url)
        assert r.returncode == 0 and "files" in r.stdout, r
        assert d.state(job) == "running" and not list((d.dir / "state/backups").glob("*/driftd.sqlite3"))
        r = ctl("backup", copy, url)
        assert r.returncode == 1 and "empty" in r.stderr, r
        d.ask("POST", f"/v1/jobs/{job}/stop?mode=now")
        d.wait(job, "stopped")
        d.end()
        r = ctl("restore", copy, "--state-dir", d.dir / "state")
        assert r.returncode == 1 and "empty" in r.stderr, r
        r = ctl("restore", copy, "--state-dir", state)
        assert r.returncode == 0, r
        if os.geteuid() == 0:  # what root restores belongs to whom the folder does
            theirs = d.dir / "theirs"
            theirs.mkdir()
            os.chown(theirs, 12345, 12346)
            assert ctl("restore", copy, "--state-dir", theirs).returncode == 0
            owners = {(p.stat().st_uid, p.stat().st_gid) for p in theirs.rglob("*")}
            assert owners == {(12345, 12346)} and (theirs / "checkpoints/1").is_dir(), owners
        d.start(f"--state-dir={state}")
        got = d.get(ask)
        assert got.body == want and got.header("Driftd-Checkpoint") == best, got
        assert [d.get(s["url"]).status for s in samples] == [200] * len(samples)
        d.wait(job, "running")  # from its last checkpoint in the backup
        assert d.get(f"/v1/jobs/{job}").json()["attempts"] == 2
        d.ask("POST", f"/v1/jobs/{job}/stop?mode=now")
        d.wait(job, "stopped")
        d.end()
        changed = next((copy / "checkpoints/1").iterdir())
        changed.write_bytes(changed.read_bytes()[:-1] + b"?")
        r = ctl("restore", copy, "--state-dir", d.dir / "third")
        assert r.returncode == 1 and changed.name in r.stderr and not (d.dir / "third").exists(), r
        (copy / "backup.json").unlink()
        r = ctl("restore", copy, "--state-dir", d.dir / "third")
        assert r.returncode == 1 and "no complete backup" in r.stderr, r
        d.start()


if __name__ == "__main__":
    if len(sys.argv) > 4:  # the names of some
        run([v for k, v in list(globals().items()) if k in sys.argv[4:]])
    else:
        run([test_scopes, test_signals, test_closed_output, test_json_logs, test_metrics, test_time_left, test_state_folder, test_no_model, test_checkpoints,
         test_commands, test_checkpoint_in_use, test_live_without_a_job, test_priority, test_every_problem, test_backup])
