"""What conf/trainer/default.yaml may hold. The values' meaning is said there."""

from collections.abc import Iterator
from typing import Literal

from quantlab.config.fields import Count, OrNull, Switch, Workers
from quantlab.config.sections import Parts, Section


class Trainer(Section, name=""):
    group = "trainer"
    epochs: OrNull[Count]
    max_steps: OrNull[Count]
    checkpoint_every: Count
    log_every: Count
    mixed_precision: Literal["no", "fp16", "bf16"]
    drop_last: Switch
    num_workers: OrNull[Workers]
    compile: Switch

    def check(self, parts: Parts) -> Iterator[str]:
        """A line for every key that does nothing in the run's method."""
        method = parts.method
        if method is None:
            return
        name = method.name
        if self.compile and not method.trains_network:
            yield (
                f"trainer.compile: got true, but method={name} trains no network as a whole, allowed: false; type"
                " trainer.compile=false"
            )
        elif self.compile and method.not_compiled:
            yield (
                f"trainer.compile: got true, but method={name} {method.not_compiled}, allowed: false; "
                "type trainer.compile=false"
            )
        if self.mixed_precision != "no" and not method.trains_network:
            yield (
                f"trainer.mixed_precision: got {self.mixed_precision}, but method={name} computes in float32"
                " throughout, allowed: no; type trainer.mixed_precision=no (weights that method=pretrain trained in "
                "half precision come in by model.weights=FILE)"
            )
        if self.epochs is not None and not method.trains_network:
            why = "draws no epochs of images" if method.makes_steps else "makes no steps"
            instead = " trainer.max_steps=N" if method.makes_steps and self.max_steps is None else ""
            yield (
                f"trainer.epochs: got {self.epochs}, but method={name} {why}, allowed: null; type"
                f" trainer.epochs=null{instead}"
            )
        if not self.drop_last and not method.trains_network:
            yield (
                f"trainer.drop_last: got false, but method={name} draws no epochs of images, allowed: true; type"
                " trainer.drop_last=true"
            )
        if self.max_steps is not None and not method.makes_steps:
            yield (
                f"trainer.max_steps: got {self.max_steps}, but method={name} makes no steps, allowed: null; type"
                " trainer.max_steps=null"
            )
        if self.num_workers is not None and not method.loads_data:
            yield (
                f"trainer.num_workers: got {self.num_workers}, but method={name} loads no data in other processes,"
                " allowed: null; type trainer.num_workers=null"
            )
