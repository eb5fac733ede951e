"""Check an experiment's networks before anything trains, in a process of its own.

Networks of libraries and of the user's are known once they are built, which takes seconds of
imports, and code that is not the project's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.common.errors import UserError
from harness.data import Dataset
from harness.execute.child import in_child
from harness.experiment.experiment import Experiment
from harness.methods.base import Method
from harness.networks.foreign import ForeignOptions
from harness.networks.options import NetworkOptions


def check_networks(
    experiment: Experiment, dataset: Dataset, methods: Iterable[Method] | None = None
) -> list[str]:
    """Check that the networks can be built, take the images and suit the methods.

    Args:
        experiment: The experiment.
        dataset: Its data, whose images the networks get.
        methods: By default the experiment's.

    Returns:
        Lines on networks for which the images are scaled.

    Raises:
        UserError: One cannot; the message names it.
    """
    fields = {
        field: network
        for field, network in _fields(experiment)
        if network.weights or isinstance(network, ForeignOptions)
    }
    if not fields:
        return []
    try:
        known = in_child(examine, fields, *dataset.image_size)
    except RuntimeError as error:  # code that is not the project's has ended the process
        raise UserError(f"network: {error}") from None
    try:
        for method in methods or experiment.resolved_methods:
            experiment.check_networks(method, known)
    except ValueError as error:
        raise UserError(error) from None
    height, width = dataset.image_size
    return [
        f"{network.label} gets images of {size}x{size} pixels, to which those of {width}x{height} "
        "are scaled; `input_size: data` keeps them"
        for network in known.values()
        if isinstance(network, ForeignOptions)
        and isinstance(size := network.input_size, int)
        and dataset.image_size != (size, size)
    ]


def _fields(experiment: Experiment) -> Iterable[tuple[str, NetworkOptions]]:
    """Yield the networks with their fields in the experiment."""
    if experiment.teacher is None:
        for i, pair in enumerate(experiment.pairs):
            yield f"pairs.{i}.teacher", pair.teacher
            yield f"pairs.{i}.student", pair.student
        return
    yield "teacher", experiment.teacher
    for i, student in enumerate(experiment.students):
        yield f"students.{i}", student


def examine(
    fields: Mapping[str, NetworkOptions], height: int, width: int
) -> dict[NetworkOptions, NetworkOptions]:
    """Return what `harness.networks.check.examine` finds of networks, given by their fields.

    The child imports torch, and each library once.

    Raises:
        UserError: See there; the message names the field.
    """
    from harness.networks.check import examine

    known: dict[NetworkOptions, NetworkOptions] = {}
    for field, network in fields.items():
        try:
            known[network] = known.get(network) or examine(network, height, width)
        except UserError as error:
            option = str(error).partition(":")[0]
            is_named = option in {*type(network).model_fields, *(network.model_extra or {})}
            raise UserError(f"{field}{'.' if is_named else ': '}{error}") from None
    return known
