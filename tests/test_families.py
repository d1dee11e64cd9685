"""A small network of every family that timm and torchvision have trains quantized: one step of QAT, one of low-bit
training, the integer check. All families in `-m slow`; a choice that covers the kinds of networks always.
"""

import csv
from pathlib import Path

import pytest

from quantlab.families import SMALLER, examine, families, fitting, smallest

TABLE = Path(__file__).parents[1] / "results" / "timm_families.csv"
FAMILIES = [(library, family) for library in ("timm", "torchvision") for family in families(library)]

# By what is particular of them: library, network, what makes it small, the class of a layer that it must have
ALWAYS = {
    "named Sequential": ("timm", "densenet121", {"block_config": (1, 1, 1, 1), "growth_rate": 8}, "Conv2d"),
    "standardized weights": ("timm", "test_nfnet", {}, "ScaledStdConv2d"),
    "weights taken past the layer": (
        "timm",
        "beit_base_patch16_224",
        {"depth": 2, "embed_dim": 24, "num_heads": 2},
        "Linear",
    ),
    "weights taken, rotary embeddings": (
        "timm",
        "vit_tiny_patch16_dinov3_qkvb",
        {"depth": 2, "embed_dim": 48},
        "Linear",
    ),
    "weights taken, cosine attention": (
        "timm",
        "swinv2_tiny_window16_256",
        {"depths": (1, 1), "embed_dim": 12, "num_heads": (2, 2)},
        "Linear",
    ),
    "padding like TensorFlow": ("timm", "test_efficientnet", {"pad_type": "same"}, "Conv2dSame"),
    "depthwise": ("timm", "mobilenetv2_035", {}, "Conv2d"),
    "transformer": ("timm", "test_vit", {}, "Linear"),
    "squeeze and excitation, hard sigmoids": ("timm", "lcnet_035", {}, "Conv2d"),
    "state space": ("timm", "test_mambaout", {}, "Linear"),
    "named Sequential of a convolution and its normalization": (
        "timm",
        "levit_128s",
        {"embed_dim": (16, 16, 16), "key_dim": 4, "num_heads": (2, 2, 2), "depth": (1, 1, 1)},
        "Conv2d",
    ),
    "a convolution as classifier": ("torchvision", "squeezenet1_1", {}, "Conv2d"),
}


@pytest.fixture(scope="module")
def table():
    with open(TABLE, newline="") as lines:
        return {(row["library"], row["family"]): row for row in csv.DictReader(lines)}


@pytest.mark.parametrize("kind", ALWAYS)
def test_a_kind_of_network_trains_quantized(kind):
    library, name, options, layer = ALWAYS[kind]
    network, size = fitting(library, name, (32,), **options)
    assert layer in {type(module).__name__ for module in network.modules()}
    facts = examine(network, size)
    assert (facts.qat, facts.low_bit, facts.integer_check) == ("ok", "ok", "ok")
    assert facts.refused == {} and facts.unused == [] and facts.quantized == facts.layers - 2
    assert 0 < facts.weight_share < 1 and 0 < facts.multiplication_share < 1


@pytest.mark.slow
@pytest.mark.parametrize("library, family", FAMILIES)
def test_a_family_trains_quantized(library, family, table):
    row = table.get((library, family))
    name = row["model"] if row else smallest(library, families(library)[family])
    facts = examine(*fitting(library, name, **SMALLER.get((library, family), {})))
    assert (facts.qat, facts.low_bit, facts.integer_check) == ("ok", "ok", "ok")
    if row:  # the table says what is
        assert (str(facts.layers), str(facts.quantized), " ".join(facts.unused)) == (
            row["layers"],
            row["quantized"],
            row["unused"],
        )
