"""A quantized copy of a denoiser's network, and which activation scales it walks with."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from quantlab.diffusion.denoiser import network_of
from quantlab.diffusion.rollout import Condition, Conditional, Network
from quantlab.diffusion.trajectories import Trajectories
from quantlab.models.diffusers_denoiser import shortcut_splits
from quantlab.quantizers import wrap
from quantlab.quantizers.activation import GroupPointer
from quantlab.quantizers.layers import describe_layers, survey


class QuantizedDenoiser:
    """A quantized copy of a UNet and the pointer that tells its activation quantizers which group is being walked.

    group_size: denoising steps per set of activation scales. Blank until calibrated or loaded.
    """

    def __init__(self, unet: nn.Module, policy: wrap.UniformAffinePolicy, steps: int, group_size: int):
        self.group_size = group_size
        self.pointer = GroupPointer(-(-steps // group_size))
        self.unet = copy.deepcopy(unet).eval().requires_grad_(False)
        self.policy = policy
        self.bias_rows: dict[int, int] = {}  # by step, the row of `output_bias` that corrects the output there
        self.originals = wrap.wrap(self.unet, policy, self.pointer, shortcut_splits(unet))

    def describe(self, unet: nn.Module, x: Tensor, condition: Condition) -> dict[str, dict]:
        """Facts of layers.json; `unet` is the network in full precision, x [N, C, H, W] one of its inputs, with its
        condition.
        """
        return describe_layers(
            survey(unet, lambda: network_of(unet)(condition)(x, 0, 0)),
            self.unet,
            self.policy,
            lambda: self.network(condition)(x, 0, 0),
        )

    def network(self, condition: Condition) -> Network:
        """The quantized UNet for walks, without guidance."""

        def network(x: Tensor, t: int, i: int) -> Tensor:
            self.pointer.index = i // self.group_size
            output = self.unet(x, t, **condition).sample
            row = self.bias_rows.get(i)
            return output if row is None else output + self.unet.output_bias[row]

        return network

    def correct_output(self, biases: dict[int, Tensor]) -> None:
        """Add to the output at step i `biases[i]`, float [C, 1, 1] or [C, H, W], from now on."""
        self.unet.register_buffer("output_bias", torch.stack(list(biases.values())))
        self.bias_rows = {i: row for row, i in enumerate(biases)}

    def snapshot(self) -> "QuantizedDenoiser":
        """A copy that later learning does not touch, without the float weights: about a quarter of the network's
        size.
        """
        originals, self.originals = self.originals, {}
        twin, self.originals = copy.deepcopy(self), originals
        return twin

    @torch.no_grad()
    def calibrate(
        self, trajectories: Trajectories, guide: Callable[[Conditional], Conditional], samples: int, device
    ) -> None:
        """Ranges only: weights first, then the activations of each group from full-precision states of its steps.

        The activations are observed with quantized weights and unquantized activations (as Q-Diffusion initialises
        them).
        """
        section = self.policy.section
        wrap.calibrate_weights(self.unet, self.originals, section)
        quantizers = wrap.activation_quantizers(self.unet)
        for quantizer in quantizers:
            quantizer.observe()
        rows, sampler = slice(samples), trajectories.sampler
        network = guide(self.network)(trajectories.told(rows, device))
        for i in sampler.moving(range(len(sampler))):
            x = trajectories.state(i, rows).x.to(device)
            network(sampler.network_input(i, x), sampler.timesteps[i], i)
        for quantizer in quantizers:
            quantizer.calibrate(section.activation.scale_search, section.p)
