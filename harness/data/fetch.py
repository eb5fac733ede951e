"""Fetching published files: one process at a time, checked, and never half there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import UserError
from harness.common.locks import locked

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
TIMEOUT = 10.0  # seconds without an answer: without a network the error comes soon


@dataclass(frozen=True)
class Download:
    """A published file. size: as told to the user; md5: as its publisher gives it."""

    title: str
    url: str
    filename: str
    md5: str
    size: str

    @property
    def by_hand(self) -> str:
        return f"{self.url} ({self.size}, md5 {self.md5})"


@dataclass(frozen=True)
class Archive(Download):
    """A .tgz of one `folder`."""

    folder: str


def fetch(archive: Archive, root: Path) -> Path:
    """root/folder of the archive, downloaded and extracted if it is not there. A folder that is
    there is taken as it is: ours appear only when whole.

    Raises:
        UserError: it is not there and cannot be downloaded, its checksum is wrong, or `root`
            cannot be written. One line that says how to do it by hand.
    """
    folder = root / archive.folder
    if folder.is_dir():
        return folder
    with _writing(archive, root):
        if not folder.is_dir():  # nobody else was faster
            path = root / archive.filename
            if path.exists():
                _check(path, archive)
            else:
                _download(path, archive)
            _extract(path, archive, root)
    return folder


def fetch_file(file: Download, folder: Path) -> Path:
    """folder/filename, downloaded if it is not there. A file that is there is taken as it is.

    Raises:
        UserError: as `fetch`.
    """
    path = folder / file.filename
    if not path.is_file():
        with _writing(file, folder):
            if not path.is_file():  # nobody else was faster
                _download(path, file)
    return path


_may_fetch: ContextVar[bool] = ContextVar("may_fetch", default=True)


@contextlib.contextmanager
def without_fetching() -> Iterator[None]:
    """Inside the block, and in this thread, what is not there is missing."""
    token = _may_fetch.set(False)
    try:
        yield
    finally:
        _may_fetch.reset(token)


@contextlib.contextmanager
def _writing(file: Download, root: Path) -> Iterator[None]:
    """root is made, and this file of it belongs to this process alone, until the block ends.

    Raises:
        UserError: `root` cannot be written, or nothing is to be fetched.
    """
    if not _may_fetch.get():
        raise UserError(f"dataset: {file.title} is not in {root}; put {file.by_hand} there")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{file.filename}.lock", f"it fetches {file.title}"):
            yield
    except OSError as error:
        raise UserError(
            f"dataset: cannot put {file.title} into {root} ({error.strerror}); choose "
            "a folder with --data-root that you may write to and that has room for it"
        ) from None


def _check(path: Path, archive: Archive) -> None:
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5:
        raise UserError(
            f"dataset: {path} is not whole (md5 {md5}); delete it, or fetch {archive.by_hand} anew"
        )


def _download(path: Path, download: Download) -> None:
    """Into a temporary file, renamed once its checksum is right."""
    request = urllib.request.Request(download.url, headers={"User-Agent": "refilled-harness"})
    part = path.with_name(f".{path.name}.part")
    try:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                n, md5 = _receive(response, part, download)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, OSError) as error:
            if getattr(error, "errno", None) in DISK_ERRORS:
                raise
            cause = getattr(error, "reason", error)
            reason = (getattr(cause, "strerror", None) or str(cause) or "no answer").splitlines()[0]
            raise UserError(
                f"dataset: {download.title} is not in {path.parent} and cannot be fetched "
                f"({reason}); put {download.by_hand} there"
            ) from None
        if md5 != download.md5:
            raise UserError(
                f"dataset: {download.title} came with a wrong checksum ({n} bytes, md5 {md5}); try "
                f"again, or put {download.by_hand} into {path.parent}"
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _receive(response: http.client.HTTPResponse, part: Path, download: Download) -> tuple[int, str]:
    """The number of bytes written to `part`, and their md5."""
    print(
        f"fetching {download.title} ({download.size}) from {download.url} into {part.parent}",
        file=sys.stderr,
        flush=True,
    )
    md5, total = hashlib.md5(usedforsecurity=False), response.headers["Content-Length"]
    with open(part, "wb") as file, _bar(int(total) if total else None) as advance:
        while block := response.read(1 << 20):
            file.write(block)
            md5.update(block)
            advance(len(block))
        file.flush()
        os.fsync(file.fileno())
        return file.tell(), md5.hexdigest()


@contextlib.contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], Any]]:
    """A progress bar on a terminal, nothing in a log file."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from torch.hub import tqdm  # tqdm's bar, or torch's own where that is not installed

    with tqdm(total=total, unit="B", unit_scale=True) as bar:
        yield bar.update


def _extract(path: Path, archive: Archive, root: Path) -> None:
    """The archive's folder, renamed into place when whole. Nothing is written outside of it."""
    print(f"extracting {path}", file=sys.stderr, flush=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{archive.folder}-", dir=root))
    try:
        with tarfile.open(path, "r:gz") as tar:
            members = (m for m in tar if m.name.split("/")[0] == archive.folder)
            tar.extractall(temporary, members=members, filter="data")
        os.rename(temporary / archive.folder, root / archive.folder)
    except (tarfile.TarError, EOFError, FileNotFoundError) as error:
        raise UserError(
            f"dataset: {path} cannot be extracted ({str(error)[:100]}); delete it and try again"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
