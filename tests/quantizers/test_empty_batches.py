"""A batch without an image, as the last one of a filtered set: empty outputs, gradients of zero; it is nothing to
calibrate on.
"""

import pytest
import torch
from policies import policy, quantize
from test_training_quantizers import CASES, weight_quantizer
from torch import nn

from quantlab.errors import RunError
from quantlab.quantizers.calibration import calibrate_activations
from quantlab.quantizers.insert import quantizer_parameters
from quantlab.quantizers.layer import QuantizedLayer
from quantlab.quantizers.uniform_affine import UniformAffineActivation


@pytest.mark.parametrize("name, bits", CASES)
@pytest.mark.parametrize(
    "layer, shape", [(nn.Conv2d(6, 4, 3), (6, 10, 10)), (nn.Linear(6, 4), (3, 6)), (nn.Linear(6, 4), (6,))]
)
@pytest.mark.parametrize("output_scale", [True, False])
def test_a_layer(name, bits, layer, shape, output_scale):
    torch.manual_seed(0)
    parts = policy(name, bits)
    weight, activation = weight_quantizer(name, bits, layer.weight.detach()), parts.activation(layer, bits)
    layer = QuantizedLayer(layer, weight, activation, output_scale=output_scale)
    layer.activation_quantizer.calibrate(torch.randn(5, *shape))
    x = torch.zeros(0, *shape, requires_grad=True)
    out = layer(x)
    layer.zero_grad()
    out.sum().backward()
    assert len(out) == 0 and out.shape[1:] == layer(torch.zeros(2, *shape)).shape[1:] and x.grad.shape == x.shape
    for key, parameter in layer.named_parameters():
        assert parameter.grad is None or parameter.grad.abs().max() == 0, key  # None: a scale that is not learned
    assert layer.weight.grad is not None and all(
        parameter.grad is not None for parameter in layer.activation_quantizer.parameters()
    )


def test_an_input_of_post_training():
    quantizer, x = UniformAffineActivation(8, shared=True), torch.zeros(0, 3, requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.shape == (0, 3) and quantizer.log_scale[0].grad == 0


@pytest.mark.parametrize("name", ["fixed_point", "reactnet"])
def test_calibration_asks_for_inputs(name):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 1, 1))
    quantize(net, policy(name, 1))
    before = [parameter.clone() for parameter in quantizer_parameters(net)]
    with pytest.raises(RunError, match="got an empty batch, of shape \\[0, 1, 9, 9\\], allowed: one input or more"):
        calibrate_activations(net, lambda: net(torch.zeros(0, 1, 9, 9)))
    assert all(torch.equal(a, b) for a, b in zip(before, quantizer_parameters(net)))
    with pytest.raises(RunError, match="empty batch"):
        policy(name, 1).activation(nn.Conv2d(2, 2, 3), 1).calibrate(torch.zeros(0, 2, 4, 4))
