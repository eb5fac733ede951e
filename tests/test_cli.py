"""The command line: what it accepts, and one line for everything it does not."""

import importlib
import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from helpers import (
    ROOT,
    TINY,
    Output,
    Patch,
    cells,
    one_error_line,
    refusal,
    run_python,
    snapshot,
    write_experiment,
    wrong,
)

import harness.run.grid
from harness.cli import app, main
from harness.cli.options import n_bytes, seconds
from harness.cli.spelling import published_spelling
from harness.experiment.experiment import Experiment
from harness.run.options import RunOptions


@pytest.fixture
def folder(here: Path, monkeypatch: Patch) -> Path:
    """This process in a folder with tiny.yaml. Nothing here may start training."""

    def no_training(*_: Any, **__: Any) -> None:
        raise AssertionError("it went on to train")

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(harness.run.grid, "make_executor", no_training)
    write_experiment(here / "tiny.yaml")
    (here / "file").write_text("")
    return here


# -- wrong input -----------------------------------------------------------------------------------

# Command line -> parts of its one line: the field, the value, the remedy.
WRONG: dict[str, list[str]] = {
    "fly": ["'fly'", "harness --help"],
    "run tiny.yaml --jbos 2": ["--jbos", "--jobs"],
    "run tiny.yaml --wings": ["--wings", "harness run --help"],
    "run": ["file", "harness run --help"],
    "plan tiny.yaml tiny.yaml": ["tiny.yaml"],
    "run nowhere/x.yaml": ["nowhere/x.yaml"],
    "run tniy.yaml": ["tniy.yaml", "tiny.yaml"],
    "run .": ["error: .: "],
    "plan file": ["file"],
    "plan broken.yaml": ["broken.yaml", "line 2"],
    "plan tiny.yaml --set stage2.lamdb=1": ["stage2.lamdb", "lambd"],
    "plan tiny.yaml --set colour=red": ["colour"],
    "plan tiny.yaml --set stage2.lambd=much": ["stage2.lambd", "much"],
    "plan tiny.yaml --set training.epochs=0": ["training.epochs"],
    "plan tiny.yaml --set methods=[kdd]": ["methods", "'kdd'", "'kd'"],
    "plan tiny.yaml --set teacher.depth=11": ["teacher.depth", "11", "10 or 16"],
    "plan tiny.yaml --set dataset.name=digit": ["dataset.name", "'digits'"],
    "plan tiny.yaml --set dataset.test=1790": ["dataset.test", "1790"],
    "plan tiny.yaml --set stage2.lambd": ["--set stage2.lambd", "FIELD=VALUE"],
    "plan tiny.yaml --set =1": ["--set =1", "FIELD=VALUE"],
    "plan tiny.yaml --set students.3.depth=10": ["--set students.3.depth", "list of 1"],
    "plan tiny.yaml --set name.x=1": ["name"],
    "run tiny.yaml --max-time soon": ["--max-time", "'soon'", "90s, 9m or 2h"],
    "run tiny.yaml --max-time 0": ["--max-time", "'0'", "9m"],
    "run tiny.yaml --max-time -5": ["--max-time", "9m"],
    "run tiny.yaml --teacher-cache much": ["--teacher-cache", "'much'", "20GB, 500MB, or 0"],
    "plan tiny.yaml --teacher-cache 20": ["--teacher-cache", "'20'", "20GB"],
    "run tiny.yaml --jobs 0": ["--jobs", "1"],
    "run tiny.yaml --jobs many": ["--jobs"],
    "run tiny.yaml --device cuda:9": ["--device", "cuda:9", "cpu or auto"],
    "run tiny.yaml --device banana": ["--device", "'banana'", "auto, cpu, cuda"],
    "run tiny.yaml --device cpu:0,banana": ["--device", "'banana'", "auto, cpu, cuda"],
    "run tiny.yaml --device cpu:0,cuda:9": ["--device", "cuda:9", "cpu or auto"],
    "run tiny.yaml --device cpu:0,": ["--device", "''"],
    "run tiny.yaml --device cpu:1,cpu:0,cpu:1": ["--device", "cpu:1", "--jobs-per-device"],
    "plan tiny.yaml --device cpu,cpu:1": ["--device", "'cpu,cpu:1'", "cuda:0,cuda:1"],
    "plan tiny.yaml --device auto,cpu:1": ["--device", "cuda:0,cuda:1"],
    "run tiny.yaml --device cpu:0,cpu:1 --jobs 2": ["--jobs", "--jobs-per-device N"],
    "run tiny.yaml --jobs 2 --jobs-per-device 2": ["--jobs"],
    "run tiny.yaml --graphs on": ["--graphs"],
    "run tiny.yaml --executor ray --graphs on": ["--graphs"],
    "run tiny.yaml --graphs sometimes": ["--graphs", "auto", "on", "off"],
    "plan tiny.yaml --jobs-per-device 0": ["--jobs-per-device", "1"],
    "run tiny.yaml --store file/below --device cpu": ["--store", "file/below"],
    "plan tiny.yaml --store file/below --no-estimate": ["file/below"],
    "status tiny.yaml --store file/below": ["file/below"],
    "sync tiny.yaml --store file/below": ["--store", "file/below"],
    "explain abc": ["CELL", "'abc'", "harness plan"],
    "explain abc tiny.yaml --store nowhere": ["CELL", "nowhere"],
    "tables tiny.yaml": ["4 of 4", "harness run tiny.yaml"],
    "tables": ["README.md"],
    "ui --port 0": ["--port", "1"],
    "ui --port 70000": ["--port", "65535"],
    "ui": ["mlflow.db", "make reproduce"],
    "run tiny.yaml --data-root nowhere": ["--data-root", "'nowhere'"],
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_one_line_and_status_2(folder: Path, capsys: Output, line: str) -> None:
    (folder / "broken.yaml").write_text("name: x\nteacher: ]\n")
    before = snapshot(folder)
    assert main(line.split()) == 2
    output = capsys.readouterr()
    error = one_error_line(output.err)
    for part in WRONG[line]:
        assert part in error
    assert "Traceback" not in output.out + output.err
    assert snapshot(folder) == before, "wrong input must leave no file"


@pytest.mark.parametrize("line", ["run nowhere.yaml", "run --jobs 0 tiny.yaml", "plan -x"])
@pytest.mark.parametrize("first", [True, False])
def test_debug_shows_the_traceback(folder: Path, capsys: Output, line: str, first: bool) -> None:
    words = line.split()
    assert main(["--debug", *words] if first else [*words, "--debug"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last)") and "harness/cli/" in error
    assert error.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("debug", [True, False])
def test_a_bug_is_one_line_and_status_1(
    folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr(harness.run.grid, "plan_of", broken)
    assert main(["status", "tiny.yaml", *(["--debug"] if debug else [])]) == 1
    error = capsys.readouterr().err
    if debug:
        assert "Traceback" in error and "in broken" in error
    else:
        assert error == "error: ZeroDivisionError: one two (this is a bug; --debug shows where)\n"


COMMANDS = typer.main.get_command(app).commands


def test_without_arguments_it_shows_its_commands(capsys: Output) -> None:
    assert main([]) == 0
    words = capsys.readouterr().out.split()
    assert len(COMMANDS) > 20 and COMMANDS.keys() <= set(words)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(capsys: Output, command: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for parameter in COMMANDS[command].params:
        assert all(name in text for name in parameter.opts if name.startswith("--"))


SECONDS = {"90": 90, "90s": 90, "1.5m": 90, "2h": 7200, "0.5s": 0.5, None: None}
SIZES = {"20GB": 20 * 10**9, "1.5 tb": 15 * 10**11, "500M": 5 * 10**8, "2kB": 2000, "0": 0}


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        *((seconds, *pair) for pair in SECONDS.items()),
        *((n_bytes, *pair) for pair in SIZES.items()),
    ],
)
def test_durations_and_sizes(read: Any, text: str | None, expected: float | None) -> None:
    assert read(text) == expected


@pytest.mark.parametrize("text", ["", "0s", "-1", "1d", "h", "1h30m", "nan", "inf", "1e3"])
def test_no_seconds(text: str) -> None:
    wrong(lambda: seconds(text), "--max-time")


@pytest.mark.parametrize("text", ["", "20", "GB", "-1GB", "20GiB", "1e3MB", "all"])
def test_no_sizes(text: str) -> None:
    wrong(lambda: n_bytes(text), "--teacher-cache")


# -- plan, status, explain -------------------------------------------------------------------------


def test_plan_of_a_new_experiment(folder: Path, capsys: Output) -> None:
    before = snapshot(folder)
    assert main(["plan", "tiny.yaml", "--no-estimate"]) == 0
    out = capsys.readouterr().out
    assert "tiny: 4 cells, 0 done, 4 to train (8 epochs)" in out
    assert "teacher wrn-10-1 s0 = student wrn-10-1 s0" in out and "refilled wrn-10-1 stage2" in out
    assert snapshot(folder) == before, "plan must leave no file"


def test_plan_marks_what_is_done(project: Path, capsys: Output) -> None:
    command = ["plan", "experiments/tiny.yaml", "--no-estimate"]
    assert main(command) == 0
    assert "4 cells, 4 done, 0 to train" in capsys.readouterr().out
    assert main([*command, "--set", "stage1.tau1=2"]) == 0
    assert "4 cells, 2 done, 2 to train (4 epochs)" in capsys.readouterr().out
    assert main([*command, "--set", "optimizer.batch_size=32"]) == 0
    assert "4 cells, 0 done, 4 to train (8 epochs)" in capsys.readouterr().out


def test_status_of_a_finished_run(project: Path, capsys: Output) -> None:
    assert main(["status", "experiments/tiny.yaml"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()[1:]
    assert len(lines) == 4
    for line in lines:
        assert re.search(r"2/2\s+done\s*$", line), line


def test_status_tells_waiting_stopped_failed_and_running(
    project_copy: Path, capsys: Output
) -> None:
    found = cells(project_copy)
    for cell in found.values():
        (cell / "manifest.json").unlink()
    found["kd"].append("failed", error="loss is nan")
    found["stage1"].append("stopped")
    (found["stage2"] / "journal.jsonl").unlink()
    with found["supervised"].lease():
        assert main(["status", "experiments/tiny.yaml"]) == 0
    out = capsys.readouterr().out
    states = {name: line for line in out.splitlines() for name in found if name in line}
    assert "failed: loss is nan" in states["kd"]
    assert "stopped" in states["stage1"]
    assert re.search(r"0/2\s+waiting", states["stage2"])
    assert re.search(r"teacher.*2/2\s+running", out)


def test_explain_names_the_field_that_made_a_cell_stale(project: Path, capsys: Output) -> None:
    name = cells(project)["stage2"].path.name
    command = ["explain", name[:6], "experiments/tiny.yaml"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"runs/{name}: done" in out and "uses this cell as it is" in out

    assert main([*command, "--set", "stage2.lambd=5"]) == 0
    text = capsys.readouterr().out.partition("differs in:")[2]
    assert text.split("\n")[1:-1] == ["  spec.stage2.lambd: 100.0 -> 5.0"]

    # A teacher that changed: the field of this cell is its upstream.
    assert main([*command, "--set", "optimizer.momentum=0.5"]) == 0
    text = capsys.readouterr().out.partition("differs in:")[2]
    assert "spec.optimizer.momentum: 0.9 -> 0.5" in text and "upstream.teacher" in text


def test_explain_without_an_experiment_shows_the_cell(project: Path, capsys: Output) -> None:
    assert main(["explain", cells(project)["kd"].path.name]) == 0
    out = capsys.readouterr().out
    assert '"kind": "kd"' in out and '"temperature": 4.0' in out


def test_explain_refuses_an_ambiguous_name(project: Path, capsys: Output) -> None:
    assert "4 cells" in refusal(capsys, "explain", "")


# -- train: the published argument names -----------------------------------------------------------

BASE = {"depth": "10", "width": "1"}  # a wide_resnet student needs both

# Published argument -> (value, field of the experiment, what it becomes).
EFFECTS: dict[str, tuple[str, str, Any]] = {
    "data-name": ("digits", "dataset.name", "digits"),
    "teacher-network-name": ("resnet", "teacher.network", "resnet"),
    "student-network-name": ("wide_resnet", "students.0.network", "wide_resnet"),
    "lr1": ("0.07", "stage1.lr", 0.07),
    "lr2": ("0.06", "stage2.lr", 0.06),
    "point": ("20,40", "stage2.milestones", [20, 40]),
    "gamma": ("0.3", "stage2.gamma", 0.3),
    "wd": ("0.001", "optimizer.weight_decay", 0.001),
    "mo": ("0.8", "optimizer.momentum", 0.8),
    "depth": ("16", "students.0.depth", 16),
    "width": ("3", "students.0.width", 3),
    "dropout-rate": ("0.25", "students.0.dropout", 0.25),
    "n-training-epochs1": ("11", "stage1.epochs", 11),
    "n-training-epochs2": ("13", "stage2.epochs", 13),
    "batch-size": ("32", "optimizer.batch_size", 32),
    "tau1": ("3.5", "stage1.tau1", 3.5),
    "tau2": ("2.5", "stage2.tau2", 2.5),
    "lambd": ("7", "stage2.lambd", 7.0),
}


class Trained:
    """The experiment that `harness train` would have run."""

    def __init__(self) -> None:
        self.experiment: Experiment | None = None
        self.options = RunOptions()

    def __call__(self, experiment: Experiment, options: RunOptions) -> int:
        self.experiment, self.options = experiment, options
        return 3  # unfinished: no results to print

    def field(self, path: str) -> Any:
        node: Any = self.experiment.model_dump(mode="json")
        for part in path.split("."):
            node = node[int(part)] if part.isdigit() else node[part]
        return node


@pytest.fixture
def trained(here: Path, monkeypatch: Patch) -> Trained:
    found = Trained()
    monkeypatch.setattr(harness.run.grid, "run_experiment", found)
    return found


def arguments(**values: str) -> list[str]:
    return ["train", *(w for k, v in values.items() for w in (f"--{k}", v))]


@pytest.mark.parametrize("spelling", ["dashes", "underscores", "equals"])
@pytest.mark.parametrize("name", EFFECTS)
def test_published_arguments_have_their_effect(trained: Trained, name: str, spelling: str) -> None:
    value, path, expected = EFFECTS[name]
    option = "--" + (name.replace("-", "_") if spelling == "underscores" else name)
    given = [f"{option}={value}"] if spelling == "equals" else [option, value]
    others = {k: v for k, v in BASE.items() if k != name}
    assert main([*arguments(**others), *given]) == 3
    assert trained.field(path) == expected
    if name not in ("data-name", "student-network-name"):  # given as their defaults
        without = BASE | ({name: BASE[name]} if name in BASE else {})
        assert main(arguments(**without)) == 3
        assert trained.field(path) != expected, "the default already says so"


def test_stage_2_arguments_are_the_teachers_too(trained: Trained) -> None:
    extra = {"lr2": "0.06", "point": "5,9", "gamma": "0.3", "n_training_epochs2": "12"}
    assert main(arguments(**BASE, **extra)) == 3
    expected = {"lr": 0.06, "milestones": [5, 9], "gamma": 0.3, "epochs": 12}
    for stage in ("training", "stage2"):
        assert {k: trained.field(f"{stage}.{k}") for k in expected} == expected
    assert trained.field("stage1.lr") == 0.1


@pytest.mark.parametrize(
    "given",
    [
        ["--point", "100", "140", "180"],
        ["--point", "100,140,180"],
        ["--point=100,140,180"],
        ["--point", "100 140 180"],
    ],
)
@pytest.mark.parametrize("after", [[], ["--gamma", "0.1"]])
def test_point_in_every_spelling(trained: Trained, given: list[str], after: list[str]) -> None:
    assert main([*arguments(**BASE), *given, *after]) == 3
    assert trained.field("stage2.milestones") == [100, 140, 180]


def test_the_defaults_are_the_releases(trained: Trained) -> None:
    assert main(arguments(**BASE)) == 3
    expected = {
        "teacher.depth": 40,
        "teacher.width": 2,
        "students.0.dropout": 0.3,
        "stage1.epochs": 200,
        "stage2.epochs": 200,
        "stage2.milestones": [100, 140, 180],
        "stage2.gamma": 0.2,
        "optimizer.batch_size": 128,
        "optimizer.weight_decay": 5e-4,
        "stage1.tau1": 4.0,
        "stage2.tau2": 2.0,
        "stage2.lambd": 100.0,
        "seeds": [960402],
        "methods": ["refilled"],
    }
    assert {path: trained.field(path) for path in expected} == expected
    assert trained.field("name") == "train-digits-wrn-10-1"


def test_ca_is_mobile_nets(trained: Trained, capsys: Output) -> None:
    assert main(["train", "--student-network-name", "mobile_net", "--ca", "0.5"]) == 3
    assert trained.field("students.0.ca") == 0.5
    assert "--ca" in refusal(capsys, *arguments(**BASE), "--ca", "0.5")


@pytest.mark.parametrize("name", ["depth", "width"])
def test_depth_and_width_are_not_mobile_nets(trained: Trained, capsys: Output, name: str) -> None:
    command = ["train", "--student-network-name", "mobile_net", f"--{name}", "16"]
    error = refusal(capsys, *command)
    assert f"--{name}: unknown key" in error and "ca" in error
    assert trained.experiment is None


@pytest.mark.parametrize(
    ("given", "device"),
    [
        ([], "cpu"),
        (["--flag-gpu"], "cuda"),
        (["--flag_gpu", "--devices", "1"], "cuda:1"),
        (["--devices", "0", "1", "--flag_gpu"], "cuda:0,cuda:1"),
        (["--flag-gpu", "--devices", "2,0"], "cuda:2,cuda:0"),
        (["--flag-gpu", "--devices=0 1"], "cuda:0,cuda:1"),
    ],
)
def test_devices(trained: Trained, capsys: Output, given: list[str], device: str) -> None:
    assert main([*arguments(**BASE), *given]) == 3
    assert trained.options.device == device
    assert ("one GPU works at a time" in capsys.readouterr().out) == ("," in device)


def test_no_loader_workers_for_data_in_memory(trained: Trained, capsys: Output) -> None:
    assert main([*arguments(**BASE), "--n-workers", "0"]) == 3
    assert "--n-workers" in refusal(capsys, *arguments(**BASE), "--n_workers", "4")


@pytest.mark.parametrize(
    ("given", "train_on", "selection", "label"),
    [
        ([], "train+validation", "last", "strict(train_on=train+validation, selection=last)"),
        (["--flag-tuning"], "train", "validation", "strict"),
        (["--protocol", "legacy-2020"], "train+validation", "test", "legacy-2020"),
        (
            ["--flag_tuning", "--protocol", "legacy"],
            *("train", "validation", "legacy-2021(train_on=train, selection=validation)"),
        ),
    ],
)
def test_flag_tuning_holds_out_validation_images(
    trained: Trained, given: list[str], train_on: str, selection: str, label: str
) -> None:
    assert main([*arguments(**BASE), *given]) == 3
    assert trained.field("protocol.train_on") == train_on
    assert trained.field("protocol.selection") == selection
    assert trained.experiment.protocol_label == label


# Arguments after `train --depth 10 --width 1` -> what the one line must contain.
WRONG_TRAINING: dict[str, list[str]] = {
    "--devices 0": ["--devices", "--flag-gpu"],
    "--flag-gpu --devices 0,x": ["--devices", "'0,x'", "0 1"],
    "--flag-gpu --devices=": ["--devices", "0 1"],
    "--data-name cub2000": ["--data-name", "cub2000"],
    "--teacher-network-name vgg": ["--teacher-network-name", "'vgg'"],
    "--student-network-name repdistiller": ["--student-network-name", "mobile_net"],
    "--student-network-name wideresnet": ["--student-network-name", "wide_resnet"],
    "--lr1 0": ["--lr1"],
    "--lr2 -1": ["--lr2"],
    "--lr2 fast": ["--lr2"],
    "--point soon": ["--point", "100,140,180"],
    "--point 100,50": ["--point"],
    "--point 100,300": ["--point", "300", "200 epochs"],
    "--point 0,10": ["--point", "1"],
    "--gamma 2": ["--gamma"],
    "--mo 1": ["--mo"],
    "--wd -1": ["--wd"],
    "--depth 11": ["--depth", "10 or 16"],
    "--dropout-rate 1": ["--dropout-rate"],
    "--dropout-rate 0.1 --teacher-network-name resnet": ["--dropout-rate"],
    "--n-training-epochs1 0": ["--n-training-epochs1"],
    "--n-training-epochs2 0": ["--n-training-epochs2"],
    "--batch-size 1": ["--batch-size"],
    "--tau1 0": ["--tau1"],
    "--tau2 0": ["--tau2"],
    "--lambd -1": ["--lambd"],
    "--seed -1": ["--seed"],
    "--relation pairs": ["--relation", "triplet"],
    "--protocol loose": ["protocol", "strict"],
    "--max-time x": ["--max-time", "9m"],
}


@pytest.mark.parametrize("line", WRONG_TRAINING)
def test_wrong_training_arguments(trained: Trained, capsys: Output, line: str) -> None:
    error = refusal(capsys, *arguments(**BASE), *line.split())
    for part in WRONG_TRAINING[line]:
        assert part in error
    assert trained.experiment is None


def test_a_wide_resnet_needs_its_depth(trained: Trained, capsys: Output) -> None:
    assert "--depth: missing" in refusal(capsys, "train", "--width", "1")


def test_only_names_of_options_are_respelled() -> None:
    given = ["run", "my_file.yaml", "--set", "stage2.tau_on=teacher", "--max_time=5_m"]
    assert published_spelling(given) == [*given[:4], "--max-time=5_m"]


def test_an_experiment_survives_its_own_dump(trained: Trained, tmp_path: Path) -> None:
    """The experiment.resolved.json that MLflow keeps is an experiment file again."""
    from harness.experiment.file import read

    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(TINY))
    first = read(path)
    path.write_text(yaml.safe_dump(first.model_dump(mode="json")))
    assert read(path) == first


def test_ctrl_c_while_python_still_imports(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["harness"]
    module, _, name = script.partition(":")

    class Interrupting(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "harness.cli", Interrupting("harness.cli"))
    monkeypatch.setattr("atexit.register", lambda *_: None)  # pytest has an end of its own
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    assert getattr(importlib.import_module(module), name)() == 130
    assert capsys.readouterr().err == ""


def test_the_command_imports_nothing_that_could_be_interrupted() -> None:
    code = (
        "import sys, harness.__main__; print(*[m for m in sys.modules if m.startswith('harness')])"
    )
    assert run_python(code).stdout.split() == ["harness", "harness.__main__"]


ENDS = """
import sys
from harness.__main__ import command

class Global:
    def __del__(self):
        print("taken apart")

last = Global()
sys.exit(command())
"""


@pytest.mark.parametrize(("argument", "status"), [("--version", 0), ("--nonsense", 2)])
def test_a_command_has_said_all_and_ends_at_once(argument: str, status: int) -> None:
    """Python would take apart every module: a second where PyTorch is among them."""
    done = run_python(ENDS, argument)
    assert done.returncode == status and "taken apart" not in done.stdout
    assert ("harness" in done.stdout) == (status == 0), done.stdout
    assert ("--nonsense" in done.stderr) == (status == 2), done.stderr
