"""One Optuna study a method: asked in batches, told in order, and the same after every kill.

The parameters of trial n follow from the seed, n and the trials before it alone: they are sampled
in memory, from a copy of the study, by a sampler seeded with (seed, n). Only then is the trial
written, whole, in one operation. So a kill leaves a trial or no trial, and never half of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from harness.errors import UserError
from harness.plan import canonical, differences
from harness.tune.space import Choices, Range, is_whole
from harness.tune.spec import Direction, Params, Tuning

IDENTITY = "harness"  # the user attribute that says what a study is about


@contextlib.contextmanager
def only_orchestrator(path: Path) -> Iterator[None]:
    """Hold the study. flock ends with the process, so there is no stale lock.

    Raises:
        UserError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{path.stem}: process {file.read().strip() or '?'} tunes it already; wait for it, "
                "or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def repair_journal(path: Path) -> None:
    """Cut a last line that is not whole, as a power cut leaves it: Optuna would append to it and
    never read the file again. Says so on stderr. Also the lock file of a process that was killed
    while it wrote. Only while holding the study."""
    with contextlib.suppress(OSError):
        path.with_name(f"{path.name}.lock").unlink()
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    last = data[data.rfind(b"\n", 0, whole - 1) + 1 : whole]
    if whole == len(data) and last:
        try:
            json.loads(last)
        except ValueError:
            whole -= len(last)
    if whole != len(data):
        with open(path, "r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
        print(
            f"repaired: the last line of {path} was not whole ({len(data) - whole} bytes cut); "
            "what it said is done again",
            file=sys.stderr,
        )


def open_storage(place: str, tracking_uri: str) -> Any:
    """
    Args:
        place: the path of a journal, or a URL that Optuna understands (sqlite:///, postgresql://).
        tracking_uri: MLflow's, which cannot be the same database.

    Raises:
        UserError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if "://" not in place:
            path = Path(place)
            path.parent.mkdir(parents=True, exist_ok=True)
            repair_journal(path)
            return JournalStorage(JournalFileBackend(str(path)))
        if place == tracking_uri:
            raise UserError(
                "--storage: MLflow's database; Optuna's tables need one of their own (same server, "
                "another database name)"
            )
        return optuna.storages.RDBStorage(place)
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        raise UserError(
            f"--storage: cannot open {without_password(place)} ({type(error).__name__}: {reason}); "
            "correct it, or leave it out for a journal in the store"
        ) from None


def without_password(url: str) -> str:
    scheme, colon, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{colon}{user.split(':')[0]}:***{at}{host}" if at and ":" in user else url


def distributions(tuning: Tuning, method: str) -> dict[str, BaseDistribution]:
    """Optuna's form of a method's search space, fields in the order of their names."""

    def one(field: str, values: Range | Choices) -> BaseDistribution:
        if isinstance(values, Choices):
            return CategoricalDistribution(values.choices)
        if is_whole(tuning.base, field):
            step = 1 if values.step is None else int(values.step)
            return IntDistribution(int(values.low), int(values.high), log=values.log, step=step)
        return FloatDistribution(values.low, values.high, log=values.log, step=values.step)

    return {field: one(field, values) for field, values in tuning.spaces[method].items()}


def sampler(seed: int, number: int, startup_trials: int) -> optuna.samplers.TPESampler:
    """For one trial: a resumed study must not repeat its random stream. Every argument that Optuna
    5.0 does not deprecate is written out, as their defaults differ between its versions."""
    state = np.random.SeedSequence([seed, number]).generate_state(1)[0]
    return optuna.samplers.TPESampler(
        n_startup_trials=startup_trials,
        n_ei_candidates=24,
        seed=int(state),
        multivariate=True,
        group=False,
        constant_liar=True,  # the trials of a batch keep away from each other
        constraints_func=None,
    )


def sample(
    history: list[FrozenTrial],
    space: dict[str, BaseDistribution],
    direction: Direction,
    seed: int,
    startup_trials: int,
) -> Params:
    """The parameters of the trial that comes after `history`. Pure: nothing is stored."""
    copy = optuna.create_study(
        storage=None,
        sampler=sampler(seed, len(history), startup_trials),
        pruner=optuna.pruners.NopPruner(),
        direction=direction,
    )
    copy.add_trials(history)
    return dict(copy.ask(space).params)


class Study:
    """The trials of one method in a storage."""

    def __init__(self, storage: Any, tuning: Tuning, method: str, identity: dict[str, Any]) -> None:
        """
        Raises:
            UserError: the storage has a study of this name about something else.
        """
        self.method, self.tuning = method, tuning
        self.name = f"{tuning.name}/{method}"
        self.space = distributions(tuning, method)
        settings = tuning.settings
        try:
            self.optuna = optuna.create_study(
                study_name=self.name,
                storage=storage,
                sampler=sampler(settings.seed, 0, settings.startup_trials),
                pruner=optuna.pruners.NopPruner(),  # harness.tune.rungs decides
                direction=settings.direction,
                load_if_exists=True,
            )
            stored = self.optuna.user_attrs.get(IDENTITY)
            n = len(self.trials)
        except Exception as error:
            raise UserError(
                f"--storage: cannot read {self.name} ({type(error).__name__}: "
                f"{str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}); "
                "restore the storage, or use another one"
            ) from None
        if stored is None and n == 0:
            self.optuna.set_user_attr("started", datetime.now(UTC).isoformat(timespec="seconds"))
            self.optuna.set_user_attr(IDENTITY, canonical(identity))
        elif stored != canonical(identity):
            old = json.loads(stored) if stored else {}
            shown = "; ".join(differences(old, identity)[:3])
            raise UserError(
                f"{self.name}: the stored study has other settings ({shown}); undo the change, or "
                "give the new study another name"
            )
        if n > settings.trials:
            raise UserError(f"trials: {self.name} has {n} already; use {n} or more")

    @property
    def started(self) -> str:
        return str(self.optuna.user_attrs["started"])

    @property
    def is_finished(self) -> bool:
        trials = self.trials
        return len(trials) == self.tuning.settings.trials and all(
            t.state.is_finished() for t in trials
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def batch(self, number: int) -> list[FrozenTrial]:
        """The trials of a batch, asked for if they are not there yet."""
        settings = self.tuning.settings
        stop = (number + 1) * settings.batch
        while len(trials := self.trials) < stop:
            params = sample(
                trials, self.space, settings.direction, settings.seed, settings.startup_trials
            )
            self.optuna.add_trial(
                create_trial(state=TrialState.RUNNING, params=params, distributions=self.space)
            )
        return trials[stop - settings.batch : stop]

    def note(self, number: int, **attributes: Any) -> None:
        """User attributes of a trial, for whoever looks at the study."""
        trial = self._open(number)
        for key, value in attributes.items():
            if self.trials[number].user_attrs.get(key) != value:
                trial.set_user_attr(key, value)

    def report(self, number: int, curve: dict[int, float]) -> None:
        """The validation curve (epoch -> value) of a running trial, as far as it has come."""
        known = self.trials[number].intermediate_values
        trial = self._open(number)
        for epoch, value in curve.items():
            if epoch not in known:
                trial.report(value, epoch)

    def tell(self, number: int, value: float | None) -> None:
        """A trial is over: with its value, or pruned. Once only, however often it is called."""
        if self.trials[number].state == TrialState.RUNNING:
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            self.optuna.tell(number, value, state)

    def best(self, n: int) -> list[FrozenTrial]:
        """The n best finished trials; of equal ones the earlier."""
        sign = -1 if self.tuning.settings.direction == "maximize" else 1
        complete = [t for t in self.trials if t.state == TrialState.COMPLETE]
        return sorted(complete, key=lambda t: (sign * (t.value or 0.0), t.number))[:n]

    def _open(self, number: int) -> Trial:
        return Trial(self.optuna, self.trials[number]._trial_id)
