"""What conf/model/mobilenet_supernet.yaml and its likes may hold. The values' meaning is said there."""

from typing import Annotated, Literal

from pydantic import Field

from quantlab.config.fields import Fraction, Layers, Strict, Stride, Width
from quantlab.config.models.searchable import Searchable


class MobileNetStage(Strict):
    channels: Width
    layers: Layers
    stride: Stride


class MobileNetSupernet(Searchable, target="quantlab.models.mobilenet_supernet.build_mobilenet_supernet"):
    stem: Width
    stem_stride: Stride
    first: Width
    stages: Annotated[list[MobileNetStage], Field(min_length=1)]
    last: Width
    initialization: Literal["torch", "he_fan_out"]
    dropout: Fraction

    @property
    def example(self) -> str:
        return "-".join("3" * sum(stage.layers for stage in self.stages))
