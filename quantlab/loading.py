"""`quantlab.load`: the module that a run left, from what its file says, with neither config nor data."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from quantlab.config import instantiate
from quantlab.errors import CorruptFileError
from quantlab.models.model_file import load_tensors, read_description, require_described
from quantlab.models.quantized_network import described_section, quantize_as_described
from quantlab.models.weights import locate, read

CALLER = "quantlab.load"
# Of diffusers
NETWORKS = (
    "UNet2DModel",
    "UNet2DConditionModel",
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
)


def load_module(path: str | Path) -> nn.Module:
    """The model in `path`, a run's directory or its model.safetensors, in evaluation mode, on the CPU.

    A classifier takes images and gives logits, as in its run; a denoiser is the class of diffusers that it was, called
    as that, which its pipeline takes in place of its own, and one quantized after training chooses the activation
    scales of the denoising step that t is nearest to. No random number is drawn from torch's generator. Its
    `save_pretrained` leaves a directory that diffusers' `from_pretrained` loads.

    Raises: RequestError where there is no such file, or it does not say what it holds; CorruptFileError.
    """
    file = locate(path, CALLER)
    tensors, _ = read(file, CALLER)
    facts = read_description(file)
    require_described(facts, file)
    with torch.random.fork_rng(devices=[]):
        try:
            network = _network(facts["architecture"])
            if "quantizer" in facts:
                bias = tensors["output_bias"] if facts.get("bias_steps") else None
                quantize_as_described(network, facts, bias)
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(f"{file}: its header is damaged ({type(error).__name__}: {error})") from error
    load_tensors(network, tensors, str(file), facts)
    if "quantizer" in facts and facts["architecture"]["library"] == "diffusers":
        from quantlab.models.diffusers_quantizer import attach

        attach(network, facts)
    return network.eval().requires_grad_(False)


def _network(architecture: dict[str, Any]) -> nn.Module:
    """The network in full precision, its weights random."""
    if architecture["library"] == "diffusers":
        import diffusers

        name = architecture.get("class", NETWORKS[0])
        if name not in NETWORKS:
            raise CorruptFileError(f"the file names {name}, allowed: {', '.join(NETWORKS)}")
        made: nn.Module = getattr(diffusers, name).from_config(architecture["config"])
        return made
    return instantiate(described_section(architecture["model"]), task=SimpleNamespace(**architecture["task"]))
