"""The `harness` command. Each command checks its input, then calls one function elsewhere.

This is the only file of `harness` that may import `analysis` (inside commands): the tables are a
view of the results, and training must not need them. Heavy imports stay inside the commands.
"""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli_options import (
    KEPT,
    RUNS,
    Budget,
    Device,
    File,
    Files,
    Host,
    Jobs,
    MaxTime,
    Mixed,
    NoBar,
    Open,
    Out,
    Set,
    Storage,
    StoreOption,
    TeacherCache,
    Workers,
    n_bytes,
    seconds,
)
from harness.command_line import published_spelling, take_data_root
from harness.data import using_data_root
from harness.errors import UserError
from harness.output import keep_output_open
from harness.redact import redacted
from harness.train_command import train

app = typer.Typer(
    name="harness",
    help="Reproduce the tables of a knowledge-distillation paper (ReFilled, CVPR 2020).",
    epilog="Every command takes --data-root DIR (data sets; default ./data) and --debug.",
    add_completion=False,
    no_args_is_help=False,
)


@app.command()
def plan(
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    jobs: Jobs = None,
    device: Device = "auto",
    budget: Budget = None,
    teacher_cache: TeacherCache = KEPT,
    no_estimate: Annotated[bool, typer.Option("--no-estimate", help="measure nothing")] = False,
) -> None:
    """Show the cells, which are done already, and the time and disk the others need."""
    from harness.run.inspect import print_plan

    limit = seconds(budget, "--budget")
    kept = n_bytes(teacher_cache)
    print_plan(_read(file, set_), store, jobs, device, limit, not no_estimate, kept)


@app.command()
def run(
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    jobs: Jobs = None,
    device: Device = "auto",
    max_time: MaxTime = None,
    budget: Budget = None,
    n_workers: Workers = 0,
    teacher_cache: TeacherCache = KEPT,
    no_bar: NoBar = False,
) -> None:
    """Train every cell that is not done, and log all of them to MLflow."""
    from harness.run.grid import run_experiment

    status = run_experiment(
        _read(file, set_),
        store,
        jobs=jobs,
        device=device,
        max_seconds=seconds(max_time),
        n_workers=n_workers,
        teacher_cache=n_bytes(teacher_cache),
        no_bar=no_bar,
        budget=seconds(budget, "--budget"),
        page=_page(file, set_, store),
    )
    raise typer.Exit(status)


@app.command()
def ablate(
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    jobs: Jobs = None,
    device: Device = "auto",
    max_time: MaxTime = None,
    n_workers: Workers = 0,
    teacher_cache: TeacherCache = KEPT,
    no_bar: NoBar = False,
    print_only: Annotated[
        bool, typer.Option("--print", help="print the tables, write neither results nor pages")
    ] = False,
    mixed: Mixed = False,
) -> None:
    """Go from protocol legacy to strict, one switch at a time, and say what each is worth."""
    from analysis.quirks import report
    from harness.run.ablate import run_steps
    from harness.spec.ablation import steps

    own = _read(file, set_)
    way = steps(own, set_ or [])
    experiments = [_read(file, step.assignments) for step in way]
    status = run_steps(
        own,
        way,
        experiments,
        store,
        jobs=jobs,
        device=device,
        max_seconds=seconds(max_time),
        n_workers=n_workers,
        teacher_cache=n_bytes(teacher_cache),
        no_bar=no_bar,
    )
    if status == 0:
        report(own.name, way, experiments, store, file, print_only, mixed)
    raise typer.Exit(status)


@app.command()
def tune(
    file: Annotated[Path, typer.Argument(help="tuning file, as experiments/tuning/digits.yaml")],
    set_: Set = None,
    store: StoreOption = RUNS,
    storage: Storage = None,
    jobs: Jobs = None,
    device: Device = "auto",
    max_time: MaxTime = None,
    n_workers: Workers = 0,
    teacher_cache: TeacherCache = KEPT,
    no_bar: NoBar = False,
) -> None:
    """Tune each method on the validation split with Optuna, then write NAME.tuned.yaml."""
    from analysis.tuning import draw
    from harness.tune.search import tune as run_tuning
    from harness.tune.tuning_file import read_tuning

    status = run_tuning(
        read_tuning(file, set_),
        store,
        storage=storage,
        jobs=jobs,
        device=device,
        max_seconds=seconds(max_time),
        n_workers=n_workers,
        teacher_cache=n_bytes(teacher_cache),
        no_bar=no_bar,
        draw=draw,
    )
    raise typer.Exit(status)


@app.command()
def status(file: File, set_: Set = None, store: StoreOption = RUNS) -> None:
    """Show the state of every cell."""
    from harness.run.inspect import print_status

    print_status(_plan(file, set_), store)


@app.command()
def explain(
    cell: Annotated[str, typer.Argument(help="first characters of a cell's fingerprint")],
    file: Annotated[Optional[Path], typer.Argument(help="experiment file to compare with")] = None,
    set_: Set = None,
    store: StoreOption = RUNS,
) -> None:
    """Show what a cell is and, given an experiment, which field makes it stale there."""
    from harness.run.inspect import print_explanation

    print_explanation(cell, None if file is None else _plan(file, set_), store)


@app.command()
def repair(
    cell: Annotated[str, typer.Argument(help="first characters of a cell's fingerprint")],
    store: StoreOption = RUNS,
    yes: Annotated[bool, typer.Option("--yes", help="do it; otherwise only say it")] = False,
) -> None:
    """Say what a damaged cell can keep and what must be trained again; with --yes, mend it."""
    from harness.run.repair import repair as mend

    mend(cell, store, yes)


@app.command()
def gc(store: StoreOption = RUNS) -> None:
    """Free the disk that the teachers' kept answers take; trainings compute them again."""
    from harness.teacher_cache import clean

    print(f"{clean(store) / 1e6:.1f} MB of teachers' answers removed from {store}")


@app.command()
def sync(file: File, set_: Set = None, store: StoreOption = RUNS) -> None:
    """Send to MLflow what it does not have yet; rebuilds it from the journals."""
    from harness.run.session import connect
    from harness.store import Store
    from harness.track.sync import Tracker

    the_plan = _plan(file, set_)
    Store(store).create()
    tracker = Tracker(the_plan, Store(store))
    connect(tracker)
    sent = tracker.sync()
    done = all(Store(store).directory(f).is_done for f in the_plan.cells)
    if done:
        tracker.present(_page(file, set_, store))
    tracker.close(finished=done)
    print(f"{sent} cells sent to {tracker.server.place}")


@app.command()
def tables(
    files: Files = None,
    set_: Set = None,
    store: StoreOption = RUNS,
    check: Annotated[
        bool, typer.Option("--check", help="change nothing; fail if the README differs")
    ] = False,
    print_only: Annotated[
        bool, typer.Option("--print", help="print the tables, leave README and bundles alone")
    ] = False,
    mixed: Mixed = False,
) -> None:
    """Rewrite the README's tables from the finished cells of FILES, or from the stored bundles."""
    from analysis.commands import make_tables

    plans = [(_plan(file, set_), file) for file in files or []]
    changed = make_tables(
        plans,
        store,
        assignments=set_,
        check=check,
        print_only=print_only,
        allow_mixed=mixed,
    )
    raise typer.Exit(changed)


@app.command()
def verdicts(file: File, set_: Set = None, store: StoreOption = RUNS) -> None:
    """Say whether the numbers agree with the committed ones, and what they show."""
    from analysis.verdict_command import print_verdicts

    raise typer.Exit(print_verdicts(_plan(file, set_), file, store, set_ or []))


@app.command()
def report(
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    out: Out = None,
    open_: Open = False,
) -> None:
    """Write the results as one HTML page: verdicts, tables, figures, and every number's runs."""
    from analysis.report.command import make_report

    make_report(_read(file, set_), file, store, set_ or [], out, open_)


@app.command("import-checkpoint")
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="published file (.pth, .pt)", metavar="FILE")],
    file: Annotated[Path, typer.Argument(help="experiment on its data", metavar="EXPERIMENT")],
    set_: Set = None,
    store: StoreOption = RUNS,
    device: Device = "auto",
) -> None:
    """Turn a published checkpoint into a finished cell, usable as a teacher."""
    from harness.import_checkpoint import import_checkpoint as do_import

    print(do_import(checkpoint, _read(file, set_), store, device))


@app.command()
def figures() -> None:
    """Redraw docs/figures from the stored bundles."""
    from analysis.commands import make_figures
    from analysis.tuning import make_tuning_figures

    make_figures()
    make_tuning_figures()


@app.command()
def ui(
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
    host: Host = "127.0.0.1",
) -> None:
    """Open MLflow's UI on this machine."""
    from harness.track.ui import serve

    raise typer.Exit(serve(host, port))


app.command()(train)


def _page(file: Path, assignments: list[str] | None, store: Path):  # type: ignore[no-untyped-def]
    def page(plan, experiment_id, folder):  # type: ignore[no-untyped-def]
        from analysis.grid_page import grid_page

        return grid_page(plan, store, file, assignments or [], experiment_id, folder)

    return page


def _read(file: Path, assignments: list[str] | None):  # type: ignore[no-untyped-def]
    from harness.spec.file import read
    from harness.track.registry import resolve

    return read(file, assignments, resolve)


def _plan(file: Path, assignments: list[str] | None):  # type: ignore[no-untyped-def]
    from harness.run.grid import plan_of

    return plan_of(_read(file, assignments))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; its exit status. Errors are one line on stderr, status 2; `--debug`
    anywhere shows the traceback instead."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if arguments is None:
        keep_output_open()
    try:
        return _main(given, debug)
    finally:
        if arguments is None:  # what follows is Python's own end: nothing to interrupt
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _main(given: list[str], debug: bool) -> int:
    try:
        given, data_root = take_data_root(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    given = published_spelling([a for a in given if a != "--debug"])
    cause: Exception
    try:
        with using_data_root(data_root):
            return app(given or ["--help"], prog_name="harness", standalone_mode=False) or 0
    except UserError as error:
        cause, message = error, str(error)
    except typer.exceptions.TyperException as error:
        cause, message = error, " ".join(error.format_message().split())
        context = getattr(error, "ctx", None)
        message += f" (see `{context.command_path} --help`)" if context else ""
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        cause, message = error, f"{where}{error.strerror or error}; check the path and its disk"
    except Exception as error:
        if not debug:
            text = " ".join(redacted(str(error)).split())[:300]
            print(
                f"error: {type(error).__name__}: {text} (this is a bug; --debug shows where)",
                file=sys.stderr,
            )
            return 1
        print(redacted(traceback.format_exc()), file=sys.stderr)
        return 1
    if debug:
        print(redacted("".join(traceback.format_exception(cause))), file=sys.stderr)
    print(f"error: {redacted(message)}", file=sys.stderr)
    return 2
