"""The files that a cell leaves, and what its teacher and stages do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import weights
from torch import Tensor
from training import CPU, KINDS, Grid, changed, copy_without, go, same_state, tiny, train_all

from harness.data import load
from harness.data.batches import Images
from harness.data.small import DeviceImages
from harness.data.views import View
from harness.networks import build
from harness.plan import whole_data
from harness.train.checkpoint import copy_state, load_model
from harness.train.evaluate import accuracy
from harness.train.exit_status import DONE
from harness.train.methods.base import Context
from harness.train.schedule import cosine_lr, multistep_lr

# What a cell leaves


def test_manifest(trained: Grid) -> None:
    for kind in KINDS:
        manifest = trained.directory(kind).manifest
        assert (manifest.attempts, manifest.commits, manifest.dirty) == (1, ["0" * 40], False)
        assert manifest.device.startswith("cpu") and manifest.threads == 1
        assert manifest.parameters == 78186
        data = manifest.data
        assert (data["train"], data["validation"], data["test"]) == (297, 100, 1400)
        assert not list(trained.directory(kind).path.glob("checkpoint*"))


def test_model_file_has_the_published_format(trained: Grid) -> None:
    for kind in KINDS:
        directory = trained.directory(kind)
        content = torch.load(directory / "model.pt", weights_only=True)
        published = {"state_dict", "validating_accuracy", "epoch"}
        assert content.keys() == published | {"about"}  # test_trained has the rest
        assert content["epoch"] == directory.manifest.selected_epoch
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
    images = DeviceImages(dataset, dataset.test, CPU)
    for kind in ("supervised", "kd", "stage2"):
        directory = trained.directory(kind)
        network = trained.cell(kind).config.network
        model = load_model(directory / "model.pt", network, 10)
        assert accuracy(model, images) == directory.manifest.results["accuracy"]["selected"]


# Teacher and stages


def initial_state(trained: Grid, kind: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return trained.cell(kind).config.network.build(10).state_dict()


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


def test_a_cell_sees_its_view(trained: Grid, tmp_path: Path) -> None:
    """Its data and its classes are the cell's own; the teacher keeps those that it has learned."""
    cell, (grid, _) = trained.cell("stage1"), copy_without(trained, "stage1", tmp_path)
    classes, shots = [7, 1, 3, 0], 5
    view = {"classes": classes, "shots": shots, "shots_seed": 0}
    seeing = changed(cell, data={"view": view})
    assert seeing.fingerprint != cell.fingerprint
    directory = grid.store.prepare(seeing)
    assert go(directory) == DONE
    assert weights(directory)["fc.weight"].shape[0] == len(classes)
    sizes = directory.manifest.data
    assert sizes["train"] == len(classes) * shots
    labels = load(trained.plan.experiment.dataset).test.labels
    assert sizes["test"] == sum((labels == c).sum() for c in classes)


def test_data_of_a_cell_name_its_view_only_if_it_has_one(trained: Grid) -> None:
    options = trained.plan.experiment.dataset
    whole = whole_data(options, load(options))
    assert whole == trained.cell("stage1").config.data
    written = whole.as_json()
    assert "view" not in written
    assert whole.seen_through(View()).as_json() == written
    for view in ({"classes": [2, 1]}, {"shots": 3, "shots_seed": 2}):
        assert whole.seen_through(View(**view)).as_json() == {**written, "view": view}


def test_maps_come_when_they_are_asked_for(trained: Grid) -> None:
    """The one door to the teacher."""
    dataset = load(trained.plan.experiment.dataset)
    images: dict[str, Images] = {"train": DeviceImages(dataset, dataset.train, CPU)}
    teacher, batch = build("wide_resnet", 10, depth=10, width=2), next(images["train"].plain(16))
    context = Context(trained.cell("kd").config, images, 10, teacher, teacher)
    answer, more = context.teacher_output(batch), context.teacher_output(batch, with_maps=True)
    assert answer.maps == () and [m.shape[1] for m in more.maps] == [32, 64, 128]
    with torch.no_grad():
        embedding, logits = teacher.eval().embed_and_classify(batch.x)
    for found in (answer, more):
        assert torch.equal(found.embedding, embedding) and torch.equal(found.logits, logits)
        assert not any(t.requires_grad for t in (found.embedding, found.logits, *found.maps))
