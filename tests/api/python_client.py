#!/usr/bin/env python3
"""api/client/driftd.py against a real daemon, and exports by way of it. Skips where no Python here has numpy.

Arguments: driftd, api/client, docs, engine/export.
"""
import http.client
import http.server
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import threading
import zipfile

try:
    import numpy as np
except ImportError:
    other = "/usr/bin/python3"
    if sys.executable != other and not subprocess.run([other, "-c", "import numpy"], stderr=subprocess.DEVNULL).returncode:
        os.execv(other, [other, "-B", *sys.argv])
    print("skipped: there is no numpy (python3-numpy)")
    sys.exit(77)

from live import daemon, run  # noqa: E402

sys.path.insert(0, sys.argv[2])
import driftd  # noqa: E402


def client(d):
    return driftd.Driftd(f"http://127.0.0.1:{d.port}")


def refused(status, word, call, *args, **more):
    try:
        call(*args, **more)
    except driftd.Problem as p:
        assert p.status == status and word in str(p), (p.status, str(p))
        return p
    raise AssertionError(f"{call} was not refused")


def safetensors_head(path):
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + size])


def test_a_job_from_submit_to_arrays():
    with daemon() as d:
        c = client(d)
        assert c.status()["state"]
        assert "tiny" in [r["name"] for r in c.configs()] and c.config("tiny")
        job = c.submit("tiny", {"train.steps": 40}, name="mine", key="once")
        assert c.submit("tiny", {"train.steps": 40}, name="mine", key="once").id == job.id
        kinds = [kind for kind, _ in job.follow()]
        assert job.state == "completed" and "metrics" in kinds and kinds[-1] == "state", kinds
        assert [kind for kind, _ in job.follow()] == []  # it has ended
        m = job.metrics()
        assert m["step"].tolist() == list(range(1, 41)), m["step"]
        assert m["loss"].shape == (40,) and np.isfinite(m["loss"]).all()
        assert np.isnan(m["spread"]).sum() == 39 and np.isfinite(m["spread"][24])  # each 25 steps
        part = job.metrics(["loss"], start=11, stop=20)
        assert sorted(part) == ["loss", "step"] and np.array_equal(part["loss"], m["loss"][10:20])
        assert len(job.metrics(max_points=10)["step"]) <= 10
        assert [j.name for j in c.jobs("completed")] == ["mine"] and c.jobs("failed") == []
        assert job.edit(notes="seen").info["notes"] == "seen"
        assert c.job(job.id).wait().state == "completed"

        x, about = c.samples([3, 0], seed=7, cfg=2)
        assert x.shape == (2, 1, 8, 8) and x.dtype == np.float32 and about["seed"] == 7, about
        again = c.samples("0", n=2, seed=7, cfg=[1, 2], checkpoint=about["checkpoint"])
        assert again.x.shape == (4, 1, 8, 8)
        assert np.array_equal(c.samples([3, 0], seed=7, cfg=2).x, x)
        assert [e["id"] for e in job.checkpoints()] == [e["id"] for e in c.checkpoints()]
        assert isinstance(c.evaluations(), list) and job.evaluations() == []
        job.remove()
        refused(404, "no job", c.job, job.id)


def test_refusals():
    with daemon() as d:
        c = client(d)
        p = refused(422, "optim.lr", c.submit, "tiny", {"optim.lr": -1})
        assert "optim.lr" in p.errors[0]["field"], p.errors
        refused(404, "no job", c.job, 99)
        refused(404, "no-such", c.dataset, "no-such")
        refused(409, "", c.samples, "3", n=1)
        p = refused(404, "no checkpoint", c.export, 5, d.dir / "x.onnx", "onnx")
        assert p.type == "not-found" and not list(d.dir.glob("x.onnx*"))
        for url in ("localhost:8080", "ftp://x"):
            try:
                driftd.Driftd(url)
                raise AssertionError(url)
            except ValueError as e:
                assert url in str(e)


def test_stop_and_events_of_others():
    with daemon() as d:
        c = client(d)
        job = c.submit("long")
        seen = threading.Event()

        def watch():
            for kind, data in c.events(retry=False):
                if kind == "state" and data["state"] == "stopped":
                    seen.set()
                    return

        t = threading.Thread(target=watch, daemon=True)
        t.start()
        asked = False
        for kind, _ in job.follow():
            if kind == "metrics" and not asked:
                job.stop()
                asked = True
        assert job.state == "stopped", job
        t.join(60)
        assert seen.is_set()
        try:
            c.submit("long").wait(timeout=0.1, every=0.05)
            raise AssertionError("it waited for ever")
        except TimeoutError as e:
            assert "job 2" in str(e)
        c.job(2).stop("now").wait(60)


def test_data_sets():
    with daemon() as d:
        c = client(d)
        archive = d.dir / "pictures.zip"
        with zipfile.ZipFile(archive, "w") as z:
            for cls in ("dark", "light"):
                for i in range(8):
                    value = (40 if cls == "dark" else 200) + i
                    z.writestr(f"{cls}/{i}.png", grey_png(value))
        info = c.add_dataset("mine", archive=archive, size=8, channels=1)
        assert info["state"] == "ready" and info["class_count"] == 2, info
        assert "mine" in [s["name"] for s in c.datasets()]
        c.remove_dataset("mine")
        try:
            c.add_dataset("mine", archive=d.dir / "typo.zip")
            raise AssertionError("it was opened")
        except FileNotFoundError:
            pass
        assert "mine" not in [s["name"] for s in c.datasets()]
        refused(422, "import root", c.add_dataset, "other", path="/etc")
        # cut off after a part: the same call goes on, another file or option does not
        send, c.json = c.json, lambda method, *a, **k: lost() if method == "PUT" else send(method, *a, **k)
        try:
            c.add_dataset("mine", archive=archive, size=8, background="#FFAA00")
            raise AssertionError("it was sent")
        except ConnectionResetError:
            c.json = send
        c.json("PUT", "/v1/datasets/mine/upload", {"offset": 0}, archive.read_bytes()[:1000])
        refused(409, "mine", c.add_dataset, "mine", archive=archive, size=16)
        refused(409, "mine", c.add_dataset, "mine", archive=__file__, size=8)
        assert c.dataset("mine")["received"] == 1000
        info = c.add_dataset("mine", archive=archive, size=8, background="#FFAA00")
        assert info["state"] == "ready" and info["train"] + info["test"] == 16, info
        refused(409, "mine", c.add_dataset, "mine", archive=archive, size=8)


def lost():
    raise ConnectionResetError


def grey_png(value, side=8):
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([value]) * side for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_exports():
    with daemon() as d:
        c = client(d)
        job = c.submit("tiny").wait()
        ident = job.checkpoints()[0]["id"]
        ema = safetensors_head(c.export(ident, d.dir / "m.safetensors"))
        raw = safetensors_head(c.export(ident, d.dir / "raw.safetensors", weights="raw"))
        whole = safetensors_head(c.export(ident, d.dir / "whole.safetensors", format=None))
        about = ema.pop("__metadata__")
        assert about["driftd.weights"] == "ema" and raw.pop("__metadata__")["driftd.weights"] == "raw"
        assert json.loads(about["driftd.config"])["model"]["dim"] == 16 and about["driftd.step"] == "60"
        assert len(json.loads(about["driftd.classes"])) == 10
        assert sorted(ema) == sorted(raw) and not [k for k in ema if "/" in k]
        assert len(whole) > 3 * len(ema)  # with the optimiser's state
        a, b = ((d.dir / name).read_bytes() for name in ("m.safetensors", "raw.safetensors"))
        assert len(a) - len(b) in range(-8, 9) and a[-2000:] != b[-2000:]
        (d.dir / "again").mkdir()
        assert pathlib.Path(c.export(ident, d.dir / "again/m.safetensors")).read_bytes() == a
        # a link and a pipe stay what they are
        (d.dir / "link").symlink_to("m2.safetensors")
        c.export(ident, d.dir / "link")
        assert (d.dir / "link").is_symlink() and (d.dir / "m2.safetensors").read_bytes() == a
        os.mkfifo(d.dir / "pipe")
        with subprocess.Popen(["cat", d.dir / "pipe"], stdout=subprocess.PIPE) as reader:
            try:
                c.export(ident, d.dir / "pipe")
            finally:
                if not (d.dir / "pipe").is_fifo() or sys.exc_info()[0]:
                    reader.kill()
            assert reader.communicate(timeout=60)[0] == a and (d.dir / "pipe").is_fifo()
        # imported, it is the same model
        x = c.samples("0-9", seed=3, cfg=1.5, checkpoint=ident).x
        back = c.import_model(d.dir / "m.safetensors", name="back")
        assert np.array_equal(c.samples("0-9", seed=3, cfg=1.5, checkpoint=back["id"]).x, x)
        p = refused(422, "raw", c.export, back["id"], d.dir / "no", weights="raw")
        assert p.errors[0]["field"] == "weights", p.errors
        refused(422, "onnx", c.export, ident, d.dir / "no", format="onyx")
        with zipfile.ZipFile(c.export(ident, d.dir / "m.zip", format="pytorch")) as z:
            assert z.testzip() is None and sorted(z.namelist()) == ["driftd_model.py", "model.safetensors"]
            assert z.read("driftd_model.py") == (pathlib.Path(sys.argv[4]) / "driftd_model.py").read_bytes()
            assert z.read("model.safetensors") == a
        onnx = pathlib.Path(c.export(ident, d.dir / "m.onnx", format="onnx")).read_bytes()
        assert onnx[0] == 8 and b"blocks.0.attn.qkv.weight" in onnx and b"driftd.config" in onnx
        assert not list((d.dir / "state/uploads").iterdir())


class Cut(http.server.BaseHTTPRequestHandler):
    """Goes away in the middle of its answer."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)

    def log_message(self, *_):
        pass


def test_an_export_that_is_cut_off():
    server = http.server.HTTPServer(("127.0.0.1", 0), Cut)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        c = driftd.Driftd("http://127.0.0.1:%d" % server.server_port)
        place = pathlib.Path(folder)
        (place / "m.onnx").write_text("an older one")
        try:
            c.export(1, place / "m.onnx", "onnx")
            raise AssertionError("it was taken for whole")
        except http.client.IncompleteRead as e:
            assert "990" in str(e), e
        assert [p.name for p in place.iterdir()] == ["m.onnx"]
        assert (place / "m.onnx").read_text() == "an older one"
    server.shutdown()
    server.server_close()


def test_the_token_file():
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "token")
        os.environ["DRIFTD_TOKEN_FILE"] = str(file)
        try:
            for text in ("1f6a77c0\n", "\ufeff1f6a77c0\n", "# made by hand\n\n  1f6a77c0\tgenerate,read  10/s # mine\n90be0000 read\n"):
                file.write_text(text, encoding="utf-8")
                assert driftd.Driftd().token == "1f6a77c0", text
            assert driftd.Driftd(token="another").token == "another"
            file.write_text("# none yet\n\n")
            try:
                driftd.Driftd()
                raise AssertionError("no token was taken for one")
            except ValueError as e:
                assert str(file) in str(e), e
        finally:
            del os.environ["DRIFTD_TOKEN_FILE"]


def test_the_noise_is_the_servers():
    got = driftd.noise(7, 2, (1, 3, 3), first=1)
    assert got.shape == (2, 1, 3, 3) and got.dtype == np.float32
    assert np.array_equal(got[1], driftd.noise(7, 1, (1, 3, 3), first=2)[0])
    # tests/data/test_rng.c holds the engine to the same known answers (Random123)
    assert driftd.philox(0, 0, 0, 4).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    s = driftd.styles(2**40 + 1, 3, 5, 64)
    assert s.shape == (3, 5) and s.min() >= 0 and s.max() < 64


class Recorder:
    """A stand-in for a tracking library: remembers every call, by the name of what was called."""

    def __init__(self):
        self.calls, self.summary = [], {}

    def __getattr__(self, name):
        def call(*args, **more):
            self.calls.append((name, args, more))
            return self
        return call

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def of(self, name):
        return [(args, more) for n, args, more in self.calls if n == name]


def test_forwarders():
    """With stand-ins for wandb, PIL and mlflow, which are not here: what is sent, in which order."""
    import forward_mlflow
    import forward_wandb

    with daemon() as d:
        job = client(d).submit("tiny")
        wandb, mlflow, pil = Recorder(), Recorder(), Recorder()
        pil.Image = pil
        sys.modules |= {"wandb": wandb, "PIL": pil, "mlflow": mlflow}
        forward_wandb.forward(job, "mine", every=0.1)  # while it runs
        forward_mlflow.forward(job, every=0.1)  # afterwards
        assert wandb.of("init")[0][1]["project"] == "mine" and wandb.of("init")[0][1]["id"] == "driftd-job-1"
        logged = [(args[0], more.get("step")) for args, more in wandb.of("log")]
        assert [step for _, step in logged if step] == list(range(1, 61))
        m = job.metrics()
        assert [v["loss"] for v, step in logged if step] == m["loss"].tolist()
        assert all("spread" not in v for v, step in logged if step and step % 25)
        assert [v["samples/step"] for v, step in logged if not step] == [20, 40, 60]
        assert wandb.of("finish") == [((), {"exit_code": 0})]
        params = {k: v for args, _ in mlflow.of("log_params") for k, v in args[0].items()}
        assert params["optim.lr"] == 0.002 and params["data.set"] == "digits"
        assert all(len(args[0]) <= 100 for args, _ in mlflow.of("log_params"))
        assert [more["step"] for _, more in mlflow.of("log_metrics")] == list(range(1, 61))
        assert len(mlflow.of("log_artifact")) == 3
        wandb.summary = {"driftd/step": 58}
        wandb.calls.clear()
        forward_wandb.forward(job, every=0.1)  # goes on where it was
        assert [more["step"] for _, more in wandb.of("log") if "step" in more] == [59, 60]


def cells():
    book = json.loads((pathlib.Path(sys.argv[3]) / "notebook.ipynb").read_text())
    assert book["nbformat"] == 4
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, "outputs are stripped"
            yield "".join(cell["source"])


def test_the_notebook_runs():
    """Its code cells one after the other, on a short job; plots only where matplotlib is there."""
    with daemon() as d:
        d.recipe("digits", {"name": "digits"})
        os.environ["DRIFTD_URL"] = f"http://127.0.0.1:{d.port}"
        space, here = {"__name__": "notebook"}, os.getcwd()
        os.chdir(d.dir)
        try:
            for i, code in enumerate(cells()):
                exec(compile(code, f"notebook cell {i}", "exec"), space)
        finally:
            os.chdir(here)
            del os.environ["DRIFTD_URL"]
        assert space["job"].state == "completed" and (d.dir / "model.onnx").stat().st_size > 1000


run([f for name, f in list(globals().items()) if name.startswith("test_")])
