"""10,000 cells on 500 workers, on a simulated clock (simulation.py): every cell once, none
forgotten, no place idle, and the whole in about the shortest possible time. `-s` prints numbers."""

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import run_python
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulation import SECONDS, Odds, Simulation, memory_folder, plan_of_seeds

from harness.execute import scheduler
from harness.plan import Plan, chain_lengths
from harness.run.estimate import Cost

SEEDS, WORKERS = 417, 500
ROUGH = Odds(0.01, crashed=0.01, lost=0.05, elsewhere=0.01, straggler=0.03, spread=0.2)


@pytest.fixture(scope="module")
def large() -> Plan:
    """10,008 cells."""
    return plan_of_seeds(SEEDS)


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_folder() as found:
        yield found


def check(simulation: Simulation) -> None:
    """Check what holds for every run that has ended.

    The cluster itself has checked that no cell starts twice or too early, and that no place stays
    free.
    """
    cluster, states = simulation.cluster, simulation.progress.state
    expected = simulation.expected_states()
    assert states == expected
    assert cluster.ended == {f: s for f, s in expected.items() if s != "skipped"}
    assert not cluster.running
    for fingerprint, state in expected.items():
        assert bool(cluster.starts[fingerprint]) == (state != "skipped")
        assert not cluster.starts[fingerprint] or not cluster.attempts(fingerprint)
        assert (fingerprint in simulation.progress.errors) == (state == "failed")
    assert simulation.makespan <= simulation.list_bound * (1 + 1e-9)


def report(what: str, simulation: Simulation) -> None:
    found = Counter(simulation.progress.state.values())
    print(
        f"\n{what}: {len(simulation.plan.cells):,} cells, {simulation.capacity} workers: "
        f"{dict(found)} in {len(simulation.cluster.order):,} starts; "
        f"{simulation.makespan:,.0f} simulated s, "
        f"{simulation.makespan / simulation.lower_bound:.3f} of the lower bound, "
        f"{simulation.makespan / simulation.list_bound:.3f} of the list-scheduling bound; "
        f"workers {simulation.cluster.busy / simulation.makespan / simulation.capacity:.1%} busy",
        end="",
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_every_cell_ends_once_whatever_happens(large: Plan, folder: Path, seed: int) -> None:
    simulation = Simulation(large, folder, WORKERS, seed, ROUGH).run()
    report(f"failures and stragglers, seed {seed}", simulation)
    check(simulation)
    assert simulation.cluster.most_at_once == WORKERS
    # It was as rough as it was meant to be.
    assert simulation.progress.count("failed") > 50 and simulation.progress.count("skipped") > 50
    assert len(simulation.cluster.order) > 10_200


@given(
    seed=st.integers(0, 10**6),
    n_seeds=st.integers(1, 3),
    workers=st.integers(1, 40),
    roughness=st.sampled_from([0.0, 0.05, 0.3]),
)
@example(seed=542, n_seeds=1, workers=1, roughness=0.05)  # the last cell fails, and one is skipped
@settings(max_examples=15)
def test_small_grids_too(seed: int, n_seeds: int, workers: int, roughness: float) -> None:
    """With the files as a training leaves them, and odds at which little is left."""
    odds = Odds(roughness, roughness, roughness, roughness, roughness)
    with memory_folder() as folder:
        check(Simulation(plan_of_seeds(n_seeds), folder, workers, seed, odds, light=False).run())


def test_the_makespan_is_near_the_lower_bound(
    large: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No order takes less than the lower bound, and the plan's order alone stays farther away. How
    long a cell takes the scheduler does not know: the more they differ, the more is left."""
    near = Simulation(large, folder / "near", WORKERS).run()
    report("the last cells by their chains", near)
    check(near)
    assert near.makespan <= 1.05 * near.lower_bound
    spread = Simulation(large, folder / "spread", WORKERS, odds=Odds(spread=0.2)).run()
    report("the same, more different cells", spread)
    assert spread.makespan - spread.lower_bound < max(spread.cluster.seconds.values())
    monkeypatch.setattr(scheduler, "LAST_CHAINS", 0)
    before = Simulation(large, folder / "before", WORKERS).run()
    report("the plan's order throughout", before)
    check(before)
    assert before.makespan > 1.05 * before.lower_bound


def test_whole_seeds_are_done_early(folder: Path) -> None:
    """A run that ends in its middle has seeds to show; only the last cells go by their chains."""
    plan = plan_of_seeds(40)
    simulation = Simulation(plan, folder, capacity=4, light=False)
    simulation.run(max_seconds=sum(SECONDS[c.kind] for c in plan.cells.values()) / 4 / 2)
    state = simulation.progress.state
    seeds = Counter(c.config.seed for f, c in plan.cells.items() if state[f] == "done")
    assert len(seeds) < 23 and list(seeds.values()).count(24) > 15
    # It goes on where it was, and nothing that is done runs again.
    check(simulation.run())
    assert max(simulation.cluster.starts.values()) == 2
    assert "stage1" not in [plan.cells[f].kind for f in simulation.cluster.order[-16:]]


@pytest.mark.parametrize("n_seeds", [1, 3, 20])
def test_the_planners_estimate(folder: Path, n_seeds: int) -> None:
    """The estimate is compared with the scheduler's time, for any number of workers."""
    plan = plan_of_seeds(n_seeds)
    seconds = {f: SECONDS[cell.kind] for f, cell in plan.cells.items()}
    longest = max(chain_lengths(plan.cells, seconds).values())
    assert longest == SECONDS["supervised"] + SECONDS["stage1"] + SECONDS["stage2"]
    cost = Cost(seconds, longest, 0, 0, 0)
    for workers in (1, 2, 8, 24, 100, 500):
        simulation = Simulation(plan, folder / str(workers), workers, odds=Odds(spread=0.0)).run()
        ratio = simulation.makespan / cost.wall_seconds(workers)
        print(f"\n{len(plan.cells)} cells, {workers} workers: {ratio:.3f} of the estimate", end="")
        assert 1 - 1e-9 <= ratio <= 1.3


def bytes_per_cell(folder: Path) -> tuple[float, float]:
    """Return the most memory that the plan takes, and the plan with the scheduler.

    The simulation's own lists, which are as long, count, too.
    """
    tracemalloc.start()
    plan = plan_of_seeds(100)
    planned, _ = tracemalloc.get_traced_memory()
    simulation = Simulation(plan, folder, 200).run(max_seconds=1)
    _, most = tracemalloc.get_traced_memory()
    assert len(simulation.cluster.order) == 200
    return planned / len(plan.cells), most / len(plan.cells)


def test_the_orchestrators_memory(folder: Path) -> None:
    """Memory when all places are taken, in a process of its own: threads of other tests count."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom test_simulation import bytes_per_cell\n"
        "print(*bytes_per_cell(Path(sys.argv[1])))"
    )
    done = run_python(program, str(folder), folder=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    planned, most = map(float, done.stdout.split())
    print(f"\nmemory: the plan {planned:.0f} B per cell, with the scheduler {most:.0f} B")
    assert planned < most < 6e3
