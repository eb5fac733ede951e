"""The generated files of a project: bundles, tables, results pages and figures."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis import ablation_tables, methods_page, published_numbers
from harness.analysis.bundle import (
    RESULTS,
    Bundle,
    bundle_path,
    check_unmixed,
    is_of_replication,
    read_bundle,
    replication_path,
)
from harness.analysis.export import trained
from harness.analysis.figures_on_pages import fill_figures
from harness.analysis.growth import check_nothing_lost, export_beside
from harness.analysis.print_results import print_blocks
from harness.analysis.readme import (
    DOCS,
    README,
    SUMMARY,
    TABLE,
    has_markers,
    replace_between_markers,
)
from harness.analysis.reference import other_settings
from harness.analysis.tables.markdown import markdown
from harness.analysis.tables.pages import (
    CURVES,
    curve_files,
    link_to_runs,
    result_files,
    summary_blocks,
    table_blocks,
)
from harness.analysis.tuning_winners import describe_winners
from harness.common.errors import UserError
from harness.common.files import write_user_file
from harness.common.names import command_name
from harness.plan import Plan

if TYPE_CHECKING:
    from harness.analysis.figures.base import Format

FIGURES = DOCS / "figures"
WINNERS = "tuning-winners"  # the marker on docs/tuning.md


def make_tables(
    plans: list[tuple[Plan, Path]],
    store: Path,
    *,
    assignments: list[str] | None = None,
    check: bool = False,
    print_only: bool = False,
    allow_mixed: bool = False,
    is_replication: bool = False,
    keep: bool = False,
) -> int:
    """Refresh the bundles of `plans` from the store, then every file made from a stored bundle.

    Args:
        plans: Plans whose cells are finished, with the files of their experiments.
        store: The folder of the cells.
        assignments: Those of `--set`.
        check: Whether to write nothing and to report what would change.
        print_only: Whether to print the tables and to write nothing.
        allow_mixed: Whether the cells of `plans` may come from several processors or versions.
        is_replication: Whether the plans have other seeds than the committed bundles, and their
            bundles belong beside those.
        keep: Whether runs of the stored bundles stand in for cells that the store lacks.

    Returns:
        1 if `check` found a difference (nothing is written then), else 0.

    Raises:
        UserError: Unfinished or mixed cells, or a missing README or marker; nothing is written.
    """
    if print_only and plans and not keep:
        for plan, file in plans:
            bundle = trained(plan, store, file, assignments or [], numbers_only=True)
            if is_replication:
                check_replication(read_bundle(bundle_path(plan)), bundle)
            check_unmixed(bundle, allow_mixed)
            print_blocks(table_blocks(bundle))
        return 0
    fresh: dict[Path, str] = {}
    for plan, file in plans:
        path = bundle_path(plan, is_replication)
        text = export_beside(plan, store, file, assignments or [], path, keep)
        if is_replication:
            check_replication(read_bundle(bundle_path(plan)), read_bundle(path, text))
        check_owner(path, text, fresh.get(path))
        if not print_only and (note := check_nothing_lost(path, text)):
            print(note)
        fresh[path] = text
    if not print_only and not README.exists():
        raise UserError(
            "README.md: not in this folder; run from the project's root, or use --print"
        )
    stored = [] if print_only and fresh else RESULTS.glob("*.jsonl")
    paths = sorted({*stored, *fresh})
    if not paths:
        raise UserError(f"{RESULTS}: no bundle there yet; name an experiment file")
    bundles = [read_bundle(path, fresh.get(path)) for path in paths]
    for bundle in bundles:
        if bundle.path in fresh:  # what a stored one mixes was allowed, and its caption says it
            check_unmixed(bundle, allow_mixed)
        if print_only or bundle.path in fresh:
            print_blocks(table_blocks(bundle))
    if print_only:
        return 0
    outputs = _outputs(bundles) | fresh
    changed = {p: text for p, text in outputs.items() if _stored(p) != text}
    stale = sorted({*RESULTS.glob(f"{CURVES}/*/*.svg")} - outputs.keys())
    if check:
        return _report_differences(changed, stale)
    for path in stale:
        path.unlink()
    for path in (path for path in changed if path not in fresh):
        write_user_file(path, changed[path])
    firsts = (bundle for bundle in bundles if not is_of_replication(bundle.path))
    redraw = [b for b in firsts if b.path in changed or not _has_figures(b)]
    if redraw:
        make_figures(redraw)
    for path in (path for path in changed if path in fresh):  # last: until then, all is made again
        write_user_file(path, changed[path])
    pages = [str(path) for path in changed if CURVES not in path.parts]
    curves = [f"{n} curves"] if (n := len(changed) - len(pages) + len(stale)) else []
    print(
        f"changed: {', '.join([*pages, *curves])}" if changed or stale else "tables are up to date"
    )
    return 0


def _outputs(bundles: list[Bundle]) -> dict[Path, str]:
    """Return the text of every file that is made from bundles."""
    pages = {p: p.read_text(encoding="utf-8") for p in (README, *sorted(DOCS.glob("*.md")))}
    outputs: dict[Path, str] = {}
    by_path = {bundle.path: bundle for bundle in bundles}
    for bundle in bundles:
        replication = by_path.get(replication_path(bundle))
        if not is_of_replication(bundle.path):
            _fill_markers(pages, bundle, replication)
            fill_figures(pages, bundle, figure_folder(bundle.path))
        files = result_files(bundle, replication)
        outputs |= {bundle.path.with_suffix(suffix): text for suffix, text in files.items()}
        outputs |= curve_files(bundle)
    outputs |= ablation_tables.refresh_pages(pages)
    published_numbers.refresh_pages(pages)
    if has_markers(pages.get(DOCS / "tuning.md", ""), WINNERS, SUMMARY):
        page = DOCS / "tuning.md"
        text = describe_winners()
        pages[page] = replace_between_markers(pages[page], WINNERS, text, str(page), SUMMARY)
    if methods_page.PATH.exists():
        pages[methods_page.PATH] = methods_page.methods_page()
    return outputs | pages


def _fill_markers(pages: dict[Path, str], bundle: Bundle, replication: Bundle | None) -> None:
    """Fill the markers of a bundle's table and of its summary on all pages.

    Raises:
        UserError: No page has any, or one page has only half of a pair.
    """
    results = bundle.path.with_suffix(".md")
    places = [
        (page, kind)
        for page, text in pages.items()
        for kind in (TABLE, SUMMARY)
        if has_markers(text, bundle.name, kind)
    ]
    for page, kind in places or [(README, TABLE)]:  # without a place, the README's is missing
        address = Path(os.path.relpath(results, page.parent)).as_posix()
        blocks = (
            summary_blocks(bundle, address, replication)
            if kind == SUMMARY
            else table_blocks(bundle, link_to_runs(bundle, address))
        )
        unbroken = bundle.paper_table is not None  # so many columns would break every number
        pages[page] = replace_between_markers(
            pages[page], bundle.name, markdown(blocks, unbroken), str(page), kind
        )


def check_replication(first: Bundle, second: Bundle) -> None:
    """Check that a bundle is of the same experiment as another one, with other seeds.

    Raises:
        UserError: It is not.
    """
    if other := other_settings(second, first):
        raise UserError(f"--replication: {first.path} has other settings ({', '.join(other)})")
    if shared := sorted({*first.settings.seeds} & {*second.settings.seeds}):
        raise UserError(
            f"--replication: {first.path} has the seeds {', '.join(map(str, shared))} as well; "
            "give other ones with --set 'seeds=[..]'"
        )


def check_owner(path: Path, text: str, other: str | None) -> None:
    """Check that a new bundle does not replace that of another experiment file of the same name.

    Args:
        path: Where the bundle belongs.
        text: The new bundle.
        other: Another new bundle of this call for the same path; None to look at the stored one.

    Raises:
        UserError: It would replace it.
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


def _stored(path: Path) -> str | None:
    """Return the text of a generated file, which may be damaged; None if it is missing."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def _report_differences(changed: dict[Path, str], stale: list[Path]) -> int:
    for path in stale:
        print(f"{path}: belongs to no number any more")
    for path, text in changed.items():
        old = (_stored(path) or "").splitlines()
        diff = difflib.unified_diff(old, text.splitlines(), str(path), "from the results", n=0)
        print("\n".join(list(diff)[:40]))
    differ = bool(changed or stale)
    print(f"tables differ: run `{command_name()} tables`" if differ else "tables match the results")
    return int(differ)


def figure_folder(bundle: Path) -> Path:
    """Return the folder of a bundle's figures.

    The folder `tuning` also holds the figures of tuning studies (analysis/tuning.py), which have
    other names.
    """
    return FIGURES / bundle.stem


def _has_figures(bundle: Bundle) -> bool:
    from harness.analysis.figures import drawable

    names, _ = drawable(bundle)
    return all((figure_folder(bundle.path) / f"{name}.png").exists() for name in names)


def make_figures(
    bundles: list[Bundle] | None = None,
    folder: Path = FIGURES,
    formats: Sequence[Format] = ("png",),
    dpi: int | None = None,
) -> None:
    """Draw the figures of each bundle, by default of all stored ones; print what is left out.

    Args:
        bundles: The results.
        folder: The folder in which each bundle has a folder of its own.
        formats: Endings of the files: "png", "pdf", "svg".
        dpi: Dots per inch of PNG files, by default those of the committed ones.
    """
    from harness.analysis.figures import draw_all, drawable  # matplotlib takes its time
    from harness.analysis.figures.base import DPI

    stored = (p for p in sorted(RESULTS.glob("*.jsonl")) if not is_of_replication(p))
    for bundle in map(read_bundle, stored) if bundles is None else bundles:
        drawn = draw_all(bundle, folder / bundle.path.stem, formats, dpi or DPI)
        print(f"drawn: {', '.join(map(str, drawn))}")
        _, left_out = drawable(bundle)
        for reason in dict.fromkeys(left_out.values()):
            names = ", ".join(name for name, why in left_out.items() if why == reason)
            print(f"left out: {names} of {bundle.name}: {reason}")
