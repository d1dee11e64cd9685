"""Weights and inputs of one bit: ReActNet's against its released code, XNOR-Net's against the paper's arithmetic."""

import pytest
import torch
from stored import normal, stored
from torch import Tensor, nn

from quantlab.quantizers.binary import BinaryWeight, ReActNetWeight, RSign

SPECIAL = torch.tensor([-1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5])


def weights() -> Tensor:
    """Two channels, with both ends of [-1, 1] and zeros: [2, 4, 3, 3]."""
    return torch.cat([SPECIAL, normal(41, 64)]).view(2, 4, 3, 3)


def gradient(quantizer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    out = quantizer(x)
    out.backward(normal(42, *x.shape))
    return out.detach(), x.grad


def test_weights_of_reactnet():
    case, w = stored("reactnet")["weight"], weights()
    out, grad = gradient(ReActNetWeight(2), w)
    # the output's, where |w| <= 1
    torch.testing.assert_close(grad.flatten(), torch.tensor(case["w"]), rtol=0, atol=0)
    wanted, zero = torch.tensor(case["out"]).view_as(w), w == 0
    torch.testing.assert_close(out[~zero], wanted[~zero])
    size = w.abs().mean(dim=(1, 2, 3), keepdim=True).expand_as(w)
    # torch.sign's zero; ours counts as positive
    assert (wanted[zero] == 0).all() and torch.equal(out[zero], size[zero])


def test_inputs_of_reactnet():
    """sign(x - beta); the released code adds its bias, which is -beta."""
    case, x = stored("reactnet")["activation"], (torch.cat([SPECIAL, normal(43, 40)]) + 0.25).view(4, 12)
    quantizer = RSign(12, is_conv=False)
    quantizer.beta.data.fill_(0.25)
    out, grad = gradient(quantizer, x)
    torch.testing.assert_close(grad.flatten(), torch.tensor(case["x"]))
    torch.testing.assert_close(-quantizer.beta.grad, torch.tensor(case["bias"]), rtol=1e-5, atol=1e-5)
    wanted, zero = torch.tensor(case["out"]).view_as(x), x == 0.25
    assert (
        zero.sum() == 2
        and torch.equal(out[~zero], wanted[~zero])
        and (wanted[zero] == 0).all()
        and (out[zero] == 1).all()
    )


def test_weights_of_xnor_net():
    case, w = stored("xnor")["weight"], weights()
    out, grad = gradient(BinaryWeight(2), w)
    torch.testing.assert_close(out.flatten(), torch.tensor(case["out"]))
    # Theirs has 1 / n more, n = 36 weights to a channel, for the effect of w on mean |w|: 0.028 compared with 0.8
    torch.testing.assert_close(grad.flatten() + normal(42, 72) / 36, torch.tensor(case["w"]), rtol=1e-5, atol=1e-6)


class Toy(nn.Module):
    """Three layers of binary weights, normalization between: [N, 16] -> [N, 4]."""

    def __init__(self, kind: type):
        super().__init__()
        sizes = (16, 32, 32, 4)
        self.weights = nn.ParameterList(normal(51 + i, b, a) * 0.03 for i, (a, b) in enumerate(zip(sizes, sizes[1:])))
        self.quantizers = nn.ModuleList(kind(len(weight)) for weight in self.weights)

    def forward(self, x: Tensor) -> Tensor:
        for weight, quantizer in zip(self.weights, self.quantizers):
            x = x @ quantizer(weight).T
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        return x


def flipped_share(kind: type) -> float:
    """Share of signs that differ after 100 steps of plain SGD, in percent."""
    toy, x = Toy(kind), normal(60, 64, 16)
    y, before = x.roll(1, 1)[:, :4].tanh() * x[:, 4:8], [weight.detach().clone() for weight in toy.weights]
    for _ in range(100):
        loss = (toy(x) - y).square().mean()
        gradients = torch.autograd.grad(loss, list(toy.weights))
        with torch.no_grad():
            for weight, gradient in zip(toy.weights, gradients):
                weight -= 0.1 * gradient
    flipped = torch.cat([((a >= 0) != (b >= 0)).flatten() for a, b in zip(toy.weights, before)])
    return 100 * flipped.float().mean().item()


def test_signs_flip_as_often_as_under_the_released_code():
    """A gradient times mean |w|, 0.024 here, moves weights that much less: those of XNOR-Net flip in 6 % of all."""
    case = stored("reactnet")["toy"]
    assert flipped_share(ReActNetWeight) == pytest.approx(case["flipped"], abs=1.0)
    assert flipped_share(BinaryWeight) < case["flipped"] / 2
