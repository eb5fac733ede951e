"""Cells and data sets that are sent to other machines, without Ray."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import part_digests, write_birds
from training import Grid, StopAfter, assert_same_result, copy_without, go

from harness.common.errors import UserError
from harness.data import load
from harness.data.sets.cifar import Cifar100Options
from harness.data.sets.digits import DigitsOptions
from harness.data.sets.folder import FolderOptions
from harness.execute.ray import datasets
from harness.execute.ray.datasets import DatasetRef, NoData, data_on_node, pack, unpack
from harness.execute.ray.transfer import (
    OWN_FILES,
    UPSTREAM_FILES,
    RemoteCell,
    apply_write,
    read_files,
    write_files,
)
from harness.store import CellDir
from harness.store.manifest import CellOptions
from harness.train.data_request import DataRequest, data_request
from harness.train.exit_status import DONE, STOPPED


def there(directory: CellDir, place: Path, sent: list[tuple[str, Any]]) -> RemoteCell:
    """The cell on another machine, as it is now."""
    place.mkdir()
    cell = RemoteCell(place / directory.path.name, lambda *write: sent.append(write))
    write_files(cell, read_files(directory, OWN_FILES))
    for fingerprint in directory.cell.upstream.values():
        source = CellDir(directory.path.parent / fingerprint[:16])
        write_files(CellDir(place / source.path.name), read_files(source, UPSTREAM_FILES))
    return cell


def test_a_cell_trained_elsewhere(trained: Grid, tmp_path: Path) -> None:
    """It stops on one machine, goes on on another, and comes back write for write."""
    _, directory = copy_without(trained, "kd", tmp_path)
    sent: list[tuple[str, Any]] = []
    assert go(there(directory, tmp_path / "one", sent), StopAfter(12)) == STOPPED
    assert not (directory / "journal.jsonl").exists()
    while sent:
        apply_write(directory, *sent.pop(0))
    assert [e["event"] for e in directory.events()] == ["start", "epoch", "epoch", "stopped"]
    assert directory.read_checkpoint() is not None

    other = there(directory, tmp_path / "two", sent)
    assert go(other) == DONE
    while sent:
        assert not directory.is_done
        apply_write(directory, *pickle.loads(pickle.dumps(sent.pop(0))))
    assert_same_result(directory, trained.directory("kd"))
    assert directory.events() == other.events() and directory.manifest == other.manifest
    directory.check_model()
    expected = {p.name for p in trained.directory("kd").path.iterdir()} - {"lease"}
    assert {p.name for p in directory.path.iterdir()} == expected


def test_a_kill_between_two_writes_costs_an_epoch(trained: Grid, tmp_path: Path) -> None:
    """Whatever has arrived is a state that the cell goes on from."""
    sent: list[tuple[str, Any]] = []
    _, directory = copy_without(trained, "stage2", tmp_path)
    assert go(there(directory, tmp_path / "there", sent)) == DONE
    assert len(sent) == 9  # start, three times checkpoint and line, end, results
    for n in range(len(sent)):
        _, again = copy_without(trained, "stage2", tmp_path / str(n))
        for write in sent[:n]:
            apply_write(again, *write)
        n_epochs = len(again.epochs())
        assert go(again) == DONE
        assert_same_result(again, trained.directory("stage2"))
        assert n_epochs == max(0, min(3, (n - 1) // 2))


# -- data sets -------------------------------------------------------------------------------------


class Away:
    """In place of Ray's object store. n: of objects that were fetched."""

    def __init__(self) -> None:
        self.objects: list[bytes] = []
        self.n = 0

    def put(self, value: Any) -> int:
        self.objects.append(pickle.dumps(value))
        return len(self.objects) - 1

    def get(self, reference: int) -> Any:
        self.n += 1
        return pickle.loads(self.objects[reference])


@pytest.mark.parametrize("with_test", [True, False])
def test_arrays_are_sent(tmp_path: Path, with_test: bool) -> None:
    away, dataset = Away(), load(DigitsOptions(), with_test)
    arrived = unpack(pack(dataset, away.put), away.get, tmp_path)
    assert arrived.digest == dataset.digest and (arrived.test is not None) is with_test
    assert not list(tmp_path.iterdir())


def test_a_store_is_sent_once(data_root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(datasets, "CHUNK", 100_000)
    away, dataset = Away(), load(FolderOptions(path=write_birds(tmp_path / "birds")))
    ref = pack(dataset, away.put)
    assert len(away.objects) > 3, "in pieces"
    node = tmp_path / "node"
    arrived = unpack(ref, away.get, node)
    assert arrived.digest == dataset.digest and part_digests(arrived) == part_digests(dataset)
    assert arrived.mean == dataset.mean and arrived.augmentation == dataset.augmentation
    away.n = 0
    again = unpack(ref, away.get, node)
    assert away.n == 1 and again.digest == dataset.digest, "the files are there"
    image = pickle.loads(pickle.dumps(again.train.images))[0]  # as a loader's worker has it
    np.testing.assert_array_equal(image, dataset.train.images[0])

    for pixels in node.glob("*/pixels.bin"):
        pixels.write_bytes(b"torn")
    mended = unpack(ref, away.get, node)
    assert part_digests(mended) == part_digests(dataset)
    assert not list(node.glob(".*"))


def request(options: Any, digest: str, root: Path | None = None) -> DataRequest:
    return DataRequest(options, True, root and str(root), digest)


def never(_: Any) -> Any:
    raise AssertionError("nothing is fetched")


def test_a_node_uses_its_own_data_if_they_are_the_same(tmp_path: Path) -> None:
    digits = load(DigitsOptions())
    own = data_on_node(request(DigitsOptions(), digits.digest), None, never, tmp_path)
    assert own.digest == digits.digest
    with pytest.raises(NoData, match="digest"):
        data_on_node(request(DigitsOptions(), "other"), None, never, tmp_path)


def test_a_node_does_not_download(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("urllib.request.urlopen", never)
    root = tmp_path / "nowhere"
    with pytest.raises(NoData, match="CIFAR-100"):
        data_on_node(request(Cifar100Options(), "any", root), None, never, tmp_path)
    assert not root.exists()


def test_a_node_without_data_takes_those_that_came(tmp_path: Path) -> None:
    away, digits = Away(), load(DigitsOptions())
    gone = request(FolderOptions(path=tmp_path / "gone"), digits.digest)
    with pytest.raises(NoData, match="gone"):
        data_on_node(gone, None, never, tmp_path)
    ref: DatasetRef = pack(digits, away.put)
    assert data_on_node(gone, ref, away.get, tmp_path).digest == digits.digest


def test_what_a_cell_wants(trained: Grid, tmp_path: Path) -> None:
    _, directory = copy_without(trained, "kd", tmp_path)
    digits = DigitsOptions(validation=100, test=1400)
    digest = trained.directory("kd").cell.config.data.digest
    assert data_request(directory) == DataRequest(digits, True, None, digest)
    options = CellOptions(dataset=digits.model_dump(mode="json"), data_root="/somewhere")
    (directory / "options.json").write_text(json.dumps(options.as_json()))
    assert data_request(directory) == DataRequest(digits, True, "/somewhere", digest)
    (directory / "options.json").write_text('{"dataset": {"name": "digits", "validation": -1}}')
    with pytest.raises(UserError, match=r"dataset\.validation"):
        data_request(directory)
