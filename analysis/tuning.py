"""Figures of a tuning, from its bundle alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
from pydantic import Field

from harness.analysis.bundle_fields import Part, read_records
from harness.analysis.figures.base import default_settings, pixels
from harness.analysis.figures.studies import KINDS, StudyTrials, drawable
from harness.common.errors import UserError
from harness.tune.export import FORMAT, RESULTS

FIGURES = Path("docs/figures/tuning")


class TuningHeader(Part):
    """The first line."""

    tuning: int
    name: str
    direction: Literal["maximize", "minimize"]
    metric: str
    studies: dict[str, Any] = Field(min_length=1)


class TrialLine(Part):
    trial: int
    method: str
    state: Literal["COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"]
    value: float | None
    params: dict[str, Any]
    distributions: dict[str, str]
    curve: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], float]


class CandidateLine(Part):
    """Of the re-run with fresh seeds, which no figure shows."""

    candidate: int


@dataclass(frozen=True)
class TuningBundle:
    """name: the tuning's. metric: what was tuned. studies: method -> its study, in memory."""

    name: str
    metric: str
    studies: dict[str, optuna.Study]


def read_tuning_bundle(path: Path) -> TuningBundle:
    """
    Raises:
        UserError: no such file, or not a bundle of a tuning.
    """
    try:
        _, header, lines = read_records(
            path.read_text(encoding="utf-8"),
            TuningHeader,
            lambda line: CandidateLine if "candidate" in line else TrialLine,
        )
        if header.tuning != FORMAT:
            raise ValueError("line 1 is of another format")
        trials = [line for line in lines if isinstance(line, TrialLine)]
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        studies = {m: _study(header, trials, m) for m in header.studies}
    except FileNotFoundError:
        raise UserError(f"{path}: no such bundle; `harness tune` writes it") from None
    except ValueError as error:
        why = str(error).replace("\n", " ")[:200]
        raise UserError(
            f"{path}: not a bundle of this version ({why}); `harness tune` writes it again"
        ) from None
    return TuningBundle(header.name, header.metric, studies)


def _study(header: TuningHeader, trials: list[TrialLine], method: str) -> optuna.Study:
    """
    Raises:
        ValueError: it has no trials, or Optuna refuses one.
    """
    study = optuna.create_study(study_name=f"{header.name}/{method}", direction=header.direction)
    for line in (t for t in trials if t.method == method):
        curve = {int(epoch): value for epoch, value in line.curve.items()}
        pruned = None if line.state == "COMPLETE" else curve.get(max(curve, default=0))
        try:
            trial = optuna.trial.create_trial(
                state=optuna.trial.TrialState[line.state],
                value=line.value if pruned is None else pruned,
                params=line.params,
                distributions={
                    name: optuna.distributions.json_to_distribution(text)
                    for name, text in line.distributions.items()
                },
                intermediate_values=curve,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"trial {line.trial} of {method}: {error}") from None
        study.add_trial(trial)
    if not study.trials:
        raise ValueError(f"no trials of {method}")
    return study


def draw(path: Path) -> list[tuple[str, Path]]:
    """Draw the figures of a bundle; (method, file) of each. A figure that needs more trials or
    more parameters than there are is left out, and its file removed."""
    bundle = read_tuning_bundle(path)
    return [
        (method, file) for method in bundle.studies for file in _draw_method(bundle, path, method)
    ]


def make_tuning_figures() -> None:
    """Draw the figures of every stored bundle."""
    for path in sorted(RESULTS.glob("*.jsonl")):
        for _, file in draw(path):
            print(f"drawn: {file}")


def _draw_method(bundle: TuningBundle, path: Path, method: str) -> list[Path]:
    study = StudyTrials(bundle.studies[method], bundle.metric.replace("/", " "))
    drawn = drawable(study)
    files = []
    for kind, figure_of in KINDS.items():
        file = FIGURES / f"{path.stem}-{method}-{kind}.png"
        if kind not in drawn:
            file.unlink(missing_ok=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        with default_settings():
            pixels(figure_of(study)).save(file, optimize=True)
        files.append(file)
    return files
