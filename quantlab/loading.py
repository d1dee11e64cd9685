"""`quantlab.load`: the module that a run left, from what its file says, with neither config nor data."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.config import instantiate
from quantlab.config.sections import section_of
from quantlab.diffusion.latents import packed
from quantlab.errors import CorruptFileError
from quantlab.methods.ptq.quantized_denoiser import QuantizedDenoiser
from quantlab.models.model_file import load_tensors, read_description, require_described
from quantlab.models.weights import locate, read
from quantlab.quantizers.insert import insert
from quantlab.run.formats import with_added_keys

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
    scales of the denoising step that t is nearest to. No random number is drawn from torch's generator.

    Raises: RequestError where there is no such file, or it does not say what it holds; CorruptFileError.
    """
    file = locate(path, CALLER)
    tensors, _ = read(file, CALLER)
    facts = read_description(file)
    require_described(facts, file)
    with torch.random.fork_rng(devices=[]):
        try:
            network = _quantized(_network(facts["architecture"]), facts, tensors)
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(f"{file}: its header is damaged ({type(error).__name__}: {error})") from error
    load_tensors(network, tensors, str(file), facts)
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
    return instantiate(_section(architecture["model"]), task=SimpleNamespace(**architecture["task"]))


def _quantized(network: nn.Module, facts: dict[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """`network`, quantized as the file says; what the quantizers hold is still to be loaded."""
    if "quantizer" not in facts:
        return network
    section = _section(facts["quantizer"])
    if section.kind == "training":
        insert(network, instantiate(section, learn_weight_scale=False))
        return network
    timesteps = facts["timesteps"]
    denoiser = QuantizedDenoiser(network, section, len(timesteps), facts["group_size"])
    denoiser.drop_float_weights()
    if steps := facts.get("bias_steps"):
        denoiser.correct_output(dict.fromkeys(steps, tensors["output_bias"][0]))
    walked = WalkedSteps(timesteps)

    def choose_scales(unet: nn.Module, args: tuple, kwargs: dict) -> None:
        walked.call(_timestep(args, kwargs))
        denoiser.pointer.index = walked.group(facts["group_size"])

    def correct(unet: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        rows = denoiser.bias_rows
        if rows.keys() & set(walked.steps):
            none = torch.zeros_like(unet.output_bias[0])
            biases = torch.stack([unet.output_bias[rows[i]] if i in rows else none for i in walked.steps])
            add_bias(output["sample" if isinstance(output, dict) else 0], biases)
        return output

    denoiser.unet.register_forward_pre_hook(choose_scales, with_kwargs=True)
    if denoiser.bias_rows:
        denoiser.unet.register_forward_hook(correct, with_kwargs=True)
    return denoiser.unet


def add_bias(output: Tensor, biases: Tensor) -> None:
    """Add `biases`, [N, C, 1, 1] or [N, C, H, W], to a network's output in place: [N, C or more, H, W], of which the
    first C channels are the prediction, or [N, L, 4 C], squares of two by two.
    """
    if output.ndim == 3:
        height, width = (max(side, 2) for side in biases.shape[-2:])
        output.add_(packed(biases.expand(*biases.shape[:2], height, width)))
    else:
        output[:, : biases.shape[1]].add_(biases)


def _timestep(args: tuple, kwargs: dict) -> Any:
    """Of a call of a UNet."""
    return kwargs["timestep"] if "timestep" in kwargs else args[1]


class WalkedSteps:
    """Which denoising steps the calls of a network are: the nearest to their timesteps. Of steps at one timestep, as
    PNDM's second and third, calls that follow one another are one after the other.
    """

    def __init__(self, timesteps: list[int | float]):
        self.timesteps = timesteps
        self.steps: list[int] = []  # of the last call, one for each of its timesteps

    def call(self, t: int | float | Tensor) -> None:
        before, self.steps = self.steps, [self._nearest(one) for one in torch.as_tensor(t).reshape(-1).tolist()]
        first = self.steps[0]
        alike = [i for i, one in enumerate(self.timesteps) if one == self.timesteps[first]]
        if len(alike) > 1 and before and before[0] in alike and len(set(self.steps)) == 1:
            following = alike[(alike.index(before[0]) + 1) % len(alike)]
            self.steps = [following] * len(self.steps)

    def _nearest(self, t: float) -> int:
        return min(range(len(self.timesteps)), key=lambda i: abs(self.timesteps[i] - t))

    def group(self, group_size: int) -> int:
        """The set of activation scales. Raises: ValueError for timesteps of several sets in one batch."""
        groups = {step // group_size for step in self.steps}
        if len(groups) > 1:
            several = sorted({self.timesteps[step] for step in self.steps})
            raise ValueError(f"timesteps {several} of one batch have different activation scales")
        return groups.pop()


def _section(plain: dict[str, Any]) -> Any:
    """The typed section of a file's header. Only classes on the allowlist are ever built."""
    target = plain["_target_"]
    section = section_of(target)
    if section is None:
        raise CorruptFileError(f"the file names {target}, which may not be instantiated")
    return section.model_validate(with_added_keys(plain))
