"""The callbacks of `hydra.callbacks`, told of runs and jobs as hydra.main() tells them."""

import warnings
from collections.abc import Callable
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf


def _tells(moment: str) -> Callable[..., None]:
    """A method that tells every callback of `moment`; one that raises is a warning, as Hydra has it."""

    def told(self: "Callbacks", config: DictConfig, **more: Any) -> None:
        for callback in reversed(self.all) if moment.endswith("_end") else self.all:
            try:
                getattr(callback, moment)(config=config, **more)
            except Exception as error:
                name = f"{type(callback).__name__}.{moment}"
                warnings.warn(f"{name} raised {type(error).__name__}: {error}", stacklevel=2)

    return told


class Callbacks(Callback):
    """All callbacks of a config, as one."""

    def __init__(self, config: DictConfig):
        listed = OmegaConf.select(config, "hydra.callbacks") or {}
        self.all = [instantiate(node) for node in listed.values()]

    on_run_start, on_run_end = _tells("on_run_start"), _tells("on_run_end")
    on_multirun_start, on_multirun_end = _tells("on_multirun_start"), _tells("on_multirun_end")
    on_job_start, on_job_end = _tells("on_job_start"), _tells("on_job_end")
