"""Every reader of the project's own files, with thousands of damaged ones: each gives an object
that the rest of the program can use, or one line with the file and the remedy."""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import BUNDLE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from optuna.distributions import FloatDistribution, distribution_to_json

from harness.analysis.bundle import read_bundle
from harness.analysis.export import confusion_of, curves_of
from harness.analysis.tables.pages import curve_files, results_page, table_blocks
from harness.analysis.tables.terminal import terminal_text
from harness.analysis.tuning import read_tuning_bundle
from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.run.repair import examine
from harness.store import CellDir
from harness.store.cell_files import Damaged, parse_json
from harness.store.manifest import Manifest
from harness.store.predictions import read_predictions_file
from harness.track import sync_state

CELL = {
    "kind": "supervised",
    "semantics": 1,
    "upstream": {},
    "spec": {
        "seed": 0,
        "data": {"name": "digits", "digest": "d", "view": {"classes": [1, 2]}},
        "network": {"network": "wide_resnet", "depth": 10, "width": 1},
        "protocol": {"train_on": "train", "selection": "last"},
        "training": {"epochs": 3, "milestones": [1]},
    },
}
FORMS = {"last": 0.5, "selected": 0.25, "best_on_test": 0.75}
MANIFEST = {
    "results": {"accuracy": FORMS},
    "selected_epoch": 1,
    "epochs": 2,
    "seconds": 1.5,
    "model_sha256": "0" * 64,
    "data": {"name": "digits", "digest": "0" * 64, "train": 5, "test": 5},
    "device": "cpu",
    "commits": ["c" * 40],
    "dirty": None,
    "torch": "2",
}
EPOCH = {"event": "epoch", "epoch": 1, "time": 1.5, "seconds": 0.5, "loss/total": 2.0}
EVENTS = [
    {"event": "start", "time": 1.0, "device": "cpu", "commit": None, "dirty": None},
    EPOCH,
    EPOCH | {"epoch": 2},
    {"event": "failed", "time": 2.0, "error": "lost"},
]
SENT = {
    "place x y": {"run_id": "a", "parent": "b", "started": "1.0", "lines": 3, "status": "RUNNING"}
}
OPTIONS = {"dataset": {"name": "digits"}, "data_root": "data", "n_workers": 0}
HEADER = {
    "bundle": 1,
    "experiment": {
        "name": "tiny",
        "methods": ["plain"],
        "seeds": [0],
        "protocol": {"ncm_centers": "train"},
        "training": {"epochs": 2},
        "tuned": {"plain": {"trials": 3}},
    },
    "command": "harness run",
    "reported": "selected",
    "protocol": "strict",
    "published": [{"source": "a", "row": "b", "protocol": "c", "wrn": "7"}],
    "class_names": ["a", "b"],
}
LINE = {
    "fingerprint": "f" * 64,
    "entries": [{"stage": "student", "method": "plain", "student": "wrn", "seed": 0}],
    "manifest": MANIFEST,
    "mlflow_run_id": None,
    "curves": {"loss/total": [2.0, None]},
    "confusion": [[0, 1, 3]],
}
MANY = settings(
    max_examples=250, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

ODD: SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(10**30), 10**400, 1e308, -0.0, float("nan"), float("inf"), "\ud800"]),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in plain data."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


@st.composite
def changed(draw: DrawFn, value: Any) -> Any:
    """Plain data with one or two fields lost or of another kind; now and then something else."""
    if draw(st.integers(0, 15)) == 0:
        return draw(ODD)
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(0, 2))):
        if found := list(places(value)):
            container, key = draw(st.sampled_from(found))
            if draw(st.booleans()):
                container[key] = draw(ODD)
            else:
                del container[key]
    return value


@st.composite
def damaged(draw: DrawFn, data: bytes) -> bytes:
    """Bytes that were cut, zeroed, flipped, doubled or written over."""
    at, n = draw(st.integers(0, len(data))), draw(st.integers(1, 40))
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(n) + data[at + n :]
    if kind == 2 and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    if kind == 3:
        return data[:at] + data[max(0, at - n) :]
    if kind == 4:
        return data[:at] + draw(st.binary(max_size=9)) + data[at:]
    return data


def as_file(*lines: Any) -> SearchStrategy[bytes]:
    """The lines of a file with changed fields, then with damaged bytes."""
    texts = st.tuples(*(changed(line).map(json.dumps) for line in lines))
    return texts.flatmap(lambda t: damaged("".join(line + "\n" for line in t).encode()))


def one_line(error: UserError, name: str) -> None:
    text = str(error)
    assert name in text and "`harness " in text, text
    assert "\n" not in text


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


@contextlib.contextmanager
def cell_with(also: str = "", **files: bytes) -> Iterator[CellDir]:
    """Yield a cell with these files. If one of them, or `also`, is Damaged, one line names it."""
    names = [name.replace("_", ".") for name in files]
    with tempfile.TemporaryDirectory() as folder:
        for name, content in zip(names, files.values(), strict=True):
            (Path(folder) / name).write_bytes(content)
        try:
            yield CellDir(Path(folder))
        except Damaged as error:
            assert error.path.name in (*names, also)
            one_line(error, error.path.name)


def use(text: object) -> None:
    """Use a file's content as any command does in the end."""
    canonical(text)
    io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape").write(str(text))


@MANY
@given(as_file(*EVENTS))
def test_journal(data: bytes) -> None:
    with cell_with(journal_jsonl=data) as cell:
        lines = cell.epochs()
        assert [e["epoch"] for e in lines] == list(range(1, len(lines) + 1))
        curves_of(cell)
        for event in sync_state.current_training(cell):
            use(event)
            float(event["time"])
            if event["event"] == "epoch":
                [float(v) for k, v in event.items() if k != "event"]


@MANY
@given(as_file(*EVENTS))
def test_what_repair_makes_of_a_journal_can_be_read(data: bytes) -> None:
    with cell_with(journal_jsonl=data) as cell:
        remedy = examine(cell)
        with contextlib.suppress(Damaged):
            cell.epochs()
            assert not remedy.damage
            return
        (cell / "journal.jsonl").write_bytes(remedy.write["journal.jsonl"])
        cell.epochs()
        assert not examine(cell).damage


@MANY
@given(as_file(MANIFEST))
def test_manifest(data: bytes) -> None:
    with cell_with("model.pt", manifest_json=data) as cell:
        assert cell.is_done
        use(cell.manifest.as_json())
        cell.check_model()


@MANY
@given(as_file(CELL))
def test_description(data: bytes) -> None:
    with cell_with(cell_json=data) as cell:
        use(cell.cell.as_json())
        assert cell.cell.epochs >= 1


@MANY
@given(as_file(OPTIONS))
def test_options(data: bytes) -> None:
    with cell_with(options_json=data) as cell:
        use(cell.options.as_json())


@MANY
@given(damaged(b"12\n") | st.binary(max_size=12) | st.text(max_size=6).map(as_bytes))
def test_pause(data: bytes) -> None:
    with cell_with(pause=data) as cell:
        assert isinstance(cell.pause_after, int) and cell.pause_after >= 0
        _ = cell.is_paused


@MANY
@given(as_file(SENT))
def test_what_was_sent(data: bytes) -> None:
    """Derived: a broken entry is none."""
    with cell_with(mlflow_json=data) as cell:
        path, new = cell / sync_state.SYNC_FILE, sync_state.SyncState(run_id="r")
        for state in sync_state.read_sync_states(path).values():
            assert isinstance(state.run_id, str | None) and isinstance(state.lines, int | None)
        sync_state.find_run_id(cell, "x", "y", "place")
        sync_state.record_sent(path, "new", new)
        assert sync_state.read_sync_state(path, "new") == new


@MANY
@given(as_file(HEADER, LINE))
def test_bundle(data: bytes) -> None:
    with cell_with(x_jsonl=data) as cell:
        try:
            bundle = read_bundle(cell / "x.jsonl")
        except UserError as error:
            text = str(error)
            assert "x.jsonl" in text and "\n" not in text
            assert "`harness tables FILE`" in text or "unknown method" in text
            return
        with contextlib.suppress(UserError):
            terminal_text(table_blocks(bundle))
            results_page(bundle)
            curve_files(bundle)


TUNING: dict[str, Any] = {
    "tuning": 1,
    "name": "tiny",
    "direction": "maximize",
    "metric": "validation/accuracy",
    "studies": {"kd": {}},
}
TRIAL: dict[str, Any] = {
    "trial": 0,
    "method": "kd",
    "state": "COMPLETE",
    "value": 0.5,
    "params": {"kd.alpha": 0.5},
    "distributions": {"kd.alpha": distribution_to_json(FloatDistribution(0.1, 1.0))},
    "curve": {"1": 0.25, "2": 0.5},
}
PRUNED = TRIAL | {"trial": 1, "state": "PRUNED", "value": None}


@MANY
@given(as_file(TUNING, TRIAL, PRUNED))
def test_tuning_bundle(data: bytes) -> None:
    with cell_with(x_jsonl=data) as cell:
        try:
            read_tuning_bundle(cell / "x.jsonl")
        except UserError as error:
            assert "x.jsonl: not a bundle" in str(error) and "\n" not in str(error)
            assert "`harness tune` writes it again" in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, trial: header.pop("metric"), "line 1 .*metric: missing"),
        (lambda header, trial: header.update(tuning=2), "line 1 is of another format"),
        (lambda header, trial: header.update(studies={"plain": {}}), "no trials of plain"),
        (lambda header, trial: trial.update(curve={"one": 0.5}), "line 2 .*curve"),
        (lambda header, trial: trial.update(state="DONE"), "line 2 .*state"),
        (lambda header, trial: trial.update(params={}), "trial 0 of kd: "),
    ],
)
def test_a_tuning_bundle_says_which_field(
    change: Callable[[Any, Any], Any], message: str, tmp_path: Path
) -> None:
    header, trial = json.loads(json.dumps([TUNING, TRIAL]))
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(header)}\n{json.dumps(trial)}\n")
    assert [t.value for t in read_tuning_bundle(path).studies["kd"].trials] == [0.5]
    change(header, trial)
    path.write_text(f"{json.dumps(header)}\n{json.dumps(trial)}\n")
    with pytest.raises(UserError, match=message):
        read_tuning_bundle(path)


@pytest.fixture
def checked(tmp_path: Path) -> CellDir:
    """Return a cell whose manifest and journal have checksums."""
    cell = CellDir(tmp_path / "0123456789abcdef")
    cell.path.mkdir()
    cell.extend(EVENTS)
    cell.finish(Manifest.model_validate(MANIFEST))
    return cell


READERS: dict[str, Callable[[CellDir], Any]] = {
    "manifest.json": lambda cell: cell.manifest,
    "journal.jsonl": lambda cell: cell.events(),
}


@pytest.mark.parametrize("name", READERS)
def test_no_flipped_bit_goes_unnoticed(checked: CellDir, name: str) -> None:
    """Wherever it is, also in the checksum and in the ends of lines."""
    data = (checked / name).read_bytes()
    READERS[name](checked)
    assert 8 * len(data) > 2000
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (checked / name).write_bytes(flipped)
        with pytest.raises(Damaged, match=name):
            READERS[name](checked)


@pytest.mark.parametrize("name", READERS)
def test_another_cells_file_is_refused(checked: CellDir, name: str) -> None:
    other = CellDir(checked.path.with_name("fedcba9876543210"))
    other.path.mkdir()
    (other / name).write_bytes((checked / name).read_bytes())
    with pytest.raises(Damaged, match="is of another cell"):
        READERS[name](other)


def test_files_of_versions_without_checksums_are_read_and_named(checked: CellDir) -> None:
    assert checked.unchecked == []
    manifest, events = checked.manifest, checked.events()
    (checked / "manifest.json").write_text(canonical(MANIFEST) + "\n")
    (checked / "journal.jsonl").write_text("".join(canonical(e) + "\n" for e in EVENTS))
    assert checked.manifest == manifest and checked.events() == events
    assert checked.unchecked == ["manifest.json", "journal.jsonl"]
    checked.append("stopped")
    assert [e["event"] for e in checked.events()[-2:]] == ["failed", "stopped"]
    assert "journal.jsonl" in checked.unchecked


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


PREDICTIONS: dict[str, Any] = {
    "labels": np.array([0, 1, 1], np.uint8),
    "predictions": np.array([0, 0, 1], np.uint8),
    "class_names": np.array(["a", "b"]),
}
OTHER: SearchStrategy[Any] = st.sampled_from(
    [
        np.zeros(3), np.zeros((3, 1), int), np.zeros(2, int), np.array(1), np.array([], int),
        np.array(["a", "b", "c"]), np.array([0, 1, 2]), np.array([0, -1, 1]), np.zeros(3, bool),
        np.array([0, 1, 2**63], np.uint64), np.array(["\ud800", "b"]), np.array([b"a", b"b"]),
        np.array([1 + 1j] * 3), np.zeros(3, "datetime64[s]"), np.zeros(3, [("a", int)]),
    ]
)  # fmt: skip


@MANY
@given(
    st.one_of(
        damaged(npz(**PREDICTIONS)),
        st.dictionaries(st.sampled_from(list(PREDICTIONS)), OTHER, min_size=1).map(
            lambda other: npz(**(PREDICTIONS | other))
        ),
        st.sampled_from(list(PREDICTIONS)).map(
            lambda lost: npz(**{k: v for k, v in PREDICTIONS.items() if k != lost})
        ),
    )
)
def test_predictions(data: bytes) -> None:
    with cell_with(predictions_npz=data) as cell:
        found = read_predictions_file(cell / "predictions.npz")
        names = found["class_names"].tolist()
        for label, guess, n in confusion_of(found):
            assert names[label] is not None and names[guess] is not None and n > 0


def test_a_flipped_bit_of_predictions_never_goes_unnoticed(tmp_path: Path) -> None:
    """Wherever it is: refused, or nothing that is read has changed."""
    data = npz(**PREDICTIONS)
    path = tmp_path / "predictions.npz"
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with contextlib.suppress(Damaged):
            found = read_predictions_file(path)
            for name, expected in PREDICTIONS.items():
                np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, line: line["manifest"].pop("device"), "line 2 .*manifest.device: missing"),
        (lambda header, line: line["manifest"].update(epochs="2"), "line 2 .*manifest.epochs"),
        (lambda header, line: line.update(confusion=[[0, 2, 1]]), "line 2 .*not there"),
        (lambda header, line: line.update(entries=[]), "no student"),
        (lambda header, line: header.update(class_names=[1]), "line 1 .*class_names.0"),
        (lambda header, line: header["experiment"].pop("training"), "settings of .*'plain'"),
        (lambda header, line: header.update(published=[{"row": "x"}]), "published row"),
        (lambda header, line: header.update(bundle=2), "another format"),
        (lambda header, line: header.update(bundle=10**30), "no whole JSON"),
    ],
)
def test_a_bundle_says_which_field(change: Callable[[Any, Any], Any], message: str) -> None:
    header, line = json.loads(json.dumps([HEADER, LINE]))
    read_bundle(BUNDLE, f"{json.dumps(header)}\n{json.dumps(line)}\n")
    change(header, line)
    with pytest.raises(UserError, match=message):
        read_bundle(BUNDLE, f"{json.dumps(header)}\n{json.dumps(line)}\n")


@pytest.mark.parametrize("text", ["NaN", "1e999", "1" + "0" * 400, '"\\ud800"', "[" * 99999])
def test_what_json_alone_can_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is no whole JSON$"):
        parse_json(text.encode())
