"""The page docs/methods.md, made from the descriptions in harness/methods/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.analysis.tables.result_table import DASH
from harness.common.metrics import NCM_METRICS, measured_metrics
from harness.experiment.optimizer import Optimizer
from harness.methods import BOTH_STAGES, DEFAULT, REGISTRY, SECTIONS, STAGES
from harness.methods.base import AT, BOTH, Method, Stage
from harness.plan import TEACHER

PATH = Path("docs/methods.md")
SUM = "kd+vid"  # an example, also of the benchmark
STEPS = Path("benchmarks/results/method_steps-cpu.json")  # of benchmarks/method_steps.py --save


def methods_page() -> str:
    """Return the text of the page."""
    steps = _steps(json.loads(STEPS.read_text())) if STEPS.exists() else {}
    lines = [
        "# Methods",
        "",
        "Made by `harness tables` from `harness/methods/`, where each method is described once. "
        "An experiment names them under `methods:`; without it, it trains "
        f"{', '.join(f'`{name}`' for name in DEFAULT)}.",
        "",
        "| `methods:` | in tables | what a student learns from | needs from the teacher | stages "
        "| cost of a step | paper |",
        "|---|---|---|---|---|---:|---|",
        *(_row(method, steps.get("ratios", {})) for method in REGISTRY.values()),
        "",
        "Teacher and student must have the same classes for "
        f"{_names([m for m in REGISTRY.values() if m.shared_classes])}. "
        "Teachers are trained in the same way as `plain` students.",
        "",
        *_references(),
        *_cost(steps),
        f"Methods that minimise cross-entropy and one term can be added: `{SUM}` minimises both "
        "terms and the cross-entropy once, with the largest of the weights that they give it "
        f"({_names([m for m in REGISTRY.values() if m.is_addable])}). Their settings stay in their "
        f"own sections{_in_sums()}.",
        "",
        "## Losses",
        "",
        "CE is the mean cross-entropy with the labels; f are logits, phi embeddings and F feature "
        "maps, of the teacher (T) and the student (S). [losses.md](losses.md) has the losses as "
        "functions for any training loop.",
        "",
        *(f"- `{m.name}`: `{m.formula}`" for m in REGISTRY.values() if not m.variant_of),
        "",
        "## Stages",
        "",
        "Each stage is one training, in a cell of its own. The sections of the experiment decide "
        "its result, together with `optimizer` and `seed`. "
        f"{_names([m for m in REGISTRY.values() if m.final.schedule is None])} have no epochs: "
        "they are fitted at once to the training images.",
        "",
        "| kind | sections | measures | trained by |",
        "|---|---|---|---|",
        *(_stage_row(stage) for stage in STAGES.values()),
        "",
        "## Settings",
        "",
        "The sections of an experiment with their defaults (null: chosen by the method). "
        "`harness tune` can tune the fields in bold.",
        "",
        "| section | fields |",
        "|---|---|",
        *(_section_row(name) for name in ("optimizer", *SECTIONS)),
    ]
    return "\n".join(lines) + "\n"


def _steps(kept: dict[str, Any]) -> dict[str, Any]:
    """Return the machine and setting of the benchmark's record, and each method's ratio."""
    (compared,) = kept["comparisons"]
    ratios = {name: round(row["ratio"][1], 2) for name, row in compared["rows"].items()}
    machine = {k: kept["machine"][k] for k in ("device", "torch", "threads")}
    setting = {k: kept["setting"][k] for k in ("batch", "images", "student", "teacher", "rounds")}
    return machine | setting | {"ratios": ratios}


def _references() -> list[str]:
    """Return the lines about reference methods and about equal numbers of epochs."""
    readouts = [m for m in REGISTRY.values() if m.final.network == TEACHER]
    floors = [m for m in REGISTRY.values() if m.is_floor]
    from_scratch = [
        m
        for m in REGISTRY.values()
        if not m.needs and len(m.stages) == 1 and m.final.schedule is not None
    ]
    bounds = [m for m in REGISTRY.values() if m.is_upper_bound]
    longest = next(m for m in REGISTRY.values() if m.stages == BOTH_STAGES)
    plain = DEFAULT[0]
    return [
        "Some methods distil nothing; they are lower and upper bounds for the others:",
        "",
        f"- {_names(from_scratch)}: a lower bound, trained on the student's labels alone.",
        f"- {_names(readouts)}: lower bounds that train no student. The teacher is kept and gets "
        "another last layer, fitted at once (0 epochs): a student below them is worse than its "
        "teacher's embedding.",
        f"- {_names(floors)}: lower bounds for an NCM accuracy after stage 1: nearest class "
        "means of the pixels, and of the student's embeddings before its first step (its batch "
        "norms have the statistics of the training images).",
        f"- {_names(bounds)}: an upper bound if you have the teacher's images. The student's "
        "network learns the teacher's task first, then its own; no distillation starts from more. "
        "It is never the best student of a table.",
        "",
        f"Any method with one schedule can train for longer: `{plain}{AT}2` for twice its epochs, "
        f"`{plain}{AT}{BOTH}` for those of both stages of `{longest.name}` (also written "
        f"`{{method: {plain}, epochs: {BOTH}}}`); milestones are scaled as well. Tables can so "
        "compare methods at equal numbers of epochs, which stand beside each row.",
        "",
    ]


def _names(methods: list[Method]) -> str:
    return ", ".join(f"`{method.name}`" for method in methods)


def _in_sums() -> str:
    """Return the settings that a sum has instead of the experiment's."""
    found = [
        f"`{section}.{field}` is {value:g} in a sum, unless it is given or tuned for that sum"
        for method in REGISTRY.values()
        for section, fields in method.in_sums.items()
        for field, value in fields.items()
    ]
    return "".join(f"; {text}" for text in found)


def _cost(steps: dict[str, Any]) -> list[str]:
    if not steps:
        return []
    setting = {k: v for k, v in steps.items() if k != "ratios"}
    return [
        "Cost of a step: its time relative to a step of a plain student, including the teacher's "
        f"forward pass; `{SUM}` takes {steps['ratios'][SUM]:.2f}. Measured by "
        "`python benchmarks/method_steps.py --save` "
        f"({', '.join(f'{k} {v}' for k, v in setting.items())}); `make bench` measures it on your "
        "machine.",
        "",
    ]


def _row(method: Method, ratios: dict[str, float]) -> str:
    label = method.label_in(_defaults())
    stages = ", then ".join(f"`{stage.kind}`" for stage in method.stages)
    asks = ", ".join(sorted(method.needs)) or "nothing"
    implied = "; ".join(
        f"`{section}.{field}: {value}`"
        for section, fields in method.implied.items()
        for field, value in fields.items()
    )
    about = f"{method.about}; {implied}" if implied else method.about
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
    """Return section -> field -> default."""
    return {name: model.model_validate({}).model_dump() for name, model in SECTIONS.items()}
