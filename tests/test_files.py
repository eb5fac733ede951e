"""Files of the user are written whole or not at all, and a refusal of the system is one line."""

import errno
import os
import resource
import stat
import sys
import threading
from pathlib import Path

import pytest
from bundles import FILE, without_training
from helpers import TINY, Output, Patch, refusal, write_experiment
from PIL import Image

from harness.cli import main
from harness.common.errors import one_line
from harness.common.files import check_output, write_atomically, write_user_file
from harness.common.os_errors import describe_os_error, exit_status_of
from harness.experiment.file import parse
from harness.run.grid import plan_of

HOMES = "<!-- table:tiny -->\n<!-- /table:tiny -->\n"


def files_in(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def limited(n_bytes: int, *arguments: str) -> tuple[int, str]:
    """Return status and stderr of a command in which no file may grow beyond `n_bytes`."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        sys.stdout, sys.stderr = open(os.devnull, "w"), os.fdopen(write, "w")  # noqa: SIM115
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        status = main(list(arguments))
        sys.stderr.flush()
        os._exit(status)
    os.close(write)
    with os.fdopen(read) as errors:
        text = errors.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def test_a_quota_in_the_middle_of_tables_leaves_every_file_whole(
    here: Path, monkeypatch: Patch
) -> None:
    picture = Image.effect_noise((300, 300), 99)
    monkeypatch.setattr("harness.analysis.figures.base.pixels", lambda figure: picture)
    (here / "docs").mkdir()
    (here / "README.md").write_text(HOMES)
    (here / "docs/grid.md").write_text("x" * 20_000 + "\n" + HOMES)
    write_experiment(here / FILE)
    without_training(plan_of(parse(TINY)), here / "runs")
    before = files_in(here)
    assert main(["tables", FILE]) == 0
    after = files_in(here)
    written = {p: len(data) for p, data in after.items() if data != before.get(p)}
    assert {".md", ".csv", ".tex", ".jsonl", ".png", ".svg"} <= {p.suffix for p in written}
    for path in written:
        path.write_bytes(before[path]) if path in before else path.unlink()
    sizes = sorted(written.values())
    for limit in (sizes[len(sizes) // 2], sizes[-1] - 1):
        status, text = limited(limit, "tables", FILE)
        (line,) = text.splitlines()
        named = Path(line.removeprefix("error: ").partition(": ")[0])
        assert status == 1 and written[here / named] > limit
        now = files_in(here)
        assert all(now.get(p, before.get(p)) in (before.get(p), after[p]) for p in after)
        assert now.keys() <= after.keys(), "no part of a file stays"
    assert main(["tables", FILE]) == 0
    assert files_in(here) == after, "nothing counts as made that was not"


def test_what_is_replaced_keeps_its_permissions_and_links(tmp_path: Path) -> None:
    target, link = tmp_path / "deep" / "target.md", tmp_path / "README.md"
    link.symlink_to("deep/target.md")
    write_user_file(link, "made with its folder")
    target.chmod(0o640)
    (target.parent / ".target.md.0a1b.tmp").write_text("of a process that was killed")
    own = target.parent / ".target.md.draft.tmp"
    own.write_text("the user's")
    write_user_file(link, b"new")
    assert own.read_text() == "the user's"
    own.unlink()
    assert link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [p.name for p in target.parent.iterdir()] == ["target.md"]


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    write_user_file(tmp_path / "page", f"made from {os.fsdecode(bytes([255]))}.yaml")
    assert (tmp_path / "page").read_bytes() == b"made from \\udcff.yaml"


@pytest.mark.parametrize(
    ("name", "error"),
    [("no/x", FileNotFoundError), ("folder", IsADirectoryError), ("file/x", NotADirectoryError)],
)
def test_where_nothing_can_be_written_is_said_before_the_work(
    project: Path, tmp_path: Path, name: str, error: type[OSError], capsys: Output
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    path = str(tmp_path / name)
    with pytest.raises(error) as caught:
        check_output(tmp_path / name)
    assert caught.value.filename == path
    for command in (["predict", FILE, ".", "--out", path], ["export", FILE, "--onnx", path]):
        assert path in refusal(capsys, *command)
    assert not (tmp_path / "no").exists()


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_user_file(tmp_path / "pipe", "page")
    reader.join()
    assert seen == ["page"] and (tmp_path / "pipe").is_fifo()


def test_a_disk_without_locks_is_written_to(tmp_path: Path, monkeypatch: Patch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    write_atomically(tmp_path / "x", b"new", like=tmp_path / "just removed")
    assert (tmp_path / "x").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_failed_write_names_the_users_file(
    tmp_path: Path, monkeypatch: Patch, number: int
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "README.md").write_text("old")
    monkeypatch.setattr("os.fsync", full)
    for call in (
        lambda: write_user_file(tmp_path / "README.md", "new"),
        lambda: write_atomically(tmp_path / "README.md", b"new"),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.filename == str(tmp_path / "README.md")
        line = describe_os_error(caught.value)
        assert one_line(caught.value) == line
        assert line.startswith(f"{tmp_path / 'README.md'}: {os.strerror(number)}; ")
    assert exit_status_of(caught.value) == (2 if number == errno.EROFS else 1)
    assert (tmp_path / "README.md").read_text() == "old" and len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (IsADirectoryError(errno.EISDIR, "Is a directory", ".d.15094.tmp"), "d: Is a directory; "),
        (OSError(errno.ENOLCK, "No locks available", "runs/lease"), "runs/lease: No locks "),
        (OSError(errno.ENOSPC, "full", "c/.key.0af3.tmp/pixels.bin"), "c/key/pixels.bin: full; "),
        (OSError(errno.ENOSPC, "full"), "given: full; "),
        (OSError(errno.EXDEV, "Cross", "a", None, ".b.12ef.tmp"), "b: Cross; "),
        (OSError("no number"), "given: no number; "),
    ],
)
def test_an_error_of_the_system_has_the_users_path_and_a_remedy(error: OSError, start: str) -> None:
    line = describe_os_error(error, Path("given"))
    assert line.startswith(start) and line.partition("; ")[2] and ".tmp" not in line


def test_a_command_that_fails_in_its_course_has_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: Patch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available", "runs/\x1b[31m/lease")

    monkeypatch.setattr("harness.analysis.generated_files.make_tables", refuse)
    assert main(["tables"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: runs/\\x1b[31m/lease: No locks available; ")


def test_a_folder_that_takes_no_file_is_named() -> None:
    """As /proc, where opening a new file says that it does not exist."""
    with pytest.raises(OSError) as caught:
        write_user_file(Path("/proc/harness-test"), "x")
    assert caught.value.filename == "/proc/harness-test"
