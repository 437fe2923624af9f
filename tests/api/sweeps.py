"""Sweeps of a real driftd, from outside: a file with mistakes, a matrix with evaluations and its table, stop,
resume and removal, a search by halving, the command line, and 24 runs under kill -9.

Usage: sweeps.py DRIFTD DRIFTCTL CONFIGS [NAME...]; the names are those of tests below.
"""
import contextlib
import csv
import io
import json
import math
import pathlib
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time

from live import Daemon, png, problem

DATA = {"set": "digits", "count": 400, "size": 8, "fit": "resize"}
JUDGE = {"name": "judge", "kind": "encoder", "data": DATA,
         "encoder": {"objective": "classify", "width": 4, "blocks": [1, 1], "groups": 2, "batch": 32},
         "train": {"steps": 60}, "optim": {"lr": 0.01, "warmup": 5},
         "checkpoint": {"every": 0, "every_seconds": 0}, "metrics": {"test_every": 0}}
EVAL = {"judge": "judge", "n": 60, "share": 1, "metrics": "fd,accuracy"}
FILE = {"name": "try", "recipes": ["tiny"], "axes": {"optim.lr": [0.001, 0.004]}, "seeds": 2, "eval": EVAL}


@contextlib.contextmanager
def daemon(*flags):
    d = Daemon(*flags)
    try:
        (d.dir / "data").mkdir()
        d.flags.append(f"--data-dir={d.dir}/data")
        (d.dir / "recipes/judge.json").write_text(json.dumps(JUDGE))
        d.recipe("tiny", {"data": DATA, "samples": {"every": 0}, "train": {"steps": 40, "generated": 4, "positives": 4}})
        yield d.start()
    finally:
        d.close()


def submit(d, file, status=201, **headers):
    r = d.ask("POST", "/v1/sweeps", file, **headers)
    assert r.status == status, r
    return r.json()


def wait(d, sweep, *states, seconds=240):
    end = time.monotonic() + seconds
    while True:
        s = d.get(f"/v1/sweeps/{sweep}").json()
        if s["state"] in states:
            return s
        assert time.monotonic() < end, s
        time.sleep(0.1)


@contextlib.contextmanager
def database(d):
    with contextlib.closing(sqlite3.connect(f"file:{d.dir}/state/driftd.sqlite3?mode=ro", uri=True, timeout=20)) as db:
        yield db


def ctl(d, *words, status=0):
    r = subprocess.run([sys.argv[2], f"--url=http://127.0.0.1:{d.port}", *map(str, words)],
                       capture_output=True, text=True, timeout=300)
    assert r.returncode == status, (words, r)
    return r.stdout + r.stderr


# ---- the whole file is checked before anything is queued, and every mistake has its place ----

def test_mistakes():
    bad = [({"name": "x"}, "recipes", "recipes"),
           ({**FILE, "name": ""}, "name", "100 bytes"),
           ({**FILE, "receipts": 1}, "receipts", "recipes"),
           ({**FILE, "recipes": ["tinny"]}, "recipes[0]", "tiny"),
           ({**FILE, "recipes": []}, "recipes", "list"),
           ({**FILE, "recipes": ["tiny", "tiny"]}, "recipes[1]", "twice"),
           ({**FILE, "recipes": {"a": {"config": "tiny", "override": {}}}}, "recipes.a.override", "overrides"),
           ({**FILE, "recipes": {"a": {"config": "tiny", "overrides": {"optim": {"rl": 1}}}}},
            "recipes.a.optim.rl", "optim.lr"),
           ({**FILE, "axes": {"optim.lr": [1, 100]}}, "axes.optim.lr[1]", "100"),
           ({**FILE, "axes": {"optim.lr": []}}, "axes.optim.lr", "values"),
           ({**FILE, "axes": {"n": {"two": {"train.generated": 2}, "one": {"train.generated": 1}}}},
            "axes.n.one.train.generated", "train.generated"),
           ({**FILE, "axes": {"seed": [1]}}, "axes.seed", "taken"),
           ({**FILE, "axes": {"a": {"x": {"optim.lr": 1}}, "optim.lr": [1, 2]}}, "axes.optim.lr[0]", "axes.a.x"),
           ({**FILE, "overrides": {"train.stps": 5}}, "overrides.train.stps", "train.steps"),
           ({**FILE, "seeds": 0}, "seeds", "1 to 100"),
           ({**FILE, "seeds": [1, 1]}, "seeds", "different"),
           ({**FILE, "skip": [{"colour": 1}]}, "skip[0]", "colour"),
           ({**FILE, "skip": [{"recipe": "tiny"}]}, "skip", "nothing"),
           ({**FILE, "eval": {"n": 60}}, "eval", "judge"),
           ({**FILE, "eval": {**EVAL, "judge": "juge"}}, "eval.judge", "judge"),
           ({**FILE, "eval": {**EVAL, "metrics": "fdd"}}, "eval.metrics", "fd"),
           ({**FILE, "eval": {**EVAL, "job": 3}}, "eval.job", "own checkpoint"),
           ({**FILE, "eval": None, "metrics": ["fd"]}, "eval", "object"),
           ({"name": "x", "recipes": ["tiny"], "metrics": ["fd"]}, "metrics[0]", "judge"),
           ({"name": "x", "recipes": ["tiny"], "metrics": ["los"]}, "metrics[0]", "loss"),
           ({"name": "x", "recipes": ["tiny"], "metrics": ["loss", "drift_norm_9"]}, "metrics[1]", "drift_norm_"),
           ({"name": "x", "recipes": ["judge"], "metrics": ["drift_norm"]}, "metrics[0]", "no run"),
           ({**FILE, "metrics": ["acuracy"]}, "metrics[0]", "accuracy"),
           ({**FILE, "search": {"kind": "halving", "metric": "los", "budget": {"min": 10, "max": 50}}},
            "search.metric", "did you mean loss?"),
           ({**FILE, "search": {"kind": "halving", "metric": "fd", "budget": {"key": "train.minutes", "min": 1e-300, "max": 5}}},
            "search.budget", "30 rungs"),
           ({**FILE, "search": {"kind": "grid"}}, "search.kind", "halving"),
           ({**FILE, "search": {"kind": "random", "count": 2, "ranges": {"optim.lr": {"min": 2, "max": 1}}}},
            "search.ranges.optim.lr", "below"),
           ({**FILE, "search": {"kind": "halving", "metric": "fd", "budget": {"min": 10, "max": 5}}},
            "search.budget", "below max"),
           ({**FILE, "axes": {f"optim.{k}": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6] for k in ("lr", "beta1", "beta2", "clip")}},
            "axes", "1000"),
           ({**FILE, "priority": 1.5}, "priority", "whole"), ({**FILE, "priority": -2**63}, "priority", "whole"),
           ({**FILE, "priority": 2**32}, "priority", "whole"), ({**FILE, "seeds": 2**40}, "seeds", "100"),
           # what no integer holds, or only half of it
           ({**FILE, "search": {"kind": "halving", "metric": "fd", "keep": 2**32 + 3, "budget": {"min": 10, "max": 50}}},
            "search.keep", "2 to 100"),
           ({**FILE, "search": {"kind": "halving", "metric": "fd", "budget": {"min": 1e300, "max": 1e301}}},
            "search.budget", "1e9"),
           ({**FILE, "search": {"kind": "random", "count": 2, "ranges": {"train.steps": {"min": 1, "max": 2**63 - 1}}}},
            "search.ranges.train.steps", "2^53"),
           ({**FILE, "search": {"kind": "random", "count": 2, "ranges": {"optim.lr": {"min": -1e308, "max": 1e308}}}},
            "search.ranges.optim.lr", "2^53")]
    wrong = []
    with daemon() as d:
        for file, field, word in bad:
            if file.get("eval", 1) is None:
                file = {**file, "eval": 7}
            r = d.ask("POST", "/v1/sweeps", file)
            said = r.json()
            if r.status != 422 or field not in [e["field"] for e in said["errors"]] or word not in str(said):
                wrong.append((field, word, r))
        assert not wrong, "\n".join(map(str, wrong))
        many = {**FILE, "seeds": 0, "recipes": ["a", "b"], "axes": {"optim.rl": [1]}, "extra": 1}
        fields = {e["field"] for e in problem(d.ask("POST", "/v1/sweeps", many), 422)["errors"]}
        assert {"seeds", "extra"} <= fields, fields
        assert d.get("/v1/jobs").json()["jobs"] == [] and d.get("/v1/sweeps").json()["sweeps"] == []
        problem(d.ask("POST", "/v1/sweeps", b"{", Content_Type="application/json"), 400)
        for path in ("", ".csv", ".md", ".png", "/curve"):
            problem(d.get(f"/v1/sweeps/7{path}"), 404, "not-found", None, "sweep 7")
        problem(d.ask("POST", "/v1/sweeps/7/stop"), 404)
        problem(d.ask("DELETE", "/v1/sweeps/7"), 404)
        r = d.ask("POST", "/v1/sweeps?check=1", FILE)
        assert r.status == 200 and r.json()["cells"] == 4, r
        assert [c["label"] for c in r.json()["list"]][1:3] == ["tiny, optim.lr 0.001", "tiny, optim.lr 0.004"], r
        assert d.get("/v1/jobs").json()["jobs"] == []


# ---- a megabyte of nonsense costs neither minutes nor memory ----

def test_floods():
    names = [f"k{i}" for i in range(40000)]
    all_keys = dict.fromkeys(names, 1)
    axes = {f"a{i}": {str(k): {f"x.{i}.{k}": 1} for k in range(40)} for i in range(10)}
    half = {"a": {f"x{i}": 1 for i in range(300)}, "b": {f"y{i}": 1 for i in range(300)}}
    bad = [({**FILE, "axes": {"optim.lr": [1] * 200000}}, "axes.optim.lr"),
           ({**FILE, "axes": {"optim.lr": list(range(120000))}}, "axes.optim.lr"),
           ({**FILE, "recipes": ["a"] * 200000}, "recipes"),
           ({**FILE, "axes": axes, "skip": [{"a0": [str(k) for k in range(40)]}]}, "axes"),
           ({**FILE, "axes": axes, "skip": [{"a0": "0", "a1": names}]}, "skip"),
           ({**FILE, "axes": axes, "skip": [{"a0": "0"}] * 20000}, "skip"),
           ({**FILE, "overrides": all_keys, "seeds": 100, "axes": {"optim.lr": list(range(1, 11))}}, "overrides"),
           ({**FILE, "eval": all_keys, "seeds": 100}, "eval"),
           ({**FILE, "seeds": 100, "axes": {k: {"v": v} for k, v in half.items()}}, "overrides"),
           ({**FILE, "metrics": names}, "metrics"),
           ({**FILE, "search": {"kind": "random", "count": 500, "ranges": dict.fromkeys(names, [1])}},
            "search.ranges")]
    with daemon() as d:
        for file, field in bad:
            start = time.monotonic()
            p = problem(d.ask("POST", "/v1/sweeps?check=1", file), 422, None, field, "at most")
            assert time.monotonic() - start < 20, (field, p)
        grown = int(next(l for l in open(f"/proc/{d.process.pid}/status") if l.startswith("VmHWM")).split()[1])
        assert grown < 600 * 1024, f"{grown} KiB"
        # Many combinations of which few are left are fine.
        few = {**FILE, "axes": {k: {str(i): {k: 0.1 + i / 50} for i in range(20)} for k in ("optim.beta1", "optim.lr")},
               "skip": [{"optim.lr": [str(i) for i in range(1, 20)]}]}
        r = d.ask("POST", "/v1/sweeps?check=1", few)
        assert r.status == 200 and r.json()["cells"] == 40, r


# ---- a long name is cut between characters: each job can be read ----

def test_long_name():
    with daemon() as d:
        submit(d, {"name": "a" * 89 + "\u00e9" * 5, "recipes": ["tiny"]})
        names = [j["name"] for j in d.get("/v1/jobs").json()["jobs"]]
        assert len(names) == 1 and names[0].startswith("a" * 89 + ": tiny, seed "), names


# ---- a matrix, its table and plots ----

def test_matrix():
    with daemon() as d:
        file = {**FILE, "eval": {**EVAL, "alpha": [1, 2]}, "metrics": ["fd", "accuracy", "drift_norm"],
                "axes": {"n": {"four": {"train.generated": 4}, "six": {"train.generated": 6}}, "optim.lr": [0.001, 0.004]},
                "skip": [{"n": "six", "optim.lr": 0.001}]}
        s = submit(d, file, Idempotency_Key="one")
        assert s["state"] in ("queued", "running") and s["cells"] == 6 == len(s["list"]), s
        assert submit(d, file, 201, Idempotency_Key="one")["id"] == s["id"]
        problem(d.ask("POST", "/v1/sweeps", FILE, Idempotency_Key="one"), 422, None, "Idempotency-Key")
        s = wait(d, s["id"], "completed", "failed")
        assert s["state"] == "completed" and s["runs"]["completed"] == 6, s
        jobs = d.get("/v1/jobs?limit=100").json()["jobs"]
        assert sorted(j["cell"] for j in jobs if j["sweep"] == s["id"]) == list(range(6)), jobs
        assert all(j["name"].startswith("try: tiny, n ") for j in jobs if j["sweep"]), jobs
        config = d.get(f"/v1/jobs/{s['list'][5]['job']}").json()["config"]
        assert config["train"]["seed"] == 1 and config["train"]["generated"] == 6, config
        assert config["optim"]["lr"] == 0.004, config
        rows = s["table"]["rows"]
        assert [(r["params"]["n"], r["params"]["optim.lr"], r["alpha"], r["runs"], r["seeds"]) for r in rows] == [
            (n, lr, alpha, 2, [0, 1]) for n, lr in (("four", 0.001), ("four", 0.004), ("six", 0.004)) for alpha in (1, 2)], rows
        evals = d.get("/v1/evals?limit=100").json()["evals"]
        for r in rows:  # against the rows of the evaluations
            mine = [s["list"][k]["job"] for k in r["cells"]]
            for metric in ("fd", "accuracy"):
                v = [e["results"][metric] for e in evals if e["job"] in mine and e["settings"]["alpha"] == r["alpha"]]
                assert len(v) == 2 == r["values"][metric]["n"], (v, r)
                assert math.isclose(statistics.mean(v), r["values"][metric]["mean"], rel_tol=1e-5), (v, r)
                assert math.isclose(statistics.stdev(v), r["values"][metric]["sd"], rel_tol=1e-3, abs_tol=1e-9), (v, r)
            assert r["values"]["drift_norm"]["mean"] > 0 and r["steps"] == 40, r
        table = list(csv.DictReader(io.StringIO(d.get(f"/v1/sweeps/{s['id']}.csv").body.decode())))
        assert len(table) == len(rows) and all(
            math.isclose(float(t["fd_mean"]), r["values"]["fd"]["mean"], rel_tol=1e-6) for t, r in zip(table, rows))
        assert list(table[0])[:7] == ["recipe", "n", "optim.lr", "alpha", "runs", "steps", "seconds"], table[0]
        lines = d.get(f"/v1/sweeps/{s['id']}.md").body.decode().splitlines()
        assert len(lines) == 8 and "±" in lines[2] and {line.count("|") for line in lines} == {11}, lines
        for metric, n in (("fd", 6), ("loss", 3)):
            curve = d.get(f"/v1/sweeps/{s['id']}/curve?metric={metric}").json()
            assert len(curve["series"]) == n and all(c["points"] for c in curve["series"]), curve
            picture = d.get(f"/v1/sweeps/{s['id']}.png?metric={metric}&width=500&height=300")
            assert picture.header("Content-Type") == "image/png" and png(picture.body), picture
        for form in ("/curve", ".png"):  # spelt wrongly, and of another kind of run
            for metric in ("fdd", "test_accuracy"):
                problem(d.ask("GET", f"/v1/sweeps/{s['id']}{form}?metric={metric}"), 422, None, "metric", "fd, accuracy")
        assert [x["id"] for x in d.get("/v1/sweeps").json()["sweeps"]] == [s["id"]]
        problem(d.ask("DELETE", "/v1/sweeps/1?jobs=some"), 422)
        assert d.ask("DELETE", "/v1/sweeps/1?jobs=delete").status == 204
        left = d.get("/v1/jobs?limit=100").json()["jobs"]
        assert [j["kind"] for j in left] == ["encoder"], left


# ---- stopped, gone on with, a run removed in between ----

def test_stop():
    with daemon() as d:
        slow = {"name": "slow", "recipes": ["long"], "axes": {"optim.lr": [0.001, 0.002, 0.003]}}
        s = submit(d, slow)["id"]
        first = d.get(f"/v1/sweeps/{s}").json()["list"][0]["job"]
        d.wait(first, "running")
        problem(d.ask("DELETE", f"/v1/sweeps/{s}"), 409, "conflict", None, "has not ended")
        r = d.ask("POST", f"/v1/sweeps/{s}/stop")
        assert r.status == 202 and r.json()["state"] in ("stopping", "stopped"), r
        now = wait(d, s, "stopped")
        assert now["runs"]["stopped"] == 3, now
        last = now["list"][2]["job"]
        assert d.ask("DELETE", f"/v1/jobs/{last}").status == 204
        assert d.get(f"/v1/sweeps/{s}").json()["list"][2]["state"] == "removed"
        assert d.ask("POST", f"/v1/sweeps/{s}/resume").status == 202
        d.wait(first, "running")
        now = d.get(f"/v1/sweeps/{s}").json()
        assert now["runs"]["total"] == 3 and now["state"] == "running", now
        assert now["list"][2]["state"] == "queued" and now["list"][2]["job"] != last, now
        d.ask("POST", f"/v1/sweeps/{s}/stop")
        wait(d, s, "stopped")
        assert d.ask("DELETE", f"/v1/sweeps/{s}").status == 204
        assert len(d.get("/v1/jobs").json()["jobs"]) == 3  # they stay
        assert d.get(f"/v1/jobs/{first}").json()["sweep"] is None


# ---- removed with its jobs: all of them or none ----

def test_remove():
    with daemon() as d:
        s = submit(d, {"name": "three", "recipes": ["tiny"], "seeds": 3})["id"]
        jobs = [c["job"] for c in wait(d, s, "completed")["list"]]
        files = lambda: sorted(p for p in (d.dir / "state/checkpoints").rglob("*.safetensors"))
        curves = lambda: [d.get(f"/v1/jobs/{j}/metrics").json() for j in jobs]
        had = files(), curves()
        first = d.get(f"/v1/checkpoints?job={jobs[0]}").json()["checkpoints"][0]["id"]
        assert d.ask("PUT", "/v1/served", {"checkpoint": first}).status == 200
        problem(d.ask("DELETE", f"/v1/sweeps/{s}?jobs=delete"), 409, "conflict", None, f"checkpoint {first} of job {jobs[0]}")
        assert (files(), curves()) == had and [c["state"] for c in wait(d, s, "completed")["list"]] == 3 * ["completed"]
        assert d.ask("DELETE", "/v1/served").status == 200
        assert d.ask("DELETE", f"/v1/sweeps/{s}?jobs=delete").status == 204
        assert d.get("/v1/jobs").json()["jobs"] == [] and not files()
        problem(d.get(f"/v1/sweeps/{s}"), 404)


# ---- searches ----

def test_search():
    ranges = {"optim.lr": {"min": 1e-4, "max": 1e-2, "scale": "log"}, "train.generated": {"min": 4, "max": 8},
              "loss.normalize": ["both", "y"]}
    with daemon() as d:
        file = {"name": "points", "recipes": ["tiny"], "seeds": 1,
                "search": {"kind": "random", "count": 5, "seed": 3, "ranges": ranges}}
        one = d.ask("POST", "/v1/sweeps?check=1", file).json()
        assert one == d.ask("POST", "/v1/sweeps?check=1", file).json() and one["cells"] == 5
        other = d.ask("POST", "/v1/sweeps?check=1", {**file, "search": {**file["search"], "seed": 4}}).json()
        assert other["cells"] == 5 and other != one, other
        s = submit(d, file)
        for c in s["list"]:
            assert 1e-4 <= c["params"]["optim.lr"] <= 1e-2 and c["params"]["train.generated"] in range(4, 9), c
        wait(d, s["id"], "completed")
        # 9 at 10 steps, 3 of them at 30, 1 at 90, by the loss of training
        file = {"name": "halving", "recipes": ["tiny"], "seeds": 1, "metrics": ["loss"],
                "search": {"kind": "halving", "count": 9, "seed": 3, "ranges": ranges, "metric": "loss",
                           "budget": {"key": "train.steps", "min": 10, "max": 90}, "keep": 3}}
        s = submit(d, file)
        assert s["rungs"] == 3, s
        end = time.monotonic() + 200
        while d.get(f"/v1/sweeps/{s['id']}").json()["rung"] < 1 and time.monotonic() < end:
            time.sleep(0.05)
        d.end(signal.SIGKILL)
        d.start()
        s = wait(d, s["id"], "completed", "failed")
        rows = s["table"]["rows"]
        assert [len([r for r in rows if r["rung"] == k]) for k in range(3)] == [9, 3, 1], rows
        assert [{r["steps"] for r in rows if r["rung"] == k} for k in range(3)] == [{10}, {30}, {90}], rows
        for k in (0, 1):
            went = {r["label"] for r in rows if r["rung"] == k + 1}
            best = sorted((r for r in rows if r["rung"] == k), key=lambda r: r["values"]["loss"]["mean"])
            assert {r["label"] for r in best[:len(went)]} == went, (best, went)
        assert s["runs"]["total"] == 13 and s["state"] == "completed", s
        # by a metric that the table does not ask for
        other = {"name": "by drift", "recipes": ["tiny"], "seeds": 1,
                 "search": {"kind": "halving", "count": 3, "seed": 3, "ranges": ranges, "metric": "drift_norm",
                            "budget": {"key": "train.steps", "min": 10, "max": 30}, "keep": 3}}
        s = wait(d, submit(d, other)["id"], "completed", "failed")
        assert s["state"] == "completed" and s["runs"]["total"] == 4, s
        # a metric that training has, but not with these settings
        nothing = {**file, "overrides": {"metrics.spread_every": 0}, "search": {**file["search"], "metric": "spread"}}
        s = wait(d, submit(d, nothing)["id"], "failed")
        assert "no run of rung 0 has the metric spread" in s["error"], s


# ---- a repeated submission is the same sweep, whatever has become of what its file names ----

def test_repeated():
    with daemon() as d:
        file = {"name": "once", "recipes": ["tiny"], "seeds": 2}
        first = submit(d, file, Idempotency_Key="one")
        (d.dir / "recipes/tiny.json").unlink()
        problem(d.ask("POST", "/v1/sweeps", file, Idempotency_Key="two"), 422, None, "recipes[0]", "tiny")
        again = d.ask("POST", "/v1/sweeps", file, Idempotency_Key="one")
        assert again.status == 201 and again.json()["id"] == first["id"], again
        assert again.header("Idempotency-Replayed") == "true", again
        wait(d, first["id"], "completed")
        assert d.ask("DELETE", f"/v1/sweeps/{first['id']}?jobs=delete").status == 204
        problem(d.ask("POST", "/v1/sweeps", file, Idempotency_Key="one"), 410, "gone", "Idempotency-Key", "removed")
        assert d.get("/v1/sweeps").json()["sweeps"] == []


# ---- the files that come with driftd ----

def test_files():
    configs = pathlib.Path(sys.argv[3])
    runs = {"cifar10-field": 15, "mnist-field": 72, "cifar10-encoder": 4, "cifar10-features": 20, "cifar10-loss": 24,
            "cifar10-network": 3, "cifar10-search": 18}
    with daemon() as d:
        for recipe in configs.glob("*.json"):
            shutil.copy(recipe, d.dir / "recipes")
        (d.dir / "data/resnet18.safetensors").write_bytes(b"torchvision's")
        files = {f.stem: json.loads(f.read_text()) for f in (configs / "ablations").glob("*.json")}
        assert set(files) == set(runs), set(files) ^ set(runs)
        for name, file in files.items():
            r = d.ask("POST", "/v1/sweeps?check=1", file)
            assert r.status == 200 and r.json()["cells"] == runs[name], (name, r)
            assert file["name"] == name and file["about"], name
            assert f"ablations/{name}.json" in (configs / "meson.build").read_text(), name


# ---- driftctl ----

def test_command_line():
    with daemon() as d:
        path = d.dir / "file.json"
        path.write_text(json.dumps({**FILE, "metrics": ["fd"]}))
        assert ctl(d, "ablate", path, "--check").splitlines()[-1] == "4 runs"
        (d.dir / "bad.json").write_text(json.dumps({**FILE, "seeds": 0}))
        assert "seeds" in ctl(d, "ablate", d.dir / "bad.json", status=1)
        (d.dir / "bad.json").write_text("{")
        assert "line 1" in ctl(d, "ablate", d.dir / "bad.json", status=2)
        assert "did you mean `list`" in ctl(d, "ablate", "lst", status=2)
        assert "id of a sweep" in ctl(d, "ablate", "stop", status=2)
        said = ctl(d, "ablate", path, "--follow", "--key", "k")
        assert "4 of 4 runs done" in said and "| tiny | 0.001 |" in said and "±" in said, said
        assert ctl(d, "ablate", path, "--key", "k").strip() == "1"  # the same one
        assert "completed" in ctl(d, "ablate", "list") and "try" in ctl(d, "ablate", "list")
        assert ctl(d, "ablate", "show", 1).count("tiny, optim.lr") == 4
        assert ctl(d, "ablate", "table", 1, "--csv").startswith("recipe,optim.lr,alpha")
        assert json.loads(ctl(d, "ablate", "show", 1, "--json"))["state"] == "completed"
        ctl(d, "ablate", "plot", 1, "-m", "fd", "-o", d.dir / "x.png")
        assert png((d.dir / "x.png").read_bytes())
        assert "and its jobs are removed" in ctl(d, "ablate", "remove", 1, "--jobs")
        assert "no sweep 1" in ctl(d, "ablate", "show", 1, status=1)
        path.write_text(json.dumps({"name": "slow", "recipes": ["long"], "seeds": 2}))
        sweep = ctl(d, "ablate", path).strip()
        ctl(d, "ablate", "stop", sweep)
        assert "| long |" in ctl(d, "ablate", "follow", sweep, status=4)
        ctl(d, "ablate", "resume", sweep)
        ctl(d, "ablate", "stop", sweep)


# ---- 24 runs, killed again and again, and a new build in the middle ----

def losses(db, sweep):
    """Of each cell, the steps and losses to the last bit."""
    out = {}
    for cell, step, value in db.execute(
            "SELECT j.cell, m.step, m.value FROM jobs j JOIN metrics m ON m.job=j.id WHERE j.sweep=? AND m.name="
            "(SELECT id FROM metric_names WHERE name='loss') ORDER BY j.cell, m.step", (sweep,)):
        out.setdefault(cell, []).append((step, value))
    return out


def measured(db, sweep):
    return db.execute("SELECT j.cell, e.alpha, v.name, v.value FROM jobs j JOIN jobs p ON p.parent=j.id JOIN evals e"
                      " ON e.eval_job=p.id JOIN eval_values v ON v.eval=e.id WHERE j.sweep=? ORDER BY 1, 2, 3",
                      (sweep,)).fetchall()


def test_kills(kills=10):
    random.seed(5)
    file = {"name": "many", "recipes": ["tiny"], "seeds": 3, "eval": EVAL, "metrics": ["fd"],
            "overrides": {"checkpoint": {"every": 10, "every_seconds": 0}, "train.steps": 50},
            "axes": {"optim.lr": [0.001, 0.002, 0.004, 0.008], "train.generated": [4, 6]}}
    with daemon() as d:
        killed, before = 0, 0
        for attempt in range(3):  # the submission itself is cut off, and repeated with its key
            with contextlib.suppress(OSError, Exception):
                c = d.connect(timeout=5)
                c.request("POST", "/v1/sweeps", json.dumps(file),
                          {"Content-Type": "application/json", "Idempotency-Key": "kills"})
                time.sleep(random.uniform(0, 0.05))
            d.end(signal.SIGKILL)
            d.start()
            with database(d) as db:
                jobs = db.execute("SELECT count(*) FROM jobs WHERE sweep IS NOT NULL").fetchone()[0]
                assert jobs in (0, 24) and jobs >= before, jobs  # all of them or none
                before = jobs
        sweep = submit(d, file, Idempotency_Key="kills")["id"]
        new = d.dir / "driftd-new"
        shutil.copy(d.driftd, new)
        with database(d) as db:
            judge = db.execute("SELECT id FROM jobs WHERE kind='encoder'").fetchone()[0]
        d.wait(str(judge), "completed", seconds=120)  # it has no checkpoints to go on from
        done = 0
        while killed < kills:
            end = time.monotonic() + 30
            while killed % 4 and time.monotonic() < end:  # one in four comes at once, the others when something ended
                s = d.get(f"/v1/sweeps/{sweep}").json()
                if s["runs"]["completed"] > done or s["state"] == "completed":
                    break
                time.sleep(0.02)
            end = time.monotonic() + random.uniform(0, 0.6)
            while time.monotonic() < end:  # at most two runs a kill, so that a fast machine has as many kills
                if d.get(f"/v1/sweeps/{sweep}").json()["runs"]["completed"] >= done + 2:
                    break
                time.sleep(0.01)
            s = d.get(f"/v1/sweeps/{sweep}").json()
            assert s["cells"] == 24 == s["runs"]["total"] and not s["runs"]["failed"], s
            done = s["runs"]["completed"]
            if s["state"] == "completed":
                break
            if killed == kills // 2:  # an upgrade: the old one ends, another binary begins
                d.end()
                d.driftd = str(new)
            else:
                d.end(signal.SIGKILL)
            killed += 1
            print(f"kill {killed}: {s['runs']} {s['evaluating']} evaluating", flush=True)
            d.start()
        s = wait(d, sweep, "completed", "failed", "stopped", seconds=500)
        assert s["state"] == "completed" and s["runs"] == {"total": 24, "queued": 0, "running": 0, "completed": 24,
                                                           "failed": 0, "stopped": 0}, s
        assert killed >= 5, killed
        some = {**file, "seeds": [1], "axes": {"optim.lr": [0.001, 0.008], "train.generated": [4, 6]}}
        again = wait(d, submit(d, some)["id"], "completed", "failed", seconds=500)
        assert again["state"] == "completed", again
        same = {c["cell"]: next(x["cell"] for x in s["list"] if (x["params"], x["seed"]) == (c["params"], c["seed"]))
                for c in again["list"]}
        assert len(same) == 4, same
        with database(d) as db:
            assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            rows = db.execute("SELECT cell, count(*) FROM jobs WHERE sweep=? GROUP BY cell", (sweep,)).fetchall()
            assert rows == [(k, 1) for k in range(24)], rows
            a, b = losses(db, sweep), losses(db, again["id"])
            assert sorted(a) == list(range(24)) and all([x for x, _ in v] == list(range(1, 51)) for v in a.values())
            assert all(a[x] == b[k] for k, x in same.items())  # those of runs that nobody disturbed, bit for bit
            assert len(set(map(str, a.values()))) == 24  # 24 different ones
            one, two = measured(db, sweep), measured(db, again["id"])
            assert len(one) == 24 * 2 and len(two) == 4 * 2, (len(one), len(two))  # evaluated once each
            assert [(same[k], *more) for k, *more in two] == [r for r in one if r[0] in same.values()], (one, two)
            attempts = db.execute("SELECT sum(attempts) FROM jobs WHERE sweep=?", (sweep,)).fetchone()[0]
        print(f"{killed} times ended, 24 runs in {attempts} attempts")


if __name__ == "__main__":
    tests = {k[5:]: v for k, v in list(globals().items()) if k.startswith("test_")}
    for name in sys.argv[4:] or tests:
        start = time.monotonic()
        tests[name]()
        print(f"ok {name} ({time.monotonic() - start:.1f} s)", flush=True)
