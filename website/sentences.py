"""Three sentences on the result of an experiment, made from its bundle."""

from __future__ import annotations

from pathlib import Path

from harness.analysis.bundle import Bundle, read_bundle, replication_path
from harness.analysis.confirmations import confirmations
from harness.analysis.tables.comparisons import count_outcomes, count_standings
from harness.analysis.tables.rows import best_rows, cell_estimate, columns_of, methods_of
from harness.analysis.verdicts import verdicts_of


def sentences(path: Path) -> str:
    """Return what was trained, which student has the highest means, and what the claims show.

    Args:
        path: The bundle.
    """
    bundle = read_bundle(path)
    replication = replication_path(bundle)
    second = read_bundle(replication) if replication.exists() else None
    return " ".join([_trained(bundle), _best(bundle), _shown(bundle, second)])


def _trained(bundle: Bundle) -> str:
    labels = [method.label_in(bundle.experiment) for method in methods_of(bundle)]
    return (
        f"{len(bundle.cells)} trainings compare {len(labels)} methods, each with "
        f"{len(bundle.settings.seeds)} seeds: {'; '.join(labels)}."
    )


def _best(bundle: Bundle) -> str:
    found = []
    for column in columns_of(bundle):
        for row in sorted(best_rows(bundle, column), key=lambda row: row.label):
            mean = cell_estimate(bundle, row, column)
            assert mean is not None
            where = f" ({column.part(row)})" if column.part(row) else ""
            found.append(f"{row.label} with {100 * mean.mean:.1f} %{where}")
    return f"The highest mean among the students: {'; '.join(found)}."


def _shown(bundle: Bundle, second: Bundle | None) -> str:
    verdicts = [verdict for verdict in verdicts_of(bundle) if verdict.is_primary]
    if not verdicts:
        return "The experiment claims nothing, so the table decides nothing."
    if second is None:
        return f"Its primary claims, tested with one set of seeds: {count_outcomes(verdicts)}."
    pairs = [pair for pair in confirmations(bundle, second, bundle) if pair.first.is_primary]
    return f"Its primary claims, tested with two sets of seeds: {count_standings(pairs)}."
