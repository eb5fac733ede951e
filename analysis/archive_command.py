"""`harness bundle export` and `harness bundle import`."""

from __future__ import annotations

from pathlib import Path

from harness.analysis.archive import contents, described, place, read_archive, weights, zipped
from harness.analysis.bundle import (
    RESULTS,
    Bundle,
    bundle_path,
    describe_unfinished,
    read_bundle,
)
from harness.analysis.export import export
from harness.analysis.print_results import print_blocks
from harness.analysis.reference import MARGIN, compare
from harness.analysis.tables.comparisons import comparison_table, verdict_blocks
from harness.analysis.tables.pages import closing_blocks
from harness.common.errors import UserError, nearest
from harness.common.files import check_ending, write_user_file
from harness.common.names import command_name
from harness.plan import Plan

ARCHIVES = Path("archives")


def export_committed(name: str, store: Path, out: Path | None, with_weights: bool) -> None:
    """Write the archive of a committed bundle, by the experiment's name.

    Raises:
        UserError: There is none of this name, or its weights are not in the store.
    """
    path = RESULTS / f"{name}.jsonl"
    if not path.is_file():
        known = [p.stem for p in RESULTS.glob("*.jsonl") if "." not in p.stem]
        raise UserError(f"NAME: {path} is no committed bundle{nearest(name, known)}")
    bundle = read_bundle(path)
    _write(bundle, path.read_text(encoding="utf-8"), bundle.file, store, out, with_weights)


def export_trained(
    plan: Plan,
    file: Path,
    assignments: list[str],
    store: Path,
    out: Path | None,
    with_weights: bool,
) -> None:
    """Write the archive of a grid that is finished in a store.

    Raises:
        UserError: It is not finished there.
    """
    if unfinished := describe_unfinished(plan, store):
        raise UserError(f"{plan.experiment.name}: {unfinished}; `harness run {file}` first")
    text = export(plan, store, file, assignments)
    bundle = read_bundle(bundle_path(plan), text)
    _write(bundle, text, file, store, out, with_weights)


def _write(
    bundle: Bundle, text: str, file: Path, store: Path, out: Path | None, with_weights: bool
) -> None:
    if out is not None:
        check_ending(out, ".zip")
    files = contents(bundle, text, file)
    if with_weights:
        files |= weights(bundle, store)
    files = described(bundle, files)
    path = out or ARCHIVES / f"{bundle.name}.zip"
    write_user_file(path, zipped(files))
    print(f"written: {path} ({len(files)} files)")


def import_archive(path: Path, folder: Path) -> None:
    """Verify an archive, unpack it, and print its numbers beside the committed ones.

    Raises:
        UserError: It is not as it was exported.
    """
    files = read_archive(path)
    theirs = read_bundle(place(path, files, folder))
    print(f"verified: {len(files)} files, now in {theirs.path.parent}")
    own = RESULTS / f"{theirs.name}.jsonl"
    if not own.is_file():
        print_blocks([*closing_blocks(theirs), *verdict_blocks(theirs)])
        return
    check = compare(read_bundle(own), theirs, MARGIN)
    if check.checked:
        print_blocks([comparison_table(check), ""])
    print_blocks([f"{own} beside it: {check.summary}"])
    print(
        f"Your own training beside it: {command_name()} verdicts {theirs.file} --reference "
        f"{theirs.path}"
    )
