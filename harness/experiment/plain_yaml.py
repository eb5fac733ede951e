"""YAML without surprises, for experiment files, tuning files and `--set`.

Where YAML 1.1 has traps, the rules are those of YAML 1.2: 1e-1 is a number, and no, on, 12:30 and
2026-02-30 are text. A repeated key is an error, and so is a number that begins with 0.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_VALUES = 100_000  # with aliases expanded; more is an attack, or a mistake

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


class InvalidYaml(Exception):
    """The text is not valid YAML.

    Attributes:
        line: counted from 1.
        reason: on one line.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.reason = line, " ".join(reason.split())


class PlainLoader(yaml.SafeLoader):
    """A loader with the rules of YAML 1.2, whose errors always carry a line."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 as in PyYAML

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Construct a value; give an error of its constructor the line of the node."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # PyYAML's constructors raise anything on odd values
            kind, text = node.tag.rpartition(":")[2], str(node.value)
            why = f"{len(text):,} characters are too many" if len(text) > 4000 else error
            raise yaml.constructor.ConstructorError(
                None, None, f"no {kind}: {text[:40]!r} ({why})"[:200], node.start_mark
            ) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; refuse repeated keys and keys that are not scalars."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is one word; braces in braces are no value", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is listed twice; drop one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_int(self, node: Any) -> int:
        """Construct an integer; refuse leading zeros, octal in YAML 1.1 and decimal in 1.2."""
        text = self.construct_scalar(node).replace("_", "")
        if re.fullmatch("[-+]?0[0-9]+", text):
            raise ValueError("begins with 0; drop the zeros, or quote it")
        return int(text, 0)

    def construct_float(self, node: Any) -> float:
        """Construct a number; without a point and with a whole value, it is an integer."""
        text = self.construct_scalar(node).replace("_", "")
        value = float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.lower()))
        return int(value) if "." not in text and value.is_integer() else value  # 2e1 epochs


PlainLoader.add_constructor("tag:yaml.org,2002:int", PlainLoader.construct_int)
PlainLoader.add_constructor("tag:yaml.org,2002:float", PlainLoader.construct_float)
for _tag, _pattern, _first in RESOLVERS:
    PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        [c if c != "\0" else "" for c in _first],
    )


def parse_yaml(text: str) -> Any:
    """Return the value that a text holds.

    Raises:
        InvalidYaml: the text is not valid YAML.
    """
    loader = None
    try:
        loader = PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise InvalidYaml(1, f"more than {MOST_VALUES} values; write fewer, or fewer aliases")
        return loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InvalidYaml(
            line, f"{error.reason}: {text[error.position : error.position + 1]!r}"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise InvalidYaml(mark.line + 1 if mark else 1, problem) from None
    except RecursionError:
        raise InvalidYaml(1, "too deep; write it flat") from None
    except (ValueError, OverflowError) as error:  # from the scanner: no character \U00ffffff
        raise InvalidYaml((loader.line if loader else 0) + 1, str(error)) from None
    finally:
        if loader is not None:
            loader.dispose()


def _size(node: Any, known: dict[int, int]) -> int:
    """Count the values of a node with its aliases expanded; a cycle counts as too many."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_VALUES + 1  # the size of a cycle; replaced below if there is none
    children = [
        child for entry in node.value for child in (entry if isinstance(entry, tuple) else (entry,))
    ]
    known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]
