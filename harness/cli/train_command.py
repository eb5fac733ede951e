"""`harness train`: one student, with the argument names of the 2021 release.

Each argument becomes a field of an experiment, which then runs like any other: its cells are
cached, logged and resumed in the same way. An argument without effect is refused, not ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from harness.cli.options import RUNS, Jobs, JobsPerDevice, MaxTime, StoreOption, run_options
from harness.common.errors import UserError, nearest

if TYPE_CHECKING:
    from harness.experiment.experiment import Experiment

# Teachers of the published tables.
TEACHERS: dict[str, dict[str, Any]] = {
    "wide_resnet": {"depth": 40, "width": 2},
    "mobile_net": {"ca": 1.0},
    "resnet": {"depth": 110},
}

IN_MEMORY = ("digits", "cifar10", "cifar100", "fashion_mnist")

# Field of an experiment -> the argument that sets it, for error messages.
ARGUMENT_OF = {
    "dataset.name": "--data-name",
    "teacher.network": "--teacher-network-name",
    "students.0.network": "--student-network-name",
    "teacher.depth": "--teacher-depth",
    "teacher.width": "--teacher-width",
    "teacher.ca": "--teacher-ca",
    "teacher.dropout": "--dropout-rate",
    "students.0.depth": "--depth",
    "students.0.width": "--width",
    "students.0.ca": "--ca",
    "students.0.dropout": "--dropout-rate",
    "optimizer.batch_size": "--batch-size",
    "optimizer.momentum": "--mo",
    "optimizer.weight_decay": "--wd",
    "stage1.epochs": "--n-training-epochs1",
    "stage1.lr": "--lr1",
    "stage1.tau1": "--tau1",
    "stage1.relation": "--relation",
    "stage2.epochs": "--n-training-epochs2",
    "stage2.lr": "--lr2",
    "stage2.milestones": "--point",
    "stage2.gamma": "--gamma",
    "stage2.tau2": "--tau2",
    "stage2.lambd": "--lambd",
    "training.epochs": "--n-training-epochs2",
    "training.lr": "--lr2",
    "training.milestones": "--point",
    "training.gamma": "--gamma",
    "seeds.0": "--seed",
}


def given(**values: Any) -> dict[str, Any]:
    """Return the arguments that were given; the others keep the experiment's defaults."""
    return {k: v for k, v in values.items() if v is not None}


def points(text: str | None) -> list[int] | None:
    """Return the epochs of --point: '100,140,180' or '100 140 180'."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise UserError(f"--point: {text!r}; expected epochs, as in 100,140,180") from None


def device_of(flag_gpu: bool, devices: str | None) -> str:
    """Return the value of `--device` for the published arguments: '0 1' -> 'cuda:0,cuda:1'.

    Raises:
        UserError: Devices are given without --flag-gpu, or are not numbers.
    """
    if not flag_gpu:
        if devices is not None:
            raise UserError("--devices: has an effect only with --flag-gpu; add it or drop this")
        return "cpu"
    if devices is None:
        return "cuda"
    numbers = devices.replace(",", " ").split()
    if not numbers or not all(number.isdecimal() for number in numbers):
        raise UserError(f"--devices: {devices!r}; give the GPUs' numbers, as in 0 or 0 1")
    return ",".join(f"cuda:{int(number)}" for number in numbers)


def train(
    context: typer.Context,
    data_name: Annotated[str, typer.Option(help="data set")] = "digits",
    teacher_network_name: Annotated[str, typer.Option(help="teacher's network")] = "wide_resnet",
    student_network_name: Annotated[str, typer.Option(help="student's network")] = "wide_resnet",
    devices: Annotated[Optional[str], typer.Option(help="numbers of the GPUs")] = None,
    flag_gpu: Annotated[bool, typer.Option("--flag-gpu", help="train on a GPU")] = False,
    flag_no_bar: Annotated[bool, typer.Option("--flag-no-bar", help="plain lines")] = False,
    n_workers: Annotated[int, typer.Option(help="loader workers", min=0)] = 0,
    flag_tuning: Annotated[
        bool, typer.Option("--flag-tuning", help="train on train, select on validation")
    ] = False,
    lr1: Annotated[Optional[float], typer.Option(help="stage 1: learning rate [0.1]")] = None,
    lr2: Annotated[Optional[float], typer.Option(help="stage 2: learning rate [0.1]")] = None,
    point: Annotated[
        Optional[str], typer.Option(help="stage 2: milestones [50, 70, 90 % of the epochs]")
    ] = None,
    gamma: Annotated[Optional[float], typer.Option(help="stage 2: factor there [0.2]")] = None,
    wd: Annotated[Optional[float], typer.Option(help="weight decay [5e-4]")] = None,
    mo: Annotated[Optional[float], typer.Option(help="momentum [0.9]")] = None,
    depth: Annotated[Optional[int], typer.Option(help="student: depth")] = None,
    width: Annotated[Optional[int], typer.Option(help="student: width")] = None,
    ca: Annotated[Optional[float], typer.Option(help="student: channel multiplier")] = None,
    dropout_rate: Annotated[
        Optional[float], typer.Option(help="dropout of both networks [0.3; mobile_net: 0]")
    ] = None,
    n_training_epochs1: Annotated[Optional[int], typer.Option(help="stage 1 [200]")] = None,
    n_training_epochs2: Annotated[
        Optional[int], typer.Option(help="stage 2, and the teacher [200]")
    ] = None,
    batch_size: Annotated[Optional[int], typer.Option(help="images per batch [128]")] = None,
    tau1: Annotated[Optional[float], typer.Option(help="stage 1: temperature [4]")] = None,
    tau2: Annotated[Optional[float], typer.Option(help="stage 2: temperature [2]")] = None,
    lambd: Annotated[Optional[float], typer.Option(help="stage 2: teaching weight [100]")] = None,
    teacher_depth: Annotated[Optional[int], typer.Option(help="[40, or 110 of resnet]")] = None,
    teacher_width: Annotated[Optional[int], typer.Option(help="[2]")] = None,
    teacher_ca: Annotated[Optional[float], typer.Option(help="[1.0]")] = None,
    relation: Annotated[
        Optional[str], typer.Option(help="tuple, triplet or one-negative [tuple]")
    ] = None,
    protocol: Annotated[str, typer.Option(help="strict, or legacy-YEAR: 2020 to 2022")] = "strict",
    seed: Annotated[int, typer.Option(help="the release's seed by default")] = 960402,
    store: StoreOption = RUNS,
    jobs: Jobs = None,
    jobs_per_device: JobsPerDevice = None,
    max_time: MaxTime = None,
) -> None:
    """Train one student in two stages, and first its teacher if necessary."""
    from harness.methods.refilled import NAME
    from harness.run.grid import run_experiment

    if n_workers and data_name in IN_MEMORY:
        raise UserError(
            f"--n-workers: {data_name} lies in memory and is batched on the device, without "
            "loader workers; use 0"
        )
    schedule = given(epochs=n_training_epochs2, lr=lr2, milestones=points(point), gamma=gamma)
    dropout = given(dropout=dropout_rate)
    for side, name in (("teacher", teacher_network_name), ("student", student_network_name)):
        if name not in TEACHERS:  # other families have options of other names
            raise UserError(f"--{side}-network-name: unknown {name!r}{nearest(name, TEACHERS)}")
    raw: dict[str, Any] = {
        "name": "train",
        "description": "harness train",
        "dataset": {"name": data_name},
        "teacher": {"network": teacher_network_name, **TEACHERS[teacher_network_name]}
        | given(depth=teacher_depth, width=teacher_width, ca=teacher_ca)
        | dropout,
        "students": [
            {"network": student_network_name, **given(depth=depth, width=width, ca=ca), **dropout}
        ],
        "methods": [NAME],
        "optimizer": given(batch_size=batch_size, momentum=mo, weight_decay=wd),
        "training": schedule,
        "stage1": given(epochs=n_training_epochs1, lr=lr1, tau1=tau1, relation=relation),
        "stage2": schedule | given(tau2=tau2, lambd=lambd),
        "protocol": tuning_protocol(protocol, flag_tuning),
        "seeds": [seed],
    }
    experiment = parse_arguments(raw)
    label = experiment.students[0].label
    experiment = experiment.model_copy(update={"name": f"train-{data_name}-{label}"})
    options = run_options(context, device=device_of(flag_gpu, devices), no_bar=flag_no_bar)
    if "," in options.device:
        print("note: --devices: each training starts from the one before; one GPU works at a time")
    status = run_experiment(experiment, options)
    if status == 0:
        print_results(experiment, store)
    raise typer.Exit(status)


def tuning_protocol(preset: str, flag_tuning: bool) -> dict[str, str]:
    """Return the `protocol` field.

    With `flag_tuning`, the training images train and the validation images select. Otherwise both
    train, and a strict run reports its last epoch, a legacy run its best epoch on the test set.
    """
    if flag_tuning:
        return {"preset": preset, "train_on": "train", "selection": "validation"}
    if preset == "strict":
        return {"preset": preset, "train_on": "train+validation", "selection": "last"}
    return {"preset": preset}


def parse_arguments(raw: dict[str, Any]) -> Experiment:
    """Check an experiment made of arguments.

    Raises:
        UserError: As for an experiment file, with the argument's name instead of the field's.
    """
    from harness.experiment.file import parse

    try:
        return parse(raw, "harness train")
    except UserError as error:
        field, colon, rest = str(error).partition(":")
        name = ARGUMENT_OF.get(field) or ARGUMENT_OF.get(field.rpartition(".")[0], field)
        raise UserError(name + colon + rest) from None


def print_results(experiment: Experiment, store: Path) -> None:
    """Print the test accuracies of the trained cells."""
    from harness.common.metrics import logged_name
    from harness.run.grid import plan_of
    from harness.store import Store

    plan, reported = plan_of(experiment), experiment.protocol.reported
    for entry in plan.entries:
        manifest = Store(store).directory(entry.fingerprint).manifest
        for result, values in manifest.results.items():
            value = f"{100 * values[reported]:.2f} %"
            print(f"{entry.name:<32} {logged_name(entry.stage, result):<28} {value}")
    print(f"protocol {experiment.protocol_label}: {reported.replace('_', ' ')} epoch")
