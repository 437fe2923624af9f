"""driftd from Python: one file, the standard library and numpy (Debian: python3-numpy).

    import driftd
    d = driftd.Driftd()                      # or Driftd("http://host:8080", token="..."), "unix:/run/driftd/sock"
    job = d.submit("digits", {"optim.lr": 0.002, "train.steps": 500}, name="slow")
    for kind, data in job.follow():          # "metrics", "checkpoint", "sample", "state", ...
        print(kind, data)
    m = job.metrics()                        # wide: {"step": [...], "loss": [...], ...}, numpy arrays
    x, about = d.samples(classes="0-9", n=100, cfg=1.5, seed=7)   # x: float32 [100,C,H,W], -1 black, 1 white

Every refusal of the server is a driftd.Problem with its own sentence, the fields at fault and, where
waiting helps, the seconds to wait. docs/python.md has more; docs/api.md has what the server takes.
"""
import contextlib
import http.client
import io
import json
import math
import os
import socket
import ssl
import time
import typing
import urllib.parse

import numpy as np

ENDED = ("completed", "failed", "stopped", "paused", "interrupted")


class Problem(Exception):
    """What the server refused: status, type (a slug), detail, errors [{field, message}], retry_after."""

    def __init__(self, status, problem):
        self.status, self.detail = status, problem.get("detail") or problem.get("title") or "no reason given"
        self.type = problem.get("type", "").rpartition(":")[2]
        self.errors, self.retry_after = problem.get("errors", []), problem.get("retry_after")
        more = [e for e in self.errors if e.get("message") not in self.detail]
        super().__init__("%d: %s%s" % (status, self.detail, "".join(
            "; %s: %s" % (e.get("field"), e.get("message")) for e in more)))


class Samples(typing.NamedTuple):
    """x: float32, images [n,C,H,W] or points [n,2]; about: seed, checkpoint, step, and note where there is one."""
    x: np.ndarray
    about: dict


class Event(typing.NamedTuple):
    kind: str  # "metrics", "state", "checkpoint", "sample", "eval", "alert", "gap", ...
    data: dict


def _token(file):
    """The first word that is no comment: the server's own token file will do."""
    with open(file, encoding="utf-8-sig") as f:
        for line in f:
            word = line.split(None, 1)[:1]
            if word and not word[0].startswith("#"):
                return word[0]
    raise ValueError("no token could be read from %s" % file)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Driftd:
    """A server. url: http(s)://HOST:PORT or unix:PATH (default: DRIFTD_URL, else the local daemon); token: the
    bearer token (default: the first in the file DRIFTD_TOKEN_FILE); ca_file: a certificate to trust (PEM);
    timeout: seconds to wait for an answer."""

    def __init__(self, url=None, token=None, ca_file=None, timeout=60):
        self.url = url or os.environ.get("DRIFTD_URL") or "http://127.0.0.1:8080"
        file = os.environ.get("DRIFTD_TOKEN_FILE")
        if token is None and file:
            token = _token(file)
        self.token, self.ca_file, self.timeout = token, ca_file or os.environ.get("DRIFTD_CA_FILE"), timeout
        if not self.url.startswith(("http://", "https://", "unix:")):
            raise ValueError("url is %r; expected http://HOST:PORT, https://HOST:PORT or unix:PATH" % self.url)

    # ---- requests

    def _connect(self, timeout):
        if self.url.startswith("unix:"):
            return _Unix(self.url[5:], timeout), ""
        u = urllib.parse.urlsplit(self.url)
        if u.scheme == "http":
            return http.client.HTTPConnection(u.hostname, u.port or 80, timeout=timeout), u.path.rstrip("/")
        context = ssl.create_default_context(cafile=self.ca_file)
        return http.client.HTTPSConnection(u.hostname, u.port or 443, timeout=timeout, context=context), u.path.rstrip("/")

    def _open(self, method, path, query=None, body=None, headers=None, timeout=None):
        """The connection and its response, whose body is unread. Raises Problem."""
        fields = dict(headers or {})
        query = {k: v for k, v in (query or {}).items() if v is not None}
        if query:
            path += "?" + urllib.parse.urlencode(query)
        if self.token:
            fields["Authorization"] = "Bearer " + self.token
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            fields.setdefault("Content-Type", "application/json")
        elif body is not None:
            fields.setdefault("Content-Type", "application/octet-stream")
        c, prefix = self._connect(timeout or self.timeout)
        try:
            c.request(method, prefix + path, body, fields)
            r = c.getresponse()
            if r.status < 400:
                return c, r
            text = r.read()
        except BaseException:
            c.close()
            raise
        c.close()
        try:
            problem = json.loads(text)
        except ValueError:
            problem = {"detail": text.decode("utf-8", "replace")[:300]}
        raise Problem(r.status, problem if isinstance(problem, dict) else {})

    def request(self, method, path, query=None, body=None, headers=None, timeout=None):
        """(bytes, headers) of any request; body: a dict (sent as JSON), bytes or a file."""
        c, r = self._open(method, path, query, body, headers, timeout)
        try:
            return r.read(), r.headers
        finally:
            c.close()

    def json(self, method, path, query=None, body=None, headers=None):
        text = self.request(method, path, query, body, headers)[0]
        return json.loads(text) if text else None

    def _list(self, path, key, query=None):
        """All pages of a list."""
        out, query = [], dict(query or {}, limit=1000)
        while True:
            page = self.json("GET", path, query)
            out += page[key]
            query["cursor"] = page.get("next_cursor")
            if not query["cursor"]:
                return out

    # ---- the service, recipes

    def status(self):
        return self.json("GET", "/v1/status")

    def configs(self):
        """The recipes: [{name, about, ...}]."""
        return self.json("GET", "/v1/configs")["configs"]

    def config(self, name):
        return self.json("GET", "/v1/configs/" + urllib.parse.quote(name, safe=""))

    # ---- jobs

    def submit(self, config, overrides=None, name=None, priority=None, key=None, **more):
        """Queues a job and returns it. config: a recipe's name or a dict; overrides: keys to change, dotted or
        nested; key: an idempotency key, so that a repeated request gives the same job."""
        body = dict(more, config=config)
        for k, v in (("overrides", overrides), ("name", name), ("priority", priority)):
            if v is not None:
                body[k] = v
        info = self.json("POST", "/v1/jobs", body=body, headers={"Idempotency-Key": key} if key else None)
        return Job(self, info)

    def jobs(self, state=None):
        return [Job(self, info) for info in self._list("/v1/jobs", "jobs", {"state": state})]

    def job(self, ident):
        return Job(self, self.json("GET", "/v1/jobs/%s" % ident))

    def events(self, job=None, last=None, retry=True):
        """Events as they come, without an end: of a job, or of all. After a lost connection it goes on where it
        was (retry False: raises); last: id of the event to go on after."""
        path = "/v1/jobs/%s/events" % job if job else "/v1/events"
        while True:
            try:
                c, r = self._open("GET", path, headers={"Last-Event-ID": last} if last else None, timeout=60)
                try:
                    for ident, event in _sse(r):
                        last = ident or last
                        yield event
                finally:
                    c.close()
            except (OSError, http.client.HTTPException):
                if not retry:
                    raise
            except Problem as p:
                if not retry or p.status != 503:
                    raise
            if not retry:
                return
            time.sleep(2)

    # ---- images

    def samples(self, classes=None, n=None, cfg=None, seed=None, checkpoint=None, guidance=None, **more):
        """Images as an array. classes: an index, a name, a range "2-5", "random" or a list of those; cfg: a guidance
        scale or a list (one block of images per scale); more: other parameters of /v1/generate."""
        def words(v):
            return ",".join(str(x) for x in v) if isinstance(v, (list, tuple, range, np.ndarray)) else v

        query = dict(more, cfg=words(cfg), n=n, seed=seed, checkpoint=checkpoint, guidance=guidance, format="npy")
        query["class"] = words(classes)
        data, head = self.request("POST", "/v1/generate", query)
        about = {"seed": int(head["Driftd-Seed"]), "checkpoint": head["Driftd-Checkpoint"],
                 "step": int(head["Driftd-Step"]), "note": head["Driftd-Note"]}
        return Samples(np.load(io.BytesIO(data), allow_pickle=False), {k: v for k, v in about.items() if v is not None})

    # ---- checkpoints

    def checkpoints(self, job=None):
        return self._list("/v1/checkpoints", "checkpoints", {"job": job})

    def activate(self, ident):
        """Serves this checkpoint; "auto" ends that."""
        return self.json("POST", "/v1/checkpoints/%s/activate" % ident)

    def export(self, ident, path, format="safetensors", weights="ema"):
        """Writes a model for other programs to a file: safetensors, onnx or pytorch; format None: the whole checkpoint
        as it lies on the server. Returns the path."""
        query = None if format is None else {"format": format, "weights": weights}
        c, r = self._open("GET", "/v1/checkpoints/%s/file" % ident, query, timeout=600)
        file, part = os.path.realpath(os.fsdecode(path)), None
        if not os.path.exists(path) or os.path.isfile(path):  # a device or a pipe stays what it is
            part = file + ".part"
        try:
            with open(part or path, "wb") as f:
                while chunk := r.read(1 << 20):
                    f.write(chunk)
            if r.length:  # read(n) says nothing of an early end
                raise http.client.IncompleteRead(b"", r.length)
            if part:
                os.replace(part, file)
        except BaseException:
            if part:
                with contextlib.suppress(OSError):
                    os.remove(part)
            raise
        finally:
            c.close()
        return path

    def import_model(self, path, name=None, config=None):
        """Uploads a safetensors file; returns the checkpoint."""
        with open(path, "rb") as f:
            text = self.request("POST", "/v1/checkpoints", {"name": name, "config": config}, f,
                                {"Content-Length": str(os.path.getsize(path))}, 600)[0]
        return json.loads(text)

    # ---- evaluations

    def evaluations(self, job=None, **filters):
        """Results, newest first: dicts with id, job, checkpoint, step, kind, settings, results."""
        return self._list("/v1/evals", "evals", dict(filters, job=job))

    def evaluation(self, ident):
        return self.json("GET", "/v1/evals/%s" % ident)

    def evaluate(self, **settings):
        """Asks for an evaluation; the members of POST /v1/evals as they are. Returns the server's answer."""
        return self.json("POST", "/v1/evals", body=settings)

    # ---- data sets

    def datasets(self):
        return self.json("GET", "/v1/datasets")["datasets"]

    def dataset(self, name):
        return self.json("GET", "/v1/datasets/" + urllib.parse.quote(name, safe=""))

    def add_dataset(self, name, path=None, archive=None, wait=True, **options):
        """Adds pictures: `path` is a folder or an archive on the server, `archive` a local zip or tar to upload;
        options: size, channels, fit, background, ... (docs/data.md). wait: until they are decoded. An upload that
        was cut off goes on when the call is made again, with the same file and options."""
        if (path is None) == (archive is None):
            raise ValueError("expected either path (on the server) or archive (a local file)")
        if isinstance(options.get("background"), str):
            options["background"] = options["background"].lower()  # as the server keeps it
        body = {"name": name, "options": options}
        if path is not None:
            self.json("POST", "/v1/datasets", body=dict(body, path=str(path)))
        else:
            with open(archive, "rb") as f:  # before the set is made: a mistyped path leaves none
                self._upload(body, f)
        info = self.dataset(name)
        while wait and info["state"] in ("uploading", "importing"):
            time.sleep(0.2)
            info = self.dataset(name)
        return info

    def _upload(self, body, f):
        about = os.fstat(f.fileno())
        base = os.path.basename(f.name).encode("utf-8", "replace").decode()
        source = "%s, %d bytes of %d" % (base, about.st_size, about.st_mtime)  # as driftctl says it
        place, sent = "/v1/datasets/" + urllib.parse.quote(body["name"], safe=""), 0
        try:
            self.json("POST", "/v1/datasets", body=dict(body, source=source))
        except Problem as p:
            had = self.dataset(body["name"]) if p.status == 409 else {}
            same = all(had.get("options", {}).get(k) == v for k, v in body["options"].items())
            if not (had.get("state") == "uploading" and had.get("source") == source and same):
                raise
            sent = had["received"]
        f.seek(sent)
        while chunk := f.read(8 << 20):
            sent = self.json("PUT", place + "/upload", {"offset": sent}, chunk)["received"]
        self.json("POST", place + "/import", {"bytes": sent})

    def remove_dataset(self, name):
        self.json("DELETE", "/v1/datasets/" + urllib.parse.quote(name, safe=""))


def _sse(response):
    """(id, Event) of a stream of server-sent events, until it ends."""
    kind, ident, data = "", None, []
    for line in response:
        line = line.decode("utf-8").rstrip("\r\n")
        field, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "event":
            kind = value
        elif field == "id":
            ident = value
        elif field == "data":
            data.append(value)
        elif not line:
            if data:
                yield ident, Event(kind, json.loads("\n".join(data)))
            kind, ident, data = "", None, []


class Job:
    """A job; `info` is what the server said last (docs/api.md, jobs)."""

    def __init__(self, server, info):
        self.server, self.info = server, info

    id = property(lambda self: self.info["id"])
    state = property(lambda self: self.info["state"])
    name = property(lambda self: self.info["name"])

    def __repr__(self):
        return "Job %s %r, %s, step %s of %s" % (self.id, self.name, self.state, self.info.get("step"),
                                                 self.info.get("steps_total"))

    def refresh(self):
        self.info = self.server.json("GET", "/v1/jobs/%s" % self.id)
        return self

    def _act(self, what, **query):
        self.info = self.server.json("POST", "/v1/jobs/%s/%s" % (self.id, what), query)
        return self

    def stop(self, mode="graceful"):
        return self._act("stop", mode=mode)

    def pause(self):
        return self._act("pause")

    def resume(self):
        return self._act("resume")

    def checkpoint(self):
        return self._act("checkpoint")

    def edit(self, **members):
        """name, notes"""
        self.info = self.server.json("PATCH", "/v1/jobs/%s" % self.id, body=members)
        return self

    def remove(self):
        self.server.json("DELETE", "/v1/jobs/%s" % self.id)

    def wait(self, timeout=math.inf, every=0.5):
        """Until the job has ended (any of driftd.ENDED); TimeoutError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self.refresh().state not in ENDED:
            if time.monotonic() > end:
                raise TimeoutError("job %s is %s after %g s" % (self.id, self.state, timeout))
            time.sleep(every)
        return self

    def follow(self):
        """Its events until it has ended. Metrics of one event: data["cols"], data["rows"]."""
        stream = self.server.events(self.id)
        try:
            for event in stream:
                if event.kind == "hello":  # what happened before the stream began
                    if self.refresh().state in ENDED:
                        return
                    continue
                yield event
                if event.kind == "state" and event.data["state"] in ENDED:
                    return
        finally:
            stream.close()
            self.refresh()

    def metrics(self, names=None, start=None, stop=None, max_points=0):
        """Wide: "step" and one float array per metric, NaN where a metric has no (finite) value at a step;
        pandas.DataFrame(job.metrics()) is a table. max_points: averaged over that many buckets; 0: every row."""
        names = ",".join(names) if isinstance(names, (list, tuple)) else names
        o = self.server.json("GET", "/v1/jobs/%s/metrics" % self.id,
                             {"names": names, "from": start, "to": stop, "max_points": max_points})
        at, value = o["columns"].index("step"), o["columns"].index("value" if "value" in o["columns"] else "mean")
        steps = np.array(sorted({row[at] for s in o["series"] for row in s["rows"]}), dtype=np.int64)
        out = {"step": steps}
        for s in o["series"]:
            column = np.full(len(steps), np.nan)
            where = np.searchsorted(steps, np.array([row[at] for row in s["rows"]], dtype=np.int64))
            column[where] = [np.nan if row[value] is None else row[value] for row in s["rows"]]
            out[s["name"]] = column
        return out

    def rows(self, start=1, every=2):
        """(step, {name: value}) of every step from `start` on, those to come included, until the job has ended."""
        while True:
            ended = self.refresh().state in ENDED  # asked first: what came before the end is read after it
            m = self.metrics(start=start)
            names = [name for name in m if name != "step"]
            for i, step in enumerate(m["step"].tolist()):
                yield step, {name: float(m[name][i]) for name in names if not np.isnan(m[name][i])}
                start = step + 1
            if ended:
                return
            time.sleep(every)

    def grids(self):
        """The periodic grids of samples, newest first: [{id, step, ...}]; bytes of a PNG: grid(id)."""
        return self.server._list("/v1/samples", "samples", {"job": self.id})

    def grid(self, ident):
        return self.server.request("GET", "/v1/samples/%s.png" % ident)[0]

    def checkpoints(self):
        return self.server.checkpoints(self.id)

    def evaluations(self):
        return self.server.evaluations(self.id)


# ---- the noise of a seed (docs/method.md, randomness), for those who run an exported model


def philox(seed, index, stream, count):
    """Philox4x32-10: `count` numbers of 32 bits, for the index-th sample of a seed; stream 0: noise, 1: styles."""
    blocks, low = (count + 3) // 4, np.uint64(0xFFFFFFFF)
    c = [np.arange(blocks, dtype=np.uint64)] + [np.full(blocks, v, np.uint64)
                                                for v in (stream, index & 0xFFFFFFFF, index >> 32)]
    k = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ k[0], b & low, (a >> np.uint64(32)) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(c, 1).reshape(-1)[:count]


def noise(seed, n, shape, first=0):
    """Standard normals [n,*shape], float32: those of images first to first + n - 1 of a seed."""
    count, out = math.prod(shape), []
    for k in range(first, first + n):
        u = (philox(seed, k, 0, (count + 3) // 4 * 4).astype(np.float64) + 0.5) * 2.0**-32
        r, angle = np.sqrt(-2 * np.log(u[::2])), 2 * np.pi * u[1::2]
        out.append(np.stack([r * np.cos(angle), r * np.sin(angle)], 1).reshape(-1)[:count])
    return np.stack(out).astype(np.float32).reshape(n, *shape)


def styles(seed, n, count, codebook, first=0):
    """Style indices [n,count], int64."""
    return np.stack([(philox(seed, k, 1, count) * np.uint64(codebook) >> np.uint64(32)).astype(np.int64)
                     for k in range(first, first + n)])
