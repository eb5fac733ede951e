"""Options and fixtures that all tests share."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

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

# Started in the background, pytest would hand on "ignore Ctrl-C" to the processes that the tests
# interrupt; a signal that is caught here becomes the default one again in a child.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        type=Path,
        default=Path(__file__).parent / "golden",
        help="folder of golden numbers, in the format of tests/golden/README.md",
    )


# Minutes each, on real processes and servers: begun last, one would keep one worker waiting.
LONG = (
    *("test_postgres", "test_compose", "test_browser", "test_registry", "test_tune_resume"),
    *("test_run", "test_mlflow", "test_mlflow_file", "test_mlflow_kills"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--no-loadscope-reorder`, the order in which the workers take files."""
    rank = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def golden(pytestconfig: pytest.Config) -> Path:
    """The folder of golden numbers."""
    return pytestconfig.getoption("--golden")


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, and temporary files beside it: nothing decoded by another test."""
    monkeypatch.setenv("HARNESS_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "data"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A folder where `harness run experiments/tiny.yaml` has finished. Change only copies of it."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(empty_database, folder)
    write_experiment(folder / "experiments" / "tiny.yaml")
    done = call(folder, "run", "experiments/tiny.yaml", "--no-bar", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of `finished` to change."""
    yield Path(shutil.copytree(finished, tmp_path / "copy"))
    end_processes_in(tmp_path / "copy")


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Interrupted:
    """A run that was stopped by Ctrl-C and run again."""
    folder = tmp_path_factory.mktemp("interrupted")
    shutil.copy(empty_database, folder)
    return interrupt_and_resume(folder)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mlflow.db without runs. Creating its tables takes seconds, copying them none."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    folder = tmp_path_factory.mktemp("database")
    mlflow_client(folder).get_experiment_by_name("Default")
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> "Grid":
    """The tiny grid, trained once without interruption. Not to be changed."""
    from training import tiny, train_all  # torch, which most tests do without

    return train_all(tiny(tmp_path_factory.mktemp("trained")))
