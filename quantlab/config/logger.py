"""What conf/logger/*.yaml may hold. The values' meaning is said there."""

from typing import Literal

from quantlab.config.fields import Name
from quantlab.config.sections import Section


class NoLogger(Section, name="none"):
    group = "logger"
    name: Literal["none"]


class TensorBoard(Section, name="tensorboard"):
    group = "logger"
    name: Literal["tensorboard"]


class WandbLogger(Section, name="wandb"):
    group = "logger"
    name: Literal["wandb"]
    project: Name
    mode: Literal["offline", "online"]
