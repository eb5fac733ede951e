"""Trained networks in use: found, loaded, asked, measured, exported."""

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from data_files import encoded, write_birds
from helpers import TINY, Output, Patch, cells, mlflow_client, wrong
from PIL import Image

import harness
from harness.cli import main
from harness.common.errors import UserError
from harness.data import Dataset, load
from harness.data.placement import on_device
from harness.data.sets.digits import DigitsOptions
from harness.data.sets.folder import FolderOptions
from harness.experiment.file import read
from harness.networks import build
from harness.networks.wide_resnet import WideResNetOptions
from harness.plan import TEACHER
from harness.run.find_model import TrainingFilter, choose
from harness.run.grid import plan_of
from harness.store import CellDir
from harness.train.checkpoint import about, to_bytes
from harness.trained.graph import pixel_model, to_onnx
from harness.trained.measure import evaluate, n_trained_on
from harness.trained.model import TrainedModel, read_model
from harness.trained.predict import picture_files

FILE = "experiments/tiny.yaml"


@pytest.fixture
def project(project: Path, monkeypatch: Patch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    return project


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DigitsOptions(validation=100, test=1400))


def logits(model: TrainedModel, data: Dataset) -> torch.Tensor:
    """Return the logits of the first test images, preprocessed like pictures."""
    with torch.no_grad():
        return model(torch.stack([model.preprocess(image) for image in data.test.pixels()[:50]]))


def predictions_of(cell: CellDir) -> np.ndarray:
    return np.load(cell / "predictions.npz")["predictions"]


def said(capsys: Output, *arguments: str, status: int = 0) -> str:
    """Return what a command printed, or its line on stderr."""
    assert main([*arguments]) == status
    printed = capsys.readouterr()
    return printed.err if status else printed.out


# -- the file --------------------------------------------------------------------------------------


def test_the_file_says_what_it_is_of(project: Path, digits: Dataset) -> None:
    content = torch.load(cells(project)["kd"] / "model.pt", weights_only=True)
    assert content.keys() == {"state_dict", "validating_accuracy", "epoch", "about"}
    assert content["about"] == {
        "network": cells(project)["kd"].cell.config.as_json()["network"],
        "classifies": True,
        "data": "digits",
        "data_digest": digits.digest,
        "class_names": [str(c) for c in range(10)],
        "mean": list(digits.mean),
        "std": list(digits.std),
        "image_size": [8, 8],
        "resize": 8,
    }
    assert not torch.load(cells(project)["stage1"] / "model.pt")["about"]["classifies"]


def test_crops_are_cut_of_larger_pictures(data_root: Path, tmp_path: Path) -> None:
    """A picture goes the way of the test images: CUB's too, of any shape."""
    options = FolderOptions(
        path=write_birds(tmp_path / "birds", height=60, width=75),
        image_size=28,
        augmentation="resized-crop",
    )
    data = load(options)
    network = WideResNetOptions(depth=10, width=1)
    said_of = about(network, data, data.digest)
    assert (said_of["resize"], said_of["image_size"]) == (32, [28, 28])
    model = TrainedModel(build("wide_resnet", 3, depth=10, width=1), said_of)
    images = on_device(data, data.test, torch.device("cpu"), n_workers=0)
    (batch,) = images.plain(batch_size=100)
    files = sorted((tmp_path / "birds" / "test").rglob("*.png"))
    ours = torch.stack([model.preprocess(file) for file in files])
    torch.testing.assert_close(ours, batch.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["path", "bytes", "PIL", "array", "grey"])
def test_a_picture_may_come_in_any_form(project: Path, digits: Dataset, form: str) -> None:
    model = harness.load_student(cells(project)["kd"].path)
    image = digits.test.pixels()[3]
    given: Any = {
        "bytes": encoded(image),
        "PIL": Image.fromarray(image),
        "array": image,
        "grey": image[..., 0],
        "path": None,
    }[form]
    if form == "path":
        given = project / "three.png"
        given.write_bytes(encoded(image))
    (first,) = on_device(digits, digits.test.subset(np.array([3])), torch.device("cpu"), 0).plain()
    torch.testing.assert_close(model.preprocess(given), first.x[0], rtol=0, atol=1e-6)


def test_what_is_no_picture_is_said(project: Path, tmp_path: Path) -> None:
    model = harness.load_student(cells(project)["kd"].path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match=r"text\.png: cannot be read as an image"):
        model.preprocess(tmp_path / "text.png")
    with pytest.raises(UserError, match="an array of float64; give uint8"):
        model.preprocess(np.zeros((8, 8, 3)))


# -- which network ---------------------------------------------------------------------------------


def test_all_ways_lead_to_the_same_network(project: Path, digits: Dataset) -> None:
    cell = cells(project)["stage2"]
    found = harness.load_student("tiny", student="wrn-10-1", method="refilled")
    assert not found.training and found.class_names == tuple("0123456789")
    expected = logits(found, digits)
    assert (expected.argmax(1).numpy() == predictions_of(cell)[:50]).all()
    for source in (cell.path.name, cell.path.name[:12], cell.path, cell / "model.pt"):
        assert torch.equal(logits(harness.load_student(source), digits), expected)
    by_file = harness.load_student(FILE, method="refilled", seed=0, store=project / "runs")
    assert torch.equal(logits(by_file, digits), expected)
    changed = harness.load_student(FILE, method="refilled", changes=["description=other"])
    assert torch.equal(logits(changed, digits), expected)


def test_a_cell_from_before_files_said_it(project_copy: Path, digits: Dataset) -> None:
    for kind, classifies in (("kd", True), ("stage1", False)):
        path = cells(project_copy)[kind] / "model.pt"
        expected = harness.load_student(path)
        content = torch.load(path, weights_only=True)
        del content["about"]
        path.write_bytes(to_bytes(content))
        found = harness.load_student(path.parent)
        assert torch.equal(logits(found, digits), logits(expected, digits))
        assert found.classifies is classifies
        with pytest.raises(UserError, match=r"MODEL: .*import-checkpoint"):
            harness.load_student(path)


def test_a_first_stage_embeds_and_does_not_classify(project: Path, digits: Dataset) -> None:
    model = harness.load_student(cells(project)["stage1"].path)
    x = model.preprocess(digits.test.pixels()[0])[None]
    assert model.embed(x).shape == (1, 64)
    with pytest.raises(UserError, match="only its embedding is trained"):
        model.probabilities([])
    with pytest.raises(UserError, match="only its embedding is trained"):
        evaluate(model, "digits")


@pytest.mark.parametrize(
    ("source", "given", "field", "parts"),
    [
        ("tiny", {}, "method", ("teacher, plain, kd, refilled",)),
        ("tiny", {"method": "ks"}, "method", ("'ks'", "teacher, plain, kd, refilled")),
        ("tiny", {"method": "kd", "student": "wrn-16-1"}, "student", ("'wrn-16-1'", "wrn-10-1")),
        ("tiny", {"method": "kd", "seed": 3}, "seed", ("3", "0")),
        ("tiny", {"method": "kd", "shots": 3}, "shots", ("3", "all")),
        ("tinny", {}, "MODEL", ("'tinny'", "'tiny'")),
        ("0000000", {}, "MODEL", ("runs", "0000000")),
        ("missing.pt", {}, "MODEL", ("missing.pt",)),
        ("missing.pt", {"method": "kd"}, "method", ("experiment",)),
        ("tiny", {"method": "kd", "store": "elsewhere"}, "MODEL", ("kd wrn-10-1 s0", "elsewhere")),
        ("tiny", {"method": "kd", "changes": ["kd.alpha=0.1"]}, "MODEL", ("runs", "harness run")),
        ("models:/nobody@teacher", {}, "MODEL", ("models:/nobody@teacher",)),
    ],
)
def test_a_network_that_is_not_there(
    project: Path, source: str, given: dict[str, Any], field: str, parts: tuple[str, ...]
) -> None:
    assert wrong(lambda: harness.load_student(source, **given), *parts).startswith(f"{field}: ")


def test_of_tasks_and_seeds_one_is_meant(project: Path) -> None:
    changes = ["tasks={shots: [5, 20]}", "seeds=[4, 2]", "methods=[plain, kd]"]
    plan = plan_of(read(Path(FILE), changes))
    with pytest.raises(UserError, match=r"^shots: .* 5, 20"):
        choose(plan, TrainingFilter(method="kd"))
    for shots in (20, "20"):
        entry = choose(plan, TrainingFilter(method="kd", shots=shots))
        assert (entry.seed, entry.dimensions["shots"]) == (4, 20)
    assert choose(plan, TrainingFilter(method="kd", shots=5, seed=2)).seed == 2
    assert choose(plan, TrainingFilter(method=TEACHER)).stage == TEACHER
    several = plan_of(read(Path(FILE), ["students=[{depth: 10, width: 1}, {depth: 10, width: 2}]"]))
    with pytest.raises(UserError, match=r"^student: .* wrn-10-1, wrn-10-2"):
        choose(several, TrainingFilter(method="kd"))


NAMED = {"network": {"network": "wide_resnet", "depth": 10, "width": 1}, "class_names": ["a", "b"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "about": NAMED}, "checkpoint: {} "),
        ({"state_dict": {}, "about": NAMED | {"class_names": []}}, "checkpoint: {} "),
        ({"state_dict": {}, "about": {}}, "MODEL: {} "),
        ({"about": NAMED | {"class_names": 2}}, "MODEL: {} "),
        ({"state_dict": {}, "about": None}, "MODEL: {} "),
        ([1], "MODEL: {} "),
    ],
)
def test_a_file_that_does_not_fit_itself_is_refused(
    tmp_path: Path, content: Any, message: str
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(to_bytes(content))
    assert wrong(lambda: read_model(path)).startswith(message.format(path))


def test_a_file_that_lacks_a_field_is_refused(project: Path, tmp_path: Path) -> None:
    content = torch.load(cells(project)["kd"] / "model.pt", weights_only=True)
    for field in content["about"]:
        rest = {k: v for k, v in content["about"].items() if k != field}
        (tmp_path / "model.pt").write_bytes(to_bytes({**content, "about": rest}))
        with pytest.raises(UserError, match=r"^MODEL: "):
            read_model(tmp_path / "model.pt")


# -- predict and evaluate --------------------------------------------------------------------------


def write_pictures(folder: Path, data: Dataset, n: int, names: Any = str) -> list[Path]:
    """The first test images, by class, in the order of the files."""
    found = []
    for i, (image, label) in enumerate(zip(data.test.pixels()[:n], data.test.labels, strict=False)):
        path = folder / names(label) / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
        found.append(path)
    return found


def test_predict_writes_csv(project: Path, digits: Dataset, tmp_path: Path, capsys: Output) -> None:
    paths = write_pictures(tmp_path, digits, 30, names=lambda label: "all")
    (tmp_path / "all" / ".hidden").write_text("")
    folder = str(tmp_path / "all")
    text = said(capsys, "predict", "tiny", folder, "--method", "kd")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["file"] for row in rows] == [str(p) for p in paths]
    expected = predictions_of(cells(project)["kd"])[:30]
    assert [row["class"] for row in rows] == [str(label) for label in expected]
    probabilities = logits(harness.load_student("tiny", method="kd"), digits).softmax(1)
    for row, wanted in zip(rows, probabilities.max(1).values.tolist(), strict=False):
        assert float(row["probability"]) == pytest.approx(wanted, abs=1e-4)
    out = tmp_path / "out.csv"
    cell = cells(project)["kd"].path.name[:10]
    line = said(capsys, "predict", cell, folder, str(paths[0]), "--out", str(out))
    assert line == f"31 predictions in {out}\n"
    assert out.read_text().startswith(text)
    odd = shutil.copy(paths[0], tmp_path / os.fsdecode(b"\x1b\xff.png"))
    said(capsys, "predict", cell, str(odd), "--out", str(out))
    assert "\\x1b\\udcff.png," in out.read_text()


@pytest.mark.parametrize(
    ("images", "message"),
    [("nothing.png", "no file nothing.png; check"), ("empty", "no files in the folder empty")],
)
def test_images_that_are_not_there(here: Path, images: str, message: str) -> None:
    Path("empty").mkdir()
    wrong(lambda: picture_files([Path(images)]), message)


def test_evaluate_gives_the_tables_number(
    project: Path, digits: Dataset, tmp_path: Path, capsys: Output
) -> None:
    cell = cells(project)["stage2"]
    accuracy = cell.manifest.results["accuracy"]["selected"]
    model = ("tiny", "--method", "refilled")
    text = said(capsys, "evaluate", *model, "--dataset", FILE)
    n = round(accuracy * 1400)
    assert text == f"accuracy {100 * accuracy:.2f} %: {n} of 1400 images correct (test of digits)\n"
    validation = said(capsys, "evaluate", *model, "--dataset", FILE, "--part", "validation")
    assert "of 100 images correct (validation of digits)" in validation
    write_pictures(tmp_path / "some", digits, 40)
    right = (predictions_of(cell)[:40] == np.load(cell / "predictions.npz")["labels"][:40]).sum()
    text = said(capsys, "evaluate", *model, "--dataset", str(tmp_path / "some"))
    assert f" {right} of 40 images correct ({tmp_path / 'some'})" in text
    nested = said(capsys, "evaluate", *model, "--dataset", "digits")
    assert "of 500 images correct (test of digits)\n" in nested, "another split of the same seed"
    split = TINY | {"dataset": {"name": "digits", "split_seed": 5}}
    (tmp_path / "split.yaml").write_text(yaml.safe_dump(split))
    other = said(capsys, "evaluate", *model, "--dataset", str(tmp_path / "split.yaml"))
    trained = {image.tobytes() for image in digits.train.pixels()}
    drawn = load(DigitsOptions(split_seed=5)).test.pixels()
    n_seen = sum(image.tobytes() in trained for image in drawn)
    assert n_seen > 50 and f"(test of digits)\nwarning: {n_seen} of these images are" in other
    assert "warning" not in text + validation + nested
    for image, path in zip(digits.train.pixels(), ("a.png", "b.png"), strict=False):
        (tmp_path / "some" / "0" / path).write_bytes(encoded(image))
    text = said(capsys, "evaluate", *model, "--dataset", str(tmp_path / "some"))
    assert " of 42 images correct" in text and "warning: 2 of these images are" in text
    file = str(cell / "model.pt")
    said_less = said(capsys, "evaluate", file, "--dataset", "digits")
    assert "warning: it was trained with another split" in said_less, "its images are not known"


def test_it_counts_the_images_of_its_own_task(project: Path, digits: Dataset) -> None:
    """Crops of larger images, too, are compared as the network gets them."""
    model = harness.load_student("tiny", method="kd")
    images = np.pad(digits.train.pixels()[:7], ((0, 0), (2, 2), (2, 2), (0, 0)))
    assert n_trained_on(model, images) == 7
    assert n_trained_on(model, images[:, ::-1]) == 0
    model.cell = None
    assert n_trained_on(model, images) is None


def test_classes_it_has_not_learned_are_left_out(
    project: Path, digits: Dataset, tmp_path: Path
) -> None:
    model = harness.load_student("tiny", method="kd")
    write_pictures(tmp_path / "some", digits, 40, lambda label: "new" if label == 1 else str(label))
    n_new = int((digits.test.labels[:40] == 1).sum())
    found = evaluate(model, str(tmp_path / "some"))
    assert (found.n, found.unknown) == (40 - n_new, n_new) and n_new > 0
    assert f"; {n_new} images of unknown classes left out (" in str(found)


def test_a_part_of_a_folder(project: Path, digits: Dataset, tmp_path: Path) -> None:
    model = harness.load_student("tiny", method="kd")
    sizes = {"train": 12, "val": 11, "test": 10}
    for name, n in sizes.items():
        write_pictures(tmp_path / name, digits, n, str)
    found = [evaluate(model, str(tmp_path), p).n for p in ("train", "validation", "test")]
    assert found == [*sizes.values()]
    wrong(lambda: evaluate(model, str(tmp_path / "val"), "validation"), "has no folder val/")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            "digit",
            "'digit' is no folder, no experiment file and no data set; did you mean 'digits'",
        ),
        ("birds", "none of its classes is one of the network's; these are 0, 1, 2, 3, 4, .."),
        ("birds.yaml", "has images of 32x32 pixels, the network has learned from 8x8"),
    ],
)
def test_data_that_do_not_fit(
    project_copy: Path, data_root: Path, dataset: str, message: str
) -> None:
    write_birds(Path("birds"))
    text = Path(FILE).read_text().splitlines()
    start = next(i for i, line in enumerate(text) if line.startswith("dataset:"))
    stop = next(i for i in range(start + 1, len(text)) if not text[i].startswith(" "))
    own = "dataset: {name: folder, path: birds}"
    Path("birds.yaml").write_text("\n".join([*text[:start], own, *text[stop:]]))
    model = harness.load_student("tiny", method="kd")
    wrong(lambda: evaluate(model, dataset), message)


# -- elsewhere -------------------------------------------------------------------------------------


def test_an_onnx_file_says_the_same(project: Path, digits: Dataset, tmp_path: Path) -> None:
    import onnxruntime

    model = harness.load_student("tiny", method="kd")
    to_onnx(model, tmp_path / "new" / "kd.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "new" / "kd.onnx")
    pixels = digits.test.pixels()[:50].transpose(0, 3, 1, 2).astype(np.float32) / 255
    (ours,) = session.run(["logits"], {"images": pixels})
    np.testing.assert_allclose(ours, logits(model, digits).numpy(), rtol=0, atol=1e-4)
    said_in = session.get_modelmeta().custom_metadata_map
    assert json.loads(said_in["class_names"]) == list(model.class_names)
    assert (said_in["image_size"], said_in["resize"]) == ("[8, 8]", "8")


def test_export_says_what_it_needs(project: Path, monkeypatch: Patch, capsys: Output) -> None:
    command = ("export", "tiny", "--method", "kd")
    assert "--onnx: missing" in said(capsys, *command, status=2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package onnx; `pip install 'refilled-harness"):
        to_onnx(harness.load_student(cells(project)["kd"].path), Path("never.onnx"))


def test_a_registered_teacher_is_an_mlflow_model(project: Path, digits: Dataset) -> None:
    import mlflow

    uri = "models:/tiny-wrn-10-1@teacher"
    ours = harness.load_student(uri)
    cell = cells(project)["supervised"]
    expected = logits(harness.load_student(cell.path), digits)
    assert torch.equal(logits(ours, digits), expected)
    server = f"sqlite:///{project / 'mlflow.db'}"
    mlflow.set_tracking_uri(server)
    mlflow.set_registry_uri(server)
    module = mlflow.pytorch.load_model(uri)
    pixels = torch.from_numpy(digits.test.pixels()[:50]).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(module(pixels), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(pixel_model(ours)(pixels[:3]), expected[:3], rtol=0, atol=1e-5)
    metadata = mlflow.models.get_model_info(uri).metadata
    assert metadata["class_names"] == list(ours.class_names)
    version = mlflow_client(project).get_model_version_by_alias("tiny-wrn-10-1", "teacher")
    assert version.tags["sha256"] == cell.manifest.model_sha256
