"""A command asks a device in a process that ends."""

import os
from pathlib import Path
from typing import Any

import pytest
from helpers import run_python, write_experiment

from harness.common.errors import UserError
from harness.execute.child import in_child


def ask(what: str) -> Any:
    """Answer in the child."""
    if what == "user":
        raise UserError("--device: not here")
    if what == "bug":
        raise ZeroDivisionError("so it is")
    if what == "killed":
        os.kill(os.getpid(), 9)
    return os.getpid()


def test_a_child_answers_and_ends() -> None:
    pid = in_child(ask, "pid")
    assert pid != os.getpid() and not Path(f"/proc/{pid}").exists()
    with pytest.raises(UserError, match=r"^--device: not here$"):
        in_child(ask, "user")
    with pytest.raises(RuntimeError, match=r"^ask: ZeroDivisionError: so it is$"):
        in_child(ask, "bug")
    with pytest.raises(RuntimeError, match=r"^ask: ended with status -9$"):
        in_child(ask, "killed")


PROGRAM = """
import sys
import harness.cli
print(harness.cli.main(sys.argv[1:]), "torch" in sys.modules)
"""


def test_the_command_that_estimates_touches_no_device(tmp_path: Path) -> None:
    """A CUDA context in it would take memory as long as it runs, or the whole GPU."""
    write_experiment(tmp_path / "tiny.yaml")
    words = ("plan", "tiny.yaml", "--jobs", "1", "--budget", "9h")
    done = run_python(PROGRAM, *words, folder=tmp_path)
    *said, last = done.stdout.splitlines()
    assert last == "0 False", done.stderr
    assert any(line.startswith("about ") and " with 1 jobs on " in line for line in said)
