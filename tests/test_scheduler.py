"""The scheduler on an executor in memory: order, capacity, failures, other processes, time."""

import hashlib
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from helpers import TINY, some_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cell import Cell, CellConfig, CellData
from harness.common.errors import UserError
from harness.execute import scheduler
from harness.execute.scheduler import OutOfTime, Progress, begin, run
from harness.experiment.file import parse
from harness.networks.wide_resnet import WideResNetOptions
from harness.plan import Plan
from harness.store import CellDir, Store, cells
from harness.store.cell_files import Damaged
from harness.store.manifest import CellOptions
from harness.train.exit_status import BUSY, DONE, FAILED, STOPPED


def name_of(cell: Cell) -> str:
    return cell.config.data.digest


def named(name: str) -> CellConfig:
    """The config of a cell that is called so here."""
    return CellConfig(data=CellData(digest=name), network=WideResNetOptions(depth=10, width=1))


def graph(**upstream: str) -> Plan:
    """graph(a="", b="a", c="ab"): b starts from a's model, c from both."""
    made: dict[str, Cell] = {}
    for name, parents in upstream.items():
        sources = {f"role{p}": made[p].fingerprint for p in parents}
        made[name] = Cell("supervised", named(name), sources)
    return Plan(parse(TINY), {c.fingerprint: c for c in made.values()}, ())


def mark_done(directory: CellDir) -> None:
    (directory / "model.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    directory.finish(some_manifest(model_sha256=digest))


class FakeExecutor:
    """Cells end one a poll, oldest first, with the statuses in `ends` (then DONE)."""

    def __init__(self, plan: Plan, capacity: int = 1, **ends: list[int]) -> None:
        self.capacity, self.ends = capacity, ends
        self.names = {f[:16]: name_of(c) for f, c in plan.cells.items()}
        self.running: list[Path] = []
        self.submitted: list[str] = []
        self.cancelled = 0
        self.stuck = False  # no cell ever ends
        self.idle: Callable[[], None] = lambda: None

    def submit(self, directory: Path) -> None:
        assert (directory / "cell.json").exists(), "submitted before it was prepared"
        self.running.append(directory)
        self.submitted.append(self.names[directory.name])

    def poll(self, timeout: float) -> list[tuple[Path, int]]:
        self.idle()
        if self.stuck or not self.running:
            return []
        directory = self.running.pop(0)
        statuses = self.ends.get(self.names[directory.name], [])
        status = statuses.pop(0) if statuses else DONE
        if status == DONE:
            mark_done(CellDir(directory))
        return [(directory, status)]

    def close(self) -> None:
        pass

    def cancel(self, grace: float = 15.0) -> None:
        self.cancelled += 1
        self.running.clear()


class Case:
    """A plan, its store and an executor; `states` by name."""

    def __init__(self, root: Path, plan: Plan, capacity: int = 1, **ends: list[int]) -> None:
        self.plan, self.store = plan, Store(root)
        self.store.create()
        self.executor = FakeExecutor(plan, capacity, **ends)
        self.progress: Progress | None = None

    def run(self, **options: Any) -> "Case":
        self.progress = self.progress or begin(self.plan, self.store)
        run(self.progress, self.executor, interval=0.01, **options)
        return self

    @property
    def states(self) -> dict[str, str]:
        return {name_of(self.plan.cells[f]): s for f, s in self.progress.state.items()}

    def fingerprint(self, name: str) -> str:
        return next(f for f, c in self.plan.cells.items() if name_of(c) == name)

    def directory(self, name: str) -> CellDir:
        return self.store.directory(self.fingerprint(name))

    def error_of(self, name: str) -> str:
        return next(
            e for f, e in self.progress.errors.items() if name_of(self.plan.cells[f]) == name
        )


def test_the_last_cells_go_by_the_chains_behind_them(tmp_path: Path) -> None:
    """Three of the longest chains a place: 3 x 3 x 2. What comes before keeps the plan's order."""
    leaves = {f"x{i}": "" for i in range(30)}
    plan = graph(**leaves, a="", b="a", c="b")
    case = Case(tmp_path / "two", plan, capacity=2).run()
    before = [*leaves][: 33 - 18]
    assert case.executor.submitted[:18] == [*before, "a", "x15", "b"]
    assert case.executor.submitted[18:] == [*[*leaves][16:], "c"], "as long as they are, and later"
    case = Case(tmp_path / "one", plan, capacity=1).run()
    assert case.executor.submitted == [*leaves, "a", "b", "c"], "one place gains nothing by it"


def test_chains_of_cells_that_come_later(tmp_path: Path) -> None:
    whole = graph(z="", a="", b="", c="b")
    case = Case(tmp_path, whole, capacity=2)
    first = {f: cell for f, cell in whole.cells.items() if name_of(cell) in "z"}
    case.progress = begin(Plan(whole.experiment, first, ()), case.store)
    parts = [whole]
    case.run(more=lambda: [begin(parts.pop(), case.store)] if parts else [])
    assert case.executor.submitted == ["b", "z", "a", "c"]


@pytest.mark.parametrize("capacity", [1, 2])
def test_cells_may_come_later(tmp_path: Path, capacity: int) -> None:
    """As `harness tune` has it: of a plan that grows some cells are new, some are here already,
    and paused ones go on."""
    whole = graph(a="", b="a", c="a", d="c")
    parts = [
        Plan(whole.experiment, {f: c for f, c in whole.cells.items() if name_of(c) in names}, ())
        for names in ("ab", "abc", "acd")
    ]
    case = Case(tmp_path, whole, capacity, c=[FAILED])
    case.progress = begin(Plan(whole.experiment, {}, ()), case.store)
    case.directory("b").path.mkdir()
    case.directory("b").pause_after = 1
    (case.directory("b") / "journal.jsonl").write_text(
        '{"event": "epoch", "epoch": 1, "time": 0}\n'
    )

    def more() -> list[Progress]:
        if not parts or case.progress is None or case.progress.count("waiting", "running"):
            return []
        if "b" in case.states and case.states["b"] == "paused":
            case.directory("b").pause_after = None
        return [begin(parts.pop(0), case.store)]

    case.run(more=more)
    assert case.executor.submitted == ["a", "b", "c"]
    assert case.states == {"a": "done", "b": "done", "c": "failed", "d": "skipped"}
    assert case.progress.order == {f: n for n, f in enumerate(case.progress.state)}


def test_done_cells_are_not_trained_again(tmp_path: Path) -> None:
    plan = graph(a="", b="a")
    Case(tmp_path, plan).run()
    Case(tmp_path, graph(a="", b="a", c="ab")).run()
    again = Case(tmp_path, graph(a="", b="a", d="ab")).run()
    assert again.executor.submitted == ["d"], "its upstream cells were done before"
    again = Case(tmp_path, plan).run()
    assert again.executor.submitted == []
    assert again.progress is not None and len(again.progress.cached_cells) == 2


def test_a_failed_cell_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    plan = graph(a="", b="a")
    Case(tmp_path, plan, a=[FAILED]).run()
    again = Case(tmp_path, plan).run()
    assert again.executor.submitted == ["a", "b"]


@pytest.mark.parametrize("has_log", [True, False])
def test_the_error_is_the_journals(tmp_path: Path, has_log: bool) -> None:
    case = Case(tmp_path, graph(a=""), a=[FAILED])

    def fail() -> None:
        case.directory("a").append("failed", error="loss is nan")
        if has_log:
            (case.directory("a") / "log.txt").touch()

    case.executor.idle = fail
    case.run()
    log = f"; see {case.directory('a') / 'log.txt'}" if has_log else ""
    assert case.error_of("a") == f"loss is nan{log}"


def test_death_by_a_signal_is_reported_as_such(tmp_path: Path) -> None:
    case = Case(tmp_path, graph(a=""), a=[-9])
    # An older attempt failed for another reason.
    case.executor.idle = lambda: case.directory("a").append("failed", error="older")
    case.run()
    assert case.states == {"a": "failed"}
    assert "killed by signal 9" in case.error_of("a")


def test_status_0_without_a_result_is_a_failure(tmp_path: Path, monkeypatch: Any) -> None:
    case = Case(tmp_path, graph(a=""))
    monkeypatch.setattr("test_scheduler.mark_done", lambda _: None)
    assert case.run().states == {"a": "failed"}


def test_a_cell_stopped_by_somebody_goes_on_in_its_turn(tmp_path: Path) -> None:
    case = Case(tmp_path, graph(a="", b="a"), a=[STOPPED, STOPPED]).run()
    assert case.executor.submitted == ["a", "a", "a", "b"]
    assert set(case.states.values()) == {"done"}


def test_out_of_time_stops_all_and_they_wait(tmp_path: Path) -> None:
    case = Case(tmp_path, graph(a="", b="", c="a"), capacity=2)
    case.executor.stuck = True
    with pytest.raises(OutOfTime):
        case.run(max_seconds=0.1)
    assert case.executor.cancelled == 1
    assert set(case.states.values()) == {"waiting"}
    assert sorted(case.executor.submitted) == ["a", "b"]


def test_a_cell_that_ended_while_all_were_stopped_counts_as_done(tmp_path: Path) -> None:
    case = Case(tmp_path, graph(a=""))
    case.executor.stuck = True
    case.executor.idle = lambda: mark_done(case.directory("a"))
    with pytest.raises(OutOfTime):
        case.run(max_seconds=0.05)
    assert case.states == {"a": "done"}


def test_ctrl_c_stops_all_and_is_passed_on(tmp_path: Path) -> None:
    case = Case(tmp_path, graph(a="", b=""), capacity=2)

    def interrupt() -> None:
        raise KeyboardInterrupt

    case.executor.idle = interrupt
    with pytest.raises(KeyboardInterrupt):
        case.run()
    assert case.executor.cancelled == 1
    assert set(case.states.values()) == {"waiting"}


def test_another_process_finishes_the_cell(tmp_path: Path) -> None:
    case = Case(tmp_path, graph(a="", b="a"), a=[BUSY])
    seen = []

    def look(_: str | None) -> None:
        seen.append(case.states["a"])
        if seen.count("elsewhere") == 3:
            mark_done(case.directory("a"))

    case.store.prepare(next(iter(case.plan.cells.values())))
    with case.directory("a").lease():  # held, as the other process does
        case.run(on_change=look)
    assert case.executor.submitted == ["a", "b"], "trained here too"
    assert set(case.states.values()) == {"done"}


def test_another_process_gives_up(tmp_path: Path) -> None:
    case = Case(tmp_path, graph(a="", b="a"), a=[BUSY])
    seen = []

    def look(_: str | None) -> None:
        seen.append(case.states["a"])
        if seen.count("elsewhere") == 3:
            other.__exit__(None, None, None)

    case.store.prepare(next(iter(case.plan.cells.values())))
    other = case.directory("a").lease()
    other.__enter__()
    case.run(on_change=look)
    assert case.executor.submitted == ["a", "a", "b"]
    assert set(case.states.values()) == {"done"}


def test_a_place_is_free_while_a_cell_is_elsewhere(tmp_path: Path) -> None:
    case = Case(tmp_path, graph(a="", b=""), capacity=1, a=[BUSY])
    case.store.prepare(next(iter(case.plan.cells.values())))
    other = case.directory("a").lease()
    other.__enter__()

    def look(_: str | None) -> None:
        if case.states["b"] == "done":
            mark_done(case.directory("a"))

    case.run(on_change=look)
    assert case.executor.submitted == ["a", "b"]
    other.__exit__(None, None, None)


def test_other_commands_cells_are_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look reads files of each: not whenever a cell ends here."""
    leaves = {f"x{i}": "" for i in range(40)}
    case = Case(tmp_path, graph(a="", **leaves), capacity=1, a=[BUSY])
    now, looks, look = [0.0], list[float](), scheduler._update_elsewhere

    def pass_time() -> None:
        now[0] += 0.001

    def looked(progress: Progress, queue: Any) -> None:
        looks.append(now[0])
        look(progress, queue)

    def end_it(_: str | None) -> None:
        if case.states["x39"] == "done":
            mark_done(case.directory("a"))

    case.executor.idle = pass_time
    monkeypatch.setattr(scheduler, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(scheduler, "_update_elsewhere", looked)
    case.store.prepare(next(iter(case.plan.cells.values())))
    with case.directory("a").lease():
        case.run(on_change=end_it)
    assert case.states["a"] == "done"
    assert min(b - a for a, b in pairwise(looks)) >= 0.01 and len(looks) >= 5


def test_another_process_finishes_the_cell_at_once(tmp_path: Path) -> None:
    """The cell moves twice before the next decision, and counts once: c needs b, too."""
    case = Case(tmp_path, graph(a="", b="", c="ab"), capacity=2, a=[BUSY])
    case.executor.idle = lambda: mark_done(case.directory("a"))
    seen = []
    case.run(on_change=lambda _: seen.append(case.states))
    assert not [s for s in seen if s["c"] == "running" and s["b"] != "done"]
    assert set(case.states.values()) == {"done"}


def test_a_run_goes_on_from_what_another_left(tmp_path: Path) -> None:
    case = Case(tmp_path, graph(a="", b="a", c="b", d=""), a=[FAILED])
    case.run()
    assert case.states == {"a": "failed", "b": "skipped", "c": "skipped", "d": "done"}
    case.progress.move(case.fingerprint("c"), "waiting")  # its upstream cell stays skipped
    assert case.run().states["c"] == "skipped"


@pytest.mark.parametrize(
    "place", [(Store, "prepare"), (FakeExecutor, "submit"), (CellDir, "events")]
)
@pytest.mark.parametrize("is_full", [True, False])
def test_files_that_cannot_be_used_fail_their_cell_alone(
    tmp_path: Path, place: tuple[type, str], is_full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a grid, a full disk or a damaged journal is no wrong input."""
    case = Case(tmp_path, graph(a="", b="a", c=""), a=[FAILED])
    case.progress = begin(case.plan, case.store)
    path = case.directory("a").path

    def refuse_once(*_: object) -> None:
        monkeypatch.undo()
        raise OSError(28, "No space") if is_full else Damaged(path / "x", "is empty")

    monkeypatch.setattr(*place, refuse_once)
    seen: list[str | None] = []
    case.run(on_change=seen.append)
    assert case.states == {"a": "failed", "b": "skipped", "c": "done"}
    assert seen.count(case.fingerprint("a")) == 1
    assert case.error_of("a").startswith(str(path)) and "; " in case.error_of("a")


def test_a_reason_that_could_not_be_written_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on a full disk can write no line into the journal."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    case = Case(tmp_path, graph(a=""), a=[FAILED])
    case.executor.idle = lambda: monkeypatch.setattr("harness.common.files.os.fsync", full)
    case.run()
    assert case.error_of("a").startswith(f"{case.directory('a').path}: No space left on device; ")


# -- a decision looks at what has changed, and decides as if it had looked at everything -----------


class Checked(Case):
    """At every poll and submission, looks at every cell."""

    def __init__(self, *arguments: Any, **ends: list[int]) -> None:
        super().__init__(*arguments, **ends)
        self.executor.idle = self.check_all
        self.submit, self.executor.submit = self.executor.submit, self.check_first

    def ready(self) -> list[str]:
        state = self.progress.state
        return [
            name_of(cell)
            for f, cell in self.plan.cells.items()
            if state[f] == "waiting" and all(state[u] == "done" for u in cell.upstream.values())
        ]

    def chain(self, name: str) -> int:
        """Cells of the longest one that begins here."""
        its = self.fingerprint(name)
        children = [name_of(c) for c in self.plan.cells.values() if its in c.upstream.values()]
        return 1 + max(map(self.chain, children), default=0)

    def check_first(self, directory: Path) -> None:
        """With two places or more, so few cells are the last ones from the start."""
        ready = self.ready()
        if self.executor.capacity > 1:
            ready.sort(key=self.chain, reverse=True)
        assert self.executor.names[directory.name] == ready[0]
        self.submit(directory)

    def check_all(self) -> None:
        state = self.progress.state
        for fingerprint, cell in self.plan.cells.items():
            is_cut_off = any(state[f] in ("failed", "skipped") for f in cell.upstream.values())
            assert (state[fingerprint] == "skipped") == is_cut_off
        assert not self.ready() or self.progress.count("running") == self.executor.capacity
        for kind in {*state.values(), "paused"}:
            cells = [f for f, s in state.items() if s == kind]
            assert self.progress.cells_in(kind) == cells
            assert self.progress.count(kind) == len(cells)


@given(st.data(), st.integers(1, 3))
@settings(max_examples=40)
def test_it_decides_as_if_it_had_looked_at_every_cell(data: st.DataObject, capacity: int) -> None:
    names = "abcdefgh"
    upstream = {n: data.draw(st.sets(st.sampled_from(names[:i]))) if i else set()
                for i, n in enumerate(names)}  # fmt: skip
    status = st.sampled_from([DONE, FAILED, STOPPED, BUSY, -9])
    ends = {n: data.draw(st.lists(status, max_size=3)) for n in names}
    with tempfile.TemporaryDirectory() as folder:
        plan = graph(**{n: "".join(sorted(found)) for n, found in upstream.items()})
        case = Checked(Path(folder), plan, capacity, **ends).run()
    assert {*case.states.values()} <= {"done", "failed", "skipped"}


def lines_run(module: Any, call: Callable[[], Any]) -> int:
    """How many lines of a module's source are executed, those of loops again each time."""
    n = 0

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal n
        n += event == "line"
        return local

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename == module.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return n


def test_a_decision_costs_the_same_in_a_larger_grid(tmp_path: Path) -> None:
    """Only cells that have changed are looked at.

    No clock is read: the work of a whole run, at least one decision per cell, grows in proportion
    to the number of cells."""
    lines = []
    for n in (20, 40, 80):
        pairs = {f"t{i}": "" for i in range(n // 2)}
        made = {name: Cell("supervised", named(name)) for name in pairs}
        made |= {
            f"s{name}": Cell("supervised", named(f"s{name}"), {"teacher": teacher.fingerprint})
            for name, teacher in list(made.items())
        }
        plan = Plan(parse(TINY), {c.fingerprint: c for c in made.values()}, ())
        case = Case(tmp_path / str(n), plan, capacity=2)
        lines.append(lines_run(scheduler, case.run))
        assert set(case.states.values()) == {"done"}
    assert (lines[2] - lines[1]) == pytest.approx(2 * (lines[1] - lines[0]), rel=0.05)


# -- begin: nothing starts on broken files ---------------------------------------------------------


def test_begin_counts_what_is_there(tmp_path: Path) -> None:
    plan = graph(a="", b="a")
    case = Case(tmp_path, plan)
    a, b = plan.cells
    mark_done(case.store.prepare(plan.cells[a]))
    progress = begin(plan, case.store)
    assert progress.state == {a: "done", b: "waiting"} and progress.cached_cells == {a}


def test_begin_refuses_a_broken_checkpoint(tmp_path: Path) -> None:
    plan = graph(a="", b="")
    case = Case(tmp_path, plan)
    directory = case.store.prepare(plan.cells[list(plan.cells)[1]])
    directory.write_checkpoint(b"whole")
    begin(plan, case.store)
    (directory / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(
        UserError, match=r"checkpoint\.pt does not match its SHA-256; `harness repair"
    ):
        begin(plan, case.store)


def test_begin_beside_a_running_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `harness run` may replace or delete a checkpoint while this one reads it."""
    plan = graph(a="")
    case = Case(tmp_path, plan)
    directory = case.store.prepare(next(iter(plan.cells.values())))
    directory.write_checkpoint(b"epoch 1")
    read_bytes, rest = cells.read_bytes, [b"epoch 2", b"epoch 3"]

    def read_and_go_on(path: Path) -> bytes:
        data = read_bytes(path)
        if path.name == "checkpoint.pt" and rest:
            written, rest[:] = list(rest), []
            for content in written:
                directory.write_checkpoint(content)
        return data

    monkeypatch.setattr(cells, "read_bytes", read_and_go_on)
    assert directory.read_checkpoint() == b"epoch 3"
    monkeypatch.setattr(cells, "read_bytes", lambda p: (read_bytes(p), mark_done(directory))[0])
    begin(plan, case.store)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_begin_refuses_a_changed_upstream_model(tmp_path: Path, damage: str) -> None:
    plan = graph(a="", b="a")
    case = Case(tmp_path, plan)
    directory = case.store.prepare(next(iter(plan.cells.values())))
    mark_done(directory)
    begin(plan, case.store)
    if damage == "changed":
        (directory / "model.pt").write_bytes(b"other weights")
    else:
        (directory / "model.pt").unlink()
    with pytest.raises(UserError, match=r"model\.pt is missing or does not match.*`harness repair"):
        begin(plan, case.store)


def test_what_a_training_needs_is_in_its_directory(tmp_path: Path) -> None:
    """Nothing reaches it by the environment: it may run on another machine."""
    options = CellOptions(dataset={"name": "digits"}, data_root="/data", n_workers=2)
    case = Case(tmp_path, graph(a="", b="a")).run(options=options)
    assert [case.store.directory(f).options for f in case.plan.cells] == [options, options]
