"""What conf/model/mobilenet_supernet.yaml and its likes may hold. The values' meaning is said there."""

from typing import Annotated, Literal

from pydantic import Field

from quantlab.config.fields import Count, Fraction, Strict, Stride
from quantlab.config.models.searchable import Searchable


class MobileNetStage(Strict):
    channels: Count
    layers: Count
    stride: Stride


class MobileNetSupernet(Searchable, target="quantlab.models.mobilenet_supernet.build_mobilenet_supernet"):
    stem: Count
    stem_stride: Stride
    first: Count
    stages: Annotated[list[MobileNetStage], Field(min_length=1)]
    last: Count
    initialization: Literal["torch", "he_fan_out"]
    dropout: Fraction

    @property
    def example(self) -> str:
        return "-".join("3" * sum(stage.layers for stage in self.stages))
