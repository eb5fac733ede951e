"""Figures of a tuning, from its bundle alone: history, importance, slices and contours."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.visualization import matplotlib as draw_optuna

from harness.errors import UserError
from harness.tune.export import RESULTS

FIGURES = Path("docs/figures/tuning")
FORMAT = 1


@dataclass(frozen=True)
class TuningBundle:
    """header: what was tuned. trials, candidates: a dictionary a line, of all methods."""

    header: dict[str, Any]
    trials: list[dict[str, Any]]
    candidates: list[dict[str, Any]]

    @property
    def methods(self) -> list[str]:
        return list(self.header["studies"])


def read_tuning_bundle(path: Path) -> TuningBundle:
    """
    Raises:
        UserError: no such file, or not a bundle of a tuning.
    """
    try:
        header, *lines = (json.loads(line) for line in path.read_text().splitlines())
        if header["tuning"] != FORMAT:
            raise ValueError("another format")
        return TuningBundle(
            header,
            [line for line in lines if "trial" in line],
            [line for line in lines if "candidate" in line],
        )
    except OSError:
        raise UserError(f"{path}: no such bundle; `harness tune` writes it") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a bundle of this version; `harness tune` again") from None


def as_study(bundle: TuningBundle, method: str) -> optuna.Study:
    """The method's study, in memory."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=f"{bundle.header['name']}/{method}", direction=bundle.header["direction"]
    )
    for line in (t for t in bundle.trials if t["method"] == method):
        curve = {int(epoch): value for epoch, value in line["curve"].items()}
        pruned = None if line["state"] == "COMPLETE" else curve.get(max(curve, default=0))
        space = line["distributions"].items()
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[line["state"]],
                value=line["value"] if pruned is None else pruned,
                params=line["params"],
                distributions={k: optuna.distributions.json_to_distribution(d) for k, d in space},
                intermediate_values=curve,
            )
        )
    return study


def draw(path: Path) -> list[tuple[str, Path]]:
    """Draw the figures of a bundle; (method, file) of each. A figure that needs more trials or
    more parameters than there are is left out."""
    bundle = read_tuning_bundle(path)
    return [
        (method, file) for method in bundle.methods for file in _draw_method(bundle, path, method)
    ]


def make_tuning_figures() -> None:
    """Draw the figures of every stored bundle."""
    for path in sorted(RESULTS.glob("*.jsonl")):
        for _, file in draw(path):
            print(f"drawn: {file}")


def _draw_method(bundle: TuningBundle, path: Path, method: str) -> list[Path]:
    study = as_study(bundle, method)
    complete = [t.value for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    n_parameters = len(study.trials[0].params)
    kinds: dict[str, Callable[[optuna.Study], Any]] = {
        "history": draw_optuna.plot_optimization_history,
        "slice": draw_optuna.plot_slice,
    }
    if len(set(complete)) > 1:
        kinds["importance"] = _importance
    if n_parameters > 1:
        kinds["contour"] = draw_optuna.plot_contour
    files = []
    for kind, plot in kinds.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental; empty corners of a contour
            axes = plot(study)
        figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
        n_pruned = len(study.trials) - len(complete)
        figure.suptitle(
            f"{study.study_name}: {len(complete)} finished and {n_pruned} pruned trials, "
            f"{bundle.header['metric']}",
            fontsize=9,
        )
        if kind in ("slice", "contour"):
            figure.set_size_inches(
                4 * max(2, n_parameters), 3.2 * (n_parameters if kind == "contour" else 1.4)
            )
        file = FIGURES / f"{path.stem}-{method}-{kind}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=100, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
        files.append(file)
    return files


def _importance(study: optuna.Study) -> Any:
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return draw_optuna.plot_param_importances(study, evaluator=evaluator)
