"""Samplers, one per file, selected by file name."""

import pkgutil
from importlib import import_module
from typing import Any

from torch import Tensor

from quantlab.diffusion.samplers.base import State, Walk
from quantlab.errors import RequestError

__all__ = ["State", "Walk", "build_sampler", "sampler_class"]


def sampler_class(name: str) -> type[Walk]:
    """The sampler in the file of that name."""
    sampler: type[Walk] = import_module(f"quantlab.diffusion.samplers.{name}").Sampler
    return sampler


def build_sampler(levels: Tensor, section: Any, prediction: str = "epsilon") -> Walk:
    """The walk of a config's `sampler` section; levels: the noise of every training timestep (abar, of a flow sigma;
    float [train_timesteps]). Raises: RequestError for a solver of another process, and as its `build` does.
    """
    process = "flow" if prediction == "flow" else "diffusion"
    if process not in sampler_class(section.name).processes:
        names = [one.name for one in pkgutil.iter_modules(__path__) if one.name != "base"]
        fitting = [name for name in names if process in sampler_class(name).processes]
        advised = "flow_euler model.sampler.spacing=trailing" if process == "flow" else "ddim"
        raise RequestError(
            f"model.sampler.name: got {section.name}, but the network predicts {prediction}, allowed with it:"
            f" {', '.join(fitting)}; type model.sampler.name={advised}"
        )
    return sampler_class(section.name).build(levels, section, prediction)
