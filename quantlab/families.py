"""One small network of every family that timm and torchvision have, and whether it trains quantized:
`scripts/families.py` makes the table, `tests/test_families.py` holds it.

A family is a module of `timm.models`, or one of `torchvision.models` with classifiers. Nothing is downloaded; weights
are random.
"""

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantlab.config import instantiate, option_section
from quantlab.quantizers.calibration import calibrate_activations, calibrate_weights
from quantlab.quantizers.gradient import calibrate_gradients, gradient_quantizers, update_intervals
from quantlab.quantizers.insert import insert, quantized_layers, weight_quantized_layers
from quantlab.quantizers.integer_check import check_integers
from quantlab.quantizers.refusal import exactly, unknown_kinds
from quantlab.quantizers.trace import trace_layers

CLASSES = 5
SIZES = (32, 42, 48, 64, 96, 112, 128, 160, 192, 224, 240, 256, 299, 384)  # of images, tried in this order
# Families without a small network: what makes one of theirs small
SHALLOW = {"depths": (1, 1, 1, 1)}
SMALLER: dict[tuple[str, str], dict[str, Any]] = {
    ("timm", "beit"): {"depth": 2, "embed_dim": 48, "num_heads": 3},
    ("timm", "davit"): SHALLOW,
    ("timm", "deepseek_vit"): {"depth": 2},
    ("timm", "gemma4_vit"): {"depth": 2},
    ("timm", "naflexvit"): {"depth": 2},
    ("timm", "nasnet"): {"num_features": 288, "stem_size": 12},
    ("timm", "qwen3_vit"): {"depth": 2},
    ("timm", "sequencer"): {"layers": (1, 1, 1, 1)},
    ("timm", "swin_transformer"): SHALLOW,
    ("timm", "swin_transformer_v2"): SHALLOW,
    ("timm", "swin_transformer_v2_cr"): SHALLOW,
    ("timm", "tnt"): {"depth": 2},
    ("timm", "tresnet"): {"layers": (1, 1, 1, 1)},
    ("timm", "twins"): SHALLOW,
    ("timm", "vision_transformer_hybrid"): {"depth": 2},
    ("timm", "vision_transformer_sam"): {"depth": 2},
    ("timm", "xcit"): {"depth": 2},
}
# What stops a network from being built for images of one size, or from taking them
UNSUITABLE = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)


def families(library: str) -> dict[str, list[str]]:
    """The names of the classifiers of "timm" or "torchvision", by family."""
    found = defaultdict(list)
    if library == "timm":
        import timm

        for name in timm.list_models(exclude_filters="*_enc"):  # Gemma's encoders are no classifiers
            found[timm.models.model_entrypoint(name).__module__.rpartition(".")[2]].append(name)
    else:
        import torchvision

        for name in torchvision.models.list_models(module=torchvision.models):
            found[torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]].append(name)
    return dict(sorted(found.items()))


def smallest(library: str, names: Iterable[str]) -> str:
    """The one of `names` with the fewest parameters; those that cannot be built without weights or further packages
    are left out.
    """
    sizes = {}
    for name in names:
        for device in ("meta", "cpu"):  # without memory, unless widths are computed as torchvision's RegNet does
            try:
                with torch.device(device):
                    sizes[name] = sum(parameter.numel() for parameter in create(library, name).parameters())
                break
            except (ImportError, *UNSUITABLE):
                continue
    return min(sizes, key=lambda name: (sizes[name], name))


def create(library: str, name: str, image_size: int | None = None, **options: Any) -> nn.Module:
    """The network of that name, `[N, 3, image_size, image_size]` to `[N, CLASSES]`, with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "timm":
            import timm

            facts = timm.get_pretrained_cfg(name)
            if image_size is not None and facts is not None and facts.fixed_input_size:
                options.setdefault("img_size", image_size)
            return timm.create_model(name, num_classes=CLASSES, **options)
        import torchvision

        if name.startswith("vit_"):
            options["image_size"] = image_size or 224
        return torchvision.models.get_model(name, num_classes=CLASSES, **options)


def fitting(library: str, name: str, sizes: Iterable[int] = SIZES, **options: Any) -> tuple[nn.Module, int]:
    """The network for the smallest images that it takes, and their size. Raises ValueError where it takes none of
    `sizes`.
    """
    network, built_for = None, None
    for size in sizes:
        torch.manual_seed(0)
        try:
            if network is None or built_for != size:
                network = create(library, name, size, **options)
            with torch.no_grad():
                shape = network.eval()(torch.zeros(1, 3, size, size)).shape
            if shape == (1, CLASSES):
                torch.manual_seed(1)
                network.train()(torch.randn(2, 3, size, size))
                torch.manual_seed(0)
                return create(library, name, size, **options).train(), size
        except UNSUITABLE as error:
            reason = error
    raise ValueError(f"{name} takes no images of {', '.join(map(str, sizes))} pixels ({reason})")


@dataclass
class Facts:
    """What became of one network."""

    layers: int = 0  # Conv2d and Linear
    quantized: int = 0
    refused: dict[str, str] = field(default_factory=dict)  # by name why the layer cannot be quantized
    unused: list[str] = field(default_factory=list)  # planned, and neither called nor their weights taken
    weight_share: float = 0.0  # of the weights of layers, those that are quantized
    # of the multiplications of a forward pass, those with quantized weights and inputs
    multiplication_share: float = 0.0
    qat: str = ""  # "ok", or what went wrong in one step
    low_bit: str = ""
    integer_check: str = ""


def examine(network: nn.Module, image_size: int) -> Facts:
    """One step of QAT (fixed_point, W4A4), one of low-bit training (learned_clipping, W4A4G4) and the integer check,
    each on a copy of `network` in which what is refused stays in full precision.
    """
    facts = Facts()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, image_size, image_size, generator=generator)
    labels = torch.tensor([0, 1])
    layers = {name: module for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    facts.layers, facts.refused = len(layers), unknown_kinds(layers)

    def quantized(quantizer: str, gradient_bits: int) -> tuple[nn.Module, Callable[[], Tensor]]:
        net = copy.deepcopy(network).train()
        insert(net, instantiate(section(quantizer, gradient_bits, facts.refused)))
        calibrate_weights(net)
        facts.unused = calibrate_activations(net, lambda: net(images))
        return net, lambda: sum(F.cross_entropy(part, labels) for part in logits(net(images)))

    def qat() -> None:
        net, loss = quantized("fixed_point", 32)
        _share(net, images, facts)
        _step(net, loss, facts.unused)

    def low_bit() -> None:
        net, loss = quantized("learned_clipping", 4)
        calibrate_gradients(net, loss)
        _step(net, loss, facts.unused)
        facts.low_bit = "ok"
        found = check_integers(net, loss)
        wrong = {name: why for name, why in found["not_checked"].items() if name not in facts.unused}
        facts.integer_check = "ok" if not wrong else "; ".join(f"{name}: {why}" for name, why in wrong.items())

    for column, step in (("qat", qat), ("low_bit", low_bit)):
        try:
            step()
            setattr(facts, column, "ok")
        except Exception as error:  # the table says what went wrong
            where = "integer_check" if facts.low_bit == "ok" else column
            setattr(facts, where, f"{type(error).__name__}: {error}".splitlines()[0])
    return facts


def section(quantizer: str, gradient_bits: int, exempt: Iterable[str]) -> Any:
    """A `quantizer` section of 4 bits with the first and the last layer, and `exempt`, in full precision."""
    end, exempt = {"weight_bits": 32, "activation_bits": 32}, list(exempt)
    changes = {
        "weight": {"bits": 4},
        "activation": {"bits": 4},
        "gradient": {"bits": gradient_bits, "alpha": 0.05},
        "first_layer": end,
        "last_layer": end,
        "policy": [{"modules": exactly(exempt), **end}] if exempt else [],
    }
    return option_section("quantizer", quantizer, changes)


def logits(output: Any) -> list[Tensor]:
    """Those of a network, and of the auxiliary heads that GoogLeNet and Inception have in training."""
    return [output] if isinstance(output, Tensor) else [part for part in output if part is not None]


def _step(network: nn.Module, loss: Callable[[], Tensor], unused: list[str]) -> None:
    """One step of plain SGD, and of the gradients' intervals. Raises ValueError where the loss is not finite, or a
    quantized weight has no gradient.
    """
    value = loss()
    value.backward()
    used = {name: layer for name, layer in weight_quantized_layers(network).items() if name not in unused}
    without = [name for name, layer in used.items() if layer.weight.grad is None]
    if not torch.isfinite(value) or without:
        raise ValueError(f"loss {value.item()}, no gradient: {', '.join(without) or 'none'}")
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-3 * parameter.grad)
    update_intervals(gradient_quantizers(network).values())
    network.zero_grad(set_to_none=True)


def _share(network: nn.Module, images: Tensor, facts: Facts) -> None:
    wrapped = dict(quantized_layers(network))
    traced = trace_layers(network, lambda: network(images))
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters() if parameter.ndim > 1}
    counted = [name for name, layer in wrapped.items() if traced[name].calls]
    facts.quantized = len(counted)
    facts.weight_share = sum(wrapped[name].weight.numel() for name in counted) / sum(sizes.values())
    multiplications = {name: calls.multiplications for name, calls in traced.items()}
    facts.multiplication_share = sum(multiplications[name] for name in counted) / sum(multiplications.values())
