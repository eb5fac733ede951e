"""The user's own folder among temporary files."""

import os
from pathlib import Path

import pytest
from helpers import Patch, wrong

from harness.common import temporary
from harness.common.temporary import user_folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Patch) -> Path:
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"harness-{os.getuid()}"


def test_a_folder_of_ones_own(folder: Path) -> None:
    assert user_folder() == user_folder() == folder
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("problem", ["a link", "a file", "writable by others", "of another user"])
def test_a_folder_that_others_prepared_is_refused(
    folder: Path, problem: str, monkeypatch: Patch
) -> None:
    if problem == "a link":
        (folder.parent / "theirs").mkdir(mode=0o700)
        folder.symlink_to("theirs")
    elif problem == "a file":
        folder.touch(mode=0o600)
    else:
        folder.mkdir(mode=0o700)
    if problem == "writable by others":
        folder.chmod(0o777)
    if problem == "of another user":
        uid = os.getuid()
        moved = folder.rename(folder.with_name(f"harness-{uid + 1}"))
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
        assert moved.exists()
    wrong(user_folder, "TMPDIR")
