"""The teacher's outputs for the batches of training, cached in the store: each is computed once.

What a cell asks of its teacher follows from (images, seed, epoch) alone, so every student, stage
and trial of one teacher and seed needs the same outputs: `runs/teacher-cache/KEY/epoch-12` holds
the embeddings of epoch 12, KEY everything that their last digit depends on.

A file is an array of embeddings, and a digest per batch, which covers its key, pass and place, too.
A batch whose digest is missing or wrong is computed by the process that needs it, under a lock that
ends with the process. So kills, torn writes and several cells at once need no repair, and no
incomplete output is ever used.
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
from harness.data.batches import Batch, Epoch, to_device
from harness.methods.schedules import Schedule
from harness.store.teacher_cache import FOLDER, KEY_FILE, check_no_link, make_room

DIGEST = 8  # bytes
WINDOW = 4  # batches that are held while another cell computes the first of them
PAUSE = 0.001  # seconds between two looks for another cell's output
LONG_PAUSE = 0.05  # the same for a whole pass
LONGEST_WAIT = 60.0  # for another cell's pass; then it is computed without it

Embed = Callable[[Tensor], Tensor]
BatchOutputs = Iterator[tuple[Batch, Tensor]]


class TeacherCache:
    """The outputs of one teacher for one set of training images, in one order of each epoch.

    Args:
        root: The folder of the store.
        identity: Everything that the outputs depend on, as plain data.
        limit: The bytes that all cached outputs of the store may have. Those of the least recently
            used teacher are evicted first; a teacher's own never make room for its others, as its
            next cell needs them in the same order.
        embed: (B, 3, H, W) -> (B, width), float32 or less.
        device: The device of the batches.
    """

    def __init__(
        self,
        root: Path,
        identity: dict[str, Any],
        limit: int,
        embed: Embed,
        width: int,
        device: torch.device,
    ) -> None:
        text = canonical(identity)
        self.folder = root / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.text, self.limit, self.device = text, limit, device
        self.embed, self.width = embed, width
        self._can_write = True

    def outputs_for(self, batches: Iterable[Batch], name: str, n_images: int) -> BatchOutputs:
        """Yield each batch with the teacher's embedding of it (B, width), float32.

        The batches are those of one pass over `n_images`, always the same for one `name`.
        """
        file = self._open(name, n_images)
        if file is None:
            return ((batch, self.embed(batch.x).float()) for batch in batches)
        if self.device.type == "cpu":
            return self._shared(file, _with_starts(batches))
        if isinstance(batches, Epoch) and batches.is_resident:
            return self._whole(file, batches)
        return self._alone(file, _with_starts(batches))

    def _shared(self, file: PassFile, batches: Iterator[tuple[int, Batch]]) -> BatchOutputs:
        """Yield outputs, sharing the work with other cells that need the same ones now.

        While another cell computes a batch, this one computes a later one.
        """
        held: deque[tuple[int, Batch]] = deque()

        def hold_another() -> bool:
            following = next(batches, None)
            if following is not None:
                held.append(following)
            return following is not None

        def help_others() -> bool:
            """Compute a later batch that nobody has begun; return whether there may be more."""
            for start, batch in list(held)[1:]:
                if not file.has(start) and self._compute(file, start, batch) is not None:
                    return True
            return len(held) < WINDOW and hold_another()

        with file:
            while held or hold_another():
                start, batch = held[0]
                while (output := file.read(start, len(batch.y))) is None:
                    output = self._compute(file, start, batch)
                    if output is not None:
                        break
                    if not help_others():
                        time.sleep(PAUSE)
                held.popleft()
                yield batch, output

    def _compute(self, file: PassFile, start: int, batch: Batch) -> Tensor | None:
        """Compute an output and write it to the file; None if another process is computing it."""
        with file.claim(start) as is_ours:
            if not is_ours:
                return None
            output = file.read(start, len(batch.y))  # written since the last look?
            if output is None:
                output = self.embed(batch.x).float()
                file.write(start, output)
            return output

    def _whole(self, file: PassFile, batches: Epoch) -> BatchOutputs:
        """Yield outputs on a GPU that holds the images.

        All of a pass are there before the first is needed: read, or computed by one cell while the
        others wait. So every output is computed once, no step waits for the GPU or the disk, and
        all steps launch the same kernels.
        """
        lengths = [len(labels) for labels in batches.labels]
        with file:
            outputs, asked = file.read_all(lengths), time.monotonic()
            while outputs is None:
                is_late = time.monotonic() - asked > LONGEST_WAIT
                with file.claim(0) as is_ours:
                    outputs = file.read_all(lengths)
                    if outputs is None and (is_ours or is_late):
                        outputs = torch.cat([self.embed(batch.x).float() for batch in batches])
                        if is_ours:
                            file.write_all(lengths, outputs)
                if outputs is None:
                    time.sleep(LONG_PAUSE)
        yield from zip(batches, to_device(outputs, self.device).split(lengths), strict=True)

    def _alone(self, file: PassFile, batches: Iterator[tuple[int, Batch]]) -> BatchOutputs:
        """Yield outputs on a GPU that gets its images one batch at a time.

        Copying each new one to the CPU would wait for the device, so all are written at the end of
        the pass.
        """
        computed: dict[int, Tensor] = {}
        with file:
            for start, batch in batches:
                output = file.read(start, len(batch.y))
                if output is None:
                    output = computed[start] = self.embed(batch.x).float()
                else:
                    output = to_device(output, self.device)
                yield batch, output
            if computed:
                lengths = [len(output) for output in computed.values()]
                copied = torch.cat(list(computed.values())).cpu().split(lengths)
                for start, output in zip(computed, copied, strict=True):
                    file.write(start, output)

    def _open(self, name: str, n_images: int) -> PassFile | None:
        """Open the file of a pass; None if there is no room for it: training does not need it."""
        if not self._can_write:
            return None
        size = PassFile.size(n_images, self.width)
        path = self.folder / name
        try:
            for folder in (self.folder.parent, self.folder):
                check_no_link(folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / KEY_FILE).exists():
                (self.folder / KEY_FILE).write_text(self.text + "\n")
            os.utime(self.folder)  # used now: see `make_room`
            if not path.exists() and not make_room(self.folder, size, self.limit):
                return None
            return PassFile(path, n_images, self.width)
        except OSError as error:
            self._can_write = False  # warn once
            print(
                f"warning: the teacher's outputs are not cached in {self.folder.parent} "
                f"({error.strerror}); they are computed",
                file=sys.stderr,
            )
            return None


def reserve(fd: int, size: int) -> None:
    """Give a file its size and allocate its space, so that the disk cannot run full later.

    Raises:
        OSError: The disk is full.
    """
    os.ftruncate(fd, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    zeros = bytes(2**20)
    for start in range(0, size, len(zeros)):  # macOS
        os.pwrite(fd, zeros[: size - start], start)


class PassFile:
    """The outputs of one pass over n images: (n, width) float32, then n digests.

    The digest of a batch stands at the place of its first image.

    Raises:
        OSError: The file cannot be made, or the disk is full.
    """

    def __init__(self, path: Path, n: int, width: int) -> None:
        self.n, self.row = n, 4 * width
        self.width, self.identity = width, f"{path.parent.name}/{path.name}"
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            if os.fstat(self.fd).st_size != self.size(n, width):
                reserve(self.fd, self.size(n, width))
        except OSError:
            os.close(self.fd)
            path.unlink(missing_ok=True)
            raise

    @staticmethod
    def size(n: int, width: int) -> int:
        """Return the size of a file in bytes."""
        return n * (4 * width + DIGEST)

    def __enter__(self) -> PassFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def _digest(self, data: bytes | bytearray, start: int) -> bytes:
        """Return the digest of the output of a batch in its place; all zeros stand for none."""
        digest = hashlib.blake2b(f"{self.identity} {start}\n".encode(), digest_size=DIGEST)
        digest.update(data)
        return digest.digest()

    def _digest_offset(self, start: int) -> int:
        return self.n * self.row + DIGEST * start

    def has(self, start: int) -> bool:
        """Return whether the batch at `start` has been written, completely or not."""
        return any(os.pread(self.fd, DIGEST, self._digest_offset(start)))

    def read(self, start: int, length: int) -> Tensor | None:
        """Return the output (length, width) of a batch; None if it is not completely written."""
        digest = os.pread(self.fd, DIGEST, self._digest_offset(start))
        if not any(digest):
            return None
        data = bytearray(os.pread(self.fd, length * self.row, start * self.row))
        if self._digest(data, start) != digest:
            return None
        return torch.frombuffer(data, dtype=torch.float32).view(length, self.width)

    def write(self, start: int, output: Tensor) -> None:
        """Write the output of a batch, then its digest."""
        data = output.detach().cpu().contiguous().numpy().tobytes()
        os.pwrite(self.fd, data, start * self.row)
        os.pwrite(self.fd, self._digest(data, start), self._digest_offset(start))

    def read_all(self, lengths: list[int]) -> Tensor | None:
        """Return the outputs (n, width) of batches of these lengths; None if one is missing."""
        parts, start = [], 0
        for length in lengths:
            output = self.read(start, length)
            if output is None:
                return None
            parts.append(output)
            start += length
        return torch.cat(parts)

    def write_all(self, lengths: list[int], outputs: Tensor) -> None:
        """Write the outputs (n, width) of batches of these lengths."""
        start = 0
        for output in outputs.cpu().split(lengths):
            self.write(start, output)
            start += len(output)

    def claim(self, start: int) -> contextlib.AbstractContextManager[bool]:
        """Try to lock a batch's digest; the value says whether this process may compute it."""
        return try_lock_bytes(self.fd, self._digest_offset(start), DIGEST)


def _with_starts(batches: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
    """Yield each batch after the number of images before it."""
    start = 0
    for batch in batches:
        yield start, batch
        start += len(batch.y)


def cache_identity(
    config: CellConfig, teacher: dict[str, Any], machine: dict[str, Any]
) -> dict[str, Any]:
    """Return everything that the outputs for a cell's batches depend on, to the last digit.

    Args:
        config: The config of the cell.
        teacher: The teacher's network and the SHA-256 of its weights.
        machine: Device, processor, threads and torch release, with which the last digits of sums
            differ.
    """
    return {
        "teacher": teacher,
        "data": config.data.as_json(),
        "train_on": config.protocol.train_on,
        "seed": config.seed,
        "batch_size": config.optimizer.batch_size,
        "precision": config.optimizer.precision,
        "machine": machine,
        **({"determinism": "fast"} if config.optimizer.determinism == "fast" else {}),
        **{
            name: value
            for section in config.sections.values()
            if isinstance(section, Schedule)
            for name, value in section.image_changes.items()
        },
    }
