"""The screenshots of docs/screenshots, made again from a committed bundle: `make screenshots`.

A store with the bundle's numbers is written into a temporary folder and sent to an MLflow of its
own, whose pages are photographed; nothing is trained. BUNDLE_FILE records which bundle the pictures
show, and tests/test_screenshots.py fails when that bundle has changed since.
"""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import browser as look
import numpy as np
from browser import Browser, dashboard
from helpers import ROOT

from harness.analysis.bundle_fields import CorrectPart
from harness.data import load
from harness.data.views import apply
from harness.experiment.file import read
from harness.methods import SUPERVISED
from harness.plan import Plan
from harness.run.grid import plan_of
from harness.store import Store
from harness.store.manifest import Manifest

FOLDER = ROOT / "docs" / "screenshots"
BUNDLE_FILE = FOLDER / "bundle.json"
BUNDLE = "experiments/results/digits.jsonl"
REPORT_SIZE = {"width": 1200, "height": 900}


def digest(bundle: Path) -> str:
    """Return the SHA-256 of a bundle."""
    return hashlib.sha256(bundle.read_bytes()).hexdigest()


def predictions_of(line: dict[str, Any], labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return predictions (N,) with which a cell has the bundle's right images and confusions."""
    right = CorrectPart.model_validate(line["correct"]).unpack(len(labels))
    predictions = np.where(right, labels, (labels + 1) % n_classes)
    for label in range(n_classes):
        wrong = np.flatnonzero((labels == label) & ~right)
        guesses = [
            guess
            for true, guess, n in line["confusion"] or []
            if true == label != guess
            for _ in range(n)
        ]
        predictions[wrong[: len(guesses)]] = guesses[: len(wrong)]
    return predictions


def rebuild_store(bundle: Path, plan: Plan, root: Path) -> None:
    """Write a store whose finished cells have a bundle's numbers, epochs and predictions.

    Args:
        bundle: The bundle.
        plan: The plan of its experiment.
        root: The store, which is created.
    """
    lines = [json.loads(line) for line in bundle.read_text(encoding="utf-8").splitlines()[1:]]
    dataset, store = load(plan.experiment.dataset), Store(root)
    store.create()
    started = time.time()
    for line in lines:
        cell = plan.cells[line["fingerprint"]]
        directory = store.prepare(cell)
        seen = apply(dataset, cell.config.data.view)
        names, manifest = np.array(seen.class_names), line["manifest"]
        curves = {name: values for name, values in line["curves"].items() if values}
        if cell.kind == SUPERVISED.kind and "loss/total" in curves:
            curves["loss/ce"] = curves["loss/total"]  # its only term
        n_epochs = max(map(len, curves.values()), default=0)
        start = {"device": manifest["device"], "commit": manifest["commits"][-1]}
        start["dirty"] = manifest["dirty"]
        events: list[dict[str, Any]] = [{"event": "start", **start}]
        for i in range(n_epochs):
            measured = {k: v[i] for k, v in curves.items() if v[i] is not None}
            events.append({"event": "epoch", "epoch": i + 1, **measured})
        events.append({"event": "end", "selected_epoch": manifest["selected_epoch"]})
        step = manifest["seconds"] / max(1, len(events) - 1)
        directory.extend([e | {"time": round(started + k * step, 3)} for k, e in enumerate(events)])
        labels = seen.test.labels
        np.savez(
            directory / "predictions.npz",
            labels=labels,
            predictions=predictions_of(line, labels, len(names)),
            class_names=names,
        )
        weights = line["fingerprint"].encode()  # nothing here loads them
        (directory / "model.pt").write_bytes(weights)
        content = manifest | {"model_sha256": hashlib.sha256(weights).hexdigest()}
        directory.finish(Manifest.model_validate(content))


def harness(folder: Path, *words: str) -> None:
    """Run a command of this checkout in a folder.

    Raises:
        CalledProcessError: It fails.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    subprocess.run(
        [sys.executable, "-m", "harness", *words], cwd=folder, env=environment, check=True
    )


def main() -> None:
    """Renew every picture, then the record of what they show."""
    look.require()
    bundle = ROOT / BUNDLE
    header = json.loads(bundle.open(encoding="utf-8").readline())
    experiment_file = shlex.split(header["command"])[2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / experiment_file
        file.parent.mkdir(parents=True)
        for path in (ROOT / experiment_file).parent.glob("*.yaml"):
            (file.parent / path.name).write_bytes(path.read_bytes())
        rebuild_store(bundle, plan_of(read(ROOT / experiment_file)), folder / "runs")
        harness(folder, "sync", experiment_file)
        with dashboard(folder) as shown, Browser(shown.address) as browser:
            pictures = look.photograph(browser, shown, FOLDER)
        harness(folder, "report", experiment_file, "--out", "report.html")
        with Browser("file://") as browser:
            page = browser.open((folder / "report.html").as_uri())
            page.set_viewport_size(REPORT_SIZE)
            pictures.append(look.take(page, FOLDER / "report.png"))
    record = {"bundle": BUNDLE, "sha256": digest(bundle)}
    BUNDLE_FILE.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for path in (*pictures, BUNDLE_FILE):
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
