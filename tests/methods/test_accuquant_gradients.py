"""The three gradients of AccuQuant on a real quantized UNet in float64: exact = bptt, copy = its definition."""

from types import SimpleNamespace

import pytest
import torch
from policies import section as quantizer_section

from quantlab.diffusion.rollout import network_step, seeded_normal
from quantlab.diffusion.samplers import State, build_sampler
from quantlab.methods import kept_graphs
from quantlab.methods.accuquant import (
    AccuQuant,
    backpropagated_gradient,
    copied_gradient,
    exact_gradient,
    forward_passes,
)
from quantlab.methods.kept_graphs import graph_bytes
from quantlab.methods.ptq.quantized_denoiser import QuantizedDenoiser
from quantlab.quantizers.calibration import calibrate_weights, grouped_activations, observed_ranges
from quantlab.quantizers.rounding import learn_rounding

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


@pytest.fixture(
    params=[
        ("ddim", 0.0, False, "epsilon"),
        ("ddim", 0.6, False, "epsilon"),
        ("ddim", 0.0, True, "epsilon"),
        ("pndm", 0.0, False, "epsilon"),
        ("dpm_solver", 0.0, False, "epsilon"),
        ("dpm_solver_sde", 0.0, False, "epsilon"),
        ("unipc", 0.0, False, "epsilon"),
        ("unipc", 0.0, False, "flow"),
    ],
    ids=["eta0", "eta0.6", "clipped", "pndm", "dpm_solver", "sde", "unipc", "unipc-flow"],
)
def problem(request):
    """Steps, start, loss, step function and learned parameters of one group of 4 steps."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    name, eta, clip, prediction = request.param
    torch.manual_seed(1)
    unet = (
        UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
        .double()
        .eval()
        .requires_grad_(False)
    )
    spacing = "trailing" if prediction == "flow" else "uniform"
    section = SimpleNamespace(name=name, steps=8, eta=eta, spacing=spacing, clip_sample=clip, shift=1.0)
    sampler = build_sampler(torch.arange(1, 1001) / 1000 if prediction == "flow" else ALPHAS, section, prediction)
    search = {"scale_search": "min_max"}
    own = quantizer_section("uniform_affine", 4, 6, own={"weight": search, "activation": search})
    quantized = QuantizedDenoiser(unet, own, steps=8, group_size=4)
    quantized.unet.double()
    calibrate_weights(quantized.unet)
    start = seeded_normal((3, 1, 8, 8), 0).double()
    with observed_ranges(quantized.unet):
        for i in range(8):
            quantized.network({})(start, sampler.timesteps[i], i)
    learned = [weight.rounding for weight in learn_rounding(quantized.unet, 1.1, -0.1, straight_through=False)]
    quantized.drop_float_weights()
    learned += [q.log_scale[1].requires_grad_() for q in grouped_activations(quantized.unet)]
    noise = seeded_normal((4, 3, 1, 8, 8), 1).double()
    target = seeded_normal((3, 1, 8, 8), 2).double()

    def step(i, state):
        return network_step(quantized.network({}), sampler, i, state, noise[i - 4])

    start = State(start, tuple(seeded_normal((3, 1, 8, 8), 3).double() for _ in range(sampler.memories)))
    return [4, 5, 6, 7], start, lambda end: (end - target).square().mean(), step, learned, sampler.memory_weights


def gradients(function, problem):
    steps, start, loss, step, learned, memory_weights = problem
    for parameter in learned:
        parameter.grad = None
    value = function(step, steps, start, loss, memory_weights)
    return value, [parameter.grad.clone() for parameter in learned]


def relative_difference(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm().clamp_min(1e-30)).item()


def test_exact_equals_backpropagation_for_every_learned_variable(problem):
    value, exact = gradients(exact_gradient, problem)
    expected_value, expected = gradients(backpropagated_gradient, problem)
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-12)
    assert all(gradient.norm() > 0 for gradient in expected)
    assert max(relative_difference(a, b) for a, b in zip(exact, expected)) < 1e-5


def test_copy_equals_its_definition(problem):
    # Written independently: sum over steps of < sg[g], x~_k + what its output adds to x~_{k+1} > with detached inputs,
    # in one graph
    steps, start, loss, step, learned, memory_weights = problem
    _, copied = gradients(copied_gradient, problem)
    states = [start]
    for i in steps:
        states.append(step(i, states[-1].detached()))
    end = states[-1].x.detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(end), end)
    surrogate = sum((g.detach() * state.x).sum() for state in states[1:])
    surrogate = surrogate + sum(
        weight * (g.detach() * one).sum()
        for i, state in zip(steps, states[1:])
        for weight, one in zip(memory_weights(i), state.memory)
    )
    expected = torch.autograd.grad(surrogate, learned)
    assert max(relative_difference(a, b) for a, b in zip(copied, expected)) < 1e-10


def test_copy_differs_from_exact_but_points_the_same_way(problem):
    _, copied = gradients(copied_gradient, problem)
    _, exact = gradients(exact_gradient, problem)
    a, b = torch.cat([g.flatten() for g in copied]), torch.cat([g.flatten() for g in exact])
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=0).item()
    assert 0.5 < cosine < 0.999999


def test_one_step_groups_make_all_three_the_same(problem):
    steps, *rest, _ = problem
    rest.append(lambda i: ())  # what the last step leaves in the solver's memory counts for `copy` alone
    results = [
        gradients(function, ([steps[0]], *rest))[1]
        for function in (copied_gradient, exact_gradient, backpropagated_gradient)
    ]
    for a, b, c in zip(*results):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(b, c)


@pytest.mark.parametrize("function", [copied_gradient, exact_gradient])
def test_kept_graphs_change_no_bit_and_save_forward_passes(function, problem):
    steps, start, loss, step, learned, memory_weights = problem
    found = []
    for graphs in (1, 2, 4, 9):
        calls = []

        def counted(i, state):
            calls.append(i)
            return step(i, state)

        for parameter in learned:
            parameter.grad = None
        value = function(counted, steps, start, loss, memory_weights, graphs)
        # every step with a graph takes 3, every step simulated before it 1
        assert len(calls) + 2 * len(steps) == forward_passes("copy", len(steps), graphs)
        found.append([value, *(parameter.grad.clone() for parameter in learned)])
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others))


def test_the_size_of_a_graph_by_hand():
    x, weight = torch.randn(8, 4), torch.nn.Parameter(torch.randn(4, 4))
    # saved: x and weight x, of 8 x 4 floats each; the weight is there anyway, and x unless it is named
    assert graph_bytes(lambda: (x @ weight).exp(), [weight, x]) == 8 * 4 * 4
    assert graph_bytes(lambda: (x @ weight).exp(), [weight]) == 2 * 8 * 4 * 4


def test_one_graph_always_fits(monkeypatch):
    x = torch.ones(2, requires_grad=True)
    monkeypatch.setattr(kept_graphs, "free_memory", lambda device: 100)
    assert kept_graphs.graphs_that_fit(lambda: x.exp(), [], torch.device("cpu")) == 10  # 0.8 * 100 / 8
    monkeypatch.setattr(kept_graphs, "free_memory", lambda device: 0)
    assert kept_graphs.graphs_that_fit(lambda: x.exp(), [], torch.device("cpu")) == 1


def test_copy_is_exact_where_the_output_does_not_depend_on_the_state():
    """Along a flow with Euler's steps, where a = 1."""
    section = SimpleNamespace(name="flow_euler", steps=6, eta=0.0, spacing="linspace", clip_sample=False, shift=3.0)
    sampler = build_sampler(torch.arange(1, 1001) / 1000, section, "flow")
    learned = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()

    def step(i, state):
        return network_step(lambda x, t, i: learned[i] * torch.ones_like(x), sampler, i, state)

    start = State(seeded_normal((2, 1, 2, 2), 0).double())
    found = []
    for function in (copied_gradient, backpropagated_gradient):
        learned.grad = None
        function(step, range(6), start, lambda end: end.square().mean(), sampler.memory_weights)
        found.append(learned.grad.clone())
    torch.testing.assert_close(*found)


def test_the_time_left_knows_what_a_step_costs():
    method, rates = AccuQuant.__new__(AccuQuant), SimpleNamespace()
    method.section = SimpleNamespace(
        gradient="copy",
        keep_graphs=1,
        group_order="random",
        iterations=126,
        learning_rate=rates,
        initialization=SimpleNamespace(iterations=800, learning_rate=rates),
    )
    method.sampler = build_sampler(
        ALPHAS, SimpleNamespace(name="ddim", steps=20, eta=0.0, spacing="uniform", clip_sample=False)
    )
    method.context = SimpleNamespace(model=SimpleNamespace(passes=1), config=SimpleNamespace(seed=0))
    method.groups, method.single_steps = method.active_groups(5), method.active_groups(1)
    method.phases, method.phase_starts = method.make_phases(), [0, 800, 926]
    assert [method.cost(step) for step in (0, 799, 800, 925)] == [3, 3, 19, 19]
