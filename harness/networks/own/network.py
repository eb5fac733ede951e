"""Make a network of the user's own, from a Python file of a known digest."""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path
from types import ModuleType

from harness.common.errors import UserError, nearest, one_line
from harness.common.reading import read_file
from harness.networks.own import DEFAULT_SIZE, OwnOptions
from harness.networks.pretrained import LocalFile
from harness.networks.wrapped import Made, call_builder


def make(options: OwnOptions, n_classes: int) -> Made:
    """Return the module that the file's class or function makes.

    Raises:
        UserError: The file is not here, has changed, or fails.
    """
    definition, size = options.path, options.size_of_input
    module = _module_of(definition.file)
    try:
        builder = getattr(module, definition.name)
    except AttributeError:
        names = [name for name, value in vars(module).items() if callable(value)]
        raise UserError(
            f"path: {definition.file.path} has no {definition.name}"
            f"{nearest(definition.name, names)}"
        ) from None
    made = call_builder(builder, str(definition), n_classes, options.builder_options)
    return Made(made, (size, size) if isinstance(size, int) else (DEFAULT_SIZE, DEFAULT_SIZE))


@functools.cache
def _module_of(file: LocalFile) -> ModuleType:
    """Return a file as a module, executed once per process.

    Raises:
        UserError: See `make`.
    """
    if file.path is None:
        raise UserError(
            f"path: the Python file with SHA-256 {file.sha256[:12]} is not on this machine; name "
            "its path in the experiment"
        )
    path = Path(file.path)
    try:
        source = read_file(path)
    except OSError as error:
        raise UserError(f"path: cannot read {path} ({error.strerror}); put it back") from None
    if hashlib.sha256(source).hexdigest() != file.sha256:
        raise UserError(
            f"path: {path} has changed since (SHA-256 {file.sha256[:12]}); bring that version back"
        )
    module = ModuleType(f"own_network_{file.sha256[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[module.__name__]
        raise UserError(
            f"path: {path} fails: {one_line(error)}; it has to stand alone, beside installed "
            "packages"
        ) from None
    return module
