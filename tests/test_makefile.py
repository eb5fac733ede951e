"""The Makefile, without running what its targets run."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers import ROOT, captured
from packaging.requirements import Requirement


def make(folder: Path, *arguments: str) -> str:
    return captured(["make", "-C", str(folder), *arguments], check=True).stdout


def test_help_has_one_whole_line_a_target() -> None:
    lines = make(ROOT, "--no-print-directory", "help").splitlines()
    assert any(line.startswith("optuna-ui ") and "http://127.0.0.1:8080" in line for line in lines)
    assert all(line.split()[0].replace("-", "").isalnum() for line in lines) and len(lines) > 15
    assert max(map(len, lines)) <= 80, "a terminal would wrap it"


def test_docs_go_where_they_are_wanted(tmp_path: Path) -> None:
    lines = make(ROOT, "-n", "docs", f"SITE={tmp_path}").splitlines()
    (command,) = [line for line in lines if " -m website " in line]
    assert shlex.split(command)[-1] == str(tmp_path)


def test_options_of_a_run_reach_every_command() -> None:
    given = ("DEVICE=cuda:0,cuda:1", "JOBS_PER_DEVICE=2")
    for target, n in (("reproduce", 1), ("tune-digits", 2)):
        commands = " ".join(make(ROOT, "--dry-run", target, *given).split())
        assert commands.count("--device cuda:0,cuda:1 --jobs-per-device 2") == n, commands
    assert "--jobs" not in make(ROOT, "--dry-run", "reproduce")


@pytest.mark.parametrize("interpreter", ["/was/here/.venv/bin/python", "/gone/bin/python3"])
def test_a_dead_environment_is_made_anew(tmp_path: Path, interpreter: str) -> None:
    """Its project has moved or its Python is gone; the lock file alone does not show this."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    script = tmp_path / ".venv" / "bin" / "harness"
    script.parent.mkdir(parents=True)
    (script.parent / "python").symlink_to(interpreter)
    digest = captured(["cksum"], input=(ROOT / "requirements.lock").read_text(), check=True)
    (tmp_path / ".venv" / f".lock-{digest.stdout.split()[0]}").touch()
    script.write_text(f"#!{interpreter}\n")
    assert "rm -rf .venv" in make(tmp_path, "-n", "tables")
    (script.parent / "python").unlink()
    (script.parent / "python").symlink_to(shutil.which("python3") or "python3")
    script.write_text(f"#!{tmp_path}/.venv/bin/python\n")
    assert "rm -rf .venv" not in make(tmp_path, "-n", "tables")


def test_training_needs_the_first_lock_alone() -> None:
    """Packages that only developing needs are a second stamp over the first one."""
    for target, wanted in (("reproduce", False), ("ui", False), ("test", True), ("lint", True)):
        commands = make(ROOT, "--dry-run", "--always-make", target)
        assert "-r requirements.lock" in commands, target
        assert ("-r requirements-dev.lock" in commands) == wanted, target


def test_the_locks_hold_versions_and_no_package_twice() -> None:
    files = [(ROOT / name).read_text() for name in ("requirements.lock", "requirements-dev.lock")]
    line = re.compile(r"[\w.-]+==[\w.+!-]+(; sys_platform == \"linux\")?")
    assert all(line.fullmatch(text) for file in files for text in file.splitlines())
    base, added = ({Requirement(text).name for text in file.splitlines()} for file in files)
    assert not base & added
    assert {"torch", "mlflow", "optuna"} <= base and {"ray", "pytest", "mypy", "wandb"} <= added


def test_targets_train_experiments_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^((?:reproduce|tune)[a-z0-9-]*):", makefile, re.MULTILINE)
    commands = make(ROOT, "--dry-run", *targets)
    experiments = re.findall(r"for file in (.+?);", commands)
    tunings = re.findall(r"for name in (.+?);", commands)
    assert "tiny_imagenet " in " ".join(experiments) or "tiny-imagenet.tuned" in str(experiments)
    for folder, lists in (("experiments", experiments), ("experiments/tuning", tunings)):
        for name in " ".join(lists).split():
            assert (ROOT / folder / f"{name}.yaml").exists(), name
