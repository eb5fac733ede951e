"""Students of torchvision, of timm and of one's own, taught by a torchvision teacher that starts
from a file of weights: trained, killed, resumed and used."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers import Output, weights, write_experiment
from PIL import Image
from test_foreign_networks import OWN_SOURCE
from training import StopAfter, assert_same_result, go

import harness
from harness.cli import main
from harness.data import load
from harness.experiment.file import read
from harness.plan import Plan, make_plan
from harness.store import CellDir, Store
from harness.store.manifest import CellOptions
from harness.train.exit_status import DONE

TEACHER = {"network": "torchvision", "name": "shufflenet_v2_x0_5", "stem": "small"}
RAW: dict[str, Any] = {
    "name": "foreign",
    "dataset": {"name": "digits", "validation": 100, "test": 1657},  # 40 train
    "teacher": TEACHER | {"weights": "published.pth"},
    "students": [
        TEACHER,
        {"network": "timm", "name": "test_resnet", "input_size": "data"},
        {"network": "import", "path": "my_nets.py:MyNet", "width": 6},
    ],
    "methods": ["sp"],
    "optimizer": {"batch_size": 20},
    "training": {"epochs": 2, "lr": 0.01},
    "protocol": {"preset": "strict", "evaluate_every": 2, "selection": "last"},
}


class Killed(BaseException):
    """Ends the process of a cell: nothing catches it, and nothing more is written."""


class KillAfter(StopAfter):
    def __call__(self) -> bool:
        if super().__call__():
            raise Killed
        return False


class Trained:
    """The grid, trained in one go, in a folder that holds its file of weights and its source."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "x.yaml"
        torch.manual_seed(3)
        published = torchvision.models.shufflenet_v2_x0_5(num_classes=1000)
        torch.save(published.state_dict(), folder / "published.pth")
        (folder / "my_nets.py").write_text(OWN_SOURCE)
        self.experiment = read(write_experiment(self.file, RAW))
        self.plan: Plan = make_plan(self.experiment, load(self.experiment.dataset))
        self.store = self.in_store(folder / "runs")
        for fingerprint in self.plan.cells:
            assert go(self.prepared(self.store, fingerprint)) == DONE

    def in_store(self, root: Path) -> Store:
        store = Store(root)
        store.create()
        return store

    def prepared(self, store: Store, fingerprint: str) -> CellDir:
        options = CellOptions.on_this_machine(self.experiment)
        return store.prepare(self.plan.cells[fingerprint], options)

    def fingerprint(self, method: str, student: str = "") -> str:
        return next(
            entry.fingerprint
            for entry in self.plan.entries
            if entry.method == method and student in entry.student
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("foreign"))


def test_the_teacher_starts_from_the_file(trained: Trained) -> None:
    """At such a rate, two epochs leave most weights near where they began."""
    start = torch.load(trained.folder / "published.pth", weights_only=True)
    teacher = weights(trained.store.directory(trained.fingerprint("teacher")))
    name = "stage3.1.branch2.0.weight"
    assert (teacher[name] - start[name]).norm() < 0.5 * start[name].norm()
    assert len(teacher["fc.weight"]) == 10 and teacher["conv1.0.weight"].shape[2:] == (3, 3)
    assert teacher.keys() == start.keys()


@pytest.mark.parametrize("student", ["shufflenet", "timm", "MyNet"])
def test_killed_and_resumed_it_has_the_same_bits(
    student: str, trained: Trained, tmp_path: Path
) -> None:
    store = trained.in_store(tmp_path / "runs")
    teacher = trained.fingerprint("teacher")
    link = store.directory(teacher).path
    link.symlink_to(trained.store.directory(teacher).path)
    fingerprint = trained.fingerprint("sp", student)
    directory = trained.prepared(store, fingerprint)
    with pytest.raises(Killed):
        go(directory, KillAfter(3))  # in the second epoch of two steps
    assert len(directory.epochs()) == 1 and not directory.is_done
    assert go(directory) == DONE
    assert_same_result(directory, trained.store.directory(fingerprint))


@pytest.mark.parametrize("student", ["timm-test_resnet", "MyNet-width=6"])
def test_a_trained_one_is_used_like_any_other(
    student: str, trained: Trained, capsys: Output, tmp_path: Path
) -> None:
    store = trained.store.root
    chosen = ["--method", "sp", "--student", student, "--store", str(store)]
    picture = tmp_path / "a.png"
    Image.new("L", (8, 8), 200).save(picture)
    assert main(["predict", str(trained.file), *chosen, str(picture)]) == 0
    name, _, probability = capsys.readouterr().out.splitlines()[1].split(",")
    assert name == str(picture) and 0 < float(probability) <= 1
    assert main(["evaluate", str(trained.file), *chosen, "--dataset", str(trained.file)]) == 0
    cell = trained.store.directory(trained.fingerprint("sp", student))
    measured = 100 * cell.manifest.results["accuracy"]["last"]
    assert f"accuracy {measured:.2f} %" in capsys.readouterr().out
    if student.startswith("timm"):
        assert main(["export", str(trained.file), *chosen, "--onnx", str(tmp_path / "m.onnx")]) == 0
        check_onnx(tmp_path / "m.onnx", cell)


def check_onnx(path: Path, cell: CellDir) -> None:
    """The graph normalises and scales as the network does."""
    import onnxruntime

    model = harness.load_student(str(cell / "model.pt"))
    pixels = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": pixels.numpy()})
    with torch.no_grad():
        expected = model(model.normalised(pixels))
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-4)
    described = session.get_modelmeta().custom_metadata_map["network"]
    assert json.loads(described)["network"] == "timm"


def test_a_file_becomes_a_teacher_of_a_librarys_network(
    trained: Trained, tmp_path: Path, capsys: Output
) -> None:
    """Its network is the experiment's teacher; the accuracy is that of the cell it comes from."""
    cell = trained.store.directory(trained.fingerprint("sp", "timm"))
    raw = RAW | {"teacher": RAW["students"][1], "students": [{"network": "resnet", "depth": 8}]}
    file = write_experiment(tmp_path / "x.yaml", raw)
    store = ["--store", str(tmp_path / "runs"), "--device", "cpu"]
    assert main(["import-checkpoint", str(cell / "model.pt"), str(file), *store]) == 0
    out = capsys.readouterr().out
    assert f"{100 * cell.manifest.results['accuracy']['last']:.2f} % on test" in out
    assert "teacher: {network: timm, input_size: data, name: test_resnet}" in out
    digest = out.split()[-1]
    plan = ["plan", str(file), *store, "--no-estimate", "--set", f"teacher_checkpoint={digest}"]
    assert main(plan) == 0 and "1 done" in capsys.readouterr().out
