"""The pages of the reference, made from the code whenever the site is built."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = "reference"
API = f"{FOLDER}/api"
Schema = dict[str, Any]
_LINK_TEXT = re.compile(r"\[(.+)\]\(#\w+\)$")
# Keywords of JSON Schema, as a reader says them.
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {} of them",
    "maxLength": "at most {} characters",
}


def pages(root: Path, with_api: bool) -> dict[str, str]:
    """Return the text of each page by its name.

    Args:
        root: The root of the project.
        with_api: Whether the pages of the packages are among them.
    """
    from harness.experiment.schema import schema

    made = {
        f"{FOLDER}/commands.md": commands_page(),
        f"{FOLDER}/fields.md": fields_page(schema()),
        f"{FOLDER}/store.md": store_page(),
    }
    return made | (api_pages(root) if with_api else {})


def commands_page() -> str:
    """Return the page of all commands with their arguments and options."""
    import typer.cli
    import typer.main

    from harness.cli import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="harness")
    return typer.cli.get_docs_for_click(obj=command, ctx=context, name="harness", title="Commands")


def store_page() -> str:
    """Return the page of the files in the directory of a cell, from the package's docstring."""
    import harness.store

    parts = (harness.store.__doc__ or "").strip().split("\n\n")
    ((place, table),) = ((i, part) for i, part in enumerate(parts) if part.startswith("    "))
    rows = (re.split(r"  +", line.strip(), maxsplit=1) for line in table.splitlines())
    lines = ["# Files of the store", "", parts[0], "", "| file | what it holds |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in rows]
    return "\n".join([*lines, "", *parts[place + 1 :]]) + "\n"


def fields_page(schema: Schema) -> str:
    """Return the page of all fields of an experiment file.

    Args:
        schema: The JSON schema of experiment files.
    """
    definitions: dict[str, Schema] = schema["$defs"]
    main = schema["$ref"].rpartition("/")[2]
    titles = {name: _title(name, definitions, main) for name in definitions}
    lines = [
        "# Fields of an experiment file",
        "",
        "`harness schema` prints the same as a JSON schema, which editors read. "
        "[Your own experiment](../docs/experiments.md) explains the fields with examples. Where "
        "names lead to sections below, a name alone takes the defaults of its section, as "
        "in `network: resnet`; a mapping sets its fields.",
        "",
        *_fields(definitions[main], titles),
    ]
    for name in sorted(definitions.keys() - {main}, key=lambda name: titles[name].lower()):
        definition = definitions[name]
        lines += ["", f"## {titles[name]} {{#{_anchor(name)}}}", ""]
        if text := definition.get("description", ""):
            lines += [" ".join(text.split("\n\n")[0].split()), ""]
        lines += _fields(definition, titles)
    return "\n".join(lines) + "\n"


def _title(name: str, definitions: dict[str, Schema], main: str) -> str:
    """Return a section as a file writes it, or else the name of the class that checks it."""
    fields, ref = definitions[name].get("properties", {}), f"#/$defs/{name}"
    for key, form in (("name", "dataset: {{name: {}}}"), ("network", "network: {}")):
        if "const" in fields.get(key, {}):
            return f"`{form.format(fields[key]['const'])}`"
    sections = definitions[main]["properties"].items()
    found = [section for section, field in sections if field.get("$ref") == ref]
    return f"`{found[0]}`" if found else name


def _fields(definition: Schema, titles: dict[str, str]) -> list[str]:
    rows = [
        f"| `{name}` | {_default(name, field, definition)} | {_allowed(field, titles)} |"
        for name, field in definition.get("properties", {}).items()
    ]
    return ["| field | default | allowed |", "|---|---|---|", *rows]


def _short(title: str) -> str:
    """Return a title without the field that it belongs to, as in `network: resnet`."""
    return re.sub(r"^`\w+: (?:\{name: )?(\w+)\}?`$", r"`\1`", title)


def _anchor(name: str) -> str:
    return name.lower()


def _default(name: str, field: Schema, definition: Schema) -> str:
    if "default" not in field:
        return "required" if name in definition.get("required", ()) else ""
    if "$ref" in field and isinstance(field["default"], dict):
        return "its own defaults"
    return _code(field["default"])


def _code(value: object) -> str:
    return f"`{json.dumps(value)}`".replace("|", "\\|")


def _allowed(field: Schema, titles: dict[str, str]) -> str:
    """Return in words what a field accepts."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{_short(titles[name])}](#{_anchor(name)})"
    if "anyOf" in field:
        choices = [_allowed(choice, titles) for choice in field["anyOf"]]
        links = {match[1] for text in choices if (match := _LINK_TEXT.match(text))}
        # A name alone is written like the name of the section that it links to.
        names = [choice.get("enum", []) for choice in field["anyOf"]]
        return " or ".join(
            text
            for text, of in dict.fromkeys(zip(choices, map(tuple, names), strict=True))
            if not of or not {f"`{name}`" for name in of} <= links
        )
    if "enum" in field:
        return ", ".join(_code(value) for value in field["enum"])
    if "const" in field:
        return _code(field["const"])
    kind = field.get("type", "anything")
    if kind == "array":
        items = field.get("items") or {}
        text = f"list of ({_allowed(items, titles)})" if items else "list"
    elif kind == "object":
        values = field.get("additionalProperties")
        text = f"mapping to {_allowed(values, titles)}" if isinstance(values, dict) else "mapping"
    elif kind == "null":
        return "`null`"
    else:
        text = {"string": "text", "boolean": "`true`, `false`"}.get(kind, str(kind))
    bounds = [words.format(field[key]) for key, words in _BOUNDS.items() if key in field]
    if pattern := field.get("pattern"):
        bounds.append("like `" + pattern.replace("|", "\\|") + "`")
    return ", ".join([text, *bounds])


# -- the API -------------------------------------------------------------------------------------


def packages(root: Path) -> list[str]:
    """Return the packages and modules with a page of their own, such as harness.distill.

    Args:
        root: The root of the project.
    """
    folder = root / "harness"
    found = [p.parent.name for p in folder.glob("*/__init__.py")]
    found += [p.stem for p in folder.glob("*.py") if not p.stem.startswith("__")]
    return [f"harness.{name}" for name in sorted(found)]


def api_pages(root: Path) -> dict[str, str]:
    """Return a page for each package, and their list; mkdocstrings fills the former in.

    Args:
        root: The root of the project.
    """
    names = packages(root)
    lines = ["# API", "", "| package | what it holds |", "|---|---|"]
    for name in names:
        lines.append(f"| [`{name}`]({name}.md) | {_summary(root, name)} |")
    made = {f"{API}/index.md": "\n".join(lines) + "\n"}
    return made | {f"{API}/{name}.md": _api_page(root, name) for name in names}


def _api_page(root: Path, name: str) -> str:
    """Return a page with what a package says of itself, then its modules."""
    folder = root.joinpath(*name.split("."))
    modules = sorted(p for p in folder.rglob("*.py") if p != folder / "__init__.py")
    if not modules:
        return f"# {name}\n\n::: {name}\n"
    # What a package exports is described where it is defined.
    lines = [f"# {name}\n\n::: {name}\n    options: {{members: false}}\n"]
    for path in modules:
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        options = "\n    options: {members: false}" if path.name == "__init__.py" else ""
        lines.append(f"## {module}\n\n::: {module}{options}\n")
    return "\n".join(lines)


def api_navigation(root: Path) -> Iterator[dict[str, str]]:
    """Yield the entries of the API in the navigation.

    Args:
        root: The root of the project.
    """
    yield {"Packages": f"{API}/index.md"}
    for name in packages(root):
        yield {name: f"{API}/{name}.md"}


def _summary(root: Path, name: str) -> str:
    """Return the first sentence of a module's docstring, without importing the module."""
    path = root.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
