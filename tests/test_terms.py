"""Methods that add terms to the cross-entropy, and their sums: what is minimised, with which
weights, what a cell of it is, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import Output, refusal, write_experiment, wrong
from torch import Tensor, nn
from torch.nn import functional as F
from training import CPU, RAW, config, tiny

from harness import distill, methods
from harness.common.errors import UserError
from harness.common.metrics import logged_name
from harness.data import load
from harness.data.batches import Batch, epoch_generator
from harness.data.listing import LeftOut
from harness.data.placement import on_device
from harness.experiment.file import parse, read
from harness.experiment.sources import apply_overrides
from harness.experiment.tuned import Tuned
from harness.methods import REGISTRY, SECTIONS, get_method
from harness.networks import build
from harness.run.session import print_remarks
from harness.train.methods.base import Context, NetworkOutput, make_training
from harness.train.methods.distillation import Distillation, Term
from harness.tune.tuning_file import Tuning, read_tuning
from harness.tune.winner import tuned_fields

SUMMABLE = [name for name, method in REGISTRY.items() if method.is_addable]


def training(kind: str, seed: int = 3, **changed: dict[str, Any]) -> tuple[Distillation, Batch]:
    """Return a training of a WRN-10-1 with a teacher WRN-10-2 on a few digits, and a batch."""
    torch.manual_seed(0)
    sections = {name: changed.get(name, {}) for name in SECTIONS}
    options = {"depth": 10, "dropout": 0.0}
    student = build("wide_resnet", 10, width=1, **options)
    teacher = build("wide_resnet", 10, width=2, **options)
    experiment = parse(RAW)
    dataset = load(experiment.dataset)
    images = {"train": on_device(dataset, dataset.train, CPU, 0)}
    made = make_training(kind, Context(config(**sections, seed=seed), images, 10, student, teacher))
    assert isinstance(made, Distillation)
    (batch,) = [
        b for i, b in enumerate(images["train"].augmented(32, epoch_generator(0, 0))) if i == 1
    ]
    return made, batch


def regressor(made: Distillation, name: str) -> Any:
    return made.terms[name].get_submodule("regressor")


def bare(name: str, made: Distillation, s: NetworkOutput, t: NetworkOutput, batch: Batch) -> Tensor:
    """The term as its paper has it, with the weights of the published recipes written out."""
    pairs = list(zip(s.maps, t.maps, strict=True))
    terms: dict[str, Callable[[], Tensor]] = {
        "kd": lambda: 0.9 * distill.kd_divergence(s.logits, t.logits, temperature=4),
        "kd_standardised": lambda: (
            9 * distill.standardised_kd_loss(s.logits, t.logits, temperature=2)
        ),
        "dkd": lambda: distill.dkd_loss(
            s.logits, t.logits, batch.y, alpha=1, beta=6, temperature=4
        ),
        "rkd": lambda: (
            25 * distill.rkd_distance_loss(s.embedding, t.embedding)
            + 50 * distill.rkd_angle_loss(s.embedding, t.embedding)
        ),
        "pkt": lambda: 30_000 * distill.pkt_loss(s.embedding, t.embedding),
        "sp": lambda: 3_000 * distill.sp_loss(s.maps[2], t.maps[2]),
        "at": lambda: sum((1_000 * distill.at_loss(*p) for p in pairs), torch.zeros(())),
        "nst": lambda: sum((50 * distill.nst_loss(*p) for p in pairs), torch.zeros(())),
        "vid": lambda: sum(
            (
                distill.vid_loss(*p, made.terms["vid"].get_submodule(f"regressors.{i}"))
                for i, p in enumerate(pairs)
            ),
            torch.zeros(()),
        ),
        "fitnet": lambda: 100 * F.mse_loss(regressor(made, "fitnet")(s.maps[1]), t.maps[1]),
    }
    return terms[name]()


@pytest.mark.parametrize("name", [n for n in SUMMABLE if n != "crd"])
def test_what_is_minimised(name: str) -> None:
    made, batch = training(name, dkd={"warmup": 0})
    model = made.context.student
    losses, logits = made.losses(model, batch, 0)
    student, teacher = (
        NetworkOutput.compute(n, batch.x, with_maps=True) for n in (model, made.context.teacher)
    )
    assert logits is not None and torch.equal(logits, student.logits)
    weight = {"kd": 0.1, "kd_standardised": 0.1}.get(name, 1.0)
    assert losses.keys() == {"ce", name}
    torch.testing.assert_close(losses["ce"], weight * F.cross_entropy(student.logits, batch.y))
    expected = bare(name, made, student, teacher, batch)
    assert expected > 0
    torch.testing.assert_close(losses[name], expected, rtol=2e-5, atol=1e-8)


def test_in_half_precision_the_terms_meet_in_float32() -> None:
    """As in one loss of all terms, which recorded results come from."""
    made, batch = training("kd")
    model, gradients = made.context.student, []
    for whole in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            losses, logits = made.losses(model, batch, 0)
            if whole:
                logits, teacher = model(batch.x), made.context.teacher_output(batch).logits
                losses = distill.kd_loss(logits, teacher, batch.y, temperature=4, alpha=0.9)
        torch.stack(list(losses.values())).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert gradients[0] and all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_crd_is_its_memory_with_drawn_negatives() -> None:
    made, batch = training("crd", crd={"negatives": 40, "features": 16})
    term, seen = made.terms["crd"], list[Tensor]()
    memory = term.get_submodule("memory")
    hook = memory.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    before = {k: v.clone() for k, v in memory.state_dict().items()}
    batch = batch.with_prepared(**term.prepare(batch, 0))
    first = made.losses(made.context.student, batch, 0)[0]["crd"]
    (_, _, index, contrast), labels = seen[:4], made.context.train.labels
    hook.remove()
    assert torch.equal(index, batch.index) and torch.equal(contrast[:, 0], index)
    assert contrast.shape == (32, 41)
    assert (labels[contrast[:, 1:]] != labels[index][:, None]).all()
    assert not torch.equal(before["memory_v1"], memory.get_buffer("memory_v1"))
    memory.load_state_dict(before)
    again = memory(*seen[:4])
    torch.testing.assert_close(first, 0.8 * again)


def contrasts(made: Distillation, batch: Batch, *epochs: int) -> list[Tensor]:
    return [made.terms["crd"].prepare(batch, epoch)["contrast_index"] for epoch in epochs]


def test_negatives_follow_from_seed_and_epoch() -> None:
    settings = {"negatives": 40, "features": 8}
    made, batch = training("crd", crd=settings)
    first, next_batch, other = contrasts(made, batch, 0, 0, 1)
    assert not torch.equal(first, next_batch) and not torch.equal(first, other)
    resumed, _ = training("crd", crd=settings)
    assert torch.equal(contrasts(resumed, batch, 1)[0], other)
    assert torch.equal(contrasts(made, batch, 0)[0], first)
    other_seed, _ = training("crd", seed=4, crd=settings)
    assert not torch.equal(contrasts(other_seed, batch, 0)[0], first)


def test_dkds_weight_grows() -> None:
    made, batch = training("dkd", dkd={"warmup": 4})
    full = bare("dkd", made, *answers(made, batch), batch)
    for epoch, share in ((0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)):
        loss = made.losses(made.context.student, batch, epoch)[0]["dkd"]
        torch.testing.assert_close(loss, share * full)


def answers(made: Distillation, batch: Batch) -> tuple[NetworkOutput, NetworkOutput]:
    student, teacher = (
        NetworkOutput.compute(n, batch.x, with_maps=True)
        for n in (made.context.student, made.context.teacher)
    )
    return student, teacher


def test_a_sum_has_each_term_and_one_cross_entropy() -> None:
    made, batch = training("kd+vid")
    losses, _ = made.losses(made.context.student, batch, 0)
    student, teacher = answers(made, batch)
    assert list(losses) == ["ce", "kd", "vid"]
    torch.testing.assert_close(losses["ce"], F.cross_entropy(student.logits, batch.y))
    for name in ("kd", "vid"):
        torch.testing.assert_close(losses[name], bare(name, made, student, teacher, batch))
    without, _ = training("kd+kd_standardised")
    assert without.ce_weight == pytest.approx(0.1)


def test_only_what_needs_maps_asks_for_them() -> None:
    for name in SUMMABLE:
        made, _ = training(name, crd={"negatives": 5, "features": 4})
        assert made.needs_maps == ("maps" in REGISTRY[name].needs)
    assert training("kd+sp")[0].needs_maps


def test_parameters_of_terms_are_trained() -> None:
    owners = {n for n in SUMMABLE if list(training(n, crd={"features": 4})[0].module.parameters())}
    assert owners == {"vid", "fitnet", "crd"}
    made, batch = training("fitnet")
    made.losses(made.context.student, batch, 0)[0]["fitnet"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.module.parameters())
    assert isinstance(made.module, nn.ModuleDict)
    assert all(isinstance(term, Term) for term in made.terms.values())


# Experiments and cells


@pytest.mark.parametrize("name", ["kd+vid", "vid+kd", "rkd+kd+at"])
def test_a_sum_is_a_method(name: str, tmp_path: Path) -> None:
    plan = tiny(tmp_path, f"methods=[plain, {name}]").plan
    canonical = get_method(name).name
    assert sorted(canonical.split("+")) == sorted(name.split("+"))
    assert plan.experiment.methods == ("plain", canonical)
    (entry,) = [e for e in plan.entries if e.method == canonical]
    cell = plan.cells[entry.fingerprint]
    assert cell.kind == entry.stage == canonical
    assert entry.name == f"{canonical} wrn-10-1 s0"
    assert (
        set(canonical.split("+")) < cell.config.sections.keys()
        and "stage1" not in cell.config.sections
    )
    assert get_method("kd+vid").label_in({}) == "KD + VID"
    assert methods.stage_of(canonical).metric == "accuracy"
    assert logged_name(entry.stage, "accuracy").partition("/")[0] == canonical.replace("+", "-")


def test_order_makes_no_other_cell(tmp_path: Path) -> None:
    cells = [tiny(tmp_path, f"methods=[{n}]").plan.cells.keys() for n in ("kd+vid", "vid+kd")]
    assert cells[0] == cells[1]


def test_a_term_of_one_method_alone_keeps_its_cells(tmp_path: Path) -> None:
    """KD's cells were trained before there were sums."""
    (cell,) = [c for c in tiny(tmp_path, "methods=[kd]").plan.cells.values() if c.kind == "kd"]
    assert cell.config.as_json().keys() == {
        "data", "network", "optimizer", "protocol", "seed", "training", "kd"
    }  # fmt: skip


# Assignment -> how the message begins: with the field at fault.
WRONG = {
    "methods=[kd+kd]": "methods: 'kd+kd': 'kd' is listed twice",
    "methods=[vid+kd, kd+vid]": "methods: 'kd+vid' is listed twice",
    "methods=[kd+refilled]": "methods: 'kd+refilled': 'refilled'",
    "methods=[plain+kd]": "methods: 'plain+kd': 'plain'",
    "methods=[kd+vdi]": "methods: unknown method 'vdi'; did you mean 'vid'",
    "methods=[kd+]": "methods: unknown method ''",
    "fitnet.map=4": "fitnet.map: wrn-10-1 has 3 maps",
    "fitnet.map=0": "fitnet.map: ",
    "crd.negatives=0": "crd.negatives: ",
    "dkd.warmup=-1": "dkd.warmup: ",
    "rkd.angel=3": "rkd.angel: unknown key; did you mean 'angle'",
    "teacher={network: mobile_net, ca: 0.25}": "methods: 'vid'",
    "tuned.vid.settings.vid.weight=2": "tuned.vid: ",
}


@pytest.fixture
def folder(here: Path) -> Path:
    write_experiment(here / "terms.yaml", methods=["kd+vid", "fitnet", "at", "crd", "dkd", "rkd"])
    return here


@pytest.mark.parametrize("assignment", WRONG)
def test_a_refusal_names_the_field(assignment: str, folder: Path, capsys: Output) -> None:
    command = ["plan", "terms.yaml", "--no-estimate", "--set", assignment]
    message = refusal(capsys, *command)
    assert message.startswith(f"error: {WRONG[assignment]}"), message


@pytest.mark.parametrize(
    ("given", "assignments", "refused"),
    [
        ({"methods": ["plain"], "vid": {"weight": 2}}, [], "vid"),
        ({"vid": {}}, [], "vid"),
        ({"methods": ["plain", "kd"]}, ["stage2.lambd=3"], "stage2"),
        ({"methods": ["plain", "vid"], "vid": {}}, ["methods=[plain]", "vid.weight=3"], "vid"),
        ({"methods": ["kd+vid"], "vid": {}, "kd": {}}, [], None),
        ({"methods": ["plain", "vid"], "vid": {}}, ["methods=[plain]"], None),
        ({"methods": ["plain"]}, ["methods=[plain, vid]", "vid.weight=3"], None),
        ({"methods": ["plain"], "training": {"epochs": 3}}, [], None),
    ],
)
def test_a_section_that_no_method_uses(
    given: dict[str, Any], assignments: list[str], refused: str | None, tmp_path: Path
) -> None:
    file = write_experiment(tmp_path / "x.yaml", **given)
    if refused is None:
        read(file, assignments)
        return
    assert wrong(lambda: read(file, assignments)).startswith(f"{refused}: ")


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["methods=[crd]"], "crd.negatives: 267 images of other classes for 16,384"),
        (["methods=[crd+kd]", "crd.negatives=300"], "crd.negatives=267 draws each once"),
        (["methods=[crd]", "crd.negatives=300", "protocol=legacy"], ""),
        (["methods=[crd]", "crd.negatives=260"], ""),
        (["methods=[kd]", "crd.negatives=300"], ""),
    ],
)
def test_too_few_negatives_are_said(assignments: list[str], said: str, capsys: Output) -> None:
    experiment = parse(apply_overrides(RAW, assignments))
    dataset = load(experiment.dataset)
    print_remarks(experiment, dataset)
    out = capsys.readouterr().out
    assert said in out and out.count("\n") == bool(said)
    assert not said or out.startswith("note: crd.negatives: ")
    print_remarks(experiment, replace(dataset, left_out=(LeftOut("in valid/", 7, "valid/1.png"),)))
    assert capsys.readouterr().out == f"left out: 7 in valid/ (valid/1.png)\n{out}"


def tuning(folder: Path, spaces: str, **experiment: Any) -> Tuning:
    write_experiment(folder / "x.yaml", **experiment)
    file = folder / "tuning.yaml"
    file.write_text(
        "name: x\nexperiment: x.yaml\ntrials: 2\nbatch: 1\nstartup_trials: 1\ntop_k: 1\n"
        f"methods: {spaces}\n"
    )
    return read_tuning(file)


def test_what_is_tuned_may_have_its_section(tmp_path: Path) -> None:
    file = write_experiment(tmp_path / "x.yaml", methods=["plain"])
    assert read(file, ["vid.weight=3"], also=["kd+vid"]).vid.weight == 3
    with pytest.raises(UserError, match=r"^vid: "):
        read(file, ["vid.weight=3"], also=["kd"])


def test_a_sum_is_tuned_by_its_one_name(tmp_path: Path) -> None:
    spaces = "{vid+kd: {vid.weight: [1, 2], kd.alpha: [0.5, 0.9]}}"
    found = tuning(tmp_path, spaces)
    assert list(found.spaces) == ["kd+vid"]
    trial = found.trial("kd+vid", {"vid.weight": 2, "kd.alpha": 0.5}).for_method("kd+vid")
    assert (trial.sections(["vid"])["vid"]["weight"], trial.sections(["kd"])["kd"]["alpha"]) == (
        2,
        0.5,
    )


@pytest.mark.parametrize(
    ("spaces", "said"),
    [
        (
            "{vid+kd: {kd.alpha: [0.5, 0.9]}, kd+vid: {kd.alpha: [0.5, 0.9]}}",
            "'kd+vid' stands twice",
        ),
        ("{kd+kd: {kd.alpha: [0.5, 0.9]}}", "'kd' is listed twice"),
        ("{at: {at.weight: [1, 10]}}", "methods: 'at' compares maps pair by pair"),
        ("{fitnet: {fitnet.map: [1, 2]}}", "fitnet.map"),
    ],
)
def test_what_cannot_be_tuned(spaces: str, said: str, tmp_path: Path) -> None:
    deep = {"network": "mobile_net", "ca": 0.25}
    changes = {"teacher": deep} if "at:" in spaces else {}
    wrong(lambda: tuning(tmp_path, spaces, **changes), said)


def test_a_tuned_file_has_no_section_that_nobody_uses(tmp_path: Path) -> None:
    found = tuning(tmp_path, "{kd: {kd.alpha: [0.5, 0.9]}}")
    assert {"stage1", "stage2"} < found.raw.keys()
    fields = tuned_fields(found, {"kd": Tuned(settings={"kd": {"alpha": 0.5}})})
    assert "stage1" not in fields and "stage2" not in fields and "training" in fields
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump(fields))
    assert read(tmp_path / "tuned.yaml").methods == ("kd",)
