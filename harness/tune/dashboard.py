"""Optuna's dashboard: which study to open, and what it says about one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import UserError
from harness.common.redaction import without_password
from harness.tune.tuning_file import Tuning

if TYPE_CHECKING:
    import optuna

PACKAGE = "optuna_dashboard"
ABOUT = "about"  # a study's user attribute
INSTALL = "pip install 'refilled-harness[dashboard]'"


def note_of(tuning: Tuning, method: str) -> str:
    """What a study's page says first, in Markdown."""
    settings, name = tuning.settings, tuning.name
    fields = ", ".join(f"`{field}`" for field in tuning.spaces[method])
    task = "" if tuning.task is None else f" ({', '.join(tuning.task.words)})"
    return (
        f"{settings.description}\n\n"
        f"Tuned: {fields} of `{method}`{task} in `{tuning.experiment_file.as_posix()}`, on "
        f"`{settings.metric}` after the last epoch. {settings.trials} trials in batches of "
        f"{settings.batch}; the {settings.top_k} best are trained anew with the seeds "
        f"{', '.join(map(str, settings.fresh_seeds))}.\n\n"
        f"The winner stands in `{settings.name}.tuned.yaml` beside the experiment, every trial in "
        f"`experiments/results/tuning/`. In MLflow it is the run `study {name}/{method}` of the "
        f"experiment `{settings.name}-tuning`; trial n is its child `{method} #n`, whose id is the "
        "user attribute `run`."
    )


def describe(study: optuna.Study, tuning: Tuning, method: str) -> None:
    """Give a study the name of its metric, and what `show_notes` shows."""
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental, since version 3.2
            study.set_metric_names([tuning.settings.metric])
    if study.user_attrs.get(ABOUT) != (about := note_of(tuning, method)):
        study.set_user_attr(ABOUT, about)


def show_notes(place: str) -> None:
    """Put what studies say of themselves where the dashboard shows it. A note that somebody has
    written stays. (Not when they are made: importing the dashboard takes a second.)"""
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna_dashboard import get_note, save_note

    # Not by `open_storage`, which mends a journal: a tuning may be writing into it.
    journal = "://" not in place
    storage = (
        optuna.storages.JournalStorage(JournalFileBackend(place))
        if journal
        else optuna.storages.get_storage(place)
    )
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        about = study.user_attrs.get(ABOUT)
        if about and not get_note(study):
            save_note(study, about)


def studies_in(root: Path) -> dict[str, Path]:
    """Name of a tuning -> its journal, the newest first."""
    folder = root / "tuning"
    found = [p for p in folder.rglob("*.journal") if p.stat().st_size]
    newest = sorted(found, key=lambda p: (-p.stat().st_mtime, p))
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in newest}


def place_to_open(root: Path, name: str | None) -> str:
    """A storage, as the dashboard takes it: that of a name, or else OPTUNA_STORAGE, or else the
    newest journal.

    Raises:
        UserError: there is no study, or none of this name.
    """
    given = os.environ.get("OPTUNA_STORAGE")
    if given and name is None:
        return given
    found = studies_in(root)
    if not found:
        raise UserError(f"{root}/tuning: no study yet; `harness tune FILE` makes one")
    if name is None:
        name = next(iter(found))
        others = ", ".join(list(found)[1:4])
        print(f"{name}{f'; there are also {others} (`harness studies NAME`)' if others else ''}")
    if name not in found:
        raise UserError(f"NAME: no study {name!r} in {root}/tuning; there are {', '.join(found)}")
    return str(found[name])


def serve(root: Path, name: str | None, host: str, port: int) -> int:
    """Until Ctrl-C; the exit status.

    Raises:
        UserError: there is no study, or the dashboard is not installed.
    """
    place = place_to_open(root, name)
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(f"Optuna's dashboard is not installed; {INSTALL}")
    show_notes(place)
    print(f"{without_password(place)}: http://{host}:{port} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-c", "from optuna_dashboard._cli import main; main()"]
    return subprocess.call([*command, "--host", host, "--port", str(port), "--quiet", place])
