"""`harness tables` and `harness figures`."""

from __future__ import annotations

import difflib
import os
import shlex
from pathlib import Path

from harness.analysis import ablation_tables, methods_page
from harness.analysis.bundle import RESULTS, bundle_path, export, read_bundle, trained
from harness.analysis.readme import DOCS, README, has_markers, replace_between_markers
from harness.analysis.tables import compact
from harness.analysis.tables.csv_and_latex import csv_text, tex_text
from harness.analysis.tables.markdown import markdown
from harness.analysis.tables.runs import runs_markdown
from harness.analysis.tables.text import for_terminal, terminal_width
from harness.common.errors import UserError
from harness.common.names import command_name
from harness.plan import Plan

FIGURES = DOCS / "figures"
NEXT = {
    "verdicts": "what it shows, beside the committed numbers",
    "tables --print": "all numbers",
    "report": "all of it as a page",
}


def make_tables(
    plans: list[tuple[Plan, Path]],
    store: Path,
    *,
    assignments: list[str] | None = None,
    check: bool = False,
    print_only: bool = False,
    allow_mixed: bool = False,
) -> int:
    """Refresh the bundles of `plans` from the store, then the tables from every stored bundle.

    Returns:
        1 if `check` found a difference (nothing is written then), else 0.

    Raises:
        UserError: unfinished cells, mixed cells, missing README or markers; nothing is written.
    """
    fresh: dict[Path, str] = {}
    for plan, file in plans:
        path, text = bundle_path(plan), export(plan, store, file, assignments or [])
        check_owner(path, text, fresh.get(path))
        fresh[path] = text
    if print_only and not fresh:
        fresh = {p: p.read_text(encoding="utf-8") for p in sorted(RESULTS.glob("*.jsonl"))}
        if not fresh:
            raise UserError(f"{RESULTS}: no bundle there yet; name an experiment file")
    if print_only:
        for path, text in fresh.items():
            bundle = read_bundle(path, text)
            table = markdown(bundle, path.with_suffix(".md").as_posix(), allow_mixed)
            print(for_terminal(table, terminal_width()))
        return 0
    if not README.exists():
        raise UserError(
            "README.md: not in this folder; run from the project's root, or use --print"
        )
    paths = sorted({*RESULTS.glob("*.jsonl"), *fresh})
    if not paths:
        raise UserError(f"{RESULTS}: no bundle there yet; name an experiment file")

    pages = {p: p.read_text(encoding="utf-8") for p in (README, *sorted(DOCS.glob("*.md")))}
    outputs: dict[Path, str] = {}
    for path in paths:
        bundle = read_bundle(path, fresh.get(path))
        page = path.with_suffix(".md")
        home = next((p for p, text in pages.items() if has_markers(text, bundle.name)), README)
        link = Path(os.path.relpath(page, home.parent)).as_posix()
        table = markdown(bundle, link, allow_mixed)
        pages[home] = replace_between_markers(pages[home], bundle.name, table, str(home))
        if has_markers(pages[README], bundle.name, compact.KIND):
            summary = compact.summary_markdown(bundle, home.as_posix(), page.as_posix())
            pages[README] = replace_between_markers(
                pages[README], bundle.name, summary, str(README), compact.KIND
            )
        outputs[page] = runs_markdown(bundle)
        outputs[path.with_suffix(".csv")] = csv_text(bundle)
        outputs[path.with_suffix(".tex")] = tex_text(bundle)
        if path in fresh:
            outputs[path] = fresh[path]
            print(for_terminal(table, terminal_width()))
    outputs |= ablation_tables.refreshed(pages)
    outputs |= pages
    if methods_page.PATH.exists():
        outputs[methods_page.PATH] = methods_page.methods_page()
    changed = {p: text for p, text in outputs.items() if not p.exists() or p.read_text() != text}
    if check:
        return _report_differences(changed)
    for path, text in changed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    redraw = [p for p in paths if p in changed or not _has_figures(p)]
    if redraw:
        make_figures(redraw)
    print(f"changed: {', '.join(map(str, changed))}" if changed else "tables are up to date")
    return 0


def print_result(
    plan: Plan, file: Path, store: Path, assignments: list[str], options: list[str]
) -> None:
    """What `harness run` ends with: the final accuracies, and what to call next.

    Args:
        options: of the command, that the next ones need, too.
    """
    bundle = trained(plan, store, file, assignments)
    print(f"\n{for_terminal(compact.result_markdown(bundle), terminal_width())}\n")
    for command, what in NEXT.items():
        words = [command_name(), *bundle.command_of(*command.split())[1:], *options]
        print(f"  {shlex.join(words)}  # {what}")
    print(f"  {command_name()} ui  # every run in MLflow")


def check_owner(path: Path, text: str, other: str | None) -> None:
    """A bundle belongs to one experiment: another file of that name must not replace it.

    Args:
        text: the new bundle. other: one of this call for the same path, else what is stored counts.

    Raises:
        UserError: it would.
    """
    try:
        old = read_bundle(path, other)
    except UserError:
        return  # none yet, or none that can be read: this one takes its place
    new = read_bundle(path, text)
    files = [shlex.split(bundle.command)[2] for bundle in (old, new)]
    settings = [
        {k: v for k, v in bundle.experiment.items() if k not in ("seeds", "description")}
        for bundle in (old, new)
    ]
    if Path(files[0]) != Path(files[1]) and settings[0] != settings[1]:
        raise UserError(
            f"name: {files[1]} and {files[0]} are both called {new.name!r}, and {path} holds the "
            f"results of {files[0]}; give {files[1]} another `name`, or delete {path} if it has "
            "taken its place"
        )


def _report_differences(changed: dict[Path, str]) -> int:
    for path, text in changed.items():
        old = path.read_text().splitlines() if path.exists() else []
        diff = difflib.unified_diff(old, text.splitlines(), str(path), "from the results", n=0)
        print("\n".join(list(diff)[:40]))
    print("tables differ: run `harness tables`" if changed else "tables match the results")
    return 1 if changed else 0


def figure_folder(bundle: Path) -> Path:
    """A bundle's figures. The folder `tuning` also holds those of tuning studies, which end in
    other names (analysis/tuning.py)."""
    return FIGURES / bundle.stem


def _has_figures(path: Path) -> bool:
    from harness.analysis.figures import drawable

    names, _ = drawable(read_bundle(path))
    return all((figure_folder(path) / f"{name}.png").exists() for name in names)


def make_figures(paths: list[Path] | None = None) -> None:
    """Draw the figures of each bundle, of all stored ones by default, and say in a line which of
    them its bundle has no numbers for."""
    from harness.analysis.figures import draw_all, drawable  # matplotlib takes its time

    for path in sorted(RESULTS.glob("*.jsonl")) if paths is None else paths:
        bundle = read_bundle(path)
        drawn = draw_all(bundle, figure_folder(path))
        print(f"drawn: {', '.join(map(str, drawn))}")
        _, left_out = drawable(bundle)
        for reason in dict.fromkeys(left_out.values()):
            names = ", ".join(name for name, why in left_out.items() if why == reason)
            print(f"left out: {names} of {bundle.name}: {reason}")
