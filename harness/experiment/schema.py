"""The JSON schema of experiment files, for editors: what they offer, and what they mark as wrong.

It says what a file may look like. Whether its parts fit together is checked when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from harness.data import DATASETS
from harness.experiment.experiment import Experiment
from harness.experiment.protocol import PRESETS, Protocol
from harness.methods import REGISTRY
from harness.networks import NETWORKS

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> Schema:
    """As plain data; every field with the type and the bounds that its model has."""
    kinds = {name: options for name, (options, _) in {**DATASETS, **NETWORKS}.items()}
    models: dict[str, type[BaseModel]] = {**kinds, "experiment": Experiment, "protocol": Protocol}
    refs, shared = models_json_schema([(model, "validation") for model in models.values()])
    found: Schema = shared["$defs"]

    def body(model: type[BaseModel]) -> Schema:
        """Of a model of its own."""
        ref: str = refs[model, "validation"]["$ref"]
        inside: Schema = found[ref.rpartition("/")[2]]
        return inside

    for model in models.values():  # what has a default elsewhere: `network`, presets
        if model is not Experiment:
            body(model).pop("required", None)
    experiment = body(Experiment)
    fields: Schema = experiment["properties"]
    network = _one_of(NETWORKS, "network", body, refs)
    fields |= {
        "dataset": _one_of(DATASETS, "name", body, refs),
        "network": network,
        "teacher": {"anyOf": [network, {"type": "string", "pattern": "^models:/"}]},
        "students": {**fields["students"], "items": network},
        "protocol": {"anyOf": [{"enum": [*PRESETS]}, refs[Protocol, "validation"]]},
        "methods": {**fields["methods"], "items": _method()},
        "claims": {"anyOf": [{"type": "string"}, fields["claims"]]},
        "epochs_scale": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1000},
    }
    tasks = found["Tasks"]["properties"]
    for dimension in ("overlap", "shots"):  # one number is a list of one
        tasks[dimension] = {"anyOf": [tasks[dimension], tasks[dimension]["items"]]}
    tasks["order"]["anyOf"].append({"type": "string", "pattern": r"\.ya?ml$"})
    body(Protocol)["properties"]["preset"] = {"enum": [*PRESETS]}
    experiment["required"] = ["name", "dataset", "teacher", "students"]
    _nullable(experiment)
    return {"$schema": DIALECT, "$defs": found, **refs[Experiment, "validation"]}


def _one_of(registry: Mapping[str, Any], key: str, body: Any, refs: Any) -> Schema:
    """A name of the registry, or the options of one of them."""
    choices = []
    for name, (options, _) in registry.items():
        body(options)["properties"][key] = {"const": name}
        choices.append(refs[options, "validation"])
    return {"anyOf": [{"enum": [*registry]}, *choices]}


def _method() -> Schema:
    """A name, whose sums and factors no list can hold, or one with settings of its own."""
    names = {"anyOf": [{"enum": [*REGISTRY]}, {"type": "string", "pattern": r"^[\w+-]+[(@+].*$"}]}
    own = {
        "type": "object",
        "required": ["method"],
        "properties": {
            "method": names,
            "epochs": {"anyOf": [{"const": "both"}, {"type": "number", "exclusiveMinimum": 0}]},
            "label": {"type": "string"},
        },
    }
    return {"anyOf": [*names["anyOf"], own]}


def _nullable(experiment: Schema) -> None:
    """`tasks: null` is the same as no tasks."""
    for name, field in experiment["properties"].items():
        if "default" in field and field["default"] is None and "anyOf" not in field:
            experiment["properties"][name] = {"anyOf": [field, {"type": "null"}]}


def schema_text() -> str:
    return json.dumps(schema(), indent=1)
