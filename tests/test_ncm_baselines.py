"""The floors of an NCM accuracy: that of the pixels, and that of an untrained network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import weights
from training import CPU, Grid, go, tiny, train_all

from harness.common.errors import UserError
from harness.data import Dataset, ImageSet, ResizedCrop, load
from harness.data.batches import epoch_generator
from harness.data.small import DeviceImages
from harness.data.views import apply
from harness.networks import build
from harness.networks.pixels import PixelsOptions
from harness.run.devices import DeviceFacts
from harness.run.estimate import estimate
from harness.run.speeds import NetworkSpeed, Speeds
from harness.store import Store
from harness.track.run_fields import tags_of
from harness.train.checkpoint import load_model
from harness.train.exit_status import DONE

BASELINES = "methods=[pixels_ncm, untrained_ncm]"
TWO = "students=[{depth: 10, width: 1}, {depth: 10, width: 2}]"
FEW = "tasks={classes: 4, overlap: [1], shots: [3]}"


def pixels_of(dataset: Dataset, part: ImageSet) -> np.ndarray:
    """(N, 3 H W), normalised, channel after channel."""
    x = (part.pixels() / 255.0 - np.array(dataset.mean)) / np.array(dataset.std)
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


def nearest_means(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unit centres (C, D), and the class of each of the test ones."""
    sums = np.stack([train[labels == c].sum(0) for c in range(labels.max() + 1)])
    centers = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return centers, (test @ centers.T).argmax(1)


def seen(grid: Grid, kind: str) -> Dataset:
    """Return the part of the data that a cell sees."""
    return apply(load(grid.plan.experiment.dataset), grid.cell(kind).config.data.view)


@pytest.mark.parametrize("task", ["tasks=null", FEW])
def test_pixels_by_an_independent_computation(tmp_path: Path, task: str) -> None:
    grid = train_all(tiny(tmp_path, BASELINES, TWO, task))
    directory, dataset = grid.directory("pixels_ncm"), seen(grid, "pixels_ncm")
    parts = [pixels_of(dataset, part) for part in (dataset.train, dataset.test)]
    centers, predicted = nearest_means(parts[0], dataset.train.labels, parts[1])
    right = float((predicted == dataset.test.labels).mean())
    result = directory.manifest.results["accuracy"]
    assert result["last"] == result["selected"] == pytest.approx(right, abs=1.5 / len(predicted))
    np.testing.assert_allclose(weights(directory)["fc.weight"], centers, rtol=0, atol=1e-5)
    assert 0.6 < right < 0.99
    kinds = [cell.kind for cell in grid.plan.cells.values()]
    assert kinds.count("pixels_ncm") == 1, "the same for both students"
    assert kinds.count("untrained_ncm") == 2 and len(kinds) == 3, "nobody asks a teacher"
    names = {entry.name for entry in grid.plan.entries if entry.method == "pixels_ncm"}
    assert all("wrn" not in name for name in names)


def test_untrained_by_an_independent_computation(tmp_path: Path) -> None:
    """The initial weights of the plain student, and statistics of the first epoch's batches."""
    grid = train_all(tiny(tmp_path, BASELINES, FEW))
    directory, dataset = grid.directory("untrained_ncm"), seen(grid, "untrained_ncm")
    state = weights(directory)
    torch.manual_seed(0)
    initial = build("wide_resnet", 4, depth=10, width=1, dropout=0.2)
    own = {n: p for n, p in initial.named_parameters() if not n.startswith("fc.")}
    assert all(torch.equal(state[name], value) for name, value in own.items())

    images = DeviceImages(dataset, dataset.train, CPU)
    (batch,) = images.augmented(64, epoch_generator(0, 0))  # 12 images
    with torch.no_grad():
        first = initial.get_submodule("conv1")(batch.x).double()
    norm = next(n for n in state if n.endswith("running_mean")).removesuffix(".running_mean")
    torch.testing.assert_close(
        state[f"{norm}.running_mean"].double(), first.mean((0, 2, 3)), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        state[f"{norm}.running_var"].double(), first.var((0, 2, 3)), atol=1e-5, rtol=1e-4
    )

    model = load_model(directory / "model.pt", grid.cell("untrained_ncm").config.network).eval()
    with torch.no_grad():
        train, test = (
            torch.cat([model.embed(b.x) for b in DeviceImages(dataset, p, CPU).plain()]).numpy()
            for p in (dataset.train, dataset.test)
        )
    centers, predicted = nearest_means(train, dataset.train.labels, test)
    right = float((predicted == dataset.test.labels).mean())
    result = directory.manifest.results["accuracy"]
    assert result["last"] == pytest.approx(right, abs=1.5 / len(predicted))
    np.testing.assert_allclose(state["fc.weight"], centers, rtol=0, atol=1e-5)
    assert not any("loss" in name for name in directory.epochs()[0]), "no probabilities"


def test_what_makes_their_cells_other_ones(tmp_path: Path) -> None:
    """Pixels know nothing of weights; a network does."""
    strict, own = (
        tiny(tmp_path, BASELINES, f"protocol.initial_weights={value}")
        for value in ("shared", "own")
    )
    for kind, alike in (("pixels_ncm", True), ("untrained_ncm", False)):
        assert (strict.cell(kind).fingerprint == own.cell(kind).fingerprint) == alike
    assert strict.cell("pixels_ncm").config.network == PixelsOptions(height=8, width=8)
    resized = replace(load(strict.plan.experiment.dataset), augmentation=ResizedCrop(24, False))
    assert resized.image_size == (24, 24)


def test_whose_network_mlflow_shows(tmp_path: Path) -> None:
    grid = tiny(tmp_path, BASELINES.replace("]", ", teacher_ncm]"), TWO)
    shown = {(e.stage, e.student): tags_of(grid.plan, e)["student"] for e in grid.plan.entries}
    for student in ("wrn-10-1", "wrn-10-2"):
        assert shown["pixels_ncm", student] == "pixels"
        assert shown["untrained_ncm", student] == student
        assert shown["teacher_ncm", student] == "wrn-10-1"


def test_no_experiment_names_pixels_as_a_network(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^students\.0\.network: unknown 'pixels'"):
        tiny(tmp_path, "students=[{network: pixels, height: 8, width: 8}]")


def test_an_estimate_counts_them(tmp_path: Path) -> None:
    grid = tiny(tmp_path, "methods=[pixels_ncm]")
    dataset = load(grid.plan.experiment.dataset)
    networks = {grid.plan.experiment.teacher: NetworkSpeed(1.0, 5, 5)}
    speeds = Speeds(networks, {}, 1.0, DeviceFacts("cpu", "cpu"))
    found = estimate(grid.plan, Store(tmp_path), dataset, speeds)
    assert [*found.seconds.values()] == [0.0]
    assert found.finished_bytes == 4 * 10 * (3 * 8 * 8 + 1)


def test_a_class_without_images_cannot_be_meant(tmp_path: Path) -> None:
    """An incremental task may have no images of the old classes."""
    task = "tasks={classes: 3, new: 2, shots: [0]}"
    grid = tiny(tmp_path, BASELINES, task)
    for kind in ("pixels_ncm", "untrained_ncm"):
        directory = grid.directory(kind)
        assert go(directory) == DONE
        bias = weights(directory)["fc.bias"]
        assert (bias[:3] < -1e30).all() and not bias[3:].any()
        assert directory.manifest.results["accuracy_old"]["last"] == 0
