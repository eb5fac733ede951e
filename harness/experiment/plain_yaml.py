"""YAML as people mean it, for experiment files, tuning files and `--set`.

Where YAML 1.1 has traps, YAML 1.2 decides: 1e-1 is a number, and no, on, 12:30 and 2026-02-30 are
text. A key that stands twice is an error, and so is a number that begins with 0.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_VALUES = 100_000  # after aliases are written out: beyond, somebody plays a trick

RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("merge", r"<<", "<"),
)


class NotYaml(Exception):
    """line: from 1; reason: on one line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.reason = line, " ".join(reason.split())


class PlainLoader(yaml.SafeLoader):
    """What is wrong with a value is said with its line, whatever its reader raises."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 as PyYAML has it

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # PyYAML's readers raise all kinds on odd values
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"no {kind}: {str(node.value)[:40]!r} ({error})"[:200], node.start_mark
            ) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is one word; braces in braces are no value", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands twice; drop one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: Any) -> int:
        text = self.construct_scalar(node).replace("_", "")
        if re.fullmatch("[-+]?0[0-9]+", text):
            raise ValueError("begins with 0; drop the zeros, or quote it")
        return int(text, 0)

    def construct_number(self, node: Any) -> float:
        text = self.construct_scalar(node).replace("_", "")
        value = float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.lower()))
        # 2e1 epochs are 20
        return int(value) if "." not in text and value.is_integer() else value


PlainLoader.add_constructor("tag:yaml.org,2002:int", PlainLoader.construct_whole)
PlainLoader.add_constructor("tag:yaml.org,2002:float", PlainLoader.construct_number)
for _tag, _pattern, _first in RESOLVERS:
    PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        [c if c != "\0" else "" for c in _first],
    )


def from_yaml(text: str) -> Any:
    """The value in a text.

    Raises:
        NotYaml: it is none.
    """
    loader = None
    try:
        loader = PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise NotYaml(1, f"more than {MOST_VALUES} values; write fewer, or fewer aliases")
        return loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml(
            line, f"{error.reason}: {text[error.position : error.position + 1]!r}"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise NotYaml(mark.line + 1 if mark else 1, problem) from None
    except RecursionError:
        raise NotYaml(1, "too deep; write it flat") from None
    except (ValueError, OverflowError) as error:  # of the scanner: no such character (\\U00ffffff)
        raise NotYaml((loader.line if loader else 0) + 1, str(error)) from None
    finally:
        if loader is not None:
            loader.dispose()


def _size(node: Any, known: dict[int, int]) -> int:
    """How many values a node has once its aliases are written out; a circle counts as too many."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_VALUES + 1  # of a circle, until it is known better
    children = [
        child for entry in node.value for child in (entry if isinstance(entry, tuple) else (entry,))
    ]
    known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]
