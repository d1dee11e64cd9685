"""A pipeline's networks: built from their config, with the weights that lie beside it."""

from typing import Any

import torch
from torch import nn

from quantlab.errors import RequestError
from quantlab.models.diffusers_denoiser import current_state_dict
from quantlab.models.diffusers_directory import KEY, NetworkFolder
from quantlab.models.timm_classifier import first_line
from quantlab.models.weight_names import match


def build(found: NetworkFolder, name: str) -> nn.Module:
    """The network of diffusers' class `name` that the folder's config describes, without weights: its parameters take
    no memory. Raises RequestError if diffusers cannot build it.
    """
    import diffusers
    from accelerate import init_empty_weights

    config = {key: value for key, value in found.network.items() if not key.startswith("_")}
    made: Any = getattr(diffusers, name)
    try:
        with init_empty_weights(include_buffers=False):
            network: nn.Module = made.from_config(config)
    except (ArithmeticError, LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(
            f"{KEY}: {found.folder / 'config.json'}: diffusers cannot build this {name} ({first_line(error)}); correct"
            " it"
        ) from error
    setattr(network, "current_state_dict", current_state_dict)  # noqa: B010
    return network.eval().requires_grad_(False)


def load(network: nn.Module, found: NetworkFolder) -> tuple[str, list[str]]:
    """Give `network` the weights of the folder, as float32; the file, and what was different in it, for the user.

    Raises RequestError as `weights.read` and `weight_names.match`.
    """
    tensors, file = found.weights()
    matched = match(tensors, network, f"{KEY}: {file}")
    tensors = {name: one.float() if one.is_floating_point() else one for name, one in matched.tensors.items()}
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(False)
    return (f"{file}, revision {found.root.name} of {found.hub}" if found.hub else str(file)), matched.notes


def move(network: nn.Module, device: torch.device | str) -> None:
    """Put the weights on `device`; on `meta` they are let go of, and the network keeps its shape. They are new
    parameters: another network that shares them keeps its own.
    """
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.detach().to(device), requires_grad=False))
