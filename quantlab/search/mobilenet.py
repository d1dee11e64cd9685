"""The MobileNet space of the N-shot search literature (ProxylessNAS's, as released by the supernet paper's lab): 21
layers.

A layer is an inverted residual with a kernel of 3, 5 or 7 and an expansion of 3 or 6, or the identity; the first layer
of a stage, which changes the shape, cannot be the identity. "7^21" subnets nominally, 6^6 * 7^15 in fact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from quantlab.search.spaces import Measure, SearchSpace

KERNEL_AND_EXPANSION = ((3, 3), (3, 6), (5, 3), (5, 6), (7, 3), (7, 6))
OPERATIONS = (*(f"{kernel}x{kernel}_e{expansion}" for kernel, expansion in KERNEL_AND_EXPANSION), "identity")
IDENTITY = OPERATIONS.index("identity")


@dataclass(frozen=True)
class Stage:
    """Layers that share their channels; the first of them has the stride."""

    channels: int
    layers: int
    stride: int


# The first stage has 24 channels in the lab's One-Shot-NAS code, 32 in the Few-Shot-NAS code.
STAGES = (Stage(24, 4, 2), Stage(40, 4, 2), Stage(80, 4, 2), Stage(96, 4, 1), Stage(192, 4, 2), Stage(320, 1, 1))


@dataclass(frozen=True)
class Layer:
    """The position of a searched layer: channels `before` and `after`, `stride`, the side of its input in pixels,
    whether it is `first` of its stage.
    """

    before: int
    after: int
    stride: int
    side: int
    first: bool

    @property
    def side_after(self) -> int:
        return -(-self.side // self.stride)


class MobileNetSpace(SearchSpace):
    """The space for the given stages; `stem`, `first` and `last` are the channels of the layers that are not searched.

    The defaults are for ImageNet at 224 pixels; image size only affects FLOPs.
    """

    name = "mobilenet"
    operations = OPERATIONS

    def __init__(
        self,
        stages: Sequence[Stage] = STAGES,
        stem: int = 32,
        first: int = 16,
        last: int = 1280,
        stem_stride: int = 2,
        image_size: int = 224,
        channels: int = 3,
        classes: int = 1000,
    ):
        self.stem, self.first, self.last, self.stem_stride = stem, first, last, stem_stride
        self.image_size, self.channels, self.classes = image_size, channels, classes
        self.layers: list[Layer] = []
        names = []
        before, side = first, -(-image_size // stem_stride)
        for number, stage in enumerate(stages, start=1):
            for place in range(stage.layers):
                layer = Layer(before, stage.channels, 1 if place else stage.stride, side, first=place == 0)
                self.layers.append(layer)
                names.append(f"stage{number}.layer{place + 1}")
                before, side = layer.after, layer.side_after
        self.decisions = tuple(names)
        self.side_at_end = side

    def choices(self, decision: int) -> tuple[int, ...]:
        return tuple(range(IDENTITY if self.layers[decision].first else len(OPERATIONS)))

    def fixed_cost(self, measure: Measure) -> int:
        """Stem 3x3, a depthwise separable block, the last 1x1 convolution, the classifier."""
        side = -(-self.image_size // self.stem_stride)
        pixels, last_pixels = (side**2, self.side_at_end**2) if measure == "flops" else (1, 1)
        stem = (9 * self.channels * self.stem + 9 * self.stem + self.stem * self.first) * pixels
        return stem + self.layers[-1].after * self.last * last_pixels + self.last * self.classes

    def cost(self, decision: int, operation: int, measure: Measure) -> int:
        if operation == IDENTITY:
            return 0
        layer, (kernel, expansion) = self.layers[decision], KERNEL_AND_EXPANSION[operation]
        inner = expansion * layer.before
        before, after = (layer.side**2, layer.side_after**2) if measure == "flops" else (1, 1)
        return layer.before * inner * before + (kernel**2 * inner + inner * layer.after) * after
