"""Archives of results: what is exported is what is imported, or a line says why not."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, Output, refusal
from safetensors.torch import load

from harness.analysis.archive import CRATE, MANIFEST, contents
from harness.analysis.bundle import read_bundle
from harness.cli import main
from harness.store import Store

NAME = "digits-own-weights"
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("archive") / "x.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert main(["bundle", "export", NAME, "--out", str(path)]) == 0
    return path.read_bytes()


def files_of(data: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(files: Files) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return content.getvalue()


def listing(files: Files) -> bytes:
    """Return a manifest that fits the files."""
    lines = [f"{hashlib.sha256(d).hexdigest()}  {n}\n" for n, d in files.items() if n != MANIFEST]
    return "".join(lines).encode()


def test_what_is_exported_is_imported(
    exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(ROOT)
    path, folder = tmp_path / "x.zip", tmp_path / "theirs"
    path.write_bytes(exported)
    for _ in range(2):  # again: it is there already
        assert main(["bundle", "import", str(path), "--out", str(folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    (place,) = folder.iterdir()
    found = {
        p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()
    }
    assert found == files_of(exported)
    committed = ROOT / "experiments" / "results" / f"{NAME}.jsonl"
    assert found[f"{NAME}.jsonl"] == committed.read_bytes()
    assert found[f"{NAME}.csv"] == committed.with_suffix(".csv").read_bytes()
    assert found["experiment/digits_own_weights.yaml"].startswith(b"# ")
    assert b"</html>" in found["report.html"]
    assert "equal to the last digit" in out and str(place) in out


def test_an_altered_folder_is_not_taken_for_the_archive(
    exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(ROOT)
    path, folder = tmp_path / "x.zip", tmp_path / "theirs"
    path.write_bytes(exported)
    call = ("bundle", "import", str(path), "--out", str(folder))
    assert main([*call]) == 0
    (place,) = folder.iterdir()
    (place / f"{NAME}.csv").write_text("x")
    assert f"{NAME}.csv: not as in {path} any more" in refusal(capsys, *call)
    (place / f"{NAME}.csv").unlink()
    assert f"{NAME}.csv: not as in {path} any more" in refusal(capsys, *call)


def test_pages_of_the_archive_show_their_curves() -> None:
    """Also those of a second set of seeds, and every picture of a page is there."""
    bundle = read_bundle(ROOT / "experiments" / "results" / "fashion-shots-tuned.jsonl")
    files = contents(bundle, "", ROOT / "none.yaml")
    pages = [name for name in files if name.endswith(".md")]
    assert len(pages) == 2
    for page in pages:
        shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", files[page].decode())
        assert shown and {*shown} <= files.keys(), page


def test_its_description_names_every_file(exported: bytes) -> None:
    files = files_of(exported)
    graph = {entity["@id"]: entity for entity in json.loads(files[CRATE])["@graph"]}
    assert graph[CRATE]["about"] == {"@id": "./"}
    parts = {part["@id"] for part in graph["./"]["hasPart"]}
    assert parts == files.keys() - {CRATE, MANIFEST}
    assert all(graph[name]["contentSize"] == str(len(files[name])) for name in parts)
    assert all(graph[name]["encodingFormat"] for name in parts)
    packages = json.loads(files["environment.json"])["packages"]
    assert packages["numpy"] == np.__version__
    assert sorted(listing(files).splitlines()) == sorted(files[MANIFEST].splitlines())


def test_equal_results_make_equal_bytes(
    exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["bundle", "export", NAME, "--out", str(tmp_path / "x.zip")]) == 0
    assert (tmp_path / "x.zip").read_bytes() == exported


def without(files: Files, name: str) -> Files:
    return {other: data for other, data in files.items() if other != name}


def changed(files: Files) -> Files:
    return files | {f"{NAME}.csv": files[f"{NAME}.csv"].replace(b"9", b"8", 1)}


def listed_anew(change: Callable[[Files], Files]) -> Callable[[Files], Files]:
    """Return a change after which the manifest fits again."""
    return lambda files: (new := change(files)) | {MANIFEST: listing(new)}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed, f"{NAME}.csv is not the file"),
        (
            lambda files: {n: d for n, d in files.items() if n != "report.html"},
            "report.html is missing",
        ),
        (lambda files: files | {"more": b""}, "more is not listed"),
        (lambda files: without(files, MANIFEST), MANIFEST),
        (lambda files: files | {MANIFEST: b"\xff\n"}, MANIFEST),
        (listed_anew(lambda files: files | {"../out": b"x"}), "leave the folder"),
        (listed_anew(lambda files: files | {"/tmp/out": b"x"}), "leave the folder"),
        (listed_anew(lambda files: files | {f"./{NAME}.jsonl": b"x"}), "oddly named"),
        (listed_anew(lambda files: files | {"a\x1b[31m": b"x"}), "oddly named"),
        (listed_anew(lambda files: files | {"a": b"", "a/b": b""}), "a is a file and a folder"),
        (listed_anew(lambda files: files | {f"{NAME}.jsonl": b"{}\n"}), "of another version"),
        (listed_anew(lambda files: without(files, f"{NAME}.jsonl")), "no bundle"),
    ],
)
def test_what_is_not_as_it_was_exported_is_refused(
    exported: bytes,
    tmp_path: Path,
    capsys: Output,
    change: Callable[[Files], Files],
    why: str,
) -> None:
    path, folder = tmp_path / "x.zip", tmp_path / "theirs"
    path.write_bytes(zipped(change(files_of(exported))))
    line = refusal(capsys, "bundle", "import", str(path), "--out", str(folder))
    assert why in line and f"error: {path}: " in line and line.endswith("get the file again")
    assert not folder.exists() and not (tmp_path / "out").exists()


def test_what_is_no_archive_is_refused(exported: bytes, tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "x.zip"
    middle = len(exported) // 2
    damaged = exported[:middle] + bytes(100) + exported[middle + 100 :]
    for data in (b"", b"no", exported[:middle], damaged):
        path.write_bytes(data)
        line = refusal(capsys, "bundle", "import", str(path), "--out", str(tmp_path / "theirs"))
        assert str(path) in line
    assert str(tmp_path) in refusal(capsys, "bundle", "import", str(tmp_path))
    assert "no such file" in refusal(capsys, "bundle", "import", str(tmp_path / "none.zip"))
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


def test_weights_and_numbers_of_a_store(project_copy: Path, capsys: Output) -> None:
    file = "experiments/tiny.yaml"
    assert main(["bundle", "export", file, "--weights"]) == 0
    files = files_of(Path("archives/tiny.zip").read_bytes())
    cells = Store(Path("runs")).all()
    assert {n for n in files if n.startswith("weights/")} == {
        f"weights/{cell.path.name}.safetensors" for cell in cells
    }
    for cell in cells:
        ours = torch.load(cell / "model.pt", weights_only=True)["state_dict"]
        theirs = load(files[f"weights/{cell.path.name}.safetensors"])
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert main(["bundle", "import", "archives/tiny.zip"]) == 0
    (bundle,) = Path("imported").glob("tiny-*/tiny.jsonl")
    capsys.readouterr()
    main(["verdicts", file, "--reference", str(bundle)])
    out = " ".join(capsys.readouterr().out.split())
    assert str(bundle) in out and "equal to the last digit" in out


def test_what_cannot_be_exported(project_copy: Path, capsys: Output) -> None:
    file = Path("experiments/tiny.yaml")
    before = file.read_bytes()
    for command in (("bundle", "export"), ("report",)):
        assert "--out: " in refusal(capsys, *command, str(file), "--out", str(file))
    assert file.read_bytes() == before
    assert "no committed bundle" in refusal(capsys, "bundle", "export", "tiny")
    other = ("--set", "seeds=[99]")
    assert "not finished" in refusal(capsys, "bundle", "export", "experiments/tiny.yaml", *other)
    assert "--set" in refusal(capsys, "bundle", "export", "tiny", *other)
