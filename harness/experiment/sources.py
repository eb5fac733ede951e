"""The YAML files of an experiment: read, extended by one another, and changed by `--set`."""

from __future__ import annotations

import copy
import difflib
import os
import re
from pathlib import Path
from typing import Any, TypeGuard

from harness.common.errors import UserError
from harness.data.options import resolve_paths
from harness.experiment.plain_yaml import InvalidYaml, parse_yaml
from harness.networks.pretrained import resolve_weights

Raw = dict[str, Any]
EXTENDS = "extends"
EXAMPLE = "experiments/digits.yaml"
MOST_FILES = 8  # that extend one another
BESIDE = ("published", "paper_table")  # fields with the path of a file beside the experiment


def read_raw(path: Path, resolve: bool = True) -> Raw:
    """Return the fields of an experiment file, with those of the file that it extends.

    Its own values count. Mappings are joined key by key, unless they name another network, data set
    or preset; lists are replaced, and null drops what the other file says.

    Args:
        path: the file.
        resolve: whether relative paths of data and weights are taken from the file's folder; they
            stay as they are written if the fields are for another file in that folder.

    Raises:
        UserError: A file is missing, unreadable or broken; files extend one another in a circle; or
            an experiment has no name of its own.
    """
    files = files_of(path)
    raw: Raw = {}
    for file in reversed(files):
        own = read_yaml(file, "experiment", EXAMPLE)
        if resolve or file.parent != path.parent:
            if "dataset" in own:
                own["dataset"] = resolve_paths(own["dataset"], file.parent)
            own = resolve_weights(own, file.parent)
        raw = joined(raw, _beside(own, file.parent, path.parent))
    raw.pop(EXTENDS, None)
    return raw


def files_of(path: Path) -> list[Path]:
    """Return an experiment's file, the file that it extends, the one that this extends, ..

    Raises:
        UserError: See `read_raw`.
    """
    files = [path]
    while True:
        own = read_yaml(files[-1], "experiment", EXAMPLE)
        if EXTENDS not in own:
            return files
        where, base = f"{files[-1]}: {EXTENDS}", own[EXTENDS]
        if not isinstance(base, str) or not base:
            raise UserError(f"{where}: expected one file, as in `{EXTENDS}: digits.yaml`")
        if own.get("name") is None:
            raise UserError(f"{files[-1]}: name: missing; give it another name than {base} has")
        file = files[-1].parent / base
        if any(file.resolve() == known.resolve() for known in files):
            raise UserError(f"{where}: {base} extends this file in turn; drop one of the two")
        if len(files) == MOST_FILES:
            raise UserError(f"{where}: more than {MOST_FILES} files extend one another; join some")
        files.append(file)


def joined(base: Any, own: Any, field: str = "") -> Any:
    """Return the fields of a file with those of the file that it extends (see `read_raw`)."""
    if not isinstance(own, dict):
        return own
    if isinstance(base, str):  # `protocol: strict` -> a mapping
        base = {name_key(field): base}
    key = name_key(field)
    if not isinstance(base, dict) or (own.get(key, base.get(key)) != base.get(key) and field):
        return own
    result = dict(base)
    for name, value in own.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = joined(base.get(name), value, name)
    return result


def _beside(raw: Raw, folder: Path, of_experiment: Path) -> Raw:
    """Return the fields with paths of files beside `folder` taken from the experiment's folder."""
    if folder == of_experiment:
        return raw

    def moved(value: Any) -> Any:
        return os.path.relpath(folder / value, of_experiment) if isinstance(value, str) else value

    raw = {name: moved(value) if name in BESIDE else value for name, value in raw.items()}
    tasks = raw.get("tasks")
    if isinstance(tasks, dict) and _is_file(tasks.get("order")):
        raw["tasks"] = {**tasks, "order": moved(tasks["order"])}
    return raw


def _is_file(order: Any) -> TypeGuard[str]:
    return isinstance(order, str) and order.endswith((".yaml", ".yml"))


def apply_overrides(raw: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Return `raw` with assignments `path.to.field=value` applied; values are read as YAML.

    Raises:
        UserError: an assignment without `=`, or a path through something that is not a mapping.
    """
    raw = copy.deepcopy(raw)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            given = assignment[:60]
            raise UserError(f"--set {given}: expected FIELD=VALUE, as in stage2.lambd=50")
        try:
            value = parse_yaml(text)
        except InvalidYaml as error:
            raise UserError(
                f"--set {path}: {text[:60]!r} is not a YAML value ({error.reason[:200]})"
            ) from None
        node: Any = raw
        *parents, last = path.split(".")
        for part in parents:
            if isinstance(node, list):
                node = node[_index(node, part, path)]
            elif isinstance(node, dict):
                if isinstance(node.get(part), str):  # `protocol: strict` -> a mapping
                    node[part] = {name_key(part): node[part]}
                if node.get(part) is None:  # also `tasks: null`
                    node[part] = {}
                node = node[part]
        if isinstance(node, list):
            node[_index(node, last, path)] = value
        elif isinstance(node, dict):
            node[last] = value
        else:
            raise UserError(f"--set {path}: {parents[-1]} is not a mapping")
    return raw


def name_key(field: str) -> str:
    """Return the key of a mapping for what stands in its place as a single word."""
    return {"protocol": "preset", "dataset": "name"}.get(field, "network")


def _index(node: list[Any], part: str, path: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(node):
        raise UserError(f"--set {path}: {part!r} is not a position in a list of {len(node)}")
    return int(part)


def is_tuning(raw: Raw) -> bool:
    """Return whether the fields are those of a tuning file, not of an experiment."""
    return "experiment" in raw and "dataset" not in raw


def read_yaml(path: Path, kind: str, example: str) -> Raw:
    """Return the mapping in a YAML file.

    Args:
        path: the file.
        kind: the kind of file, for messages ("experiment").
        example: a file that shows how to write one.

    Raises:
        UserError: missing or unreadable file, broken YAML, or no mapping.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")])
        hint = f"; did you mean {path.parent / near[0]}?" if near else "; check the path"
        raise UserError(f"{path}: no such {kind} file{hint}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); allow it") from None
    try:
        raw = parse_yaml(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {line}: not UTF-8 text; save it in UTF-8 (broken YAML)"
        ) from None
    except InvalidYaml as error:
        raise UserError(f"{path}: line {error.line}: broken YAML ({error.reason})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected `key: value` lines; see {example}")
    return raw


def load_class_order(raw: Raw, folder: Path) -> Raw:
    """Replace the file that `tasks.order` names by the list in it.

    Args:
        raw: an experiment.
        folder: the experiment's folder, which the file's path is relative to.

    Raises:
        UserError: no such file, or no list in it.
    """
    tasks = raw.get("tasks")
    if not isinstance(tasks, dict):
        return raw
    order = tasks.get("order")
    if not _is_file(order):
        return raw
    example = "experiments/published/cifar100_class_order.yaml"
    content = read_yaml(folder / order, "class order", example)
    if content.keys() != {"order"} or not isinstance(content["order"], list):
        raise UserError(f"{folder / order}: expected `order: [...]`, the classes in their order")
    return {**raw, "tasks": {**tasks, "order": content["order"]}}
