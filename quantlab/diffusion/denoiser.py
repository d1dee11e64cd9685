"""A denoising network of any model family with everything its walks need: prediction, noise, sampler, conditioning."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.diffusion import prediction
from quantlab.diffusion.guidance import guided
from quantlab.diffusion.rollout import Condition, Conditional, Network, seeded_normal
from quantlab.diffusion.samplers import Walk
from quantlab.run.state import tensors_digest


@dataclass(frozen=True)
class Classes:
    """Class conditioning of a network: how many classes, the index of the null class (None: there is none), and how
    walks are guided.
    """

    count: int
    null_class: int | None
    scale: float = 1.0  # g of classifier-free guidance
    batched: bool = True  # both outputs from one pass
    # share of training images whose class is replaced by the null class (Ho and Salimans 2022, Alg. 1: p_uncond)
    dropout: float = 0.1


class Denoiser(nn.Module):
    """A denoising network, the noise schedule that it was trained with, and its sampler.

    unet: any network called as unet(x, t, **condition).sample; alphas_cumprod: abar, of a flow sigma, float
    [train_timesteps]; sampler: the walk, which knows the network's kind of prediction; classes: of a class-conditional
    network.
    """

    kind = "denoiser"
    has_weights = False  # False: full-precision weights are still to be trained
    weights_from: str | None = None  # where weights were loaded from, for messages
    notes: Sequence[str] = ()  # for the user, on how the model was read
    alphas_cumprod: Tensor

    def __init__(self, unet: nn.Module, alphas_cumprod: Tensor, sampler: Walk, classes: Classes | None = None):
        super().__init__()
        self.unet = unet
        self.sampler, self.classes = sampler, classes
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
        if self.classes is None:
            return {}
        labels, null_class = batch["label"], self.classes.null_class
        if self.training and null_class is not None:
            labels = torch.where(
                torch.rand(len(labels), device=labels.device) < self.classes.dropout, null_class, labels
            )
        return {"class_labels": labels}

    @torch.no_grad()
    def validation_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The training loss at fixed noise and evenly spaced timesteps, so that checkpoints compare."""
        x0 = batch["image"]
        t = torch.linspace(0, len(self.alphas_cumprod) - 1, len(x0)).long().to(x0.device)
        return self.training_loss(batch, seeded_normal(x0.shape, 0).to(x0), t)

    # walks -----------------------------------------------------------------------------------------------------------
    def condition(self, count: int, seed: int) -> Condition:
        """The condition of `count` walks, on the CPU: classes drawn uniformly by `seed`; empty for an unconditional
        network.
        """
        if self.classes is None:
            return {}
        generator = torch.Generator().manual_seed(seed)
        return {"class_labels": torch.randint(self.classes.count, (count,), generator=generator)}

    def guide(self, conditional: Conditional) -> Conditional:
        """`conditional`, this network or a quantized copy of it, with this model's guidance."""
        if self.classes is None or self.classes.scale == 1:
            return conditional
        null_condition = {"class_labels": torch.tensor([self.classes.null_class])}
        return guided(conditional, self.classes.scale, null_condition, self.classes.batched)

    def network(self) -> Conditional:
        """The full-precision network with guidance, as walks use it."""
        return self.guide(network_of(self.unet))

    @property
    def passes(self) -> int:
        """Network evaluations in one denoising step."""
        return 1 if self.classes is None or self.classes.scale == 1 else 2

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


def network_of(unet: nn.Module) -> Conditional:
    """`unet` as walks call it: for a condition, its output at x [N, C, H, W] and timestep t."""

    def given(condition: Condition) -> Network:
        def network(x: Tensor, t: float, i: int) -> Tensor:
            output: Tensor = unet(x, time_input(t), **condition).sample
            return output

        return network

    return given


def time_input(t: float) -> float | Tensor:
    """The timestep t as networks of diffusers take it: of a plain number UNet2DModel would cut a fraction off."""
    return t if t == int(t) else torch.tensor(t)
