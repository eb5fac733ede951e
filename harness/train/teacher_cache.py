"""The teacher's answers to the batches of training, kept in the store: each is computed once.

What a cell asks its teacher follows from (images, seed, epoch) alone, so every student, stage and
trial of one teacher and seed asks the very same: `runs/teacher-cache/KEY/epoch-12` holds the
embeddings of epoch 12, KEY all that the last digit of them depends on.

A file is an array of embeddings, and for each batch a digest. A batch without a digest that fits is
computed by who needs it, under a lock that ends with its process: so kills, torn writes and several
cells at once need no repair, and no answer that was not written whole is ever used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.cell import CellConfig
from harness.common.canonical_json import canonical
from harness.common.locks import try_lock_bytes
from harness.data.batches import Batch
from harness.store.teacher_cache import FOLDER, KEY_FILE, make_room

DIGEST = 8  # bytes
WINDOW = 4  # batches that are held while another cell computes an answer to the first of them
PAUSE = 0.001  # seconds until another cell's answer is looked for again

Embed = Callable[[Tensor], Tensor]
Answered = Iterator[tuple[Batch, Tensor]]


class TeacherCache:
    """The answers of one teacher to one set of training images, in one order of each epoch."""

    def __init__(
        self,
        root: Path,
        identity: dict[str, Any],
        limit: int,
        embed: Embed,
        width: int,
        device: torch.device,
    ) -> None:
        """
        Args:
            root: of the store.
            identity: all that the answers depend on, as plain data.
            limit: bytes that all kept answers in the store may have. Those of the teacher that was
                asked least recently go first; a teacher's own never make room for its others, as
                its next cell asks for them in the same order.
            embed: (B, 3, H, W) -> (B, width), float32 or less.
            device: of the batches.
        """
        text = canonical(identity)
        self.folder = root / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.text, self.limit, self.device = text, limit, device
        self.embed, self.width = embed, width
        self._keeps = True

    def to(self, batches: Iterable[Batch], name: str, n: int) -> Answered:
        """Each batch with the embedding (B, width), float32, that the teacher gives it.

        Args:
            batches: of one pass over the images, always the same for this name.
            name: of the pass.
            n: images in all.
        """
        file = self._open(name, n)
        if file is None:
            return ((batch, self.embed(batch.x).float()) for batch in batches)
        with_starts = _with_starts(batches)
        return (self._shared if self.device.type == "cpu" else self._alone)(file, with_starts)

    def _shared(self, file: PassFile, batches: Iterator[tuple[int, Batch]]) -> Answered:
        """Cells that ask the same at the same time share the work: what another one is computing
        just now is not computed here, but a batch that comes later."""
        held: deque[tuple[int, Batch]] = deque()

        def hold_another() -> bool:
            following = next(batches, None)
            if following is not None:
                held.append(following)
            return following is not None

        def help_others() -> bool:
            """Compute one of the next batches that nobody has begun; whether there may be more."""
            for start, batch in list(held)[1:]:
                if not file.has(start) and self._compute(file, start, batch) is not None:
                    return True
            return len(held) < WINDOW and hold_another()

        with file:
            while held or hold_another():
                start, batch = held[0]
                while (answer := file.read(start, len(batch.y))) is None:
                    answer = self._compute(file, start, batch)
                    if answer is not None:
                        break
                    if not help_others():
                        time.sleep(PAUSE)
                held.popleft()
                yield batch, answer

    def _compute(self, file: PassFile, start: int, batch: Batch) -> Tensor | None:
        """The answer, which is then in the file; None while another process computes it."""
        with file.claim(start) as is_ours:
            if not is_ours:
                return None
            answer = file.read(start, len(batch.y))  # written since it was looked for?
            if answer is None:
                answer = self.embed(batch.x).float()
                file.write(start, answer)
            return answer

    def _alone(self, file: PassFile, batches: Iterator[tuple[int, Batch]]) -> Answered:
        """On a GPU: to fetch each answer would wait for the device, so they are fetched at the
        end of the pass."""
        computed: list[tuple[int, Tensor]] = []
        with file:
            for start, batch in batches:
                answer = file.read(start, len(batch.y))
                if answer is None:
                    answer = self.embed(batch.x).float()
                    computed.append((start, answer))
                else:
                    if self.device.type == "cuda":
                        answer = answer.pin_memory()
                    answer = answer.to(self.device, non_blocking=True)
                yield batch, answer
            for start, answer in computed:
                file.write(start, answer)

    def _open(self, name: str, n: int) -> PassFile | None:
        """The file of a pass; None where there is no room for it. Training needs none."""
        if not self._keeps:
            return None
        size = PassFile.size(n, self.width)
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / KEY_FILE).exists():
                (self.folder / KEY_FILE).write_text(self.text + "\n")
            os.utime(self.folder)  # asked just now
            if not path.exists() and not make_room(self.folder, size, self.limit):
                return None
            return PassFile(path, n, self.width)
        except OSError as error:
            self._keeps = False  # said once
            print(
                f"warning: the teacher's answers are not kept in {self.folder.parent} "
                f"({error.strerror}); they are computed",
                file=sys.stderr,
            )
            return None


def reserve(fd: int, size: int) -> None:
    """Give a file its size and its place on the disk, which cannot run full later.

    Raises:
        OSError: it is full.
    """
    os.ftruncate(fd, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    zeros = bytes(2**20)
    for start in range(0, size, len(zeros)):  # macOS
        os.pwrite(fd, zeros[: size - start], start)


class PassFile:
    """The answers to one pass over n images: (n, width) float32, and n digests, of which each
    batch has the one at its first image's place."""

    def __init__(self, path: Path, n: int, width: int) -> None:
        """
        Raises:
            OSError: it cannot be made, or the disk is full.
        """
        self.n, self.row = n, 4 * width
        self.width = width
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(self.fd).st_size != self.size(n, width):
                reserve(self.fd, self.size(n, width))
        except OSError:
            os.close(self.fd)
            path.unlink(missing_ok=True)
            raise

    @staticmethod
    def size(n: int, width: int) -> int:
        """Bytes."""
        return n * (4 * width + DIGEST)

    def __enter__(self) -> PassFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def _place(self, start: int) -> int:
        """Of the digest of the batch that begins there."""
        return self.n * self.row + DIGEST * start

    def has(self, start: int) -> bool:
        """Whether its batch has been written, whole or not."""
        return any(os.pread(self.fd, DIGEST, self._place(start)))

    def read(self, start: int, length: int) -> Tensor | None:
        """(length, width); None if it has not been written as a whole."""
        known = os.pread(self.fd, DIGEST, self._place(start))
        if not any(known):
            return None
        data = bytearray(os.pread(self.fd, length * self.row, start * self.row))
        if digest_of(data) != known:
            return None
        return torch.frombuffer(data, dtype=torch.float32).view(length, self.width)

    def write(self, start: int, answer: Tensor) -> None:
        data = answer.detach().cpu().contiguous().numpy().tobytes()
        os.pwrite(self.fd, data, start * self.row)
        os.pwrite(self.fd, digest_of(data), self._place(start))

    def claim(self, start: int) -> contextlib.AbstractContextManager[bool]:
        """Try to lock the bytes of a batch's digest; the value says whether this process may
        compute the batch."""
        return try_lock_bytes(self.fd, self._place(start), DIGEST)


def digest_of(data: bytes | bytearray) -> bytes:
    """Never zeros, which stand for none."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def _with_starts(batches: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
    """Each batch and the number of images before it."""
    start = 0
    for batch in batches:
        yield start, batch
        start += len(batch.y)


def identity_of(
    config: CellConfig, teacher: dict[str, Any], machine: dict[str, Any]
) -> dict[str, Any]:
    """All that the answers to a cell's batches depend on, to the last digit.

    Args:
        config: the cell's.
        teacher: its network and the SHA-256 of its weights.
        machine: device, processor, threads, release of torch: sums have other last digits on
            others.
    """
    return {
        "teacher": teacher,
        "data": config.data.as_json(),
        "train_on": config.protocol.train_on,
        "seed": config.seed,
        "batch_size": config.optimizer.batch_size,
        "precision": config.optimizer.precision,
        "machine": machine,
    }
