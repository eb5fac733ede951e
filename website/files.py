"""The files of the project that belong to the site: its pages, and whatever they link to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

# Where reading starts. Every other file is on the site because a page links to it.
FIRST_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md")
EXPERIMENTS = "experiments"
# What a browser would download instead of showing, and its language for the colours.
LISTINGS = {
    ".yaml": "yaml",
    ".csv": "text",
    ".sh": "bash",
    ".cff": "yaml",
    ".py": "python",
    "": "text",
}
BUNDLE = ".jsonl"

_FENCE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\(|\b(?:src|href)=\")([^()\s\"#]+)(?:#([^()\s\"]+))?(?=[)\"])")
_ELSEWHERE = re.compile(r"[a-z]+:")
_LINE = re.compile(r"L(\d+)")
_TITLE = re.compile(r"^# +(.+)$", re.MULTILINE)
_NAMED = re.compile(r"\[`?[\w./-]+\.md`?\]\(([^()\s#]+\.md)")
_MARKER = re.compile(r"^<!-- .* -->$", re.MULTILINE)


def is_elsewhere(link: str) -> bool:
    """Return whether a link leads out of the project."""
    return _ELSEWHERE.match(link) is not None


def linked(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield the files to which a page links, relative to the project, with the anchors.

    Args:
        name: The page, relative to the project's root.
        text: Its Markdown.
    """
    for match in LINK.finditer(_FENCE.sub("", text)):
        if not is_elsewhere(match[2]):
            yield target_of(name, match[2]), match[3] or ""


def collect(root: Path, made: Mapping[str, str]) -> dict[str, str | None]:
    """Return the files of the site by name.

    A page or a listing has its text as value; a file that is copied as it is has None. One line of
    a bundle, to which the pages of results link, is a file of its own.

    Args:
        root: The root of the project.
        made: Pages that no file holds, by name.
    """
    found: dict[str, str | None] = {}
    bundles: dict[str, list[str]] = {}
    queue = [*made]
    queue += [str(p.relative_to(root)) for pattern in FIRST_PAGES for p in root.glob(pattern)]
    while queue:
        name = queue.pop()
        path = root / name
        # MkDocs itself reports a link that leads nowhere.
        if name in found or not (name in made or path.is_file()):
            continue
        if path.suffix == ".md":
            found[name] = text = made.get(name) or read_page(root, name)
            for target, anchor in linked(name, text):
                line = _LINE.fullmatch(anchor)
                if line and target.endswith(BUNDLE):
                    if target not in bundles:
                        bundles[target] = (root / target).read_text(encoding="utf-8").splitlines()
                    found[_line_name(target, line[1])] = _spread(bundles[target][int(line[1]) - 1])
                else:
                    queue.append(target)
        elif path.suffix in LISTINGS:
            found[name] = None
            found[f"{name}.md"] = _listing(name, path.read_text(encoding="utf-8"))
        else:
            found[name] = None
    return found


def read_page(root: Path, name: str) -> str:
    """Return the Markdown of a page.

    Args:
        root: The root of the project.
        name: The page, relative to the root.
    """
    return (root / name).read_text(encoding="utf-8")


def titles(found: Mapping[str, str | None]) -> dict[str, str]:
    """Return the title of each page.

    Args:
        found: The files of the site, from `collect`.
    """
    headings = {name: _TITLE.search(text) for name, text in found.items() if text}
    return {name: match[1] for name, match in headings.items() if match and name.endswith(".md")}


def adapt(name: str, text: str, titles: Mapping[str, str]) -> str:
    """Return the text of a page with what differs between GitHub and the site.

    A link that shows the name of a page shows its title instead. Links to files that a browser
    would download lead to the page that shows them, links to lines of a bundle to that line's file.
    Markers of generated blocks go, because Python-Markdown would take the table below one for a
    part of it, and folded parts keep their Markdown.

    Args:
        name: The page, relative to the project's root.
        text: Its Markdown.
        titles: The titles of all pages by name.
    """

    def entitle(match: re.Match[str]) -> str:
        title = titles.get(target_of(name, match[1]))
        return f"[{title}]({match[1]}" if title else match[0]

    def change(match: re.Match[str]) -> str:
        before, target, anchor = match[1], match[2], match[3] or ""
        if is_elsewhere(target):
            return match[0]
        if target.endswith(BUNDLE) and (line := _LINE.fullmatch(anchor)):
            return before + _line_name(target, line[1])
        if Path(target).suffix in LISTINGS and not name.endswith(f"{Path(target).name}.md"):
            return f"{before}{target}.md"
        return match[0]

    text = _NAMED.sub(entitle, _MARKER.sub("", text))
    return LINK.sub(change, text).replace("<details>", '<details markdown="1">')


def target_of(name: str, link: str) -> str:
    """Return the file to which a page links, relative to the project's root.

    Args:
        name: The page, relative to the root.
        link: What stands in its text, without an anchor.
    """
    return os.path.normpath(os.path.join(os.path.dirname(name), link))


def _line_name(bundle: str, number: str) -> str:
    return f"{bundle.removesuffix(BUNDLE)}.lines/{number}.json"


def _spread(line: str) -> str:
    """Return a line of a bundle with one field a line."""
    fields = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in json.loads(line).items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _listing(name: str, text: str) -> str:
    """Return a page that shows a file."""
    fence = f"```{LISTINGS[Path(name).suffix]}\n{text.rstrip()}\n```\n"
    return f"# {name}\n\n[The file itself]({Path(name).name})\n\n{fence}"
