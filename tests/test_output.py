"""Where messages go, what they never contain, and what cannot stop a training."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import captured, environment

from harness.common.errors import UserError, one_line
from harness.common.redaction import redacted, remember_password, without_password
from harness.execute import local
from harness.run.session import stoppable

SECRET = "s3/cr@t:x"  # which a URL should hold encoded, and often does not


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:{}@h:5432/d",
        "cannot use postgresql+psycopg://me:{}@h/d?connect_timeout=5 (refused)",
        "http://me:{}@h:5000/api: Max retries",
        "http://:{}@h",
        "Could not parse 'postgres:/me:{}@h'",
        "no scheme: me:{}@host/x",
        "https://h/x?api_key={}&page=2",
        "https://h/x?a=1&access_token={}",
        "connection to host=h user=me password={} failed",
        "Authorization: Bearer {}",
    ],
)
@pytest.mark.parametrize("secret", ["hunter2hunter2", "p%40ss%2Fword", SECRET])
def test_no_secret_in_a_text(text: str, secret: str) -> None:
    if secret == SECRET and "{}@" not in text:
        pytest.skip("not a word of a query or header")
    shown = redacted(text.format(secret))
    assert secret not in shown and "***" in shown
    assert not any(part in shown for part in ("hunter2", "p%40ss", "s3/cr", "t:x"))
    assert secret not in one_line(ValueError("x" * 150 + " " + text.format(secret)))


def test_a_driver_that_repeats_the_password_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:p%40ss%2Fword@h/d")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://me:registry-pw@h")
    monkeypatch.setenv("OPTUNA_STORAGE", "mysql://me:optuna-pw@h/d")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tokentoken")
    monkeypatch.setenv("PGPASSWORD", "from-libpq")
    assert remember_password("mysql://u:on-the-line@h") == "mysql://u:on-the-line@h"
    for word in (
        "p@ss/word",
        "registry-pw",
        "optuna-pw",
        "tokentoken",
        "from-libpq",
        "on-the-line",
    ):
        assert redacted(f"bad words: {word!r}") == "bad words: '***'"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///a.db",
        "postgresql://u@h/d",
        "http://127.0.0.1:5000/#/experiments/1",
        "teacher: models:/x@teacher",
        "password authentication failed for user me",
        "git@github.com:owner/name",
        "student/test_accuracy 12.20 %, 2 s",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == without_password(text) == text


# -- streams ---------------------------------------------------------------------------------------

TALKS = """
import sys
from harness.cli import main
import harness.cli
def work(given, debug):
    for i in range(20000):
        print("a line", i, flush=True)
    print("end", file=sys.stderr)
    open("done", "w").close()
    return 0
harness.cli._main = work
sys.exit(main())
"""


@pytest.mark.parametrize(
    "how", ["| head -n 1", ">&-", "> /dev/full", ">&- 2>&-", "2>&1 | head -n 1"]
)
def test_output_that_goes_nowhere_stops_nothing(tmp_path: Path, how: str) -> None:
    script = f'set -o pipefail; "$0" -c "$1" {how}'
    command = ["bash", "-c", script, sys.executable, TALKS]
    done = captured(command, cwd=tmp_path, env=environment())
    assert done.returncode == 0 and (tmp_path / "done").exists(), done.stderr
    assert done.stderr in ("", "end\n")


def test_a_closed_number_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    program = (
        "from harness.common.output import keep_output_open; keep_output_open(); "
        "file = open('journal', 'w'); print('lost'); "
        "import sys; sys.stderr.write('x'); sys.exit(file.fileno())"
    )
    script = f'"{sys.executable}" -c "{program}" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment())
    assert done.returncode > 2 and (tmp_path / "journal").read_text() == ""


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", b"9 +- 1 \\xe9 \\udcff"),
        ("latin-1", b"9 \xb1 1 \xe9 \\udcff"),
        ("utf-8", "9 ± 1 é \\udcff".encode()),
        ("utf-8:surrogateescape", "9 ± 1 é \\udcff".encode()),
        ("ascii:replace", b"9 ? 1 ? ?"),
    ],
)
def test_a_sign_that_the_output_lacks_is_replaced(encoding: str, printed: bytes) -> None:
    program = (
        "from harness.common.output import keep_output_open; keep_output_open(); "
        "print('9 \xb1 1 \xe9 \udcff')"
    ).encode("unicode_escape")
    env = environment(PYTHONIOENCODING=encoding)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True)
    assert done.stdout.strip() == printed, done.stderr


# -- signals ---------------------------------------------------------------------------------------


@pytest.fixture
def hangup() -> Iterator[None]:
    """SIGHUP has its default effect, even if the tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_only_the_first_signal_interrupts(first: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    with stoppable() as stops:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.Signals[first])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1) * 3:
            os.kill(os.getpid(), number)
        assert stops.n == 13
    assert signal.getsignal(signal.SIGINT) is before


def test_what_nohup_has_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable() as stops:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stops.n == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# -- sockets ---------------------------------------------------------------------------------------


def test_a_long_temporary_folder_is_not_used_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import multiprocessing
    import multiprocessing.util

    long = tmp_path / ("long-" * 20)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setitem(multiprocessing.process.current_process()._config, "tempdir", None)
    local.shorten_socket_paths()
    assert len(multiprocessing.util.get_temp_dir()) < local.MAX_TEMPORARY
    assert tempfile.gettempdir() == str(long), "files still go where the user wants them"


def test_without_a_short_folder_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long-" * 20)))
    monkeypatch.setattr(local, "SHORT_FOLDERS", ("/nosuch",))
    with pytest.raises(UserError, match=r"TMPDIR: .* is too long"):
        local.shorten_socket_paths()
