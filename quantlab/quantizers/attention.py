"""Attention with quantized matrix products: q, k, v and the softmax output.

Attention processors for diffusers' modules. The operands of both products, q k^T and P v, are quantized; P, the softmax
output, is unsigned with zero point 0 (Q-Diffusion). Their quantizers are ordinary sub-modules, named
`<attention>.processor.{query,key,value,softmax}`, so that a policy can address them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from quantlab.errors import RunError

# Of diffusers, by name: they compute what `QuantizedAttention` computes
PLAIN = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor")
# Text and image attend to each other (SD3, Flux): what surrounds the products differs, they are torch's own
JOINT = ("JointAttnProcessor2_0", "FluxAttnProcessor")


def is_attention(module: nn.Module) -> bool:
    """Whether `module` is an attention of diffusers (it takes a processor and has projections of its own) whose
    products can be quantized.
    """
    if not (hasattr(module, "set_processor") and hasattr(module, "to_q")):
        return False
    return isinstance(module.processor, QuantizedAttention) or type(module.processor).__name__ in (*PLAIN, *JOINT)


def is_joint(module: nn.Module) -> bool:
    """Whether `module` is one in which text and image attend to each other."""
    if not is_attention(module):
        return False
    processor = module.processor
    return isinstance(processor, QuantizedJointAttention) or type(processor).__name__ in JOINT


class QuantizedAttention(nn.Module):
    """Self- or cross-attention over [N, L, C] or [N, C, H, W] with its four operands quantized."""

    def __init__(self, query: nn.Module, key: nn.Module, value: nn.Module, softmax: nn.Module):
        super().__init__()
        self.query, self.key, self.value, self.softmax = query, key, value, softmax

    def __call__(
        self,
        attention: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Any:
        # diffusers reads this signature to learn which arguments a processor takes
        return super().__call__(attention, hidden_states, encoder_hidden_states, attention_mask, temb)

    def forward(
        self,
        attention: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        residual = hidden_states
        if attention.spatial_norm is not None:
            hidden_states = attention.spatial_norm(hidden_states, temb)
        x_NLC = hidden_states.flatten(2).transpose(1, 2) if residual.ndim == 4 else hidden_states
        if attention.group_norm is not None:
            x_NLC = attention.group_norm(x_NLC.transpose(1, 2)).transpose(1, 2)
        context = x_NLC
        if encoder_hidden_states is not None:
            context = encoder_hidden_states
            if attention.norm_cross:
                context = attention.norm_encoder_hidden_states(context)

        def heads(projected: Tensor) -> Tensor:  # [N, L, heads * d] -> [N, heads, L, d]
            return torch.unflatten(projected, 2, (attention.heads, -1)).transpose(1, 2)

        q, k, v = heads(attention.to_q(x_NLC)), heads(attention.to_k(context)), heads(attention.to_v(context))
        q = attention.norm_q(q) if attention.norm_q is not None else q
        k = attention.norm_k(k) if attention.norm_k is not None else k
        scores = self.query(q) @ self.key(k).transpose(2, 3) * attention.scale
        if attention_mask is not None:
            mask = attention.prepare_attention_mask(attention_mask, scores.shape[-1], scores.shape[0])
            scores = scores + mask.view(scores.shape[0], attention.heads, -1, scores.shape[-1])
        output: Tensor = self.softmax(scores.softmax(-1)) @ self.value(v)

        output = attention.to_out[0](output.transpose(1, 2).flatten(2))
        output = attention.to_out[1](output)
        if residual.ndim == 4:
            output = output.transpose(1, 2).reshape(residual.shape)
        if attention.residual_connection:
            output = output + residual
        rescaled: Tensor = output / attention.rescale_output_factor
        return rescaled


class QuantizedJointAttention(QuantizedAttention):
    """`own`, a processor of diffusers that takes both products from torch's scaled_dot_product_attention: in its place
    they are those of the four quantized operands. Raises: RunError where it takes them from elsewhere.
    """

    def __init__(self, own: Any, query: nn.Module, key: nn.Module, value: nn.Module, softmax: nn.Module):
        super().__init__(query, key, value, softmax)
        self.own = own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return nn.Module.__call__(self, *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _InPlaceOfTorchs(self.products) as mode:
            output = self.own(*args, **kwargs)
        if not mode.calls:
            raise RunError(
                f"{type(self.own).__name__} does not take attention from torch.nn.functional, as with another backend"
                " of diffusers, allowed where its products are quantized: DIFFUSERS_ATTN_BACKEND=native"
            )
        return output

    def products(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """As torch's function, of q [N, heads, L, d], k and v [N, heads, S, d], without dropout, which diffusion
        transformers do not have.
        """
        if is_causal or enable_gqa:
            raise RunError("attention: got is_causal or enable_gqa, allowed where its products are quantized: neither")
        scores = self.query(query) @ self.key(key).transpose(-2, -1)
        scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        output: Tensor = self.softmax(scores.softmax(-1)) @ self.value(value)
        return output


class _InPlaceOfTorchs(TorchFunctionMode):
    """Inside, scaled_dot_product_attention is `products`. calls: how often it was asked for."""

    def __init__(self, products: Callable[..., Tensor]):
        super().__init__()
        self.products, self.calls = products, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return self.products(*args, **(kwargs or {}))
