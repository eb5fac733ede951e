"""A cell's description: typed, and written again exactly as it was read."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import Patch, wrong
from pydantic import Field

import harness.cell
from harness.cell import Cell, CellConfig
from harness.common.canonical_json import canonical
from harness.common.errors import UserError
from harness.experiment.protocol import Protocol
from harness.methods.refilled import Stage1Settings

RESULTS = Path(__file__).resolve().parent.parent / "experiments" / "results"
SPEC: dict[str, Any] = {
    "data": {"name": "digits", "digest": "d", "validation": 297},
    "network": {"network": "wide_resnet", "depth": 10, "width": 1},
    "protocol": {"train_on": "train+validation", "selection": "test"},
    "ncm_centers": "evaluated",
    "stage1": {"epochs": 3, "tau1": 2.0},
}


def cell(**changes: Any) -> Cell:
    return Cell.from_json({"kind": "stage1", "spec": SPEC | changes, "upstream": {"teacher": "t"}})


def test_every_committed_cell_is_written_as_it_was_read() -> None:
    """Whatever version wrote it: its fingerprint is the one that its directory and bundle have."""
    found = 0
    for bundle in RESULTS.rglob("*.jsonl"):
        for line in map(json.loads, bundle.read_text().splitlines()):
            if "spec" in line:
                read = Cell.from_json(line)
                assert canonical(read.config.as_json()) == canonical(line["spec"])
                assert read.fingerprint == line["fingerprint"]
                found += 1
    assert found > 1000


def test_what_is_not_written_has_its_default_and_stays_unwritten() -> None:
    config = cell().config
    expected = {"train_on": "train+validation", "selection": "test", "ncm_centers": "evaluated"}
    assert config.protocol == Protocol(**expected)
    assert (config.protocol.ties, config.protocol.last_look) == ("later", "always")
    assert config.optimizer.batch_size == 128
    assert config.sections["stage1"] == Stage1Settings(epochs=3, tau1=2.0)
    assert config.as_json() == SPEC
    assert cell(network=SPEC["network"] | {"dropout": 0.3}).fingerprint != cell().fingerprint


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"stage1": {"tau1": 0.01}}, "stage1.tau1"),
        ({"stage1": {"tau": 1}}, "stage1.tau"),
        ({"stage1": [1]}, "stage1"),
        ({"protocol": {"ties": "last"}}, "protocol.ties"),
        ({"protocol": 1}, "protocol"),
        ({"ncm_centers": "none"}, "protocol.ncm_centers"),
        ({"optimizer": {"batch_size": "many"}}, "optimizer.batch_size"),
        ({"network": {"network": "vgg"}}, "network"),
        ({"network": SPEC["network"] | {"depth": 11}}, "network.depth"),
        ({"data": {"name": "digits"}}, "data.digest"),
        ({"data": {"digest": "d", "view": {"shots": 0}}}, "data.view"),
        ({"seed": -1}, "seed"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], field: str) -> None:
    assert wrong(lambda: cell(**changes)).startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["data", "network", "stage1"])
def test_a_missing_part_is_named(field: str) -> None:
    spec = {k: v for k, v in SPEC.items() if k != field}
    with pytest.raises(UserError, match=f"^{field}: "):
        Cell.from_json({"kind": "stage1", "spec": spec, "upstream": {}})


def test_a_renamed_setting_keeps_its_key_in_the_fingerprint(monkeypatch: Patch) -> None:
    """To rename one is one place: the field, with its old name as the alias."""

    class Renamed(Stage1Settings):
        temperature: float = Field(4.0, alias="tau1")

    before = cell()
    monkeypatch.setitem(harness.cell.SECTIONS, "stage1", Renamed)
    after = cell()
    section = after.config.sections["stage1"]
    assert isinstance(section, Renamed) and section.temperature == 2.0
    assert after.fingerprint == before.fingerprint
    made = CellConfig(
        data=before.config.data,
        network=before.config.network,
        protocol=before.config.protocol,
        sections={"stage1": Renamed(epochs=3, temperature=2.0)},
    )
    assert Cell("stage1", made, before.upstream).fingerprint == before.fingerprint
