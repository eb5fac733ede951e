"""Options and fixtures that all tests share."""

import fcntl
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from helpers import (
    Interrupted,
    call,
    end_processes_in,
    interrupt_and_resume,
    mlflow_client,
    write_experiment,
)

if TYPE_CHECKING:
    from training import Grid

Once = Callable[[str, Callable[[Path], None]], Path]

# If pytest runs in the background, the processes that the tests interrupt would inherit "ignore
# Ctrl-C". A signal that is caught here has its default effect in a child.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Torch reads it when it is imported, which no test module has done yet. Each process of the tests
# would otherwise start a thread per core, and threads that wait for a core burn the others' time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A figure that cannot be drawn is left out with a note, which no test would see.
os.environ["HARNESS_STRICT_FIGURES"] = "1"

# The same examples at each run, on a machine of any speed; others: --hypothesis-profile=explore.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Let autograd have a place for the simulated GPU (sim_cuda), before its first backward pass.

    It makes its places once in a process.
    """
    torch = sys.modules.get("torch")
    if torch is not None and not torch.cuda.is_available():
        torch._C._ensureCUDADeviceGuardSet()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        type=Path,
        default=Path(__file__).parent / "golden",
        help="folder of golden numbers, in the format of tests/golden/README.md",
    )


# Minutes each, with real processes and servers; started last, they would leave workers idle.
LONG = (
    *("test_postgres", "test_compose", "test_browser", "test_registry", "test_tune_resume"),
    *("test_run", "test_mlflow", "test_mlflow_sync", "test_mlflow_unusable", "test_mlflow_kills"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files in the order in which workers take them (with `--no-loadscope-reorder`)."""
    rank = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def golden(pytestconfig: pytest.Config) -> Path:
    """Return the folder of golden numbers."""
    return pytestconfig.getoption("--golden")


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty data root, with temporary files beside it: nothing is decoded yet."""
    monkeypatch.setenv("HARNESS_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "data"


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return a function that returns a folder, filled by `make` in the first worker to ask."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # common to all workers

    def shared(name: str, make: Callable[[Path], None]) -> Path:
        folder, is_made = root / name, root / f"{name}.made"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # left by a worker that failed
                folder.mkdir()
                make(folder)
                is_made.touch()
        return folder

    return shared


@pytest.fixture(scope="session")
def finished(once: Once, empty_database: Path) -> Path:
    """Return a folder where `harness run experiments/tiny.yaml` has finished. Do not change it."""

    def make(folder: Path) -> None:
        shutil.copy(empty_database, folder)
        write_experiment(folder / "experiments" / "tiny.yaml")
        done = call(folder, "run", "experiments/tiny.yaml", "--no-bar", "--device", "cpu")
        assert done.returncode == 0, done.stderr

    return once("finished", make)


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """Yield a copy of `finished` that may be changed."""
    yield Path(shutil.copytree(finished, tmp_path / "copy"))
    end_processes_in(tmp_path / "copy")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that this process works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return `finished`, which this process works in and must not change."""
    monkeypatch.chdir(finished)
    return finished


@pytest.fixture
def project_copy(finished_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of `finished` that this process works in and may change."""
    monkeypatch.chdir(finished_copy)
    return finished_copy


@pytest.fixture(scope="session")
def interrupted(once: Once, empty_database: Path) -> Interrupted:
    """Return a run that was stopped by Ctrl-C and run again."""

    def make(folder: Path) -> None:
        shutil.copy(empty_database, folder)
        (folder / "interrupted").write_bytes(pickle.dumps(interrupt_and_resume(folder)))

    return pickle.loads((once("interrupted", make) / "interrupted").read_bytes())


@pytest.fixture(scope="session")
def empty_database(once: Once) -> Path:
    """Return an mlflow.db without runs: creating its tables takes seconds, copying it none."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

    def make(folder: Path) -> None:
        mlflow_client(folder).get_experiment_by_name("Default")

    return once("database", make) / "mlflow.db"


@pytest.fixture(scope="session")
def trained(once: Once) -> "Grid":
    """Return the tiny grid, trained without interruption; it must not be changed."""
    from training import tiny, train_all  # imports torch, which most tests do not need

    return tiny(once("trained", lambda folder: train_all(tiny(folder)) and None))
