"""Supernets against the authors' code: complexities, numbering, gamma, draws, forward and backward, recalibrated
statistics.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from stored import normal, stored
from torch import nn

from quantlab.methods.supernet import Supernet
from quantlab.models.mobilenet_supernet import MobileNetSupernet
from quantlab.models.nas_bench_201 import NasBench201Supernet
from quantlab.optim import CaLR
from quantlab.optim.calr import decay_exponent, decay_factor
from quantlab.search.evaluation import running_statistics
from quantlab.search.mobilenet import STAGES, MobileNetSpace, Stage
from quantlab.search.nas_bench_201 import NasBench201
from quantlab.search.ranking import kendall_tau
from quantlab.search.samplers import FSNAS, FairNAS

SPACE = NasBench201()
COMPLEXITY, SAMPLERS, CELLS, MOBILENET = map(
    stored, ("supernet_complexity", "supernet_samplers", "supernet_cells", "supernet_mobilenet")
)
EDGES, OPERATIONS = 6, 5


# complexity, numbering, gamma ----------------------------------------------------------------------------------------
def test_numbers_operations_and_parameters_of_cells():
    for cell in COMPLEXITY["cells"]:
        subnet = SPACE.subnet(cell["number"])
        assert list(subnet) == cell["operations"] and SPACE.index(tuple(cell["operations"])) == cell["number"]
        assert SPACE.complexity(subnet) == cell["parameters"]


def test_parameters_of_all_cells():
    every = [SPACE.complexity(SPACE.subnet(number)) for number in range(SPACE.size)]
    values, counts = np.unique(every, return_counts=True)
    assert (values.tolist(), counts.tolist()) == (COMPLEXITY["parameters"], COMPLEXITY["counts"]) and sum(
        every
    ) == COMPLEXITY["sum"]
    assert SPACE.complexity_range() == (COMPLEXITY["least"], COMPLEXITY["largest"]) == (72_752, 1_524_272)


@pytest.mark.parametrize("gamma_max", ["4.0", "3.0"])
def test_gamma_of_every_complexity(gamma_max):
    found = [decay_exponent(value, *SPACE.complexity_range(), float(gamma_max)) for value in COMPLEXITY["parameters"]]
    np.testing.assert_allclose(found, COMPLEXITY["gamma"][gamma_max], rtol=1e-10)


def test_weights_of_fairnas_losses_at_the_paper_s_length():
    total = COMPLEXITY["total"]
    assert total == 250 * 391
    for value, wanted in zip(COMPLEXITY["parameters"], COMPLEXITY["weights"], strict=True):
        exponent = decay_exponent(value, *SPACE.complexity_range(), 4.0)
        np.testing.assert_allclose([decay_factor(t, total, exponent) for t in COMPLEXITY["t"]], wanted, rtol=1e-9)


# samplers -----------------------------------------------------------------------------------------------------------
def is_fair(subnets, shared=None):
    """Every operation once at every edge; at the shared one the same in all."""
    drawn = np.array(subnets)
    return drawn.shape == (OPERATIONS, EDGES) and all(
        len(set(drawn[:, edge])) == 1 if edge == shared else sorted(drawn[:, edge]) == list(range(OPERATIONS))
        for edge in range(EDGES)
    )


def test_fairnas_draws_what_the_released_loop_draws():
    sampler, rng = FairNAS(SPACE), np.random.default_rng(0)
    assert all(map(is_fair, SAMPLERS["fairnas"])) and all(is_fair(sampler.draw(rng, 0, None)) for _ in range(50))
    for step in SAMPLERS["fairnas_separated"]:
        assert is_fair(step["subnets"], step["edge"]) and step["subnets"][0][step["edge"]] == step["operation"]
    assert all(is_fair(sampler.draw(rng, 0, shared), shared) for shared in range(EDGES) for _ in range(20))
    assert not is_fair(SAMPLERS["fairnas_separated"][0]["subnets"])


def test_few_shot_splits_as_the_released_code():
    sampler, rng = FSNAS(SPACE, split=0), np.random.default_rng(0)
    assert sampler.parts == len(SAMPLERS["fsnas"]) == OPERATIONS
    for supernet in SAMPLERS["fsnas"]:
        assert {sampler.part_of(tuple(subnet)) for subnet in supernet["subnets"]} == {supernet["part"]}
        assert {sampler.draw(rng, supernet["part"], None)[0][0] for _ in range(20)} == {supernet["part"]}


def test_few_shot_separates_momentum_at_another_edge_than_its_split():
    drawn = {
        Supernet._drawn_split(
            SimpleNamespace(space=SPACE, sampler=FSNAS(SPACE, 0), seed=seed, section=SimpleNamespace(fsnas_split=0))
        )
        for seed in range(60)
    }
    assert drawn == {1, 2, 3, 4, 5}


# forward and backward -------------------------------------------------------------------------------------------------
def filled(network):
    network = network.double()
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for number, name in enumerate(sorted(parameters)):
            parameters[name].copy_(0.3 * normal(1000 + number, *parameters[name].shape).double())
    return network


def assert_gradients(network, wanted):
    """Stored are the norms that are not zero; of a few parameters all values."""
    parameters = dict(network.named_parameters())
    assert wanted["norms"].keys() <= parameters.keys()
    for name, parameter in parameters.items():
        norm = 0.0 if parameter.grad is None else float(parameter.grad.norm())
        assert norm == pytest.approx(wanted["norms"].get(name, 0.0), rel=1e-7, abs=1e-11), name
    for name, values in wanted["whole"].items():
        np.testing.assert_allclose(parameters[name].grad, values, rtol=1e-6, atol=1e-8)


def assert_as_stored(network, images, case, labels):
    network.zero_grad()
    network.train().activate(tuple(case["operations"]))
    logits = network(images)
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()
    np.testing.assert_allclose(logits.detach(), case["logits"], rtol=1e-8, atol=1e-9)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-9)
    assert_gradients(network, case)
    with torch.no_grad():  # batch statistics: evaluation is no other function
        np.testing.assert_allclose(network.eval()(images), case["eval"], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(
            network.logits_of(images, [tuple(case["operations"])])[0], case["eval"], rtol=1e-8, atol=1e-9
        )


def cells():
    return filled(NasBench201Supernet(NasBench201(width=4, cells=1, image_size=8, channels=3, classes=5)))


@pytest.mark.parametrize("case", CELLS["cells"], ids=lambda case: "-".join(map(str, case["operations"])))
def test_the_cells_of_the_supernet(case):
    assert_as_stored(cells(), normal(1, 6, 3, 8, 8).double(), case, torch.tensor(CELLS["labels"]))


def test_the_biases_that_ours_lacks_learn_nothing_in_theirs():
    """The released convolutions have one, before a BatchNorm that takes it away: only weight decay and the clipped
    norm see it.
    """
    assert not any(name.endswith("conv.bias") for name, _ in cells().named_parameters())
    assert CELLS["largest_bias_gradient"] < 1e-12


def test_a_step_of_fairnas_sums_the_gradients_of_weighted_losses():
    network, images, labels, step = (
        cells(),
        normal(1, 6, 3, 8, 8).double(),
        torch.tensor(CELLS["labels"]),
        CELLS["fairnas_step"],
    )
    subnets = [tuple(subnet) for subnet in step["subnets"]]
    assert [SPACE.complexity(subnet) for subnet in subnets] == step["parameters"]
    method = SimpleNamespace(
        section=SimpleNamespace(calr=True),
        subnets=subnets,
        complexity=SPACE.complexity,
        t=step["t"],
        schedule=CaLR(torch.optim.SGD(network.parameters()), step["total"], *SPACE.complexity_range()),
    )
    for subnet, weight in zip(subnets, Supernet._loss_weights(method), strict=True):
        network.activate(subnet)
        (nn.functional.cross_entropy(network(images), labels) * weight).backward()
    assert_gradients(network, step)


SMALL = MobileNetSpace([Stage(8, 2, 1), Stage(12, 2, 2)], stem=8, first=6, last=16, image_size=16, classes=5)


@pytest.mark.parametrize("case", MOBILENET["subnets"], ids=lambda case: "-".join(map(str, case["operations"])))
def test_the_subnets_of_the_mobilenet_supernet(case):
    assert_as_stored(
        filled(MobileNetSupernet(SMALL)), normal(2, 6, 3, 16, 16).double(), case, torch.tensor(MOBILENET["labels"])
    )


def test_parameters_and_flops_of_mobilenet_networks():
    """Both sibling codes: 24 channels in the first stage, and 32. Their parameters have the classifier's 1,000
    biases, ours have not.
    """
    narrow, wide = MobileNetSpace(), MobileNetSpace((Stage(32, 4, 2), *STAGES[1:]))
    for network in MOBILENET["networks"]:
        subnet = tuple(network["operations"])
        assert narrow.complexity(subnet) == network["parameters_24"] - 1000
        assert (
            narrow.complexity(subnet, "flops") == network["flops_24"]
            and wide.complexity(subnet, "flops") == network["flops_32"]
        )
    named = {network["name"]: tuple(network["operations"]) for network in MOBILENET["networks"]}
    assert narrow.complexity_range("flops") == (
        narrow.complexity(named["identity where it may be"], "flops"),
        narrow.complexity(named["all 7x7_e6"], "flops"),
    )


def test_he_fan_out_has_the_released_standard_deviations(monkeypatch):
    asked, plain = {}, torch.Tensor.normal_

    def recording(tensor, mean=0.0, std=1.0, **options):
        asked[tensor.data_ptr()] = std
        return plain(tensor, mean, std, **options)

    monkeypatch.setattr(torch.Tensor, "normal_", recording)
    network = MobileNetSupernet(SMALL, "he_fan_out")
    found = {
        name: asked[parameter.data_ptr()]
        for name, parameter in network.named_parameters()
        if parameter.data_ptr() in asked
    }
    assert found == pytest.approx(MOBILENET["he_fan_out"])
    assert not network.fc.bias.any() and 0.2 < float(network.fc.weight.detach().abs().max()) < SMALL.last**-0.5


def test_recalibrated_statistics_are_the_mean_of_all_batches_and_theirs_a_moving_average():
    network = nn.Sequential(nn.BatchNorm2d(3, affine=False, track_running_stats=False)).double()
    network.register_parameter("device", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    batches = [normal(100 + k, 4, 3, 2, 2).double() * (1 + 0.1 * (k % 5)) + 0.2 * (k % 7) for k in range(200)]
    with running_statistics(network) as (layer,):
        layer.running_mean, layer.running_var = layer.running_mean.double(), layer.running_var.double()
        for batch in batches:
            network(batch)
        ours = layer.running_mean, layer.running_var
    moments = [torch.stack([getattr(batch, moment)(dim=(0, 2, 3)) for batch in batches]) for moment in ("mean", "var")]
    shares = 0.1 * 0.9 ** torch.arange(199, -1, -1, dtype=torch.float64)[:, None]
    for kind, mine, of_batches in zip(("mean", "var"), ours, moments):
        torch.testing.assert_close(mine, of_batches.mean(0))
        theirs = torch.tensor(MOBILENET["calibrated"][kind], dtype=torch.float64)
        torch.testing.assert_close(theirs, (shares * of_batches).sum(0))
        assert 0.005 < float((mine - theirs).abs().max()) < 0.3


# ranking --------------------------------------------------------------------------------------------------------------
def test_kendall_s_tau_counts_ties_as_tau_b():
    scores, truth = np.random.RandomState(0).randint(0, 12, (2, 60))
    pairs = np.sign(scores[:, None] - scores) * np.sign(truth[:, None] - truth)
    untied = [np.sum(np.sign(values[:, None] - values) ** 2) for values in (scores, truth)]
    by_hand = pairs.sum() / np.sqrt(untied[0] * untied[1])
    assert (
        kendall_tau(scores, truth)
        == pytest.approx(by_hand)
        == pytest.approx(stats.kendalltau(scores, truth, variant="b").statistic)
    )
    assert kendall_tau(scores, truth) != pytest.approx(stats.kendalltau(scores, truth, variant="c").statistic)
