"""One Optuna study a method: asked in batches, told in order, and the same after every kill.

The parameters of trial n follow from the seed, n and the trials before it alone: they are sampled
in memory, from a copy of the study, by a sampler seeded with (seed, n). Only then is the trial
written, whole, in one operation. So a kill leaves a trial or no trial, and never half of one.
Every method that writes looks first at what is there: it may be called again after an error.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from harness.common.canonical_json import canonical, differences
from harness.common.errors import UserError, one_line
from harness.tune.dashboard import describe
from harness.tune.space import Choices, Range, is_whole
from harness.tune.storage import Owner, retried
from harness.tune.tuning_file import Direction, Params, Tuning

IDENTITY = "harness"  # the user attribute that says what a study is about


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
    fixed: Params | None = None,
) -> Params:
    """The parameters of the trial that comes after `history`. Pure: nothing is stored.

    Args:
        fixed: parameters that somebody wants; those outside the space are sampled.
    """
    copy = optuna.create_study(
        storage=None,
        sampler=sampler(seed, len(history), startup_trials),
        pruner=optuna.pruners.NopPruner(),
        direction=direction,
    )
    copy.add_trials(history)
    if fixed:
        copy.enqueue_trial({k: v for k, v in fixed.items() if _is_in(space.get(k), v)})
    return dict(copy.ask(space).params)


def _is_in(distribution: BaseDistribution | None, value: Any) -> bool:
    try:
        return distribution is not None and distribution._contains(
            distribution.to_internal_repr(value)
        )
    except (TypeError, ValueError):
        return False


class Study:
    """The trials of one method in a storage."""

    def __init__(
        self,
        storage: Any,
        tuning: Tuning,
        method: str,
        identity: dict[str, Any],
        owner: Owner | None = None,
    ) -> None:
        """
        Raises:
            UserError: the storage has a study of this name about something else.
        """
        self.method, self.tuning = method, tuning
        self._owner = owner or Owner()
        self.name = f"{tuning.name}/{method}"
        self.space = distributions(tuning, method)
        settings = tuning.settings
        try:
            self.optuna = optuna.create_study(
                study_name=self.name,
                storage=storage,
                sampler=sampler(settings.seed, 0, settings.startup_trials),
                pruner=optuna.pruners.NopPruner(),  # harness.tune.halving decides
                direction=settings.direction,
                load_if_exists=True,
            )
            stored = self.optuna.user_attrs.get(IDENTITY)
            n = len(self.trials)
        except Exception as error:
            raise UserError(
                f"--storage: cannot read {self.name} ({one_line(error)}); "
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
        describe(self.optuna, tuning, method)
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
    @retried
    def trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    @retried
    def batch(self, number: int) -> list[FrozenTrial]:
        """The trials of a batch, asked for if they are not there yet."""
        settings = self.tuning.settings
        stop = (number + 1) * settings.batch
        while True:
            trials = self.trials
            enqueued = next((t for t in trials[:stop] if t.state == TrialState.WAITING), None)
            if enqueued is None and len(trials) >= stop:
                break
            before = trials if enqueued is None else trials[: enqueued.number]
            fixed = {} if enqueued is None else enqueued.system_attrs.get("fixed_params", {})
            params = sample(
                before,
                self.space,
                settings.direction,
                settings.seed,
                settings.startup_trials,
                fixed,
            )
            self._owner.check()
            if enqueued is not None:
                self._take(enqueued, params)
                continue
            self.optuna.add_trial(
                create_trial(state=TrialState.RUNNING, params=params, distributions=self.space)
            )
        for trial in trials[stop - settings.batch : stop]:
            self._check_ours(trial)
        return trials[stop - settings.batch : stop]

    def _take(self, trial: FrozenTrial, params: Params) -> None:
        """Make a trial that somebody enqueued one of ours. Its state comes last: until then it is
        taken again, with the same parameters."""
        storage = self.optuna._storage
        for name, distribution in self.space.items():
            value = distribution.to_internal_repr(params[name])
            storage.set_trial_param(trial._trial_id, name, value, distribution)
        storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)

    def _check_ours(self, trial: FrozenTrial) -> None:
        """
        Raises:
            UserError: another program asked for this trial: it is about other parameters.
        """
        if trial.params.keys() != self.space.keys():
            raise UserError(
                f"{self.name}: trial {trial.number} ({trial.state.name.lower()}, parameters "
                f"{sorted(trial.params)}) is not of `harness tune`, which needs "
                f"{sorted(self.space)}; restore the storage, or give the new study another name"
            )

    @retried
    def note(self, number: int, **attributes: Any) -> None:
        """User attributes of a trial, for whoever looks at the study."""
        trial = self._open(number)
        for key, value in attributes.items():
            if self.trials[number].user_attrs.get(key) != value:
                trial.set_user_attr(key, value)

    @retried
    def report(self, number: int, curve: dict[int, float]) -> None:
        """The validation curve (epoch -> value) of a running trial, as far as it has come."""
        known = self.trials[number].intermediate_values
        trial = self._open(number)
        for epoch, value in curve.items():
            if epoch not in known:
                trial.report(value, epoch)

    @retried
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
