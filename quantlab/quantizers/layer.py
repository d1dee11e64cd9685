"""The quantized layer: a Conv2d or Linear whose weight, input and gradient of the output pass quantizers; each may be
absent.

It keeps `weight` and `bias` under their names, so that full-precision weights load as they are.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.errors import RunError
from quantlab.quantizers.base import Quantizer, WeightQuantizer
from quantlab.quantizers.gradient import GradientQuantizer
from quantlab.quantizers.integers import Grid
from quantlab.quantizers.layer_kinds import layer_kind
from quantlab.quantizers.trained import ActivationQuantizer, require_values


class QuantizedLayer(nn.Module):
    """A Conv2d or Linear of one of `layer_kinds`; None: that part stays in full precision.

    With `output_scale` the product is multiplied by the magnitude of a learned number, before the bias: for quantizers
    whose weights and inputs lost their size, where no normalization follows.
    """

    weight: nn.Parameter | None  # None: the quantizer holds codes and needs it no longer (`drop_float_weight`)
    bias: nn.Parameter | None

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        weight_quantizer: WeightQuantizer | None = None,
        activation_quantizer: Quantizer | None = None,
        gradient_quantizer: GradientQuantizer | None = None,
        output_scale: bool = False,
    ):
        super().__init__()
        for name, parameter in layer._parameters.items():  # weight, bias, and a standardized weight's gain
            self.register_parameter(name, parameter)
        for name in layer.__constants__:  # networks ask for in_features, kernel_size, ...
            setattr(self, name, getattr(layer, name))
        kind = layer_kind(layer)
        self.is_conv, self.conv, self.pad = isinstance(layer, nn.Conv2d), kind.geometry, kind.pad
        self.standardize = kind.standardize
        self.weight_quantizer, self.activation_quantizer = weight_quantizer, activation_quantizer
        self.gradient_quantizer = gradient_quantizer
        self.output_scale = nn.Parameter(torch.ones(())) if output_scale else None
        self.calibrating = False

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, *other_bias: Tensor | None) -> Tensor: ...

    def forward(self, x: Tensor, *other_bias: Tensor | None) -> Tensor:
        """other_bias: one in place of the layer's own, from a network that takes the weight past the layer
        (`direct_use`).
        """
        bias = other_bias[0] if other_bias else self.bias
        if self.calibrating:
            self._calibrate(x)
            self.calibrating = False
        x, weight = self._quantized(x)
        if self.output_scale is None:
            return self._product(x, weight, bias)
        out = self._product(x, weight, None) * self.output_scale.abs()
        if bias is None:
            return out
        return out + (bias.view(-1, 1, 1) if self.is_conv else bias)

    def makes_product(self, geometry: dict[str, Any]) -> bool:
        """Whether the layer is F.linear, or F.conv2d with these arguments, of its weight and nothing else."""
        return geometry == self.conv and self.pad is None and self.standardize is None

    def fold_standardization(self) -> None:
        """From now on the weight is what it was standardized to: a constant."""
        if self.standardize is not None:
            self.weight = nn.Parameter(self._float_weight().detach(), requires_grad=False)
            self._parameters.pop("gain", None)
            self.standardize = None

    def drop_float_weight(self) -> None:
        """Let go of a weight whose codes the quantizer holds."""
        if self.weight_quantizer is not None:
            self.weight = None

    def _quantized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        dtype = x.dtype  # of a network in bfloat16, whose quantizers keep their scales in float32
        if self.activation_quantizer is not None:
            x = self.activation_quantizer(x).to(dtype)
        weight = self._float_weight() if self.weight_quantizer is None else self.weight_quantizer(self.weight)
        return x, weight.to(dtype)

    def _float_weight(self) -> Tensor:
        assert self.weight is not None
        # A view: `direct_use` would take the product of the parameter itself for one past the layer.
        return self.weight.view_as(self.weight) if self.standardize is None else self.standardize(self.weight)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x if self.pad is None else self.pad(x)
        out = F.conv2d(x, weight, bias, **self.conv) if self.is_conv else F.linear(x, weight, bias)
        return out if self.gradient_quantizer is None else self.gradient_quantizer(out)

    @torch.no_grad()
    def _calibrate(self, x: Tensor) -> None:
        require_values(x)
        if isinstance(self.activation_quantizer, ActivationQuantizer):
            self.activation_quantizer.calibrate(x)
        if self.output_scale is not None:
            # mean |output in full precision| / mean |output quantized| (EWGS)
            wanted = self._product(x, self._float_weight(), None).abs().mean()
            self.output_scale.copy_(wanted / self._product(*self._quantized(x), None).abs().mean().clamp_min(1e-8))


class SplitInput(Quantizer):
    """A quantizer for each part of an input's channels, `sizes` of them along dimension `dim`: Q-Diffusion's shortcut
    split, for the concatenation of tensors with different ranges.
    """

    def __init__(self, parts: Sequence[Quantizer], sizes: Sequence[int], dim: int):
        super().__init__(parts[0].bits)
        self.parts, self.sizes, self.dim = nn.ModuleList(parts), list(sizes), dim

    def grid(self) -> Grid:
        raise RunError(f"integers: got {len(self.parts)} grids, one of each part, allowed: one; ask each of `parts`")

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(x, self.sizes, dim=self.dim)
        return torch.cat([quantizer(piece) for quantizer, piece in zip(self.parts, pieces)], dim=self.dim)


class SplitWeight(WeightQuantizer):
    """A quantizer for each part of a weight's input channels, `sizes` of them: the weights of a `SplitInput`."""

    def __init__(self, parts: Sequence[WeightQuantizer], sizes: Sequence[int]):
        super().__init__(parts[0].bits)
        self.parts, self.sizes = nn.ModuleList(parts), list(sizes)

    def pieces(self, weight: Tensor | None) -> Sequence[Tensor | None]:
        """The weight's pieces along its input channels, one a part."""
        return [None] * len(self.parts) if weight is None else torch.split(weight, self.sizes, dim=1)

    def grid(self) -> Grid:
        raise RunError(f"integers: got {len(self.parts)} grids, one of each part, allowed: one; ask each of `parts`")

    def calibrate(self, weight: Tensor) -> None:
        for quantizer, piece in zip(self.parts, torch.split(weight, self.sizes, dim=1)):
            assert isinstance(quantizer, WeightQuantizer)
            quantizer.calibrate(piece)

    def forward(self, weight: Tensor | None) -> Tensor:
        return torch.cat([quantizer(piece) for quantizer, piece in zip(self.parts, self.pieces(weight))], dim=1)
