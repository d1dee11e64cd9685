"""torchvision's tensor names for networks whose names differ in timm. (ResNets and DenseNets have the same names in
both.)

Both libraries register the layers of these networks in the order of the forward pass, so the i-th tensor of a size in
one is the i-th of that size in the other. This does not hold for every network, nor do both always compute the same
function: the list contains only networks for which a test shows equal outputs.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

TORCHVISION = {  # timm's architecture: torchvision's
    "mobilenetv2_100": "mobilenet_v2",
    **{f"efficientnet_b{size}": f"efficientnet_b{size}" for size in range(5)},
    "mnasnet_050": "mnasnet0_5",
    "mnasnet_075": "mnasnet0_75",
    "mnasnet_100": "mnasnet1_0",
    **{f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
    **{f"{family}_base_patch16_224": "vit_b_16" for family in ("vit", "deit")},
    "vit_base_patch32_224": "vit_b_32",
    "vit_large_patch16_224": "vit_l_16",
    "swin_tiny_patch4_window7_224": "swin_t",
    "swin_small_patch4_window7_224": "swin_s",
    "swin_base_patch4_window7_224": "swin_b",
    **{f"vgg{depth}{norm}": f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def torchvision_names(architecture: str) -> dict[str, str]:
    """torchvision's name of every tensor of timm's `architecture`, by timm's name; empty if it is not in the list
    above.
    """
    if architecture not in TORCHVISION:
        return {}
    import timm
    from torchvision.models import get_model

    with torch.device("meta"):
        ours = timm.create_model(architecture).state_dict()
        theirs = get_model(TORCHVISION[architecture], weights=None).state_dict()
    of_size = _by_size(theirs.items())
    return {
        name: other
        for size, names in _by_size(ours.items()).items()
        for name, other in zip(names, of_size[size], strict=True)
    }


def _by_size(tensors: Iterable[tuple[str, Tensor]]) -> dict[tuple[str, int], list[str]]:
    names: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, tensor in tensors:
        last = name.rpartition(".")[2]
        if last != "relative_position_index":  # a constant, which timm does not store
            names[last if last in STATISTICS else "", tensor.numel()].append(name)
    return names
