"""Which commit a number says: this checkout's, or none; and what else makes other numbers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Output, captured

from harness.analysis.bundle import Bundle, check_unmixed, read_bundle
from harness.analysis.generated_files import check_owner
from harness.analysis.tables.rows import DASH, cell_estimate, columns_of, epochs_of, rows_of, select
from harness.common import provenance
from harness.common.errors import UserError
from harness.common.provenance import code_version, code_version_or_warn, processor


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "commit", "-q", "--allow-empty", "-m", "dotfiles")
    return folder


def version_of(code: Path, **env: str) -> str:
    """Return what the provenance module in `code` prints, in a process of its own."""
    program = "from harness.common.provenance import code_version; print(code_version())"
    kept = {k: v for k, v in os.environ.items() if k != "HARNESS_COMMIT"}
    variables = kept | {"PYTHONPATH": str(code)} | env
    command = [sys.executable, "-c", program]
    return captured(command, cwd=code, env=variables, check=True).stdout


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The code as a tarball leaves it, inside somebody's repository."""
    code = repository(tmp_path / "outer") / "refilled"
    shutil.copytree(
        ROOT / "harness" / "common",
        code / "harness" / "common",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(ROOT / "harness" / "__init__.py", code / "harness")
    return code


def test_a_repository_around_the_code_does_not_answer_for_it(unpacked: Path) -> None:
    said = version_of(unpacked)
    assert "'commit': None, 'dirty': None" in said and "inside another repository, outer" in said
    assert git(unpacked.parent, "rev-parse", "HEAD").strip() not in said
    assert "'commit': 'abc', 'dirty': True" in version_of(unpacked, HARNESS_COMMIT="abc-dirty")


def test_its_own_repository_does(unpacked: Path) -> None:
    generated = [unpacked / name for name in ("README.md", "docs/a.md", "experiments/results/a.md")]
    for path in generated:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a")
    git(unpacked, "init", "-q")
    git(unpacked, "add", ".")
    git(unpacked, "commit", "-q", "-m", "code")
    commit = git(unpacked, "rev-parse", "HEAD").strip()
    assert f"'commit': '{commit}', 'dirty': False" in version_of(unpacked)
    for path in generated:
        path.write_text("b")  # as `harness tables` does
    assert "'dirty': False" in version_of(unpacked)
    # What a hook or a shell's set-up says of another repository does not count.
    other = str(unpacked.parent / ".git")
    assert f"'commit': '{commit}'" in version_of(unpacked, GIT_DIR=other, GIT_WORK_TREE="/")
    (unpacked / "harness" / "common" / "errors.py").write_text("")
    program = (unpacked / "harness" / "common" / "provenance.py").read_text()
    text = program.replace("from harness.common.errors import one_line", "one_line = str")
    (unpacked / "harness" / "common" / "provenance.py").write_text(text)
    assert "'dirty': True" in version_of(unpacked)


def test_an_archive_of_git_names_its_commit(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / ".gitattributes", unpacked)
    git(unpacked, "init", "-q")
    git(unpacked, "add", ".")
    git(unpacked, "commit", "-q", "-m", "code")
    commit = git(unpacked, "rev-parse", "HEAD").strip()
    (tmp_path / "archive").mkdir()
    git(unpacked, "archive", "--output", str(tmp_path / "code.tar"), "HEAD")
    shutil.unpack_archive(tmp_path / "code.tar", tmp_path / "archive", filter="data")
    # Nobody knows whether it was changed since. In a checkout, the file says nothing.
    assert f"'commit': '{commit}', 'dirty': None" in version_of(tmp_path / "archive")
    shutil.rmtree(unpacked / ".git")
    assert "'commit': None" in version_of(unpacked)


@pytest.mark.parametrize("refusal", ["detected dubious ownership in repository", "not a git"])
def test_a_refusal_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, refusal: str
) -> None:
    script = tmp_path / "git"
    script.write_text(f"#!/bin/sh\necho 'fatal: {refusal}' >&2\nexit 128\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("HARNESS_COMMIT", raising=False)
    assert code_version()["commit"] is None
    code_version_or_warn()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the commit of this code is unknown (git refuses: " + refusal)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert code_version() == {"commit": None, "dirty": None, "why": "git is not installed"}


def test_a_known_commit_is_not_announced(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(provenance, "code_version", lambda: {"commit": "abc", "dirty": False})
    assert code_version_or_warn() == {"commit": "abc", "dirty": False}
    assert capsys.readouterr().err == ""


def test_the_processor_has_a_name() -> None:
    assert processor() and "\n" not in processor()


# Cells that cannot stand in one table, and bundles of one name

DIGITS = ROOT / "experiments" / "results" / "digits-all-images.jsonl"


@pytest.mark.parametrize("column", ["device", "processor", "threads", "torch", "commits"])
def test_what_makes_other_numbers_is_not_mixed(column: str) -> None:
    bundle = read_bundle(DIGITS)
    check_unmixed(bundle, False)
    setattr(bundle.numbers[0].cell.manifest, column, ("abc",) if column == "commits" else "other")
    with pytest.raises(UserError, match=f"cells of different {column}"):
        check_unmixed(bundle, False)
    check_unmixed(bundle, True)


def test_a_cell_that_went_on_elsewhere_is_mixed() -> None:
    header, *cells = (json.loads(line) for line in DIGITS.read_text().splitlines())
    for cell in cells:
        cell["manifest"]["processor"] = ["one", "another"]
    bundle = read_bundle(DIGITS, "".join(json.dumps(line) + "\n" for line in (header, *cells)))
    with pytest.raises(UserError, match=r"different processor .one and another: 72"):
        check_unmixed(bundle, False)


def renamed(text: str, file: str, **changes: Any) -> str:
    """A bundle as another experiment file of the same name gives it."""
    first, _, rest = text.partition("\n")
    header = json.loads(first)
    header["command"] = f"harness run {file}"
    header["experiment"] |= changes
    return f"{json.dumps(header)}\n{rest}"


def test_another_experiment_of_that_name_replaces_no_bundle(tmp_path: Path) -> None:
    stored, text = tmp_path / "digits.jsonl", DIGITS.read_text()
    check_owner(stored, text, None)  # there is none yet
    stored.write_text(text[:5000])
    check_owner(stored, text, None)  # a broken one is written again, as its message says
    stored.write_text(text)
    check_owner(stored, renamed(text, "experiments/digits_all_images.yaml", optimizer={}), None)
    check_owner(
        stored, renamed(text, "moved/digits_all_images.yaml", seeds=[0, 1], description="x"), None
    )
    other = renamed(text, "experiments/two.yaml", optimizer={})
    message = (
        r"experiments/two.yaml and experiments/digits_all_images.yaml are both called 'digits-"
    )
    with pytest.raises(UserError, match=message):
        check_owner(stored, other, None)
    with pytest.raises(UserError, match=message):  # both in one call
        check_owner(tmp_path / "none.jsonl", other, text)


def import_teachers(bundle: Bundle) -> None:
    """Make the teachers of all seeds one cell that was trained elsewhere."""
    for number in bundle.numbers:
        if number.stage == "teacher":
            number.cell.fingerprint, number.cell.manifest.epochs = "imported", 0


def test_an_imported_teacher_of_all_seeds_is_one_run() -> None:
    bundle = read_bundle(DIGITS)
    teacher, column = rows_of(bundle)[0], columns_of(bundle)[0]
    before = cell_estimate(bundle, teacher, column)
    assert before is not None and before.n == 3
    import_teachers(bundle)
    after = cell_estimate(bundle, teacher, column)
    assert after is not None and (after.n, after.half_width) == (1, None)


def test_a_numbers_runs_are_in_the_order_of_their_seeds() -> None:
    """Whatever the order of a bundle's lines; one run of several seeds stands at the first."""
    header, *cells = DIGITS.read_text().splitlines(keepends=True)
    bundle = read_bundle(DIGITS, "".join([header, *reversed(cells)]))
    for row in rows_of(bundle):
        for column in columns_of(bundle):
            assert [n.seed for n in select(bundle, row, column)] == [0, 1, 2]
    bundle = read_bundle(DIGITS)
    import_teachers(bundle)
    (only,) = select(bundle, rows_of(bundle)[0], columns_of(bundle)[0])
    assert only.seed == 0


def test_an_imported_teacher_has_no_epochs_here() -> None:
    bundle = read_bundle(DIGITS)
    teacher = rows_of(bundle)[0]
    assert epochs_of(bundle, teacher) == "20"
    import_teachers(bundle)
    assert epochs_of(bundle, teacher) == DASH
