"""Methods with settings of their own, and sweeps."""

from typing import Any

import pytest
from bundles import made_up
from helpers import TINY, wrong
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.tables.rows import cell_estimate, columns_of, rows_of
from harness.common.errors import UserError
from harness.data import load
from harness.experiment.file import parse
from harness.experiment.sources import apply_overrides
from harness.methods import parse_method
from harness.methods.variants import (
    expand_item,
    format_value,
    join_settings,
    parse_value,
    split_settings,
)
from harness.plan import TEACHER, Plan, make_plan

SCALARS = st.one_of(
    st.booleans(),
    st.none(),
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6, allow_subnormal=False),
    st.from_regex(r"[a-z_][a-z_-]{0,8}", fullmatch=True),
)


@given(SCALARS)
def test_a_value_survives_its_name(value: Any) -> None:
    text = format_value(value)
    assert parse_value(text) == value and not set(text) & set("();=@+ ") - {"+"}
    assert format_value(parse_value(text)) == text


def test_equal_settings_have_one_name() -> None:
    for name in ("kd(kd.temperature=8)", "kd(kd.temperature=8.0)", "kd( kd.temperature = 8e0 )"):
        assert parse_method(name).name == "kd(kd.temperature=8)"
    both = {"kd.temperature": 2, "kd.alpha": 0.5}
    assert join_settings("kd@2", both) == join_settings("kd@2", dict(reversed(both.items())))
    assert split_settings("kd(kd.alpha=0.5;kd.temperature=2)@2") == ("kd@2", both)


def test_what_a_name_means() -> None:
    method = parse_method("kd(kd.alpha=0.5;kd.temperature=2)@both")
    assert (
        method.overrides == {"kd": {"alpha": 0.5, "temperature": 2}}
        and method.epochs_factor == "both"
    )
    assert method.label == "KD, alpha 0.5, temperature 2, epochs of both stages"
    assert (
        not method.is_default and method.shared_classes and method.final == parse_method("kd").final
    )
    assert parse_method("kd+vid(kd.alpha=0.5)").overrides == {"kd": {"alpha": 0.5}}
    rates = parse_method("refilled(stage1.lr=0.1;stage2.lr=0.2)")
    assert rates.label.endswith(", stage1.lr 0.1, stage2.lr 0.2"), "two fields of one name"


def test_a_list_is_a_sweep() -> None:
    item = {"method": "refilled", "stage1": {"tau1": [1, 4]}, "stage2.lambd": [1, 10], "label": "R"}
    names = [
        f"refilled(stage1.tau1={tau};stage2.lambd={lambd})" for tau in (1, 4) for lambd in (1, 10)
    ]
    labels = [f"R, tau1 {tau}, lambd {lambd}" for tau in (1, 4) for lambd in (1, 10)]
    assert expand_item(item) == list(zip(names, labels, strict=True))
    assert expand_item({"method": "kd", "epochs": "both"}) == [("kd@both", None)]
    assert expand_item({"method": "kd", "epochs": 2, "kd.alpha": [1]}) == [
        ("kd(kd.alpha=1)@2", None)
    ]
    assert expand_item({"method": "kd", "label": "Hinton"}) == [("kd", "Hinton")]


def swept(methods: list[Any], **changes: Any) -> Plan:
    experiment = parse(TINY | {"methods": methods} | changes)
    return make_plan(experiment, load(experiment.dataset))


def cells_of(plan: Plan) -> dict[str, str]:
    return {e.name: e.fingerprint for e in plan.entries}


def test_a_variant_is_the_cell_of_that_setting() -> None:
    """Nothing else of it changes, the teacher is there once, and a name tells the runs apart."""
    plan = swept(["plain", "kd", {"method": "kd", "kd": {"temperature": [2, 8]}}])
    cells = cells_of(plan)
    hot = cells["kd(kd.temperature=8) wrn-10-1 s0"]
    assert len(cells) == 5 and len(set(cells.values())) == 4, "teacher and student are one"
    alone = cells_of(swept(["plain", "kd"], kd={"temperature": 8}))
    assert hot == alone["kd wrn-10-1 s0"]
    assert sum(e.stage == TEACHER for e in plan.entries) == 1
    kd, usual = (plan.cells[f].config.sections["kd"] for f in (hot, cells["kd wrn-10-1 s0"]))
    assert kd == usual.model_copy(update={"temperature": 8.0}) != usual


def test_stages_are_shared_as_far_as_settings_are() -> None:
    plan = swept([{"method": "refilled", "stage2": {"lambd": [1, 10]}}])
    stages = [e.stage for e in plan.entries]
    assert stages.count("stage1") == 2
    assert sum(cell.kind == "stage1" for cell in plan.cells.values()) == 1
    assert sum(cell.kind == "stage2" for cell in plan.cells.values()) == 2


def test_a_variant_of_a_tuned_method_keeps_what_was_tuned() -> None:
    tuned = {"kd": {"settings": {"kd": {"alpha": 0.3, "temperature": 5}}}}
    methods = ["kd", {"method": "kd", "kd": {"temperature": 8}}]
    experiment = parse(TINY | {"methods": methods, "tuned": tuned})
    kd = experiment.for_method("kd(kd.temperature=8)").sections(["kd"])["kd"]
    assert kd == {"alpha": 0.3, "temperature": 8.0}


@pytest.mark.parametrize(
    ("method", "changes", "alpha"),
    [
        ("kd", {}, 0.9),
        ("kd+vid", {}, 1.0),
        ("kd+vid", {"kd": {"alpha": 0.3}}, 1.0),
        ("kd+vid(kd.alpha=0.5)", {}, 0.5),
        ("kd+vid", {"tuned": {"kd+vid": {"settings": {"kd": {"alpha": 0.2}}}}}, 0.2),
    ],
)
def test_kd_has_another_weight_in_a_sum(method: str, changes: dict[str, Any], alpha: float) -> None:
    """RepDistiller: `-r 0.1 -a 0.9` for KD alone, `-a 1` beside another method."""
    experiment = parse(TINY | {"methods": [method]} | changes)
    assert experiment.for_method(method).sections(["kd"])["kd"]["alpha"] == alpha


def test_a_variant_with_the_settings_of_its_sum_is_that_sum() -> None:
    with pytest.raises(UserError, match="are the same method"):
        parse(TINY | {"methods": ["kd+vid", "kd+vid(kd.alpha=1)"]})
    parse(TINY | {"methods": ["kd+vid", "kd+vid(kd.alpha=0.9)"]})


def test_a_resolved_sweep_reads_as_itself() -> None:
    methods = ["plain", {"method": "kd", "label": "KD T=8", "kd": {"temperature": 8}}]
    experiment = parse(TINY | {"methods": methods})
    assert experiment.labels == {"kd(kd.temperature=8)": "KD T=8"}
    resolved = experiment.model_dump(mode="json")
    assert parse(resolved).model_dump(mode="json") == resolved
    assert "labels" not in parse(TINY).model_dump(mode="json"), "older bundles stay as they were"


def test_tables_show_what_differs() -> None:
    warm, hot = "kd(kd.temperature=2)", "kd(kd.temperature=8)"
    numbers = {("kd", "kd", "wrn-10-1"): [0.8], (warm, "kd", "wrn-10-1"): [0.9]}
    numbers |= {(hot, "kd", "wrn-10-1"): [0.7]}
    methods = ["kd", warm, {"method": "kd", "label": "KD T=8", "kd": {"temperature": 8}}]
    bundle = made_up(numbers, methods=methods)
    (column,) = columns_of(bundle)
    shown = {row.label: cell_estimate(bundle, row, column) for row in rows_of(bundle)}
    shown.pop("Teacher")
    assert {label: found.mean for label, found in shown.items() if found} == {
        "KD": 0.8,
        "KD, temperature 2": 0.9,
        "KD T=8": 0.7,
    }


# Item of `methods` -> the field that is at fault.
WRONG = {
    "{method: kd, kd: {temperatur: 8}}": "methods: kd(kd.temperatur=8).kd.temperatur",
    "{method: kd, kd: {temperature: 0}}": "methods: kd(kd.temperature=0).kd.temperature",
    "{method: kd, kd: {temperature: []}}": "methods: kd: kd.temperature",
    "{method: kd, kd: {temperature: [[2]]}}": "methods: kd: kd.temperature",
    "{method: kd, dkd: {beta: 8}}": "methods: kd: dkd.beta",
    "{method: kd, training: {epochs: 4}}": "methods: kd(training.epochs=4).training.epochs",
    "{method: refilled-triplet, stage1: {relation: tuple}}":
        "methods: refilled-triplet(stage1.relation=tuple).stage1.relation",
    "{method: kd, kd: {temperature: 4}}, kd": "methods: 'kd' and 'kd(kd.temperature=4)'",
    "{method: kd, kd: {temperature: [2, 2]}}": "methods: 'kd(kd.temperature=2)'",
    "{method: kd, temperature: 8}": "methods",
    "{method: 'kd(kd.alpha=1)', kd: {temperature: 8}}": "methods",
    "{label: KD}": "methods",
    "kd(kd.temperature)": "methods: cannot read 'kd(kd.temperature)'",
    "kd(kd.alpha=1)@x": "methods: 'x'",
    "{method: kdd, kd: {temperature: 8}}": "methods: unknown method 'kdd'; did you mean 'kd'",
    "{method: kd, label: a|b}": "labels.kd",
    "kd, {method: kd, label: KD, kd: {temperature: 8}}": "labels: 'kd' and",
}  # fmt: skip


@pytest.mark.parametrize("methods", WRONG)
def test_a_refusal_names_the_field(methods: str) -> None:
    line = wrong(lambda: parse(apply_overrides(TINY, [f"methods=[{methods}]"])))
    assert line.startswith(WRONG[methods])


def test_a_label_needs_its_method() -> None:
    with pytest.raises(UserError, match=r"^labels\.at: "):
        parse(TINY | {"labels": {"at": "AT"}})
