"""The teacher's answers, kept: the same bits with and without, and each computed once."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import HANG
from data_files import write_birds
from helpers import Output, Patch
from torch import Tensor
from training import CPU, RAW, Grid, StopAfter, assert_same_result, config, go, tiny

from harness.data import load
from harness.data.sets.digits import DigitsOptions
from harness.data.small import DeviceImages
from harness.experiment.file import parse
from harness.experiment.sources import apply_overrides
from harness.networks import build
from harness.networks.base import Network
from harness.plan import make_plan
from harness.store import CellDir, Store, teacher_cache
from harness.store.manifest import CellOptions
from harness.store.teacher_cache import FOLDER, RESERVE, cached_files, clean
from harness.train.exit_status import DONE, STOPPED
from harness.train.methods.base import Context
from harness.train.teacher_cache import DIGEST, PassFile, TeacherCache, cache_identity

LIMIT = 10**9
METHODS = "methods=[plain,kd,refilled,refilled-triplet,crd,vid,kd+vid]"


class Asked:
    """A teacher that counts: how many images it was shown, and in which batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return x.flatten(1)[:, :3] * 2.0


def batches(n: int = 10, size: int = 4, first: int = 0) -> Iterator[Any]:
    for start in range(0, n, size):
        index = torch.arange(start, min(start + size, n))
        yield SimpleNamespace(x=(first + index[:, None]) * torch.ones(1, 6), y=index)


def kept(
    root: Path, embed: Any, limit: int = LIMIT, device: str = "cpu", **more: Any
) -> TeacherCache:
    return TeacherCache(root, {"seed": 0, **more}, limit, embed, 3, torch.device(device))


def answers_of(keeper: TeacherCache, name: str = "epoch-1", n: int = 10) -> Tensor:
    return torch.cat([answer for _, answer in keeper.outputs_for(batches(n), name, n)])


def whole(n: int = 10) -> Tensor:
    return torch.arange(n)[:, None] * torch.full((1, 3), 2.0)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return tiny(tmp_path / "runs")


# -- the same bits ---------------------------------------------------------------------------------


def train(grid: Grid, limit: int) -> list[CellDir]:
    directories = []
    options = CellOptions.on_this_machine(grid.plan.experiment, teacher_cache=limit)
    for cell in grid.plan.cells.values():
        directories.append(grid.store.prepare(cell, options))
        assert go(directories[-1]) == DONE
    return directories


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_cells_weights_are_the_same_with_and_without(tmp_path: Path, precision: str) -> None:
    settings = (METHODS, f"optimizer.precision={precision}", "stage2.weighted=true")
    cells = [train(tiny(tmp_path / str(n), *settings), n) for n in (0, LIMIT)]
    assert len(cells[0]) == len(cells[1]) == 9
    for without, with_it in zip(*cells, strict=True):
        assert_same_result(without, with_it)
    assert not (tmp_path / "0" / FOLDER).exists()
    assert {p.name for p in (tmp_path / str(LIMIT) / FOLDER).glob("*/*")} == {
        *("key.json", "unaugmented", "epoch-1", "epoch-2", "epoch-3")
    }


def test_resized_crops_too(tmp_path: Path, data_root: Path) -> None:
    """Images from a loader, of a folder on disk."""
    network = {"network": "wide_resnet", "depth": 10, "width": 1}
    dataset = {"name": "folder", "path": str(write_birds(tmp_path / "birds"))}
    dataset |= {"augmentation": "resized-crop", "image_size": 28, "validation": 3}
    changes = {"dataset": dataset, "methods": ["kd", "refilled"], "optimizer": {"batch_size": 8}}
    experiment = parse(RAW | changes | {"teacher": network, "students": [network]})
    cells = []
    for limit in (0, LIMIT):
        store = Store(tmp_path / str(limit))
        store.create()
        grid = Grid(make_plan(experiment, load(experiment.dataset)), store)
        cells.append(train(grid, limit))
    for without, with_it in zip(*cells, strict=True):
        assert_same_result(without, with_it)
    assert len(list((tmp_path / str(LIMIT) / FOLDER).glob("*/epoch-*"))) == 3


def test_a_grid_asks_its_teacher_once(grid: Grid, monkeypatch: Patch) -> None:
    """Three epochs of five batches, and once all images for the class centres, whatever the number
    of students, methods, tau and lambda. What is not the teacher in eval mode does not count: the
    student has the same network."""
    shown: list[int] = []
    real = Network.embed

    def watched(network: Network, x: Tensor) -> Tensor:
        if not network.training and not any(p.requires_grad for p in network.parameters()):
            shown.append(len(x))
        return real(network, x)

    monkeypatch.setattr(Network, "embed", watched)
    train(grid, LIMIT)
    once, centers = 3 * [64, 64, 64, 64, 41], [256, 41]
    assert shown == [*once, *centers]
    train(tiny(grid.store.root, METHODS.replace(",vid,kd+vid", ""), "stage2.lambd=3"), LIMIT)
    assert shown == [*once, *centers]
    train(tiny(grid.store.root, "stage2.lambd=4"), 0)
    assert shown == [*once, *centers, *centers, *once]


def test_maps_are_no_kept_answers(grid: Grid) -> None:
    teacher = build("wide_resnet", 10, depth=10, width=1)
    embed = torch.no_grad()(teacher.eval().embed)
    keeper = TeacherCache(grid.store.root, {}, LIMIT, embed, 64, CPU)
    dataset = load(grid.plan.experiment.dataset)
    images: Any = {"train": DeviceImages(dataset, dataset.train, CPU)}
    context = Context(config(), images, 10, teacher, teacher, keeper)
    batch = next(context.with_teacher_outputs(images["train"].plain(8), 0))
    assert not context.teacher_output(batch).maps
    assert len(context.teacher_output(batch, with_maps=True).maps) == 3


def test_an_interrupted_cell_keeps_what_it_had(grid: Grid, tmp_path: Path) -> None:
    teacher, kd = (grid.cell(k) for k in ("supervised", "kd"))
    assert go(grid.store.prepare(teacher)) == DONE
    directory = grid.store.prepare(kd, CellOptions(teacher_cache=LIMIT))
    assert go(directory, StopAfter(7)) == STOPPED
    assert go(directory) == DONE
    other = tiny(tmp_path / "other")
    train(other, 0)
    assert_same_result(directory, other.directory("kd"))


# -- whose answers they are ------------------------------------------------------------------------


def question(*changes: str) -> dict[str, Any]:
    """Return the cache's identity for a teacher common to all cells, and for one of its own."""
    plan = make_plan(parse(apply_overrides(RAW, ["methods=[kd]", *changes])), load(DigitsOptions()))
    (cell,) = (c for c in plan.cells.values() if c.upstream)
    own = {"sha256": cell.upstream["teacher"]}
    return {"any": cache_identity(cell.config, {}, {}), "own": cache_identity(cell.config, own, {})}


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        ("kd.temperature=2", False),
        ("students=[{depth: 16, width: 1}]", False),
        ("training.epochs=1", True),  # another teacher
        ("optimizer.batch_size=32", True),
        ("dataset.split_seed=1", True),
        ("seeds=[1]", True),
        ("optimizer.precision=bfloat16", True),
        ("optimizer.determinism=fast", True),
        ("training.mixup_alpha=0.2", True),
        ("training.augment=randaugment", True),
        ("tasks={classes: 5}", True),
    ],
)
def test_another_question_has_another_key(change: str, is_other: bool) -> None:
    before, after = question(), question(change)
    assert (after["own"] != before["own"]) is is_other
    if change != "training.epochs=1":
        assert (after["any"] != before["any"]) is is_other


def test_outputs_for_validation_images_are_others() -> None:
    """Cells that train on them have the same data, digest and seed; their batches are others."""
    identities = [
        cache_identity(config(protocol={"train_on": images, "selection": "last"}), {}, {})
        for images in ("train", "train+validation")
    ]
    assert identities[0] != identities[1]


@pytest.mark.parametrize("change", ["device", "processor", "threads", "torch"])
def test_other_machines_have_other_last_digits(change: str) -> None:
    machine = {"device": "cpu", "processor": "a", "threads": 1, "torch": "2"}
    one = cache_identity(config(), {}, machine)
    assert one != cache_identity(config(), {}, machine | {change: 3})
    assert one != cache_identity(config(), {"sha256": ""}, machine)


# -- one file --------------------------------------------------------------------------------------


def test_asked_again_nothing_is_computed(tmp_path: Path) -> None:
    asked = Asked()
    assert answers_of(kept(tmp_path, asked)).equal(whole())
    assert asked.sizes == [4, 4, 2]
    assert answers_of(kept(tmp_path, asked)).equal(whole())
    assert asked.sizes == [4, 4, 2]
    answers_of(kept(tmp_path, asked), "epoch-2")
    assert len(asked.sizes) == 6
    answers_of(kept(tmp_path, asked, seed=1))
    assert len(asked.sizes) == 9


def test_what_was_damaged_is_computed_again(tmp_path: Path) -> None:
    asked = Asked()
    answers_of(kept(tmp_path, asked))
    (path,) = cached_files(tmp_path / FOLDER)
    for place in (4 * 12, path.stat().st_size - 8 * 2):  # second batch; the last one's digest
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    assert answers_of(kept(tmp_path, asked)).equal(whole())
    assert asked.sizes == [4, 4, 2, 4, 2]
    assert answers_of(kept(tmp_path, asked)).equal(whole())
    assert len(asked.sizes) == 5


@pytest.mark.parametrize("what", ["pass", "key", "place", "none"])
def test_outputs_for_other_images_are_computed_again(tmp_path: Path, what: str) -> None:
    """They are whole, and each has its digest, but lie where others belong."""
    keeper, other = kept(tmp_path, Asked()), kept(tmp_path, Asked(), seed=1)
    for _ in keeper.outputs_for(batches(first=9), "epoch-2", 10):
        pass
    for _ in other.outputs_for(batches(first=9), "epoch-1", 10):
        pass
    answers_of(keeper)
    path = keeper.folder / "epoch-1"
    data = path.read_bytes()
    if what == "place":  # the first two batches exchanged, with their digests
        rows, sums = 4 * 12, 10 * 12
        data = (
            data[rows : 2 * rows]
            + data[:rows]
            + data[2 * rows : sums]
            + (data[sums + 32 : sums + 64] + data[sums : sums + 32] + data[sums + 64 :])
        )
    elif what != "none":
        data = (
            (keeper.folder / "epoch-2") if what == "pass" else other.folder / "epoch-1"
        ).read_bytes()
    path.write_bytes(data)
    asked = Asked()
    assert answers_of(kept(tmp_path, asked)).equal(whole())
    assert asked.sizes == {"none": [], "place": [4, 4]}.get(what, [4, 4, 2])


def test_outputs_of_earlier_versions_are_computed_again(tmp_path: Path) -> None:
    """Their digests are of the outputs alone."""
    keeper = kept(tmp_path, Asked())
    keeper.folder.mkdir(parents=True)
    rows = [(9 * whole()[start : start + 4]).numpy().tobytes() for start in (0, 4, 8)]
    sums = [hashlib.blake2b(row, digest_size=DIGEST).digest() for row in rows]
    places = b"".join(digest.ljust(4 * DIGEST, b"\0") for digest in sums)
    (keeper.folder / "epoch-1").write_bytes((b"".join(rows) + places)[: PassFile.size(10, 3)])
    assert answers_of(keeper).equal(whole())


@pytest.mark.parametrize("size", [0, 5, 1000])
def test_a_file_of_another_size_is_computed_again(tmp_path: Path, size: int) -> None:
    asked = Asked()
    answers_of(kept(tmp_path, asked))
    (path,) = cached_files(tmp_path / FOLDER)
    os.truncate(path, size)
    assert answers_of(kept(tmp_path, asked)).equal(whole())
    assert path.stat().st_size == PassFile.size(10, 3)


def test_on_a_gpu_they_are_written_at_the_end_of_the_pass(tmp_path: Path) -> None:
    """The way without sharing, on this device."""
    asked = Asked()
    keeper = kept(tmp_path, asked)
    keeper._shared = keeper._alone
    first = keeper.outputs_for(batches(), "epoch-1", 10)
    next(first)
    first.close()
    assert answers_of(keeper).equal(whole())
    assert asked.sizes == [4, 4, 4, 2]
    assert answers_of(kept(tmp_path, asked)).equal(whole())
    assert asked.sizes == [4, 4, 4, 2]


# -- several cells at once -------------------------------------------------------------------------

fork = multiprocessing.get_context("fork")


class Slow(Asked):
    """Takes its time, and notes every batch in a file that all processes share."""

    def __init__(self, notes: Path, seconds: float) -> None:
        super().__init__()
        self.notes, self.seconds = notes, seconds

    def __call__(self, x: Tensor) -> Tensor:
        with open(self.notes, "a") as file:
            file.write(json.dumps([os.getpid(), x[0, 0].item()]) + "\n")
        time.sleep(self.seconds)
        return super().__call__(x)

    def noted(self) -> list[list[float]]:
        text = self.notes.read_text() if self.notes.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


class Meeting(Slow):
    """In its first batch, each of `n` processes waits for the others."""

    def __init__(self, notes: Path, n: int) -> None:
        super().__init__(notes, 0.0)
        self.barrier, self.has_met = fork.Barrier(n), False

    def __call__(self, x: Tensor) -> Tensor:
        if not self.has_met:
            self.barrier.wait(HANG)
            self.has_met = True
        return super().__call__(x)


def cell(root: Path, embed: Slow, n: int) -> None:
    assert answers_of(kept(root, embed), n=n).equal(whole(n))


def test_cells_at_once_share_the_work(tmp_path: Path) -> None:
    embed = Meeting(tmp_path / "notes", 3)
    cells = [fork.Process(target=cell, args=(tmp_path, embed, 96)) for _ in range(3)]
    for process in cells:
        process.start()
    for process in cells:
        process.join()
        assert process.exitcode == 0
    firsts = [first for _, first in embed.noted()]
    assert sorted(firsts) == list(range(0, 96, 4)), "each batch once, by whoever"
    assert len({pid for pid, _ in embed.noted()}) == 3


def test_what_another_has_just_computed_is_not_computed_again(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """Between the look at a batch and its lock."""
    claim, other = PassFile.claim, whole()

    def late(file: PassFile, start: int) -> Any:
        if not file.has(start):
            file.write(start, other[start : start + 4])
        return claim(file, start)

    monkeypatch.setattr(PassFile, "claim", late)
    asked = Asked()
    assert answers_of(kept(tmp_path, asked)).equal(other) and not asked.sizes


def test_a_killed_cells_batch_is_computed_by_another(tmp_path: Path) -> None:
    hangs = fork.Process(target=cell, args=(tmp_path, Slow(tmp_path / "first", 1e6), 10))
    hangs.start()
    while not Slow(tmp_path / "first", 0).noted():
        time.sleep(0.01)
    embed = Slow(tmp_path / "notes", 0)
    waits = fork.Process(target=cell, args=(tmp_path, embed, 10))
    waits.start()
    while len(embed.noted()) < 2:  # the others, meanwhile
        time.sleep(0.01)
    assert [first for _, first in embed.noted()] == [4, 8] and waits.is_alive()
    os.kill(hangs.pid, signal.SIGKILL)
    waits.join()
    assert waits.exitcode == 0
    assert [first for _, first in embed.noted()] == [4, 8, 0]


# -- room ------------------------------------------------------------------------------------------


def test_the_teacher_asked_least_recently_makes_room(tmp_path: Path) -> None:
    size = PassFile.size(10, 3)
    for seed in (1, 2, 3):
        keeper = kept(tmp_path, Asked(), seed=seed)
        answers_of(keeper)
        os.utime(keeper.folder, (seed, seed))
    answers_of(kept(tmp_path, Asked(), seed=1))  # asked again
    last = kept(tmp_path, Asked(), 3 * size, seed=4)
    answers_of(last)
    left = {
        json.loads((p.parent / "key.json").read_text())["seed"]
        for p in cached_files(tmp_path / FOLDER)
    }
    assert left == {1, 3, 4}
    for name in ("epoch-2", "epoch-3"):
        answers_of(last, name)
    asked = Asked()
    full = kept(tmp_path, asked, 3 * size, seed=4)
    assert answers_of(full, "epoch-4").equal(whole())
    assert {p.name for p in last.folder.glob("epoch-*")} == {"epoch-1", "epoch-2", "epoch-3"}
    assert answers_of(full, "epoch-2").equal(whole()) and asked.sizes == [4, 4, 2]


def test_other_peoples_room_stays(tmp_path: Path, monkeypatch: Patch) -> None:
    usage = SimpleNamespace(free=RESERVE + PassFile.size(10, 3) - 1)
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda _: usage)
    assert answers_of(kept(tmp_path, Asked())).equal(whole())
    assert not cached_files(tmp_path / FOLDER)
    usage.free += 1
    answers_of(kept(tmp_path, Asked()))
    assert cached_files(tmp_path / FOLDER)


def test_without_a_place_they_are_computed(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    asked = Asked()
    keeper = kept(tmp_path, asked)
    for name in ("epoch-1", "epoch-2"):
        assert answers_of(keeper, name).equal(whole())
    assert asked.sizes == 2 * [4, 4, 2]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the teacher's outputs are not cached in ")


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: Patch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert answers_of(kept(tmp_path, Asked())).equal(whole())
    assert not cached_files(tmp_path / FOLDER)


def test_gc(tmp_path: Path) -> None:
    answers_of(kept(tmp_path, Asked()))
    assert clean(tmp_path) == (PassFile.size(10, 3), None)
    assert not (tmp_path / FOLDER).exists()
    assert clean(tmp_path) == (0, None)


def test_gc_says_what_it_could_not_remove(tmp_path: Path, monkeypatch: Patch) -> None:
    answers_of(keeper := kept(tmp_path, Asked()))
    answers_of(keeper, "epoch-2")
    real = os.unlink

    def unlink(name: str, **more: Any) -> None:
        if name == "epoch-1":
            raise PermissionError(13, "Permission denied", name)
        real(name, **more)

    monkeypatch.setattr(os, "unlink", unlink)
    freed, error = clean(tmp_path)
    assert freed == PassFile.size(10, 3) and isinstance(error, PermissionError)
    assert list(cached_files(tmp_path / FOLDER)) == [keeper.folder / "epoch-1"]


@pytest.mark.parametrize("level", ["cache", "teacher", "pass"])
def test_no_link_is_followed(tmp_path: Path, level: str, capsys: Output) -> None:
    """A link's target is neither counted, nor overwritten, nor deleted, by room or by gc."""
    mine = tmp_path / "mine"
    keeper = kept(tmp_path / "runs", Asked())
    names = {"cache": f"{keeper.folder.name}/epoch-1", "teacher": "epoch-1", "pass": ""}
    link = {"cache": keeper.folder.parent, "teacher": keeper.folder}.get(level)
    file, link = mine / names[level] if names[level] else mine, link or keeper.folder / "epoch-1"
    for path in (file, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine")
    link.symlink_to(mine)
    before = sorted(mine.rglob("*"))
    assert answers_of(keeper).equal(whole()), "computed"
    assert capsys.readouterr().err.startswith("warning: the teacher's outputs are not cached in ")
    answers_of(kept(tmp_path / "runs", Asked(), PassFile.size(10, 3), seed=1))
    freed, error = clean(tmp_path / "runs")
    assert file.read_bytes() == b"mine" and sorted(mine.rglob("*")) == before
    assert freed == (0 if level == "cache" else PassFile.size(10, 3))
    assert (error is not None) == (level == "cache") == link.is_symlink()


def test_its_place_on_the_disk_is_there_beforehand(tmp_path: Path, monkeypatch: Patch) -> None:
    """Also where the system has no call for it."""
    for name in ("linux", "macos"):
        if name == "macos":
            monkeypatch.delattr(os, "posix_fallocate")
        with PassFile(tmp_path / name, 1000, 700) as file:
            found = os.fstat(file.fd)
            assert found.st_size == PassFile.size(1000, 700) <= 512 * found.st_blocks
            assert file.read(0, 10) is None
