"""Any image classifier of timm (Wightman 2019, "PyTorch Image Models") by name: ResNets, MobileNets, DeiT, ...

The network is timm's own, not wrapped: layers and state dict keep timm's names, so that timm's .safetensors files load
through `model.weights`. `kind`, `training_loss` and `class_layers` are added.
"""

import textwrap
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.errors import RequestError, did_you_mean
from quantlab.models.weights import require_finite

WEIGHTS = "model.safetensors"  # timm would fall back to the pickled pytorch_model.bin


def cross_entropy(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy (nats) of `batch["image"]` `[N, C, H, W]` against `batch["label"]` int64 `[N]`."""
    return F.cross_entropy(network(batch["image"]), batch["label"])


def build_timm_classifier(section: Any, task: Any, key: str = "model") -> nn.Module:
    """The network `section.architecture`, `[N, channels, H, W]` to `[N, classes]`, for the images of `task`. key: the
    section's place in the config.

    Raises RequestError for a name unknown to timm, images that the network does not accept, or unavailable weights.
    """
    import timm

    require_known(section.architecture, f"{key}.architecture")
    facts = timm.get_pretrained_cfg(section.architecture)
    options = {"num_classes": task.classes, "in_chans": task.channels}
    if facts is not None and facts.fixed_input_size and task.image_size != facts.input_size[-1]:
        options["img_size"] = task.image_size
    file = None
    if section.pretrained:
        file = fetch_weights(
            section.architecture, f"{key}.pretrained", f"{key}.pretrained=false {key}.weights=FILE, a .safetensors file"
        )
    if file is not None:
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": file}}
    try:
        network = timm.create_model(section.architecture, **options)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise RequestError(
            f"{key}.architecture: timm cannot build '{section.architecture}' for {_images(task)} "
            f"({first_line(error)}); choose another task.image_size or {key}.architecture"
        ) from error
    if section.pretrained:
        require_finite(network.state_dict(), f"{key}.pretrained: {section.architecture}")
    _check_images(network, section, task, key)
    network.kind = "classifier"
    network.training_loss = MethodType(cross_entropy, network)
    network.weights_from = file
    classifier = getattr(network, "pretrained_cfg", {}).get("classifier")
    network.class_layers = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    # With other classes the classifier is new, and the recipe continues training from timm's weights, once
    network.has_weights = section.pretrained and task.classes == facts.num_classes
    return network


def require_known(architecture: str, key: str) -> None:
    """Raises RequestError, under the name `key`, unless timm has `architecture`, including its tag if given."""
    import timm

    # is_model() would ignore a tag that does not exist
    known = timm.list_models()
    if architecture in known or architecture in timm.list_pretrained():
        return
    name = architecture.split(".")[0]
    near = did_you_mean(architecture, timm.list_pretrained(f"{name}.*") if name in known else known)
    raise RequestError(
        f"{key}: timm {timm.__version__} has no '{architecture}'"
        + (
            f"{near} Type {key}={near.split(chr(39))[1]}"
            if near
            else f"; type {key}=resnet18, or another name of timm.list_models()"
        )
    )


def _check_images(network: nn.Module, section: Any, task: Any, key: str) -> None:
    """Run one black image through the network, so that mismatches fail before any work."""
    embed = getattr(network, "patch_embed", None)
    for patch in {*(getattr(embed, "patch_size", None) or ())}:
        # timm would silently drop rows and columns that fill no patch
        if task.image_size % patch:
            fitting = max(round(task.image_size / patch), 1) * patch
            raise RequestError(
                f"task.image_size: got {task.image_size}, allowed for {section.architecture}: multiples of its "
                f"patches' {patch}; type task.image_size={fitting}"
            )
    try:
        with torch.no_grad():
            shape = tuple(network.eval()(torch.zeros(1, task.channels, task.image_size, task.image_size)).shape)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(
            f"{key}.architecture: '{section.architecture}' does not take {_images(task)} ({first_line(error)}); "
            f"choose another task.image_size or {key}.architecture"
        ) from error
    if shape != (1, task.classes):
        raise RequestError(
            f"{key}.architecture: '{section.architecture}' puts out {list(shape)} for one image, not the logits "
            f"of {task.classes} classes; type {key}.architecture=resnet18, or another classifier's name"
        )
    network.train()


def fetch_weights(architecture: str, key: str, remedy: str) -> str:
    """Path of timm's weights of `architecture`, from the hub or its local cache. Raises RequestError, which begins with
    `key` and ends with what to type instead, if there are none.
    """
    import timm
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging as hub_logging

    facts = timm.get_pretrained_cfg(architecture)
    if facts is None or not facts.hf_hub_id:
        raise RequestError(f"{key}: timm has no weights of '{architecture}' on the hub; type {remedy}")
    hub_logging.set_verbosity_error()  # otherwise the hub announces each retry
    source = facts.hf_hub_id
    try:
        return hf_hub_download(source, WEIGHTS)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{key}: {source}/{WEIGHTS} is neither in the local hub cache nor could it be fetched "
            f"({first_line(error)}); type {remedy}"
        ) from error


def _images(task: Any) -> str:
    return f"{task.channels} x {task.image_size} x {task.image_size} images"


def first_line(error: Exception) -> str:
    """The first line of `error`'s message, cut at 160 characters; its class if there is no message."""
    text = str(error).strip()
    return textwrap.shorten(text.splitlines()[0], 160, placeholder=" ...") if text else type(error).__name__
