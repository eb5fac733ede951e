"""`harness report`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.analysis.bundle import (
    RESULTS,
    Bundle,
    describe_unfinished,
    read_bundle,
    replication_path,
)
from harness.analysis.export import trained
from harness.analysis.figures import draw_all
from harness.analysis.reference import different
from harness.analysis.report.page import html
from harness.common.errors import UserError, one_line
from harness.common.files import check_ending, write_user_file
from harness.experiment.experiment import Experiment
from harness.run.grid import plan_of

REPORTS = Path("reports")


def make_report(
    experiment: Experiment,
    file: Path,
    root: Path,
    assignments: list[str],
    out: Path | None,
    show: bool,
    public: bool = False,
) -> None:
    """Write the page to `out`, reports/NAME.html by default; `show` opens it in a browser.

    A `public` one has neither ids of MLflow's runs nor folders.

    Raises:
        UserError: The grid is not finished in the store and there is no committed bundle of these
            settings.
        OSError: `out` cannot be written.
    """
    if out is not None:
        check_ending(out, ".html")
    bundle = _bundle(experiment, file, root, assignments)
    path = out or REPORTS / f"{bundle.name}.html"
    with TemporaryDirectory() as folder:
        figures = draw_all(bundle, Path(folder))
        text = html(bundle, figures, public, replication_of(bundle))
    write_user_file(path, text)
    print(f"written: {path}")
    if show and not webbrowser.open(path.resolve().as_uri()):
        print(f"--open: there is no browser here; open {path} in one")


def replication_of(bundle: Bundle) -> Bundle | None:
    """Return the committed results of the same experiment with other seeds, if there are any.

    Results of other settings, or of some of the same seeds, do not replicate these.
    """
    path = replication_path(bundle)
    found = read_bundle(path) if path.exists() else None
    if found is None or {*found.settings.seeds} & {*bundle.settings.seeds}:
        return None
    return None if different(bundle.experiment, found.experiment) else found


def _bundle(experiment: Experiment, file: Path, root: Path, assignments: list[str]) -> Bundle:
    path = RESULTS / f"{experiment.name}.jsonl"
    try:
        plan = plan_of(experiment)
    except UserError as error:  # without the data, the cells are unknown
        if not path.exists():
            raise
        why = one_line(error)
    else:
        why = describe_unfinished(plan, root)
        if not why:
            return trained(plan, root, file, assignments)
    first = f"`harness run {file}` with them first"
    bundle = read_bundle(path) if path.exists() else None
    if bundle is None or (assignments and _others(experiment, bundle)):
        raise UserError(
            f"{experiment.name}: {why}, and there is no {path} of these settings; {first}"
        )
    print(f"from {path}: {why}")
    if other := _others(experiment, bundle):
        print(f"made with other settings than {file}: {', '.join(other)}")
    return bundle


def _others(experiment: Experiment, bundle: Bundle) -> list[str]:
    """Return the settings, with seeds and methods, in which a bundle's experiment is another."""
    resolved = experiment.model_dump(mode="json")
    lists = [name for name in ("seeds", "methods") if resolved[name] != bundle.experiment[name]]
    return [*different(resolved, bundle.experiment), *lists]
