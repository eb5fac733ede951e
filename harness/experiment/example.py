"""`harness init`: an experiment file to start from."""

from __future__ import annotations

from pathlib import Path

from harness.common.errors import UserError, nearest
from harness.common.files import write_user_file
from harness.experiment.file import parse
from harness.experiment.plain_yaml import parse_yaml
from harness.experiment.schema import schema_text

SCHEMA = "schema.json"  # beside the experiment files
EXAMPLE = """\
# yaml-language-server: $schema={schema}
# All fields and their defaults: docs/experiments.md. Omitted fields keep their default.
name: {name}                     # becomes the MLflow experiment
description: A teacher, plain students and distilled ones.
dataset: {{name: digits}}           # or cifar100, cub200, folder, ..: docs/data.md
# tasks: {{shots: [5, 20]}}         # fewer images, or other classes: docs/tasks.md
network: {network:<24} # or another: docs/experiments.md#networks
teacher: {{{teacher}}}
students: [{{{student}}}]
methods:                          # docs/methods.md
  - plain
  - kd
  # - {{method: kd, kd: {{temperature: [2, 8]}}}}   # a sweep: one row per value
  - refilled
optimizer: {{batch_size: 64}}
training: {{epochs: 20, lr: 0.1}}   # the teacher, and students of one stage
kd: {{temperature: 4, alpha: 0.9}}
stage1: {{epochs: 20, relation: tuple, tau1: 4}}
stage2: {{epochs: 20, tau2: 2, lambd: 10}}
protocol: strict                  # or legacy-2021, as published: docs/protocol.md
seeds: [0, 1, 2]
claims: [refilled > plain]        # tested by `harness verdicts`: docs/verdicts.md
"""
# Network -> a teacher and a student.
NETWORKS = {
    "wide_resnet": ("depth: 16, width: 2", "depth: 10, width: 1"),
    "resnet": ("depth: 20", "depth: 8"),
    "mobile_net": ("ca: 1.0", "ca: 0.5"),
    "repdistiller": ("name: resnet32x4", "name: resnet8x4"),
    "torchvision": ("name: resnet18, stem: small", "name: shufflenet_v2_x0_5, stem: small"),
    "timm": ("name: resnet18, stem: small", "name: mobilenetv3_small_050, input_size: data"),
}


def write_example(name: str, folder: Path, network: str = "wide_resnet") -> Path:
    """Write FOLDER/NAME.yaml and, beside it, the schema that its first line names.

    Args:
        name: the experiment's.
        folder: where its file will be.
        network: that of teacher and students, one of NETWORKS.

    Returns:
        The path of the experiment file.

    Raises:
        UserError: an experiment cannot have that name, the file exists, or there is no such
            network.
    """
    if network not in NETWORKS:
        raise UserError(f"--network: unknown {network!r}{nearest(network, NETWORKS)}")
    teacher, student = NETWORKS[network]
    text = EXAMPLE.format(
        name=name, schema=SCHEMA, network=network, teacher=teacher, student=student
    )
    parse(parse_yaml(text), "the example")  # reports a bad name
    path = folder / f"{name}.yaml"
    if path.exists():
        raise UserError(f"{path} exists already; choose another name, or delete it")
    write_user_file(path, text)
    if not (folder / SCHEMA).exists():
        write_user_file(folder / SCHEMA, schema_text() + "\n")
    return path
