"""How often a small grid does what costs time, counted: forward passes over whole parts, files
opened, waits for the disk. What is paid twice shows here on any machine."""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from training import KINDS, go, tiny

from harness.data.batches import Images
from harness.networks.base import Network
from harness.store.manifest import CellOptions
from harness.train import evaluate, loop
from harness.train.exit_status import DONE

EPOCHS = 3


@dataclass
class Work:
    """passes: sizes of the parts that were looked at un-augmented; opened: names of files in the
    store; syncs: waits for the disk."""

    passes: list[int] = field(default_factory=list)
    opened: Counter[str] = field(default_factory=Counter)
    syncs: int = 0


watching: list[tuple[Path, Work]] = []
opened_last: list[Path] = []


def note(event: str, arguments: tuple[Any, ...]) -> None:
    if watching and event == "open" and isinstance(arguments[0], str | os.PathLike):
        root, work = watching[-1]
        path = Path(arguments[0])
        # Beneath Python's open there may be the system's, which has no mode: one opening.
        is_beneath = arguments[1] is None and opened_last == [path]
        opened_last[:] = [] if is_beneath else [path]
        if root in path.parents and not path.is_dir() and not is_beneath:
            work.opened[re.sub(r"^\.(.+)\.[0-9a-f]+\.tmp$", r"\1", path.name)] += 1


sys.addaudithook(note)  # for good: it looks at nothing unless `watching`


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    """The work of each kind of cell, trained one after the other in one process."""
    grid = tiny(tmp_path_factory.mktemp("work"), f"training.epochs={EPOCHS}")
    options = CellOptions.on_this_machine(grid.plan.experiment, teacher_cache=10**9)
    works: dict[str, Work] = {}
    sync = os.fsync

    def looked_at(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(model: Network, images: Images, precision: str = "float32") -> Any:
            watching[-1][1].passes.append(len(images))
            return real(model, images, precision)

        return look

    def wait(file: int) -> None:
        if watching:
            watching[-1][1].syncs += 1
        sync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", 3600.0)
        patch.setattr(loop, "CHECKPOINT_SHARE", 10**9)
        for name in ("embed_and_classify", "logits_of"):
            look = looked_at(getattr(evaluate, name))
            for module in ("harness.train.evaluate", "harness.train.methods.base"):
                patch.setattr(f"{module}.{name}", look)
        patch.setattr(os, "fsync", wait)
        for kind in KINDS:
            directory = grid.store.prepare(grid.cell(kind), options)
            works[kind] = Work()
            watching.append((grid.store.root, works[kind]))
            assert go(directory) == DONE
            watching.pop()
    return works


TRAIN, VALIDATION, TEST = 297, 100, 1400


@pytest.mark.parametrize("kind", ["supervised", "kd", "stage2"])
def test_each_epoch_is_measured_in_one_pass_a_part(done: dict[str, Work], kind: str) -> None:
    """The last one's predictions, which are written beside the weights, need none."""
    assert done[kind].passes == EPOCHS * [VALIDATION, TEST]


def test_both_forms_of_ncm_come_from_one_pass(done: dict[str, Work]) -> None:
    assert done["stage1"].passes == EPOCHS * [TRAIN, VALIDATION, TEST]


def test_files_are_opened_so_often(done: dict[str, Work]) -> None:
    """With a checkpoint after the first and the last epoch. A cell's own files, and of each cell
    that it starts from model.pt twice: its digest, its weights."""
    own = {
        "journal.jsonl": 8,
        "checkpoint.pt": 4,
        "checkpoint.sha256": 4,
        "lease": 1,
        "pause": 1,
        "model.pt": 1,
        "predictions.npz": 1,
    }
    kept = {f"epoch-{n + 1}": 1 for n in range(EPOCHS)}
    source = {"model.pt": 2}
    for kind, sources in (("supervised", 0), ("kd", 1), ("stage2", 2)):
        opened = dict(done[kind].opened)
        for name, times in own.items():
            assert opened[name] == times + sources * source.get(name, 0), (kind, name)
        for name, times in kept.items():
            assert opened.get(name, 0) == (times if sources else 0), (kind, name)
        assert sum(opened.values()) <= 50
    assert {kind: work.syncs for kind, work in done.items()} == {
        "supervised": 18,
        "kd": 18,
        "stage2": 18,
        "stage1": 18,
    }
