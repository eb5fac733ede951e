"""Whole cells on a few digits: the same bits every time, through kills, stops and broken files."""

import hashlib
import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, epochs_of, wait_until, weights
from torch import Tensor

import harness.train.cell
from harness.data import Dataset, ImageSet, load
from harness.data.batches import Images
from harness.data.small import DeviceImages
from harness.data.views import join_validation
from harness.execute import BUSY, DONE, FAILED, STOPPED, WRONG_INPUT
from harness.networks import build
from harness.plan import Cell, Plan, make_plan
from harness.results import summary
from harness.spec.file import override, parse
from harness.store import CellDir, Store
from harness.train.cell import run_cell
from harness.train.checkpoint import build_network, copy_state, load_model, to_bytes
from harness.train.evaluate import accuracy
from harness.train.loop import Best
from harness.train.methods.base import Classifier, Context, training_of
from harness.train.schedule import cosine_lr, multistep_lr

CPU = torch.device("cpu")
KINDS = ["supervised", "kd", "stage1", "stage2"]
VERSION = {"commit": "0" * 40, "dirty": False}
RAW: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"name": "digits", "validation": 100, "test": 1400},  # 297 train
    "network": {"network": "wide_resnet", "dropout": 0.2},
    "teacher": {"depth": 10, "width": 1},
    "students": [{"depth": 10, "width": 1}],
    "methods": ["plain", "kd", "refilled"],
    "optimizer": {"batch_size": 64},
    "training": {"epochs": 3},
    "stage1": {"epochs": 3, "select_every": 1},
    "stage2": {"epochs": 3, "lambd": 10},
}


@pytest.fixture(autouse=True, scope="module")
def settings_of_torch() -> Iterator[None]:
    """run_cell is made for a process of its own: it changes them."""
    yield
    torch.use_deterministic_algorithms(False)


@dataclass(frozen=True)
class Grid:
    """The tiny grid (one cell a kind) in a store."""

    plan: Plan
    store: Store

    def cell(self, kind: str) -> Cell:
        (cell,) = (c for c in self.plan.cells.values() if c.kind == kind)
        return cell

    def directory(self, kind: str) -> CellDir:
        return self.store.prepare(self.cell(kind))


def tiny(root: Path, *assignments: str) -> Grid:
    experiment = parse(override(RAW, list(assignments)))
    store = Store(root)
    store.create()
    return Grid(make_plan(experiment, load(experiment.dataset)), store)


def go(directory: CellDir, should_stop: Callable[[], bool] = lambda: False) -> int:
    return run_cell(directory, "cpu", 1, VERSION, should_stop)  # type: ignore[arg-type]


def train_all(grid: Grid) -> Grid:
    for cell in grid.plan.cells.values():
        assert go(grid.store.prepare(cell)) == DONE
    return grid


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """The tiny grid, trained once without interruption. Not to be changed."""
    return train_all(tiny(tmp_path_factory.mktemp("trained")))


def copy_without(trained: Grid, kind: str, root: Path) -> tuple[Grid, CellDir]:
    """A copy of the trained store in which `kind` is not trained."""
    shutil.copytree(trained.store.root, root / "runs")
    grid = Grid(trained.plan, Store(root / "runs"))
    shutil.rmtree(grid.directory(kind).path)
    return grid, grid.directory(kind)


class StopAfter:
    """Stops at the `n`-th batch."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def command(directory: CellDir) -> list[str]:
    return [
        *(sys.executable, "-m", "harness.train.cell", str(directory.path)),
        *("--device", "cpu", "--threads", "1"),
    ]


def start_process(directory: CellDir) -> "subprocess.Popen[str]":
    return subprocess.Popen(command(directory), cwd=ROOT, stderr=subprocess.PIPE, text=True)


def metrics(directory: CellDir) -> list[dict[str, Any]]:
    """The epoch lines, without what the clock says."""
    clock = ("time", "seconds", "images_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in directory.epochs()]


def same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def assert_same_result(a: CellDir, b: CellDir) -> None:
    assert same_state(weights(a), weights(b))
    assert metrics(a) == metrics(b)
    for key in ("results", "selected_epoch"):
        assert a.manifest[key] == b.manifest[key]


def failure(directory: CellDir) -> str:
    """The reason of the last event, a failure: one line."""
    last = directory.events()[-1]
    assert last["event"] == "failed"
    assert "\n" not in last["error"]
    assert not directory.is_done
    return last["error"]


# The same seed, the same bits


def test_same_seed_same_bits(trained: Grid, tmp_path: Path) -> None:
    again = train_all(tiny(tmp_path))
    for kind in KINDS:
        assert_same_result(trained.directory(kind), again.directory(kind))


def test_other_seed_other_weights(trained: Grid, tmp_path: Path) -> None:
    other = tiny(tmp_path, "seeds=[1]", "training.epochs=1").directory("supervised")
    assert go(other) == DONE
    assert not same_state(weights(other), weights(trained.directory("supervised")))


def test_dropout_differs_between_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeding each epoch must not give each the same dropout."""
    seeds = []
    real = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda s: seeds.append(s) or real(s))
    assert go(tiny(tmp_path).directory("supervised")) == DONE
    assert len(set(seeds)) == 4  # initial weights and three epochs


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_in_an_epoch_and_continued(trained: Grid, tmp_path: Path, kind: str) -> None:
    _, directory = copy_without(trained, kind, tmp_path)
    assert go(directory, StopAfter(7)) == STOPPED  # five batches an epoch
    assert directory.events()[-1]["event"] == "stopped"
    assert epochs_of(directory) == [1]
    assert go(directory, StopAfter(7)) == STOPPED
    assert go(directory) == DONE
    assert_same_result(directory, trained.directory(kind))
    assert directory.manifest["attempts"] == 3


@pytest.mark.parametrize("kind", ["supervised", "stage1"])
def test_stopped_between_checkpoint_and_journal(trained: Grid, tmp_path: Path, kind: str) -> None:
    _, directory = copy_without(trained, kind, tmp_path)
    assert go(directory, StopAfter(12)) == STOPPED
    journal = directory / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert json.loads(lines[-2])["epoch"] == 2
    journal.write_text("".join(lines[:-2]))
    assert go(directory) == DONE
    assert epochs_of(directory) == [1, 2, 3]
    assert_same_result(directory, trained.directory(kind))


def test_continued_after_a_torn_journal_line(trained: Grid, tmp_path: Path) -> None:
    """A power cut while the epoch's line was written: the next start must not append to it."""
    _, directory = copy_without(trained, "supervised", tmp_path)
    assert go(directory, StopAfter(12)) == STOPPED
    journal = directory / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-2]) + lines[-2][:40])
    assert go(directory) == DONE
    assert_same_result(directory, trained.directory("supervised"))
    assert [e["event"] for e in directory.events()].count("start") == 2


def test_trained_from_the_start_after_its_checkpoint_was_deleted(
    trained: Grid, tmp_path: Path
) -> None:
    """As the message about a broken checkpoint advises."""
    _, directory = copy_without(trained, "supervised", tmp_path)
    assert go(directory, StopAfter(12)) == STOPPED
    (directory / "checkpoint.pt").unlink()
    assert go(directory) == DONE
    assert epochs_of(directory) == [1, 2, 3]
    assert_same_result(directory, trained.directory("supervised"))


# Real processes

LONG = ("training.epochs=10",)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> CellDir:
    directory = tiny(tmp_path_factory.mktemp("long"), *LONG).directory("supervised")
    assert go(directory) == DONE
    return directory


def signalled_after_two_epochs(directory: CellDir, number: signal.Signals) -> int:
    """Exit status of a cell's process that got a signal in the middle."""
    process = start_process(directory)
    try:
        assert wait_until(lambda: len(directory.epochs()) >= 2 or process.poll() is not None, 60)
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert 2 <= len(directory.epochs()) < 10
    return process.returncode


def test_killed_and_continued(uninterrupted: CellDir, tmp_path: Path) -> None:
    directory = tiny(tmp_path, *LONG).directory("supervised")
    assert signalled_after_two_epochs(directory, signal.SIGKILL) == -signal.SIGKILL
    assert not directory.is_leased
    assert go(directory) == DONE
    assert epochs_of(directory) == list(range(1, 11))
    assert_same_result(directory, uninterrupted)
    assert directory.manifest["attempts"] == 2
    assert not list(directory.path.glob("*checkpoint*"))


def test_sigterm_stops_cleanly_and_a_process_continues(
    uninterrupted: CellDir, tmp_path: Path
) -> None:
    directory = tiny(tmp_path, *LONG).directory("supervised")
    assert signalled_after_two_epochs(directory, signal.SIGTERM) == STOPPED
    assert directory.events()[-1]["event"] == "stopped"

    # Goes on in a process that shows what it imported: a bare node has none of these.
    code = (
        "import sys, harness.train.cell\n"
        "status = harness.train.cell.main()\n"
        "print([m for m in ('mlflow', 'optuna', 'typer', 'analysis') if m in sys.modules])"
        "\nsys.exit(status)"
    )
    arguments = [sys.executable, "-c", code, *command(directory)[3:]]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (DONE, "[]")
    assert_same_result(directory, uninterrupted)


def test_command_without_a_cell(tmp_path: Path) -> None:
    process = start_process(CellDir(tmp_path))
    _, err = process.communicate(timeout=60)
    assert process.returncode == WRONG_INPUT
    assert err == f"{tmp_path}: no cell.json here; `harness run` prepares it\n"


def test_done_cell_is_not_trained_again(trained: Grid) -> None:
    directory = trained.directory("supervised")
    before = (directory / "journal.jsonl").read_bytes()
    assert go(directory, lambda: pytest.fail("trains")) == DONE
    assert (directory / "journal.jsonl").read_bytes() == before


def test_leased_cell_is_left_alone(
    trained: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, directory = copy_without(trained, "supervised", tmp_path)
    with directory.lease():
        assert go(directory) == BUSY
    assert directory.events() == []
    assert '"pid":' in capsys.readouterr().err


# What a cell leaves


def test_manifest(trained: Grid) -> None:
    for kind in KINDS:
        manifest = trained.directory(kind).manifest
        assert manifest["attempts"] == 1
        assert manifest["commits"] == ["0" * 40]
        assert manifest["dirty"] is False
        assert manifest["device"].startswith("cpu")
        assert manifest["threads"] == 1
        assert manifest["parameters"] == 78186
        data = manifest["data"]
        assert (data["train"], data["validation"], data["test"]) == (297, 100, 1400)
        assert not list(trained.directory(kind).path.glob("checkpoint*"))


def test_model_file_has_the_published_format(trained: Grid) -> None:
    for kind in KINDS:
        directory = trained.directory(kind)
        content = torch.load(directory / "model.pt", weights_only=True)
        assert content.keys() == {"state_dict", "validating_accuracy", "epoch"}
        assert content["epoch"] == directory.manifest["selected_epoch"]
        line = directory.epochs()[content["epoch"] - 1]
        name = "ncm_train_centers" if kind == "stage1" else "accuracy"
        assert content["validating_accuracy"] == line[f"validation/{name}"]


def test_journal_has_every_loss_and_accuracy(trained: Grid) -> None:
    losses = {
        "supervised": {"ce"},
        "kd": {"ce", "kd"},
        "stage1": {"relation"},
        "stage2": {"ce", "teaching"},
    }
    for kind, names in losses.items():
        for line in trained.directory(kind).epochs():
            values = {k.removeprefix("loss/"): v for k, v in line.items() if k.startswith("loss/")}
            total = values.pop("total")
            assert values.keys() == names
            assert total == pytest.approx(sum(values.values()))
            assert ("train/accuracy" in line) == (kind != "stage1")
            forms = ("accuracy",)
            if kind == "stage1":
                forms = ("ncm_train_centers", "ncm_eval_centers")
            for part in ("validation", "test"):
                assert all(0 <= line[f"{part}/{form}"] <= 1 for form in forms)


def test_learning_rates_follow_the_schedules(trained: Grid) -> None:
    def rates(kind: str) -> list[float]:
        return [line["lr"] for line in trained.directory(kind).epochs()]

    step = [multistep_lr(e, 0.1, (1, 2), 0.2) for e in range(3)]
    assert rates("supervised") == rates("kd") == rates("stage2") == step
    assert rates("stage1") == [cosine_lr(e, 3, 0.1, 0.1) for e in range(3)]


def test_model_file_has_the_weights_of_its_accuracy(trained: Grid) -> None:
    dataset = load(trained.plan.experiment.dataset)
    assert dataset.test is not None
    images = DeviceImages(dataset, dataset.test, CPU)
    for kind in ("supervised", "kd", "stage2"):
        directory = trained.directory(kind)
        network = trained.cell(kind).spec["network"]
        model = load_model(directory / "model.pt", network, 10)
        assert accuracy(model, images) == directory.manifest["results"]["accuracy"]["selected"]


# Teacher and stages


@pytest.mark.parametrize("kind", ["kd", "stage1", "stage2"])
def test_teacher_is_frozen_and_in_eval_mode(
    trained: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    teachers = []

    class Watched(Context):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.teacher.register_forward_pre_hook(lambda m, _: modes.add(m.training))
            self.teacher.bn.register_forward_pre_hook(lambda m, _: modes.add(m.training))
            teachers.append(self.teacher)

    modes: set[bool] = set()
    monkeypatch.setattr(harness.train.cell, "Context", Watched)
    _, directory = copy_without(trained, kind, tmp_path)
    assert go(directory) == DONE
    (teacher,) = teachers
    assert modes == {False}
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert same_state(copy_state(teacher), weights(trained.directory("supervised")))


def initial_state(trained: Grid, kind: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_network(trained.cell(kind).spec["network"], 10).state_dict()


def test_stage1_leaves_fc_alone(trained: Grid) -> None:
    before, after = initial_state(trained, "stage1"), weights(trained.directory("stage1"))
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert before.keys() - changed == {"fc.weight", "fc.bias"}


def test_stage2_trains_every_parameter(trained: Grid) -> None:
    before, after = weights(trained.directory("stage1")), weights(trained.directory("stage2"))
    assert not any(torch.equal(before[k], after[k]) for k in before)


def test_stage2_starts_from_the_selected_student_of_stage1(trained: Grid, tmp_path: Path) -> None:
    steps = ("stage2.lr=1e-9", "stage2.epochs=1", "optimizer.weight_decay=0")
    grid = tiny(tmp_path, *steps, "stage1.epochs=2", "training.epochs=1")
    train_all(grid)
    start, end = weights(grid.directory("stage1")), weights(grid.directory("stage2"))
    parameters = dict(build("wide_resnet", 10, depth=10, width=1).named_parameters())
    for name in parameters:
        torch.testing.assert_close(end[name], start[name], atol=1e-6, rtol=0)


def test_evaluation_changes_nothing(trained: Grid) -> None:
    dataset = load(trained.plan.experiment.dataset)
    images = DeviceImages(dataset, dataset.train, CPU)
    model = build("wide_resnet", 10, depth=10, width=1, dropout=0.5).train()
    before = copy_state(model)
    assert accuracy(model, images) == accuracy(model, images)
    assert model.training
    assert same_state(before, copy_state(model))


@pytest.mark.parametrize(
    ("kind", "plain"), [("supervised", {100, 1400}), ("stage2", {297, 100, 1400})]
)
def test_only_training_images_are_augmented(
    trained: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, plain: set[int]
) -> None:
    """Stage 2 looks at the plain training images, too: for the centres."""
    sizes: dict[str, set[int]] = {"augmented": set(), "plain": set()}
    for name in sizes:
        real = getattr(DeviceImages, name)

        def watched(self: DeviceImages, *arguments: Any, real=real, name=name) -> Any:
            sizes[name].add(len(self))
            return real(self, *arguments)

        monkeypatch.setattr(DeviceImages, name, watched)
    _, directory = copy_without(trained, kind, tmp_path)
    assert go(directory) == DONE
    assert sizes == {"augmented": {297}, "plain": plain}


# Selection


def test_best_keeps_the_later_of_equal_epochs() -> None:
    best = Best()
    updates = [best.update(v, e) for e, v in enumerate([0.3, None, 0.5, 0.5, 0.4], start=1)]
    assert updates == [True, False, True, True, False]
    assert (best.value, best.epoch) == (0.5, 4)
    assert Best().update(0.0, 1)


VALIDATION = (0.1, 0.9, 0.9, 0.2)
TEST = (0.8, 0.3, 0.4, 0.2)


@pytest.mark.parametrize(
    ("protocol", "epoch", "reported"),
    [
        ("protocol=strict", 3, 0.4),
        ("protocol=legacy", 1, 0.8),
        ("protocol.selection=last", 4, 0.2),
    ],
)
@pytest.mark.parametrize("stopped", [False, True])
def test_selection(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
    epoch: int,
    reported: float,
    stopped: bool,
) -> None:
    """With given accuracies. After a stop in epoch 4, what was selected before has to come back
    from the checkpoint."""
    states = {}

    def evaluate(self: Classifier, model: Any, epoch: int) -> dict[str, float]:
        states[epoch + 1] = copy_state(model)
        given = {"validation/accuracy": VALIDATION[epoch], "test/accuracy": TEST[epoch]}
        return {k: v for k, v in given.items() if k.split("/")[0] in self.context.evaluated}

    monkeypatch.setattr(Classifier, "evaluate", evaluate)
    grid = tiny(tmp_path, protocol, "training.epochs=4")
    directory = grid.directory("supervised")
    if stopped:
        assert go(directory, lambda: len(directory.epochs()) == 3) == STOPPED
    assert go(directory) == DONE
    assert directory.manifest["selected_epoch"] == epoch
    assert same_state(weights(directory), states[epoch])
    results = directory.manifest["results"]["accuracy"]
    assert results == {"last": 0.2, "selected": reported, "best_on_test": 0.8}
    assert results[grid.plan.experiment.protocol.reported] == reported


def test_stage1_selects_among_the_epochs_it_evaluates(trained: Grid, tmp_path: Path) -> None:
    grid = tiny(tmp_path, "stage1.epochs=5", "stage1.select_every=2")
    shutil.copytree(
        trained.directory("supervised").path, grid.directory("supervised").path, dirs_exist_ok=True
    )
    directory = grid.directory("stage1")
    assert go(directory) == DONE
    key = "validation/ncm_train_centers"
    values = {line["epoch"]: line[key] for line in directory.epochs() if key in line}
    assert list(values) == [2, 4, 5]
    best = max(values.values())
    assert directory.manifest["selected_epoch"] == max(e for e, v in values.items() if v == best)


def test_summary() -> None:
    lines = [
        {"epoch": 1, "loss/ce": 3.0},
        {"epoch": 2, "test/a": 0.9, "test/b": 0.1, "validation/a": 1.0},
        {"epoch": 3, "test/a": 0.5, "test/b": 0.3},
        {"epoch": 4, "loss/ce": 1.0},
    ]
    assert summary(lines, 3) == {
        "a": {"last": 0.5, "selected": 0.5, "best_on_test": 0.9},
        "b": {"last": 0.3, "selected": 0.3, "best_on_test": 0.3},
    }


# Protocols and variants


def test_legacy_trains_on_validation_images_too(tmp_path: Path) -> None:
    directory = tiny(tmp_path, "protocol=legacy", "training.epochs=1").directory("supervised")
    assert go(directory) == DONE
    data = directory.manifest["data"]
    assert (data["train"], data.get("validation"), data["test"]) == (397, None, 1400)
    assert not any("validation/accuracy" in line for line in directory.epochs())
    content = torch.load(directory / "model.pt", weights_only=True)
    assert content["validating_accuracy"] is None


def test_legacy_centers_come_from_augmented_images(trained: Grid) -> None:
    dataset = load(trained.plan.experiment.dataset)
    images = {"train": DeviceImages(dataset, dataset.train, CPU)}
    cell = trained.cell("stage2")
    teacher = load_model(
        trained.directory("supervised") / "model.pt", trained.cell("supervised").spec["network"], 10
    )

    def centers(center_images: str) -> Tensor:
        spec = {**cell.spec, "center_images": center_images}
        result = training_of("stage2", Context(spec, images, 10, teacher)).centers
        assert result is not None
        return result

    plain, legacy = centers("plain"), centers("augmented")
    assert torch.equal(plain, centers("plain"))
    assert torch.equal(legacy, centers("augmented"))
    assert (plain - legacy).abs().max() > 1e-4
    torch.testing.assert_close(plain, legacy, atol=0.2, rtol=0)


@pytest.mark.parametrize(
    "variant",
    [
        "stage2.centers=local",
        "stage2.weighted=true",
        "stage2.tau_on=teacher",
        "protocol.center_images=augmented",
    ],
)
def test_stage2_variants_train_to_other_weights(
    trained: Grid, tmp_path: Path, variant: str
) -> None:
    grid, _ = copy_without(trained, "stage2", tmp_path)
    other = tiny(grid.store.root, variant).directory("stage2")
    assert go(other) == DONE
    assert not same_state(weights(other), weights(trained.directory("stage2")))


@pytest.mark.parametrize("relation", ["triplet", "one-negative"])
def test_stage1_relations_train_to_other_weights(
    trained: Grid, tmp_path: Path, relation: str
) -> None:
    grid, _ = copy_without(trained, "stage1", tmp_path)
    other = tiny(grid.store.root, f"stage1.relation={relation}").directory("stage1")
    assert go(other) == DONE
    assert not same_state(weights(other), weights(trained.directory("stage1")))


def test_bfloat16(trained: Grid, tmp_path: Path) -> None:
    once = [f"{part}.epochs=1" for part in ("training", "stage1", "stage2")]
    grid = train_all(tiny(tmp_path, "optimizer.precision=bfloat16", *once))
    for kind in KINDS:
        state = weights(grid.directory(kind))
        assert all(v.dtype in (torch.float32, torch.int64) for v in state.values())
    loss, exact = (g.directory("supervised").epochs()[0]["loss/ce"] for g in (grid, trained))
    assert loss != exact
    assert loss == pytest.approx(exact, rel=0.02)


def without_test(grid: Grid) -> Grid:
    """As `harness tune` plans: the cells' processes have no test set that they could read."""
    dataset = load(grid.plan.experiment.dataset, with_test=False)
    return Grid(make_plan(grid.plan.experiment, dataset), grid.store)


def test_cells_train_without_a_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []

    def on_device(dataset: Dataset, part: ImageSet, device: torch.device, _: int) -> Images:
        assert dataset.test is None
        parts.append(len(part))
        return DeviceImages(dataset, part, device)

    once = [f"{part}.epochs=1" for part in ("training", "stage1", "stage2")]
    grid = without_test(tiny(tmp_path, *once))
    monkeypatch.setattr(harness.train.cell, "on_device", on_device)
    train_all(grid)
    assert parts == [297, 100] * 4
    for kind in KINDS:
        directory = grid.directory(kind)
        assert directory.manifest["results"] == {}
        assert "test" not in directory.manifest["data"]
        names = {name for line in directory.epochs() for name in line}
        assert not any(name.startswith("test/") for name in names)
        assert any(name.startswith("validation/") for name in names)


def test_selection_on_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Nothing would ever be selected: the untrained weights would be the result."""
    directory = without_test(tiny(tmp_path, "protocol.selection=test")).directory("supervised")
    assert go(directory) == WRONG_INPUT
    assert failure(directory).startswith("protocol.selection: ")


# Failures


def test_divergence_is_a_failure_without_nan(tmp_path: Path) -> None:
    directory = tiny(tmp_path, "training.lr=1e12").directory("supervised")
    assert go(directory) == FAILED
    assert "loss/ce is" in failure(directory)
    assert "lower the learning rate" in failure(directory)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in the journal")

    for line in (directory / "journal.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_other_data_are_refused(trained: Grid, tmp_path: Path) -> None:
    _, directory = copy_without(trained, "supervised", tmp_path)
    description = directory.description
    description["spec"]["data"]["digest"] = "0" * 64
    (directory / "cell.json").write_text(json.dumps(description))
    assert go(directory) == WRONG_INPUT
    assert failure(directory).startswith("dataset: digits on this machine is not the data")
    assert "plan again here with `harness run`" in failure(directory)


def test_moved_data_are_read_where_they_lie_now(trained: Grid, tmp_path: Path) -> None:
    """options.json may differ from the cell's own options, but the images must be the same."""
    grid, directory = copy_without(trained, "supervised", tmp_path)
    options = grid.plan.experiment.dataset.model_dump(mode="json")
    grid.store.prepare(grid.cell("supervised"), {"dataset": options | {"split_seed": 1}})
    assert go(directory) == WRONG_INPUT
    assert failure(directory).startswith("dataset: digits on this machine is not the data")
    grid.store.prepare(grid.cell("supervised"), {"dataset": options})
    assert go(directory) == DONE
    assert_same_result(directory, trained.directory("supervised"))


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [("stage1", "tau1", 0.01), ("stage1", "relation", "pair"), ("stage2", "tau_on", "student")],
)
def test_a_setting_that_the_method_refuses(
    trained: Grid, tmp_path: Path, kind: str, setting: str, value: Any
) -> None:
    """Wrong input, in one line that names it. An experiment file cannot say it, a cell.json can."""
    _, directory = copy_without(trained, kind, tmp_path)
    description = directory.description
    description["spec"][kind][setting] = value
    (directory / "cell.json").write_text(json.dumps(description))
    assert go(directory) == WRONG_INPUT
    assert failure(directory).startswith(f"{kind}.{setting}: ") and repr(value) in failure(
        directory
    )


def test_unknown_device_is_refused(tmp_path: Path) -> None:
    directory = tiny(tmp_path).directory("supervised")
    assert run_cell(directory, "gpu", 1, VERSION, lambda: False) == WRONG_INPUT  # type: ignore[arg-type]
    assert failure(directory).startswith("--device: unknown 'gpu'")


def test_missing_upstream_is_refused(tmp_path: Path) -> None:
    grid = tiny(tmp_path)
    directory = grid.directory("kd")
    assert go(directory) == WRONG_INPUT
    teacher = grid.directory("supervised").path.name
    assert failure(directory) == f"upstream: {teacher} is not finished; train it first"


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_broken_upstream_is_refused(trained: Grid, tmp_path: Path) -> None:
    grid, directory = copy_without(trained, "stage2", tmp_path)
    source = grid.directory("stage1")
    flip_a_bit(source / "model.pt")
    assert go(directory) == WRONG_INPUT
    assert str(source / "model.pt") in failure(directory)
    assert f"delete {source.path} to train this cell again" in failure(directory)


def test_broken_checkpoint_is_refused(trained: Grid, tmp_path: Path) -> None:
    _, directory = copy_without(trained, "supervised", tmp_path)
    assert go(directory, StopAfter(7)) == STOPPED
    flip_a_bit(directory / "checkpoint.pt")
    assert go(directory) == WRONG_INPUT
    assert str(directory / "checkpoint.pt") in failure(directory)
    assert "delete it to train this cell from its start" in failure(directory)
    assert epochs_of(directory) == [1]


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def hostile_files(marker: Path) -> dict[str, bytes]:
    plain = pickle.dumps(Hostile(marker), protocol=2)  # that of torch.save
    pickle.loads(plain)
    assert marker.exists(), "the attack itself must work"
    marker.unlink()
    return {"pickle": plain, "zip": to_bytes({"state_dict": Hostile(marker)})}


@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_hostile_checkpoint_runs_nothing(trained: Grid, tmp_path: Path, form: str) -> None:
    _, directory = copy_without(trained, "supervised", tmp_path)
    directory.write_checkpoint(hostile_files(tmp_path / "marker")[form])
    assert go(directory) == WRONG_INPUT
    assert failure(directory).startswith(f"checkpoint: {directory / 'checkpoint.pt'} cannot be")
    assert not (tmp_path / "marker").exists()


def replace_model(directory: CellDir, data: bytes) -> None:
    """With the manifest's digest, as an attacker would."""
    (directory / "model.pt").write_bytes(data)
    manifest = {**directory.manifest, "model_sha256": hashlib.sha256(data).hexdigest()}
    directory.finish(manifest)


@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_hostile_teacher_runs_nothing(trained: Grid, tmp_path: Path, form: str) -> None:
    grid, directory = copy_without(trained, "kd", tmp_path)
    replace_model(grid.directory("supervised"), hostile_files(tmp_path / "marker")[form])
    assert go(directory) == WRONG_INPUT
    assert "cannot be read" in failure(directory)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"fc.weight": torch.zeros(3, 3)}},
        {"weights": {}},
        {"state_dict": [1, 2]},
        [1, 2],
    ],
    ids=["other shapes", "no state_dict", "list inside", "list"],
)
def test_model_that_does_not_fit_is_refused(trained: Grid, tmp_path: Path, content: Any) -> None:
    grid, directory = copy_without(trained, "kd", tmp_path)
    replace_model(grid.directory("supervised"), to_bytes(content))
    assert go(directory) == WRONG_INPUT
    assert "model.pt does not fit the network" in failure(directory)


def test_any_other_error_is_one_line_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("for a test")

    monkeypatch.setattr(harness.train.cell, "load", broken)
    directory = tiny(tmp_path).directory("supervised")
    assert go(directory) == FAILED
    assert failure(directory) == "ZeroDivisionError: for a test"
    assert "Traceback" in capsys.readouterr().err


def test_joined_data_are_those_of_the_plan() -> None:
    """The digest is that of the data before the parts are joined: one plan, one digest."""
    experiment = parse(override(RAW, ["protocol=legacy"]))
    dataset = load(experiment.dataset)
    cell = next(iter(make_plan(experiment, dataset).cells.values()))
    assert cell.spec["data"]["digest"] == dataset.digest != join_validation(dataset).digest
