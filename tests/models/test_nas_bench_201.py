"""NAS-Bench-201's supernet and single networks: sizes, what activation changes, dead edges, FLOPs, training."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from quantlab.errors import RequestError
from quantlab.models.nas_bench_201 import Cell, build_nas_bench_201
from quantlab.search.nas_bench_201 import EDGES, NasBench201, live_edges, reaching_edges

CIFAR, MNIST, DIGITS, ODD = (
    SimpleNamespace(image_size=size, channels=channels, classes=classes)
    for size, channels, classes in ((32, 3, 10), (28, 1, 10), (8, 1, 10), (7, 3, 5))
)
CELLS = ["3-3-3-1-2-3", "0-0-0-3-0-0", "3-1-0-0-0-3", "0-1-0-0-3-3", "1-4-2-0-2-1", "4-4-4-4-4-4", "0-0-0-0-0-0"]
SPACE = NasBench201()


def build(subnet=None, task=DIGITS, width=4, cells=1):
    torch.manual_seed(0)
    return build_nas_bench_201(SimpleNamespace(width=width, cells=cells, subnet=subnet), task)


def batch(task=DIGITS, count=6):
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(count, task.channels, task.image_size, task.image_size, generator=generator),
        "label": torch.arange(count) % task.classes,
    }


def reference(network, images, subnet):
    """The network as the paper has it: every edge of every cell computed, `none` as a product with zero."""
    x = network.stem(images)
    for layer in network.layers:
        if not isinstance(layer, Cell):
            x = layer(x)
            continue
        nodes = [x, 0, 0, 0]
        for (source, target), operation, edge in zip(EDGES, subnet, layer.edges):
            name = SPACE.operations[operation]
            nodes[target] = nodes[target] + (nodes[source] * 0 if operation == 0 else edge[name](nodes[source]))
        x = nodes[3]
    return network.fc(F.relu(network.bn(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("task", [DIGITS, MNIST, CIFAR, ODD])
@pytest.mark.parametrize("subnet", [None, "3-3-3-1-2-3"])
def test_it_fits_the_task(task, subnet):
    network = build(subnet, task)
    assert network(batch(task)["image"]).shape == (6, task.classes) and network.kind == (
        "classifier" if subnet else "supernet"
    )
    network.training_loss(batch(task)).backward()


def test_the_supernets_weights_are_the_paper_settings():
    network = build(task=CIFAR, width=16, cells=5)
    conv = sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Conv2d))
    # Six edges with both convolutions, 26,880 and nine times that, besides the parts that every subnet has
    assert conv + network.fc.weight.numel() == 72_752 + 6 * 10 * 26_880
    assert sum(isinstance(layer, Cell) for layer in network.layers) == 15 and len(network.layers) == 17
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not any(norm.affine or norm.track_running_stats for norm in norms)
    assert sum(parameter.numel() for parameter in network.parameters()) == conv + 640 + 10


@pytest.mark.parametrize("encoding", ["3-3-3-3-3-3", "3-3-3-1-2-3", "0-0-0-3-0-0", "2-1-3-4-2-1"])
def test_a_single_network_has_the_weights_of_the_formula(encoding):
    network = build(encoding, CIFAR, width=16, cells=5)
    subnet = SPACE.decode(encoding)
    weights = sum(parameter.numel() for name, parameter in network.named_parameters() if parameter.dim() > 1)
    assert weights == SPACE.complexity(subnet) == network.space.complexity(subnet)
    assert all(
        norm.affine and norm.track_running_stats for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)
    )


@pytest.mark.parametrize("encoding", CELLS)
def test_what_is_skipped_changes_nothing(encoding):
    subnet, data = SPACE.decode(encoding), batch()
    supernet = build()
    supernet.activate(subnet)
    torch.testing.assert_close(supernet(data["image"]), reference(supernet, data["image"], subnet))
    supernet.training_loss(data).backward()
    gradients = [parameter.grad for parameter in supernet.parameters()]
    supernet.zero_grad()
    F.cross_entropy(reference(supernet, data["image"], subnet), data["label"]).backward()
    for found, parameter in zip(gradients, supernet.parameters()):
        zero = torch.zeros_like(parameter)
        torch.testing.assert_close(zero if found is None else found, zero if parameter.grad is None else parameter.grad)


def test_a_cell_without_a_path_gives_the_bias_and_only_the_classifier_learns():
    supernet = build()
    supernet.activate((0,) * 6)
    supernet.training_loss(batch()).backward()
    torch.testing.assert_close(supernet(batch()["image"]), supernet.fc.bias.expand(6, 10))
    assert [name for name, parameter in supernet.named_parameters() if parameter.grad is not None] == [
        "fc.weight",
        "fc.bias",
    ]


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
    assert supernet.active == subnets[-1]
    after = dict(supernet.named_modules())
    assert after.keys() == modules.keys() and all(after[name] is module for name, module in modules.items())
    assert tensors_of(supernet) == tensors


def test_gradients_reach_the_active_operations_alone_and_those_can_be_listed():
    supernet = build(cells=2)
    subnet = SPACE.decode("3-2-3-0-1-2")
    supernet.activate(subnet)
    supernet.training_loss(batch()).backward()
    for edge in range(6):
        for operation, name in enumerate(supernet.space.operations):
            listed = supernet.operation_parameters(edge, operation)
            assert len(listed) == (6 if name.startswith("nor_conv") else 0)
            assert all((parameter.grad is not None) == (subnet[edge] == operation) for parameter in listed)


@pytest.mark.parametrize("task", [CIFAR, ODD])
def test_flops_are_the_multiplications_that_hooks_count(task):
    for encoding in ("3-3-3-1-2-3", "2-2-0-3-3-1", "3-3-3-3-3-3"):
        network, counted = build(encoding, task, width=4, cells=2), []

        def count(module, inputs, output):
            counted.append(module.weight[0].numel() * output[0].numel())

        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(count)
        network(batch(task)["image"])
        assert sum(counted) == network.space.complexity(network.subnet, "flops")


def test_evaluation_of_the_supernet_uses_the_statistics_of_the_batch():
    supernet, images = build().eval(), batch(count=8)["image"]
    supernet.activate((3,) * 6)
    assert torch.equal(supernet(images), supernet.train()(images))
    single = build("3-3-3-3-3-3").eval()
    torch.testing.assert_close(single(images)[:4], single(images[:4]))


@pytest.mark.parametrize("cells", [1, 2])
def test_logits_of_many_cells_are_those_of_each(cells):
    supernet, images, rng = build(cells=cells), batch()["image"], np.random.default_rng(0)
    subnets = [SPACE.decode(encoding) for encoding in CELLS] + [SPACE.sample(rng) for _ in range(200)]
    calls = []
    supernet.layers[0].edges[3]["nor_conv_3x3"].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        found = supernet.logits_of(images, subnets)
        assert len(calls) == 1  # 3<-0 is fed the same by all
        for subnet, logits in zip(subnets, found):
            supernet.activate(subnet)
            assert torch.equal(logits, supernet(images))


def test_edges_that_do_not_reach_the_output_have_no_modules_and_all_others_train():
    network = build("3-1-0-0-0-3")
    assert reaching_edges(network.subnet) == (1, 5) == live_edges(network.subnet)
    network.training_loss(batch()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_an_illegal_encoding_is_refused():
    with pytest.raises(RequestError, match="model.subnet: got 3-3-3-3-3-5"):
        build("3-3-3-3-3-5")


@pytest.mark.parametrize(
    "words",
    [["method=pretrain"], ["method=qat", "method.epochs=1"], ["method=low_bit", "method.epochs=2"]],
    ids=["pretrain", "qat", "low_bit"],
)
def test_a_found_cell_is_an_ordinary_classifier_of_the_command(quantlab, tmp_path, words):
    code, table, problems = quantlab(
        *words,
        "model=nas_bench_201_small",
        "model.width=4",
        "model.subnet=3-1-0-2-0-3",
        "task=digits",
        "device=cpu",
        "model.pretrain.steps=150",
        f"output_dir={tmp_path / 'run'}",
    )
    assert code == 0, problems
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["model"] == "nas_bench_201_small" and results["metrics"]["top1"] > (
        80 if words == ["method=pretrain"] else 20
    )
