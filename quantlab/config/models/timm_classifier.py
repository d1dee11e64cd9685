"""What conf/model/timm.yaml and its likes may hold. The values' meaning is said there."""

from collections.abc import Iterator

from quantlab.config.fields import Name, Switch
from quantlab.config.models.base import Classifier
from quantlab.config.sections import Parts


class TimmClassifier(Classifier, target="quantlab.models.timm_classifier.build_timm_classifier"):
    architecture: Name
    pretrained: Switch

    def check(self, parts: Parts) -> Iterator[str]:
        yield from super().check(parts)
        if self.pretrained and self.weights is not None:
            yield (
                "model.pretrained: got true beside model.weights, allowed: one source of weights; type"
                " model.pretrained=false, or model.weights=null"
            )
