"""Read an experiment from a YAML file or plain data, apply `--set`, report errors in one line.

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from harness import methods
from harness.common.errors import UserError, first_error, nearest
from harness.data import DATASETS
from harness.data.options import CustomOptions, as_number
from harness.experiment.claims import find_published
from harness.experiment.experiment import Experiment
from harness.experiment.pairs import SIDES, Pair
from harness.experiment.protocol import PRESETS, canonical_preset
from harness.experiment.published import read_paper_table, read_published
from harness.experiment.releases import with_release_settings
from harness.experiment.sources import Raw, apply_overrides, is_tuning, load_class_order, read_raw
from harness.experiment.tasks import Task, Tasks
from harness.experiment.tuned import TaskTuned
from harness.methods import SECTIONS
from harness.methods.base import Method
from harness.methods.schedules import Schedule
from harness.methods.variants import expand_item, split_settings
from harness.networks import NETWORKS, family_with

REGISTERED = "models:"  # the prefix of a teacher in MLflow's model registry
EXPERIMENTS = Path("experiments")  # the folder of experiments that are given by name


def experiment_file(text: str) -> Path | None:
    """Return the file of an experiment given by its path or name, or None."""
    candidates = (Path(text), EXPERIMENTS / f"{text}.yaml", EXPERIMENTS / f"{text}.yml")
    return next((p for p in candidates if p.suffix in (".yaml", ".yml") and p.is_file()), None)


def parse(raw: Any, where: str = "the experiment") -> Experiment:
    """Return the resolved experiment that plain data describe.

    Args:
        raw: a mapping, as a file holds it.
        where: its origin, for messages.

    Raises:
        UserError: one line that names the field and what is allowed.
    """
    if not isinstance(raw, dict):
        raise UserError(f"{where}: expected `key: value` lines, found {type(raw).__name__}")
    raw = dict(raw)
    scale = raw.pop("epochs_scale", 1)
    default = raw.pop("network", None) or {}
    for key in raw:
        if key not in Experiment.model_fields:
            raise UserError(f"{key}: unknown key{nearest(str(key), Experiment.model_fields)}")
    raw["dataset"] = _chosen("dataset", raw.get("dataset"), "name", DATASETS, {})
    shared = {"network": default} if isinstance(default, str) else default
    if not isinstance(shared, dict):
        raise UserError("network: not a name or a mapping; write `network: {network: ...}`")
    raw |= _networks(raw, shared, is_own=isinstance(raw["dataset"], CustomOptions))
    raw["protocol"] = _protocol(raw.get("protocol", "strict"))
    raw = with_release_settings(raw, raw["protocol"]["preset"], raw["dataset"].name)
    return scale_epochs(_validate(Experiment, raw, ""), scale)


def _networks(raw: Raw, shared: Raw, is_own: bool) -> Raw:
    """Return the checked networks of an experiment: its teacher and students, or its pairs.

    Args:
        raw: The fields of the experiment.
        shared: The options that its networks share.
        is_own: Whether the images are the user's own, for which networks have plain defaults.
    """

    def chosen(field: str, entry: Any) -> Any:
        if is_registered(entry):
            raise UserError(f"{field}: {entry} is looked up in MLflow by `harness` alone")
        return _chosen(field, entry, "network", NETWORKS, shared, is_own)

    if (pairs := raw.get("pairs")) is None:
        raw.pop("pairs", None)
        students = raw.get("students")
        teacher = chosen("teacher", raw.get("teacher"))
        if not isinstance(students, list | tuple) or not students:
            raise UserError("students: an experiment needs at least one; add `students: [{...}]`")
        named = [chosen(f"students.{i}", entry) for i, entry in enumerate(students)]
        return {"teacher": teacher, "students": named}
    example = "`pairs: [{teacher: {...}, student: {...}}]`"
    if both := next((f for f in ("teacher", "students", "teacher_checkpoint") if raw.get(f)), None):
        raise UserError(
            f"{both}: each of `pairs` has its own; drop one of the two (`{both}: null`, if it is "
            "in a file that this one extends)"
        )
    if not isinstance(pairs, list | tuple) or not pairs:
        raise UserError(f"pairs: an experiment needs at least one; write {example}")
    read_pairs = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, dict):
            raise UserError(f"pairs.{i}: not a mapping; write {example}")
        for key in pair:
            if key not in Pair.model_fields:
                raise UserError(
                    f"pairs.{i}.{key}: unknown key{nearest(str(key), Pair.model_fields)}"
                )
        networks = {side: chosen(f"pairs.{i}.{side}", pair.get(side)) for side in SIDES}
        read_pairs.append({**pair, **networks})
    return {"pairs": read_pairs, "teacher": None, "students": ()}


def is_registered(teacher: Any) -> bool:
    """Return whether an experiment's `teacher` names one of MLflow's registered models."""
    return isinstance(teacher, str) and teacher.startswith(REGISTERED)


def scale_epochs(experiment: Experiment, scale: Any) -> Experiment:
    """Multiply all epochs and milestones by `scale`, for a shorter rehearsal.

    Raises:
        UserError: `scale` is not a positive number.
    """
    scale = as_number(scale)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < 1000:
        raise UserError(f"epochs_scale: {scale!r} is not a positive number; use 0.1 for a tenth")
    if scale == 1:
        return experiment

    fields = [name for name, model in SECTIONS.items() if issubclass(model, Schedule)]
    return experiment.model_copy(update={f: getattr(experiment, f).scaled(scale) for f in fields})


def _chosen(
    field: str, entry: Any, key: str, registry: Any, shared: dict[str, Any], plain: bool = False
) -> Any:
    """Validate an entry that names something in a registry by the options model found there.

    With `plain`, a network has its plain defaults.
    """
    if isinstance(entry, str):
        entry = {key: entry}
    if not isinstance(entry, dict):
        raise UserError(f"{field}: missing or not a mapping; write `{field}: {{{key}: ...}}`")
    # Shared options are for the shared network alone.
    if entry.get(key, shared.get(key)) == shared.get(key):
        entry = {**shared, **entry}
    name = entry.get(key)
    if name is None:
        raise UserError(f"{field}.{key}: missing{nearest('', registry)}")
    if not isinstance(name, str) or name not in registry:
        family = family_with(str(name)) if registry is NETWORKS else None
        meant = f"; write `{{{key}: {family}, name: {name}}}`" if family else None
        raise UserError(f"{field}.{key}: unknown {name!r}{meant or nearest(str(name), registry)}")
    defaults = registry[name].plain if plain else {}
    return _validate(registry[name], {**defaults, **entry}, field)


def _protocol(entry: Any) -> dict[str, Any]:
    entry = {"preset": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict):
        raise UserError(f"protocol: expected {' or '.join(PRESETS)}, or a mapping with a preset")
    preset = canonical_preset(entry.get("preset", "strict"))
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UserError(f"protocol: unknown preset {preset!r}{nearest(str(preset), PRESETS)}")
    return {**PRESETS[preset], **entry, "preset": preset}


def _validate(model: type[BaseModel], values: dict[str, Any], prefix: str) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(first_error(error, model, prefix)) from None


def network_labels(experiment: Experiment) -> list[str]:
    """Return what columns of published numbers may be called: the networks, or the pairs."""
    return [column.label for column in experiment.pairs or experiment.networks]


def _drop_unused_tuned(raw: Raw, in_file: Raw) -> Raw:
    """Drop the file's tuned settings for methods and tasks that `--set` has removed.

    This is for parts of a file only: a method or task that was not tuned there stays an error.
    """
    tuned = raw.get("tuned")
    if not isinstance(tuned, dict) or tuned != in_file.get("tuned"):
        return raw
    try:
        names, tasks = _methods_and_tasks(raw)
        all_names, all_tasks = _methods_and_tasks(in_file)
    except ValueError:  # reported when the whole experiment is parsed
        return raw
    if not (names <= all_names and tasks <= all_tasks and bool(tasks) == bool(all_tasks)):
        return raw
    kept = {name: settings for name, settings in tuned.items() if name in names}
    for name, settings in kept.items():
        if "tasks" in settings:
            entries = [entry for entry in settings["tasks"] if TaskTuned(**entry).task in tasks]
            kept[name] = {**settings, "tasks": entries}
    return {**raw, "tuned": kept}


def _methods_and_tasks(raw: Raw) -> tuple[set[str], set[Task]]:
    """Return the methods (without settings in their names) and the tasks of an experiment.

    Raises:
        ValueError: one of them is invalid.
    """
    items = raw.get("methods") or methods.DEFAULT
    if not isinstance(items, list | tuple):
        raise ValueError("methods: not a list")
    names = [str(name) for item in items for name, _ in expand_item(item)]
    tasks = Tasks.model_validate(raw["tasks"]).all if raw.get("tasks") else []
    return {methods.parse_method(split_settings(name)[0]).name for name in names}, set(tasks)


def _check_sections(raw: Raw, assignments: list[str], used: list[Method]) -> None:
    """Check that some method uses each section.

    A section of the file may stay unused where `--set` has removed its method.

    Raises:
        UserError: an unused section.
    """
    unused = in_file = methods.unused_sections(used)
    given = raw.get("methods")
    items = given if isinstance(given, list) else [] if given else methods.DEFAULT
    with contextlib.suppress(ValueError):  # an invalid name that `--set` has replaced
        in_file = unused & methods.unused_sections(
            methods.parse_method(str(name)) for item in items for name, _ in expand_item(item)
        )
    assigned = [a.partition("=")[0].partition(".")[0] for a in assignments]
    for section in [*(s for s in raw if s in in_file), *(s for s in assigned if s in unused)]:
        users = [m.name for m in methods.REGISTRY.values() if section in m.sections]
        raise UserError(
            f"{section}: no method of this experiment uses it; add {users[0]!r} to methods or "
            f"drop {section!r}"
        )


def read(
    path: Path,
    assignments: list[str] | None = None,
    resolve: Callable[[Raw], Raw] = lambda r: r,
    also: Iterable[str] = (),
) -> Experiment:
    """Return the experiment in a YAML file, with `--set` overrides.

    Args:
        path: the file.
        assignments: those of `--set`.
        resolve: replaces references by plain fields, e.g. a registered teacher
            (harness.track.registry.resolve_teacher).
        also: further methods whose sections the file may have, as in tuning.

    Raises:
        UserError: missing or unreadable file, broken YAML, an invalid field, or published numbers
            that a table could not show.
    """
    raw = read_raw(path)
    if is_tuning(raw):
        raise UserError(f"{path}: a tuning file, not an experiment; use `harness tune {path}`")
    changed = load_class_order(apply_overrides(raw, assignments or []), path.parent)
    if assignments:
        changed = _drop_unused_tuned(changed, raw)
    experiment = parse(resolve(changed), str(path))
    _check_sections(
        raw, assignments or [], [*experiment.resolved_methods, *map(methods.get_method, also)]
    )
    published = []
    if experiment.published:  # checks what the tables will need
        published = read_published(path.parent / experiment.published, network_labels(experiment))
    if experiment.paper_table:
        read_paper_table(path.parent / experiment.paper_table)
    for claim in experiment.parsed_claims:
        if claim.source:
            find_published(claim, published)
    return experiment
