"""The settings that each release of the method trained with: the defaults under its preset.

The switches of a preset stand in harness.experiment.protocol. Here is the rest of what a release
did, as far as it is known (docs/deviations.md). The defaults of the sections are 2021's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness import methods
from harness.methods.base import Section
from harness.methods.schedules import milestones_at

if TYPE_CHECKING:
    from harness.experiment.experiment import ExperimentFields

Settings = dict[str, Any]
EPOCHS = 200  # of each training of every release
NETWORK_FIELDS = ("dropout", "final_bn_momentum", "weights")  # beside a network's size
# Preset -> field of an experiment, or section -> its fields. Milestones in % of the epochs.
RELEASES: dict[str, dict[str, Any]] = {
    "legacy-2020": {
        "optimizer": {"batch_size": 512},
        "stage1": {"relation": "one-negative", "final_lr_ratio": 1.0},
        "stage2": {"centers": "local", "milestones": (50, 70), "gamma": 0.1},
    },
    "legacy-2021": {},
    "legacy-2022": {
        "optimizer": {"batch_size": 256},
        "teacher_batch_size": 128,
        "training": {"milestones": (25, 50, 75)},
        "stage1": {"negatives": "smallest"},
        "stage2": {
            "milestones": (25, 50, 75),
            "tau_on": "teacher",
            "weighted": True,
            "tau2": 1.0,
            "lambd": 1.0,
        },
    },
}
LAMBD_2022 = {"cub200": 10.0}  # by data set


def release_settings(preset: str, dataset: str) -> dict[str, Any]:
    """Return the settings of a release on a data set, as in RELEASES; {} for `strict`."""
    settings = RELEASES.get(preset, {})
    if preset == "legacy-2022" and dataset in LAMBD_2022:
        settings = {**settings, "stage2": settings["stage2"] | {"lambd": LAMBD_2022[dataset]}}
    return settings


def with_release_settings(raw: Mapping[str, Any], preset: str, dataset: str) -> dict[str, Any]:
    """Return an experiment's fields, with the release's settings where the file says nothing."""
    result = dict(raw)
    for field, value in release_settings(preset, dataset).items():
        given = result.get(field)
        if not isinstance(value, dict):
            result[field] = value if given is None else given
        elif given is None or isinstance(given, dict):  # otherwise it is refused later
            result[field] = {**_read(field, value, given or {}), **(given or {})}
    return result


def _read(section: str, settings: Settings, given: Settings) -> Settings:
    """Return a release's settings of a section that have an effect beside the given ones."""
    model = methods.SECTIONS.get(section, Section)
    unread = model.not_read(given)
    settings = _for_epochs(settings, given.get("epochs"))
    return {name: value for name, value in settings.items() if name not in unread}


def _for_epochs(settings: Settings, epochs: Any) -> Settings:
    """Return a section's settings with the milestones of that many epochs."""
    if "milestones" not in settings:
        return settings
    epochs = epochs if isinstance(epochs, int) and epochs > 0 else EPOCHS
    return {**settings, "milestones": milestones_at(settings["milestones"], epochs)}


def differences(experiment: ExperimentFields) -> Settings:
    """Return the settings in which an experiment differs from the release of its preset.

    Under `strict` that is nothing. What a method's name says (refilled-triplet) does not count.
    """
    preset = experiment.protocol.preset
    if preset not in RELEASES:
        return {}
    settings, found = release_settings(preset, experiment.dataset.name), Settings()
    if experiment.teacher_batch_size != settings.get("teacher_batch_size"):
        found["teacher_batch_size"] = experiment.teacher_batch_size
    if experiment.teacher_checkpoint:
        found["teacher_checkpoint"] = experiment.teacher_checkpoint[:12]
    for section in ("optimizer", *methods.SECTIONS):
        ours = getattr(experiment, section)
        users = [m for m in experiment.resolved_methods if section in m.sections]
        is_read = section in ("optimizer", "training") or bool(users)
        theirs = type(ours).model_validate(_for_epochs(settings.get(section, {}), EPOCHS))
        unread = ours.not_read(dict(ours))
        fields = (f for f in type(ours).model_fields if f not in unread)
        changed = [f for f in fields if getattr(ours, f) != getattr(theirs, f)]
        for field in changed if is_read else ():
            follows = field == "milestones" and "epochs" in changed
            named = users and all(field in m.implied.get(section, {}) for m in users)
            if not follows and not named:
                found[f"{section}.{field}"] = getattr(ours, field)
    for network in experiment.networks:
        own = network.model_dump(exclude_defaults=True)
        found |= {f"{network.label}.{f}": own[f] for f in NETWORK_FIELDS if f in own}
    if experiment.tuned:
        found["tuned"] = "+".join(experiment.tuned)
    return found
