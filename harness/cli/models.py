"""Commands that use trained networks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from harness.cli.options import RUNS, Set, StoreOption
from harness.common.errors import UserError

if TYPE_CHECKING:
    from harness.trained.model import TrainedModel

app = typer.Typer()

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="an experiment (see --method, --student), a cell, a model.pt, or models:/NAME@ALIAS",
    ),
]
Method = Annotated[
    Optional[str], typer.Option("--method", help="a method of the experiment, or teacher")
]
Student = Annotated[Optional[str], typer.Option("--student", help="its network, as wrn-10-1")]
Seed = Annotated[Optional[int], typer.Option("--seed", min=0, help="default: the first")]
Overlap = Annotated[Optional[str], typer.Option("--overlap", help="of its task: a number, or all")]
Shots = Annotated[Optional[str], typer.Option("--shots", help="of its task: a number, or all")]


class PartName(StrEnum):
    """The parts of a data set."""

    test = "test"
    validation = "validation"
    train = "train"


def _load(context: typer.Context) -> TrainedModel:
    """Load the network that a command's arguments select."""
    from harness.run.find_model import TrainingFilter, load

    given = context.params
    names = ("student", "method", "seed", "overlap", "shots")
    choice = TrainingFilter(**{name: given[name] for name in names})
    return load(given["model"], choice, Path(given["store"]), given["set_"] or [])


@app.command()
def predict(
    context: typer.Context,
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
    method: Method = None,
    student: Student = None,
    seed: Seed = None,
    overlap: Overlap = None,
    shots: Shots = None,
    set_: Set = None,
    store: StoreOption = RUNS,
    out: Annotated[
        Optional[Path], typer.Option("--out", metavar="PATH", help="default: the terminal")
    ] = None,
) -> None:
    """Classify IMAGES with a trained network; print CSV: file, class, probability."""
    from harness.common.files import check_output, write_user_file
    from harness.trained.predict import as_csv, picture_files, predictions

    if out is not None:
        check_output(out)
    files = picture_files(images)
    network = _load(context)
    text = as_csv(predictions(network, files))
    if out is None:
        print(text, end="")
    else:
        write_user_file(out, text)
        print(f"{len(files)} predictions in {out}")


@app.command()
def evaluate(
    context: typer.Context,
    model: Model,
    dataset: Annotated[
        str,
        typer.Option("--dataset", help="name of a data set, an experiment file, or CLASS folders"),
    ],
    method: Method = None,
    student: Student = None,
    seed: Seed = None,
    overlap: Overlap = None,
    shots: Shots = None,
    set_: Set = None,
    store: StoreOption = RUNS,
    part: Annotated[PartName, typer.Option("--part", help="of the data set")] = PartName.test,
) -> None:
    """Measure a trained network's accuracy on a data set."""
    from harness.trained.measure import evaluate as measure

    network = _load(context)
    print(measure(network, dataset, part.value))


@app.command()
def export(
    context: typer.Context,
    model: Model,
    method: Method = None,
    student: Student = None,
    seed: Seed = None,
    overlap: Overlap = None,
    shots: Shots = None,
    set_: Set = None,
    store: StoreOption = RUNS,
    onnx: Annotated[
        Optional[Path], typer.Option("--onnx", metavar="PATH", help="write an ONNX file")
    ] = None,
) -> None:
    """Write a trained network for other runtimes, with its normalisation inside."""
    from harness.common.files import check_output
    from harness.trained.graph import to_onnx

    if onnx is None:
        raise UserError("--onnx: missing; name the file to write, as --onnx student.onnx")
    check_output(onnx)
    network = _load(context)
    to_onnx(network, onnx)
    height, width = network.image_size
    print(f"written: {onnx}, images (B, 3, {height}, {width}) of [0, 1] -> logits")
