"""docs/methods.md, from what the methods say about themselves (harness.methods)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.analysis.tables.rows import DASH
from harness.common.metrics import NCM_METRICS, measured_metrics
from harness.experiment.experiment import Optimizer
from harness.methods import BOTH_STAGES, DEFAULT, REGISTRY, SECTIONS, STAGES
from harness.methods.base import AT, BOTH, Method, Stage
from harness.plan import TEACHER

PATH = Path("docs/methods.md")
SUM = "kd+vid"  # an example, also of the benchmark
STEPS = Path("benchmarks/results/method_steps-cpu.json")  # of benchmarks/method_steps.py --save


def methods_page() -> str:
    """The text of the page."""
    steps = _steps(json.loads(STEPS.read_text())) if STEPS.exists() else {}
    lines = [
        "# Methods",
        "",
        "Made by `harness tables` from `harness/methods/`, where each method is described once. "
        "An experiment names them under `methods:`; without it, it trains "
        f"{', '.join(f'`{name}`' for name in DEFAULT)}.",
        "",
        "| `methods:` | in tables | what a student learns from | asks of the teacher | stages "
        "| a step | paper |",
        "|---|---|---|---|---|---:|---|",
        *(_row(method, steps.get("ratios", {})) for method in REGISTRY.values()),
        "",
        "A method without a teacher asks nothing of it. Teacher and student must have the same "
        f"classes for {_names([m for m in REGISTRY.values() if m.shared_classes])}. "
        "Teachers are trained as `plain` students are.",
        "",
        *_references(),
        *_cost(steps),
        f"Methods that minimise cross-entropy and one term can be added: `{SUM}` minimises both "
        "terms and the cross-entropy once, with the largest of the weights that they give it "
        f"({_names([m for m in REGISTRY.values() if m.is_addable])}). What "
        "belongs to them stands in their sections, as for each alone.",
        "",
        "## What is minimised",
        "",
        "CE: mean cross-entropy with the labels; f logits, phi embeddings, F maps, of the teacher "
        "(T) and the student (S). The losses alone, as functions for any training loop: "
        "[losses.md](losses.md).",
        "",
        *(f"- `{m.name}`: `{m.formula}`" for m in REGISTRY.values() if not m.variant_of),
        "",
        "## Stages",
        "",
        "Each is one training, a cell of its own: its kind, the sections of the experiment that "
        "decide its result (`optimizer` and `seed` beside them), and what it measures. "
        f"{_names([m for m in REGISTRY.values() if m.final.schedule is None])} have no epochs: one "
        "look at the training images.",
        "",
        "| kind | sections | measures | trained by |",
        "|---|---|---|---|",
        *(_stage_row(stage) for stage in STAGES.values()),
        "",
        "## Settings",
        "",
        "Sections of an experiment, with the defaults (null: chosen by the method). "
        "`harness tune` may tune the fields in bold.",
        "",
        "| section | fields |",
        "|---|---|",
        *(_section_row(name) for name in ("optimizer", *SECTIONS)),
    ]
    return "\n".join(lines) + "\n"


def _steps(kept: dict[str, Any]) -> dict[str, Any]:
    """Of the benchmark's record: where and how it was measured, and a method's ratio by name."""
    (compared,) = kept["comparisons"]
    ratios = {name: round(row["ratio"][1], 2) for name, row in compared["rows"].items()}
    machine = {k: kept["machine"][k] for k in ("device", "torch", "threads")}
    setting = {k: kept["setting"][k] for k in ("batch", "images", "student", "teacher", "rounds")}
    return machine | setting | {"ratios": ratios}


def _references() -> list[str]:
    """What the others are compared with, and with how much computation."""
    readouts = [m for m in REGISTRY.values() if m.final.network == TEACHER]
    untrained = [m for m in REGISTRY.values() if not m.final.schedule and m not in readouts]
    from_scratch = [
        m
        for m in REGISTRY.values()
        if not m.needs and len(m.stages) == 1 and m.final.schedule is not None
    ]
    before = [m for m in REGISTRY.values() if any(stage.task == TEACHER for stage in m.stages)]
    longest = next(m for m in REGISTRY.values() if m.stages == BOTH_STAGES)
    plain = DEFAULT[0]
    return [
        "Some distil nothing and stand in a table as floors and ceilings:",
        "",
        f"- {_names(from_scratch)}: a floor, what the student's own labels give.",
        f"- {_names(readouts)}: floors that train no student. The teacher stays as it is and gets "
        "another last layer, fitted at once (0 epochs): a student below them is worse than its "
        "teacher's embedding.",
        f"- {_names(untrained)}: floors of an NCM accuracy after stage 1. What nearest class means "
        "make of the images before anybody has learnt anything: without a network, and with the "
        "student's before its first step (its batch norms with statistics of the training images).",
        f"- {_names(before)}: a ceiling, for who has the teacher's images. The student's network "
        "learns the teacher's task itself, then its own; no distillation has more to start from.",
        "",
        f"Any method of one schedule may train for longer: `{plain}{AT}2` for twice its epochs, "
        f"`{plain}{AT}{BOTH}` for those of both stages of `{longest.name}` (`{{method: {plain}, "
        f"epochs: {BOTH}}}` says the same); milestones move along. With it, a table compares "
        "methods at equal numbers of epochs, which stand beside each row.",
        "",
    ]


def _names(methods: list[Method]) -> str:
    return ", ".join(f"`{method.name}`" for method in methods)


def _cost(steps: dict[str, Any]) -> list[str]:
    if not steps:
        return []
    shown = {k: v for k, v in steps.items() if k != "ratios"}
    return [
        "A step: its time relative to one of a plain student, the teacher's forward pass "
        f"included; `{SUM}` takes {steps['ratios'][SUM]:.2f}. Measured by "
        "`python benchmarks/method_steps.py --save` "
        f"({', '.join(f'{k} {v}' for k, v in shown.items())}); `make bench` measures it where "
        "you are.",
        "",
    ]


def _row(method: Method, ratios: dict[str, float]) -> str:
    label = method.label_in(_defaults())
    stages = ", then ".join(f"`{stage.kind}`" for stage in method.stages)
    asks = ", ".join(sorted(method.needs)) or "nothing"
    fixed = "; ".join(
        f"`{section}.{field}: {value}`"
        for section, fields in method.fixed.items()
        for field, value in fields.items()
    )
    about = f"{method.about}; {fixed}" if fixed else method.about
    own = method.variant_of or method.name
    names = [own if stage is method.final else f"{own}, {stage.name}" for stage in method.stages]
    step = ", ".join(f"{ratios[name]:.2f}" for name in names if name in ratios) or DASH
    return f"| `{method.name}` | {label} | {about} | {asks} | {stages} | {step} | {method.paper} |"


def _stage_row(stage: Stage) -> str:
    sections = ", ".join(f"`{section}`" for section in stage.all_sections) or DASH
    switches = "".join(f", `protocol.{switch}`" for switch in stage.switches)
    measured = ", ".join(NCM_METRICS.get(name, name) for name in measured_metrics(stage.metric))
    trainer = ", ".join(stage.terms.values()) or stage.trainer
    return f"| `{stage.kind}` | {sections}{switches} | {measured} | `{trainer}` |"


def _section_row(name: str) -> str:
    model = (SECTIONS | {"optimizer": Optimizer})[name]
    values = json.loads(model.model_validate({}).model_dump_json())
    fields = [
        f"{field if field in model.untunable else f'**{field}**'}: {json.dumps(value)}"
        for field, value in values.items()
    ]
    return f"| `{name}` | {', '.join(fields)} |"


def _defaults() -> dict[str, Any]:
    """Section -> field -> default."""
    return {name: model.model_validate({}).model_dump() for name, model in SECTIONS.items()}
