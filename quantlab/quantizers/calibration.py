"""The scales of a network's quantizers: weights tell their own, inputs have to be seen in passes of the network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from quantlab.quantizers.insert import quantized_layers
from quantlab.quantizers.uniform_affine import UniformAffineActivation


def calibrate_weights(network: nn.Module) -> None:
    """Every weight's quantizer chooses its scale for the weight that its layer has."""
    for _, layer in quantized_layers(network):
        if layer.weight_quantizer is not None and layer.weight is not None:
            layer.weight_quantizer.calibrate(layer.weight.detach())


@torch.no_grad()
def calibrate_activations(network: nn.Module, forward: Callable[[], Any]) -> list[str]:
    """One forward pass of `network`, which `forward()` makes, in which every activation quantizer chooses its scale,
    layer by layer, on already quantized inputs. Returns the names of layers that it did not call.

    In training mode, as the first training batch in the released code: the running statistics are those of the
    full-precision network and would put inputs of another size before the quantizers (ten times at one bit). They stay
    untouched.

    A layer that the pass calls several times, as a detector's head shared by the levels of a pyramid, takes its first
    call: our choice. That is the finest level, which has three quarters of the inputs.
    """
    layers = [layer for _, layer in quantized_layers(network)]
    chosen = {id(buffer) for layer in layers for buffer in layer.buffers()}
    statistics = [(buffer, buffer.clone()) for buffer in network.buffers() if id(buffer) not in chosen]
    was_training = network.training
    for layer in layers:
        layer.calibrating = True
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a network with dropout gets the same scales whatever was drawn before
        network.train()
        forward()
    network.train(was_training)
    unused = [name for name, layer in quantized_layers(network) if layer.calibrating]
    for layer in layers:
        layer.calibrating = False
    for buffer, kept in statistics:
        buffer.copy_(kept)
    return unused


def grouped_activations(network: nn.Module) -> list[UniformAffineActivation]:
    """The quantizers of inputs with scales per group of denoising steps, in the order of the modules."""
    return [module for module in network.modules() if isinstance(module, UniformAffineActivation)]


@contextmanager
def observed_ranges(network: nn.Module) -> Iterator[None]:
    """Inside the block those quantizers record their inputs and pass them on unchanged; at its end each chooses the
    scales of its groups from what it has seen.
    """
    quantizers = grouped_activations(network)
    for quantizer in quantizers:
        quantizer.observe()
    yield
    for quantizer in quantizers:
        quantizer.choose_ranges()
