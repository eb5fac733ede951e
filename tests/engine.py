"""A Docker Engine of Debian's packages, and images that stand in for those of Docker's registry.

All of it lies in one folder and is kept there, so that a second start is fast. The Engine runs in
namespaces of its own (engine_files/start.sh): nothing is installed on this machine, and its network
is as before.
"""

import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import compose
from compose import DOCKER, ROOT

FILES = Path(__file__).resolve().parent / "engine_files"
PACKAGES = {  # program -> its package in Debian
    "apt-get": "apt",
    "debootstrap": "debootstrap",
    "git": "git",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
# Bytes: the images, the layers that they are copied from, and two copies of the wheels.
SPACE = 40 * 10**9
DATA = "/var/lib/postgresql/data"
IMAGES = {  # tree -> what the configuration of its image says
    "python": ['CMD ["python3"]'],
    "postgres": [
        'ENTRYPOINT ["postgres.sh"]',
        'CMD ["postgres"]',
        f"ENV PGDATA={DATA}",
        f"VOLUME {DATA}",
        "ENV LANG=C.UTF-8",  # databases in UTF-8
        "STOPSIGNAL SIGINT",
    ],
}
ENVIRONMENT = {"HOME": "/root", "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Missing(Exception):
    """Something that is needed is not there; the message is one line."""


def require(root: bool, found: dict[str, str | None], free: int) -> None:
    """Check that this machine has what is needed: a path for each of PACKAGES, free bytes.

    Raises:
        Missing: It lacks something; the message names the remedy.
    """
    if not root:
        raise Missing("docker-check: needs root, for a Docker Engine; start it with sudo")
    for program, package in PACKAGES.items():
        if found[program] is None:
            raise Missing(f"{program}: is not installed; Debian: apt-get install {package}")
    if free < SPACE:
        have, need = (f"{n / 1e9:.0f} GB" for n in (free, SPACE))
        raise Missing(f"CONTAINERS_CACHE: {have} free, {need} needed; name a folder elsewhere")


def mirror(listed: str) -> str:
    """Return the mirror that apt is configured for; `listed` has ORIGIN, LABEL and address."""
    for line in listed.splitlines():
        match line.split():
            case ["Debian", "Debian", address]:
                return address
    raise Missing("apt: has no list of a mirror of Debian; call apt-get update")


def suite() -> str:
    """Return the release of Debian that the Dockerfile's image is made of."""
    text = (DOCKER / "Dockerfile").read_text()
    (found,) = re.findall(r"^ARG PYTHON=python:.*-(\w+)$", text, re.M)
    return found


def trees() -> dict[str, list[str]]:
    """Return the packages of each tree; PostgreSQL has the major version of the compose file."""
    image = compose.read()["services"]["postgres"]["image"]
    (major,) = re.findall(r"^postgres:(\d+)", image)
    return {
        "python": ["python3", "python3-pip"],
        "postgres": [f"postgresql-{major}"],
        "engine": ["docker.io", "docker-cli", "docker-compose", "docker-buildx"],
    }


def output(*command: str | Path) -> str:
    """Return what a command of this machine prints; it has to succeed."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Engine:
    """An Engine for a checkout: `with Engine(cache, checkout) as engine: engine.docker("info")`.

    Its calls append what they print to `log`.
    """

    def __init__(self, cache: Path, checkout: Path) -> None:
        self.cache, self.checkout, self.log = cache, checkout, cache / "log"
        for name in ("state", "wheels"):
            (cache / name).mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *command: str | Path, **environment: str) -> None:
        """Run a command of this machine.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        env = os.environ | environment
        with open(self.log, "ab") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True, env=env)

    def make_trees(self) -> None:
        """Make the trees that are not there: Debian with some packages, and our files."""
        for name, packages in trees().items():
            tree, part = self.cache / name, self.cache / f"{name}.part"
            if tree.exists():
                continue
            shutil.rmtree(part, ignore_errors=True)
            if name == "python":
                self._bootstrap(part, packages)
            else:
                self.run("cp", "--archive", self.cache / "python", part)
                self._install(part, packages)
            if name == "postgres":
                self._link_postgres(part)
            part.rename(tree)

    def _bootstrap(self, tree: Path, packages: list[str]) -> None:
        what = "--format=$(ORIGIN) $(LABEL) $(REPO_URI)"
        address = mirror(output("apt-get", "indextargets", what, "Identifier: Packages"))
        options = ["--variant=minbase", f"--include={','.join(packages)}"]
        self.run("debootstrap", *options, suite(), tree, address)
        (tree / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        # pip asks for no index, only for the folder that the Engine's own loopback address serves.
        lines = ["[global]", "no-index = true", "find-links = http://127.0.0.1:8000/"]
        (tree / "etc/pip.conf").write_text("\n".join([*lines, ""]))

    def _install(self, tree: Path, packages: list[str]) -> None:
        # No service may start here, and Debian's cluster of PostgreSQL is not wanted.
        (tree / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (tree / "usr/sbin/policy-rc.d").chmod(0o755)
        (tree / "etc/postgresql-common").mkdir()
        settings = tree / "etc/postgresql-common/createcluster.conf"
        settings.write_text("create_main_cluster = false\n")
        apt = "apt-get install --assume-yes --quiet --no-install-recommends"
        script = f"apt-get update && {apt} {' '.join(packages)} && apt-get clean"
        alone = ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={tree / 'proc'}"]
        self.run(*alone, "chroot", tree, "sh", "-ec", script, DEBIAN_FRONTEND="noninteractive")

    def _link_postgres(self, tree: Path) -> None:
        (programs,) = (tree / "usr/lib/postgresql").glob("*/bin")
        for program in programs.iterdir():
            link = tree / "usr/local/bin" / program.name
            link.symlink_to(Path("/") / program.relative_to(tree))
        shutil.copy(FILES / "postgres.sh", tree / "usr/local/bin")
        # Modes of the official image; a tmpfs takes that of the folder below it.
        for mode, folder in {"3777": "/var/run/postgresql", "1777": DATA}.items():
            owner = ["--owner=postgres", "--group=postgres", f"--mode={mode}"]
            self.run("chroot", tree, "install", "--directory", *owner, folder)

    def fetch_wheels(self) -> None:
        """Fetch both lock files' packages for the images' Python, as pip is configured here."""
        locks = [ROOT / "requirements.lock", ROOT / "requirements-dev.lock"]
        digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
        if (done := self.cache / "wheels" / f"of-{digest}").exists():
            return
        code = "import sys; print('%d.%d' % sys.version_info[:2], end='')"
        version = output("chroot", self.cache / "python", "python3", "-c", code)
        platforms = ["linux", "manylinux1", "manylinux2010", "manylinux2014"]
        platforms += [f"manylinux_2_{minor}" for minor in range(5, 42)]
        self.run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--only-binary=:all:", "--python-version", version),
            *(f"--platform={name}_{platform.machine()}" for name in platforms),
            *(f"--requirement={lock}" for lock in locks),
            *("--dest", self.cache / "wheels"),
        )
        done.touch()

    def __enter__(self) -> "Engine":
        folders = [self.cache / name for name in ("engine", "state")]
        folders += [self.checkout, self.cache / "wheels"]
        with_us = ["setpriv", "--pdeathsig", "KILL"]  # if this process is killed
        namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child"]
        with open(self.cache / "engine.log", "wb") as log:
            self.process = subprocess.Popen(
                [*with_us, "unshare", *namespaces, FILES / "start.sh", *folders],
                stdout=log,
                stderr=log,
            )
        try:
            self._wait()
            for name, changes in IMAGES.items():
                self._load(name, changes)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self) -> None:
        deadline = time.monotonic() + 120
        while self.call("docker", "info").returncode != 0:
            assert self.process and self.process.poll() is None, "the Engine ended: see engine.log"
            assert time.monotonic() < deadline, "the Engine does not answer: see engine.log"
            time.sleep(0.5)

    def _load(self, name: str, changes: list[str]) -> None:
        """Make an image of a tree, unless it is there: builds are cached by its id."""
        if self.call("docker", "image", "inspect", f"check-{name}").returncode == 0:
            return
        without = ["--exclude=./etc/apt/sources.list", "--exclude=./var/lib/apt/lists/*"]
        pack = ["tar", "--create", "--directory", self.cache / name, *without, "."]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as tar:
            options = [f"--change={change}" for change in changes]
            self.docker("import", *options, "-", f"check-{name}", stdin=tar.stdout)

    @property
    def first(self) -> int:
        """The process of the Engine's namespaces that all others end with."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (found := children.read_text()):
            assert self.process.poll() is None, "the Engine ended: see engine.log"
            time.sleep(0.01)
        return int(found)

    def inside(self, *command: str, **environment: str) -> list[str]:
        """Return the command line that runs a command beside the Engine, in the checkout."""
        target = f"--target={self.first}"
        variables = [f"{k}={v}" for k, v in (ENVIRONMENT | environment).items()]
        enter = ["nsenter", target, "--mount", "--net", "--pid"]
        return [*enter, "env", "--chdir=/checkout", "--ignore-environment", *variables, *command]

    def call(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command beside the Engine and return what it printed, whatever its status."""
        line = self.inside(*command, **environment)
        return subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def docker(self, *arguments: str, stdin: Any = subprocess.DEVNULL) -> None:
        """Call docker beside the Engine, which has to succeed."""
        with open(self.log, "ab") as log:
            line = self.inside("docker", *arguments)
            subprocess.run(line, stdin=stdin, stdout=log, stderr=log, check=True)

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            os.kill(self.first, signal.SIGTERM)  # handed on to dockerd, which stops its containers
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
