"""Make a network of timm, and find the weights that timm has a tag for."""

from __future__ import annotations

from typing import Any

from harness.common.errors import UserError, nearest
from harness.networks.foreign import NamedWeights, Normalisation
from harness.networks.timm import TimmOptions
from harness.networks.wrapped import Made, cached_file, call_builder

try:
    import timm
except ImportError:
    raise UserError(
        "network: timm is not installed; `pip install 'refilled-harness[timm]'`"
    ) from None

HUB_FILE = "model.safetensors"


def make(options: TimmOptions, n_classes: int) -> Made:
    """Return a network of timm with its configuration.

    Raises:
        UserError: There is none of that name, or it does not take these options.
    """
    name, settings = checked_name(options.name), options.builder_options
    builder = timm.models.model_entrypoint(name)
    module = call_builder(builder, f"timm's {name}", n_classes, settings)
    configuration: Any = module.pretrained_cfg
    _, height, width = configuration["input_size"]
    if "img_size" in settings:
        size = settings["img_size"]
        height, width = (size, size) if isinstance(size, int) else size
    features: Any = getattr(module, "feature_info", None) or []
    stages = [feature["module"] for feature in features]
    normalisation = Normalisation(mean=configuration["mean"], std=configuration["std"])
    return Made(module, (height, width), normalisation, tuple(stages))


def checked_name(name: str) -> str:
    """Return the name of a network of timm.

    Raises:
        UserError: There is none.
    """
    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        hint = near if "mean" in near else "; `timm.list_models()` names them"
        raise UserError(f"name: timm has no network {name!r}{hint}")
    return name


def find_weights(name: str, tag: str) -> NamedWeights:
    """Return the weights that timm has a tag for, such as a1_in1k.

    They are taken from the cache of the Hugging Face Hub, to which timm downloads, or from that of
    PyTorch.

    Raises:
        ValueError: There are none, or they are in neither.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(checked_name(name))]
    except UserError as error:
        raise ValueError(str(error)) from None
    if tag not in tags:
        raise ValueError(f"weights: timm has no {tag!r} of {name}{nearest(tag, tags)}")
    configuration: Any = timm.models.get_pretrained_cfg(f"{name}.{tag}")
    _, size, _ = configuration.input_size
    if hub := configuration.hf_hub_id:
        hub = f"{hub}{name}.{tag}" if hub.endswith("/") else hub
        path = try_to_load_from_cache(hub, HUB_FILE)
        if not isinstance(path, str):
            url = f"https://huggingface.co/{hub}/resolve/main/{HUB_FILE}"
            path = cached_file(tag, name, url, f"{name}.{tag}.safetensors")
    else:
        path = cached_file(tag, name, configuration.url)
    return NamedWeights(path, size, tuple(configuration.mean), tuple(configuration.std))
