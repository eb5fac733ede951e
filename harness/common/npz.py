"""Archives of numpy arrays, read as data that somebody may have damaged or made up."""

from __future__ import annotations

import functools
import io
import math
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np


def read_npz(data: bytes, names: Sequence[str], most: int) -> dict[str, np.ndarray]:
    """Return the arrays of these names from the bytes of an .npz file.

    Args:
        data: The bytes of the file.
        names: The names of its arrays; others are ignored.
        most: The bytes that the arrays may take in memory, checked before they do.

    Raises:
        ValueError: It has not all of the arrays, is damaged, or would take more memory.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(archive.getinfo(f"{name}.npy").file_size for name in names) > most:
                raise ValueError(f"would unpack to more than {most:,} bytes")
            # Read to the end: only then does zipfile compare the check sum.
            return {name: _array(archive.read(f"{name}.npy")) for name in names}
    except ValueError:
        raise
    except Exception:  # a flipped bit makes zipfile and numpy raise almost anything
        raise ValueError("cannot be read") from None


def _array(data: bytes) -> np.ndarray:
    """Return the array of an .npy file, whose header must not claim more than there is."""
    size = int.from_bytes(data[8:10], "little") + 10
    if data[6:8] != b"\x01\x00":  # a longer header, whose size has four bytes
        size = int.from_bytes(data[8:12], "little") + 12
    shape, is_fortran, dtype = _header(data[:size])
    if math.prod(shape) * dtype.itemsize != len(data) - size:
        raise ValueError("holds an array of another size than it says")
    return np.ndarray(shape, dtype, data, size, order="F" if is_fortran else "C").copy()


@functools.lru_cache(maxsize=64)  # thousands of files have the same ones
def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type of an .npy file from its header."""
    file, form = io.BytesIO(data), np.lib.format
    version = form.read_magic(file)
    read_header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject:  # which would have to be unpickled
        raise ValueError("holds objects")
    return shape, is_fortran, dtype
