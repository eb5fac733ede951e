"""The wheel and the source distribution, as `make dist` builds them, and one in use elsewhere."""

import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import ROOT, captured, environment

COMMIT = "0123456789abcdef" * 2 + "01234567"
# Beside harness/ and what setuptools writes (PKG-INFO, setup.cfg, *.egg-info).
BESIDE = {
    *("CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "SECURITY.md"),
    *("pyproject.toml", "requirements.lock", "requirements-dev.lock"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with both distributions; the wheel is made from the other one."""
    folder = tmp_path_factory.mktemp("dist")
    # setuptools leaves *.egg-info beside what it builds: not in this checkout.
    source = folder / "source"
    for name in ("harness", "analysis", "tests"):
        copied = shutil.ignore_patterns("__pycache__", "golden")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=copied)
    for name in BESIDE:
        shutil.copy(ROOT / name, source)
    # As `git archive` does.
    (source / "harness/common/archived_commit.txt").write_text(f"{COMMIT}\n")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """Return an environment that has the wheel. It finds what the package depends on where this
    Python has it: only downloading gigabytes again is spared."""
    fresh = built / "fresh"
    venv.create(fresh, with_pip=False)
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    install = ["--python", fresh / "bin/python", "install", "--no-deps", "--no-compile", wheel]
    subprocess.run([*pip, *install], check=True)
    # Named in a .pth file, a folder is searched after the environment's own, and its own .pth
    # files, so the checkout's editable install, are not read.
    (site,) = fresh.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return fresh


def code_files() -> set[str]:
    """Return the files of the package, with `analysis` where it is imported."""
    found = [p for p in (ROOT / "harness").rglob("*") if p.is_file()]
    found += [p for p in (ROOT / "analysis").rglob("*") if p.is_file()]
    names = {str(p.relative_to(ROOT)) for p in found if p.suffix != ".pyc"}
    return {re.sub(r"^(harness/)?analysis/", "harness/analysis/", name) for name in names}


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.whl")
    names = zipfile.ZipFile(path).namelist()
    information = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert {*names} - information == code_files(), "no top-level `analysis`, all data files"
    assert any(name.endswith("/licenses/LICENSE") for name in information)


def test_the_source_distribution_is_what_a_wheel_is_made_of(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as file:
        members = [member for member in file.getmembers() if not member.isdir()]
    assert all(member.isfile() for member in members), "links do not unpack everywhere"
    names = {member.name.partition("/")[2] for member in members}
    made = {n for n in names if n in ("PKG-INFO", "setup.cfg") or ".egg-info/" in n}
    assert names - made == code_files() | BESIDE


def run(installed: Path, place: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    variables = {k: v for k, v in environment().items() if k != "PYTHONPATH"}
    return captured([installed / "bin" / command[0], *command[1:]], cwd=place, env=variables)


def test_a_grid_from_a_wheel(installed: Path, tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path)
    # A project's own package of that name is in nobody's way.
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis/__init__.py").write_text("raise ImportError\n")
    code = "import harness.analysis as a; from harness.common import provenance as p; "
    code += "print(a.__path__, p.version_text())"
    said = run(installed, tmp_path, "python", "-c", code).stdout
    assert str(installed) in said and f"commit {COMMIT[:12]}\n" in said
    made = run(installed, tmp_path, "harness", "init", "mine")
    assert made.returncode == 0, made.stderr
    # One cell: it is the teacher, too.
    small = ["seeds=[0]", "training.epochs=1", "methods=[plain]", "claims=[]"]
    small += ["teacher={depth: 10, width: 1}", "students=[{depth: 10, width: 1}]"]
    options = [part for change in small for part in ("--set", change)]
    options += ["--no-bar", "--device", "cpu"]
    done = run(installed, tmp_path, "harness", "run", "experiments/mine.yaml", *options)
    assert done.returncode == 0, done.stderr
    assert "commit of this code" not in done.stderr and "Student" in done.stdout
    manifests = [path.read_text() for path in tmp_path.glob("runs/*/manifest.json")]
    assert manifests and all(COMMIT in text for text in manifests)
