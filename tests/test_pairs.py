"""Experiments whose columns are pairs of a teacher and a student."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import accuracy_of, without_training
from helpers import ROOT, wrong

from harness.analysis.bundle import Bundle, read_bundle
from harness.analysis.figures.accuracy import accuracy
from harness.analysis.growth import merge
from harness.analysis.mlflow_summary import conditions
from harness.analysis.planned_power import Assumptions, planned_claims
from harness.analysis.reference import compare, different
from harness.analysis.tables.accuracy import accuracy_tables, number_table
from harness.analysis.tables.caption import caption, short_caption
from harness.analysis.tables.pages import summary_blocks
from harness.analysis.tables.rows import cell_estimate, columns_of, rows_of
from harness.analysis.tables.runs import sections
from harness.analysis.verdicts import beside_published, verdicts_of
from harness.data import load
from harness.experiment.experiment import Experiment
from harness.experiment.file import network_labels, parse, read
from harness.experiment.pairs import SIDES
from harness.experiment.published import read_published
from harness.networks import NetworkOptions
from harness.plan import Plan, make_plan
from harness.run.devices import DeviceFacts
from harness.run.estimate import estimate
from harness.run.find_model import TrainingFilter, choose
from harness.run.grid import plan_of
from harness.run.speeds import NetworkSpeed, Speeds, speed_key, takes_steps
from harness.store import Store
from harness.track.run_fields import main_entry, tags_of

# One student of two teachers, and a student with a learning rate of its own.
PAIRS: list[dict[str, Any]] = [
    {"teacher": {"depth": 16, "width": 2}, "student": {"depth": 10, "width": 1}},
    {"teacher": {"depth": 10, "width": 2}, "student": {"depth": 10, "width": 1}},
    {
        "teacher": {"depth": 16, "width": 2},
        "student": {"depth": 16, "width": 1},
        "settings": {"training": {"lr": 0.01}},
    },
]
RAW: dict[str, Any] = {
    "name": "paired",
    "dataset": {"name": "digits", "validation": 297, "test": 500},
    "network": {"network": "wide_resnet", "dropout": 0.0},
    "pairs": PAIRS,
    "methods": ["pixels_ncm", "plain", "plain@2", "kd", "teacher_ncm"],
    "training": {"epochs": 10},
    "seeds": [0, 1],
    "claims": ["plain > kd", "plain@2 > plain"],
}
LABELS = ["wrn-16-2>wrn-10-1", "wrn-10-2>wrn-10-1", "wrn-16-2>wrn-16-1"]
CSV = """source,row,metric,protocol,of,wrn-16-2>wrn-10-1,wrn-10-2>wrn-10-1,wrn-16-2>wrn-16-1
some-2020,Teacher,test_accuracy,last epoch,teacher,70,71,70
some-2020,Student,test_accuracy,last epoch,plain,60,60,62
some-2020,KD,test_accuracy,last epoch,kd,63,64,65
"""


def experiment(**changes: Any) -> Experiment:
    return parse(RAW | changes)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(experiment())


@pytest.fixture(scope="module")
def text(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> str:
    return without_training(plan, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def bundle(text: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("published") / "some.csv"
    path.write_text(CSV)
    made = read_bundle(Path("experiments/results/paired.jsonl"), text)
    made.published.extend(read_published(path, network_labels(experiment())))
    return made


def entries(plan: Plan) -> dict[tuple[str, ...], str]:
    """Return (name of the run without its seed) -> fingerprint, of the first seed."""
    return {e.name.removesuffix(" s0"): e.fingerprint for e in plan.entries if e.seed == 0}


def test_a_pair_has_the_cells_that_its_networks_had_before(plan: Plan) -> None:
    """Each pair is an experiment of its own with that teacher, and shares cells with the others."""
    cells = set()
    for pair in PAIRS:
        fields = {name: value for name, value in RAW.items() if name != "pairs"}
        alone = plan_of(parse(fields | {"teacher": pair["teacher"], "students": [pair["student"]]}))
        if "settings" not in pair:
            assert {*alone.cells} <= {*plan.cells}
        cells |= {*alone.cells}
    own = {*plan.cells} - cells
    assert {plan.name_of(f).partition(" s")[0] for f in own} == {
        f"{role} {networks}"
        for role, networks in (
            *(("student", "wrn-16-1"), ("plain@2", "wrn-16-1")),
            ("kd", "wrn-16-2>wrn-16-1"),
        )
    }, "its settings are those of its student alone"
    numbers = [(e.method, e.networks, e.seed) for e in plan.entries]
    assert len(numbers) == len({*numbers}), "a teacher of two pairs and their student stand once"
    found = entries(plan)
    rate = {n: plan.cells[found[n]].config.sections["training"].lr for n in found if "ncm" not in n}
    assert {name for name, lr in rate.items() if lr == 0.01} == {
        *("student wrn-16-1", "plain@2 wrn-16-1", "kd wrn-16-2>wrn-16-1")
    }


def test_what_a_file_says_later_wins() -> None:
    """A method's own settings win over those of a pair; `--set` reaches into pairs."""
    swept = experiment(methods=["kd", {"method": "kd", "training": {"lr": 0.3}}])
    plan = plan_of(swept)
    rates = {
        (e.method, e.networks): plan.cells[e.fingerprint].config.sections["training"].lr
        for e in plan.entries
        if e.method != "teacher"
    }
    assert {lr for (method, _), lr in rates.items() if method != "kd"} == {0.3}
    assert [rates["kd", label] for label in LABELS] == [0.1, 0.1, 0.01]
    file = ROOT / "experiments/crd_rehearsal.yaml"
    changed = read(file, ["pairs.1.settings.training.lr=0.02", "pairs.0.student.name=resnet14"])
    assert changed.pairs[1].settings == {"training": {"lr": 0.02}}
    assert changed.pairs[0].label == "resnet20>resnet14"
    assert parse(changed.model_dump(mode="json")) == changed
    assert experiment().grid == experiment(pairs=PAIRS[:1]).grid != experiment(name="other").grid


NETWORK = {"depth": 10, "width": 1}
TWICE = [{**PAIRS[0], "settings": {"training": {"lr": 0.2}}}, PAIRS[1]]
OTHER_TEACHER = [PAIRS[0], {**PAIRS[2], "teacher": {"depth": 16, "width": 2, "dropout": 0.1}}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": NETWORK}, "teacher: .*drop"),
        ({"students": [NETWORK]}, "students: .*drop"),
        ({"teacher_checkpoint": 64 * "0"}, "teacher_checkpoint: .*drop"),
        ({"pairs": []}, "pairs: .*at least one"),
        ({"pairs": NETWORK}, "pairs: .*write"),
        ({"pairs": [NETWORK["depth"]]}, r"pairs\.0: not a mapping"),
        ({"pairs": [{"teacher": NETWORK}]}, r"pairs\.0\.student: missing"),
        ({"pairs": [{**PAIRS[0], "setting": {}}]}, r"pairs\.0\.setting: .*'settings'"),
        ({"pairs": [{**PAIRS[0], "teacher": "models:/x@teacher"}]}, r"pairs\.0\.teacher: models"),
        ({"pairs": [{**PAIRS[0], "settings": {"kd": 4}}]}, r"pairs\.0\.settings\.kd: not a map"),
        ({"pairs": [{**PAIRS[0], "settings": {"vid": {}}}]}, r"pairs\.0\.settings\.vid: .*use"),
        ({"pairs": [{**PAIRS[0], "settings": {"kd": {"alpa": 1}}}]}, r"pairs: .*\.alpa: .*'alpha'"),
        (
            {"pairs": [{**PAIRS[0], "settings": {"training": {"epochs": 3}}}]},
            r"pairs: .*training\.epochs: .*set training\.epochs",
        ),
        ({"pairs": [PAIRS[0], PAIRS[0]]}, "pairs: 'wrn-16-2>wrn-10-1' is listed twice"),
        ({"pairs": TWICE}, r"pairs: 1\.student: wrn-10-1 .*same"),
        ({"pairs": OTHER_TEACHER}, r"pairs: 1\.teacher: wrn-16-2 .*same"),
    ],
)
def test_a_refusal_names_the_pair(changes: dict[str, Any], message: str) -> None:
    assert re.search(f"^{message}", found := wrong(lambda: experiment(**changes))), found


def test_each_number_stands_in_the_column_of_its_pair(plan: Plan, bundle: Bundle) -> None:
    found, seeds = entries(plan), range(2)
    assert [column.label for column in columns_of(bundle)] == LABELS
    (table,) = accuracy_tables(bundle)
    assert table.head[-3:] == LABELS
    ours = [row for row in table.rows if not row[0].note]
    shown = {row[0].text: [cell.value for cell in row[2:]] for row in ours}
    names = {e.fingerprint: e.name for e in plan.entries}

    def mean(name: str) -> float:
        cells = {f for f, n in names.items() if n in {f"{name} s{seed}" for seed in seeds}}
        return 100 * sum(map(accuracy_of, cells)) / len(cells)

    assert found["kd wrn-10-2>wrn-10-1"] != found["kd wrn-16-2>wrn-10-1"]
    for row, expected in (
        ("Teacher", ["teacher wrn-16-2", "teacher wrn-10-2", "teacher wrn-16-2"]),
        ("Student", ["student wrn-10-1", "student wrn-10-1", "student wrn-16-1"]),
        ("KD", [f"kd {label}" for label in LABELS]),
        ("Teacher NCM", [f"teacher_ncm {n}" for n in ("wrn-16-2", "wrn-10-2", "wrn-16-2")]),
    ):
        assert shown[row] == pytest.approx([mean(name) for name in expected]), row
    assert [cell.text for cell in table.rows[-1][2:]] == ["63", "64", "65"], "the published KD"
    titles = [*sections(bundle)]
    assert len([t for t in titles if t.startswith("KD, ")]) == 3
    assert [t for t in titles if t.startswith("Student, wrn")] == [
        *("Student, wrn-10-1", "Student, wrn-16-1")
    ]
    assert [t for t in titles if t.startswith("Pixel NCM")] == ["Pixel NCM"]
    whose = {(row[1].text, row[3].text) for row in number_table(bundle).rows}
    assert {("kd", LABELS[1]), ("plain", "wrn-10-1"), ("teacher", "wrn-10-2")} <= whose


def test_claims_and_published_numbers_know_their_pair(plan: Plan, bundle: Bundle) -> None:
    compared = {(v.claim, v.column) for v in verdicts_of(bundle)}
    assert {column for claim, column in compared if claim == "plain > kd"} == {*LABELS}
    assert {column for claim, column in compared if claim != "plain > kd"} == {
        *("wrn-10-1", "wrn-16-1")
    }, "two students without a teacher are two comparisons, not three"
    found = {(c.effect, c.column) for c in compare(bundle, bundle).checked}
    assert {part for label, part in found if label == "KD - Student"} == {*LABELS}
    beside = {(b.row, b.network): b for b in beside_published(bundle)}
    assert len(beside) == 9 and beside["Teacher", LABELS[1]].published == 0.71
    published = [{k: str(v) for k, v in row.items()} for row in bundle.published]
    planned = planned_claims(plan, published, Assumptions())["primary"]
    assert [round(100 * p.assumed.difference, 6) for p in planned[:3]] == [-3, -4, -3]
    blocks = summary_blocks(bundle, "page.md")
    assert any("wrn-10-2>wrn-10-1" in getattr(b, "head", ()) for b in blocks)


def test_runs_are_found_by_teacher_and_student(plan: Plan, bundle: Bundle) -> None:
    found = entries(plan)
    tags = {name: tags_of(plan, main_entry(plan, f)) for name, f in found.items()}
    kd = tags["kd wrn-10-2>wrn-10-1"]
    assert (kd["teacher"], kd["student"]) == ("wrn-10-2", "wrn-10-1")
    assert "teacher" not in tags["student wrn-10-1"]
    rows, column = {row.label: row for row in rows_of(bundle)}, columns_of(bundle)[1]
    for label, name in (("KD", "kd wrn-10-2>wrn-10-1"), ("Student", "student wrn-10-1")):
        wanted = {k: v for k, v in conditions(rows[label], column).items() if "%" not in v}
        assert wanted.items() <= tags[name].items()
    chosen = choose(plan, TrainingFilter("wrn-10-2>wrn-10-1", "kd", None, None, None))
    assert chosen.fingerprint == found["kd wrn-10-2>wrn-10-1"]
    which = wrong(lambda: choose(plan, TrainingFilter(None, "kd", None, None, None)))
    assert all(label in which for label in LABELS)


def test_a_part_of_a_bundle_keeps_its_teachers(plan: Plan, text: str, bundle: Bundle) -> None:
    assert merge(plan, text, text) == text
    panels = [axes for axes in accuracy(bundle).axes if "accuracy" in axes.get_xlabel()]
    teachers = [
        next(c for c in axes.containers if c.get_label() == "Teacher")[0].get_xdata()[0]
        for axes in panels
    ]
    row = next(row for row in rows_of(bundle) if row.label == "Teacher")
    means = [cell_estimate(bundle, row, column) for column in columns_of(bundle)]
    assert teachers == pytest.approx([100 * m.mean for m in means if m])
    assert len({*teachers}) > 1, "each pair has its own"


def test_an_estimate_knows_each_teacher(tmp_path: Path, plan: Plan) -> None:
    def speeds(teaching: Callable[[NetworkOptions], float]) -> Speeds:
        networks = {n: NetworkSpeed(0.0, 1, 1, teaching(n)) for n in plan.experiment.networks}
        trained = [cell for cell in plan.cells.values() if takes_steps(cell)]
        steps = {speed_key(cell, plan.teacher_of(cell)): 1.0 for cell in trained}
        return Speeds(networks, steps, DeviceFacts("cpu", "cpu"))

    dataset = load(plan.experiment.dataset)
    assert len(plan.experiment.networks) == 4
    keys = {speed_key(c, plan.teacher_of(c)) for c in plan.cells.values() if c.kind == "kd"}
    assert len(keys) == 3, "a step of each pair is measured"
    kept = estimate(plan, Store(tmp_path), dataset, speeds(lambda n: 0.5), 10**9)
    assert kept.seconds[entries(plan)["kd wrn-16-2>wrn-16-1"]] < max(kept.seconds.values())


def test_captions_name_the_settings_of_a_pair(bundle: Bundle) -> None:
    for text in (short_caption(bundle), "\n".join(caption(bundle))):
        assert "Recipe: training.lr 0.01 for wrn-16-1." in text


def test_a_pair_with_other_settings_is_another_experiment() -> None:
    other = {**PAIRS[2], "settings": {"training": {"lr": 0.02}}}
    one, two, fewer = (
        experiment(pairs=pairs).model_dump(mode="json") for pairs in (PAIRS, [other], PAIRS[2:])
    )
    (found,) = different(two, one)
    assert found.startswith("pairs.wrn-16-2>wrn-16-1: ") and "0.01" in found and "0.02" in found
    assert not different(fewer, one)


BENCHMARK = [ROOT / f"experiments/crd_{name}.yaml" for name in ("same", "cross")]


@pytest.mark.parametrize("file", BENCHMARK, ids=lambda path: path.stem)
def test_the_benchmark_is_planned_as_published(file: Path) -> None:
    """Its recipe on other data, as CIFAR-100 is not here: batches, rates, pairs, numbers."""
    e = read(file, ["dataset={name: digits}", "seeds=[0]"])
    plan = make_plan(e, load(e.dataset))
    published = read_published(ROOT / "experiments" / str(e.published), network_labels(e))
    assert {pair.label for pair in e.pairs} <= published[0].keys()
    n_students, n_teachers = (len({getattr(p, s).label for p in e.pairs}) for s in SIDES)
    assert len(plan.cells) == n_teachers + n_students + len(e.pairs) * (len(e.methods) - 1)
    for entry in plan.entries:
        config = plan.cells[entry.fingerprint].config
        training, optimizer = config.sections["training"], config.optimizer
        is_small = entry.student in ("MobileNetV2", "ShuffleNetV1", "ShuffleNetV2")
        assert training.model_dump() == {
            "epochs": 240,
            "lr": 0.01 if is_small else 0.05,
            "gamma": 0.1,
            "milestones": (150, 180, 210),
        }
        assert (optimizer.batch_size, optimizer.nesterov) == (64, False)
        assert config.protocol.train_on == "train+validation"
