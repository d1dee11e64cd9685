"""What conf/method/evaluate.yaml may hold. The values' meaning is said there."""

from collections.abc import Iterator
from typing import Literal

from quantlab.config.fields import Directory, OrNull
from quantlab.config.methods.base import Method
from quantlab.config.sections import Parts


class Evaluate(Method, target="quantlab.methods.evaluate.Evaluate"):
    makes_steps = False
    model_kinds = ("classifier", "denoiser", "detector", "super_resolver")
    judges_samples = True
    opens_run = True
    run: OrNull[Directory]
    part: Literal["test", "validation"]

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        if self.part != "test" and parts.task is not None and not parts.task.has_parts:
            yield (
                f"method.part: got {self.part}, but task={parts.task.name} has no parts, allowed: test; type"
                " method.part=test"
            )
