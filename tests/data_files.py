"""Images in files for the tests of data sets: folders, parquet files, and what to ask of them."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.data import Dataset, load
from harness.data.sets.folder import FolderOptions
from harness.data.sets.parquet import ParquetOptions
from harness.experiment.experiment import Experiment
from harness.experiment.file import parse


def picture(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Soft colours, so that JPEG and resizing change little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray | Image.Image, kind: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **options)
    return file.getvalue()


def write_class(folder: Path, seeds: range, **size: int) -> None:
    folder.mkdir(parents=True)
    for seed in seeds:
        (folder / f"{seed:03}.png").write_bytes(encoded(picture(seed, **size)))


def write_birds(path: Path, **size: int) -> Path:
    """train/{crow,gull,wren}: 20 images each; test: 5 each."""
    for k, name in enumerate(("wren", "gull", "crow")):
        write_class(path / "train" / name, range(100 * k, 100 * k + 20), **size)
        write_class(path / "test" / name, range(100 * k + 20, 100 * k + 25), **size)
    return path


def folder(path: Path, **fields: Any) -> Dataset:
    return load(FolderOptions(path=path, **fields))


def write_parquet(path: Path, images: list[Any], labels: Any, **names: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {names.get("image", "img"): images, names.get("label", "fine_label"): labels}
    table = pa.table(columns)
    if "classes" in names:
        features = {"fine_label": {"names": names["classes"], "_type": "ClassLabel"}}
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    pq.write_table(table, path, row_group_size=7)
    return path


def structs(seeds: range, kind: str = "png") -> list[dict[str, Any]]:
    return [{"bytes": encoded(picture(s), kind), "path": f"{s}.{kind}"} for s in seeds]


def write_tiny(path: Path) -> Path:
    """3 classes; 30 training images in two parquet files, 6 test images."""
    labels = np.arange(30) % 3
    write_parquet(path / "train-0-of-2.parquet", structs(range(20)), labels[:20])
    write_parquet(path / "train-1-of-2.parquet", structs(range(20, 30)), labels[20:])
    write_parquet(path / "test.parquet", structs(range(30, 36)), labels[:6])
    return path


def parquet(path: Path | None = None, **fields: Any) -> Dataset:
    return load(ParquetOptions(path=path, **fields))


def experiment(**dataset: Any) -> Experiment:
    network = {"network": "wide_resnet", "depth": 10, "width": 1}
    return parse({"name": "own", "dataset": dataset, "teacher": network, "students": [network]})


def part_digests(dataset: Dataset) -> str:
    """SHA-256 of labels and pixels of train, validation and test; 12 digits of each."""
    digests = []
    for part in (dataset.train, dataset.validation, dataset.test):
        sha = hashlib.sha256(part.labels.astype("<i8").tobytes())
        for i in range(len(part)):
            sha.update(np.ascontiguousarray(part.images[i]).tobytes())
        digests.append(sha.hexdigest()[:12])
    return " ".join(digests)
