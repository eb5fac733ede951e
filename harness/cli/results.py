"""Commands that show results: tables, verdicts, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.files import plan_of_file, read_file, without_tunings
from harness.cli.options import (
    RUNS,
    TEACHER_CACHE,
    Devices,
    File,
    Files,
    GraphsOption,
    Jobs,
    JobsPerDevice,
    MaxTime,
    Mixed,
    NoBar,
    Open,
    Out,
    Set,
    StoreOption,
    TeacherCache,
    Workers,
    run_options,
)
from harness.common.errors import UserError
from harness.run.options import RunOptions

app = typer.Typer()
bundle = typer.Typer(help="Exchange results with another lab, as one archive.")
app.add_typer(bundle, name="bundle")
FIGURES = Path("docs/figures")


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
    replication: Annotated[
        bool,
        typer.Option(
            "--replication", help="FILES have other seeds: keep their numbers as a second set"
        ),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="keep committed runs of FILES that the store lacks")
    ] = False,
) -> None:
    """Rewrite the README's tables from the finished cells of FILES, or from the stored bundles.

    The trials of a tuning file among FILES become the committed ones.
    """
    from harness.analysis.generated_files import make_tables

    files, tunings = without_tunings(files or [], set_)
    if tunings and (check or print_only or replication or keep):
        raise UserError(f"{tunings[0].file}: a tuning file has no table; give no other options")
    for name, is_given in {"--keep": keep, "--replication": replication}.items():
        if is_given and not files:
            raise UserError(f"{name}: is for new bundles; name their experiment files")
    plans = [(plan_of_file(file, set_), file) for file in files]
    for tuning in tunings:
        from harness.analysis.tuning import keep as keep_tuning

        print(f"written: {', '.join(map(str, keep_tuning(tuning, store)))}")
    changed = make_tables(
        plans,
        store,
        assignments=set_,
        check=check,
        print_only=print_only,
        allow_mixed=mixed,
        is_replication=replication,
        keep=keep,
    )
    raise typer.Exit(changed)


@app.command()
def verdicts(
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    margin: Annotated[
        Optional[float],
        typer.Option(help="points within which an effect agrees with the reference; default: 1"),
    ] = None,
    reference: Annotated[
        Optional[Path],
        typer.Option("--reference", metavar="BUNDLE", help="default: the committed numbers"),
    ] = None,
) -> None:
    """Compare effects and verdicts with the committed ones; test the claims."""
    from harness.analysis.print_results import print_verdicts

    if margin is not None and not 0 < margin < 100:
        raise UserError(f"--margin: {margin:g} points; give more than 0 and less than 100")
    plan = plan_of_file(file, set_)
    fraction = None if margin is None else margin / 100
    raise typer.Exit(print_verdicts(plan, file, store, set_ or [], fraction, reference))


@app.command()
def classes(
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    method: Annotated[
        Optional[str], typer.Option("--method", help="its confusion matrices; or teacher")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option("--out", metavar="PATH", help="write CSV to a file")
    ] = None,
) -> None:
    """Show the accuracy of every method by class, or the confusion matrices of one method."""
    from harness.analysis.print_results import print_classes
    from harness.common.files import check_output
    from harness.data import load

    if out is not None:
        check_output(out)
    plan = plan_of_file(file, set_)
    experiment = plan.experiment
    names = load(experiment.dataset).class_names if experiment.tasks is None else None
    print_classes(plan, file, store, set_ or [], names, method, out)


@app.command()
def report(
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    out: Out = None,
    open_: Open = False,
    public: Annotated[
        bool, typer.Option("--public", help="leave out ids of MLflow's runs and folders")
    ] = False,
) -> None:
    """Write the results as one HTML page: verdicts, tables, figures, and every number's runs."""
    from harness.analysis.report.command import make_report

    make_report(read_file(file, set_), file, store, set_ or [], out, open_, public)


@app.command()
def ablate(
    context: typer.Context,
    file: File,
    set_: Set = None,
    store: StoreOption = RUNS,
    jobs: Jobs = None,
    device: Devices = RunOptions.device,
    jobs_per_device: JobsPerDevice = None,
    max_time: MaxTime = None,
    n_workers: Workers = 0,
    teacher_cache: TeacherCache = TEACHER_CACHE,
    graphs: GraphsOption = "auto",
    no_bar: NoBar = False,
    print_only: Annotated[
        bool, typer.Option("--print", help="print the tables, write neither results nor pages")
    ] = False,
    mixed: Mixed = False,
) -> None:
    """Go from protocol legacy-2021 to strict, one switch at a time; print the effect of each."""
    from harness.analysis.ablation_tables import report
    from harness.experiment.ablation import steps
    from harness.run.ablate import run_steps

    options = run_options(context)
    experiment = read_file(file, set_)
    way = steps(experiment, set_ or [])
    experiments = [read_file(file, step.assignments) for step in way]
    status = run_steps(experiment, way, experiments, options)
    if status == 0:
        report(experiment.name, way, experiments, store, file, print_only, mixed)
    raise typer.Exit(status)


@app.command()
def figures(
    format_: Annotated[
        str, typer.Option("--format", metavar="LIST", help="of png, pdf and svg, as pdf,svg")
    ] = "png",
    dpi: Annotated[
        Optional[int], typer.Option(min=50, max=1200, help="of png files; default: 150")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="where they are written")
    ] = FIGURES,
) -> None:
    """Draw the figures of the stored bundles; by default again those in docs/figures."""
    from harness.analysis.figures.base import read_formats
    from harness.analysis.generated_files import make_figures
    from harness.analysis.tuning import make_tuning_figures

    formats = read_formats(format_)
    make_figures(folder=out, formats=formats, dpi=dpi)
    make_tuning_figures(out / "tuning", formats, dpi)


@bundle.command("export")
def bundle_export(
    name: Annotated[
        str, typer.Argument(help="a committed bundle's name, or an experiment file", metavar="NAME")
    ],
    set_: Set = None,
    store: StoreOption = RUNS,
    weights: Annotated[
        bool, typer.Option("--weights", help="add the weights of all cells, as safetensors")
    ] = False,
    out: Annotated[
        Optional[Path], typer.Option("--out", metavar="PATH", help="default: archives/NAME.zip")
    ] = None,
) -> None:
    """Write results, tables, figures, report, experiment and environment as one archive."""
    from harness.analysis.archive_command import export_committed, export_trained

    file = Path(name)
    if file.suffix not in (".yaml", ".yml"):
        if set_:
            raise UserError("--set: is for experiment files; name one in place of a bundle")
        export_committed(name, store, out, weights)
        return
    export_trained(plan_of_file(file, set_), file, set_ or [], store, out, weights)


@bundle.command("import")
def bundle_import(
    file: Annotated[Path, typer.Argument(help="archive of `harness bundle export`")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="where its folder is put")
    ] = Path("imported"),
) -> None:
    """Verify an archive of results, unpack it and compare it with the committed numbers."""
    from harness.analysis.archive_command import import_archive

    import_archive(file, out)
