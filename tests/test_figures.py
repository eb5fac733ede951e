"""Figures: the values they draw, computed a second time; their captions; and their files."""

import json
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from bundles import Line, as_text, changed_bundle, without_training
from helpers import TINY, Output, wrong
from looks import cut_off, overprinted, told_apart_by_colour_alone
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from harness.analysis import figures
from harness.analysis.bundle import RESULTS, Bundle, read_bundle
from harness.analysis.figures import CAPTIONS, FIGURES, STRICT, draw_all, drawable
from harness.analysis.figures.base import OLD_BUNDLE, default_settings, listed, read_formats, save
from harness.analysis.figures.confusion import confusion_matrix, most_confused, row_percent
from harness.analysis.figures.curves import Band, accuracy_metric, band, bands, second_half
from harness.analysis.figures.line_ends import LINE, limits, name_ends, spread
from harness.analysis.figures.method_styles import style_of, styles_of
from harness.analysis.figures.ncm_scatter import NcmPoint, ncm_points, rank_correlation
from harness.analysis.figures.style import log_ticks, tick_text
from harness.analysis.figures_on_pages import fill_figures
from harness.analysis.generated_files import figure_folder, make_figures
from harness.analysis.statistics import Estimate, estimate
from harness.analysis.tables.pages import table_blocks
from harness.experiment.file import parse
from harness.methods import REGISTRY, get_method
from harness.run.grid import plan_of

STUDENTS = ("wide", "narrow")
METHODS = ("plain", "kd", "refilled", "refilled-triplet")
IMAGES = (10, 20, 30)  # test images of each class
N_EPOCHS = 4
# The others are in test_task_tables.py, with what tasks change in these.
ALL_METHODS = tuple(name for name, method in REGISTRY.items() if method.variant_of is None)
MARKED = {name: style_of(m.mark) for name, m in REGISTRY.items() if m.mark}
WITHOUT_TASKS = [name for name in FIGURES if name not in ("overlap", "shots")]


@pytest.fixture(scope="module")
def bundle_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the bundle of the tiny experiment, with made-up numbers."""
    return without_training(plan_of(parse(TINY)), tmp_path_factory.mktemp("bundle"))


def made_up(
    text: str,
    methods: tuple[str, ...] = METHODS,
    seeds: tuple[int, ...] = (0, 1, 2),
    validation: bool = True,
    students: tuple[str, ...] = STUDENTS,
) -> tuple[Bundle, list[Line]]:
    """Make up a bundle of random numbers, with NCM accuracies after epochs 2 and 4 alone."""
    rng = np.random.default_rng(0)
    lines: list[Line] = []

    def add(stage: str, method: str, student: str, seed: int, manifest: Line) -> None:
        parts = ("validation", "test") if validation else ("test",)
        metrics = ("ncm_train_centers", "ncm_eval_centers") if stage == "stage1" else ("accuracy",)
        curves: Line = {"loss/total": rng.uniform(0.1, 5, N_EPOCHS).tolist()}
        for name in [f"{part}/{metric}" for part in parts for metric in metrics]:
            values = rng.uniform(0.2, 0.9, N_EPOCHS).tolist()
            has = [stage != "stage1" or epoch % 2 == 0 for epoch in range(1, N_EPOCHS + 1)]
            curves[name] = [v if h else None for v, h in zip(values, has, strict=True)]
        counts = [rng.multinomial(n, [0.6, 0.3, 0.1]) for n in IMAGES]
        sparse = [[i, j, int(n)] for i, row in enumerate(counts) for j, n in enumerate(row) if n]
        forms = ("last", "selected", "best_on_test")
        results = {m: dict(zip(forms, rng.uniform(0.2, 0.9, 3), strict=True)) for m in metrics}
        entry = {"stage": stage, "method": method, "student": student, "seed": seed}
        lines.append(
            {
                "fingerprint": f"{len(lines):064d}",
                "entries": [entry],
                "manifest": manifest | {"results": results},
                "mlflow_run_id": None,
                "curves": curves,
                "confusion": None if stage == "stage1" else sparse,
            }
        )

    def change(header: Line, cells: list[Line]) -> None:
        manifest = cells[0]["manifest"]
        sizes = {"train": 500, "validation": 297, "test": sum(IMAGES)}
        if not validation:
            del sizes["validation"]
        manifest["data"] = {"name": "d$ta $et", "digest": "0" * 64, **sizes}
        header["experiment"] |= {"methods": list(methods), "seeds": list(seeds)}
        header["class_names"] = ["a", "b", "c"]
        for seed in seeds:
            if methods != ("plain",):
                add("teacher", "teacher", "big", seed, manifest)
            for student in students:
                for method in methods:
                    for stage in get_method(method).stages:
                        add(stage.name, method, student, seed, manifest)
        cells[:] = lines

    return changed_bundle(text, change), lines


def drawn(bundle: Bundle, name: str) -> Figure:
    with default_settings():
        return FIGURES[name].draw(bundle)


def select(lines: list[Line], stage: str, method: str, student: str) -> list[Line]:
    """Return one line per seed."""
    key = {"stage": stage, "method": method, "student": student}
    return [line for line in lines if key.items() <= line["entries"][0].items()]


# -- the numbers -----------------------------------------------------------------------------------


def test_band_by_hand() -> None:
    found = band([[1.0, None, 3.0], [3.0, 4.0, 5.0]])
    assert found == Band([1, 3], [estimate([1.0, 3.0]), estimate([3.0, 5.0])], 2)  # type: ignore[list-item]
    assert found.mean == [2.0, 4.0]
    assert band([[0.5, 0.75]]) == Band([1, 2], [Estimate(v, None, 1) for v in (0.5, 0.75)], 1)
    assert band([[None, None]]) is None and band([]) is None


def test_second_half_by_hand() -> None:
    values = [Estimate(v, 0.1, 3) for v in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert second_half(Band([1, 2, 3, 4, 5], values, 3)).epochs == [3, 4, 5]
    every_fifth = Band([5, 10, 15, 20], values[:4], 3)
    assert second_half(every_fifth) == Band([10, 15, 20], values[1:4], 3)
    one = Band([1], values[:1], 3)
    assert second_half(one) == one


def test_bands_over_seeds(bundle_text: str) -> None:
    bundle, lines = made_up(bundle_text)
    drawn_bands = bands(bundle, 2, "validation/accuracy")
    labels = ["Student", "KD", "ReFilled (tuple)", "ReFilled (triplet)"]
    assert list(drawn_bands) == list(STUDENTS) and list(drawn_bands["wide"]) == labels
    for student in STUDENTS:
        for method, label in zip(METHODS, labels, strict=True):
            per_seed = select(lines, get_method(method).final.name, method, student)
            values = np.array([line["curves"]["validation/accuracy"] for line in per_seed])
            drawn_band = drawn_bands[student][label]
            assert drawn_band.epochs == [1, 2, 3, 4] and drawn_band.n == 3 == len(values)
            np.testing.assert_allclose(drawn_band.mean, values.mean(0), rtol=1e-12)
            half_widths = [e.half_width for e in drawn_band.estimates]
            expected = stats.t.ppf(0.975, 2) * stats.sem(values)
            np.testing.assert_allclose(half_widths, expected, rtol=1e-9)


@pytest.mark.parametrize("centers", ["train", "evaluated"])
def test_stage1_shows_the_protocols_ncm_where_it_was_measured(
    bundle_text: str, centers: str
) -> None:
    bundle, lines = made_up(bundle_text)
    bundle.experiment["protocol"]["ncm_centers"] = centers
    metric = accuracy_metric(bundle, 1)
    assert metric == f"validation/ncm_{centers.removesuffix('uated')}_centers"
    narrow = bands(bundle, 1, metric)["narrow"]["ReFilled (tuple)"]
    curves = [line["curves"][metric] for line in select(lines, "stage1", "refilled", "narrow")]
    assert narrow.epochs == [2, 4]
    np.testing.assert_allclose(narrow.mean, np.mean([[c[1], c[3]] for c in curves], 0))
    assert list(bands(bundle, 1, metric)["wide"]) == ["ReFilled (tuple)", "ReFilled (triplet)"]


@pytest.mark.parametrize("reported", ["selected", "last"])
def test_ncm_points_pair_both_stages(bundle_text: str, reported: str) -> None:
    bundle, lines = made_up(
        bundle_text.replace('"reported":"selected"', f'"reported":"{reported}"')
    )
    expected = []
    for method in ("refilled", "refilled-triplet"):
        label = "ReFilled (triplet)" if "triplet" in method else "ReFilled (tuple)"
        for student in STUDENTS:
            pairs = zip(
                *(select(lines, s, method, student) for s in ("stage1", "stage2")), strict=True
            )
            for seed, (first, second) in enumerate(pairs):
                before = first["manifest"]["results"]["ncm_train_centers"][reported]
                after = second["manifest"]["results"]["accuracy"][reported]
                expected.append(NcmPoint(label, student, seed, before, after))
    assert ncm_points(bundle) == expected and len(expected) == 12


def points(before: list[float], after: list[float]) -> list[NcmPoint]:
    return [NcmPoint("m", "s", i, x, y) for i, (x, y) in enumerate(zip(before, after, strict=True))]


def test_rank_correlation() -> None:
    x = [float(i) for i in range(10)]
    assert rank_correlation(points(x, [v**3 for v in x])) == pytest.approx(1)
    y = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0]
    ranks = stats.rankdata(y)  # of ties: the mean rank
    expected = np.corrcoef(np.arange(10), ranks)[0, 1]
    assert rank_correlation(points(x, y)) == pytest.approx(expected, rel=1e-12)
    assert rank_correlation(points(x[:9], y[:9])) is None, "too few to say anything"
    assert rank_correlation(points(x, [0.5] * 10)) is None


def test_the_matrix_is_of_a_student_chosen_by_its_place(bundle_text: str) -> None:
    bundle, lines = made_up(bundle_text)
    matrix = confusion_matrix(bundle)
    assert (matrix.method, matrix.student, matrix.n) == ("ReFilled (tuple)", "narrow", 3)
    expected = np.zeros((3, 3), dtype=int)
    for line in select(lines, "stage2", "refilled", "narrow"):
        for label, guess, n in line["confusion"]:
            expected[label, guess] += n
    assert matrix.counts.tolist() == expected.tolist()
    assert matrix.counts.sum(1).tolist() == [3 * n for n in IMAGES]


def test_the_matrix_without_refilled_is_of_the_last_method(bundle_text: str) -> None:
    matrix = confusion_matrix(made_up(bundle_text, methods=("plain", "kd"))[0])
    assert matrix is not None and (matrix.method, matrix.student) == ("KD", "narrow")


def test_one_seed_without_predictions_and_there_is_no_matrix(bundle_text: str) -> None:
    bundle, lines = made_up(bundle_text)
    bundle.confusions[select(lines, "stage2", "refilled", "narrow")[1]["fingerprint"]] = None
    assert confusion_matrix(bundle) is None
    assert "confusion" in drawable(bundle)[1]


def test_percent_and_most_confused_by_hand() -> None:
    counts = np.array([[6, 2, 0], [0, 0, 0], [3, 2, 5]])
    assert row_percent(counts).tolist() == [[75, 25, 0], [0, 0, 0], [30, 20, 50]]
    assert most_confused(counts) == [(2, 0, 3), (0, 1, 2), (2, 1, 2)]
    assert most_confused(counts, 1) == [(2, 0, 3)]


# -- captions --------------------------------------------------------------------------------------


def texts(bundle: Bundle, name: str) -> str:
    """Return the caption of a figure, and the title, labels and legend that it shows."""
    figure = drawn(bundle, name)
    labels = [t for a in figure.axes for t in (a.get_xlabel(), a.get_ylabel(), a.get_title())]
    names = [t.get_text() for a in figure.axes for t in a.texts]
    legend = [t.get_text() for box in figure.legends for t in box.get_texts()]
    title, caption = figure.get_suptitle(), FIGURES[name].texts(bundle).caption
    return "\n".join([title, caption, *labels, *names, *legend])


@pytest.mark.parametrize("name", WITHOUT_TASKS)
def test_units_data_and_n_are_on_every_figure(bundle_text: str, name: str) -> None:
    bundle, _ = made_up(bundle_text)
    text = texts(bundle, name)
    expected = ["tiny: ", "d$ta $et", "n = 3 seeds", "rotocol strict"]
    if name.startswith("curves"):
        expected += ["500 training images, 297 validation images"]
        expected += ["validation accuracy (%)"] if "2" in name else ["too rarely"]
        expected += ["\nepoch", "nats"]
    else:
        expected += ["60 test images", "selected on validation", "%"]
    assert [words for words in expected if words not in text] == []
    assert ("test" if name.startswith("curves") else "validation images") not in text
    assert "\n" not in drawn(bundle, name).get_suptitle()
    alt = FIGURES[name].texts(bundle).alt
    assert alt.endswith(".") and ("ReFilled" in alt or "4 methods" in alt)


def test_a_leak_is_called_one(bundle_text: str) -> None:
    text = bundle_text.replace('"reported":"selected"', '"reported":"best_on_test"')
    for name in ("accuracy", "ncm", "confusion"):
        assert "leak" in FIGURES[name].texts(made_up(text)[0]).caption


def test_test_accuracy_is_not_called_validation(bundle_text: str) -> None:
    bundle, _ = made_up(bundle_text, validation=False)
    for name, label in (("curves-stage1", "est NCM accuracy"), ("curves-stage2", "test accuracy")):
        text = texts(bundle, name)
        assert "validation" not in text and "60 test images" in text and label in text


def test_words_with_commas_are_told_apart() -> None:
    assert listed(["a", "b", "c"]) == "a, b and c" and listed(["a"]) == "a"
    assert listed(["a, b", "c", "d"]) == "a, b; c; and d"


def n_bands(figure: Figure) -> int:
    return sum(isinstance(c, PolyCollection) for axes in figure.axes for c in axes.collections)


def test_one_seed_and_two_have_neither_band_nor_interval(bundle_text: str) -> None:
    five = made_up(bundle_text, seeds=(0, 1, 2, 3, 4))[0]
    assert n_bands(drawn(five, "curves-stage1")) == 2 * 2  # students, methods
    for seeds, said in (((0,), "n = 1 seed"), ((0, 1), "an interval needs 3 seeds")):
        few = made_up(bundle_text, seeds=seeds)[0]
        assert said in FIGURES["accuracy"].texts(few).caption
        curves = FIGURES["curves-stage2"].texts(few).caption
        assert ("n = 1 seed" if len(seeds) == 1 else "a band needs 5 seeds") in curves
        assert n_bands(drawn(few, "curves-stage2")) == 0
        bars = [c[2][0].get_segments() for a in drawn(few, "accuracy").axes for c in a.containers]
        assert len(bars) > 8 and not any(len(segment) for bar in bars for segment in bar)


def containers(axes: Axes) -> dict[str, Any]:
    return {c.get_label(): c for c in axes.containers}


def test_plotted_accuracies_and_differences_are_the_tables(bundle_text: str) -> None:
    bundle, lines = made_up(bundle_text)
    panels = drawn(bundle, "accuracy").axes
    assert len(panels) == 2 * len(STUDENTS), "two columns have their differences beside them"
    for j, student in enumerate(STUDENTS):
        values = {
            method: [
                100 * line["manifest"]["results"]["accuracy"]["selected"]
                for line in select(lines, get_method(method).final.name, method, student)
            ]
            for method in ("kd", "plain")
        }
        paired = np.subtract(values["kd"], values["plain"])
        for axes, expected in ((panels[j], values["kd"]), (panels[j + 2], paired)):
            points, _, (bars,) = containers(axes)["KD"]
            assert points.get_xdata()[0] == pytest.approx(np.mean(expected))
            interval = stats.t.interval(0.95, 2, np.mean(expected), stats.sem(expected))
            assert bars.get_segments()[0][:, 0] == pytest.approx(list(interval))
        names = [t.get_text() for t in panels[0].get_yticklabels()]
        assert names[points.get_ydata()[0]] == "KD"
        baseline = containers(panels[j + 2])["Student"]
        assert baseline[0].get_xdata()[0] == 0 and "Teacher" not in containers(panels[j + 2])


def test_a_method_far_below_squeezes_no_axis() -> None:
    means = [0.43, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985]
    near = [Estimate(m, 0.01, 5) for m in means[1:]]
    clipped = limits([Estimate(m, 0.01, 5) for m in means], (0, 100), 100)
    assert clipped == limits(near, (0, 100), 100) and clipped.is_outside(43)
    assert 91 < clipped.low < 92 and 99 < clipped.high < 100
    even = limits([Estimate(m, 0.01, 5) for m in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)], (0, 100), 100)
    assert even.low < 39 and even.high > 91, "nothing is far away"
    two_seeds = limits([*near, Estimate(0.97, 0.8, 3)], (0, 100), 100)
    assert two_seeds.low > 80, "no interval squeezes, either"
    assert limits([Estimate(1.0, 0.0, 3)], (0, 100), 100).high >= 100


def test_names_are_moved_apart_and_stay_inside() -> None:
    assert spread([0.5], 0.1) == [0.5]
    assert spread([0.2, 0.8], 0.1) == [0.2, 0.8]
    assert spread([0.5, 0.5, 0.9], 0.1) == pytest.approx([0.45, 0.55, 0.9])
    assert spread([0.99, 1.0, 0.98], 0.1) == pytest.approx([0.9, 1.0, 0.8]), "their order stays"
    assert spread([0.0, 0.0], 0.1) == pytest.approx([0.0, 0.1])
    assert spread([0.5] * 5, 0.9) == pytest.approx([0, 0.25, 0.5, 0.75, 1]), "too many for the gap"
    axes = Figure().subplots()
    axes.set_ylim(0, 10)
    ends = {"a": (1, 5.0), "b": (1, 5.1), "c": (1, -3.0)}
    name_ends(axes, ends, dict(zip(ends, MARKED.values(), strict=False)), inches=10 * LINE)
    places = {t.get_text(): t.get_position()[1] for t in axes.texts if t.get_text()}
    assert list(places) == ["a", "b", "c (-3, below)"] and places["c (-3, below)"] == 0
    assert places["b"] - places["a"] == pytest.approx(0.1)


def test_all_methods_of_the_registry_can_be_told_apart(bundle_text: str) -> None:
    names = (*ALL_METHODS, "kd+vid")
    bundle, _ = made_up(bundle_text, methods=names)
    styles = styles_of(bundle)
    assert len(styles) == len(names) <= len(set(styles.values()))
    assert len({(s.marker, s.fill) for s in styles.values()}) == len(names)
    arms = [name for name, style in MARKED.items() if style.marker in "1234"]
    assert len(arms) <= 1, "three arms look alike in every direction, so small"


def test_many_classes_are_a_picture_alone(bundle_text: str) -> None:
    bundle, lines = made_up(bundle_text)
    matrix = confusion_matrix(bundle)
    percent = row_percent(matrix.counts)
    numbers = [t.get_text() for t in drawn(bundle, "confusion").axes[0].texts]
    assert numbers == [f"{v:.1f}" for v in percent.ravel() if v]

    def widen(header: Line, cells: list[Line]) -> None:
        header["class_names"] = None
        for line in cells:
            line["confusion"] = [[i, i, 5] for i in range(40)] + [[7, 39, 4], [3, 2, 1]]

    header = json.loads(bundle_text.splitlines()[0])
    header["experiment"] |= {"methods": list(METHODS)}
    wide = changed_bundle(as_text([header, *lines]), widen)
    axes = drawn(wide, "confusion").axes[0]
    assert not axes.texts and not len(axes.get_xticks()), "room for neither numbers nor names"
    assert "confused" not in FIGURES["confusion"].texts(wide).caption, "numbers name no class"
    assert "b as " in FIGURES["confusion"].texts(bundle).caption


# -- drawing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITHOUT_TASKS)
def test_figures_are_readable(bundle_text: str, name: str) -> None:
    long, text = [], bundle_text
    for student in STUDENTS:
        long.append(f"{student}, a name as long as many a student's name is")
        text = text.replace(f'"{student}"', f'"{long[-1]}"')
    for bundle, _ in (
        made_up(bundle_text, methods=ALL_METHODS),
        made_up(bundle_text, methods=(*METHODS, "plain@both", "kd@both", "kd+vid")),
        made_up(text, students=tuple(long)),
    ):
        figure = drawn(bundle, name)
        assert not told_apart_by_colour_alone(figure), "readable in grey, too"
        assert not overprinted(figure) and not cut_off(figure)


def test_ticks_of_losses_are_logarithmic(bundle_text: str) -> None:
    loss = drawn(made_up(bundle_text)[0], "curves-stage2").axes[0]
    labels = [t.get_text() for t in loss.get_yticklabels()]
    assert labels == list(map(tick_text, log_ticks(*loss.get_ylim()))) and "2" in labels


def test_a_method_looks_the_same_in_every_bundle(bundle_text: str) -> None:
    few = styles_of(made_up(bundle_text, methods=("refilled", "kd"))[0])
    variants = ("plain", "kd@both", "kd", "kd(kd.temperature=8)", "crd+rkd", "refilled-triplet")
    many = styles_of(made_up(bundle_text, methods=(*variants, "refilled"))[0])
    assert few.items() <= many.items() and few["KD"] == MARKED["kd"]
    assert many["ReFilled (triplet)"] == MARKED["refilled-triplet"]
    kd = MARKED["kd"]
    both, hot = many["KD, epochs of both stages"], many["KD, temperature 8"]
    assert (both.marker, both.color, both.fill) == (kd.marker, kd.color, "open")
    assert hot.color == kd.color and hot.marker != kd.marker
    looks = {(s.marker, s.fill) for s in many.values()}
    assert len(looks) == len(many) == len(variants) + 1


def test_pictures_are_the_same_again(tmp_path: Path, bundle_text: str) -> None:
    bundle, _ = made_up(bundle_text)
    before = dict(matplotlib.rcParams)
    paths = draw_all(bundle, tmp_path / "deeper" / "one")
    assert [p.name for p in paths] == [f"{name}.png" for name in WITHOUT_TASKS]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.mode == "P" and np.asarray(picture.convert("L")).std() > 10, path
    assert dict(matplotlib.rcParams) == before and not plt.get_fignums()
    with plt.style.context("ggplot"):  # another library may set it for the whole process
        again = draw_all(bundle, tmp_path / "two")
    for one, two in zip(paths, again, strict=True):
        assert one.read_bytes() == two.read_bytes(), "a committed file must not change"


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(
    ("loss", "accuracy"), [([0.0] * 4, 0.0), ([-2.0, -1.0, -2.0, -2.0], 1.0), ([3.0] * 4, 0.5)]
)
def test_any_loss_and_accuracy_has_its_curves(
    bundle_text: str, stage: int, loss: list[float], accuracy: float
) -> None:
    bundle, _ = made_up(bundle_text, seeds=(0, 1, 2, 3, 4))
    for curves in bundle.curves.values():
        curves |= {name: [accuracy] * 4 for name in curves} | {"loss/total": list(loss)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panel = drawn(bundle, f"curves-stage{stage}").axes[0]
    assert panel.get_yscale() == ("log" if max(loss) > 0 else "linear")
    assert ("log" in panel.get_ylabel()) == (max(loss) > 0)
    low, high = panel.get_ylim()
    assert low < min(loss) and max(loss) < high


def test_results_without_any_difference_have_all_figures(tmp_path: Path, bundle_text: str) -> None:
    """Every loss and accuracy is 0, or accuracies are 1, in one epoch and for one seed."""
    for value in (0.0, 1.0):

        def flatten(header: Line, cells: list[Line], value: float = value) -> None:
            for line in cells:
                line.pop("correct", None)
                line["curves"] = {n: [value * (n != "loss/total")] for n in line["curves"]}
                for forms in line["manifest"]["results"].values():
                    forms.update(dict.fromkeys(forms, value))

        header = json.loads(bundle_text.splitlines()[0])
        _, lines = made_up(bundle_text, seeds=(0,), students=("wide",))
        header["experiment"] |= {"methods": list(METHODS), "seeds": [0]}
        flat = changed_bundle(as_text([header, *lines]), flatten)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(draw_all(flat, tmp_path, dpi=50)) == len(WITHOUT_TASKS)


@pytest.mark.parametrize("part", ["missing", "texts", "draw"])
def test_a_figure_that_cannot_be_drawn_stops_nothing_but_a_test(
    tmp_path: Path, bundle_text: str, monkeypatch: pytest.MonkeyPatch, capsys: Output, part: str
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no such place\nmore")

    every = {part: fails} if part == "draw" else {part: fails, "draw": fails}
    quick = {name: kind for name, kind in FIGURES.items() if not name.startswith("curves")}
    quick["ncm"] = replace(quick["ncm"], **every)
    monkeypatch.setattr(figures, "FIGURES", quick)
    bundle, _ = made_up(bundle_text, seeds=(0,), students=("wide",))
    stale = tmp_path / "ncm.png"
    stale.touch()
    with pytest.raises(ValueError, match="no such place"):
        draw_all(bundle, tmp_path)
    monkeypatch.delenv(STRICT)
    names = [path.stem for path in draw_all(bundle, tmp_path)]
    assert names == ["accuracy", "confusion"] and not stale.exists()
    said = capsys.readouterr().err
    assert said == "tiny: ncm: could not be drawn (ValueError: no such place)\n"
    assert "ncm" not in (tmp_path / CAPTIONS).read_text()


def test_a_plain_grid_has_no_stage1(tmp_path: Path, bundle_text: str) -> None:
    bundle, _ = made_up(bundle_text, methods=("plain",))
    assert drawable(bundle) == (["accuracy", "curves-stage2", "confusion"], {})
    paths = draw_all(bundle, tmp_path)
    assert sorted(tmp_path.glob("*.png")) == sorted(paths) and len(paths) == 3


def test_formats_for_a_paper(tmp_path: Path) -> None:
    def draw() -> Figure:
        figure = Figure(figsize=(2, 1))
        figure.subplots().set_title("a title")
        return figure

    assert read_formats("svg, PDF,png") == ("png", "pdf", "svg")
    files = [tmp_path / f"{name}.{form}" for name in "ab" for form in ("png", "pdf", "svg")]
    for path in files:
        save(draw, path, dpi=60)
    content = [path.read_bytes() for path in files]
    assert content[:3] == content[3:], "neither a date nor chance"
    assert b"/FontFile2" in content[1] and b"<svg" in content[2]
    with Image.open(files[0]) as picture:
        assert picture.size == (120, 60)
    for text in ("jpg", "", "png,gif"):
        wrong(partial(read_formats, text), "--format", "png, pdf, svg")


def old(text: str) -> str:
    """Return the bundle as it was written before there were curves and confusions."""
    header, *lines = (json.loads(line) for line in text.splitlines())
    for line in (header, *lines):
        for key in ("class_names", "curves", "confusion"):
            line.pop(key, None)
    return as_text([header, *lines])


def test_an_old_bundle_has_its_table_and_two_figures(
    tmp_path: Path, bundle_text: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    path = RESULTS / "tiny.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(bundle_text)
    make_figures()
    out = capsys.readouterr().out
    assert len(list(figure_folder(path).glob("*.png"))) == 5 and "left out" not in out

    kept = figure_folder(path) / "digits-kd-history.png"  # of a tuning study
    kept.touch()
    path.write_text(old(bundle_text))
    bundle = read_bundle(path)
    assert table_blocks(bundle) == table_blocks(read_bundle(path, bundle_text))
    make_figures()
    assert sorted(p.name for p in figure_folder(path).iterdir()) == [
        "accuracy.png",
        "captions.txt",
        kept.name,
        "ncm.png",
    ], "figures of another bundle must go, other files stay"
    out = capsys.readouterr().out
    assert f"curves-stage1, curves-stage2, confusion of tiny: {OLD_BUNDLE}" in out


def test_pages_show_figures_with_generated_texts(bundle_text: str) -> None:
    bundle, _ = made_up(bundle_text)
    markers = "<!-- figure:tiny/accuracy -->\nold\n<!-- /figure:tiny/accuracy -->\n"
    readme, page, other = Path("README.md"), Path("docs/x.md"), "<!-- figure:else/ncm -->\n"
    pages = {readme: f"a\n{markers}b\n", page: markers + other}
    fill_figures(pages, bundle, Path("docs/figures/tiny"))
    texts = FIGURES["accuracy"].texts(bundle)
    content = pages[readme].split("\n")
    assert content[2].endswith(".](docs/figures/tiny/accuracy.png)<br>"), content
    assert content[2].startswith(f"![{texts.alt[:30]}") and "old" not in pages[readme]
    assert content[3].startswith("*Dots: means; bars: 95 % t-intervals over n = 3 seeds")
    assert "](figures/tiny/accuracy.png)" in pages[page] and other in pages[page]
    pages = {page: markers.replace("accuracy", "shots")}
    wrong(partial(fill_figures, pages, bundle, Path("x")), "docs/x.md", "'shots'", "confusion")


def test_the_repositorys_bundles_can_be_read() -> None:
    root = Path(__file__).resolve().parent.parent
    paths = sorted((root / RESULTS).glob("*.jsonl"))
    assert len(paths) >= 4
    for path in paths:
        bundle = read_bundle(path)
        tasks = bundle.settings.tasks
        by = {"overlap", "shots"} if tasks and len(tasks.all) > 2 else {"accuracy", "ncm"}
        assert by & set(drawable(bundle)[0])
