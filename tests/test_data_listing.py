"""Which entries of a folder are a part, a class or an image, and which are ignored."""

import os
from pathlib import Path

import numpy as np
import pytest
from data_files import (
    encoded,
    folder,
    parquet,
    picture,
    structs,
    write_birds,
    write_class,
    write_parquet,
)
from helpers import Output, wrong

from harness.data import Dataset
from harness.data.listing import NOT_DRAWN, is_litter, part_of
from harness.run.inspect import print_data

pytestmark = pytest.mark.usefixtures("data_root")


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    return write_birds(tmp_path / "birds")


def n_images(dataset: Dataset) -> int:
    return len(dataset.train) + len(dataset.validation) + len(dataset.test)


def left(dataset: Dataset) -> dict[str, int]:
    return {line.reason: line.count for line in dataset.left_out}


LITTER = [".DS_Store", "._1.png", "Thumbs.db", "DESKTOP.INI", "Icon\r", "~$notes.docx", "@eaDir",
          "__MACOSX", ".ipynb_checkpoints", "$RECYCLE.BIN", "lost+found"]  # fmt: skip


@pytest.mark.parametrize("name", LITTER)
def test_what_no_person_put_there(birds: Path, name: str) -> None:
    assert is_litter(name)
    for place in (birds, birds / "train", birds / "test" / "gull", birds / "train" / "gull"):
        if "." in name[1:] or name[-1] == "\r":
            (place / name).write_bytes(b"\0\5\x16\7")
        else:
            write_class(place / name, range(2))
    dataset = folder(birds)
    assert dataset.class_names == ("crow", "gull", "wren") and n_images(dataset) == 75
    assert left(dataset) == {"hidden, or left behind by a program": 4}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *((n, "train") for n in ("train", "Training", "TRAIN", "training_set", "train2017")),
        *((n, "test") for n in ("test", "Testing", "Test-Images", "test data")),
        *((n, "validation") for n in ("val", "Valid", "validation", "dev", "val_split")),
        *((n, None) for n in ("trainer", "steam train", "testa", "valve", "gull", "tests", "")),
    ],
)
def test_words_for_parts(name: str, part: str | None) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("Train", "Test"), ("TRAIN", "test"), ("training_set", "test_set")],
)
def test_other_spellings_of_the_parts(birds: Path, train: str, test: str) -> None:
    digest = folder(birds).digest
    os.rename(birds / "train", birds / train)
    os.rename(birds / "test", birds / test)
    dataset = folder(birds)
    assert dataset.class_names == ("crow", "gull", "wren") and dataset.digest == digest


def test_archives_that_repeat_their_folder(birds: Path) -> None:
    digest = folder(birds).digest
    for part in ("train", "test"):
        os.rename(birds / part, birds / "x")
        (birds / part).mkdir()
        os.rename(birds / "x", birds / part / part)
    assert folder(birds).digest == digest


def test_what_lies_beside_parts_and_classes_is_counted(birds: Path, capsys: Output) -> None:
    write_class(birds / "valid" / "gull", range(7))
    write_class(birds / "unsorted", range(3))
    (birds / "README.md").touch()
    (birds / "train" / "labels.csv").touch()
    dataset = folder(birds)
    assert n_images(dataset) == 75
    assert left(dataset) == {
        f"in valid/: {NOT_DRAWN.format('folder')}": 7,
        "in unsorted/: neither train nor test": 3,
        "beside train/ and test/": 1,
        "beside the class folders": 1,
    }
    print_data(dataset)
    assert capsys.readouterr().out == ("birds: 3 classes; 54 train, 6 validation, 15 test images\n")
    assert f"1 beside train/ and test/ ({birds / 'README.md'})" in map(str, dataset.left_out)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("train", "seg_train", "no folder train/"),
        ("test", "validation", "dataset.test_size: 0.2"),
        ("test", "dev", "link test/ to dev/"),
    ],
)
def test_a_part_too_few(birds: Path, old: str, new: str, problem: str) -> None:
    os.rename(birds / old, birds / new)
    wrong(lambda: folder(birds), f"dataset.path: {birds} ", problem)


def test_parts_are_never_taken_for_classes(birds: Path, tmp_path: Path) -> None:
    write_class(birds / "Training" / "gull", range(2))
    wrong(lambda: folder(birds), "dataset.path: ", "Training/ and train/")
    os.rename(birds / "Training", birds / "train" / "Training")
    for part in ("train", "test"):
        os.rename(birds / part, birds / f"seg_{part}")
    wrong(lambda: folder(birds), "dataset.path: ", "seg_test/ and seg_train/")
    write_class(tmp_path / "flat" / "train", range(9))
    write_class(tmp_path / "flat" / "Test", range(9, 18))
    wrong(lambda: folder(tmp_path / "flat"), "dataset.path: ", "flat/")
    for name in ("gull", "wren"):
        write_class(tmp_path / "deep" / name / "train", range(9))
        write_class(tmp_path / "deep" / name / "test", range(9, 12))
    wrong(lambda: folder(tmp_path / "deep"), "dataset.path: ", "gull holds test/ and train/")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for k, name in enumerate(("bus", "train", "test tube")):
        write_class(tmp_path / "things" / name, range(9 * k, 9 * k + 9))
    assert folder(tmp_path / "things", validation=6).class_names == ("bus", "test tube", "train")


def test_images_behind_links_are_read(birds: Path, tmp_path: Path) -> None:
    write_class(tmp_path / "disk" / "more" / "yet more", range(300, 307))
    (tmp_path / "disk" / "more" / "one.png").write_bytes(encoded(picture(310)))
    (birds / "train" / "gull" / "disk").symlink_to(tmp_path / "disk" / "more")
    for part in ("train", "test"):
        (birds / part / "owl").symlink_to(tmp_path / "owls" / part)
        (tmp_path / "owls" / part).mkdir(parents=True)
        for i in range(5):
            image = encoded(picture(330 + i + 10 * (part == "test")))
            (tmp_path / "owls" / part / f"{i}.png").write_bytes(image)
    dataset = folder(birds, validation=12)
    assert n_images(dataset) == 75 + 8 + 10 and dataset.left_out == ()


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "a", "/"])
def test_circular_links_end(birds: Path, target: str) -> None:
    write_class(birds / "train" / "gull" / "a", range(300, 304))
    (birds / "train" / "gull" / "b").symlink_to(target)
    dataset = folder(birds)
    assert n_images(dataset) == 79
    (reason,) = left(dataset)
    assert reason.startswith("a link to a folder that ")


def test_a_circle_behind_a_link_ends(birds: Path, tmp_path: Path) -> None:
    write_class(tmp_path / "disk" / "more", range(300, 304))
    (tmp_path / "disk" / "more" / "back").symlink_to(tmp_path / "disk" / "more")
    (birds / "train" / "gull" / "disk").symlink_to(tmp_path / "disk" / "more")
    assert n_images(folder(birds)) == 79


def test_one_folder_for_two_classes(birds: Path) -> None:
    link = birds / "train" / "gull" / "x"
    for target in ("../wren", "../../test/gull"):
        link.symlink_to(target)
        wrong(lambda: folder(birds), "dataset: ", "is read for")
        link.unlink()
    (birds / "train" / "tern").symlink_to("gull")
    wrong(lambda: folder(birds), "dataset: ", "tern is read for")


@pytest.mark.parametrize("place", ["train/owl", "train/gull/owl", "train/gull/a.png"])
@pytest.mark.parametrize("target", ["nowhere", "{name}"])
def test_a_link_that_leads_nowhere_is_named(birds: Path, place: str, target: str) -> None:
    """A disk that is not mounted is no empty class."""
    (birds / place).symlink_to(target.format(name=Path(place).name))
    wrong(lambda: folder(birds), f"dataset: cannot read {birds / place} (")


def test_a_pipe_is_not_waited_for(birds: Path) -> None:
    os.mkfifo(birds / "train" / "gull" / "pipe.png")
    assert left(folder(birds)) == {"neither a file nor a folder": 1}


def test_a_file_name_that_is_not_utf8(birds: Path) -> None:
    place = os.fsencode(birds / "train" / "gull")
    with open(place + b"/m\xf6we.png", "wb") as file:
        file.write(encoded(picture(400)))
    assert n_images(folder(birds)) == 76
    with open(place + b"/m\xf6we\n2.png", "wb") as file:
        file.write(b"no image")
    wrong(lambda: folder(birds), "dataset: ", r"gull/m\udcf6we\n2.png: ")


def test_class_names_are_compared_as_people_read_them(birds: Path) -> None:
    os.rename(birds / "train" / "gull", birds / "train" / "mo\u0308we")
    os.rename(birds / "test" / "gull", birds / "test" / "m\u00f6we")
    dataset = folder(birds)
    assert dataset.test is not None and np.bincount(dataset.test.labels).tolist() == [5, 5, 5]
    write_class(birds / "train" / "m\u00f6we", range(3))
    wrong(lambda: folder(birds), "dataset: ", "look alike")
    os.rename(birds / "train" / "m\u00f6we", os.fsencode(birds / "train") + b"/m\xf6we")
    wrong(lambda: folder(birds), "dataset: ", r"m\udcf6we is not")


def test_a_class_in_another_case(birds: Path) -> None:
    os.rename(birds / "test" / "gull", birds / "test" / "Gull")
    wrong(lambda: folder(birds), "dataset: ", "'Gull'", "'gull'")


# Parquet


def write_parts(path: Path, *names: str) -> Path:
    for k, name in enumerate(names):
        write_parquet(path / name, structs(range(9 * k, 9 * k + 9)), [0, 1, 2] * 3)
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet", "test.parquet"),
        ("Training-1.parquet", "TEST.PARQUET"),
        ("default/train/0000.parquet", "default/Testing/0000.parquet"),
    ],
)
def test_parquet_parts(tmp_path: Path, names: tuple[str, str]) -> None:
    path = write_parts(tmp_path / "x", *names, ".hidden.parquet", "__MACOSX/train.parquet")
    (path / "validation-0.parquet").write_bytes((path / names[0]).read_bytes())
    dataset = parquet(path, validation=3)
    assert dataset.test is not None and len(dataset.test) == 9
    np.testing.assert_array_equal(dataset.test.pixels()[0], picture(9))
    assert left(dataset) == {NOT_DRAWN.format("files"): 1}


def test_a_file_of_a_row_is_missing(tmp_path: Path) -> None:
    one, two = (f"train-0000{k}-of-00002.parquet" for k in range(2))
    path = write_parts(tmp_path / "x", one, "test.parquet")
    wrong(lambda: parquet(path), "dataset.path: ", "train-*-of-*", "1 of 2")
    write_parts(path, two)
    assert len(parquet(path, validation=3).train) == 15
    write_parts(path, "train-00000-of-00001.parquet")
    wrong(lambda: parquet(path), "dataset.path: ", "1 of 1 and 2 of 2")
