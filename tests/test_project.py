"""Commands to begin with: doctor, init, schema, --version, completion."""

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from helpers import ROOT, TINY, Output, Patch, captured, environment, refusal, write_experiment

from harness.cli import main
from harness.common.names import command_name
from harness.experiment.file import parse, read
from harness.experiment.schema import schema, schema_text
from harness.run import doctor

EXPERIMENTS = ROOT / "experiments"


@pytest.fixture
def folder(here: Path, monkeypatch: Patch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "OPTUNA_STORAGE", "HARNESS_DATA_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return here


# -- doctor ----------------------------------------------------------------------------------------


def found(root: Path = Path("runs")) -> dict[str, doctor.Finding]:
    return {f.subject.strip(): f for f in doctor.findings(root)}


def test_a_healthy_machine(folder: Path, capsys: Output) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("ready: ") and not any("problem" in line for line in lines)
    assert any(line.startswith("device cpu ") for line in lines)
    assert not list(folder.iterdir()), "it only looks"


def test_where_data_lie(folder: Path) -> None:
    (folder / "data/CUB_200_2011").mkdir(parents=True)
    (folder / "data/CUB_200_2011/images.txt").touch()
    (folder / "data/cifar-100-python").mkdir()
    (folder / "data/cifar10").mkdir()
    (folder / "data/cifar10/train-0.parquet").touch()
    seen = found()
    assert seen["cub200"].state == str(folder / "data/CUB_200_2011")
    assert seen["cifar100"].state == str(folder / "data/cifar-100-python")
    assert seen["cifar10"].state == str(folder / "data/cifar10")
    (folder / "data/cifar10/train-0.parquet").unlink()
    assert found()["cifar10"].state.startswith("not here")


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9", "MLflow"),
        ("MLFLOW_TRACKING_URI", "no address", "MLflow"),
        ("OPTUNA_STORAGE", "postgresql://harness:secret@127.0.0.1:9/x", "Optuna"),
    ],
)
def test_what_does_not_answer_is_a_problem(
    folder: Path, monkeypatch: Patch, capsys: Output, variable: str, value: str, what: str
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(doctor, "_devices", lambda: iter(()))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    (problem,) = [line for line in out.splitlines() if line.startswith("problem: ")]
    assert problem.startswith(f"problem: {what}: {variable}: ") and "secret" not in out
    assert "ready" not in out


def test_a_full_disk_is_a_problem(folder: Path, monkeypatch: Patch) -> None:
    usage = doctor.shutil.disk_usage(folder)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    assert "make room" in doctor._disk(Path("runs")).problem


def test_a_device_that_cannot_compute_is_a_problem(monkeypatch: Patch) -> None:
    def broken(device: str) -> float:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(doctor, "_flops", broken)
    cpu = next(f for f in doctor._devices() if f.subject == "device cpu")
    assert "cannot compute (RuntimeError: no kernel image)" in cpu.problem


# -- init ------------------------------------------------------------------------------------------


def test_a_new_experiment_can_be_planned(folder: Path, capsys: Output) -> None:
    assert main(["init", "mine"]) == 0
    assert capsys.readouterr().out.startswith("written: experiments/mine.yaml\n")
    path = folder / "experiments/mine.yaml"
    assert read(path).methods == ("plain", "kd", "refilled")
    assert main(["plan", str(path), "--no-estimate"]) == 0
    first = path.read_text().splitlines()[0]
    named = path.parent / first.partition("$schema=")[2]
    assert named.read_text() == schema_text() + "\n"
    everything = path.read_text().replace("\n# tasks", "\ntasks").replace("\n  # -", "\n  -")
    path.write_text(everything.replace("  - kd\n", ""))
    assert len(read(path).methods) == 4 and read(path).tasks, "what is commented out is right too"


def test_init_replaces_nothing(folder: Path, capsys: Output) -> None:
    assert main(["init", "mine"]) == 0
    path = folder / "experiments/mine.yaml"
    path.write_text("my work")
    (folder / "experiments/schema.json").write_text("{}")
    assert "exists already" in refusal(capsys, "init", "mine")
    assert main(["init", "other"]) == 0 and path.read_text() == "my work"
    assert (folder / "experiments/schema.json").read_text() == "{}"
    capsys.readouterr()
    for name in ("../up", "A b", ""):
        assert refusal(capsys, "init", name).startswith("error: name: ")


# -- schema ----------------------------------------------------------------------------------------

VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_committed_schema_is_that_of_the_code() -> None:
    """Mended by `harness schema > experiments/schema.json`."""
    assert (EXPERIMENTS / "schema.json").read_text() == schema_text() + "\n"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_fits(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text()))
    if ".tuned" not in path.suffixes and not path.stem.endswith((".tuned", ".untuned")):
        assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


RIGHT: list[dict[str, Any]] = [
    {"methods": ["kd+vid", "kd@both", "kd(kd.temperature=8)@2"]},
    {"methods": [{"method": "kd", "epochs": "both", "label": "x", "kd": {"temperature": [2, 8]}}]},
    {"claims": "kd > plain"},
    {"teacher": "models:/teacher/3"},
    {"teacher": "resnet"},
    {"protocol": {"preset": "legacy", "selection": "last"}},
    {"tasks": None, "epochs_scale": 0.1},
    {"tasks": {"shots": 5, "overlap": ["all", 2], "order": "orders/a.yaml"}},
]


@pytest.mark.parametrize("change", RIGHT, ids=str)
def test_what_may_be_written(change: dict[str, Any]) -> None:
    VALIDATOR.validate(TINY | change)


WRONG: list[dict[str, Any]] = [
    {"stage2": {"lambda": 3}},
    {"kd": {"temperature": 0}},
    {"teacher": {"depth": "deep"}},
    {"students": [{"depth": 10, "widht": 1}]},
    {"methods": ["kdd"]},
    {"methods": [{"kd": {"temperature": 8}}]},
    {"protocol": "stric"},
    {"protocol": {"preset": "strict", "selection": "best"}},
    {"dataset": "digit"},
    {"dataset": {"name": "digits", "image_size": 14}},
    {"tasks": {"overlap": [2.5]}},
    {"colour": 1},
    {"seeds": [-1]},
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_what_an_editor_marks(change: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(TINY | change)


def test_what_is_missing_is_marked() -> None:
    for field in ("name", "dataset", "teacher", "students"):
        assert not VALIDATOR.is_valid({k: v for k, v in TINY.items() if k != field})
    assert VALIDATOR.is_valid({k: v for k, v in TINY.items() if k in parse(TINY).model_fields_set
                               or k == "network"})  # fmt: skip


def test_the_command_prints_it(capsys: Output) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_the_next_command_can_be_typed(folder: Path, monkeypatch: Patch, capsys: Output) -> None:
    """In a fresh clone `harness` is on no path."""
    monkeypatch.setenv("PATH", str(folder))
    python = os.path.relpath(sys.executable)
    names = {
        ".venv/bin/harness": ".venv/bin/harness",
        "x/harness/__main__.py": f"{python} -m harness",
        "x/notebook.py": "harness",
    }
    for called, shown in names.items():
        monkeypatch.setattr(sys, "argv", [str(folder / called)])
        assert command_name() == shown
    monkeypatch.setattr(sys, "argv", [".venv/bin/harness"])
    assert main(["init", "mine"]) == 0
    assert "next: .venv/bin/harness plan experiments/mine.yaml; " in capsys.readouterr().out
    assert main(["tune", "experiments/mine.yaml"]) == 2
    assert "use `.venv/bin/harness run experiments/mine.yaml`" in capsys.readouterr().err
    (folder / "harness").touch(mode=0o755)
    assert command_name() == "harness"


# -- the rest --------------------------------------------------------------------------------------


def test_version(capsys: Output) -> None:
    assert main(["--version"]) == 0
    name, version, *commit = capsys.readouterr().out.replace(",", "").split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (name, version) == (project["name"], project["version"])
    assert commit[0] == "commit" and len(commit) > 1


def test_a_shell_completes_commands() -> None:
    asked = environment(_HARNESS_COMPLETE="complete_bash", COMP_WORDS="harness ver", COMP_CWORD="1")
    done = captured([sys.executable, "-m", "harness"], env=asked)
    assert done.stdout.split() == ["verdicts"], done.stderr


def test_the_wrong_kind_of_file_is_named(folder: Path, capsys: Output) -> None:
    write_experiment(folder / "tiny.yaml")
    (folder / "tuning.yaml").write_text(yaml.safe_dump({"name": "x", "experiment": "tiny.yaml"}))
    assert "a tuning file, not an experiment; use `harness tune" in refusal(
        capsys, "run", "tuning.yaml"
    )
    assert "an experiment, no tuning file; use `harness run" in refusal(capsys, "tune", "tiny.yaml")
