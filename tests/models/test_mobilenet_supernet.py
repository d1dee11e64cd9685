"""The MobileNet supernet and single networks: sizes, what activation changes, FLOPs, training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from quantlab.errors import RequestError
from quantlab.models.mobilenet_supernet import build_mobilenet_supernet
from quantlab.search.mobilenet import IDENTITY, STAGES, MobileNetSpace

DIGITS, MNIST, CIFAR, ODD = (
    SimpleNamespace(image_size=size, channels=channels, classes=classes)
    for size, channels, classes in ((8, 1, 10), (28, 1, 10), (32, 3, 10), (15, 3, 5))
)
SMALL = [SimpleNamespace(channels=channels, layers=2, stride=stride) for channels, stride in ((8, 1), (12, 2), (16, 2))]
MIXED = "3-6-1-5-4-6"


def build(subnet=None, task=DIGITS, stages=SMALL, stem=8, first=8, last=32, stem_stride=1, initialization="torch"):
    torch.manual_seed(0)
    section = SimpleNamespace(
        subnet=subnet,
        stages=stages,
        stem=stem,
        first=first,
        last=last,
        stem_stride=stem_stride,
        dropout=0.2,
        initialization=initialization,
    )
    return build_mobilenet_supernet(section, task)


def batch(task, count=6):
    return {
        "image": torch.randn(count, task.channels, task.image_size, task.image_size),
        "label": torch.arange(count) % task.classes,
    }


@pytest.mark.parametrize("task", [DIGITS, MNIST, CIFAR, ODD])
@pytest.mark.parametrize("subnet", [None, MIXED])
def test_it_fits_the_task(task, subnet):
    network = build(subnet, task)
    assert network(batch(task)["image"]).shape == (6, task.classes) and network.kind == (
        "classifier" if subnet else "supernet"
    )
    network.training_loss(batch(task)).backward()
    if subnet:
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("task", [DIGITS, CIFAR, ODD])
def test_parameters_and_flops_are_what_the_modules_have(task):
    for subnet in (MIXED, "0-0-0-0-0-0", "5-5-5-5-5-5", "2-6-2-6-2-6"):
        network, counted = build(subnet, task), []

        def count(module, inputs, output):
            counted.append(module.weight[0].numel() * output[0].numel())

        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(count)
        network(batch(task)["image"])
        assert sum(counted) == network.space.complexity(network.subnet, "flops")
        weights = sum(parameter.numel() for parameter in network.parameters() if parameter.dim() > 1)
        assert weights == network.space.complexity(network.subnet)


def test_the_supernet_holds_every_operation_of_every_layer_once():
    task = SimpleNamespace(image_size=64, channels=3, classes=1000)
    supernet = build(None, task, STAGES, stem=32, first=16, last=1280, stem_stride=2)
    space = supernet.space
    every = sum(space.cost(layer, operation, "parameters") for layer in range(21) for operation in space.choices(layer))
    assert (
        sum(parameter.numel() for parameter in supernet.parameters()) == space.fixed_cost("parameters") + every + 1000
    )
    assert space.complexity_range() == MobileNetSpace().complexity_range()


def tensors_of(network):
    return {name: (id(tensor), tensor.data_ptr()) for name, tensor in network.state_dict(keep_vars=True).items()}


def test_activating_builds_moves_and_allocates_nothing():
    supernet, rng = build(), np.random.default_rng(0)
    modules, tensors = dict(supernet.named_modules()), tensors_of(supernet)
    subnets = [supernet.space.sample(rng) for _ in range(50)]
    with torch.profiler.profile(profile_memory=True) as profile:
        for subnet in subnets:
            supernet.activate(subnet)
    assert profile.events() == []
    after = dict(supernet.named_modules())
    assert after.keys() == modules.keys() and all(after[name] is module for name, module in modules.items())
    assert tensors_of(supernet) == tensors


def test_gradients_reach_the_active_operations_alone_and_those_can_be_listed():
    supernet = build()
    subnet = supernet.space.decode(MIXED)
    supernet.activate(subnet)
    supernet.training_loss(batch(DIGITS)).backward()
    for layer in range(len(subnet)):
        for operation in supernet.space.choices(layer):
            listed = supernet.operation_parameters(layer, operation)
            assert len(listed) == (0 if operation == IDENTITY else 3)
            assert all((parameter.grad is not None) == (subnet[layer] == operation) for parameter in listed)


def test_an_identity_layer_is_left_out():
    supernet, images = build(), batch(DIGITS)["image"]
    supernet.activate(supernet.space.decode("3-6-1-6-4-6"))
    x = supernet.first(supernet.stem(images))
    for layer, name in ((0, "5x5_e6"), (2, "3x3_e6"), (4, "7x7_e3")):
        x = supernet.layers[layer][name](x)
    torch.testing.assert_close(supernet(images), supernet.fc(supernet.last(x).mean(dim=(2, 3))))


def test_logits_of_many_subnets_are_those_of_each():
    supernet, images, rng = build(), batch(DIGITS)["image"], np.random.default_rng(0)
    first = supernet.space.sample(rng)
    subnets = [supernet.space.sample(rng) for _ in range(40)] + [first, *supernet.space.neighbours(first), first]
    calls = []
    for operation in supernet.layers[0].values():
        operation.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        found = supernet.logits_of(images, subnets)
        assert len(calls) == 6
        for subnet, logits in zip(subnets, found):
            supernet.activate(subnet)
            assert torch.equal(logits, supernet(images))


def test_evaluation_of_the_supernet_uses_the_statistics_of_the_batch():
    supernet, images = build().eval(), batch(DIGITS, count=8)["image"]
    supernet.activate((3,) * 6)
    assert torch.equal(supernet(images), supernet.train()(images))
    single = build(MIXED).eval()
    torch.testing.assert_close(single(images)[:4], single(images[:4]))


def test_an_illegal_encoding_is_refused():
    with pytest.raises(RequestError, match="model.subnet: got 6-6-3-3-3-3 .operation 6 at stage1.layer1"):
        build("6-6-3-3-3-3")
