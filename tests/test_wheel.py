"""The package as others install it: from a wheel, far from the checkout."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch
from helpers import ROOT, captured, environment, one_error_line


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment `fresh` that has the wheel. It finds what the package depends on
    where this Python has it: only downloading gigabytes again is spared."""
    folder = tmp_path_factory.mktemp("wheel")
    # setuptools leaves build/ and *.egg-info beside what it builds: not in this checkout.
    source = folder / "source"
    for name in ("harness", "analysis"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([*pip, *build], cwd=folder, check=True)
    venv.create(folder / "fresh", with_pip=False)
    (wheel,) = folder.glob("*.whl")
    python = folder / "fresh/bin/python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    # Named in a .pth file, a folder is searched after the environment's own, and its own .pth
    # files, so the checkout's editable install, are not read.
    (site,) = (folder / "fresh/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return folder


def harness(installed: Path, place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {k: v for k, v in environment().items() if k != "PYTHONPATH"}
    command = [str(installed / "fresh/bin/harness"), *arguments]
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)


def test_a_grid_from_a_wheel(installed: Path, tmp_path: Path) -> None:
    (site,) = (installed / "fresh/lib").glob("python*/site-packages")
    assert (site / "harness/analysis").is_dir() and not (site / "analysis").exists()
    # A project's own package of that name is in nobody's way.
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis/__init__.py").write_text("raise ImportError\n")
    code = "import harness.analysis as a; print(a.__path__)"
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [installed / "fresh/bin/python", "-c", code]
    where = captured(command, cwd=tmp_path, env=variables)
    assert str(installed / "fresh") in where.stdout, where
    made = harness(installed, tmp_path, "init", "mine")
    assert made.returncode == 0, made.stderr
    (file,) = tmp_path.rglob("mine.yaml")
    small = ["--set", "seeds=[0]", "--set", "training.epochs=1", "--set", "methods=[plain]"]
    small += ["--set", "claims=[]"]
    done = harness(installed, tmp_path, "run", str(file), "--no-bar", "--device", "cpu", *small)
    assert done.returncode == 0, done.stderr
    assert "the commit of this code is unknown" in done.stderr and "Student" in done.stdout
    assert (tmp_path / "runs").is_dir() and (tmp_path / "mlflow.db").exists()
    report = harness(installed, tmp_path, "report", str(file), *small)
    assert report.returncode == 0, report.stderr
    page = tmp_path / "reports/mine.html"
    assert "</html>" in page.read_text()
    wrong = harness(installed, tmp_path, "run", str(file), "--set", "methods=[plain, kdd]")
    assert wrong.returncode == 2 and "kdd" in one_error_line(wrong.stderr)
