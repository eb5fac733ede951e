"""10,000 cells on 500 workers, on a simulated clock (simulation.py): every cell once, none
forgotten, no place idle, and the whole in about the shortest possible time. `-s` prints numbers."""

import resource
import tempfile
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import SECONDS, Odds, Simulation, plan_of_seeds

from harness.execute import scheduler
from harness.plan import Plan, longest_chains
from harness.run.estimate import Cost

SEEDS, WORKERS = 417, 500
CALM = Odds()
STRAGGLERS = Odds(straggler=0.03)
ROUGH = Odds(failed=0.01, crashed=0.01, lost=0.05, elsewhere=0.02, straggler=0.03)


@pytest.fixture(scope="module")
def large() -> Plan:
    """10,008 cells."""
    return plan_of_seeds(SEEDS)


def check(simulation: Simulation) -> None:
    """What holds of every run to the end. That no cell starts twice or too early, and that no place
    stays free, the cluster has looked at meanwhile."""
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
def test_every_cell_ends_once_whatever_happens(large: Plan, tmp_path: Path, seed: int) -> None:
    simulation = Simulation(large, tmp_path, WORKERS, seed, ROUGH).run()
    report(f"failures and stragglers, seed {seed}", simulation)
    check(simulation)
    assert simulation.cluster.most_at_once == WORKERS
    # It was as rough as it was meant to be.
    assert simulation.progress.count("failed") > 50 and simulation.progress.count("skipped") > 50
    assert len(simulation.cluster.order) > 10_300


@given(
    seed=st.integers(0, 10**6),
    n_seeds=st.integers(1, 4),
    workers=st.integers(1, 40),
    roughness=st.sampled_from([0.0, 0.05, 0.3]),
)
@settings(max_examples=25, deadline=None)
def test_small_grids_too(seed: int, n_seeds: int, workers: int, roughness: float) -> None:
    """With the files as a training leaves them, and odds at which little is left."""
    odds = Odds(roughness, roughness, roughness, roughness, roughness)
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of_seeds(n_seeds)
        check(Simulation(plan, Path(folder), workers, seed, odds, light=False).run())


def test_the_makespan_is_near_the_lower_bound(
    large: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No order takes less than the lower bound. The plan's order alone does not come so near it."""
    simulation = Simulation(large, tmp_path / "chains", WORKERS).run()
    report("the last cells by their chains", simulation)
    check(simulation)
    assert simulation.makespan <= 1.05 * simulation.lower_bound
    monkeypatch.setattr(scheduler, "LAST_CHAINS", 0)
    before = Simulation(large, tmp_path / "plan", WORKERS).run()
    report("the plan's order throughout", before)
    check(before)
    assert before.makespan > 1.05 * before.lower_bound


def test_whole_seeds_are_done_early(tmp_path: Path) -> None:
    """A run that ends in its middle has seeds to show; only the last cells go by their chains."""
    plan = plan_of_seeds(40)
    simulation = Simulation(plan, tmp_path, capacity=4, light=False)
    simulation.run(max_seconds=sum(SECONDS[c.kind] for c in plan.cells.values()) / 4 / 2)
    seeds = Counter(
        cell.spec["seed"]
        for f, cell in plan.cells.items()
        if simulation.progress.state[f] == "done"
    )
    assert len(seeds) < 23 and list(seeds.values()).count(24) > 15
    # It goes on where it was, and nothing that is done runs again.
    check(simulation.run())
    assert max(simulation.cluster.starts.values()) == 2
    kinds = [plan.cells[f].kind for f in simulation.cluster.order[-16:]]
    assert "stage1" not in kinds


@pytest.mark.parametrize("n_seeds", [1, 3, 40])
def test_the_planners_estimate(tmp_path: Path, n_seeds: int) -> None:
    """With as many workers as there may be, beside what the scheduler makes of the same seconds."""
    plan = plan_of_seeds(n_seeds)
    seconds = {f: SECONDS[cell.kind] for f, cell in plan.cells.items()}
    longest = max(longest_chains(plan.cells, seconds).values())
    assert longest == SECONDS["supervised"] + SECONDS["stage1"] + SECONDS["stage2"]
    cost = Cost(seconds, longest, 0, 0, 0)
    for workers in (1, 2, 8, 24, 100, 500):
        folder = tmp_path / str(workers)
        found = Simulation(plan, folder, workers, odds=replace(CALM, spread=0.0)).run().makespan
        ratio = found / cost.wall_seconds(workers)
        print(f"\n{len(plan.cells)} cells, {workers} workers: {ratio:.3f} of the estimate", end="")
        assert 1 - 1e-9 <= ratio <= 1.35


def test_the_orchestrators_memory(tmp_path: Path) -> None:
    """Of plan, scheduler and all that it remembers of a whole run; the simulation's own lists count
    too, as they are of the same size. What a run adds to the plan is little, and does not grow with
    the number of its steps."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        plan = plan_of_seeds(SEEDS)
        planned, _ = tracemalloc.get_traced_memory()
        simulation = Simulation(plan, tmp_path, WORKERS, 0, ROUGH).run()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"\nmemory of {len(plan.cells):,} cells: the plan {planned / 1e6:.0f} MB, at most "
        f"{most / 1e6:.0f} MB with a whole run; the process grew by {(after - before) / 1e3:.0f} MB"
    )
    assert set(simulation.progress.state.values()) == {"done", "failed", "skipped"}
    assert most < 200e6
