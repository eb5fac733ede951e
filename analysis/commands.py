"""`harness tables` and `harness figures`."""

from __future__ import annotations

import difflib
from pathlib import Path

from analysis.collect import RESULTS, bundle_path, export, read_bundle
from analysis.readme import replace_between_markers
from analysis.tables import for_terminal, markdown, runs_markdown
from harness.errors import UserError
from harness.plan import Plan

README = Path("README.md")
FIGURES = Path("docs/figures")


def make_tables(
    plans: list[tuple[Plan, Path]],
    store: Path,
    *,
    assignments: list[str] | None = None,
    check: bool = False,
    print_only: bool = False,
    allow_mixed: bool = False,
) -> int:
    """Refresh the bundles of `plans` from the store, then the README from every stored bundle.

    Returns:
        1 if `check` found a difference (nothing is written then), else 0.

    Raises:
        UserError: unfinished cells, mixed cells, missing README or markers; nothing is written.
    """
    fresh = {bundle_path(p): export(p, store, file, assignments or []) for p, file in plans}
    if print_only:
        for path, text in fresh.items():
            bundle = read_bundle(path, text)
            print(for_terminal(markdown(bundle, path.with_suffix(".md").as_posix(), allow_mixed)))
        return 0
    if not README.exists():
        raise UserError(
            "README.md: not in this folder; run from the project's root, or use --print"
        )
    paths = sorted({*RESULTS.glob("*.jsonl"), *fresh})
    if not paths:
        raise UserError(f"{RESULTS}: no bundle there yet; name an experiment file")

    readme = README.read_text(encoding="utf-8")
    outputs: dict[Path, str] = {}
    for path in paths:
        bundle = read_bundle(path, fresh.get(path))
        page = path.with_suffix(".md")
        table = markdown(bundle, page.as_posix(), allow_mixed)
        readme = replace_between_markers(readme, bundle.name, table, str(README))
        outputs[page] = runs_markdown(bundle)
        if path in fresh:
            outputs[path] = fresh[path]
            print(for_terminal(table))
    outputs[README] = readme
    changed = {p: text for p, text in outputs.items() if not p.exists() or p.read_text() != text}
    if check:
        return _report_differences(changed)
    for path, text in changed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    redraw = [p for p in paths if p in changed or not figure_path(p).exists()]
    if redraw:
        make_figures(redraw)
    print(f"changed: {', '.join(map(str, changed))}" if changed else "tables are up to date")
    return 0


def _report_differences(changed: dict[Path, str]) -> int:
    for path, text in changed.items():
        old = path.read_text().splitlines() if path.exists() else []
        diff = difflib.unified_diff(old, text.splitlines(), str(path), "from the results", n=0)
        print("\n".join(list(diff)[:40]))
    print("tables differ: run `harness tables`" if changed else "tables match the results")
    return 1 if changed else 0


def figure_path(bundle: Path) -> Path:
    return FIGURES / f"{bundle.stem}.png"


def make_figures(paths: list[Path] | None = None) -> None:
    """Draw the figure of each bundle, of all stored ones by default."""
    from analysis.figures import accuracy_by_student

    for path in sorted(RESULTS.glob("*.jsonl")) if paths is None else paths:
        accuracy_by_student(read_bundle(path), figure_path(path))
        print(f"drawn: {figure_path(path)}")
