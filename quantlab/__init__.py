"""quantlab composes a task, a model, a quantizer and a method into one run that can be reproduced, resumed and
compared. `quantlab.load(DIR)` gives back the module that a run left, whose `save_pretrained` leaves a directory that
diffusers' `from_pretrained` loads once quantlab is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab.registration import register_quantizer, when_imported

if TYPE_CHECKING:
    from os import PathLike

    from torch import nn

__version__ = "0.1.0"
when_imported("diffusers.quantizers.auto", register_quantizer)


def load(path: str | PathLike[str]) -> nn.Module:
    """The model that a run left, in evaluation mode, on the CPU; `path`: its directory, or the file
    checkpoints/model.safetensors (or best.safetensors) alone. See `quantlab.loading.load_module`.
    """
    from quantlab.loading import load_module

    return load_module(path)
