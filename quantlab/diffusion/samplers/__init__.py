"""Samplers, one per file, selected by file name."""

from importlib import import_module
from typing import Any

from torch import Tensor

from quantlab.diffusion.samplers.base import State, Walk

__all__ = ["State", "Walk", "build_sampler"]


def build_sampler(alphas_cumprod: Tensor, section: Any, prediction: str = "epsilon") -> Walk:
    """The walk of a config's `sampler` section over abar of every training timestep (float [train_timesteps])."""
    sampler: type[Walk] = import_module(f"quantlab.diffusion.samplers.{section.name}").Sampler
    return sampler.build(alphas_cumprod, section, prediction)
