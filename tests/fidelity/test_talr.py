"""Scheduled transition rates against the released code's arithmetic over 400 updates: U, K, transitions, distances,
weights.
"""

import math

import pytest
import torch
from stored import normal, stored

from quantlab.optim import SGDT, AdamT, AdamWT
from quantlab.quantizers.fixed_point import FixedPointWeight

CASES = stored("talr")
KINDS = {
    "sgd": (SGDT, {"lr": 0.1, "weight_decay": 1e-4}),
    "adam": (AdamT, {"lr": 1e-3, "weight_decay": 1e-4}),
    "adamw": (AdamWT, {"lr": 1e-3, "weight_decay": 1e-2}),
}
RULES = {"s2": "momentum_multiplicative", "s1": "multiplicative", "additive": "additive"}
N, UPDATES = 160, 400


@pytest.mark.parametrize("name", CASES)
def test_the_walk_is_the_released_codes(name):
    kind, rule, bits = name.split("_")
    case, (optimizer_class, options) = CASES[name], KINDS[kind]
    weight = torch.nn.Parameter(0.5 * normal(7, N))
    quantizer = FixedPointWeight(int(bits), learn_scale=False)
    quantizer.scale.data.fill_(case["scale"])  # how it is chosen, test_forward_quantizers holds
    target = 5e-3 * int(bits) ** 0.5
    optimizer = optimizer_class(
        [{"params": [weight], "discretize": [quantizer.discrete], "lr": target}], rule=RULES[rule], **options
    )
    rounding = 1e-4 if rule == "s1" else 2e-5  # U of Eq. (S1) is a product of 400 quotients, here in float32
    levels, rows = None, iter(case["rows"])
    for t in range(1, UPDATES + 1):
        optimizer.param_groups[0]["lr"] = target * 0.5 * (1 + math.cos(math.pi * (t - 1) / UPDATES))
        before, levels = levels, quantizer.discrete(weight)
        weight.grad = 0.02 * weight.detach() + 0.05 * normal(5000 + t, N)
        optimizer.step()
        if t % 20 == 0:
            row, state = next(rows), optimizer.state[weight]
            assert int((levels != before).sum()) == row["transitions"], t
            # The released code's distance of one bit is larger by 0.5: no weight is that far from zero
            # (`distance_to_transition_point`).
            distance = quantizer.distance_to_transition_point(weight.detach()).mean().item() + (
                0.5 if bits == "1" else 0.0
            )
            found = {
                "K": state["running_transition_rate"].item(),
                "U": state["talr"].item(),
                "md2tp": distance,
                "mean_abs": weight.detach().abs().mean().item(),
            }
            assert found == pytest.approx({key: row[key] for key in found}, rel=rounding, abs=1e-7), t
    assert weight.detach()[:16].tolist() == pytest.approx(case["w"], abs=rounding)
