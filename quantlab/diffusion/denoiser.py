"""A denoising network with all that its walks need, whatever the model: what it predicts, its noise, its sampler,
what it is told.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantlab.diffusion import prediction
from quantlab.diffusion.guidance import guided
from quantlab.diffusion.rollout import Condition, Conditional, Network, seeded_normal
from quantlab.diffusion.samplers import Walk
from quantlab.run.state import tensors_digest


@dataclass(frozen=True)
class Classes:
    """Of a network that is told the class of each image: how many there are, which index says nothing (None: none
    does), and how walks
    are guided."""

    count: int
    nothing: int | None
    scale: float = 1.0  # g of classifier-free guidance
    batched: bool = True  # both outputs from one pass
    # share of the training images whose class is hidden (Ho and Salimans 2022, Alg. 1: p_uncond)
    dropout: float = 0.1


class Denoiser(nn.Module):
    """A denoising network, the noise that it was trained with, and the walk that it is sampled with.

    unet: any network called as unet(x, t, **condition).sample; alphas_cumprod: abar, float [train_timesteps]; sampler:
    the walk, which knows what the network puts out; classes: of a network that is told each image's class.
    """

    kind = "denoiser"
    has_weights = False  # whether they are the full precision, or still to be trained
    weights_from: str | None = None  # where they were loaded from, in words
    notes: Sequence[str] = ()  # what a user should know of how the model was read

    def __init__(self, unet: nn.Module, alphas_cumprod: Tensor, sampler: Walk, classes: Classes | None = None):
        super().__init__()
        self.unet = unet
        self.sampler, self.classes = sampler, classes
        self.register_buffer("alphas_cumprod", alphas_cumprod.float(), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The training loss (a scalar), so that data-parallel wrappers, which hook `forward`, see it."""
        return self.training_loss(batch)

    def training_loss(self, batch: dict[str, Tensor], noise: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Mean squared error of what the network predicts at random timesteps (Ho et al. 2020, Eq. 14).

        batch["image"]: [N, C, H, W]; batch["label"]: int64 [N], where the network is told classes. In training a share
        of them is hidden.
        """
        x0 = batch["image"]
        t = torch.randint(len(self.alphas_cumprod), (len(x0),), device=x0.device) if t is None else t
        noise = torch.randn_like(x0) if noise is None else noise
        alpha = self.alphas_cumprod[t][:, None, None, None]
        x = prediction.noised(x0, noise, alpha)
        out = self.unet(x, t, **self._training_condition(batch)).sample
        return (out - prediction.target(self.sampler.prediction, x0, noise, alpha)).square().mean()

    def _training_condition(self, batch: dict[str, Tensor]) -> Condition:
        if self.classes is None:
            return {}
        labels, nothing = batch["label"], self.classes.nothing
        if self.training and nothing is not None:
            labels = torch.where(torch.rand(len(labels), device=labels.device) < self.classes.dropout, nothing, labels)
        return {"class_labels": labels}

    @torch.no_grad()
    def validation_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The training loss at fixed noise and evenly spaced timesteps: comparable from one checkpoint to the next."""
        x0 = batch["image"]
        t = torch.linspace(0, len(self.alphas_cumprod) - 1, len(x0)).long().to(x0.device)
        return self.training_loss(batch, seeded_normal(x0.shape, 0).to(x0), t)

    # walks -----------------------------------------------------------------------------------------------------------
    def condition(self, count: int, seed: int) -> Condition:
        """What `count` walks are told, on the CPU: their classes, drawn evenly by `seed`; nothing of an
        unconditional network.
        """
        if self.classes is None:
            return {}
        generator = torch.Generator().manual_seed(seed)
        return {"class_labels": torch.randint(self.classes.count, (count,), generator=generator)}

    def guide(self, conditional: Conditional) -> Conditional:
        """`conditional`, this network or a quantized one of it, guided as walks are."""
        if self.classes is None or self.classes.scale == 1:
            return conditional
        nothing = {"class_labels": torch.tensor([self.classes.nothing])}
        return guided(conditional, self.classes.scale, nothing, self.classes.batched)

    def network(self) -> Conditional:
        """The full-precision network as walks use it, guided."""
        return self.guide(network_of(self.unet))

    @property
    def passes(self) -> int:
        """Network evaluations in one denoising step."""
        return 1 if self.classes is None or self.classes.scale == 1 else 2

    def weights(self) -> nn.Module:
        """The part of this model that a checkpoint holds."""
        return self.unet

    def fingerprint(self) -> str:
        """sha256 (hex) of all that shapes the network's output and its noise: weights, config and alphas. Under another
        config the same weights are another function."""
        config = {name: value for name, value in self.unet.config.items() if not name.startswith("_")}
        facts = [tensors_digest(self.unet.state_dict()), config, self.alphas_cumprod.tolist()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def network_of(unet: nn.Module) -> Conditional:
    """`unet` for walks: given a condition, its output at x [N, C, H, W] and timestep t (an int)."""

    def given(condition: Condition) -> Network:
        def network(x: Tensor, t: int, i: int) -> Tensor:
            return unet(x, t, **condition).sample

        return network

    return given
