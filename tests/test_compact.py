"""The README's summary of a bundle."""

from pathlib import Path

import pytest
from bundles import exported, made_up

from harness.analysis.readme import replace_between_markers
from harness.analysis.tables.compact import KIND, summary_markdown
from harness.cli import main

SMALL, LARGE = "wrn-10-1", "wrn-10-2"
BASE = [0.90, 0.92, 0.94]


def shifted(*shifts: float) -> list[float]:
    return [b + s for b, s in zip(BASE, shifts, strict=True)]


def test_finals_and_claims_alone() -> None:
    """Short numbers, the best one bold, nothing after stage 1, a line a claim."""
    bundle = made_up(
        {
            ("teacher", "teacher", ""): shifted(0.04, 0.05, 0.04),
            ("teacher_ncm", "teacher_ncm", SMALL): shifted(0.04, 0.04, 0.04),
            ("plain", "student", SMALL): BASE,
            ("plain", "student", LARGE): BASE,
            ("refilled", "stage1", SMALL): BASE,
            ("refilled", "stage2", SMALL): shifted(0.02, 0.021, 0.019),
            ("refilled", "stage2", LARGE): shifted(-0.02, -0.021, -0.019),
        },
        methods=["plain", "teacher_ncm", "refilled"],
        claims=["refilled > plain", "refilled within 9 of plain"],
        seeds=[0, 1, 2],
    )
    lines = summary_markdown(bundle, "docs/x.md", "runs.md").splitlines()
    assert lines[0] == "|  | wrn-10-1 | wrn-10-2 |"
    assert lines[2:6] == [
        "| Teacher | 96.3 ± 5.2 | 96.3 ± 5.2 |",
        "| Student | 92.0 ± 5.0 | **92.0 ± 5.0** |",
        "| Teacher NCM | 96.0 ± 5.0 | 96.0 ± 5.0 |",
        "| ReFilled (tuple) | **94.0 ± 4.8** | 90.0 ± 5.1 |",
    ]
    assert "over 3 seeds; the best student of a column is bold. Protocol: strict" in lines[7]
    assert lines[7].endswith("[Everything measured](docs/x.md), [every run](runs.md).")
    assert "for all 4 comparisons together (Holm)" in lines[9]
    assert lines[-2:] == [
        "| `refilled > plain` | 1 | 1 | – | -2.0 to +2.0 |",
        "| `refilled within 9 of plain` | 2 | – | – | -2.0 to +2.0 |",
    ]


def test_tables_fills_it(
    finished_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the README, from the table that stands on another page; and `--check` looks at it."""
    monkeypatch.chdir(finished_copy)
    readme, page = Path("README.md"), Path("docs/page.md")
    readme.write_text("# P\n<!-- summary:tiny -->\n<!-- /summary:tiny -->\n")
    page.parent.mkdir()
    page.write_text("<!-- table:tiny -->\n<!-- /table:tiny -->\n")
    assert exported(finished_copy)
    assert main(["tables", "experiments/tiny.yaml"]) == 0
    text = readme.read_text()
    assert "[Everything measured](docs/page.md), [every run](experiments/results/tiny.md)" in text
    assert main(["tables", "--check"]) == 0
    readme.write_text(replace_between_markers(text, "tiny", "by hand", "README.md", KIND))
    assert main(["tables", "--check"]) == 1
    assert "README.md" in capsys.readouterr().out
