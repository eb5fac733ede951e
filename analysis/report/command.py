"""`harness report`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.bundle import Bundle, bundle_path, export, read_bundle
from analysis.figures import draw_all
from analysis.report.page import html
from harness.errors import UserError
from harness.plan import Plan
from harness.store import Store

REPORTS = Path("reports")


def make_report(
    plan: Plan, file: Path, root: Path, assignments: list[str], out: Path | None, show: bool
) -> None:
    """Write the page to `out`, reports/NAME.html by default; `show` opens it in a browser.

    Raises:
        UserError: neither is the grid finished in the store, nor is there a committed bundle; or
            `out` cannot be written.
    """
    bundle = _bundle(plan, file, root, assignments)
    path = out or REPORTS / f"{bundle.name}.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            page = html(bundle, draw_all(bundle, Path(folder)))
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--out: {path}: {error.strerror}; name a file that can be written"
        ) from None
    print(f"written: {path}")
    if show and not webbrowser.open(path.resolve().as_uri()):
        print(f"--open: there is no browser here; open {path} in one")


def _bundle(plan: Plan, file: Path, root: Path, assignments: list[str]) -> Bundle:
    path, store = bundle_path(plan), Store(root)
    n_missing = sum(not store.directory(f).is_done for f in plan.cells)
    if n_missing == 0:
        return read_bundle(path, export(plan, root, file, assignments))
    missing = f"{n_missing} of {len(plan.cells)} cells are not finished in {root}"
    if assignments or not path.exists():
        raise UserError(
            f"{plan.experiment.name}: {missing}, and there is no {path} of these settings; "
            f"`harness run {file}` with them first"
        )
    print(f"{missing}: of {path} alone")
    return read_bundle(path)
