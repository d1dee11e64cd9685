"""The cell space of NAS-Bench-201 (Dong & Yang 2020, arXiv 2001.00326): 5 operations on 6 edges, 15,625 cells.

A cell has four nodes; a node is the sum over its incoming edges, each an operation on an earlier node. Cells are
numbered as in the supernet paper's tables of the benchmark: base 5, edge 0 most significant.
"""

from functools import cache

from quantlab.search.spaces import Measure, SearchSpace, Subnet

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (source, target); the order is topological
NODES = 4  # 0 is the input, 3 the output
# of `width`, twice and four times as many channels, halving the resolution
STAGES = 3
NONE = OPERATIONS.index("none")
KERNELS = {OPERATIONS.index("nor_conv_1x1"): 1, OPERATIONS.index("nor_conv_3x3"): 3}


class NasBench201(SearchSpace):
    """The space for a network of `width` channels in its first stage and `cells` cells per stage.

    The defaults are the benchmark's: 16 channels, 5 cells, CIFAR-10. They only affect complexity; the cells are always
    the same.
    """

    name = "nas_bench_201"
    decisions = tuple(f"{target}<-{source}" for source, target in EDGES)
    operations = OPERATIONS
    edges = EDGES

    def __init__(self, width: int = 16, cells: int = 5, image_size: int = 32, channels: int = 3, classes: int = 10):
        self.width, self.cells, self.image_size, self.channels, self.classes = (
            width,
            cells,
            image_size,
            channels,
            classes,
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * 2**stage for stage in range(STAGES))

    @property
    def pixels(self) -> tuple[int, ...]:
        """Positions of a feature map in each stage; with a stride of two, odd sizes round up."""
        return tuple((-(-self.image_size // 2**stage)) ** 2 for stage in range(STAGES))

    def choices(self, decision: int) -> tuple[int, ...]:
        return tuple(range(len(OPERATIONS)))

    def canonical(self, subnet: Subnet) -> Subnet:
        """With `none` on every edge that is on no path from input to output: 9,445 cells remain."""
        live = live_edges(subnet)
        return tuple(operation if edge in live else NONE for edge, operation in enumerate(subnet))

    def fixed_cost(self, measure: Measure) -> int:
        """Stem 3x3, two reductions (3x3, 3x3, and 1x1 in the shortcut), classifier; 72,752 with the defaults."""
        widths, pixels = self.widths, self.pixels if measure == "flops" else (1,) * STAGES
        stem = 9 * self.channels * self.width * pixels[0]
        reductions = sum(
            (9 * (before * after + after**2) + before * after) * positions
            for before, after, positions in zip(widths, widths[1:], pixels[1:])
        )
        return stem + reductions + widths[-1] * self.classes

    def cost(self, decision: int, operation: int, measure: Measure) -> int:
        """Of an edge in all cells; an edge that does not reach the output is counted too, as in the released code."""
        pixels = self.pixels if measure == "flops" else (1,) * STAGES
        return (
            KERNELS.get(operation, 0) ** 2
            * self.cells
            * sum(width**2 * positions for width, positions in zip(self.widths, pixels))
        )


@cache
def live_edges(subnet: Subnet) -> tuple[int, ...]:
    """Edges, in order, on some path of operations other than `none` from the input to the output; empty if there is
    no path.
    """
    fed = {0}
    for (source, target), operation in zip(EDGES, subnet):
        if operation != NONE and source in fed:
            fed.add(target)
    return tuple(edge for edge in reaching_edges(subnet) if EDGES[edge][0] in fed)


def reaching_edges(subnet: Subnet) -> tuple[int, ...]:
    """Edges, in order, other than `none`, from whose target the output is reached, whether or not the input reaches
    them.
    """
    reaching = {NODES - 1}
    for (source, target), operation in reversed(tuple(zip(EDGES, subnet))):
        if operation != NONE and target in reaching:
            reaching.add(source)
    return tuple(edge for edge, (_, target) in enumerate(EDGES) if subnet[edge] != NONE and target in reaching)
