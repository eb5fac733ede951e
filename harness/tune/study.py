"""One Optuna study per method, asked in batches, told in order, and the same after every kill.

The parameters of trial n depend only on the seed, the study's name, n and the trials before it:
they are sampled in memory, from a copy of the study, by a sampler seeded with the first three. Only
then is the trial stored, whole, in one operation. So a kill leaves a complete trial or none, never
half of one. Every method that writes first checks what is stored, so it can be called again after
an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
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
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.common.canonical_json import canonical, differences
from harness.common.errors import UserError, one_line
from harness.tune.dashboard import describe
from harness.tune.space import Choices, Range, is_whole
from harness.tune.storage import retried
from harness.tune.tuning_file import Direction, Params, Tuning

IDENTITY = "harness"  # the user attribute that holds what a study depends on
# The system attribute in which `enqueue_trial` stores parameters: the one thing private to Optuna
# that this package relies on.
ENQUEUED_PARAMS = "fixed_params"


def distributions(tuning: Tuning, method: str) -> dict[str, BaseDistribution]:
    """Return a method's search space as Optuna distributions, sorted by field name."""

    def one(field: str, values: Range | Choices) -> BaseDistribution:
        if isinstance(values, Choices):
            return CategoricalDistribution(values.choices)
        if is_whole(tuning.base, field):
            step = 1 if values.step is None else int(values.step)
            return IntDistribution(int(values.low), int(values.high), log=values.log, step=step)
        return FloatDistribution(values.low, values.high, log=values.log, step=values.step)

    return {field: one(field, values) for field, values in tuning.spaces[method].items()}


def sampler_seed(seed: int, name: str) -> int:
    """Return the seed of a study's sampler, so that no two studies begin with the same trials."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16])
    return int(np.random.SeedSequence([seed, digest]).generate_state(1)[0])


def study_name(tuning: Tuning, method: str) -> str:
    """Return the name of a method's study."""
    return f"{tuning.name}/{method}"


def sampler(seed: int, number: int, startup_trials: int) -> optuna.samplers.TPESampler:
    """Return the sampler of one trial, so that a resumed study does not repeat its random stream.

    Every argument that Optuna 5.0 does not deprecate is given, as the defaults differ between its
    versions.
    """
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
    """Sample the parameters of the trial that comes after `history`, without storing anything.

    Enqueued parameters are `fixed`; those outside the space are sampled instead.
    """
    copy = optuna.create_study(
        storage=None,
        sampler=sampler(seed, len(history), startup_trials),
        pruner=optuna.pruners.NopPruner(),
        direction=direction,
    )
    copy.add_trials(history)
    if fixed:
        copy.enqueue_trial({k: v for k, v in fixed.items() if k in space and contains(space[k], v)})
    return dict(copy.ask(space).params)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether the distribution allows this value: Optuna checks it for a new trial."""
    try:
        create_trial(
            state=TrialState.RUNNING, params={"x": value}, distributions={"x": distribution}
        )
    except (TypeError, ValueError):
        return False
    return True


class Study:
    """The trials of one method in a storage."""

    def __init__(
        self,
        storage: BaseStorage,
        tuning: Tuning,
        method: str,
        identity: dict[str, Any],
        check_owner: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the study, or create it; `identity` is everything that its trials depend on.

        Raises:
            UserError: the storage has a study of this name that depends on something else.
        """
        self.method, self.tuning = method, tuning
        self._storage, self._check_owner = storage, check_owner
        self.name = study_name(tuning, method)
        self.space = distributions(tuning, method)
        settings = tuning.settings
        self.n_trials = tuning.n_trials(method)
        self.seed = sampler_seed(settings.seed, self.name)
        try:
            self.optuna = optuna.create_study(
                study_name=self.name,
                storage=storage,
                sampler=sampler(self.seed, 0, settings.startup_trials),
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
            changes = "; ".join(differences(old, identity)[:3])
            raise UserError(
                f"{self.name}: the stored study has other settings ({changes}); undo the "
                "change, or give the new study another name"
            )
        describe(self.optuna, tuning, method)
        if n > self.n_trials:
            raise UserError(f"trials: {self.name} has {n} already; use {n} or more")

    @property
    def started(self) -> str:
        """The time of its creation, ISO 8601 in UTC."""
        return str(self.optuna.user_attrs["started"])

    @property
    def is_finished(self) -> bool:
        """True if the study has all its trials and each of them has ended."""
        trials = self.trials
        return len(trials) == self.n_trials and all(t.state.is_finished() for t in trials)

    @property
    @retried
    def trials(self) -> list[FrozenTrial]:
        """The stored trials, in the order of their numbers."""
        return self.optuna.get_trials(deepcopy=False)

    @retried
    def batch(self, number: int) -> list[FrozenTrial]:
        """Return the trials of a batch, asking for those that are not stored yet."""
        settings = self.tuning.settings
        stop = (number + 1) * settings.batch
        while True:
            trials = self.trials
            enqueued = next((t for t in trials[:stop] if t.state == TrialState.WAITING), None)
            if enqueued is None and len(trials) >= stop:
                break
            before = trials if enqueued is None else trials[: enqueued.number]
            fixed = {} if enqueued is None else enqueued.system_attrs.get(ENQUEUED_PARAMS, {})
            params = sample(
                before,
                self.space,
                settings.direction,
                self.seed,
                settings.startup_trials,
                fixed,
            )
            self._check_owner()
            if enqueued is not None:
                self._start(enqueued, params)
                continue
            self.optuna.add_trial(
                create_trial(state=TrialState.RUNNING, params=params, distributions=self.space)
            )
        for trial in trials[stop - settings.batch : stop]:
            self._check_ours(trial)
        return trials[stop - settings.batch : stop]

    def _start(self, trial: FrozenTrial, params: Params) -> None:
        """Start an enqueued trial with these parameters.

        The state is written last: until then the trial is started again, with the same parameters.
        """
        trial_id = self._trial_id(trial.number)
        for name, distribution in self.space.items():
            value = distribution.to_internal_repr(params[name])
            self._storage.set_trial_param(trial_id, name, value, distribution)
        self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)

    def _check_ours(self, trial: FrozenTrial) -> None:
        """Raise a UserError if another program asked for this trial, with other parameters."""
        if trial.params.keys() != self.space.keys():
            raise UserError(
                f"{self.name}: trial {trial.number} ({trial.state.name.lower()}, parameters "
                f"{sorted(trial.params)}) is not of `harness tune`, which needs "
                f"{sorted(self.space)}; restore the storage, or give the new study another name"
            )

    @retried
    def note(self, number: int, **attributes: Any) -> None:
        """Set user attributes of a running trial, for people who look at the study."""
        stored, trial_id = self.trials[number].user_attrs, self._trial_id(number)
        for key, value in attributes.items():
            if stored.get(key) != value:
                self._storage.set_trial_user_attr(trial_id, key, value)

    @retried
    def report(self, number: int, curve: dict[int, float]) -> None:
        """Store the validation curve (epoch -> value) of a running trial, as far as it has come."""
        stored, trial_id = self.trials[number].intermediate_values, self._trial_id(number)
        for epoch, value in curve.items():
            if epoch not in stored:
                self._storage.set_trial_intermediate_value(trial_id, epoch, value)

    @retried
    def tell(self, number: int, value: float | None) -> None:
        """End a trial with its value, or as pruned; do nothing if it has ended already."""
        if self.trials[number].state == TrialState.RUNNING:
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            self.optuna.tell(number, value, state)

    def best(self, n: int) -> list[FrozenTrial]:
        """Return the n best finished trials; of equal ones the earlier comes first."""
        sign = -1 if self.tuning.settings.direction == "maximize" else 1
        complete = [t for t in self.trials if t.state == TrialState.COMPLETE]
        return sorted(complete, key=lambda t: (sign * (t.value or 0.0), t.number))[:n]

    def _trial_id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self.name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
