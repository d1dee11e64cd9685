"""How many denoising steps' graphs fit into memory, for `method.keep_graphs=auto`."""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from quantlab.devices import free_memory
from quantlab.quantizers import recomputed

SHARE = 0.8  # of the free memory; the rest is for what a backward pass needs

logger = logging.getLogger("quantlab")


def graphs_that_fit(step: Callable[[], object], anyway: Iterable[Tensor], device: torch.device) -> int:
    """At least 1: as many graphs of `step()`, one denoising step, as fit into the device's free memory; anyway: as in
    `graph_bytes`.
    """
    size, free = graph_bytes(step, anyway), free_memory(device)
    count = max(1, int(SHARE * free // max(size, 1)))
    logger.info(
        "keep_graphs=auto: the graph of one denoising step takes %.3g MiB, and %d fit into the %.3g GiB that are free",
        size / 2**20,
        count,
        free / 2**30,
    )
    return count


def graph_bytes(step: Callable[[], object], anyway: Iterable[Tensor]) -> int:
    """Bytes of all tensors that the graph of `step()` saves for its backward pass; anyway: what is there without it
    (parameters, buffers, weights held for several steps), which is not counted.
    """
    counted: dict[int, int] = {}
    known = {tensor.untyped_storage().data_ptr() for tensor in anyway}

    def note(tensor: Tensor) -> Tensor | recomputed.Again:
        kept, storage = recomputed.pack(tensor), tensor.untyped_storage()
        if kept is tensor and storage.data_ptr() not in known:
            counted[storage.data_ptr()] = storage.nbytes()
        return kept

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, recomputed.unpack):
        kept = step()  # alive, so that no address is used twice
    del kept
    return sum(counted.values())
