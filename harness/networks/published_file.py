"""Files of weights that others have written, in any layout of PyTorch's history.

They are read as data (weights_only: a pickle runs nothing), or refused in one line that says what
the file is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.common.errors import UserError, one_line

DOWNLOAD_AGAIN = "download it again"
UNPACK = "unpack it and name the checkpoint in it"
SAVE_STATE = "where it was made, save `torch.save({'state_dict': model.state_dict()}, FILE)`"
# The first bytes of files that people mistake for checkpoints, what they are, and the remedy.
BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS", "`git lfs pull` fetches the file itself"),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (b"Rar!", "a rar archive", UNPACK),
    (b"\x89HDF", "an HDF5 file, as Keras writes it", "name a checkpoint of PyTorch"),
    (b"\x93NUMPY", "a numpy array", "name a checkpoint of PyTorch"),
    (b"GGUF", "a GGUF file", "name a checkpoint of PyTorch"),
    (b"%PDF", "a PDF", DOWNLOAD_AGAIN),
    (b"\x89PNG", "an image", DOWNLOAD_AGAIN),
    (b"\xff\xd8\xff", "an image", DOWNLOAD_AGAIN),
)
OLD_TAR = "a tar from an old PyTorch"
# Types in which accuracies, logs and settings are often stored. They are harmless, but weights_only
# has to be told. Arrays and numbers of NumPy name two private functions, by NumPy 1's or 2's path.
_REBUILDERS: list[Any] = [value.__reduce__()[0] for value in (np.empty(0), np.float64(0))]
HARMLESS: list[Any] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + "?efdg"},
    argparse.Namespace,
    *(
        (function, f"numpy.{package}.multiarray.{function.__name__}")
        for function in _REBUILDERS
        for package in ("core", "_core")
    ),
]
# Keys under which files keep their weights, and the prefixes of modules in wrappers.
HOMES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
WRAPPERS = ("module.", "_orig_mod.")
MAX_DEPTH = 3
# What a file may say about itself, under any of these keys: the releases' own, and RepDistiller's.
CLAIMS = {
    "validating_accuracy": ("validating_accuracy", "accuracy", "best_acc"),
    "epoch": ("epoch",),
}


def first_difference(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str | None:
    """Return the first name or shape that differs between two state dicts, or None."""
    for name in [*expected, *found]:
        ours, theirs = (tuple(s[name].shape) if name in s else None for s in (expected, found))
        if theirs is None and name.endswith(".num_batches_tracked"):
            continue  # PyTorch before 0.4.1 had no such tensors
        if ours != theirs:
            return f"{name}: expected {_shape(ours)}, found {_shape(theirs)}"
    return None


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else str(shape)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, float], str]:
    """Read a published file.

    Returns:
        Its state_dict, what it says about itself, and its SHA-256.

    Raises:
        UserError: It is missing, is no checkpoint, holds more than weights, or has no state_dict.
    """
    if not path.is_file():
        raise UserError(f"FILE: no such checkpoint {path}; check the path")
    digest = sha256_of(path)
    if not_checkpoint := identify_foreign(path):
        what, remedy = not_checkpoint
        raise UserError(f"FILE: {path} is refused: it is {what}; {remedy}")
    content = _load_safetensors(path) if _is_safetensors(path) else _load(path)
    state = without_wrappers(_state_in(content, path), path)
    _check_weights(state, path)
    return state, _claims(content), digest


def identify_foreign(path: Path) -> tuple[str, str] | None:
    """Return a file's kind by its first bytes, and the remedy; None if it may be a checkpoint."""
    with open(path, "rb") as file:
        head = file.read(600)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        return "empty", DOWNLOAD_AGAIN
    if not head.strip(b"\0"):
        return "full of zeros, a download that was never finished", DOWNLOAD_AGAIN
    if re.match(rb"<(!doctype|html|head|body|\?xml|!--)", start):
        return "a web page, as a download that asks or fails gives", DOWNLOAD_AGAIN
    for beginning, what, remedy in BEGINNINGS:
        if head.startswith(beginning):
            return what, remedy
    if head.startswith(b"PK"):
        return _foreign_zip(path)
    if head[257:262] == b"ustar":
        return f"a tar archive, perhaps {OLD_TAR}", f"{UNPACK}, or {SAVE_STATE}"
    if _is_safetensors(path):
        if importlib.util.find_spec("safetensors"):
            return None
        return "a safetensors file", "`pip install safetensors`, which reads it"
    if not head.startswith(b"\x80"):  # every pickle of protocol 2 and above
        kind = "text" if head[:64].isascii() else "bytes"
        return f"no checkpoint but {kind} that begin with {head[:16]!r}", DOWNLOAD_AGAIN
    return None


def _foreign_zip(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            n_bytes = sum(member.file_size for member in archive.infolist())
    except Exception:  # a broken archive makes zipfile raise about anything
        return "a zip archive without its end, half a download", DOWNLOAD_AGAIN
    if n_bytes > path.stat().st_size:  # PyTorch compresses nothing
        return f"an archive that unpacks to {n_bytes:,} bytes", SAVE_STATE
    parts = {name.partition("/")[2] for name in names}
    if "constants.pkl" in parts or any(part.startswith("code/") for part in parts):
        return "a TorchScript module, which holds code", SAVE_STATE
    if any(name.endswith(".npy") for name in names):
        return "an archive of numpy arrays", "name a checkpoint of PyTorch"
    return None if "data.pkl" in parts else ("a zip archive without weights", UNPACK)


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors: the length of a JSON header, and the header."""
    with open(path, "rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and 2 <= length <= path.stat().st_size


def _load_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # it has several of its own
        raise UserError(
            f"FILE: {path} is refused: as safetensors it is broken ({one_line(error)}); "
            f"{DOWNLOAD_AGAIN}"
        ) from None


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ways to write that are old
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error)
        reason = (text.strip().splitlines() or [type(error).__name__])[0][:120]
        remedy = f"{DOWNLOAD_AGAIN}, or {SAVE_STATE}"
        if "Unsupported" in text or "WeightsUnpickler" in text or "weights_only" in text:
            named = re.search(r"GLOBAL ([\w.]+)", text)
            what = f" ({named[1][:80]})" if named else ""
            reason = f"it holds Python objects beside weights{what}, and was not run"
            remedy = SAVE_STATE
        if ".tar format" in text:
            reason, remedy = f"it is {OLD_TAR}", SAVE_STATE
        raise UserError(f"FILE: {path} is refused: {reason}; {remedy}") from None


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and k.isprintable() for k in value)
        and all(isinstance(v, Tensor) for v in value.values())
    )


def _state_in(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the weights, which are under one of the usual keys or at the top.

    Raises:
        UserError: There are none, or more than one key has some.
    """
    for _ in range(MAX_DEPTH):
        if _is_state(content):
            return dict(content)
        homes = [k for k in HOMES if isinstance(content, dict) and isinstance(content.get(k), dict)]
        if len(homes) > 1 and homes[0] != HOMES[0]:
            raise UserError(
                f"FILE: {path} has weights under {' and '.join(homes)}; save one of them alone"
            )
        if not homes:
            break
        content = content[homes[0]]
    if _is_state(content):
        return dict(content)
    raise UserError(
        f"FILE: {path} has no `state_dict` of tensors, nor one under {', '.join(HOMES[1:])}; "
        f"{SAVE_STATE}"
    )


def without_wrappers(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights without the prefixes of parallel, compiled or enclosing modules.

    Raises:
        UserError: Two names become one.
    """
    names = {name: name for name in state}
    while True:
        shorter = {k: _without_wrapper(v) for k, v in names.items()}
        first = {v.partition(".")[0] for v in shorter.values()}
        if len(names) > 1 and len(first) == 1 and all("." in v for v in shorter.values()):
            shorter = {k: v.partition(".")[2] for k, v in shorter.items()}
        if shorter == names:
            break
        names = shorter
    if len(set(names.values())) < len(names):
        raise UserError(f"FILE: {path} has weights of several modules; {SAVE_STATE}")
    return {names[k]: v for k, v in state.items()}


def _without_wrapper(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _check_weights(state: dict[str, Tensor], path: Path) -> None:
    """Check that all tensors are ordinary ones with finite numbers.

    Raises:
        UserError: One is not.
    """
    if problem := weights_problem(state):
        raise UserError(f"FILE: {path}: {problem}")


def weights_problem(state: dict[str, Tensor]) -> str | None:
    """Return the first tensor that no training leaves, with the remedy; None if there is none."""
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            kind = "quantized" if tensor.is_quantized else "not an ordinary tensor"
            return f"{name[:80]} is {kind}; save float weights"
        if tensor.device.type != "cpu" or not _is_in_file(tensor):
            return f"{name[:80]} is larger than what the file holds; save contiguous weights"
        if not bool(torch.isfinite(tensor).all()):
            return (
                f"{name[:80]} holds NaN or infinite numbers, as a training that diverged leaves "
                "them; name another checkpoint"
            )
    return None


def _is_in_file(tensor: Tensor) -> bool:
    """Return whether a tensor has storage for all of its numbers, so that it repeats none."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _claims(content: Any) -> dict[str, float]:
    """Return the finite numbers that the file claims for itself, such as its accuracy."""
    claims = {}
    for claim, keys in CLAIMS.items():
        found = (content[key] for key in keys if isinstance(content, dict) and key in content)
        value = next(found, None)
        if not isinstance(value, int | float | np.generic | Tensor):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            continue
        if math.isfinite(number):
            claims[claim] = number
    return claims
