"""The promises of Markdown files: links lead somewhere, commands exist, README.md is short."""

import functools
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml
from helpers import ROOT

from harness.cli import app
from harness.methods import REGISTRY

README_LINES, README_BYTES, CODE_COLUMNS = 170, 15 * 1024, 95
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)|\b(?:src|href)=\"([^\"]+)\"")
ELSEWHERE = re.compile(r"[a-z]+:")
# A word after `make` or `harness` is a target or a command only in code.
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"(?:^|[`(;&]|\n) *make ([a-z][a-z0-9-]*)")
HARNESS = re.compile(r"(?:^|[`(;&/$]|\n) *harness ([a-z][a-z-]*)")


def markdown_files() -> list[str]:
    """Return tracked files and those that will be, relative to the root of the project."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.split() or [str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md")]
    return sorted({*names, "README.md"})


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them, and those that are written out."""
    slugs: set[str] = set()
    counts: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        n = counts[slug] = counts.get(slug, -1) + 1
        slugs.add(f"{slug}-{n}" if n else slug)
    return slugs | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


@functools.cache
def anchors_of(path: Path) -> set[str]:
    return anchors(path.read_text())


def broken_links(path: Path) -> list[str]:
    """Return the relative links and images of a file that lead nowhere."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text()))
    broken = []
    for pair in LINK.findall(text):
        link = pair[0] or pair[1]
        if ELSEWHERE.match(link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if line := re.fullmatch(r"L(\d+)", anchor):  # of a file that GitHub shows with numbers
            is_there = target.exists() and int(line[1]) <= len(target.read_text().splitlines())
        else:
            is_there = target.exists() and (not anchor or anchor in anchors_of(target))
        if not is_there:
            broken.append(link)
    return broken


def commands_of(text: str, pattern: re.Pattern[str]) -> set[str]:
    return {name for code in CODE.findall(text) for name in pattern.findall(code)}


@pytest.mark.parametrize("name", markdown_files())
def test_links_lead_somewhere(name: str) -> None:
    assert broken_links(ROOT / name) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One: `two`, three\n# One: two, three\n```\n# no heading\n```\n")
    page.write_text(
        "# Here\n[a](other.md#one-two-three) [b](other.md#one-two-three-1) [c](#here) [d](https://x)\n"
        "[e](other.md#no-heading) ![f](gone.png) [![g](gone-too.png)](other.md) [h](#there)\n"
        '<img src="gone-also.png">\n`[i](no-link)`\n'
    )
    broken = ["other.md#no-heading", "gone.png", "gone-too.png", "#there", "gone-also.png"]
    assert broken_links(page) == broken


def test_commands_exist() -> None:
    """Make targets and subcommands of `harness`, wherever code names them."""
    makefile = (ROOT / "Makefile").read_text()
    known = {
        MAKE: set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE)),
        HARNESS: set(typer.main.get_command(app).commands),
    }
    experiments = sorted((ROOT / "experiments").rglob("*.yaml"))  # their comments name some
    docker = [path for path in (ROOT / "docker").iterdir() if path.suffix in (".yaml", ".sh", "")]
    for name in (*markdown_files(), *experiments, *filter(Path.is_file, docker)):
        text = (ROOT / name).read_text()
        for pattern, names in known.items():
            assert commands_of(text, pattern) <= names, name


def test_commands_are_found() -> None:
    block = "```\nmake d\n$ .venv/bin/harness e  # make f\n```\n"
    text = f"run make soon; `make a-b X=1`, `harness c`\n{block}"
    assert commands_of(text, MAKE) == {"a-b", "d"}
    assert commands_of(text, HARNESS) == {"c", "e"}


def test_readme_is_short() -> None:
    """Apart from the rows of tables and the addresses of links, which nobody reads."""
    text = re.sub(r"\]\([^()\s]+\)", "]", (ROOT / "README.md").read_text())
    assert len([line for line in text.splitlines() if not line.startswith("|")]) <= README_LINES
    assert len(text.encode()) <= README_BYTES
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()]
    assert lines and max(map(len, lines)) <= CODE_COLUMNS


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {Path(name).name for name in markdown_files() if re.fullmatch(r"docs/[^/]+\.md", name)}
    assert {page for page in pages - {"README.md"} if f"]({page})" not in index} == set()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## \[(\d.+)\] - (.+)$", changes, re.MULTILINE)
    assert releases[0] == (project["version"], str(citation["date-released"]))
    assert citation["version"] == project["version"]
    assert citation["references"][0]["title"] in " ".join((ROOT / "README.md").read_text().split())


def test_methods_are_counted_right() -> None:
    """Each loss that a student can be taught with, beside ReFilled's own."""
    n = sum(method.is_addable and bool(method.needs) for method in REGISTRY.values())
    counted = {10: "ten", 11: "eleven", 12: "twelve", 13: "thirteen"}[n]
    for name in ("README.md", "docs/README.md", "docs/method.md"):
        found = re.findall(r"(\w+) other methods", (ROOT / name).read_text())
        assert found and {*found} == {counted}, name
