"""What of a network is quantized and what is not, and why: every parameter and every multiplication has an entry."""

import pytest
import torch
from policies import policy, quantize
from test_insert import affine, unet
from torch import nn
from torch.nn import functional as F

from quantlab.quantizers.insert import insert
from quantlab.quantizers.layers import BIASES, describe_layers, survey


def fixed_point(weight=4, activation=3, first=(32, 32), last=(8, 32), rules=()):
    return policy("fixed_point", weight, activation, first=first, last=last, rules=rules)


class Transformer(nn.Module):
    """5 tokens of 4 channels, one of everything that can stay in full precision."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, stride=2)  # first
        self.position = nn.Parameter(torch.zeros(1, 4, 4))
        self.size = nn.Parameter(torch.ones(4))
        self.norm = nn.LayerNorm(4)
        self.qkv = nn.Linear(4, 12, bias=False)  # its weight is used, in part, its forward is not
        self.proj = nn.Linear(4, 4)
        self.mix = nn.Conv1d(4, 4, 1, bias=False)
        self.left_out = nn.Linear(4, 4, bias=False)
        self.unused = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 2)  # last

    def forward(self, image):
        x = self.norm(self.patches(image).flatten(2).transpose(1, 2) * self.size + self.position)
        x = self.proj(F.scaled_dot_product_attention(*F.linear(x, self.qkv.weight[:]).chunk(3, -1)))
        return self.head(self.left_out(self.mix(x.transpose(1, 2)).transpose(1, 2)).mean(1))


def described(network, policy, x):
    surveyed = survey(network, lambda: network(x))
    quantize(network, policy)
    return describe_layers(surveyed, network, policy, lambda: network(x))


def test_every_reason_to_stay_in_full_precision_and_all_shares():
    found = described(Transformer(), fixed_point(rules=[("left_out", 32, 5)]), torch.randn(2, 1, 4, 4))
    facts = {name: (entry["weight"], entry["input"], entry.get("reason")) for name, entry in found.items()}
    assert facts == {
        "patches": (32, 32, "first"),
        "position": (32, 32, "kind"),
        "norm": (32, 32, "kind"),
        "qkv": (32, 32, "never called"),
        "proj": (4, 3, None),
        "mix": (32, 32, "kind"),
        "left_out": (32, 5, "policy"),
        "unused": (32, 32, "never called"),
        "head": (8, 32, "last"),
        "": (32, 32, "kind"),
        "(products)": (None, 32, "attention product"),
        BIASES: (32, 32, "kind"),
    }
    parameters = {
        "": 4,
        "patches": 16,
        "position": 16,
        "norm": 8,
        "qkv": 48,
        "proj": 16,
        "mix": 16,
        "left_out": 16,
        "unused": 16,
        "head": 8,
        BIASES: 10,
    }
    multiplications = {
        "patches": 4 * 4 * 4,
        "qkv": 4 * 4 * 12,
        "proj": 4 * 16,
        "mix": 4 * 16,
        "left_out": 4 * 16,
        "head": 8,
        "(products)": 2 * 4 * 4 * 4,
    }
    for key, counts in (("parameters", parameters), ("multiplications", multiplications)):
        total = sum(counts.values())
        assert {name: entry[key] for name, entry in found.items()} == pytest.approx(
            {name: counts.get(name, 0) / total for name in found}
        )


def test_bits_of_the_section_are_policy_even_at_the_ends():
    found = described(
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
        fixed_point(4, 32, first=(8, 32), last=(8, 32)),
        torch.randn(1, 2),
    )
    assert [(entry["weight"], entry["input"], entry.get("reason")) for entry in found.values()] == [
        (8, 32, "policy"),
        (8, 32, "policy"),
        (32, 32, "kind"),
    ]


@pytest.mark.parametrize("attention", [True, False])
def test_the_products_of_attention_have_entries(attention):
    network, x = unet(), torch.randn(1, 1, 8, 8)
    surveyed = survey(network, lambda: network(x, 0))
    rules = [("mid_block.*key", 4, 32)] if attention else []
    policy = affine(4, 6, rules, first=(8, 8), attention=attention)
    insert(network, policy)
    found = describe_layers(surveyed, network, policy, lambda: network(x, 0))
    products = {
        name: (entry["input"], entry.get("reason"))
        for name, entry in found.items()
        if entry["kind"] == "attention product"
    }
    name = "mid_block.attentions.0"
    if attention:
        assert len(products) == 8 and products[f"{name}.processor (query key)"] == (32, "policy")
        assert (
            products[f"{name}.processor (softmax value)"]
            == products["up_blocks.0.attentions.0.processor (softmax value)"]
            == (8, None)
        )
    else:
        assert len(products) == 4 and products[f"{name} (products)"] == (32, "attention product")
    assert (found["conv_in"]["weight"], found["conv_in"]["input"], found["conv_in"]["gradient"]) == (8, 8, 32)
    assert (found["conv_out"]["weight"], found["conv_out"]["input"]) == (4, 6)
    for key in ("parameters", "multiplications"):
        assert sum(entry[key] for entry in found.values()) == pytest.approx(1)
    # 16 channels, 4 x 4 positions: the two products of the attention, and the four projections of 16 x 16
    share = sum(
        entry["multiplications"]
        for key, entry in found.items()
        if key.startswith(name) and entry["kind"] == "attention product"
    )
    assert share / found[f"{name}.to_q"]["multiplications"] == pytest.approx(2 * 16 * 16 * 16 / (16 * 16 * 16))


class PastTheLayer(nn.Module):
    """As BEiT's attention: the layer's own weight, not its forward."""

    def __init__(self):
        super().__init__()
        self.qkv, self.skipped, self.out = (
            nn.Linear(4, 4, bias=False),
            nn.Linear(4, 4, bias=False),
            nn.Linear(4, 4, bias=False),
        )

    def forward(self, x):
        return self.out(F.linear(F.linear(x, self.qkv.weight), self.skipped.weight))


def test_a_weight_that_is_quantized_where_it_is_used_counts_and_one_left_out_is_the_policys():
    found = described(PastTheLayer(), fixed_point(first=(4, 3), rules=[("skipped", 32, 32)]), torch.randn(1, 4))
    assert {
        name: (entry["weight"], entry["input"], entry.get("reason"), entry["multiplications"])
        for name, entry in found.items()
    } == {"qkv": (4, 3, None, 1 / 3), "skipped": (32, 32, "policy", 1 / 3), "out": (8, 32, "last", 1 / 3)}
