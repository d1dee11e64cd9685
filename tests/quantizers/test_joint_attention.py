"""The two products of joint attention, in which text and image attend to each other: SD3 and Flux."""

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.models.attention_dispatch import attention_backend
from policies import policy
from torch import nn

from quantlab.errors import RunError
from quantlab.quantizers.attention import QuantizedJointAttention
from quantlab.quantizers.calibration import observed_ranges
from quantlab.quantizers.insert import insert
from quantlab.quantizers.layers import describe_layers, survey

PRODUCTS_ALONE = (("processor", 8, 8), (".", 32, 32))
OPERANDS = ("query", "key", "value", "softmax")


def flux():
    network = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=[4, 4, 8],
    )
    x, words = torch.randn(2, 16, 4), torch.randn(2, 5, 8)
    places = {"img_ids": torch.randn(16, 3).round(), "txt_ids": torch.zeros(5, 3)}
    given = {"encoder_hidden_states": words, "pooled_projections": torch.randn(2, 8), **places}
    return network, lambda: network(x, timestep=torch.tensor([0.5, 0.5]), **given)[0]


def sd3():
    network = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    given = {"encoder_hidden_states": torch.randn(2, 5, 8), "pooled_projections": torch.randn(2, 8)}
    x = torch.randn(2, 4, 8, 8)
    return network, lambda: network(x, timestep=torch.tensor([500, 500]), **given)[0]


@pytest.fixture(params=[flux, sd3])
def made(request):
    """A network, and a call of it."""
    torch.manual_seed(0)
    network, call = request.param()
    network.eval().requires_grad_(False)
    for name, parameter in network.named_parameters():  # modulation that starts at zero hides what attention does
        if "norm" in name and parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.5)
    return network, call


def attentions(network):
    return [module for module in network.modules() if isinstance(module, QuantizedJointAttention)]


@pytest.mark.parametrize("rules", [(), [("attn", 8, 8)], [("processor", 32, 32)]])
def test_they_stay_in_full_precision_without_a_rule_for_them(rules, made):
    network, _ = made
    insert(network, policy("uniform_affine", 8, 8, preset="none", rules=rules))
    assert attentions(network) == []


def test_unquantized_they_are_torchs_own(made):
    network, call = made
    expected = call()
    insert(network, policy("uniform_affine", 8, 8, rules=PRODUCTS_ALONE))
    assert len(attentions(network)) == 2
    for module in attentions(network):
        module.query = module.key = module.value = module.softmax = nn.Identity()
    torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-5)


def test_all_four_operands_are_quantized(made):
    network, call = made
    surveyed, chosen = survey(network, call), policy("uniform_affine", 8, 8, rules=PRODUCTS_ALONE)
    insert(network, chosen)
    seen, unranged = {}, call()
    for module in attentions(network):
        for operand in OPERANDS:
            quantizer = getattr(module, operand)
            quantizer.register_forward_hook(lambda *args, at=(module, operand): seen.update({at: args[1][0]}))
    with observed_ranges(network):
        exact = call()
    output = call()
    error = (output - exact).norm() / exact.norm()
    assert 0 < error < 0.05 < (unranged - exact).norm() / exact.norm()  # without ranges they would be rounded to 1
    length = 5 + 16  # text and image together
    for (module, operand), x in seen.items():
        assert x.shape[2:] == (length, length if operand == "softmax" else x.shape[-1])
        codes = getattr(module, operand)(x) / getattr(module, operand).log_scale[0].exp()
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
    assert len(seen) == 8
    described = describe_layers(surveyed, network, chosen, call)
    entries = {name: entry["input"] for name, entry in described.items() if ".processor (" in name}
    assert len(entries) == 4 and set(entries.values()) == {8}
    for module in attentions(network):
        module.softmax = nn.Identity()
    assert not torch.equal(call(), output)


def test_another_backend_of_diffusers_is_refused(made):
    network, call = made
    if isinstance(network, SD3Transformer2DModel):
        pytest.skip("whose attention has no other backends")
    insert(network, policy("uniform_affine", 8, 8, rules=PRODUCTS_ALONE))
    with torch.no_grad(), attention_backend("flex"), pytest.raises(RunError, match="DIFFUSERS_ATTN_BACKEND=native"):
        call()
