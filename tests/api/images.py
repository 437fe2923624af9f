#!/usr/bin/env python3
"""What /v1/generate makes besides plain pictures, through the running daemon's HTTP: raw weights, scaled
noise, walks, own noise, bodies, and the forms that other image servers speak.

Argument: driftd.
"""
import base64
import contextlib
import io
import json
import struct
import threading
import time
import urllib.parse
import zipfile
import zlib

from live import Daemon, daemon, npy, png, problem, run, trained

PLAIN = {"model": {"dim": 16, "depth": 1, "heads": 2, "patch": 4, "registers": 1, "style_tokens": 0,
                   "label_dropout": 0.1, "null_class": True}}
OCTETS = {"Content_Type": "application/octet-stream"}


def array(shape, values, kind="f4", order="False"):
    """A npy file."""
    head = f"{{'descr': '<{kind}', 'fortran_order': {order}, 'shape': ({', '.join(map(str, shape))},), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return (b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() +
            struct.pack(f"<{len(values)}{'d' if kind == 'f8' else 'f'}", *values))


def chunks(data):
    """[(type, contents)] of a PNG, with every checksum looked at."""
    at, found = 8, []
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + n]
        assert struct.unpack(">I", data[at + 8 + n:at + 12 + n])[0] == zlib.crc32(kind + body), kind
        found.append((kind, body))
        at += 12 + n
    assert at == len(data)
    return found


def pixels(idat):
    return zlib.decompress(b"".join(idat))


def test_weights():
    with trained() as d:
        ids = [c["id"] for c in d.get("/v1/checkpoints").json()["checkpoints"]]
        ask = f"/v1/generate?class=3&seed=5&n=2&checkpoint={ids[0]}"
        ema, raw = d.get(ask + "&format=npy"), d.get(ask + "&format=npy&weights=raw")
        assert ema.status == raw.status == 200 and ema.body != raw.body, raw
        assert d.get(ask + "&format=npy&weights=ema").body == ema.body
        assert d.get(ask + "&format=npy&weights=raw").body == raw.body
        first = d.get(ask + "&weights=raw")
        request = png(first.body)[2]["request"]
        assert request["weights"] == "raw", request
        assert d.get("/v1/generate?" + urllib.parse.urlencode(request)).body == first.body
        assert "weights" not in png(d.get(ask).body)[2]["request"]
        problem(d.get(ask + "&weights=rav"), 422, None, "weights", "`raw`")
        problem(d.get(f"/v1/generate?checkpoint=0{ids[0]}"), 404, "unknown-checkpoint", "checkpoint", f"0{ids[0]}")
        # A file of one set of weights has no raw ones.
        whole = d.get(f"/v1/checkpoints/{ids[0]}/file").body
        n = struct.unpack("<Q", whole[:8])[0]
        head = json.loads(whole[8:8 + n])
        alone = {k: v for k, v in head.items() if "/" not in k}
        text = json.dumps(alone).encode()
        end = max(v["data_offsets"][1] for k, v in alone.items() if k != "__metadata__")
        text += b" " * (-len(text) % 8)
        served = struct.pack("<Q", len(text)) + text + whole[8 + n:8 + n + end]
        r = d.ask("POST", "/v1/checkpoints", served, **OCTETS)
        assert r.status == 201, r
        new = r.json()["id"]
        assert d.get(ask.replace(f"checkpoint={ids[0]}", f"checkpoint={new}") + "&format=npy").body == ema.body
        problem(d.get(f"/generate?checkpoint={new}&weights=raw"), 422, None, "weights", "one set")
        long = d.job("long")
        d.wait(long, "running")
        end = time.monotonic() + 60
        while not d.get("/generate?checkpoint=live").header("Driftd-Checkpoint").startswith("live:"):
            assert time.monotonic() < end
        problem(d.get("/generate?checkpoint=live&weights=raw"), 422, None, "weights", "averaged")
        d.end()


def test_noise():
    with trained() as d:
        ask = "/v1/generate?class=3&seed=5&n=3&format=npy"
        plain = d.get(ask).body
        assert d.get(ask + "&temperature=1").body == plain
        half, none = d.get(ask + "&temperature=0.5").body, d.get(ask + "&temperature=0").body
        assert len({plain, half, none}) == 3
        zeros = array((3, 1, 8, 8), [0] * 192)
        assert d.ask("POST", ask, zeros, **OCTETS).body == none, "own noise of zeros is no noise"
        assert d.ask("POST", ask, array((3, 64), [0] * 192, "f8"), **OCTETS).body == none
        ones = d.ask("POST", "/v1/generate?class=3&seed=5&format=npy", array((3, 64), [1] * 192), **OCTETS)
        assert npy(ones.body)[0][0] == 3, "as many images as the noise has"
        assert ones.body != none
        assert d.ask("POST", ask + "&temperature=0", array((3, 64), [1] * 192), **OCTETS).body == none
        text = png(d.ask("POST", "/v1/generate?seed=5", zeros, **OCTETS).body)[2]
        assert text["request"] is None and "own" in text["noise"], text
        for body, word in ((b"", "npy"), (b"x", "npy"), (zeros[:-4], "shape"), (zeros + b"1", "shape"), (zeros[:30], "npy"),
                           (array((3, 64), [0] * 192, order="True"), "C order"),
                           (array((3, 64), [0] * 192, "i4"), "float32"), (array((0, 64), []), "shape"),
                           (array((3, 64), [0] * 191 + [float("nan")]), "finite"),
                           (array((3, 64), [0] * 191 + [1e300], "f8"), "too large"),
                           (array((3, 64), [0] * 191 + [-float("inf")], "f8"), "finite"),
                           (array((3, 63), [0] * 189), "64")):
            problem(d.ask("POST", "/v1/generate", body, **OCTETS), 422, None, "body", word)
        problem(d.ask("POST", ask.replace("n=3", "n=2"), zeros, **OCTETS), 422, None, "n", "3")
        problem(d.ask("POST", "/v1/generate?cfg=1,2", zeros, **OCTETS), 422, None, "cfg", "divide")
        with contextlib.closing(d.connect()) as c:  # refused before any of it is sent
            c.putrequest("POST", "/v1/generate")
            c.putheader("Content-Type", "application/octet-stream")
            c.putheader("Content-Length", str(17 << 20))
            c.endheaders()
            assert c.getresponse().status == 413
        problem(d.get(ask + "&temperature=11"), 422, None, "temperature", "0 to 10")


def test_walk():
    with daemon() as d:
        d.recipe("plain", PLAIN)
        d.wait(d.job("plain"), "completed")
        d.wait(d.job("tiny"), "completed")
        for job in ("1", "2"):
            id = d.get(f"/v1/checkpoints?job={job}&limit=1").json()["checkpoints"][0]["id"]
            ask = f"/v1/generate?class=3,7&seed=5&checkpoint={id}"
            shape, x = npy(d.get(ask + "&seed2=9&steps=5&format=npy").body)
            assert shape == (10, 1, 8, 8), shape
            row = lambda k, s: x[(k * 5 + s) * 64:(k * 5 + s + 1) * 64]
            a, b = (npy(d.get(ask.replace("seed=5", f"seed={s}") + "&format=npy").body)[1] for s in (5, 9))
            for k in (0, 1):
                assert row(k, 0) == a[k * 64:(k + 1) * 64], "it begins at the picture of the seed"
                if job == "1":  # style tokens are discrete: a walk keeps those of the seed
                    assert row(k, 4) == b[k * 64:(k + 1) * 64], "and ends at that of seed2"
            far = lambda p, q: sum((u - v)**2 for u, v in zip(p, q))
            assert all(0 < far(row(0, s), row(0, s + 1)) < far(row(0, 0), row(0, 4)) for s in range(4))
        strip = d.get(ask + "&seed2=9&steps=5&scale=2")
        w, h, text = png(strip.body)
        assert (w, h) == (5 * 16 + 4 * 2, 2 * 16 + 2), (w, h)
        assert text["request"]["steps"] == 5 and [i["walk"] for i in text["images"]] == [0, .25, .5, .75, 1] * 2, text
        assert d.get("/v1/generate?" + urllib.parse.urlencode(text["request"])).body == strip.body
        names = zipfile.ZipFile(io.BytesIO(d.get(ask + "&seed2=9&steps=3&format=zip").body)).namelist()
        assert len(names) == 7, names
        moving = d.get(ask + "&seed2=9&steps=5&scale=2&format=apng")
        assert moving.header("Content-Type") == "image/apng"
        parts = chunks(moving.body)
        kinds = [k for k, _ in parts]
        assert kinds[:2] == [b"IHDR", b"acTL"] and kinds[-1] == b"IEND" and b"iTXt" in kinds, kinds
        assert struct.unpack(">II", dict(parts)[b"acTL"]) == (5, 0)
        control = [body for k, body in parts if k == b"fcTL"]
        assert len(control) == 5 and all(struct.unpack(">I", c[4:8])[0] == 2 * 16 + 2 for c in control)
        numbers = [struct.unpack(">I", body[:4])[0] for k, body in parts if k in (b"fcTL", b"fdAT")]
        assert numbers == list(range(len(numbers))), numbers
        last = parts[max(i for i, k in enumerate(kinds) if k == b"fcTL"):]
        alone = d.get(ask + "&seed2=9&steps=2&scale=2&format=apng").body  # its last picture is the same
        alone = chunks(alone)
        alone = alone[max(i for i, (k, _) in enumerate(alone) if k == b"fcTL"):]
        shown = lambda part: pixels([body[4:] for k, body in part if k == b"fdAT"])
        assert shown(last) == shown(alone) and len(shown(last)) == 16 * (2 * 16 + 2 + 1)
        for query, field in (("steps=3", "steps"), ("format=apng", "format"), ("seed2=1&cfg=1,2", "cfg"),
                             ("seed2=1&grid=2x2", "grid"), ("seed2=1&steps=1", "steps"), ("seed2=1&steps=257", "steps"),
                             ("seed2=-1", "seed2"), ("seed2=1&n=100&steps=100", "steps")):
            problem(d.get("/v1/generate?" + query), 422, None, field)
        d.end()


def test_whatever_else_waits():
    """The bytes of each kind of request are those of the request alone, in whatever batch they come."""
    with trained("--max-batch=8") as d:
        asks = ["", "&temperature=0.5", "&seed2=9&steps=4", "&weights=raw", "&guidance=two-pass&cfg=2",
                "&temperature=2&guidance=two-pass&cfg=2", "&n=5&temperature=0.5", "&n=7"]
        url = "/v1/generate?class=3&seed=5&format=npy"
        alone = [d.get(url + a).body for a in asks]
        got = [[] for _ in asks]
        threads = [threading.Thread(target=lambda i=i: got[i].append(d.get(url + asks[i]).body))
                   for _ in range(6) for i in range(len(asks))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert all(len(g) == 6 and set(g) == {a} for g, a in zip(got, alone))


def test_json_body():
    with trained() as d:
        wanted = d.get("/v1/generate?class=3,7&cfg=1,1.5&seed=5&scale=2").body
        for body in ({"class": [3, 7], "cfg": [1, 1.5], "seed": 5, "scale": 2},
                     {"class": "3,7", "cfg": "1,1.5", "seed": "5", "scale": "2"}):
            assert d.ask("POST", "/v1/generate", body).body == wanted, body
        assert d.ask("POST", "/generate?class=3,7&cfg=1,1.5", {"seed": 5, "scale": 2, "n": None}).body == wanted
        request = png(wanted)[2]["request"]
        assert d.ask("POST", "/v1/generate", request).body == wanted, "what a picture says of itself is a body"
        fine = {"temperature": 1.2345678901234, "n": 64, "seed": 5, "class": 0}  # in which every digit counts
        ask = lambda form: d.get(f"/v1/generate?format={form}&" + urllib.parse.urlencode(fine))
        assert d.ask("POST", "/v1/generate?format=npy", fine).body == ask("npy").body
        request = ask("json").json()["request"]
        assert request["temperature"] == fine["temperature"], request
        assert d.ask("POST", "/v1/generate?format=json", fine).json()["request"] == request
        problem(d.ask("POST", "/v1/generate?seed=1", {"seed": 1}), 422, None, "seed", "query")
        problem(d.ask("POST", "/v1/generate", {"clas": 3}), 422, None, "clas", "`class`")
        problem(d.ask("POST", "/v1/generate", {"class": {"a": 1}}), 422, None, "class", "list")
        problem(d.ask("POST", "/v1/generate", {"class": 99}), 422, None, "class", "0 to 9")
        problem(d.ask("POST", "/v1/generate", b"{", Content_Type="application/json"), 400, "malformed-json")
        problem(d.ask("POST", "/v1/generate", b"x", Content_Type="text/plain"), 415, "unsupported-media-type")
        problem(d.ask("GET", "/v1/generate", b"x"), 400, "unexpected-body")


def test_openai():
    """The form of OpenAI's image API, and the probe of other model servers."""
    with daemon() as d:
        r = d.get("/health")
        assert r.status == 503 and r.json()["error"]["code"] == 503, r
        d.wait(d.job("tiny"), "completed")
        assert d.get("/health").json()["status"] == "ok"
        make = lambda **body: d.ask("POST", "/v1/images/generations", body)
        r = make(prompt="3", n=2, seed=5, size="16x16", response_format="b64_json", model="driftd", user="me")
        o = r.json()
        assert r.status == 200 and len(o["data"]) == 2 and abs(o["created"] - time.time()) < 60, o
        mine = d.get("/v1/generate?class=3&n=2&seed=5&scale=2&format=json").json()["images"]
        assert [x["b64_json"] for x in o["data"]] == [x["png"] for x in mine]
        assert png(base64.b64decode(o["data"][0]["b64_json"]))[:2] == (16, 16)
        assert len(make(prompt="random").json()["data"]) == 1 and make(prompt=7, size="auto").status == 200
        assert make(prompt="3", model="latest").json()["driftd"]["checkpoint"] == r.header("Driftd-Checkpoint")
        for body, field, word in (({}, "prompt", "class"), ({"prompt": "a cat"}, "class", "0 to 9"),
                                  ({"prompt": "3", "size": "1024x1025"}, "size", "8x8"),
                                  ({"prompt": "3", "size": "20x20"}, "size", "multiples"),
                                  ({"prompt": "3", "response_format": "url"}, "response_format", "b64_json"),
                                  ({"prompt": "3", "n": 0}, "n", "1 to"), ({"prompt": "3", "stream": True}, "stream", "whole"),
                                  ({"promt": "3"}, "promt", "`prompt`"),
                                  # what would be ignored, or taken for something else
                                  ({"prompt": "3", "model": 5.5}, "model", "tag"), ({"prompt": "3", "model": ["1"]}, "model", "tag"),
                                  ({"prompt": "3", "model": True}, "model", "tag"), ({"prompt": "3", "stream": 1}, "stream", "false"),
                                  ({"prompt": "3", "stream": "true"}, "stream", "false"), ({"prompt": "3", "n": [2]}, "n", "number"),
                                  ({"prompt": "3", "n": True}, "n", "number"), ({"prompt": "3", "seed": {}}, "seed", "number"),
                                  ({"prompt": "3", "temperature": [1]}, "temperature", "number"), ({"prompt": ["3"]}, "prompt", "class"),
                                  ({"prompt": "3", "response_format": 1}, "response_format", "b64_json"),
                                  ({"prompt": "3", "output_format": True}, "output_format", "png"),
                                  ({"prompt": "3", "size": 16}, "size", "WIDTHx"), *(({"prompt": "3", k: 5}, k, "string") for k in (
                                      "quality", "style", "user", "moderation", "background"))):
            p = problem(make(**body), 422, None, field, word)
            param = {"class": "prompt", "checkpoint": "model"}.get(field, field)  # the member as it was sent
            assert p["error"]["message"] == p["detail"] and p["error"]["param"] == param, p
        p = problem(make(prompt="3", model="dall-e-3"), 404)
        assert p["error"]["type"] == "invalid_request_error" and p["error"]["param"] == "model", p
        newest = make(prompt="3", model="latest").json()["driftd"]["checkpoint"]
        older = next(c["id"] for c in d.get("/v1/checkpoints").json()["checkpoints"] if c["id"] != newest)
        assert make(prompt="3", model=int(older)).json()["driftd"]["checkpoint"] == older  # a number is an id
        assert make(prompt="3", model=None, stream=False, n=None, user=None, quality="hd").status == 200
        assert problem(make(prompt="3", model=777), 404)["error"]["param"] == "model"
        two = problem(make(prompt="3", model=True, stream=3, n=[1]), 422)
        assert {e["field"] for e in two["errors"]} == {"model", "stream", "n"}, two


def test_openai_refusals():
    """What is refused before it is read has the member that OpenAI's clients look for."""
    with contextlib.closing(Daemon()) as d:
        (d.dir / "tokens").write_text("admin-token-1\nreader-token read\nslow-token generate 1/h\n")
        d.start(f"--token-file={d.dir}/tokens")

        def refused(status, body=None, token="admin-token-1", **headers):
            r = d.ask("POST", "/v1/images/generations", body, Authorization="Bearer " + token, **headers)
            p = problem(r, status)
            assert p["error"]["message"] == p["detail"] and p["error"]["code"] == p["type"].rsplit(":")[-1], p

        ask = {"prompt": "3"}
        refused(401, ask, "wrong-token")
        refused(403, ask, "reader-token")
        refused(403, ask, Sec_Fetch_Site="cross-site")
        refused(406, ask, Accept="text/html")
        refused(409, ask)  # nothing is trained yet
        refused(413, Content_Type="application/json", Content_Length=str(2 << 20))
        refused(415, b"x", Content_Type="text/plain")
        refused(409, ask, "slow-token")
        refused(429, ask, "slow-token")
        assert "error" not in problem(d.get("/v1/jobs"), 401)
        assert d.end() == 0


if __name__ == "__main__":
    run([test_weights, test_noise, test_walk, test_whatever_else_waits, test_json_body, test_openai, test_openai_refusals])
