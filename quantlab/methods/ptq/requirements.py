"""What a post-training run needs, refused before any work where it is not there."""

from typing import Any

from quantlab.config import instantiate
from quantlab.errors import RequestError
from quantlab.methods.base import RunContext
from quantlab.methods.learning_memory import require_memory
from quantlab.quantizers.insert import planned_bits, quantizable_layers


def require_possible(section: Any, context: RunContext) -> None:
    """Raises RequestError for layers that cannot be quantized, too little memory, a group longer than the walk, and
    work that several processes cannot divide.
    """
    if context.processes.count > 1:
        _require_work_for_several(section, context)
    planned = planned_bits(context.model.unet, instantiate(context.config.quantizer))
    layers = quantizable_layers(context.model.unet)
    quantized = sum(layers[name].weight.numel() for name, bits in planned.items() if bits.weight != 32)
    if section.learns:
        rounding = section.learn.rounding and context.config.quantizer.weight.rounding != "nearest"
        whole = sum(one.numel() for one in context.model.unet.parameters())
        require_memory(quantized, whole - quantized, rounding, context.device)
    steps = len(context.model.sampler)
    if section.group_size > steps:
        raise RequestError(
            f"method.group_size: got {section.group_size}, allowed: 1 to {steps}, the steps of a walk;"
            f" type method.group_size={steps}"
        )


def _require_work_for_several(section: Any, context: RunContext) -> None:
    """Batches of equal shares, and nothing to train before, which one process would do while the others wait."""
    size, count = section.batch_size, context.processes.count
    if size % count:
        raise RequestError(
            f"method.batch_size: got {size}, allowed: multiples of the {count} processes; type"
            f" method.batch_size={-(-size // count) * count}, or another --nproc-per-node"
        )
    try:
        context.provide_full_precision()
        context.feature_network()
    except RequestError as error:
        raise RequestError(
            f"{error}; or run this command without torchrun, with method=ptq method.reconstruction=none, which"
            " trains all that is missing and keeps it in cache_dir"
        ) from None
