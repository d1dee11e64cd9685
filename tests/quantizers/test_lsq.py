"""LSQ's values and gradients, worked out by hand."""

import pytest
import torch

from quantlab.quantizers.lsq import LSQActivation, LSQWeight, _composed, lsq


@pytest.mark.parametrize("quantizer", [lsq, _composed])
def test_values_and_the_three_gradients_of_the_step(quantizer):
    v = torch.tensor([0.9, -0.3, 5.0, -5.0], requires_grad=True)  # in steps of 0.5: 1.8, -0.6, clipped to 1 and -2
    s = torch.tensor(0.5, requires_grad=True)
    out = quantizer(v, s, -2, 1, 0.1)
    torch.testing.assert_close(out, torch.tensor([0.5, -0.5, 0.5, -1.0]))
    for i, slope in enumerate([1.0, -1 + 0.6, 1.0, -2.0]):  # Eq. (3); 1.8 is clipped too
        grad_v, grad_s = torch.autograd.grad(out[i], (v, s), retain_graph=True)
        assert grad_s.item() == pytest.approx(0.1 * slope, abs=1e-6)
        assert grad_v[i] == (1 if i == 1 else 0) and grad_v.count_nonzero() == (1 if i == 1 else 0)


def test_initial_steps():
    weight = torch.tensor([[1.0, -3.0]])
    quantizer = LSQWeight(3, learn_scale=True)
    quantizer.calibrate(weight)
    assert quantizer.scale.item() == pytest.approx(2 * 2 / 3**0.5)  # Q_P = 3
    activation = LSQActivation(2)
    activation.calibrate(torch.tensor([1.0, 3.0]))
    assert activation.scale.item() == pytest.approx(2 * 2 / 3**0.5)
    activation.calibrate(torch.tensor([-1.0, 3.0]))
    assert activation.scale.item() == pytest.approx(2 * 2)  # signed: Q_P = 1


def test_the_gradient_of_an_inputs_step_is_scaled_by_the_inputs_of_one_image():
    torch.manual_seed(0)
    activation, x = LSQActivation(2), torch.rand(6, 2, 5)
    activation(x).sum().backward()
    (whole,) = torch.autograd.grad(lsq(x, activation.scale, 0, 3, 1.0).sum(), activation.scale)
    torch.testing.assert_close(activation.scale.grad, whole / (10 * 3) ** 0.5)
