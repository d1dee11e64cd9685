"""A denoising network of any model family with everything its walks need: prediction, noise, sampler, conditioning."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.diffusion import prediction
from quantlab.diffusion.conditioning import Classes, Condition, Conditioning
from quantlab.diffusion.guidance import guided
from quantlab.diffusion.rollout import Conditional, Network, Progress, seeded_normal
from quantlab.diffusion.samplers import Walk
from quantlab.run.state import tensors_digest

# (network, condition of N rows) -> (x [N, C, H, W], timestep) -> its prediction [N, C, H, W]
Call = Callable[[nn.Module, Condition], Callable[[Tensor, float], Tensor]]
# (states [N, ...] on the CPU, device to work on, progress over batches) -> images [N, ...] on the CPU
Decoder = Callable[[Tensor, torch.device | str, Progress], Tensor]


def call_unet(unet: nn.Module, condition: Condition) -> Callable[[Tensor, float], Tensor]:
    """The call of a UNet2DModel, and of every network that takes its condition as keyword arguments."""

    def called(x: Tensor, t: float) -> Tensor:
        output: Tensor = unet(x, time_input(t), **condition).sample
        return output

    return called


class Denoiser(nn.Module):
    """A denoising network, the noise schedule that it was trained with, and its sampler.

    unet: the network; shape: of the states that it walks through, (C, H, W); alphas_cumprod: abar, of a flow sigma,
    float [train_timesteps]; sampler: the walk, which knows the network's kind of prediction; conditioning: what the
    network is called with besides x and t, None for an unconditional one; call: how it is called; decoder: what makes
    images of the states at the ends of walks, None where they are images.
    """

    kind = "denoiser"
    has_weights = False  # False: full-precision weights are still to be trained
    weights_from: str | None = None  # where weights were loaded from, for messages
    notes: Sequence[str] = ()  # for the user, on how the model was read
    time_scale: float = 1  # of the timesteps of walks, as the network takes them
    is_half = False  # whether it computes in float16, in which small gradients vanish
    alphas_cumprod: Tensor

    def __init__(
        self,
        unet: nn.Module,
        shape: tuple[int, int, int],
        alphas_cumprod: Tensor,
        sampler: Walk,
        conditioning: Conditioning | None = None,
        call: Call = call_unet,
        decoder: Decoder | None = None,
    ):
        super().__init__()
        self.unet, self.shape = unet, shape
        self.sampler, self.conditioning, self.call, self.decoder = sampler, conditioning, call, decoder
        self.register_buffer("alphas_cumprod", alphas_cumprod.float(), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The training loss (a scalar): data-parallel wrappers hook `forward`."""
        return self.training_loss(batch)

    def training_loss(self, batch: dict[str, Tensor], noise: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Mean squared error of the network's prediction at random timesteps (Ho et al. 2020, Eq. 14).

        batch["image"]: [N, C, H, W]; batch["label"]: int64 [N], if the network is class-conditional. In training mode a
        share of the labels is dropped.
        """
        x0 = batch["image"]
        t = torch.randint(len(self.alphas_cumprod), (len(x0),), device=x0.device) if t is None else t
        noise = torch.randn_like(x0) if noise is None else noise
        kind, level = self.sampler.prediction, self.alphas_cumprod[t][:, None, None, None]
        x = prediction.noised(x0, noise, level, kind)
        told = t + 1 if kind == "flow" else t  # a flow's sigma is its timestep over their number
        out: Tensor = self.unet(x, told, **self._training_condition(batch)).sample
        return (out - prediction.target(kind, x0, noise, level)).square().mean()

    def _training_condition(self, batch: dict[str, Tensor]) -> Condition:
        if not isinstance(self.conditioning, Classes):
            return {}
        return self.conditioning.of_training(batch["label"], drops=self.training)

    @torch.no_grad()
    def validation_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The training loss at fixed noise and evenly spaced timesteps, so that checkpoints compare."""
        x0 = batch["image"]
        t = torch.linspace(0, len(self.alphas_cumprod) - 1, len(x0)).long().to(x0.device)
        return self.training_loss(batch, seeded_normal(x0.shape, 0).to(x0), t)

    # walks -----------------------------------------------------------------------------------------------------------
    def condition(self, count: int, seed: int) -> Condition:
        """The condition of `count` walks, on the CPU, drawn by `seed`; empty for an unconditional network."""
        return {} if self.conditioning is None else self.conditioning.draw(count, seed)

    @property
    def is_guided(self) -> bool:
        return self.conditioning is not None and self.conditioning.guidance.scale != 1

    def guide(self, conditional: Conditional) -> Conditional:
        """`conditional`, this network or a quantized copy of it, with this model's guidance."""
        if self.conditioning is None or not self.is_guided:
            return conditional
        return guided(conditional, self.conditioning.guidance, self.conditioning.null())

    def network(self) -> Conditional:
        """The full-precision network with guidance, as walks use it."""
        return self.guide(self.unguided())

    def unguided(self) -> Conditional:
        """The full-precision network without guidance."""
        return network_of(self.unet, self.call)

    @property
    def passes(self) -> int:
        """Network evaluations in one denoising step."""
        return 2 if self.is_guided else 1

    def release(self) -> None:
        """Let go of the full-precision weights, where `network` can fetch them again."""

    def prepare(self, cache: Any, device: torch.device | str) -> None:
        """What is to be there before walks, beside the weights: see `Conditioning.prepare`."""
        if self.conditioning is not None:
            self.conditioning.prepare(cache, device)

    def images(self, x: Tensor, device: torch.device | str = "cpu", progress: Progress = iter) -> Tensor:
        """The images that the ends of walks stand for: float32 [N, ...], nominally in [-1, 1], on the CPU; x: as many,
        there too.
        """
        return x if self.decoder is None else self.decoder(x, device, progress)

    def decoding(self) -> AbstractContextManager[None]:
        """Inside, a decoder stays loaded between calls of `images`."""
        return getattr(self.decoder, "kept", nullcontext)()

    def weights(self) -> nn.Module:
        """The part of this model that checkpoints store."""
        return self.unet

    def fingerprint(self) -> str:
        """sha256 (hex) of everything that determines the network's output and noise: weights, alphas, and the config,
        under which the same weights may be another function.
        """
        config: Any = self.unet.config  # of every network of diffusers
        config = {name: value for name, value in config.items() if not name.startswith("_")}
        facts = [tensors_digest(self.unet.state_dict()), config, self.alphas_cumprod.tolist()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def network_of(unet: nn.Module, call: Call = call_unet) -> Conditional:
    """`unet` as walks call it: for a condition, its output at x [N, C, H, W] and timestep t."""

    def given(condition: Condition) -> Network:
        called = call(unet, condition)
        return lambda x, t, i: called(x, t)

    return given


def time_input(t: float) -> float | Tensor:
    """The timestep t as networks of diffusers take it: of a plain number UNet2DModel would cut a fraction off."""
    return t if t == int(t) else torch.tensor(t)
