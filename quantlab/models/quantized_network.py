"""A network that is quantized as the description of its file says (`model_file`), its tensors still blank; and of one
quantized after training, which activation scales a call takes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.config import instantiate
from quantlab.config.sections import section_of
from quantlab.diffusion.latents import packed
from quantlab.errors import CorruptFileError
from quantlab.models.diffusers_denoiser import shortcut_splits
from quantlab.quantizers.insert import drop_float_weights, insert
from quantlab.quantizers.uniform_affine import GroupPointer
from quantlab.run.formats import with_added_keys


def quantize_as_described(network: nn.Module, facts: Mapping[str, Any], bias: Tensor | None) -> None:
    """Put the quantizers that `facts` describe into `network`, in place. bias: of one whose output is corrected, a
    tensor of the size of `output_bias`, float [steps, C, 1, 1] or [steps, C, H, W].
    """
    section = described_section(facts["quantizer"])
    if section.kind == "training":
        insert(network, instantiate(section, learn_weight_scale=False))
        return
    timesteps, group_size = facts["timesteps"], facts["group_size"]
    pointer = GroupPointer(-(-len(timesteps) // group_size))
    insert(network, instantiate(section, pointer=pointer), shortcut_splits(network))
    drop_float_weights(network)
    walked: Any = network  # whose attribute this is, so that a copy of the network has its own
    walked.walked_steps = WalkedSteps(timesteps, group_size, pointer, facts.get("bias_steps") or ())
    network.register_forward_pre_hook(_choose_scales, with_kwargs=True)
    if walked.walked_steps.bias_steps:
        network.register_buffer("output_bias", bias)
        network.register_forward_hook(_correct_output)


def described_section(plain: dict[str, Any]) -> Any:
    """The typed section of a file's header. Only classes on the allowlist are ever built."""
    target = plain["_target_"]
    section = section_of(target)
    if section is None:
        raise CorruptFileError(f"the file names {target}, which may not be instantiated")
    return section.model_validate(with_added_keys(plain))


class WalkedSteps:
    """Which denoising steps the calls of a network are: the nearest to their timesteps. Of steps at one timestep, as
    PNDM's second and third, calls that follow one another are one after the other.

    timesteps: of the steps; group_size: how many of them share a set of activation scales; pointer: to the set that
    the quantizers take; bias_steps: those whose output is corrected, in the order of the rows of `output_bias`.
    """

    def __init__(
        self,
        timesteps: list[int | float],
        group_size: int,
        pointer: GroupPointer | None = None,
        bias_steps: tuple[int, ...] | list[int] = (),
    ):
        self.timesteps, self.group_size = timesteps, group_size
        self.pointer = pointer or GroupPointer(-(-len(timesteps) // group_size))
        self.bias_steps = list(bias_steps)
        self.steps: list[int] = []  # of the last call, one for each of its timesteps

    def call(self, t: int | float | Tensor) -> None:
        """Take the scales of the call at t. Raises: ValueError for timesteps of several sets in one batch."""
        before, self.steps = self.steps, [self._nearest(one) for one in torch.as_tensor(t).reshape(-1).tolist()]
        first = self.steps[0]
        alike = [i for i, one in enumerate(self.timesteps) if one == self.timesteps[first]]
        if len(alike) > 1 and before and before[0] in alike and len(set(self.steps)) == 1:
            following = alike[(alike.index(before[0]) + 1) % len(alike)]
            self.steps = [following] * len(self.steps)
        groups = {step // self.group_size for step in self.steps}
        if len(groups) > 1:
            several = sorted({self.timesteps[step] for step in self.steps})
            raise ValueError(f"timesteps {several} of one batch have different activation scales")
        self.pointer.index = groups.pop()

    def _nearest(self, t: float) -> int:
        return min(range(len(self.timesteps)), key=lambda i: abs(self.timesteps[i] - t))

    def biases(self, rows: Tensor) -> Tensor | None:
        """Of every timestep of the last call what corrects its output, zeros where nothing does; None where nothing
        does at any.
        """
        if not set(self.bias_steps) & set(self.steps):
            return None
        none = torch.zeros_like(rows[0])
        return torch.stack([rows[self.bias_steps.index(i)] if i in self.bias_steps else none for i in self.steps])


def _choose_scales(network: Any, args: tuple, kwargs: dict) -> None:
    network.walked_steps.call(kwargs["timestep"] if "timestep" in kwargs else args[1])


def _correct_output(network: Any, args: tuple, output: Any) -> Any:
    biases = network.walked_steps.biases(network.output_bias)
    if biases is not None:
        add_bias(output["sample" if isinstance(output, dict) else 0], biases)
    return output


def add_bias(output: Tensor, biases: Tensor) -> None:
    """Add `biases`, [N, C, 1, 1] or [N, C, H, W], to a network's output in place: [N, C or more, H, W], of which the
    first C channels are the prediction, or [N, L, 4 C], squares of two by two.
    """
    if output.ndim == 3:
        height, width = (max(side, 2) for side in biases.shape[-2:])
        output.add_(packed(biases.expand(*biases.shape[:2], height, width)))
    else:
        output[:, : biases.shape[1]].add_(biases)
