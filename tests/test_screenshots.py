"""Screenshots show the committed results."""

import json
from pathlib import Path
from typing import Any

from bundles import planned, without_training
from helpers import ROOT
from screenshots import BUNDLE_FILE, FOLDER, digest, rebuild_store

from harness.analysis.export import export


def test_the_bundle_that_the_screenshots_show_has_not_changed() -> None:
    shown = json.loads(BUNDLE_FILE.read_text())
    assert digest(ROOT / shown["bundle"]) == shown["sha256"], "renew them: make screenshots"
    names = ["cells.png", "curves.png", "report.png", "result.png", "teacher.png"]
    assert sorted(p.name for p in FOLDER.glob("*.png")) == names


def test_a_store_made_of_a_bundle_has_its_numbers(tmp_path: Path) -> None:
    tasks = {"classes": 5, "overlap": [2], "shots": [5]}
    plan = planned(methods=["plain", "refilled"], seeds=[0], tasks=tasks)
    text = without_training(plan, tmp_path / "first")
    bundle = tmp_path / "cross.jsonl"
    bundle.write_text(text)
    rebuild_store(bundle, plan, tmp_path / "again")
    again = export(plan, tmp_path / "again", Path("experiments/cross.yaml"), [])
    assert [comparable(line) for line in again.splitlines()] == [
        comparable(line) for line in text.splitlines()
    ]


def comparable(line: str) -> dict[str, Any]:
    """Return a line of a bundle without the digest of the weights, which are not in it."""
    fields: dict[str, Any] = json.loads(line)
    fields.get("manifest", {}).pop("model_sha256", None)
    return fields
