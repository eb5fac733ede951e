"""Published checkpoints become teachers; hostile or wrong files are refused and run nothing."""

import contextlib
import os
import pickle
import tarfile
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from helpers import weights
from training import go

from harness.common.errors import UserError
from harness.data import load
from harness.data.views import View, apply
from harness.execute.scheduler import begin
from harness.experiment.experiment import Experiment
from harness.experiment.file import parse
from harness.networks import build
from harness.networks.published_file import read_file
from harness.networks.repdistiller import ARCHITECTURES
from harness.run.grid import plan_of
from harness.store import Store
from harness.train.exit_status import DONE
from harness.trained.import_checkpoint import (
    checked_model,
    import_checkpoint,
    infer_network,
    read_published,
)

TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"name": "digits", "validation": 100, "test": 1400},
    "network": "wide_resnet",
    "teacher": {"depth": 10, "width": 1},
    "students": [{"depth": 10, "width": 1}],
    "methods": ["kd"],
    "training": {"epochs": 1},
}


def experiment(**fields: Any) -> Experiment:
    return parse({**TINY, **fields})


def published(path: Path, **changes: Any) -> Path:
    """A file of the releases' format."""
    torch.manual_seed(0)
    state = build("wide_resnet", 10, depth=10, width=2).state_dict()
    content = {"state_dict": state, "validating_accuracy": np.float64(0.7644), "epoch": 193}
    torch.save({**content, **changes}, path)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wide_resnet", {"depth": 16, "width": 2}),
        ("wide_resnet", {"depth": 40, "width": 1}),
        ("resnet", {"depth": 20}),
        ("mobile_net", {"ca": 0.75}),
        *(("repdistiller", {"name": name}) for name in ARCHITECTURES),
    ],
)
def test_arguments_follow_from_shapes(name: str, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        state = build(name, 10, **options).state_dict()
    assert infer_network(state) == {"network": name, **options}


def test_a_checkpoint_of_the_benchmark_becomes_a_teacher(tmp_path: Path) -> None:
    """Its classifier has another name than here, and its file says other things."""
    state = build("repdistiller", 10, name="ShuffleV1").state_dict()
    content = {"opt": Namespace(model="ShuffleV1"), "model": state, "optimizer": {"state": {}}}
    torch.save({**content, "epoch": 240, "accuracy": torch.tensor(70.5)}, tmp_path / "t.pth")
    text = import_checkpoint(tmp_path / "t.pth", experiment(), tmp_path / "runs", "cpu")
    assert "claims 70.50 %" in text
    network, digest = {"network": "repdistiller", "name": "ShuffleV1"}, text.rpartition(": ")[2]
    assert "teacher: {network: repdistiller, name: ShuffleV1}" in text
    used = experiment(teacher=network, teacher_checkpoint=digest, methods=["probe", "vid"])
    plan = plan_of(used)
    progress = begin(plan, Store(tmp_path / "runs"))
    assert progress.count("done") == 1
    (probe,) = [c for c in plan.cells.values() if c.kind == "probe"]
    assert go(progress.store.prepare(probe)) == DONE
    assert weights(progress.store.prepare(probe)).keys() == state.keys()


def test_import_makes_a_teacher_that_an_experiment_uses(tmp_path: Path) -> None:
    text = import_checkpoint(published(tmp_path / "t.pth"), experiment(), tmp_path / "runs", "cpu")
    assert "depth: 10, width: 2" in text
    assert "claims 76.44 %" in text
    digest = text.rpartition("teacher_checkpoint: ")[2]

    used = experiment(teacher={"depth": 10, "width": 2}, teacher_checkpoint=digest, seeds=[0, 1])
    plan = plan_of(used)
    progress = begin(plan, Store(tmp_path / "runs"))
    assert [c.kind for c in plan.cells.values()].count("imported") == 1, "one cell for all seeds"
    assert progress.count("done") == 1
    manifest = progress.directory(next(iter(progress.cached_cells))).manifest
    assert f"{100 * manifest.results['accuracy']['last']:.2f} % on test" in text


def test_a_teacher_of_some_classes_is_measured_on_those(tmp_path: Path) -> None:
    """On the teacher's task of the experiment, for every student of which it is then found."""
    torch.manual_seed(0)
    state = build("wide_resnet", 5, depth=10, width=2).state_dict()
    file = published(tmp_path / "t.pth", state_dict=state)
    tasks = {"classes": 5, "order": [7, 1, 3, 0, 8, 2, 9], "overlap": [5, 3]}
    text = import_checkpoint(file, experiment(tasks=tasks), tmp_path / "runs", "cpu")

    network, digest = {"depth": 10, "width": 2}, text.rpartition("teacher_checkpoint: ")[2]
    used = experiment(tasks=tasks, teacher=network, teacher_checkpoint=digest)
    plan = plan_of(used)
    ((fingerprint, cell),) = plan.imported_teachers.items()
    assert cell.config.data.view.as_json() == {"classes": [7, 1, 3, 0, 8]}
    assert [c.kind for c in plan.cells.values()] == ["imported", "kd"]
    progress = begin(plan, Store(tmp_path / "runs"))
    assert progress.cached_cells == {fingerprint}

    model = checked_model({**state}, {"network": "wide_resnet", **network}, 5).eval()
    whole = load(used.dataset)
    seen = apply(whole, View(classes=(7, 1, 3, 0, 8)))
    pixels = torch.from_numpy(seen.test.pixels()).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (whole.mean, whole.std))
    with torch.no_grad():
        predicted = model((pixels - mean) / std).argmax(1).numpy()
    accuracy = float((predicted == seen.test.labels).mean())
    assert progress.directory(fingerprint).manifest.results["accuracy"]["last"] == accuracy
    assert progress.directory(fingerprint).manifest.data["digest"] == seen.digest

    others = experiment(tasks={**tasks, "order": "labels"}, teacher_checkpoint=digest)
    with pytest.raises(UserError, match=r"teacher_checkpoint: .* is not in"):
        begin(plan_of(others), Store(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("classes", "tasks", "message"),
    [
        (10, {"classes": 5}, "it has 10 classes, the experiment's teacher 5; name an exp"),
        (5, {"classes": 4, "new": 1}, "it has 5 classes, the experiment's teacher 4; name"),
        (5, None, "it has 5 classes, the experiment's teacher 10; name an experiment"),
        (5, {"classes": 5, "shots": [99]}, r"tasks\.shots: class '.' has \d+ training images"),
    ],
)
def test_a_file_of_another_number_of_classes_is_refused(
    tmp_path: Path, classes: int, tasks: dict[str, Any] | None, message: str
) -> None:
    state = build("wide_resnet", classes, depth=10, width=2).state_dict()
    file = published(tmp_path / "t.pth", state_dict=state)
    used = experiment(tasks=tasks, methods=["plain"])
    with pytest.raises(UserError, match=message):
        import_checkpoint(file, used, tmp_path / "runs", "cpu")
    assert not (tmp_path / "runs").exists()


def test_import_twice_is_one_cell(tmp_path: Path) -> None:
    file = published(tmp_path / "t.pth")
    first = import_checkpoint(file, experiment(), tmp_path / "runs", "cpu")
    assert import_checkpoint(file, experiment(), tmp_path / "runs", "cpu") == first
    assert len(Store(tmp_path / "runs").all()) == 1


def test_a_teacher_that_was_not_imported_is_refused(tmp_path: Path) -> None:
    plan = plan_of(experiment(teacher_checkpoint="0" * 64))
    with pytest.raises(UserError, match=r"teacher_checkpoint: 0+\.\.\. is not in .*import"):
        begin(plan, Store(tmp_path))


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch PWNED",))


@pytest.mark.parametrize("container", ["torch", "pickle"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(here: Path, container: str) -> None:
    if container == "torch":
        published(here / "t.pth", note=Hostile())
    else:
        (here / "t.pth").write_bytes(pickle.dumps({"state_dict": Hostile()}))
    with pytest.raises(UserError, match=r"FILE: .*refused"):
        import_checkpoint(here / "t.pth", experiment(), here / "runs", "cpu")
    assert not (here / "PWNED").exists()
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("layer2.0.conv1.weight", None, "layer2.0.conv1.weight: expected .* found nothing"),
        ("layer2.0.conv3.weight", (1,), "layer2.0.conv3.weight: expected nothing"),
        ("layer2.0.conv1.bias", (7,), r"layer2.0.conv1.bias: expected \(64,\), found \(7,\)"),
        ("fc.weight", (100, 128), "it has 100 classes, the experiment's teacher 10"),
        ("encoder.weight", (1,), "those of no network"),
    ],
)
def test_every_name_and_shape_is_checked(
    tmp_path: Path, name: str, size: tuple[int, ...] | None, message: str
) -> None:
    state = {} if name.startswith("encoder") else state_of()
    state.pop(name, None)
    state |= {name: torch.zeros(size)} if size else {}
    file = published(tmp_path / "t.pth", state_dict=state)
    with pytest.raises(UserError, match=message):
        import_checkpoint(file, experiment(), tmp_path / "runs", "cpu")
    assert not (tmp_path / "runs").exists()


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "t.pth")
    with pytest.raises(UserError, match="no `state_dict`"):
        import_checkpoint(tmp_path / "t.pth", experiment(), tmp_path / "runs", "cpu")
    with pytest.raises(UserError, match="no such checkpoint"):
        import_checkpoint(tmp_path / "none.pth", experiment(), tmp_path / "runs", "cpu")


# -- files that others have written ----------------------------------------------------------------


def state_of() -> dict[str, Any]:
    torch.manual_seed(0)
    return dict(build("wide_resnet", 10, depth=10, width=2).state_dict())


def prefixed(*prefixes: str) -> dict[str, Any]:
    return {"".join(prefixes) + k: v for k, v in state_of().items()}


def without_counters() -> dict[str, Any]:
    return {k: v for k, v in state_of().items() if "num_batches" not in k}


def as_parameters(state: dict[str, Any]) -> dict[str, Any]:
    return {k: torch.nn.Parameter(v, requires_grad=False) for k, v in state.items()}


LAYOUTS: dict[str, Any] = {
    "bare": state_of,
    "ordered": lambda: OrderedDict(state_of()),
    "parallel": lambda: {"state_dict": prefixed("module.")},
    "compiled": lambda: {"state_dict": prefixed("_orig_mod.")},
    "parallel and compiled": lambda: {"state_dict": prefixed("module.", "_orig_mod.")},
    "compiled and parallel": lambda: {"state_dict": prefixed("_orig_mod.", "module.")},
    "enclosed": lambda: {"state_dict": prefixed("module.", "student.")},
    "Lightning": lambda: {"state_dict": prefixed("model."), "epoch": 3, "global_step": 7},
    "under model": lambda: {"model": state_of(), "best_acc": 0.7},
    "under net": lambda: {"net": state_of(), "acc": 70.1, "epoch": 3},
    "nested": lambda: {"model": {"state_dict": state_of()}},
    "settings beside it": lambda: {"model": state_of(), "opt": Namespace(lr=0.1)},
    "logs beside it": lambda: {"state_dict": state_of(), "losses": np.arange(3.0)},
    "half precision": lambda: {"state_dict": {k: v.half() for k, v in state_of().items()}},
    "before 0.4.1": lambda: {"state_dict": without_counters()},
    "parameters": lambda: {"state_dict": as_parameters(state_of())},
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(tmp_path: Path, layout: str, zipped: bool) -> None:
    path = tmp_path / "t.pth"
    torch.save(LAYOUTS[layout](), path, _use_new_zipfile_serialization=zipped)
    found = read_published(path)
    assert found.network == {"network": "wide_resnet", "depth": 10, "width": 2}
    model = checked_model(found.state, found.network, 10)
    expected = state_of()
    for name, value in model.state_dict().items():
        tolerance = 1e-3 if layout == "half precision" else 0.0
        torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scalar", [np.float64(0.7644), np.float32(0.7644), np.array([0.7644])])
def test_a_file_of_numpy_1_is_read(tmp_path: Path, scalar: Any) -> None:
    published(tmp_path / "new.pth", validating_accuracy=scalar)
    renamed = 0
    with (
        zipfile.ZipFile(tmp_path / "new.pth") as source,
        zipfile.ZipFile(tmp_path / "old.pth", "w") as target,
    ):
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                renamed = data.count(b"numpy._core")
                data = data.replace(b"cnumpy._core.", b"cnumpy.core.")
            target.writestr(info.filename, data)
    assert renamed
    assert read_published(tmp_path / "old.pth").claims.get("epoch") == 193


@pytest.mark.parametrize("claim", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_claim_that_is_no_number_is_none(tmp_path: Path, claim: Any) -> None:
    file = published(tmp_path / "t.pth", validating_accuracy=claim, epoch=torch.arange(3))
    text = import_checkpoint(file, experiment(), tmp_path / "runs", "cpu")
    assert "the file claims no accuracy" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    state = state_of()
    state["bn.running_var"] = torch.full((128,), value)
    with pytest.raises(UserError, match=r"bn.running_var holds NaN or infinite"):
        read_published(published(tmp_path / "t.pth", state_dict=state))


def torchscript(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


def half_safetensors(path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(3))


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))


def half_a_zip(path: Path) -> None:
    published(path)
    path.write_bytes(path.read_bytes()[:-2000])


def wrong_sum(path: Path) -> None:
    torch.save({"state_dict": state_of()}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:2000])


def module(path: Path) -> None:
    torch.save(build("wide_resnet", 10, depth=10, width=2), path)


def two_homes(path: Path) -> None:
    torch.save({"model": state_of(), "net": state_of()}, path)


def two_modules(path: Path) -> None:
    torch.save(prefixed("module.") | state_of(), path)


def quantized(path: Path) -> None:
    weight = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
    torch.save({"state_dict": {"a.weight": weight}}, path)


def no_shape(path: Path) -> None:
    torch.save({k: v.sum() for k, v in state_of().items()}, path)


def arrays(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros(3))


def text(content: bytes) -> Any:
    return lambda path: path.write_bytes(content)


REFUSED: dict[str, tuple[Any, str]] = {
    "web page": (text(b"<!DOCTYPE html><html><title>Quota exceeded</title>"), "a web page"),
    "web page after blanks": (text(b"\xef\xbb\xbf\n <HTML>"), "a web page"),
    "S3 error": (text(b'<?xml version="1.0"?><Error/>'), "a web page"),
    "LFS": (text(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
    "JSON": (text(b'{"message": "Not Found"}'), "no checkpoint but text"),
    "empty": (text(b""), "empty"),
    "zeros": (text(bytes(5000)), "full of zeros"),
    "gzip": (text(b"\x1f\x8b\x08" + bytes(99)), "gzip"),
    "HDF5": (text(b"\x89HDF\r\n"), "HDF5"),
    "arrays": (arrays, "numpy arrays"),
    "pickle": (text(pickle.dumps({"state_dict": {"a": 1}}, 2)), "refused"),
    "TorchScript": (torchscript, "TorchScript"),
    "safetensors": (half_safetensors, "as safetensors it is broken"),
    "tar": (tar, "a tar"),
    "half a zip": (half_a_zip, "half a download"),
    "half a pickle": (wrong_sum, "refused"),
    "module": (module, r"Python objects beside weights .*WideResNet.* was not run"),
    "list": (lambda path: torch.save([torch.zeros(1)], path), "no `state_dict`"),
    "two homes": (two_homes, "under model and net"),
    "two modules": (two_modules, "several modules"),
    "quantized": (quantized, "quantized"),
    "numbers for weights": (no_shape, "those of no network"),
}


@pytest.mark.filterwarnings("ignore")  # of ways to write that are old
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    write, message = REFUSED[kind]
    write(tmp_path / "t.pth")
    with pytest.raises(UserError, match=message) as caught:
        read_published(tmp_path / "t.pth")
    line = str(caught.value)
    assert line.startswith("FILE: ") and "\n" not in line
    assert kind == "module" or "Python objects" not in line


def test_no_change_of_a_file_ends_in_a_traceback(tmp_path: Path) -> None:
    """Flipped, cut and zeroed anywhere: read, or refused in one line."""
    path, random = tmp_path / "t.pth", Random(0)
    torch.save({"state_dict": {"a.weight": torch.zeros(4), "b.weight": torch.ones(2)}}, path)
    whole = path.read_bytes()
    for _ in range(500):
        data = bytearray(whole)
        at = random.randrange(len(data))
        change = random.choice(("flip", "cut", "zero"))
        if change == "flip":
            data[at] ^= 1 << random.randrange(8)
        elif change == "cut":
            del data[at:]
        else:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            read_file(path)
