"""docker/slurm.sh without Slurm: replacements of its commands start processes on this machine.

One grid runs on a real Ray cluster of two nodes; the other tests replace Ray and harness, too.
"""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import (
    HANG,
    ROOT,
    end_processes_in,
    environment,
    needs_ray,
    wait_until,
    write_experiment,
)

from harness.store import Store

SCRIPT = ROOT / "docker" / "slurm.sh"
TEXT = SCRIPT.read_text()
# A step is a process here; the file `asked` records the requests to Slurm.
SRUN = """
echo "srun ${*//$'\n'/ }" >> asked
while [[ $1 == --* ]]; do
    [[ $1 == --nodelist=broken ]] && { echo "no such node"; exit 1; }
    shift
done
exec "$@"
"""
SCONTROL = """
echo "scontrol $*" >> asked
[ "$1" != show ] || printf '%s\\n' $3
"""
NO_HOST = "x" * 64  # too long for a name's label: no name server is asked
SLEEPING = "echo $$ >> rays; exec sleep 100"
COUNTING = '[ "$1" = -c ] || until [ "$(wc -l < rays)" -ge "$3" ]; do sleep 0.1; done 2> /dev/null'
SAYING = 'echo "harness $*" >> asked; exit ${STATUS:-0}'


def program(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def is_free(port: int) -> bool:
    with socket.socket() as it:
        return it.connect_ex(("127.0.0.1", port)) != 0


def job_number() -> int:
    """Return the number of a job whose ports nobody uses."""
    while True:
        number = random.randrange(10**6, 10**7)
        port = 20000 + number % 6000 * 2
        if is_free(port) and is_free(port + 1):
            return number


@dataclass
class Job:
    """A Slurm job with two nodes: this machine, and a name without a machine."""

    folder: Path
    number: int

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        # Without the variables of a real Slurm job that may run the tests.
        around = {k: v for k, v in environment().items() if not k.startswith(("SLURM_", "BASH_"))}
        variables_of_job = {
            "PATH": os.pathsep.join([str(self.folder / "slurm"), os.environ["PATH"]]),
            "BIN": str(self.folder / "bin"),
            "SLURM_JOB_ID": str(self.number),
            "SLURM_JOB_NODELIST": "localhost other",
            "OBJECTS": str(80 * 2**20),
            "RAY_worker_niceness": "0",  # as on a node of its own: tests share this machine
        }
        return subprocess.Popen(
            [SCRIPT, *arguments],
            cwd=self.folder,
            env={k: v for k, v in (around | variables_of_job | variables).items() if v},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Return exit status and stderr."""
        process = self.start(*arguments, **variables)
        _, stderr = process.communicate(timeout=HANG)
        return process.returncode, stderr

    def asked(self, of: str) -> list[str]:
        file = self.folder / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(of)]

    @property
    def tracks(self) -> list[str]:
        """The remains of Ray: folders, and processes that name them or replace it."""
        name = f"ray-{self.number}"
        left = [str(p) for p in (Path("/tmp") / name, self.folder / name) if p.exists()]
        rays = self.folder / "rays"
        pids = rays.read_text().split() if rays.exists() else []
        left += [f"pid {pid}" for pid in pids if Path(f"/proc/{pid}").exists()]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                left += [str(process)] * (name in process.read_text())
            except OSError:
                continue
        return left


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    program(tmp_path / "slurm" / "srun", SRUN)
    program(tmp_path / "slurm" / "scontrol", SCONTROL)
    program(tmp_path / "slurm" / "squeue", 'echo "${LEFT:-1-00:00:00}"')
    program(tmp_path / "slurm" / "nproc", "echo 1")
    program(tmp_path / "bin" / "harness", SAYING)
    program(tmp_path / "bin" / "ray", SLEEPING)
    program(tmp_path / "bin" / "python", COUNTING)
    made = Job(tmp_path, job_number())
    yield made
    end_processes_in(tmp_path)  # of a test that failed
    shutil.rmtree(f"/tmp/ray-{made.number}", ignore_errors=True)


def max_time(job: Job) -> float:
    (line,) = job.asked("harness")
    match = re.search(r" --max-time (\d+)s$", line)
    assert match, line
    return float(match[1])


# -- a grid ----------------------------------------------------------------------------------------


@needs_ray
def test_a_grid_on_two_nodes(job: Job, empty_database: Path) -> None:
    shutil.copy(empty_database, job.folder)
    one_cell = {"methods": ["plain"], "training": {"epochs": 1}}
    write_experiment(job.folder / "tiny.yaml", **one_cell)
    ray = Path(sysconfig.get_path("scripts")) / "ray"
    seen = 'echo "nodes $("$BIN/python" nodes.py ${@: -3:1}) mode $RAY_AUTH_MODE" >> asked'
    harness = f'{SAYING.partition(";")[0]}; {seen}; exec "{sys.executable}" -m harness "$@"'
    program(job.folder / "bin" / "harness", harness)
    program(job.folder / "bin" / "ray", f'exec "{sys.executable}" "{ray}" "$@"')
    program(job.folder / "bin" / "python", f'exec "{sys.executable}" "$@"')
    (job.folder / "nodes.py").write_text(
        "import ray, sys\nray.init(sys.argv[1], log_to_driver=False)\n"
        "print(sum(node['Alive'] for node in ray.nodes()))\n"
    )
    status, stderr = job.run("run", "tiny.yaml", "--no-bar", LEFT="1:00:00")
    assert status == 0, stderr + "".join(p.read_text() for p in job.folder.glob("ray-*/*"))
    (cell,) = Store(job.folder / "runs").all()
    assert cell.is_done
    assert job.asked("nodes") == ["nodes 2 mode token"]
    assert 3600 - 420 - 600 < max_time(job) < 3600 - 420
    assert job.tracks == []


# -- Ray does not come -----------------------------------------------------------------------------


def one_line(stderr: str) -> str:
    assert stderr.count("\n") == 1 and stderr.startswith("error: "), stderr
    return stderr


def test_a_node_on_which_ray_does_not_start(job: Job) -> None:
    nodes = "localhost other broken"
    status, stderr = job.run("run", "x.yaml", SLURM_JOB_NODELIST=nodes)
    line = one_line(stderr)
    assert status == 2 and "node broken" in line
    logs = job.folder / f"ray-{job.number}"
    assert str(logs) in line and (logs / "broken.log").read_text() == "no such node\n"
    assert job.asked("harness") == []
    shutil.rmtree(logs)
    assert job.tracks == []


def test_nodes_that_do_not_come_in_time(job: Job) -> None:
    program(job.folder / "bin" / "ray", "exec sleep 100")  # and none is counted
    status, stderr = job.run("run", "x.yaml", WAIT="1")
    assert status == 2 and "WAIT=" in one_line(stderr)
    assert job.asked("harness") == []
    shutil.rmtree(job.folder / f"ray-{job.number}")
    assert job.tracks == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user(job: Job) -> None:
    folder = Path(f"/tmp/ray-{job.number}")
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    status, stderr = job.run("run", "x.yaml", SLURM_JOB_NODELIST="localhost")
    logs = job.folder / f"ray-{job.number}"
    assert status == 2 and "node localhost" in one_line(stderr)
    assert str(folder) in (logs / "localhost.log").read_text()
    assert not (job.folder / "rays").exists(), "no Ray in a folder that another user can change"


def test_a_ray_that_does_not_end_keeps_nobody_waiting(job: Job) -> None:
    sleep = shutil.which("sleep")
    program(job.folder / "slurm" / "sleep", f'echo "sleep $*" >> asked; exec {sleep} 0.05')
    deaf = f"trap '' TERM; echo $$ >> rays; while :; do {sleep} 0.2; done"
    program(job.folder / "bin" / "ray", deaf)
    assert job.run("run", "x.yaml", SLURM_JOB_NODELIST="localhost", PATIENCE="1") == (0, "")
    assert job.asked("sleep 0.5") == ["sleep 0.5"] * 2  # PATIENCE=1
    for pid in (job.folder / "rays").read_text().split():  # Slurm does that
        os.kill(int(pid), signal.SIGKILL)


# -- the command -----------------------------------------------------------------------------------


def test_what_is_started(job: Job) -> None:
    assert job.run("tune", "a b.yaml", "--gpus-per-cell", "1") == (0, "")
    head, other = sorted(job.asked("srun"), key=lambda line: "--head" not in line)
    address = f"127.0.0.1:{20000 + job.number % 6000 * 2}"
    assert "--nodelist=localhost " in head and "--nodelist=other " in other
    assert f" --address={address}" in other and "--head" not in other
    (command,) = job.asked("harness")
    assert command.startswith(
        f"harness tune a b.yaml --gpus-per-cell 1 --executor ray --ray-address {address}"
    )
    assert job.asked("scontrol requeue") == [] == job.tracks


@pytest.mark.parametrize("status", [1, 3])
def test_the_status_is_kept_and_a_job_that_is_not_done_can_go_back(job: Job, status: int) -> None:
    given = {"STATUS": str(status), "SLURM_JOB_NODELIST": "localhost"}
    assert job.run("run", "x.yaml", **given) == (status, "")
    assert job.asked("scontrol requeue") == []
    (job.folder / "rays").unlink()
    assert job.run("run", "x.yaml", REQUEUE="1", **given) == (status, "")
    again = [f"scontrol requeue {job.number}"] if status == 3 else []
    assert job.asked("scontrol requeue") == again
    shutil.rmtree(job.folder / f"ray-{job.number}", ignore_errors=status == 3)
    assert job.tracks == []


def test_a_command_that_ends_at_once_keeps_its_status() -> None:
    """The shell may have seen it end before the script asks for its status."""
    (body,) = re.findall(r"^await\(\) \{\n.*?^\}$", Path(SCRIPT).read_text(), re.M | re.S)
    ended = "(exit 3) & child=$!; while kill -0 $child 2> /dev/null; do sleep 0.05; done"
    shell = subprocess.run(["bash", "-c", f"{body}\n{ended}; await $child"])
    assert shell.returncode == 3


def test_a_signal_stops_the_command_in_order(job: Job) -> None:
    trapping = (
        "trap 'sleep 0.3; echo harness stopped >> asked; exit 130' TERM\necho harness >> asked"
    )
    program(job.folder / "bin" / "harness", f"{trapping}\nwhile :; do sleep 0.1; done")
    process = job.start("run", "x.yaml")
    assert wait_until(lambda: job.asked("harness"))
    os.kill(process.pid, signal.SIGTERM)  # as --signal=B: does, to the script alone
    process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert job.asked("harness")[-1] == "harness stopped" and job.tracks == []


# -- the time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "seconds"),
    [
        ("1-02:03:04", 93784),
        ("10-00:00:00", 864000),
        ("08:09:00", 29340),
        ("1:00:00", 3600),
        ("59:08", 3548),
        ("0:00", 0),
        *[(word, None) for word in ("UNLIMITED", "INVALID", "NOT_SET", "", "1-", "5", "1:x")],
    ],
)
def test_seconds_of(left: str, seconds: int | None) -> None:
    command = ["bash", "-c", f'source "{SCRIPT}"; seconds_of "$1"', "bash", left]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    assert (done.returncode == 0, done.stdout.strip()) == (
        seconds is not None,
        "" if seconds is None else str(seconds),
    )


def test_max_time_is_under_the_limit(job: Job) -> None:
    assert job.run("run", "x.yaml", LEFT="20:00", MARGIN="100") == (0, "")
    assert 1100 - 300 < max_time(job) <= 1100  # a slow start is taken off


def test_no_max_time_without_a_limit_or_beside_another(job: Job) -> None:
    assert job.run("run", "x.yaml", LEFT="UNLIMITED") == (0, "")
    assert job.run("run", "x.yaml", "--max-time", "9m", LEFT="UNLIMITED") == (0, "")
    assert job.run("run", "x.yaml", "--max-time=9m", LEFT="1:00:00") == (0, "")
    assert [line.count("max-time") for line in job.asked("harness")] == [0, 1, 1]
    status, stderr = job.run("run", "x.yaml", LEFT="INVALID")
    assert status == 0 and stderr.startswith("note: ") and "INVALID" in stderr


def test_the_signal_comes_after_max_time_and_before_the_limit() -> None:
    """Slurm sends it up to a minute early."""
    (before,) = re.findall(r"^#SBATCH --signal=B:TERM@(\d+)$", TEXT, re.M)
    (margin,) = re.findall(r"\$\{MARGIN:-(\d+)\}", TEXT)
    assert 60 < int(before) <= int(margin) - 120


# -- wrong use -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "variables", "field"),
    [
        (["run", "x.yaml"], {"SLURM_JOB_ID": ""}, "SLURM_JOB_ID"),
        (["plan", "x.yaml"], {}, "command: 'plan'"),
        ([], {}, "command: ''"),
        (["run", "x.yaml"], {"BIN": "/nowhere"}, "BIN: no /nowhere/harness"),
        (["run", "x.yaml"], {"LEFT": "5:00"}, "--time: 300 s"),
        (["run", "x.yaml"], {"SLURM_JOB_NODELIST": NO_HOST}, f"node {NO_HOST}"),
    ],
)
def test_wrong_use(job: Job, arguments: list[str], variables: dict[str, str], field: str) -> None:
    status, stderr = job.run(*arguments, **variables)
    assert status == 2 and one_line(stderr).startswith(f"error: {field}")
    assert job.asked("srun") == [] == job.tracks


def test_the_options_that_the_comment_names_are_read() -> None:
    head = TEXT.partition("\nset -u")[0]
    named = re.findall(r"^#   ([A-Z]+) +.*: (\S+)$", head, re.M)
    assert len(named) == 6
    for name, default in named:
        assert f"${{{name}:-" in TEXT and (default in TEXT.partition("\nset -u")[2]), name
