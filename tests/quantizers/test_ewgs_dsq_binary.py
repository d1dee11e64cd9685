"""The gradients that define EWGS, DSQ, XNOR-Net and ReActNet, against autograd and by hand."""

import pytest
import torch

from quantlab.quantizers.binary import BinaryWeight, polynomial_sign, scaled_sign
from quantlab.quantizers.dsq import dsq
from quantlab.quantizers.ewgs import EWGSWeight, ewgs


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ewgs_without_delta_is_the_straight_through_estimator(bits):
    torch.manual_seed(0)
    x = torch.randn(300, dtype=torch.float64, requires_grad=True)
    l, u = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (-0.8, 1.1))
    x_n = ((x - l) / (u - l)).clamp(0, 1)
    steps = 2**bits - 1
    composed = x_n + ((x_n * steps).round() / steps - x_n).detach()
    weight = torch.randn(300, dtype=torch.float64)
    wanted = torch.autograd.grad((composed * weight).sum(), (x, l, u))
    ours = ewgs(x, l, u, bits, 0.0)
    torch.testing.assert_close(ours, composed)
    for got, want in zip(torch.autograd.grad((ours * weight).sum(), (x, l, u)), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_ewgs_scales_each_gradient_by_its_rounding_error():
    x = torch.tensor([0.4, 0.4, 0.9], requires_grad=True)  # two levels: 0.4 rounds to 0, 0.9 to 1
    out = ewgs(x, torch.tensor(0.0), torch.tensor(1.0), 1, 0.5)
    (out * torch.tensor([2.0, -2.0, 1.0])).sum().backward()
    # g (1 + delta sign(g) (x_n - x_q)):   2 (1 + .5 * .4),   -2 (1 - .5 * .4),   1 (1 + .5 * -.1)
    torch.testing.assert_close(x.grad, torch.tensor([2.4, -1.6, 0.95]))


def test_ewgs_weights_lie_between_minus_one_and_one():
    quantizer = EWGSWeight(2, learn_scale=True, delta=1e-3)
    out = quantizer(torch.linspace(-2, 2, 101))
    torch.testing.assert_close(out.unique(), torch.tensor([-1, -1 / 3, 1 / 3, 1]))


def test_dsq_is_the_step_forward_and_the_tanh_backward():
    x = torch.tensor([0.1, 0.25, 0.5, 0.9, 1.7], dtype=torch.float64, requires_grad=True)
    l, u, alpha = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.0, 1.0, 0.2))
    out = dsq(x, l, u, alpha, 1)
    torch.testing.assert_close(out, torch.tensor([0.0, 0, 0, 1, 1], dtype=torch.float64))
    (grad,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    k, s = torch.tensor(2 / 0.2 - 1, dtype=torch.float64).log(), 1 / (1 - 0.2)
    wanted = 0.5 * s * k * (1 - torch.tanh(k * (x - 0.5)) ** 2)  # Delta / 2 * phi', Delta = 1
    torch.testing.assert_close(grad[:4], wanted.detach()[:4])
    assert grad[4] == 0
    soft = (s * torch.tanh(k * (x - 0.5)) + 1) / 2
    assert all(gradient != 0 for gradient in torch.autograd.grad(out.sum(), (u, alpha)))
    torch.testing.assert_close(soft[:1], torch.tensor([(s * torch.tanh(-0.4 * k) + 1) / 2]))


def test_dsq_gradient_of_alpha_is_that_of_the_soft_levels():
    x = torch.linspace(0.01, 0.99, 57, dtype=torch.float64)
    l, u = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def soft(a):
        along = x * 3
        interval = along.floor().clamp(max=2)
        return (
            interval + (torch.tanh((2 / a - 1).log() * (along - interval - 0.5)) / (1 - a) + 1) / 2
        ).square().sum() / 9

    (grad,) = torch.autograd.grad(((dsq(x, l, u, alpha, 2) - dsq(x, l, u, alpha, 2).detach()) * 1).sum(), alpha)
    step = 1e-6
    along = x * 3
    interval = along.floor().clamp(max=2)

    def levels(a):
        return (interval + (torch.tanh((2 / a - 1).log() * (along - interval - 0.5)) / (1 - a) + 1) / 2).sum() / 3

    numeric = (levels(alpha.detach() + step) - levels(alpha.detach() - step)) / (2 * step)
    torch.testing.assert_close(grad, numeric, rtol=1e-5, atol=1e-8)


def test_xnor_weights_carry_the_mean_of_their_channel():
    weight = torch.tensor([[0.2, -0.4], [0.0, 2.0]], requires_grad=True)
    quantizer = BinaryWeight(2)
    out = quantizer(weight)
    torch.testing.assert_close(out, torch.tensor([[0.3, -0.3], [1.0, 1.0]]))
    out.sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor([[0.3, 0.3], [1.0, 0.0]]))  # 2.0 lies outside of [-1, 1]
    assert torch.equal(scaled_sign(torch.zeros(1), torch.ones(1)), torch.ones(1))


def test_the_polynomial_gradient_of_a_sign():
    x = torch.tensor([-1.5, -0.5, 0.0, 0.25, 1.0], requires_grad=True)
    out = polynomial_sign(x)
    assert out.tolist() == [-1, -1, 1, 1, 1]
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 1.0, 2.0, 1.5, 0.0]))
