"""Options of data sets in an experiment file, and which of them are the data's identity."""

import json
from pathlib import Path
from typing import Any

import pytest
from data_files import experiment
from helpers import write_experiment, wrong

from harness.data import DATASETS
from harness.data.sets.cub import CubOptions
from harness.data.sets.digits import DigitsOptions
from harness.data.sets.folder import FolderOptions
from harness.data.sets.parquet import ParquetOptions
from harness.experiment.file import read


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"path": "x", "validation": 0}, "dataset.validation: "),
        ({"path": "x", "validation": 1.5}, "dataset.validation: "),
        ({"path": "x", "validation": True}, "dataset.validation: "),
        ({"path": "x", "test_size": "many"}, "dataset.test_size: "),
        ({"path": "x", "mean": [0.5, 0.5, 0.5]}, "dataset: mean and std "),
        ({"path": "x", "std": [0, 1, 1], "mean": [0, 0, 0]}, "dataset.std.0: "),
        ({"path": "x", "augmentation": "crops"}, "dataset.augmentation: "),
        ({"path": "x", "augmentation": "none", "padding": 4}, "dataset: padding "),
        ({"path": "x", "colour": 1}, "dataset.colour: "),
        ({"path": "x", "label": "a|b"}, "dataset.label: "),
        ({}, "dataset.path: "),
    ],
)
def test_wrong_fields(fields: dict[str, Any], problem: str) -> None:
    wrong(lambda: experiment(name="folder", **fields), problem)


def test_parquet_needs_one_place() -> None:
    for fields in ({}, {"path": "x", "train": "y"}):
        wrong(lambda f=fields: experiment(name="parquet", **f), "dataset: ", "path", "train")


def test_options_survive_json_and_are_complete() -> None:
    for name, fields in {
        "folder": {"path": "/data/birds", "augmentation": "resized-crop"},
        "parquet": {"train": "/data/tiny/train.parquet", "test": ["/data/tiny/a.parquet"]},
        "cub200": {"path": "/data/cub", "label": "cub10"},
        "cifar10": {},
        "tiny_imagenet": {"classes": "every second"},
    }.items():
        options = DATASETS[name].model_validate({"name": name, **fields})
        again = DATASETS[name].model_validate(json.loads(options.model_dump_json()))
        assert again == options


def test_which_data_come_without_a_test_split() -> None:
    """Their test images may have been among the training images of another split."""
    published = {"cifar10", "cifar100", "cub200", "fashion_mnist", "tiny_imagenet"}
    assert {n for n, options in DATASETS.items() if not options.test_is_drawn} == published


def test_default_labels() -> None:
    assert FolderOptions(path="/data/my birds/").label == "my-birds"
    assert ParquetOptions(path="/data/tiny").label == "tiny"
    assert ParquetOptions(path="/data/tiny.parquet").label == "tiny"
    assert ParquetOptions(train="/data/tiny/train.parquet").label == "tiny"
    assert ParquetOptions(path="/data/tiny", label="other").label == "other"


def test_identity_says_what_not_where() -> None:
    one = FolderOptions(path="/data/a")
    assert one.identity() == FolderOptions(path="/data/b", label="b").identity()
    assert one.identity() != FolderOptions(path="/data/a", image_size=64).identity()
    assert not {"path", "label"} & one.identity().keys()
    one, two = ParquetOptions(path="/a"), ParquetOptions(train="/b", test="/c", image_column="x")
    assert one.identity() == two.identity()
    assert CubOptions(path="/a").identity() == CubOptions().identity()


def test_identity_of_digits_is_all_of_its_options() -> None:
    options = DigitsOptions(validation=100)
    assert options.identity() == options.model_dump(mode="json")
    assert options.identity() == {"name": "digits", "validation": 100, "split_seed": 0, "test": 500}


def test_a_files_paths_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also outside the checkout: whoever has the file's folder has its data."""
    (tmp_path / "mine" / "elsewhere").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" / "elsewhere")
    changes: dict[str, Any] = {
        "../data": tmp_path / "mine" / "data",
        "/data/birds": Path("/data/birds"),
        "~/birds": Path("~/birds").expanduser(),
    }
    for path, expected in changes.items():
        fields = {"name": "folder", "path": path, "validation": 10}
        file = write_experiment(tmp_path / "mine" / "files" / "own.yaml", dataset=fields)
        assert read(file).dataset.model_dump()["path"] == expected
    assigned = read(file, ["dataset.path=here"]).dataset.model_dump()["path"]
    assert assigned == tmp_path / "mine" / "elsewhere" / "here"
    files = {"name": "parquet", "train": ["a.parquet", "b.parquet"], "test": "t.parquet"}
    found = read(write_experiment(file, dataset=files)).dataset.model_dump()
    assert found["train"] == tuple(file.parent / name for name in files["train"])
    assert found["test"] == (file.parent / "t.parquet",) and found["label"] == "files"
    few = {"name": "fashion_mnist", "train": 50}
    assert read(write_experiment(file, dataset=few)).dataset.model_dump()["train"] == 50
