"""docker/slurm.sh: its functions anywhere, and its jobs on a real Slurm of two nodes.

Most jobs have replacements of Ray and harness, which end as told; the last ones train.
"""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, captured, environment, epochs_of, wait_until, write_experiment
from slurm import Slurm, needs_slurm

from harness.store import Store

SCRIPT = ROOT / "docker" / "slurm.sh"
TEXT = SCRIPT.read_text()
NO_HOST = "x" * 64  # too long for a name's label: no name server is asked
LIMIT = 900  # seconds that a job may take, on a machine however loaded
SAYING = 'echo "harness $*" >> asked; exit ${STATUS:-0}'
RAY = """
trap 'echo "ended $SLURMD_NODENAME" >> asked; exit' TERM
echo "ray $* $RAY_AUTH_MODE" >> asked
sleep 100 & wait
"""
COUNTING = '[ "$1" = -c ] || until [ "$(grep -c ^ray asked)" = "$3" ]; do sleep 0.1; done'


def replace(folder: Path, ray: str = RAY, harness: str = SAYING) -> Path:
    """Return a folder of programs in place of those of the environment."""
    (folder / "bin").mkdir()
    for name, body in {"ray": ray, "harness": harness, "python": COUNTING}.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    return folder / "bin"


def sourced(code: str, folder: Path = ROOT, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run code that has the functions of the script."""
    outside = {k: v for k, v in environment().items() if not k.startswith("SLURM")}
    return captured(["bash", "-c", f'. "{SCRIPT}"\n{code}'], cwd=folder, env=outside | env)


# -- without Slurm ---------------------------------------------------------------------------------


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
    done = sourced(f"seconds_of '{left}'")
    said = "" if seconds is None else f"{seconds}\n"
    assert (done.returncode == 0, done.stdout, done.stderr) == (seconds is not None, said, "")


def test_a_command_that_ends_at_once_keeps_its_status() -> None:
    """The shell may have seen it end before the script asks for its status."""
    ended = "(exit 3) & child=$!; while kill -0 $child 2> /dev/null; do sleep 0.05; done"
    assert sourced(f"{ended}; await $child").returncode == 3


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user(tmp_path: Path) -> None:
    replace(tmp_path, ray="touch started")
    node, ray, started = "on_node ray bin --head", tmp_path / "ray", tmp_path / "started"
    assert sourced(node, tmp_path).returncode == 0 and started.exists() and not ray.exists()
    started.unlink()
    ray.mkdir()
    os.chown(ray, 12345, 12345)
    done = sourced(node, tmp_path)
    assert done.returncode == 1 and done.stdout.startswith("ray: ")
    assert not started.exists(), "no Ray in a folder that another user can change"


def test_the_signal_comes_after_max_time_and_before_the_limit() -> None:
    """Slurm sends it up to a minute early."""
    (before,) = re.findall(r"^#SBATCH --signal=B:TERM@(\d+)$", TEXT, re.M)
    (margin,) = re.findall(r"\$\{MARGIN:-(\d+)\}", TEXT)
    assert 60 < int(before) <= int(margin) - 120


def test_the_options_that_the_comment_names_are_read() -> None:
    head, _, body = TEXT.partition("\nset -u")
    named = re.findall(r"^#   ([A-Z]+) +.*: (\S+)$", head, re.M)
    assert len(named) == 6
    for name, default in named:
        assert f"${{{name}:-" in body and default in body, name


@pytest.mark.parametrize(
    ("code", "variables", "said"),
    [
        ("main run x", {"SLURM_JOB_ID": ""}, "error: SLURM_JOB_ID"),
        ("main plan x", {}, "error: command: 'plan'"),
        ("main", {}, "error: command: ''"),
        ("main run x", {"BIN": "/nowhere"}, "error: BIN: no /nowhere/harness"),
        ("main run x", {"MARGIN": "abc"}, "error: MARGIN: 'abc'"),
        ("main run x", {"WAIT": "1m"}, "error: WAIT: '1m'"),
        ("squeue() { echo 5:00; }; main run x", {}, "error: --time: 300 s"),
        ("squeue() { echo X; }; scontrol() { :; }; main run x", {}, "note: squeue says 'X'"),
        (
            f"squeue() {{ echo 9:00; }}; scontrol() {{ echo {NO_HOST}; }}; main run x",
            {},
            "error: node x",
        ),
    ],
)
def test_wrong_use(code: str, variables: dict[str, str], said: str, tmp_path: Path) -> None:
    given = {"SLURM_JOB_ID": "7", "BIN": str(replace(tmp_path))} | variables
    done = sourced(code, tmp_path, **given)
    assert done.returncode == 2 and done.stderr.startswith(said)
    assert len(re.findall("^error: ", done.stderr, re.M)) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"bin"}


# -- jobs ------------------------------------------------------------------------------------------


@dataclass
class Jobs:
    """Jobs on two nodes that are submitted in a folder, with its bin/ or the tests' environment."""

    slurm: Slurm
    folder: Path

    def submit(self, *words: str, options: str = "", **variables: str) -> str:
        """Return the number of a new job of `harness run WORDS`."""
        bins = self.folder / "bin"
        place = str(bins) if bins.exists() else sysconfig.get_path("scripts")
        variables = {"BIN": place, "OBJECTS": str(80 * 2**20), "WAIT": str(LIMIT)} | variables
        given = f"--parsable --chdir={self.folder} --nodes=2 --cpus-per-task=1 {options}".split()
        return self.slurm.ask("sbatch", *given, str(SCRIPT), "run", *words, **variables)

    def wait(self, condition: Callable[[], Any]) -> None:
        assert wait_until(condition, LIMIT), self.said("harness-*.log")

    def end(self, job: str) -> tuple[int, str]:
        """Wait for the end; return exit status and log. Only the folder has traces of the job."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")
        self.wait(lambda: self.slurm.show(job, "JobState") in ends)
        self.wait(lambda: not self.slurm.processes())
        assert not Path(f"/tmp/ray-{job}").exists()
        status = int(self.slurm.show(job, "ExitCode").partition(":")[0])
        return status, self.said(f"harness-{job}.log")

    def run(self, *words: str, options: str = "", **variables: str) -> tuple[int, str]:
        return self.end(self.submit(*words, options=options, **variables))

    def said(self, files: str) -> str:
        return "".join(p.read_text() for p in self.folder.glob(files))

    def asked(self, program: str) -> list[str]:
        """Return the command lines of a program of bin/."""
        return [x for x in self.said("asked").splitlines() if x.startswith(f"{program} ")]

    def epochs(self) -> list[int]:
        """Return the epochs of all cells, each as often as it was trained."""
        return [n for cell in Store(self.folder / "runs").all() for n in epochs_of(cell)]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with Slurm() as started:
        yield started


@pytest.fixture
def jobs(slurm: Slurm, tmp_path: Path) -> Iterator[Jobs]:
    yield Jobs(slurm, tmp_path)
    slurm.ask("scancel", "--user=root")  # of a test that failed
    wait_until(lambda: not slurm.processes())
    for log in tmp_path.glob("harness-*.log"):
        shutil.rmtree(f"/tmp/ray-{log.stem.partition('-')[2]}", ignore_errors=True)


@needs_slurm
def test_what_is_started(jobs: Jobs) -> None:
    replace(jobs.folder, f"sleep 2\n{RAY}")
    options = "--time=9 --cpus-per-task=3"
    given = {"MARGIN": "200", "OMP_NUM_THREADS": "1", "STATUS": "3"}
    job = jobs.submit("x.yaml", options=options, **given)
    assert jobs.end(job) == (3, "")
    address = f"127.0.0.1:{20000 + int(job) % 6000 * 2}"
    head, other = sorted(jobs.asked("ray"), key=lambda line: "--head" not in line)
    assert "--head" in head and f" --address={address}" in other
    for line in (head, other):
        assert " --num-cpus=3 " in line and line.endswith(" token")
    first, _, seconds = jobs.asked("harness")[0].rpartition(" ")
    assert first == f"harness run x.yaml --executor ray --ray-address {address} --max-time"
    assert 100 < int(seconds[:-1]) < 340, "the time of the start is taken off"
    assert {*jobs.asked("ended")} == {"ended n1", "ended n2"}, "neither was killed"
    assert not list(jobs.folder.glob("ray-*"))


@needs_slurm
@pytest.mark.parametrize("words", [["--time=UNLIMITED"], ["--time=60", "--max-time=9m"]])
def test_a_failure_and_the_limits_that_stay_as_they_are(words: list[str], jobs: Jobs) -> None:
    replace(jobs.folder)
    assert jobs.run("x.yaml", *words[1:], options=words[0], STATUS="1", REQUEUE="1") == (1, "")
    assert len(list(jobs.folder.glob("ray-*/n?.log"))) == 2
    assert jobs.asked("harness")[0].count("max-time") == len(words) - 1


@needs_slurm
@pytest.mark.parametrize(
    ("ray", "wait", "said"),
    [
        (f"[ $SLURMD_NODENAME = n1 ] || exit 1\n{RAY}", LIMIT, "node n2: "),
        ("exec sleep 100", 1, "WAIT="),  # and none is counted
    ],
)
def test_a_node_without_ray(ray: str, wait: int, said: str, jobs: Jobs) -> None:
    replace(jobs.folder, ray, harness="touch started")
    status, log = jobs.run("x.yaml", WAIT=str(wait))
    (folder,) = jobs.folder.glob("ray-*")
    assert status == 2 and re.fullmatch(f"error: .*{said}.* {folder}\n", log), log
    assert not (jobs.folder / "started").exists()


@needs_slurm
def test_a_ray_that_does_not_end_keeps_nobody_waiting(jobs: Jobs) -> None:
    """Slurm ends it with the job."""
    replace(jobs.folder, 'trap "" TERM\necho "ray" >> asked\nwhile :; do sleep 0.2; done')
    job = jobs.submit("x.yaml", PATIENCE="1")
    assert jobs.end(job)[0] == 0
    assert jobs.slurm.show(job, "RunTime") < "00:00:45"


# -- trainings -------------------------------------------------------------------------------------


def plain(jobs: Jobs, epochs: int, seeds: int = 1) -> str:
    """Return an experiment with a cell per seed."""
    given = {"methods": ["plain"], "training": {"epochs": epochs}, "seeds": [*range(seeds)]}
    return str(write_experiment(jobs.folder / "plain.yaml", **given))


@needs_slurm
def test_the_signals_before_the_limit_and_of_scancel(jobs: Jobs) -> None:
    """Each stops the job in order, and the next job goes on."""
    words = (plain(jobs, epochs=20_000), "--no-bar")
    job = jobs.submit(*words, options="--signal=B:TERM@60")
    jobs.wait(jobs.epochs)
    jobs.slurm.ask("scontrol", "update", f"job={job}", "EndTime=now+90")  # looked at twice a minute
    assert jobs.end(job)[0] == 130
    before = len(jobs.epochs())
    job = jobs.submit(*words)
    jobs.wait(lambda: len(jobs.epochs()) > before)
    jobs.slurm.ask("scancel", "--batch", "--signal=TERM", job)
    assert jobs.end(job)[0] == 130
    assert jobs.epochs() == [*range(1, len(jobs.epochs()) + 1)], "none was trained again"
    assert not list(jobs.folder.glob("ray-*"))


@needs_slurm
def test_the_margin_before_the_limit_and_back_into_the_queue(jobs: Jobs) -> None:
    """The 15 seconds of the first time are too short, so the job gets more while it waits."""
    given = {"MARGIN": "585", "REQUEUE": "1"}
    job = jobs.submit(plain(jobs, epochs=200), "--no-bar", options="--time=10", **given)
    jobs.wait(lambda: jobs.slurm.show(job, "Restarts") == "1")
    assert "--max-time is over" in jobs.said("harness-*.log")
    jobs.slurm.ask("scontrol", "update", f"job={job}", "TimeLimit=60")
    status, log = jobs.end(job)
    assert status == 0, log
    assert log.count("1 to train with 2 jobs") == 2, "each node has a core"
    assert jobs.epochs() == [*range(1, 201)]


@needs_slurm
def test_a_lost_node_does_not_cost_the_job(jobs: Jobs) -> None:
    job = jobs.submit(plain(jobs, epochs=100, seeds=2), "--no-bar")
    jobs.wait(lambda: jobs.epochs().count(5) == 2)
    jobs.slurm.ask("scontrol", "update", "node=n2", "state=down", "reason=test")
    status, log = jobs.end(job)
    jobs.slurm.ask("scontrol", "update", "node=n2", "state=resume")
    assert status == 0, log
    assert sorted(jobs.epochs()) == sorted([*range(1, 101)] * 2)
    events = [
        event["event"] for cell in Store(jobs.folder / "runs").all() for event in cell.events()
    ]
    assert events.count("start") == 3, "that of the lost node went on elsewhere"
