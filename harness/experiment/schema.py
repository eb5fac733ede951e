"""The JSON schema of experiment files, for editors.

It covers single fields; whether they fit together is checked when a file is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from harness.data import DATASETS
from harness.experiment.experiment import Experiment
from harness.experiment.protocol import ALIASES, PRESETS, Protocol
from harness.methods import REGISTRY
from harness.networks import NETWORKS

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> Schema:
    """Return the schema as plain data, with the types and bounds of the models."""
    models: dict[str, type[BaseModel]] = {
        **DATASETS,
        **NETWORKS,
        "experiment": Experiment,
        "protocol": Protocol,
    }
    refs, shared = models_json_schema([(model, "validation") for model in models.values()])
    definitions: Schema = shared["$defs"]

    def body(model: type[BaseModel]) -> Schema:
        """Return the definition of a model."""
        ref: str = refs[model, "validation"]["$ref"]
        definition: Schema = definitions[ref.rpartition("/")[2]]
        return definition

    for model in models.values():  # `network` and the presets supply what is missing
        if model is not Experiment:
            definition = body(model)
            required = definition.pop("required", [])
            if definition.get("additionalProperties"):  # or it would accept any other network's
                names = ("network", *required)
                definition["anyOf"] = [{"required": [name]} for name in names]
    experiment = body(Experiment)
    fields: Schema = experiment["properties"]
    network = _one_of(NETWORKS, "network", body, refs)
    fields |= {
        "dataset": _one_of(DATASETS, "name", body, refs),
        "network": network,
        "teacher": {"anyOf": [network, {"type": "string", "pattern": "^models:/"}]},
        "students": {**fields["students"], "items": network, "minItems": 1},
        "pairs": {**fields["pairs"], "minItems": 1},
        "protocol": {"anyOf": [{"enum": [*PRESETS, *ALIASES]}, refs[Protocol, "validation"]]},
        "methods": {**fields["methods"], "items": _method()},
        **{
            name: {"anyOf": [{"type": "string"}, fields[name]]}
            for name in ("claims", "secondary_claims")
        },
        "epochs_scale": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1000},
    }
    definitions["Pair"]["properties"] |= {"teacher": network, "student": network}
    tasks = definitions["Tasks"]["properties"]
    for dimension in ("overlap", "shots"):  # a number alone is a list of one
        tasks[dimension] = {"anyOf": [tasks[dimension], tasks[dimension]["items"]]}
    tasks["order"]["anyOf"].append({"type": "string", "pattern": r"\.ya?ml$"})
    body(Protocol)["properties"]["preset"] = {"enum": [*PRESETS, *ALIASES]}
    fields["extends"] = {"type": "string", "pattern": r"\.ya?ml$"}
    experiment["required"] = ["name"]
    experiment["if"] = {"required": ["extends"]}
    experiment["else"] = {
        "required": ["dataset"],
        "oneOf": [{"required": ["teacher", "students"]}, {"required": ["pairs"]}],
    }
    _nullable(experiment)
    return {"$schema": DIALECT, "$defs": definitions, **refs[Experiment, "validation"]}


def _one_of(registry: Mapping[str, Any], key: str, body: Any, refs: Any) -> Schema:
    """Return the schema of a name in the registry, or of its options."""
    choices = []
    for name, options in registry.items():
        body(options)["properties"][key] = {"const": name}
        choices.append(refs[options, "validation"])
    return {"anyOf": [{"enum": [*registry]}, *choices]}


def _method() -> Schema:
    """Return the schema of a method: a name, with any sum or factor, or a mapping."""
    names = {"anyOf": [{"enum": [*REGISTRY]}, {"type": "string", "pattern": r"^[\w+-]+[(@+].*$"}]}
    mapping = {
        "type": "object",
        "required": ["method"],
        "properties": {
            "method": names,
            "epochs": {"anyOf": [{"const": "both"}, {"type": "number", "exclusiveMinimum": 0}]},
            "label": {"type": "string"},
        },
    }
    return {"anyOf": [*names["anyOf"], mapping]}


def _nullable(experiment: Schema) -> None:
    """Make fields nullable whose default is null, as in `tasks: null`."""
    for name, field in experiment["properties"].items():
        if "default" in field and field["default"] is None and "anyOf" not in field:
            experiment["properties"][name] = {"anyOf": [field, {"type": "null"}]}


def schema_text() -> str:
    """Return the schema as JSON text."""
    return json.dumps(schema(), indent=1)
