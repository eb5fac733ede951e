"""One archive of an experiment's results, for another lab: written, verified and compared.

It is a ZIP file with the bundle, tables, figures, report, experiment files, the environment and, if
wanted, the weights. `MANIFEST.sha256` covers every file but itself, in the form that
`sha256sum --check` reads; `ro-crate-metadata.json` describes them (RO-Crate 1.1,
https://w3id.org/ro/crate/1.1). Equal results make equal bytes on one day.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import tempfile
import time
import zipfile
from collections.abc import Mapping
from datetime import UTC, date, datetime
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath

from harness.analysis.bundle import Bundle, read_bundle, replication_path
from harness.analysis.figures import draw_all
from harness.analysis.report.page import html
from harness.analysis.tables.pages import curve_files, result_files
from harness.common.errors import UserError, one_line
from harness.common.files import write_user_file
from harness.common.names import printable
from harness.common.provenance import version_text
from harness.experiment.sources import files_of, read_yaml
from harness.store import Store

MANIFEST, CRATE, READ_ME = "MANIFEST.sha256", "ro-crate-metadata.json", "README.txt"
MOST_BYTES = 2 * 2**30  # of an archive's files together
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that ZIP knows: the bytes do not depend on the clock

DESCRIPTIONS = {
    ".jsonl": "every run, with settings, digests and every epoch",
    ".md": "the results page",
    ".csv": "the numbers of the tables",
    ".tex": "the tables for LaTeX",
    ".safetensors": "the weights of a trained network",
}
MEDIA_TYPES = {  # Python's own list depends on the machine
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".tex": "application/x-tex",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}

Contents = dict[str, bytes]  # by the names of files, with slashes


def contents(bundle: Bundle, text: str, file: Path) -> Contents:
    """Return the files of an experiment's results.

    Args:
        bundle: The results.
        text: The bundle's own text.
        file: The experiment's file.
    """
    path = Path(f"{bundle.name}.jsonl")
    replication = replication_path(bundle)
    second = read_bundle(replication) if replication.exists() else None
    found = {path.name: text.encode()}
    pages = {path.with_suffix(end): page for end, page in result_files(bundle, second).items()}
    if second is not None:
        other = Path(replication.name)
        found[other.name] = replication.read_bytes()
        pages |= {other.with_suffix(end): page for end, page in result_files(second).items()}
    for each in (bundle, *([second] if second is not None else [])):
        pages |= {p.relative_to(each.path.parent): svg for p, svg in curve_files(each).items()}
    found |= {name.as_posix(): page.encode() for name, page in pages.items()}
    with tempfile.TemporaryDirectory() as folder:
        figures = draw_all(bundle, Path(folder))
        found |= {f"figures/{figure.name}": figure.read_bytes() for figure in figures}
        found["report.html"] = html(bundle, figures, True, second).encode()
    found |= {f"experiment/{name}": data for name, data in experiment_files(file).items()}
    found["environment.json"] = _json(environment())
    found[READ_ME] = _read_me(bundle).encode()
    return found


def experiment_files(file: Path) -> Contents:
    """Return an experiment's file and those that it names in its own folder, by relative paths."""
    found: Contents = {}
    for source in files_of(file) if file.exists() else ():
        found[source.name] = source.read_bytes()
        raw = read_yaml(source, "experiment", str(source))
        for name in (raw.get("published"), raw.get("paper_table")):
            if isinstance(name, str) and _is_safe(name) and (source.parent / name).is_file():
                found[name] = (source.parent / name).read_bytes()
    return found


def environment() -> dict[str, object]:
    """Return the versions of Python, of this project and of every installed package."""
    packages = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    return {
        "harness": version_text(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def weights(bundle: Bundle, root: Path) -> Contents:
    """Return the weights of every trained cell as safetensors files, by their names.

    Raises:
        UserError: A cell is not in the store, or safetensors is not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise UserError("--weights: needs safetensors; `pip install safetensors`") from None
    from harness.train.checkpoint import from_bytes

    found: Contents = {}
    for cell in bundle.cells:
        model = Store(root).directory(cell.fingerprint) / "model.pt"
        if not model.is_file():
            raise UserError(
                f"--weights: cell {cell.fingerprint[:16]} of {bundle.name} is not in {root}; give "
                "the store that trained it with --store, or leave --weights out"
            )
        state = from_bytes(model.read_bytes(), model)["state_dict"]
        state = {name: tensor.contiguous().clone() for name, tensor in state.items()}
        found[f"weights/{cell.fingerprint[:16]}.safetensors"] = save(state)
    return found


def described(bundle: Bundle, files: Contents) -> Contents:
    """Return files with their description and their digests, as an archive has them."""
    files = files | {CRATE: _json(crate(bundle, files))}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    return files | {MANIFEST: "".join(f"{d}  {name}\n" for name, d in digests.items()).encode()}


def zipped(files: Contents) -> bytes:
    """Return the ZIP file of some files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in sorted(files.items()):
            file.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)
    return content.getvalue()


def today() -> date:
    """Return the date; that of SOURCE_DATE_EPOCH if it is set, for builds with equal bytes."""
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return datetime.fromtimestamp(seconds, UTC).date()


def _describe(name: str) -> dict[str, str]:
    """Return what the name of a file tells of its contents."""
    suffix = PurePosixPath(name).suffix
    fields = {"encodingFormat": MEDIA_TYPES.get(suffix), "description": DESCRIPTIONS.get(suffix)}
    return {key: value for key, value in fields.items() if value}


def crate(bundle: Bundle, files: Contents) -> dict[str, object]:
    """Return the RO-Crate description of some files."""
    parts = [
        {"@id": name, "@type": "File", "contentSize": str(len(data)), **_describe(name)}
        for name, data in sorted(files.items())
    ]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Results of {bundle.name}",
        "description": str(bundle.experiment.get("description") or bundle.name),
        "datePublished": today().isoformat(),
        "license": {"@id": "#license"},
        "hasPart": [{"@id": part["@id"]} for part in parts],
        "mainEntity": {"@id": f"{bundle.name}.jsonl"},
    }
    license_ = {
        "@id": "#license",
        "@type": "CreativeWork",
        "name": "Not stated",
        "description": "Ask whoever exported these results.",
    }
    descriptor = {
        "@id": CRATE,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    return {
        "@context": "https://w3id.org/ro/crate/1.1/context",
        "@graph": [descriptor, root, license_, *parts],
    }


def read_archive(path: Path) -> Contents:
    """Return the verified files of an archive.

    Raises:
        UserError: It is no archive of `harness bundle export`, or not as it was written.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            if sum(member.file_size for member in members) > MOST_BYTES:
                raise _refused(path, f"its files have more than {MOST_BYTES >> 30} GB")
            if unsafe := [m.filename for m in members if not _is_safe(m.filename)]:
                raise _refused(
                    path, f"a file would leave the folder, or is oddly named ({unsafe[0]!r})"
                )
            files = {member.filename: file.read(member) for member in members}
            if len(files) < len(members):
                raise _refused(path, "two files have one name")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except Exception as error:  # many kinds: of zipfile, zlib, the system
        raise _refused(path, f"no archive that can be read ({one_line(error)})") from None
    if MANIFEST not in files:
        raise _refused(path, f"no archive of `harness bundle export`: it has no {MANIFEST}")
    listed = _digests(path, files[MANIFEST])
    others = files.keys() - {MANIFEST}
    for names, what in (
        (listed.keys() - others, "is missing"),
        (others - listed.keys(), "is not listed"),
    ):
        if names:
            raise _refused(path, f"{min(names)} {what}")
    folders = {str(parent) for name in others for parent in PurePosixPath(name).parents}
    if both := folders & others:
        raise _refused(path, f"{min(both)} is a file and a folder")
    for name, digest in listed.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise _refused(path, f"{name} is not the file that was exported (other SHA-256)")
    return files


def place(path: Path, files: Mapping[str, bytes], folder: Path) -> Path:
    """Write an archive's files into a folder of their own, and return the path of their bundle.

    The folder is named after the experiment and the content; if it is there already, it stays.

    Args:
        path: The archive, for messages.
        files: Its files.
        folder: Where the folder is put.

    Raises:
        UserError: There is no bundle in the archive, or its folder has other files by now.
    """
    names = [n for n in files if n.endswith(".jsonl") and "/" not in n and ".replication." not in n]
    if len(names) != 1 or not Path(names[0]).suffix:
        raise _refused(path, "it has no bundle")
    try:
        read_bundle(Path(names[0]), files[names[0]].decode("utf-8", "replace"))
    except UserError as error:
        why = str(error).partition(";")[0]
        raise _refused(path, f"its bundle is of another version, or damaged ({why})") from None
    digest = hashlib.sha256(files[MANIFEST]).hexdigest()[:8]
    target = folder / f"{Path(names[0]).stem}-{digest}"
    if target.exists():
        for name, data in files.items():
            if not (target / name).is_file() or (target / name).read_bytes() != data:
                raise UserError(f"{target / name}: not as in {path} any more; move {target} away")
        return target / names[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        inner = Path(temporary) / "files"
        for name, data in files.items():
            write_user_file(inner / name, data)
        os.rename(inner, target)
    return target / names[0]


def _refused(path: Path, why: str) -> UserError:
    return UserError(f"{path}: {why}; get the file again")


def _digests(path: Path, manifest: bytes) -> dict[str, str]:
    """Return the SHA-256 of each file that a manifest lists."""
    matches = [_LINE.fullmatch(line) for line in manifest.decode("utf-8", "replace").splitlines()]
    if None in matches:
        raise _refused(path, f"{MANIFEST} cannot be read")
    return {match[2]: match[1] for match in matches if match}


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    is_plain = path.as_posix() == name and printable(name) == name and not {"\\", ":"} & {*name}
    return is_plain and not path.is_absolute() and ".." not in path.parts


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _read_me(bundle: Bundle) -> str:
    return (
        f"Results of {bundle.name}, made with the ReFilled harness by `{bundle.command}`.\n\n"
        "report.html shows them all; the files NAME.md, .csv and .tex have the tables, NAME.jsonl "
        "every run, with the ids and folders of where it was trained; report.html has neither.\n"
        f"\nTo verify: sha256sum --check {MANIFEST}\nTo compare with your own numbers: "
        "harness bundle import FILE\n"
    )
