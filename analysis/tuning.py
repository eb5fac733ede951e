"""Figures of a tuning, from its bundle alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from harness.analysis.figures.base import DPI, save
from harness.analysis.figures.studies import KINDS, StudyTrials, drawable
from harness.analysis.json_lines import read_records
from harness.common.errors import UserError
from harness.common.files import write_user_file
from harness.common.reading import read_user_text
from harness.tune.export import (
    FORMAT,
    RESULTS,
    CandidateRecord,
    TrialRecord,
    TuningHeader,
    bundle_path,
)
from harness.tune.storage import TUNING
from harness.tune.tuning_file import Tuning

FIGURES = Path("docs/figures/tuning")


@dataclass(frozen=True)
class TuningBundle:
    """A tuning as its bundle has it.

    Attributes:
        name: of the tuning.
        metric: what was tuned.
        studies: method -> its study, in memory.
    """

    name: str
    metric: str
    studies: dict[str, optuna.Study]


def _record_type(line: dict[str, Any]) -> type[CandidateRecord | TrialRecord]:
    return CandidateRecord if "candidate" in line else TrialRecord


def read_tuning_bundle(path: Path) -> TuningBundle:
    """Read a bundle and rebuild its studies.

    Raises:
        UserError: there is no such file, or it is not a bundle of a tuning.
    """
    try:
        _, header, records = read_records(
            read_user_text(path),
            TuningHeader,
            _record_type,
        )
        if header.tuning != FORMAT:
            raise ValueError("line 1 is of another format")
        trials = [record for record in records if isinstance(record, TrialRecord)]
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        studies = {method: _study(header, trials, method) for method in header.studies}
    except FileNotFoundError:
        raise UserError(f"{path}: no such bundle; `harness tune` writes it") from None
    except ValueError as error:
        reason = str(error).replace("\n", " ")[:200]
        raise UserError(
            f"{path}: not a bundle of this version ({reason}); `harness tune` writes it again"
        ) from None
    return TuningBundle(header.name, header.metric, studies)


def _study(header: TuningHeader, records: list[TrialRecord], method: str) -> optuna.Study:
    """Rebuild a study; raise a ValueError if it has no trials, or Optuna refuses one."""
    study = optuna.create_study(study_name=f"{header.name}/{method}", direction=header.direction)
    for record in (r for r in records if r.method == method):
        try:
            trial = optuna.trial.create_trial(
                state=optuna.trial.TrialState[record.state],
                value=record.value,
                params=record.params,
                distributions={
                    field: optuna.distributions.json_to_distribution(text)
                    for field, text in record.distributions.items()
                },
                intermediate_values=record.curve,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"trial {record.trial} of {method}: {error}") from None
        study.add_trial(trial)
    if not study.trials:
        raise ValueError(f"no trials of {method}")
    return study


def draw(
    path: Path,
    folder: Path | None = None,
    formats: Sequence[str] = ("png",),
    dpi: int | None = None,
) -> list[tuple[str, Path]]:
    """Draw the figures of a bundle and return (method, file) of each.

    The file of a figure that needs more trials or parameters than there are is removed.

    Args:
        path: The bundle.
        folder: Where the figures belong; by default a folder beside the bundle.
        formats: Endings of the files.
        dpi: Dots per inch of PNG files, by default those of the committed ones.
    """
    bundle, folder = read_tuning_bundle(path), folder or path.parent / "figures"
    files = []
    for method, study in bundle.studies.items():
        trials = StudyTrials(study, bundle.metric.replace("/", " "))
        kinds = drawable(trials)
        for kind, figure_of in KINDS.items():
            for form in formats:
                file = folder / f"{path.stem}-{method}-{kind}.{form}"
                if kind in kinds:
                    save(partial(figure_of, trials), file, dpi or DPI)
                    files.append((method, file))
                else:
                    file.unlink(missing_ok=True)
    return files


def make_tuning_figures(
    folder: Path = FIGURES, formats: Sequence[str] = ("png",), dpi: int | None = None
) -> None:
    """Draw the figures of every stored bundle; the arguments are those of `draw`."""
    for path in sorted(RESULTS.glob("*.jsonl")):
        for _, file in draw(path, folder, formats, dpi):
            print(f"drawn: {file}")


def keep(tuning: Tuning, store: Path) -> list[Path]:
    """Make the bundles of a finished tuning the committed ones, and draw their figures.

    Args:
        tuning: The tuning.
        store: The store in which it was tuned.

    Returns:
        The committed bundles.

    Raises:
        UserError: It was not tuned there to the end.
    """
    kept = []
    for part in tuning.parts:
        bundle, path = bundle_path(part, store / TUNING), bundle_path(part, RESULTS)
        if not bundle.is_file():
            file = tuning.file
            raise UserError(f"{file}: not tuned in {store}; `harness tune {file}` first")
        write_user_file(path, read_user_text(bundle))
        if part.task is None:
            draw(path, FIGURES)
        kept.append(path)
    return kept
