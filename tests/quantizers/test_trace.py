"""Tracing of a forward pass: calls, weights used directly, multiplications worked out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from quantlab.quantizers.trace import LayerCalls, trace_layers


class Attention(nn.Module):
    """As BEiT's: the weight of `qkv` is used, its forward is not; and `unused` is neither."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.unused = nn.Linear(4, 12, bias=False), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        q, k, v = F.linear(x, weight=self.qkv.weight).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm((5, 4))
        self.attention = Attention()
        self.grouped = nn.Conv1d(4, 6, 3, padding=1, groups=2)
        self.batch_norm = nn.BatchNorm1d(6)
        self.up = nn.ConvTranspose1d(6, 3, 2, stride=2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, indices):
        x = self.attention(self.attention(self.norm(self.table(indices))))
        return self.up(self.dropout(self.batch_norm(self.grouped(x.transpose(1, 2)))))


def test_calls_uses_and_multiplications():
    net, indices = Network(), torch.randint(7, (2, 5))
    shapes = []
    found = trace_layers(net, lambda: shapes.append(net(indices).shape))
    assert shapes == [(2, 3, 10)]
    assert found == {
        "table": LayerCalls(1, 0, 0),
        "attention.qkv": LayerCalls(0, 2, 2 * 2 * 5 * 4 * 12),
        "attention.out": LayerCalls(2, 0, 2 * 2 * 5 * 4 * 4),
        "attention.unused": LayerCalls(0, 0, 0),
        "grouped": LayerCalls(1, 0, 2 * 5 * 6 * 2 * 3),
        "up": LayerCalls(1, 0, 2 * 5 * 6 * 3 * 2),
        "attention": LayerCalls(2, 0, 2 * 2 * (2 * 5 * 5 * 4)),  # q k^T and P v
    }


def test_the_weights_of_multihead_attention_are_seen():
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = trace_layers(net, lambda: net(torch.randn(1, 3, 8)))
    assert found["self_attn.out_proj"] == LayerCalls(0, 1, 3 * 8 * 8)
    assert found["self_attn.in_proj_weight"] == LayerCalls(0, 1, 3 * 8 * 24)  # a parameter that belongs to no layer
    assert found["self_attn"] == LayerCalls(1, 0, 2 * 3 * 3 * 8)  # two products
    assert found["linear1"] == LayerCalls(1, 0, 3 * 8 * 16)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(training):
    net, indices = Network().train(training), torch.randint(7, (2, 5))
    net.norm.train(not training)
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    before = torch.random.get_rng_state()
    trace_layers(net, lambda: net(indices + torch.randint(1, (1,))))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_module_that_is_called_with_a_parameter_is_counted_and_the_parameter_still_learns():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.layer = nn.Parameter(torch.ones(1, 1, 3)), nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(self.token.expand(len(x), -1, -1))

    network = Token()
    assert trace_layers(network, lambda: network(torch.zeros(4)))["layer"].multiplications == 4 * 3 * 2
    assert all(parameter.requires_grad for parameter in network.parameters())
