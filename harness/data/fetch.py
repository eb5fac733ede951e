"""Download published files: one process at a time, with a checksum, and never incomplete.

pooch and torchvision's `download_url` do not replace this: neither has a lock, pooch downloads a
file anew if the user has put another one in its place, and torchvision writes into the final file
and has no timeout.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import UserError
from harness.common.locks import locked
from harness.common.reading import open_file
from harness.common.temporary import remove_temporary, temporary_path

if TYPE_CHECKING:
    import http.client

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
TIMEOUT = 10.0  # seconds without an answer: without a network the error comes soon


@dataclass(frozen=True)
class Download:
    """A published file with its checksums; title and size are for messages.

    Attributes:
        md5: The publisher's checksum.
        sha256: The checksum that holds against somebody who changes what a mirror sends; "" where
            the content is checked after it is read.
    """

    title: str
    url: str
    filename: str
    md5: str
    size: str
    sha256: str = ""

    @property
    def description(self) -> str:
        """Address, size and checksum, for users who fetch the file themselves."""
        return f"{self.url} ({self.size}, md5 {self.md5})"


@dataclass(frozen=True)
class Archive(Download):
    """A published .tgz or .zip file of one folder."""

    folder: str = ""


def fetch(archive: Archive, root: Path) -> Path:
    """Return the archive's folder in `root`; download and extract it if it is missing.

    A folder that is there is used as it is: ours appear only when they are complete.

    Raises:
        UserError: The folder is missing and the archive cannot be downloaded, its checksum is
            wrong, or `root` cannot be written; the message says how to fetch it by hand.
    """
    folder = root / archive.folder
    if folder.is_dir():
        return folder
    with _locked_for_writing(archive, root):
        if not folder.is_dir():  # no other process was faster
            path = root / archive.filename
            if path.exists():
                if wrong := _wrong_checksum(path, archive):
                    raise UserError(
                        f"dataset: {path} is not whole ({wrong}); delete it, or fetch "
                        f"{archive.description} anew"
                    )
            else:
                _download(path, archive)
            _extract(path, archive, root)
    return folder


def fetch_file(file: Download, folder: Path) -> Path:
    """Return the path of a file in `folder`; download it if it is missing.

    A file that is there is used as it is.

    Raises:
        UserError: As for `fetch`.
    """
    path = folder / file.filename
    if not path.is_file():
        with _locked_for_writing(file, folder):
            if not path.is_file():  # no other process was faster
                _download(path, file)
    return path


_may_fetch: ContextVar[bool] = ContextVar("may_fetch", default=True)


@contextlib.contextmanager
def without_fetching() -> Iterator[None]:
    """Raise an error in place of every download, in this thread, until the block ends."""
    token = _may_fetch.set(False)
    try:
        yield
    finally:
        _may_fetch.reset(token)


@contextlib.contextmanager
def _locked_for_writing(file: Download, root: Path) -> Iterator[None]:
    """Create `root` and lock this file in it until the block ends.

    Raises:
        UserError: `root` cannot be written, or `without_fetching` forbids downloads.
    """
    if not _may_fetch.get():
        raise UserError(f"dataset: {file.title} is not in {root}; put {file.description} there")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{file.filename}.lock", f"it fetches {file.title}"):
            yield
    except OSError as error:
        raise UserError(
            f"dataset: cannot put {file.title} into {root} ({error.strerror}); choose "
            "a folder with --data-root that you may write to and that has room for it"
        ) from None


def _wrong_checksum(path: Path, download: Download) -> str:
    """Return a checksum of a file that is not the published one, in words; "" if all are."""
    published = {"md5": download.md5, "sha256": download.sha256}
    digests = {n: hashlib.new(n, usedforsecurity=False) for n, known in published.items() if known}
    with open_file(path) as file:
        while block := file.read(2**20):
            for digest in digests.values():
                digest.update(block)
    for name, digest in digests.items():
        if digest.hexdigest() != published[name]:
            return f"{path.stat().st_size} bytes, {name} {digest.hexdigest()}"
    return ""


def _download(path: Path, download: Download) -> None:
    """Download into a temporary file, and rename it once its checksum is right."""
    import http.client  # here, as planning downloads nothing
    import urllib.error
    import urllib.request

    request = urllib.request.Request(download.url, headers={"User-Agent": "refilled-harness"})
    part = temporary_path(path)
    try:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                _receive(response, part, download)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, OSError) as error:
            if getattr(error, "errno", None) in DISK_ERRORS:
                raise
            cause = getattr(error, "reason", error)
            reason = (getattr(cause, "strerror", None) or str(cause) or "no answer").splitlines()[0]
            raise UserError(
                f"dataset: {download.title} is not in {path.parent} and cannot be fetched "
                f"({reason}); put {download.description} there"
            ) from None
        # Another machine, which did not see our lock, may be faster, and remove our part.
        if not path.exists() and (wrong := _wrong_checksum(part, download)):
            raise UserError(
                f"dataset: {download.title} came with a wrong checksum ({wrong}); try again, or "
                f"put {download.description} into {path.parent}"
            )
        if not path.exists():
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    remove_temporary(path)


def _receive(response: http.client.HTTPResponse, part: Path, download: Download) -> None:
    """Write the response to `part`."""
    print(
        f"fetching {download.title} ({download.size}) from {download.url} into {part.parent}",
        file=sys.stderr,
        flush=True,
    )
    from torch.hub import tqdm  # tqdm's bar, or torch's own where that is not installed

    total = response.headers["Content-Length"]
    bar = tqdm(
        total=int(total) if total else None,
        unit="B",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )
    with open(part, "xb") as file, bar:
        while block := response.read(1 << 20):
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())


def _extract(path: Path, archive: Archive, root: Path) -> None:
    """Extract the archive's folder, and rename it into place when it is complete."""
    import tarfile
    import zipfile

    print(f"extracting {path}", file=sys.stderr, flush=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{archive.folder}-", dir=root))
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as zipped:  # it takes ".." and leading "/" out of names
                zipped.extractall(temporary)
        else:
            with tarfile.open(path, "r:gz") as tar:
                members = (m for m in tar if m.name.split("/")[0] == archive.folder)
                tar.extractall(temporary, members=members, filter="data")
        if not (root / archive.folder).is_dir():
            os.rename(temporary / archive.folder, root / archive.folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, FileNotFoundError) as error:
        raise UserError(
            f"dataset: {path} cannot be extracted ({str(error)[:100]}); delete it and try again"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
