"""How figures look: colours, ticks, legends; and figures of tunings."""

from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
from looks import cut_off, overprinted, told_apart_by_colour_alone
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from PIL import Image

from harness.analysis import tuning
from harness.analysis.figures.base import default_settings
from harness.analysis.figures.method_styles import style_of
from harness.analysis.figures.studies import COLOR_MAP, KINDS, SearchAxis, StudyTrials, drawable
from harness.analysis.figures.style import (
    COLORS,
    LETTER,
    SERIES,
    log_ticks,
    scale_log,
    stagger,
    tick_text,
    write_legend,
)
from harness.methods import REGISTRY

# -- colours ---------------------------------------------------------------------------------------

# Linear RGB as seen without one kind of cone: Machado, Oliveira and Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1.
VISION = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(linear: np.ndarray) -> np.ndarray:
    """Convert (.., 3) linear RGB to CIE L*a*b*, with white at (100, 0, 0)."""
    xyz = np.clip(linear, 0, 1) @ TO_XYZ.T / TO_XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def linear(colors: Any) -> np.ndarray:
    rgb = np.array([to_rgb(c) for c in colors])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_seen_apart_by_everybody(vision: str) -> None:
    seen = lab(linear([*COLORS, "white"]) @ np.array(VISION[vision]).T)
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))
    assert nearest > 10, "2.3 is just noticeable"


def test_colours_of_a_scale_are_in_order_in_grey() -> None:
    map_ = matplotlib.colormaps[COLOR_MAP]
    lightness = lab(linear(map_(np.linspace(0, 1, 64))[:, :3]))[:, 0]
    assert (np.diff(lightness) > 0).all() and lightness[-1] - lightness[0] > 60


def test_styles_are_told_apart_without_colour() -> None:
    """Markers and fillings differ, as figures without lines show nothing else."""
    styles = [style_of(method.mark) for method in REGISTRY.values() if method.mark]
    assert len({(s.marker, s.fill) for s in styles}) == len(styles) >= 20
    assert len({(s.marker, s.fill) for s in SERIES}) == len({s.color for s in SERIES}) == 7
    variants = {(s.marker, "open") for s in styles if s.fill == "full"}
    assert not variants & {(s.marker, s.fill) for s in styles}, "kept for kd@both"


# -- ticks and legends -----------------------------------------------------------------------------


def test_ticks_as_people_write_them() -> None:
    values = (0, 0.002, 1, 50, 0.0001, 5e-5, 1e-5, 20000, 1e5, 2e12, -0.5)
    assert " ".join(map(tick_text, values)) == (
        "0 0.002 1 50 0.0001 5·10⁻⁵ 10⁻⁵ 20000 10⁵ 2·10¹² -0.5"
    )


def test_logarithmic_ticks_by_hand() -> None:
    assert log_ticks(0.03, 7) == [0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    assert log_ticks(0.01, 0.5) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5], "limits are ticks, too"
    assert log_ticks(0.0004, 30) == [0.001, 0.01, 0.1, 1, 10], "more than ten: powers alone"
    assert log_ticks(0.03, 7, most=3) == [0.1, 1]
    assert log_ticks(1e-9, 1e9, most=7) == [1e-9, 1e-6, 1e-3, 1, 1e3, 1e6, 1e9]
    assert log_ticks(0.6, 0.9) == [0.6, 0.7, 0.8, 0.9], "not one of 1, 2, 5"
    assert log_ticks(0.6, 2.5) == [1, 1.5, 2, 2.5], "fewer than three of them"


def test_a_logarithmic_axis_keeps_its_view() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0.03, 7])
    axes.set_ylim(0.03, 7)
    scale_log(axes, axes.yaxis)
    assert axes.get_yscale() == "log" and axes.get_ylim() == (0.03, 7)
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert labels == ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"]
    assert not len(axes.get_yticks(minor=True))


@pytest.mark.parametrize(
    ("xs", "words", "labels"),
    [
        ([4, 0, 4, 10], ["abc", "defghi", "j", "k"], ["defghi", "abc, j", "k"]),
        ([0, 2, 4, 6], ["a" * 29] * 4, ["a" * 29, "\n" + "a" * 29] * 2),
        ([0, 4], ["a" * 41, "b" * 39], ["a" * 41, "\n" + "b" * 39]),
        ([0, 4], ["a" * 38, "b" * 39], ["a" * 38, "b" * 39]),
    ],
)
def test_labels_that_would_overlap_stand_in_rows(xs: Any, words: Any, labels: list[str]) -> None:
    axes = Figure().subplots()
    axes.set_xlim(0, 10)
    stagger(axes, xs, words, inches=100 * LETTER)
    assert axes.get_xticks().tolist() == sorted(set(xs))
    assert [t.get_text() for t in axes.get_xticklabels()] == labels


@pytest.mark.parametrize("letters", [3, 13, 20, 40, 200])
def test_a_legend_has_the_columns_that_fit(letters: int) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    handles, labels = [Line2D([], []) for _ in range(4)], ["n" * letters] * 4
    renderer = FigureCanvasAgg(figure).get_renderer()
    fitting = [1]
    for n in range(2, 5):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=n)
        if legend.get_window_extent(renderer).width <= figure.bbox.width:
            fitting.append(n)
        legend.remove()
    legend = write_legend(figure, handles, labels, most=4)
    figure.draw(renderer)
    assert len({round(t.get_window_extent().x0) for t in legend.get_texts()}) == max(fitting)
    assert figure.legends == [legend] and (max(fitting) == 4 or letters > 3)


def test_the_checks_of_looks_find_what_is_wrong() -> None:
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o-", color="red")
    axes.plot([0, 1], [1, 0], "o-", color="blue")
    axes.set_xticks([0.5, 0.52], ["many letters", "as many"])
    axes.text(0.9, 0.5, "far out of the picture")
    assert told_apart_by_colour_alone(figure) == ["o full -"]
    assert overprinted(figure) == [("many letters", "as many")]
    assert cut_off(figure) == ["far out of the picture"]
    axes.lines[1].set_markerfacecolor("white")
    axes.set_xticks([0, 1], ["a", "\nb"])
    axes.texts[0].set_visible(False)
    assert not (told_apart_by_colour_alone(figure) or overprinted(figure) or cut_off(figure))


# -- tuning ----------------------------------------------------------------------------------------

SPACE: dict[str, Any] = {
    "optimizer.weight_decay": FloatDistribution(1e-3, 0.05, log=True),
    "kd.alpha": FloatDistribution(0.1, 1.0),
    "stage1.relation": CategoricalDistribution(["tuple", "triplet"]),
    "training.epochs": IntDistribution(10, 30),
}
VALUES = (0.5, None, 0.75, 0.25, None, 0.875, 0.75, 0.5)  # None: pruned


def made_up(
    values: tuple[float | None, ...] = VALUES, names: tuple[str, ...] = (*SPACE,), up: bool = True
) -> StudyTrials:
    rng = np.random.default_rng(0)
    study = optuna.create_study(study_name="tiny/kd", direction="maximize" if up else "minimize")
    for value in values:
        params: dict[str, Any] = {
            "optimizer.weight_decay": float(10 ** rng.uniform(-3, -1.5)),
            "kd.alpha": float(rng.uniform(0.1, 1)),
            "stage1.relation": ["tuple", "triplet"][rng.integers(2)],
            "training.epochs": int(rng.integers(10, 31)),
        }
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
                value=0.125 if value is None else value,
                params={n: params[n] for n in names},
                distributions={n: SPACE[n] for n in names},
            )
        )
    return StudyTrials(study, "validation accuracy")


def drawn(study: StudyTrials, kind: str) -> Figure:
    with default_settings():
        return KINDS[kind](study)


@pytest.mark.parametrize("kind", KINDS)
def test_tuning_figures_are_readable(kind: str) -> None:
    figure = drawn(made_up(), kind)
    assert not (told_apart_by_colour_alone(figure) or overprinted(figure) or cut_off(figure))
    title = figure.get_suptitle()
    assert title.startswith("tiny/kd: ") and "6 finished, 2 pruned trials" in title


def test_a_range_is_an_axis_from_0_to_1() -> None:
    decay, alpha, relation, epochs = (SearchAxis(n, d) for n, d in SPACE.items())
    middle = (1e-3 * 0.05) ** 0.5
    assert [decay.place(v) for v in (1e-3, middle, 0.05)] == pytest.approx([0, 0.5, 1])
    assert [text for _, text in decay.ticks] == ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05"]
    assert [place for place, _ in decay.ticks][::5] == pytest.approx([0, 1])
    wide = SearchAxis("x", FloatDistribution(5e-5, 5e-3, log=True))
    assert [text for _, text in wide.ticks] == ["0.0001", "0.001"]
    assert decay.label == "optimizer.weight_decay\n(log scale)" and alpha.label == "kd.alpha"
    assert alpha.place(0.55) == pytest.approx(0.5)
    assert [text for _, text in alpha.ticks] == ["0.2", "0.4", "0.6", "0.8", "1"]
    assert relation.ticks == [(0, "tuple"), (1, "triplet")]
    assert [text for _, text in epochs.ticks] == ["10", "15", "20", "25", "30"]
    assert SearchAxis("x", FloatDistribution(2.0, 2.0)).place(2.0) == 0.5
    assert SearchAxis("x", CategoricalDistribution([3])).ticks == [(0, "3")]


@pytest.mark.parametrize("up", [True, False])
def test_history_shows_per_cent_and_the_best_so_far(up: bool) -> None:
    (axes,) = drawn(made_up(up=up), "history").axes
    lines: dict[Any, Line2D] = {line.get_label(): line for line in axes.lines}
    assert axes.get_ylabel() == "validation accuracy (%)"
    points, best = lines["finished trial"], lines["best so far"]
    assert list(points.get_xdata()) == [0, 2, 3, 5, 6, 7]
    assert list(points.get_ydata()) == [50, 75, 25, 87.5, 75, 50]
    expected = [50, 75, 75, 87.5, 87.5, 87.5] if up else [50, 50, 25, 25, 25, 25]
    assert list(best.get_ydata()) == [*expected, expected[-1]]
    assert list(lines["pruned trial (no value)"].get_xdata()) == [1, 4]
    assert axes.get_ylim()[0] > 12.5, "the value that a pruned trial came to is not drawn"


def panels_of(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]


def points_of(panel: Axes) -> np.ndarray:
    return np.asarray(panel.collections[-1].get_offsets())


def test_slices_and_pairs_stand_at_their_parameters() -> None:
    study = made_up()
    panels = panels_of(drawn(study, "slice"))
    assert [a.get_xlabel() for a in panels] == [axis.label for axis in study.search_axes]
    for panel, axis in zip(panels, study.search_axes, strict=True):
        expected = np.array([axis.places(study.finished), study.values]).T
        np.testing.assert_allclose(points_of(panel), expected)
    pairs = panels_of(drawn(study, "contour"))
    assert len(pairs) == 6
    assert "\n" in "".join(t.get_text() for t in pairs[3].get_xticklabels()), "in two rows"
    decay, alpha, relation, _ = study.search_axes
    for panel, across, up, n in ((pairs[0], decay, alpha, 2), (pairs[1], decay, relation, 1)):
        assert len(panel.collections) == n, "a surface between ranges, none between choices"
        expected = np.array([axis.places(study.finished) for axis in (across, up)]).T
        np.testing.assert_allclose(points_of(panel), expected)
        crosses = [axis.places(study.pruned) for axis in (across, up)]
        np.testing.assert_allclose(np.array(panel.lines[0].get_data()), crosses)


def test_importance_is_optunas() -> None:
    study = made_up()
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    importances = optuna.importance.get_param_importances(study.study, evaluator=evaluator)
    (axes,) = drawn(study, "importance").axes
    names = [t.get_text() for t in axes.get_yticklabels()]
    bars = dict(zip(names, (bar.get_width() for bar in axes.patches), strict=True))
    assert bars == pytest.approx({name: 100 * v for name, v in importances.items()})
    assert sum(bars.values()) == pytest.approx(100) and names == list(importances)[::-1]


def test_what_a_study_has_the_trials_for() -> None:
    assert drawable(made_up()) == ["history", "slice", "importance", "contour"]
    assert drawable(made_up(names=("kd.alpha",))) == ["history", "slice", "importance"]
    assert drawable(made_up((0.5, 0.5, 0.5))) == ["history", "slice", "contour"]
    assert drawable(made_up((None, None))) == []
    two = ("optimizer.weight_decay", "kd.alpha")
    for values in ((0.5,), (0.5, 0.5, 0.5), (0.5, 0.25)):
        few = made_up(values, two)
        for kind in drawable(few):
            FigureCanvasAgg(drawn(few, kind)).draw()


def test_files_of_a_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    studies: dict[str, optuna.Study] = {}
    bundle = tuning.TuningBundle("tiny", "validation/accuracy", studies)
    monkeypatch.setattr(tuning, "read_tuning_bundle", lambda path: bundle)
    before = dict(matplotlib.rcParams)
    studies["kd"] = made_up(names=("optimizer.weight_decay", "kd.alpha")).study
    files = [path for _, path in tuning.draw(Path("tiny.jsonl"))]
    assert [p.name for p in files] == [f"tiny-kd-{kind}.png" for kind in KINDS]
    first = [p.read_bytes() for p in files]
    with plt.style.context("ggplot"):
        tuning.draw(Path("tiny.jsonl"))
    assert [p.read_bytes() for p in files] == first, "a committed file must not change"
    assert dict(matplotlib.rcParams) == before and not plt.get_fignums()
    with Image.open(files[0]) as picture:
        assert picture.mode == "P"
    studies["kd"] = made_up(names=("kd.alpha",)).study
    tuning.draw(Path("tiny.jsonl"))
    assert not files[-1].exists() and files[0].exists(), "a figure of another space is removed"
