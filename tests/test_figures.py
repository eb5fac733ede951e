"""Figures: the values they draw, computed a second time; their captions; and their files."""

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from bundles import Line, as_text, changed_bundle, without_training
from helpers import TINY, Output
from looks import cut_off, overprinted, told_apart_by_colour_alone
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from harness.analysis.bundle import RESULTS, Bundle, read_bundle
from harness.analysis.figures import FIGURES, draw_all, drawable
from harness.analysis.figures.base import OLD_BUNDLE, default_settings, labels_of, styles_of
from harness.analysis.figures.confusion import confusion_matrix, most_confused, row_percent
from harness.analysis.figures.curves import Band, accuracy_metric, band, bands, second_half
from harness.analysis.figures.ncm_scatter import NcmPoint, ncm_points, rank_correlation
from harness.analysis.figures.style import COLORS, STYLES, log_ticks, tick_text
from harness.analysis.generated_files import figure_folder, make_figures
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
    assert band([[1.0, None, 3.0], [3.0, 4.0, 5.0]]) == Band(
        epochs=[1, 3], mean=[2.0, 4.0], low=[1.0, 3.0], high=[3.0, 5.0], n=2
    )
    assert band([[0.5, 0.75]]) == Band([1, 2], [0.5, 0.75], [0.5, 0.75], [0.5, 0.75], 1)
    assert band([[None, None]]) is None and band([]) is None


def test_second_half_by_hand() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert second_half(Band([1, 2, 3, 4, 5], values, values, values, 2)).epochs == [3, 4, 5]
    every_fifth = Band([5, 10, 15, 20], values[:4], [0.0] * 4, [1.0] * 4, 2)
    assert second_half(every_fifth) == Band([10, 15, 20], [0.2, 0.3, 0.4], [0.0] * 3, [1.0] * 3, 2)
    one = Band([1], [0.1], [0.1], [0.1], 1)
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
            assert drawn_band.low == values.min(0).tolist()
            assert drawn_band.high == values.max(0).tolist()


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
    assert narrow.high == [max(c[1] for c in curves), max(c[3] for c in curves)]
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


def texts(figure: Figure) -> str:
    """Return the title, labels and legend of a figure."""
    labels = [t for a in figure.axes for t in (a.get_xlabel(), a.get_ylabel(), a.get_title())]
    legend = [t.get_text() for box in figure.legends for t in box.get_texts()]
    return "\n".join([figure.get_suptitle().replace("\n", " "), *labels, *legend])


@pytest.mark.parametrize("name", WITHOUT_TASKS)
def test_units_data_and_n_are_on_every_figure(bundle_text: str, name: str) -> None:
    text = texts(drawn(made_up(bundle_text)[0], name))
    expected = ["tiny: ", "d$ta $et", "n = 3 seeds", "protocol strict", "%"]
    if name.startswith("curves"):
        expected += ["500 training images, 297 validation images", "\nepoch", "nats"]
        expected += ["validation NCM accuracy (%)" if "1" in name else "validation accuracy (%)"]
    else:
        expected += ["60 test images", "selected on validation"]
    assert [words for words in expected if words not in text] == []
    assert ("test" if name.startswith("curves") else "validation images") not in text


def test_a_leak_is_called_one(bundle_text: str) -> None:
    text = bundle_text.replace('"reported":"selected"', '"reported":"best_on_test"')
    for name in ("accuracy", "ncm", "confusion"):
        assert "leak" in texts(drawn(made_up(text)[0], name))


def test_test_accuracy_is_not_called_validation(bundle_text: str) -> None:
    bundle, _ = made_up(bundle_text, validation=False)
    for name, label in (("curves-stage1", "test NCM accuracy"), ("curves-stage2", "test accuracy")):
        text = texts(drawn(bundle, name))
        assert "validation" not in text and "60 test images" in text and f"{label} (%)" in text


def n_bands(figure: Figure) -> int:
    return sum(isinstance(c, PolyCollection) for axes in figure.axes for c in axes.collections)


def test_one_seed_has_neither_band_nor_interval(bundle_text: str) -> None:
    three, one = made_up(bundle_text)[0], made_up(bundle_text, seeds=(0,))[0]
    assert n_bands(drawn(three, "curves-stage1")) == 2 * 2 * 2  # students, panels, methods
    for name in ("curves-stage1", "curves-stage2"):
        figure = drawn(one, name)
        assert n_bands(figure) == 0
        assert "n = 1 seed" in texts(figure) and "no band" in texts(figure)
    figure = drawn(one, "accuracy")
    assert "no interval, n = 1 seed protocol" in texts(figure)
    bars = [c[2][0].get_segments() for c in figure.axes[0].containers]
    assert len(bars) == 4 and not any(len(segment) for bar in bars for segment in bar)


def test_plotted_accuracies_are_the_tables(bundle_text: str) -> None:
    bundle, lines = made_up(bundle_text)
    (axes,) = drawn(bundle, "accuracy").axes
    (points, _, (bars,)) = next(c for c in axes.containers if c.get_label() == "KD")
    for j, student in enumerate(STUDENTS):
        results = [line["manifest"]["results"] for line in select(lines, "kd", "kd", student)]
        values = [100 * result["accuracy"]["selected"] for result in results]
        assert points.get_ydata()[j] == pytest.approx(np.mean(values))
        interval = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert bars.get_segments()[j][:, 1] == pytest.approx(list(interval))


def test_all_methods_of_the_registry_can_be_told_apart(bundle_text: str) -> None:
    names = (*ALL_METHODS, "kd+vid")
    bundle, _ = made_up(bundle_text, methods=names)
    styles = styles_of(bundle)
    assert len(styles) == len(names) <= len(set(styles.values()))
    assert len({(s.marker, s.face) for s in styles.values()}) == len(names)
    (axes,) = drawn(bundle, "accuracy").axes
    points = [c[0].get_xdata() for c in axes.containers]
    places = [sorted(x[j] for x in points) for j in range(len(STUDENTS))]
    for j, xs in enumerate(places):
        assert min(np.diff(xs)) > 0.02 and j - 0.5 < xs[0] and xs[-1] < j + 0.5


def test_many_classes_are_a_picture_with_the_most_confused(bundle_text: str) -> None:
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
    figure = drawn(wide, "confusion")
    assert not figure.axes[0].texts, "no room for numbers"
    (side,) = figure.axes[1].texts
    assert side.get_text().splitlines()[-2:] == ["7 → 39: 12", "3 → 2: 3"]


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
    assert labels == list(map(tick_text, log_ticks(*loss.get_ylim()))) and "0.5" in labels


def test_what_is_trained_has_colours_of_its_own(bundle_text: str) -> None:
    trained = ("plain", "plain@both", "kd", "kd@both", "refilled", "refilled-triplet")
    floors = ("pixels_ncm", "untrained_ncm", "teacher_ncm")
    bundle, _ = made_up(bundle_text, methods=(*trained[:4], *floors, *trained[4:]))
    styles = list(styles_of(bundle).values())
    assert styles == list(STYLES[:9])
    labels = labels_of(bundle)
    assert {styles_of(bundle)[labels[m]].color for m in trained} == set(COLORS[:6])


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


def test_a_plain_grid_has_no_stage1(tmp_path: Path, bundle_text: str) -> None:
    bundle, _ = made_up(bundle_text, methods=("plain",))
    assert drawable(bundle) == (["accuracy", "curves-stage2", "confusion"], {})
    paths = draw_all(bundle, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(paths) and len(paths) == 3


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
    assert len(list(figure_folder(path).iterdir())) == 5 and "left out" not in out

    kept = figure_folder(path) / "digits-kd-history.png"  # of a tuning study
    kept.touch()
    path.write_text(old(bundle_text))
    bundle = read_bundle(path)
    assert table_blocks(bundle) == table_blocks(read_bundle(path, bundle_text))
    make_figures()
    assert sorted(p.name for p in figure_folder(path).iterdir()) == [
        "accuracy.png",
        kept.name,
        "ncm.png",
    ], "figures of another bundle must go, other files stay"
    out = capsys.readouterr().out
    assert f"curves-stage1, curves-stage2, confusion of tiny: {OLD_BUNDLE}" in out


def test_the_repositorys_bundles_can_be_read() -> None:
    root = Path(__file__).resolve().parent.parent
    paths = sorted((root / RESULTS).glob("*.jsonl"))
    assert len(paths) >= 4
    for path in paths:
        bundle = read_bundle(path)
        tasks = bundle.settings.tasks
        by = {"overlap", "shots"} if tasks and len(tasks.all) > 1 else {"accuracy", "ncm"}
        assert by & set(drawable(bundle)[0])
