"""A quantized copy of a denoiser's network, and which activation scales it walks with."""

import copy
import logging
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.config import instantiate
from quantlab.config.quantizers.uniform_affine import UniformAffine
from quantlab.diffusion.conditioning import Condition
from quantlab.diffusion.denoiser import Call, call_unet, network_of
from quantlab.diffusion.rollout import Conditional, Network
from quantlab.diffusion.trajectories import Trajectories
from quantlab.models.diffusers_denoiser import shortcut_splits
from quantlab.models.model_file import load_tensors
from quantlab.quantizers.calibration import calibrate_weights, observed_ranges
from quantlab.quantizers.insert import (
    drop_float_weights,
    insert,
    planned_bits,
    quantizable_layers,
    weight_quantized_layers,
)
from quantlab.quantizers.layers import describe_layers, survey
from quantlab.quantizers.policy import LayerBits
from quantlab.quantizers.presets import chosen
from quantlab.quantizers.uniform_affine import GroupPointer

logger = logging.getLogger("quantlab")

OLD_NAME = r"(.+)\.(weights|activations)\.([01])\.(codes|scale|zero_point|rounding|weight|log_scale\.\d+)"
NEW_NAMES = {"weights": "weight_quantizer", "activations": "activation_quantizer"}


class QuantizedDenoiser:
    """A quantized copy of a UNet and the pointer that tells its activation quantizers which group is being walked.

    section: of the quantizer. group_size: denoising steps per set of activation scales. call: how the network is
    called. Blank until calibrated or loaded.
    """

    def __init__(self, unet: nn.Module, section: UniformAffine, steps: int, group_size: int, call: Call = call_unet):
        self.group_size, self.call = group_size, call
        self.pointer = GroupPointer(-(-steps // group_size))
        # Its parameters are those of full precision, which nothing here changes, until they are let go of
        self.unet = copy.deepcopy(unet, {id(one): one for one in unet.parameters()}).eval().requires_grad_(False)
        self.bias_rows: dict[int, int] = {}  # by step, the row of `output_bias` that corrects the output there
        self.policy = instantiate(section, pointer=self.pointer)
        insert(self.unet, self.policy, shortcut_splits(unet))

    def say_of_preset(self, unet: nn.Module) -> None:
        """Log what the quantizer's preset holds in other bits than it quantizes to; `unet`: in full precision."""
        if not self.policy.preset_rules:
            return
        bits = planned_bits(unet, self.policy)
        left = {name: bits.get(name, LayerBits(32, 32)) for name in quantizable_layers(unet)}
        other = {name: one for name, one in left.items() if one != self.policy.whole}
        wide = [name for name in other if name not in bits]
        logger.info(
            "quantizer.preset=%s: of %d layers %d stay in full precision (%s), %d have other bits than the rest",
            chosen(self.policy.preset, unet),
            len(left),
            len(wide),
            ", ".join(wide[:3]) + ", ..." * (len(wide) > 3),
            len(other) - len(wide),
        )

    def describe(self, unet: nn.Module, x: Tensor, condition: Condition) -> dict[str, dict]:
        """Facts of layers.json; `unet` is the network in full precision, x [N, C, H, W] one of its inputs, with its
        condition.
        """
        return describe_layers(
            survey(unet, lambda: network_of(unet, self.call)(condition)(x, 0, 0)),
            self.unet,
            self.policy,
            lambda: self.network(condition)(x, 0, 0),
        )

    def network(self, condition: Condition) -> Network:
        """The quantized UNet for walks, without guidance."""
        called = self.call(self.unet, condition)

        def network(x: Tensor, t: float, i: int) -> Tensor:
            self.pointer.index = i // self.group_size
            output = called(x, t)
            row = self.bias_rows.get(i)
            return output if row is None else output + self.unet.output_bias[row]

        return network

    def correct_output(self, biases: dict[int, Tensor]) -> None:
        """Add to the output at step i `biases[i]`, float [C, 1, 1] or [C, H, W], from now on."""
        device = next(self.unet.parameters()).device
        self.unet.register_buffer("output_bias", torch.stack(list(biases.values())).to(device))
        self.bias_rows = {i: row for row, i in enumerate(biases)}

    def snapshot(self) -> "QuantizedDenoiser":
        """A copy that later learning does not touch, without the float weights. It shares what stays: parameters in
        full precision and codes, in whose place learned rounding puts others.
        """
        layers = weight_quantized_layers(self.unet).values()
        shared = [*(one for one in self.unet.parameters() if not one.requires_grad), *(one.weight for one in layers)]
        shared = [one for one in shared if one.ndim]  # scales of inputs, which have no dimensions, are learned
        shared += [one for layer in layers for one in layer.weight_quantizer.buffers()]
        twin = copy.deepcopy(self, {id(one): one for one in shared})
        twin.drop_float_weights()
        return twin

    def drop_float_weights(self) -> None:
        """The rounding of every weight is fixed, or learned from now on."""
        drop_float_weights(self.unet)

    def load(self, tensors: Mapping[str, Tensor], source: str, facts: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Take what `unet.state_dict()` gave, of this version or of one before it; or what a file with these `facts`
        holds. Raises RequestError, which names the `source`, where it does not fit.
        """
        self.drop_float_weights()
        load_tensors(self.unet, present_names(tensors), source, facts)

    @torch.no_grad()
    def calibrate(
        self,
        trajectories: Trajectories,
        guide: Callable[[Conditional], Conditional],
        samples: int,
        batch_size: int,
        device,
    ) -> None:
        """Ranges only: weights first, then the activations of each group from full-precision states of its steps, of
        `samples` walks, `batch_size` at a time.

        The activations are observed with quantized weights and unquantized activations (as Q-Diffusion initialises
        them).
        """
        calibrate_weights(self.unet)
        sampler = trajectories.sampler
        with observed_ranges(self.unet):
            for rows in trajectories.batches(samples, batch_size):
                network = guide(self.network)(trajectories.condition_of(rows, device))
                for i in sampler.active(range(len(sampler))):
                    x = trajectories.state(i, rows).x.to(device)
                    network(sampler.network_input(i, x), sampler.timesteps[i], i)


def present_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a quantized UNet as they are called now. Earlier a layer had lists of quantizers, of its parts or of
    one: `weights.0.codes`, `activations.0.zero_point`, and `weights.0.weight` of one in full precision.
    """
    old = {key: match.groups() for key in tensors if (match := re.fullmatch(OLD_NAME, key))}
    split = {(layer, kind) for layer, kind, part, _ in old.values() if part == "1"}
    named = {key: tensor for key, tensor in tensors.items() if key not in old}
    for key, (layer, kind, part, rest) in old.items():
        of_part = f"parts.{part}." if (layer, kind) in split else ""
        if (kind, rest) != ("weights", "weight"):
            named[f"{layer}.{NEW_NAMES[kind]}.{of_part}{rest}"] = tensors[key]
        elif part == "0":
            pieces = [tensors[key], *([tensors[f"{layer}.weights.1.weight"]] if of_part else [])]
            named[f"{layer}.weight"] = torch.cat(pieces, dim=1)
    return named
