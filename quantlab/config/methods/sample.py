"""What conf/method/sample.yaml may hold. The values' meaning is said there."""

from collections.abc import Iterator

from quantlab.config.fields import Directory, Images, OrNull
from quantlab.config.methods.base import Method
from quantlab.config.sections import Parts


class Sample(Method, target="quantlab.methods.sample.Sample"):
    model_kinds = ("denoiser",)
    task_kinds = ("generation",)
    makes_steps = loads_data = False
    judges_samples = True
    opens_run = True
    run: OrNull[Directory]
    samples: Images

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        if self.run is None:
            yield "method.run: got null, allowed: the directory of a finished run of a denoiser; type method.run=DIR"
