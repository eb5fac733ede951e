"""Commands that train, and commands about trained cells."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.files import plan_of_file, read_file, result_of, summary_builder
from harness.cli.options import (
    RUNS,
    TEACHER_CACHE,
    Budget,
    CpusPerCell,
    Device,
    Devices,
    ExecutorName,
    File,
    GpusPerCell,
    GraphsOption,
    Host,
    Jobs,
    JobsPerDevice,
    MaxTime,
    NoBar,
    NoSharedFiles,
    Open,
    RayAddress,
    RayWait,
    Set,
    Storage,
    StoreOption,
    TeacherCache,
    Trackers,
    Workers,
    run_options,
)
from harness.cli.train_command import train
from harness.common.errors import UserError
from harness.run.options import RunOptions

app = typer.Typer()


@app.command()
def plan(
    context: typer.Context,
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    jobs: Jobs = None,
    device: Devices = RunOptions.device,
    jobs_per_device: JobsPerDevice = None,
    budget: Budget = None,
    teacher_cache: TeacherCache = TEACHER_CACHE,
    graphs: GraphsOption = "auto",
    no_estimate: Annotated[bool, typer.Option("--no-estimate", help="skip the estimate")] = False,
    effect: Annotated[
        Optional[float], typer.Option(help="true difference of the claims' sides, in points")
    ] = None,
    spread: Annotated[
        Optional[float], typer.Option(help="its standard deviation over seeds, in points")
    ] = None,
) -> None:
    """Show the cells to train, the time and disk that they need, and the power of each claim."""
    from harness.experiment.sources import files_of
    from harness.run.inspect import print_plan

    for name, value in (("--effect", effect), ("--spread", spread)):
        if value is not None and not 0 < value <= 100:
            raise UserError(f"{name}: {value:g} is not above 0 and at most 100; give points")
    options = run_options(context)
    experiment = read_file(file, set_)
    for own, base in pairwise(files_of(file)):
        print(f"{own} extends {base}")
    plan = print_plan(experiment, options, measure=not no_estimate)
    if experiment.parsed_claims:
        from harness.analysis.print_results import print_power

        print_power(plan, file, effect, spread)


@app.command()
def run(
    context: typer.Context,
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    jobs: Jobs = None,
    device: Devices = RunOptions.device,
    jobs_per_device: JobsPerDevice = None,
    max_time: MaxTime = None,
    budget: Budget = None,
    n_workers: Workers = 0,
    teacher_cache: TeacherCache = TEACHER_CACHE,
    graphs: GraphsOption = "auto",
    no_bar: NoBar = False,
    executor: ExecutorName = "local",
    ray_address: RayAddress = None,
    cpus_per_cell: CpusPerCell = None,
    gpus_per_cell: GpusPerCell = None,
    no_shared_files: NoSharedFiles = False,
    ray_wait: RayWait = None,
    tracker: Trackers = None,
) -> None:
    """Train every cell that is not done, and log all of them to MLflow."""
    from harness.run.grid import run_experiment

    options = run_options(context)
    status = run_experiment(
        read_file(file, set_),
        options,
        summary=summary_builder(file, set_, store),
        show=result_of(file, set_, store),
    )
    raise typer.Exit(status)


@app.command()
def tune(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="tuning file, as experiments/tuning/digits.yaml")],
    set_: Set = None,
    store: StoreOption = RUNS,
    storage: Storage = None,
    jobs: Jobs = None,
    device: Devices = RunOptions.device,
    jobs_per_device: JobsPerDevice = None,
    max_time: MaxTime = None,
    n_workers: Workers = 0,
    teacher_cache: TeacherCache = TEACHER_CACHE,
    graphs: GraphsOption = "auto",
    no_bar: NoBar = False,
    executor: ExecutorName = "local",
    ray_address: RayAddress = None,
    cpus_per_cell: CpusPerCell = None,
    gpus_per_cell: GpusPerCell = None,
    no_shared_files: NoSharedFiles = False,
    ray_wait: RayWait = None,
) -> None:
    """Tune each method on the validation split with Optuna, then write NAME.tuned.yaml."""
    from harness.analysis.tuning import draw
    from harness.tune.search import tune as run_tuning
    from harness.tune.tuning_file import read_tuning

    options = run_options(context)
    raise typer.Exit(run_tuning(read_tuning(file, set_), options, storage=storage, draw=draw))


@app.command()
def status(
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="read and check every file, not only those written since they were checked",
        ),
    ] = False,
) -> None:
    """Show the state of every cell."""
    from harness.run.inspect import print_status

    print_status(plan_of_file(file, set_), store, verify)


@app.command()
def explain(
    cell: Annotated[str, typer.Argument(help="first characters of a cell's fingerprint")],
    file: Annotated[Optional[Path], typer.Argument(help="experiment file to compare with")] = None,
    set_: Set = None,
    store: StoreOption = RUNS,
) -> None:
    """Show what a cell is and, given an experiment, which fields make it stale there."""
    from harness.run.inspect import print_explanation

    print_explanation(cell, None if file is None else plan_of_file(file, set_), store)


@app.command()
def repair(
    cell: Annotated[str, typer.Argument(help="first characters of a cell's fingerprint")],
    store: StoreOption = RUNS,
    yes: Annotated[bool, typer.Option("--yes", help="repair it; otherwise only report")] = False,
) -> None:
    """Report what a damaged cell can keep and what must be retrained; with --yes, repair it."""
    from harness.run.repair import repair as repair_cell

    repair_cell(cell, store, yes)


@app.command()
def gc(store: StoreOption = RUNS) -> None:
    """Delete what a store can do without: cached teacher outputs, and what kills have left."""
    from harness.store import Store
    from harness.store.teacher_cache import clean

    freed, error = clean(store)
    print(f"{freed / 1e6:.1f} MB of cached teacher outputs removed from {store}")
    Store(store).sweep()
    if error:
        raise error


@app.command()
def sync(file: File, set_: Set = None, store: StoreOption = RUNS, tracker: Trackers = None) -> None:
    """Send to MLflow what it lacks, from the cells' journals."""
    from harness.run.session import connect
    from harness.store import Store
    from harness.track.mirrors import make_mirrors, send
    from harness.track.sync import Tracker

    the_plan = plan_of_file(file, set_)
    Store(store).create()
    mirrors = make_mirrors(tracker or (), the_plan, Store(store))
    mlflow = Tracker(the_plan, Store(store))
    connect(mlflow)
    sent = mlflow.sync()
    done = all(Store(store).directory(f).is_done for f in the_plan.cells)
    if done:
        mlflow.end_grid(summary_builder(file, set_, store))
    mlflow.close(finished=done)
    print(f"{sent} cells sent to {mlflow.server.address}")
    for line in send(mirrors):
        print(line)


@app.command("import-checkpoint")
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="published file (.pth, .pt)", metavar="FILE")],
    file: Annotated[Path, typer.Argument(help="experiment on its data", metavar="EXPERIMENT")],
    set_: Set = None,
    store: StoreOption = RUNS,
    device: Device = "auto",
) -> None:
    """Turn a published checkpoint into a finished cell, usable as a teacher."""
    from harness.trained.import_checkpoint import import_checkpoint as do_import

    print(do_import(checkpoint, read_file(file, set_), store, device))


@app.command()
def ui(
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
    host: Host = "127.0.0.1",
    open_: Open = False,
) -> None:
    """Serve MLflow's UI on this machine."""
    from harness.track.ui import serve

    raise typer.Exit(serve(host, port, open_))


app.command()(train)
