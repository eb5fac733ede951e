"""Downloads: checked, complete or absent, one process at a time, and refused in one useful line."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import HANG
from helpers import wrong

from harness.common.errors import UserError
from harness.data import fetch
from harness.data.fetch import Archive


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves one folder and counts the requests; `cut` ends each answer early."""

    requests, cut = 0, False

    def do_GET(self) -> None:
        Handler.requests += 1
        time.sleep(0.3)  # a second process has time to ask
        super().do_GET()

    def copyfile(self, source: io.BufferedIOBase, outputfile: io.BufferedIOBase) -> None:
        data = source.read()
        outputfile.write(data[: len(data) // 2] if Handler.cut else data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """An archive that a server on this machine has, in the folder `served`."""
    monkeypatch.setattr(Handler, "requests", 0)
    monkeypatch.setattr(Handler, "cut", False)
    path = tmp_path / "served" / "pets.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("pets/cat.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"meow"))
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    handler = functools.partial(Handler, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/{path.name}"
        yield Archive("Pets", url, path.name, md5, "1 kB", folder="pets")
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def visible(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")}


def test_where_locks_do_not_reach_the_first_to_finish_is_used(
    served: Archive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "locked", lambda *_: contextlib.nullcontext())
    receive = fetch._receive

    def slower(*arguments: Any) -> Any:
        monkeypatch.setattr(fetch, "_receive", receive)
        received = receive(*arguments)
        assert fetch.fetch(served, root).is_dir()  # another container
        return received

    monkeypatch.setattr(fetch, "_receive", slower)
    assert fetch.fetch(served, root) == root / "pets"
    assert {p.name for p in root.iterdir()} == {"pets", "pets.tgz"}


def test_downloaded_once(served: Archive, root: Path) -> None:
    for _ in range(2):
        assert (fetch.fetch(served, root) / "cat.txt").read_bytes() == b"meow"
    assert Handler.requests == 1
    assert visible(root) == {"pets", "pets.tgz"}


def test_both_checksums_are_of_one_reading(
    served: Archive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, real = [], fetch.open_file
    monkeypatch.setattr(fetch, "open_file", lambda path: opened.append(path) or real(path))
    data = (root.parent / "served" / served.filename).read_bytes()
    archive = dataclasses.replace(served, sha256=hashlib.sha256(data).hexdigest())
    assert fetch.fetch(archive, root).is_dir() and len(opened) == 1


def on_port(port: int, archive: Archive) -> Archive:
    return dataclasses.replace(archive, url=f"http://127.0.0.1:{port}/{archive.filename}")


@pytest.mark.parametrize("problem", ["changed", "forged", "cut", "missing", "offline", "silent"])
def test_a_failed_download_leaves_nothing(
    problem: str, served: Archive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names all that it takes to fetch the file by hand."""
    archive, original = served, (root.parent / "served" / served.filename)
    content = original.read_bytes()
    monkeypatch.setattr(Handler, "cut", problem == "cut")
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as short:
        if problem == "changed":
            original.write_bytes(content + b"!")
        elif problem == "forged":  # to the published MD5
            archive = dataclasses.replace(served, sha256="0" * 64)
        elif problem == "missing":
            original.unlink()
        elif problem == "offline":
            archive = on_port(silent.getsockname()[1], served)
            silent.close()
        elif problem == "silent":
            archive = on_port(silent.getsockname()[1], served)
            short.setattr(fetch, "TIMEOUT", 0.2)
        parts = (archive.title, archive.url, archive.size, archive.md5, str(root))
        wrong(lambda: fetch.fetch(archive, root), *parts)
    assert visible(root) == set() and not list(root.glob(".*.tmp"))

    original.write_bytes(content)  # the next try succeeds
    monkeypatch.setattr(Handler, "cut", False)
    assert fetch.fetch(served, root).is_dir()


def test_an_archive_put_there_by_hand(served: Archive, root: Path) -> None:
    root.mkdir()
    content = (root.parent / "served" / served.filename).read_bytes()
    (root / served.filename).write_bytes(content[:-9])
    with pytest.raises(UserError, match=str(root / served.filename)):
        fetch.fetch(served, root)
    (root / served.filename).write_bytes(content)
    assert fetch.fetch(served, root).is_dir()
    assert Handler.requests == 0


def test_nothing_is_extracted_outside(served: Archive, root: Path) -> None:
    root.mkdir()
    path = root / served.filename
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("pets/../../../escaped"), io.BytesIO())
    bad = dataclasses.replace(served, md5=hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=str(path)):
        fetch.fetch(bad, root)
    assert not list(root.parent.rglob("escaped"))
    assert visible(root) == {served.filename}


def test_nothing_is_downloaded_where_it_is_forbidden(served: Archive, root: Path) -> None:
    with fetch.without_fetching(), pytest.raises(UserError, match=served.md5):
        fetch.fetch(served, root)
    assert Handler.requests == 0 and not root.exists()


def test_unwritable_root(served: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--data-root"):
        fetch.fetch(served, tmp_path / "file" / "data")


def test_two_processes_download_once(served: Archive, root: Path) -> None:
    code = (
        "from pathlib import Path; from harness.data.fetch import Archive, fetch; "
        f"print(fetch({served!r}, Path({str(root)!r})))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    results = [p.communicate(timeout=HANG) for p in both]
    assert [p.returncode for p in both] == [0, 0], results
    assert {out.strip() for out, _ in results} == {str(root / served.folder)}
    assert Handler.requests == 1
