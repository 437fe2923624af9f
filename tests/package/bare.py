#!/usr/bin/env python3
"""The Debian package on bare Debian 12 roots: the stages of debian/Containerfile, each in a root of its own; then what
is installed is looked at, trains, serves, and takes over a state folder of 0.1.0.

usage: bare.py SOURCE           only checks that debian/Containerfile can be followed
       bare.py SOURCE FOLDER    root, debootstrap and the network are needed, else it is skipped (77).
FOLDER keeps the fetched Debian for the next time; the package is left in FOLDER/packages. $DRIFTD_DEB=FILE:
installs this package instead of building one. $DRIFTD_OLD_DEB=FILE: this older package trains first, in a root where the
package is then installed over it.
"""
import array
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import types
import urllib.request

SOURCE = pathlib.Path(sys.argv[1]).resolve()
FIXTURE = SOURCE / "tests/fixtures/c354205"
VERSION = re.search(r"version: '([\d.]+)'", (SOURCE / "meson.build").read_text())[1]
CLEAN = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
LENT = ("http_proxy", "https_proxy", "no_proxy", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "DEB_BUILD_OPTIONS")


def skip(why):
    print("skipped:", why)
    sys.exit(77)


def said(*command, **more):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **more).stdout


# ---- Containerfile ----

def stages():
    """[(name, [(instruction, words or text)])]; an instruction that this test would not follow is an error."""
    out = []
    for line in (SOURCE / "debian/Containerfile").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            image, *name = rest.split()
            assert image == "debian:12", f"{line}: the test has Debian 12 only"
            out.append((name[1] if name else "", []))
            continue
        assert word in ("COPY", "RUN", "USER", "VOLUME", "ENV", "EXPOSE", "ENTRYPOINT", "CMD"), f"the test does not follow {line}"
        out[-1][1].append((word, rest if word == "RUN" else json.loads(rest) if rest[0] == "[" else rest.split()))
    return out


def check_containerfile():
    (build, first), (_, last) = stages()
    assert build == "build" and [w for w, _ in first] == ["COPY", "RUN"], first
    runs = [shlex.split(rest) for stage in (first, last) for word, rest in stage if word == "RUN"]
    assert [pathlib.Path(r[0]).name for r in runs] == ["steps.sh"] * 2 and [r[1] for r in runs] == ["build", "install"], runs
    usage = subprocess.run([SOURCE / "debian/steps.sh"], stderr=subprocess.PIPE, text=True)
    assert usage.returncode == 2 and "steps.sh build SOURCE OUT" in usage.stderr, usage
    log = (SOURCE / "debian/changelog").read_text()
    assert log.startswith(f"driftd ({VERSION}) "), "debian/changelog begins with another version than meson.build has"
    assert f"\n## {VERSION} " in (SOURCE / "CHANGELOG.md").read_text(), f"CHANGELOG.md has nothing on {VERSION}"


# ---- roots ----

def mirror():
    for path in [pathlib.Path("/etc/apt/sources.list"), *pathlib.Path("/etc/apt/sources.list.d").glob("debian*.sources")]:
        if path.exists() and (m := re.search(r"^(?:URIs: *|deb (?:\[.*\] )?)(http\S+/debian/?)(?:\s|$)", path.read_text(), re.M)):
            return m[1]
    return "http://deb.debian.org/debian"


def lend(root):
    """What the machine reaches, its root reaches too: apt's proxies and sources, certificates, npm's settings."""
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", root / "etc")
    if (certs := pathlib.Path("/etc/ssl/certs")).exists():
        shutil.rmtree(root / "etc/ssl/certs", ignore_errors=True)
        shutil.copytree(certs, root / "etc/ssl/certs", ignore_dangling_symlinks=True)
    for path in pathlib.Path("/etc/apt/apt.conf.d").glob("[89]*"):
        shutil.copy(path, root / "etc/apt/apt.conf.d")
    if (npmrc := pathlib.Path.home() / ".npmrc").exists():
        shutil.copy(npmrc, root / "root")


class Root:
    def __init__(self, base, path):
        if path.exists():
            said("rm", "-rf", "--one-file-system", path)
        said("cp", "-a", base, path)
        self.path = path
        self.env = dict(CLEAN, **{k: os.environ[k] for k in LENT if k in os.environ})

    def command(self, *words):
        """Mounts and processes of its own: both are gone when the command ends. The shell stays as their first
        process: a command that changes its user would not be killed with unshare."""
        inside = 'mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/dev/shm" && mount -t devpts devpts "$0/dev/pts" && chroot "$0" "$@"; exit $?'
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside, str(self.path), *words]

    def run(self, *words, **more):
        return said(*self.command(*words), env=self.env, **more)

    def copy(self, source, to, owner=None):
        to = self.path / to.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        said("cp", "-a", source, to)
        if owner:
            said("chown", "-R", owner, to)


def sources(to):
    """The tracked files as they are now, and new ones that git does not ignore."""
    names = said("git", "-C", SOURCE, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (SOURCE / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, to / name)


def follow(stage, root, others, log):
    for word, rest in stage:
        if word == "COPY" and rest[0] == ".":
            sources(root.path / rest[1].lstrip("/"))
        elif word == "COPY":
            at, source, to = rest
            root.copy(others[at.removeprefix("--from=")].path / source.lstrip("/"), to)
        elif word == "RUN":
            print("RUN", rest, flush=True)
            start = time.monotonic()
            with open(log, "ab") as out:
                status = subprocess.run(root.command("/bin/sh", "-c", rest), env=root.env, stdout=out, stderr=subprocess.STDOUT).returncode
            if status:
                print("".join(open(log, errors="replace").readlines()[-60:]))
                sys.exit(f"`{rest}` failed with status {status}; its output is {log}")
            print(f"  {time.monotonic() - start:.0f} s", flush=True)
        elif word == "ENV":
            root.env |= dict(x.split("=", 1) for x in rest)


# ---- what is installed ----

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def serving(root, stage, **env):
    """The container's command as the container's user, on a port of its own. Yields its URL."""
    word = dict(stage)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    user, group = word["USER"][0].split(":")
    state = env.get("DRIFTD_STATE_DIR", root.env["DRIFTD_STATE_DIR"])
    child = subprocess.Popen(root.command("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *word["ENTRYPOINT"], *word["CMD"]),
                             env=root.env | {"DRIFTD_LISTEN": f"127.0.0.1:{port}", "DRIFTD_THREADS": "1", "HOME": "/"} | env)
    try:
        for _ in range(600):
            assert child.poll() is None, "driftd ended"
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(url + "/readyz", timeout=5).status == 200:
                    break
            time.sleep(0.1)
        yield url
    finally:
        child.kill()  # and with unshare, a moment later, everything in its process namespace
        child.wait()
        with open(root.path / state.lstrip("/") / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # which driftd holds while it lives


def fetch(url):
    with urllib.request.urlopen(url, timeout=60) as r:
        return r.read(), r.headers


def ctl(root, url, *words):
    return root.run("driftctl", "--url", url, *words)


def check_files(root):
    assert root.run("dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}", "driftd") == f"{VERSION} installed"
    assert root.run("dpkg", "--audit") == ""
    assert f"driftd {VERSION}" in root.run("driftd", "--version"), root.run("driftd", "--version")
    assert VERSION in root.run("driftctl", "--version")
    have = root.run("dpkg", "-L", "driftd").splitlines()
    for name in ("bin/driftd", "bin/driftctl", "share/man/man1/driftd.1.gz", "share/man/man1/driftctl.1.gz", "lib/tmpfiles.d/driftd.conf",
                 "share/bash-completion/completions/driftctl.bash", "share/driftd/configs/digits.json", "share/driftd/python/driftd.py",
                 "share/driftd/python/driftd_model.py", "share/doc/driftd/changelog.gz", "share/doc/driftd/README.md", "share/doc/driftd/copyright"):
        assert f"/usr/{name}" in have, (name, have)
    units = [next(x for x in have if x.endswith(f"/systemd/system/{name}")) for name in ("driftd.service", "driftd.socket")]
    about = re.search(r"^Documentation=file:(\S+)", (root.path / units[0].lstrip("/")).read_text(), re.M)[1]
    assert about in have, f"{about}, which the unit names"
    assert not [x for x in have if "/tests/" in x or x.endswith((".a", ".h"))], have


def check_served(root, stage):
    with serving(root, stage) as url:
        page, headers = fetch(url + "/")
        assert b"app/main.js" in page and "text/html" in headers["Content-Type"], "the package is without its dashboard"
        ctl(root, url, "train", "toy-two-modes-far", "--set", "train.steps=20", "--follow")
        assert json.loads(ctl(root, url, "job", "1", "--json"))["state"] == "completed"
        first, about = fetch(url + "/v1/generate?seed=4&n=4&format=npy")
        assert about["Driftd-Checkpoint"] != "live" and first[:6] == b"\x93NUMPY"
        assert "digits" in ctl(root, url, "configs") and "cifar10-ldf" in ctl(root, url, "configs")
    with serving(root, stage) as url:  # killed, started again: the same model, the same bytes
        assert fetch(url + "/v1/generate?seed=4&n=4&format=npy")[0] == first


def old_state(folder):
    """The state folder that 0.1.0 (commit c354205) left: one job completed, one stopped at step 25 of 60."""
    for name in ("checkpoints", "samples"):
        shutil.copytree(FIXTURE / name, folder / name)
    db = sqlite3.connect(folder / "driftd.sqlite3")
    db.executescript((FIXTURE / "state.sql").read_text())
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()


def check_upgrade(root, stage):
    inside = "/var/lib/driftd-old"
    folder = root.path / inside.lstrip("/")
    folder.mkdir(mode=0o700)
    old_state(folder)
    said("chown", "-R", dict(stage)["USER"][0], folder)
    with serving(root, stage, DRIFTD_STATE_DIR=inside) as url:
        jobs = {j["id"]: j for j in json.loads(ctl(root, url, "jobs", "--json"))["jobs"]}
        assert (jobs["1"]["state"], jobs["2"]["state"], jobs["2"]["step"]) == ("completed", "stopped", 25), jobs
        _, headers = fetch(url + "/v1/generate?seed=3&format=json")
        assert headers["Driftd-Checkpoint"] == "1", "what 0.1.0 had activated is served"
        for job in ("1", "2"):
            assert ctl(root, url, "metrics", job, "--csv", "--output", "-") == (FIXTURE / f"job{job}.csv").read_text(), f"the curve of job {job}"
        ctl(root, url, "resume", "2", "--follow")
        job = json.loads(ctl(root, url, "job", "2", "--json"))
        assert (job["state"], job["step"]) == ("completed", 60), job
        steps = re.findall(r"^loss,(\d+),", ctl(root, url, "metrics", "2", "--csv", "--output", "-"), re.M)
        assert steps == [str(i) for i in range(1, 61)], "the steps before and after, each once"
        ctl(root, url, "db", "backup", "--output", "/tmp/after.sqlite3")
    db = sqlite3.connect(root.path / "tmp/after.sqlite3")
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("PRAGMA user_version").fetchone()[0] > 1
    db.close()


def post(url, path, body=None):
    ask = urllib.request.Request(url + path, data=json.dumps(body or {}).encode() if body else b"", headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(ask, timeout=60) as r:
        return json.load(r)


def read(url, path):
    return json.loads(fetch(url + path)[0])


def wait(url, job, until):
    for _ in range(1200):
        now = read(url, f"/v1/jobs/{job}")
        if until(now):
            return now
        time.sleep(0.1)
    raise AssertionError(f"job {job} in time: {now}")


def known(url):
    """What the state folder holds, in words that every version has."""
    jobs = {j["id"]: (j["name"], j["state"], j["step"]) for j in read(url, "/v1/jobs")["jobs"]}
    files = {c["id"]: (c["step"], c["sha256"]) for c in read(url, "/v1/checkpoints?limit=1000")["checkpoints"]}
    losses = {j: fetch(url + f"/v1/jobs/{j}/metrics?names=loss&max_points=0&format=csv")[0] for j in jobs}
    return jobs, files, losses


def check_package_upgrade(base, folder, stage, old, build, log):
    packages = {"old": (folder / "old", old), "new": (folder / "new", next((build / "packages").glob("driftd_*.deb")))}
    for path, deb in packages.values():
        shutil.rmtree(path, ignore_errors=True)
        (path / "packages").mkdir(parents=True)
        shutil.copy(deb, path / "packages")
        (path / "src/debian").mkdir(parents=True)
        shutil.copy(SOURCE / "debian/steps.sh", path / "src/debian")
    root = Root(base, folder / "upgraded")
    draw = "/v1/generate?checkpoint={}&seed=4&n=16&format=npy"
    follow(stage, root, {"build": types.SimpleNamespace(path=packages["old"][0])}, log)
    version = root.run("dpkg-query", "-W", "-f", "${Version}", "driftd")
    assert version != VERSION, version
    with serving(root, stage) as url:
        post(url, "/v1/jobs", {"config": "toy-two-modes-far", "overrides": {"train.steps": 60}, "name": "to its end"})
        post(url, "/v1/jobs", {"config": "toy-two-modes-far", "overrides": {"train.steps": 10**7}, "name": "to be stopped"})
        wait(url, 2, lambda j: j["step"] >= 100)
        post(url, "/v1/jobs/2/stop")
        stopped = wait(url, 2, lambda j: j["state"] == "stopped")["step"]
        before = known(url)
        served = max(before[1], key=int)
        drawn, _ = fetch(url + draw.format(served))
    shutil.rmtree(root.path / "packages")
    follow(stage, root, {"build": types.SimpleNamespace(path=packages["new"][0])}, log)
    assert root.run("dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}", "driftd") == f"{VERSION} installed"
    with serving(root, stage) as url:
        assert known(url) == before, (before, known(url))
        again, about = fetch(url + draw.format(served))
        assert about["Driftd-Checkpoint"] == served and again[:128] == drawn[:128]
        x, y = (array.array("f", d[128:]) for d in (drawn, again))  # another version may round otherwise
        assert sum((a - b) ** 2 for a, b in zip(x, y)) < 1e-9 * sum(a * a for a in x), "the same pictures"
        for checkpoint in before[1]:
            fetch(url + f"/v1/checkpoints/{checkpoint}/file")
        post(url, "/v1/jobs/2/resume")
        wait(url, 2, lambda j: j["step"] >= stopped + 50)
        losses = fetch(url + "/v1/jobs/2/metrics?names=loss&max_points=0&format=csv")[0]
        assert losses.startswith(before[2]["2"]), "the curve goes on where it ended"
    print(f"{version} -> {VERSION}: {len(before[0])} jobs, {len(before[1])} checkpoints, step {stopped} goes on", flush=True)


def check_removal(root):
    root.run("apt-get", "purge", "-y", "-qq", "driftd")
    assert (root.path / "var/lib/driftd/driftd.sqlite3").exists(), "models outlive the package"
    assert not (root.path / "usr/bin/driftd").exists()


def main():
    check_containerfile()
    if len(sys.argv) < 3:
        return
    folder = pathlib.Path(sys.argv[2]).resolve()
    if os.geteuid() != 0:
        skip("it makes Debian roots, for which one must be root")
    if not shutil.which("debootstrap"):
        skip("there is no debootstrap")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode:
        skip("it may not mount here")
    try:
        urllib.request.urlopen(f"{mirror().rstrip('/')}/dists/bookworm/Release", timeout=20).close()
    except OSError as e:
        skip(f"Debian's mirror cannot be reached: {e}")
    folder.mkdir(parents=True, exist_ok=True)
    base, log = folder / "base", folder / "steps.log"
    log.unlink(missing_ok=True)
    if not (folder / "base.done").exists():
        said("rm", "-rf", "--one-file-system", base)
        with open(folder / "debootstrap.log", "wb") as out:
            subprocess.run(["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", base, mirror()], check=True, stdout=out, stderr=out)
        (folder / "base.done").touch()
    for path in base.glob("etc/apt/sources.list"):
        path.write_text("".join(f"{kind} {mirror()} bookworm main\n" for kind in ("deb", "deb-src")))
    (base / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")  # roots are thrown away; images have this too
    lend(base)
    (_, first), (_, last) = stages()
    build, deb = folder / "build", os.environ.get("DRIFTD_DEB")
    if deb:
        build = Root(base, build)
        (build.path / "packages").mkdir()
        shutil.copy(deb, build.path / "packages")
        build.copy(SOURCE / "debian/steps.sh", "/src/debian/steps.sh")
    else:
        build = Root(base, build)
        follow(first, build, {}, log)
        shutil.rmtree(folder / "packages", ignore_errors=True)
        shutil.copytree(build.path / "packages", folder / "packages")
    root = Root(base, folder / "root")
    follow(last, root, {"build": build}, log)
    checks = [(check_files, [root]), (check_served, [root, last]), (check_upgrade, [root, last]), (check_removal, [root])]
    if old := os.environ.get("DRIFTD_OLD_DEB"):
        checks.append((check_package_upgrade, [base, folder, last, old, build.path, log]))
    for check, arguments in checks:
        check(*arguments)
        print(check.__name__, "ok", flush=True)
    for path in (build.path, root.path, folder / "upgraded"):
        said("rm", "-rf", "--one-file-system", path)


main()
