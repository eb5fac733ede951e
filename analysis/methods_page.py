"""docs/methods.md, from what the methods say about themselves (harness.methods)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.methods import DEFAULT, REGISTRY, SECTIONS, STAGES
from harness.methods.base import Method, Stage
from harness.results import NCM_FORMS, names_of
from harness.spec.experiment import Optimizer

PATH = Path("docs/methods.md")


def methods_page() -> str:
    """The text of the page."""
    lines = [
        "# Methods",
        "",
        "Made by `harness tables` from `harness/methods/`, where each method is described once. "
        "An experiment names them under `methods:`; without it, it trains "
        f"{', '.join(f'`{name}`' for name in DEFAULT)}.",
        "",
        "| `methods:` | in tables | what it minimises | asks of the teacher | stages | paper |",
        "|---|---|---|---|---|---|",
        *(_row(method) for method in REGISTRY.values()),
        "",
        "A method without a teacher asks nothing of it. Teacher and student must have the same "
        f"classes for {', '.join(f'`{m.name}`' for m in REGISTRY.values() if m.shared_classes)}. "
        "Teachers are trained as `plain` students are.",
        "",
        "## Stages",
        "",
        "Each is one training, a cell of its own: its kind, the sections of the experiment that "
        "decide its result (`optimizer` and `seed` beside them), and what it measures.",
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


def _row(method: Method) -> str:
    label = method.label_in(_defaults())
    stages = ", then ".join(f"`{stage.kind}`" for stage in method.stages)
    asks = ", ".join(sorted(method.needs)) or "nothing"
    fixed = "; ".join(
        f"`{section}.{field}: {value}`"
        for section, fields in method.fixed.items()
        for field, value in fields.items()
    )
    about = f"{method.about}; {fixed}" if fixed else method.about
    return f"| `{method.name}` | {label} | {about} | {asks} | {stages} | {method.paper} |"


def _stage_row(stage: Stage) -> str:
    sections = ", ".join(f"`{section}`" for section in stage.all_sections)
    switches = "".join(f", `protocol.{switch}`" for switch in stage.switches)
    measured = ", ".join(NCM_FORMS.get(name, name) for name in names_of(stage.result))
    return f"| `{stage.kind}` | {sections}{switches} | {measured} | `{stage.trainer}` |"


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
