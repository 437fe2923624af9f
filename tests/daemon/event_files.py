#!/usr/bin/env python3
"""--tensorboard-dir: the event files of a job, read by hand: frames, checksums, scalars, images; and the same
with tensorboard's own reader where it is installed. Argument: driftd."""
import os
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "api"))
from live import daemon, run  # noqa: E402


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c ^= b
        for _ in range(8):
            c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    return c ^ 0xFFFFFFFF


def masked(data):
    c = crc32c(data)
    return ((c >> 15 | c << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path):
    data, at = path.read_bytes(), 0
    while at < len(data):
        n, check = struct.unpack_from("<QI", data, at)
        assert check == masked(data[at:at + 8]), "checksum of a length"
        body = data[at + 12:at + 12 + n]
        assert struct.unpack_from("<I", data, at + 12 + n)[0] == masked(body), "checksum of a record"
        yield body
        at += 16 + n


def fields(data):
    """[(number, value)] of a message: int, bytes, or raw 4 or 8 bytes."""
    at, out = 0, []

    def varint():
        nonlocal at
        v = shift = 0
        while True:
            b = data[at]
            at += 1
            v |= (b & 127) << shift
            shift += 7
            if b < 128:
                return v

    while at < len(data):
        key = varint()
        wire = key & 7
        if wire == 0:
            value = varint()
        else:
            n = {1: 8, 5: 4}.get(wire) or varint()
            value, at = data[at:at + n], at + n
        out.append((key >> 3, value))
    return out


def events(folder):
    """(step, {tag: scalar or image}) of a job's files, and how many files there are."""
    out, files = [], sorted(folder.iterdir())
    for path in files:
        first, *rest = records(path)
        assert dict(fields(first))[3] == b"brain.Event:2"
        for body in rest:
            event = dict(fields(body))
            assert struct.unpack("<d", event[1])[0] > 1.6e9
            values = {}
            for _, v in fields(event[5]):
                v = dict(fields(v))
                values[v[1].decode()] = struct.unpack("<f", v[2])[0] if 2 in v else dict(fields(v[4]))
            out.append((event[2], values))
    return out, len(files)


def test_a_job():
    assert masked(b"") == 0xA282EAD8 and crc32c(b"123456789") == 0xE3069283
    with board() as d:
        assert d.job("tiny") == "1"
        d.wait("1", "completed")
        assert d.end() == 0, d.said()
        got, files = events(d.board / "job-1")
        loss = [(step, v["loss"]) for step, v in got if "loss" in v]
        assert files == 1 and [step for step, _ in loss] == list(range(1, 61)), loss
        grids = [(step, v["samples"]) for step, v in got if "samples" in v]
        assert [step for step, _ in grids] == [20, 40, 60], grids
        for _, image in grids:
            png = image[4]
            assert png[:8] == b"\x89PNG\r\n\x1a\n"
            assert struct.unpack(">II", png[16:24]) == (image[2], image[1])
        d.start()
        rows = d.get("/v1/jobs/1/metrics?names=loss&max_points=0").json()["series"][0]["rows"]
        assert all(abs(r[2] - v) <= 1e-6 * abs(v) for r, (_, v) in zip(rows, loss)), "as in the database"
        read_by_tensorboard(d.board / "job-1")


def board():
    """A daemon that writes event files; d.board: where."""
    import contextlib
    import tempfile

    @contextlib.contextmanager
    def make():
        with tempfile.TemporaryDirectory(prefix="driftd-board-") as folder:
            with daemon(f"--tensorboard-dir={folder}/new/board") as d:
                d.board = pathlib.Path(folder) / "new/board"
                yield d

    return make()


def read_by_tensorboard(folder):
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        print("(tensorboard is not installed; its own reader was not tried)", end=" ")
        return
    a = EventAccumulator(str(folder))
    a.Reload()
    assert "loss" in a.Tags()["scalars"] and "samples" in a.Tags()["images"], a.Tags()
    assert len(a.Scalars("loss")) == 60


def test_a_folder_that_cannot_be():
    import subprocess
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "file").write_text("")
        r = subprocess.run([os.path.abspath(sys.argv[1]), "serve", "--listen=127.0.0.1:0", f"--state-dir={folder}/state",
                            f"--tensorboard-dir={folder}/file/board"], capture_output=True, text=True, timeout=60)
        assert r.returncode == 1 and "tensorboard-dir" in r.stderr and "file/board" in r.stderr, r


run([test_a_job, test_a_folder_that_cannot_be])
