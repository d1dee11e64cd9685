"""NAS-Bench-201 (Dong & Yang 2020, arXiv 2001.00326): the supernet over all its cells, and the network of a single
cell.

A 3x3 stem, three stages of `cells` equal cells with `width`, 2 `width` and 4 `width` channels, between them a residual
block that halves the resolution; BatchNorm, ReLU, mean pooling, a linear layer. Every operation with weights is ReLU,
convolution, BatchNorm.

The supernet's BatchNorms have no weights and no running statistics and use batch statistics also in evaluation, as in
the released code of the supernet paper. Convolutions have no bias, since a BatchNorm follows (our choice; the released
supernet has one, without effect but decayed and clipped). Zero terms are not computed: edges with the operation `none`,
and edges that are on no path from the cell's input to its output.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.search.nas_bench_201 import EDGES, NODES, NONE, OPERATIONS, NasBench201, live_edges, reaching_edges
from quantlab.search.spaces import Subnet


class ReLUConvBN(nn.Module):
    """ReLU, a convolution without bias, BatchNorm; `learns`: the BatchNorm has weights and running statistics."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, learns: bool):
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        self.bn = batch_norm(after, learns)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(F.relu(x)))


class Cell(nn.Module):
    """`[N, width, H, W]` to the same. `edges[e]` holds the operations that edge e offers, by name."""

    def __init__(self, width: int, offered: Sequence[Sequence[int]], learns: bool):
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleDict(
                {
                    OPERATIONS[operation]: make_operation(operation, width, learns)
                    for operation in operations
                    if operation != NONE
                }
            )
            for operations in offered
        )

    def forward(self, x: Tensor, subnet: Subnet, used: Iterable[int]) -> Tensor:
        """used: the edges to compute, in order; a node that none of them feeds is zero."""
        nodes: list[Tensor | None] = [x] + [None] * (NODES - 1)
        for edge in used:
            source, target = EDGES[edge]
            y = self.edges[edge][OPERATIONS[subnet[edge]]](x * 0 if nodes[source] is None else nodes[source])
            nodes[target] = y if nodes[target] is None else nodes[target] + y
        return x * 0 if nodes[-1] is None else nodes[-1]


class Reduction(nn.Module):
    """The residual block between stages: `[N, width, H, W]` to `[N, 2 width, ceil(H / 2), ceil(W / 2)]`, no ReLU at
    the end.
    """

    def __init__(self, width: int, learns: bool):
        super().__init__()
        self.conv_a = ReLUConvBN(width, 2 * width, 3, 2, learns)
        self.conv_b = ReLUConvBN(2 * width, 2 * width, 3, 1, learns)
        # Odd sizes: the pooling keeps the last row and column, as the padded convolution does.
        self.downsample = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False), nn.Conv2d(width, 2 * width, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_b(self.conv_a(x)) + self.downsample(x)


class CellNetwork(nn.Module):
    """float images `[N, channels, H, W]` to logits `[N, classes]`: what the supernet and the network of one cell
    share.
    """

    class_layers = ("fc",)

    def __init__(self, space: NasBench201, offered: Sequence[Sequence[int]], learns: bool):
        """offered: the operations of each edge; learns: BatchNorms have weights and running statistics."""
        super().__init__()
        self.space = space
        self.stem = nn.Sequential(
            nn.Conv2d(space.channels, space.width, 3, padding=1, bias=False), batch_norm(space.width, learns)
        )
        layers: list[nn.Module] = []
        for width in space.widths:
            layers += [Reduction(width // 2, learns)] if layers else []
            layers += [Cell(width, offered, learns) for _ in range(space.cells)]
        self.layers = nn.ModuleList(layers)
        self.bn = batch_norm(space.widths[-1], learns)
        self.fc = nn.Linear(space.widths[-1], space.classes)

    def logits(self, images: Tensor, subnet: Subnet, used: Sequence[int]) -> Tensor:
        return self.logits_from(self.stem_output(images), subnet, used, self.layers)

    def stem_output(self, images: Tensor) -> Tensor:
        """The first cell's input."""
        x = self.stem(images)
        # halves the time of poolings and of 1x1 convolutions with few channels on CPUs
        return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x

    def logits_from(self, x: Tensor, subnet: Subnet, used: Sequence[int], layers: Iterable[nn.Module]) -> Tensor:
        """From the input of `layers`, the network's last, to logits."""
        for layer in layers:
            x = layer(x, subnet, used) if isinstance(layer, Cell) else layer(x)
        return self.fc(F.relu(self.bn(x)).mean(dim=(2, 3)))

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy (nats) of `batch["image"]` `[N, C, H, W]` against `batch["label"]` int64 `[N]`."""
        return F.cross_entropy(self(batch["image"]), batch["label"])


class NasBench201Supernet(CellNetwork):
    """All cells in one network, of which the `active` one is computed; initially the last of the space."""

    kind = "supernet"

    def __init__(self, space: NasBench201):
        super().__init__(space, [space.choices(edge) for edge in range(len(EDGES))], learns=False)
        self.activate(space.subnet(space.size - 1))

    def activate(self, subnet: Subnet) -> None:
        """Switch to another cell, without building or moving anything."""
        self.active, self._used = subnet, live_edges(subnet)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images, self.active, self._used) if self._used else self.dead_logits(images)

    def dead_logits(self, images: Tensor) -> Tensor:
        """For cells without a path: all later BatchNorms get zeros and output zeros."""
        return self.fc(images.new_zeros(len(images), self.fc.in_features))

    def logits_of(self, images: Tensor, subnets: Sequence[Subnet]) -> Tensor:
        """`[len(subnets), N, classes]`, as if activating each in turn.

        Equivalent cells are computed once, and in the first cell every edge once per distinct input.
        """
        canonical = [self.space.canonical(subnet) for subnet in subnets]
        distinct = sorted(set(canonical))
        x, logits = self.stem_output(images), {}
        for subnet, y in zip(distinct, self._first_cell(x, distinct)):
            logits[subnet] = (
                self.dead_logits(images)
                if y is None
                else self.logits_from(y, subnet, live_edges(subnet), self.layers[1:])
            )
        return torch.stack([logits[subnet] for subnet in canonical])

    def _first_cell(self, x: Tensor, ordered: Sequence[Subnet]) -> Iterator[Tensor | None]:
        """Output of the first cell for each subnet, None without a path. As subnets are sorted, only the latest value
        of each node is needed.
        """
        edges = self.layers[0].edges
        # per source node: (edge, operation) -> output
        computed: list[dict[tuple[int, int], Tensor]] = [{} for _ in range(NODES - 1)]
        origin: list[Subnet | None] = [None] * (NODES - 1)
        for subnet in ordered:
            nodes: list[Tensor | None] = [x] + [None] * (NODES - 1)
            for edge in live_edges(subnet):
                source, target = EDGES[edge]
                before = subnet[: source * (source + 1) // 2]  # the edges that determine the node's value
                if origin[source] != before:
                    origin[source], computed[source] = before, {}
                key = edge, subnet[edge]
                if key not in computed[source]:
                    computed[source][key] = edges[edge][OPERATIONS[subnet[edge]]](nodes[source])
                nodes[target] = (
                    computed[source][key] if nodes[target] is None else nodes[target] + computed[source][key]
                )
            yield nodes[-1]

    def operation_parameters(self, decision: int, operation: int) -> list[nn.Parameter]:
        """The weights of one operation on one edge, in all cells."""
        if operation == NONE:
            return []
        return [
            parameter
            for layer in self.layers
            if isinstance(layer, Cell)
            for parameter in layer.edges[decision][OPERATIONS[operation]].parameters()
        ]


class NasBench201Network(CellNetwork):
    """The network of one cell, a plain classifier: only the cell's operations, BatchNorms with weights and running
    statistics.

    An edge from which the output cannot be reached has no modules; one whose input is always zero has, since the bias
    of its BatchNorm reaches the output.
    """

    kind = "classifier"

    def __init__(self, space: NasBench201, subnet: Subnet):
        used = reaching_edges(subnet)
        super().__init__(
            space, [(operation,) if edge in used else () for edge, operation in enumerate(subnet)], learns=True
        )
        self.subnet, self._used = subnet, used

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images, self.subnet, self._used)


def batch_norm(width: int, learns: bool) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, affine=learns, track_running_stats=learns)


def make_operation(operation: int, width: int, learns: bool) -> nn.Module:
    """The module of an operation other than `none`, `[N, width, H, W]` to the same."""
    match OPERATIONS[operation]:
        case "skip_connect":
            return nn.Identity()
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        case "nor_conv_1x1":
            return ReLUConvBN(width, width, 1, 1, learns)
        case "nor_conv_3x3":
            return ReLUConvBN(width, width, 3, 1, learns)


def space_of(section: Any) -> NasBench201:
    """The space of a section, for images of the benchmark's size."""
    return NasBench201(section.width, section.cells)


def build_nas_bench_201(section: Any, task: Any) -> CellNetwork:
    """The supernet of conf/model/nas_bench_201.yaml, or with `section.subnet` the network of that cell, sized by
    `task`.

    Raises RequestError for an encoding outside the space.
    """
    space = NasBench201(section.width, section.cells, task.image_size, task.channels, task.classes)
    if section.subnet is None:
        return NasBench201Supernet(space)
    return NasBench201Network(space, space.decode(section.subnet, key="model.subnet"))
