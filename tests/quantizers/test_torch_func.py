"""Quantizers inside torch.func: grad, vmap and functional_call give what autograd gives; what does not exist says
so.
"""

import pytest
import torch
from policies import policy, quantize
from test_training_quantizers import NAMES
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from quantlab.quantizers.calibration import calibrate_activations
from quantlab.quantizers.functional import fake_quantize


def network(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    bits = 1 if name in ("binary", "reactnet") else 2
    quantize(net, policy(name, bits))
    calibrate_activations(net, lambda: net(torch.randn(7, 5)))
    return net


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_a_functional_call_are_those_of_autograd(name):
    net, x = network(name), torch.randn(7, 5)
    parameters = {key: value.detach() for key, value in net.named_parameters()}
    found = grad(lambda p: functional_call(net, p, (x,)).square().sum())(parameters)
    net(x).square().sum().backward()
    for key, parameter in net.named_parameters():
        torch.testing.assert_close(found[key], parameter.grad, rtol=1e-5, atol=1e-5)
    assert all(quantizer.effective_step_size > 0 for quantizer in (net[0].weight_quantizer, net[3].weight_quantizer))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_every_sample(name):
    """As for differential privacy: each sample a batch of one."""
    net, x = network(name), torch.randn(4, 5)
    parameters = {key: value.detach() for key, value in net.named_parameters()}

    def loss(p, sample):
        return functional_call(net, p, (sample[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(4):
        net.zero_grad(set_to_none=True)
        net(x[i : i + 1]).square().sum().backward()
        for key, parameter in net.named_parameters():
            torch.testing.assert_close(found[key][i], parameter.grad, rtol=1e-5, atol=1e-5)


def test_fake_quantization_of_post_training():
    x, scale = torch.randn(6, 5), torch.tensor(0.3)

    def loss(x, scale):
        return (fake_quantize(x, scale, torch.tensor(7.0), 0, 15) * x.detach()).sum()

    found = vmap(grad(loss, argnums=(0, 1)), in_dims=(0, None))(x, scale)
    for row, (grad_x, grad_scale) in zip(x, zip(*found)):
        row, s = row.clone().requires_grad_(), scale.clone().requires_grad_()
        loss(row, s).backward()
        torch.testing.assert_close(grad_x, row.grad)
        torch.testing.assert_close(grad_scale, s.grad)


def test_forward_mode_says_that_it_does_not_exist():
    with pytest.raises((RuntimeError, NotImplementedError), match="jvp|forward AD"):
        jvp(
            lambda x: fake_quantize(x, torch.tensor(0.3), torch.tensor(7.0), 0, 15), (torch.randn(3),), (torch.ones(3),)
        )


@pytest.mark.parametrize("name", ["fixed_point", "ewgs", "reactnet"])
def test_a_transform_is_left_uncompiled(name):
    """torch would differentiate the rounding itself: gradients of zero, without a word."""
    quantizer, x = policy(name, 1).weight(torch.Size((1, 5)), 1), torch.randn(1, 5) / 3
    gradient = grad(lambda x: quantizer(x).sum())
    torch._dynamo.reset()
    assert gradient(x).abs().min() > 0
    torch.testing.assert_close(torch.compile(gradient, backend="eager")(x), gradient(x))
