"""Draw the pictures of docs/method.md from the embeddings that are kept beside them.

`python -m website.pictures` draws them; with `--store DIR`, it measures the embeddings first.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Patch

from harness.common.errors import UserError
from website.embeddings import (
    MARGIN,
    TAU2,
    Floats,
    Measured,
    centers,
    distances,
    measure,
    mined,
    soft_targets,
)

FOLDER = Path("docs/figures/method")
KEPT = FOLDER / "embeddings.npz"
SETTINGS: Any = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False}
WIDTH = 7.2  # inches
# Readable in print and by readers who see no red or green (Okabe and Ito).
BLUE, ORANGE, GREY, LIGHT = "#0072B2", "#E69F00", "#767676", "#C8C8C8"
NEGATIVES = 6  # of the tuple that is shown
FARTHEST = 4  # images beyond the margin that are shown
LEVELS = 4  # one above the other, where images are near each other
SHOWN = 60  # images of a batch


@contextlib.contextmanager
def _defaults() -> Iterator[None]:
    """Draw with matplotlib's defaults and ours, whatever the process has set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


@_defaults()
def draw_relations_of_a_batch(batch: Measured) -> Figure:
    """Draw an anchor's distances to its batch, and the tuple that stage 1 matches.

    Args:
        batch: The images of one batch.
    """
    embedding = batch.before
    found = mined(batch, embedding, NEGATIVES)
    figure = _figure(5)
    grid = figure.add_gridspec(2, 2, height_ratios=[1.3, 1], width_ratios=[6, 7])
    line = figure.add_subplot(grid[0, :])
    members = [found.positive, *found.negatives]

    positive = found.distances[found.positive]
    line.axvspan(positive, positive + MARGIN, color=ORANGE, alpha=0.2, linewidth=0)
    others = [i for i in np.argsort(found.distances, kind="stable") if i not in members]
    others = [i for i in others if batch.labels[i] != batch.labels[found.anchor]]
    shown = [(found.anchor, "k"), (found.positive, BLUE)]
    shown += [(i, ORANGE) for i in found.negatives] + [(i, GREY) for i in others[-FARTHEST:]]
    _place(line, batch, found.distances, shown)
    line.set(xlabel="student's distance D from the anchor", yticks=[], ylim=(0, LEVELS))
    line.set_title("An anchor and images of its batch, before stage 1\n", loc="left")
    names = ("anchor", "positive", f"semi-hard negative: at most {MARGIN} farther", "not used")
    styles = zip(("k", BLUE, ORANGE, GREY), names, strict=True)
    line.legend(
        handles=[Patch(color=colour, label=name) for colour, name in styles],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        frameon=False,
        borderaxespad=0,
    )
    line.spines["left"].set_visible(False)
    line.spines["right"].set_visible(False)

    of_triplets = [q[0] / (q[0] + q[1:]) for q in (found.teacher, found.student)]
    triplets, tuples = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    _draw_probabilities(triplets, batch, members[1:], *of_triplets)
    triplets.set_title("Triplets: p, for each negative", loc="left")
    _draw_probabilities(tuples, batch, members, found.teacher, found.student)
    tuples.set_title("Tuple: q, of the positive and all negatives", loc="left")
    triplets.legend(loc="upper left", ncols=2, frameon=False, borderaxespad=0)
    return figure


def _draw_probabilities(
    axes: Axes, batch: Measured, images: list[int], teacher: Floats, student: Floats
) -> None:
    x = np.arange(len(images))
    axes.plot(x, teacher, "o", color=BLUE, label="teacher")
    axes.plot(x, student, "s", color=ORANGE, label="student")
    axes.vlines(x, np.minimum(teacher, student), np.maximum(teacher, student), color=LIGHT)
    low, high = min(teacher.min(), student.min()), max(teacher.max(), student.max())
    axes.set(ylim=(low - 0.2 * (high - low), high + 0.4 * (high - low)), xticks=x)
    axes.set(xlim=(-0.6, len(images) - 0.4))
    axes.set_xticklabels([])
    for place, image in enumerate(images):
        _thumbnail(axes, batch.pixels[image], (place, 0), "k", ("data", "axes fraction"), -15)
    axes.spines["right"].set_visible(False)


@_defaults()
def draw_distances(measured: Measured) -> Figure:
    """Draw the distances between images, of the teacher and of the student before and after.

    Args:
        measured: Some images; they are sorted by class.
    """
    order = np.argsort(measured.labels, kind="stable")
    labels = measured.labels[order]
    names = ("teacher", "student before stage 1", "student after stage 1")
    parts = [distances(e[order]) for e in (measured.teacher, measured.before, measured.after)]
    figure = _figure(2.9)
    ends = np.flatnonzero(np.diff(labels)) + 0.5
    middles = [np.flatnonzero(labels == c).mean() for c in np.unique(labels)]
    all_axes = figure.subplots(1, 3)
    for axes, name, matrix in zip(all_axes, names, parts, strict=True):
        picture = axes.imshow(matrix, vmin=0, vmax=2**0.5, cmap="cividis")
        for end in ends:
            axes.axhline(end, color="w", linewidth=0.4)
            axes.axvline(end, color="w", linewidth=0.4)
        axes.set(xticks=middles, yticks=middles)
        axes.set_xticklabels([str(c) for c in np.unique(labels)])
        axes.set_yticklabels([str(c) for c in np.unique(labels)])
        axes.tick_params(length=0, labelsize=7)
        like = "" if matrix is parts[0] else f"\ncorrelation {_correlation(parts[0], matrix):.2f}"
        axes.set_title(name + (like or "\n"))
    figure.colorbar(picture, ax=list(all_axes), label="distance D", shrink=0.8)
    return figure


@_defaults()
def draw_centers(measured: Measured, images: tuple[int, int, int]) -> Figure:
    """Draw the teacher's class centres among its embeddings, and the soft targets of three images.

    Args:
        measured: All images.
        images: Which three.
    """
    found, targets = centers(measured), soft_targets(measured)
    unit = measured.teacher / np.maximum(np.linalg.norm(measured.teacher, axis=1), 1e-12)[:, None]
    middle = unit.mean(0)
    axes_of = np.linalg.svd(unit - middle, full_matrices=False)[2][:2]
    axes_of *= np.sign(axes_of[np.arange(2), np.abs(axes_of).argmax(1)])[:, None]
    points, stars = (unit - middle) @ axes_of.T, (found - middle) @ axes_of.T

    figure = _figure(3.6)
    grid = figure.add_gridspec(3, 2, width_ratios=[1.25, 1])
    plane = figure.add_subplot(grid[:, 0])
    colours = matplotlib.colormaps["tab10"]
    plane.scatter(
        points[:, 0], points[:, 1], c=measured.labels, cmap=colours, vmin=0, vmax=9, s=8, alpha=0.6
    )
    for c, star in enumerate(stars):
        style = {"boxstyle": "circle,pad=0.25", "facecolor": colours(c), "edgecolor": "w"}
        plane.text(
            star[0], star[1], str(c), ha="center", va="center", color="w", weight="bold", bbox=style
        )
    plane.set(xticks=[], yticks=[])
    plane.set_title("Teacher's embeddings, and the centre of each class", loc="left")
    for row, i in enumerate(images):
        axes = figure.add_subplot(grid[row, 1])
        axes.bar(range(len(found)), targets[i], color=[colours(c) for c in range(len(found))])
        axes.set(ylim=(0, 1), xticks=range(len(found)), yticks=[0, 1])
        axes.tick_params(labelsize=7)
        axes.spines["right"].set_visible(False)
        _thumbnail(axes, measured.pixels[i], (0.0, 0.5), "k", "axes fraction", 0, -34)
        if row == 0:
            axes.set_title(f"Soft targets, tau2 = {TAU2:g}", loc="left")
    return figure


def unsure(measured: Measured) -> tuple[int, int, int]:
    """Return the images of the most certain soft targets, of the tenth percentile and the least."""
    order = np.argsort(soft_targets(measured).max(1), kind="stable")
    return int(order[-1]), int(order[len(order) // 10]), int(order[0])


def draw(measured: Measured) -> dict[str, Figure]:
    """Return the pictures by the names of their files.

    Args:
        measured: The images and embeddings.
    """
    return {
        "batch": draw_relations_of_a_batch(measured.first(SHOWN)),
        "distances": draw_distances(measured.first(SHOWN)),
        "centers": draw_centers(measured, unsure(measured)),
    }


def save(figures: dict[str, Figure], folder: Path) -> None:
    """Write each picture as a PNG, without anything that differs from one call to the next.

    Args:
        figures: The pictures by name.
        folder: Where they go; created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        FigureCanvasAgg(figure)
        with _defaults():
            figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained")


def _correlation(a: Floats, b: Floats) -> float:
    """Return the correlation of two matrices of distances, each pair of images once."""
    upper = np.triu_indices(len(a), 1)
    return float(np.corrcoef(a[upper], b[upper])[0, 1])


def _place(axes: Axes, batch: Measured, distance: Floats, shown: list[tuple[int, str]]) -> None:
    """Put small images at their distances, on several levels so that none hides another."""
    in_order = sorted(shown, key=lambda pair: distance[pair[0]])
    for n, (i, colour) in enumerate(in_order):
        height = 0.5 + n % LEVELS
        axes.plot([distance[i]] * 2, [0, height], color=colour, linewidth=0.8, zorder=0)
        _thumbnail(axes, batch.pixels[i], (float(distance[i]), height), colour, "data")


def _thumbnail(
    axes: Axes,
    pixels: Any,
    place: tuple[float, float],
    colour: str,
    coordinates: Any,
    down: float = 0,
    right: float = 0,
) -> None:
    """Put a small image on the axes, moved by some points."""
    image = OffsetImage(255.0 - pixels, cmap="gray", zoom=24 / pixels.shape[0])
    image.image.set_clim(0, 255)
    box = AnnotationBbox(
        image,
        place,
        xycoords=coordinates,
        xybox=(right, down),
        boxcoords="offset points",
        pad=0.1,
        bboxprops={"edgecolor": colour, "linewidth": 1.5},
        annotation_clip=False,
    )
    axes.add_artist(box)


def main() -> None:
    """Measure the embeddings if a store is named, then draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="measure the embeddings with its networks first")
    store = parser.parse_args().store
    if store:
        FOLDER.mkdir(parents=True, exist_ok=True)
        try:
            kept = asdict(measure(store))
        except UserError as error:
            parser.error(str(error))
        half = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in kept.items()}
        np.savez_compressed(KEPT, allow_pickle=False, **half)
    save(draw(read_kept(KEPT)), FOLDER)


def read_kept(path: Path) -> Measured:
    """Return the embeddings of a file that `main` has written.

    Args:
        path: The file.
    """
    with np.load(path) as kept:
        fields = {k: kept[k].astype(np.float32) if kept[k].dtype == "f2" else kept[k] for k in kept}
    return Measured(**fields)


if __name__ == "__main__":
    main()
