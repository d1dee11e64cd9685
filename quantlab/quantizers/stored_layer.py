"""What a file holds of a quantized layer, and back: its weight as packed codes, and all else as it is.

The latent weight of training is not among it: what comes back is a layer of fixed codes (`CodedWeight`), whose weights
are those of the stored one bit for bit.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from quantlab.errors import RunError
from quantlab.quantizers.base import Quantizer
from quantlab.quantizers.functional import code_range, dequantize
from quantlab.quantizers.integers import IntegerTensor, pack, unpack
from quantlab.quantizers.layer import QuantizedLayer, SplitWeight
from quantlab.quantizers.uniform_affine import CodedWeight

OWN = "weight_quantizer."  # where a layer's state has that of its weight's quantizer


class TabulatedWeight(CodedWeight):
    """One whose values stand in a table, `levels` (float32 [2^bits], of the lowest code first): where a quantizer's own
    formula (EWGS, DSQ) rounds otherwise than (code - zero_point) scale.
    """

    levels: Tensor

    def __init__(self, codes: Tensor, scale: Tensor, zero_point: Tensor, bits: int, levels: Tensor):
        super().__init__(codes, scale, zero_point, bits)
        self.register_buffer("levels", levels)

    def _dequantized(self) -> Tensor:
        return self.levels[_from_lowest(self.codes, self.bits)]


def weight_facts(layer: QuantizedLayer, quantizer: str) -> dict[str, Any]:
    """What JSON says of the stored weight: `quantizer` (its name), `bits`, `axis` (of the scales; null: one for all),
    `grid` (the lowest and the highest code), `shape`, and of a split weight `split`, the sizes of its parts along the
    input channels. {} of a layer whose weight is in full precision.

    Raises RunError where the weight is on no grid, as while its rounding is learned.
    """
    weight = layer.weight_quantizer
    if weight is None:
        return {}
    _, first, piece = next(_parts(layer))
    grid, held = first.grid(), first.codes if isinstance(first, CodedWeight) else piece
    assert held is not None  # only codes do without the float weight
    shape = [*held.shape]
    facts = {"quantizer": quantizer, "bits": weight.bits, "axis": grid.axis, "shape": shape}
    facts["grid"] = [*code_range(weight.bits, grid.signed)]
    if isinstance(weight, SplitWeight):
        facts["split"], shape[1] = weight.sizes, sum(weight.sizes)
    return facts


@torch.no_grad()
def stored_tensors(layer: QuantizedLayer) -> dict[str, Tensor]:
    """By names of the layer's own: `weight_quantizer.codes` (uint8 [N], packed), `.scale`, `.zero_point` (float32, a
    scalar or [size of the axis]), where needed `.levels` (`TabulatedWeight`), of a split weight under
    `weight_quantizer.parts.NUMBER.`; and its state but for the weight.

    Raises RunError as `weight_facts`.
    """
    state: dict[str, Tensor] = layer.state_dict()
    if layer.weight_quantizer is None:
        return state
    tensors = {name: tensor for name, tensor in state.items() if not _is_of_weight(name)}
    for prefix, quantizer, weight in _parts(layer):
        integers, values = quantizer.integers(weight), quantizer(weight)
        scale, zero_point = integers.scale.clone(), integers.zero_point.clone()  # a file shares no tensors
        packed = {"codes": integers.pack(), "scale": scale, "zero_point": zero_point}
        if not torch.equal(integers.dequantize(), values):
            packed["levels"] = _levels(integers, values)
        tensors |= {f"{prefix}{key}": tensor for key, tensor in packed.items()}
    return tensors


def take_tensors(layer: QuantizedLayer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of `layer`, for `load_state_dict`, that `stored_tensors` and `weight_facts` have told. Its weight's
    quantizer becomes one of fixed codes; the float weight, where it has one, is to be the quantized one.

    Facts that have no `shape` are those of tensors that were never packed: they are the state.
    Raises RunError where the codes do not fit the facts, KeyError where one is lacking.
    """
    if "shape" not in facts:
        return dict(tensors)
    device = next(iter(layer.state_dict().values())).device
    layer.fold_standardization()
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith(OWN)}
    fixed = fixed_weight(tensors, facts)
    state |= {f"{OWN}{key}": tensor for key, tensor in fixed.state_dict().items()}
    if layer.weight is not None:
        state["weight"] = fixed(None)
    if not all(isinstance(quantizer, CodedWeight) for _, quantizer, _ in _parts(layer)):
        layer.weight_quantizer = fixed.to(device)
    return state


def fixed_weight(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> CodedWeight | SplitWeight:
    """The quantizer of fixed codes whose tensors `stored_tensors` gave, by names of the layer's own; facts: what
    `weight_facts` told of them. Raises as `take_tensors`.
    """
    shape, split = list(facts["shape"]), facts.get("split")
    shapes = [shape] if split is None else [[shape[0], size, *shape[2:]] for size in split]
    prefixes = [OWN] if split is None else [f"{OWN}parts.{number}." for number in range(len(split))]
    parts = []
    for prefix, own in zip(prefixes, shapes):
        packed = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        parts.append(_fixed(packed, own, facts))
    return parts[0] if split is None else SplitWeight(parts, split)


def packed_state(state: Mapping[str, Tensor], layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """The state of a network whose layers hold codes alone, with their weights as `stored_tensors` gives them; layers:
    by name what `weight_facts` told of each.
    """
    tensors = dict(state)
    for name, tensor in state.items():
        layer, _, rest = name.partition(f".{OWN}")
        if rest and layer in layers:
            facts, kind = layers[layer], rest.rpartition(".")[2]
            per_axis = () if facts["axis"] is None else -1
            tensors[name] = pack(tensor, facts["bits"]) if kind == "codes" else tensor.reshape(per_axis)
    return tensors


def _from_lowest(codes: Tensor, bits: int) -> Tensor:
    return codes.long() - code_range(bits, codes.dtype == torch.int8)[0]


def _levels(integers: IntegerTensor, values: Tensor) -> Tensor:
    """The value of every code: as seen in `values`, or by the affine formula where it was not seen."""
    if integers.axis is not None:
        raise RunError("stored weight: got values beside the grid of their channel")
    lowest = code_range(integers.bits, integers.codes.dtype == torch.int8)[0]
    every = torch.arange(lowest, lowest + 2**integers.bits, dtype=integers.scale.dtype, device=values.device)
    levels, codes = dequantize(every, integers.scale, integers.zero_point), _from_lowest(integers.codes, integers.bits)
    levels[codes] = values
    if not torch.equal(levels[codes], values):
        raise RunError("stored weight: got several values of one code")
    return levels


def _fixed(packed: Mapping[str, Tensor], shape: list[int], facts: Mapping[str, Any]) -> CodedWeight:
    codes = unpack(packed["codes"], facts["bits"], shape, signed=facts["grid"][0] < 0)
    along = [-1 if dim == facts["axis"] else 1 for dim in range(len(shape))]
    scale, zero_point = packed["scale"].view(along), packed["zero_point"].view(along)
    if "levels" in packed:
        return TabulatedWeight(codes, scale, zero_point, facts["bits"], packed["levels"])
    return CodedWeight(codes, scale, zero_point, facts["bits"])


def _parts(layer: QuantizedLayer) -> Iterator[tuple[str, Quantizer, Tensor | None]]:
    """Of every part of the weight: where its quantizer's state stands, the quantizer, and the float weight."""
    if isinstance(whole := layer.weight_quantizer, SplitWeight):
        for number, (part, piece) in enumerate(zip(whole.parts, whole.pieces(layer.weight))):
            assert isinstance(part, Quantizer)
            yield f"{OWN}parts.{number}.", part, piece
    elif whole is not None:
        yield OWN, whole, layer.weight


def _is_of_weight(name: str) -> bool:
    return name in ("weight", "gain") or name.startswith(OWN)  # gain: of its standardization
