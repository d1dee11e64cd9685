"""Quantized gradients in whole networks: moved, copied, compiled, in several processes."""

import copy
import json
import pickle

import pytest
import torch
from forks import in_two_processes
from gradient_quantizers import large_gradient
from torch import nn
from two_processes import train

from quantlab.quantizers.gradient import GradientQuantizer, calibrate_gradients, update_intervals


class Network(nn.Module):
    """Two layers with quantized gradients, one of them called twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)
        self.first_gradient, self.second_gradient = (GradientQuantizer(4, large_gradient(alpha=0.2)) for _ in range(2))

    def forward(self, x):
        x = torch.relu(self.first_gradient(self.first(x)))
        return self.second_gradient(self.second(self.first_gradient(self.first(x))))

    @property
    def ratios(self) -> list[float]:
        return [self.first_gradient.interval.clip_ratio.item(), self.second_gradient.interval.clip_ratio.item()]


def test_no_optimizer_and_no_norm_sees_a_clip_ratio():
    """The script that everybody has: SGD over network.parameters(), clip_grad_norm_, zero_grad."""
    net, x = Network(), torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    assert len(list(net.parameters())) == 4 and {name for name, _ in net.named_buffers()} == {
        "first_gradient.interval.clip_ratio",
        "second_gradient.interval.clip_ratio",
    }
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    calibrate_gradients(net, lambda: net(x).square().mean())
    seen = [net.ratios]
    for _ in range(4):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1e9)
        assert norm.item() == pytest.approx(
            torch.cat([parameter.grad.flatten() for parameter in net.parameters()]).norm().item()
        )
        optimizer.step()
        assert net.ratios == seen[-1]
        update_intervals([net.first_gradient, net.second_gradient])
        seen.append(net.ratios)
    moves = torch.tensor(seen).diff(dim=0).abs()
    assert moves.max() == pytest.approx(1e-3, rel=1e-3) and all(
        move < 1e-6 or abs(move - 1e-3) < 1e-6 for move in moves.flatten()
    )


# the second: all of the compiler but its C++
@pytest.mark.parametrize("backend", [None, "aot_eager_decomp_partition"])
def test_copies_and_compiled_networks_learn_the_same_clip_ratios(backend):
    torch.manual_seed(0)
    net, x = Network(), torch.randn(64, 6)
    other = pickle.loads(pickle.dumps(net)) if backend is None else copy.deepcopy(net)
    other.load_state_dict(net.state_dict())
    run = other if backend is None else torch.compile(other, backend=backend, fullgraph=True)
    for _ in range(3):
        for _, called in ((net, net), (other, run)):
            torch.manual_seed(1)
            called(x).square().mean().backward()
            called(2 * x).square().mean().backward()
        for one, two in zip((net.first_gradient, net.second_gradient), (other.first_gradient, other.second_gradient)):
            assert one.interval.tally is not two.interval.tally and torch.equal(
                one.interval.tally.grad, two.interval.tally.grad
            )
        update_intervals([net.first_gradient, net.second_gradient])
        update_intervals([other.first_gradient, other.second_gradient])
        assert net.ratios == other.ratios
    assert min(net.ratios) < 1


def test_a_network_may_be_moved_halved_and_called_again_before_its_backward_pass():
    net, x = Network(), torch.randn(64, 6)
    net.first_gradient.interval.clip_ratio.fill_(0.7)
    net.to(torch.bfloat16)
    assert (
        net.ratios[0] == pytest.approx(0.7, abs=2e-3) and net.first_gradient.interval.clip_ratio.dtype == torch.float32
    )
    net(x.bfloat16()).square().mean().backward()
    assert net.first_gradient.interval.tally.grad[0] == 2 * 64 * 6
    net = Network()
    loss = net(x).square().mean()
    with torch.no_grad():
        for buffer in net.buffers():
            buffer.copy_(buffer.clone())  # as DDP does before another forward pass
    (loss + net(x).square().mean()).backward()


def test_gradients_of_functions_pass_it():
    net, x = Network(), torch.randn(8, 6)
    parameters = {name: parameter.detach() for name, parameter in net.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(net, parameters, (x,)).square().mean()

    torch.manual_seed(0)
    found = torch.func.grad(loss)(parameters)
    torch.manual_seed(0)
    net(x).square().mean().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_processes_agree_on_clip_ratios_and_count_together(tmp_path):
    code, said = in_two_processes(lambda rank: train(rank, str(tmp_path / "store")), tmp_path)
    assert code == 0, said[-2000:]
    first, second = (json.loads((tmp_path / f"store{rank}.json").read_text()) for rank in range(2))
    assert first == second and len(first) == 6 and len({tuple(row) for row in first}) >= 3
