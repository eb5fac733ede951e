"""Optuna's dashboard: which study to open, and the notes that it shows of each study."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import UserError
from harness.common.names import command_name
from harness.common.redaction import without_password
from harness.tune.tuning_file import Tuning

if TYPE_CHECKING:
    import optuna

PACKAGE = "optuna_dashboard"
STORAGE = "HARNESS_STUDIES"  # other users can read a command line, but not an environment
RUN_COMMAND = f"""
import os, sys
from importlib.metadata import entry_points
sys.argv.append(os.environ.pop("{STORAGE}"))
(script,) = entry_points(group="console_scripts", name="optuna-dashboard")
script.load()()
"""
DESCRIPTION = "about"  # a study's user attribute
INSTALL = "pip install 'refilled-harness[dashboard]'"


def description_of(tuning: Tuning, method: str) -> str:
    """Describe a study in Markdown: what is tuned, and where its results are."""
    settings, name = tuning.settings, tuning.name
    fields = ", ".join(f"`{field}`" for field in tuning.spaces[method])
    task = "" if tuning.task is None else f" ({', '.join(tuning.task.words)})"
    return (
        f"{settings.description}\n\n"
        f"Tuned: {fields} of `{method}`{task} in `{tuning.experiment_file.as_posix()}`, on "
        f"`{settings.metric}` after the last epoch. {tuning.n_trials(method)} trials in batches of "
        f"{settings.batch}; the {settings.top_k} best are trained again with the seeds "
        f"{', '.join(map(str, settings.fresh_seeds))}.\n\n"
        f"The winner is in `{settings.name}.tuned.yaml` beside the experiment, every trial in "
        f"`STORE/tuning/`. In MLflow the study is the run `study {name}/{method}` of "
        f"the experiment `{settings.name}-tuning`; trial n is its child `{method} #n`, whose id is "
        "the user attribute `run`."
    )


def describe(study: optuna.Study, tuning: Tuning, method: str) -> None:
    """Store the name of a study's metric, and the description that `show_notes` shows."""
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the method is experimental since version 3.2
            study.set_metric_names([tuning.settings.metric])
    if study.user_attrs.get(DESCRIPTION) != (description := description_of(tuning, method)):
        study.set_user_attr(DESCRIPTION, description)


def show_notes(place: str) -> None:
    """Show each study's description as its note in the dashboard; a note of a user's stays.

    Notes are not written when studies are made, as importing the dashboard takes a second.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna_dashboard import get_note, save_note

    # Not by `open_storage`, which repairs a journal: a tuning may be writing to it.
    is_url = "://" in place
    storage = place if is_url else optuna.storages.JournalStorage(JournalFileBackend(place))
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        description = study.user_attrs.get(DESCRIPTION)
        if description and not get_note(study):
            save_note(study, description)


def find_journals(root: Path) -> dict[str, Path]:
    """Return name of a tuning -> its journal, the newest first."""
    folder = root / "tuning"
    journals = [p for p in folder.rglob("*.journal") if p.is_file() and p.stat().st_size]
    newest = sorted(journals, key=lambda p: (-p.stat().st_mtime, p))
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in newest}


def place_to_open(root: Path, name: str | None) -> str:
    """Return the storage to open: the named journal, else OPTUNA_STORAGE, else the newest journal.

    Raises:
        UserError: there is no study, or none of this name.
    """
    given = os.environ.get("OPTUNA_STORAGE")
    if given and name is None:
        return given
    journals = find_journals(root)
    if not journals:
        raise UserError(f"{root}/tuning: no study yet; `harness tune FILE` makes one")
    if name is None:
        name = next(iter(journals))
        others = ", ".join(list(journals)[1:4])
        also = f"; there are also {others} (`{command_name()} studies NAME`)" if others else ""
        print(f"{name}{also}")
    if name not in journals:
        raise UserError(
            f"NAME: no study {name!r} in {root}/tuning; there are {', '.join(journals)}"
        )
    return str(journals[name])


def serve(root: Path, name: str | None, host: str, port: int) -> int:
    """Run the dashboard until Ctrl-C and return its exit status.

    Raises:
        UserError: there is no study, or the dashboard is not installed.
    """
    place = place_to_open(root, name)
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(f"Optuna's dashboard is not installed; {INSTALL}")
    show_notes(place)
    print(f"{without_password(place)}: http://{host}:{port} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-c", RUN_COMMAND, "--host", host, "--port", str(port)]
    return subprocess.call([*command, "--quiet"], env=os.environ | {STORAGE: place})
