"""CaLR and momentum separation against the released training loops of DYNAS, 400 iterations on a toy supernet of
six edges.
"""

import numpy as np
import pytest
import torch
from stored import normal, stored
from torch import nn

from quantlab.optim import CaLR, MomentumSeparation
from quantlab.optim.calr import decay_exponent
from quantlab.search.nas_bench_201 import NasBench201

CASES = stored("dynas_training")
LEAST, LARGEST = 72_752, 1_524_272
WIDTH, ITERATIONS, SPLIT = 6, 400, 2


class Toy(nn.Module):
    """One vector per edge and operation, and one that all subnets share."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Parameter(normal(51, WIDTH))
        self.operations = nn.ParameterList(nn.Parameter(normal(100 + number, WIDTH)) for number in range(30))

    def loss(self, subnet, t):
        out = sum(self.operations[5 * edge + operation] for edge, operation in enumerate(subnet)) * self.shared
        return 2 * (out - normal(7000 + t, WIDTH)).square().mean()

    def state(self):
        norms = torch.stack([operation.detach().norm() for operation in self.operations]).view(6, 5)[1:4]
        return self.shared.detach(), norms


def separated(toy):
    sgd = torch.optim.SGD(toy.parameters(), lr=0.025, momentum=0.9, weight_decay=5e-4, nesterov=True)
    return MomentumSeparation(sgd, 5, "decayed")


def assert_state(toy, row):
    for found, wanted in zip(toy.state(), (row["shared"], row["op_norms"])):
        torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=1e-5)


def test_the_exponents():
    for complexity, gamma in CASES["gammas"].items():
        assert decay_exponent(float(complexity), LEAST, LARGEST, 4.0) == pytest.approx(gamma, abs=1e-7)


def test_one_subnet_a_step():
    toy, space, rng = Toy(), NasBench201(), np.random.RandomState(61)
    optimizer, rows = separated(toy), iter(CASES["spos"])
    calr = CaLR(optimizer, ITERATIONS, LEAST, LARGEST)
    for t in range(ITERATIONS):
        subnet = tuple(rng.randint(0, 5, 6).tolist())
        optimizer.select(subnet[SPLIT])
        calr.set(t, space.complexity(subnet))
        loss = toy.loss(subnet, t)
        loss.backward()
        nn.utils.clip_grad_norm_(toy.parameters(), 5)
        optimizer.step()
        optimizer.zero_grad()
        if (t + 1) % 20 == 0:
            row = next(rows)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(row["lr"], rel=1e-6)
            assert loss.item() == pytest.approx(row["loss"], rel=1e-4)
            assert_state(toy, row)


def test_five_subnets_a_step_whose_losses_are_weighted():
    toy, space, rng = Toy(), NasBench201(), np.random.RandomState(62)
    optimizer, rows = separated(toy), iter(CASES["fairnas"])
    calr = CaLR(optimizer, ITERATIONS, LEAST, LARGEST)
    for t in range(ITERATIONS):
        selected = int(rng.randint(5))
        permutations = [rng.permutation(5) for _ in range(6)]
        subnets = [
            tuple(selected if edge == SPLIT else int(permutations[edge][k]) for edge in range(6)) for k in range(5)
        ]
        optimizer.select(selected)
        factors = [calr.factor(t, space.complexity(subnet)) for subnet in subnets]
        for subnet, factor in zip(subnets, factors):
            (toy.loss(subnet, t) / 5 * factor).backward()
        optimizer.step()
        optimizer.zero_grad()
        if (t + 1) % 20 == 0:
            row = next(rows)
            assert factors == pytest.approx(row["coeffs"], rel=1e-6)
            assert_state(toy, row)
