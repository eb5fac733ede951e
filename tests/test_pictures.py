"""The pictures of docs/method.md, drawn from a few made-up embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import wrong
from scipy.spatial.distance import pdist

from harness.distill.stage1 import stage1_loss
from website import embeddings, pictures
from website.embeddings import MARGIN, TAU1, Measured


@pytest.fixture(scope="module")
def made_up() -> Measured:
    """Return twelve images of three classes, whose embeddings lie around their classes."""
    random = np.random.default_rng(0)
    labels = np.arange(12) % 3
    around = np.eye(3, 5, dtype=np.float32)[labels]
    noisy = [around + random.random((12, 5), np.float32) * noise for noise in (0.1, 1, 0.2)]
    return Measured(random.integers(0, 256, (12, 8, 8), np.uint8), labels, *noisy)


def test_a_tuple_is_what_the_loss_compares(made_up: Measured) -> None:
    """Its divergence, alone in a batch of its own images, is the loss of that batch's pair."""
    found = embeddings.mined(made_up, made_up.before, 2)
    d = found.distances
    gaps = d[found.negatives] - d[found.positive]
    assert made_up.labels[found.anchor] == made_up.labels[found.positive]
    assert len(gaps) and ((gaps > 0) & (gaps <= MARGIN)).all() and (np.diff(gaps) >= 0).all()
    divergence = (found.teacher * np.log(found.teacher / found.student)).sum()
    members = torch.tensor([found.anchor, found.positive, *found.negatives])
    loss, n = stage1_loss(
        torch.from_numpy(made_up.before)[members],
        torch.from_numpy(made_up.teacher)[members],
        torch.from_numpy(made_up.labels)[members],
        relation="tuple",
        tau1=TAU1,
        margin=MARGIN,
        negatives="all",
        weight=1.0,
        # The pair alone, not also the one in the other direction, nor one of two negatives.
        pairs=(torch.tensor([0]), torch.tensor([1])),
    )
    assert n == 1 and loss.item() == pytest.approx(divergence, rel=1e-4)


def test_the_surest_soft_target_comes_first(made_up: Measured) -> None:
    targets = embeddings.soft_targets(made_up)
    assert np.allclose(targets.sum(1), 1)
    best, _, worst = (targets[i].max() for i in pictures.unsure(made_up))
    assert best == targets.max(1).max() and worst == targets.max(1).min()


def test_pictures_are_the_same_each_time(made_up: Measured, tmp_path: Path) -> None:
    figures = pictures.draw(made_up)
    pictures.save(figures, tmp_path / "first")
    pictures.save({"batch": pictures.draw_relations_of_a_batch(made_up)}, tmp_path / "second")
    names = {p.name for p in (tmp_path / "first").iterdir()}
    assert names == {"batch.png", "distances.png", "centers.png"}
    first, second = (tmp_path / name / "batch.png" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_the_correlation_is_that_of_all_pairs_of_images(made_up: Measured) -> None:
    parts = (made_up.teacher, made_up.before)
    pairs = [pdist(e / np.linalg.norm(e, axis=1, keepdims=True)) for e in parts]
    title = pictures.draw_distances(made_up).axes[1].get_title()
    assert title.endswith(f"before stage 1\ncorrelation {np.corrcoef(*pairs)[0, 1]:.2f}")


def test_the_kept_embeddings_are_read() -> None:
    kept = pictures.read_kept(pictures.KEPT)
    assert len({len(value) for value in vars(kept).values()}) == 1
    assert kept.teacher.dtype == np.float32 and kept.pixels.dtype == np.uint8


def test_what_is_not_trained_is_named(here: Path) -> None:
    wrong(lambda: embeddings.measure(here / "runs"), "--store: ", "harness run experiments/")
