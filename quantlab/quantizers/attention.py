"""Attention with quantized matrix products: q, k, v and the softmax output.

An attention processor for diffusers' `Attention` modules. The operands of both products, q k^T and P v, are quantized;
P, the softmax output, is unsigned with zero point 0 (Q-Diffusion). Its quantizers are ordinary sub-modules, named
`<attention>.processor.{query,key,value,softmax}`, so that a policy can address them.
"""

from typing import Any

import torch
from torch import Tensor, nn

# Of diffusers, by name: they compute what `QuantizedAttention` computes. Joint attention (SD3, Flux) is another.
PLAIN = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor")


def is_attention(module: nn.Module) -> bool:
    """Whether `module` is an attention of diffusers (it takes a processor and has projections of its own), and computes
    what attention plainly is.
    """
    if not (hasattr(module, "set_processor") and hasattr(module, "to_q")):
        return False
    return isinstance(module.processor, QuantizedAttention) or type(module.processor).__name__ in PLAIN


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
