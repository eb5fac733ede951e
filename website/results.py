"""A page for each experiment with committed numbers: its question, its figure, its table.

The tables are those that `harness tables` writes into the pages of the documentation, where they
are explained; each is shown once more here, on a page that needs no search.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from website.files import EXPERIMENTS, LINK, is_elsewhere, target_of

FOLDER = "results"
# In the order of the navigation. An experiment that is missing here gets its description.
QUESTIONS = {
    "tiny-imagenet-tuned": "Does the paper's first table repeat on a hundred natural classes?",
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
_SUMMARY = re.compile(r"^<!-- summary:(\S+) -->\n(.+?)^<!-- /summary:\1 -->$", re.M | re.S)


def pages(root: Path) -> dict[str, str]:
    """Return the text of each page by its name, in the order of the navigation.

    The first one lists the others.

    Args:
        root: The root of the project.
    """
    found = _summaries(root)
    order = [*(name for name in QUESTIONS if name in found), *sorted(found.keys() - QUESTIONS)]
    lines = ["# Results by experiment", "", "| question | experiment |", "|---|---|"]
    lines += [f"| [{_question(root, name)}]({name}.md) | `{name}` |" for name in order]
    made = {f"{FOLDER}/index.md": "\n".join(lines) + "\n"}
    return made | {f"{FOLDER}/{name}.md": _page(root, name, *found[name]) for name in order}


def navigation(root: Path) -> Iterator[dict[str, str]]:
    """Yield the entries of these pages in the navigation.

    Args:
        root: The root of the project.
    """
    for name in pages(root):
        title = Path(name).stem
        yield {"By experiment" if title == "index" else title: name}


def _summaries(root: Path) -> dict[str, tuple[str, str]]:
    """Return for each experiment with numbers the page that explains it, and its table."""
    found: dict[str, tuple[str, str]] = {}
    explained = [*sorted(root.glob("docs/*.md")), root / "README.md"]
    for path in (path for path in explained if path.exists()):
        for name, text in _SUMMARY.findall(path.read_text(encoding="utf-8")):
            if _bundle(root, name).exists() and name not in found:
                found[name] = (str(path.relative_to(root)), text)
    return found


def _page(root: Path, name: str, explained: str, table: str) -> str:
    def from_here(match: re.Match[str]) -> str:
        if is_elsewhere(match[2]):
            return match[0]
        anchor = f"#{match[3]}" if match[3] else ""
        return match[1] + os.path.relpath(target_of(explained, match[2]), FOLDER) + anchor

    lines = [f"# {_question(root, name)}", ""]
    for figure, text in FIGURES.items():
        path = f"docs/figures/{name}/{figure}.png"
        if (root / path).exists():
            lines += [f"![{text}](../{path})", ""]
            break
    lines += [LINK.sub(from_here, table), "", f"- Explained in [{explained}](../{explained})"]
    command = json.loads(_first_line(_bundle(root, name)))["command"]
    lines += [f"- All numbers and runs: [{name}](../{EXPERIMENTS}/results/{name}.md)"]
    return "\n".join([*lines, f"- Trained by `{command}`"]) + "\n"


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
