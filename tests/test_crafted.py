"""Files and names that somebody made up: one line, before they take memory or run anything."""

import csv
import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import wrong
from PIL import Image

from harness.analysis.tables.csv_and_latex import csv_text
from harness.analysis.tables.result_table import Cell, ResultTable
from harness.common.npz import read_npz
from harness.data.decode import Encoded, read_rgb
from harness.experiment.sources import apply_overrides
from harness.networks import build
from harness.networks.published_file import read_file
from harness.store.cell_files import Damaged
from harness.store.predictions import read_predictions_file
from harness.train.checkpoint import to_bytes
from harness.trained.model import read_model
from harness.trained.predict import as_csv

ABOUT: dict[str, Any] = {
    "network": {"network": "wide_resnet", "depth": 10, "width": 1, "dropout": 0.0},
    "classifies": True,
    "data": "digits",
    "data_digest": "",
    "class_names": ["a", "b"],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "image_size": [8, 8],
    "resize": 8,
}


def state() -> dict[str, torch.Tensor]:
    return build("wide_resnet", 2, depth=10, width=1).state_dict()


def repeated(value: float) -> torch.Tensor:
    """A tensor as large as the network's of which the file holds one number."""
    return torch.tensor(value).expand(state()["conv1.weight"].shape)


def packed(path: Path) -> None:
    """Make a zip archive of PyTorch unpack to more than it is."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr("archive/data/9999", bytes(10**6))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("image_size", size) for size in ([0, 8], [8, 0], [-8, 8], [8, 10**9], [8], "ab")),
        *(("resize", size) for size in (0, -1, 60_000, 10**30, float("inf"), "x")),
        *(("std", std) for std in ([0.0, 1, 1], [-1.0] * 3, [float("nan")] * 3, [1.0])),
        ("mean", [float("inf")] * 3),
        ("network", ABOUT["network"] | {"depth": 6_000_004}),
        ("network", ABOUT["network"] | {"width": 60_000}),
        ("network", {"network": "resnet", "depth": 6_000_002}),
        ("network", {"network": "pixels", "height": 10**6, "width": 10**6}),
        ("network", ABOUT["network"] | {"depth": 1204, "width": 64}),
        ("class_names", ["a", "b", "c"]),
    ],
)
def test_a_description_that_no_training_writes_is_refused(
    tmp_path: Path, field: str, value: Any
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(to_bytes({"state_dict": state(), "about": ABOUT}))
    assert read_model(path).class_names == ("a", "b")
    path.write_bytes(to_bytes({"state_dict": state(), "about": ABOUT | {field: value}}))
    assert len(wrong(lambda: read_model(path))) < 400


WEIGHTS: dict[str, Callable[[], Any]] = {
    "repeated": lambda: repeated(0.5),
    "nan": lambda: repeated(float("nan")).clone(),
    "on no device": lambda: torch.empty(16, 3, 3, 3, device="meta"),
    "no tensor": lambda: [1],
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_no_training_leaves_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.pt"
    content = {"state_dict": state() | {"conv1.weight": WEIGHTS[kind]()}, "about": ABOUT}
    path.write_bytes(to_bytes(content))
    assert str(path) in wrong(lambda: read_model(path))
    assert str(path) in wrong(lambda: read_file(path))


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(to_bytes({"state_dict": state(), "about": ABOUT}))
    packed(path)
    assert "compress" in wrong(lambda: read_model(path))
    assert "unpacks" in wrong(lambda: read_file(path))


def header(shape: str, descr: str = "|u1") -> bytes:
    """The beginning of an .npy file that claims to be of this shape."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "member",
    [
        bytes(2**20),  # more than may be
        header("(10**9,)") + b"x",
        header("(1000000000000,)") + b"x",
        header("(-1,)") + b"x",
        header("(4000, 4000, 4000)", "<f8") + b"x",
        header("(1,)") + b"xy",
        header("(1,)", "|O") + bytes(8),
        b"",
    ],
)
def test_arrays_that_claim_more_than_there_is_are_refused(tmp_path: Path, member: bytes) -> None:
    path = tmp_path / "predictions.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("labels", "predictions", "class_names"):
            archive.writestr(f"{name}.npy", member)
    with pytest.raises(Damaged):
        read_predictions_file(path)
    with pytest.raises(ValueError):
        read_npz(path.read_bytes(), ["labels"], most=2**19)


def test_whole_arrays_are_read() -> None:
    buffer, expected = io.BytesIO(), np.asfortranarray(np.arange(6).reshape(2, 3))
    np.savez_compressed(buffer, a=expected, b=np.array("text"))
    found = read_npz(buffer.getvalue(), ["a", "b"], most=1000)
    np.testing.assert_array_equal(found["a"], expected)
    assert str(found["b"]) == "text"
    with pytest.raises(ValueError, match="more than 100 bytes"):
        read_npz(buffer.getvalue(), ["a", "b"], most=100)


def test_a_picture_of_ten_thousand_million_pixels_is_named() -> None:
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (10**5).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    assert "a/huge.png" in (line := wrong(lambda: read_rgb(Encoded(bytes(data), "a/huge.png"))))
    assert "too many pixels" in line


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@a", "=cmd|' /C calc'!A0", "\x1b[2J\n=1"])
def test_a_name_in_a_csv_is_no_formula_and_no_escape(name: str) -> None:
    table = ResultTable([name, "x"], [[Cell(name), Cell(-1.5)], [Cell(), Cell()]])
    texts = csv_text(table), as_csv(iter([(name, name, 0.5)]))
    for row in [row for text in texts for row in csv.reader(io.StringIO(text))]:
        assert not any(x[:1] in ("=", "+", "@") or "\x1b" in x or "\n" in x for x in row)
    assert ",-1.50\n" in texts[0], "a number stays one"
    assert all(name[1:] in text or "\\x1b" in text for text in texts)


def test_a_number_of_twenty_thousand_digits_is_one_short_line() -> None:
    for text in ("9" * 20_000, f"[{'9' * 20_000}]"):
        line = wrong(lambda text=text: apply_overrides({}, [f"seeds={text}"]))
        assert line.startswith("--set seeds: ") and len(line) < 300 and "sys." not in line
    assert len(wrong(lambda: apply_overrides({}, ["9" * 20_000]))) < 200
