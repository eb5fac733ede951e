"""One's own images in parquet files, and what can be wrong with them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import (
    experiment,
    parquet,
    part_digests,
    picture,
    structs,
    write_parquet,
    write_tiny,
)
from helpers import wrong

from harness.data import load
from harness.data.decode import size_of
from harness.data.sets.parquet import ParquetOptions
from harness.data.views import join_validation

pytestmark = pytest.mark.usefixtures("data_root")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


def test_parquet_in_two_lines_of_yaml(tiny: Path) -> None:
    dataset = load(experiment(name="parquet", path=str(tiny)).dataset)
    assert dataset.name == "tiny" and dataset.class_names == ("0", "1", "2")
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [27, 3, 6]
    np.testing.assert_array_equal(dataset.test.pixels(), [picture(s) for s in range(30, 36)])
    np.testing.assert_array_equal(dataset.test.labels, np.arange(6) % 3)
    both = join_validation(dataset).train.pixels()
    assert sorted(i.tobytes() for i in both) == sorted(picture(s).tobytes() for s in range(30))


def test_parts_are_frozen(tiny: Path) -> None:
    assert part_digests(parquet(tiny)) == "c579cfee0f06 0638dba266b1 984026ef4399"
    assert (
        part_digests(parquet(tiny, split_seed=3, validation=6))
        == "517d27903e8b 79bc30fda83f 984026ef4399"
    )
    drawn = parquet(tiny / "train-0-of-2.parquet", split_seed=3, validation=3)
    assert part_digests(drawn) == "a439765a97ea dfda749989a8 705e218ec86a"


def test_parquet_files_by_name(tiny: Path) -> None:
    train, test = sorted(tiny.glob("train*")), tiny / "test.parquet"
    whole = parquet(tiny)
    assert parquet(train=train, test=test).digest == whole.digest
    assert parquet(tiny, test=test).digest == whole.digest
    drawn = parquet(train[0], validation=4)
    assert drawn.test is not None and len(drawn.test) == 4 and len(drawn.train) == 12
    os.rename(test, tiny / "valid.parquet")
    wrong(lambda: parquet(tiny), "dataset.path: ", "valid.parquet", "dataset.test")
    assert parquet(tiny, test=tiny / "valid.parquet").digest == whole.digest
    for k, file in enumerate(train):
        os.rename(file, tiny / f"part{k}.parquet")
    wrong(lambda: parquet(tiny), "dataset.path: ", "dataset.train")
    wrong(lambda: parquet(tiny / "no"), "dataset.path: ", str(tiny / "no"))
    wrong(lambda: parquet(train=tiny / "no.parquet"), "dataset: ", "no.parquet (No such file")


def test_without_test_images_their_parquet_stays_closed(tiny: Path) -> None:
    train = parquet(tiny).train
    (tiny / "test.parquet").write_bytes(b"broken")
    blind = load(ParquetOptions(path=tiny), with_test=False)
    assert blind.test is None
    np.testing.assert_array_equal(blind.train.pixels(), train.pixels())


def test_columns_and_class_names(tmp_path: Path) -> None:
    labels = np.arange(12) % 2
    raw = [s["bytes"] for s in structs(range(12))]
    plain = write_parquet(tmp_path / "a.parquet", raw, labels, image="image", label="label")
    digest = parquet(plain, validation=2).digest
    odd = write_parquet(tmp_path / "b.parquet", raw, labels, image="photo", label="kind")
    wrong(lambda: parquet(odd), "dataset.image_column: ", "photo, kind")
    wrong(lambda: parquet(odd, image_column="foto"), "dataset.image_column: ", "'foto'", "photo")
    wrong(lambda: parquet(odd, image_column="photo"), "dataset.label_column: ", "photo, kind")
    columns = {"image_column": "photo", "label_column": "kind"}
    assert parquet(odd, validation=2, **columns).digest == digest
    named = write_parquet(tmp_path / "c.parquet", raw, labels, classes=["owl", "wren"])
    dataset = parquet(named, validation=2)
    assert dataset.class_names == ("owl", "wren") and dataset.digest == digest


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([0, 1, -1, 1, 0, 1], "row 2: negative label -1"),
        ([0, 1, 2, 1, 0, 1], "row 2: label 2 is"),
        ([0, 1, None, 1, 0, 1], "row 2: no label"),
        (list("ababab"), "dataset.label_column: fine_label of"),
        ([0.0, 1.0] * 3, "dataset.label_column: fine_label"),
        ([1] * 6, "'owl'"),
    ],
)
def test_wrong_labels(tmp_path: Path, labels: list[Any], problem: str) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, structs(range(6)), labels, classes=["owl", "wren"])
    wrong(lambda: parquet(path), str(path), problem)


@pytest.mark.parametrize(
    ("train", "test", "problem"),
    [
        ([0, 1] * 3, [0, 1, 2], "'2' has test images"),
        ([0, 1, 2] * 2, [0, 2, 0], "'1' has no test images"),
        ([0, 2] * 3, [0, 2, 0], "'1' has no training images"),
        ([0, 10**12] * 3, [0, 0, 0], "'1' has no training images"),
        ([0, 1] * 3, [0, 1, -7], "test.parquet, row 2: negative label -7"),
    ],
)
def test_train_and_test_must_fit(
    tmp_path: Path, train: list[int], test: list[int], problem: str
) -> None:
    write_parquet(tmp_path / "x" / "train.parquet", structs(range(6)), train)
    write_parquet(tmp_path / "x" / "test.parquet", structs(range(6, 9)), test)
    wrong(lambda: parquet(tmp_path / "x"), "dataset: ", problem)


def test_wrong_parquet_images(tmp_path: Path) -> None:
    good, path, labels = structs(range(6)), tmp_path / "x.parquet", [0, 1] * 3
    write_parquet(path, [*good[:4], {"bytes": b"?", "path": ""}, good[5]], labels)
    wrong(lambda: parquet(path), f"dataset: {path}, row 4: ", "image")
    write_parquet(path, [*good[:4], {"bytes": None, "path": "4.png"}, good[5]], labels)
    wrong(lambda: parquet(path), f"dataset: {path}, row 4: only the path 4.png", "bytes")
    write_parquet(path, [*good[:4], {"bytes": None, "path": None}, good[5]], labels)
    wrong(lambda: parquet(path), f"dataset: {path}, row 4: no image")
    write_parquet(path, ["a.png"] * 6, labels)
    wrong(lambda: parquet(path), "dataset.image_column: img", "string")
    path.write_bytes(b"PAR1 no")
    wrong(lambda: parquet(path), f"dataset: {path}: ")
    write_parquet(path, good, labels)
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\0" * 300 + content[500:])
    wrong(lambda: parquet(path), str(path))


def _pets(path: Path, split: str, names: list[str] | None, labels: list[int]) -> None:
    classes = {} if names is None else {"classes": names}
    seed = sum(split.encode())
    images = structs(range(seed, seed + len(labels)))
    write_parquet(path / f"{split}.parquet", images, labels, **classes)


def _labels_by_name(path: Path) -> dict[str, int]:
    """Class -> number of test images."""
    dataset = parquet(path, validation=2)
    counts = np.bincount(dataset.test.labels, minlength=len(dataset.class_names)).tolist()
    return dict(zip(dataset.class_names, counts, strict=True))


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (["cat", "dog"], ["cat", "dog"], {"cat": 1, "dog": 3}),
        (["cat", "dog"], ["dog", "cat"], {"cat": 3, "dog": 1}),
        (["cat", "dog"], ["owl", "dog", "cat"], None),  # an owl among the test images
        (["cat", "dog"], ["dog", "cat", "owl"], {"cat": 3, "dog": 1}),  # a name without images
        (["cafe\u0301", "dog"], ["dog", " caf\u00e9 "], {"cafe\u0301": 3, "dog": 1}),
        (["cat", "dog"], ["Dog", "cat"], None),
        (["cat", "dog"], ["cat", "cat"], None),
        (["cat", "dog"], None, {"cat": 1, "dog": 3}),  # numbers are all that both have
        (None, ["cat", "dog"], {"0": 1, "1": 3}),
        (["cat", "dog"], ["0", "1"], {"cat": 1, "dog": 3}),
        (["1", "0"], ["0", "1"], {"1": 3, "0": 1}),
    ],
)
def test_classes_of_the_parts_are_matched_by_name(
    tmp_path: Path, train: Any, test: Any, expected: dict[str, int] | None
) -> None:
    _pets(tmp_path / "pets", "train", train, [0, 1] * 4)
    _pets(tmp_path / "pets", "test", test, [0, 1, 1, 1])
    if expected is not None:
        assert _labels_by_name(tmp_path / "pets") == expected
    else:
        wrong(lambda: parquet(tmp_path / "pets"), "dataset: ", "test.parquet")


def test_classes_of_the_files_of_a_part_are_matched_by_name(tmp_path: Path) -> None:
    labels = [0, 0, 0, 1]
    for k, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        write_parquet(tmp_path / f"{k}.parquet", structs(range(4 * k, 4 * k + 4)), labels,
                      classes=names)  # fmt: skip
    files = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    both = join_validation(parquet(train=files, validation=2, test_size=2)).train.labels
    assert len(both) == 6  # 8 images, 4 of each class, less the 2 for the test
    assert np.bincount(both).tolist() == [3, 3]
    wrong(
        lambda: parquet(train=files[:1], test=files[1:], test_size=2, image_column="no"),
        "dataset.image_column: ",
    )


def test_a_number_that_its_own_file_does_not_name(tmp_path: Path) -> None:
    _pets(tmp_path / "pets", "train", ["cat", "dog", "owl"], [0, 1, 2] * 3)
    _pets(tmp_path / "pets", "test", ["owl", "cat"], [0, 1, 2])
    wrong(lambda: parquet(tmp_path / "pets"), "test.parquet, row 2: label 2")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    images = pa.array(structs(range(4)))
    table = pa.Table.from_arrays([images, images, pa.array([0, 1] * 2)], ["img", "img", "label"])
    pq.write_table(table, tmp_path / "x.parquet")
    wrong(lambda: parquet(tmp_path / "x.parquet"), f"{tmp_path / 'x.parquet'}: ", "'img'")


def test_validation_files_of_their_own(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny")
    wrong(lambda: parquet(path, validation="files"), "dataset.validation: no validation*.parquet")
    write_parquet(path / "validation.parquet", structs(range(40, 49)), np.arange(9) % 3)
    dataset = parquet(path, validation="files")
    assert [len(p) for p in dataset.parts.values()] == [30, 9, 6] and not dataset.left_out
    np.testing.assert_array_equal(dataset.validation.images[0], picture(40))
    assert len(join_validation(dataset).train) == 39
    assert len(parquet(path).train) == 27, "unless asked for, they are drawn"
    (path / "test.parquet").unlink()
    for fields in ({}, {"validation": "files"}):
        wrong(lambda fields=fields: parquet(path, **fields), "no test", "dataset.test_size: 0.2")
    drawn = parquet(path, validation="files", test_size=6)
    assert [len(p) for p in drawn.parts.values()] == [24, 9, 6]
    options = ParquetOptions(path=path, validation="files", test_size=6)
    assert {size_of(encoded) for encoded in options.some_images(5)} == {(32, 32)}
    assert len(options.some_images(5)) == 5
