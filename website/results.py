"""A page for each experiment with committed numbers: its question, its figure, its table.

Tables and figures are those that `harness tables` writes into the pages of the documentation, where
they are explained; each is shown once more here, on a page that needs no search.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from harness.analysis.tables.markdown import escaped
from website.files import EXPERIMENTS, LINK, is_elsewhere, target_of
from website.sentences import sentences

FOLDER = "results"
# In the order of the navigation. An experiment that is missing here gets its description.
QUESTIONS = {
    "tiny-imagenet-tuned": "Does the paper's first table repeat on a hundred natural classes?",
    "tiny-imagenet-mobile-net-tuned": "Does the paper's second table repeat on natural classes?",
    "tiny-imagenet-cross-tuned": "Does a teacher of other natural classes help?",
    "fashion-shots-tuned": "Which method helps when there are few images of clothes?",
    "digits": "Which method helps a student that sees few digits?",
    "digits-cross": "Does a teacher of other digits help?",
    "digits-all-images": "Which method helps a student that sees all digits of its teacher?",
    "digits-methods": "How do all methods compare?",
    "digits-shared-weights": "What if teacher and student start from the same weights?",
    "digits-own-weights": "And what if they start from weights of their own?",
    "crd-rehearsal": "Does the CRD benchmark run, from one end to the other?",
}
FIGURES = {  # the first that there is
    "shots": "Test accuracy by method and number of images per class",
    "overlap": "Test accuracy by method and by how many classes teacher and student share",
    "accuracy": "Test accuracy by method",
}
_BLOCK = re.compile(r"^<!-- (summary|figure):(\S+) -->\n(.+?)^<!-- /\1:\2 -->$", re.M | re.S)
Blocks = dict[
    tuple[str, str], tuple[str, str]
]  # (kind, name) -> the page that has it, and its text


def pages(root: Path) -> dict[str, str]:
    """Return the text of each page by its name, in the order of the navigation.

    The first one lists the others.

    Args:
        root: The root of the project.
    """
    blocks = _blocks(root)
    found = {name for kind, name in blocks if kind == "summary" and _bundle(root, name).exists()}
    order = [*(name for name in QUESTIONS if name in found), *sorted(found - QUESTIONS.keys())]
    lines = ["# Results by experiment", "", "| question | experiment |", "|---|---|"]
    lines += [f"| [{_question(root, name)}]({name}.md) | `{name}` |" for name in order]
    made = {f"{FOLDER}/index.md": "\n".join(lines) + "\n"}
    return made | {f"{FOLDER}/{name}.md": _page(root, name, blocks) for name in order}


def navigation(root: Path) -> Iterator[dict[str, str]]:
    """Yield the entries of these pages in the navigation.

    Args:
        root: The root of the project.
    """
    for name in pages(root):
        title = Path(name).stem
        yield {"By experiment" if title == "index" else title: name}


def _blocks(root: Path) -> Blocks:
    """Return the generated parts of all pages, each from the first page that has it."""
    found: Blocks = {}
    for path in (p for p in (*sorted(root.glob("docs/*.md")), root / "README.md") if p.exists()):
        for kind, name, text in _BLOCK.findall(path.read_text(encoding="utf-8")):
            found.setdefault((kind, name), (str(path.relative_to(root)), text))
    return found


def _page(root: Path, name: str, blocks: Blocks) -> str:
    explained, table = blocks["summary", name]
    command = json.loads(_first_line(_bundle(root, name)))["command"]
    parts = [
        f"# {_question(root, name)}",
        escaped(sentences(_bundle(root, name))),
        *_figure(root, name, blocks),
        _moved(explained, table),
        f"- Explained in [{explained}](../{explained})\n"
        f"- All numbers and runs: [{name}](../{EXPERIMENTS}/results/{name}.md)\n"
        f"- Trained by `{command}`\n",
    ]
    return "\n\n".join(parts)


def _figure(root: Path, name: str, blocks: Blocks) -> Iterator[str]:
    """Yield the figure that a page shows of an experiment, or else its file with its caption."""
    folder = f"docs/figures/{name}"
    there = [figure for figure in FIGURES if (root / folder / f"{figure}.png").exists()]
    if not there:
        return
    figure = there[0]
    if block := blocks.get(("figure", f"{name}/{figure}")):
        yield _moved(*block)
        return
    yield f"![{FIGURES[figure]}](../{folder}/{figure}.png)"
    captions = root / folder / "captions.txt"
    for line in captions.read_text(encoding="utf-8").splitlines() if captions.exists() else ():
        if line.startswith(f"{figure}: "):
            yield f"*{line.removeprefix(f'{figure}: ')}*"


def _moved(page: str, text: str) -> str:
    """Return a part of a page with links that lead from FOLDER to where they led."""

    def from_here(match: re.Match[str]) -> str:
        if is_elsewhere(match[2]):
            return match[0]
        anchor = f"#{match[3]}" if match[3] else ""
        return match[1] + os.path.relpath(target_of(page, match[2]), FOLDER) + anchor

    return LINK.sub(from_here, text)


def _question(root: Path, name: str) -> str:
    if name in QUESTIONS:
        return QUESTIONS[name]
    description: str = json.loads(_first_line(_bundle(root, name)))["experiment"]["description"]
    return description or name


def _bundle(root: Path, name: str) -> Path:
    return root / EXPERIMENTS / "results" / f"{name}.jsonl"


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline()
