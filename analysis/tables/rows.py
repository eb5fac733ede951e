"""The rows of a bundle's table, from its methods' descriptions, and the numbers behind each."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.bundle import Bundle
from analysis.statistics import Estimate, estimate
from harness import methods
from harness.methods import Method
from harness.plan import TEACHER
from harness.results import ACCURACY, NCM_FORMS, main_of, names_of

DASH = "–"  # for what is not there


@dataclass(frozen=True)
class Row:
    """One row of the table: which numbers it shows.

    number: of its stage among the method's, from 1; 0 for the teacher. is_final: of its last one,
    whose accuracy is the method's result.
    """

    label: str
    stage: str
    method: str
    result: str
    number: int = 0
    is_final: bool = False

    @property
    def markdown(self) -> str:
        """The result of several stages stands out among theirs."""
        return f"**{self.label}**" if self.is_final and self.number > 1 else self.label


def methods_of(bundle: Bundle) -> list[Method]:
    """
    Raises:
        UserError: it is of a method that this version does not know.
    """
    field = f"{bundle.path}: experiment.methods"
    return [methods.find(name, field) for name in bundle.experiment["methods"]]


def rows_of(bundle: Bundle) -> list[Row]:
    """Teacher, then each method: after each stage all that it measures, and the final accuracy."""
    used = methods_of(bundle)
    rows = [Row("Teacher", TEACHER, TEACHER, ACCURACY)] if any(m.needs for m in used) else []
    for method in used:
        label = method.label_in(bundle.experiment)
        for number, stage in enumerate(method.stages, 1):
            is_final = stage is method.final
            for result in names_of(stage.result):
                how = f": {NCM_FORMS[result]}" if result in NCM_FORMS else ""
                shown = label if is_final else f"{label} after stage {number}{how}"
                rows.append(Row(shown, stage.name, method.name, result, number, is_final))
    return rows


def main_metric(bundle: Bundle, result: str) -> str:
    """The metric that the protocol goes by for a stage with this result (harness.results)."""
    return main_of(result, bundle.experiment["protocol"]["ncm_centers"])


def select(bundle: Bundle, row: Row, student: str) -> pd.DataFrame:
    """The numbers of one table cell, a line a seed. Every student has the same teacher."""
    n = bundle.numbers
    chosen = (n.stage == row.stage) & (n.method == row.method) & (n.result == row.result)
    if row.stage != TEACHER:
        chosen &= n.student == student
    # An imported teacher is one run, not one a seed.
    return n[chosen].sort_values("seed").drop_duplicates("fingerprint")


def cell_estimate(bundle: Bundle, row: Row, student: str) -> Estimate | None:
    return estimate(select(bundle, row, student)[bundle.reported].tolist())


def students_of(bundle: Bundle) -> list[str]:
    seen = bundle.numbers[bundle.numbers.stage != TEACHER].student
    return list(dict.fromkeys(seen))
