"""Kill every command that writes, at random moments, and check what is left: `make kills`.

A command is killed by SIGKILL before one of its changes to files, or at a random time, its parent
or one of its children; up to three times in a row. It is then run again until it succeeds. What
counts afterwards is what an undisturbed call makes: models and predictions bit by bit, printed
tables, files of the user's, and MLflow's rows, which are the journals' one for one. No process, no
temporary file and no traceback may stay behind. `--seed` repeats the kills of a table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from helpers import TUNING, environment, mlflow_client, start, wait_until, write_experiment
from test_mlflow_kills import journal_rows, mlflow_rows

from harness.store import CellDir, Store
from harness.track.sync_state import current_training

FILE, TUNING_FILE = "experiments/tiny.yaml", "experiments/tuning/tiny.yaml"
QUIET = ("--no-bar", "--device", "cpu")
RUN, PRINT = ("run", FILE, *QUIET), ("tables", FILE, "--print", "--mixed")
MARKERS = "<!-- table:tiny -->\n<!-- /table:tiny -->\n"
NOT_THE_USERS = ("runs", "data", "mlflow.db", "mlflow.db.lock", "mlartifacts")
MOST_CALLS = 4  # until a killed command succeeds
# What differs between two undisturbed calls: times, run ids, and the code, on which we work.
VARYING = {
    *("seconds", "evaluation_seconds", "attempts", "mlflow_run_id", "commits", "dirty", "epochs"),
    *("time", "started", "images_per_second", "threads", "run", "runs", "run_id"),
}

# Before a change to a file below the working folder, the process writes a dot to the file COUNT
# and, before the one of number AT, kills itself. SQLite's own writes are not seen.
WATCH = """
import os, signal, sys
def watch(count, at, here=os.getcwd() + os.sep):
    def hook(event, arguments):
        nonlocal at
        if event == "open":
            if not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                return
        elif event not in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
            return
        path = arguments[0]
        if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(here):
            return
        os.write(count, b".")
        at -= 1
        if not at:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
watch(os.open({count!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), {at})
"""


@dataclass(frozen=True)
class Scenario:
    """A command and where it is called.

    Attributes:
        command: Its words.
        prepare: Makes the folder what it is before the command, from that of a finished grid.
        then: Other commands that follow before the result is looked at.
    """

    command: tuple[str, ...]
    prepare: Callable[[Path], None]
    then: tuple[tuple[str, ...], ...] = ()


def untrained(folder: Path) -> None:
    shutil.rmtree(folder / "runs")
    without_mlflow(folder)


def without_mlflow(folder: Path) -> None:
    """Make MLflow's database empty, and the store know nothing of one."""
    shutil.copy(folder / "empty.db", folder / "mlflow.db")
    for path in (folder / "runs").rglob("mlflow.json"):
        path.unlink()


def with_pages(folder: Path) -> None:
    """Give the folder pages to fill."""
    (folder / "docs").mkdir()
    (folder / "README.md").write_text("Mine.\n" + MARKERS + "The end.\n")
    (folder / "docs/grid.md").write_text("x" * 20_000 + "\n" + MARKERS)


def to_tune(folder: Path) -> None:
    untrained(folder)
    methods = {"plain": {"training.lr": {"low": 0.01, "high": 0.5, "log": True}}}
    methods["kd"] = {"kd.alpha": {"low": 0.1, "high": 1.0}}
    write_experiment(folder / TUNING_FILE, TUNING | {"methods": methods})


def to_ablate(folder: Path) -> None:
    untrained(folder)
    write_experiment(folder / FILE, methods=["plain"], training={"epochs": 1})
    with_pages(folder)


def damage(folder: Path) -> None:
    """Damage the finished cell of KD: its journal, its predictions and a small file."""
    cell = kd_cell(folder)
    for name, at in (("journal.jsonl", -20), ("predictions.npz", 99)):  # the line of the end
        data = bytearray((cell / name).read_bytes())
        data[at] ^= 1
        (cell / name).write_bytes(data)
    (cell / "options.json").write_bytes(b"{")


def damage_model(folder: Path) -> None:
    """Damage its weights, so that it is trained again."""
    path = kd_cell(folder) / "model.pt"
    path.write_bytes(path.read_bytes()[:-1])


def kd_cell(folder: Path) -> CellDir:
    return next(cell for cell in Store(folder / "runs").all() if cell.cell.kind == "kd")


def published(folder: Path) -> None:
    """Make a finished teacher a published file, and the store empty."""
    teacher = next(c for c in Store(folder / "runs").all() if c.cell.kind == "supervised")
    shutil.copy(teacher / "model.pt", folder / "teacher.pth")
    untrained(folder)


def scenarios(folder: Path) -> dict[str, Scenario]:
    """Return name -> scenario; `folder` is that of the finished grid."""
    kd = kd_cell(folder).path.name
    mend = ("repair", kd, "--yes")
    return {
        "run": Scenario(RUN, untrained, (PRINT,)),
        "tune": Scenario(("tune", TUNING_FILE, *QUIET), to_tune),
        "ablate": Scenario(("ablate", FILE, *QUIET, "--mixed"), to_ablate),
        "sync": Scenario(("sync", FILE), without_mlflow, (PRINT,)),
        "tables": Scenario(("tables", FILE, "--mixed"), with_pages, (PRINT,)),
        "gc": Scenario(("gc",), lambda _: None, (PRINT,)),
        "repair": Scenario(mend, damage, (RUN, PRINT)),
        "repair of weights": Scenario(mend, damage_model, (RUN, PRINT)),
        "import-checkpoint": Scenario(
            ("import-checkpoint", "teacher.pth", FILE, "--device", "cpu"), published
        ),
    }


@dataclass
class Called:
    """A call of a command that has ended, with all its processes.

    Attributes:
        status: The exit status; negative after a kill.
        text: All that it printed.
        killed: Whom the campaign has killed.
        seconds: How long it took.
        changes: How many files it has changed.
        faults: What was wrong with it.
    """

    status: int
    text: str
    killed: str = ""
    seconds: float = 0.0
    changes: int = 0
    faults: list[str] = field(default_factory=list)


def call(
    folder: Path, command: tuple[str, ...], at_change: int = 0, at_time: float = 0.0, pick: int = 0
) -> Called:
    """Call a command, and kill it before a change to a file, or one of its processes at a time."""
    count = folder.with_name(f"{folder.name}.count")
    count.unlink(missing_ok=True)
    started = time.monotonic()
    process = start(folder, *command, first=WATCH.format(count=str(count), at=at_change))
    killed = ""
    if at_time and not wait_until(lambda: process.poll() is not None, at_time):
        children = sorted(set(session_of(process.pid)) - {process.pid})
        victims = [process.pid, *children, *children]
        victim = victims[pick % len(victims)]
        killed = "its parent" if victim == process.pid else "a child"
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            killed = ""
    out, err = process.communicate()
    status = process.wait()
    if at_change and status == -signal.SIGKILL:
        killed = "itself"
    changes = count.stat().st_size if count.exists() else 0
    done = Called(status, out + err, killed, time.monotonic() - started, changes)
    if not wait_until(lambda: not session_of(process.pid), 60):
        done.faults.append(f"processes stay: {session_of(process.pid)}")
        for pid in session_of(process.pid):
            os.kill(pid, signal.SIGKILL)
    if found := re.search("Traceback|this is a bug", done.text):
        done.faults.append(
            f"after the kill of {killed or 'nobody'}: {done.text[max(0, found.start() - 400) :]!r}"
        )
    return done


def session_of(pid: int) -> list[int]:
    """Return the live processes of the session of a command."""
    found = []
    for other in (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()):
        try:
            state = Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(state[3]) == pid and state[0] != "Z":
            found.append(other)
    return found


def result_of(folder: Path, calls: list[Called]) -> dict[str, Any]:
    """Return all that must be the same however often a command was killed."""
    shares = re.compile(r"\b\d+ % of the cells' time")
    result: dict[str, Any] = {"printed": [shares.sub("", c.text) for c in calls]}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] not in NOT_THE_USERS:
            result[str(name)] = stable(path)
    for cell in Store(folder / "runs").all():
        for name in ("cell.json", "model.pt", "predictions.npz"):
            path = cell / name
            result[f"{cell.path.name}/{name}"] = path.read_bytes() if path.exists() else None
        result[f"{cell.path.name}/results"] = cell.manifest.results if cell.is_done else None
        result[f"{cell.path.name}/epochs"] = [without(line) for line in cell.epochs()]
    result["teacher-cache"] = (folder / "runs/teacher-cache").exists()
    result |= {f"MLflow {key}": n for key, n in runs_of(folder).items()}
    return result


def stable(path: Path) -> Any:
    """Return the content of a file without what varies between two undisturbed calls."""
    data = path.read_bytes()
    if path.suffix == ".jsonl":
        return [without(json.loads(line)) for line in data.splitlines()]
    if path.name.endswith(".tuned.yaml"):
        return without(yaml.safe_load(data))
    return re.sub(rb"\b[0-9a-f]{32}\b", b"", data) if path.suffix == ".md" else data


def without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without(v) for k, v in value.items() if k not in VARYING}
    return [without(v) for v in value] if isinstance(value, list) else value


def runs_of(folder: Path) -> Counter[str]:
    """Return name, kind, state and number of metric rows of each run in MLflow's database."""
    with sqlite3.connect(folder / "mlflow.db") as connection:
        found = connection.execute(
            "select run_uuid, name, status, (select value from tags where key = 'kind' and "
            "tags.run_uuid = runs.run_uuid), (select count(*) from metrics where "
            "metrics.run_uuid = runs.run_uuid) from runs where lifecycle_stage = 'active'"
        )
        return Counter(f"{kind} {name} {status} {n} rows" for _, name, status, kind, n in found)


def rows_faults(folder: Path) -> list[str]:
    """Return what is wrong with the rows of MLflow's runs of cells."""
    client, faults, seen, earlier = mlflow_client(folder), [], set(), set()
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            tags = run.data.tags
            if (fingerprint := tags.get("fingerprint")) is None:
                continue
            cell = Store(folder / "runs").directory(fingerprint)
            key = (experiment.name, tags.get("mlflow.parentRunId"), fingerprint)
            if tags["started"] != str(current_training(cell)[0]["time"]):
                earlier.add(key)
                continue
            if key in seen:
                faults.append(f"two runs of {fingerprint[:12]} in MLflow")
            seen.add(key)
            expected = journal_rows(cell)
            found = mlflow_rows(folder / "mlflow.db", run.info.run_id)
            names = {name for name, *_ in expected}
            others = [row for row in found - expected if row[0] in names]
            if expected - found or others or set(found.values()) - {1}:
                faults.append(f"rows of {fingerprint[:12]} in MLflow are not its journal's")
    return faults + [f"no run of the last training of {f[:12]}" for *_, f in earlier - seen]


def left_overs(folder: Path) -> list[str]:
    """Return the temporary files that are left, and the logs with a traceback."""
    left = [f"{p.relative_to(folder)} is left" for p in folder.rglob(".*.tmp")]
    logs = (folder / "runs").glob("*/log.txt")
    return left + [f"a traceback in {p}" for p in logs if "Traceback" in p.read_text()]


def torn_files(folder: Path, before: dict[str, bytes], after: dict[str, Any]) -> list[str]:
    """Return the user's files that a kill has left as neither the old nor the new one."""
    faults = []
    for name, old in before.items():
        path = folder / name
        if not path.exists():
            faults.append(f"{name} is lost")
        elif (now := path.read_bytes()) != old and stable(path) != after.get(name, now):
            faults.append(f"{name} is torn")
    return faults


def user_files(folder: Path) -> dict[str, bytes]:
    names = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    mine = [n for n in names if n.parts[0] not in NOT_THE_USERS]
    return {str(name): (folder / name).read_bytes() for name in mine}


def damaged_files_lost(folder: Path, original: Path) -> list[str]:
    """Return the damaged files of the cell of KD that are no longer there, in place or aside."""
    cell = kd_cell(original).path.name
    have = {p.read_bytes() for p in (folder / "runs" / cell).rglob("*") if p.is_file()}
    names = ("journal.jsonl", "predictions.npz", "options.json", "model.pt")
    return [
        f"{name} is lost"
        for name in names
        if (original / "runs" / cell / name).read_bytes() not in have
    ]


def difference(one: Any, other: Any) -> str:
    """Return the first lines in which two results differ."""
    lines = [str(value).replace("\\n", "\n").splitlines() for value in (one, other)]
    pairs = [pair for pair in zip_longest(*lines) if pair[0] != pair[1]]
    return " | ".join(str(text)[:200] for text in pairs[0]) if pairs else ""


def copy_of(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, symlinks=True))


def finish(folder: Path, scenario: Scenario) -> tuple[list[str], dict[str, Any]]:
    """Run what follows the command, then look at all that there is."""
    following = [call(folder, command) for command in (*scenario.then, ("gc",))]
    faults = [fault for done in following for fault in done.faults]
    faults += [
        f"a later command ends with {c.status}: {c.text[-300:]}" for c in following if c.status
    ]
    printed = [c for c, words in zip(following, scenario.then, strict=False) if words == PRINT]
    faults += rows_faults(folder) + left_overs(folder)
    return faults, result_of(folder, printed)


@dataclass
class Row:
    """A row of the table: what came of the kills of one command."""

    kills: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    identical: int = 0
    series: int = 0
    faults: list[str] = field(default_factory=list)


def attack(name: str, scenario: Scenario, grid: Path, root: Path, seed: int, n_kills: int) -> Row:
    """Kill a command `n_kills` times, in series of up to three."""
    row, start_state = Row(), copy_of(grid, root / f"{name} before")
    scenario.prepare(start_state)
    before, calm = user_files(start_state), copy_of(start_state, root / f"{name} calm")
    undisturbed = call(calm, scenario.command)
    if undisturbed.status:
        raise SystemExit(f"{name} alone ends with {undisturbed.status}: {undisturbed.text}")
    faults, expected = finish(calm, scenario)
    row.faults += [f"undisturbed: {fault}" for fault in (*undisturbed.faults, *faults)]
    while row.kills.total() < n_kills and row.series < 3 * n_kills:
        row.series += 1
        rng = random.Random(f"{seed} {name} {row.series}")
        folder = copy_of(start_state, root / f"{name} {row.series}")
        faults, n_killed = [], 0
        for _ in range(min(rng.randint(1, 3), n_kills - row.kills.total())):
            change = rng.randint(1, max(1, undisturbed.changes)) if rng.random() < 0.6 else 0
            moment = 0.0 if change else rng.uniform(0.05, undisturbed.seconds)
            done = call(folder, scenario.command, change, moment, rng.randrange(10**6))
            faults += done.faults + torn_files(folder, before, expected)
            if done.killed:
                row.kills[done.killed] += 1
                n_killed += 1
        for _ in range(MOST_CALLS):
            done = call(folder, scenario.command)
            faults += done.faults
            if done.status == 0:
                row.resumed += n_killed
                break
        else:
            faults.append(f"still ends with {done.status}: {done.text[-500:]}")
        if name.startswith("repair"):
            faults += damaged_files_lost(folder, start_state)
        more, result = finish(folder, scenario)
        faults += more
        other = sorted(
            k for k in expected.keys() | result.keys() if expected.get(k) != result.get(k)
        )
        if not other:
            row.identical += 1
        faults += [
            f"{key} is another: {difference(expected.get(key), result.get(key))}"
            for key in other[:5]
        ]
        row.faults += [f"series {row.series} ({folder}): {fault}" for fault in faults]
        if not faults:
            shutil.rmtree(folder)
    return row


def make_grid(folder: Path) -> Path:
    """Train the tiny grid in a new folder, with empty.db, a database of MLflow without runs."""
    folder.mkdir(parents=True)
    mlflow_client(folder, "empty.db").get_experiment_by_name("Default")
    shutil.copy(folder / "empty.db", folder / "mlflow.db")
    write_experiment(folder / FILE)
    done = call(folder, RUN)
    if done.status:
        raise SystemExit(f"the grid ends with {done.status}: {done.text}")
    return folder


def campaign(grid: Path, root: Path, kills: dict[str, int], seed: int) -> int:
    """Kill each command as often as it says, print the table, and return the number of faults."""
    print(f"seed {seed}, in {root}")
    print(
        f"{'command':20}{'kills':>6}{'of a child':>12}{'resumed':>9}{'series':>8}{'same':>6}"
        f"{'faults':>8}"
    )
    rows: list[Row] = []
    for name, scenario in scenarios(grid).items():
        if n := kills.get(name, 0):
            rows.append(row := attack(name, scenario, grid, root, seed, n))
            print(
                f"{name:20}{row.kills.total():6}{row.kills['a child']:12}{row.resumed:9}"
                f"{row.series:8}{row.identical:6}{len(row.faults):8}",
                flush=True,
            )
            for fault in row.faults:
                print(f"  {fault}", flush=True)
    n_faults = sum(len(row.faults) for row in rows)
    n_resumed = sum(row.resumed for row in rows)
    n_kills = sum(row.kills.total() for row in rows)
    print(f"{n_kills} kills, {n_resumed} resumed, {n_faults} faults")
    return n_faults


def main() -> int:
    """Read the command line, and return the exit status: 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kills", type=int, default=10, help="of each command, by default 10")
    parser.add_argument("--only", action="append", help="a command; repeat it for several")
    arguments = parser.parse_args()
    os.environ.update(environment())
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    grid = make_grid(root / "grid")
    names = arguments.only or list(scenarios(grid))
    faults = campaign(grid, root, dict.fromkeys(names, arguments.kills), arguments.seed)
    if not faults:
        shutil.rmtree(root)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
