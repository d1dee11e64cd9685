"""What conf/model/resnet20.yaml and its likes may hold. The values' meaning is said there."""

from collections.abc import Iterator

from quantlab.config.fields import Layers, Switch, Width
from quantlab.config.models.base import Classifier
from quantlab.config.sections import Parts


class CifarResNet(Classifier, target="quantlab.models.resnet_cifar.build_resnet_cifar"):
    depth: Layers
    width: Width
    final_batch_norm: Switch

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        if self.depth < 8 or self.depth % 6 != 2:
            yield f"model.depth: got {self.depth}, allowed: 6 n + 2 (20, 32, 56, ...); type model.depth=20"
